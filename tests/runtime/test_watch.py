"""Handlers that take long: they are told of, and cancelled where their room says so."""

from __future__ import annotations

import itertools
import logging
import math
import re
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    EventError,
    HandlerFailed,
    HandlerTimeout,
    MemoryStore,
    Room,
    RoomFailed,
    Rooms,
    open_rooms,
)
from trio_rooms.testing import FaultyStore, connect


@attrs.define(eq=False)
class Journal:
    """What the rooms of a test do."""

    hangs: str = ""
    """What hangs: an event or a hook."""
    seconds: float = 100.0
    errors: list[Exception] = attrs.field(factory=list)


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


async def _take(what: str) -> None:
    """Take long, if this is what hangs."""
    if journal.hangs == what:
        journal.hangs = ""
        await trio.sleep(journal.seconds)


async def _do(ctx: Context[list[Any]], data: Any = None) -> Any:
    ctx.state.append(data)
    await _take("do")
    return len(ctx.state)


async def _nest(_ctx: Context[list[Any]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()


async def _wait(_ctx: Context[list[Any]], data: float) -> None:
    await trio.sleep(data)


async def _raise(_ctx: Context[list[Any]]) -> None:
    raise ValueError


async def _created(_ctx: Context[list[Any]]) -> None:
    await _take("on_create")


async def _woke(_ctx: Context[list[Any]]) -> None:
    await _take("on_wake")


async def _sleeps(_ctx: Context[list[Any]]) -> None:
    await _take("on_hibernate")


async def _ends(_ctx: Context[list[Any]]) -> None:
    await _take("on_destroy")


async def _joined(_ctx: Context[list[Any]]) -> None:
    await _take("on_connect")


async def _gone(_ctx: Context[list[Any]]) -> None:
    await _take("on_disconnect")


async def _failed(_ctx: Context[list[Any]], error: Exception) -> None:
    journal.errors.append(error)
    await _take("on_error")


async def _message(_ctx: Context[Any], message: str | bytes) -> None:
    await _take("on_message")


def work(name: str = "work", **options: Any) -> Room[list[Any]]:
    """A room with everything that can hang."""
    room: Room[list[Any]] = Room(name, state=list, **{"idle_timeout": 1000, **options})
    room.on("do")(_do)
    room.on("nest")(_nest)
    room.on("wait")(_wait)
    room.on("raise")(_raise)
    room.on_create(_created)
    room.on_wake(_woke)
    room.on_hibernate(_sleeps)
    room.on_destroy(_ends)
    room.on_connect(_joined)
    room.on_disconnect(_gone)
    room.on_error(_failed)
    return room


async def set_off(rooms: Rooms, what: str) -> None:
    """Have a hook or a handler of ``work/x`` run, and wait until it is done."""
    handle = rooms.get("work", "x")
    match what:
        case "on_create" | "do":
            await handle.ask("do", timeout=math.inf)
        case "on_wake":
            assert await handle.hibernate()
            await handle.ask("do", timeout=math.inf)
        case "on_hibernate":
            await handle.hibernate()
        case "on_destroy":
            await handle.destroy()
        case "on_connect" | "on_disconnect":
            async with connect(rooms, "work/x"):
                pass
            await handle.ask("do", timeout=math.inf)
        case "on_error":
            with pytest.raises(HandlerFailed):
                await handle.ask("raise", timeout=math.inf)
            await handle.ask("do", timeout=math.inf)


HOOKS = (
    "do", "on_create", "on_wake", "on_hibernate", "on_destroy", "on_connect", "on_disconnect", "on_error",
)  # fmt: skip


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log has of handlers that take long."""
    return [record.message for record in caplog.records if "has been running" in record.message]


@pytest.mark.parametrize("what", HOOKS)
async def test_what_hangs_is_told_of(
    what: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With room, handler, seconds and line, less and less often; statistics have it until it ends."""
    caplog.set_level(logging.INFO)
    async with open_rooms([work()]) as rooms, trio.open_nursery() as nursery:
        if what not in ("on_create", "do"):
            await rooms.get("work", "x").ask("do")
            await trio.sleep(5)  # At rest, it is not looked at any more.
        journal.hangs = what
        nursery.start_soon(set_off, rooms, what)
        await trio.sleep(4.9)
        assert warned(caplog) == []
        assert rooms.statistics().supervisor.hanging == ()
        await trio.sleep(90)
        statistics = rooms.statistics().supervisor
        (hanging,) = statistics.hanging
        assert (hanging.key, hanging.handler) == ("work/x", what)
        assert 92 < hanging.seconds < 96
        assert statistics.slow == 1
        called = "the handler of 'do'" if what == "do" else what
        told = [
            re.match(rf"room work/x: {called} has been running for (\d+) s, at .*test_watch\.py:\d+; ", one)
            for one in warned(caplog)
        ]
        seconds = [int(one[1]) for one in told if one is not None]
        assert len(seconds) == len(told)
        assert len(seconds) in (4, 5)
        assert 5 <= seconds[0] <= 7
        assert all(2 * one <= two <= 2 * one + 2 for one, two in itertools.pairwise(seconds))
        await trio.sleep(20)
        assert rooms.statistics().supervisor.hanging == ()
        assert f"room work/x: {called} has ended, after" in caplog.text


async def test_a_room_that_falls_asleep_by_itself_is_looked_at(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It was at rest until then, and its hook hangs."""
    async with open_rooms([work(idle_timeout=20)]) as rooms:
        await rooms.get("work", "x").ask("do")
        journal.hangs = "on_hibernate"
        await trio.sleep(28)
        assert [one.handler for one in rooms.statistics().supervisor.hanging] == ["on_hibernate"]
        assert len(warned(caplog)) == 1


async def test_a_plain_rooms_handler_is_told_of(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a name, too; how many messages wait is said with it."""
    plain: Room[None] = Room("plain", slow_handler=2)
    plain.on_message(_message)
    async with open_rooms([plain]) as rooms, connect(rooms, "plain/x") as client:
        journal.hangs = "on_message"
        for _ in range(2):
            await client.send("hello")
        await trio.sleep(3.5)
        assert "1 message waits behind it" in caplog.text
        await client.send("hello")
        await trio.sleep(2)
        assert [(one.handler, one.key) for one in rooms.statistics().supervisor.hanging] == [
            ("on_message", "plain/x")
        ]
        assert "on_message has been running" in caplog.text
        assert "2 messages wait behind it" in caplog.text


async def test_who_is_busy_does_not_hang(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A room that has something to do for minutes, by many handlers of some seconds each, is not told of."""
    async with open_rooms([work()]) as rooms, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(partial(rooms.get("work", "x").ask, "wait", 4.9, timeout=math.inf))
    assert warned(caplog) == []
    assert trio.current_time() > 240


async def test_a_slow_store_is_no_handler(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What takes its time before a handler begins is not laid to its charge."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([work()], store=store) as rooms:
        store.delay = 20
        await rooms.get("work", "x").ask("wait", 4.9, timeout=math.inf)
        await rooms.get("work", "x").hibernate()
        await rooms.get("work", "x").ask("wait", 4.9, timeout=math.inf)
        store.delay = 0
    assert warned(caplog) == []


async def test_a_room_may_take_its_time(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Each room says for itself what is slow; one for which nothing is, is never told of."""
    rooms_ = [work("work", slow_handler=math.inf), work("soon", slow_handler=0.5)]
    async with open_rooms(rooms_) as rooms:
        await rooms.get("work", "x").ask("wait", 1000, timeout=math.inf)
        assert warned(caplog) == []
        await rooms.get("soon", "x").ask("wait", 4)
        assert len(warned(caplog)) in (1, 2)


async def test_nobody_looks_while_nothing_is_done(autojump_clock: MockClock) -> None:
    """A room at rest has no record, and no look is noted."""
    async with open_rooms([work()]) as rooms:
        watch = rooms._supervisor._watch
        for _ in range(3):
            await rooms.get("work", "x").ask("do")
            assert len(watch._watched) == 1
            await trio.sleep(3)
            assert watch._watched == {}
            assert not watch.looking
        await rooms.get("work", "x").destroy()
        await wait_all_tasks_blocked()
        assert watch._watched == {}


async def test_only_some_of_many_are_shown(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However many hang: those that do so longest."""
    async with open_rooms([work()]) as rooms, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(partial(rooms.get("work", str(number)).ask, "wait", 60, timeout=math.inf))
            if number < 5:
                await trio.sleep(2)
        await trio.sleep(20)
        statistics = rooms.statistics().supervisor
        assert statistics.slow == 100
        assert len(statistics.hanging) == 10
        assert {one.key for one in statistics.hanging} > {f"work/{number}" for number in range(5)}
        seconds = [one.seconds for one in statistics.hanging]
        assert seconds == sorted(seconds, reverse=True)
        assert len(warned(caplog)) < 60
        assert "75 more handlers have been running for too long" in caplog.text
        nursery.cancel_scope.cancel()


async def _block(_ctx: Context[list[Any]]) -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(20)  # Without letting anything else run.


async def test_a_handler_that_blocks_is_told_of_afterwards(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could look at it; the room is named that was busy."""
    room = work()
    room.on("block")(_block)
    async with open_rooms([room]) as rooms:
        await rooms.get("work", "y").ask("do")
        await trio.sleep(10)
        await rooms.get("work", "x").ask("block")
        await trio.sleep(10)
    stalls = [record.message for record in caplog.records if "nothing ran" in record.message]
    assert len(stalls) == 1
    assert re.match(r"nothing ran for (19|20) s or more: .* Busy were the rooms work/x$", stalls[0])


# A time limit.


async def test_who_takes_too_long_is_cancelled(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its sender, the program and on_error are told, and the room goes on with what it has."""
    async with open_rooms([work(handler_timeout=3)]) as rooms, connect(rooms, "work/x") as client:
        handle = rooms.get("work", "x")
        journal.hangs = "do"
        with pytest.raises(EventError) as refused:
            await client.ask("do", 1)
        assert (refused.value.code, refused.value.message) == (
            "handler_timeout", "the room took too long for this",
        )  # fmt: skip
        began = trio.current_time()
        with pytest.raises(HandlerFailed) as caught:
            await handle.ask("nest")
        assert trio.current_time() - began == pytest.approx(3)
        cause = caught.value.__cause__
        assert isinstance(cause, HandlerTimeout)
        assert (cause.key, cause.handler, cause.seconds) == ("work/x", "nest", 3)
        assert re.search(r"'nest' was cancelled, at .*test_watch\.py:\d+: it took", str(cause))
        assert await handle.ask("do", 2) == 2
        await handle.ask("wait", 2.9)
        assert [type(error) for error in journal.errors] == [HandlerTimeout] * 2
        assert rooms.statistics().supervisor.crashes == 0


@pytest.mark.parametrize("what", HOOKS)
async def test_a_hook_that_takes_too_long_has_raised(what: str, autojump_clock: MockClock) -> None:
    """What follows is what follows on any exception of it."""
    async with open_rooms([work(handler_timeout=3)]) as rooms:
        handle = rooms.get("work", "x")
        if what != "on_create":
            await handle.ask("do")
        journal.hangs = what
        crashes = what not in ("do", "on_connect", "on_disconnect")
        began = trio.current_time()
        try:
            await set_off(rooms, what)
        except (HandlerFailed, RoomFailed) as error:
            assert isinstance(error.__cause__, HandlerTimeout)  # noqa: PT017 (not all are told)
        assert trio.current_time() - began < 5
        await handle.ask("do")
        assert rooms.statistics().supervisor.crashes == crashes
        assert journal.hangs == ""


async def test_a_cancelled_handler_is_no_timeout(autojump_clock: MockClock) -> None:
    """Whoever else cancels it is not taken for the time limit."""
    made = work(handler_timeout=30)
    async with open_rooms([made], stop_timeout=1) as rooms, trio.open_nursery() as nursery:
        nursery.start_soon(rooms.get("work", "x").ask, "nest")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert journal.errors == []
