"""Every statement that is run on the SQLite file of a `DiskStore` once it is open."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from trio_rooms.errors import StoreError
from trio_rooms.stores.base import Commit, StoredRoom, StoredSnapshot
from trio_rooms.stores.checks import check_epoch, differs, encode, is_next

__all__ = ["UNLIMITED", "TooLarge", "forget_ended", "load", "read_keys", "read_list", "read_value", "write"]

UNLIMITED = 2**62
"""Bytes, or rows, where a read may have all."""

# Parameters are named: some releases of Python 3.12 warn of numbered ones.
# SQLite answers length() of a blob from the row's header, without loading the blob.
_LOAD = """
SELECT rooms.id, number,
even.id, even.generation, CASE WHEN length(even.document) <= :most THEN even.document END,
odd.id, odd.generation, CASE WHEN length(odd.document) <= :most THEN odd.document END
FROM rooms LEFT JOIN snapshots AS even ON even.id = 2 * rooms.id
LEFT JOIN snapshots AS odd ON odd.id = 2 * rooms.id + 1
WHERE key = :key
UNION ALL SELECT NULL, number, NULL, NULL, NULL, NULL, NULL, NULL FROM ended WHERE key = :key
"""
_VALUE = """
SELECT CASE WHEN length(value) <= :most THEN value END FROM storage
WHERE room = (SELECT id FROM rooms WHERE key = :key) AND name = :name
"""
_LIST = """
SELECT name, CASE WHEN length(value) <= :most THEN value END FROM storage
WHERE room = (SELECT id FROM rooms WHERE key = :key) AND name >= :low AND name < :high
ORDER BY name LIMIT :limit
"""
_KEYS = "SELECT key FROM rooms WHERE key >= :low AND key < :high ORDER BY key LIMIT :limit"
# Two joins and no IN or ORDER BY: for those SQLite would make a table at each commit.
_FIND = """
SELECT rooms.id, number, coalesce(even.generation, -1), coalesce(odd.generation, -1)
FROM rooms LEFT JOIN snapshots AS even ON even.id = 2 * rooms.id
LEFT JOIN snapshots AS odd ON odd.id = 2 * rooms.id + 1
WHERE key = ?
"""
_PUT = """
INSERT INTO storage (room, name, value) VALUES (?, ?, ?)
ON CONFLICT (room, name) DO UPDATE SET value = excluded.value
"""
_ENDED = "SELECT number FROM ended WHERE key = ?"
_END = (
    "INSERT INTO ended (key, number) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET number = excluded.number"
)
_DOCUMENT = "SELECT document FROM snapshots WHERE id = ?"
_STORED = "SELECT value FROM storage WHERE room = ? AND name = ?"
_HAS_STORAGE = "SELECT EXISTS (SELECT 1 FROM storage WHERE room = ?)"


_ROOM = "SELECT id, number FROM rooms WHERE key = ?"
_GENERATION = "SELECT generation FROM snapshots WHERE id = ?"


class TooLarge(Exception):
    """A read found more than it was allowed to read."""


def load(connection: sqlite3.Connection, key: bytes, most_bytes: int) -> StoredRoom:
    """The number and the snapshots of a room.

    Raises:
        TooLarge: one of the snapshots has more than ``most_bytes``.
        StoreError: the room's number, or that of a snapshot, is damaged.
    """
    try:
        row = connection.execute(_LOAD, {"key": key, "most": most_bytes}).fetchone()
    except sqlite3.DatabaseError as exc:
        if not _is_corrupt(exc):
            raise
        if most_bytes < UNLIMITED:
            raise TooLarge from None  # What is damaged is read piece by piece, outside of the event loop.
        row = _load_piece_by_piece(connection, key)
    if row is None:
        return StoredRoom(0, ())
    _, number, *generations = row
    _check_number(key, "rooms.number", number)
    snapshots = []
    for id_, generation, document in (generations[:3], generations[3:]):
        if id_ is not None:
            _check_number(key, f"snapshots.generation of row {id_}", generation)
            number = max(number, generation)
            if isinstance(document, bytes):
                snapshots.append(StoredSnapshot(generation, document))
            elif document is None and most_bytes < UNLIMITED:
                raise TooLarge
            else:
                why = document if isinstance(document, sqlite3.DatabaseError) else type(document).__name__
                damage = f"row {id_} of the table snapshots is damaged ({why})"
                snapshots.append(StoredSnapshot(generation, b"", damage))
    snapshots.sort(key=lambda one: -one.generation)
    return StoredRoom(number, tuple(snapshots))


def _load_piece_by_piece(connection: sqlite3.Connection, key: bytes) -> list[Any] | None:
    """What `_LOAD` gives, with the error in place of a document that cannot be read."""
    room, number = connection.execute(_ROOM, (key,)).fetchone() or (None, 0)
    if room is None:
        ended = connection.execute(_ENDED, (key,)).fetchone()
        return None if ended is None else [None, ended[0], *[None] * 6]
    row = [room, number]
    for id_ in (2 * room, 2 * room + 1):
        found = connection.execute(_GENERATION, (id_,)).fetchone()
        row += [None] * 3 if found is None else [id_, found[0], _read_document(connection, id_)]
    return row


def _read_document(connection: sqlite3.Connection, id_: int) -> Any:
    """The document in a row of snapshots; if that is damaged, the error."""
    try:
        return connection.execute(_DOCUMENT, (id_,)).fetchone()[0]
    except sqlite3.DatabaseError as exc:
        if not _is_corrupt(exc):
            raise
        return exc.with_traceback(None)


def _is_corrupt(exc: sqlite3.DatabaseError) -> bool:
    """Whether it says that the file is damaged, and would say the same the next time."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def _check_number(key: bytes, what: str, number: object) -> None:
    """Refuse what cannot be the number of a commit.

    Raises:
        StoreError: it is damaged.
    """
    if not isinstance(number, int) or number < 0:
        raise _damaged(key, what, number)


