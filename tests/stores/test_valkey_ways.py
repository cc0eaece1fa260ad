"""Several connections of one store: what is about the same takes effect in the order of the handing over."""

from __future__ import annotations

import random

import pytest
import trio

from tests.valkey import Valkey
from trio_rooms.stores import ValkeyStore
from trio_rooms.stores.base import Commit, Post, Store
from trio_rooms.stores.memory import MemoryStore

USERS = ("ana", "ben", "eve", "\u00e9")
KEYS = tuple(f"chat/{number}" for number in range(8))


async def hand_over(store: Store, seed: int, most: int) -> None:
    """Write at random, and wait for nothing."""
    chance = random.Random(seed)
    numbers = dict.fromkeys(KEYS, 0)
    for number in range(1, most + 1):
        with trio.CancelScope() as scope:
            scope.cancel()
            posts = [Post(chance.choice(USERS), number, b"", 9.0)]
            match chance.randrange(5):
                case 0:
                    await store.post([Post(user, number, b"", 9.0) for user in chance.sample(USERS, 3)])
                case 1:
                    await store.settle(chance.choice(USERS), range(max(1, number - 9), number))
                case kind:
                    key = chance.choice(KEYS)
                    numbers[key] += 1
                    body = b"%d" % numbers[key] * 500
                    await store.commit(
                        Commit(key, numbers[key], 1, body, sends=tuple(posts) if kind == 2 else ())
                    )


async def inboxes(store: Store) -> dict[str, list[int]]:
    """What waits for whom, in order."""
    return {user: [one.post.id for one in await store.inbox(user)] for user in USERS}


@pytest.mark.parametrize("seed", range(4))
async def test_writes_about_the_same_keep_their_order(seed: int, valkey: Valkey) -> None:
    """Of a room, and of a user, whatever else is on its way and over which connections."""
    memory = MemoryStore()
    async with ValkeyStore(valkey.url) as store, memory:
        await hand_over(memory, seed, 300)
        await hand_over(store, seed, 300)
        assert store.statistics().pending > 0
    async with ValkeyStore(valkey.url) as store, memory:
        assert await inboxes(store) == await inboxes(memory)
        for key in KEYS:
            assert (await store.load(key)).snapshots == (await memory.load(key)).snapshots
        assert store.statistics().failures == 0


async def test_what_is_read_comes_behind_what_was_handed_over(valkey: Valkey) -> None:
    """Of the same room or user, although nobody has waited for it."""
    async with ValkeyStore(valkey.url) as store:
        for number in range(1, 50):
            with trio.CancelScope() as scope:
                scope.cancel()
                sends = (Post(f"user {number}", 1, b"", 9.0),)
                await store.commit(Commit(f"chat/{number}", 1, 1, b"one", {"a": b"1"}, sends=sends))
            assert await store.get(f"chat/{number}", "a") == b"1"
            assert (await store.inbox_size(f"user {number}")).count == 1


async def test_rooms_take_several_connections(valkey: Valkey) -> None:
    """What is about nothing else that is on its way is spread over all of them."""
    async with ValkeyStore(valkey.url) as store, trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(store.commit, Commit(f"chat/{number}", 1, 1, b"one"))
        while store.statistics().pending < 100:
            await trio.lowlevel.checkpoint()
        assert store._opened is not None
        assert min(line.writes.pending for line in store._opened._lines) > 10
