from __future__ import annotations

import math
from typing import Any

import attrs
import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import ScheduleError
from trio_rooms._state.occurrences import Cron, Every
from trio_rooms._state.timers import LATE, MOST_IN_A_ROW, MOST_TIMERS, Missed, Scheduled, Timers, Unreadable
from trio_rooms.stores.base import Timer


def scheduled(name: str = "x", time: float = 100.0, **more: Any) -> Scheduled:
    """Something that is scheduled."""
    return Scheduled(name=name, id="id", due=time, time=time, data=b"\xf6", **more)


def recurring(period: float = 10.0, missed: Missed = "once", **more: Any) -> Scheduled:
    """Something that comes again, due at 100 for the first time."""
    return scheduled(rule=Every(period, 100.0), missed=missed, **more)


NEWER = cbor2.dumps({**cbor2.loads(scheduled().row().content), "jitter": 5})
"""What a later version may write."""


class Store:
    """Notes what is written, and makes it durable when told to."""

    def __init__(self) -> None:
        self.rows: dict[str, Timer] = {}
        self.written: list[tuple[str, Timer | None]] = []
        self.timers = Timers("room/1", lambda name, row: self.written.append((name, row)))

    def commit(self) -> None:
        for name, row in self.written:
            if row is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = row
            self.timers.written(name, row)
        self.written.clear()


# One thing.


@given(
    st.builds(
        Scheduled,
        name=st.text(),
        id=st.text(),
        due=st.none() | st.floats(0, 1e10),
        time=st.floats(0, 1e10),
        data=st.binary(),
        rule=st.none()
        | st.builds(Every, st.floats(1, 1e9), st.floats(0, 1e10))
        | st.builds(Cron, st.text(), st.text()),
        asked=st.none() | st.tuples(st.sampled_from(["at", "after"]), st.floats(0, 1e10)),
        missed=st.sampled_from(["once", "all", "none"]),
        count=st.integers(1, 2**60),
        behind=st.integers(0, 1000),
        failed=st.integers(0, 1000),
        error=st.text(),
    )
)
def test_it_comes_back_from_its_row(one: Scheduled) -> None:
    """A row has all of it."""
    assert Scheduled.of(one.name, one.row()) == one


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"\xf6", NEWER, cbor2.dumps({}), cbor2.dumps({"id": "x", "every": [1]})]
)
def test_what_is_no_row(content: bytes) -> None:
    """What this version has not written is told as that."""
    with pytest.raises(Unreadable):
        Scheduled.of("x", Timer(1.0, content))


def test_the_end_of_all_times() -> None:
    """No date is behind it, and nothing is due there."""
    assert recurring(1e11).following(0.0) is not None
    assert recurring(1e11).following(2.5e11) is None


def test_what_happens_once_ends() -> None:
    """Nothing follows on it."""
    assert scheduled().following(1e9) is None


@given(st.sampled_from(["once", "none"]), st.floats(1, 1e4), st.floats(-1e6, 1e7))
def test_missed_ones_are_one(missed: Missed, period: float, late: float) -> None:
    """Whatever passed until one is handled is let go: the next is the first behind that, in its phase."""
    one = recurring(period, missed)
    following = one.following(100.0 + late)
    assert following is not None
    assert following.time == following.due
    assert following.time > max(100.0, 100.0 + late)
    assert following.time - max(late, 0) - 100 <= period + 1e-6
    assert following.count == 2
    assert following.occurrence != one.occurrence


@given(st.integers(0, 3000), st.floats(0, 0.99))
def test_all_are_made_up_for(missed: int, fraction: float) -> None:
    """Each of those that were missed, in order and once, a thousand in a row; the rest of more is let go."""
    now = 100.0 + 10 * (missed + fraction)
    one: Scheduled | None = recurring(10.0, "all")
    times = []
    while one is not None and one.time <= now:
        times.append(one.time)
        one = one.following(now)
    handled = min(missed, MOST_IN_A_ROW) + 1
    assert times == [100.0 + 10 * place for place in range(handled)]
    assert one is not None
    assert one.time == 100.0 + 10 * (missed + 1)


def test_a_clock_that_is_set_back_repeats_nothing() -> None:
    """The next occurrence lies behind the one that was handled, whatever the clock says."""
    for missed in ("once", "all", "none"):
        following = recurring(10.0, missed).following(20.0)
        assert following is not None
        assert following.time == 110.0


def test_none_is_not_made_up_for() -> None:
    """What is too late is let go, but not what was tried already."""
    one = recurring(missed="none")
    assert not one.lets_go(100.0 + LATE)
    assert one.lets_go(100.0 + LATE + 1)
    assert not attrs.evolve(one, failed=1).lets_go(1e9)
    assert not recurring(missed="once").lets_go(1e9)
    assert not recurring(missed="all").lets_go(1e9)


def test_an_attempt_that_failed() -> None:
    """It is tried again as the same occurrence."""
    again = recurring().after_failure(101.0, 5.0, "boom")
    assert again is not None
    assert (again.due, again.time, again.failed, again.error) == (106.0, 100.0, 1, "boom")
    assert again.occurrence == recurring().occurrence


def test_the_last_attempt_that_failed() -> None:
    """What happens once is kept, and not due any more; what comes again goes on."""
    dead = scheduled().after_failure(101.0, None, "boom")
    assert dead is not None
    assert (dead.due, dead.failed, dead.error) == (None, 1, "boom")
    on = recurring().after_failure(125.0, None, "boom")
    assert on is not None
    assert (on.due, on.failed, on.error, on.count) == (130.0, 0, "boom", 2)
    fine = on.following(131.0)
    assert fine is not None
    assert not fine.error
    assert scheduled(rule=Cron("0 0 1 1 *", "UTC")).after_failure(0.0, None, "boom") is not None


