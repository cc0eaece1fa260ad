"""What a handler of a schedule gets, and how often it is tried."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

import attrs

from trio_rooms._arguments import number, whole

__all__ = ["Fire", "Retry"]

D = TypeVar("D")


@attrs.frozen(kw_only=True)
class Fire(Generic[D]):
    """Something that the room has scheduled is due: ``async def turn_over(ctx, fire: Fire[Turn])``."""

    name: str
    """As it was scheduled; behind a colon there may be more than the handler's own name."""
    id: str
    """Of this occurrence alone, and the same with each attempt: what makes an effect outside idempotent."""
    data: D
    """What it was scheduled with, as what the annotation says."""
    due: float
    """When it was to happen, in seconds since 1970; the same with each attempt."""
    attempt: int
    """1 for the first, one more with each that failed."""


@attrs.frozen
class Retry:
    """How often what is scheduled is tried until its handler returns.

    Between two attempts passes a time that is doubled with each, times a random 0.5 to 1, so that
    what failed together does not come back together.

    Args:
        attempts: how many there are until it is given up; from 1 on.
        first: seconds after the first of them, at most; more than 0.
        most: seconds between two at most.

    Without arguments the last attempt is some 6 to 9 hours after the first.
    """

    attempts: int = 20
    first: float = 1.0
    most: float = 3600.0

    def __attrs_post_init__(self) -> None:
        whole("attempts", self.attempts, least=1)
        if not 0 < number("first", self.first) <= number("most", self.most) < math.inf:
            msg = f"first is more than 0 seconds and no more than most, which ends, not {self!r:.200}"
            raise ValueError(msg)

    def delay(self, failed: int, fraction: float) -> float | None:
        """Seconds to the next attempt after so many failed ones; None where there is none.

        Args:
            failed: from 1 on.
            fraction: from 0 to 1, at random.
        """
        if failed >= self.attempts:
            return None
        # 2.0**1024 is more than a float can be.
        longest = min(self.first * 2.0 ** min(failed - 1, 1000), self.most)
        return longest * (0.5 + fraction / 2)
