"""The awake rooms that cost most, found a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nlargest
from itertools import islice
from typing import Any, Final

import attrs
import trio

from trio_rooms._room.actor import Actor
from trio_rooms._room.reasons import Reason
from trio_rooms._runtime.supervisor import Supervisor

__all__ = ["Costliest", "plain_reasons"]

_SHOWN: Final = 10
"""Rooms that are told of."""
_KEPT: Final = 50
"""Rooms that were found and are looked at again, so that there are others where some fall asleep."""
_REASONS: Final = 5
"""Reasons that are told of each; a room may have a hundred."""
_AT_ONCE: Final = 800
"""Rooms looked at each time, which takes about 2 ms."""
_STALE: Final = 0.5
"""Seconds for which what was found is good enough for all who ask."""


class Costliest:
    """Finds the awake rooms that cost most: their active connections, and their messages lately.

    Each question looks at those that were found before and at some more, so that it takes as long with ten
    rooms as with a hundred thousand. Among thousands one is found after some questions.

    Args:
        supervisor: has the rooms.
    """

    __slots__ = ("_asked", "_found", "_left", "_supervisor", "_told")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._found: list[str] = []
        """The keys of those that were found, the dearest first."""
        self._left: Iterator[str] = iter(())
        """Those that are still to be looked at, as they were when the last round began."""
        self._asked = -1.0
        self._told: list[dict[str, Any]] = []

    def rooms(self) -> list[dict[str, Any]]:
        """Ten at most, the dearest first, as plain values; only rooms that clients may know of.

        Returns:
            For each ``key``, ``stage``, ``connections``, ``active`` (those of them that are not
            hibernated), ``messages`` (about how many it handled in the last ``activity_window``), ``cost``
            (the sum of these two), and ``reasons``: what keeps it awake, as `RoomHandle.why_awake` has it,
            the first five.
        """
        now = trio.current_time()
        if not 0 <= now - self._asked < _STALE:
            self._asked = now
            self._look(now)
            self._told = [self._shown(key, now) for key in self._found[:_SHOWN]]
        return self._told

    def _look(self, now: float) -> None:
        """Look at some rooms more."""
        keys = list(islice(self._left, _AT_ONCE))
        if len(keys) < _AT_ONCE:
            # A round is over. Few rooms are all looked at each time.
            self._left = iter(self._supervisor.awake_keys())
            keys += islice(self._left, _AT_ONCE - len(keys))
        costs = {key: self._cost(key, now) for key in {*keys, *self._found}}
        self._found = nlargest(_KEPT, [key for key, cost in costs.items() if cost >= 0], costs.__getitem__)

    def _cost(self, key: str, now: float) -> float:
        """What a room costs now; less than 0 where it is not to be told of."""
        actor = self._supervisor.actor(key)
        if actor is None or not actor.shared.definition.public:
            return -1
        return _active(actor) + actor.idleness.lately(now)

    def _shown(self, key: str, now: float) -> dict[str, Any]:
        """One room as it is told."""
        actor = self._supervisor.actor(key)
        assert actor is not None
        active, messages = _active(actor), round(actor.idleness.lately(now), 1)
        return {
            "key": key,
            "stage": actor.stage.value,
            "connections": actor.shared.roster.count,
            "active": active,
            "messages": messages,
            "cost": active + messages,
            "reasons": plain_reasons(self._supervisor.why_awake(key).reasons[:_REASONS]),
        }


def plain_reasons(reasons: Iterable[Reason]) -> list[dict[str, Any]]:
    """Why a room is awake, as plain values."""
    return [attrs.asdict(one) | {"for_seconds": round(one.for_seconds, 3)} for one in reasons]


def _active(actor: Actor) -> int:
    """Connections that something is kept of, beside their sockets' records."""
    active = actor.shared.roster.active
    return 0 if active is None else len(active)
