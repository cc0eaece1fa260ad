"""What SQLite takes for the rows of a durable ledger, with nothing around it but the loop that writes them.

    python -m benchmarks.peers.rows DIRECTORY JSON

The argument has the fields of `Rows`; it prints the messages a second. The schema is that of a `DiskStore`,
and so are the modes: a log, synced at each transaction.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from time import perf_counter

import attrs

from trio_rooms.stores.sqlite.database import FILE_NAME, connect, prepare

__all__ = ["Rows"]

_SID = 1 << 59
_ROOM = """
UPDATE rooms SET number = ?, nonce = ?, epoch = ?, seq = ?, before_block = ?, floor = ?,
entries = ?, bytes = ?, had_sessions = ?, had_timers = ? WHERE id = ?
"""
_SNAPSHOT = "INSERT OR REPLACE INTO snapshots (id, generation, document, nonce, epoch) VALUES (?, ?, ?, ?, ?)"
_ENTRY = "INSERT INTO journal (room, seq, entries, bytes, time, audience, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_TRIM = "DELETE FROM journal WHERE room = ? AND seq <= ?"
_SESSION = "UPDATE sessions SET last_id = ?, attachment = ?, channels = ? WHERE room = ? AND sid = ?"
_VERDICT = "INSERT OR REPLACE INTO verdicts (room, sid, id, content) VALUES (?, ?, ?, ?)"
_ANSWERED = "DELETE FROM verdicts WHERE room = ? AND sid = ? AND id <= ?"
_KEPT = 64
"""Messages whose entries and verdicts are there, as with clients that acknowledge so many at once."""


@attrs.frozen
class Rows:
    """What is written."""

    rooms: int
    messages: int
    """In a commit: a verdict each."""
    commits: int
    """In a transaction."""
    document: int
    """Bytes of a snapshot."""
    body: int
    """Bytes of an entry of the journal; 0 for no entries."""
    verdict: int
    """Bytes of a verdict."""
    seconds: float


def main(directory: Path, rows: Rows) -> float:
    """Write for so many seconds; returns messages a second."""
    connection = connect(directory / FILE_NAME)
    epoch = prepare(connection, directory / FILE_NAME, time.time())
    for room in range(1, rows.rooms + 1):
        connection.execute("INSERT INTO rooms (id, key) VALUES (?, ?)", (room, b"ledger/%d" % room))
        connection.execute(
            "INSERT INTO sessions (room, sid, last_id, channels, token, start, span) "
            "VALUES (?, ?, 0, x'', ?, 0, 120)",
            (room, _SID + room, os.urandom(16)),
        )
    document, body, verdict = (os.urandom(size) for size in (rows.document, rows.body, rows.verdict))
    numbers = dict.fromkeys(range(1, rows.rooms + 1), 0)
    execute, many, entries = connection.execute, connection.executemany, bool(rows.body)
    count = turn = 0
    now, began = time.time(), perf_counter()
    until = began + rows.seconds
    while perf_counter() < until:
        execute("BEGIN IMMEDIATE")
        for _ in range(rows.commits):
            room = turn % rows.rooms + 1
            turn += 1
            first = numbers[room]
            numbers[room] = last = first + rows.messages
            number = last // rows.messages
            if entries:
                execute(_ROOM, (number, number, epoch, last, 0, 0, last, last * rows.body, 1, 0, room))
            execute(_SNAPSHOT, (2 * room + number % 2, number, document, number, epoch))
            ids = range(first + 1, last + 1)
            if entries:
                many(_ENTRY, [(room, one, one, one * rows.body, now, b"\x00", body) for one in ids])
            execute(_SESSION, (last, None, b"", room, _SID + room))
            many(_VERDICT, [(room, _SID + room, one, verdict) for one in ids])
            if last // _KEPT != first // _KEPT:
                execute(_ANSWERED, (room, _SID + room, last - _KEPT))
                if entries:
                    execute(_TRIM, (room, last - _KEPT))
        execute("COMMIT")
        count += rows.commits * rows.messages
    seconds = perf_counter() - began
    connection.close()
    return count / seconds


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Rows(**json.loads(sys.argv[2]))), flush=True)
