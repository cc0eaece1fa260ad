"""How many a sweep takes, and who comes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import Policy
from trio_rooms._policy.sweep import Least, score, wanted


@pytest.mark.parametrize(
    ("active", "count"), [(1, 1), (4, 1), (5, 1), (9, 1), (10, 2), (1000, 200), (20_000, 4000)]
)
def test_a_sweep_takes_a_fifth_and_at_least_one(active: int, count: int) -> None:
    """Of those that are active."""
    assert wanted(Policy(ratio=1.0, ratio_from=1), active, active) == ("ratio", count)
    if active > 1:
        assert wanted(Policy(max_active=active - 1), active, active) == ("cap", count)


def test_nothing_is_swept_inside() -> None:
    """Up to the very number that may be active; with few connections none is looked at for the ratio."""
    classic = Policy.classic()
    assert wanted(Policy(), 1000, 1000) is None
    assert wanted(classic, 9, 9) is None
    assert wanted(classic, 2, 10) is None  # 0.2 is a little less than that.
    assert wanted(classic, 3, 10) == ("ratio", 1)
    assert wanted(classic, 200, 1000) is None
    assert wanted(classic, 201, 1000) == ("ratio", 40)
    assert wanted(classic, 1000, 100_000) is None
    assert wanted(classic, 1001, 100_000) == ("cap", 200)


@given(st.floats(0, 1), st.integers(0, 5000), st.integers(1, 5000))
def test_sweeps_for_the_ratio_end_within_five_points_of_it(
    ratio: float, hibernated: int, active: int
) -> None:
    """Where all that are to sleep can; and they end."""
    policy, total = Policy(ratio=ratio, ratio_from=1, sweep=0.2), hibernated + active
    swept = False
    while (due := wanted(policy, active, total)) is not None:
        active, swept = active - due[1], True
    share = (total - active) / total
    assert share >= ratio - 1e-6
    assert not swept or share <= ratio + 0.05 + 1 / total


def test_who_was_active_least_and_longest_ago_comes_first() -> None:
    """And who would soon be awake again comes later."""
    assert score(10, 10) == score(1, 1) == score(0, 0) == 1
    assert score(0, 5) < score(0, 2) < score(3, 2) < score(3, 0)
    assert score(0, 5) < score(0, 5, 4.0)


@given(st.lists(st.integers(0, 20)), st.integers(1, 10))
def test_the_least_are_kept(scores: list[int], count: int) -> None:
    """In their order, those first that came first; no more than these are held."""
    least: Least[tuple[int, int]] = Least(count)
    for number, one in enumerate(scores):
        taken = least.takes(one)
        least.add(one, (one, number))
        assert taken == ((one, number) in [*least])
        assert len(least) == min(count, number + 1)
    assert [*least] == sorted((one, number) for number, one in enumerate(scores))[:count]
