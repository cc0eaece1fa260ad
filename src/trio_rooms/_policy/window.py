"""How many messages there were lately: a sliding count of constant size."""

from __future__ import annotations

import math

__all__ = ["Window"]


class Window:
    """Counts what happens within a time, from a counter that only grows.

    The time is cut into windows. Of the one before, as much counts as would be in the last window if what
    happened in it had been spread evenly. So nobody has to note anything but `turn` when a window is over.

    Args:
        length: seconds; 0 counts nothing.
    """

    __slots__ = ("_before", "_began", "_length", "_mark", "ends")

    def __init__(self, length: float) -> None:
        self._length = length
        self._began = 0.0
        self._mark = 0
        self._before = 0
        self.ends: float = math.inf
        """When `turn` is to be called next, or later."""

    def begin(self, now: float, total: int) -> None:
        """Count from now on.

        Args:
            now: on Trio's clock.
            total: what the counter says.
        """
        self._began, self._mark, self._before = now, total, 0
        self.ends = now + self._length if self._length else math.inf

    def turn(self, now: float, total: int) -> None:
        """A window is over; nothing where none is."""
        if now < self.ends:
            return
        late = (now - self._began) // self._length
        self._before = total - self._mark if late < 2 else 0
        self._began += late * self._length
        self._mark = total
        self.ends = self._began + self._length

    def count(self, now: float, total: int) -> float:
        """About how often it happened within the last window."""
        self.turn(now, total)
        if not self._length:
            return 0
        return total - self._mark + self._before * (1 - (now - self._began) / self._length)

    def below(self, most: int, now: float, total: int) -> float:
        """When the count may be below ``most`` at the earliest, if nothing more happens."""
        if self.count(now, total) < most:
            return now
        own = total - self._mark
        if own >= most:
            return self.ends
        return self._began + self._length * (1 - (most - own) / self._before)
