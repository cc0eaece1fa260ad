"""What is due when, the earliest first: the index of the store in memory."""

from __future__ import annotations

import heapq
from typing import Final, Generic, TypeVar

import attrs

__all__ = ["Agenda"]

T = TypeVar("T")

_WORTH: Final = 64
"""Items that do not count any more and may stay in any case; fewer are not worth a look at all."""


@attrs.define(eq=False)
class Agenda(Generic[T]):
    """Times of things that can be hashed and compared; as much memory as there are times."""

    _times: dict[T, float] = attrs.field(init=False, factory=dict)
    _heap: list[tuple[float, T]] = attrs.field(init=False, factory=list)
    """Each time that counts is in it, and some that do not count any more."""

    def set(self, thing: T, time: float | None) -> None:
        """Have a thing due at a time; with None at no time."""
        if time is None:
            self._times.pop(thing, None)
        elif self._times.get(thing) != time:
            self._times[thing] = time
            heapq.heappush(self._heap, (time, thing))
        if len(self._heap) > _WORTH + 2 * len(self._times):
            self._heap = [(time, thing) for thing, time in self._times.items()]
            heapq.heapify(self._heap)

    def remove(self, thing: T) -> None:
        """The same as to set no time."""
        self.set(thing, None)

    def first(self, until: float, limit: int, after: tuple[float, T] | None = None) -> list[tuple[float, T]]:
        """At most so many of what is due by then, the earliest first.

        Args:
            until: when.
            limit: how many.
            after: only what comes behind this.
        """
        found: list[tuple[float, T]] = []
        passed: list[tuple[float, T]] = []
        heap = self._heap
        while heap and heap[0][0] <= until and len(found) < limit:
            item = heapq.heappop(heap)
            # Set twice, it may be there twice; equal items follow on each other.
            if self._times.get(item[1]) != item[0] or item in found[-1:] or item in passed[-1:]:
                continue
            (found if after is None or item > after else passed).append(item)
        for item in (*passed, *found):
            heapq.heappush(heap, item)
        return found
