"""What of one room is in the store, and what is still on its way there.

Everything that is written for a room goes through its one `PersistentState`, which outlives
the actor: one commit is in flight at a time, and each has the number that follows on the last
one that is known to be in the store. The state is encoded between two steps of the event
loop, so a snapshot never shows half of what a handler does without an await.

A commit that raised may have happened all the same. What is written next goes out under the
same number: either it is applied, and nothing had happened, or it is stale. Then the nonce that the
store has is looked for among those of the commits in doubt. Where it is none of them, somebody else has
written the room.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final, Protocol

import attrs
import trio

from trio_rooms.errors import SnapshotCorrupt, StaleWrite, StateError, StoreError
from trio_rooms.stores.base import Commit, Store, StoredSnapshot, draw_nonce

from .codec import LARGE, NOTHING, Aside, Codec
from .snapshot import Snapshot

__all__ = ["Definition", "Loaded", "PersistentState"]

logger = logging.getLogger("trio_rooms")

_MANY_WRITES: Final = 4 * 1024 * 1024
"""Bytes of storage writes that do not wait for the snapshot interval."""
_BESIDE_DAMAGE: Final = b"damage"
"""In place of a digest: to be saved twice, since the first save goes in the place of the sound one."""


class Definition(Protocol):
    """What is asked of a room's definition."""

    @property
    def name(self) -> str:
        """The first part of the room's key."""

    @property
    def version(self) -> int:
        """That of the states which are written."""

    @property
    def codec(self) -> Codec:
        """Encodes and decodes the state."""


@attrs.frozen
class Loaded:
    """A state that came out of the store."""

    state: Any
    restarted: bool
    """Whether an earlier owner of the store has written it."""
    fell_back: bool
    """Whether the newest generation cannot be used, and this is the one before it."""


@attrs.define(eq=False, weakref_slot=False)
class _Writes:
    """Writes to a room's storage that are not known to be in the store; None deletes a name."""

    new: dict[str, bytes | None] = attrs.field(factory=dict)
    size: int = 0
    """Bytes of the values in ``new``, those counted in that were replaced there."""
    sent: Mapping[str, bytes | None] | None = None
    """Those of the commit in flight."""

    def put(self, name: str, encoded: bytes | None) -> None:
        self.new[name] = encoded
        self.size += len(encoded or b"")

    def take(self) -> Mapping[str, bytes | None]:
        """What goes into the next commit; `put_back` undoes it."""
        self.sent, self.new, self.size = self.new, {}, 0
        return self.sent

    def put_back(self) -> None:
        """What was taken goes with a later commit; what was written meanwhile is newer."""
        self.size += sum(len(encoded or b"") for encoded in (self.sent or {}).values())
        self.new = {**(self.sent or {}), **self.new}

    def all(self) -> dict[str, bytes | None]:
        """Each name's newest write."""
        return {**(self.sent or {}), **self.new}


