"""Rooms are put to sleep where memory runs short or the event loop is late, and nobody looks otherwise."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import Context, Policy, Room, Rooms, open_rooms
from trio_rooms._loop.memory import Stall, SystemMemory
from trio_rooms._runtime import pulse

MB = 1_000_000


@attrs.define(eq=False)
class Scripted:
    """Memory of which each awake room takes a part."""

    each: int = MB
    rest: int = 50 * MB
    freed: int = 0
    """What could be given back to the system, and is in memory until then."""
    told: bool = True
    stalled: Callable[[], Stall | None] = lambda: None
    awake: Callable[[], int] = lambda: 0
    looks: int = 0
    given_back: int = 0
    closed: bool = False

    def open(self) -> None:
        self.closed = False

    def resident(self) -> int | None:
        assert not self.closed
        self.looks += 1
        return self.rest + self.freed + self.each * self.awake() if self.told else None

    def total(self) -> int | None:
        return 1000 * MB

    def stall(self) -> Stall | None:
        return self.stalled()

    def give_back(self) -> None:
        self.given_back += 1
        self.freed = 0

    def close(self) -> None:
        self.closed = True


async def _say(ctx: Context[list[Any]]) -> int:
    ctx.state.append(1)
    return len(ctx.state)


async def _wait(_ctx: Context[list[Any]], data: float) -> None:
    await trio.sleep(data)


async def _stay(ctx: Context[list[Any]], data: float) -> None:
    ctx.room.start_soon(_kept, ctx, data)


async def _kept(ctx: Context[list[Any]], seconds: float) -> None:
    with ctx.room.keep_awake("a call"):
        await trio.sleep(seconds)


@asynccontextmanager
async def opened(memory: Scripted, **policy: Any) -> AsyncIterator[Rooms]:
    """Rooms that sleep for no other reason."""
    room: Room[list[Any]] = Room("room", state=list, slow_handler=1e9)
    room.on("say")(_say)
    room.on("wait")(_wait)
    room.on("stay")(_stay)
    async with open_rooms([room], policy=Policy(idle_timeout=1e9, **policy)) as rooms:
        memory.awake = lambda: rooms._supervisor.statistics().awake
        rooms._supervisor.pulse.ask(memory)
        yield rooms


async def say(rooms: Rooms, *ids: int) -> None:
    """Have each of some rooms handle a message."""
    for one in ids:
        await rooms.get("room", str(one)).ask("say")


def awake(rooms: Rooms) -> set[int]:
    """The rooms that are awake."""
    return {int(key.partition("/")[2]) for key in rooms._supervisor.awake_keys()}


def sleeps(rooms: Rooms) -> dict[str, int]:
    """How often rooms fell asleep, by trigger."""
    return {trigger: count for trigger, count in rooms._supervisor.metrics.sleeps.items() if count}


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """What was said."""
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


async def test_memory_over_its_limit_has_rooms_sleep_until_it_is_under_the_target(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that were used longest ago; a fifth at a time; and they wake again with their state."""
    caplog.set_level(logging.INFO)
    memory = Scripted()
    async with opened(memory, memory_limit=70 * MB, memory_target=63 * MB) as rooms:
        await say(rooms, *range(20))
        await trio.sleep(5)
        assert awake(rooms) == {*range(20)}
        assert memory.given_back == 0
        await trio.sleep(100)
        await say(rooms, *range(15, 21))
        await trio.sleep(5)
        assert awake(rooms) == {*range(9, 21)}
        assert sleeps(rooms) == {"memory": 9}
        assert [line for line in logged(caplog) if "memory" in line] == [
            "memory: 71 MB are in use, with a limit of 70 MB: rooms are put to sleep"
        ]
        await say(rooms, *range(8))
        assert await rooms.get("room", "3").ask("say") == 3
        assert len(awake(rooms)) <= 21
    assert memory.closed


async def test_as_many_wake_at_a_time_as_there_is_memory_for(autojump_clock: MockClock) -> None:
    """By what those take that are awake; at the limit one at a time, and at the stop it does not matter."""
    memory = Scripted(each=10 * MB)
    async with opened(memory, memory_limit=310 * MB, max_waking=8) as rooms:
        waking, seen = rooms._supervisor.waking, []
        for one in range(30):
            await say(rooms, one)
            await trio.sleep(0.5)
            seen.append(waking.most)
        await trio.sleep(5)
        assert seen[:9] == [8] * 9
        assert (seen[12], seen[16], seen[22]) == (6, 4, 1)
        assert min(seen) == 1
        assert len(awake(rooms)) <= 26
        memory.rest = 500 * MB
        await say(rooms, *awake(rooms))
        await trio.sleep(0.01)
        assert rooms._supervisor.sweeper.pressed
    assert not rooms._supervisor.sweeper.pressed
    assert waking.most == 8


