"""What becomes of something that is sent."""

from __future__ import annotations

import attrs

__all__ = ["Sent"]


@attrs.frozen
class Sent:
    """What has become of something that was sent, a count each."""

    active: int = 0
    """Connections that were in use, and got it at once."""
    parked: int = 0
    """Hibernated connections that it was written to."""
    queued: int = 0
    """Hibernated connections at which it waits."""
    stored: int = 0
    """1 where it waits in the store, for whoever it is for to come."""
    dropped: int = 0
    """How many did not get it, and will not, because it was volatile or there was no room for it."""
    outbox: int = 0
    """1 where the rest is not known yet: it goes out when what the handler has changed is durable, or is on
    its way to the node that has the room."""

    @property
    def reached(self) -> int:
        """To how many connections it went, or goes."""
        return self.active + self.parked + self.queued
