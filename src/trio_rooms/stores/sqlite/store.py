"""The store of a server with a data directory of its own: one SQLite file in it."""

from __future__ import annotations

import builtins
import contextlib
import math
import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from trio_rooms._loop.wall import WallClock
from trio_rooms.errors import StoreClosed, StoreError, StoreInUse, StoreReadOnly
from trio_rooms.stores.base import (
    Commit,
    Due,
    Entry,
    InboxSize,
    Post,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoreStatistics,
    Timer,
    Waiting,
)
from trio_rooms.stores.checks import check_ids, check_limit, check_posts, encode, encoded_range

from . import inboxes, journal, rooms, sessions, storage, timers
from .database import FILE_NAME, connect, connect_read_only, prepare, read_epoch
from .faults import explain
from .files import OpenFiles
from .lock import DirectoryLock
from .rows import UNLIMITED, TooLarge
from .writer import DiskWriter

__all__ = ["DiskStore"]

T = TypeVar("T")

_INLINE_BYTES = 256 * 1024
"""Read in the event loop at most; that takes less than 0.2 ms, and to have a thread do it no less."""
_INLINE_ROWS = 64
"""Read in the event loop at most, at about a microsecond each."""


@attrs.define(eq=False)
class _Opened:
    """What a store has only while it is open."""

    epoch: int
    write_connection: sqlite3.Connection | None
    """None if the store is read-only."""
    reader: sqlite3.Connection
    """For the event loop alone."""
    thread_reader: sqlite3.Connection
    """For the one thread that has the limiter."""
    files: OpenFiles | None = None
    """None if the store is read-only."""
    resources: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack, init=False)
    """Closes the connections, then the lock."""
    limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1), init=False)


