"""What is made of measured values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal, TypeAlias

Better: TypeAlias = Literal["low", "high", ""]
"""Which values are good ones; empty where that cannot be said."""


def median(values: Sequence[float]) -> float:
    """The value in the middle, or the mean of the two there."""
    return float(statistics.median(values))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest value."""
    return min(values), max(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of the values that so many percent of them do not exceed (the nearest rank).

    It is always one of the values, and nothing between two of them: the 99th of few is their maximum.
    """
    if not values:
        raise ValueError("there is no percentile of nothing")
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile is from 0 to 100, not {percent}")
    # Rounded first: 99.9 percent of 41,000 is 40,959.00000000001 in floating point.
    rank = math.ceil(round(percent * len(values) / 100, 9))
    return sorted(values)[max(rank, 1) - 1]


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """By how much y grows with each x, by least squares."""
    return statistics.linear_regression(xs, ys).slope


def ratio(value: float, base: float, better: Better) -> float | None:
    """How many times better than the base: above 1 is better, below is worse. None if a zero forbids it."""
    above, below = (base, value) if better == "low" else (value, base)
    return above / below if above > 0 and below > 0 else None
