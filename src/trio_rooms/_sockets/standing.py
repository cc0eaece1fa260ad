"""What a session has acknowledged of what was sent to it, as its connection knows it.

A connection without a session has None, one whose session has acknowledged everything that number
alone, which is the connection's own as long as the session has had no other. Only while something is
unacknowledged there is an object, whatever how much of it.
"""

from __future__ import annotations

__all__ = ["Change", "Session", "Unsettled", "sid_of"]

Change = tuple[int, str, bool]
"""A channel was entered (True) or left: the seq that was the highest then, and the channel."""


class Unsettled:
    """A session that was sent what it has not acknowledged.

    Args:
        sid: its number.
        pos: the first seq that it may not have.
        last: the highest that was sent to it, or is about to be.
        changes: the channels that it entered or left at ``pos`` or later.
    """

    __slots__ = ("changes", "last", "pos", "sid")

    def __init__(self, sid: int, pos: int, last: int, changes: tuple[Change, ...] = ()) -> None:
        self.sid: int = sid
        self.pos: int = pos
        self.last: int = last
        self.changes: tuple[Change, ...] = changes


Session = int | Unsettled | None
"""What a connection keeps of its session."""


def sid_of(session: int | Unsettled) -> int:
    """The number of a session."""
    return session.sid if type(session) is Unsettled else session  # type: ignore[return-value]
