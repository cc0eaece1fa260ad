"""Every socket of the process, whether its room is awake or asleep.

One task waits for one poller, and so for all plain sockets. It reads frames, answers what
needs no room (pings, closes, automatic responses) and hands messages on. Sockets do not
change hands when their room sleeps or wakes: the hub always has them. A socket that waits
for nothing but its client is *parked*: one record, see `roster`.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from sys import getsizeof
from time import perf_counter
from typing import Final, Protocol

import attrs
import trio

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.standstill import Standstill
from trio_rooms._loop.turn import TURN
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._metrics.trace import APART, Trace
from trio_rooms._wire import envelope, frames
from trio_rooms._wire.close_codes import CloseCode

from .activity import Activity
from .automatic import Automatic
from .closing import Closing
from .fanout import Broadcast, FanOut, Message, SendLater, Stalled
from .flags import (
    BINARY,
    CLOSING,
    DISCARD_INPUT,
    GONE,
    PAUSED,
    PINGED,
    RELEASED,
    REPLAYING,
    SESSION,
    UNGREETED,
    UNREPORTED,
)
from .intake import SMALL, Intake
from .keepalive import Keepalive
from .links import SocketLink
from .manner import Manner
from .pacing import Pacing
from .pollers import READ, WRITE, Poller, new_poller
from .postponed import Postponements
from .relays import MOST_BEHIND, Relays
from .replaying import Replaying
from .roster import (
    MOST_DESCRIPTORS,
    Connected,
    Disconnected,
    Link,
    PassOn,
    Presence,
    Resumed,
    Roster,
    SocketEvent,
    Users,
)
from .standing import acknowledge
from .timeouts import Timeouts

__all__ = ["Abroad", "HubStatistics", "Sessions", "SocketHub"]

_FIRST_READ: Final = 960
"""Bytes read at first, which most of what comes is less than. The C library has a fast way to
allocate up to a kilobyte, and 16 KiB for each message were one of the dearest steps of an echo."""
_LONGER_READ: Final = 8 * 1024
"""The same once something was more than that: to read twice is dearer still."""
_FORGOTTEN: Final = 256
"""Rounds after which the shorter is tried again; a power of two."""
_READ_SIZE: Final = 16 * 1024
"""Bytes read beside them, where what came of such a read so far was no more than a turn's work."""
_LEAST_READ: Final = 2 * 1024
"""The same where it was more: nothing but the smallest frames, which cost as much as large ones."""
_LARGE_READ: Final = 64 * 1024
"""Bytes read at most, of a frame that has so many; a frame is little work, whatever it has."""
_JOINED: Final = 64 * 1024
"""Bytes of answers from which on they are not kept for the end of a read, to be written at once."""
_WEIGHED: Final = 1024
"""Characters or bytes of a message that is counted with its bytes, too, while it waits for its room."""
_SPECIAL: Final = CLOSING | SESSION | PINGED
"""Flags of connections of which a message needs a second look."""
_CAREFUL: Final = _SPECIAL | DISCARD_INPUT
"""Flags of connections whose input takes no short cut."""
_LONGEST_ACK: Final = 256
"""Characters or bytes of a message that may be an acknowledgement alone."""
_PONG: Final = envelope.pong()


@attrs.frozen
class HubStatistics:
    """What the hub holds and has done."""

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
    relayed: int
    """Messages that went on from one connection to the others of its room, without the room."""
    relays_dropped: int
    """Those that did not: their connection sent too many, or too much waits for the others already."""
    dropped: int
    """Messages that were not sent to a connection that is slow, as they were volatile."""
    closes: Mapping[int, int]
    """Connections that this side closed, by the code that they were closed with."""


class Sessions(Protocol):
    """What outlives connections: told of what happens on those that have a session."""

    def left(self, event: Disconnected, *, told: bool) -> None:
        """The connection of a session has ended.

        Args:
            event: how.
            told: whether its room is to hear of it.
        """

    def answered(self, link: Link, number: int) -> None:
        """A client has all answers up to its own message with this number; its room is awake."""


class Abroad(Protocol):
    """Told of sockets whose rooms may be at home at another node, so that these hear of it."""

    def left(self, link: Link) -> None:
        """A connection was closed as too slow."""

    def turned(self, link: Link) -> None:
        """A client goes on in another kind of messages."""