@attrs.define(eq=False)
class DiskStore(Store):
    """Keeps rooms in the file ``rooms.sqlite3`` of a data directory, durable against a power cut.

    Commits that come while another is on its way to the disk share one transaction, so the
    cost of a sync is divided among all the rooms that write at the same time. Small reads
    are done in the event loop, large ones in a thread; neither waits for a commit.

    Args:
        path: the data directory; it is made if it does not exist. It should be on a local
            disk. One process at a time has it, for as long as the store is open.
        read_only: look at the directory without taking it, while a server may have it.
    """

    _path: Path = attrs.field(converter=Path)
    _read_only: bool = attrs.field(default=False, kw_only=True)
    _opened: _Opened | None = attrs.field(default=None, init=False, repr=False)
    _opening: bool = attrs.field(default=False, init=False, repr=False)
    _writer: DiskWriter | None = attrs.field(default=None, init=False, repr=False)

    @property
    def path(self) -> Path:
        """The data directory."""
        return self._path

    @property
    def epoch(self) -> int:
        """How often the data directory had been opened for writing when this store was opened."""
        return self._get_opened().epoch

    async def open(self) -> None:
        """Open the data directory, in a thread; a cancel takes effect only before or after.

        Raises:
            StoreInUse: a process has it already; the message says which.
            StoreReadOnly: the directory or a file in it cannot be written.
            StoreFull: there is no room on the disk.
            StoreError: the file is damaged, not a store, or of a newer version; or it is to be
                opened read-only and does not exist.
        """
        if self._opened is not None or self._opening:
            msg = f"this DiskStore on {self._path} is open already: a store serves one runtime at a time"
            raise StoreInUse(msg)
        self._opening = True
        try:
            opened = await trio.to_thread.run_sync(self._open_files, WallClock().now())
        finally:
            self._opening = False
        # Nothing may be awaited between the files' opening and here: a cancel would lose them.
        self._opened = opened
        if opened.write_connection is not None:
            assert opened.files is not None
            self._writer = DiskWriter(self._file, opened.write_connection, opened.epoch, opened.files)

    async def aclose(self) -> None:
        """Write what was handed over, then give the directory back, cancelled or not.

        Whoever still waits for a commit gets its outcome. A second call does nothing.
        """
        opened, self._opened = self._opened, None
        if opened is None:
            await trio.lowlevel.checkpoint()
            return
        # A cancel waits for the end: the directory must not stay locked, nor a commit undone.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._close_files, opened, limiter=opened.limiter)
            while self.statistics().pending:
                await trio.lowlevel.checkpoint()  # Until each has been told.

    async def load(self, key: str, *, newest: bool = False) -> StoredRoom:
        """See `Store.load`."""
        encoded = encode(key)
        read = rooms.read_newest if newest else rooms.read_room
        return await self._read(lambda connection, most_bytes, _: read(connection, encoded, most_bytes))

    async def head(self, key: str) -> RoomHead:
        """See `Store.head`."""
        encoded = encode(key)
        return await self._read(lambda connection, *_: rooms.read_head(connection, encoded))

    async def commit(self, commit: Commit) -> None:
        """See `Store.commit`. A commit that fails after its caller was cancelled is logged."""
        await self._get_writer().commit(commit)

    async def get(self, key: str, name: str) -> bytes | None:
        """See `Store.get`."""
        encoded, encoded_name = encode(key), encode(name)
        return await self._read(
            lambda connection, most_bytes, _: storage.read_value(
                connection, encoded, encoded_name, most_bytes
            )
        )

    async def list(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, bytes]]:
        """See `Store.list`."""
        encoded, within = encode(key), encoded_range(prefix, after)
        return await self._read_rows(
            limit,
            lambda connection, most_bytes, rows: storage.read_list(
                connection, encoded, within, rows, most_bytes
            ),
        )

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """See `Store.keys`."""
        within = encoded_range(prefix, after)
        return await self._read_rows(
            limit, lambda connection, _, rows: rooms.read_keys(connection, within, rows)
        )

    async def session(self, key: str, sid: int) -> StoredSession | None:
        """See `Store.session`."""
        encoded = encode(key)
        return await self._read(
            lambda connection, most_bytes, _: sessions.read_session(connection, encoded, sid, most_bytes)
        )

    async def sessions(
        self, key: str, *, after: int = 0, limit: int | None = None, ended: bool = False
    ) -> builtins.list[StoredSession]:
        """See `Store.sessions`."""
        encoded = encode(key)
        return await self._read_rows(
            limit,
            lambda connection, most_bytes, rows: sessions.read_sessions(
                connection, encoded, after, rows, most_bytes, ended=ended
            ),
        )

    async def positions(self, key: str) -> dict[int, int]:
        """See `Store.positions`."""
        encoded = encode(key)
        return await self._read(
            lambda connection, _, rows: sessions.read_positions(connection, encoded, rows)
        )

    async def verdicts(self, key: str, sid: int) -> dict[int, bytes]:
        """See `Store.verdicts`."""
        encoded = encode(key)
        return await self._read(
            lambda connection, most_bytes, rows: sessions.read_verdicts(
                connection, encoded, sid, rows, most_bytes
            )
        )

    async def journal(self, key: str, after: int, until: int, most_bytes: int) -> builtins.list[Entry]:
        """See `Store.journal`."""
        encoded = encode(key)
        return await self._read(
            lambda connection, bytes_now, rows: journal.read_journal(
                connection, encoded, (after, until), most_bytes, rows, bytes_now
            )
        )

    async def timers(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, Timer]]:
        """See `Store.timers`."""
        encoded, within = encode(key), encoded_range(prefix, after)
        return await self._read_rows(
            limit,
            lambda connection, most_bytes, rows: timers.read_timers(
                connection, encoded, within, rows, most_bytes
            ),
        )

    async def due_timers(self, key: str, now: float, limit: int) -> builtins.list[tuple[str, Timer]]:
        """See `Store.due_timers`."""
        encoded = encode(key)
        return await self._read_rows(
            limit,
            lambda connection, most_bytes, rows: timers.read_due_timers(
                connection, encoded, now, rows, most_bytes
            ),
        )

    async def timer(self, key: str, name: str) -> Timer | None:
        """See `Store.timer`."""
        encoded, encoded_name = encode(key), encode(name)
        return await self._read(
            lambda connection, most_bytes, _: timers.read_timer(connection, encoded, encoded_name, most_bytes)
        )

    async def due(self, now: float, limit: int, *, after: Due | None = None) -> builtins.list[Due]:
        """See `Store.due`."""
        return await self._read_rows(
            limit, lambda connection, _, rows: timers.read_due(connection, now, rows, after)
        )

    async def post(self, posts: Sequence[Post]) -> dict[str, InboxSize]:
        """See `Store.post`."""
        writer = self._get_writer()
        check_posts(posts)
        size = sum(len(post.body) for post in posts)
        return await writer.act(partial(inboxes.post, posts=tuple(posts)), size)

    async def settle(self, user: str, ids: Collection[int]) -> None:
        """See `Store.settle`."""
        writer = self._get_writer()
        encode(user)
        check_ids(ids)
        await writer.act(partial(inboxes.settle, user=user, ids=tuple(ids)), 0)

    async def inbox(self, user: str, *, after: int = 0, limit: int | None = None) -> builtins.list[Waiting]:
        """See `Store.inbox`."""
        encoded = encode(user)
        return await self._read_rows(
            limit,
            lambda connection, most_bytes, rows: inboxes.read_inbox(
                connection, encoded, after, rows, most_bytes
            ),
        )

    async def inbox_size(self, user: str) -> InboxSize:
        """See `Store.inbox_size`."""
        encoded = encode(user)
        return await self._read(lambda connection, *_: inboxes.read_size(connection, encoded))

    async def inboxes(
        self, *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, InboxSize]]:
        """See `Store.inboxes`."""
        within = encoded_range("", after)
        return await self._read_rows(
            limit, lambda connection, _, rows: inboxes.read_sizes(connection, within, rows)
        )

    async def expired(
        self, now: float, limit: int, *, after: tuple[float, str, int] | None = None
    ) -> builtins.list[Waiting]:
        """See `Store.expired`."""
        behind = (-math.inf, 0) if after is None else (after[0], after[2])
        return await self._read_rows(
            limit,
            lambda connection, most_bytes, rows: inboxes.read_expired(
                connection, now, behind, rows, most_bytes
            ),
        )

    def statistics(self) -> StoreStatistics:
        """What the store has done since it was opened; all 0 before that."""
        if self._writer is None:
            return StoreStatistics(commits=0, transactions=0, failures=0, pending=0)
        return self._writer.statistics()

    @property
    def _file(self) -> Path:
        return self._path / FILE_NAME

    def _get_opened(self) -> _Opened:
        if self._opened is None:
            msg = f"this DiskStore on {self._path} is not open; use it inside 'async with store:'"
            raise StoreClosed(msg)
        return self._opened

    def _get_writer(self) -> DiskWriter:
        """What writes, or the error for why nothing does."""
        self._get_opened()
        if self._writer is None:
            msg = f"{self._path} was opened with read_only=True; nothing of this was written"
            raise StoreReadOnly(msg)
        return self._writer

    async def _read_rows(
        self, limit: int | None, read: Callable[[sqlite3.Connection, int, int], builtins.list[T]]
    ) -> builtins.list[T]:
        check_limit(limit)
        wanted = UNLIMITED if limit is None else limit

        def read_some(connection: sqlite3.Connection, most_bytes: int, most_rows: int) -> builtins.list[T]:
            rows = read(connection, most_bytes, min(wanted, most_rows))
            if len(rows) == most_rows < wanted:
                raise TooLarge
            return rows

        return await self._read(read_some)

    async def _read(self, read: Callable[[sqlite3.Connection, int, int], T]) -> T:
        """Read in the event loop if it is little, in a thread if it is much.

        ``read`` takes a connection and the bytes and rows it may read, and raises TooLarge.
        """
        opened = self._get_opened()
        try:
            result = read(opened.reader, _INLINE_BYTES, _INLINE_ROWS)
        except TooLarge:
            pass
        except (sqlite3.Error, OSError) as exc:
            raise explain(exc, self._file) from exc
        else:
            await trio.lowlevel.checkpoint()
            return result

        def read_in_thread() -> T:
            if self._opened is not opened:
                msg = f"this DiskStore on {self._path} was closed before the read had its turn"
                raise StoreClosed(msg)
            return read(opened.thread_reader, UNLIMITED, UNLIMITED)

        try:
            return await trio.to_thread.run_sync(read_in_thread, limiter=opened.limiter)
        except (sqlite3.Error, OSError) as exc:
            raise explain(exc, self._file) from exc

    def _open_files(self, now: float) -> _Opened:
        with contextlib.ExitStack() as resources:
            try:
                opened = (
                    self._open_read_only(resources) if self._read_only else self._open_writing(resources, now)
                )
            except (sqlite3.Error, OSError) as exc:
                raise explain(exc, self._file, None if self._read_only else 0) from exc
            opened.resources = resources.pop_all()
            return opened

    def _open_writing(self, resources: contextlib.ExitStack, now: float) -> _Opened:
        _make_directory(self._path)
        lock = DirectoryLock.acquire(self._path)
        resources.callback(lock.release)
        writing = resources.enter_context(contextlib.closing(connect(self._file)))
        epoch = prepare(writing, self._file, now)
        # Not opened read-only: the last connection to close removes the log, if it may.
        reader, thread_reader = [
            resources.enter_context(contextlib.closing(connect(self._file, "rw"))) for _ in range(2)
        ]
        return _Opened(epoch, writing, reader, thread_reader, OpenFiles.of(self._file, lock))

    def _open_read_only(self, resources: contextlib.ExitStack) -> _Opened:
        if not self._file.is_file():
            msg = f"there is no store in {self._path} ({FILE_NAME} is missing); check the path"
            raise StoreError(msg)
        reader, thread_reader = [
            resources.enter_context(contextlib.closing(connect_read_only(self._file))) for _ in range(2)
        ]
        return _Opened(read_epoch(reader), None, reader, thread_reader)

    def _close_files(self, opened: _Opened) -> None:
        with opened.resources:
            if opened.write_connection is not None and self._writer is not None:
                self._writer.finish()


def _make_directory(path: Path) -> None:
    """Make a directory, and its parents, so that a power cut does not take it away again."""
    if path.is_dir():
        return
    parent = path.absolute().parent
    _make_directory(parent)
    path.mkdir(exist_ok=True)
    # Who may not read the parent cannot sync it; the directory is there all the same.
    with contextlib.suppress(PermissionError):
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
