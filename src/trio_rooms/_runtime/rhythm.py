"""How rooms wake and sleep in turn: counted, said in the log, and slower where a room sleeps in vain."""

from __future__ import annotations

import logging
from typing import Final

import trio

from trio_rooms._metrics.metrics import Metrics
from trio_rooms._policy.flapping import Flapping
from trio_rooms._room.actor import Actor
from trio_rooms._room.signs import Signs

__all__ = ["Rhythm"]

logger = logging.getLogger("trio_rooms")

_EARLY: Final = 10.0
_EARLY_SHARE: Final = 0.1
"""A sleep was in vain that lasts no longer than this share of the idle timeout, or so many seconds."""


class Rhythm:
    """Told of each room that wakes, and of each that sleeps.

    Args:
        metrics: where they are counted.
        signs: is told who sleeps.
    """

    __slots__ = ("_flapping", "_metrics", "_signs")

    def __init__(self, metrics: Metrics, signs: Signs) -> None:
        self._metrics = metrics
        self._signs = signs
        self._flapping = Flapping()

    def woken(self, key: str, cause: str, slept: float | None) -> float:
        """A room is about to wake.

        Args:
            key: the room.
            cause: why, as its `WakeReport` has it.
            slept: seconds that it slept in this process, if it did.

        Returns:
            How many times as long as others it is to wait before it sleeps again: 1, or more where it was
            woken just after it was put to sleep.
        """
        self._metrics.wakes[cause] += 1
        if slept is not None:
            self._metrics.hibernation_duration.note(slept)
        if cause == "schedule":
            level = self._flapping.level(key)  # It would have woken then however long it had waited.
        else:
            level = self._flapping.woken(key, trio.current_time())
            self._metrics.flaps += level > 0
        return 2.0**level

    def slept(self, actor: Actor) -> None:
        """A room has fallen asleep, or is destroyed: count why, and see later whether that was too early."""
        trigger, record, now = actor.idleness.trigger, actor.saver.record, trio.current_time()
        self._signs.slept(actor.key, record.number)
        self._signs.saved(actor.key, record.size, actor.saver.state_now)
        awake = now - actor.idleness.began
        logger.debug(
            "room %s sleeps: %s, after %.3f s", actor.key, trigger or "destroyed", awake,
            extra={"cause": trigger or "destroyed", "duration": awake},
        )  # fmt: skip
        if not trigger:
            return
        self._metrics.sleeps[trigger] += 1
        if trigger not in ("explicit", "shutdown"):
            within = min(actor.shared.definition.policy.idle_timeout * _EARLY_SHARE, _EARLY)
            self._flapping.slept(actor.key, now, within)
