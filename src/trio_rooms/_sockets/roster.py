"""The record of each socket, and those of one room together: all that there is of a room that sleeps.

Both exist in great numbers while nothing happens, so each field is a field of all of them:
what most have nothing of is None and not an empty container, and what exists for a moment only
is in an object that does, too.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Final, Protocol

import attrs
import trio

from trio_rooms._arguments import text
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._wire import frames

from .automatic import Automatic
from .flags import CLOSE_SENT, CLOSING, GONE, UNGREETED, UNREPORTED
from .manner import Manner
from .pollers import Poller
from .postponed import Postponed
from .replaying import Replaying
from .standing import Change, Places, Session, sid_of
from .unfinished import Output, Unfinished
from .use import Use

__all__ = [
    "MOST_DESCRIPTORS",
    "Connected",
    "Disconnected",
    "Dropped",
    "Inbox",
    "Link",
    "LinkOwner",
    "PassOn",
    "Presence",
    "Remnant",
    "Resumed",
    "Roster",
    "SocketEvent",
    "Users",
]

MOST_DESCRIPTORS: Final = (1 << 20) - 1
"""The highest descriptor of a socket. Linux has no higher ones unless fs.nr_open was raised."""


_PACKED: Final = 4_000
"""Connections of a room that are packed, see `Roster.pack`; to undo that takes 0.3 ms at most."""
_FEW: Final = 64
"""Those of them among which one is looked for, one after the other."""


class Users(Protocol):
    """Who is where: told of the connections that have a user."""

    def entered(self, link: Link) -> None:
        """It is in its room from now on; where its room greets, it has been greeted."""

    def left(self, link: Link) -> None:
        """It has left its room, or waits to be greeted again. It need not have entered."""

    def acknowledged(self, link: Link, seq: int) -> None:
        """The client of one with a session has everything up to a place in its room's journal."""

    def session_over(self, key: str, sid: int, user: str | None = None) -> None:
        """A session is no more; of whom, where it has not acknowledged something."""

    def all_over(self, key: str) -> None:
        """All sessions of a room are no more."""


class LinkOwner(Protocol):
    """What a link asks of whoever holds it: the hub."""

    backlog: int
    """Bytes that may wait for a connection behind what is in flight, before it is a slow consumer."""
    max_message_size: int
    """Bytes of the largest message that is taken."""
    poller: Poller
    """What watches descriptors."""
    guests: set[Link]
    """Links that no poller watches: they end with the hub."""
    users: Users
    """Who is to hear of connections that have a user."""
    now: float
    """Trio's time when something was last read, or a little later."""
    metrics: Metrics
    """What is counted and measured."""
    offer: Callable[[Link, bytes, Manner], None]
    """Sends a message to a connection, now or later, or not, as it is to be sent."""

    def data_received(self, link: Link, data: bytes) -> None:
        """Bytes came."""

    def message_received(self, link: Link, message: frames.Received) -> None:
        """A message, or another thing that frames carry, came."""

    def connection_lost(self, link: Link) -> None:
        """The other side is gone, with or without a closing handshake. A second call does nothing."""

    def slow_consumer(self, link: Link) -> None:
        """More than the backlog waits for a connection; what waited was dropped."""

    def release(self, link: Link) -> None:
        """The link has let go of its transport. To be called once."""


