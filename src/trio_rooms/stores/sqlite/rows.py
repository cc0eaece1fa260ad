"""What every read of the file has to do with: that it is too much, and that what is found is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from trio_rooms.errors import StoreError

__all__ = ["UNLIMITED", "TooLarge", "check_row", "damaged", "is_corrupt"]

UNLIMITED = 2**62
"""Bytes, or rows, where a read may have all."""


class TooLarge(Exception):
    """A read found more than it was allowed to read."""


def is_corrupt(exc: sqlite3.DatabaseError) -> bool:
    """Whether it says that the file is damaged, and would say the same the next time."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def check_row(key: bytes, what: str, row: Sequence[object], types: Sequence[type | tuple[type, ...]]) -> None:
    """Refuse a row that is not of the types that were written.

    Raises:
        StoreError: it is damaged.
    """
    for value, expected in zip(row, types, strict=True):
        if not isinstance(value, expected):
            raise damaged(key, what, value)


def damaged(key: bytes, what: str, found: object) -> StoreError:
    """The error for what cannot be what was written."""
    room = key.decode(errors="backslashreplace")
    return StoreError(
        f"room {room}: {what} is damaged: it is {found!r:.100} of type {type(found).__name__}; restore the "
        "file from a backup, or destroy the room"
    )
