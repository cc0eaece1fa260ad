"""The record of each socket, and those of one room together: all that there is of a room that sleeps.

Both exist in great numbers while nothing happens, so each field is a field of all of them:
what most have nothing of is None and not an empty container, and what exists for a moment only
is in an object that does, too.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import attrs

from trio_rooms._arguments import text
from trio_rooms._wire import frames

from .flags import GONE, UNGREETED
from .pollers import Poller
from .unfinished import Output, Unfinished

__all__ = [
    "MOST_DESCRIPTORS",
    "Connected",
    "Disconnected",
    "Inbox",
    "Link",
    "LinkOwner",
    "Roster",
    "SocketEvent",
]

MOST_DESCRIPTORS: Final = (1 << 20) - 1
"""The highest descriptor of a socket. Linux has no higher ones unless fs.nr_open was raised."""


class LinkOwner(Protocol):
    """What a link asks of whoever holds it: the hub."""

    backlog: int
    """Bytes that may wait for a connection behind what is in flight, before it is a slow consumer."""
    max_message_size: int
    """Bytes of the largest message that is taken."""
    poller: Poller
    """What watches descriptors."""
    guests: set[Link]
    """Links with a task of their own: they end with the hub."""

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

    __slots__ = ("attachment", "channels", "flags", "id", "roster", "unfinished")

    def __init__(self, number: int, roster: Roster, attachment: bytes | None, flags: int) -> None:
        self.id: int = number
        self.roster: Roster = roster
        self.attachment: bytes | None = attachment
        self.channels: tuple[str, ...] = ()
        self.unfinished: Unfinished | None = None
        self.flags: int = flags

    @property
    def partial(self) -> frames.Partial | None:
        """What has come of an unfinished message."""
        unfinished = self.unfinished
        return None if unfinished is None else unfinished.partial

    @partial.setter
    def partial(self, partial: frames.Partial | None) -> None:
        self._keep(partial, self.output)

    @property
    def output(self) -> Output | None:
        """What waits for the kernel."""
        unfinished = self.unfinished
        return None if unfinished is None else unfinished.output

    @output.setter
    def output(self, output: Output | None) -> None:
        self._keep(self.partial, output)

    def _keep(self, partial: frames.Partial | None, output: Output | None) -> None:
        """Keep what is under way, in an object that there is only while something is."""
        idle = partial is None and output is None
        self.unfinished = None if idle else Unfinished(partial, output)

    @abc.abstractmethod
    def send(self, frame: bytes) -> None:
        """Send a whole message, after everything sent before. Never blocks, never raises."""

    def send_control(self, frame: bytes) -> None:
        """Send a control frame, however much waits; a pong before what waits, see `Output.add_control`."""
        output = self.output
        if output is None:
            self.send(frame)
        else:
            output.add_control(frame)

    @abc.abstractmethod
    def send_eof(self) -> None:
        """Send nothing after what was sent; the other side is told that nothing follows."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Let go of the transport at once. A second call does nothing."""

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


SocketEvent = tuple[Link, str | bytes] | Connected | Disconnected
"""What happens on the sockets of a room.

A message, which is nearly all of it, is a bare tuple of the link and the message, because an
object for each would cost a tenth of what handling it does.
"""


class Inbox(Protocol):
    """Where what happens on the sockets of an awake room goes."""

    def post(self, mail: SocketEvent) -> bool:
        """Take it; False asks to be spared more of this connection for a while."""

    def weigh(self, size: int) -> None:
        """Hear how many bytes a message takes that is posted next, where they are many."""


class Roster:
    """The connections of one room, and what the hub has still to do for them.

    Args:
        hub: who holds the sockets.
        key: the room's.
        auto_respond: frames that are the answers to messages which need no room.
        greets: whether the room has something to say to a connection before anything else is
            said to it.
    """

    __slots__ = (
        "asleep_since",
        "auto_respond",
        "channels",
        "departed",
        "greets",
        "hub",
        "inbox",
        "jobs",
        "key",
        "links",
        "paused",
        "ungreeted",
    )

    def __init__(
        self, hub: LinkOwner, key: str, auto_respond: Mapping[str | bytes, bytes], *, greets: bool
    ) -> None:
        self.hub: LinkOwner = hub
        self.key: str = key
        self.auto_respond: Mapping[str | bytes, bytes] = auto_respond
        self.greets: bool = greets
        self.ungreeted: int = 0
        """Connections that wait to be greeted."""
        self.links: dict[int, Link] = {}
        self.channels: dict[str, dict[int, Link]] | None = None
        self.departed: list[Disconnected] | None = None
        """Who went away while the room slept; the supervisor's to keep."""
        self.jobs: deque[Callable[[float], bool]] | None = None
        """Output that has still to be written, in order; the fan-out's to keep."""
        self.paused: dict[Link, None] | None = None
        """Who is not read from until the room has caught up; the hub's to keep."""
        self.inbox: Inbox | None = None
        """Where its mail goes while it is awake; the supervisor's to set."""
        self.asleep_since: float | None = None
        """When it fell asleep, on Trio's clock, if that was in this process; the supervisor's to set."""

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
            link.flags &= ~UNGREETED
            self.ungreeted -= 1

    def ungreeted_again(self, link: Link) -> None:
        """What was said to a connection was taken back: it waits once more to be greeted."""
        if self.links.get(link.id) is link and not link.flags & UNGREETED:
            link.flags |= UNGREETED
            self.ungreeted += 1

    def restore(self, link: Link, attachment: bytes | None, channels: tuple[str, ...]) -> None:
        """Make a link's attachment and channels again what they were, whether it is in the room or not."""
        link.attachment = attachment
        if link.id in self.links:
            for channel in link.channels:
                if channel not in channels:
                    self._forget_member(link, channel)
            for channel in channels:
                if self.channels is None:
                    self.channels = {}
                self.channels.setdefault(channel, {})[link.id] = link
        link.channels = channels

    def join(self, link: Link, channel: str) -> None:
        """Put a link into a channel; nothing where it is in it, or has left the room."""
        if link.id in self.links and channel not in link.channels:
            link.channels = (*link.channels, channel)
            if self.channels is None:
                self.channels = {}
            self.channels.setdefault(channel, {})[link.id] = link

    def leave(self, link: Link, channel: str) -> None:
        """Take a link out of a channel; nothing where it is not in it."""
        if channel in link.channels:
            link.channels = tuple(name for name in link.channels if name != channel)
            self._forget_member(link, channel)

    def remove(self, link: Link) -> bool:
        """Take a link out of the room and of its channels, whose names it keeps; False where it has left."""
        if self.links.pop(link.id, None) is None:
            return False
        self.greeted(link)
        for channel in link.channels:
            self._forget_member(link, channel)
        return True

    def _forget_member(self, link: Link, channel: str) -> None:
        """Take a link out of a channel's members, and drop the channel with the last."""
        if self.channels is not None and channel in self.channels:
            self.channels[channel].pop(link.id, None)
            if not self.channels[channel]:
                del self.channels[channel]

    def members(self, channel: str | None, exclude: frozenset[int] = frozenset()) -> list[Link]:
        """Whom a message to everybody, or to a channel, goes to now, as a list of its own."""
        group = self.links if channel is None else (self.channels or {}).get(channel)
        if not group:
            if channel is not None:
                text("channel", channel)
            return []
        links = list(group.values())
        if exclude:
            links = [link for link in links if link.id not in exclude]
        if self.ungreeted:
            links = [link for link in links if not link.flags & UNGREETED]
        return links
