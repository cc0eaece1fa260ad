"""Connections whose socket another node holds, and what is sent to them: once for all at that node."""

from __future__ import annotations

import itertools
from array import array
from collections import deque
from collections.abc import Callable
from typing import Final

import cbor2
import trio

from trio_rooms._sockets.fanout import Stalled
from trio_rooms._sockets.flags import CLOSING, GONE, PAUSED, RELEASED
from trio_rooms._sockets.replaying import Replaying
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._wire import frames

from .kinds import ABORT, CLOSE, DRAIN, FRAMES, PAUSE
from .lanes import FULL, Lane

__all__ = ["LONG", "Door", "FarLink", "FarOutput", "Lists", "Outbound"]

LONG: Final = 16
"""Sockets from which on a list is remembered at both ends."""
_LISTS: Final = 64
"""Lists that are, in each direction of a lane."""
_RUNS: Final = 64
"""Frames that are gathered at most,"""
_GATHERED: Final = 256 * 1024
"""and bytes of them."""
_WRITE: Final = 64
"""Bytes that a socket counts as to which a frame is to be written: what else it costs is work."""
_MOST_WAITING: Final = 64 * 1024 * 1024
"""Bytes that may wait for a lane in which there is much already: a frame of each room."""
_TICKS: Final = itertools.count(1)


class Lists:
    """The last long lists of sockets that went through a lane: the same at both ends."""

    __slots__ = ("_lists",)

    def __init__(self) -> None:
        self._lists: dict[tuple[int, int], array[int]] = {}

    def get(self, uplink: int, first: int) -> array[int] | None:
        """The last list of an uplink that begins with a number."""
        return self._lists.get((uplink, first))

    def keep(self, uplink: int, numbers: array[int]) -> None:
        """Remember a list, and forget the one that was remembered first where there are too many."""
        lists = self._lists
        key = (uplink, numbers[0])
        lists.pop(key, None)
        lists[key] = numbers
        if len(lists) > _LISTS:
            del lists[next(iter(lists))]


class _Run:
    """A frame, and who gets it so far."""

    __slots__ = ("door", "frame", "numbers", "serial")

    def __init__(self, door: Door, frame: bytes, serial: int) -> None:
        self.door = door
        self.frame = frame
        self.numbers: list[int] = []
        self.serial = serial


