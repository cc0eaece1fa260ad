"""How a connection is used that is not hibernated."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Limits", "Use"]


class Limits(Protocol):
    """What a room's definition says about its connections."""

    @property
    def connection_idle_timeout(self) -> float:
        """Seconds without use after which a connection is hibernated."""

    @property
    def message_threshold(self) -> int:
        """One that moves more messages than this in an ``activity_window`` is not."""

    @property
    def activity_window(self) -> float:
        """Seconds."""


class Use:
    """How an active connection is used.

    Args:
        now: when it became active, on Trio's clock.
    """

    __slots__ = ("count", "last", "level", "since")

    def __init__(self, now: float) -> None:
        self.last: float = now
        """When its client last sent something for its room, or it was sent something urgent."""
        self.count: int = 0
        """Messages in either direction that `level` does not have yet."""
        self.level: float = 0.0
        """Messages in the window before `since`, as one estimates them from then on: it falls to nothing
        within a window."""
        self.since: float = now

    def rate(self, now: float, window: float) -> float:
        """About how many messages it has moved within the last window."""
        left = 1 - (now - self.since) / window if window else 0
        return self.count + self.level * max(left, 0)

    def settle(self, now: float, window: float) -> None:
        """Take what was counted into the estimate."""
        if self.count:
            self.level, self.since, self.count = self.rate(now, window), now, 0

    def quiet_at(self, limits: Limits) -> float:
        """When it is hibernated if nothing more happens on it, now that all is settled."""
        until, most = self.last + limits.connection_idle_timeout, limits.message_threshold
        if self.level > most:
            until = max(until, self.since + limits.activity_window * (1 - most / self.level))
        return until
