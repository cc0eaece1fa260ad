"""The awake room that a handler runs in."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from trio_rooms._arguments import text
from trio_rooms._keys import split_key
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.roster import Link
from trio_rooms._state.audience import Audience
from trio_rooms._state.record import Record
from trio_rooms._state.timers import Missed
from trio_rooms._users.presence import people_of
from trio_rooms._wire import envelope
from trio_rooms._wire.envelope import Body

from .background import Background
from .connection import Connection, Connections
from .idleness import Idleness
from .mail import Destroy, link_of
from .mailbox import Mailbox
from .reasons import WhyAwake
from .reliably import is_reliable, manner_of
from .schedules import Schedule, schedules_of, wanted
from .shared import Shared
from .storage import Storage
from .users import User

__all__ = ["LiveRoom", "Views"]

_NOBODY: Final[frozenset[int]] = frozenset()


class Views(Protocol):
    """What has the views on a room's connections."""

    def connection(self, link: Link) -> Connection:
        """The view on a link that all handlers share."""


class LiveRoom:
    """The awake room that a handler runs in."""

    __slots__ = ("_background", "_idleness", "_mailbox", "_record", "_shared", "_views")

    def __init__(
        self,
        shared: Shared,
        views: Views,
        record: Record,
        mailbox: Mailbox,
        idleness: Idleness,
        background: Background,
    ) -> None:
        self._shared = shared
        self._views = views
        self._record = record
        self._mailbox = mailbox
        self._idleness = idleness
        self._background = background

    def __repr__(self) -> str:
        return f"<LiveRoom {self.key}>"

    @property
    def key(self) -> str:
        """``"name/id"``."""
        return self._shared.key

    @property
    def name(self) -> str:
        """The name of the definition."""
        return self._shared.definition.name

    @property
    def id(self) -> str:
        """Which room of that name."""
        return split_key(self._shared.key)[1]

    @property
    def storage(self) -> Storage:
        """What is too big to load at each wake."""
        return Storage(self._shared, self._record)

    @property
    def connections(self) -> Connections:
        """Every open connection.

        Raises:
            StaleContext: the room has fallen asleep since.
        """
        self._shared.check_life("its connections cannot be looked at")
        roster = self._shared.roster
        return Connections(roster, roster.links, self._views.connection)

    @property
    def channels(self) -> Mapping[str, Connections]:
        """The channels that somebody is in, by name.

        Raises:
            StaleContext: the room has fallen asleep since.
        """
        self._shared.check_life("its channels cannot be looked at")
        roster = self._shared.roster
        return {
            name: Connections(roster, links, self._views.connection)
            for name, links in roster.channels.items()
        }

    @property
    def users(self) -> tuple[str, ...]:
        """Who is here, by name: who has a connection in the room that was greeted.

        In a room with ``presence=True`` also who is away: has a session that is not over.

        Raises:
            StaleContext: the room has fallen asleep since.
        """
        self._shared.check_life("its users cannot be looked at")
        return people_of(self._shared.roster)

    def user(self, name: str) -> User:
        """A user as far as she is in this room: what is sent to her reaches her connections here alone.

        Where what a handler does waits until it is durable, so does what it sends to her.

        Raises:
            TypeError: the room is plain, and its connections get no events.
            TypeError, ValueError: no user can have this name.
        """
        shared = self._shared
        rooms = shared.program.rooms
        gate = shared.record.gate
        return (
            (rooms if gate is None else rooms.behind(gate, shared.record)).get(self.name, self.id).user(name)
        )

    def emit(
        self,
        event: str,
        data: Any = None,
        *,
        channel: str | None = None,
        exclude: Connection | Iterable[Connection] = (),
        reliable: bool | None = None,
        unconfirmed: bool = False,
        volatile: bool = False,
        coalesce: str | None = None,
    ) -> None:
        """Send an event to every connection, or to those in a channel, except some.

        It is written to each at once. Where the room has a ``batch_window``, it waits for so long at those
        that are hibernated, and goes there in one write with what else was sent meanwhile.

        Args:
            event: its name.
            data: what it says.
            channel: to whom; None for all.
            exclude: who does not get it.
            reliable: whether each session that this is for, also one that is away now, gets it, once and in
                order, as long as it is not over. It is kept until all have acknowledged it; 10,000 such
                events, 16 MiB of them, and each for as long as a session may be away and a minute. Who is
                further behind begins anew. To connections without a session it is any other event. None for
                what `Room` says.
            unconfirmed: send it at once, where what a handler does waits until it is durable: before all
                that waits, and whatever becomes of that. It cannot be reliable.
            volatile: drop it for who is slow, so that something that was sent before is still on its way
                there, and for who is away. It is not reliable, whatever `Room` says.
            coalesce: a name for what this is the newest of, such as ``"cursor"``. While it waits, at a
                connection that is slow or for the end of a ``batch_window``, the next with this name from
                the same sender takes its place. The sender is the user of the connection whose message is
                handled, or that connection where it has none; else the room. It is not reliable either.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the data cannot be encoded;
                nothing was sent.
            StaleContext: the room has fallen asleep since.
        """
        shared = self._shared
        if shared.plain:
            shared.definition.refuse_events()
        if unconfirmed and reliable:
            msg = "what is sent unconfirmed cannot be sent reliably"
            raise ValueError(msg)
        manner = None
        window = shared.definition.batch_window
        if volatile or window or coalesce is not None:
            sender = None if coalesce is None else self._sender()
            manner = manner_of(window, reliable, volatile=volatile, coalesce=coalesce, sender=sender)
            if volatile or coalesce is not None:
                reliable = False
        if is_reliable(shared.definition, reliable) and not unconfirmed:
            shared.check_life("nothing can be sent to the room")
            if channel is not None:
                text("channel", channel)
            left_out = _several(exclude)
            links = shared.roster.members(channel, _ids(left_out))
            excluded = frozenset(connection.link.sid for connection in left_out)
            shared.emit(Body.of(event, data), Audience(None, channel, excluded), links, manner)
            return
        output = shared.output
        if unconfirmed:
            shared.check_life("nothing can be sent to the room")
            output = shared.hub
        output.broadcast(shared.roster, envelope.event(event, data), channel, _ids(exclude), manner)

    def _sender(self) -> str | int | None:
        """Whose message is handled: a user, a connection without one, or nobody's."""
        mail = self._mailbox.current
        link = None if mail is None or self._background.has_current_task else link_of(mail)
        if link is None:
            return None
        return link.sid if link.user is None else link.user

    def send(
        self,
        message: str | bytes,
        *,
        channel: str | None = None,
        exclude: Connection | Iterable[Connection] = (),
    ) -> None:
        """Send a message as it is, to whom `emit` would; only in plain rooms."""
        shared = self._shared
        if not shared.plain:
            shared.definition.refuse_messages()
        manner = None
        window = shared.definition.batch_window
        if window:
            manner = manner_of(window)
        shared.output.broadcast(shared.roster, PlainMessage(message), channel, _ids(exclude), manner)

    def schedule(
        self,
        name: str,
        data: Any = None,
        *,
        at: datetime.datetime | float | None = None,
        after: float | None = None,
        every: float | None = None,
        cron: str | None = None,
        tz: str | None = None,
        missed: Missed = "once",
    ) -> float:
        """Have a handler of `Room.on_schedule` called later, also if the room sleeps then.

        The process may be another one by then. It becomes durable in the commit of what the handler
        changes: in a room with ``durability="commit"`` before anybody hears of that, else with the next
        snapshot. It is handled no sooner, and then at least once: it goes, or moves on to its next time, in
        the commit of what its own handler changed. A room handles one at a time.

        What has the same name is replaced. A call that asks for the same times (the same ``at=``, ``every=``
        or ``cron=``) leaves these as they are, so that it may be made with each wake; ``after=`` counts from
        the call.

        Args:
            name: 1 to 256 characters; what stands before a colon is the name of the handler.
            data: what a client could send, or classes and other things that become that; at most 64 KiB of
                CBOR.
            at: when, as a datetime with a time zone or as seconds since 1970; what has passed is due now.
            after: seconds from now; 0 for something that is to be done outside at least once.
            every: seconds of a period, 1 or more. It begins after one period, or when ``at=`` or
                ``after=`` says.
            cron: an expression such as ``"30 6 * * MON-FRI"``.
            tz: the name of the time zone of that, such as ``"Europe/Berlin"``; without it UTC.
            missed: what becomes of those whose time passes before they can be handled, since no process ran
                or one before is still at work. ``"once"``: the first is handled, the rest is let go.
                ``"all"``: each is, a thousand in a row. ``"none"``: those a minute late are let go.

        Returns:
            When it is due, in seconds since 1970.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the name has no handler.
            ScheduleError: the room has scheduled 10,000 already, or 4 MiB of them.
            StaleContext: the room has fallen asleep since.
        """
        shared = self._shared
        one = wanted(shared.definition, name, data, at, after, every, cron, tz, missed)
        shared.check_life("nothing can be scheduled")
        return one.make(self._record.plans.timers)

    def cancel(self, name: str) -> bool:
        """Let go of what is scheduled under a name; whether there was something. What is handled now goes on.

        Raises:
            TypeError, ValueError: nothing can have this name.
            StaleContext: the room has fallen asleep since.
        """
        text("the name of a schedule", name)
        self._shared.check_life("nothing can be cancelled")
        return self._record.plans.timers.remove(name)

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """All that is scheduled, by name, a copy.

        Raises:
            StaleContext: the room has fallen asleep since.
        """
        self._shared.check_life("its schedules cannot be looked at")
        return schedules_of(self._record.plans.timers)

    def start_soon(
        self,
        function: Callable[..., Awaitable[Any]],
        *arguments: Any,
        name: str | None = None,
        keep_awake: bool = False,
    ) -> None:
        """Run a task in the room's nursery, until it ends or the room sleeps.

        A task that raises crashes the room, as it would any nursery. A room that sleeps cancels
        its tasks, and waits for their ends; what they change until then is kept.

        Args:
            function: an async function.
            *arguments: what it is called with.
            name: what it is called in Trio's task tree and in ``info().held``.
            keep_awake: the room does not sleep before the task has ended.

        Raises:
            TypeError: it is no async function (a plain one was called by then), or does not take these
                arguments. Nothing was started.
            StaleContext: the room sleeps, or is certain to.
        """
        self._background.start(function, arguments, name, keep_awake=keep_awake)

    def keep_awake(self, reason: str) -> AbstractContextManager[None]:
        """``with ctx.room.keep_awake("upload"):`` the room does not sleep inside.

        Raises:
            TypeError, ValueError: the reason is no string; ``info().held`` shows it.
            StaleContext: the room sleeps, or is certain to.
        """
        return self._kept_awake(text("reason", reason))

    @contextlib.contextmanager
    def _kept_awake(self, reason: str) -> Iterator[None]:
        """Hold it as long as the block lasts."""
        self._background.check_life("it cannot be kept awake")
        self._idleness.hold("keep_awake", reason)
        try:
            yield
        finally:
            self._idleness.release("keep_awake", reason)

    def why_awake(self) -> WhyAwake:
        """What keeps the room awake now, for how long, and what will let it sleep when.

        The handler that asks is one of the reasons.

        Raises:
            StaleContext: the room has fallen asleep since.
        """
        self._shared.check_life("it is not awake any more")
        return self._shared.program.rooms.get(self.name, self.id).why_awake()

    def destroy(self) -> None:
        """Delete everything of this room when the current message is done, and close its connections.

        In `Room.on_create` and `Room.on_wake` there is none: the room is gone before the message
        that it woke for, which begins a new one. Called again before that, or in
        `Room.on_destroy`, it does nothing.

        Raises:
            StaleContext: the room sleeps, or is certain to.
        """
        self._background.check_life("it cannot be destroyed")
        mailbox = self._mailbox
        current, following = mailbox.current, mailbox.mail[0] if mailbox.mail else None
        if not isinstance(current, Destroy) and following != Destroy(None):
            mailbox.put_back([Destroy(None)])


def _several(connections: Connection | Iterable[Connection]) -> list[Connection]:
    """The connections that are left out.

    Raises:
        TypeError: they are none.
    """
    try:
        several = [connections] if isinstance(connections, Connection) else [*connections]
    except TypeError:
        several = [connections]  # type: ignore[list-item]
    if not all(isinstance(one, Connection) for one in several):
        msg = f"exclude is a Connection, or several of them, not {connections!r:.100}"
        raise TypeError(msg)
    return several


def _ids(connections: Connection | Iterable[Connection]) -> frozenset[int]:
    """The ids of the links of connections that are left out."""
    return (
        frozenset(connection.link.id for connection in _several(connections))
        if connections != ()
        else _NOBODY
    )
