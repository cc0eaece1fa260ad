"""Reading which rooms there are, and what is loaded of one at each wake: its head and its snapshots."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from trio_rooms.errors import StoreError
from trio_rooms.stores.base import RoomHead, StoredRoom, StoredSnapshot

from .rows import UNLIMITED, TooLarge, damaged, is_corrupt

__all__ = ["read_head", "read_keys", "read_newest", "read_room"]

# Nonce and epoch of the newest snapshot are read where it is newer than what rooms has, and no others:
# they lie behind the documents, which may be large. What most rooms have nothing of is one column, which is
# NULL for them: a number takes longer from SQLite to Python than it takes to be found.
_HEAD_COLUMNS = """
number,
CASE WHEN even.generation > number AND even.generation > coalesce(odd.generation, -1) THEN even.nonce
WHEN odd.generation > number THEN odd.nonce ELSE rooms.nonce END,
CASE WHEN even.generation > number AND even.generation > coalesce(odd.generation, -1) THEN even.epoch
WHEN odd.generation > number THEN odd.epoch ELSE rooms.epoch END,
CASE WHEN seq IS NOT 0 OR had_sessions OR had_timers THEN seq || ',' || before_block || ',' || floor || ',' ||
coalesce(entries - (SELECT journal.entries FROM journal WHERE room = rooms.id
ORDER BY journal.seq LIMIT 1), 0) || ',' ||
coalesce(bytes - (SELECT journal.bytes FROM journal WHERE room = rooms.id
ORDER BY journal.seq LIMIT 1), 0) || ',' ||
EXISTS (SELECT 1 FROM sessions WHERE room = rooms.id) || ',' ||
EXISTS (SELECT 1 FROM timers WHERE room = rooms.id) END,
even.generation, odd.generation, rooms.id, lapses
"""
_FROM = """
FROM rooms LEFT JOIN snapshots AS even ON even.id = 2 * rooms.id
LEFT JOIN snapshots AS odd ON odd.id = 2 * rooms.id + 1
WHERE key = ?
"""
_ENDED_COLUMNS = "number, nonce, epoch, NULL, NULL, NULL, NULL, NULL"
_HEAD = f"SELECT {_HEAD_COLUMNS} {_FROM} UNION ALL SELECT {_ENDED_COLUMNS} FROM ended WHERE key = ?"
# SQLite answers length() of a blob from the row's header, without loading the blob.
_ROOM = f"""
SELECT {_HEAD_COLUMNS},
CASE WHEN length(even.document) <= ? THEN even.document END,
CASE WHEN length(odd.document) <= ? THEN odd.document END
{_FROM}
UNION ALL SELECT {_ENDED_COLUMNS}, NULL, NULL FROM ended WHERE key = ?
"""
# Which is the newer one is in both rows before their documents, of which only that one is loaded.
_NEWEST = f"""
SELECT {_HEAD_COLUMNS},
CASE WHEN coalesce(odd.generation, -1) > coalesce(even.generation, -1) THEN
CASE WHEN length(odd.document) <= ? THEN odd.document END
WHEN length(even.document) <= ? THEN even.document END
{_FROM}
UNION ALL SELECT {_ENDED_COLUMNS}, NULL FROM ended WHERE key = ?
"""
_DOCUMENT = "SELECT document FROM snapshots WHERE id = ?"
_KEYS = "SELECT key FROM rooms WHERE key >= :low AND key < :high ORDER BY key LIMIT :limit"
_NEVER = RoomHead()


def read_head(connection: sqlite3.Connection, key: bytes) -> RoomHead:
    """The head of a room.

    Raises:
        StoreError: a number of the room is damaged.
    """
    row = connection.execute(_HEAD, (key, key)).fetchone()
    return _NEVER if row is None else _head(key, row)


def _head(key: bytes, row: Sequence[Any]) -> RoomHead:
    """What the columns of a head say.

    Raises:
        StoreError: one of them is damaged.
    """
    number, nonce, epoch, rest, even, odd, _, lapses = row[:8]
    try:
        # What is no whole number is refused by this, and what is negative seen.
        all_bits = number | nonce | epoch
        if even is not None:
            all_bits |= even
            number = max(number, even)
        if odd is not None:
            all_bits |= odd
            number = max(number, odd)
        if all_bits >= 0 and (lapses is None or type(lapses) is float):
            if rest is None:
                if lapses is None:
                    return RoomHead(number, nonce, epoch)
                return RoomHead(number, nonce, epoch, lapses=lapses)
            seq, before, floor, entries, size, sessions, timers = map(int, rest.split(b","))
            return RoomHead(
                *(number, nonce, epoch, seq, before, floor, entries, size),
                *(bool(sessions), bool(timers)),
                lapses,
            )
    except (TypeError, ValueError):
        pass
    raise _damage(key, row)


def _damage(key: bytes, row: Sequence[Any]) -> StoreError:
    """The error for a head one of whose numbers is none."""
    number, _, _, _, even, odd, room = row[:7]
    for what, found in (
        ("rooms.number", number),
        (f"snapshots.generation of row {2 * (room or 0)}", 0 if even is None else even),
        (f"snapshots.generation of row {2 * (room or 0) + 1}", 0 if odd is None else odd),
    ):
        if not isinstance(found, int) or found < 0:
            return damaged(key, what, found)
    return damaged(key, "its head", (*row[1:4], row[7]))


def read_room(connection: sqlite3.Connection, key: bytes, most_bytes: int) -> StoredRoom:
    """The head and the snapshots of a room.

    Raises:
        TooLarge: one of the snapshots has more than ``most_bytes``.
        StoreError: a number of the room, or that of a snapshot, is damaged.
    """
    row = _read_row(connection, _ROOM, key, most_bytes)
    if row is None:
        return StoredRoom(_NEVER, ())
    head = _head(key, row)
    even, odd, room, _, even_document, odd_document = row[4:]
    newest = before = None
    if even is not None:
        newest = _snapshot(even, even_document, 2 * room, most_bytes)
    if odd is not None:
        before, newest = newest, _snapshot(odd, odd_document, 2 * room + 1, most_bytes)
        if before is not None and even > odd:
            before, newest = newest, before
    if newest is None:
        return StoredRoom(head, ())
    return StoredRoom(head, (newest,) if before is None else (newest, before))


def read_newest(connection: sqlite3.Connection, key: bytes, most_bytes: int) -> StoredRoom:
    """The same with the newest snapshot alone."""
    row = _read_row(connection, _NEWEST, key, most_bytes)
    if row is None:
        return StoredRoom(_NEVER, ())
    head = _head(key, row)
    even, odd, room, _, document = row[4:]
    if odd is not None and (even is None or odd > even):
        return StoredRoom(head, (_snapshot(odd, document, 2 * room + 1, most_bytes),))
    return StoredRoom(head, () if even is None else (_snapshot(even, document, 2 * room, most_bytes),))


def _read_row(
    connection: sqlite3.Connection, statement: str, key: bytes, most_bytes: int
) -> Sequence[Any] | None:
    """What `_ROOM` or `_NEWEST` gives."""
    try:
        row: Sequence[Any] | None = connection.execute(
            statement, (most_bytes, most_bytes, key, key)
        ).fetchone()
    except sqlite3.DatabaseError as exc:
        if not is_corrupt(exc):
            raise
        if most_bytes < UNLIMITED:
            raise TooLarge from None  # What is damaged is read piece by piece, outside of the event loop.
        return _read_piece_by_piece(connection, key, newest=statement is _NEWEST)
    return row


def _snapshot(generation: int, document: object, id_: int, most_bytes: int) -> StoredSnapshot:
    if type(document) is bytes:
        return StoredSnapshot(generation, document)
    if document is None and most_bytes < UNLIMITED:
        raise TooLarge
    why = document if isinstance(document, sqlite3.DatabaseError) else type(document).__name__
    return StoredSnapshot(generation, b"", f"row {id_} of the table snapshots is damaged ({why})")


def _read_piece_by_piece(connection: sqlite3.Connection, key: bytes, *, newest: bool) -> list[Any] | None:
    """What `_ROOM` or `_NEWEST` gives, with the error in place of a document that cannot be read."""
    head = connection.execute(_HEAD, (key, key)).fetchone()
    if head is None:
        return None
    even, odd, room = head[4:7]
    if newest:
        _head(key, head)  # It says that both are numbers.
        if odd is not None and (even is None or odd > even):
            return [*head, _read_document(connection, 2 * room + 1)]
        return [*head, None if even is None else _read_document(connection, 2 * room)]
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
