"""Reading the storage of a room."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

from .rows import UNLIMITED, TooLarge, damaged

__all__ = ["read_list", "read_value"]

_VALUE = """
SELECT CASE WHEN length(value) <= :most THEN value END FROM storage
WHERE room = (SELECT id FROM rooms WHERE key = :key) AND name = :name
"""
_LIST = """
SELECT name, CASE WHEN length(value) <= :most THEN value END FROM storage
WHERE room = (SELECT id FROM rooms WHERE key = :key) AND name >= :low AND name < :high
ORDER BY name LIMIT :limit
"""


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
    raise damaged(key, f"the value of {name!r} in storage", value)


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
                raise damaged(key, "the name of a value in storage", name) from None
    return found
