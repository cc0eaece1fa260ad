"""A program with rooms in it, which puts them to sleep when it is told to.

    python -m benchmarks.servers.sleepers DIRECTORY [python]

A line on its standard input says which: ``sleep NAME FIRST END``, all at once the rooms ``NAME/FIRST`` up to
but not including ``NAME/END``. It answers with how many of them sleep then. Asked for ``stops`` it says for
how many seconds the garbage collector has stopped it since it was last asked, at most and in all.

The collector has the thresholds that a server of the command has; or those of Python, where it is told so.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import trio

from benchmarks.servers.chat import rooms as definitions
from trio_rooms import DiskStore, Rooms, Stage, open_rooms
from trio_rooms._loop.collector import SERVER_THRESHOLDS

AT_ONCE: Final = 64
"""Rooms that are falling asleep at a time; a task for each of 10,000 would take half a second to start."""


async def sleep(rooms: Rooms, name: str, first: int, end: int) -> int:
    """Put rooms to sleep, as fast as they go; returns how many are asleep."""
    handles = [rooms.get(name, str(number)) for number in range(first, end)]
    waiting = iter(handles)

    async def tell() -> None:
        for handle in waiting:
            await handle.hibernate()

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(tell)
    return sum(handle.info().stage is Stage.ASLEEP for handle in handles)


class Stops:
    """How long the garbage collector has stopped the program."""

    def __init__(self) -> None:
        self._began = self._longest = self._all = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _: dict[str, Any]) -> None:
        now = perf_counter()
        if phase == "start":
            self._began = now
        else:
            self._longest = max(self._longest, now - self._began)
            self._all += now - self._began

    def told(self) -> str:
        """Since this was last asked, the longest of them and their sum, in seconds."""
        told = f"{self._longest} {self._all}"
        self._longest = self._all = 0.0
        return told


async def main(directory: Path, thresholds: tuple[int, int, int] | None) -> None:
    """Serve, and obey until the standard input ends."""
    stops = Stops()
    runtime = open_rooms(definitions, store=DiskStore(directory), gc_thresholds=thresholds)
    async with runtime as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        print(f"listening on {address}", flush=True)
        unread = b""
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
            async for chunk in commands:
                *lines, unread = (unread + chunk).split(b"\n")
                for line in lines:
                    match line.decode().split():
                        case ["sleep", name, first, end]:
                            print(await sleep(rooms, name, int(first), int(end)), flush=True)
                        case _:
                            print(stops.told(), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), None if sys.argv[2:] else SERVER_THRESHOLDS)