def _damaged(key: bytes, what: str, found: object) -> StoreError:
    """The error for what cannot be what was written; it was written as a number, or as a BLOB."""
    room = key.decode(errors="backslashreplace")
    return StoreError(
        f"room {room}: {what} is damaged: it is {found!r:.100} of type {type(found).__name__}; restore the "
        "file from a backup, or destroy the room"
    )


def read_value(connection: sqlite3.Connection, key: bytes, name: bytes, most_bytes: int) -> bytes | None:
    """One value of a room's storage, or None.

    Raises:
        TooLarge: it has more than ``most_bytes``.
        StoreError: it is damaged.
    """
    rows: list[tuple[Any]] = connection.execute(
        _VALUE, {"key": key, "name": name, "most": most_bytes}
    ).fetchall()
    return _check_value(key, name, rows[0][0], most_bytes) if rows else None


def _check_value(key: bytes, name: object, value: object, most_bytes: int) -> bytes:
    """A value of a room's storage, if it is one.

    Raises:
        TooLarge: it has more than ``most_bytes``.
        StoreError: it is damaged, or its name is.
    """
    if isinstance(value, bytes) and isinstance(name, bytes):
        if len(value) > most_bytes:
            raise TooLarge
        return value
    if value is None and most_bytes < UNLIMITED:
        raise TooLarge
    raise _damaged(key, f"the value of {name!r} in storage", value)


def read_list(
    connection: sqlite3.Connection,
    key: bytes,
    within: tuple[bytes, bytes],
    limit: int,
    most_bytes: int,
) -> list[tuple[str, bytes]]:
    """Names and values of a room's storage, at most ``limit``, with names in a half-open range.

    Raises:
        TooLarge: the values have more than ``most_bytes`` together.
        StoreError: one of them is damaged, or its name is.
    """
    found: list[tuple[str, bytes]] = []
    low, high = within
    wanted = {"key": key, "low": low, "high": high, "limit": limit, "most": most_bytes}
    # Row by row: a cursor that is dropped early has not read the rest.
    with contextlib.closing(connection.execute(_LIST, wanted)) as rows:
        for name, value in rows:
            checked = _check_value(key, name, value, most_bytes)
            if most_bytes < UNLIMITED:
                most_bytes -= len(checked)
            try:
                found.append((name.decode(), checked))
            except UnicodeDecodeError:
                raise _damaged(key, "the name of a value in storage", name) from None
    return found


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
        raise _damaged(exc.object, "its key", exc.object) from None


