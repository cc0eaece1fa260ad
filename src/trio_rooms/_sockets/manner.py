"""How a message goes to connections that are slow, or hibernated, where it does not go as all others do."""

from __future__ import annotations

from collections.abc import Hashable

from .postponed import Entry

__all__ = ["Manner"]


class Manner:
    """How a message goes to those who cannot, or need not, have it at once.

    Args:
        volatile: whether it is dropped for who is slow: something is on its way to it still.
        key: what it is the newest of, so that it takes the place of what waits with the same key; None
            for a message that nothing takes the place of.
        window: seconds for which it waits at hibernated connections, to be written with others.
    """

    __slots__ = ("_entry", "key", "volatile", "window")

    def __init__(self, *, volatile: bool, key: Hashable, window: float) -> None:
        self.volatile: bool = volatile
        self.key: Hashable = key
        self.window: float = window
        self._entry: Entry = (b"", None, None)

    def entry(self, frame: bytes) -> Entry:
        """What waits; one for all that a frame is for."""
        if self._entry[0] is not frame:
            self._entry = (frame, self.key, None)
        return self._entry
