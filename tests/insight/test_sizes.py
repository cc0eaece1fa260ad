"""What connections and rooms take, against what the allocator gave for them."""

from __future__ import annotations

import gc
import json
import socket
import tracemalloc
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import Context, Room, open_rooms
from trio_rooms._insight.weight import Scales
from trio_rooms._room.connection import encode_attachment
from trio_rooms.testing import connect

room: Room[dict[str, Any]] = Room("chat", state=dict, idle_timeout=30, snapshot_interval=1000)


@room.on("fill")
async def fill(ctx: Context[dict[str, Any]], data: int) -> None:
    """Have a state, and look at who asked for it."""
    ctx.state["lines"] = [{"n": n + 1000, "text": "x" * 20 + str(n)} for n in range(data)]
    assert ctx.connection.attachment["user"]


@room.on("wake")
async def wake(_ctx: Context[dict[str, Any]]) -> None:
    """Be awake."""


def masked(text: bytes) -> bytes:
    """A short message as a client sends it."""
    return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look has the time that it needs, on a busy machine, too."""
    monkeypatch.setattr("trio_rooms._insight.sizes.Scales", partial(Scales, seconds=60))


@pytest.fixture
def traced() -> Iterator[None]:
    """Count what is allocated."""
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def allocated() -> int:
    """Bytes that there are now."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.usefixtures("traced", "patient")
@pytest.mark.parametrize(("count", "each", "lines"), [(60, 1, 40), (40, 20, 10)])
async def test_measures_what_the_allocator_gave(
    mock_clock: MockClock, count: int, each: int, lines: int
) -> None:
    """Of parked sockets, and of rooms that they have woken."""
    clients: list[socket.socket] = []
    descriptors = []
    for _ in range(count * each):
        mine, theirs = socket.socketpair()
        theirs.setblocking(False)
        clients.append(mine)
        descriptors.append(theirs.detach())
    async with open_rooms([room]) as rooms:
        hub, sizes = rooms._hub, rooms._insight._sizes
        before = allocated()
        for number, fd in enumerate(descriptors):
            hub.park(
                rooms._supervisor.roster(f"chat/{number % count}"),
                fd,
                encode_attachment("chat", {"user": f"{number:080}"}, 1000),
                0,
            )
        parked = allocated()
        for client in clients:
            client.sendall(masked(b'{"event":"fill","data":%d}' % lines))
        while hub.statistics().received < len(clients):
            await wait_all_tasks_blocked()
        woken = allocated()
        for _ in range(5):
            mock_clock.jump(1)
            sizes.look()
        for client in clients:
            client.close()
        while hub.held:
            await wait_all_tasks_blocked()  # Else the end would wait for them, on a clock that stands still.
    assert sizes.hibernated_connection == pytest.approx((parked - before) / (count * each), rel=0.2)
    assert sizes.active_connection == pytest.approx((woken - before) / (count * each), rel=0.2)
    assert sizes.awake_room is not None


@pytest.mark.usefixtures("patient")
async def test_what_sleeps_has_been_seen(autojump_clock: MockClock) -> None:
    """A room is looked at as it falls asleep, so all is known when somebody asks for the first time later."""
    async with open_rooms([room]) as rooms, connect(rooms, "chat/a", attachment={"user": "u"}) as client:
        sizes = rooms._insight._sizes
        assert (sizes.hibernated_connection, sizes.active_connection, sizes.awake_room) == (None, None, None)
        assert sizes.saved(hibernated=0, asleep=0) == 0
        await client.send(json.dumps({"event": "fill", "data": 100}))
        await trio.sleep(100)
        told = rooms.metrics().bytes
    assert told["resident"] is None or told["resident"] > 10_000_000
    known = {name: size or 0 for name, size in told.items()}
    assert 20_000 < known["awake_room"] < known["active_connection"]
    assert known["active_connection"] * 0.05 > known["hibernated_connection"] > 300
    assert known["awake_room"] <= known["saved"] < known["active_connection"]


async def test_a_look_is_rare_and_short(autojump_clock: MockClock) -> None:
    """However often somebody asks, and however large a room is: one short look in a second."""
    async with open_rooms([room]) as rooms:
        for name in "abc":
            async with connect(rooms, f"chat/{name}", attachment={"user": "u"}) as client:
                await client.send(json.dumps({"event": "fill", "data": 30_000}))
                await client.send(json.dumps({"event": "wake", "id": 1}))
                await client.receive()
        sizes, began = rooms._insight._sizes, perf_counter()
        sizes.look()
        seen = sizes._room.count
        assert sizes.awake_room is not None
        assert sizes.awake_room > 4_000_000
        for _ in range(100):
            await rooms.get("chat", "d").ask("wake")
            sizes.look()
        assert sizes._room.count == seen
        assert perf_counter() - began < 0.5
        await trio.sleep(1)
        sizes.look()
        assert sizes._room.count > seen


async def test_an_awake_room_is_made_of_few_objects(autojump_clock: MockClock) -> None:
    """Of those that the collector looks at; a Trio task with a memory channel alone is made of 22."""
    async with open_rooms([room]) as rooms:
        counts = []
        for first in (0, 50):
            for number in range(first, first + 50):
                await rooms.get("chat", str(number)).ask("wake")
            await trio.sleep(10)
            gc.collect()
            counts.append(len(gc.get_objects()))
    # With what the store in memory has of it.
    assert (counts[1] - counts[0]) / 50 < 50
