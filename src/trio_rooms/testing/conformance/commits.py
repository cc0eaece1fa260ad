"""Numbers, nonces and epochs."""

from __future__ import annotations

from typing import Any

import attrs

from trio_rooms.errors import StaleWrite
from trio_rooms.stores.base import (
    Commit,
    Due,
    LinkHalf,
    Opening,
    RoomHalf,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoredSnapshot,
    Timer,
    Verdict,
)

from .support import following, loaded, put, raises, sent

__all__ = ["Commits"]


class Commits:
    """What says which commit is the next one, and who may write it."""

    async def test_a_committed_snapshot_is_loaded(self, store: Store) -> None:
        """What was committed is loaded as it was."""
        async with store:
            await put(store, "chat/1", 1, b"one")
            assert await loaded(store, "chat/1") == (1, (StoredSnapshot(1, b"one"),))

    async def test_two_generations_are_kept(self, store: Store) -> None:
        """The two newest generations are kept, newest first, whatever commits were between them."""
        async with store:
            await put(store, "chat/1", 1, b"one")
            await put(store, "chat/1", 2, b"two")
            await put(store, "chat/1", 3, writes={"a": b"3"})
            await put(store, "chat/1", 4, b"four")
            snapshots = (StoredSnapshot(4, b"four"), StoredSnapshot(2, b"two"))
            assert await loaded(store, "chat/1") == (4, snapshots)
            await put(store, "chat/1", 5)
            await put(store, "chat/1", 6, writes={"a": None})
            assert await loaded(store, "chat/1") == (6, snapshots)
            await put(store, "chat/1", 7, b"seven")
            assert await loaded(store, "chat/1") == (7, (StoredSnapshot(7, b"seven"), snapshots[0]))

    async def test_the_newest_snapshot_is_loaded_alone(self, store: Store) -> None:
        """Who wants the newest alone gets that one with the same head; none where there is none."""
        async with store:
            await put(store, "chat/1", 1, b"one")
            await put(store, "chat/2", 1, writes={"a": b"1"})
            await put(store, "chat/3", 1, b"one")
            await put(store, "chat/3", 2, destroy=True)
            documents = [b"%d" % number * 300_000 * (number % 2) for number in range(2, 6)]
            for number, document in enumerate(documents, 2):
                for key in ("chat/1", "chat/4"):
                    await put(store, key, number - (key == "chat/4"), document)
                    stored = await store.load(key)
                    newest = await store.load(key, newest=True)
                    assert newest == StoredRoom(stored.head, stored.snapshots[:1])
                    assert newest.snapshots[0].document == document
            await put(store, "chat/1", 6, writes={"a": b"6"})
            for number in range(6):
                key = f"chat/{number}"
                stored = await store.load(key)
                assert await store.load(key, newest=True) == StoredRoom(stored.head, stored.snapshots[:1])

    async def test_a_commit_has_the_next_number(self, store: Store) -> None:
        """A commit whose number is lower, or leaves one out, is stale and writes nothing."""
        async with store:
            for number in (2, 3, 2**63 - 1):
                with raises(StaleWrite):
                    await put(store, "chat/1", number, b"stale")
            assert await loaded(store, "chat/1") == (0, ())
            await put(store, "chat/1", 1, b"one", {"name": b"one"})
            await put(store, "chat/1", 2, writes={"name": b"two"})
            await put(store, "chat/1", 3, b"three")
            for number in (1, 2, 5, 2**63 - 1):
                for document, destroy in ((b"stale", False), (None, False), (None, True)):
                    writes = None if destroy else {"name": b"stale", "a": b""}
                    with raises(StaleWrite):
                        await put(store, "chat/1", number, document, writes, destroy=destroy)
            snapshots = (StoredSnapshot(3, b"three"), StoredSnapshot(1, b"one"))
            assert await loaded(store, "chat/1") == (3, snapshots)
            assert await store.list("chat/1") == [("name", b"two")]
            await put(store, "chat/1", 4, b"four")
            assert (await store.head("chat/1")).number == 4

    async def test_a_commit_may_be_repeated(self, store: Store) -> None:
        """The last commit again, whatever it was, is a success that changes nothing."""
        steps: list[tuple[bytes | None, dict[str, bytes | None], bool]] = [
            (b"one", {"a": b"1", "b": b""}, False),
            (b"two", {"a": None, "never": None}, False),
            (b"two", {}, False),
            (None, {"b": b"2", "c": b"2"}, False),
            (None, {}, False),
            (None, {}, True),
            (None, {}, True),
            (None, {"a": b"1"}, False),
            (None, {"a": None}, False),
            (None, {}, False),
            (b"", {"a": b""}, False),
        ]
        async with store:
            for number, (document, writes, destroy) in enumerate(steps, 1):
                commit = await put(store, "chat/1", number, document, writes, destroy=destroy)
                stored = await store.load("chat/1"), await store.list("chat/1"), await store.keys()
                head = stored[0].head
                assert (head.number, head.nonce, head.epoch) == (number, commit.nonce, 1)
                for _ in range(2):
                    await store.commit(commit)
                    assert (
                        await store.load("chat/1"), await store.list("chat/1"), await store.keys()
                    ) == stored  # fmt: skip

    async def test_a_number_is_of_one_commit(self, store: Store) -> None:
        """The last number with another nonce is stale and writes nothing, also where it says the same."""
        async with store:
            await put(store, "chat/1", 1, b"one", {"a": b"1"})
            await put(store, "chat/2", 1, b"one")
            await put(store, "chat/2", 2, writes={"a": b"1"})
            await put(store, "chat/3", 1, destroy=True)
            others: list[tuple[str, int, bytes | None, dict[str, bytes | None], bool]] = [
                ("chat/1", 1, b"one", {"a": b"1"}, False),
                ("chat/1", 1, b"two", {"a": b"2"}, False),
                ("chat/1", 1, None, {}, True),
                ("chat/2", 2, b"two", {}, False),
                ("chat/2", 2, None, {"a": b"1"}, False),
                ("chat/2", 2, None, {}, True),
                ("chat/3", 1, None, {}, True),
                ("chat/3", 1, b"", {}, False),
            ]
            keys = await store.keys()
            stored = [(await store.load(key), await store.list(key)) for key in keys]
            for key, number, document, writes, destroy in others:
                with raises(StaleWrite):
                    await put(store, key, number, document, writes, destroy=destroy)
            assert await store.keys() == keys == ["chat/1", "chat/2"]
            assert [(await store.load(key), await store.list(key)) for key in keys] == stored
            assert await loaded(store, "chat/3") == (1, ())

    async def test_only_the_present_epoch_writes(self, store: Store) -> None:
        """What has another epoch than the store is stale and writes nothing, a repetition too."""
        async with store:
            await store.commit(Commit("chat/1", 1, 1, b"one"))
        async with store:
            for epoch in (1, 3, 2**63 - 1):
                for key, number in (("chat/1", 1), ("chat/1", 2), ("chat/2", 1)):
                    with raises(StaleWrite):
                        await store.commit(Commit(key, number, epoch, b"one", {"a": b"1"}))
                    with raises(StaleWrite):
                        await store.commit(Commit(key, number, epoch, destroy=True))
            assert await store.keys() == ["chat/1"]
            assert await loaded(store, "chat/1") == (1, (StoredSnapshot(1, b"one"),))
            assert await store.list("chat/1") == []
            await store.commit(Commit("chat/1", 2, 2, b"two"))

    async def test_numbers_are_each_rooms_own(self, store: Store) -> None:
        """One room's numbers do not make another's stale."""
        async with store:
            for number in (1, 2, 3):
                await put(store, "chat/1", number, b"%d" % number)
            await put(store, "chat/2", 1, b"one")
            assert (await store.head("chat/1")).number == 3
            assert await loaded(store, "chat/2") == (1, (StoredSnapshot(1, b"one"),))

    async def test_the_epoch_counts_openings(self, store: Store) -> None:
        """The first opening has epoch 1, each later one the next."""
        for epoch in (1, 2, 3):
            async with store:
                assert store.epoch == epoch

    async def test_a_commit_with_everything_is_whole(self, store: Store) -> None:
        """All of it is there, and all of it once, also where it is repeated; a stale one writes nothing."""
        opened = RoomHalf(3, b"at", b"ch", Opening(b"to", "ana", 1, 9.0))
        commit: dict[str, Any] = {
            "writes": {"a": b"1"},
            "entries": sent(4, 5),
            "seq": 6,
            "before": 2,
            "floor": 3,
            "trim": 4,
            "sessions": {1: opened},
            "links": {1: LinkHalf(0, 8.0, 5, b"l")},
            "verdicts": (Verdict(1, 3, b"v"),),
            "answered": {1: 2},
            "timers": {"t": Timer(5.0, b"t")},
        }
        async with store:
            await store.commit(following(store, 1, b"one", entries=sent(1), seq=1))
            whole = following(store, 2, b"two", **commit)
            await store.commit(whole)
            await store.commit(whole)
            for stale in (following(store, 2, b"x", timers={"t": None}), following(store, 4, **commit)):
                with raises(StaleWrite):
                    await store.commit(stale)
        async with store:
            with raises(StaleWrite):
                await store.commit(attrs.evolve(whole, number=3, entries=sent(7), seq=7))
            assert await store.load("chat/1") == StoredRoom(
                RoomHead(2, whole.nonce, 1, 6, 2, 3, 1, 1, has_sessions=True, has_timers=True),
                (StoredSnapshot(2, b"two"), StoredSnapshot(1, b"one")),
            )
            assert await store.get("chat/1", "a") == b"1"
            assert await store.journal("chat/1", 0, 99, 99) == [*sent(5)]
            assert await store.session("chat/1", 1) == StoredSession(1, opened, LinkHalf(0, 8.0, 5, b"l"))
            assert await store.verdicts("chat/1", 1) == {3: b"v"}
            assert await store.due(10, 10) == [Due(5.0, "chat/1", timer="t"), Due(8.0, "chat/1", sid=1)]

    async def test_the_last_commit_is_known_by_its_nonce(self, store: Store) -> None:
        """The head has number, nonce and epoch of it, with a document of any size or without one."""
        async with store:
            documents = (b"", b"small", None, bytes(100_000), None, b"small", bytes(1_000_000), b"x")
            commits = [following(store, number, document) for number, document in enumerate(documents, 1)]
            for commit in commits:
                await store.commit(commit)
                head = await store.head("chat/1")
                assert (head.number, head.nonce, head.epoch) == (commit.number, commit.nonce, 1)
                await store.commit(commit)
        async with store:
            head = await store.head("chat/1")
            assert (head.number, head.nonce, head.epoch) == (len(commits), commits[-1].nonce, 1)
            await store.commit(attrs.evolve(commits[-1], epoch=2))
            assert (await store.head("chat/1")).epoch == 1
