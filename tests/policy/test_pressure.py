from __future__ import annotations

import itertools

import pytest

from trio_rooms import Policy
from trio_rooms._policy.pressure import Pressure

GB = 1_000_000_000


def pressure(total: int | None = 10 * GB, **options: float | None) -> Pressure:
    """With a policy, on a machine that has so much memory."""
    found = Pressure(Policy(**options))  # type: ignore[arg-type]
    found.may_have(total)
    return found


def over(found: Pressure, *resident: int | None) -> list[bool]:
    """Whether it is too much after each of some looks."""
    seen = []
    for one in resident:
        found.see_memory(one)
        seen.append(found.over)
    return seen


def test_over_the_limit_until_under_the_target() -> None:
    """Between the two it stays as it was."""
    found = pressure(memory_limit=1000, memory_target=900)
    assert over(found, 950, 1000, 1001, 950, 901, 900, 950, 1000, 1001, 100) == [
        False, False, True, True, True, False, False, False, True, False,
    ]  # fmt: skip
    assert found.trigger == ""
    found.see_memory(1001)
    assert found.trigger == "memory"


@pytest.mark.parametrize(
    ("total", "options", "limit", "target"),
    [
        (10 * GB, {}, 8 * GB, 7_500_000_000),
        (10 * GB, {"memory_limit": 0.5, "memory_target": 0.4}, 5 * GB, 4 * GB),
        (10 * GB, {"memory_limit": 1.0}, 10 * GB, 9_375_000_000),
        (10 * GB, {"memory_limit": 160_000_000}, 160_000_000, 150_000_000),
        (10 * GB, {"memory_limit": 160_000_000, "memory_target": 0.5}, 160_000_000, 160_000_000),
        (10 * GB, {"memory_limit": 0.5, "memory_target": 1_000_000}, 5 * GB, 1_000_000),
        (None, {"memory_limit": 160_000_000}, 160_000_000, 150_000_000),
        (None, {"memory_limit": 0.5}, None, 0),
        (10 * GB, {"memory_limit": None, "memory_target": 0.5}, None, 0),
    ],
)
def test_shares_are_of_what_the_process_may_have(
    total: int | None, options: dict[str, float | None], limit: int | None, target: int
) -> None:
    """The target is 15/16 of the limit where none is given, and never over the limit."""
    found = pressure(total, **options)
    assert (found.limit, found.target) == (limit, target)
    assert over(found, 1 << 60) == [limit is not None]


def test_what_the_process_may_have_can_change() -> None:
    """As a container's limit can."""
    found = pressure(1000, memory_limit=0.8)
    assert over(found, 790) == [False]
    found.may_have(900)
    assert over(found, 790) == [True]
    found.may_have(1000)
    assert over(found, 751, 750) == [True, False]


def test_where_memory_is_not_told_it_is_not_too_much() -> None:
    """Also after it was."""
    found = pressure(memory_limit=1000)
    assert over(found, None, 2000, None) == [False, True, False]


@pytest.mark.parametrize(("signal", "trigger"), [("lag", "lag"), ("stall", "memory")])
def test_three_looks_in_a_row(signal: str, trigger: str) -> None:
    """A moment is no pressure; and it ends where it is clearly less."""
    found = pressure(memory_stall=0.2, max_lag=0.2)
    see = found.see_lag if signal == "lag" else found.see_stall
    for before in itertools.product([0.1, 0.19, 0.2, 0.3], repeat=2):
        for value in (0.0, *before):
            see(value)
            assert found.trigger == ""
    see(0.0)
    seen = []
    for value in (0.3, 0.25, 0.21, 0.2, 0.16, 0.3, 0.15, 0.3, 0.3):
        see(value)
        seen.append(found.trigger)
    assert seen == ["", "", *[trigger] * 4, "", "", ""]


def test_what_is_none_is_not_looked_at() -> None:
    """Neither lag nor stall nor memory."""
    found = pressure(memory_limit=None, memory_stall=None, max_lag=None)
    for _ in range(5):
        found.see_memory(1 << 60)
        found.see_lag(1000.0)
        found.see_stall(1.0)
        assert found.trigger == ""


def test_memory_goes_before_lag() -> None:
    """It is what sleep helps against."""
    found = pressure(memory_limit=1000)
    for _ in range(3):
        found.see_lag(5.0)
    assert found.trigger == "lag"
    found.see_memory(2000)
    assert found.trigger == "memory"
