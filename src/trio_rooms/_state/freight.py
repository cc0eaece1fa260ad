"""What is on its way to the store, so that not all rooms have their states in memory twice at once."""

from __future__ import annotations

from typing import Final

import trio

__all__ = ["Freight"]

MOST: Final = 8 * 1024 * 1024
"""Bytes of states from which on others are not even encoded. A transaction of as many takes the store some
hundredths of a second, so that more at a time would not be faster."""


class Freight:
    """Counts the bytes of encoded states that the store has not written yet; one for each store.

    Each of them is in memory as the state, as its bytes, and as what SQLite makes of those. Where
    hundreds of large rooms are to sleep because memory runs short, that would make it worse.
    """

    __slots__ = ("_next", "_waiting", "bytes")

    def __init__(self) -> None:
        self.bytes: int = 0
        """Of those that are on their way, as far as they are known."""
        self._waiting = trio.lowlevel.ParkingLot()
        self._next = False
        """Whether somebody is about to go on, of whom it is not known yet how much that is."""

    @property
    def full(self) -> bool:
        """Whether whoever wants to encode a state has to `wait`."""
        return self.bytes >= MOST or self._next or bool(self._waiting)

    async def wait(self) -> None:
        """Wait, in turn, until there is room; then `take` or `give`, also nothing, before all else."""
        await self._waiting.park()
        self._next = False

    def take(self, size: int) -> None:
        """So much more is on its way."""
        self.bytes += size
        self._go_on()

    def give(self, size: int) -> None:
        """So much less."""
        self.bytes -= size
        self._go_on()

    def _go_on(self) -> None:
        """Let one more go on, if it may: whether another may depends on how much it has."""
        if self._waiting and not self._next and self.bytes < MOST:
            self._next = True
            self._waiting.unpark()
