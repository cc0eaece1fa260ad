"""The inboxes of users: what is given to the functions that write them, and reading them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from trio_rooms._valkey import Argument
from trio_rooms.errors import StaleWrite, StoreFull
from trio_rooms.stores.base import InboxSize, Post, Waiting
from trio_rooms.stores.checks import encode

from .commits import MOST_BYTES
from .opened import PAGE_BYTES, Opened, read_pages, user
from .rows import above, eight, number, pack_post, unpack_message

__all__ = ["post", "read_expired", "read_inbox", "read_size", "read_sizes", "settle"]


async def post(opened: Opened, fence: Sequence[Argument], posts: Sequence[Post]) -> dict[str, InboxSize]:
    """See `Store.post`."""
    given: list[Argument] = [opened.prefix, *fence, len(posts)]
    for one in posts:
        if len(one.body) > MOST_BYTES:
            raise StoreFull(f"a message for user {one.user} has more than {MOST_BYTES >> 20} MiB")
        given += pack_post(one)
    rows = await opened.ways.write((user(encode(one.user)) for one in posts), "post", given, _judge)
    return {
        whom.decode(): InboxSize(count, size)
        for whom, count, size in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
    }


async def settle(opened: Opened, fence: Sequence[Argument], whom: str, ids: Collection[int]) -> None:
    """See `Store.settle`."""
    encoded = encode(whom)
    given = (opened.prefix, *fence, encoded, *map(eight, ids))
    await opened.ways.write((user(encoded),), "settle", given, _judge)


def _judge(answer: Any) -> Any:
    """What an answer means; what it says.

    Raises:
        StaleWrite: it is a refusal.
    """
    if answer[0] != b"OK":
        raise StaleWrite(
            "the store was opened for writing since, and whoever did that is the only one to write now"
        )
    return answer[1:]


async def read_inbox(opened: Opened, whom: bytes, after: int, limit: int | None) -> list[Waiting]:
    """See `Store.inbox`."""

    async def read(last: Waiting | None, most: int) -> tuple[bool, list[Waiting]]:
        behind = after if last is None else last.position
        cut, *found = await opened.call("inbox", whom, behind, most, PAGE_BYTES, about=user(whom))
        rows = zip(found[::3], found[1::3], found[2::3], strict=True)
        return cut == b"1", [unpack_message(whom, *row) for row in rows]

    return await read_pages(limit, read)


async def read_size(opened: Opened, whom: bytes) -> InboxSize:
    """See `Store.inbox_size`."""
    return InboxSize(*await opened.call("inbox_size", whom, about=user(whom)))


async def read_sizes(
    opened: Opened, within: tuple[bytes, bytes], limit: int | None
) -> list[tuple[str, InboxSize]]:
    """The inboxes of users in a half-open range, in order."""
    lower, upper = within

    async def read(last: tuple[str, InboxSize] | None, most: int) -> tuple[bool, list[tuple[str, InboxSize]]]:
        low = lower if last is None else last[0].encode() + b"\0"
        found = await opened.call("inboxes", low, upper, most)
        rows = zip(found[::3], found[1::3], found[2::3], strict=True)
        return False, [(whom.decode(), InboxSize(count, size)) for whom, count, size in rows]

    return await read_pages(limit, read)


async def read_expired(
    opened: Opened, now: float, limit: int, after: tuple[float, str, int] | None
) -> list[Waiting]:
    """See `Store.expired`."""
    start = (b"", b"") if after is None else (number(after[0]), above(after[2]))

    async def read(last: Waiting | None, most: int) -> tuple[bool, list[Waiting]]:
        behind = start if last is None else (number(last.post.expires), above(last.position))
        cut, *found = await opened.call("expired", number(now), most, *behind, PAGE_BYTES)
        rows = zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)
        return cut == b"1", [unpack_message(*row) for row in rows]

    return await read_pages(limit, read)
