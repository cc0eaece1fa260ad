"""The parking lot: every socket of the process, whether its room is awake or asleep.

One task waits for one poller, and so for all plain sockets. It reads frames, answers what
needs no room (pings, closes, automatic responses) and hands messages on. Sockets do not
change hands when their room sleeps or wakes: the lot always has them.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from time import perf_counter
from typing import Final, Protocol

import attrs
import trio

from trio_rooms._loop.deadlines import Alarms
from trio_rooms._room.mail import Connected, Disconnected, Mail
from trio_rooms._wire import frames
from trio_rooms._wire.close_codes import CloseCode

from .links import (
    BINARY,
    CLOSING,
    DEAF,
    FRESH,
    GONE,
    MOST_DESCRIPTORS,
    MUTE,
    PAUSED,
    RELEASED,
    UNTOLD,
    Link,
    SocketLink,
)
from .pollers import READ, WRITE, new_poller

__all__ = ["LotStatistics", "Message", "ParkingLot", "Roster"]

_FIRST_READ: Final = 960
"""Bytes read at first, which most of what comes is less than. The C library has a fast way to
allocate up to a kilobyte, and 16 KiB for each message were one of the dearest steps of an echo."""
_READ_SIZE: Final = 16 * 1024
"""Bytes read at a time: more would let one socket keep the others waiting."""
_LARGE_READ: Final = 64 * 1024
"""The same while a large message is on its way."""
_SLICE: Final = 0.002
"""Seconds of work after which the rest of the program gets its turn."""
_CHUNK: Final = 64
"""Sockets written to between two looks at the clock."""


class Inbox(Protocol):
    """Where the mail of an awake room goes."""

    def post(self, mail: Mail) -> bool:
        """Take mail; False asks to be spared for a while."""


class Message(Protocol):
    """What can be sent to many: its whole frame, in the kind that a client is spoken to in."""

    def frame(self, *, binary: bool) -> bytes:
        """The encoded frame."""


@attrs.frozen
class LotStatistics:
    """What the parking lot holds and has done."""

    sockets: int
    """Connections that belong to a room now, awake or asleep."""
    closing: int
    """Connections that have left their room, and are open only for their closing handshake."""
    rosters: int
    """Rooms that have connections, or that are awake."""
    received: int
    """Messages handed to rooms."""
    answered: int
    """Messages and pings answered without a room."""
    sent: int
    """Messages sent to connections."""


class Roster:
    """The connections of one room: all that there is of a room that sleeps.

    What most rooms have nothing of is None and not an empty container, since this exists
    once per room.
    """

    __slots__ = (
        "asleep_since",
        "auto_respond",
        "channels",
        "departed",
        "fresh",
        "greets",
        "inbox",
        "jobs",
        "key",
        "links",
        "lot",
        "paused",
    )

    def __init__(
        self, lot: ParkingLot, key: str, auto_respond: Mapping[str | bytes, bytes], *, greets: bool
    ) -> None:
        self.lot = lot
        self.key = key
        self.auto_respond = auto_respond
        self.greets = greets
        """Whether the room has something to say to a connection before anything else is said to it."""
        self.fresh = 0
        """Connections that wait for that."""
        self.links: dict[int, Link] = {}
        self.channels: dict[str, dict[int, Link]] | None = None
        self.departed: list[Disconnected] | None = None
        """Who went away while the room slept."""
        self.jobs: deque[Callable[[float], bool]] | None = None
        """Output that the lot has still to write, in order; each returns whether it is done."""
        self.paused: list[Link] | None = None
        """Who is not read from until the room has caught up."""
        self.inbox: Inbox | None = None
        """Where its mail goes while it is awake; the supervisor's to set."""
        self.asleep_since: float | None = None
        """When it fell asleep, on Trio's clock, if that was in this process."""

    def note_departure(self, departure: Disconnected) -> list[Disconnected]:
        """Keep a departure until the room is awake to hear of it; returns all that are kept."""
        if self.departed is None:
            self.departed = []
        self.departed.append(departure)
        return self.departed


