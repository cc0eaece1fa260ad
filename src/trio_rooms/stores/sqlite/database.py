"""The SQLite file of a `DiskStore`: how it is opened, its schema, and that of every former version.

Keys and names are kept as blobs of UTF-8: SQLite compares those byte by byte, which is the
order of their code points, knows no wildcards in them, and does not stop at a NUL.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from trio_rooms.errors import StoreError

__all__ = ["FILE_NAME", "connect", "connect_read_only", "prepare", "read_epoch", "transaction"]

FILE_NAME = "rooms.sqlite3"

_APPLICATION = 0x54524D53  # "TRMS": SQLite has this field for telling whose file it is.
# A file goes through all of these from its own version on, a new one from the beginning; what is
# here is never changed. Each must be quick with millions of rooms.
_STEPS = (
    # A room's two generations are the rows 2 * id and 2 * id + 1 of snapshots: a commit replaces the
    # older one, so it touches one row of one tree, and no index holds the key a second time.
    (
        "CREATE TABLE store (epoch INTEGER NOT NULL)",
        "INSERT INTO store (epoch) VALUES (0)",
        "CREATE TABLE rooms (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE)",
        """
        CREATE TABLE snapshots
        (id INTEGER PRIMARY KEY, generation INTEGER NOT NULL, document BLOB NOT NULL)
        """,
        """
        CREATE TABLE storage
        (room INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, UNIQUE (room, name))
        """,
        f"PRAGMA application_id = {_APPLICATION}",
        "PRAGMA user_version = 1",
    ),
    # The number of a room's last commit is the newest generation, or the one in rooms where that is
    # higher: only a commit without a document has to write it there. A room of which nothing but the
    # number is left is in ended, out of the way of who lists the rooms.
    (
        "ALTER TABLE rooms ADD COLUMN number INTEGER NOT NULL DEFAULT 0",
        "CREATE TABLE ended (key BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID",
        "PRAGMA user_version = 2",
    ),
)
_VERSION = len(_STEPS)
# What shows a reader a file of version 1, which it cannot bring up to date, as one of version 2:
# names are looked up among the temporary views first.
_VIEWS = {
    1: (
        "CREATE TEMP VIEW rooms AS SELECT id, key, 0 AS number FROM main.rooms",
        "CREATE TEMP VIEW ended AS SELECT x'' AS key, 0 AS number WHERE 0",
    ),
}


def connect(path: Path, mode: str = "rwc", *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that commits only when told to, for one thread at a time.

    ``mode`` and ``immutable`` are those of SQLite's URI file names.
    """
    uri = f"{path.absolute().as_uri()}?mode={mode}&immutable={immutable:d}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    # What was written as a BLOB is read as one, also where a flipped bit says that it is a TEXT.
    connection.text_factory = bytes
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
    """A connection that never writes, whether or not a server has the file open.

    A file of a former version is shown as one of this version.

    Raises:
        StoreError: the file is of a newer version, or of another program.
        sqlite3.Error: it cannot be read.
    """
    try:
        connection = connect(path, "ro")
    except sqlite3.OperationalError:
        # Where the directory cannot be written, SQLite cannot make the files that the readers of
        # a log share. Without a log there is nothing to share: the file is all there is.
        if path.with_name(f"{path.name}-wal").exists():
            raise
        connection = connect(path, "ro", immutable=True)
    try:
        for statement in _VIEWS.get(_check_version(connection, path, may_be_new=False), ()):
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


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
    """Make the schema or bring it up to date, count up the epoch, and return that.

    Raises:
        StoreError: the file is of a newer version, or of another program.
        sqlite3.Error: it cannot be written.
    """
    _check_version(connection, path)
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != (b"wal",):
        msg = f"the file system of {path} cannot share memory between readers; use a local disk"
        raise StoreError(msg)
    with transaction(connection):
        for step in _STEPS[_check_version(connection, path) :]:
            for statement in step:
                connection.execute(statement)
        # Who knew these numbers has an epoch that ends here.
        connection.execute("DELETE FROM ended")
        connection.execute("UPDATE store SET epoch = epoch + 1")
        return read_epoch(connection)


def read_epoch(connection: sqlite3.Connection) -> int:
    """The epoch that the file has now."""
    return int(connection.execute("SELECT epoch FROM store").fetchone()[0])


def _check_version(connection: sqlite3.Connection, path: Path, *, may_be_new: bool = True) -> int:
    """The version of the file's schema; 0 for an empty file, where that may be.

    Raises:
        StoreError: the file is of a newer version, or of another program.
    """
    schema, application, version = [
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("schema_version", "application_id", "user_version")
    ]
    if may_be_new and not (schema or application or version):
        return 0
    if application != _APPLICATION:
        msg = f"{path} is not a store of trio_rooms; move it away, or use another data directory"
        raise StoreError(msg)
    if version > _VERSION:
        msg = (
            f"{path} was written by a newer version of trio_rooms: its schema is {version}, this version "
            f"knows up to {_VERSION}; run the newer version (the file is left as it is)"
        )
        raise StoreError(msg)
    return version
