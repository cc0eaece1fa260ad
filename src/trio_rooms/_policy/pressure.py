"""Whether a process is under pressure, so that rooms have to sleep."""

from __future__ import annotations

from typing import Final

from .policy import Policy

__all__ = ["Pressure"]

_TARGET: Final = 15 / 16
"""Of the limit, where no target is given."""
_IN_A_ROW: Final = 3
"""Looks in a row that find the same, before that counts: one may be about a moment."""
_RELIEF: Final = 0.75
"""Of what was too much, where it is enough."""


class _Signal:
    """Something that is too much when it is so in some looks in a row, until it is clearly less.

    Args:
        most: more than this is too much; None for anything.
    """

    __slots__ = ("_most", "_times", "on")

    def __init__(self, most: float | None) -> None:
        self._most = most
        self._times = 0
        self.on: bool = False

    def look(self, value: float | None) -> None:
        """It was this until now; None where that is not known."""
        if self._most is None or value is None or value <= self._most * _RELIEF:
            self._times, self.on = 0, False
        elif value > self._most:
            self._times += 1
            self.on = self.on or self._times >= _IN_A_ROW
        else:
            self._times = 0


class Pressure:
    """Decides by what it is told: more memory than the limit is too much until it is under the target.

    Args:
        policy: has the limits.
    """

    __slots__ = ("_lag", "_policy", "_stall", "limit", "over", "target")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._lag = _Signal(policy.max_lag)
        self._stall = _Signal(policy.memory_stall)
        self.limit: int | None = None
        """Bytes from which on it is too much; None for any."""
        self.target: int = 0
        """Bytes below which it is not any more."""
        self.over: bool = False
        """Whether there is too much memory in use."""

    def may_have(self, total: int | None) -> None:
        """The process may have so much memory, which shares are shares of; None where that is not known."""
        limit = _bytes(self._policy.memory_limit, total)
        target = _bytes(self._policy.memory_target, total)
        self.limit = limit
        if limit is not None:
            # A target that is no less than the limit would be reached and left at each message.
            self.target = int(limit * _TARGET) if target is None else min(target, limit)

    def see_memory(self, resident: int | None) -> None:
        """So many bytes are in use; None where that is not told."""
        if self.limit is None or resident is None:
            self.over = False
        else:
            self.over = resident > (self.target if self.over else self.limit)

    def see_lag(self, seconds: float) -> None:
        """The event loop was so late since it was last asked."""
        self._lag.look(seconds)

    def see_stall(self, share: float | None) -> None:
        """Something has waited for memory for this share of the time; None where that is not told."""
        self._stall.look(share)

    @property
    def trigger(self) -> str:
        """What it is under pressure of: "memory", "lag", or nothing."""
        if self.over or self._stall.on:
            return "memory"
        return "lag" if self._lag.on else ""


def _bytes(given: float | None, total: int | None) -> int | None:
    """What a policy says, in bytes: a share is of what there is."""
    if given is None or (isinstance(given, int) and given > 1):
        return given
    return None if total is None else int(given * total)
