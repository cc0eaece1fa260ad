"""What a store is: the place where snapshots and the storage of rooms are kept."""

from __future__ import annotations

import abc
import builtins
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import attrs

__all__ = ["Commit", "Store", "StoreStatistics", "StoredRoom", "StoredSnapshot"]


@attrs.frozen
class StoredSnapshot:
    """One generation of a room's snapshot, as the store has it."""

    generation: int
    """The number of the commit that wrote it."""
    document: bytes
    damage: str = ""
    """Why the store cannot read the document, which is empty then; empty for one that it can."""


@attrs.frozen
class StoredRoom:
    """What a store has of one room, its storage apart."""

    number: int
    """That of the room's last commit; 0 for a room that never was."""
    snapshots: tuple[StoredSnapshot, ...]
    """Newest first, two at most."""


@attrs.frozen
class Commit:
    """Everything that one room writes in one step: all of it becomes durable, or nothing.

    Args:
        key: the room, ``"name/id"``.
        number: counts the commits of the room, with or without a document: one more than the
            stored one, or the stored one again to repeat that commit; from 1 to 2**63 - 1.
        epoch: that of the store when whoever commits took the room; from 1 to 2**63 - 1.
        document: the snapshot, or None to leave the snapshots as they are.
        writes: values of the room's storage by name; None deletes the name.
        destroy: remove all that the store has of the room but the number. Neither a document
            nor writes may come with it.
    """

    key: str
    number: int
    epoch: int
    document: bytes | None = None
    writes: Mapping[str, bytes | None] = attrs.field(factory=dict)
    destroy: bool = False


@attrs.frozen
class StoreStatistics:
    """What a store has done since it was opened."""

    commits: int
    """Commits that became durable, or were so already."""
    transactions: int
    """Transactions they were grouped into; each costs one sync to the disk."""
    failures: int
    """Commits that were refused or failed."""
    pending: int
    """Commits that wait to be written now."""


class Store(abc.ABC):
    """Keeps, for each room, two generations of its snapshot and its storage.

    A store is an async context manager and serves one runtime at a time. Keys are
    ``"name/id"`` with any characters in the id, names in a room's storage any string; one with
    half a surrogate pair cannot be encoded and is a ValueError. Used while it is not open, a
    store raises StoreClosed; `statistics` may be asked for at any time. A store that was closed
    can be opened again.

    Every async method is a checkpoint, also where nothing has to be waited for; one that raises
    may not be. A cancelled read has read nothing. What a cancellation does to `open`, `aclose`
    and `commit` is said there.

    Every store passes ``trio_rooms.testing.StoreConformance``.
    """

    @property
    @abc.abstractmethod
    def epoch(self) -> int:
        """How often this store had been opened for writing when it was opened here: 1, 2, 3, ...

        It says who may write: once somebody else has opened the store, commits of this epoch
        are stale.
        """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @abc.abstractmethod
    async def open(self) -> None:
        """Open the store. Cancelled, it is not open, and nothing is held.

        Raises:
            StoreInUse: another runtime has it.
            StoreReadOnly: it cannot be written.
            StoreError: it cannot be used for another reason.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Write what was handed over, then close, cancelled or not. A second call does nothing."""

    @abc.abstractmethod
    async def load(self, key: str) -> StoredRoom:
        """The number of a room's last commit, and its snapshots.

        One of them that cannot be read any more is given with its ``damage``, and does not keep the
        other from being read. A failure that may pass is a StoreError: else a room would go on from
        an older snapshot although the newest is there.

        The number outlives the room: once it was destroyed, or the last name of its storage
        was deleted and it had no snapshot, there are no snapshots, and the number goes on from
        where it was. It may be forgotten when the store is next opened for writing, since who
        knew it then has a former epoch, and once 10,000 rooms have ended after this one: else what
        is left of rooms that are no more would grow for ever.

        Raises:
            StoreError: it cannot be read; which room, and what of it, is in the message.
        """

    @abc.abstractmethod
    async def commit(self, commit: Commit) -> None:
        """Make a commit durable.

        The commit is handed over before the first checkpoint: a cancelled caller stops
        waiting, and the commit is still carried out, whole. Commits of one room take
        effect in the order in which they were handed over.

        A commit that has the number of the last one and says the same is a success that writes
        nothing: so one whose outcome is not known can be sent again. It says the same if its
        document is that of this number, each of its writes is what the storage has, and where
        it destroys nothing is left of the room.

        Raises:
            StaleWrite: its number is neither the next one nor that of a commit that said the
                same, or the store has been opened for writing since its epoch; nothing was
                written, nor will be.
            StoreFull, StoreReadOnly: nothing was written.
            StoreError: whether it was written is not known; the same commit may be sent again.
            ValueError, TypeError: no store can carry it out; nothing was handed over.
        """

    @abc.abstractmethod
    async def get(self, key: str, name: str) -> bytes | None:
        """One value of a room's storage, or None.

        Raises:
            StoreError: it is there and cannot be read; the message names it.
        """

    @abc.abstractmethod
    async def list(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> list[tuple[str, bytes]]:
        """Names and values of a room's storage whose names start with ``prefix``.

        They come in the order of the names' code points, those behind ``after`` only, at
        most ``limit`` of them.

        Raises:
            StoreError: one of them cannot be read; the message names it.
        """

    @abc.abstractmethod
    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """Keys of the rooms that have a snapshot or storage, ordered and limited as in `list`."""

    @abc.abstractmethod
    def statistics(self) -> StoreStatistics:
        """What the store has done since it was opened."""
