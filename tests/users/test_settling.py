"""Removing messages from inboxes."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from trio_rooms import MemoryStore
from trio_rooms._users.settling import Settling
from trio_rooms.stores import Post


async def test_what_is_removed_while_an_inbox_is_worked_on_counts_as_removed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Somebody may have read it before, and must not offer it now."""
    async with MemoryStore() as store:
        await store.post([Post("ana", number, b"", 1e12) for number in (1, 2)])
        settling = Settling(store, nursery.start_soon, lambda: None)
        settling.add("ana", [1])
        with settling.remembered("ana"):
            assert settling.has("ana", 1)
            while not settling.empty:
                await trio.sleep(0.1)
            assert [row.post.id for row in await store.inbox("ana")] == [2]
            assert settling.has("ana", 1)
            assert not settling.has("ana", 2)
        assert not settling.has("ana", 1)
