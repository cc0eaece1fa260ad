"""Reading which rooms there are, and what is loaded of one at each wake: its head and its snapshots."""

from __future__ import annotations

import sqlite3
from typing import Any

from trio_rooms.stores.base import RoomHead, StoredRoom, StoredSnapshot

from .rows import UNLIMITED, TooLarge, check_number, damaged, is_corrupt

__all__ = ["read_head", "read_keys", "read_room"]

# Parameters are named: some releases of Python 3.12 warn of numbered ones.
# Nonce and epoch of the newest snapshot are read where it is newer than what rooms has, and no others:
# they lie behind the documents, which may be large.
_HEAD_COLUMNS = """
number,
CASE WHEN even.generation > number AND even.generation > coalesce(odd.generation, -1) THEN even.nonce
WHEN odd.generation > number THEN odd.nonce ELSE rooms.nonce END,
CASE WHEN even.generation > number AND even.generation > coalesce(odd.generation, -1) THEN even.epoch
WHEN odd.generation > number THEN odd.epoch ELSE rooms.epoch END,
seq, before_block, floor,
CASE WHEN seq THEN coalesce(entries - (SELECT journal.entries FROM journal WHERE room = rooms.id
ORDER BY journal.seq LIMIT 1), 0) ELSE 0 END,
CASE WHEN seq THEN coalesce(bytes - (SELECT journal.bytes FROM journal WHERE room = rooms.id
ORDER BY journal.seq LIMIT 1), 0) ELSE 0 END,
had_sessions AND EXISTS (SELECT 1 FROM sessions WHERE room = rooms.id),
had_timers AND EXISTS (SELECT 1 FROM timers WHERE room = rooms.id)
"""
_FROM = """
FROM rooms LEFT JOIN snapshots AS even ON even.id = 2 * rooms.id
LEFT JOIN snapshots AS odd ON odd.id = 2 * rooms.id + 1
WHERE key = :key
"""
_ENDED_COLUMNS = "number, nonce, epoch, 0, 0, 0, 0, 0, 0, 0"
_HEAD = f"""
SELECT {_HEAD_COLUMNS}, even.generation, odd.generation, rooms.id {_FROM}
UNION ALL SELECT {_ENDED_COLUMNS}, NULL, NULL, NULL FROM ended WHERE key = :key
"""
# SQLite answers length() of a blob from the row's header, without loading the blob.
_ROOM = f"""
SELECT {_HEAD_COLUMNS}, even.generation, odd.generation, rooms.id,
CASE WHEN length(even.document) <= :most THEN even.document END,
CASE WHEN length(odd.document) <= :most THEN odd.document END
{_FROM}
UNION ALL SELECT {_ENDED_COLUMNS}, NULL, NULL, NULL, NULL, NULL FROM ended WHERE key = :key
"""
_DOCUMENT = "SELECT document FROM snapshots WHERE id = ?"
_KEYS = "SELECT key FROM rooms WHERE key >= :low AND key < :high ORDER BY key LIMIT :limit"
_NEVER = RoomHead()


def read_head(connection: sqlite3.Connection, key: bytes) -> RoomHead:
    """The head of a room.

    Raises:
        StoreError: a number of the room is damaged.
    """
    row = connection.execute(_HEAD, {"key": key}).fetchone()
    return _NEVER if row is None else _head(key, row)


def _head(key: bytes, row: tuple[Any, ...]) -> RoomHead:
    """What the columns of a head say.

    Raises:
        StoreError: one of them is damaged.
    """
    number, nonce, epoch, seq, before, floor, entries, size, sessions, timers, even, odd, room, *_ = row
    check_number(key, "rooms.number", number)
    for generation, id_ in ((even, 0), (odd, 1)):
        if generation is not None:
            check_number(key, f"snapshots.generation of row {2 * room + id_}", generation)
            number = max(number, generation)
    for found in (nonce, epoch, seq, before, floor, entries, size):
        check_number(key, "its head", found)
    return RoomHead(number, nonce, epoch, seq, before, floor, entries, size, bool(sessions), bool(timers))


def read_room(connection: sqlite3.Connection, key: bytes, most_bytes: int) -> StoredRoom:
    """The head and the snapshots of a room.

    Raises:
        TooLarge: one of the snapshots has more than ``most_bytes``.
        StoreError: a number of the room, or that of a snapshot, is damaged.
    """
    try:
        row = connection.execute(_ROOM, {"key": key, "most": most_bytes}).fetchone()
    except sqlite3.DatabaseError as exc:
        if not is_corrupt(exc):
            raise
        if most_bytes < UNLIMITED:
            raise TooLarge from None  # What is damaged is read piece by piece, outside of the event loop.
        row = _read_piece_by_piece(connection, key)
    if row is None:
        return StoredRoom(_NEVER, ())
    head = _head(key, row)
    even, odd, room, *documents = row[10:]
    snapshots = []
    for number, generation in enumerate((even, odd)):
        if generation is not None:
            document = documents[number]
            if isinstance(document, bytes):
                snapshots.append(StoredSnapshot(generation, document))
            elif document is None and most_bytes < UNLIMITED:
                raise TooLarge
            else:
                why = document if isinstance(document, sqlite3.DatabaseError) else type(document).__name__
                damage = f"row {2 * room + number} of the table snapshots is damaged ({why})"
                snapshots.append(StoredSnapshot(generation, b"", damage))
    if len(snapshots) == 2 and snapshots[0].generation < snapshots[1].generation:
        snapshots.reverse()
    return StoredRoom(head, tuple(snapshots))


def _read_piece_by_piece(connection: sqlite3.Connection, key: bytes) -> list[Any] | None:
    """What `_ROOM` gives, with the error in place of a document that cannot be read."""
    head = connection.execute(_HEAD, {"key": key}).fetchone()
    if head is None:
        return None
    even, odd, room = head[10:]
    return [
        *head,
        None if even is None else _read_document(connection, 2 * room),
        None if odd is None else _read_document(connection, 2 * room + 1),
    ]


def _read_document(connection: sqlite3.Connection, id_: int) -> Any:
    """The document in a row of snapshots; if that is damaged, the error."""
    try:
        return connection.execute(_DOCUMENT, (id_,)).fetchone()[0]
    except sqlite3.DatabaseError as exc:
        if not is_corrupt(exc):
            raise
        return exc.with_traceback(None)


def read_keys(connection: sqlite3.Connection, within: tuple[bytes, bytes], limit: int) -> list[str]:
    """Keys in a half-open range, at most ``limit``.

    Raises:
        StoreError: one of them is damaged.
    """
    low, high = within
    rows: list[tuple[bytes]] = connection.execute(
        _KEYS, {"low": low, "high": high, "limit": limit}
    ).fetchall()
    try:
        return [key.decode() for (key,) in rows]
    except UnicodeDecodeError as exc:
        raise damaged(exc.object, "its key", exc.object) from None
