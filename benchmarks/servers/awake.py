"""A program in which something waits for mail: awake rooms, or Trio tasks that have a channel each.

    python -m benchmarks.servers.awake ROOM DIRECTORY
    python -m benchmarks.servers.awake tasks

A number on its standard input is answered with ``done`` when there are so many of them, ``objects`` with how
many objects Python's garbage collector looks at.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from trio_rooms import Context, DiskStore, Room, open_rooms
from trio_rooms._loop.collector import SERVER_THRESHOLDS

__all__: list[str] = []


@attrs.define
class Nothing:
    """An empty state."""


waiting: Room[Nothing] = Room("waiting", state=Nothing, idle_timeout=math.inf)
sessionless: Room[Nothing] = Room("sessionless", state=Nothing, idle_timeout=math.inf, resume_window=0)


@waiting.on("wake")
@sessionless.on("wake")
async def wake(_: Context[Nothing], __: Any) -> None:
    """Do nothing."""


async def obey(make: Callable[[int], Awaitable[None]]) -> None:
    """Make what is asked for, until the standard input ends."""
    made, unread = 0, b""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
        async for chunk in commands:
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                if line == b"objects":
                    gc.collect()
                    print(len(gc.get_objects()), flush=True)
                    continue
                for number in range(made, int(line)):
                    await make(number)
                made = int(line)
                print("done", flush=True)


async def tasks() -> None:
    """Tasks, each with a memory channel of its own."""
    ends: list[trio.MemorySendChannel[None]] = []

    async def wait(channel: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in channel:
            pass

    async with trio.open_nursery() as nursery:

        async def make(_: int) -> None:
            send, receive = trio.open_memory_channel[None](100)
            ends.append(send)
            nursery.start_soon(wait, receive)

        await obey(make)
        nursery.cancel_scope.cancel()


async def rooms(name: str, directory: Path) -> None:
    """Rooms that have handled something, and are written."""
    served = [waiting, sessionless]
    async with open_rooms(served, store=DiskStore(directory), gc_thresholds=SERVER_THRESHOLDS) as opened:

        async def make(number: int) -> None:
            await opened.get(name, str(number)).ask("wake")

        await obey(make)


if __name__ == "__main__":
    if sys.argv[1] == "tasks":
        trio.run(tasks)
    else:
        trio.run(rooms, sys.argv[1], Path(sys.argv[2]))
