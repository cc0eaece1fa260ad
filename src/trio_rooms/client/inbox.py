"""What has come and waits for the program: events, bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from .events import Event

__all__ = ["RESET", "Inbox"]

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
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        return self._over is not None

    def put(self, event: Event, size: int) -> None:
        """Take an event, full or not: whoever reads the socket waits for room before it reads.

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

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.is_full and self._over is None:
            await self._putter.park()

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
