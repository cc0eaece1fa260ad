"""What a sweep puts to sleep: when there is one, how many, and who comes first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from .policy import Policy

__all__ = ["Least", "few", "score", "wanted"]

T = TypeVar("T")

_SPARE: Final = 0.04
"""How far above the ratio a sweep for it may get, as a share of all: who is inside five points is right."""


def score(messages: float, silent: float, reluctance: float = 1.0) -> float:
    """How active something is: ``(1 + messages) / (1 + silent)``. Who has least sleeps first.

    Ten messages, the last of them ten seconds ago, are as much as one message a second ago.

    Args:
        messages: how many there were within the last window.
        silent: seconds since the last one.
        reluctance: how many times as much it counts, of one that would soon be awake again; 1 and more.
    """
    return (1 + messages) / (1 + silent) * reluctance


def few(policy: Policy, active: int) -> int:
    """How many a sweep takes: the policy's share of those that are active, and at least one."""
    return max(1, int(policy.sweep * active))


def wanted(policy: Policy, active: int, total: int) -> tuple[str, int] | None:
    """The sweep of connections that there is to be now.

    Args:
        policy: has the ratio and the cap.
        active: connections that are active.
        total: all of them.

    Returns:
        Its trigger, and how many it puts to sleep; None where so many may be active.
    """
    if policy.max_active is not None and active > policy.max_active:
        return "cap", few(policy, active)
    if policy.ratio and total >= policy.ratio_from:
        over = active - _by_ratio(policy, total)
        if over > 0:
            return "ratio", min(few(policy, active), over + int(_SPARE * total))
    return None


def _by_ratio(policy: Policy, total: int) -> int:
    """How many may be active for the ratio."""
    return int((1 - policy.ratio) * total + 1e-9)  # Of ten at a ratio of 0.8 two, though 0.2 is a bit less.


class Least(Generic[T]):
    """Takes many, one by one, and keeps those that score least, in memory for those alone.

    Args:
        count: how many it keeps.
    """

    __slots__ = ("_heap", "_number", "count")

    def __init__(self, count: int) -> None:
        self.count = count
        self._heap: list[tuple[float, int, T]] = []
        """The one that scores most first, so scores are negative; of equals it is the one that came last."""
        self._number = 0

    def takes(self, score: float) -> bool:
        """Whether one with this score would be kept, as it stands."""
        return len(self._heap) < self.count or score < -self._heap[0][0]

    def add(self, score: float, one: T) -> None:
        """One more."""
        self._number -= 1
        entry = (-score, self._number, one)
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._heap)

    def __iter__(self) -> Iterator[T]:
        """Those that are kept, least first."""
        return iter([one for _, _, one in sorted(self._heap, reverse=True)])
