"""The thread that writes for a `DiskStore`: what has queued up becomes one transaction."""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import outcome
import trio

from trio_rooms._loop.woken import WOKEN
from trio_rooms.errors import StaleWrite, StoreError
from trio_rooms.stores.base import Commit, StoreStatistics
from trio_rooms.stores.checks import MOST_ENDED, check_commit, encode

from . import commits
from .database import connect, read_epoch, transaction
from .faults import explain
from .files import OpenFiles
from .newest import Newest

__all__ = ["DiskWriter"]

T = TypeVar("T")
_log = logging.getLogger("trio_rooms.store")

_TOLD_AT_ONCE = 64
"""Who waits for a commit goes on at once, and so many take some milliseconds of the event loop."""


@attrs.define(eq=False)
class _Pending:
    """A commit, or something else, on its way to the disk, and who waits for it."""

    commit: Commit | None
    task: trio.lowlevel.Task | None
    act: Callable[[sqlite3.Connection], object] | None = None
    """What is written if it is no commit, and what its result is."""
    bytes_of_act: int = 0
    error: StoreError | None = None
    result: Any = None

    def leave(self, _: Callable[[], None]) -> trio.lowlevel.Abort:
        """Nobody waits any more: it was cancelled, and is carried out all the same."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    @property
    def size(self) -> int:
        """How many bytes are to be written, about."""
        commit = self.commit
        if commit is None:
            return self.bytes_of_act
        return (
            len(commit.document or b"")
            + sum(len(name) + len(value or b"") for name, value in commit.writes.items())
            + sum(len(entry.body) for entry in commit.entries)
            + sum(len(post.body) for post in commit.sends)
        )


@attrs.define(eq=False)
class DiskWriter:
    """Takes commits from the event loop and reports to it, once for each transaction.

    Args:
        path: the database file.
        connection: one that nobody else uses; the writer closes it.
        epoch: that of the store.
        files: what it writes to, to be looked at after each transaction.
    """

    _path: Path
    _connection: sqlite3.Connection | None
    _epoch: int
    _files: OpenFiles
    _newest: Newest = attrs.field(init=False)
    """Of that connection, as what follows."""
    _version: tuple[int] | None = attrs.field(default=None, init=False)
    """What SQLite changes when somebody else has written to the file."""
    _file_epoch: int = attrs.field(default=0, init=False)
    """That of the file at that version."""
    _ended: dict[bytes, None] = attrs.field(factory=dict, init=False)
    """The rooms that have ended since the opening, in that order, as many as the file remembers."""
    _queue: queue.SimpleQueue[_Pending | None] = attrs.field(factory=queue.SimpleQueue, init=False)
    _token: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token, init=False)
    _thread: threading.Thread = attrs.field(init=False)
    _written: int = attrs.field(default=0, init=False)
    """Transactions, as the thread counts them; the counters below belong to the event loop."""
    _commits: int = attrs.field(default=0, init=False)
    _transactions: int = attrs.field(default=0, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _pending: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        assert self._connection is not None
        self._newest = Newest(self._connection)
        # A daemon, so that a program that crashes without closing its store can exit.
        self._thread = threading.Thread(target=self._run, name="trio_rooms store", daemon=True)
        self._thread.start()

    async def commit(self, commit: Commit) -> None:
        """Hand a commit over, then wait until it is durable."""
        check_commit(commit)
        pending = _Pending(commit, trio.lowlevel.current_task())
        self._pending += 1
        self._queue.put(pending)
        await trio.lowlevel.wait_task_rescheduled(pending.leave)

    async def act(self, act: Callable[[sqlite3.Connection], T], size: int) -> T:
        """Hand over something that belongs to no room, then wait until it is durable.

        Args:
            act: writes it in the transaction that is open, perhaps more than once; a StoreError or a
                sqlite3.Error of it is what becomes of it. What it returns is returned here.
            size: how many bytes it is about to write.
        """
        pending = _Pending(None, trio.lowlevel.current_task(), act, size)
        self._pending += 1
        self._queue.put(pending)
        await trio.lowlevel.wait_task_rescheduled(pending.leave)
        result: T = pending.result
        return result

    def finish(self) -> None:
        """Block until all that was handed over is written and the thread has ended."""
        self._queue.put(None)
        self._thread.join()
        if self._connection is not None:
            # If this fails the log stays, and the next one to open the file reads it.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.close()

    def statistics(self) -> StoreStatistics:
        """What the thread has reported so far."""
        return StoreStatistics(
            commits=self._commits,
            transactions=self._transactions,
            failures=self._failures,
            pending=self._pending,
        )

    def _run(self) -> None:
        ending = False
        while not ending:
            taken = [self._queue.get()]
            taken += [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            ending = taken[-1] is None
            group = [pending for pending in taken if pending is not None]
            if group:
                self._carry_out(group)
                self._report_soon(group, self._written)

    def _carry_out(self, group: list[_Pending]) -> None:
        try:
            self._write(group)
        except BaseException as exc:  # noqa: BLE001 - whatever happens, this thread goes on
            if len(group) > 1:
                # One of them has spoiled it for all: only that one is to fail.
                for pending in group:
                    self._carry_out([pending])
                return
            group[0].error = self._explain(exc, group[0].size)

    def _explain(self, exc: BaseException, size: int) -> StoreError:
        # Not where it was caught: that frame is in its traceback, and would make a cycle of the two.
        error = explain(exc, self._path, size)
        if error is not exc:
            error.__cause__ = exc
        return error

    def _write(self, group: list[_Pending]) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = connect(self._path, "rw")
            self._newest, self._version = Newest(connection), None
        newest = self._newest
        try:
            with transaction(connection):
                version = connection.execute("PRAGMA data_version").fetchone()
                if version != self._version:
                    # Somebody else has written: she may have taken the directory, and counted up its epoch.
                    newest.forget()
                    self._file_epoch = read_epoch(connection)
                    self._version = version
                epoch = self._file_epoch
                for pending in group:
                    pending.error = None
                    commit = pending.commit
                    try:
                        if commit is None:
                            self._check_epoch()
                            assert pending.act is not None
                            pending.result = pending.act(connection)
                        elif not newest.replace(commit, epoch):
                            row = commits.write(connection, commit, epoch)
                            if row is None:
                                self._remember_ended(connection, encode(commit.key))
                            elif row:
                                newest.remember(commit, row)
                    except StaleWrite as exc:
                        pending.error = exc
                newest.flush()
        except BaseException:
            newest.forget()
            if not _can_go_on(connection):
                # It could not even be rolled back; closing the connection does that.
                self._connection = None
                connection.close()
            raise
        if any(pending.error is None for pending in group):
            self._files.check()
            self._written += 1

    def _check_epoch(self) -> None:
        """Refuse what is of no room where the file has another epoch than the store."""
        epoch = self._file_epoch
        if epoch != self._epoch:
            msg = (
                f"{self._path} has epoch {epoch}, this store {self._epoch}: it was opened for writing "
                "since, and whoever did that is the only one to write now"
            )
            raise StaleWrite(msg)

    def _remember_ended(self, connection: sqlite3.Connection, key: bytes) -> None:
        """Let the file forget the number of the room that ended first, where it has enough of them."""
        self._ended.pop(key, None)
        self._ended[key] = None
        if len(self._ended) > MOST_ENDED:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            commits.forget_ended(connection, oldest)

    def _report_soon(self, group: list[_Pending], written: int) -> None:
        # The run of Trio may have ended without closing the store.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._report, group, written)

    def _report(self, group: list[_Pending], written: int) -> None:
        self._transactions = max(self._transactions, written)
        told, left = group[:_TOLD_AT_ONCE], group[_TOLD_AT_ONCE:]
        if left:
            self._report_soon(left, written)
        self._pending -= len(told)
        for pending in told:
            task, error = pending.task, pending.error
            # It is about to hold the frame that waits for this commit, and what that holds.
            pending.error = None
            if error is None:
                self._commits += 1
            else:
                self._failures += 1
            if task is not None:
                trio.lowlevel.reschedule(task, WOKEN if error is None else outcome.Error(error))
            elif error is not None:
                _log.error("a commit failed whose caller had stopped waiting: %s", error)


def _can_go_on(connection: sqlite3.Connection) -> bool:
    try:
        return not connection.in_transaction
    except sqlite3.ProgrammingError:
        return False
