"""What keeps hibernation from being of use, noticed where it happens, and said once of each room."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final

import attrs
import trio

from trio_rooms._metrics.metrics import Metrics
from trio_rooms._state.saved import Loaded

__all__ = ["LargeLoad", "Signs"]

logger = logging.getLogger("trio_rooms")

_LARGE: Final = 256 * 1024
"""Bytes of a snapshot from which on reading it takes most of the time of a wake."""
_SLOW: Final = 0.02
"""Seconds that a load may take, of the tenth of a second that a client is to wait for a wake."""
_MOST_TOLD: Final = 4096
"""Rooms that are remembered as told of, with what was told; who is forgotten may be told of again."""
_MOST_LOADS: Final = 32
"""Loads that are kept, the slowest ones."""
_MOST_LINES: Final = 10
_MINUTE: Final = 60.0
"""Lines of the log for one sign within this many seconds; ten thousand rooms may all be alike."""


@attrs.frozen
class LargeLoad:
    """The last load of a room that is large, or was slow to load."""

    key: str
    bytes: int
    """Of its snapshot."""
    seconds: float
    """For which it was read and decoded."""


@attrs.define(eq=False)
class _Lines:
    """What was said of one sign lately."""

    since: float
    count: int = 0


class Signs:
    """Warns of rooms that sleep badly, each once, and says what would help.

    All it has is bounded, whatever clients do. It is asked where something is slow in any case: as a room
    wakes, or sleeps, or saves.

    Args:
        metrics: where rooms are counted that were told of.
    """

    __slots__ = ("_lines", "_loads", "_metrics", "_told")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lines: dict[str, _Lines] = {}
        self._loads: dict[str, LargeLoad] = {}

    # Loads and snapshots.

    @property
    def large_loads(self) -> tuple[LargeLoad, ...]:
        """Rooms whose last load was of over 256 KiB or took over 20 ms; 32 at most, the slowest first."""
        return tuple(sorted(self._loads.values(), key=lambda load: load.seconds, reverse=True))

    def loaded(self, key: str, loaded: Loaded) -> None:
        """A room was loaded."""
        if loaded.size <= _LARGE and loaded.seconds <= _SLOW:
            if self._loads:
                self._loads.pop(key, None)
            return
        loads = self._loads
        loads[key] = LargeLoad(key, loaded.size, loaded.seconds)
        if len(loads) > _MOST_LOADS:
            del loads[min(loads, key=lambda one: loads[one].seconds)]
        if loaded.size > _LARGE:
            self.large(key, loaded.size)
        if loaded.seconds > _SLOW:
            self._tell(
                "slow_load",
                key,
                "it took %.0f ms to load its %.0f KB, which whoever wakes it waits for; keep in ctx.storage "
                "what is not needed at each wake",
                loaded.seconds * 1000,
                loaded.size / 1000,
            )

    def saved(self, key: str, size: int) -> None:
        """A room was saved, with so many bytes."""
        if size > _LARGE:
            self.large(key, size)

    def large(self, key: str, size: int) -> None:
        """The snapshot of a room is large."""
        self._tell(
            "large_snapshot",
            key,
            "its snapshot has %.0f KB, which are read at each wake and written after each change; keep in "
            "ctx.storage what is not needed at each wake, or take old entries out",
            size / 1000,
        )

    # What is said.

    def _tell(self, sign: str, key: str, text: str, *arguments: object) -> None:
        """Warn of a room, if it was not told of."""
        told = self._told
        if (sign, key) in told:
            told.move_to_end((sign, key))
            return
        told[sign, key] = None
        if len(told) > _MOST_TOLD:
            told.popitem(last=False)
        self._metrics.antipatterns[sign] += 1
        now = trio.current_time()
        lines = self._lines.get(sign)
        if lines is None or now - lines.since >= _MINUTE:
            lines = self._lines[sign] = _Lines(now)
        lines.count += 1
        if lines.count <= _MOST_LINES:
            logger.warning("room %s: %s", key, text % arguments, extra={"sign": sign})
        elif lines.count == _MOST_LINES + 1:
            logger.warning(
                "the same (%s) is true of more rooms, which are counted and not told for a minute",
                sign,
                extra={"sign": sign},
            )
