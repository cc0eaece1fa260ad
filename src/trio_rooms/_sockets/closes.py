"""Connections that this side closed: how many with which code, and lines in the log about what went wrong."""

from __future__ import annotations

import logging
from typing import Final

import trio

from trio_rooms._wire.close_codes import CloseCode
from trio_rooms._wire.frames import Close

__all__ = ["Closes"]

logger = logging.getLogger("trio_rooms")

_TOLD: Final = {
    CloseCode.PROTOCOL_ERROR,
    CloseCode.UNSUPPORTED,
    CloseCode.INVALID_DATA,
    CloseCode.TOO_BIG,
    CloseCode.INTERNAL_ERROR,
    CloseCode.TRY_AGAIN_LATER,
}
"""Codes that say that something went wrong, and not that somebody decided it."""
_QUIET: Final = 10.0
"""Seconds between two lines about the same code: whoever was closed so comes back, and at once."""


class Closes:
    """Counts the closes, and tells of them."""

    __slots__ = ("_last", "_untold", "counts")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        """How many there were until now, by code."""
        self._last: dict[int, float] = {}
        self._untold: dict[int, int] = {}

    def count(self, code: int) -> None:
        """Count one of which there is nothing to tell."""
        self.counts[code] = self.counts.get(code, 0) + 1

    def note(self, key: str, number: int, close: Close) -> None:
        """Count one, and tell of it if something went wrong.

        Args:
            key: its room's.
            number: the connection's id.
            close: what the client is told.
        """
        code = close.code
        self.count(code)
        if code not in _TOLD:
            return
        now = trio.current_time()
        if now < self._last.get(code, now - _QUIET) + _QUIET:
            self._untold[code] = self._untold.get(code, 0) + 1
            return
        self._last[code] = now
        untold = self._untold.pop(code, 0)
        key, _, _ = key.partition("\n")  # What follows there tells sockets apart whose room is elsewhere.
        more = f" ({untold} more were closed so since this was last told)" if untold else ""
        logger.warning(
            "room %s: connection %x was closed with %d: %s%s", key, number, code, close.reason, more
        )
