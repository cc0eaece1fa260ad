"""Where a user is."""

from __future__ import annotations

import attrs

__all__ = ["Whereabouts"]


@attrs.frozen
class Whereabouts:
    """Where a user is connected, at all nodes."""

    connections: int = 0
    """How many connections she has."""
    rooms: tuple[str, ...] = ()
    """The keys of the rooms that they are to, in order."""

    @property
    def online(self) -> bool:
        """Whether she has a connection."""
        return self.connections > 0

    def and_also(self, other: Whereabouts) -> Whereabouts:
        """Both together."""
        rooms = tuple(sorted({*self.rooms, *other.rooms}))
        return Whereabouts(self.connections + other.connections, rooms)
