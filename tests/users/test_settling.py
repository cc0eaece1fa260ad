"""Removing messages from inboxes."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import MemoryStore
from trio_rooms._users.settling import Settling
from trio_rooms.stores import Post


@pytest.mark.parametrize("of_all", [False, True])
async def test_what_is_removed_while_an_inbox_is_worked_on_counts_as_removed(
    autojump_clock: MockClock, nursery: trio.Nursery, of_all: bool
) -> None:
    """Somebody may have read it before, and must not offer it now, or count it as expired."""
    async with MemoryStore() as store:
        await store.post([Post("ana", number, b"", 1e12) for number in (1, 2)])
        settling = Settling(store, nursery.start_soon, lambda: None)
        settling.add("ana", [1])
        with settling.all_remembered() if of_all else settling.remembered("ana"):
            assert settling.has("ana", 1)
            while not settling.empty:
                await trio.sleep(0.1)
            assert [row.post.id for row in await store.inbox("ana")] == [2]
            assert settling.has("ana", 1)
            assert not settling.has("ana", 2)
        assert not settling.has("ana", 1)


class _Busy(MemoryStore):
    """While it removes something, more is acknowledged."""

    settling: Settling

    async def settle(self, user: str, ids: Collection[int]) -> None:
        self.settling.add(f"user {trio.current_time()}", [1])
        await trio.sleep(0.01)
        await super().settle(user, ids)


async def test_who_waits_until_something_is_removed_does_not_wait_for_what_comes_later(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Where others acknowledge all the time, there is always something."""
    async with _Busy() as store:
        await store.post([Post(f"user {number}", 1, b"", 1e12) for number in range(100)])
        settling = store.settling = Settling(store, nursery.start_soon, lambda: None)
        for number in range(100):
            settling.add(f"user {number}", [1])
        with trio.fail_after(1):
            await settling.removed()
        assert await store.inboxes() == []
        assert not settling.empty
        nursery.cancel_scope.cancel()
