"""What is due when, in order: the index of the store in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import Generic, TypeVar

import attrs

__all__ = ["Agenda"]

T = TypeVar("T", str, tuple[str, int], tuple[str, str], tuple[int, str])


@attrs.define(eq=False)
class Agenda(Generic[T]):
    """Times of things, of each one at most: a list, since moving 100,000 places takes microseconds."""

    _times: dict[T, float] = attrs.field(init=False, factory=dict)
    _order: list[tuple[float, T]] = attrs.field(init=False, factory=list)

    def set(self, thing: T, time: float | None) -> None:
        """Have a thing due at a time; with None at no time."""
        before = self._times.pop(thing, None)
        if before is not None:
            del self._order[bisect_left(self._order, (before, thing))]
        if time is not None:
            self._times[thing] = time
            insort(self._order, (time, thing))

    def first(self, until: float, limit: int, after: tuple[float, T] | float) -> list[tuple[float, T]]:
        """At most so many of what is due by then, in order.

        Args:
            until: by when.
            limit: how many.
            after: only what comes behind this one, or later than this.
        """
        if isinstance(after, tuple):
            start = bisect_right(self._order, after)
        else:
            start = bisect_right(self._order, after, key=_time_of)
        found = self._order[start : start + limit]
        while found and found[-1][0] > until:
            found.pop()
        return found


def _time_of(item: tuple[float, object]) -> float:
    return item[0]