class Link(abc.ABC):
    """What is known of one socket. Everything here survives hibernation.

    Args:
        number: its id, see `SocketHub.new_id`.
        roster: the room that it belongs to.
        attachment: what the application knows of it, as CBOR; None for None.
        flags: what `flags.opening_flags` says at first.
    """

    __slots__ = ("attachment", "channels", "flags", "id", "roster", "session", "unfinished", "user")
    joins: ClassVar[bool] = True
    """Whether several frames can be sent as one piece."""
    far: ClassVar[bool] = False
    """Whether another node has its socket, closes it, and counts that."""

    def __init__(self, number: int, roster: Roster, attachment: bytes | None, flags: int) -> None:
        self.id: int = number
        self.roster: Roster = roster
        self.attachment: bytes | None = attachment
        self.channels: tuple[str, ...] = ()
        self.unfinished: Unfinished | None = None
        self.flags: int = flags
        self.session: Session = None
        self.user: str | None = None
        """Who its client is; set before it enters its room."""

    @property
    def sid(self) -> int:
        """The number of its session, which is what handlers know it by; its own where it has none."""
        session = self.session
        return self.id if session is None else sid_of(session)

    @property
    def partial(self) -> frames.Partial | None:
        """What has come of an unfinished message."""
        unfinished = self.unfinished
        return None if unfinished is None else unfinished.partial

    @partial.setter
    def partial(self, partial: frames.Partial | None) -> None:
        self._keep(partial, self.output, self.postponed)

    @property
    def output(self) -> Output | None:
        """What waits for the kernel."""
        unfinished = self.unfinished
        return None if unfinished is None else unfinished.output

    @output.setter
    def output(self, output: Output | None) -> None:
        self._keep(self.partial, output, self.postponed)

    @property
    def slow(self) -> bool:
        """Whether what was sent before cannot go out yet: what is volatile is dropped then."""
        return self.output is not None

    @property
    def postponed(self) -> Postponed | None:
        """What waits for a reason to be written."""
        unfinished = self.unfinished
        return None if unfinished is None else unfinished.postponed

    @postponed.setter
    def postponed(self, postponed: Postponed | None) -> None:
        self._keep(self.partial, self.output, postponed)

    def _keep(
        self, partial: frames.Partial | None, output: Output | None, postponed: Postponed | None
    ) -> None:
        """Keep what is under way, in an object that there is only while something is."""
        idle = partial is None and output is None and postponed is None
        self.unfinished = None if idle else Unfinished(partial, output, postponed)

    @abc.abstractmethod
    def send(self, frame: bytes) -> None:
        """Send a whole message, after everything sent before. Never blocks, never raises."""

    def send_control(self, frame: bytes) -> None:
        """Send a control frame, however much waits; a pong before what waits, see `Output.add_control`."""
        unfinished = self.unfinished
        if unfinished is None:
            self.send(frame)
        elif unfinished.output is not None:
            unfinished.output.add_control(frame)
        else:
            postponed, unfinished.postponed = unfinished.postponed, None
            self.send(frame)
            if postponed is not None:
                self.postponed = postponed

    def send_postponed(self, frame: bytes = b"") -> None:
        """Send what was postponed, if anything was, and a frame after it; as one piece, where that can be."""
        postponed = self.postponed
        if postponed is None:
            return
        self.postponed = None
        frames = postponed.taken(self)
        if frame:
            frames.append(frame)
        if self.joins:
            self.send(b"".join(frames))
        else:
            for one in frames:
                self.send(one)
        if not self.flags & (CLOSE_SENT | GONE):  # Else it was too slow, and got nothing of it.
            postponed.tell()

    def drop_postponed(self) -> None:
        """Forget what was postponed: nothing is sent any more."""
        if self.postponed is not None:
            self.postponed.taken(self)
            self.postponed = None

    def gone_out(self) -> None:
        """What was under way has been written: what waited for that follows."""
        postponed = self.postponed
        if postponed is not None and postponed.behind:
            self.send_postponed()

    def holding(self) -> Replaying:
        """Output in which all waits that is sent, but for what is fed to it; it is not this link's yet."""
        return Replaying(self.attend)

    async def emptied(self) -> None:
        """Wait until all that was sent has gone out, or nobody waits for that any more."""
        output = self.output
        if output is None or self.flags & (CLOSING | GONE):
            await trio.lowlevel.checkpoint()
        else:
            await output.emptied()

    @abc.abstractmethod
    def send_eof(self) -> None:
        """Send nothing after what was sent; the other side is told that nothing follows."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Let go of the transport at once. A second call does nothing."""

    @abc.abstractmethod
    def attend(self) -> None:
        """Write what there is to write, as soon as that is possible: something has come, or all has gone."""

    @abc.abstractmethod
    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""

    @abc.abstractmethod
    def resume_reading(self) -> None:
        """Read again."""

    @property
    def in_flight(self) -> int:
        """Bytes that were sent and have not arrived, as far as can be told: it changes while they move."""
        output = self.output
        return 0 if output is None else output.size


class Remnant(Link):
    """What is left of a session without a connection: who it was, and whether its room has ever met it."""

    __slots__ = ()

    def __init__(
        self,
        sid: int,
        roster: Roster,
        attachment: bytes | None,
        channels: tuple[str, ...],
        user: str | None,
        *,
        met: bool,
    ) -> None:
        super().__init__(sid, roster, attachment, CLOSING | GONE | (0 if met else UNREPORTED))
        self.channels = channels
        self.user = user
        self.session = sid

    def send(self, frame: bytes) -> None:
        """There is nobody."""

    def send_eof(self) -> None:
        """There is nobody."""

    def abort(self) -> None:
        """There is nothing to let go of."""

    def attend(self) -> None:
        """There is nothing to write."""

    def pause_reading(self) -> None:
        """There is nothing to read."""

    def resume_reading(self) -> None:
        """There is nothing to read."""


