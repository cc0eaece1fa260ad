"""What is due when, in order: the index of the store in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import islice
from typing import Final, Generic, TypeVar

import attrs

__all__ = ["Agenda"]

T = TypeVar("T", str, tuple[str, int], tuple[str, str], tuple[int, str])

_PIECE: Final = 1000
"""Places in one piece of the order when it is cut: to move so many takes no time, and a million things are
a thousand pieces, which is as little."""


@attrs.define(eq=False)
class Agenda(Generic[T]):
    """Times of things, of each one at most, in pieces: of one list, up to all is moved each time."""

    _times: dict[T, float] = attrs.field(init=False, factory=dict)
    _pieces: list[list[tuple[float, T]]] = attrs.field(init=False, factory=list)
    """In order, each of them and all together; none is empty."""

    def set(self, thing: T, time: float | None) -> None:
        """Have a thing due at a time; with None at no time."""
        before = self._times.pop(thing, None)
        if before is not None:
            self._remove((before, thing))
        if time is not None:
            self._times[thing] = time
            self._insert((time, thing))

    def _insert(self, item: tuple[float, T]) -> None:
        if not self._pieces:
            self._pieces.append([item])
            return
        place = min(bisect_left(self._pieces, item, key=_last), len(self._pieces) - 1)
        piece = self._pieces[place]
        insort(piece, item)
        if len(piece) > 2 * _PIECE:
            self._pieces.insert(place + 1, piece[_PIECE:])
            del piece[_PIECE:]

    def _remove(self, item: tuple[float, T]) -> None:
        place = bisect_left(self._pieces, item, key=_last)
        piece = self._pieces[place]
        del piece[bisect_left(piece, item)]
        if not piece:
            del self._pieces[place]

    def first(self, until: float, limit: int, after: tuple[float, T] | float) -> list[tuple[float, T]]:
        """At most so many of what is due by then, in order.

        Args:
            until: by when.
            limit: how many.
            after: only what comes behind this one, or later than this.
        """
        found: list[tuple[float, T]] = []
        if isinstance(after, tuple):
            place = bisect_right(self._pieces, after, key=_last)
        else:
            place = bisect_right(self._pieces, after, key=_last_time)
        for piece in islice(self._pieces, place, None):
            start = 0
            if not found:
                # The first piece that has any behind it.
                if isinstance(after, tuple):
                    start = bisect_right(piece, after)
                else:
                    start = bisect_right(piece, after, key=_time_of)
            found += piece[start : start + limit - len(found)]
            if len(found) >= limit or found[-1][0] > until:
                break
        while found and found[-1][0] > until:
            found.pop()
        return found


def _time_of(item: tuple[float, T]) -> float:
    return item[0]


def _last(piece: list[tuple[float, T]]) -> tuple[float, T]:
    return piece[-1]


def _last_time(piece: list[tuple[float, T]]) -> float:
    return piece[-1][0]
