"""What is too big to load at each wake: values of one room, by name."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from trio_rooms._arguments import text, whole
from trio_rooms._state.codec import decode_value, encode_value
from trio_rooms._state.record import Record
from trio_rooms.errors import SnapshotCorrupt

from .shared import Shared

__all__ = ["Storage"]

D = TypeVar("D")


class Storage:
    """Values of one room that are too big to load at each wake, by name.

    What is written is seen at once by what reads after it, and becomes durable in one
    transaction with the next snapshot.

    All of it raises `StaleContext` once the room has fallen asleep.
    """

    __slots__ = ("_record", "_shared")

    def __init__(self, shared: Shared, record: Record) -> None:
        self._shared = shared
        self._record = record

    @overload
    async def get(self, name: str) -> Any: ...
    @overload
    async def get(self, name: str, default: D) -> Any | D: ...
    async def get(self, name: str, default: Any = None) -> Any:
        """The value under a name, or ``default``. A checkpoint; a cancel changes nothing.

        Raises:
            TypeError, ValueError: no value can have this name.
            StoreError: it could not be read.
            SnapshotCorrupt: it is damaged.
        """
        text("a name in a storage", name)
        self._shared.check_life(f"{name!r} cannot be read")
        encoded = await self._record.get(name)
        return default if encoded is None else self._decode(name, encoded)

    def put(self, name: str, value: Any) -> None:
        """Keep a value: anything CBOR can hold.

        Raises:
            TypeError, ValueError: no value can have this name.
            StateError: it holds what CBOR cannot; the message says where.
        """
        text("a name in a storage", name)
        self._shared.check_life(f"{name!r} cannot be kept")
        self._record.write(name, encode_value(self._shared.key, f"storage[{name!r}]", value))

    def delete(self, name: str) -> None:
        """Remove a value; nothing where there is none.

        Raises:
            TypeError, ValueError: no value can have this name.
        """
        text("a name in a storage", name)
        self._shared.check_life(f"{name!r} cannot be deleted")
        self._record.write(name, None)

    async def list(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """The values whose names start with ``prefix``, in the order of their names. A checkpoint.

        Args:
            prefix: what the names begin with; all do with ``""``.
            after: only names behind this one, to go through many a page at a time.
            limit: at most so many.

        Raises:
            TypeError, ValueError: the prefix or ``after`` is no name, or the limit no number from 0 on.
            StoreError: they could not be read.
            SnapshotCorrupt: one is damaged.
        """
        text("prefix", prefix)
        if after is not None:
            text("after", after)
        if limit is not None:
            whole("limit", limit)
        self._shared.check_life("the storage cannot be listed")
        found = await self._record.list(prefix, after, limit)
        return {name: self._decode(name, encoded) for name, encoded in found}

    def _decode(self, name: str, encoded: bytes) -> Any:
        """A value that the store gave.

        Raises:
            SnapshotCorrupt: it does not decode.
        """
        try:
            return decode_value(encoded)
        except Exception as error:  # (whatever a decoder raises, the bytes are at fault)
            raise SnapshotCorrupt(self._shared.key, f"storage[{name!r}] does not decode: {error}") from error
