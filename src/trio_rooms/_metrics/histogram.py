"""How often which value was seen, in constant memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from math import frexp
from typing import Final

import attrs

__all__ = ["Histogram", "Summary"]

_LEAST: Final = -20
_MOST: Final = 41
"""Powers of two between which values are told apart: from a microsecond, or a byte, to a terabyte."""
_PARTS: Final = 8
"""Buckets for each of them, all of the same width: a value is known to 12.5 %."""
_BUCKETS: Final = _PARTS * (_MOST - _LEAST)
_FIRST: Final = _PARTS * (_LEAST + 2)
"""What `math.frexp` makes of the first bucket: a power of one more, and a half of 16 parts."""


@attrs.frozen
class Summary:
    """What was seen of one thing; of nothing, None where there is no value."""

    count: int
    mean: float | None
    p50: float | None
    """Half of the values were less; known to 6 %, as the other percentiles are."""
    p95: float | None
    p99: float | None
    max: float | None


class Histogram:
    """Counts values: seconds or bytes. To note one takes a third of a microsecond, and no memory."""

    __slots__ = ("_counts", "max", "sum")

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * _BUCKETS))
        self.sum: float = 0.0
        self.max: float = 0.0

    def note(self, value: float) -> None:
        """A value was seen, which is finite; what is less than 0 counts as that."""
        if value > 0:
            part, power = frexp(value)  # part * 2**power, with a part from 0.5 on and below 1
            index = _PARTS * power + int(part * (2 * _PARTS)) - _FIRST
            if not 0 <= index < _BUCKETS:
                index = 0 if index < 0 else _BUCKETS - 1
            self._counts[index] += 1
            self.sum += value
            if value > self.max:  # noqa: PLR1730 (max() would be the dearest step of all)
                self.max = value
        else:
            self._counts[0] += 1

    @property
    def count(self) -> int:
        """How many values were seen; added up when it is asked for."""
        return sum(self._counts)

    def summary(self) -> Summary:
        """What was seen until now."""
        count = self.count
        if not count:
            return Summary(0, None, None, None, None, None)
        p50, p95, p99 = self._percentiles(count, 0.5, 0.95, 0.99)
        return Summary(count, self.sum / count, p50, p95, p99, self.max)

    def _percentiles(self, total: int, *shares: float) -> Iterator[float]:
        """The middle of the bucket in which each of these shares of all, which ascend, has its value."""
        wanted, seen = iter(shares), 0
        share = next(wanted)
        for index, count in enumerate(self._counts):
            seen += count
            while count and seen >= share * total:
                yield min((_bound(index) + _bound(index + 1)) / 2, self.max)
                following = next(wanted, None)
                if following is None:
                    return
                share = following

    def up_to(self, bounds: Iterable[float]) -> list[int]:
        """How many values were no more than each bound, which ascend; known as exactly as buckets are."""
        found, seen, index = [], 0, 0
        for bound in bounds:
            while index < len(self._counts) and _bound(index + 1) <= bound * (1 + 1e-9):
                seen += self._counts[index]
                index += 1
            found.append(seen)
        return found


def _bound(index: int) -> float:
    """Where a bucket begins."""
    power, part = divmod(index, _PARTS)
    return math.ldexp(1 + part / _PARTS, power + _LEAST)
