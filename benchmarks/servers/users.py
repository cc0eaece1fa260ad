"""A program with users whose connections hibernate, or who are away.

    python -m benchmarks.servers.users DIRECTORY FLUSH_AFTER

A line on its standard input is answered with a line:

    wake ROOM                       ROOM/x wakes
    emit ROOM COUNT                 so many events to all in ROOM/x
    send USERS PRIORITY [volatile]  an event to each of so many users, in rooms of their own, ``home/USER``
    sleep USERS                     those of these rooms fall asleep that are awake
    wakes                           how often rooms have been woken
    fill NAME USERS EACH TTL        so many events to each of so many users, NAME0 and on, for so many
                                    seconds from the beginning; how long it took
    expired                         how many messages have expired
    lag                             how long a task that was ready had to wait since this was asked last
    held                            the same in processor time
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal, cast

import trio

from benchmarks.servers.parked import Lag
from trio_rooms import Admitted, ConnectRequest, Context, DiskStore, Room, Rooms, Stage, open_rooms
from trio_rooms._loop.collector import SERVER_THRESHOLDS

__all__ = ["GATHERED", "PAYLOAD"]

GATHERED: Final = 0.05
"""Seconds for which broadcasts are gathered, where they are."""
PAYLOAD: Final = "x" * 64
_AT_ONCE: Final = 64
_CALLERS: Final = 1000

probe: Room[None] = Room("probe", idle_timeout=math.inf)
active: Room[None] = Room("active", idle_timeout=math.inf, connection_idle_timeout=math.inf)
awake: Room[None] = Room("awake", idle_timeout=math.inf, connection_idle_timeout=0)
parked: Room[None] = Room("parked")
gathered: Room[None] = Room("gathered", batch_window=GATHERED)
# Who has just come counts as active for its time: here none.
home: Room[None] = Room("home", idle_timeout=math.inf, wakes=True, connection_idle_timeout=0)


@probe.on_message
async def send_back(ctx: Context[None], message: str | bytes) -> None:
    """Send a message back as it came."""
    ctx.connection.send(message)


@active.on("hello")
@awake.on("hello")
@parked.on("hello")
@gathered.on("hello")
@home.on("hello")
async def hello(_: Context[None]) -> None:
    """Be awake."""


@home.authenticate
async def who(request: ConnectRequest) -> Admitted:
    """Who has a room of its own is known by its id."""
    return Admitted(user=request.id)


class Program:
    """What does what it is told."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._lag = Lag()
        self._asked = trio.Event()

    async def watch(self) -> None:
        """See how long who is ready has to wait, once somebody has asked: it takes time itself."""
        await self._asked.wait()
        await self._lag.watch()

    async def obey(self, line: str) -> object:
        """Do what a line says; returns what to answer."""
        match line.split():
            case ["wake", name]:
                await self._rooms.get(name, "x").ask("hello")
            case ["emit", name, count]:
                room = self._rooms.get(name, "x")
                for _ in range(int(count)):
                    room.emit("echo", PAYLOAD)
            case ["send", users, priority, *volatile]:
                await self._send(int(users), priority, volatile=bool(volatile))
            case ["sleep", users]:
                await self._sleep(int(users))
            case ["wakes"]:
                return self._rooms.statistics().supervisor.wakes
            case ["fill", name, users, each, ttl]:
                return await self._fill(name, int(users), int(each), float(ttl))
            case ["expired"]:
                return self._rooms.statistics().users.expired
            case ["lag"]:
                self._asked.set()
                return self._lag.told()
            case ["held"]:
                self._asked.set()
                return self._lag.held()
        return "done"

    async def _send(self, users: int, priority: str, *, volatile: bool) -> None:
        wanted = cast("Literal['high', 'normal', 'low']", priority)

        async def send(number: int) -> None:
            user = self._rooms.user(str(number))
            await user.send("echo", PAYLOAD, priority=wanted, volatile=volatile)

        await _each(range(users), _CALLERS, send)

    async def _sleep(self, users: int) -> None:
        async def sleep(number: int) -> None:
            room = self._rooms.get("home", str(number))
            if room.info().stage is not Stage.ASLEEP:
                await room.hibernate()

        await _each(range(users), _AT_ONCE, sleep)

    async def _fill(self, name: str, users: int, each: int, ttl: float) -> float:
        began = perf_counter()
        until = began + ttl

        async def send(number: int) -> None:
            user = self._rooms.user(f"{name}{number}")
            for _ in range(each):
                await user.send("echo", PAYLOAD, ttl=max(until - perf_counter(), 0.001))

        await _each(range(users), _CALLERS, send)
        return perf_counter() - began


async def _each(numbers: range, at_once: int, do: Any) -> None:
    """Do something for each number, some at a time."""
    waiting: Iterator[int] = iter(numbers)

    async def work() -> None:
        for number in waiting:
            await do(number)

    async with trio.open_nursery() as nursery:
        for _ in range(min(at_once, len(numbers))):
            nursery.start_soon(work)


async def main(directory: Path, flush_after: float) -> None:
    """Serve, and obey until the standard input ends."""
    home.configure(flush_after=flush_after)
    definitions = [probe, active, awake, parked, gathered, home]
    runtime = open_rooms(definitions, store=DiskStore(directory), gc_thresholds=SERVER_THRESHOLDS)
    async with runtime as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        program = Program(rooms)
        nursery.start_soon(program.watch)
        print(f"listening on {address}", flush=True)
        unread = b""
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
            async for chunk in commands:
                *lines, unread = (unread + chunk).split(b"\n")
                for line in lines:
                    print(await program.obey(line.decode()), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), float(sys.argv[2]))
