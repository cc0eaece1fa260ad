"""What is due when, in memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms.stores import agenda
from trio_rooms.stores.agenda import Agenda

THINGS = st.integers(0, 40).map(str)
TIMES = st.integers(0, 6).map(float)
STEPS = st.lists(st.tuples(THINGS, st.none() | TIMES | TIMES | TIMES), max_size=80)


@given(STEPS, TIMES, st.integers(0, 30), TIMES | st.just(-math.inf) | st.tuples(TIMES, THINGS))
def test_it_is_in_order_whatever_is_set(
    steps: list[tuple[str, float | None]], until: float, limit: int, after: tuple[float, str] | float
) -> None:
    """Each thing has its last time, and pages are what a sorted list has there, however it is cut."""
    times: dict[str, float] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agenda, "_PIECE", 3)
        order = Agenda[str]()
        for thing, time in steps:
            order.set(thing, time)
            times.pop(thing, None)
            if time is not None:
                times[thing] = time
        expected = sorted((time, thing) for thing, time in times.items())
        assert order.first(math.inf, 1000, -math.inf) == expected
        behind = [one for one in expected if (one if isinstance(after, tuple) else one[0]) > after]  # type: ignore[operator]
        assert order.first(until, limit, after) == [one for one in behind if one[0] <= until][:limit]
