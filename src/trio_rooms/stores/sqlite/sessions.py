"""Reading the sessions of a room, and what their messages were answered."""

from __future__ import annotations

import contextlib
import sqlite3
from types import NoneType
from typing import Any

from trio_rooms.stores.base import LinkHalf, Opening, RoomHalf, StoredSession

from .rows import UNLIMITED, TooLarge, check_row

__all__ = ["read_positions", "read_session", "read_sessions", "read_verdicts"]

# One of whose blobs is larger than what may be read has a NULL as its channels.
_COLUMNS = """
sid, last_id, attachment,
CASE WHEN coalesce(length(attachment), 0) + length(channels) + length(presence) <= :most THEN channels END,
token, user, start, span, link, until, pos, departure, over_in, presence
"""
_TYPES = (
    *(int, int, (bytes, NoneType), bytes, bytes, (bytes, NoneType), int, float),
    *(int, (float, NoneType), int, bytes, int, bytes),
)
_OF_ROOM = "room = (SELECT id FROM rooms WHERE key = :key)"
_SESSION = f"SELECT {_COLUMNS} FROM sessions WHERE {_OF_ROOM} AND sid = :sid"
_SESSIONS = f"SELECT {_COLUMNS} FROM sessions WHERE {_OF_ROOM} AND sid > :after ORDER BY sid LIMIT :limit"
_ENDED_SESSIONS = (
    f"SELECT {_COLUMNS} FROM sessions WHERE over_in = (SELECT id FROM rooms WHERE key = :key) "
    "AND over_in > 0 AND sid > :after ORDER BY sid LIMIT :limit"
)
# Joined crosswise: SQLite then reads those of the user first. The index ends with the primary key.
_FEW_POSITIONS = f"SELECT held, 1 FROM sessions WHERE {_OF_ROOM} AND held > 0 ORDER BY held LIMIT :limit"
_POSITIONS = f"SELECT held, count(*) FROM sessions WHERE {_OF_ROOM} AND held > 0 GROUP BY held"
_VERDICTS = f"""
SELECT id, content FROM verdicts WHERE {_OF_ROOM} AND sid = :sid ORDER BY id LIMIT :limit
"""


def read_session(
    connection: sqlite3.Connection, key: bytes, sid: int, most_bytes: int
) -> StoredSession | None:
    """One session of a room, or None.

    Raises:
        TooLarge: it has more than ``most_bytes``.
        StoreError: it is damaged.
    """
    rows = connection.execute(_SESSION, {"key": key, "sid": sid, "most": most_bytes}).fetchall()
    return _session(key, rows[0], most_bytes) if rows else None


def read_sessions(
    connection: sqlite3.Connection, key: bytes, after: int, limit: int, most_bytes: int, *, ended: bool
) -> list[StoredSession]:
    """Sessions of a room with ids above ``after``, at most ``limit``; with ``ended`` those that are over.

    Raises:
        TooLarge: they have more than ``most_bytes`` together.
        StoreError: one of them is damaged.
    """
    found = []
    wanted = {"key": key, "after": after, "limit": limit, "most": most_bytes}
    # Row by row: a cursor that is dropped early has not read the rest.
    with contextlib.closing(connection.execute(_ENDED_SESSIONS if ended else _SESSIONS, wanted)) as rows:
        for row in rows:
            session = _session(key, row, most_bytes)
            if most_bytes < UNLIMITED:
                most_bytes -= _size(session)
            found.append(session)
    return found


def _session(key: bytes, row: tuple[Any, ...], most_bytes: int) -> StoredSession:
    sid, last, attachment, channels, token, user, start, window = row[:8]
    link, until, pos, left, ended, presence = row[8:]
    if channels is None and most_bytes < UNLIMITED:
        raise TooLarge
    check_row(key, f"session {sid}", row, _TYPES)
    if most_bytes < len(attachment or b"") + len(channels) + len(presence):
        raise TooLarge
    try:
        name = None if user is None else user.decode()
    except UnicodeDecodeError:
        check_row(key, f"the user of session {sid}", (user,), (NoneType,))
        raise
    return StoredSession(
        sid,
        RoomHalf(last, attachment, channels, Opening(token, name, start, window)),
        LinkHalf(link, until, pos, left, bool(ended), presence),
    )


def _size(session: StoredSession) -> int:
    """Bytes of what may be large of a session."""
    return len(session.room.attachment or b"") + len(session.room.channels) + len(session.link.presence)


def read_positions(connection: sqlite3.Connection, key: bytes, limit: int) -> dict[int, int]:
    """How many sessions without a connection stand where.

    Raises:
        TooLarge: there are ``limit`` of them, or more.
        StoreError: one of them is damaged.
    """
    few = limit < UNLIMITED
    rows = connection.execute(_FEW_POSITIONS if few else _POSITIONS, {"key": key, "limit": limit}).fetchall()
    if few and len(rows) == limit:
        raise TooLarge
    found: dict[int, int] = {}
    for row in rows:
        check_row(key, "the position of a session", row, (int, int))
        found[row[0]] = found.get(row[0], 0) + row[1]
    return found


def read_verdicts(
    connection: sqlite3.Connection, key: bytes, sid: int, limit: int, most_bytes: int
) -> dict[int, bytes]:
    """What the messages of a session were answered.

    Raises:
        TooLarge: there are ``limit`` of them, or more, or they have more than ``most_bytes`` together.
        StoreError: one of them is damaged.
    """
    found: dict[int, bytes] = {}
    wanted = {"key": key, "sid": sid, "limit": limit}
    with contextlib.closing(connection.execute(_VERDICTS, wanted)) as rows:
        for row in rows:
            check_row(key, f"a verdict of session {sid}", row, (int, bytes))
            id_, content = row
            if most_bytes < UNLIMITED:
                most_bytes -= len(content)
            found[id_] = content
            if most_bytes < 0 or (limit < UNLIMITED and len(found) == limit):
                raise TooLarge
    return found
