"""A server that has more state than memory."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.integration.conftest import Served
from tests.integration.large_room import checksum, lines_of
from trio_rooms.client import connect_room

Serve = Callable[..., Served]

MB = 1_000_000
AT_ONCE = 8
"""Clients that ask for something at the same time."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="no other system tells what a process has in memory"
)


@attrs.define(eq=False)
class Seen:
    """What a process had in memory while it was looked at."""

    most: int = 0
    looks: int = 0


@contextmanager
def watched(process: int) -> Iterator[Seen]:
    """Look all the time how much memory of its own a process has."""
    seen, ended = Seen(), threading.Event()
    status = Path(f"/proc/{process}/status")

    def look() -> None:
        while not ended.wait(0.01):
            found = re.search(r"RssAnon:\s+([0-9]+) kB", status.read_text())
            assert found is not None
            seen.most = max(seen.most, 1024 * int(found[1]))
            seen.looks += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("rooms", "limit", "most"),
    [
        pytest.param(50, 75, 105),
        pytest.param(200, 140, 180, marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_rooms_that_are_more_than_the_memory(
    serve: Serve, tmp_path: Path, rooms: int, limit: int, most: int
) -> None:
    """It stays near its limit, and each room answers with its state, also while there is too much."""
    served = serve(
        "tests/integration/large_room.py:large", "--data", tmp_path / "data",
        "--memory-limit", f"{limit}MB", "--idle-timeout", "3600",
    )  # fmt: skip
    with watched(served.process.pid) as seen:
        async with AsyncExitStack() as connected:
            clients = [
                await connected.enter_async_context(connect_room(f"{served.url}/large/{number}"))
                for number in range(rooms)
            ]

            async def fill(number: int) -> None:
                await clients[number].ask("fill", [number, 1000])

            async def check(number: int) -> None:
                assert await clients[number].ask("sum") == checksum(lines_of(number, 1000))

            await in_turn(fill, [*range(rooms)])
            await in_turn(check, [*range(rooms)])
            await in_turn(check, [*reversed(range(rooms))])
            told = json.loads(served.get("/stats"))["hibernation"]
            heaps = heaps_of(served.process.pid)
    assert seen.looks > 50
    assert heaps == 0  # But that of the process.
    assert seen.most < most * MB, f"{seen.most / MB:.0f} MB"
    assert told["sleeps"]["memory"] > rooms / 2
    assert told["sweeps"]["memory"] > 0
    assert served.stop() == 0


def heaps_of(process: int) -> int:
    """How many heaps for threads there are: each has 64 MiB of addresses, most of which are not used yet."""
    reserved = re.findall(r"^(\w+)-(\w+) ---p", Path(f"/proc/{process}/maps").read_text(), re.MULTILINE)
    return sum(32 << 20 < int(end, 16) - int(begin, 16) <= 64 << 20 for begin, end in reserved)


async def in_turn(do: Callable[[int], Any], numbers: list[int]) -> None:
    """Do something with each of some rooms, a few at a time."""
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(_work, do, numbers)


async def _work(do: Callable[[int], Any], numbers: list[int]) -> None:
    while numbers:
        await do(numbers.pop(0))
