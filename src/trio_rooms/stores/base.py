"""What a store is: the place where snapshots and the storage of rooms are kept."""

from __future__ import annotations

import abc
import builtins
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import attrs

__all__ = ["Commit", "Store", "StoreStatistics", "StoredSnapshot"]


@attrs.frozen
class StoredSnapshot:
    """One generation of a room's snapshot, as the store has it."""

    generation: int
    document: bytes


@attrs.frozen
class Commit:
    """Everything that one room writes in one step: all of it becomes durable, or nothing.

    Args:
        key: the room, ``"name/id"``.
        generation: the number of the snapshot in ``document``, from 0 to 2**63 - 1; above every
            one stored. Without a document it means nothing.
        document: the snapshot, or None to write only to the room's storage.
        writes: values of the room's storage by name; None deletes the name.
        destroy: remove all that the store has of the room. Nothing else may be set.
    """

    key: str
    generation: int = 0
    document: bytes | None = None
    writes: Mapping[str, bytes | None] = attrs.field(factory=dict)
    destroy: bool = False


@attrs.frozen
class StoreStatistics:
    """What a store has done since it was opened."""

    commits: int
    """Commits that became durable."""
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
    Every store passes ``trio_rooms.testing.StoreConformance``.
    """

    @property
    @abc.abstractmethod
    def epoch(self) -> int:
        """Counts how often this store was opened for writing: 1, 2, 3, ...; a fencing token."""

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
        """Open the store.

        Raises:
            StoreInUse: another runtime has it.
            StoreReadOnly: it cannot be written.
            StoreError: it cannot be used for another reason.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Write what was handed over, then close. A second call does nothing."""

    @abc.abstractmethod
    async def load(self, key: str) -> tuple[StoredSnapshot, ...]:
        """The stored generations of a room's snapshot, newest first; at most two, none if there are none."""

    @abc.abstractmethod
    async def commit(self, commit: Commit) -> None:
        """Make a commit durable.

        The commit is handed over before the first checkpoint: a cancelled caller stops
        waiting, and the commit is still carried out, whole. Commits of one room take
        effect in the order in which they were handed over.

        Raises:
            StoreFull, StoreReadOnly, StoreError: nothing of it was written.
            StaleWrite: its generation is not above every stored one; nothing was written.
            ValueError, TypeError: no store can carry it out; nothing was handed over.
        """

    @abc.abstractmethod
    async def get(self, key: str, name: str) -> bytes | None:
        """One value of a room's storage, or None."""

    @abc.abstractmethod
    async def list(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> list[tuple[str, bytes]]:
        """Names and values of a room's storage whose names start with ``prefix``.

        They come in the order of the names' code points, those behind ``after`` only, at
        most ``limit`` of them.
        """

    @abc.abstractmethod
    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """Keys of the rooms that have a snapshot or storage, ordered and limited as in `list`."""

    @abc.abstractmethod
    def statistics(self) -> StoreStatistics:
        """What the store has done since it was opened."""
