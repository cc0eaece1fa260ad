"""What keeps hibernation from being of use is said once of each room, counted, and bounded."""

from __future__ import annotations

import logging
import math
import re
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Context, Room, Rooms, open_rooms
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._room.signs import LargeLoad, Signs
from trio_rooms._state.saved import Loaded
from trio_rooms.testing import connect


def load(size: int = 100, seconds: float = 0.001) -> Loaded:
    """What came out of the store."""
    return Loaded(None, restarted=False, fell_back=False, size=size, seconds=seconds)


@attrs.define
class Text:
    """The state of a room that may be large."""

    text: str = ""


def book(**options: Any) -> Room[Text]:
    """A room that keeps what it is told."""
    room: Room[Text] = Room("book", state=Text, idle_timeout=5, **options)

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


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_a_large_snapshot_is_told_once(caplog: pytest.LogCaptureFixture, durability: Any) -> None:
    """When it is saved, or when it is loaded; and whoever reads of loads finds it."""
    async with open_rooms([book(durability=durability)]) as rooms:
        one = rooms.get("book", "one")
        await one.ask("write", 200_000)
        assert await one.hibernate()
        assert not told(caplog, "large_snapshot")
        await one.ask("write", 300_000)
        assert await one.hibernate()
        (line,) = told(caplog, "large_snapshot")
        assert line.startswith(
            "room book/one: its snapshot has 300 KB, of which 'text' is about 300 KB, which"
        )
        assert "ctx.room.storage" in line
        await one.ask("write", 300_001)
        assert await one.hibernate()
        assert len(told(caplog, "large_snapshot")) == 1
        assert rooms._runtime.hub.metrics.antipatterns["large_snapshot"] == 1
        (large,) = signs_of(rooms).large_loads
        assert large.key == "book/one"
        assert 300_000 < large.bytes < 300_100
        assert large.parts == (("text", 300_001),)
        assert 0 < large.seconds < 5
        await one.ask("write", 1)
        assert await one.hibernate()
        await one.ask("write", 1)
        assert not signs_of(rooms).large_loads


async def test_a_slow_load_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Of a small state when it happens again, since what was slow is something else then."""
    signs = Signs(Metrics(), {})
    signs.loaded("book/fast", load(30_000, seconds=0.02), 1)
    signs.loaded("book/slow", load(30_000, seconds=0.03), 1)
    (line,) = told(caplog, "slow_load")
    assert line.startswith("room book/slow: it took 30 ms to load its 30 KB, which")
    assert "ctx.room.storage" in line
    assert [one.key for one in signs.large_loads] == ["book/slow"]
    for seconds in (0.03, 0.01, 0.03):
        signs.loaded("book/small", load(seconds=seconds), 1)
    assert len(told(caplog, "slow_load")) == 1
    signs.loaded("book/small", load(seconds=0.04), 1)
    _, line = told(caplog, "slow_load")
    assert line.startswith("room book/small: it took 40 ms to load its 100 bytes, again: the store is slow")


async def test_the_slowest_loads_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    """Of each room the last, 32 in all; one that is quick again is forgotten."""
    signs = Signs(Metrics(), {})
    for number in range(100):
        signs.loaded(f"book/{number}", load(300_000, number % 50 / 100), 1)
    kept = signs.large_loads
    assert [one.seconds for one in kept] == sorted((one.seconds for one in kept), reverse=True)
    assert len(kept) == 32
    assert {one.seconds for one in kept} == {number / 100 for number in range(34, 50)}
    signs.loaded(kept[0].key, load(), 1)
    signs.loaded(kept[1].key, load(400_000, 0.1), 1)
    assert kept[0] not in signs.large_loads
    assert signs.large_loads[-1] == LargeLoad(kept[1].key, 400_000, 0.1)


async def test_many_rooms_with_a_sign_are_counted_and_few_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Ten lines in a minute; and what is remembered is bounded."""
    metrics = Metrics()
    signs = Signs(metrics, {})
    with caplog.at_level(logging.WARNING):
        for number in range(5000):
            signs.saved(f"book/{number}", 300_000, None)
    assert metrics.antipatterns["large_snapshot"] == 5000
    lines = told(caplog, "large_snapshot")
    assert len(lines) == 11
    assert "more rooms" in lines[-1]
    assert len(signs._told) == 4096
    autojump_clock.jump(61)
    signs.saved("book/later", 300_000, None)
    assert told(caplog, "large_snapshot")[-1].startswith("room book/later")


# Messages that wake.


async def _note(ctx: Context[Text], data: str = "") -> None:
    ctx.state.text = data


async def _look(ctx: Context[Text], _data: Any = None) -> str:
    return "x" if ctx.state.text else ""


async def _hold(ctx: Context[Text], data: float) -> None:
    with ctx.room.keep_awake("a long game"):
        await trio.sleep(data)


async def _poll(seconds: float) -> None:
    await trio.sleep(seconds)


async def _begin_polling(ctx: Context[Text], data: float) -> None:
    ctx.room.start_soon(_poll, data, name="poll", keep_awake=True)


async def _message(ctx: Context[Text], message: str | bytes) -> None:
    if message == "note":
        ctx.state.text += "x"


def desk(**options: Any) -> Room[Text]:
    """A room that sleeps after 5 s."""
    room: Room[Text] = Room("desk", state=Text, **{"idle_timeout": 5, **options})
    room.on("note")(_note)
    room.on("look")(_look)
    room.on("hold")(_hold)
    room.on("poll")(_begin_polling)
    return room


