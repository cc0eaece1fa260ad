"""What keeps hibernation from being of use is said once of each room, counted, and bounded."""

from __future__ import annotations

import logging

import attrs
import pytest
from trio.testing import MockClock

from trio_rooms import Context, MemoryStore, Room, Rooms, open_rooms
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._room.signs import LargeLoad, Signs
from trio_rooms._state.saved import Loaded


def load(size: int = 100, seconds: float = 0.001) -> Loaded:
    """What came out of the store."""
    return Loaded(None, restarted=False, fell_back=False, size=size, seconds=seconds)


@attrs.define
class Text:
    """The state of a room that may be large."""

    text: str = ""


def book() -> Room[Text]:
    """A room that keeps what it is told."""
    room: Room[Text] = Room("book", state=Text, idle_timeout=5)

    async def write(ctx: Context[Text], data: int) -> int:
        ctx.state.text = "x" * data
        return len(ctx.state.text)

    room.on("write")(write)
    return room


def signs_of(rooms: Rooms) -> Signs:
    """What is known of rooms that sleep badly."""
    return rooms._runtime.supervisor.signs


def told(caplog: pytest.LogCaptureFixture, sign: str) -> list[str]:
    """What the log says of it."""
    return [one.getMessage() for one in caplog.records if getattr(one, "sign", None) == sign]


async def test_a_large_snapshot_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """When it is saved, or when it is loaded; and whoever reads of loads finds it."""
    store = MemoryStore()
    async with open_rooms([book()], store=store) as rooms:
        one = rooms.get("book", "one")
        await one.ask("write", 200_000)
        assert await one.hibernate()
        assert not told(caplog, "large_snapshot")
        await one.ask("write", 300_000)
        assert await one.hibernate()
        (line,) = told(caplog, "large_snapshot")
        assert line.startswith("room book/one: its snapshot has 300 KB")
        assert "ctx.storage" in line
        await one.ask("write", 300_001)
        assert await one.hibernate()
        assert len(told(caplog, "large_snapshot")) == 1
        assert rooms._runtime.hub.metrics.antipatterns["large_snapshot"] == 1
        (large,) = signs_of(rooms).large_loads
        assert large.key == "book/one"
        assert 300_000 < large.bytes < 300_100
        assert 0 < large.seconds < 5
        await one.ask("write", 1)
        assert await one.hibernate()
        await one.ask("write", 1)
        assert not signs_of(rooms).large_loads


async def test_a_slow_load_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """However small what was loaded is."""
    signs = Signs(Metrics())
    signs.loaded("book/fast", load(seconds=0.02))
    signs.loaded("book/slow", load(seconds=0.03))
    (line,) = told(caplog, "slow_load")
    assert line.startswith("room book/slow: it took 30 ms to load its 0 KB")
    assert [one.key for one in signs.large_loads] == ["book/slow"]


async def test_the_slowest_loads_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    """Of each room the last, 32 in all; one that is quick again is forgotten."""
    signs = Signs(Metrics())
    for number in range(100):
        signs.loaded(f"book/{number}", load(300_000, number % 50 / 100))
    kept = signs.large_loads
    assert [one.seconds for one in kept] == sorted((one.seconds for one in kept), reverse=True)
    assert len(kept) == 32
    assert {one.seconds for one in kept} == {number / 100 for number in range(34, 50)}
    signs.loaded(kept[0].key, load())
    signs.loaded(kept[1].key, load(400_000, 0.1))
    assert kept[0] not in signs.large_loads
    assert signs.large_loads[-1] == LargeLoad(kept[1].key, 400_000, 0.1)


async def test_many_rooms_with_a_sign_are_counted_and_few_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Ten lines in a minute; and what is remembered is bounded."""
    metrics = Metrics()
    signs = Signs(metrics)
    with caplog.at_level(logging.WARNING):
        for number in range(5000):
            signs.saved(f"book/{number}", 300_000)
    assert metrics.antipatterns["large_snapshot"] == 5000
    lines = told(caplog, "large_snapshot")
    assert len(lines) == 11
    assert "more rooms" in lines[-1]
    assert len(signs._told) == 4096
    autojump_clock.jump(61)
    signs.saved("book/later", 300_000)
    assert told(caplog, "large_snapshot")[-1].startswith("room book/later")
