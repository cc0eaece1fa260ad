from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms._loop.deadlines import Deadlines


class Rung:
    """What rang, and when."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, float]] = []

    def bell(self, name: str) -> Callable[[], None]:
        """A deadline that notes itself."""
        return functools.partial(self._ring, name)

    def _ring(self, name: str) -> None:
        self.rung.append((name, trio.current_time()))


@pytest.fixture
def rung() -> Rung:
    """What has rung in this test."""
    return Rung()


async def test_deadlines_ring_in_order(autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery) -> None:
    """Each rings at its time, in whatever order they were set; those of one time as they were set."""
    deadlines = Deadlines()
    start = trio.current_time()
    for name, after in (("c", 3), ("a", 1), ("d", 3), ("b", 2), ("e", 3)):
        deadlines.set(start + after, rung.bell(name))
    nursery.start_soon(deadlines.run)
    await trio.sleep(10)
    assert rung.rung == [
        (name, start + after) for name, after in (("a", 1), ("b", 2), ("c", 3), ("d", 3), ("e", 3))
    ]


async def test_an_earlier_deadline_may_be_set_later(
    autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery
) -> None:
    """A deadline that is set while a later one is waited for rings at its own time, and so does the later."""
    deadlines = Deadlines()
    start = trio.current_time()
    nursery.start_soon(deadlines.run)
    await wait_all_tasks_blocked()
    deadlines.set(start + 9, rung.bell("late"))
    await trio.sleep(1)
    deadlines.set(start + 5, rung.bell("early"))
    deadlines.set(start + 7, rung.bell("between"))
    await trio.sleep(20)
    assert rung.rung == [("early", start + 5), ("between", start + 7), ("late", start + 9)]


async def test_a_ring_may_set_deadlines(autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery) -> None:
    """From inside a ring deadlines are set again, for later, for now, and for a time that is over."""
    deadlines = Deadlines()
    start = trio.current_time()

    def ring() -> None:
        rung.bell("first")()
        deadlines.set(start + 4, rung.bell("later"))
        deadlines.set(start + 2, rung.bell("now"))
        deadlines.set(start - 5, rung.bell("over"))

    deadlines.set(start + 2, ring)
    nursery.start_soon(deadlines.run)
    await trio.sleep(10)
    assert rung.rung[0] == ("first", start + 2)
    assert sorted(rung.rung[1:3]) == [("now", start + 2), ("over", start + 2)]
    assert rung.rung[3:] == [("later", start + 4)]


async def test_a_deadline_may_move_itself(
    autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery
) -> None:
    """An owner that finds its deadline too early sets it again, again and again."""
    deadlines = Deadlines()
    start = trio.current_time()

    def ring() -> None:
        rung.bell("tick")()
        if len(rung.rung) < 5:
            deadlines.set(trio.current_time() + 1, ring)

    nursery.start_soon(deadlines.run)
    await wait_all_tasks_blocked()
    deadlines.set(start + 1, ring)
    await trio.sleep(100)
    assert [when - start for _, when in rung.rung] == [1, 2, 3, 4, 5]


async def test_what_is_over_rings_at_once(
    autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery
) -> None:
    """A deadline for a time that is over, or for now, rings without waiting, set before or while it runs."""
    deadlines = Deadlines()
    start = trio.current_time()
    deadlines.set(start - 1, rung.bell("before"))
    nursery.start_soon(deadlines.run)
    await wait_all_tasks_blocked()
    deadlines.set(start, rung.bell("now"))
    deadlines.set(-math.inf, rung.bell("long ago"))
    await wait_all_tasks_blocked()
    assert sorted(rung.rung) == [("before", start), ("long ago", start), ("now", start)]


async def test_never_is_not_kept(autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery) -> None:
    """A deadline for infinity never rings, takes no place, and is not in the way of others."""
    deadlines = Deadlines()
    for _ in range(1000):
        deadlines.set(math.inf, rung.bell("never"))
    nursery.start_soon(deadlines.run)
    start = trio.current_time()
    deadlines.set(start + 1e6, rung.bell("once"))
    await trio.sleep(1e9)
    assert rung.rung == [("once", start + 1e6)]
    assert not deadlines._heap


async def test_no_deadline_is_early(mock_clock: MockClock, rung: Rung, nursery: trio.Nursery) -> None:
    """Nothing rings before its time, and all that is due rings when the clock jumps over many."""
    deadlines = Deadlines()
    start = trio.current_time()
    for number in range(10):
        deadlines.set(start + number + 1, rung.bell(str(number)))
    nursery.start_soon(deadlines.run)
    await wait_all_tasks_blocked()
    mock_clock.jump(0.5)
    await wait_all_tasks_blocked()
    assert rung.rung == []
    mock_clock.jump(5)
    await wait_all_tasks_blocked()
    assert [name for name, _ in rung.rung] == ["0", "1", "2", "3", "4"]


async def test_many_deadlines_of_one_time_leave_the_loop_to_others(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    """However many are due at once, they ring in order, and not all between two turns of another task."""
    deadlines = Deadlines()
    rung: list[int] = []
    for number in range(5000):
        deadlines.set(1.0, functools.partial(rung.append, number))
    nursery.start_soon(deadlines.run)
    await wait_all_tasks_blocked()
    mock_clock.jump(1.0)
    most = before = 0
    while len(rung) < 5000:
        await trio.lowlevel.checkpoint()
        most = max(most, len(rung) - before)
        before = len(rung)
    assert rung == list(range(5000))
    assert most <= 256
