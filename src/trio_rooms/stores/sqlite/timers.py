"""Reading the timers of a room, and what of all rooms is due."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Mapping
from types import NoneType
from typing import Any

from trio_rooms.stores.base import Due, Timer

from .rows import UNLIMITED, TooLarge, check_row, damaged

__all__ = ["read_due", "read_due_timers", "read_timer", "read_timers"]

_COLUMNS = "name, due, CASE WHEN length(content) <= :most THEN content END"
_TYPES = (bytes, (float, NoneType), bytes)
_OF_ROOM = "room = (SELECT id FROM rooms WHERE key = :key)"
_TIMER = f"SELECT {_COLUMNS} FROM timers WHERE {_OF_ROOM} AND name = :name"
_TIMERS = f"""
SELECT {_COLUMNS} FROM timers WHERE {_OF_ROOM} AND name >= :low AND name < :high ORDER BY name LIMIT :limit
"""
_DUE_TIMERS = f"SELECT {_COLUMNS} FROM timers WHERE {_OF_ROOM} AND due <= :now ORDER BY due LIMIT :limit"
_ROOM = "COALESCE((SELECT id FROM rooms WHERE key = :key), :room)"
# Joined crosswise: SQLite then reads the left one first, by what is due. The index ends with the primary key.
_SESSIONS = f"""
SELECT until, key, sid FROM sessions CROSS JOIN rooms ON rooms.id = room
WHERE over_in = 0 AND until <= :now AND (until, room, sid) > (:time, {_ROOM}, :which)
ORDER BY until, room, sid LIMIT :limit
"""
_TIMERS_OF_ALL = f"""
SELECT due, key, name FROM timers CROSS JOIN rooms ON rooms.id = room
WHERE due <= :now AND (due, room, name) > (:time, {_ROOM}, :which)
ORDER BY due, room, name LIMIT :limit
"""
_ROOMS = f"""
SELECT lapses, key FROM rooms WHERE lapses <= :now AND (lapses, id) > (:time, {_ROOM})
ORDER BY lapses, id LIMIT :limit
"""
_BEFORE, _BEHIND = -1, 2**63 - 1
"""No room has these numbers."""


def read_timer(connection: sqlite3.Connection, key: bytes, name: bytes, most_bytes: int) -> Timer | None:
    """One timer of a room, or None.

    Raises:
        TooLarge: it has more than ``most_bytes``.
        StoreError: it is damaged.
    """
    found = _read(connection, _TIMER, {"key": key, "name": name}, most_bytes)
    return found[0][1] if found else None


def read_timers(
    connection: sqlite3.Connection, key: bytes, within: tuple[bytes, bytes], limit: int, most_bytes: int
) -> list[tuple[str, Timer]]:
    """Timers of a room with names in a half-open range, at most ``limit``; raises as `read_timer`."""
    low, high = within
    return _read(connection, _TIMERS, {"key": key, "low": low, "high": high, "limit": limit}, most_bytes)


def read_due_timers(
    connection: sqlite3.Connection, key: bytes, now: float, limit: int, most_bytes: int
) -> list[tuple[str, Timer]]:
    """Timers of a room that are due, at most ``limit``; raises as `read_timer`."""
    return _read(connection, _DUE_TIMERS, {"key": key, "now": now, "limit": limit}, most_bytes)


def _read(
    connection: sqlite3.Connection, statement: str, wanted: Mapping[str, Any], most_bytes: int
) -> list[tuple[str, Timer]]:
    key = wanted["key"]
    found: list[tuple[str, Timer]] = []
    with contextlib.closing(connection.execute(statement, {**wanted, "most": most_bytes})) as rows:
        for row in rows:
            name, due, content = row
            if content is None and most_bytes < UNLIMITED:
                raise TooLarge
            check_row(key, f"the timer {name!r}", row, _TYPES)
            if most_bytes < UNLIMITED:
                most_bytes -= len(content)
                if most_bytes < 0:
                    raise TooLarge
            found.append((_decoded(key, name), Timer(due, content)))
    return found


def _decoded(key: bytes, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise damaged(key, "the name of a timer", name) from None


def read_due(connection: sqlite3.Connection, now: float, limit: int, after: Due | None) -> list[Due]:
    """What is due of all rooms, at most ``limit``, behind ``after``.

    Raises:
        StoreError: some of it is damaged.
    """
    # Of one moment sessions come before timers, and those before rooms.
    start: dict[str, Any] = {"now": now, "limit": limit, "key": b"", "time": -math.inf, "which": 0}
    before = {**start, "room": _BEFORE}
    sessions = timers = lapsing = before
    if after is not None:
        before["time"] = after.time
        behind = {**before, "room": _BEHIND}
        here = {**before, "key": after.key.encode(), "room": 0}
        sessions = timers = lapsing = behind
        if after.sid is not None:
            sessions, timers, lapsing = {**here, "which": after.sid}, before, before
        elif after.timer is not None:
            timers, lapsing = {**here, "which": after.timer.encode()}, before
        elif after.lapses:
            lapsing = here
    found = []
    for time, key, sid in connection.execute(_SESSIONS, sessions).fetchall():
        check_row(key, "when a session ends", (time, sid), (float, int))
        found.append(Due(time, _decoded(key, key), sid=sid))
    for time, key, name in connection.execute(_TIMERS_OF_ALL, timers).fetchall():
        check_row(key, "when a timer is due", (time, name), (float, bytes))
        found.append(Due(time, _decoded(key, key), timer=_decoded(key, name)))
    for time, key in connection.execute(_ROOMS, lapsing).fetchall():
        check_row(key, "when it lapses", (time,), (float,))
        found.append(Due(time, _decoded(key, key), lapses=True))
    found.sort(key=lambda one: one.time)
    return found[:limit]
