from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._metrics.histogram import Histogram, Summary

KNOWN = st.floats(min_value=2.0**-20, max_value=2.0**41, exclude_max=True)
"""What is told apart: from a microsecond, or a byte, to two terabytes."""


def noted(*values: float) -> Histogram:
    """A histogram that has seen these."""
    histogram = Histogram()
    for value in values:
        histogram.note(value)
    return histogram


@given(st.lists(KNOWN, min_size=1))
def test_percentiles_are_known_to_some_percent(values: list[float]) -> None:
    """Of any values: count, mean and maximum are exact, each percentile is known to 6.25 %."""
    summary = noted(*values).summary()
    assert summary.count == len(values)
    assert summary.max == max(values)
    assert summary.mean == pytest.approx(sum(values) / len(values))
    values.sort()
    for share, told in ((0.5, summary.p50), (0.95, summary.p95), (0.99, summary.p99)):
        wanted = values[math.ceil(share * len(values)) - 1]
        assert told is not None
        assert told == pytest.approx(wanted, rel=0.0626)
        assert told <= max(values)


def test_nothing_seen_is_nothing_told() -> None:
    """Without a value there is no mean, and no percentile is guessed."""
    assert Histogram().summary() == Summary(0, None, None, None, None, None)
    assert Histogram().up_to([1, 2]) == [0, 0]


@given(st.lists(KNOWN), st.lists(st.integers(min_value=-19, max_value=40), unique=True).map(sorted))
def test_counts_up_to_powers_of_two_are_exact(values: list[float], powers: list[int]) -> None:
    """As a histogram of Prometheus has it, but that a value which is a bound counts as more than it."""
    bounds = [2.0**power for power in powers]
    assert noted(*values).up_to(bounds) == [sum(value < bound for value in values) for bound in bounds]


def test_what_is_out_of_range_is_counted_at_its_end() -> None:
    """Nothing is lost, whatever comes: the clock may even go back between two looks."""
    histogram = noted(-1.0, 0.0, 1e-30, 1e30)
    assert (histogram.count, histogram.max, histogram.up_to([1e-5, 1e12])) == (4, 1e30, [3, 3])
    assert noted(-3.0).summary() == Summary(1, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_memory_is_constant() -> None:
    """However many values there are, and whichever."""
    histogram = Histogram()
    before = sys.getsizeof(histogram._counts)
    for value in range(1, 10_000):
        histogram.note(value * 0.37)
    assert sys.getsizeof(histogram._counts) == before < 5000
