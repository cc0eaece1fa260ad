"""Reading what there is of rooms: heads, documents, names and what is under them, journals."""

from __future__ import annotations

from typing import Final

from trio_rooms.errors import StoreError
from trio_rooms.stores.base import Entry, RoomHead, StoredRoom, StoredSnapshot
from trio_rooms.stores.checks import MOST_ENTRIES

from .opened import PAGE_BYTES, Opened, read_pages, room
from .rows import unpack_entry, unpack_head

__all__ = ["read_head", "read_journal", "read_keys", "read_named", "read_room"]

_TRIES: Final = 5
"""How often a large document is read again that is replaced meanwhile."""
_HEAD: Final = 11
"""Fields of a head."""


async def read_head(opened: Opened, key: bytes) -> RoomHead:
    """What there is of a room, without what may be large."""
    return unpack_head(await opened.call_room("head", key))


async def read_room(opened: Opened, key: bytes, *, newest: bool = False) -> StoredRoom:
    """The same with its snapshots, or the newest of them."""
    for _ in range(_TRIES):
        found = await opened.call_room("load", key, PAGE_BYTES, int(newest))
        head = unpack_head(found[:_HEAD])
        snapshots = []
        for generation, document in zip(found[_HEAD::2], found[_HEAD + 1 :: 2], strict=True):
            if document.startswith(b"+"):
                snapshots.append(StoredSnapshot(int(generation), document[1:]))
                continue
            # On its own, since it is large.
            large = await opened.call("document", key, generation, about=room(key))
            if not large:
                break  # There is a newer one by now.
            snapshots.append(StoredSnapshot(int(generation), large[0]))
        else:
            return StoredRoom(head, tuple(snapshots))
    raise StoreError(f"room {key.decode()} is written too fast to be read")


async def read_named(
    opened: Opened, key: bytes, kinds: tuple[bytes, bytes], within: tuple[bytes, bytes], limit: int | None
) -> list[tuple[bytes, bytes]]:
    """Names in a half-open range, in order, and what is under them.

    Args:
        opened: where.
        key: the room.
        kinds: what the keys of the names' order, and of what is under them, begin with.
        within: the range.
        limit: how many are wanted.
    """
    lower, upper = within

    async def read(last: tuple[bytes, bytes] | None, most: int) -> tuple[bool, list[tuple[bytes, bytes]]]:
        low = lower if last is None else last[0] + b"\0"
        cut, *found = await opened.call_room("names", key, *kinds, low, upper, most, PAGE_BYTES)
        return cut == b"1", [*zip(found[::2], found[1::2], strict=True)]

    return await read_pages(limit, read)


async def read_keys(opened: Opened, within: tuple[bytes, bytes], limit: int | None) -> list[str]:
    """Keys of rooms in a half-open range, in order."""
    lower, upper = within
    keys = opened.prefix + b"keys"

    async def read(last: bytes | None, most: int) -> tuple[bool, list[bytes]]:
        low = b"[" + (lower if last is None else last + b"\0")
        return False, await opened.ask("ZRANGE", keys, low, b"(" + upper, "BYLEX", "LIMIT", 0, most)

    return [key.decode() for key in await read_pages(limit, read)]


async def read_journal(opened: Opened, key: bytes, after: int, until: int, most_bytes: int) -> list[Entry]:
    """See `Store.journal`."""
    found = await opened.call_room("journal", key, after, until, most_bytes, MOST_ENTRIES)
    return [unpack_entry(one) for one in found]