class SocketHub:
    """Holds the sockets and moves bytes; knows nothing of what rooms do with them.

    It is the output of rooms whose effects wait for nothing: `send`, `send_frame`, `broadcast`
    and `close` are what a room speaks to.

    Args:
        deadlines: for closing handshakes that nobody answers.
        max_message_size: bytes of the largest message that is taken.
        backlog: bytes that may wait for a socket behind the frame in flight, before it is closed as too slow.
        close_timeout: seconds that a socket that closes may stand still: none of what waits moves on,
            and the other side's half of the handshake does not come.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        *,
        max_message_size: int,
        backlog: int,
        close_timeout: float,
    ) -> None:
        self.backlog: int = backlog
        self.max_message_size: int = max_message_size
        self.poller: Poller = new_poller()
        self.rosters: dict[str, Roster] = {}
        self.deliver: Callable[[str, SocketEvent], bool]
        """Takes what comes for a room that sleeps, by its key; False asks to be spared for a while.

        The runtime sets it, before there is any socket.
        """
        self.sessions: Sessions
        """The runtime sets it, too."""
        self.users: Users
        """And this; it is asked for connections that have a user alone."""
        self.new_presence: Callable[..., Presence]
        """Makes what tells who is in a room; given its roster, and whether it has ``sessions``. The
        runtime's to set."""
        self.elsewhere: int = 0
        """Sockets that came, and that neither are watched nor belong to a room: a task has each of them."""
        self.far: int = 0
        """Connections whose sockets are at other nodes."""
        self.foreign: int = 0
        """Rosters here of rooms that are at home at other nodes."""
        self.abroad: Abroad | None = None
        """The cluster's to set."""
        self.guests: set[Link] = set()
        """See `LinkOwner`."""
        self.metrics: Metrics = Metrics()
        """See `LinkOwner`."""
        self.now: float = 0.0
        """See `LinkOwner`."""
        self.trace: Trace = Trace()
        """What happened lately."""
        self.activity: Activity = Activity(deadlines, self.trace)
        self.standstill: Standstill = Standstill()
        """Whether what rooms do goes to nobody for now, see `hold_output`."""
        self._postponements = Postponements(deadlines, self.standstill)
        self._sockets: list[SocketLink | None] = []
        self._watched: dict[int, Callable[[int], None]] = {}
        # Ids are not reused, not even by the next process, since states may remember them.
        self._serial = secrets.randbits(39)
        self._open = 0
        self._received = 0
        self._answered = 0
        self._sent = 0
        self._heard: Callable[[Link, int], None] | None = None
        """See `record`."""
        self.passed_in: int = 0
        """Of what is counted as received, that which rooms at other nodes have received, and count."""
        self.passed_out: int = 0
        """The same, of what is counted as sent."""
        self._read_size = _READ_SIZE
        self.timeouts: Timeouts = Timeouts(deadlines, self.poller, self._sockets)
        self._fan_out = FanOut(self._written, self._overflowing)
        self.closing: Closing = Closing(self, self._fan_out, self.timeouts, close_timeout)
        self._intake = Intake(max_message_size, self.timeouts.set, self.closing.slow_sender)
        self.keepalive: Keepalive = Keepalive(deadlines, self._sockets, self._look_at, self.connection_lost)
        self.relays: Relays = Relays(deadlines, self._fan_out)
        self.pacing: Pacing = Pacing(self.activity, self._postponements, self._fan_out)
        self.offer: Callable[[Link, bytes, Manner], None] = self.pacing.offer
        """See `LinkOwner`."""

    def statistics(self) -> HubStatistics:
        """What the hub holds and has done until now."""
        return HubStatistics(
            self._open,
            self.closing.count,
            len(self.rosters) - self.foreign,
            self._received - self.passed_in,
            self._answered,
            self._sent - self.passed_out + self.relays.sent + self.pacing.postponed - self.pacing.dropped,
            self.relays.relayed,
            self.relays.dropped,
            self.pacing.dropped,
            dict(self.closing.closes.counts),
        )

    # Coming and going.

    def roster(self, key: str, automatic: Automatic | None, *, greets: bool) -> Roster:
        """The connections of a room; a new record where there is none."""
        roster = self.rosters.get(key)
        if roster is None:
            roster = self.rosters[key] = Roster(self, key, automatic, greets=greets)
        return roster

    def forget(self, roster: Roster) -> None:
        """Drop the record of a room that sleeps and has no connections."""
        if roster.count or roster.inbox is not None or roster.departed or roster.jobs:
            return
        self.activity.all_quiet(roster)
        if self.rosters.get(roster.key) is roster:  # Else a newer one has its key.
            del self.rosters[roster.key]
            if roster.presence is not None:
                roster.presence.forgotten()

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

    @property
    def unwritten(self) -> int:
        """Rooms whose output is not all written yet."""
        return self._fan_out.rooms

    @property
    def held(self) -> int:
        """All connections that there are, from when they came until they are closed."""
        return self._open + self.closing.count + len(self._watched) + self.elsewhere

    def some_links(self, most: int) -> list[Link]:
        """A few of the connections, which need not be the same each time."""
        first = secrets.randbelow(max(len(self._sockets) - 2 * most, 0) + 1)
        found = [link for link in self._sockets[first : first + 2 * most] if link is not None]
        return [*found[:most], *islice(self.guests, most)]

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
        """Have the poller watch a descriptor, and make a place for its record."""
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
        begin: Callable[[Link], bool] | None = None,
        user: str | None = None,
        presence: bytes = b"",
    ) -> SocketLink:
        """Take a connected, non-blocking socket; it belongs to the hub from here on.

        Args:
            roster: the room that it goes to.
            fd: its descriptor, which nobody else has.
            attachment: what is known of it, as CBOR.
            flags: what it begins with, see `flags.opening_flags`.
            opening: what is sent before all else.
            begin: gives it its session, and sends the first message; returns whether it had it before.
            user: who its client is.
            presence: what those in its room are shown of it, as CBOR.

        Raises:
            OSError: it cannot be watched, and is closed.
        """
        if self._watched.pop(fd, None) is None:
            try:
                self._register(fd)
            except OSError:
                os.close(fd)
                self.forget(roster)  # Which may have been made for it.
                raise
        link = self._sockets[fd] = SocketLink(self.new_id(fd), roster, attachment, flags)
        link.user = user
        if presence and roster.presence is not None:
            roster.presence.given(link.id, presence)
        if opening:
            link.send(opening)
        resumed = begin is not None and begin(link)
        self.enter(link, resumed=resumed)
        self.keepalive.go()
        return link

    def enter(self, link: Link, *, resumed: bool = False) -> None:
        """Let a link into its room.

        Args:
            link: the connection.
            resumed: whether it goes on with a session that the room has met. A room that sleeps is
                not told.
        """
        roster = link.roster
        if link.session is None:
            roster.add(link)
        else:
            roster.come(link)
        self._open += 1
        if self.activity.on_change is not None:
            self.activity.on_change()
        if not resumed:
            if roster.greets:
                link.flags |= UNGREETED
                roster.ungreeted += 1
                self._deliver(roster, Connected(link))
            elif roster.inbox is not None:
                roster.inbox.post(Connected(link))  # Asleep, nobody would hear of it.
        elif roster.inbox is not None:
            roster.inbox.post(Resumed(link))
        awake = roster.inbox is not None
        self.trace.came(roster.key, link.id, trio.current_time(), awake=awake)
        if awake or link.user is not None:
            self.activity.use(link)  # Also where its room sleeps: who has just come is not away.
        if not link.flags & UNGREETED:
            if link.user is not None:
                self.users.entered(link)
            if roster.presence is not None:
                roster.presence.entered(link)

    def hold(self, link: Link) -> Replaying:
        """Let all that is sent to a connection wait until `let_go`, but for what is fed to this."""
        output = link.holding()
        if link.output is not None:
            output.follow(link.output)
        link.output = output
        return output

    def let_go(self, link: Link) -> None:
        """What has waited follows. A second call does nothing."""
        link.flags &= ~REPLAYING
        output = link.output
        if isinstance(output, Replaying):
            if output.end():
                link.output = None
                link.gone_out()
            link.attend()

    def close(self, link: Link, code: int, reason: str, *, report: bool = True) -> None:
        """See `Closing.close`."""
        self.closing.close(link, code, reason, report=report)

    def close_room(
        self, roster: Roster, code: int, reason: str, *, but: int = 0, ended: bool = False
    ) -> None:
        """See `Closing.close_room`."""
        self.closing.close_room(roster, code, reason, but=but, ended=ended)

    def slow_consumer(self, link: Link) -> None:
        """See `LinkOwner`."""
        self.closing.slow_consumer(link)
        if self.abroad is not None:
            self.abroad.left(link)

    def connection_lost(self, link: Link) -> None:
        """The other side is gone, with or without a closing handshake."""
        self.leave(link)
        self.ended(link, CloseCode.ABNORMAL, "the connection was lost", clean=False)
        link.abort()

    def release(self, link: Link) -> None:
        """Forget a link that has left its room, and close its descriptor. For each link once."""
        if isinstance(link, SocketLink):
            self._sockets[link.fd] = None
            self.poller.unregister(link.fd)
            os.close(link.fd)
        # Whoever still holds the record must not write to the next owner of its descriptor.
        link.flags |= GONE | RELEASED
        self.closing.gone(link)

    def leave(self, link: Link) -> None:
        """Take a link out of its room; once for each."""
        roster, met = link.roster, not link.flags & UNGREETED
        if roster.remove(link):
            if roster.presence is not None:
                roster.presence.left(link, met=met)
            self._open -= 1
            self.activity.left(link)
            self.trace.gone(roster.key, link.id, trio.current_time())
            self.closing.count += 1
            if link.user is not None:
                self.users.left(link)
            unfinished = link.unfinished
            if unfinished is None:
                return
            if isinstance(unfinished.output, Replaying):
                if not unfinished.output.fed:
                    unfinished.output.cut()
                self.let_go(link)  # The close frame is to follow what has waited.
            if unfinished.partial is not None:
                # Nobody will be handed it, however long the closing takes.
                unfinished.partial.forget()
                self._intake.gone(link)
            if unfinished.output is not None:
                unfinished.output.tell()

    def ended(self, link: Link, code: int, reason: str, *, clean: bool) -> None:
        """Say how a connection ended, once, unless nobody is to hear of it."""
        if link.flags & GONE:
            return
        link.flags |= GONE
        link.partial = None
        link.drop_postponed()
        self._intake.gone(link)
        told = not link.flags & UNREPORTED
        if told or link.flags & SESSION:
            # The room may have gone to sleep since the link left it, and its record with it.
            link.roster = self.rosters.setdefault(link.roster.key, link.roster)
            event = Disconnected(link, code, reason, clean)
            if link.flags & SESSION:
                self.sessions.left(event, told=told)
            else:
                self._deliver(link.roster, event)
        self.forget(link.roster)

    # In.

    def _deliver(self, roster: Roster, event: SocketEvent) -> bool:
        """Hand on what happened on a socket: into the mailbox of an awake room, or to whoever wakes it."""
        inbox = roster.inbox
        return inbox.post(event) if inbox is not None else self.deliver(roster.key, event)

    def data_received(self, link: Link, data: bytes) -> None:
        """Bytes came from a connection: hand on the messages in them, and answer what needs no room."""
        if link.flags & (DISCARD_INPUT | PINGED):
            link.flags &= ~PINGED
            if link.flags & DISCARD_INPUT:
                return
        began = perf_counter()
        unfinished = link.unfinished
        partial = None if unfinished is None else unfinished.partial
        received, partial = frames.parse(data, partial, self.max_message_size)
        if unfinished is not None or partial is not None:
            link.partial = partial
        if partial is not None and len(partial.payload) > SMALL and link.flags & CLOSING:
            partial.forget()
        elif partial is not None and len(partial.payload) > SMALL:
            # A ping in between is received, too, and changes nothing.
            new = any(isinstance(one, str | bytes) for one in received)
            self._intake.grown(link, len(partial.payload), new=new)
        elif self._intake.size:
            self._intake.gone(link)
        automatic = link.roster.automatic
        answers: list[bytes] = []
        size = 0
        for message in received:
            if isinstance(message, str | bytes):
                answer = None if automatic is None else self._answer_to(link, message, automatic)
                if answer is None:
                    if answers and (inbox := link.roster.inbox) is not None and inbox.eager is not None:
                        self._answer(
                            link, answers
                        )  # It may be handled now, and be the last that is answered.
                        answers, size = [], 0
                    if len(message) > _WEIGHED:
                        self._weigh(link, message)
                    self.take(link, message, began)
                    continue
                if isinstance(message, bytes) is not (link.flags & BINARY == BINARY):
                    link.flags ^= BINARY
                    if self.abroad is not None:
                        self.abroad.turned(link)
            elif isinstance(message, frames.Ping):
                answer = frames.encode_pong(message.payload)
                waits = link.output is not None or link.postponed is not None
                if waits and not link.flags & CLOSING:
                    self._answered += 1
                    link.send_control(answer)
                    continue
            elif isinstance(message, frames.Pong):
                continue
            else:
                self._answer(link, answers)  # Before the close frame, after which nothing may follow.
                self.message_received(link, message)
                return
            answers.append(answer)
            size += len(answer)
            if size > _JOINED:
                self._answer(link, answers)
                answers, size = [], 0
        self._answer(link, answers)
        took = perf_counter() - began
        if took > TURN:
            self._read_size = max(int(self._read_size * TURN / (2 * took)), _LEAST_READ)
        elif took < TURN / 4 and len(data) >= self._read_size < _READ_SIZE:
            self._read_size = min(2 * self._read_size, _READ_SIZE)

    def _answer(self, link: Link, answers: list[bytes]) -> None:
        """Send what answers a connection without its room, as one piece."""
        if answers and not link.flags & CLOSING:
            self._answered += len(answers)
            link.send(b"".join(answers))

    def message_received(self, link: Link, message: frames.Received) -> None:
        """A message, or another thing that frames carry, came from a connection."""
        if isinstance(message, str | bytes):
            self._weigh(link, message)
            self.take(link, message)
        elif isinstance(message, frames.Close):
            self.closing.closed_by_peer(link, message)
        elif isinstance(message, frames.Violation):
            self.closing.fail(link, message.code, message.reason)

    def _weigh(self, link: Link, message: str | bytes) -> None:
        """Say what a message takes to the room that it is for: others count by their number alone."""
        inbox = link.roster.inbox
        if inbox is not None and not link.flags & CLOSING:
            inbox.weigh(getsizeof(message))

    def take(self, link: Link, message: str | bytes, began: float = 0.0) -> None:
        """A message came from a connection.

        Args:
            link: the connection.
            message: what came.
            began: when the work on what came with it began, by `perf_counter`, if anything did.
        """
        flags = link.flags
        if flags & _SPECIAL:
            if flags & PINGED:
                flags = link.flags = flags & ~PINGED
            if flags & CLOSING or (flags & SESSION and self._is_acknowledgement(link, message)):
                return
        if (type(message) is bytes) is not (flags & BINARY == BINARY):
            link.flags = flags ^ BINARY
            if self.abroad is not None:
                self.abroad.turned(link)
        roster = link.roster
        event: SocketEvent = (link, message)
        if roster.automatic is not None:
            left = self._do_without_room(link, message, roster.automatic, began)
            if left is None:
                return
            event = left
        self._received += 1
        active = roster.active
        if active is not None and link in active:
            use, now = active[link], self.now
            if now - use.last >= APART:
                self.trace.used(roster.key, link.id, now, now - use.last)
            use.last = now
            use.count += 1
        else:
            self.trace.used(roster.key, link.id, self.now)
            self.activity.use(link)
        inbox = roster.inbox
        if inbox is None:
            goes_on = self.deliver(roster.key, event)
        elif (
            (eager := inbox.eager) is None
            or type(event) is not tuple
            or self._heard is not None  # Who records is told of it before whatever follows from it.
            or (began and perf_counter() - began > TURN)
        ):
            goes_on = inbox.post(event)
        else:
            goes_on = eager(event)
        if not goes_on:
            self._hold_back(link)

    def record(self, heard: Callable[[Link, int], None] | None) -> None:
        """Tell of each message that clients send to their rooms, and of its bytes; None: no more."""
        self._heard = heard
        # In place of the method, so that nobody looks for it with each message while nobody wants it.
        if heard is None:
            vars(self).pop("take", None)
        else:
            vars(self)["take"] = partial(self._take_and_tell, heard)

    def _take_and_tell(
        self, heard: Callable[[Link, int], None], link: Link, message: str | bytes, began: float = 0.0
    ) -> None:
        """Do as `take`, and tell of what went to a room."""
        before = self._received
        SocketHub.take(self, link, message, began)
        if self._received != before:
            heard(link, len(message if isinstance(message, bytes) else message.encode()))

    def _hold_back(self, link: Link) -> None:
        """Do not read from a connection until its room has caught up."""
        if link.flags & (PAUSED | GONE):
            return
        roster = link.roster
        if roster.paused is None:
            roster.paused = {}
        roster.paused[link] = None
        link.pause_reading()

    # What needs no room.

    def _answer_to(self, link: Link, message: str | bytes, automatic: Automatic) -> bytes | None:
        """What goes back to a connection at once for a message that needs no room."""
        answer = automatic.answers.get(message)
        if answer is not None or not automatic.echoes(message):
            return answer
        roster = link.roster
        # Where there are sessions it may be an acknowledgement, which is looked for later.
        if link.flags & SESSION or roster.jobs or (roster.inbox is not None and roster.inbox.busy_with(link)):
            return None
        return frames.encode_message(message)

    def _do_without_room(
        self, link: Link, message: str | bytes, automatic: Automatic, began: float
    ) -> SocketEvent | None:
        """Do what a message wants that needs no room; returns what its room is handed all the same.

        What its connection sent before is always done before it.
        """
        answer, roster = automatic.answers.get(message), link.roster
        if answer is not None:
            self._answered += 1
            link.send(answer)
            return None
        relay = automatic.relays(message)
        if not relay and not automatic.echoes(message):
            return link, message
        inbox = roster.inbox
        if relay:
            relays = self.relays
            if not relays.allow(link, automatic.rate):
                return None
            if inbox is not None and inbox.busy_with(link):
                return PassOn(link, message, relay)
            relays.send(link, frames.encode_message(message), began)
            return None
        behind = 0 if roster.jobs is None else len(roster.jobs)
        if inbox is not None and (inbox.busy_with(link) or behind):
            return PassOn(link, message, relay)
        self._answered += 1
        self.send_frame(link, frames.encode_message(message))
        if behind > MOST_BEHIND:
            self._hold_back(link)
        return None

    def _written(self, roster: Roster) -> None:
        """All output of a room that took long is written."""
        if roster.inbox is None:
            roster.resume_reading()
        self.forget(roster)

    def _is_acknowledgement(self, link: Link, message: str | bytes) -> bool:
        """Take a message of a client that says what it has, and nothing else: no room need hear of it."""
        if len(message) > _LONGEST_ACK or not (
            '"ack"' in message if isinstance(message, str) else b"cack" in message
        ):
            return False
        said = envelope.acknowledgement(message)
        if said is None:
            return False
        link.session = acknowledge(link.session, said.seq, link.roster.journal)
        if link.user is not None:
            self.users.acknowledged(link, said.seq)
        if said.id is not None and link.roster.inbox is not None:
            self.sessions.answered(link, said.id)
        if said.ping:
            self._answered += 1
            link.send(_PONG.frame(binary=isinstance(message, bytes)))
        return True

    # Out.

    def send(self, link: Link, message: Message) -> None:
        """Send to one connection; nothing where it is closing or gone."""
        self.send_frame(link, message.frame(binary=link.flags & BINARY == BINARY))

    def send_frame(self, link: Link, frame: bytes) -> None:
        """Send what is the same for all clients to one connection, as `send` does."""
        if link.flags & (CLOSING | GONE):
            return
        self._sent += 1
        roster = link.roster
        active = roster.active
        if active is not None and link in active:
            active[link].count += 1
        if roster.jobs:
            self._fan_out.do(roster, SendLater(link, frame))
        else:
            link.send(frame)

    def send_frames(self, link: Link, frames: list[bytes]) -> None:
        """Send several messages to one connection, as `send_frame` does each; to a socket in one write."""
        if isinstance(link, SocketLink) and len(frames) > 1:
            self._sent += len(frames) - 1
            self._count(link, len(frames) - 1)
            self.send_frame(link, b"".join(frames))
        else:
            for frame in frames:
                self.send_frame(link, frame)

    async def drained(self, link: Link) -> bool:
        """Wait until nothing of what was sent to a connection waits here; False where it ended before."""
        if link.roster.jobs:
            await self.caught_up(link.roster)
        link.send_postponed()
        await link.emptied()
        return not link.flags & (CLOSING | GONE)

    def send_in(self, link: Link, message: Message, manner: Manner) -> None:
        """Send to one connection, in a manner of its own; nothing where it is closing or gone."""
        self.send_frame_in(link, message.frame(binary=link.flags & BINARY == BINARY), manner)

    def send_frame_in(self, link: Link, frame: bytes, manner: Manner) -> None:
        """The same, with a frame in the kind that the client is spoken to in."""
        if not link.flags & (CLOSING | GONE):
            self._sent += 1
            self._count(link, 1)
            self._fan_out.do(link.roster, SendLater(link, frame, manner))

    def _count(self, link: Link, count: int) -> None:
        """Messages are sent to a connection alone: they keep it active, if they are many."""
        active = link.roster.active
        if active is not None and link in active:
            active[link].count += count

    def broadcast(
        self,
        roster: Roster,
        message: Message,
        channel: str | None = None,
        exclude: frozenset[int] = frozenset(),
        manner: Manner | None = None,
    ) -> None:
        """Send to all connections of a room or of one channel but those with some ids.

        The frame is encoded once. What takes long is written in slices, in order.

        Raises:
            TypeError, ValueError: the message has no form in a kind that is wanted; nobody got it.
        """
        links = roster.members(channel, exclude)
        if links:
            self.spread(roster, Broadcast(links, message, manner))
        else:
            message.frame(binary=True)  # What cannot be sent is an error also where nobody listens.

    def spread(self, roster: Roster, broadcast: Broadcast) -> None:
        """Write a message to those that it is for, behind what its room has still to send."""
        self._sent += len(broadcast.links)
        self._fan_out.do(roster, broadcast)

    def work(self, roster: Roster, job: Callable[[float], bool]) -> None:
        """Do a piece of output of a room, behind what it has still to send, see `FanOut.do`."""
        self._fan_out.do(roster, job)

    # Standing still.

    def hold_output(self) -> None:
        """Write nothing of what rooms do until `let_output_go`; it waits, in order, and nothing is lost.

        What needs no room goes on: pings, closes by the other side, automatic answers. To be called
        between any two steps, also in a signal handler.
        """
        self.standstill.begin()
        # In place of the method, which else does not ask.
        vars(self)["send_frame"] = self._send_frame_later
        self._fan_out.hold()

    def let_output_go(self) -> None:
        """Write what was held back, and go on."""
        vars(self).pop("send_frame", None)
        self._fan_out.let_go()
        self.standstill.end()

    def drop_output(self, roster: Roster) -> list[Callable[[float], bool]]:
        """Forget what a room has still to send, but for its closes; returns that."""
        dropped = []
        for job in self._fan_out.drop(roster):
            if self.closing.is_close(job):
                self._fan_out.do(roster, job)
            else:
                dropped.append(job)
        return dropped

    def _send_frame_later(self, link: Link, frame: bytes) -> None:
        """See `send_frame`."""
        if not link.flags & (CLOSING | GONE):
            self._sent += 1
            self._count(link, 1)
            self._fan_out.do(link.roster, SendLater(link, frame))

    def tell(self, link: Link, message: Message) -> None:
        """Send to one connection what no room says: also where all that rooms do is held back."""
        if not self.standstill.on:
            self.send(link, message)
        elif not link.flags & (CLOSING | GONE):
            link.send(message.frame(binary=link.flags & BINARY == BINARY))

    def turn_away(self, link: Link, code: int, reason: str) -> None:
        """Close a connection; where all that rooms do is held back, at once, and none of that goes to it."""
        if self.standstill.on:
            self.closing.close_now(link, code, reason)
        else:
            self.closing.close(link, code, reason)

    def _overflowing(self, roster: Roster) -> None:
        """Too much of a room is held back: its connections are closed, and may come again."""
        for link in roster.everybody():
            self.closing.close_now(link, CloseCode.TRY_AGAIN_LATER, "too much is waiting to be sent")
        self._fan_out.finish(roster)

    async def flow(self, roster: Roster) -> None:
        """Let what a room has to send be written for a turn; wait while it is held back."""
        jobs = roster.jobs
        if self.standstill.on:
            await self.standstill.over()
        elif jobs and isinstance(jobs[0], Stalled):
            await jobs[0].ended()
        else:
            await trio.lowlevel.checkpoint()

    def stall(self, roster: Roster) -> Stalled:
        """Write nothing more of a room behind what it has still to send, until somebody ends that."""
        return self._fan_out.stall(roster)

    async def caught_up(self, roster: Roster) -> None:
        """Wait until all is written that a room has still to send now."""
        reached = trio.Event()
        self._fan_out.do(roster, partial(_reach, reached))
        await reached.wait()

    def note_sent(self, count: int) -> None:
        """So many messages were sent by such a piece."""
        self._sent += count

    # The tasks.

    async def run(self) -> None:
        """Watch the sockets, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fan_out.run)
            nursery.start_soon(self._postponements.run)
            await self._watch()

    async def _watch(self) -> None:
        """Read and write whatever is ready, until cancelled.

        What nearly every event is, one whole message for a room that is awake, is read and posted in this
        loop itself, where each call would be a twentieth of all that is not the kernel's. Whatever is not
        quite so goes the careful way: `_read`, `_came`, `take`.
        """
        sockets, timeouts, poller, limit = self._sockets, self.timeouts, self.poller, self.max_message_size
        read, parse_one, current_time = os.read, frames.parse_one, trio.lowlevel.current_clock().current_time
        ready, size = poller.fileno(), _FIRST_READ
        while True:
            await trio.lowlevel.wait_readable(ready)
            now = self.now = current_time()
            unheard = self._heard is None
            pause_at: float | None = None
            for fd, events in poller.poll():
                # Between two sockets: most rounds have one, and do without these looks at the clock.
                if pause_at is None:
                    pause_at = 0.0
                elif not pause_at:
                    pause_at = perf_counter() + TURN
                elif perf_counter() > pause_at:
                    await trio.lowlevel.checkpoint()
                    now = self.now = current_time()
                    unheard = self._heard is None
                    pause_at = perf_counter() + TURN
                # A record that was released earlier in this round is None here, and one
                # that took over its number finds nothing to read.
                link = sockets[fd]
                if link is None:
                    watcher = self._watched.get(fd)
                    if watcher is not None:
                        watcher(fd)
                elif events == READ:
                    if link.unfinished is not None:
                        self._read(link, fd)
                        continue
                    try:
                        data = read(fd, size)
                    except OSError as error:
                        self._unreadable(link, error)
                        continue
                    if len(data) == size:
                        data += _read_more(fd, self._rest(data, size))
                        size = min(_LONGER_READ, self._read_size)
                    flags, roster = link.flags, link.roster
                    if (
                        flags & _CAREFUL
                        or not unheard
                        or (inbox := roster.inbox) is None
                        or (active := roster.active) is None
                        or (use := active.get(link)) is None
                        or now - use.last >= APART
                        or roster.automatic is not None
                        or (message := parse_one(data, limit)) is None
                        or (type(message) is bytes) is not (flags & BINARY == BINARY)
                    ):
                        self._came(link, data)
                        continue
                    self._received += 1
                    use.last = now
                    use.count += 1
                    if len(data) > _WEIGHED:
                        inbox.weigh(getsizeof(message))
                    eager, mail = inbox.eager, (link, message)
                    if not (inbox.post(mail) if eager is None else eager(mail)):
                        self._hold_back(link)
                else:
                    if events & WRITE:
                        link.flush()
                    if link.flags & PAUSED:
                        if events & ~(READ | WRITE):
                            self.connection_lost(link)  # Reset: what it had sent must not come in now.
                    elif events & ~WRITE:
                        self._read(link, fd)
            timeouts.rounds += 1
            if not timeouts.rounds % _FORGOTTEN:
                size = _FIRST_READ

    def _read(self, link: SocketLink, fd: int) -> None:
        """Read once from a socket, and hand on what came."""
        try:
            if link.unfinished is None:
                data = os.read(fd, _FIRST_READ)
                if len(data) == _FIRST_READ:
                    data += _read_more(fd, self._rest(data, _FIRST_READ))
            else:
                partial = link.partial
                wanted = 0 if partial is None or self._intake.short else partial.remaining
                data = os.read(fd, max(self._read_size, min(wanted, _LARGE_READ)))
        except OSError as error:
            self._unreadable(link, error)
        else:
            self._came(link, data)

    def _look_at(self, link: SocketLink, fd: int) -> None:
        """Read from a socket that nobody says is ready."""
        self.now = trio.current_time()
        self._read(link, fd)

    def _rest(self, data: bytes, size: int) -> int:
        """How much more to read after a first read that was full; a frame is little work, whatever it has."""
        if data[1] == frames.LONG:
            return _LARGE_READ
        return max(self._read_size + _FIRST_READ - size, 0)  # Less since the first read was made longer.

    def _unreadable(self, link: SocketLink, error: OSError) -> None:
        """Nothing could be read: there is nothing yet, or the connection is broken."""
        if not isinstance(error, BlockingIOError):
            self.connection_lost(link)

    def _came(self, link: SocketLink, data: bytes) -> None:
        """Hand on what was read."""
        if not data:
            self._end_of_input(link)
            return
        if link.unfinished is None and not link.flags & DISCARD_INPUT:
            message = frames.parse_one(data, self.max_message_size)
            if message is not None:
                if len(data) > _WEIGHED:
                    self._weigh(link, message)
                self.take(link, message)
                return
        self.data_received(link, data)

    def _end_of_input(self, link: SocketLink) -> None:
        """The other side sends nothing more; most have left then."""
        if link.flags & DISCARD_INPUT and link.output is not None:
            link.pause_reading()  # Its last was understood before: it reads on what waits for it.
        else:
            self.connection_lost(link)

    # The end.

    def stop_reading(self) -> None:
        """Leave what comes from now on in the kernel, even when a room has caught up."""
        self._intake.stop()
        for roster in self.rosters.values():
            roster.paused = None
        for link in self._all():
            if not link.flags & PAUSED:
                link.pause_reading()

    async def close_all(self, code: int, reason: str) -> None:
        """Close every connection, and wait until each is gone or the time is over, whoever still reads."""
        await self.closing.close_rooms(list(self.rosters.values()), code, reason)
        await self.closing.finish()
        for link in [*self._sockets, *self.guests]:
            if link is not None:
                link.abort()

    def dispose(self) -> None:
        """Close all that is left, and the poller."""
        for link in [*self._sockets, *self.guests]:
            if link is not None:
                self.leave(link)
                link.abort()
        self.poller.close()

    def _all(self) -> Iterable[Link]:
        """All links that are in a room."""
        return [link for roster in self.rosters.values() for link in roster.everybody()]


def _read_more(fd: int, size: int) -> bytes:
    """What else there is to read after a first read that was full."""
    try:
        return os.read(fd, size)
    except OSError:
        return b""  # Nothing more, or what the next read tells.


def _reach(reached: trio.Event, _: float) -> bool:
    """Say that all output before this is done."""
    reached.set()
    return True
