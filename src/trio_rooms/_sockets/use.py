"""How a connection is used that is not hibernated."""

from __future__ import annotations

from trio_rooms._policy.policy import Policy

__all__ = ["Use"]


class Use:
    """How an active connection is used.

    A `Window` counts more exactly, and has to be told when one is over. This one is told only when its
    connection is looked at: a message that comes for it looks at nothing and adds one.

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

    def quiet_at(self, policy: Policy) -> float:
        """When it is hibernated if nothing more happens on it, now that all is settled."""
        until, most = self.last + policy.connection_idle_timeout, policy.message_threshold
        if self.level > most:
            until = max(until, self.since + policy.activity_window * (1 - most / self.level))
        return until
