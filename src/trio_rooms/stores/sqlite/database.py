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
    # Nonce and epoch of the last commit are where its number is. The columns of snapshots lie behind the
    # document, so they are only read where that is small: a commit with a large one writes to rooms too.
    # Entries of the journal have in them how many there were before them, and of how many bytes, and
    # rooms has the totals: so what is there now is the difference, however many that are. A session
    # that has not been told to expire is as good as connected: the index of what expires finds it by NULL.
    # Where the journal is held for a session that is away is its pos, and again in held: so they are
    # counted in an index alone. One that is over has its room's id again in over_in: so they are found
    # by an index that has no others.
    (
        *(
            f"ALTER TABLE rooms ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0"
            for column in (
                *("nonce", "epoch", "seq", "before_block", "floor", "entries", "bytes"),
                *("had_sessions", "had_timers"),
            )
        ),
        *(
            f"ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0"
            for table in ("snapshots", "ended")
            for column in ("nonce", "epoch")
        ),
        """
        CREATE TABLE journal
        (room INTEGER NOT NULL, seq INTEGER NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
        time REAL NOT NULL, audience BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (room, seq)) WITHOUT ROWID
        """,
        """
        CREATE TABLE sessions
        (room INTEGER NOT NULL, sid INTEGER NOT NULL,
        last_id INTEGER NOT NULL, attachment BLOB, channels BLOB NOT NULL,
        token BLOB NOT NULL, user BLOB, start INTEGER NOT NULL, span REAL NOT NULL,
        link INTEGER NOT NULL DEFAULT 0, until REAL, pos INTEGER NOT NULL DEFAULT 0,
        departure BLOB NOT NULL DEFAULT x'', over_in INTEGER NOT NULL DEFAULT 0,
        held INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (room, sid)) WITHOUT ROWID
        """,
        "CREATE INDEX sessions_until ON sessions (until) WHERE over_in = 0",
        "CREATE INDEX sessions_held ON sessions (room, held) WHERE held > 0",
        "CREATE INDEX sessions_over ON sessions (over_in, sid) WHERE over_in > 0",
        """
        CREATE TABLE verdicts
        (room INTEGER NOT NULL, sid INTEGER NOT NULL, id INTEGER NOT NULL, content BLOB NOT NULL,
        PRIMARY KEY (room, sid, id)) WITHOUT ROWID
        """,
        """
        CREATE TABLE timers
        (room INTEGER NOT NULL, name BLOB NOT NULL, due REAL, content BLOB NOT NULL,
        PRIMARY KEY (room, name)) WITHOUT ROWID
        """,
        "CREATE INDEX timers_due ON timers (due) WHERE due IS NOT NULL",
        "CREATE INDEX timers_room ON timers (room, due) WHERE due IS NOT NULL",
        "PRAGMA user_version = 3",
    ),
    # Messages for users. The place of one is counted over all users, in store, so that it is never given
    # out again; how much an inbox has is kept beside its user. What is offered lies before the body, so
    # that it is read without that. Rooms that lapse are found by an index that has no others.
    (
        "ALTER TABLE store ADD COLUMN posted INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE rooms ADD COLUMN lapses REAL",
        "CREATE INDEX rooms_lapses ON rooms (lapses) WHERE lapses IS NOT NULL",
        "ALTER TABLE sessions ADD COLUMN presence BLOB NOT NULL DEFAULT x''",
        """
        CREATE TABLE inboxes
        (id INTEGER PRIMARY KEY, user BLOB NOT NULL UNIQUE, count INTEGER NOT NULL, bytes INTEGER NOT NULL)
        """,
        """
        CREATE TABLE messages
        (inbox INTEGER NOT NULL, position INTEGER NOT NULL, id INTEGER NOT NULL, expires REAL NOT NULL,
        priority INTEGER NOT NULL, room BLOB NOT NULL, offer_key BLOB, offer_sid INTEGER, offer_seq INTEGER,
        body BLOB NOT NULL, PRIMARY KEY (inbox, position)) WITHOUT ROWID
        """,
        "CREATE UNIQUE INDEX messages_id ON messages (inbox, id)",
        "CREATE INDEX messages_expires ON messages (expires, position)",
        "PRAGMA user_version = 4",
    ),
)
_VERSION = len(_STEPS)
_NONE = "0 AS nonce, 0 AS epoch"
_NO_INBOXES = (
    "CREATE TEMP VIEW inboxes AS SELECT 0 AS id, x'' AS user, 0 AS count, 0 AS bytes WHERE 0",
    """
    CREATE TEMP VIEW messages AS
    SELECT 0 AS inbox, 0 AS position, 0 AS id, 0.0 AS expires, 0 AS priority, x'' AS room,
    x'' AS offer_key, 0 AS offer_sid, 0 AS offer_seq, x'' AS body WHERE 0
    """,
)
_NO_MORE = (
    f"CREATE TEMP VIEW snapshots AS SELECT id, generation, document, {_NONE} FROM main.snapshots",
    """
    CREATE TEMP VIEW journal AS
    SELECT 0 AS room, 0 AS seq, 0 AS entries, 0 AS bytes, 0.0 AS time, x'' AS audience, x'' AS body WHERE 0
    """,
    """
    CREATE TEMP VIEW sessions AS
    SELECT 0 AS room, 0 AS sid, 0 AS last_id, x'' AS attachment, x'' AS channels, x'' AS token, x'' AS user,
    0 AS start, 0.0 AS span, 0 AS link, 0.0 AS until, 0 AS pos, 0 AS held, x'' AS departure, 0 AS over_in,
    x'' AS presence WHERE 0
    """,
    "CREATE TEMP VIEW verdicts AS SELECT 0 AS room, 0 AS sid, 0 AS id, x'' AS content WHERE 0",
    "CREATE TEMP VIEW timers AS SELECT 0 AS room, x'' AS name, 0.0 AS due, x'' AS content WHERE 0",
    *_NO_INBOXES,
)
_ZEROS = (
    f"{_NONE}, 0 AS seq, 0 AS before_block, 0 AS floor, 0 AS entries, 0 AS bytes, "
    "0 AS had_sessions, 0 AS had_timers, NULL AS lapses"
)
# What shows a reader a file of a former version, which it cannot bring up to date, as one of this version:
# names are looked up among the temporary views first.
_VIEWS = {
    1: (
        f"CREATE TEMP VIEW rooms AS SELECT id, key, 0 AS number, {_ZEROS} FROM main.rooms",
        f"CREATE TEMP VIEW ended AS SELECT x'' AS key, 0 AS number, {_NONE} WHERE 0",
        *_NO_MORE,
    ),
    2: (
        f"CREATE TEMP VIEW rooms AS SELECT id, key, number, {_ZEROS} FROM main.rooms",
        f"CREATE TEMP VIEW ended AS SELECT key, number, {_NONE} FROM main.ended",
        *_NO_MORE,
    ),
    3: (
        "CREATE TEMP VIEW rooms AS SELECT *, NULL AS lapses FROM main.rooms",
        "CREATE TEMP VIEW sessions AS SELECT *, x'' AS presence FROM main.sessions",
        *_NO_INBOXES,
    ),
}
# Every session that has a connection, by index: whoever held the connections is no more.
_GIVE_UP = """
UPDATE sessions SET link = 0, until = ? + span,
pos = max(pos, start + 1),
held = max(pos, start + 1)
WHERE over_in = 0 AND until IS NULL
"""


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


def prepare(connection: sqlite3.Connection, path: Path, now: float) -> int:
    """Make the schema or bring it up to date, count up the epoch, and return that.

    Args:
        connection: one that writes.
        path: the file.
        now: the time of day, from which on sessions are counted that lose their connections by it.

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
        connection.execute(_GIVE_UP, (now,))
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