class Outbound:
    """Gathers what is sent to the sockets at one gateway: a frame for many of a room goes once.

    Where the gateway writes more slowly than rooms send, those have to wait, as they would for their own
    sockets; unless nothing is heard of it at all. What each of them has sent in the moment of that waits
    here, so that a burst of many rooms is not too much for the lane.

    Args:
        lane: the lane to it.
        stall: has a room wait behind what it has sent.
    """

    __slots__ = (
        "_by_frame",
        "_lane",
        "_lists",
        "_runs",
        "_serial",
        "_size",
        "_stall",
        "_stalled",
        "_waiting",
        "_waiting_size",
    )

    def __init__(self, lane: Lane, stall: Callable[[Roster], Stalled]) -> None:
        self._lane = lane
        self._stall = stall
        self._stalled: dict[Roster, Stalled] = {}
        self._lists = Lists()
        self._runs: list[_Run] = []
        self._by_frame: dict[int, _Run] = {}
        self._size = 0
        self._serial = 0
        self._waiting: deque[_Run | tuple[int | str, ...]] = deque()
        """What goes into the lane when less waits there."""
        self._waiting_size = 0

    def post(self, *message: int | str) -> None:
        """Send something else about a connection, behind what that was sent."""
        self.flush()
        if self._waiting:
            self._waiting.append(message)
        else:
            self._lane.post(*message)

    def send(self, link: FarLink, frame: bytes) -> None:
        """Send a frame to one connection, behind what it was sent before."""
        run = self._by_frame.get(id(frame))
        # Runs go in the order in which they began: nobody gets into one who is in a later one.
        if run is None or link.run > run.serial or run.door is not link.door:
            run = self._begin(link, frame)
        run.numbers.append(link.number)
        link.run = run.serial

    def _begin(self, link: FarLink, frame: bytes) -> _Run:
        if not self._runs:
            self._lane.gather(self.flush)
        elif len(self._runs) >= _RUNS or self._size > _GATHERED:
            self.flush()
            self._lane.gather(self.flush)
        self._serial += 1
        run = _Run(link.door, frame, self._serial)
        self._runs.append(run)
        self._by_frame[id(frame)] = run
        self._size += len(frame)
        roster = link.roster
        if self._full and roster not in self._stalled:
            self._lane.strained = True
            self._stalled[roster] = self._stall(roster)
        return run

    @property
    def _full(self) -> bool:
        """Whether nothing more is to go into the lane now."""
        return bool(self._waiting) or (self._lane.load > FULL and not self._lane.silent)

    def flush(self) -> None:
        """Nothing else joins what was gathered."""
        runs, self._runs = self._runs, []
        self._by_frame.clear()
        self._size = 0
        for run in runs:
            if self._full:
                self._wait(run)
            else:
                self._put(run)

    def _wait(self, run: _Run) -> None:
        """Keep a frame until less waits in the lane."""
        self._lane.strained = True
        self._waiting.append(run)
        self._waiting_size += len(run.frame)
        if self._waiting_size > _MOST_WAITING:
            self._lane.fail(f"more than {_MOST_WAITING:,} bytes wait for it")

    def _put(self, run: _Run) -> None:
        uplink, numbers = run.door.uplink, run.numbers
        to: int | bytes | tuple[int] = numbers[0]
        if len(numbers) > 1:
            packed = array("Q", numbers)
            to = packed.tobytes()
            if len(numbers) >= LONG:
                if self._lists.get(uplink, numbers[0]) == packed:
                    to = (numbers[0],)
                else:
                    self._lists.keep(uplink, packed)
        self._lane.put(cbor2.dumps((FRAMES, uplink, to, run.frame)), _WRITE * len(numbers))

    def go_on(self) -> None:
        """Little waits in the lane, or nobody is to wait for it: what waits here follows, and rooms go on."""
        waiting, lane = self._waiting, self._lane
        while waiting and (lane.over or lane.silent or lane.load <= FULL):
            one = waiting.popleft()
            if isinstance(one, _Run):
                self._waiting_size -= len(one.frame)
                self._put(one)
            else:
                lane.post(*one)
        if waiting:
            lane.strained = True
            return
        stalled, self._stalled = self._stalled, {}
        for room in stalled.values():
            room.end()


class Door:
    """The connections of one room whose sockets one gateway holds.

    Args:
        lane: the lane to it.
        outbound: what gathers.
        uplink: the gateway's number for it.
        key: the room.
    """

    __slots__ = ("coming", "key", "lane", "links", "outbound", "over", "uplink")

    def __init__(
        self, lane: Lane, outbound: Outbound, uplink: int, key: str, over: Callable[[FarLink], None]
    ) -> None:
        self.lane: Lane = lane
        self.outbound: Outbound = outbound
        self.uplink: int = uplink
        self.key: str = key
        self.links: dict[int, FarLink] = {}
        """By their numbers at the gateway."""
        self.coming: int = 0
        """Connections whose session is looked up."""
        self.over: Callable[[FarLink], None] = over
        """Told of each that is released."""


