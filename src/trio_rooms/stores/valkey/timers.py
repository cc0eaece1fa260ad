"""Reading what is due: timers of a room, and of all rooms sessions, timers and looks."""

from __future__ import annotations

from typing import Final

from trio_rooms.stores.base import Due, Timer
from trio_rooms.stores.checks import check_limit

from .opened import PAGE, PAGE_BYTES, Opened, read_pages
from .rows import eight, number, timer_member, unpack_timer

__all__ = ["give_up", "read_due", "read_due_timers"]

_GRACE: Final = 10
"""Seconds for which a node that is no more may come back to its rooms, see `Engine.reclaim`."""
_PAGES: Final = 100
"""Pages of connections that are given up at one look."""


async def read_due_timers(opened: Opened, key: bytes, now: float, limit: int) -> list[tuple[str, Timer]]:
    """See `Store.due_timers`."""
    offset = 0

    async def read(_: tuple[str, Timer] | None, most: int) -> tuple[bool, list[tuple[str, Timer]]]:
        nonlocal offset
        cut, *found = await opened.call_room("due_timers", key, number(now), most, offset, PAGE_BYTES)
        rows = zip(found[::2], found[1::2], strict=True)
        page = [(name.decode(), unpack_timer(value)) for name, value in rows]
        offset += len(page)
        return cut == b"1", page

    return await read_pages(limit, read)


async def give_up(opened: Opened) -> None:
    """Give up connections of nodes that are no more, in rooms that nobody has claimed since."""
    for _ in range(_PAGES):
        if not await opened.call("orphans", PAGE, _GRACE, b""):
            return


async def read_due(opened: Opened, now: float, limit: int, after: Due | None) -> list[Due]:
    """See `Store.due`."""
    check_limit(limit)
    start = _behind(after)

    async def read(last: tuple[bytes, bytes] | None, most: int) -> tuple[bool, list[tuple[bytes, bytes]]]:
        behind = start if last is None else (last[1], last[0] + b"\0", b"")
        found = await opened.call("due", number(now), most, *behind)
        return False, [*zip(found[::2], found[1::2], strict=True)]

    return [_due(member, score) for member, score in await read_pages(limit, read)]


def _behind(after: Due | None) -> tuple[bytes, bytes, bytes]:
    """Where to go on: a score, the first member of that, and whether all of that score is left out."""
    if after is None:
        return b"", b"", b""
    key, score = after.key.encode(), number(after.time)
    if after.sid is not None:
        return score, b"1" + eight(after.sid) + key + b"\0", b""
    if after.timer is not None:
        return score, timer_member(key, after.timer.encode()) + b"\0", b""
    if after.lapses:
        return score, b"3" + key + b"\0", b""
    return score, b"", b"1"


def _due(member: bytes, score: bytes) -> Due:
    """What is due at a score."""
    time = float(score)
    if member.startswith(b"1"):
        return Due(time, member[9:].decode(), sid=int.from_bytes(member[1:9], "big"))
    if member.startswith(b"2"):
        size, _, rest = member[1:].partition(b":")
        return Due(time, rest[: int(size)].decode(), timer=rest[int(size) :].decode())
    return Due(time, member[1:].decode(), lapses=True)
