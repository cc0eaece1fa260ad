"""Every statement that is run on the SQLite file of a `DiskStore` once it is open."""

from __future__ import annotations

import contextlib
import sqlite3

from trio_rooms.stores.base import Commit, StoredRoom, StoredSnapshot
from trio_rooms.stores.checks import check_epoch, differs, encode, is_next

__all__ = ["TooLarge", "load", "read_keys", "read_list", "read_value", "write"]

# Parameters are named: some releases of Python 3.12 warn of numbered ones.
# SQLite answers length() of a blob from the row's header, without loading the blob.
_LOAD = """
SELECT number,
even.generation, CASE WHEN length(even.document) <= :most THEN even.document END,
odd.generation, CASE WHEN length(odd.document) <= :most THEN odd.document END
FROM rooms LEFT JOIN snapshots AS even ON even.id = 2 * rooms.id
LEFT JOIN snapshots AS odd ON odd.id = 2 * rooms.id + 1
WHERE key = :key
UNION ALL SELECT number, NULL, NULL, NULL, NULL FROM ended WHERE key = :key
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


class TooLarge(Exception):
    """A read found more than it was allowed to read."""


def load(connection: sqlite3.Connection, key: bytes, most_bytes: int) -> StoredRoom:
    """The number and the snapshots of a room.

    Raises:
        TooLarge: one of the snapshots has more than ``most_bytes``.
    """
    row = connection.execute(_LOAD, {"key": key, "most": most_bytes}).fetchone()
    if row is None:
        return StoredRoom(0, ())
    number, *generations = row
    snapshots = []
    for generation, document in (generations[:2], generations[2:]):
        if generation is not None:
            if document is None:
                raise TooLarge
            number = max(number, generation)
            snapshots.append(StoredSnapshot(generation, document))
    snapshots.sort(key=lambda one: -one.generation)
    return StoredRoom(number, tuple(snapshots))


def read_value(connection: sqlite3.Connection, key: bytes, name: bytes, most_bytes: int) -> bytes | None:
    """One value of a room's storage, or None.

    Raises:
        TooLarge: it has more than ``most_bytes``.
    """
    rows: list[tuple[bytes | None]] = connection.execute(
        _VALUE, {"key": key, "name": name, "most": most_bytes}
    ).fetchall()
    if not rows:
        return None
    if rows[0][0] is None:
        raise TooLarge
    return rows[0][0]


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
    """
    found: list[tuple[str, bytes]] = []
    low, high = within
    wanted = {"key": key, "low": low, "high": high, "limit": limit, "most": most_bytes}
    # Row by row: a cursor that is dropped early has not read the rest.
    with contextlib.closing(connection.execute(_LIST, wanted)) as rows:
        for name, value in rows:
            if value is None or len(value) > most_bytes:
                raise TooLarge
            most_bytes -= len(value)
            found.append((name.decode(), value))
    return found


def read_keys(connection: sqlite3.Connection, within: tuple[bytes, bytes], limit: int) -> list[str]:
    """Keys in a half-open range, at most ``limit``."""
    low, high = within
    rows = connection.execute(_KEYS, {"low": low, "high": high, "limit": limit}).fetchall()
    return [key.decode() for (key,) in rows]


def write(connection: sqlite3.Connection, commit: Commit, epoch: int) -> None:
    """Carry out a commit inside the transaction that is open; ``epoch`` is that of the file in it.

    Raises:
        StaleWrite: nothing of the commit was written, and the transaction can go on.
        sqlite3.Error: the transaction has to be rolled back.
    """
    check_epoch(commit, epoch)
    key = encode(commit.key)
    newest, generation, ended = None, -1, None
    room, number, even, odd = connection.execute(_FIND, (key,)).fetchone() or (None, 0, -1, -1)
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
        return
    if commit.destroy:
        if room is not None:
            connection.execute("DELETE FROM snapshots WHERE id IN (2 * ?, 2 * ? + 1)", (room, room))
            connection.execute("DELETE FROM storage WHERE room = ?", (room,))
        _end(connection, commit, key, room)
        return
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
