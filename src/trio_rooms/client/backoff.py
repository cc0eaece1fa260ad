"""The time between attempts: exponential, with full jitter."""

from __future__ import annotations

import random
from typing import Final

import attrs

__all__ = ["Backoff"]

_DOUBLINGS: Final = 60
"""More would leave the range of floats sooner or later."""


@attrs.define(eq=False)
class Backoff:
    """How long to wait before the next attempt.

    Each wait is any time up to a ceiling that doubles, so that a thousand clients that lost the same
    server come back spread over all of it.
    """

    first: float
    """Seconds of the first ceiling."""
    most: float
    """Seconds of the highest."""
    _tries: int = attrs.field(init=False, default=0)

    @property
    def ceiling(self) -> float:
        """Seconds that the next wait may take at most."""
        return min(self.most, self.first * 2.0 ** min(self._tries, _DOUBLINGS))

    def next(self) -> float:
        """Seconds to wait now; the ceiling doubles."""
        wait = random.uniform(0, self.ceiling)  # noqa: S311 (it spreads clients, and is no secret)
        self._tries += 1
        return wait

    def reset(self) -> None:
        """Begin anew: what was tried has gone well."""
        self._tries = 0