def write(connection: sqlite3.Connection, commit: Commit, epoch: int) -> bool:
    """Carry out a commit inside the transaction that is open; ``epoch`` is that of the file in it.

    Returns:
        Whether nothing but a number is left of the room by it.

    Raises:
        StaleWrite: nothing of the commit was written, and the transaction can go on.
        StoreError: a number of the room is damaged; the transaction has to be rolled back.
        sqlite3.Error: the transaction has to be rolled back.
    """
    check_epoch(commit, epoch)
    key = encode(commit.key)
    newest, generation, ended = None, -1, None
    room, number, even, odd = connection.execute(_FIND, (key,)).fetchone() or (None, 0, -1, -1)
    for found in (number, even, odd):
        if not isinstance(found, int):
            raise _damaged(key, "the number of its last commit", found)
    if room is None:
        ended = connection.execute(_ENDED, (key,)).fetchone()
        if ended is not None:
            (number,) = ended
    elif even >= 0 or odd >= 0:
        newest, generation = (2 * room, even) if even > odd else (2 * room + 1, odd)
        number = max(number, generation)
    if not is_next(commit, number):
        if not _says_the_same(connection, commit, room, newest if generation == number else None):
            raise differs(commit)
        return False
    if commit.destroy:
        if room is not None:
            connection.execute("DELETE FROM snapshots WHERE id IN (2 * ?, 2 * ? + 1)", (room, room))
            connection.execute("DELETE FROM storage WHERE room = ?", (room,))
        _end(connection, commit, key, room)
        return True
    if room is None:
        if ended is not None:
            connection.execute("DELETE FROM ended WHERE key = ?", (key,))
        room = connection.execute(
            "INSERT INTO rooms (key, number) VALUES (?, ?)", (key, commit.number)
        ).lastrowid
        assert room is not None  # for mypy: it was an INSERT
    elif commit.document is None:
        connection.execute("UPDATE rooms SET number = ? WHERE id = ?", (commit.number, room))
    if commit.document is not None:
        replaced = 2 * room if newest is None else newest ^ 1
        connection.execute(
            "INSERT OR REPLACE INTO snapshots (id, generation, document) VALUES (?, ?, ?)",
            (replaced, commit.number, commit.document),
        )
    for name, value in commit.writes.items():
        if value is None:
            connection.execute("DELETE FROM storage WHERE room = ? AND name = ?", (room, encode(name)))
        else:
            connection.execute(_PUT, (room, encode(name), value))
    if commit.document is None and newest is None:
        (has_storage,) = connection.execute(_HAS_STORAGE, (room,)).fetchone()
        if not has_storage:
            _end(connection, commit, key, room)
            return True
    return False


def forget_ended(connection: sqlite3.Connection, key: bytes) -> None:
    """Forget the number of a room of which nothing else is left; nothing where it has begun again."""
    connection.execute("DELETE FROM ended WHERE key = ?", (key,))


def _end(connection: sqlite3.Connection, commit: Commit, key: bytes, room: int | None) -> None:
    """Keep nothing of a room but the number of its last commit."""
    connection.execute("DELETE FROM rooms WHERE id = ?", (room,))
    connection.execute(_END, (key, commit.number))


def _says_the_same(
    connection: sqlite3.Connection, commit: Commit, room: int | None, written: int | None
) -> bool:
    """Whether a commit, which has the number of the last one, could have been that one.

    Args:
        connection: one with an open transaction.
        commit: which commit.
        room: the room's row, None where nothing is left of the room.
        written: the row of the snapshot that the last commit wrote, if it wrote one.
    """
    if commit.destroy:
        return room is None
    if (written is None) != (commit.document is None):
        return False
    if written is not None and connection.execute(_DOCUMENT, (written,)).fetchone() != (commit.document,):
        return False
    return all(
        connection.execute(_STORED, (room, encode(name))).fetchone() == (None if value is None else (value,))
        for name, value in commit.writes.items()
    )
