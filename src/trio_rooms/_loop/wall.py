"""The time of day, which a test moves together with Trio's clock.

What outlives a process is due at a time of day: the end of a session, a schedule. Under Trio's
own clock that is the system's. Under any other, such as ``trio.testing.MockClock``, it begins
with the system's and moves with that clock, so that a test waits for nothing.
"""

from __future__ import annotations

import time
import weakref
from typing import Final

import attrs
import trio

__all__ = ["WallClock"]

_REAL: Final = ("trio._core._run", "SystemClock")
"""Module and name of Trio's own clock, which it does not show. Were it another some day, the time of
day would go on from that of the first look at it, and no longer follow when somebody sets the system's."""

_origins: Final[weakref.WeakKeyDictionary[trio.abc.Clock, float]] = weakref.WeakKeyDictionary()
"""By clock that is not Trio's own, the time of day at its 0: the same for all who look at it."""


@attrs.define(eq=False)
class WallClock:
    """Tells the time of day in a run of Trio; may be made outside of one, and used in many."""

    _clock: trio.abc.Clock | None = attrs.field(init=False, default=None)
    """The one that it was asked under last."""
    _origin: float | None = attrs.field(init=False, default=None)
    """The time of day at its 0; None for Trio's own."""

    @property
    def steady(self) -> bool:
        """Whether it was found, when it was last asked, to move with Trio's clock, so that nobody sets it."""
        return self._origin is not None

    def now(self) -> float:
        """Seconds since 1970.

        All that is asked under one clock agrees, whichever object is asked.

        Raises:
            RuntimeError: this is no run of Trio.
        """
        clock = trio.lowlevel.current_clock()
        if clock is not self._clock:
            self._clock, self._origin = clock, _origin(clock)
        origin = self._origin
        return time.time() if origin is None else origin + clock.current_time()


def _origin(clock: trio.abc.Clock) -> float | None:
    """The time of day at a clock's 0, None for Trio's own clock; the first look at it decides."""
    kind = type(clock)
    if (kind.__module__, kind.__name__) == _REAL:
        return None
    origin = _origins.get(clock)
    if origin is None:
        origin = _origins[clock] = time.time() - clock.current_time()
    return origin
