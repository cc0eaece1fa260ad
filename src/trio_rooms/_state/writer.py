"""Carrying the commits of one room to the store: one at a time, and each under its number.

A commit that raised may have happened all the same. What is written next goes out under the same number:
either it is applied, and nothing had happened, or it is stale. Then the store says which commit has this
number. Where that is none of ours, somebody else has written the room.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import attrs
import trio

from trio_rooms.errors import StaleWrite, StoreClosed, StoreError, StoreFull, StoreReadOnly
from trio_rooms.stores.base import Commit, RoomHead, Store, Verdict, draw_nonce

from .delta import Delta
from .saved import Encoding, Saved
from .snapshot import Snapshot

__all__ = ["Writer"]

logger = logging.getLogger("trio_rooms")

T = TypeVar("T")

_AGAIN_FIRST: Final = 0.05
_AGAIN_LAST: Final = 1.0
"""Seconds after which a commit whose outcome is not known is sent again, doubled each time."""
_READS: Final = 3
"""Times that something is read before it is read in turn, where commits come through meanwhile."""


@attrs.define(eq=False, weakref_slot=False)
class Writer:
    """Has the numbers of one room, and the turn to read or write it in the store.

    Whoever calls `carry` has the turn, and shields it with `shield`.

    Args:
        key: the room.
        definition: what its snapshots say.
        store: where it is kept.
        saved: what is known of the saved state: nothing any more, once a commit raised.
        noted: called with the time of what is in the store since then and is due the earliest.
    """

    _key: str
    _definition: Encoding
    _store: Store
    _saved: Saved
    _noted: Callable[[float], None] | None
    number: int = attrs.field(init=False, default=0)
    """That of the last commit that is known to be in the store."""
    seq: int = attrs.field(init=False, default=0)
    """The highest seq that is known to be in the store as given out."""
    epoch: int = attrs.field(
        init=False, default=attrs.Factory(lambda self: self._store.epoch_of(self._key), True)
    )
    """That of the store when the room was last loaded: what its commits are fenced by."""
    doubtful: range = attrs.field(init=False, default=range(0))
    """Nonces of commits that raised, all with the number ``number + 1``: one of them may have happened."""
    life: object = attrs.field(init=False, factory=object)
    """Another one whenever what is not written was forgotten: so what began before finds out."""
    shield: trio.CancelScope | None = attrs.field(init=False, default=None)
    """What keeps the commit in flight from being cancelled."""
    since: float | None = attrs.field(init=False, default=None)
    """When the commit in flight began, on Trio's clock; None where none is."""
    busy: bool = attrs.field(init=False, default=False)
    """Whether somebody has the turn."""
    _queue: trio.lowlevel.ParkingLot | None = attrs.field(init=False, default=None)
    """Who waits for the turn. A lock would be three objects more for each awake room."""

    # The turn.

    async def take(self) -> None:
        """Wait for the turn; without a turn of the event loop where it is free, which would be one a room."""
        if not self.busy:
            self.busy = True
            return
        if self._queue is None:
            self._queue = trio.lowlevel.ParkingLot()
        await self._queue.park()  # Whoever has the turn hands it on.

    def give(self) -> None:
        """Hand the turn to who has waited longest, or to nobody."""
        if self._queue:
            self._queue.unpark()
        else:
            self.busy, self._queue = False, None

    def abandon(self) -> None:
        """Wait no longer for the commit in flight, if there is one; whoever waited gets a StoreError."""
        if self.shield is not None:
            self.shield.cancel()

    def check_answered(self) -> None:
        """Let go of what shielded a commit.

        Raises:
            StoreError: it was abandoned.
        """
        shield, self.shield = self.shield, None
        if shield is not None and shield.cancelled_caught:
            raise StoreError(f"the store has not answered whether room {self._key} is written")

    async def read(self, read: Callable[[], Awaitable[T]]) -> T:
        """What the store has, as it is beneath what is not written yet at the end of the read.

        A commit in flight is not waited for, since it may hang. If one has come through meanwhile, what was
        read may be older than that.
        """
        for _ in range(_READS):
            life, number = self.life, self.number
            found = await read()
            if life is self.life and number == self.number:
                return found
        await self.take()
        try:
            return await read()
        finally:
            self.give()

    # Numbers.

    def learn(self, head: RoomHead) -> None:
        """Go on with the number that the store says; whoever calls has the turn."""
        self.epoch = self._store.epoch_of(self._key)
        self.number, self.seq, self.doubtful = head.number, head.seq, range(0)

    async def carry(
        self, encoded: bytes | None, delta: Delta, *, destroy: bool = False, until_known: bool = False
    ) -> None:
        """Write under the next number, whatever has become of former tries under it.

        Args:
            encoded: the state, if it is to be written.
            delta: what else is written.
            destroy: whether all is deleted.
            until_known: whether the same commit is sent again where its outcome is not known.
        """
        self.since = trio.current_time()
        try:
            await self._carry(encoded, delta, destroy=destroy, until_known=until_known)
        finally:
            self.since = None

    async def _carry(self, encoded: bytes | None, delta: Delta, *, destroy: bool, until_known: bool) -> None:
        commit: Commit | None = None
        again = _AGAIN_FIRST
        while True:
            if commit is None:
                commit = self._next(encoded, delta, destroy=destroy)
            try:
                await self._store.commit(commit)
            except (StaleWrite, StoreFull, StoreReadOnly) as error:
                stale = isinstance(error, StaleWrite)
                if stale or commit.nonce in self.doubtful:
                    # Refused because a former try had happened, or because somebody else has written.
                    nonce = await self._had_happened(until_known=until_known)
                    if nonce == commit.nonce:
                        break
                    if nonce is not None:
                        # Entries that the commit in doubt has written must not be written again.
                        delta.entries = [entry for entry in delta.entries if entry.seq > self.seq]
                        commit = None
                        continue
                self._saved.digest = b""
                if not stale:
                    self._doubt(commit)
                raise
            except (TypeError, ValueError):
                raise  # It was not handed over.
            except BaseException as error:
                # The next commit has the state again, whatever it is by then: who knows what is there.
                self._saved.digest = b""
                self._doubt(commit)
                self._note(delta)
                if not until_known or not isinstance(error, StoreError) or isinstance(error, StoreClosed):
                    raise
                if again == _AGAIN_FIRST:
                    why = "room %s: whether a commit is written is not known, so it is sent again: %s"
                    logger.warning(why, self._key, error)
                await trio.sleep(again)
                again = min(2 * again, _AGAIN_LAST)
            else:
                break
        self.number = commit.number
        self.seq = commit.seq or self.seq
        self.doubtful = range(0)
        self._note(delta)

    def _next(self, encoded: bytes | None, delta: Delta, *, destroy: bool) -> Commit:
        number, epoch, key = self.number + 1, self.epoch, self._key
        document = None
        if encoded is not None:
            definition = self._definition
            name = definition.name
            document = Snapshot(
                name, key[len(name) + 1 :], definition.version, number, epoch, encoded,
                definition.codec.fingerprint,
            ).pack()  # fmt: skip
        return Commit(
            key,
            number,
            epoch,
            document,
            delta.writes,
            tuple(delta.entries),
            delta.seq,
            delta.before,
            delta.floor,
            delta.trim,
            delta.rows,
            delta.links,
            tuple(Verdict(sid, number, content) for (sid, number), content in delta.verdicts.items()),
            delta.answered,
            delta.timers,
            destroy,
            sends=tuple(delta.sends),
            offers=delta.offers,
            lapses=delta.lapses,
            # Those under one number follow on each other, so that any number of them is a range.
            nonce=self.doubtful.stop or draw_nonce(),
        )

    def _doubt(self, commit: Commit) -> None:
        """Remember that a commit may have happened although it raised."""
        if commit.nonce not in self.doubtful:
            self.doubtful = range(self.doubtful.start or commit.nonce, commit.nonce + 1)

    async def _had_happened(self, *, until_known: bool) -> int | None:
        """Which of the commits in doubt is what the store has under their number; None for none of them.

        Args:
            until_known: whether it is read again where it cannot be read.
        """
        doubtful = self.doubtful
        if doubtful:
            head = await self._head(until_known=until_known)
            self.doubtful = range(0)
            if head.number == self.number + 1 and head.nonce in doubtful:
                self.number, self.seq = head.number, head.seq
                return head.nonce
        return None

    async def _head(self, *, until_known: bool) -> RoomHead:
        """What the store has of the room.

        Raises:
            StoreError: it cannot be read; where it has to be known, since the store was closed.
        """
        again = _AGAIN_FIRST
        while True:
            try:
                return await self._store.head(self._key)
            except StoreError as error:
                if not until_known or isinstance(error, StoreClosed):
                    raise
                await trio.sleep(again)
                again = min(2 * again, _AGAIN_LAST)

    def _note(self, delta: Delta) -> None:
        """What a commit has written is in the store, or may be: it may be due before all else."""
        if self._noted is None or not (delta.timers or delta.links or delta.lapses):
            return
        times = [row.due for row in delta.timers.values() if row is not None and row.due is not None]
        times += [link.until for link in delta.links.values() if link.until is not None]
        if delta.lapses:
            times.append(delta.lapses)
        if times:
            self._noted(min(times))
