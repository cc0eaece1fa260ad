"""What is durable, in which order, and what is damaged."""

from __future__ import annotations

import contextlib

import trio

from trio_rooms.errors import StaleWrite
from trio_rooms.stores.base import Store, StoredRoom, StoredSnapshot, StoreStatistics

from .support import loaded, put, raises

__all__ = ["Durability"]


class Durability:
    """When a commit is durable, and what the storage does to it."""

    async def test_commits_are_durable(self, store: Store) -> None:
        """A store that is closed and opened again has what was committed."""
        async with store:
            await put(store, "chat/1", 1, b"one", {"a": b"1"})
            await put(store, "chat/1", 2, b"two", {"b": b"2"})
            await put(store, "chat/2", 1, writes={"c": b"3"})
        async with store:
            assert await loaded(store, "chat/1") == (
                2,
                (StoredSnapshot(2, b"two"), StoredSnapshot(1, b"one")),
            )
            assert await store.list("chat/1") == [("a", b"1"), ("b", b"2")]
            assert await store.keys() == ["chat/1", "chat/2"]
            with raises(StaleWrite):
                await put(store, "chat/1", 2, b"stale")

    async def test_a_cancelled_caller_only_stops_waiting(self, store: Store) -> None:
        """A commit whose caller was cancelled before it began to wait is carried out, whole."""
        async with store:
            with trio.CancelScope() as scope:
                scope.cancel()
                await put(store, "chat/1", 1, b"one", {"a": b"1"})
            assert scope.cancelled_caught
            await put(store, "chat/1", 2, b"two")
            assert await loaded(store, "chat/1") == (
                2,
                (StoredSnapshot(2, b"two"), StoredSnapshot(1, b"one")),
            )
            assert await store.get("chat/1", "a") == b"1"

    async def test_closing_writes_what_was_handed_over(self, store: Store) -> None:
        """Commits that nobody waits for are durable once the store is closed, cancelled or not."""
        async with store:
            with trio.CancelScope() as scope:
                scope.cancel()
                for number in range(10):
                    with contextlib.suppress(trio.Cancelled):
                        await put(store, f"chat/{number}", 1, b"one")
                with contextlib.suppress(trio.Cancelled):
                    await store.aclose()
        async with store:
            assert await store.keys() == [f"chat/{number}" for number in range(10)]

    async def test_commits_of_one_room_keep_their_order(self, store: Store) -> None:
        """Commits that are handed over one after another take effect in that order."""
        count = 50
        async with store:
            async with trio.open_nursery() as nursery:
                for generation in range(1, count + 1):
                    document = b"%d" % generation
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await put(store, "chat/1", generation, document, {"last": document})
                    nursery.start_soon(_loads_well_formed, store, "chat/1")
            await put(store, "chat/1", count + 1, b"last")
            snapshots = (StoredSnapshot(count + 1, b"last"), StoredSnapshot(count, b"%d" % count))
            assert await loaded(store, "chat/1") == (count + 1, snapshots)
            assert await store.get("chat/1", "last") == b"%d" % count

    def damage(self, store: Store, key: str, generation: int) -> bool:
        """Damage one generation of a room where the store keeps it, so that it cannot be read any more.

        For the suite of a store that keeps rooms where something can happen to them to say.

        Args:
            store: one that is closed.
            key: a room that it has.
            generation: which of the two.

        Returns:
            Whether it was done; here nothing is.
        """
        del store, key, generation
        return False

    async def test_a_damaged_generation_leaves_the_other(self, store: Store) -> None:
        """It is given as damaged, whichever it is; the other is as it was, and commits go on."""
        for key, damaged in (("chat/1", 1), ("chat/2", 2)):
            async with store:
                await put(store, key, 1, b"one")
                await put(store, key, 2, b"two", {"a": b"2"})
            if not self.damage(store, key, damaged):
                return
            async with store:
                stored = await store.load(key)
                assert stored.head.number == 2
                assert [one.generation for one in stored.snapshots] == [2, 1]
                documents = {one.generation: one.document for one in stored.snapshots if not one.damage}
                assert documents == ({2: b"two"} if damaged == 1 else {1: b"one"})
                assert [one.document for one in stored.snapshots if one.damage] == [b""]
                assert await store.load(key, newest=True) == StoredRoom(stored.head, stored.snapshots[:1])
                assert await store.get(key, "a") == b"2"
                assert key in await store.keys()
                await put(store, key, 3, b"three")
                newest, before = (await store.load(key)).snapshots
                assert newest == StoredSnapshot(3, b"three")
                assert before.generation == 2
                await put(store, key, 4, b"four")
                snapshots = (StoredSnapshot(4, b"four"), StoredSnapshot(3, b"three"))
                assert await loaded(store, key) == (4, snapshots)

    async def test_many_rooms_commit_at_once(self, store: Store) -> None:
        """Commits of many rooms at once all succeed but the stale ones, which spoil nothing."""
        stale: list[str] = []

        async def commit(key: str, number: int) -> None:
            try:
                await put(store, key, number, b"%d" % number, {"a": b"%d" % number})
            except StaleWrite:
                stale.append(key)

        async with store:
            for number in range(0, 200, 2):
                await put(store, f"chat/{number:03}", 1, b"first")
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(commit, f"chat/{number:03}", 1)
            assert sorted(stale) == [f"chat/{number:03}" for number in range(0, 200, 2)]
            assert len(await store.keys("chat/")) == 200
            for number in range(200):
                key = f"chat/{number:03}"
                document = b"1" if number % 2 else b"first"
                assert await loaded(store, key) == (1, (StoredSnapshot(1, document),))
                assert await store.get(key, "a") == (b"1" if number % 2 else None)

    async def test_readers_see_a_commit_whole(self, store: Store) -> None:
        """After its commit returned, a read of the room sees its snapshot and its writes."""

        async def work(key: str) -> None:
            for generation in range(1, 20):
                await put(store, key, generation, b"%d" % generation, {"a": b"%d" % generation})
                assert (await store.load(key)).snapshots[0] == StoredSnapshot(generation, b"%d" % generation)
                assert await store.get(key, "a") == b"%d" % generation

        async with store, trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(work, f"chat/{number}")

    async def test_statistics_count_commits_and_failures(self, store: Store) -> None:
        """Commits, failures and transactions are counted from the opening on, and none is pending at rest."""
        for _ in range(2):
            async with store:
                assert store.statistics() == StoreStatistics(commits=0, transactions=0, failures=0, pending=0)
                number = (await store.head("chat/1")).number
                await put(store, "chat/1", number + 1, b"one")
                with raises(StaleWrite):
                    await put(store, "chat/1", number + 1, b"other")
                destroyed = await put(store, "chat/1", number + 2, destroy=True)
                await store.commit(destroyed)
                statistics = store.statistics()
                assert (statistics.commits, statistics.failures, statistics.pending) == (3, 1, 0)
                assert 1 <= statistics.transactions <= 3


async def _loads_well_formed(store: Store, key: str) -> None:
    """Check that each generation of a room is the document that was committed as it."""
    for snapshot in (await store.load(key)).snapshots:
        assert snapshot.document == b"%d" % snapshot.generation
