"""Output that waits at a hibernated connection, or at one that is slow, until there is a reason to write it.

It goes before anything else that is written to the connection, in one write with that; or when the
connection becomes active; or when its time has come. Control frames overtake it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from functools import partial
from time import perf_counter
from typing import Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.standstill import Standstill
from trio_rooms._loop.turn import TURN

__all__ = ["Entry", "Postponed", "Postponements"]

_MOST: Final = 256
"""Frames that wait for one connection, at most."""
_MOST_BYTES: Final = 64 * 1024
"""Bytes of them, with what each takes beside its content."""
_FRAME: Final = 64
_FEW: Final = 16
"""Connections written to between two looks at the clock."""

Entry = tuple[bytes, Hashable, Callable[[], object] | None]
"""A frame, what it is the newest of or None, and who is told when it is written; the same for many."""


class UnderWay(Protocol):
    """What is under way on a connection."""

    postponed: Postponed | None


class Writable(Protocol):
    """What is asked of a connection."""

    postponed: Postponed | None

    @property
    def unfinished(self) -> UnderWay | None:
        """What is under way on it."""

    def send_postponed(self) -> None:
        """Write what was postponed, if anything was."""


class Postponed:
    """What was postponed on one connection; there is one only while something is."""

    __slots__ = ("behind", "delay", "due", "entries", "queue", "size")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.size: int = 0
        self.behind: bool = False
        """Whether it is written as soon as what is under way has gone out."""
        self.due: float = 0.0
        """When it is written at the latest, if it is in a queue; that of this ``delay``."""
        self.delay: float = 0.0
        self.queue: OrderedDict[Writable, Postponed] | None = None

    def put(self, entry: Entry) -> bool:
        """Add a frame, instead of one with the same key; False where there is too much now."""
        entries = self.entries
        if entry[1] is not None:
            self.forget(entry[1])
        entries.append(entry)
        self.size += len(entry[0]) + _FRAME
        return len(entries) <= _MOST and self.size <= _MOST_BYTES

    def forget(self, key: Hashable) -> None:
        """Something newer is sent than what has this key; nothing where that is None."""
        if key is None:
            return
        for at, one in enumerate(self.entries):
            if one[1] == key:
                self.size -= len(one[0]) + _FRAME
                del self.entries[at]
                return

    def taken(self, link: Writable) -> list[bytes]:
        """It is written now: wait for nothing more. Returns the frames."""
        if self.queue is not None:
            self.queue.pop(link, None)
            self.queue = None
        return [entry[0] for entry in self.entries]

    def tell(self) -> None:
        """It was written: tell those who want to know."""
        for _, _, done in self.entries:
            if done is not None:
                done()


class Postponements:
    """Has written what waited for long enough: one deadline for all that wait equally long.

    Args:
        deadlines: those of the runtime.
        standstill: while it is on, nothing is written.
    """

    __slots__ = ("_deadlines", "_due", "_more", "_queues", "_standstill")

    def __init__(self, deadlines: Deadlines, standstill: Standstill | None = None) -> None:
        self._deadlines = deadlines
        self._standstill = standstill or Standstill()
        self._due: deque[float] = deque()
        """The delays of those that are being written."""
        self._more = trio.Event()
        self._queues: dict[float, OrderedDict[Writable, Postponed]] = {}

    def add(self, link: Writable, entry: Entry, delay: float | None) -> None:
        """Postpone a frame.

        Args:
            link: the connection.
            entry: what is written.
            delay: seconds after which it is written at the latest; None for as soon as what is under way
                on the connection has gone out.
        """
        unfinished = link.unfinished
        postponed = None if unfinished is None else unfinished.postponed
        if postponed is None:
            postponed = link.postponed = Postponed()
        if not postponed.put(entry):
            link.send_postponed()
        elif delay is None:
            postponed.behind = True
        elif postponed.queue is None or delay < postponed.delay:
            due = trio.current_time() + delay
            if postponed.queue is None or due < postponed.due:
                self._queue(link, postponed, delay, due)

    def _queue(self, link: Writable, postponed: Postponed, delay: float, due: float) -> None:
        """Have it written at a time, and not later."""
        if postponed.queue is not None:
            del postponed.queue[link]
        queue = self._queues.get(delay)
        if queue is None:
            queue = self._queues[delay] = OrderedDict()
            self._deadlines.set(due, partial(self._is_due, delay))
        postponed.due, postponed.delay, postponed.queue = due, delay, queue
        queue[link] = postponed

    def _is_due(self, delay: float) -> None:
        """The first of a queue has waited for long enough."""
        self._due.append(delay)
        self._more.set()

    @enable_ki_protection
    async def run(self) -> None:
        """Write to those whose time has come, until cancelled."""
        while True:
            if not self._due:
                self._more = trio.Event()
                await self._more.wait()
            await self._standstill.over()
            delay = self._due.popleft()
            if self._write(self._queues[delay]):
                del self._queues[delay]
            elif (first := next(iter(self._queues[delay].values())).due) > trio.current_time():
                self._deadlines.set(first, partial(self._is_due, delay))
            else:
                self._due.append(delay)
            await trio.lowlevel.checkpoint()

    def _write(self, queue: OrderedDict[Writable, Postponed]) -> bool:
        """Write to some of a queue; whether it is empty then."""
        now, until = trio.current_time(), perf_counter() + TURN
        written = 0
        while queue:
            link, postponed = next(iter(queue.items()))
            if postponed.due > now:
                return False
            link.send_postponed()
            written += 1
            if written % _FEW == 0 and perf_counter() > until:
                break
        return not queue
