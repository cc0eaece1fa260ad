"""What has come and waits for the program: events, bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from .events import Event

__all__ = ["RESET", "Inbox"]

_BRIM: Final = 4
"""So many times as much as may wait is read while the program waits for an answer that is behind it."""

RESET = "rooms.reset"
"""The event that this side makes itself: a new session has begun in the place of a lost one."""


class Inbox:
    """Events in the order in which they came. Several tasks may take them; each event goes to one.

    Args:
        most: how many wait at most.
        most_bytes: bytes of their messages at most; one that is larger waits alone.
        keep: whether events are kept at all.
    """

    def __init__(self, most: int, most_bytes: int, *, keep: bool) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._keep = keep
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._takers = trio.lowlevel.ParkingLot()
        self._putter = trio.lowlevel.ParkingLot()
        self._over: Callable[[], Exception] | None = None

    def __len__(self) -> int:
        return len(self._events)

    @property
    def is_full(self) -> bool:
        """Whether nothing more may come now."""
        return len(self._events) >= self._most or self._bytes >= self._most_bytes

    @property
    def is_brimming(self) -> bool:
        """Whether nothing more may come, whoever waits for what is behind it."""
        return len(self._events) >= _BRIM * self._most or self._bytes >= _BRIM * self._most_bytes

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        return self._over is not None

    def put(self, event: Event, size: int) -> None:
        """Take an event, full or not: whoever reads the socket looks whether there is room before it reads.

        Args:
            event: the event.
            size: bytes of its message.
        """
        if self._keep and self._over is None:
            self._events.append((event, size))
            self._bytes += size
            self._takers.unpark()

    def reset(self, reason: str) -> None:
        """Say that a new session begins here. Two in a row are one."""
        if not self._events or self._events[-1][0].name != RESET:
            self.put(Event(RESET, {"reason": reason}), 0)

    async def looked(self) -> None:
        """Wait until there may be room, or somebody calls `look`."""
        await self._putter.park()

    def look(self) -> None:
        """Have who waits for room look again."""
        self._putter.unpark_all()

    async def take(self) -> Event:
        """The next event.

        A cancelled call has taken none.

        Raises:
            Exception: what `end` was given, once all that came before is taken.
        """
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._over is not None:
                raise self._over()
            await self._takers.park()
        event, size = self._events.popleft()
        self._bytes -= size
        self._putter.unpark_all()
        return event

    def end(self, error: Callable[[], Exception], *, clear: bool = False) -> None:
        """Nothing will come any more.

        Args:
            error: makes what who takes the next then gets.
            clear: forget what has come, too.
        """
        if self._over is None:
            self._over = error
        if clear:
            self._events.clear()
            self._bytes = 0
        self._takers.unpark_all()
        self._putter.unpark_all()
