"""The SQLite file of a `DiskStore`: its schema and every statement that is run on it.

Keys and names are kept as blobs of UTF-8: SQLite compares those byte by byte, which is the
order of their code points, knows no wildcards in them, and does not stop at a NUL.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from trio_rooms.errors import StaleWrite, StoreError
from trio_rooms.stores.base import Commit, StoredSnapshot
from trio_rooms.stores.checks import encode, stale_message

__all__ = [
    "FILE_NAME",
    "TooLarge",
    "connect",
    "connect_read_only",
    "load",
    "prepare",
    "read_epoch",
    "read_keys",
    "read_list",
    "read_value",
    "transaction",
    "write",
]

FILE_NAME = "rooms.sqlite3"

_APPLICATION = 0x54524D53  # "TRMS": SQLite has this field for telling whose file it is.
_VERSION = 1
# A room's two generations are the rows 2 * id and 2 * id + 1 of snapshots: a commit replaces the
# older one, so it touches one row of one tree, and no index holds the key a second time.
_SCHEMA = (
    "CREATE TABLE store (epoch INTEGER NOT NULL)",
    "INSERT INTO store (epoch) VALUES (0)",
    "CREATE TABLE rooms (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE)",
    "CREATE TABLE snapshots (id INTEGER PRIMARY KEY, generation INTEGER NOT NULL, document BLOB NOT NULL)",
    """
    CREATE TABLE storage
    (room INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, UNIQUE (room, name))
    """,
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)

# Parameters are named: some releases of Python 3.12 warn of numbered ones.
# SQLite answers length() of a blob from the row's header, without loading the blob.
_LOAD = """
SELECT generation, CASE WHEN length(document) <= :most THEN document END
FROM rooms JOIN snapshots ON snapshots.id IN (2 * rooms.id, 2 * rooms.id + 1)
WHERE key = :key ORDER BY generation DESC
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
_FIND = """
SELECT rooms.id, snapshots.id, generation
FROM rooms LEFT JOIN snapshots ON snapshots.id IN (2 * rooms.id, 2 * rooms.id + 1)
WHERE key = ? ORDER BY generation DESC LIMIT 1
"""
_PUT = """
INSERT INTO storage (room, name, value) VALUES (?, ?, ?)
ON CONFLICT (room, name) DO UPDATE SET value = excluded.value
"""
_FORGET_IF_EMPTY = """
DELETE FROM rooms WHERE id = :room AND NOT EXISTS (SELECT 1 FROM storage WHERE room = :room)
AND NOT EXISTS (SELECT 1 FROM snapshots WHERE snapshots.id IN (2 * :room, 2 * :room + 1))
"""


class TooLarge(Exception):
    """A read found more than it was allowed to read."""


def connect(path: Path, mode: str = "rwc", *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that commits only when told to, for one thread at a time.

    ``mode`` and ``immutable`` are those of SQLite's URI file names.
    """
    uri = f"{path.absolute().as_uri()}?mode={mode}&immutable={immutable:d}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        # The log is synced at each commit. Without fullfsync, macOS leaves that in the drive's cache.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = 1")
        connection.execute("PRAGMA checkpoint_fullfsync = 1")
        # Give the disk back what one huge transaction has made of the log.
        connection.execute("PRAGMA journal_size_limit = 67108864").fetchall()
        # The first look at the file: what is wrong with it shows here.
        connection.execute("PRAGMA schema_version").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that never writes, whether or not a server has the file open."""
    try:
        return connect(path, "ro")
    except sqlite3.OperationalError:
        # Where the directory cannot be written, SQLite cannot make the files that the readers of
        # a log share. Without a log there is nothing to share: the file is all there is.
        if path.with_name(f"{path.name}-wal").exists():
            raise
        return connect(path, "ro", immutable=True)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end; after an exception, of the commit too, nothing is written."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself rolls back after some errors, a full disk among them.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def prepare(connection: sqlite3.Connection, path: Path) -> int:
    """Make the schema or check it, count up the epoch, and return that.

    Raises:
        StoreError: the file is of a newer version, or of another program.
        sqlite3.Error: it cannot be written.
    """
    if not _is_new(connection):
        _check_schema(connection, path)
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        msg = f"the file system of {path} cannot share memory between readers; use a local disk"
        raise StoreError(msg)
    with transaction(connection):
        if _is_new(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
        connection.execute("UPDATE store SET epoch = epoch + 1")
        return read_epoch(connection, path)


def read_epoch(connection: sqlite3.Connection, path: Path) -> int:
    """The epoch that the file has now.

    Raises:
        StoreError: the file is of a newer version, or of another program.
    """
    _check_schema(connection, path)
    return int(connection.execute("SELECT epoch FROM store").fetchone()[0])


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _is_new(connection: sqlite3.Connection) -> bool:
    return not any(_pragma(connection, name) for name in ("schema_version", "application_id", "user_version"))


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    if _pragma(connection, "application_id") != _APPLICATION:
        msg = f"{path} is not a store of trio_rooms; move it away, or use another data directory"
        raise StoreError(msg)
    version = _pragma(connection, "user_version")
    if version > _VERSION:
        msg = (
            f"{path} was written by a newer version of trio_rooms: its schema is {version}, this version "
            f"knows up to {_VERSION}; run the newer version (the file is left as it is)"
        )
        raise StoreError(msg)


def load(connection: sqlite3.Connection, key: bytes, most_bytes: int) -> tuple[StoredSnapshot, ...]:
    """The generations of a room's snapshot, newest first.

    Raises:
        TooLarge: one of them has more than ``most_bytes``.
    """
    rows = connection.execute(_LOAD, {"key": key, "most": most_bytes}).fetchall()
    for row in rows:
        if row[1] is None:
            raise TooLarge
    return tuple([StoredSnapshot(*row) for row in rows])


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


def write(connection: sqlite3.Connection, commit: Commit) -> None:
    """Carry out a commit inside the transaction that is open.

    Raises:
        StaleWrite: nothing of the commit was written, and the transaction can go on.
        sqlite3.Error: the transaction has to be rolled back.
    """
    key = encode(commit.key)
    room, newest, generation = connection.execute(_FIND, (key,)).fetchone() or (None, None, None)
    if commit.destroy:
        if room is not None:
            connection.execute("DELETE FROM snapshots WHERE id IN (2 * ?, 2 * ? + 1)", (room, room))
            connection.execute("DELETE FROM storage WHERE room = ?", (room,))
            connection.execute("DELETE FROM rooms WHERE id = ?", (room,))
        return
    if commit.document is not None and generation is not None and commit.generation <= generation:
        raise StaleWrite(stale_message(commit.key, commit.generation, generation))
    if room is None:
        room = connection.execute("INSERT INTO rooms (key) VALUES (?)", (key,)).lastrowid
        assert room is not None  # for mypy: it was an INSERT
    if commit.document is not None:
        replaced = 2 * room if newest is None else newest ^ 1
        connection.execute(
            "INSERT OR REPLACE INTO snapshots (id, generation, document) VALUES (?, ?, ?)",
            (replaced, commit.generation, commit.document),
        )
    for name, value in commit.writes.items():
        if value is None:
            connection.execute("DELETE FROM storage WHERE room = ? AND name = ?", (room, encode(name)))
        else:
            connection.execute(_PUT, (room, encode(name), value))
    if commit.document is None:
        connection.execute(_FORGET_IF_EMPTY, {"room": room})