@attrs.define(eq=False)
class PersistentState:
    """Loads and saves one room.

    Whoever is about to use the room calls `load` first; what an actor that crashed leaves
    unsaved goes with `discard`. After a StaleWrite the same: `discard`, then `load`.

    Args:
        key: the room, ``"name/id"``.
        definition: how its state is encoded.
        store: where it is kept; open.
        wanted: called when there is something to write, and whether it is so much that it
            should be written at once; None while nobody would write it.
    """

    key: str
    _definition: Definition
    _store: Store
    wanted: Callable[[bool], None] | None = None
    number: int = attrs.field(init=False, default=0)
    """That of the last commit that is known to be in the store."""
    large: bool = attrs.field(init=False, default=False)
    """Whether the state is encoded in a thread, during which nobody may change it."""
    dirty: bool = attrs.field(init=False, default=False)
    """Whether something may have changed since the state was last encoded."""
    encoding_took: float = attrs.field(init=False, default=0.0)
    """Seconds that encoding the state took the last time."""
    _saved: bytes = attrs.field(init=False, default=b"")
    """The digest of the state that is in the store; empty where that is not known."""
    _aside: Aside = attrs.field(init=False, default=NOTHING)
    """What of the loaded state its classes do not understand: it is written again with each save."""
    _writes: _Writes = attrs.field(init=False, factory=_Writes)
    """Another one after each load, `discard` and `destroy`: so what began before finds out."""
    _doubtful: range = attrs.field(init=False, default=range(0))
    """Nonces of commits that raised, all with the number ``number + 1``: one of them may have happened."""
    _epoch: int = attrs.field(init=False, default=attrs.Factory(lambda self: self._store.epoch, True))
    """That of the store when the room was last loaded: what its commits are fenced by."""
    _shield: trio.CancelScope | None = attrs.field(init=False, default=None)
    """What keeps the commit in flight from being cancelled."""
    _busy: bool = attrs.field(init=False, default=False)
    """Whether somebody has the turn to read or write the room in the store."""
    _queue: trio.lowlevel.ParkingLot | None = attrs.field(init=False, default=None)
    """Who waits for the turn. A lock would be three objects more for each awake room."""

    @property
    def unsettled(self) -> bool:
        """Whether a commit is in flight, or a write waits for one: it must not be dropped now."""
        return self._busy or bool(self._writes.new)

    def touch(self) -> None:
        """The state may have changed."""
        if not self.dirty:
            self.dirty = True
            if self.wanted is not None:
                self.wanted(False)

    def discard(self) -> None:
        """Forget what is not in the store, after a crash.

        What waits for its turn to save saves nothing any more. A commit in flight goes on:
        `settled` waits for it.
        """
        self._writes = _Writes()
        self._saved = b""
        self._aside = NOTHING
        self.dirty = self.large = False

    async def load(self) -> Loaded | None:
        """The newest state in the store that decodes; None for a room that has none.

        Waits for a commit in flight. Then what the store says is true: unsaved writes are
        forgotten, and no commit is in doubt any more. Cancelled, or when the store could not
        read, nothing has changed.

        Raises:
            StoreError: the store could not read.
            SnapshotError: no generation can be used; the store is left as it is.
        """
        await self._take()
        try:
            stored = await self._store.load(self.key)
            self.discard()
            self.number, self._epoch = stored.head.number, self._store.epoch
            self._doubtful = range(0)
            return await self._newest(stored.snapshots)
        finally:
            self._give()

    async def _newest(self, stored: tuple[StoredSnapshot, ...]) -> Loaded | None:
        broken: SnapshotCorrupt | None = None
        try:
            for one in stored:
                try:
                    snapshot = Snapshot.of(self.key, one)
                    if len(snapshot.state) < LARGE:
                        decoded = self._definition.codec.decode(self.key, snapshot)
                    else:
                        decode = self._definition.codec.decode
                        decoded = await trio.to_thread.run_sync(decode, self.key, snapshot)
                except SnapshotCorrupt as error:
                    logger.error("generation %d cannot be used: %s", one.generation, error)  # noqa: TRY400
                    broken = broken or error
                    continue
                self.large = len(snapshot.state) >= LARGE
                self._aside = decoded.aside
                # What a former process wrote is written again, so that it is of this one from then on.
                restarted = snapshot.epoch != self._epoch
                if broken is None and snapshot.version == self._definition.version and not restarted:
                    self._saved = _digest(snapshot.state)
                else:
                    self.dirty = True
                if broken is not None:
                    self._saved = _BESIDE_DAMAGE
                    logger.error(
                        "room %s: took generation %d; what was written after it is lost",
                        self.key,
                        one.generation,
                    )
                return Loaded(decoded.state, restarted, broken is not None)
            if broken is not None:
                raise broken
            return None
        finally:
            # Its traceback holds this frame, which would hold it: a cycle around the room.
            del broken

    async def save(self, state: Callable[[], Any], *, in_thread: bool = True) -> None:
        """Make the state and the storage's writes durable, if anything changed.

        Args:
            state: gives the state when it is encoded.
            in_thread: whether a large state may be encoded in a thread, since nobody can
                change it meanwhile.

        Cancelled while it waits for its turn, nothing was done; after that it is not
        cancelled, since a commit is carried out whether or not somebody waits. Not a
        checkpoint where there is nothing to write.

        Raises:
            StateError: the state holds what CBOR cannot, or what would come back as something else;
                nothing was written.
            StaleWrite: somebody else has written the room, or opened the store; nothing was
                written, nor can be before the room is loaded again.
            StoreError: it is not known to be written; a later call tries again.
        """
        writes = self._writes
        await self._take()
        try:
            if writes is self._writes:
                with trio.CancelScope(shield=True) as self._shield:
                    await self._save(state, writes, in_thread=in_thread)
                self._check_answered()
        finally:
            self._give()

    async def _save(self, state: Callable[[], Any], writes: _Writes, *, in_thread: bool) -> None:
        codec = self._definition.codec
        self.dirty = False
        taken = writes.take()
        try:
            encoded = None
            if self.large and in_thread:
                encoded = await self._encode_in_thread(state())
            if encoded is None:
                writes.put_back()
                taken = writes.take()
                began = perf_counter()
                encoded = codec.encode(self.key, state(), self._aside)
                self.encoding_took = perf_counter() - began
            self.large = len(encoded) >= LARGE
            digest, saved = _digest(encoded), self._saved
            changed = digest != saved
            if changed or taken:
                await self._commit(encoded if changed else None, taken)
            self._saved = digest
            if saved == _BESIDE_DAMAGE:
                self._saved, self.dirty = b"", True
        except BaseException:
            self.dirty = True
            writes.put_back()
            raise
        finally:
            writes.sent = None

    async def _encode_in_thread(self, state: Any) -> bytes | None:
        """Encode a large state; None where somebody may have changed it meanwhile.

        No handler and no task of the room runs then, but a task of the program may have a context.
        """
        began = perf_counter()
        try:
            encoded = await trio.to_thread.run_sync(
                self._definition.codec.encode_large, self.key, state, self._aside
            )
        except StateError:
            if not self.dirty:
                raise
            encoded = b""
        self.encoding_took = perf_counter() - began
        if not self.dirty:
            return encoded
        self.dirty = False
        return None

    def unsaved(self, state: Any) -> bool:
        """Whether a state differs from the saved one, or a write waits; found out by encoding it."""
        if self._writes.new:
            return True
        try:
            return _digest(self._definition.codec.encode(self.key, state, self._aside)) != self._saved
        except StateError:
            return True  # Whoever saves it is told why.

    async def settled(self) -> None:
        """Wait until no commit is in flight; not a checkpoint where none is."""
        if self._busy:
            await self._take()
            self._give()

    async def destroy(self) -> None:
        """Delete all that the store has of the room, its number apart; what is unsaved is forgotten.

        Cancelled while it waits for its turn, nothing was done; after that it is not cancelled.

        Raises:
            StaleWrite, StoreError: as for `save`; the room goes on, and what is unsaved stays.
        """
        await self._take()
        try:
            with trio.CancelScope(shield=True) as self._shield:
                self.dirty = True
                await self._commit(None, {}, destroy=True)
            self._check_answered()
            self.discard()
        finally:
            self._give()

    def abandon(self) -> None:
        """Wait no longer for the commit in flight, if there is one; whoever waited gets a StoreError."""
        if self._shield is not None:
            self._shield.cancel()

    def _check_answered(self) -> None:
        """Let go of what shielded a commit.

        Raises:
            StoreError: it was abandoned.
        """
        shield, self._shield = self._shield, None
        if shield is not None and shield.cancelled_caught:
            raise StoreError(f"the store has not answered whether room {self.key} is written")

    async def _take(self) -> None:
        """Wait for the turn; without a turn of the event loop where it is free, which would be one a room."""
        if not self._busy:
            self._busy = True
            return
        if self._queue is None:
            self._queue = trio.lowlevel.ParkingLot()
        await self._queue.park()  # Whoever has the turn hands it on.

    def _give(self) -> None:
        """Hand the turn to who has waited longest, or to nobody."""
        if self._queue:
            self._queue.unpark()
        else:
            self._busy, self._queue = False, None

    # Numbers.

    async def _commit(
        self, encoded: bytes | None, writes: Mapping[str, bytes | None], *, destroy: bool = False
    ) -> None:
        """Write under the next number, whatever has become of former tries under it."""
        while True:
            commit = self._next(encoded, writes, destroy=destroy)
            try:
                await self._store.commit(commit)
            except StaleWrite:
                # Refused because a former try had happened, or because somebody else has written.
                if not await self._had_happened():
                    self._saved = b""
                    raise
            except (TypeError, ValueError):
                raise  # It was not handed over.
            except BaseException:
                # The next commit has the state again, whatever it is by then: who knows what is there.
                self._saved = b""
                self._doubt(commit)
                raise
            else:
                self.number = commit.number
                self._doubtful = range(0)
                return

    def _next(self, encoded: bytes | None, writes: Mapping[str, bytes | None], *, destroy: bool) -> Commit:
        number, epoch = self.number + 1, self._epoch
        document = None
        if encoded is not None:
            name, version = self._definition.name, self._definition.version
            id_ = self.key.removeprefix(f"{name}/")
            document = Snapshot(
                name, id_, version, number, epoch, encoded, self._definition.codec.fingerprint
            ).pack()
        # Those under one number follow on each other, so that any number of them is a range.
        nonce = self._doubtful.stop or draw_nonce()
        return Commit(self.key, number, epoch, document, writes, destroy=destroy, nonce=nonce)

    def _doubt(self, commit: Commit) -> None:
        """Remember that a commit may have happened although it raised."""
        first = self._doubtful.start or commit.nonce
        self._doubtful = range(first, commit.nonce + 1)

    async def _had_happened(self) -> bool:
        """Whether one of the commits in doubt is what the store has under their number."""
        doubtful = self._doubtful
        if doubtful:
            head = await self._store.head(self.key)
            if head.number == self.number + 1 and head.nonce in doubtful:
                self.number, self._doubtful = head.number, range(0)
                return True
        self._doubtful = range(0)
        return False

    # The storage of the room.

    def write(self, name: str, encoded: bytes | None) -> None:
        """Write a value, or delete it, with the next commit."""
        self._writes.put(name, encoded)
        self.dirty = True
        if self.wanted is not None:
            self.wanted(self._writes.size > _MANY_WRITES)

    async def get(self, name: str) -> bytes | None:
        """A value as it is, whether it is durable yet or not."""
        pending = self._writes.all()
        if name in pending:
            await trio.lowlevel.checkpoint()
            return pending[name]
        return await self._store.get(self.key, name)

    async def list(self, prefix: str, after: str | None, limit: int | None) -> list[tuple[str, bytes]]:
        """Values as they are, ordered by name."""
        # As they are now: a commit may end while the store reads from before it.
        pending = self._writes.all()
        # A deletion that is not durable yet hides a stored name, so as many more are read.
        stored = await self._store.list(
            self.key, prefix, after=after, limit=None if limit is None else limit + len(pending)
        )
        merged: dict[str, bytes | None] = dict(stored)
        merged |= {
            name: encoded
            for name, encoded in pending.items()
            if name.startswith(prefix) and (after is None or name > after)
        }
        found = sorted((name, encoded) for name, encoded in merged.items() if encoded is not None)
        return found if limit is None else found[:limit]


def _digest(encoded: bytes) -> bytes:
    return hashlib.blake2b(encoded, digest_size=16).digest()
