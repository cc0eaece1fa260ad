from __future__ import annotations

import functools
import gc
import math
import weakref
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms._loop.deadlines import Deadline, Deadlines


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


# Cancelling.


class Owner:
    """Something that a deadline would call."""

    def call(self) -> None:
        """Never."""
        pytest.fail("it was cancelled")


async def test_what_is_cancelled_is_not_called_and_let_go_of(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """At once, though its place in the heap may stay until its time; a second cancel does nothing."""
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    gc.disable()
    try:
        owner = Owner()
        gone = weakref.ref(owner)
        deadline = deadlines.set(trio.current_time() + 5, owner.call)
        deadlines.cancel(deadline)
        del owner
        assert gone() is None
    finally:
        gc.enable()
    deadlines.cancel(deadline)
    deadlines.cancel(None)
    await trio.sleep(10)
    deadlines.cancel(deadline)
    assert len(deadlines) == 0


async def test_cancelled_deadlines_do_not_pile_up(
    autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery
) -> None:
    """A hundred thousand that are set and cancelled take hardly more place than those that stay."""
    deadlines = Deadlines()
    start = trio.current_time()
    most = 0
    for number in range(100_000):
        if number % 2000 == 0:
            deadlines.set(start + 100 - number / 2000, rung.bell(str(number)))
        deadlines.cancel(deadlines.set(start + 50 + number % 7, rung.bell("never")))
        most = max(most, len(deadlines))
    assert most <= 3 * 64
    nursery.start_soon(deadlines.run)
    await trio.sleep(101)
    assert rung.rung == [(str(number * 2000), start + 100 - number) for number in reversed(range(50))]


async def test_what_is_called_may_cancel_what_is_due_with_it(
    autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery
) -> None:
    """However many these are, so that the heap is made anew under the task that goes through it."""
    deadlines = Deadlines()
    start = trio.current_time()
    doomed: list[Deadline | None] = []

    def ring() -> None:
        rung.bell("first")()
        for deadline in doomed:
            deadlines.cancel(deadline)

    deadlines.set(start + 1, ring)
    for number in range(300):
        doomed.append(deadlines.set(start + 1, rung.bell("never")))
        if number % 100 == 0:
            deadlines.set(start + 1, rung.bell(str(number)))
            deadlines.set(start + 2, rung.bell(f"{number} later"))
    nursery.start_soon(deadlines.run)
    await trio.sleep(5)
    assert [name for name, _ in rung.rung] == [
        "first",
        "0",
        "100",
        "200",
        "0 later",
        "100 later",
        "200 later",
    ]
    assert len(deadlines) == 0


async def test_what_was_called_can_be_cancelled_without_harm(
    autojump_clock: MockClock, rung: Rung, nursery: trio.Nursery
) -> None:
    """From inside its own call or later, however often: nothing else is taken for cancelled."""
    deadlines = Deadlines()
    start = trio.current_time()
    made: list[Deadline | None] = []

    def ring() -> None:
        rung.bell("ring")()
        deadlines.cancel(made[len(rung.rung) - 1])

    made.extend(deadlines.set(start + number, ring) for number in range(200))
    deadlines.set(start + 300, rung.bell("last"))
    nursery.start_soon(deadlines.run)
    await trio.sleep(250)
    for deadline in made * 3:
        deadlines.cancel(deadline)
    await trio.sleep(100)
    assert [when - start for _, when in rung.rung] == [*range(200), 300]


async def test_a_few_cancelled_deadlines_are_not_worth_a_look(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The heap is gone through for many of them only, whatever was cleared away or called before."""
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)

    def cancelled(count: int) -> None:
        made = [deadlines.set(trio.current_time() + 1, list) for _ in range(count)]
        for deadline in made * 2:
            deadlines.cancel(deadline)

    for _ in range(3):
        cancelled(65)
        assert len(deadlines) == 0
        called = [deadlines.set(trio.current_time() + 1, list) for _ in range(100)]
        cancelled(40)
        await trio.sleep(2)
        for deadline in called:
            deadlines.cancel(deadline)
        cancelled(64)
        assert len(deadlines) == 64
        await trio.sleep(2)
        assert len(deadlines) == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 20)),
        st.tuples(st.just("set many"), st.integers(0, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 1000)),
        st.tuples(st.just("cancel all but"), st.integers(2, 9)),
        st.tuples(st.just("sleep"), st.integers(1, 9)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_what_is_not_cancelled_in_time_is_called_at_its_time(steps: list[tuple[str, int]]) -> None:
    """In any order of setting, cancelling and waiting, and nothing else is called."""

    async def main() -> None:
        deadlines, rung = Deadlines(), Rung()
        made: list[tuple[Deadline | None, float]] = []
        cancelled: set[int] = set()

        def cancel(number: int) -> None:
            deadlines.cancel(made[number][0])
            if made[number][1] > trio.current_time():
                cancelled.add(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deadlines.run)
            for kind, number in steps:
                if kind in {"set", "set many"}:
                    when = trio.current_time() + number + 0.5
                    for _ in range(100 if kind == "set many" else 1):
                        made.append((deadlines.set(when, rung.bell(str(len(made)))), when))
                elif kind == "cancel" and made:
                    cancel(number % len(made))
                elif kind == "cancel all but":
                    for one in range(len(made)):
                        if one % number:
                            cancel(one)
                elif kind == "sleep":
                    await trio.sleep(number)
            await trio.sleep(30)
            nursery.cancel_scope.cancel()
        assert dict(rung.rung) == {
            str(number): when for number, (_, when) in enumerate(made) if number not in cancelled
        }
        assert len(rung.rung) == len(made) - len(cancelled)
        assert len(deadlines) == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
