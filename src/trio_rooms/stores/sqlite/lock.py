"""The lock that gives one process a data directory for as long as it lives."""

from __future__ import annotations

import datetime
import errno
import fcntl
import logging
import os
import sys
from pathlib import Path
from typing import Final, Self

import attrs

from trio_rooms.errors import StoreError, StoreInUse

__all__ = ["DirectoryLock"]

logger: Final = logging.getLogger("trio_rooms.store")

_held: set[int] = set()


def _close_in_child() -> None:
    # A forked child shares the lock of its parent and would keep it after the parent's death.
    # Closing its descriptor, rather than unlocking, leaves the parent's hold as it is.
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


@attrs.define(eq=False)
class DirectoryLock:
    """An ``flock`` on the file ``lock`` of a data directory.

    The kernel drops it with the process, however that ends. It belongs to the open file, not
    to the process, so a second one in the same process is refused as well. What the file says
    is for people: only the lock counts.
    """

    _directory: Path
    _descriptor: int
    _path: str = attrs.field(init=False)
    _identity: tuple[int, int] = attrs.field(init=False)
    """Device and inode of the file that is locked."""

    def __attrs_post_init__(self) -> None:
        self._path = str(_path_in(self._directory))
        self._identity = _identity(os.fstat(self._descriptor))

    @classmethod
    def acquire(cls, directory: Path) -> Self:
        """Take the lock or fail at once.

        Raises:
            StoreInUse, StoreError, OSError: as `_take`.
        """
        return cls(directory, cls._take(directory))

    def ensure(self) -> None:
        """Take the lock again where its file was removed or replaced, since it kept nobody away any more.

        Raises:
            StoreInUse: somebody else has taken it.
            StoreError, OSError: as `acquire`.
        """
        try:
            there = _identity(os.stat(self._path))  # noqa: PTH116 (as in `OpenFiles`)
        except FileNotFoundError:
            there = None
        if there != self._identity:
            logger.warning("the lock of %s was removed, and is taken again", self._directory)
            former, self._descriptor = self._descriptor, self._take(self._directory)
            self._identity = _identity(os.fstat(self._descriptor))
            _held.discard(former)
            os.close(former)

    @staticmethod
    def _take(directory: Path) -> int:
        """Open and lock the file; gives its descriptor.

        Raises:
            StoreInUse: somebody has it; the message names who.
            OSError: the file cannot be opened or written.
            StoreError: the file system has no locks.
        """
        path = _path_in(directory)
        # The file is never removed: another process could hold the lock of the removed one.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreInUse(_in_use(directory, os.pread(descriptor, 4096, 0))) from None
            except OSError as exc:
                if exc.errno not in {errno.ENOLCK, errno.EOPNOTSUPP}:
                    raise
                msg = f"the file system of {directory} has no locks; put the data directory on a local disk"
                raise StoreError(msg) from exc
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _about_this_process(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        _held.add(descriptor)
        return descriptor

    def release(self) -> None:
        """Give the directory back."""
        if self._descriptor in _held:
            _held.remove(self._descriptor)
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)


def _path_in(directory: Path) -> Path:
    return directory / "lock"


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _about_this_process() -> bytes:
    # Not the arguments: they may hold what the readers of this file should not see.
    program = " ".join((sys.argv[0] if sys.argv else "python").split())
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{os.getpid()}\n{program}\n{since}\n".encode(errors="backslashreplace")


def _in_use(directory: Path, content: bytes) -> str:
    lines = content.decode(errors="replace").splitlines()
    pid, program, since = lines if len(lines) == 3 else ("", "", "")
    if pid == str(os.getpid()):
        who = f"this process ({pid}, {program}) itself, since {since}"
    elif pid:
        who = f"process {pid} ({program}), since {since}"
    else:
        who = "another process"
    return (
        f"data directory {directory} is in use by {who}; stop that one first, or give this one a data "
        "directory of its own (to look only: trio-rooms inspect, or DiskStore(path, read_only=True))"
    )
