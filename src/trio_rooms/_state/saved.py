"""The state of one room as bytes: encoding it, finding the newest snapshot that decodes, and what is saved.

A state that is encoded to the bytes that are in the store already is not written again. Of those only a
digest is kept.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final, Protocol

import attrs
import trio

from trio_rooms.errors import SnapshotCorrupt
from trio_rooms.stores.base import StoredRoom, StoredSnapshot

from .codec import LARGE, NOTHING, Aside, Codec
from .snapshot import Snapshot

__all__ = ["BESIDE_DAMAGE", "UNWRITTEN", "Encoding", "Loaded", "Saved", "digest_of"]

logger = logging.getLogger("trio_rooms")

BESIDE_DAMAGE: Final = b"damage"
"""In place of a digest: to be saved twice, since the first save goes in the place of the sound one."""
UNWRITTEN: Final = b"unwritten"
"""In place of a digest: there is no state, and of a room without one nothing is in the store. A snapshot of
that goes with the first commit that has something else to write."""
_SECRET: Final = secrets.token_bytes(16)


class Encoding(Protocol):
    """What a room's definition says of its snapshots."""

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
    size: int = attrs.field(default=0, eq=False)
    """Bytes of it in the store."""
    seconds: float = attrs.field(default=0.0, eq=False)
    """For which it was read and decoded."""


@attrs.define(eq=False, weakref_slot=False)
class Saved:
    """Encodes and decodes the state of one room, and knows which one was saved last.

    Args:
        key: the room.
        definition: how its state is encoded.
    """

    _key: str
    _definition: Encoding
    large: bool = attrs.field(init=False, default=False)
    """Whether the state is encoded in a thread, during which nobody may change it."""
    took: float = attrs.field(init=False, default=0.0)
    """Seconds that encoding the state took the last time."""
    size: int = attrs.field(init=False, default=0)
    """Bytes that it had then, or when it was loaded."""
    digest: bytes = attrs.field(init=False, default=b"")
    """That of the state that was cut last; empty where that is not known to be in the store."""
    _aside: Aside = attrs.field(init=False, default=NOTHING)
    """What of the loaded state its classes do not understand: it is written again with each save."""

    @property
    def empty(self) -> bool:
        """Whether what is saved, or need not be, is that there is no state."""
        return self.digest in (OF_NOTHING, UNWRITTEN)

    def know_nothing(self, *, stored: bool) -> None:
        """There is no state; ``stored`` says whether a snapshot of that is in the store."""
        self.digest = OF_NOTHING if stored else UNWRITTEN

    def news(self, digest: bytes, *, more: bool) -> bool:
        """Whether a snapshot of an encoded state is to be written.

        Args:
            digest: that of the state.
            more: whether there is something else to write.
        """
        if self.digest == UNWRITTEN:
            return more or digest != OF_NOTHING
        return digest != self.digest

    @property
    def as_loaded(self) -> bool:
        """Whether the state that was loaded need not be written again if nobody changes it."""
        return bool(self.digest) and self.digest != BESIDE_DAMAGE

    def forget(self) -> None:
        """Nothing is known of a saved state."""
        self.digest = b""
        self._aside = NOTHING
        self.large = False

    def encode(self, state: Any) -> bytes:
        """A state as it is now.

        Raises:
            StateError: it cannot be written.
        """
        began = perf_counter()
        encoded = self._definition.codec.encode(self._key, state, self._aside)
        self.took, self.size = perf_counter() - began, len(encoded)
        return encoded

    async def encode_in_thread(self, state: Any) -> bytes:
        """The same for a large one, which nobody may change meanwhile."""
        began = perf_counter()
        encoded: bytes = await trio.to_thread.run_sync(
            self._definition.codec.encode_large, self._key, state, self._aside
        )
        self.took, self.size = perf_counter() - began, len(encoded)
        return encoded

    def differs(self, state: Any) -> bool:
        """Whether a state is not the saved one; found out by encoding it.

        Raises:
            StateError: it cannot be written.
        """
        encoded = self._definition.codec.encode(self._key, state, self._aside)
        return self.news(digest_of(encoded), more=False)

    async def newest(
        self,
        stored: tuple[StoredSnapshot, ...],
        epoch: int,
        began: float | None = None,
        older: Callable[[], Awaitable[StoredRoom]] | None = None,
    ) -> Loaded | None:
        """The newest state that decodes; None where there is none at all.

        Args:
            stored: the generations, the newest first.
            epoch: that of the store's owner.
            began: when they began to be read, on Trio's clock; None for now.
            older: reads all generations, where ``stored`` has the newest alone.

        Raises:
            StoreError: ``older`` raised it.
            SnapshotError: no generation can be used.
        """
        broken: SnapshotCorrupt | None = None
        began = trio.current_time() if began is None else began
        left = [*reversed(stored)]
        try:
            while left:
                one = left.pop()
                try:
                    snapshot = Snapshot.of(self._key, one)
                    if len(snapshot.state) < LARGE:
                        decoded = self._definition.codec.decode(self._key, snapshot)
                    else:
                        decode = self._definition.codec.decode
                        decoded = await trio.to_thread.run_sync(decode, self._key, snapshot)
                except SnapshotCorrupt as error:
                    why = "room %s: generation %d cannot be used: %s"
                    logger.error(why, self._key, one.generation, error)  # noqa: TRY400
                    broken = broken or error
                    if older is not None:
                        both, older = (await older()).snapshots, None
                        left = [other for other in both if other.generation < one.generation]
                    continue
                self.size = len(snapshot.state)
                self.large = self.size >= LARGE
                self._aside = decoded.aside
                # What a former process wrote is written again, so that it is of this one from then on.
                restarted = snapshot.epoch != epoch
                if broken is not None:
                    self.digest = BESIDE_DAMAGE
                    logger.error(
                        "room %s: took generation %d; what was written after it is lost",
                        self._key,
                        one.generation,
                    )
                elif snapshot.version == self._definition.version and not restarted:
                    self.digest = digest_of(snapshot.state)
                return Loaded(
                    decoded.state, restarted, broken is not None, self.size, trio.current_time() - began
                )
            if broken is not None:
                raise broken
            return None
        finally:
            # Its traceback holds this frame, which would hold it: a cycle around the room.
            del broken


def digest_of(encoded: bytes) -> bytes:
    """What is kept of an encoded state, to know it again in this process.

    Python's hash of bytes is SipHash, a quarter of the time of blake2. 64 bits are enough against chance, and
    the secret, whatever PYTHONHASHSEED is, against clients who choose what is in a state.
    """
    return hash(_SECRET + encoded).to_bytes(8, "big", signed=True)


OF_NOTHING: Final = digest_of(b"\xf6")  # CBOR's null, see RFC 8949, section 3.3.
