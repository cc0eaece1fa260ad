"""The definition of a room as an application writes it: made at import, sealed when it is first served."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, Literal, TypeVar

import attrs

from trio_rooms._policy.policy import Policy
from trio_rooms._sockets.automatic import Automatic
from trio_rooms._state.codec import Codec, Migration
from trio_rooms._values.kinds import is_anything
from trio_rooms._wire.envelope import SUBPROTOCOLS
from trio_rooms._wire.frames import encode_message
from trio_rooms._wire.handshake import MOST_SUBPROTOCOLS
from trio_rooms.errors import DefinitionError, StateError

from .definition import Definition, EventHandler, Handler, ScheduleHandler
from .fire import Retry
from .signatures import (
    HOOKS,
    awaited,
    defined_twice,
    durably,
    event_handler,
    is_plain,
    limited,
    name_of,
    schedule_handler,
    taking_all,
    why_not_static,
)

__all__ = ["Room", "policy_of_all"]

S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., Any])

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""What a subprotocol's name is (RFC 6455, 4.1)."""
_LONGEST_WINDOW: Final = 7 * 24 * 3600.0
"""Seconds that a session may outlive its connection; what it may still want is kept for as long."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Room(Generic[S]):
    """What all rooms of one name have in common: state, handlers, hooks and policies.

    Args:
        name: the first part of a room's key and address: 1 to 64 letters, digits, ``.``,
            ``_`` or ``-``, beginning with a letter or digit.
        state: what makes the state of a new room: an attrs class, or any function without
            arguments that returns something CBOR can hold (``dict``, ``list``, ``int``).
            None for rooms without state.
        version: the version of the state's shape; raise it together with a `migrate`.
        durability: ``"snapshot"``: a change is in the store within ``snapshot_interval``, and what a
            handler sends leaves at once. ``"commit"``: what a handler sends, closes and answers leaves
            when what it changed is durable, all of it or nothing. See `on` for single handlers.
        policy: when it sleeps; None for the policy that `open_rooms` is given.
        idle_timeout: in short, where nothing else of the policy differs: seconds without mail after which a
            room hibernates; ``math.inf`` for never. None for what the policy says, see `Policy`.
        snapshot_interval: seconds after which a change is in the store at the latest.
        auto_respond: messages that are answered without waking the room, by exact match.
        attachment_limit: bytes of CBOR that a connection's attachment may have.
        page: HTML that the server answers ``GET /`` with.
        strict: whether a room is refused whose snapshot has fields that the classes of its state do
            not have, or have with another type. Else they are reported once, take their
            defaults, and what was stored in them is kept in the snapshot.
        public: whether clients may connect. A room that is not public is to them as one that
            does not exist; the program and other rooms reach it through a `RoomHandle`.
        slow_handler: seconds after which a handler or hook that still runs is warned of in the log,
            with the line that it waits at; ``math.inf`` for never. Looked at once a second.
        handler_timeout: seconds after which a handler or hook (but `authenticate`) is cancelled, as if
            it had raised `HandlerTimeout`; ``math.inf`` for never. A plain function cannot be cancelled.
        subprotocols: what a plain room speaks, such as ``["mqtt"]``: at most 15 names. For a client
            that offers several of them the first that it names is chosen, see
            `Connection.subprotocol`. One that offers none, or only others, gets none.
        resume_window: seconds that the session of a client that negotiated a subprotocol of envelopes
            outlives its connection. Within these it may come back and go on, and misses nothing that was
            sent reliably; then `on_disconnect` is called. 0 for no sessions.
        reliable: whether what is emitted without saying so is kept until it is acknowledged, see
            `LiveRoom.emit`.
        wake_on_disconnect: whether a room that sleeps is woken at once when a connection of it
            ends, so that `on_disconnect` is called then and not with the next wake.
        presence: whether each connection is told who is here, and of every change, see
            `Connection.presence`.
        connection_idle_timeout: in short: seconds without a message of its client after which a connection
            hibernates. None for what the policy says.
        flush_after: seconds that a message of low priority may wait at a hibernated connection.
        batch_window: seconds for which what is emitted to all waits at hibernated connections, to be written
            together; 0 to write each at once.
        wakes: whether a message of high priority to a hibernated connection wakes this room.
        auto_relay: prefixes of messages of a plain room that go to all other connections as they are,
            without waking the room.
        auto_echo: prefixes of messages that go back to who sent them, without waking the room.
        relay_rate: messages a second of one connection that are relayed; more are dropped.
        state_ttl: seconds after which a room is destroyed that nobody was in and that did nothing; None for
            never.

    A room with `on_message` is plain: it gets each message as it came, `str` or `bytes`.
    A room with `on` or `on_any` speaks envelopes. It cannot be both.
    """

    def __init__(
        self,
        name: str,
        *,
        state: Callable[[], S] | None = None,
        version: int = 1,
        durability: Literal["snapshot", "commit"] = "snapshot",
        policy: Policy | None = None,
        idle_timeout: float | None = None,
        snapshot_interval: float = 1.0,
        auto_respond: Mapping[str | bytes, str | bytes] | None = None,
        attachment_limit: int = 16 * 1024,
        page: str | None = None,
        strict: bool = False,
        public: bool = True,
        slow_handler: float = 5.0,
        handler_timeout: float = math.inf,
        subprotocols: Iterable[str] = (),
        wake_on_disconnect: bool = False,
        resume_window: float = 120.0,
        reliable: bool = False,
        presence: bool = False,
        connection_idle_timeout: float | None = None,
        flush_after: float = 60.0,
        batch_window: float = 0.0,
        wakes: bool = False,
        auto_relay: Iterable[str | bytes] = (),
        auto_echo: Iterable[str | bytes] = (),
        relay_rate: float = 100.0,
        state_ttl: float | None = None,
    ) -> None:
        if not _is(name, str) or not _NAME.fullmatch(name):
            msg = f"a room's name has 1 to 64 letters, digits, '.', '_' or '-', not {name!r}"
            raise DefinitionError(msg)
        if state is not None and not callable(state):
            msg = (
                f"room {name}: state is what makes the state of a new room, a class or a function, "
                f"not a value; write state={type(state).__name__} or state=lambda: {state!r}"
            )
            raise DefinitionError(msg)
        if not _is(version, int) or version < 1:
            msg = f"room {name}: version is a whole number from 1 on, not {version!r}"
            raise DefinitionError(msg)
        if durability not in ("snapshot", "commit"):
            msg = f'room {name}: durability is "snapshot" or "commit", not {durability!r:.100}'
            raise DefinitionError(msg)
        if not _is(attachment_limit, int) or attachment_limit < 0:
            msg = f"room {name}: attachment_limit is a number of bytes, not {attachment_limit!r}"
            raise DefinitionError(msg)
        if page is not None and not isinstance(page, str):
            msg = f"room {name}: page is the text of a page in HTML, not {page!r:.100}"
            raise DefinitionError(msg)
        if not all(isinstance(one, str | bytes) for pair in (auto_respond or {}).items() for one in pair):
            msg = f"room {name}: auto_respond is a dict of messages, str or bytes, and the answers to them"
            raise DefinitionError(msg)
        flags = {
            "strict": strict,
            "public": public,
            "wake_on_disconnect": wake_on_disconnect,
            "reliable": reliable,
            "presence": presence,
            "wakes": wakes,
        }
        for option, flag in flags.items():
            _check_flag(name, option, flag)
        self.name: Final = name
        self.state = state
        self.version: Final = version
        self.durability: Final = durability
        if not isinstance(policy, Policy | None):
            msg = f"room {name}: policy is a Policy, such as Policy(idle_timeout=60), not {policy!r:.100}"
            raise DefinitionError(msg)
        self.policy: Policy | None = policy
        self.idle_timeout: float | None = self._number_or_none("idle_timeout", idle_timeout)
        self.snapshot_interval: float = self._number("snapshot_interval", snapshot_interval)
        self.auto_respond: Final = dict(auto_respond or {})
        self.attachment_limit: Final = attachment_limit
        self.page: Final = page
        self.strict: Final = strict
        self.public: Final = public
        self.slow_handler: Final = self._number("slow_handler", slow_handler)
        self.handler_timeout: Final = self._number("handler_timeout", handler_timeout)
        self.subprotocols: Final = self._names_of_subprotocols(subprotocols)
        self.wake_on_disconnect: Final = wake_on_disconnect
        self.resume_window: Final = self._number("resume_window", resume_window)
        if self.resume_window > _LONGEST_WINDOW:
            msg = (
                f"room {name}: resume_window is {_LONGEST_WINDOW:,.0f} seconds at most, not {resume_window!r}"
            )
            raise DefinitionError(msg)
        self.reliable: Final = reliable
        self.presence: Final = presence
        self.connection_idle_timeout: float | None = self._number_or_none(
            "connection_idle_timeout", connection_idle_timeout
        )
        self.flush_after: float = self._number("flush_after", flush_after)
        self.batch_window: Final = self._number("batch_window", batch_window)
        self.wakes: Final = wakes
        self.auto_relay: Final = self._prefixes("auto_relay", auto_relay)
        self.auto_echo: Final = self._prefixes("auto_echo", auto_echo)
        self.relay_rate: Final = self._number("relay_rate", relay_rate)
        if not relay_rate:
            msg = f"room {name}: relay_rate is more than 0 messages a second; leave auto_relay out for none"
            raise DefinitionError(msg)
        for one in self.auto_relay:
            for other in self.auto_echo:
                if one[: len(other)] == other[: len(one)]:
                    msg = (
                        f"room {name}: a message may begin with {one!r:.100} of auto_relay and with "
                        f"{other!r:.100} of auto_echo; it can go to the others or back, and not both"
                    )
                    raise DefinitionError(msg)
        self.state_ttl: Final = None if state_ttl is None else self._number("state_ttl", state_ttl)
        self._events: dict[str, Handler] = {}
        self._internal: set[str] = set()
        self._durable: set[str] = set()
        self._any: Handler | None = None
        self._message: Handler | None = None
        self._schedules: dict[str, tuple[Handler, Retry]] = {}
        self._hooks: dict[str, Handler] = {}
        self._migrations: dict[int, tuple[int, Migration]] = {}
        self._sealed: Definition | None = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for name in (*HOOKS, "on", "on_any", "on_message", "on_schedule"):
            if name in vars(cls):
                msg = (
                    f"{cls.__name__}.{name} would never be called: a room is made, and not derived; write "
                    f'chat = Room("chat"), and @chat.{name} above a function'
                )
                raise DefinitionError(msg)

    def __repr__(self) -> str:
        return f"<Room {self.name!r} version {self.version}>"

    # What an application decorates.

    def on(self, event: str, *, internal: bool = False, durable: bool = False) -> Callable[[F], F]:
        """Handle one event: ``async def say(ctx, data: Say) -> int``.

        ``data`` is converted to its annotation; data that does not fit is refused before
        the handler runs. What it returns becomes the ``data`` of the acknowledgement.

        One that awaits nothing may be a plain function, ``def say(ctx, data: Say) -> int``. It is called
        where the message was read, unless other mail of the room comes before it, which costs less.

        Args:
            event: its name.
            internal: whether the program and other rooms alone may ask for it. A client that
                sends it is answered as for an event that there is not, and `on_any` is not told.
            durable: whether what it sends, closes and answers leaves when what it changed is durable, as
                in a room with ``durability="commit"``, where all handlers are so.
        """
        if not _is(event, str) or not event or event.startswith("rooms."):
            msg = (
                f"room {self.name}: an event is named by a string that does not begin with 'rooms.'; "
                f'write @room.on("say"), not @room.on({event!r})'
            )
            raise DefinitionError(msg)

        _check_flag(self.name, "internal", internal)
        _check_flag(self.name, "durable", durable)

        def register(function: F) -> F:
            self._admit(function, f"the handler of {event!r}", self._events.get(event))
            self._events[event] = function
            if internal:
                self._internal.add(event)
            if durable:
                self._durable.add(event)
            return function

        return register

    def on_any(self, function: F) -> F:
        """Handle every event that has no handler of its own: ``async def other(ctx, event, data)``."""
        self._admit(function, "on_any", self._any)
        self._any = function
        return function

    def on_message(self, function: F) -> F:
        """Handle every message of a plain room as it came: ``async def got(ctx, message)``.

        It may be a plain function, as in `on`.
        """
        self._admit(function, "on_message", self._message)
        self._message = function
        return function

    def on_schedule(self, name: str, *, retry: Retry = Retry()) -> Callable[[F], F]:  # noqa: B008 (frozen)
        """Handle what is scheduled under one name: ``async def turn_over(ctx, fire: Fire[Turn])``.

        The handler of ``remind`` also gets ``remind:ana``, and whatever else follows on the colon. It is
        called at least once for each `Fire`, and again until it returns, or ``retry`` gives it up.
        ``fire.data`` is converted to what stands in the brackets; data that does not fit is a failed attempt.

        Args:
            name: what `LiveRoom.schedule` and `RoomHandle.schedule` schedule; without a colon.
            retry: how often it is tried.
        """
        if not _is(name, str) or not name or ":" in name:
            msg = (
                f"room {self.name}: what is scheduled has a name, and a handler has all that begins with it "
                f'and a colon; write @room.on_schedule("remind"), not @room.on_schedule({name!r})'
            )
            raise DefinitionError(msg)
        if not isinstance(retry, Retry):
            msg = f"room {self.name}: retry is a Retry, such as Retry(attempts=5), not {retry!r:.100}"
            raise DefinitionError(msg)

        def register(function: F) -> F:
            existing = self._schedules.get(name)
            self._admit(function, f"the schedule {name!r}", None if existing is None else existing[0])
            self._schedules[name] = (function, retry)
            return function

        return register

    def authenticate(self, function: F) -> F:
        """Called before a WebSocket is opened: ``async def who(request: ConnectRequest)``.

        It returns the connection's attachment, or raises `Refused`.
        """
        return self._hook("authenticate", function)

    def on_connect(self, function: F) -> F:
        """Called when a connection is there, before its first message: ``async def joined(ctx)``."""
        return self._hook("on_connect", function)

    def on_disconnect(self, function: F) -> F:
        """Called once for each connection that went away: ``async def gone(ctx, left: Disconnect)``.

        One with a session is gone when that is over: at once where the client or the room has closed it,
        else when it has not come back within ``resume_window``.

        A departure does not wake a room, unless it has ``wake_on_disconnect=True``. One that slept
        is told when it wakes, before its next message, or at once when the last connection has left.
        """
        return self._hook("on_disconnect", function)

    def on_drop(self, function: F) -> F:
        """Called when a connection is lost whose session goes on: ``async def away(ctx, left: Disconnect)``.

        The client may come back within ``resume_window``, and `on_resume` is called. Else `on_disconnect`
        is. A room that sleeps hears of neither, and is not woken for it. What a handler sends reliably
        meanwhile, also to this connection, reaches the client when it comes back.
        """
        return self._hook("on_drop", function)

    def on_resume(self, function: F) -> F:
        """Called when a client has come back to its session: ``async def back(ctx)``.

        It is the same connection as before: its id, its attachment and its channels stay.
        """
        return self._hook("on_resume", function)

    def on_create(self, function: F) -> F:
        """Called when a room exists for the first time: ``async def created(ctx)``."""
        return self._hook("on_create", function)

    def on_wake(self, function: F) -> F:
        """Called when a room was loaded from its snapshot: ``async def woke(ctx, report: WakeReport)``."""
        return self._hook("on_wake", function)

    def on_hibernate(self, function: F) -> F:
        """Called before the snapshot with which a room goes to sleep: ``async def sleeps(ctx)``.

        A message that comes meanwhile may still keep the room awake.
        """
        return self._hook("on_hibernate", function)

    def on_destroy(self, function: F) -> F:
        """Called before everything of a room is deleted: ``async def ends(ctx)``."""
        return self._hook("on_destroy", function)

    def on_error(self, function: F) -> F:
        """Called when a handler raised or a snapshot was not saved: ``async def failed(ctx, error)``."""
        return self._hook("on_error", function)

    def migrate(self, before: int, after: int) -> Callable[[F], F]:
        """Bring the plain (CBOR) state of version ``before`` to ``after``: ``def up(state): ...``.

        It returns the state of version ``after``, changed in place or new.
        """
        if not _is(before, int) or not _is(after, int) or not 1 <= before < after:
            msg = (
                f"room {self.name}: a migration leads from a version to a later one, "
                f"not from {before!r} to {after!r}"
            )
            raise DefinitionError(msg)

        def register(function: F) -> F:
            self._open(f"the migration from {before}")
            if before in self._migrations:
                msg = f"room {self.name}: there is already a migration from version {before}"
                raise DefinitionError(msg)
            if inspect.iscoroutinefunction(function):
                msg = f"room {self.name}: a migration is not async; write def {name_of(function)}(state)"
                raise DefinitionError(msg)
            self._migrations[before] = (after, function)
            return function

        return register

    def policy_over(self, base: Policy) -> Policy:
        """The policy of this room: its own where it has one, else ``base``; and what it says in short."""
        return (self.policy or base).of_room(
            idle_timeout=self.idle_timeout, connection_idle_timeout=self.connection_idle_timeout
        )

    def configure(
        self,
        *,
        policy: Policy | None = None,
        idle_timeout: float | None = None,
        snapshot_interval: float | None = None,
        connection_idle_timeout: float | None = None,
        flush_after: float | None = None,
    ) -> None:
        """Let whoever runs the room decide what its definition says otherwise; before it is first served.

        Args:
            policy: takes the place of its own, and of what it says in short; None leaves these as they are.
            idle_timeout: seconds as in the definition; None leaves it as it is.
            snapshot_interval: the same.
            connection_idle_timeout: the same.
            flush_after: the same.

        Raises:
            DefinitionError: what is wanted is no number of seconds; or the room was served before, and is
                to be another now.
        """
        if policy is not None:
            if self._sealed is not None and policy != self.policy:
                msg = f"room {self.name}: the policy comes too late; call configure() before open_rooms()"
                raise DefinitionError(msg)
            self.policy, self.idle_timeout, self.connection_idle_timeout = policy, None, None
        wanted = {
            "idle_timeout": idle_timeout,
            "snapshot_interval": snapshot_interval,
            "connection_idle_timeout": connection_idle_timeout,
            "flush_after": flush_after,
        }
        for name, value in wanted.items():
            if value is None:
                continue
            number = self._number(name, value)
            if self._sealed is not None and number != (
                served := getattr(self._sealed, name, None) or getattr(self._sealed.policy, name)
            ):
                msg = (
                    f"room {self.name}: {name}={value:g} comes too late, the room was served with "
                    f"{served:g} before; call configure() before open_rooms(). If the "
                    "module of the room runs it when it is imported, put that below "
                    'if __name__ == "__main__":'
                )
                raise DefinitionError(msg)
            setattr(self, name, number)

    def seal(self) -> Definition:
        """Check the definition as a whole, allow no more changes, and return it frozen; the same each time.

        Raises:
            DefinitionError: the definition cannot work; the message says what to write.
        """
        if self._sealed is None:
            self._sealed = self._check()
        return self._sealed

    # How a definition is checked.

    def _check(self) -> Definition:
        if self._message is not None and (self._events or self._any):
            msg = (
                f"room {self.name}: it has on_message and on/on_any, but a room is either plain or speaks "
                "envelopes; make two rooms, or use @room.on_any instead of @room.on_message"
            )
            raise DefinitionError(msg)
        if not self.public:
            self._check_private()
        if self.subprotocols and self._message is None:
            msg = (
                f"room {self.name}: only a room with @room.on_message has subprotocols of its own; one with "
                f"@room.on or @room.on_any speaks {' and '.join(SUBPROTOCOLS)}"
            )
            raise DefinitionError(msg)
        if self._message is not None or not self.resume_window:
            self._check_without_sessions()
        if self._message is None and self.auto_relay:
            msg = (
                f"room {self.name}: only a room with @room.on_message has auto_relay; one with @room.on "
                "emits with volatile=True"
            )
            raise DefinitionError(msg)
        if self._message is not None and self.presence:
            msg = f"room {self.name}: a plain room has no events, so nobody could be told of presence"
            raise DefinitionError(msg)
        if self.wake_on_disconnect and "on_disconnect" not in self._hooks:
            msg = f"room {self.name}: wake_on_disconnect=True is of no use without an on_disconnect"
            raise DefinitionError(msg)
        for before, (after, _) in self._migrations.items():
            if after > self.version:
                msg = (
                    f"room {self.name}: a migration leads from {before} to {after}, "
                    f"but the room has version={self.version}"
                )
                raise DefinitionError(msg)
        codec = self._codec()
        hooks = {name: self._sealed_hook(name, self._hooks.get(name), given) for name, given in HOOKS.items()}
        events = {event: self._sealed_event(event, function) for event, function in self._events.items()}
        any_event = None if self._any is None else self._sealed_event(None, self._any)
        of_clients = [one for one in (*events.values(), any_event) if one is not None and not one.internal]
        return Definition(
            name=self.name,
            version=self.version,
            gated=self.durability == "commit",
            state=self.state,
            codec=codec,
            policy=self.policy_over(Policy()),
            snapshot_interval=self.snapshot_interval,
            attachment_limit=self.attachment_limit,
            page=self.page,
            public=self.public,
            wake_on_disconnect=self.wake_on_disconnect,
            resume_window=self.resume_window if self._message is None else 0.0,
            reliable=self.reliable,
            slow_handler=self.slow_handler,
            presence=self.presence,
            flush_after=self.flush_after,
            batch_window=self.batch_window,
            wakes=self.wakes,
            state_ttl=self.state_ttl,
            subprotocols=self.subprotocols if self._message is not None else tuple(SUBPROTOCOLS),
            automatic=self._automatic(),
            events=events,
            for_clients={event: None if one.internal else one for event, one in events.items()},
            any_event=any_event,
            schedules={name: self._sealed_schedule(name, *one) for name, one in self._schedules.items()},
            on_message=self._sealed_message(),
            eager=any(one.eager for one in of_clients)
            or (self._message is not None and self._eager(self._message)),
            **hooks,
        )

    def _automatic(self) -> Automatic | None:
        """What the hub is to do by itself."""
        if not (self.auto_respond or self.auto_echo or self.auto_relay):
            return None
        answers = {message: encode_message(answer) for message, answer in self.auto_respond.items()}
        return Automatic(answers, self.auto_echo, self.auto_relay, self.relay_rate)

    def _sealed_event(self, event: str | None, function: Handler) -> EventHandler:
        """The handler of an event, or of those without one of their own, as it is called."""
        what = "on_any" if event is None else f"the handler of {event!r}"
        handler = event_handler(
            self.name, function, what, named=event is None, internal=event in self._internal
        )
        if handler.eager and event not in self._durable and self._eager(function):
            return handler
        bounded = limited(awaited(handler.function), event or "on_any", self.handler_timeout)
        if event in self._durable and self.durability == "snapshot":
            bounded = durably(bounded)
        return attrs.evolve(handler, function=bounded, eager=False)

    def _sealed_message(self) -> Callable[..., Any] | None:
        """What all messages of a plain room go to, as it is called."""
        if self._message is None:
            return None
        taking = taking_all(self.name, self._message, "on_message", ("ctx", "message"))
        if self._eager(taking):
            return taking
        return limited(awaited(taking), "on_message", self.handler_timeout)

    def _eager(self, function: Callable[..., Any]) -> bool:
        """Whether a handler is called as it is: what is to be durable has to be awaited in any case."""
        return is_plain(function) and self.durability == "snapshot"

    def _sealed_schedule(self, name: str, function: Handler, retry: Retry) -> ScheduleHandler:
        """The handler of what is scheduled under a name, as it is called."""
        handler = schedule_handler(self.name, function, f"the schedule {name!r}", retry)
        return attrs.evolve(handler, function=limited(handler.function, name, self.handler_timeout))

    def _sealed_hook(self, name: str, function: Handler | None, given: tuple[str, ...]) -> Handler | None:
        """A hook as it is called: with all that it may be given."""
        if function is None:
            return None
        taking = awaited(taking_all(self.name, function, name, given))
        # Who asks whether a client is let in is not the room, and has a time limit of its own.
        return taking if name == "authenticate" else limited(taking, name, self.handler_timeout)

    def _check_without_sessions(self) -> None:
        """Refuse what a room without sessions would never do."""
        why = "a plain room" if self._message is not None else "one with resume_window=0"
        never = next((name for name in ("on_drop", "on_resume") if name in self._hooks), None)
        if never is not None:
            msg = f"room {self.name}: {never} is never called, since {why} has no sessions; leave it out"
            raise DefinitionError(msg)
        if self.reliable:
            msg = f"room {self.name}: reliable=True is of no use, since {why} has no sessions; leave it out"
            raise DefinitionError(msg)

    def _check_private(self) -> None:
        """Refuse what a room without clients would never call."""
        hooks = {**self._hooks, "on_message": self._message}
        never = [
            name
            for name in ("authenticate", "on_connect", "on_disconnect", "on_drop", "on_resume", "on_message")
            if hooks.get(name) is not None
        ]
        if never:
            msg = (
                f"room {self.name}: {never[0]} is never called, since no client can connect to a room with "
                "public=False; leave one of the two out"
            )
            raise DefinitionError(msg)

    def _codec(self) -> Codec:
        """What encodes and decodes the state; a type of which some values could not be kept is refused."""
        try:
            codec = Codec(self._state_type(), self.version, self._migrations, self.state, self.strict)
        except TypeError as error:
            msg = f"room {self.name}: its state cannot be kept: {error}"
            raise DefinitionError(msg) from error
        if isinstance(self.state, type):
            try:
                state = self.state()
            except Exception:  # noqa: BLE001 (it may need what is not there yet, such as a running event loop)
                return codec
            try:
                codec.encode(f"{self.name}/new", state)
            except StateError as error:
                msg = f"room {self.name}: a new {name_of(self.state)} could not be saved: {error.why}"
                raise DefinitionError(msg) from error
        return codec

    def _state_type(self) -> Any:
        """What a state was declared to be; None where only what is made tells."""
        if self.state is None:
            return None
        if inspect.iscoroutinefunction(self.state):
            msg = f"room {self.name}: what makes the state is not async; write def {name_of(self.state)}()"
            raise DefinitionError(msg)
        with contextlib.suppress(ValueError):  # Raised for types that do not tell, such as dict.
            signature = inspect.signature(self.state)
            try:
                signature.bind()
            except TypeError as error:
                msg = (
                    f"room {self.name}: {name_of(self.state)}() makes the state of a new room without "
                    f"arguments, but: {error}; give every field a default"
                )
                raise DefinitionError(msg) from error
        if inspect.isfunction(self.state):
            with contextlib.suppress(Exception):  # An annotation that cannot be resolved says nothing.
                hint = typing.get_type_hints(self.state).get("return", Any)
                return None if is_anything(hint) else hint
        # A class, or a generic alias as list[Line]; a defaultdict is asked what it makes.
        is_type = isinstance(self.state, type) or typing.get_origin(self.state) is not None
        return self.state if is_type else None

    def _hook(self, name: str, function: F) -> F:
        self._admit(function, name, self._hooks.get(name))
        self._hooks[name] = function
        return function

    def _number_or_none(self, what: str, number: float | None) -> float | None:
        return None if number is None else self._number(what, number)

    def _number(self, what: str, number: float) -> float:
        if not _is(number, int | float) or not number >= 0:
            msg = f"room {self.name}: {what} is a number from 0 on, not {number!r}"
            raise DefinitionError(msg)
        return float(number)

    def _prefixes(self, what: str, prefixes: Iterable[str | bytes]) -> tuple[str | bytes, ...]:
        if isinstance(prefixes, str | bytes):
            msg = f"room {self.name}: {what} is a list of prefixes; write {what}=[{prefixes!r}]"
            raise DefinitionError(msg)
        found: tuple[Any, ...] = tuple(prefixes)
        if not all(isinstance(one, str | bytes) and len(one) for one in found):
            msg = (
                f"room {self.name}: {what} is a list of what messages begin with, str or bytes, none of them "
                f"empty; not {list(found)!r:.300}"
            )
            raise DefinitionError(msg)
        return found

    def _names_of_subprotocols(self, names: Iterable[str]) -> tuple[str, ...]:
        if isinstance(names, str):
            msg = f"room {self.name}: subprotocols is a list of names; write subprotocols=[{names!r}]"
            raise DefinitionError(msg)
        found = tuple(names)
        wrong = [
            one
            for one in found
            if not _is(one, str) or not _TOKEN.fullmatch(one) or one.startswith("trio-rooms.")
        ]
        if wrong or len(found) != len(set(found)) or len(found) > MOST_SUBPROTOCOLS:
            msg = (
                f"room {self.name}: subprotocols are at most {MOST_SUBPROTOCOLS} different names without "
                "spaces, commas and the like, and none that begins with 'trio-rooms.', which are the "
                f"library's; not {list(found)!r:.300}"
            )
            raise DefinitionError(msg)
        return found

    def _open(self, what: str) -> None:
        if self._sealed is not None:
            msg = (
                f"room {self.name}: {what} was added after the room was first served, and rooms that woke "
                "before would not have it; define all handlers at import, before open_rooms() or "
                "trio-rooms serve"
            )
            raise DefinitionError(msg)

    def _admit(self, function: Any, what: str, existing: Handler | None) -> None:
        if existing is not None and defined_twice(existing, function):
            names = sorted({existing.__module__, function.__module__})
            under = f" under the names {' and '.join(names)}" if len(names) > 1 else ""
            msg = (
                f"room {self.name}: {what} comes a second time, because the same lines of "
                f"{existing.__code__.co_filename} were run twice{under}; import it under one name, or move "
                "the rooms into a module that is only imported"
            )
            raise DefinitionError(msg)
        self._open(what)
        if isinstance(function, str) and what.isidentifier():
            msg = f"room {self.name}: {what} takes no name; write @room.{what}, or @room.on({function!r})"
            raise DefinitionError(msg)
        why = why_not_static(function)
        if why is not None:
            msg = (
                f"room {self.name}: {what} is {why}. A handler outlives every object, because its room "
                "sleeps and wakes in another process; write a function at module level that gets what it "
                "needs from its context (ctx.state, ctx.app, ctx.connection.attachment, "
                "ctx.room.storage):\n\n"
                f'    @room.on("event")\n    async def handler(ctx, data):\n        ctx.state...'
            )
            raise DefinitionError(msg)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            msg = (
                f"room {self.name}: {what} has a yield, and to call it would do nothing; a handler returns, "
                "and sends what it has to say"
            )
            raise DefinitionError(msg)
        if existing is not None:
            msg = f"room {self.name}: {what} is already {name_of(existing)}"
            raise DefinitionError(msg)


def _check_flag(room: str, what: str, flag: object) -> None:
    """Refuse what is neither True nor False: ``"no"`` would count as True.

    Raises:
        DefinitionError: it is neither.
    """
    if not isinstance(flag, bool):
        msg = f"room {room}: {what} is True or False, not {flag!r:.100}"
        raise DefinitionError(msg)


def _is(value: object, kind: Any) -> bool:
    """Whether an application's argument is what its annotation says; a bool is no number here."""
    return isinstance(value, kind) and not isinstance(value, bool)


def policy_of_all(rooms: Iterable[Room[Any]]) -> Policy:
    """What the policies of rooms say that is about all rooms together.

    Raises:
        DefinitionError: they do not agree.
    """
    found, first = Policy(), None
    for room in rooms:
        if room.policy is None:
            continue
        of_all = room.policy.of_all
        if first is not None and of_all != found.of_all:
            name = next(name for name, value in of_all.items() if value != found.of_all[name])
            msg = (
                f"rooms {first} and {room.name}: {name} is about all rooms together, and their policies "
                f"differ in it ({found.of_all[name]!r} and {of_all[name]!r}); give open_rooms a policy"
            )
            raise DefinitionError(msg)
        first, found = room.name, attrs.evolve(found, **of_all)
    return found
