"""What an error of SQLite or of the system means to whoever runs the server."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
import tempfile
from pathlib import Path

from trio_rooms.errors import StoreError, StoreFull, StoreReadOnly

__all__ = ["explain"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_SYSTEM_ERRORS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EACCES}


def explain(exc: BaseException, path: Path, size: int | None = None) -> StoreError:
    """The StoreError to raise from ``exc``.

    Args:
        exc: what went wrong with ``path``; a StoreError is returned as it is.
        path: the database file.
        size: bytes that were to be written, to find out whether there is room for them; None if
            nothing was.
    """
    if isinstance(exc, StoreError):
        return exc
    if isinstance(exc, sqlite3.Error):
        return _explain_sqlite(exc, path, size)
    if isinstance(exc, OSError):
        return _explain_system(exc.errno, path, str(exc))
    return StoreError(
        f"{path}: {type(exc).__name__}: {exc}; nothing was written; please report this as a bug"
    )


def _explain_system(number: int | None, path: Path, text: str) -> StoreError:
    directory = path.parent
    if number in _FULL:
        what = "a limit on the size of files is reached" if number == errno.EFBIG else "no room is left"
        return StoreFull(
            f"cannot write to {directory}: {what}; make room there (nothing of this was written, and "
            "writing goes on as soon as there is room)"
        )
    if number in _READ_ONLY:
        return StoreReadOnly(
            f"cannot write to {directory} ({text}); give the user that runs this program the right to "
            "write there, or use another data directory"
        )
    return StoreError(f"cannot use {directory} as a data directory: {text}; check that it is a directory")


def _explain_sqlite(exc: sqlite3.Error, path: Path, size: int | None) -> StoreError:
    # Errors that the sqlite3 module raises by itself have no code.
    extended: int = getattr(exc, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if extended == sqlite3.SQLITE_READONLY_DBMOVED:
        return StoreError(f"{path} was moved or removed while it was open; put it back and restart")
    number = _SYSTEM_ERRORS.get(code)
    if size is not None and code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
        # SQLite keeps the number of the system's error to itself: try what it has tried.
        number = _try_to_write(path, size)
    if number is not None:
        return _explain_system(number, path, str(exc))
    if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return StoreError(
            f"{path} is damaged ({exc}); restore it from a backup, or save what is left with "
            f"'sqlite3 {path.name} .recover', or move it away to begin with an empty store"
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(f"{path} is locked by another program ({exc}); close the one that has it open")
    return StoreError(
        f"{path}: {exc}; nothing was written; the system's log may say what is wrong with the disk"
    )


def _try_to_write(path: Path, size: int) -> int | None:
    """The number of the error that writing ``size`` bytes beside ``path`` meets, None if it works."""
    # SQLite writes whole pages, and more of them than the bytes that it is given.
    size = 2 * size + 64 * 1024
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    # Careful: these files must not be opened here. Closing them again would drop the locks that
    # SQLite has on them, as POSIX wants it.
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.exists():
            if limit != resource.RLIM_INFINITY and file.stat().st_size + size > limit:
                return errno.EFBIG
            if not os.access(file, os.W_OK):
                return errno.EACCES
    try:
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as probe:
            written = 0
            block = bytes(64 * 1024)
            while written < size:
                written += probe.write(block)
    except OSError as exc:
        return exc.errno
    return None