@attrs.frozen
class Connected:
    """A socket was opened to the room."""

    link: Link


@attrs.frozen
class Disconnected:
    """A socket of the room is gone."""

    link: Link
    code: int
    reason: str
    clean: bool


@attrs.frozen
class Dropped:
    """A socket of the room is gone, and its session is not over."""

    link: Link
    code: int
    reason: str
    clean: bool


@attrs.frozen
class Resumed:
    """A session whose socket was gone goes on with this one."""

    link: Link


@attrs.frozen
class PassOn:
    """A message that needs no room, and waits for its turn behind what its connection sent before."""

    link: Link
    message: str | bytes
    relay: bool
    """Whether it goes to all others; else it goes back."""


SocketEvent = tuple[Link, str | bytes] | PassOn | Connected | Disconnected | Dropped | Resumed
"""What happens on the sockets of a room.

A message, which is nearly all of it, is a bare tuple of the link and the message, because an
object for each would cost a tenth of what handling it does.
"""


class Inbox(Protocol):
    """Where what happens on the sockets of an awake room goes."""

    elsewhere: ClassVar[bool]
    """Whether that is another node, which is to hear of each end, also where nobody here is."""

    @property
    def eager(self) -> Callable[[tuple[Link, str | bytes]], bool] | None:
        """Takes what a connection sends as `post` does, and may handle it at once; None where `post` does."""

    def post(self, mail: SocketEvent) -> bool:
        """Take it; False asks to be spared more of this connection for a while."""

    def busy_with(self, link: Link) -> bool:
        """Whether what a connection sent may still wait, or be at work; False only where nothing does."""

    def weigh(self, size: int) -> None:
        """Hear how many bytes a message takes that is posted next, where they are many."""

    def has_mail_of(self, link: Link) -> bool:
        """Whether mail of a connection waits, or is being handled."""


class Presence(Protocol):
    """Whoever tells the connections of a room who else is there."""

    def entered(self, link: Link) -> None:
        """A connection is in the room and was greeted; or a session was that is away."""

    def left(self, link: Link, *, met: bool) -> None:
        """A connection has left the room; ``met`` is whether it was greeted."""

    def taken_back(self, link: Link) -> None:
        """A connection, or a session that is away, waits once more to be greeted."""

    def given(self, sid: int, value: bytes) -> None:
        """What a connection that is about to enter has set, or its session before; nothing for nothing."""

    def over(self) -> None:
        """All sessions of the room end; those whose connections are there go on without one."""

    def forgotten(self) -> None:
        """The record of the room is dropped. A connection that closes may bring it back, long after that."""


