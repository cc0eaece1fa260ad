"""What this side has and the server does not know of yet."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Acks"]

_LATEST: Final = 0.25
"""Seconds until the server is told."""
_MOST: Final = 64
"""Events and answers that it is told of together at most."""


class Acks:
    """When to acknowledge: a while after the first event or answer that is not, or when there are many.

    Args:
        seq: from where the session counts.
    """

    def __init__(self, seq: int) -> None:
        self.seq: int = seq
        """The highest that has come."""
        self.due: float = math.inf
        """When the server is to be told."""
        self._count = 0

    def note(self, now: float) -> None:
        """One more event or answer has come."""
        self._count += 1
        if self._count == 1:
            self.due = now + _LATEST
        elif self._count == _MOST:
            self.due = now

    def hurry(self) -> None:
        """What is to be told is told now."""
        if self._count:
            self.due = -math.inf

    def told(self) -> None:
        """The server is told of all."""
        self._count = 0
        self.due = math.inf
