"""The rows of sessions, as they are when a commit is cut."""

from __future__ import annotations

from typing import Any, Protocol

import attrs
import cbor2

from trio_rooms._sockets.flags import UNGREETED
from trio_rooms._sockets.roster import Disconnected, Link
from trio_rooms.stores.base import RoomHalf

from .audience import Membership
from .journal import Journal
from .sessions import Sessions

__all__ = ["decode_left", "deleted", "encode_left", "half_of", "membership_of", "present"]


class Record(Protocol):
    """What is asked of the record of a room."""

    journal: Journal | None
    sessions: Sessions


def present(link: Link) -> Link:
    """Where the session of a connection is now: at another connection, or with the last one that it had."""
    roster, sid = link.roster, link.sid
    return roster.link_of(sid) or (roster.away or {}).get(sid) or link


def membership_of(record: Record, link: Link) -> Membership:
    """The channels of a session that has this connection, or had it last."""
    assert record.journal is not None
    assert link.session is not None
    membership = record.journal.membership(link.session, link.channels)
    return attrs.evolve(membership, since=None) if link.flags & UNGREETED else membership


def half_of(record: Record, link: Link) -> RoomHalf | None:
    """What a room has of the session of a connection, as it is now; None if that ended with the room."""
    link = present(link)
    if link.session is None:
        return None
    session = record.sessions.get(link.sid)
    last, opening = (0, None) if session is None else (session.last, session.opening)
    return RoomHalf(last, link.attachment, membership_of(record, link).encode(), opening)


def deleted() -> None:
    """A session that is over, and whose room has heard of it."""


def encode_left(event: Disconnected) -> bytes:
    """How a connection ended, as its session's row has it."""
    return cbor2.dumps([int(event.code), event.reason, event.clean])


def decode_left(encoded: bytes) -> tuple[int, str, bool]:
    """The inverse; for one that ended with its process, that it was lost."""
    if not encoded:
        return 1006, "the connection was lost", False
    left: Any = cbor2.loads(encoded)
    code, reason, clean = left
    return code, reason, clean
