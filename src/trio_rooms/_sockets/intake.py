"""What has come of large messages that are not whole yet, bounded for all connections together.

Each connection may have a message of the largest size under way. Ten thousand that each send half
of one and then nothing would be gigabytes. So when all that is under way takes more than half of
what it may, only the messages that began first are read on, as many as the other half has room
for; who sends the others is not read until there is room again. And while somebody waits for that,
a message has some seconds to become whole.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

import trio

from .flags import CLOSING, GONE, PAUSED
from .roster import Link

__all__ = ["SMALL", "Intake"]

SMALL: Final = 16 * 1024
"""Bytes of a message up to which it is not counted here."""
_MOST: Final = 64 * 1024 * 1024
"""Bytes that all of it may take, where the largest message is not a good part of that."""
_LARGEST: Final = 4
"""So many of the largest messages there is room for in any case."""
_PATIENCE: Final = 10.0
"""Seconds that a message has to become whole while others wait."""


class _Arrival:
    """A message under way."""

    __slots__ = ("since", "size")

    def __init__(self) -> None:
        self.size = 0
        self.since = trio.current_time()
        """When it began, or was read on."""


class Intake:
    """Says whose message is read on.

    Args:
        largest: bytes of the largest message that is taken.
        set_deadline: see `Timeouts.set`.
        give_up: closes a connection whose message takes too long.
    """

    __slots__ = ("_ahead", "_armed", "_arrivals", "_give_up", "_half", "_set_deadline", "_waiting", "size")

    def __init__(
        self,
        largest: int,
        set_deadline: Callable[[float, Callable[[], object]], object],
        give_up: Callable[[Link], object],
    ) -> None:
        self._half = max(_MOST, _LARGEST * largest) // 2
        self._ahead = self._half // max(largest, 1)
        """Messages that have room in the other half, whatever becomes of them."""
        self._arrivals: dict[Link, _Arrival] = {}
        """By connection, those that began first before the others."""
        self._armed = False
        self._set_deadline = set_deadline
        self._give_up = give_up
        self._waiting: dict[Link, None] = {}
        """Those of them that are not read."""
        self.size: int = 0
        """Bytes of all of it."""

    def __contains__(self, link: Link) -> bool:
        return link in self._arrivals

    def __len__(self) -> int:
        return len(self._arrivals)

    @property
    def short(self) -> bool:
        """Whether there is room only for the first."""
        return self.size > self._half

    def grown(self, link: Link, size: int, *, new: bool) -> None:
        """More of a large message came, of which there are ``size`` bytes now.

        Args:
            link: whose message.
            size: more than `SMALL`.
            new: it is not the one that was under way before.
        """
        if new:
            self.gone(link)
        arrival = self._arrivals.get(link)
        if arrival is None:
            arrival = self._arrivals[link] = _Arrival()
        self.size += size - arrival.size
        arrival.size = size
        if self.size > self._half and not link.flags & CLOSING and not self._is_first(link):
            self._waiting[link] = None
            if not link.flags & PAUSED:
                link.pause_reading()
            self._arm()

    def gone(self, link: Link) -> None:
        """No large message of a connection is under way any more."""
        arrival = self._arrivals.pop(link, None)
        if arrival is None:
            return
        self.size -= arrival.size
        self._read_on(link)
        if self._waiting:
            for one in [*islice(self._arrivals, self._ahead)]:
                self._read_on(one)
            if not self.short:
                # The rest follows as these end: all at once would only have to wait again.
                for one in [*islice(self._waiting, self._ahead)]:
                    self._read_on(one)

    def stop(self) -> None:
        """Read nobody on any more."""
        self._waiting.clear()

    def _is_first(self, link: Link) -> bool:
        return any(one is link for one in islice(self._arrivals, self._ahead))

    def _read_on(self, link: Link) -> None:
        """Read a connection again, if it waits for that here."""
        if link not in self._waiting:
            return
        del self._waiting[link]
        arrival = self._arrivals.get(link)
        if arrival is not None:
            arrival.since = trio.current_time()
        by_room = link.roster.paused is not None and link in link.roster.paused
        if link.flags & PAUSED and not link.flags & GONE and not by_room:
            link.resume_reading()

    def _arm(self) -> None:
        """Look for what takes too long, later."""
        if not self._armed:
            self._armed = True
            self._set_deadline(trio.current_time() + _PATIENCE, self._look)

    def _look(self) -> None:
        """Give up what takes too long, if somebody waits for it."""
        self._armed = False
        if self._waiting:
            before = trio.current_time() - _PATIENCE
            for link, arrival in [*self._arrivals.items()]:
                if link not in self._waiting and arrival.since <= before and not link.flags & CLOSING:
                    self._give_up(link)
        if self._waiting:
            self._arm()
