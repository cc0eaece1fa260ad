"""A node whose lease is over stands still before anything else happens."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import Context, Room, Rooms, open_rooms
from trio_rooms._cluster.cluster import Cluster
from trio_rooms.engines import MemoryEngine
from trio_rooms.testing import Closed, MemoryClient, connect

LEASE = 10.0
State = dict[str, Any]


@attrs.define(eq=False)
class Steps:
    """What the handlers of a test wait for."""

    go: trio.Event = attrs.field(factory=trio.Event)


steps = Steps()


async def _add(ctx: Context[State], data: int) -> int:
    ctx.state["total"] = ctx.state.get("total", 0) + data
    ctx.room.emit("total", ctx.state["total"])
    total: int = ctx.state["total"]
    return total


async def _wait(ctx: Context[State]) -> None:
    await steps.go.wait()
    ctx.room.emit("waited")


async def _signal(ctx: Context[State]) -> None:
    ctx.room.emit("before")
    ctx.app()
    ctx.room.emit("after")


def ledger() -> Room[State]:
    """A room that counts."""
    steps.__init__()  # type: ignore[misc]
    room: Room[State] = Room("ledger", state=dict)
    room.on("add")(_add)
    room.on("wait")(_wait)
    room.on("signal")(_signal)
    return room


@asynccontextmanager
async def node(engine: MemoryEngine, name: str = "a", app: Any = None) -> AsyncIterator[Rooms]:
    """One node."""
    async with open_rooms([ledger()], engine=engine, node=name, lease=LEASE, app=app) as rooms:
        await wait_all_tasks_blocked()
        yield rooms


def cluster_of(rooms: Rooms) -> Cluster:
    """What makes rooms a node."""
    cluster = rooms._runtime.node
    assert isinstance(cluster, Cluster)
    return cluster


@asynccontextmanager
async def inside(rooms: Rooms) -> AsyncIterator[MemoryClient]:
    """A client in a room that is at home on a node."""
    await cluster_of(rooms).ownership.place("ledger/x")
    async with connect(rooms, "ledger/x") as client:
        yield client


async def test_a_short_absence_of_the_engine_is_not_noticed(autojump_clock: MockClock) -> None:
    """A room goes on with what needs no store."""
    engine = MemoryEngine()
    async with node(engine) as rooms, inside(rooms) as client:
        assert await client.ask("add", 1) == 1
        engine.down()
        await trio.sleep(LEASE / 2)
        assert await client.ask("add", 1) == 2
        engine.up()
        await trio.sleep(LEASE)
        assert await client.ask("add", 1) == 3
        assert cluster_of(rooms).seat.pauses == 0


async def test_a_long_one_pauses_all_rooms_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    """From the deadline on; the room goes on with the state that it had, and its connections."""
    engine = MemoryEngine()
    async with node(engine) as rooms, inside(rooms) as client:
        assert await client.ask("add", 1) == 1
        await client.emit("wait")
        await wait_all_tasks_blocked()
        engine.down()
        await trio.sleep(LEASE)
        assert not cluster_of(rooms).seat.valid
        steps.go.set()
        with trio.move_on_after(100) as waiting:
            while (await client.receive()).get("event") == "total":
                pass
        assert waiting.cancelled_caught
        engine.up()
        assert (await client.receive())["event"] == "waited"
        assert cluster_of(rooms).seat.valid
        assert await client.ask("add", 1) == 2
        assert cluster_of(rooms).seat.pauses == 1
        assert cluster_of(rooms).statistics().forsaken == 0


async def test_a_room_that_another_node_has_taken_is_let_go_of(autojump_clock: MockClock) -> None:
    """The node notices by itself, goes on as another incarnation, and keeps what nobody has taken."""
    engine = MemoryEngine()
    theirs = engine.another()
    async with node(engine) as a, node(theirs, "b") as b, inside(a) as client:
        assert await client.ask("add", 1) == 1
        await cluster_of(a).ownership.place("ledger/y")
        async with connect(a, "ledger/y") as other:
            assert await other.ask("add", 5) == 5
            await trio.sleep(2)  # Both are saved.
            assert await client.ask("add", 1) == 2
            engine.cut()
            await trio.sleep(LEASE + 2)
            owner = await cluster_of(b).ownership.place("ledger/x")
            assert owner == cluster_of(b).seat.incarnation
            assert await b.get("ledger", "x").ask("add", 10) == 11
            assert not cluster_of(a).seat.valid
            engine.mend()
            events = [one["data"] async for one in client if "event" in one]
            assert client.closed == Closed(1012, "the room has moved")
            assert events[-1] == 2
            await trio.sleep(1)
            assert cluster_of(a).seat.valid
            assert cluster_of(a).statistics().lives == 2
            assert cluster_of(a).statistics().forsaken == 1
            assert await other.ask("add", 1) == 6
        assert await b.get("ledger", "x").ask("add", 1) == 12


@contextmanager
def stopped_until(rooms: Rooms, when: float) -> Iterator[None]:
    """The process is stopped, and goes on at a time of its clock."""
    seat = cluster_of(rooms).seat
    seat.now = lambda: when
    os.kill(os.getpid(), signal.SIGCONT)
    yield
    seat.now = trio.current_time


@pytest.mark.parametrize("late", [True, False])
async def test_a_process_that_was_stopped_in_the_midst_of_something(
    late: bool, autojump_clock: MockClock
) -> None:
    """What it does before the next turn of the loop does not go out where its lease is over."""
    running: list[Rooms] = []

    def go_on() -> None:
        with stopped_until(running[0], cluster_of(running[0]).seat.deadline + (1 if late else -1)):
            assert running[0]._hub.standstill.on is late

    async with node(MemoryEngine(), app=go_on) as rooms, inside(rooms) as client:
        running.append(rooms)
        await client.emit("signal")
        assert (await client.receive())["event"] == "before"
        # The clock is told to have gone back, so that it is as if the lease was renewed just then.
        assert (await client.receive())["event"] == "after"
        assert not rooms._hub.standstill.on


async def test_the_signal_is_left_as_it_was() -> None:
    """Whoever has a handler of it hears of it also while rooms are open, and has it back then."""
    heard: list[int] = []
    before = signal.signal(signal.SIGCONT, lambda number, _: heard.append(number))
    try:
        mine = signal.getsignal(signal.SIGCONT)
        async with node(MemoryEngine()):
            assert signal.getsignal(signal.SIGCONT) is not mine
            os.kill(os.getpid(), signal.SIGCONT)
            assert heard == [signal.SIGCONT]
        assert signal.getsignal(signal.SIGCONT) is mine
    finally:
        signal.signal(signal.SIGCONT, before)