class ParkingLot:
    """Holds the sockets and moves bytes; knows nothing of what rooms do with them.

    Args:
        deliver: takes mail for a room that sleeps, by its key; False asks to be spared for a while.
        alarms: for closing handshakes that nobody answers.
        max_message_size: bytes of the largest message that is taken.
        backlog: bytes that may wait for a socket before it is closed as too slow.
        close_timeout: seconds that the other side has for its half of a closing handshake.
    """

    def __init__(
        self,
        deliver: Callable[[str, Mail], bool],
        alarms: Alarms,
        *,
        max_message_size: int,
        backlog: int,
        close_timeout: float,
    ) -> None:
        self.backlog = backlog
        self.poller = new_poller()
        self.rosters: dict[str, Roster] = {}
        self._deliver_asleep = deliver
        self._alarms = alarms
        self._limit = max_message_size
        self._close_timeout = close_timeout
        self._sockets: list[SocketLink | None] = []
        self._watched: dict[int, Callable[[int], None]] = {}
        # Ids are not reused, not even by the next process, since states may remember them.
        self._serial = secrets.randbits(39)
        self._open = 0
        self._closing = 0
        self._all_closed: trio.Event | None = None
        self._received = 0
        self._answered = 0
        self._sent = 0
        self._to_push: dict[str, Roster] = {}
        self._push_now = trio.Event()

    def statistics(self) -> LotStatistics:
        """What the lot holds and has done until now."""
        return LotStatistics(
            self._open, self._closing, len(self.rosters), self._received, self._answered, self._sent
        )

    # Coming and going.

    def roster(self, key: str, auto_respond: Mapping[str | bytes, bytes], *, greets: bool) -> Roster:
        """The connections of a room; a new record where there is none."""
        roster = self.rosters.get(key)
        if roster is None:
            roster = self.rosters[key] = Roster(self, key, auto_respond, greets=greets)
        return roster

    def forget(self, roster: Roster) -> None:
        """Drop the record of a room that sleeps and has no connections."""
        if roster.links or roster.inbox is not None or roster.departed or roster.jobs:
            return
        if self.rosters.get(roster.key) is roster:  # Else a newer one has its key.
            del self.rosters[roster.key]

    def new_id(self, fd: int = 0) -> int:
        """A number for the next connection, with its descriptor in it if it has one.

        It stays below 2**60 for as long as it can, where an int takes 32 bytes and not 48.
        """
        self._serial += 1
        return self._serial * (MOST_DESCRIPTORS + 1) | fd

    @property
    def sockets(self) -> int:
        """Connections that belong to a room now."""
        return self._open

    def watch(self, fd: int, ready: Callable[[int], None]) -> None:
        """Call ``ready(fd)`` whenever there is something to read, until it is parked or `unwatch` is called.

        Raises:
            OSError: it cannot be watched.
        """
        self._register(fd)
        self._watched[fd] = ready

    def unwatch(self, fd: int) -> bool:
        """Stop watching a descriptor, before it is closed; False where it is parked, or not watched."""
        if self._watched.pop(fd, None) is None:
            return False
        self.poller.unregister(fd)
        return True

    def _register(self, fd: int) -> None:
        if fd > MOST_DESCRIPTORS:
            raise OSError(errno.EMFILE, f"a socket's descriptor is {MOST_DESCRIPTORS:,} at most, not {fd:,}")
        self.poller.register(fd)
        if fd >= len(self._sockets):
            self._sockets.extend([None] * (fd + 1 - len(self._sockets)))

    def park(
        self,
        roster: Roster,
        fd: int,
        attachment: bytes | None,
        flags: int,
        opening: bytes = b"",
        greet: Callable[[int], Message] | None = None,
    ) -> SocketLink:
        """Take a connected, non-blocking socket; it belongs to the lot from here on.

        Args:
            roster: the room that it goes to.
            fd: its descriptor, which nobody else has.
            attachment: what is known of it, as CBOR.
            flags: `BINARY` if the client is spoken to in CBOR, or 0.
            opening: what is sent before all else.
            greet: makes the first message to the client from the number of its connection.

        Raises:
            OSError: it cannot be watched, and is closed.
        """
        if self._watched.pop(fd, None) is None:
            try:
                self._register(fd)
            except OSError:
                os.close(fd)
                raise
        link = self._sockets[fd] = SocketLink(self.new_id(fd), roster, attachment, flags)
        if opening:
            link.send(opening)
        if greet is not None:
            self.send(link, greet(link.id))
        self.enter(link)
        return link

    def enter(self, link: Link) -> None:
        """Let a link into its room."""
        roster = link.roster
        roster.links[link.id] = link
        self._open += 1
        if roster.greets:
            link.flags |= FRESH
            roster.fresh += 1
        self._deliver(roster, Connected(link))

    def greeted(self, link: Link) -> None:
        """What is said to everybody is said to this connection too from now on."""
        if link.flags & FRESH:
            link.flags &= ~FRESH
            link.roster.fresh -= 1

    def join(self, link: Link, channel: str) -> None:
        """Put a link into a channel of its room; nothing where it is in it, or gone."""
        if link.id in link.roster.links and channel not in link.channels:
            link.channels = (*link.channels, channel)
            if link.roster.channels is None:
                link.roster.channels = {}
            link.roster.channels.setdefault(channel, {})[link.id] = link

    def leave(self, link: Link, channel: str) -> None:
        """Take a link out of a channel; nothing where it is not in it."""
        if channel in link.channels:
            link.channels = tuple(name for name in link.channels if name != channel)
            self._leave(link, channel)

    def _leave(self, link: Link, channel: str) -> None:
        channels = link.roster.channels
        if channels is not None and channel in channels:
            channels[channel].pop(link.id, None)
            if not channels[channel]:
                del channels[channel]

    def close(self, link: Link, code: int, reason: str, *, tell: bool = True) -> None:
        """Begin the closing handshake, after everything sent before; the link leaves its room at once.

        Args:
            link: the connection; nothing where it is closing already.
            code: one that may be sent, see `frames.is_close_code`.
            reason: cut to the 123 bytes that there is room for.
            tell: whether the room is to hear how it ended.

        Raises:
            ValueError: no such code may be sent.
        """
        if link.flags & CLOSING:
            return
        frame = frames.encode_close(code, reason)
        link.flags |= CLOSING if tell else CLOSING | UNTOLD
        self._remove(link)
        self._in_order(link.roster, partial(self._close, link, frame))

    def _close(self, link: Link, frame: bytes, _: float = 0) -> bool:
        if link.flags & (MUTE | GONE):
            return True
        link.flags |= MUTE
        link.send(frame)
        if link.flags & PAUSED:
            link.resume()  # Else the answer would not be seen.
        self._alarms.set(trio.current_time() + self._close_timeout, partial(self._close_overdue, link))
        return True

    def _close_overdue(self, link: Link) -> None:
        if not link.flags & GONE:
            self._announce(link, CloseCode.ABNORMAL, "the closing handshake was not answered", clean=False)
        link.drop()

    def abandon(self, link: Link) -> None:
        """Tell nobody when a connection ends: the room that it was in is no more."""
        link.flags |= UNTOLD

    def overwhelmed(self, link: Link) -> None:
        """Close a connection that does not read what it is sent; only the close frame still goes out."""
        link.flags |= CLOSING
        self._remove(link)
        reason = "too slow: too much is waiting to be read"
        self._close(link, frames.encode_close(CloseCode.TRY_AGAIN_LATER, reason))

    def lost(self, link: Link) -> None:
        """The other side is gone, with or without a closing handshake."""
        self._remove(link)
        self._announce(link, CloseCode.ABNORMAL, "the connection was lost", clean=False)
        link.drop()

    def release(self, link: Link) -> None:
        """Forget a link that has left its room, and close its descriptor. For each link once."""
        if isinstance(link, SocketLink):
            self._sockets[link.fd] = None
            self.poller.unregister(link.fd)
            os.close(link.fd)
        # Whoever still holds the record must not write to the next owner of its descriptor.
        link.flags |= GONE | RELEASED
        self._closing -= 1
        if self._all_closed is not None and not self._closing:
            self._all_closed.set()

    def _remove(self, link: Link) -> None:
        roster = link.roster
        if roster.links.pop(link.id, None) is None:
            return
        self._open -= 1
        self._closing += 1
        self.greeted(link)
        for channel in link.channels:
            self._leave(link, channel)

    def _announce(self, link: Link, code: int, reason: str, *, clean: bool) -> None:
        if link.flags & GONE:
            return
        link.flags |= GONE
        link.partial = None
        if not link.flags & UNTOLD:
            # The room may have gone to sleep since the link left it, and its record with it.
            link.roster = self.rosters.setdefault(link.roster.key, link.roster)
            self._deliver(link.roster, Disconnected(link, code, reason, clean))
        self.forget(link.roster)

    # In.

    def _deliver(self, roster: Roster, mail: Mail) -> bool:
        inbox = roster.inbox
        return inbox.post(mail) if inbox is not None else self._deliver_asleep(roster.key, mail)

    def feed(self, link: Link, data: bytes) -> None:
        """Bytes came from a connection."""
        if link.flags & DEAF:
            return
        received, link.partial = frames.parse(data, link.partial, self._limit)
        for message in received:
            self.receive(link, message)

    def receive(self, link: Link, message: frames.Received) -> None:
        """A message, or another thing that frames carry, came from a connection."""
        if isinstance(message, str | bytes):
            self.take(link, message)
        elif isinstance(message, frames.Ping):
            if not link.flags & CLOSING:
                self._answered += 1
                link.send(frames.encode_pong(message.payload))
        elif isinstance(message, frames.Close):
            self._closed_by_peer(link, message)
        elif isinstance(message, frames.Violation):
            self._hang_up(link, message.code, message.reason)

    def take(self, link: Link, message: str | bytes) -> None:
        """A message came from a connection."""
        flags = link.flags
        if flags & CLOSING:
            return
        if (type(message) is bytes) is not (flags & BINARY == BINARY):
            link.flags = flags ^ BINARY
        roster = link.roster
        if roster.auto_respond:
            answer = roster.auto_respond.get(message)
            if answer is not None:
                self._answered += 1
                link.send(answer)
                return
        self._received += 1
        if not self._deliver(roster, (link, message)) and not link.flags & (PAUSED | GONE):
            if roster.paused is None:
                roster.paused = []
            roster.paused.append(link)
            link.pause()

    def _closed_by_peer(self, link: Link, close: frames.Close) -> None:
        answered = link.flags & MUTE
        link.flags |= CLOSING | DEAF
        self._remove(link)
        if not answered:
            link.send(frames.encode_close(close.code, close.reason))
        self._announce(link, close.code, close.reason, clean=True)
        if link.unsent:
            link.hang_up()
            self._alarms.set(trio.current_time() + self._close_timeout, link.drop)
        else:
            link.drop()

    def _hang_up(self, link: Link, code: int, reason: str) -> None:
        """Close after a violation: nothing that comes can be understood any more."""
        link.flags |= CLOSING | DEAF
        self._remove(link)
        if not link.flags & MUTE:
            link.send(frames.encode_close(code, reason))
        # To close now would reset the connection, and the close frame might never be read.
        link.hang_up()
        if link.flags & PAUSED:
            link.resume()
        self._announce(link, code, reason, clean=False)
        self._alarms.set(trio.current_time() + self._close_timeout, link.drop)

    def resume(self, roster: Roster) -> None:
        """Read again from those who were too fast for their room."""
        paused, roster.paused = roster.paused, None
        for link in paused or ():
            if not link.flags & GONE:
                link.resume()

    # Out.

    def send(self, link: Link, message: Message) -> None:
        """Send to one connection; nothing where it is closing or gone."""
        if not link.flags & (CLOSING | GONE):
            self.send_frame(link, message.frame(binary=link.flags & BINARY == BINARY))

    def send_frame(self, link: Link, frame: bytes) -> None:
        """Send what is the same for all clients to one connection, as `send` does."""
        if link.flags & (CLOSING | GONE):
            return
        self._sent += 1
        if link.roster.jobs:
            self._in_order(link.roster, partial(_send_late, link, frame))
        else:
            link.send(frame)

    def broadcast(
        self,
        roster: Roster,
        message: Message,
        channel: str | None = None,
        except_: Collection[int] = (),
    ) -> int:
        """Send to all connections of a room or of one channel; returns to how many.

        The frame is encoded once. What takes long is written in slices, in order.
        """
        members = roster.links if channel is None else (roster.channels or {}).get(channel)
        if not members:
            return 0
        # A copy, because one that turns out to be too slow is taken out of the room.
        links = list(members.values())
        if except_:
            links = [link for link in links if link.id not in except_]
        if roster.fresh:
            links = [link for link in links if not link.flags & FRESH]
        # Encoded before anything is written: data with no form in one kind reaches nobody.
        kinds = {link.flags & BINARY for link in links}
        text = message.frame(binary=False) if 0 in kinds else b""
        binary = message.frame(binary=True) if BINARY in kinds else b""
        self._sent += len(links)
        self._in_order(roster, _FanOut(links, text, binary))
        return len(links)

    def _in_order(self, roster: Roster, job: Callable[[float], bool]) -> None:
        """Do a piece of output now, or behind what the room has still to send."""
        if not roster.jobs and job(perf_counter() + _SLICE):
            return
        if roster.jobs is None:
            roster.jobs = deque()
        roster.jobs.append(job)
        self._to_push[roster.key] = roster
        self._push_now.set()

    # The tasks.

    async def run(self) -> None:
        """Watch the sockets, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._push)
            await self._watch()

    async def _watch(self) -> None:
        sockets = self._sockets
        ready = self.poller.fileno()
        while True:
            await trio.lowlevel.wait_readable(ready)
            pause_at = perf_counter() + _SLICE
            for fd, events in self.poller.poll():
                # A record that was released earlier in this round is None here, and one
                # that took over its number finds nothing to read.
                link = sockets[fd]
                if link is None:
                    watcher = self._watched.get(fd)
                    if watcher is not None:
                        watcher(fd)
                elif events == READ:
                    self._read(link, fd)
                else:
                    if events & WRITE:
                        link.flush()
                    if events & ~WRITE:
                        self._read(link, fd)
                if perf_counter() > pause_at:
                    await trio.lowlevel.checkpoint()
                    pause_at = perf_counter() + _SLICE

    def _read(self, link: SocketLink, fd: int) -> None:
        try:
            if link.unfinished is None:
                data = os.read(fd, _FIRST_READ)
                if len(data) == _FIRST_READ:
                    data += _read_more(fd)
            else:
                data = os.read(fd, _LARGE_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lost(link)
            return
        if link.unfinished is None and not link.flags & DEAF:
            message = frames.parse_one(data, self._limit)
            if message is not None:
                self.take(link, message)
                return
        self.feed(link, data)

    async def _push(self) -> None:
        """Write what was too much for one slice, room by room."""
        while True:
            if not self._to_push:
                self._push_now = trio.Event()
                await self._push_now.wait()
            for key, roster in list(self._to_push.items()):
                until = perf_counter() + _SLICE
                while roster.jobs and roster.jobs[0](until):
                    roster.jobs.popleft()
                if not roster.jobs:
                    roster.jobs = None
                    del self._to_push[key]
                    self.forget(roster)
                await trio.lowlevel.checkpoint()

    # The end.

    def stop_reading(self) -> None:
        """Leave what comes from now on in the kernel, even when a room has caught up."""
        for roster in self.rosters.values():
            roster.paused = None
        for link in self._all():
            if not link.flags & PAUSED:
                link.pause()

    async def close_all(self, code: int, reason: str) -> None:
        """Close every connection, and wait until each is gone or had its time for it."""
        for number, link in enumerate(self._all()):
            self.close(link, code, reason)
            if number % _CHUNK == 0:
                await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._close_timeout):
            while self._closing:
                self._all_closed = trio.Event()
                await self._all_closed.wait()
        for socket in self._sockets:
            if socket is not None:
                socket.drop()

    def dispose(self) -> None:
        """Close all that is left, and the poller."""
        for link in self._sockets:
            if link is not None:
                self._remove(link)
                link.drop()
        self.poller.close()

    def _all(self) -> Iterable[Link]:
        return [link for roster in self.rosters.values() for link in roster.links.values()]


def _read_more(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_SIZE)
    except OSError:
        return b""  # Nothing more, or what the next read tells.


def _send_late(link: Link, frame: bytes, _: float) -> bool:
    if not link.flags & (MUTE | GONE):
        link.send(frame)
    return True


class _FanOut:
    """One message on its way to many."""

    __slots__ = ("_at", "_binary", "_links", "_text")

    def __init__(self, links: list[Link], text: bytes, binary: bytes) -> None:
        self._links = links
        self._text = text
        self._binary = binary
        self._at = 0

    def __call__(self, until: float) -> bool:
        # Who has changed its kind since this was encoded gets the kind that there is.
        links, text, binary = self._links, self._text or self._binary, self._binary or self._text
        while self._at < len(links):
            for link in links[self._at : self._at + _CHUNK]:
                flags = link.flags
                if not flags & (MUTE | GONE):
                    link.send(binary if flags & BINARY else text)
            self._at += _CHUNK
            if perf_counter() > until:
                break
        return self._at >= len(links)
