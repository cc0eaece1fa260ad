"""Why a room is awake: what keeps it so now, for how long, and what will let it sleep."""

from __future__ import annotations

import attrs

from .lifecycle import Stage

__all__ = ["Reason", "WhyAwake"]


@attrs.frozen
class Reason:
    """One thing that keeps a room awake."""

    reason: str
    """What it is: of the same kind, such as "handler", "task", "keep_awake", "commit" or "idle", it is the
    same word."""
    for_seconds: float
    """For how long it has done so."""
    until: str
    """What will let the room sleep, and when, for people."""


@attrs.frozen
class WhyAwake:
    """A room, and all that keeps it awake now."""

    key: str
    stage: Stage
    reasons: tuple[Reason, ...]
    """None for a room that sleeps."""
    node: str | None = None
    """The name of the node that it is at home at, where that is another one, or where nobody here knows: then
    it is empty. What stands above is what this node knows."""
