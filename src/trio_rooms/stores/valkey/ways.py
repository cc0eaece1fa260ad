"""Which connection a write takes, where a store has several.

A server reads little of one connection at a time, and syncs what it has read: over several more is synced at
once. What is about the same room, or the same user, takes the same one as long as any of it is on its way, so
that it takes effect in the order in which it was handed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zlib import crc32

import attrs
import trio

from trio_rooms._valkey import Argument
from trio_rooms.stores.base import StoreStatistics

from .writes import Write, Writes

__all__ = ["Ways"]


@attrs.define(eq=False)
class Ways:
    """Hands each write to one of several lines.

    Args:
        lines: what is on its way over each connection.
        patience: seconds that a write waits for one.
    """

    _lines: tuple[Writes, ...]
    _patience: float
    _busy: dict[bytes, list[int]] = attrs.field(factory=dict, init=False)
    """Of what is on its way: the number of its line, and how many are."""
    _held: deque[Write] = attrs.field(factory=deque, init=False)
    """Those that are about things on different lines, and all that came behind them."""
    _refused: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        """Hear of what has become of each."""
        for line in self._lines:
            line.settled = self._settled

    def line_of(self, about: bytes) -> int:
        """The number of the line on which what is said of something comes behind what was said before."""
        busy = self._busy.get(about)
        return crc32(about) % len(self._lines) if busy is None else busy[0]

    async def write(
        self,
        about: Iterable[bytes],
        function: str,
        arguments: Sequence[Argument],
        judge: Callable[[Any], Any],
    ) -> Any:
        """Hand something over, and wait for what becomes of it. Cancelled, it is carried out all the same.

        Args:
            about: which rooms and users.
            function: the name of a function in the library.
            arguments: its arguments.
            judge: is given the answer; what it returns is returned here.

        Raises:
            StoreError: what the judge has raised; or it is not known.
        """
        until = trio.current_time() + self._patience
        write = Write(function, arguments, judge, until, tuple(about), trio.lowlevel.current_task())
        self._held.append(write)
        if len(self._held) == 1:
            self._go_on()

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            write.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def _go_on(self) -> None:
        """Hand over what does not have to wait for anything on another line."""
        busy = self._busy
        while self._held:
            write = self._held[0]
            line = -1
            for about in write.about:
                there = busy.get(about)
                if there is None or there[0] == line:
                    continue
                if line >= 0:
                    return
                line = there[0]
            if line < 0:
                line = crc32(write.about[0]) % len(self._lines) if write.about else 0
            for about in write.about:
                there = busy.get(about)
                if there is None:
                    busy[about] = [line, 1]
                else:
                    there[1] += 1
            self._held.popleft()
            self._lines[line].hand_over(write)

    def _settled(self, write: Write) -> None:
        for about in write.about:
            there = self._busy[about]
            there[1] -= 1
            if not there[1]:
                del self._busy[about]
        if self._held:
            self._go_on()

    def refuse(self) -> None:
        """Count one that was refused before it was handed over."""
        self._refused += 1

    def statistics(self) -> StoreStatistics:
        """What has become of all; a piece that is sent at once counts as one transaction."""
        lines = self._lines
        return StoreStatistics(
            commits=sum(line.commits for line in lines),
            transactions=sum(line.transactions for line in lines),
            failures=self._refused + sum(line.failures for line in lines),
            pending=len(self._held) + sum(line.pending for line in lines),
        )

    async def drain(self) -> None:
        """Wait until nothing is on its way any more: `patience`, or as long as the server is silent."""
        while any(line.pending for line in self._lines):
            for line in self._lines:
                await line.drain()
