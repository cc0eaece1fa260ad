"""A program with rooms in it, which puts them to sleep when it is told to.

    python -m benchmarks.servers.sleepers DIRECTORY

A line on its standard input says which: ``sleep NAME FIRST END``, all at once the rooms ``NAME/FIRST`` up to
but not including ``NAME/END``. It answers with how many of them sleep then.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import trio

from benchmarks.servers.chat import rooms as definitions
from trio_rooms import DiskStore, Rooms, Stage, open_rooms

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


async def main(directory: Path) -> None:
    """Serve, and obey until the standard input ends."""
    async with open_rooms(definitions, store=DiskStore(directory)) as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        print(f"listening on {address}", flush=True)
        unread = b""
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
            async for chunk in commands:
                *lines, unread = (unread + chunk).split(b"\n")
                for line in lines:
                    _, name, first, end = line.decode().split()
                    print(await sleep(rooms, name, int(first), int(end)), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
