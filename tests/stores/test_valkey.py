"""The store in Valkey: the suite of every store, and what becomes of it when the server goes away."""

from __future__ import annotations

import itertools
import math
import os

import pytest
import trio
import trio.testing
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.stores.test_stores import STEPS, Step, content
from tests.valkey import Valkey
from trio_rooms.errors import StaleWrite
from trio_rooms.stores.base import Commit, Store
from trio_rooms.stores.checks import MOST_ENDED
from trio_rooms.stores.memory import MemoryStore
from trio_rooms.stores.valkey.store import ValkeyStore
from trio_rooms.testing import StoreConformance

_numbers = itertools.count()


def new_prefix() -> str:
    """One that nobody else has."""
    return f"{os.getpid()} \u00e9 {next(_numbers)}"


class TestValkeyStore(StoreConformance):
    @pytest.fixture
    def store(self, one_valkey: Valkey) -> Store:
        return ValkeyStore(one_valkey.url, prefix=new_prefix())


@pytest.mark.parametrize("examples", [6, pytest.param(400, marks=pytest.mark.long)])
def test_valkey_and_memory_agree_about_all(examples: int, one_valkey: Valkey) -> None:
    """Whatever becomes of journals, sessions, timers and inboxes, also from one opening to the next."""

    @settings(max_examples=examples, deadline=None)
    @given(lives=st.lists(st.lists(STEPS, min_size=1, max_size=8), max_size=3))
    def agree(lives: list[list[Step]]) -> None:
        # The time of day stands still, so that both give the same times as they are opened.
        trio.run(_agree, one_valkey, lives, clock=trio.testing.MockClock())

    agree()


async def _agree(server: Valkey, lives: list[list[Step]]) -> None:
    async def refused(store: Store, commit: Commit) -> bool:
        try:
            await store.commit(commit)
        except StaleWrite:
            return True
        return False

    prefix = new_prefix()
    valkey, memory = ValkeyStore(server.url, prefix=prefix), MemoryStore()
    for life in lives:
        last: dict[str, Commit] = {}
        async with valkey, memory:
            assert await content(valkey) == await content(memory)
            for step in life:
                commit = step.commit(await memory.head(step.key), memory.epoch)
                if step.again:
                    commit = last.get(step.key, commit)
                event(outcome := f"refused: {await refused(memory, commit)}")
                assert outcome == f"refused: {await refused(valkey, commit)}"
                last[step.key] = commit
                assert await valkey.post(step.posts) == await memory.post(step.posts)
                for user, ids in step.settled.items():
                    await valkey.settle(user, ids)
                    await memory.settle(user, ids)
                assert await content(valkey) == await content(memory)
    # What is there of nothing takes no place.
    async with valkey:
        for key in await valkey.keys():
            await valkey.commit(Commit(key, (await valkey.head(key)).number + 1, valkey.epoch, destroy=True))
        for waiting in await valkey.expired(math.inf, 1000):
            await valkey.settle(waiting.post.user, [waiting.post.id])
    async with valkey:
        left = server.ask("KEYS", f"{{{prefix}}}:*")
        names = {one.rpartition(b":")[2] for one in left}
        assert names <= {b"opened", b"alone", b"posted", b"ends"}, left


async def test_what_is_left_of_ended_rooms_is_bounded(valkey: Valkey) -> None:
    """The one that ended first goes, with all that is kept of it, when there are too many."""
    async with ValkeyStore(valkey.url) as store:
        for key in ("chat/first", "chat/second"):
            await store.commit(Commit(key, 1, 1))
        fill = f"for i = 1, {MOST_ENDED - 2} do redis.call('ZADD', KEYS[1], 10 + i, 'chat/' .. i) end"
        valkey.ask("EVAL", fill, 1, "{rooms}:ended")
        valkey.ask("SET", "{rooms}:ends", 2 * MOST_ENDED)
        assert (await store.head("chat/first")).number == 1
        await store.commit(Commit("chat/last", 1, 1))
        assert valkey.ask("ZCARD", "{rooms}:ended") == MOST_ENDED
        assert valkey.ask("EXISTS", "{rooms}:r:chat/first") == 0
        assert (await store.head("chat/second")).number == 1
        # One that begins again is none of them.
        await store.commit(Commit("chat/second", 2, 1, b"two"))
        assert valkey.ask("ZSCORE", "{rooms}:ended", "chat/second") is None
        assert valkey.ask("ZCARD", "{rooms}:ended") == MOST_ENDED - 1
    async with ValkeyStore(valkey.url) as store:
        assert valkey.ask("ZCARD", "{rooms}:ended") == 0
        assert [(await store.head(f"chat/{name}")).number for name in ("first", "second", "last")] == [
            0,
            2,
            0,
        ]
