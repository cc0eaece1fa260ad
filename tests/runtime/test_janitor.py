"""What has expired goes from inboxes, and what is on its way does not."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from tests.users.dens import den, inside, told
from trio_rooms import MemoryStore, StoreError, open_rooms
from trio_rooms.testing import FaultyStore


async def test_what_expires_goes_at_its_time(autojump_clock: MockClock) -> None:
    """In pages, although nobody comes for it; and what lives on stays."""
    store = MemoryStore()
    async with open_rooms([den()], store=store) as rooms:
        for number in range(600):
            await rooms.user(f"user{number}").send("told", 1, ttl=60)
        await rooms.user("ana").send("told", 1, ttl=100)
        await trio.sleep(50)
        assert len(await store.inboxes()) == 601
        await trio.sleep(20)
        assert [user for user, _ in await store.inboxes()] == ["ana"]
        await trio.sleep(60)
        assert not await store.inboxes()
        users = rooms.statistics().users
        assert (users.expired, users.delivered, users.stored) == (601, 0, 601)
        assert rooms._runtime.janitor.longest < 0.1


async def test_what_a_session_may_still_acknowledge_is_left_alone(autojump_clock: MockClock) -> None:
    """Until it is over; also where it was offered before this process."""
    store = MemoryStore()
    async with open_rooms([den(resume_window=500)], store=store) as rooms:
        async with inside(rooms, "ana") as client:
            await rooms.user("ana").send("told", 1, ttl=10)
            assert await told(client, 1) == [1]
            await trio.sleep(100)
            assert await rooms.user("ana").waiting() == 1
            await client.drop()
        await trio.sleep(100)
        assert await rooms.user("ana").waiting() == 1
    async with open_rooms([den(resume_window=500)], store=store) as rooms:
        await trio.sleep(100)
        assert await rooms.user("ana").waiting() == 1
        await trio.sleep(500)
        assert await rooms.user("ana").waiting() == 0
        assert rooms.statistics().users.expired == 1


async def test_a_store_that_cannot_be_read_is_read_again(autojump_clock: MockClock) -> None:
    """Nothing is forgotten over it."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([den()], store=store) as rooms:
        await rooms.user("ana").send("told", 1, ttl=10)
        await trio.sleep(6)
        store.fail_reads(StoreError("not now"), times=2)
        await trio.sleep(200)
        assert (await store.store.inbox_size("ana")).count == 0
