"""What the store has of one awake room, and what is still to be written.

A record encodes the state between two steps of the event loop, so a snapshot never shows
half of what a handler does without an await. It holds one commit in flight at a time and
gives each a generation of its own, never used twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

import attrs
import trio

from trio_rooms._definition.room import Room
from trio_rooms.errors import SnapshotCorrupt, StateError
from trio_rooms.stores.base import Commit, Store

from .snapshot import LARGE, Snapshot

__all__ = ["Loaded", "Record"]

logger = logging.getLogger("trio_rooms")

_MANY_WRITES = 4 * 1024 * 1024
"""Bytes of storage writes that do not wait for the snapshot interval."""


@attrs.frozen
class Loaded:
    """A state that came out of the store."""

    state: Any
    restarted: bool
    fell_back: bool


@attrs.define(eq=False)
class Record:
    """Loads and saves one room.

    Args:
        wanted: called when there is something to write, and whether it is so much that it
            should be written at once.
    """

    _key: str
    _room: Room[Any]
    _store: Store
    _wanted: Callable[[bool], None]
    generation: int = attrs.field(init=False, default=0)
    """The newest generation that was handed to the store or found there."""
    large: bool = attrs.field(init=False, default=False)
    """Whether the state is encoded in a thread, during which nobody may change it."""
    dirty: bool = attrs.field(init=False, default=False)
    """Whether something may have changed since the state was last encoded."""
    encoding_took: float = attrs.field(init=False, default=0.0)
    """Seconds that encoding the state took the last time."""
    _saved: bytes = attrs.field(init=False, default=b"")
    _writes: dict[str, bytes | None] = attrs.field(init=False, factory=dict)
    _flying: dict[str, bytes | None] = attrs.field(init=False, factory=dict)
    _size: int = attrs.field(init=False, default=0)
    _turn: trio.Lock = attrs.field(init=False, factory=trio.Lock)
    _closed: bool = attrs.field(init=False, default=False)

    def touch(self) -> None:
        """The state may have changed."""
        if not self.dirty:
            self.dirty = True
            self._wanted(False)

    def close(self) -> None:
        """Save nothing any more: what waits for its turn now has outlived its room."""
        self._closed = True

    async def load(self) -> Loaded | None:
        """The newest state in the store that decodes; None for a room that never was.

        Raises:
            StoreError: the store could not read.
            SnapshotError: no generation can be used; the store is left as it is.
        """
        stored = await self._store.load(self._key)
        self.generation = max((one.generation for one in stored), default=0)
        broken: SnapshotCorrupt | None = None
        for one in stored:
            try:
                snapshot = Snapshot.unpack(self._key, one.document)
                if len(snapshot.state) < LARGE:
                    state = self._room.codec.decode(self._key, snapshot)
                else:
                    state = await trio.to_thread.run_sync(self._room.codec.decode, self._key, snapshot)
            except SnapshotCorrupt as error:
                logger.error("generation %d cannot be used: %s", one.generation, error)  # noqa: TRY400
                broken = broken or error
                continue
            self.large = len(snapshot.state) >= LARGE
            # What a former process wrote is written again, so that it is of this one from then on.
            restarted = snapshot.epoch != self._store.epoch
            if broken is None and snapshot.version == self._room.version and not restarted:
                self._saved = _digest(snapshot.state)
            else:
                self.dirty = True
            if broken is not None:
                logger.error(
                    "room %s: took generation %d; what was written after it is lost",
                    self._key,
                    one.generation,
                )
            return Loaded(state, restarted, broken is not None)
        if broken is not None:
            raise broken
        return None

    async def save(self, state: Callable[[], Any], *, in_thread: bool = True) -> None:
        """Make the state and the storage's writes durable, if anything changed.

        Args:
            state: gives the state when it is encoded.
            in_thread: whether a large state may be encoded in a thread, since nobody can
                change it meanwhile.

        Cancelled while it waits for its turn, nothing was done; after that it is not
        cancelled, since a commit is carried out whether or not somebody waits.

        Raises:
            StateError: the state holds what CBOR cannot; nothing was written.
            StoreError: nothing was written; a later call tries again.
        """
        await _take(self._turn)
        try:
            if not self._closed:
                with trio.CancelScope(shield=True):
                    await self._save(state, in_thread=in_thread)
        finally:
            self._turn.release()

    async def _save(self, state: Callable[[], Any], *, in_thread: bool) -> None:
        codec = self._room.codec
        self.dirty = False
        writes, self._writes = self._writes, {}
        size, self._size = self._size, 0
        self._flying = writes
        try:
            began = perf_counter()
            if self.large and in_thread:
                encoded = await trio.to_thread.run_sync(codec.encode_large, self._key, state())
            else:
                encoded = codec.encode(self._key, state())
            self.encoding_took = perf_counter() - began
            self.large = len(encoded) >= LARGE
            digest = _digest(encoded)
            document = None
            if digest != self._saved:
                self.generation += 1
                name, _, id_ = self._key.partition("/")
                document = Snapshot(
                    name, id_, self._room.version, self.generation, self._store.epoch, encoded
                ).pack()
            if document is not None or writes:
                await self._store.commit(Commit(self._key, self.generation, document, writes))
            self._saved = digest
        except BaseException:
            self.dirty = True
            self._writes = {**writes, **self._writes}
            self._size += size
            raise
        finally:
            self._flying = {}

    def unsaved(self, state: Any) -> bool:
        """Whether a state differs from the saved one, where that is cheap to tell; else what `dirty` says."""
        if self._writes:
            return True
        if self.large:
            return self.dirty
        try:
            return _digest(self._room.codec.encode(self._key, state)) != self._saved
        except StateError:
            return True  # Whoever saves it is told why.

    async def settled(self) -> None:
        """Wait until no commit is in flight."""
        if self._turn.locked():
            async with self._turn:
                pass

    async def destroy(self) -> None:
        """Delete all that the store has of the room."""
        async with self._turn:
            with trio.CancelScope(shield=True):
                await self._store.commit(Commit(self._key, destroy=True))
                self._closed = True

    # The storage of the room.

    def write(self, name: str, encoded: bytes | None) -> None:
        """Write a value, or delete it, with the next commit."""
        self._writes[name] = encoded
        self._size += len(encoded or b"")
        self.dirty = True
        self._wanted(self._size > _MANY_WRITES)

    async def get(self, name: str) -> bytes | None:
        """A value as it is, whether it is durable yet or not."""
        for pending in (self._writes, self._flying):
            if name in pending:
                await trio.lowlevel.checkpoint()
                return pending[name]
        return await self._store.get(self._key, name)

    async def list(self, prefix: str, after: str | None, limit: int | None) -> list[tuple[str, bytes]]:
        """Values as they are, ordered by name."""
        # As they are now: a commit may end while the store reads from before it.
        pending = {**self._flying, **self._writes}
        # A deletion that is not durable yet hides a stored name, so as many more are read.
        stored = await self._store.list(
            self._key, prefix, after=after, limit=None if limit is None else limit + len(pending)
        )
        merged: dict[str, bytes | None] = dict(stored)
        merged |= {
            name: encoded
            for name, encoded in pending.items()
            if name.startswith(prefix) and (after is None or name > after)
        }
        found = sorted((name, encoded) for name, encoded in merged.items() if encoded is not None)
        return found if limit is None else found[:limit]


async def _take(lock: trio.Lock) -> None:
    """Acquire a lock, without a turn of the event loop where it is free: each would be one for each room."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()


def _digest(encoded: bytes) -> bytes:
    return hashlib.blake2b(encoded, digest_size=16).digest()
