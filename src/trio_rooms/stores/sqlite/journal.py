"""Reading the journal of a room."""

from __future__ import annotations

import contextlib
import sqlite3

from trio_rooms.stores.base import Entry
from trio_rooms.stores.checks import MOST_ENTRIES

from .rows import UNLIMITED, TooLarge, check_row

__all__ = ["read_journal"]

_JOURNAL = """
SELECT seq, time, audience, CASE WHEN length(body) <= :most THEN body END FROM journal
WHERE room = (SELECT id FROM rooms WHERE key = :key) AND seq > :after AND seq <= :until
ORDER BY seq LIMIT :limit
"""
_TYPES = (int, float, bytes, bytes)


def read_journal(
    connection: sqlite3.Connection,
    key: bytes,
    within: tuple[int, int],
    wanted_bytes: int,
    limit: int,
    most_bytes: int,
) -> list[Entry]:
    """Entries behind the first seq, up to the last one, until their bodies have ``wanted_bytes``.

    Raises:
        TooLarge: there are more than ``limit``, or they have more than ``most_bytes`` together.
        StoreError: one of them is damaged.
    """
    found: list[Entry] = []
    after, until = within
    size = 0
    wanted = {"key": key, "after": after, "until": until, "limit": MOST_ENTRIES, "most": most_bytes}
    # Row by row: a cursor that is dropped early has not read the rest.
    with contextlib.closing(connection.execute(_JOURNAL, wanted)) as rows:
        for row in rows:
            seq, time, audience, body = row
            if len(found) == limit or (body is None and most_bytes < UNLIMITED):
                raise TooLarge
            check_row(key, f"entry {seq} of its journal", row, _TYPES)
            found.append(Entry(seq, audience, body, time))
            size += len(body)
            if size > most_bytes:
                raise TooLarge
            if size >= wanted_bytes:
                break
    return found
