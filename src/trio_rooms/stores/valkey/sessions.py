"""Reading sessions of a room, and what their messages were answered."""

from __future__ import annotations

from trio_rooms.stores.base import StoredSession

from .opened import PAGE_BYTES, Opened, read_pages
from .rows import above, eight, unpack_session

__all__ = ["read_positions", "read_session", "read_sessions", "read_verdicts"]


async def read_session(opened: Opened, key: bytes, sid: int) -> StoredSession | None:
    """One session."""
    found = await opened.call_room("session", key, eight(sid))
    return unpack_session(sid, *found) if found else None


async def read_sessions(
    opened: Opened, key: bytes, after: int, limit: int | None, *, ended: bool
) -> list[StoredSession]:
    """See `Store.sessions`."""
    kind = b"z:" if ended else b"i:"

    async def read(last: StoredSession | None, most: int) -> tuple[bool, list[StoredSession]]:
        low = above(after if last is None else last.sid)
        cut, *found = await opened.call_room("sessions", key, kind, low, most, PAGE_BYTES)
        rows = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
        return cut == b"1", [unpack_session(int.from_bytes(sid, "big"), *parts) for sid, *parts in rows]

    return await read_pages(limit, read)


async def read_positions(opened: Opened, key: bytes) -> dict[int, int]:
    """See `Store.positions`."""
    found = await opened.call_room("positions", key)
    return dict(sorted(zip(map(int, found[::2]), map(int, found[1::2]), strict=True)))


async def read_verdicts(opened: Opened, key: bytes, sid: int) -> dict[int, bytes]:
    """See `Store.verdicts`."""

    async def read(last: bytes | None, most: int) -> tuple[bool, list[bytes]]:
        # What comes behind all that begins with the same ids.
        low = eight(sid) if last is None else (int.from_bytes(last[:16], "big") + 1).to_bytes(16, "big")
        cut, *found = await opened.call_room("verdicts", key, low, above(sid), most, PAGE_BYTES)
        return cut == b"1", found

    found = await read_pages(None, read)
    return {int.from_bytes(one[8:16], "big"): one[16:] for one in found}
