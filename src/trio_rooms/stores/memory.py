"""A store in memory: for tests, and for rooms whose state may go with the process."""

from __future__ import annotations

import builtins

import attrs
import trio

from trio_rooms.errors import StaleWrite, StoreClosed, StoreInUse

from .base import Commit, Store, StoredRoom, StoredSnapshot, StoreStatistics
from .checks import MOST_ENDED, check_commit, check_epoch, check_limit, differs, encode, is_next

__all__ = ["MemoryStore"]


@attrs.define(eq=False)
class _Stored:
    """What is kept of one room."""

    number: int
    """That of its last commit."""
    snapshots: tuple[StoredSnapshot, ...] = ()
    values: dict[str, bytes] = attrs.field(factory=dict)


@attrs.define(eq=False)
class MemoryStore(Store):
    """Keeps everything in dicts; no thread, no file, no real time.

    A test simulates a restart by closing the store and opening it again: it then has what
    was committed, and its epoch is one higher. A commit is applied before the first
    checkpoint of `commit`.
    """

    _rooms: dict[str, _Stored] = attrs.field(factory=dict, init=False)
    _ended: dict[str, int] = attrs.field(factory=dict, init=False)
    """The numbers of rooms of which nothing else is left, in the order in which they ended."""
    _epoch: int = attrs.field(default=0, init=False)
    _opened: bool = attrs.field(default=False, init=False)
    _commits: int = attrs.field(default=0, init=False)
    _failures: int = attrs.field(default=0, init=False)

    @property
    def epoch(self) -> int:
        """Counts how often this store was opened."""
        self._check_open()
        return self._epoch

    async def open(self) -> None:
        """Open the store; what earlier openings committed is still there.

        Raises:
            StoreInUse: it is open already.
        """
        if self._opened:
            msg = "this MemoryStore is open already: a store serves one runtime at a time"
            raise StoreInUse(msg)
        await trio.lowlevel.checkpoint()
        self._opened = True
        self._epoch += 1
        self._ended.clear()
        self._commits = self._failures = 0

    async def aclose(self) -> None:
        """Close the store and keep what it has. A second call does nothing."""
        self._opened = False
        await trio.lowlevel.checkpoint()

    async def load(self, key: str) -> StoredRoom:
        """See `Store.load`."""
        self._check_open()
        encode(key)
        stored = self._stored(key)
        room = StoredRoom(stored.number, stored.snapshots)
        await trio.lowlevel.checkpoint()
        return room

    async def commit(self, commit: Commit) -> None:
        """See `Store.commit`."""
        self._check_open()
        check_commit(commit)
        try:
            self._apply(commit)
        except StaleWrite:
            self._failures += 1
            raise
        self._commits += 1
        # A caller that is cancelled here has its commit carried out.
        await trio.lowlevel.checkpoint()

    async def get(self, key: str, name: str) -> bytes | None:
        """See `Store.get`."""
        self._check_open()
        encode(key)
        encode(name)
        stored = self._rooms.get(key)
        value = None if stored is None else stored.values.get(name)
        await trio.lowlevel.checkpoint()
        return value

    async def list(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, bytes]]:
        """See `Store.list`."""
        self._check_open()
        encode(key)
        stored = self._rooms.get(key)
        values = {} if stored is None else stored.values
        found = [(name, values[name]) for name in _select(values, prefix, after, limit)]
        await trio.lowlevel.checkpoint()
        return found

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """See `Store.keys`."""
        self._check_open()
        found = _select(self._rooms, prefix, after, limit)
        await trio.lowlevel.checkpoint()
        return found

    def statistics(self) -> StoreStatistics:
        """What the store has done since it was opened; each commit is a transaction of its own."""
        return StoreStatistics(
            commits=self._commits, transactions=self._commits, failures=self._failures, pending=0
        )

    def _stored(self, key: str) -> _Stored:
        return self._rooms.get(key) or _Stored(self._ended.get(key, 0))

    def _apply(self, commit: Commit) -> None:
        check_epoch(commit, self._epoch)
        key = commit.key
        stored = self._stored(key)
        if not is_next(commit, stored.number):
            if not _says_the_same(commit, stored):
                raise differs(commit)
            return
        stored.number = commit.number
        if commit.destroy:
            stored.snapshots, stored.values = (), {}
        if commit.document is not None:
            newest = StoredSnapshot(commit.number, commit.document)
            stored.snapshots = (newest, *stored.snapshots[:1])
        for name, value in commit.writes.items():
            if value is None:
                stored.values.pop(name, None)
            else:
                stored.values[name] = value
        if stored.snapshots or stored.values:
            self._rooms[key] = stored
            self._ended.pop(key, None)
        else:
            self._rooms.pop(key, None)
            self._ended.pop(key, None)
            self._ended[key] = stored.number
            if len(self._ended) > MOST_ENDED:
                del self._ended[next(iter(self._ended))]

    def _check_open(self) -> None:
        if not self._opened:
            msg = "this MemoryStore is not open; use it inside 'async with store:'"
            raise StoreClosed(msg)


def _says_the_same(commit: Commit, stored: _Stored) -> bool:
    """Whether a commit, which has the number of the last one, could have been that one."""
    if commit.destroy:
        return not stored.snapshots and not stored.values
    written = [one.document for one in stored.snapshots if one.generation == commit.number]
    return written == [one for one in (commit.document,) if one is not None] and all(
        stored.values.get(name) == value for name, value in commit.writes.items()
    )


def _select(
    names: dict[str, _Stored] | dict[str, bytes], prefix: str, after: str | None, limit: int | None
) -> list[str]:
    check_limit(limit)
    encode(prefix)
    if after is not None:
        encode(after)
    chosen = [name for name in names if name.startswith(prefix) and (after is None or name > after)]
    return sorted(chosen)[:limit]
