"""How often a room may crash: the budget of each, which outlives its sleep."""

from __future__ import annotations

import random
from functools import partial
from typing import Final

import trio

from trio_rooms._loop.deadlines import Deadlines

__all__ = ["COOL_DOWN", "CRASH_WINDOW", "MOST_CRASHES", "Restarts"]

MOST_CRASHES: Final = 5
CRASH_WINDOW: Final = 60.0
"""A room that crashes more often than this in so many seconds will not be mended by one more try."""
COOL_DOWN: Final = 30.0
"""Seconds for which a room that was given up takes no mail."""
_BACKOFF_FIRST: Final = 0.1
"""Seconds before the first new try, doubled with each crash until the room is given up."""


class Restarts:
    """Decides whether a room that crashed is tried again, and when.

    It remembers a room for as long as its last crash counts, and no longer.

    Args:
        deadlines: where it notes when to forget.
    """

    __slots__ = ("_crashes", "_deadlines", "_given_up", "total")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._crashes: dict[str, list[float]] = {}
        """By room, when it crashed lately, on Trio's clock."""
        self._given_up: set[str] = set()
        self.total: int = 0
        """Crashes until now, of all rooms."""

    def __len__(self) -> int:
        """How many rooms are given up and cool down."""
        return len(self._given_up)

    def after_crash(self, key: str) -> float | None:
        """Count a crash: seconds to the room's next try, or None where it is given up."""
        self.total += 1
        now = trio.current_time()
        crashes = [*(then for then in self._crashes.get(key, ()) if then > now - CRASH_WINDOW), now]
        if len(crashes) > MOST_CRASHES:
            self._crashes.pop(key, None)
            self._given_up.add(key)
            self._deadlines.set(now + COOL_DOWN, partial(self._given_up.discard, key))
            return None
        self._crashes[key] = crashes
        self._deadlines.set(now + CRASH_WINDOW, partial(self._forget, key, now))
        longest = _BACKOFF_FIRST * 2.0 ** (len(crashes) - 1)
        # Jitter, so that rooms which crashed together do not come back together.
        return longest * random.uniform(0.5, 1)  # noqa: S311 (nothing to be kept secret)

    def given_up(self, key: str) -> bool:
        """Whether a room crashed too often and is left alone for a while."""
        return key in self._given_up

    def _forget(self, key: str, last: float) -> None:
        """Drop what is remembered of a room whose last crash counts no more."""
        crashes = self._crashes.get(key)
        if crashes is not None and crashes[-1] == last:
            del self._crashes[key]
