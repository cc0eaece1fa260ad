"""Rooms that were woken just after they were put to sleep: they are to sleep later the next time."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Flapping"]

_MOST_LATELY: Final = 10_000
"""Sleeping rooms that are remembered, those that fell asleep last; each for some seconds only."""
_MOST_LEVELS: Final = 1024
"""Rooms that are remembered to have flapped, those that did so last."""
_HIGHEST: Final = 3
"""Levels: each doubles what a room waits for before it sleeps, so that it is eight times as long at most."""


class Flapping:
    """Knows which rooms were put to sleep too early of late, and how often in a row.

    It is of constant size: what has no place is forgotten, and costs a room no more than another sleep
    that is too short.
    """

    __slots__ = ("_lately", "_levels")

    def __init__(self) -> None:
        self._lately: OrderedDict[str, float] = OrderedDict()
        """Rooms that were put to sleep, and until when it was too early to wake them."""
        self._levels: OrderedDict[str, int] = OrderedDict()

    def slept(self, key: str, now: float, within: float) -> None:
        """A room was put to sleep, by itself or by a sweep.

        Args:
            key: the room.
            now: on Trio's clock.
            within: seconds within which it should not have been woken.
        """
        lately = self._lately
        while lately and next(iter(lately.values())) <= now:
            lately.popitem(last=False)
        if within > 0:
            lately[key] = now + within
            lately.move_to_end(key)
            if len(lately) > _MOST_LATELY:
                lately.popitem(last=False)

    def woken(self, key: str, now: float) -> int:
        """A room is woken by what might as well have found it awake.

        Returns:
            Its level: above 0 where it was put to sleep just before; else that is forgotten which it had.
        """
        early = self._lately.pop(key, now) > now
        if not early:
            self._levels.pop(key, None)
            return 0
        level = self._levels[key] = min(self._levels.get(key, 0) + 1, _HIGHEST)
        self._levels.move_to_end(key)
        if len(self._levels) > _MOST_LEVELS:
            self._levels.popitem(last=False)
        return level

    def level(self, key: str) -> int:
        """How often in a row a room was woken just after it was put to sleep, 3 at most."""
        return self._levels.get(key, 0)
