"""Messages that a client sends at regular intervals, and that say nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

__all__ = ["Heartbeats"]

_LONGEST: Final = 64
"""Characters or bytes of a message that may be one."""
_REGULAR: Final = 3
"""Intervals in a row after which one is known to be."""
_TOLERANCE: Final = 0.1
"""By which share of it an interval may be off."""
_MISSED: Final = 4
"""Intervals that may pass for one: others may have woken the room meanwhile."""
_MOST: Final = 1024
_FORGOTTEN: Final = 600.0
"""Connections that are remembered, and the seconds after which one may be forgotten for another: where
there are too many, some are watched for long enough, and not all for too short."""


@attrs.define(eq=False)
class _Beat:
    """The last message of a connection."""

    message: str | bytes
    last: float
    interval: float = 0.0
    count: int = 0
    """Intervals in a row that were so long."""


class Heartbeats:
    """Finds the same short message of the same connection again and again; of constant size."""

    __slots__ = ("_beats",)

    def __init__(self) -> None:
        self._beats: OrderedDict[tuple[str, int], _Beat] = OrderedDict()

    def heard(self, key: str, connection: int, message: str | bytes, now: float) -> float | None:
        """A message has come.

        Args:
            key: the room.
            connection: its number.
            message: what has come.
            now: on Trio's clock.

        Returns:
            The seconds between two, where it is a heartbeat.
        """
        if len(message) > _LONGEST:
            return None
        beats, name = self._beats, (key, connection)
        beat = beats.get(name)
        if beat is None and len(beats) >= _MOST:
            if now - next(iter(beats.values())).last < _FORGOTTEN:
                return None
            beats.popitem(last=False)
        if beat is None or beat.message != message:
            beats[name] = _Beat(message, now)
            beats.move_to_end(name)
            return None
        beats.move_to_end(name)
        interval, beat.last = now - beat.last, now
        times = round(interval / beat.interval) if beat.interval else 0
        if 1 <= times <= _MISSED and abs(interval - times * beat.interval) <= _TOLERANCE * beat.interval:
            beat.count += 1
        else:
            beat.interval, beat.count = interval, 1
        return beat.interval if beat.count >= _REGULAR else None
