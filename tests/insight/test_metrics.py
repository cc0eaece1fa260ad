from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import attrs
import cbor2
import pytest
import trio
from trio.testing import MockClock

from tests.users.dens import den, inside, told
from trio_rooms import Context, EventError, MemoryStore, Room, Rooms, RoomsError, WakeReport, open_rooms
from trio_rooms._server.pages import Pages
from trio_rooms._server.paths import Paths
from trio_rooms.testing import FaultyStore, connect


async def _hear(_ctx: Context[None], _message: str | bytes) -> None:
    """Nothing: that the room wakes is enough."""


def hall(**options: Any) -> Room[None]:
    """A room that sleeps after 10 s, and whose connections hibernate after 5."""
    room: Room[None] = Room("hall", idle_timeout=10, connection_idle_timeout=5, **options)
    room.on_message(_hear)
    return room


def shown(rooms: Rooms) -> Any:
    """What ``/stats`` shows of hibernation."""
    paths = Paths(rooms._definitions, "", "/{room}/{id}")
    pages = Pages(rooms._definitions, paths, rooms._supervisor.placement, rooms.statistics, rooms._insight)
    answer = pages.page("/stats")
    assert answer is not None
    return json.loads(answer.body)


async def test_stats_have_all_names_before_anything_happens(autojump_clock: MockClock) -> None:
    """Every figure is there from the first moment: 0 for what is counted, null for what was not measured."""
    nothing = dict.fromkeys(("mean", "p50", "p95", "p99", "max")) | {"count": 0}
    async with open_rooms([hall()]) as rooms:
        stats = shown(rooms)
    assert stats["recommendations"] == []
    told = stats["hibernation"]
    assert told.pop("connections") == {"active": 0, "hibernated": 0, "total": 0}
    assert told.pop("rooms") == {"awake": 0, "asleep": 0}
    assert (told.pop("ratio"), told.pop("cost_savings"), told.pop("ratio_target")) == (0, 0, 0)
    assert told.pop("sleeps") == dict.fromkeys(
        ("idle", "low_activity", "ratio", "cap", "memory", "lag", "explicit", "shutdown"), 0
    )
    assert told.pop("delivery_delay_seconds") == {"active": nothing, "hibernated": nothing}
    assert told.pop("snapshots") == {"bytes": nothing, "seconds": nothing}
    for name in [name for name in told if name.endswith("_seconds")]:
        assert told.pop(name) == nothing, name
    assert set(told.pop("wakes").values()) == {0}
    assert set(told.pop("bytes")) >= {"resident", "hibernated_connection", "active_connection", "saved"}
    assert not any(told.pop(name) for name in ("blocked", "sweeps", "antipatterns"))
    assert not any(sum(told.pop(name).values()) for name in ("drops", "queues", "lost", "resumes"))
    assert told == dict.fromkeys(("flaps", "restarts", "errors", "journal_bytes"), 0)


async def test_connections_and_rooms_are_counted_as_they_are(autojump_clock: MockClock) -> None:
    """Active while they are used, hibernated from their timeout on; rooms sleep with them."""
    async with open_rooms([hall()]) as rooms, connect(rooms, "hall/a") as one, connect(rooms, "hall/a"):
        metrics = rooms.metrics()
        assert attrs.astuple(metrics.connections) == (0, 2, 2)
        assert (attrs.astuple(metrics.rooms), metrics.ratio, metrics.cost_savings) == ((0, 1), 1, 0.9)
        await one.send("hello")
        await trio.sleep(1)
        metrics = rooms.metrics()
        assert attrs.astuple(metrics.connections) == (1, 1, 2)
        assert (attrs.astuple(metrics.rooms), metrics.ratio, metrics.cost_savings) == ((1, 0), 0.5, 0.45)
        told, expected = shown(rooms)["hibernation"], attrs.asdict(metrics)
        del told["bytes"]["resident"], expected["bytes"]["resident"]  # Which may change at any moment.
        assert told == expected
        await trio.sleep(5)
        assert attrs.astuple(rooms.metrics().connections) == (0, 2, 2)
        assert rooms.metrics().rooms.awake == 1
        await trio.sleep(5)
        assert attrs.astuple(rooms.metrics().rooms) == (0, 1)
        await one.send("hello")
        await trio.sleep(1)
        metrics = rooms.metrics()
        assert metrics.wakes["message"] == sum(metrics.wakes.values()) == 2
        assert metrics.hibernation_duration_seconds.count == 1
        assert metrics.hibernation_duration_seconds.max is not None
        assert 0.9 < metrics.hibernation_duration_seconds.max < 1.1
    assert rooms.metrics().connections.total == 0


