"""Callers of a server of Valkey: our engine and our store, and a loop that does nothing else.

    python -m benchmarks.peers.engines KIND URL

A line on its standard input is ``alone CALL SECONDS`` (one call after another), ``together CALL TASKS
SECONDS`` (so many at any time), or ``fill BYTES SESSIONS ROOMS`` (rooms that sleep, with a state of so many
bytes and so many sessions each). It answers with a line of JSON: how long each took, how many calls in how
many seconds, or how many rooms there are.
"""

from __future__ import annotations

import abc
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

import hiredis
import trio

from trio_rooms._valkey import Durability
from trio_rooms.engines import Valkey
from trio_rooms.stores import Commit, LinkHalf, Opening, RoomHalf, ValkeyStore

DOCUMENT: Final = 4096
"""Bytes of a state."""
MESSAGE: Final = 200
"""Bytes of a message to another node."""
ROOMS: Final = 1000
"""Rooms that are written in turn."""
WEEK: Final = 7 * 86_400.0


class Caller(abc.ABC):
    """Makes calls of three kinds."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.number = 0
        self.document = os.urandom(DOCUMENT)
        self.message = os.urandom(MESSAGE)

    @abc.abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @abc.abstractmethod
    async def alone(self, call: str, seconds: float) -> list[float]:
        """How long each took."""

    @abc.abstractmethod
    async def together(self, call: str, tasks: int, seconds: float) -> tuple[int, float]:
        """How many calls, in how many seconds."""


class Ours(Caller):
    """The engine, and the store as a node alone opens it, which commits as one of many does."""

    durability: Durability = "always"

    async def open(self) -> None:
        """See `Caller`."""
        self.store = ValkeyStore(self.url, durability=self.durability)
        self.engine = Valkey(self.url, durability=self.durability)
        self.numbers: dict[str, int] = {}
        await self.store.open()
        await self.engine.open()

    async def close(self) -> None:
        """See `Caller`."""
        await self.engine.aclose()
        await self.store.aclose()

    async def commit(self, task: int, turn: int) -> None:
        """Write a state."""
        key = f"room/{task}/{turn % max(1, ROOMS // 512)}"
        self.numbers[key] = number = self.numbers.get(key, 0) + 1
        await self.store.commit(Commit(key, number, self.store.epoch, self.document))

    async def claim(self, _task: int, _turn: int) -> None:
        """Take a room that nobody has."""
        self.number += 1
        await self.engine.claim(f"claimed/{self.number}", "bench#1")

    async def send(self, _task: int, _turn: int) -> None:
        """Send to a node that does not listen."""
        await self.engine.send("other#1", self.message)

    def _call(self, name: str) -> Callable[[int, int], Awaitable[None]]:
        found: Callable[[int, int], Awaitable[None]] = getattr(self, name)
        return found

    async def alone(self, call: str, seconds: float) -> list[float]:
        """See `Caller`."""
        if call == "claim":
            await self.engine.join("bench#1", b"", WEEK)
        made = self._call(call)
        took: list[float] = []
        until = perf_counter() + seconds
        while (began := perf_counter()) < until:
            await made(0, len(took))
            took.append(perf_counter() - began)
        return took

    async def together(self, call: str, tasks: int, seconds: float) -> tuple[int, float]:
        """See `Caller`."""
        made = self._call(call)
        count = 0
        began = perf_counter()
        until = began + seconds

        async def work(task: int) -> None:
            nonlocal count
            turn = 0
            while perf_counter() < until:
                await made(task, turn)
                turn += 1
                count += 1

        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(work, task)
        return count, perf_counter() - began

    async def fill(self, size: int, sessions: int, rooms: int) -> int:
        """Have rooms that sleep, with sessions whose clients are away."""
        until = time.time() + WEEK
        halves = {
            sid: RoomHalf(0, None, b"", Opening(os.urandom(16), f"user-{sid}", 0, WEEK))
            for sid in range(1, sessions + 1)
        }
        links = {sid: LinkHalf(0, until, 0) for sid in halves}
        limit = trio.CapacityLimiter(500)

        async def write(number: int) -> None:
            async with limit:
                document = os.urandom(size) if size else None
                key = f"asleep/{size}-{sessions}-{number:08}"
                await self.store.commit(
                    Commit(key, 1, self.store.epoch, document, sessions=halves, links=links)
                )

        async with trio.open_nursery() as nursery:
            for number in range(rooms):
                nursery.start_soon(write, number)
        return rooms


class Rooms(Ours):
    """Fills a server whose speed does not matter."""

    durability = "everysec"


class Bare(Caller):
    """Plain commands that move the same bytes, through nothing but a socket and the parser."""

    async def open(self) -> None:
        """See `Caller`."""
        host, _, port = self.url.removeprefix("valkey://").partition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader()

    async def close(self) -> None:
        """See `Caller`."""
        self.socket.close()

    def _command(self, call: str) -> bytes:
        self.number += 1
        match call:
            case "commit":
                given: tuple[Any, ...] = ("SET", f"room/{self.number % ROOMS}", self.document)
            case "claim":
                given = ("HSET", f"claimed/{self.number}", "o", "bench#1", "k", self.number)
            case _:
                given = ("PUBLISH", "other#1", self.message)
        return hiredis.pack_command(given)  # type: ignore[no-any-return]

    def _make(self, call: str, times: int) -> None:
        self.socket.sendall(b"".join([self._command(call) for _ in range(times)]))
        for _ in range(times):
            while (reply := self.reader.gets()) is False:
                received = self.socket.recv(65536)
                if not received:
                    raise SystemExit("the server hung up")
                self.reader.feed(received)
            if isinstance(reply, hiredis.ReplyError):
                raise SystemExit(f"the server answered {reply}")

    async def alone(self, call: str, seconds: float) -> list[float]:
        """See `Caller`."""
        took: list[float] = []
        until = perf_counter() + seconds
        while (began := perf_counter()) < until:
            self._make(call, 1)
            took.append(perf_counter() - began)
        return took

    async def together(self, call: str, tasks: int, seconds: float) -> tuple[int, float]:
        """All of them are sent, and then all answers read, again and again."""
        count = 0
        began = perf_counter()
        while perf_counter() - began < seconds:
            self._make(call, tasks)
            count += tasks
        return count, perf_counter() - began


KINDS: Final[dict[str, type[Caller]]] = {"ours": Ours, "rooms": Rooms, "bare": Bare}


async def main(kind: str, url: str) -> None:
    """Obey until the standard input ends."""
    caller = KINDS[kind](url)
    await caller.open()
    answer: Any
    try:
        for line in sys.stdin:
            match line.split():
                case "alone", call, seconds:
                    answer = await caller.alone(call, float(seconds))
                case "together", call, tasks, seconds:
                    answer = await caller.together(call, int(tasks), float(seconds))
                case "fill", size, sessions, rooms:
                    assert isinstance(caller, Ours)
                    answer = await caller.fill(int(size), int(sessions), int(rooms))
                case _:
                    raise SystemExit(f"what is {line!r}?")
            print(json.dumps(answer), flush=True)
    finally:
        await caller.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