async def test_what_was_freed_is_given_back_first(autojump_clock: MockClock) -> None:
    """No room sleeps where that is enough."""
    memory = Scripted()
    async with opened(memory, memory_limit=70 * MB) as rooms:
        await say(rooms, *range(10))
        await trio.sleep(5)
        memory.freed = 30 * MB
        await say(rooms, 3)
        await trio.sleep(5)
        assert memory.given_back == 1
        assert awake(rooms) == {*range(10)}
        assert sleeps(rooms) == {}


async def test_what_sleeping_rooms_have_left_is_given_back(autojump_clock: MockClock) -> None:
    """Also where there is enough: once, when it is worth it, and before nobody looks any more."""
    memory = Scripted()
    async with opened(memory, memory_limit=None) as rooms:
        await say(rooms, *range(20))
        memory.freed = 25 * MB
        await rooms.get("room", "1").hibernate()
        await trio.sleep(5)
        assert memory.given_back == 1
        memory.freed = 25 * MB
        await rooms.get("room", "2").hibernate()
        await trio.sleep(5)
        assert memory.given_back == 1
        memory.freed = 45 * MB
        await rooms.get("room", "3").hibernate()
        await trio.sleep(5)
        assert memory.given_back == 2


async def test_nobody_looks_while_nothing_happens(autojump_clock: MockClock) -> None:
    """Whether rooms sleep or are awake; and what happens begins it anew."""
    memory = Scripted()
    async with opened(memory) as rooms:
        before = memory.looks
        for _ in range(3):
            await say(rooms, 1)
            await trio.sleep(5)
            looks = memory.looks
            await trio.sleep(1e8)
            assert memory.looks == looks
        assert 6 <= memory.looks - before <= 12
        await rooms.get("room", "1").hibernate()
        await trio.sleep(5)
        looks = memory.looks
        await trio.sleep(1e8)
        assert memory.looks == looks
        assert rooms._supervisor.metrics.loop_lag.summary().max == 0


async def test_one_looks_once_a_second_and_sooner_where_little_is_left(autojump_clock: MockClock) -> None:
    """While rooms are busy: no process grows by a gigabyte in a second."""
    memory = Scripted(each=0)
    seen = []
    async with opened(memory, memory_limit=950 * MB) as rooms, trio.open_nursery() as nursery:
        nursery.start_soon(partial(rooms.get("room", "1").ask, "wait", 100, timeout=100))
        for rest in (50, 900, 949):
            memory.rest = rest * MB
            await trio.sleep(3)
            before = memory.looks
            await trio.sleep(9)
            seen.append(memory.looks - before)
        nursery.cancel_scope.cancel()
    assert seen == [10, pytest.approx(9 / 0.05, abs=2), pytest.approx(9 / 0.02, abs=2)]


async def test_where_no_room_can_sleep_it_is_said_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is swept again and again; what can sleep later does so."""
    memory = Scripted()
    async with opened(memory, memory_limit=60 * MB) as rooms:
        for one in range(12):
            await rooms.get("room", str(one)).ask("stay", 30)
        await trio.sleep(20)
        assert len(awake(rooms)) == 12
        (line,) = (line for line in logged(caplog, logging.WARNING) if "memory" in line)
        assert line.startswith("memory: 62 MB are in use, with a limit of 60 MB, and no room can be put to")
        assert line.endswith("(12)")
        assert rooms._supervisor.metrics.sweeps["memory"] == 0
        assert memory.given_back < 50
        await trio.sleep(20)
        await say(rooms, 3)
        await trio.sleep(5)
        assert len(awake(rooms)) <= 6
        assert len([line for line in logged(caplog, logging.WARNING) if "memory" in line]) == 1


async def test_a_limit_below_what_the_program_has(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """All rooms sleep whenever they can, each message is answered, and it is said."""
    memory = Scripted()
    async with opened(memory, memory_limit=40 * MB) as rooms:
        for round_ in range(1, 4):
            for one in range(8):
                assert await rooms.get("room", str(one)).ask("say") == round_
            await trio.sleep(5)
            assert awake(rooms) == set()
    (line,) = (line for line in logged(caplog, logging.WARNING) if "memory" in line)
    assert line.endswith("none is awake, it is the rest of the program")


async def test_garbage_is_collected_where_nothing_else_helps(autojump_clock: MockClock) -> None:
    """Old objects of the program are hardly ever looked at otherwise."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

    memory = Scripted()
    gc.disable()
    try:
        async with opened(memory, memory_limit=40 * MB) as rooms:
            gone = weakref.ref(Cycle())
            gc.freeze()  # No collection of young objects finds it.
            gc.unfreeze()
            assert gone() is not None
            await rooms.get("room", "1").ask("stay", 10)
            await trio.sleep(5)
            assert gone() is None
    finally:
        gc.enable()