async def test_what_waking_and_sleeping_take_is_measured(autojump_clock: MockClock) -> None:
    """With a store that takes 150 ms: one read in a wake, one commit in a sleep, and the hook."""
    room: Room[list[int]] = Room("list", state=list, idle_timeout=10, connection_idle_timeout=5)

    @room.on("add")
    async def add(ctx: Context[list[int]], number: int) -> None:
        ctx.state.append(number)

    @room.on_wake
    async def wake(_ctx: Context[list[int]], _report: WakeReport) -> None:
        await trio.sleep(0.05)

    store = FaultyStore(MemoryStore(), delay=0.15)
    async with open_rooms([room], store=store) as rooms:
        await rooms.get("list", "a").ask("add", 1)
        assert rooms.metrics().state_restoration_seconds.count == 0  # There was none.
        await trio.sleep(20)
        metrics = rooms.metrics()
        # The change was written in time, so there was nothing left to write as it fell asleep.
        assert (metrics.snapshots.bytes.count, metrics.hibernation_latency_seconds.max) == (1, 0)
        assert metrics.snapshots.bytes.max == len(cbor2.dumps([1]))
        assert metrics.snapshots.seconds.max == pytest.approx(0.15)
        assert metrics.wake_latency_seconds.max == pytest.approx(0.15)
        await rooms.get("list", "a").ask("add", 2)
        await rooms.get("list", "a").hibernate()
        metrics = rooms.metrics()
        assert metrics.state_restoration_seconds.count == 1
        assert metrics.state_restoration_seconds.max == pytest.approx(0.15)
        assert metrics.wake_latency_seconds.max == pytest.approx(0.2)
        assert metrics.hibernation_latency_seconds.max == pytest.approx(0.15)
        assert metrics.snapshots.seconds.count == metrics.hibernation_latency_seconds.count == 2
        assert metrics.wakes == dict.fromkeys(metrics.wakes, 0) | {"ask": 2}


async def test_what_fails_is_counted(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises is an error, a room that crashes an error and a restart; a refusal is neither."""
    caplog.set_level(logging.CRITICAL, "trio_rooms")
    room: Room[None] = Room("hall", idle_timeout=10)

    @room.on("fail")
    async def fail(_ctx: Context[None]) -> None:
        raise ValueError

    @room.on("refuse")
    async def refuse(_ctx: Context[None]) -> None:
        raise EventError("no")

    @room.on("crash")
    async def crash(ctx: Context[None]) -> None:
        ctx.room.start_soon(_fail)

    async with open_rooms([room]) as rooms:
        handle = rooms.get("hall", "a")
        for event, counts in (("refuse", (0, 0)), ("fail", (1, 0)), ("crash", (2, 1))):
            with contextlib.suppress(RoomsError):
                await handle.ask(event)
            await trio.sleep(1)
            metrics = rooms.metrics()
            assert (metrics.errors, metrics.restarts) == counts, event


async def _fail() -> None:
    raise ValueError


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_delivery_to_those_in_use_and_to_the_others_is_told_apart(
    autojump_clock: MockClock, durability: Any
) -> None:
    """Of what a room or the program sends to several, and of what a user is sent; not of what is to wait."""
    rooms_of = [
        den(name, connection_idle_timeout=5, durability=durability, batch_window=window)
        for name, window in (("den", 0.0), ("batch", 1.0))
    ]
    async with (
        open_rooms(rooms_of) as rooms,
        inside(rooms, "ana") as ana,
        inside(rooms, "eve", "batch/a"),
        connect(rooms, "den/a", query={"user": "bob"}) as bob,
    ):

        def counts() -> tuple[int, int]:
            delays = rooms.metrics().delivery_delay_seconds
            return delays.active.count, delays.hibernated.count

        await trio.sleep(10)
        handle, user = rooms.get("den", "a"), rooms.user("bob")
        handle.emit("said", 1)
        await trio.sleep(0)
        assert counts() == (0, 1)
        await user.send("said", 2)
        assert counts() == (0, 2)
        await user.send("said", 3, priority="low")
        rooms.get("batch", "a").emit("said", 3)
        await trio.sleep(1)
        assert counts() == (0, 2)
        await ana.ask("say", 4)  # She is in use now, and bob is not.
        await trio.sleep(1)
        assert counts() == (1, 3)
        await rooms.user("ana").send("said", "x")
        await trio.sleep(1)
        assert counts() == (2, 3)
        await user.send("said", 5, priority="high")  # He is in use from now on.
        assert counts() == (2, 4)
        handle.emit("said", 6, reliable=True)
        await trio.sleep(1)
        assert counts() == (3, 4)
        assert await told(bob, 6) == [1, 2, 3, 4, 5, 6]


async def test_what_waits_is_counted(autojump_clock: MockClock) -> None:
    """Mail behind a handler that takes its time, commits that the store holds, what is not acknowledged."""
    room: Room[None] = Room("hall", idle_timeout=100, resume_window=60)

    @room.on("wait")
    async def wait(_ctx: Context[None]) -> None:
        await trio.sleep(10)

    async with (
        open_rooms([room]) as rooms,
        connect(rooms, "hall/a", subprotocols=["trio-rooms.v1.json"]) as client,
    ):
        for _ in range(3):
            await client.emit("wait")
        await trio.sleep(1)
        assert rooms.metrics().queues.mailboxes == 2
        await trio.sleep(50)
        assert rooms.metrics().queues.mailboxes == rooms.metrics().journal_bytes == 0
        rooms.get("hall", "a").emit("news", "x" * 1000, reliable=True)
        await trio.sleep(1)
        assert 1000 < rooms.metrics().journal_bytes < 1200
