"""The document of one room, as it lies in the store.

It is a fixed head (magic, length and checksum of the body) and a body, which is one CBOR map.
The state lies in it as a byte string of its own, so that the document can be checked and listed
without decoding the state.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import attrs
import cbor2

from trio_rooms.errors import SnapshotCorrupt, SnapshotError
from trio_rooms.stores.base import StoredSnapshot

__all__ = ["Snapshot"]

_MAGIC: Final = b"trioroom\x01"
_HEAD: Final = struct.Struct(">9sQ16s")


@attrs.frozen
class Snapshot:
    """What one document says, its state still encoded."""

    room: str
    id: str
    version: int
    generation: int
    epoch: int
    """The epoch of the store's owner that wrote it."""
    state: bytes
    shape: str = ""
    """The fingerprint of the classes that the state was written by; empty where that is not known."""

    def pack(self) -> bytes:
        """The document that goes into the store."""
        fields = {name: getattr(self, name) for name in _TYPES}
        if not self.shape:
            del fields["shape"]  # So it was before there was a fingerprint.
        body = cbor2.dumps(fields)
        return _HEAD.pack(_MAGIC, len(body), _checksum(body)) + body

    @classmethod
    def of(cls, key: str, stored: StoredSnapshot) -> Snapshot:
        """What a store has of a room, in one of its generations.

        Raises:
            SnapshotCorrupt: the store cannot read it, or it is not what was written as this generation.
            SnapshotError: as for `unpack`.
        """
        if stored.damage:
            raise SnapshotCorrupt(key, f"its snapshot cannot be read: {stored.damage}")
        snapshot = cls.unpack(key, stored.document)
        if snapshot.generation != stored.generation:
            why = f"its snapshot is generation {snapshot.generation}, stored as {stored.generation}"
            raise SnapshotCorrupt(key, why)
        return snapshot

    @classmethod
    def unpack(cls, key: str, packed: bytes) -> Snapshot:
        """The inverse of `pack`.

        Raises:
            SnapshotCorrupt: the document is cut short, changed, or of another room.
            SnapshotError: it is as it was written, and not what this version of the library writes.
        """
        if len(packed) < _HEAD.size:
            raise SnapshotCorrupt(key, f"its snapshot is cut short: {len(packed)} bytes")
        magic, length, checksum = _HEAD.unpack_from(packed)
        body = packed[_HEAD.size :]
        if magic != _MAGIC:
            raise SnapshotCorrupt(key, "its snapshot does not begin as one")
        if length != len(body):
            raise SnapshotCorrupt(key, f"its snapshot has {len(body)} bytes where {length} were written")
        if checksum != _checksum(body):
            raise SnapshotCorrupt(key, "its snapshot does not match its checksum")
        # From here on it is no damage: to go back to an older one for it would lose this one.
        try:
            snapshot = cls(**cbor2.loads(body))
        except (cbor2.CBORDecodeError, TypeError) as error:
            raise SnapshotError(key, f"{_STRANGE}: {error}") from error
        if any(type(getattr(snapshot, field.name)) is not _TYPES[field.name] for field in attrs.fields(cls)):
            raise SnapshotError(key, f"{_STRANGE}: it has fields of other types")
        if f"{snapshot.room}/{snapshot.id}" != key:
            raise SnapshotCorrupt(key, f"its snapshot is that of {snapshot.room}/{snapshot.id}")
        return snapshot


_STRANGE: Final = (
    "its snapshot is intact, but another version of trio-rooms must have written it (it is left as it is)"
)
_TYPES: Final = {
    "room": str,
    "id": str,
    "version": int,
    "generation": int,
    "epoch": int,
    "state": bytes,
    "shape": str,
}


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
