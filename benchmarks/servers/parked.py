"""A program with rooms whose clients, sessions and schedules wait.

    python -m benchmarks.servers.parked DIRECTORY

A line on its standard input is answered with a line: ``tell COUNT`` sends so many messages reliably to
whoever is in ``crowd/x``, ``sleep`` puts that room to sleep, ``schedule ROOMS EACH`` sets so many timers in
each of so many rooms for a day that will not come, and ``lag`` says how long a task that was ready had to
wait at most since this was asked last, in seconds.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from time import perf_counter, thread_time
from typing import Final

import trio

from trio_rooms import Context, DiskStore, Fire, Room, Rooms, Stage, open_rooms
from trio_rooms._loop.collector import SERVER_THRESHOLDS

__all__ = ["WINDOW"]

WINDOW: Final = 3600.0
"""Seconds that a session outlives its connection: longer than it takes to measure."""
_DISTANT: Final = 4e9
"""A time of day."""
_LOOK: Final = 0.001
_AT_ONCE: Final = 64

crowd: Room[None] = Room("crowd", idle_timeout=math.inf, resume_window=WINDOW)
timed: Room[None] = Room("timed", durability="commit", idle_timeout=1.0)


@crowd.on("echo")
async def emit_back(ctx: Context[None], data: str) -> None:
    """Send an event back as it came."""
    ctx.connection.emit("echo", data)


@timed.on("set")
async def set_timers(ctx: Context[None], count: int) -> None:
    """Set so many timers."""
    for number in range(count):
        ctx.room.schedule(f"timer:{number}", number, at=_DISTANT)


@timed.on_schedule("timer")
async def fired(_: Context[None], __: Fire[int]) -> None:
    """Do nothing."""


class Lag:
    """How long a task that is ready has to wait."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._held = 0.0

    async def watch(self) -> None:
        """Be ready a thousand times a second."""
        while True:
            due, spent = perf_counter() + _LOOK, thread_time()
            await trio.sleep(_LOOK)
            self._longest = max(self._longest, perf_counter() - due)
            self._held = max(self._held, thread_time() - spent)

    def told(self) -> float:
        """The longest since this was asked last, in seconds."""
        longest, self._longest = self._longest, 0.0
        return longest

    def held(self) -> float:
        """The same in processor time, which no other process has a part in."""
        held, self._held = self._held, 0.0
        return held


async def schedule(rooms: Rooms, count: int, each: int) -> None:
    """Set timers in many rooms."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await rooms.get("timed", str(number)).ask("set", each)

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(work)


async def obey(rooms: Rooms, lag: Lag, line: str) -> object:
    """Do what a line says; returns what to answer."""
    room = rooms.get("crowd", "x")
    match line.split():
        case ["tell", count]:
            for number in range(int(count)):
                await room.emit_durably("told", number)
        case ["sleep"]:
            await room.hibernate()
            return room.info().stage is Stage.ASLEEP
        case ["schedule", count, each]:
            await schedule(rooms, int(count), int(each))
        case ["lag"]:
            return lag.told()
    return "done"


async def main(directory: Path) -> None:
    """Serve, and obey until the standard input ends."""
    lag = Lag()
    runtime = open_rooms([crowd, timed], store=DiskStore(directory), gc_thresholds=SERVER_THRESHOLDS)
    async with runtime as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        nursery.start_soon(lag.watch)
        print(f"listening on {address}", flush=True)
        unread = b""
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
            async for chunk in commands:
                *lines, unread = (unread + chunk).split(b"\n")
                for line in lines:
                    print(await obey(rooms, lag, line.decode()), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
