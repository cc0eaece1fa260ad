"""What a room is told of what happened while nobody asked it: the values that its hooks get."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["Disconnect", "WakeReport"]


@attrs.frozen
class Disconnect:
    """How a connection ended."""

    id: str
    attachment: Any
    code: int
    """The close code of RFC 6455, 7.4; 1005 for none given, 1006 where there was no closing handshake."""
    reason: str
    clean: bool
    """Whether the closing handshake was completed."""
    user: str | None = None
    """Who its client was, see `Admitted`."""


@attrs.frozen
class WakeReport:
    """Why and how a room woke up; what an application reconciles its state by."""

    cause: str
    """What woke it: ``message``, ``connect``, ``disconnect``, ``ask``, ``destroy``, ``schedule``, ``crash``,
    or ``rollback`` where what was done could not be made durable."""
    slept: float | None
    """Seconds of sleep by the monotonic clock; None when it slept in another process,
    crashed, or slept without connections."""
    disconnects: tuple[Disconnect, ...]
    """Who went away while it slept, as long as somebody stayed, the last 1,000 of them: connections, and
    sessions that are over.

    Each also goes to `Room.on_disconnect`, which hears of every one.
    """
    restarted: bool
    """Whether the process was restarted since: then all connections that the state knows are gone."""
    fell_back: bool
    """Whether the newest snapshot did not decode and the one before it was taken."""