async def test_a_loop_that_is_late_again_and_again(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of the rooms sleeps at each look, and no more where it is in time."""
    monkeypatch.setattr(pulse, "perf_counter", trio.current_time)
    memory = Scripted()
    async with opened(memory, max_lag=0.5) as rooms:
        await say(rooms, *range(10))
        for late in (2.0, 2.0, 1.1, 2.0, 2.0):
            await say(rooms, 0)
            mock_clock.jump(late)
            await settled()
        assert sleeps(rooms) == {}
        await say(rooms, 0)
        mock_clock.jump(2.0)
        await settled(mock_clock)
        assert sleeps(rooms) == {"lag": 2}
        await say(rooms, 0)
        mock_clock.jump(1.0)
        await settled(mock_clock)
        assert sleeps(rooms) == {"lag": 2}
        assert (rooms._supervisor.metrics.loop_lag.summary().max or 0) >= 1.0


async def test_a_clock_that_jumps_is_no_lag(mock_clock: MockClock) -> None:
    """A test may let as much time pass as it likes; nobody has waited."""
    async with opened(Scripted(), max_lag=0.5) as rooms:
        try:
            for _ in range(6):
                await say(rooms, *range(3))
                mock_clock.jump(9.0)
                await settled()
                assert sleeps(rooms) == {}
        finally:
            mock_clock.autojump_threshold = 0  # Rooms that were swept would else never come to their end.
        assert rooms._supervisor.metrics.loop_lag.count
        assert rooms._supervisor.metrics.loop_lag.max < 0.5


async def settled(clock: MockClock | None = None) -> None:
    """Let everything happen that is due now; with a clock, also what a sweep waits for."""
    for _ in range(10):
        await wait_all_tasks_blocked()
        if clock is not None:
            clock.jump(0.01)


async def test_stalls_count_while_they_last(autojump_clock: MockClock) -> None:
    """The kernel's figure falls over ten seconds; rooms sleep only while something still waits."""
    memory = Scripted()
    async with opened(memory) as rooms:
        await say(rooms, *range(20))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(rooms.get("room", "0").ask, "wait", 100, timeout=100))
            since = trio.current_time()
            memory.stalled = lambda: Stall(0.5, 0.4 * min(trio.current_time() - since, 6.0))
            await trio.sleep(6)
            lasting = sleeps(rooms)["memory"]
            assert 4 <= lasting <= 12
            await trio.sleep(20)
            assert sleeps(rooms)["memory"] <= lasting + 4
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("limit", [0.8, 100 * MB, None])
async def test_where_nothing_is_told(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    limit: float | None,
) -> None:
    """No room sleeps for memory, and whoever asked for a limit is told that there is none."""
    monkeypatch.setattr(SystemMemory, "resident", lambda _: None)
    async with opened(Scripted(told=False), memory_limit=limit) as rooms:
        await say(rooms, *range(10))
        await trio.sleep(5)
        assert len(awake(rooms)) == 10
        assert rooms._supervisor.pulse.resident is None
    told = [line for line in logged(caplog) if "memory limit is not held" in line]
    assert len(told) == (limit == 100 * MB)


async def test_at_the_stop_no_room_waits_for_a_place(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rooms that were being put to sleep do not begin that anew, and nobody looks at the memory any more."""
    memory = Scripted()
    monkeypatch.setattr(Scripted, "close", lambda _: None)
    async with opened(memory, memory_limit=60 * MB) as rooms:
        await say(rooms, *range(20))
        supervisor, watching = rooms._supervisor, rooms._supervisor.pulse
        watching._see_memory()
        watching.stop()
        looks = memory.looks
        supervisor.sweeper.press("memory", watching._is_relieved, watching._cannot)
        await trio.sleep(1)
        assert sleeps(rooms) == {"memory": 4}
        assert not supervisor.sweeper.pressed
        assert memory.looks == looks
