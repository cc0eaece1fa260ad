"""What a session has acknowledged of what was sent to it, as its connection knows it.

A connection without a session has None, one whose session has acknowledged everything that number
alone, which is the connection's own as long as the session has had no other. Only while something is
unacknowledged there is an object, whatever how much of it.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Change", "Places", "Session", "Unsettled", "acknowledge", "sid_of"]

Change = tuple[int, str, bool]
"""A channel was entered (True) or left: the seq that was the highest then, and the channel."""


class Unsettled:
    """A session that was sent what it has not acknowledged.

    Args:
        sid: its number.
        pos: the first seq that it may not have.
        last: the highest that was sent to it, or is about to be.
        changes: the channels that it entered or left at ``pos`` or later.
        counted: the number of the journal that counts it at ``pos``. A journal is in memory only for a
            while, and the next one does not know of it.
    """

    __slots__ = ("changes", "counted", "last", "pos", "sid")

    def __init__(
        self, sid: int, pos: int, last: int, changes: tuple[Change, ...] = (), counted: int = 0
    ) -> None:
        self.counted: int = counted
        self.sid: int = sid
        self.pos: int = pos
        self.last: int = last
        self.changes: tuple[Change, ...] = changes


Session = int | Unsettled | None
"""What a connection keeps of its session."""


def sid_of(session: int | Unsettled) -> int:
    """The number of a session."""
    return session.sid if type(session) is Unsettled else session  # type: ignore[return-value]


class Places(Protocol):
    """What a connection asks of its room's journal, see `trio_rooms._state.journal.Journal`."""

    released: int
    """The highest up to which all was sent to whoever is there."""

    def stand(self, session: int | Unsettled, seq: int) -> Unsettled:
        """A session was sent the entry at ``seq``."""

    def move(self, session: Unsettled, pos: int) -> None:
        """A session has acknowledged what it stood at, and stands at ``pos`` now."""

    def settle(self, session: Unsettled) -> int:
        """A session has acknowledged all that it was sent; what its connection keeps of it from then on."""

    def release(self, seq: int) -> None:
        """All up to here was sent to whoever was there."""

    def changed(self, session: int | Unsettled, channel: str, *, joined: bool) -> None:
        """A session has entered or left a channel."""

    def changes(self, session: int | Unsettled) -> tuple[Change, ...]:
        """What is kept of a session's changes, for `restore`."""

    def restore(self, session: int | Unsettled, changes: tuple[Change, ...]) -> None:
        """Take back what has changed since `changes` was asked."""


def acknowledge(session: Session, seq: int, journal: Places | None) -> Session:
    """A client has everything up to ``seq``; what its connection keeps of its session from then on.

    What is strange about it, or known already, changes nothing.

    Args:
        session: what it has kept until now.
        seq: what the client says.
        journal: its room's, if that is in memory now.
    """
    if type(session) is not Unsettled or seq < session.pos:
        return session
    if seq >= session.last:
        return session.sid if journal is None else journal.settle(session)
    if journal is None:
        session.pos = seq + 1
    else:
        journal.move(session, seq + 1)
    return session
