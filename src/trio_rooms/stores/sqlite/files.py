"""Whether the files of an open store are still where whoever opens it next will look for them.

The system lets a program go on writing to a file that was removed, renamed or replaced, and SQLite
does not notice. What is written then is gone with the process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import attrs

from trio_rooms.errors import StoreError

from .lock import DirectoryLock

__all__ = ["OpenFiles"]


@attrs.define(eq=False)
class OpenFiles:
    """The database, its log, and the lock that keeps others away from them."""

    _known: dict[str, tuple[int, int]]
    """By path, the device and the inode of the file that is open."""
    _lock: DirectoryLock

    @classmethod
    def of(cls, path: Path, lock: DirectoryLock) -> Self:
        """Those of a database that is open, after its first transaction.

        Args:
            path: the database file.
            lock: that of its directory.
        """
        found = {file: _identity(file) for file in (str(path), f"{path}-wal")}
        return cls({file: identity for file, identity in found.items() if identity is not None}, lock)

    def check(self) -> None:
        """Make sure that what was written is where it will be looked for; a system call for each file.

        Called after a transaction and not before: then what was reported durable was in its place.

        Raises:
            StoreError: it is not.
            StoreInUse: another program has taken the directory.
        """
        for file, known in self._known.items():
            there = _identity(file)
            if there != known:
                what = "was moved or removed" if there is None else "was replaced by another file"
                msg = (
                    f"{file} {what} while it was open, so what is written now is not there; put back the "
                    "file that was open, and writing goes on"
                )
                raise StoreError(msg)
        self._lock.ensure()


def _identity(file: str) -> tuple[int, int] | None:
    """What tells the file at a path from others; None where there is none."""
    try:
        found = os.stat(file)  # noqa: PTH116 (after each transaction: a Path takes longer than the system)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