class Roster:
    """The connections of one room, and what the hub has still to do for them.

    Args:
        hub: who holds the sockets.
        key: the room's.
        automatic: what becomes of messages that need no room; None where all need it.
        greets: whether the room has something to say to a connection before anything else is
            said to it.
    """

    __slots__ = (
        "_channels",
        "_greeting",
        "_links",
        "active",
        "asleep_since",
        "automatic",
        "away",
        "departed",
        "hub",
        "inbox",
        "jobs",
        "journal",
        "key",
        "paused",
        "presence",
        "resumed",
    )

    def __init__(self, hub: LinkOwner, key: str, automatic: Automatic | None, *, greets: bool) -> None:
        self.hub: LinkOwner = hub
        self.key: str = key
        self.automatic: Automatic | None = automatic
        self._greeting = int(greets)
        """Whether it greets, and twice as many as wait to be greeted: with one field less there is room for
        another in the memory that a record takes."""
        self._links: dict[int, Link] | tuple[Link, ...] | Link = ()
        """By id; or packed, see `pack`: a tuple, or the one that there is."""
        self.active: dict[Link, Use] | None = None
        """Those of them that are in use, see `Activity`, whose they are to keep."""
        self._channels: dict[str, dict[int, Link] | tuple[Link, ...]] | None = None
        """Who is in which; by id, or packed."""
        self.departed: list[Disconnected] | None = None
        """Who went away while the room slept; the supervisor's to keep."""
        self.jobs: deque[Callable[[float], bool]] | None = None
        """Output that has still to be written, in order; the fan-out's to keep."""
        self.paused: dict[Link, None] | None = None
        """Who is not read from until the room has caught up; the hub's to keep."""
        self.inbox: Inbox | None = None
        """Where its mail goes while it is awake; the supervisor's to set."""
        self.resumed: dict[int, Link] | None = None
        """By session, the connections of those that did not begin with them."""
        self.away: dict[int, Link] | None = None
        """Sessions whose connection is gone, by their numbers, with the last of what it was; for as long as
        the room is awake."""
        self.journal: Places | None = None
        """Where the sessions stand; the record's, while there is one."""
        self.presence: Presence | None = None
        """Tells who is here, where the room wants that."""
        self.asleep_since: float | None = None
        """When it fell asleep, on Trio's clock, if that was in this process; the supervisor's to set."""

    # Who is in the room.

    @property
    def links(self) -> dict[int, Link]:
        """The connections by id; whoever asks for them so has them packed no more."""
        links = self._links
        if type(links) is not dict:
            links = self._links = {link.id: link for link in self.everybody()}
        return links

    @property
    def count(self) -> int:
        """How many there are."""
        links = self._links
        # By its type, as to ask whether it is a Link takes several times as long.
        return len(links) if type(links) is dict or type(links) is tuple else 1

    @property
    def holder(self) -> object:
        """What holds them and nothing else; None for one, which needs nothing."""
        return None if isinstance(self._links, Link) else self._links

    def everybody(self) -> list[Link]:
        """All of them, as a list of its own."""
        links = self._links
        if type(links) is dict:
            return [*links.values()]
        return [*links] if type(links) is tuple else [links]  # type: ignore[list-item]

    def has(self, link: Link) -> bool:
        """Whether a connection is in the room."""
        links = self._links
        if type(links) is dict:
            return links.get(link.id) is link
        if type(links) is tuple:
            return link in links if len(links) <= _FEW else self.links.get(link.id) is link
        return links is link

    def add(self, link: Link) -> None:
        """Put a connection into the room, which is in no channel."""
        if self._links == ():  # Not where it is a dict that is empty: somebody may look into that.
            self._links = link
        else:
            self.links[link.id] = link

    def pack(self) -> None:
        """Keep the connections closer together, a fourth of the place, as long as nobody comes or goes.

        Not where they are very many, since to undo that takes a moment for each.
        """
        if type(self._links) is dict and len(self._links) <= _PACKED:
            links = tuple(self._links.values())
            self._links = links[0] if len(links) == 1 else links
            channels = self._channels or {}
            for name, group in channels.items():
                if isinstance(group, dict):
                    channels[name] = tuple(group.values())

    def _group(self, channel: str) -> dict[int, Link]:
        """Who is in a channel that there is, by id, and packed no more."""
        channels = self._channels
        assert channels is not None
        group = channels[channel]
        if isinstance(group, tuple):
            group = channels[channel] = {link.id: link for link in group}
        return group

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels that somebody is in."""
        return tuple(self._channels or ())

    @property
    def channels(self) -> dict[str, dict[int, Link]]:
        """Who is in which channel, by id."""
        return {name: self._group(name) for name in self.channel_names}

    @property
    def greets(self) -> bool:
        """Whether the room has something to say to a connection before anything else is said to it."""
        return self._greeting & 1 == 1

    @property
    def ungreeted(self) -> int:
        """Connections that wait to be greeted."""
        return self._greeting >> 1

    @ungreeted.setter
    def ungreeted(self, count: int) -> None:
        self._greeting = count << 1 | self._greeting & 1

    def resume_reading(self, link: Link | None = None) -> None:
        """Read again from those who were too fast for the room, or from one of them."""
        paused = self.paused
        if not paused:
            return
        if link is None:
            self.paused = None
        elif link in paused:
            del paused[link]
            paused = {link: None}
        else:
            return
        for one in paused:
            if not one.flags & GONE:
                one.resume_reading()

    def note_departure(self, departure: Disconnected) -> list[Disconnected]:
        """Keep a departure until the room is awake to hear of it; returns all that are kept."""
        if self.departed is None:
            self.departed = []
        self.departed.append(departure)
        return self.departed

    def greeted(self, link: Link) -> None:
        """What is said to everybody is said to this connection too from now on."""
        if link.flags & UNGREETED:
            inside = self.has(link)
            link.flags &= ~UNGREETED
            self.ungreeted -= inside
            if inside and link.user is not None:
                self.hub.users.entered(link)
            if self.presence is not None:
                self.presence.entered(link)

    def ungreeted_again(self, link: Link) -> None:
        """What was said to a connection was taken back: it waits once more to be greeted."""
        if link.session is not None:
            link = self.link_of(link.sid) or (self.away or {}).get(link.sid) or link
        inside = self.has(link)
        if not link.flags & UNGREETED and (inside or link.session is not None):
            link.flags |= UNGREETED
            self.ungreeted += inside
            if inside and link.user is not None:
                self.hub.users.left(link)
            if self.presence is not None:
                self.presence.taken_back(link)

    def restore(
        self, link: Link, attachment: bytes | None, channels: tuple[str, ...], changes: tuple[Change, ...]
    ) -> None:
        """Make a connection's attachment and channels again what they were, whether it is in the room or not.

        Where its session goes on with another one, it is that one's.
        """
        if link.session is not None:
            away = None if self.away is None else self.away.get(link.sid)
            link = self.link_of(link.sid) or away or link
            if self.journal is not None:
                self.journal.restore(link.session or link.sid, changes)
        link.attachment = attachment
        if self.has(link):
            for channel in link.channels:
                if channel not in channels:
                    self._forget_member(link, channel)
            for channel in channels:
                self._add_member(link, channel)
        link.channels = channels

    def link_of(self, sid: int) -> Link | None:
        """The connection of a session, or of what has none; None where there is none now."""
        link = self.links.get(sid)
        if link is None and self.resumed is not None:
            link = self.resumed.get(sid)
        return link

    def is_away(self, link: Link) -> bool:
        """Whether this is what is left of a session that is away."""
        return self.away is not None and self.away.get(link.sid) is link

    def join(self, link: Link, channel: str) -> None:
        """Put a link into a channel; nothing where it is in it, or has left the room."""
        inside = self.has(link)
        if channel in link.channels or not (inside or self.is_away(link)):
            return
        channels = (*link.channels, channel)
        last = next(reversed(self._group(channel).values())) if channel in (self._channels or ()) else None
        # Most join the same channels: then one has the same tuple as the one before.
        link.channels = last.channels if last is not None and last.channels == channels else channels
        if inside:
            self._add_member(link, channel)
        self._note_change(link, channel, joined=True)

    def leave(self, link: Link, channel: str) -> None:
        """Take a link out of a channel; nothing where it is not in it."""
        if channel in link.channels:
            link.channels = tuple(name for name in link.channels if name != channel)
            self._forget_member(link, channel)
            self._note_change(link, channel, joined=False)

    def _note_change(self, link: Link, channel: str, *, joined: bool) -> None:
        """Who was in a channel when something was sent to it is to get it, also later."""
        if link.session is not None and self.journal is not None:
            self.journal.changed(link.session, channel, joined=joined)

    def come(self, link: Link) -> None:
        """Put a link into the room, with its channels."""
        self.add(link)
        for channel in link.channels:
            self._add_member(link, channel)
        sid = link.sid
        if sid != link.id:
            if self.resumed is None:
                self.resumed = {}
            self.resumed[sid] = link

    def remove(self, link: Link) -> bool:
        """Take a link out of the room and of its channels, whose names it keeps; False where it has left."""
        if self._links is link:
            self._links = ()
        elif self.links.pop(link.id, None) is None:
            return False
        if self.resumed is not None and self.resumed.get(link.sid) is link:
            del self.resumed[link.sid]
            if not self.resumed:
                self.resumed = None
        if link.flags & UNGREETED:
            self.ungreeted -= 1
            if link.session is None:
                link.flags &= ~UNGREETED
        for channel in link.channels:
            self._forget_member(link, channel)
        return True

    def _add_member(self, link: Link, channel: str) -> None:
        """Put a link among a channel's members."""
        if self._channels is None:
            self._channels = {}
        self._channels.setdefault(channel, {})
        self._group(channel)[link.id] = link

    def _forget_member(self, link: Link, channel: str) -> None:
        """Take a link out of a channel's members, and drop the channel with the last."""
        if self._channels is not None and channel in self._channels:
            group = self._group(channel)
            group.pop(link.id, None)
            if not group:
                del self._channels[channel]

    def members(self, channel: str | None, exclude: frozenset[int] = frozenset()) -> list[Link]:
        """Whom a message to everybody, or to a channel, goes to now, as a list of its own."""
        if channel is None:
            group = self._links
            links = list(group.values()) if type(group) is dict else self.everybody()
        else:
            there = None if self._channels is None else self._channels.get(channel)
            if not there:
                text("channel", channel)
                return []
            links = list(there if isinstance(there, tuple) else there.values())
        if exclude:
            links = [link for link in links if link.id not in exclude]
        if self._greeting > 1:
            links = [link for link in links if not link.flags & UNGREETED]
        return links
