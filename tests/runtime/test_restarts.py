from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Context, Room, RoomFailed, Stage, open_rooms
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._runtime.restarts import COOL_DOWN, CRASH_WINDOW, MOST_CRASHES, Restarts


@pytest.fixture
def restarts(nursery: trio.Nursery) -> Restarts:
    """A budget for each room, with deadlines that are kept."""
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    return Restarts(deadlines)


async def test_each_try_waits_longer_than_the_one_before(
    autojump_clock: MockClock, restarts: Restarts
) -> None:
    """Twice as long, less up to a half by chance; then the room is given up."""
    for number in range(MOST_CRASHES):
        delay = restarts.after_crash("a/b")
        assert delay is not None
        assert 0.5 <= delay / (0.1 * 2**number) <= 1
        assert not restarts.given_up("a/b")
    assert restarts.after_crash("a/b") is None
    assert restarts.given_up("a/b")
    assert (len(restarts), restarts.total) == (1, MOST_CRASHES + 1)


async def test_rooms_that_crashed_together_do_not_come_back_together(
    autojump_clock: MockClock, restarts: Restarts
) -> None:
    """A hundred of them have about a hundred times for their next try."""
    assert len({restarts.after_crash(f"a/{number}") for number in range(100)}) > 90


async def test_a_room_that_was_given_up_begins_anew_when_it_has_cooled_down(
    autojump_clock: MockClock, restarts: Restarts
) -> None:
    """After its time, neither before nor later, with all of its budget; no other room is touched."""
    for _ in range(MOST_CRASHES + 1):
        restarts.after_crash("a/b")
    assert restarts.after_crash("a/c") is not None
    await trio.sleep(COOL_DOWN - 0.1)
    assert restarts.given_up("a/b")
    assert not restarts.given_up("a/c")
    await trio.sleep(0.2)
    assert not restarts.given_up("a/b")
    assert len(restarts) == 0
    assert [restarts.after_crash("a/b") is None for _ in range(MOST_CRASHES + 1)] == [
        False
    ] * MOST_CRASHES + [True]


@pytest.mark.parametrize(
    ("every", "last"),
    [(1.01 * CRASH_WINDOW / MOST_CRASHES, 100), (0.99 * CRASH_WINDOW / MOST_CRASHES, MOST_CRASHES)],
)
async def test_only_the_crashes_of_the_last_minute_count(
    every: float, last: int, autojump_clock: MockClock, restarts: Restarts
) -> None:
    """A room may crash now and then for ever, but no sixth time within the window."""
    crashes = 0
    for _ in range(100):
        if restarts.after_crash("a/b") is None:
            break
        crashes += 1
        await trio.sleep(every)
    assert crashes == last


async def test_a_crash_counts_for_its_minute_whatever_else_is_forgotten(
    autojump_clock: MockClock, restarts: Restarts
) -> None:
    """That one crash counts no more takes nothing from those after it."""
    restarts.after_crash("a/b")
    await trio.sleep(50)
    for _ in range(4):
        assert restarts.after_crash("a/b") is not None
    await trio.sleep(CRASH_WINDOW - 49)
    assert restarts.after_crash("a/b") is not None
    assert restarts.after_crash("a/b") is None


async def test_nothing_is_kept_of_a_room_that_has_stopped_crashing(
    autojump_clock: MockClock, restarts: Restarts
) -> None:
    """Whatever times they crashed at and however often, given up or not."""
    chance = random.Random(7)
    for number in range(300):
        await trio.sleep(chance.random())
        for _ in range(chance.randrange(1, MOST_CRASHES + 2)):
            restarts.after_crash(f"a/{number}")
    await trio.sleep(CRASH_WINDOW + 1)
    assert len(restarts) == 0
    assert restarts._crashes == {}
    assert len(restarts._deadlines) == 0


# The same through rooms.


async def _crash(ctx: Context[None]) -> None:
    ctx.room.start_soon(_raise)


async def _raise() -> None:
    raise ZeroDivisionError


async def _hello(_ctx: Context[None]) -> str:
    return "hello"


def wreck(**options: Any) -> Room[None]:
    """A room that crashes when it is asked to."""
    room: Room[None] = Room("wreck", **options)
    room.on("crash")(_crash)
    room.on("hello")(_hello)
    return room


async def test_the_budget_outlives_sleep(autojump_clock: MockClock) -> None:
    """A room that crashes six times in a minute is given up, though it sleeps in between."""
    async with open_rooms([wreck(idle_timeout=1)]) as rooms:
        room = rooms.get("wreck", "x")
        for number in range(MOST_CRASHES + 1):
            assert await room.ask("hello") == "hello"
            with contextlib.suppress(RoomFailed):
                await room.ask("crash")
            await trio.sleep(5)
            expected = Stage.ASLEEP if number < MOST_CRASHES else Stage.FAILED
            assert (number, room.info().stage) == (number, expected)
        with pytest.raises(RoomFailed, match="crashed too often"):
            await room.ask("hello")
        assert await rooms.get("wreck", "y").ask("hello") == "hello"
        await trio.sleep(COOL_DOWN)
        assert await room.ask("hello") == "hello"


async def test_a_room_that_crashes_now_and_then_is_never_given_up(autojump_clock: MockClock) -> None:
    """Thirty times, five in each minute."""
    async with open_rooms([wreck(idle_timeout=1)]) as rooms:
        room = rooms.get("wreck", "x")
        for _ in range(30):
            assert await room.ask("hello") == "hello"
            with contextlib.suppress(RoomFailed):
                await room.ask("crash")
            await trio.sleep(12.1)
        assert rooms.statistics().supervisor.crashes == 30
        assert rooms.statistics().supervisor.failed == 0