class FarLink(Link):
    """A connection whose socket is at another node.

    What is sent to it goes there at once, and waits there, where the bounds are those of any socket.

    Args:
        number: its id.
        roster: its room.
        attachment: what is known of it.
        flags: what it begins with.
        door: where it goes.
        far: its number at the gateway.
    """

    __slots__ = ("door", "number", "run")
    joins = False
    far = True

    def __init__(
        self, number: int, roster: Roster, attachment: bytes | None, flags: int, door: Door, far: int
    ) -> None:
        super().__init__(number, roster, attachment, flags)
        self.door: Door = door
        self.number: int = far
        self.run: int = 0
        """The last run of frames that it is in, see `Outbound`."""

    def send(self, frame: bytes) -> None:
        unfinished = self.unfinished
        if unfinished is None:
            self.door.outbound.send(self, frame)
        elif unfinished.postponed is not None:
            self.send_postponed(frame)
        elif unfinished.output is None:
            self.door.outbound.send(self, frame)
        elif not unfinished.output.add(frame, self.roster.hub.backlog):
            unfinished.output.cut()
            self.roster.hub.slow_consumer(self)

    def send_control(self, frame: bytes) -> None:
        """Send a close frame; pings are the gateway's."""
        close = frames.decode_close(frame)
        self.door.outbound.post(CLOSE, self.door.uplink, self.number, close.code, close.reason)

    @property
    def slow(self) -> bool:
        output = self.output
        return isinstance(output, FarOutput) and (output.slow or output.holds)

    def holding(self) -> Replaying:
        return FarOutput(self, holds=True)

    def became(self, *, slow: bool) -> None:
        """Its socket does not take what it is sent, or does again."""
        output = self.output
        if slow and output is None:
            output = self.output = FarOutput(self, holds=False)
        if isinstance(output, FarOutput):
            output.slow = slow
            self.settle()

    def settle(self) -> None:
        """Let go of the output, if it is of no use any more."""
        output = self.output
        if isinstance(output, FarOutput) and output.idle:
            self.output = None
            output.tell()
            self.gone_out()

    async def emptied(self) -> None:
        if self.flags & (CLOSING | GONE):
            await trio.lowlevel.checkpoint()
            return
        output = self.output
        if not isinstance(output, FarOutput):
            output = self.output = FarOutput(self, holds=False)
        await output.emptied()

    @property
    def in_flight(self) -> int:
        # The gateway leads the handshake and says how it has ended; what moves there is not known here.
        return next(_TICKS)

    def send_eof(self) -> None:
        """The gateway does that."""

    def abort(self) -> None:
        if self.flags & RELEASED:
            return
        door = self.door
        if door.links.pop(self.number, None) is not None:
            door.outbound.post(ABORT, door.uplink, self.number)
        self.output = None
        self.roster.hub.release(self)
        door.over(self)

    def attend(self) -> None:
        """All has gone to the gateway already."""

    def pause_reading(self) -> None:
        self.flags |= PAUSED
        self.door.lane.post(PAUSE, self.door.uplink, self.number, True)

    def resume_reading(self) -> None:
        self.flags &= ~PAUSED
        self.door.lane.post(PAUSE, self.door.uplink, self.number, False)


class FarOutput(Replaying):
    """What is known of output that is at the gateway; there is one only while something is.

    Args:
        link: whose.
        holds: whether what is sent waits here until `end`.
    """

    __slots__ = ("_answered", "_asked", "_link", "_news", "_waiting", "slow")

    def __init__(self, link: FarLink, *, holds: bool) -> None:
        super().__init__(link.attend)
        self._link = link
        self._over = not holds
        self._asked = 0
        self._answered = 0
        self._waiting = 0
        self._news = trio.Event()
        self.slow: bool = False
        """Whether the socket does not take what it is sent."""

    @property
    def holds(self) -> bool:
        """Whether what is sent waits here."""
        return not self._over

    @property
    def idle(self) -> bool:
        return self._over and not (self.slow or self._waiting or self._asked > self._answered)

    def follow(self, output: object) -> None:
        """Begin with what is known already."""
        if isinstance(output, FarOutput):
            self.slow = output.slow

    def add(self, frame: bytes, limit: int) -> bool:
        if self.holds:
            return super().add(frame, limit)
        self._forward(frame)
        return True

    def _forward(self, frame: bytes) -> None:
        self._link.door.outbound.send(self._link, frame)

    def cut(self, *, begun: bool = False) -> None:  # noqa: ARG002 (nothing is half sent here)
        self._held.clear()
        self._held_size = self.size = 0
        self._over = True

    def feed(self, frame: bytes) -> None:
        self.fed = True
        self._forward(frame)

    def end(self) -> bool:
        self._over = True
        for frame in self._held:
            self._forward(frame)
        self._held.clear()
        self._held_size = self.size = 0
        self._wake()
        return self.idle

    async def written(self) -> None:
        """Wait until all that was sent to the gateway is written there, or nobody waits for that any more."""
        link = self._link
        if link.flags & (CLOSING | GONE):
            await trio.lowlevel.checkpoint()
            return
        self._asked += 1
        asked = self._asked
        link.door.outbound.post(DRAIN, link.door.uplink, link.number, asked)
        while self._answered < asked:
            await self._news.wait()

    async def emptied(self) -> None:
        self._waiting += 1
        try:
            while self.holds:
                await self._news.wait()
            await self.written()
        finally:
            self._waiting -= 1
            self._link.settle()

    def answered(self, number: int) -> None:
        """The gateway has written all that it was sent before a question."""
        self._answered = max(self._answered, min(number, self._asked))
        self._wake()
        self._link.settle()

    def tell(self) -> None:
        self._answered = self._asked
        self._over = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()