def test_same_times() -> None:
    """A call that asks for the same times again: only what counts from the call is never the same."""
    every = recurring(asked=None)
    assert every.same_times(attrs.evolve(every, rule=Every(10.0, 555.0), data=b"\x01", id="new"))
    assert not every.same_times(attrs.evolve(every, rule=Every(11.0, 100.0)))
    assert not every.same_times(attrs.evolve(every, asked=("after", 3.0)))
    assert not every.same_times(scheduled())
    cron = scheduled(rule=Cron("* * * * *", "UTC"))
    assert cron.same_times(attrs.evolve(cron, time=7.0))
    assert not cron.same_times(attrs.evolve(cron, rule=Cron("* * * * *", "Europe/Berlin")))
    at = scheduled(asked=("at", 100.0))
    assert at.same_times(attrs.evolve(at, id="new"))
    assert not at.same_times(attrs.evolve(at, asked=("at", 101.0)))
    assert not attrs.evolve(at, due=None).same_times(at)
    after = scheduled(asked=("after", 5.0))
    assert not after.same_times(after)


# All of one room.


def test_only_what_is_durable_is_due() -> None:
    """What is written is due once it is in the store; what was written over, or removed, is not."""
    store = Store()
    timers = store.timers
    timers.put(scheduled("a", 10.0))
    timers.put(scheduled("b", 5.0))
    assert timers.due(100.0) is None
    assert timers.next_due() == math.inf
    store.commit()
    assert timers.next_due() == 5.0
    assert timers.due(4.9) is None
    assert timers.due(100.0) == "b"
    timers.put(scheduled("b", 50.0))
    assert timers.due(100.0) == "a"
    assert timers.remove("a")
    assert not timers.remove("a")
    assert timers.due(100.0) is None
    store.commit()
    assert timers.due(100.0) == "b"
    assert timers.names() == ["b"] == list(store.rows)


def test_what_is_replaced_while_it_is_written() -> None:
    """Only the newest row counts, whenever the older is durable."""
    store = Store()
    store.timers.put(scheduled("a", 5.0))
    older = list(store.written)
    store.timers.put(scheduled("a", 5.0, missed="all"))
    for name, row in older:
        store.timers.written(name, row)
    assert store.timers.due(100.0) is None
    store.commit()
    assert store.timers.due(100.0) == "a"


def test_what_goes_on() -> None:
    """The next occurrence takes the place of the one that was handled, at once, with newer data."""
    store = Store()
    timers, one = store.timers, recurring()
    timers.put(one)
    store.commit()
    timers.put(attrs.evolve(one, data=b"\x07"))
    timers.go_on(one, one.following(100.0))
    assert timers.due(110.0) == "x"
    now = timers.get("x")
    assert now is not None
    assert (now.data, now.count) == (b"\x07", 2)
    timers.go_on(one, None)  # It was another occurrence.
    assert timers.get("x") == now
    timers.go_on(now, None)
    assert timers.get("x") is None
    assert not len(timers)
    timers.go_on(now, None)


def test_what_was_scheduled_anew_meanwhile() -> None:
    """What its own handler schedules under its name is left alone."""
    store = Store()
    timers, one = store.timers, scheduled()
    timers.put(one)
    new = attrs.evolve(scheduled(time=500.0), id="new")
    timers.put(new)
    timers.go_on(one, None)
    assert timers.get("x") == new


def test_what_cannot_be_read_is_set_aside() -> None:
    """It stays as it is, and is due no more."""
    store = Store()
    store.timers.load([("x", Timer(5.0, b"\xff"))])
    assert store.timers.due(10.0) == "x"
    store.timers.set_aside("x")
    store.commit()
    assert store.timers.due(10.0) is None
    assert store.rows == {"x": Timer(None, b"\xff")}


def test_a_room_schedules_so_much() -> None:
    """One more name is refused, and so are more bytes; what is there can be replaced and goes on."""
    store = Store()
    timers = store.timers
    for number in range(MOST_TIMERS):
        timers.put(scheduled(f"x{number}"))
    with pytest.raises(ScheduleError, match="10,000"):
        timers.put(scheduled("one more"))
    assert len(timers) == MOST_TIMERS
    timers.put(scheduled("x0", 7.0))
    large = Store().timers
    for number in range(63):
        large.put(attrs.evolve(scheduled(f"x{number}"), data=bytes(65536)))
    with pytest.raises(ScheduleError, match="4,194,304"):
        large.put(attrs.evolve(scheduled("one more"), data=bytes(65536)))
    large.remove("x0")
    large.put(attrs.evolve(scheduled("one more"), data=bytes(65536)))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["put", "remove", "commit", "load"]), st.floats(0, 9)
        )
    )
)
def test_the_next_is_the_earliest_that_is_durable(steps: list[tuple[str, str, float]]) -> None:
    """After any calls: what is due is the earliest of the rows that are in the store and as it is now."""
    store = Store()
    for name, step, time in steps:
        if step == "put":
            store.timers.put(scheduled(name, time))
        elif step == "remove":
            store.timers.remove(name)
        elif step == "commit":
            store.commit()
        else:
            store.written.clear()
            store.timers.load(list(store.rows.items()))
        unsettled = {name for name, _ in store.written}
        durable = [row.due for one, row in store.rows.items() if one not in unsettled and row.due is not None]
        assert store.timers.next_due() == min(durable, default=math.inf)
