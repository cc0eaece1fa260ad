from __future__ import annotations

import json
from typing import Any

import attrs
import trio
from trio.testing import MockClock

from trio_rooms import Context, Room, Rooms, open_rooms
from trio_rooms._server.pages import Pages
from trio_rooms._server.paths import Paths
from trio_rooms.testing import connect


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
    pages = Pages(
        rooms._definitions, paths, rooms._hub, rooms._supervisor.stage, rooms.statistics, rooms._insight
    )
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
    assert not any(sum(told.pop(name).values()) for name in ("drops", "queues"))
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
        assert shown(rooms)["hibernation"] == attrs.asdict(metrics)
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