def lines(rooms: Rooms) -> dict[str, int]:
    """How many rooms have which sign."""
    return dict(rooms._runtime.hub.metrics.antipatterns)


@pytest.mark.parametrize(("interval", "wakes"), [(30, True), (3, False)])
async def test_a_heartbeat_is_told_with_its_bytes(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock, interval: float, *, wakes: bool
) -> None:
    """Whether it wakes the room or keeps it awake; and one that is answered automatically is none."""
    ping = '{"event":"look"}'
    async with open_rooms([desk()]) as rooms, connect(rooms, "desk/a") as client:
        for _ in range(6):
            await client.send(ping)
            await trio.sleep(interval)
        (line,) = told(caplog, "heartbeat_wakes")
        assert f"auto_respond={{{ping!r}: ...}}" in line
        assert f"every {interval} s" in line
        assert (rooms.statistics().supervisor.wakes > 1) is wakes
        assert lines(rooms)["heartbeat_wakes"] == 1
    async with (
        open_rooms([desk(auto_respond={ping: '{"event":"pong"}'})]) as rooms,
        connect(rooms, "desk/a") as client,
    ):
        for _ in range(6):
            await client.send(ping)
            assert await client.receive() == {"event": "pong"}
            await trio.sleep(interval)
        assert not lines(rooms)


async def test_wakes_for_nothing_are_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Five in a row of messages that nobody waits for and that change nothing."""
    async with open_rooms([desk()]) as rooms, connect(rooms, "desk/a") as client:
        await client.ask("note", "something")

        async def wake(event: str, data: Any = None, id_: int | None = None) -> None:
            await trio.sleep(20)
            await client.emit(event, data, id=id_)

        for number in range(6):
            await wake("look", number, number + 2)  # It is answered.
        for number in range(4):
            await wake("look", number)
        await wake("note", "anew")
        for number in range(4):
            await wake("look", number)
        await trio.sleep(20)
        assert not lines(rooms)
        await wake("look", 4)
        await trio.sleep(20)
        (line,) = told(caplog, "low_priority_wakes")
        assert "5 times in a row" in line
        assert "'look'" in line
        assert lines(rooms) == {"low_priority_wakes": 1}


async def test_wakes_for_nothing_of_a_plain_room_are_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """With what hands such messages on."""
    room: Room[Text] = Room("plain", state=Text, idle_timeout=5)
    room.on_message(_message)
    async with open_rooms([room]) as rooms, connect(rooms, "plain/a") as client:
        for number in range(8):
            await client.send("note" if number == 1 else f"cursor {number}")
            await trio.sleep(20)
        (line,) = told(caplog, "low_priority_wakes")
        assert "auto_relay" in line
        assert "'cursor 6'" in line


# Rooms that do not sleep.


async def test_a_room_with_idle_connections_that_never_sleeps_is_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Ten or more, of which most are idle, after three idle timeouts."""
    async with (
        open_rooms([desk(connection_idle_timeout=5)]) as rooms,
        AsyncExitStack() as clients,
    ):
        lively = await clients.enter_async_context(connect(rooms, "desk/a"))
        for _ in range(8):
            await clients.enter_async_context(connect(rooms, "desk/a"))

        async def chat() -> None:
            for number in range(12):
                await lively.ask("note", str(number))
                await trio.sleep(3 + number % 2)

        await chat()
        assert not lines(rooms)
        await clients.enter_async_context(connect(rooms, "desk/a"))
        await chat()
        (line,) = told(caplog, "never_hibernates")
        assert line.startswith("room desk/a: it has not slept for ")
        assert re.search("although [89] of its 10 connections are idle", line)
        assert lines(rooms) == {"never_hibernates": 1}


async def test_a_room_that_must_never_sleep_is_told_when_somebody_is_idle(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """And not before."""
    async with open_rooms([desk(idle_timeout=math.inf)]) as rooms, connect(rooms, "desk/a") as client:
        await client.ask("note", "")
        await trio.sleep(59)
        assert not lines(rooms)
        await trio.sleep(10)
        (line,) = told(caplog, "hibernation_off")
        assert "idle_timeout=300" in line


@pytest.mark.parametrize(
    ("event", "name"), [("hold", "keep_awake('a long game')"), ("poll", "the task 'poll'")]
)
async def test_what_pins_a_room_is_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock, event: str, name: str
) -> None:
    """After ten idle timeouts; what ended before is forgotten, and leaves no deadline."""
    async with open_rooms([desk()]) as rooms:
        one, other = rooms.get("desk", "one"), rooms.get("desk", "other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(one.ask, event, 49, timeout=math.inf))
            nursery.start_soon(partial(other.ask, event, 51, timeout=math.inf))
        await trio.sleep(60)
        (line,) = told(caplog, "pinned_by_task")
        assert line.startswith(f"room desk/other: {name} has held it awake for 50 s")
        assert lines(rooms) == {"pinned_by_task": 1}
        assert not one.info().held


async def test_wakes_and_sleeps_are_logged_with_their_fields(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """At DEBUG."""
    caplog.set_level(logging.DEBUG, "trio_rooms")
    async with open_rooms([desk()]) as rooms:
        await rooms.get("desk", "a").ask("note", "x")
        await trio.sleep(6)
    said = [(one.key, one.cause, one.duration) for one in caplog.records if hasattr(one, "duration")]  # type: ignore[attr-defined]
    assert said == [("desk/a", "ask", 0), ("desk/a", "idle", 5)]
