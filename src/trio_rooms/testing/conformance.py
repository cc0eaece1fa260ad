"""The suite that every store passes: what `Store` promises, one test for each promise.

pytest is not imported here, so that this can be imported without it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import trio
import trio.testing

from trio_rooms._loop.wall import WallClock
from trio_rooms.errors import StaleWrite, StoreClosed, StoreInUse
from trio_rooms.stores.base import (
    Commit,
    Due,
    Entry,
    LinkHalf,
    Opening,
    RoomHalf,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoredSnapshot,
    StoreStatistics,
    Timer,
    Verdict,
)

__all__ = ["StoreConformance"]


@contextlib.contextmanager
def _raises(expected: type[BaseException]) -> Iterator[None]:
    """Fail unless an exception of this type is raised: `pytest.raises` without pytest."""
    try:
        yield
    except expected:
        return
    msg = f"{expected.__name__} was not raised"
    raise AssertionError(msg)


NAMES = (
    "", "\0", "\0\0", "\x01", " ", "%", "%%", "*", "/", "?", "A", "Z", "[a]", "\\", "_", "a", "a\0", "a\0b",
    "a%b", "a/", "a/b", "aXb", "a_b", "aa", "ab", "b", "e\u0301", "z", "\x7f", "\u00e9", "\u00ff", "\u07ff",
    "\u0800", "\ud7ff", "\ue000", "\uffff", "\uffffa", "\U00010000", "\U0001f600",
    "\U0010ffff", "\U0010ffff\U0010ffff", "\U0010ffffa",
)  # fmt: skip
"""Names that a store may trip over."""

HALF_A_PAIR = "\ud800"
"""Half a surrogate pair, which has no form in UTF-8: no store can keep it as a name."""


class StoreConformance:
    """The suite that every store passes; subclass it with a fixture ``store``.

    The fixture returns a store that is empty and not open. With pytest and pytest-trio
    (``trio_mode = true``)::

        import pytest
        from trio_rooms.testing import StoreConformance

        class TestMyStore(StoreConformance):
            @pytest.fixture
            def store(self, tmp_path):
                return MyStore(tmp_path)

    ``pytest.register_assert_rewrite("trio_rooms.testing")`` in ``conftest.py`` makes its
    failures show the values that differ. The suite closes the store and opens it again to see
    what is durable; a kill of the process is for the store's own tests.
    """

    async def test_nothing_is_stored_at_first(self, store: Store) -> None:
        """An empty store has no snapshot, no value and no key."""
        async with store:
            assert await _loaded(store, "chat/1") == (0, ())
            assert await store.get("chat/1", "name") is None
            assert await store.list("chat/1") == []
            assert await store.keys() == []

    async def test_a_committed_snapshot_is_loaded(self, store: Store) -> None:
        """What was committed is loaded as it was."""
        async with store:
            await _commit(store, "chat/1", 1, b"one")
            assert await _loaded(store, "chat/1") == (1, (StoredSnapshot(1, b"one"),))

    async def test_two_generations_are_kept(self, store: Store) -> None:
        """The two newest generations are kept, newest first, whatever commits were between them."""
        async with store:
            await _commit(store, "chat/1", 1, b"one")
            await _commit(store, "chat/1", 2, b"two")
            await _commit(store, "chat/1", 3, writes={"a": b"3"})
            await _commit(store, "chat/1", 4, b"four")
            snapshots = (StoredSnapshot(4, b"four"), StoredSnapshot(2, b"two"))
            assert await _loaded(store, "chat/1") == (4, snapshots)
            await _commit(store, "chat/1", 5)
            await _commit(store, "chat/1", 6, writes={"a": None})
            assert await _loaded(store, "chat/1") == (6, snapshots)
            await _commit(store, "chat/1", 7, b"seven")
            assert await _loaded(store, "chat/1") == (7, (StoredSnapshot(7, b"seven"), snapshots[0]))

    async def test_a_commit_has_the_next_number(self, store: Store) -> None:
        """A commit whose number is lower, or leaves one out, is stale and writes nothing."""
        async with store:
            for number in (2, 3, 2**63 - 1):
                with _raises(StaleWrite):
                    await _commit(store, "chat/1", number, b"stale")
            assert await _loaded(store, "chat/1") == (0, ())
            await _commit(store, "chat/1", 1, b"one", {"name": b"one"})
            await _commit(store, "chat/1", 2, writes={"name": b"two"})
            await _commit(store, "chat/1", 3, b"three")
            for number in (1, 2, 5, 2**63 - 1):
                for document, destroy in ((b"stale", False), (None, False), (None, True)):
                    writes = None if destroy else {"name": b"stale", "a": b""}
                    with _raises(StaleWrite):
                        await _commit(store, "chat/1", number, document, writes, destroy=destroy)
            snapshots = (StoredSnapshot(3, b"three"), StoredSnapshot(1, b"one"))
            assert await _loaded(store, "chat/1") == (3, snapshots)
            assert await store.list("chat/1") == [("name", b"two")]
            await _commit(store, "chat/1", 4, b"four")
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
                commit = await _commit(store, "chat/1", number, document, writes, destroy=destroy)
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
            await _commit(store, "chat/1", 1, b"one", {"a": b"1"})
            await _commit(store, "chat/2", 1, b"one")
            await _commit(store, "chat/2", 2, writes={"a": b"1"})
            await _commit(store, "chat/3", 1, destroy=True)
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
                with _raises(StaleWrite):
                    await _commit(store, key, number, document, writes, destroy=destroy)
            assert await store.keys() == keys == ["chat/1", "chat/2"]
            assert [(await store.load(key), await store.list(key)) for key in keys] == stored
            assert await _loaded(store, "chat/3") == (1, ())

    async def test_only_the_present_epoch_writes(self, store: Store) -> None:
        """What has another epoch than the store is stale and writes nothing, a repetition too."""
        async with store:
            await store.commit(Commit("chat/1", 1, 1, b"one"))
        async with store:
            for epoch in (1, 3, 2**63 - 1):
                for key, number in (("chat/1", 1), ("chat/1", 2), ("chat/2", 1)):
                    with _raises(StaleWrite):
                        await store.commit(Commit(key, number, epoch, b"one", {"a": b"1"}))
                    with _raises(StaleWrite):
                        await store.commit(Commit(key, number, epoch, destroy=True))
            assert await store.keys() == ["chat/1"]
            assert await _loaded(store, "chat/1") == (1, (StoredSnapshot(1, b"one"),))
            assert await store.list("chat/1") == []
            await store.commit(Commit("chat/1", 2, 2, b"two"))

    async def test_numbers_are_each_rooms_own(self, store: Store) -> None:
        """One room's numbers do not make another's stale."""
        async with store:
            for number in (1, 2, 3):
                await _commit(store, "chat/1", number, b"%d" % number)
            await _commit(store, "chat/2", 1, b"one")
            assert (await store.head("chat/1")).number == 3
            assert await _loaded(store, "chat/2") == (1, (StoredSnapshot(1, b"one"),))

    async def test_storage_is_written_without_a_snapshot(self, store: Store) -> None:
        """A commit without a document leaves the snapshots alone, and counts."""
        async with store:
            await _commit(store, "chat/1", 1, writes={"a": b"1"})
            assert await _loaded(store, "chat/1") == (1, ())
            await _commit(store, "chat/1", 2, b"two")
            await _commit(store, "chat/1", 3, writes={"a": b"2", "b": b"2"})
            await _commit(store, "chat/1", 4, writes={"a": b"3", "b": None, "never": None})
            assert await _loaded(store, "chat/1") == (4, (StoredSnapshot(2, b"two"),))
            assert await store.list("chat/1") == [("a", b"3")]

    async def test_storage_is_each_rooms_own(self, store: Store) -> None:
        """A name in one room's storage is not found in another's."""
        async with store:
            await _commit(store, "chat/1", 1, writes={"a": b"1"})
            await _commit(store, "chat/11", 1, writes={"a": b"11"})
            assert await store.get("chat/1", "a") == b"1"
            assert await store.get("chat/11", "a") == b"11"
            assert await store.get("chat/", "a") is None

    async def test_empty_documents_and_values_are_not_missing(self, store: Store) -> None:
        """A document or value of no bytes is there."""
        async with store:
            await _commit(store, "chat/1", 1, b"", {"": b""})
            assert await _loaded(store, "chat/1") == (1, (StoredSnapshot(1, b""),))
            assert await store.get("chat/1", "") == b""
            assert await store.list("chat/1") == [("", b"")]

    async def test_writes_may_be_changed_after_the_commit_is_handed_over(self, store: Store) -> None:
        """The store took the values that the mapping had when `commit` was called."""
        async with store:
            writes: dict[str, bytes | None] = {"a": b"1"}
            with trio.CancelScope() as scope:
                scope.cancel()
                await _commit(store, "chat/1", 1, b"one", writes)
            writes["a"] = b"2"
            await _commit(store, "chat/1", 2, b"two")
            assert await store.list("chat/1") == [("a", b"1")]

    async def test_names_keep_their_characters_and_their_order(self, store: Store) -> None:
        """Every string that can be encoded is a name, and names are ordered by code point."""
        async with store:
            await _commit(store, "chat/1", 1, writes={name: name.encode() for name in reversed(NAMES)})
            assert await store.list("chat/1") == [(name, name.encode()) for name in sorted(NAMES)]
            for name in NAMES:
                assert await store.get("chat/1", name) == name.encode()

    async def test_names_are_listed_by_prefix_after_and_limit(self, store: Store) -> None:
        """`list` takes prefixes literally, begins behind ``after``, and stops at ``limit``."""
        async with store:
            await _commit(store, "chat/1", 1, writes=dict.fromkeys(NAMES, b""))
            for prefix, after, limit in _selections():
                found = await store.list("chat/1", prefix, after=after, limit=limit)
                assert [name for name, _ in found] == _select(NAMES, prefix, after, limit)

    async def test_keys_are_listed_by_prefix_after_and_limit(self, store: Store) -> None:
        """`keys` has every room with a snapshot or storage once, ordered and limited like `list`."""
        async with store:
            for index, key in enumerate(NAMES):
                if index % 3 != 0:
                    await _commit(store, key, 1, key.encode())
                if index % 3 != 1:
                    await _commit(store, key, 1 + (index % 3 != 0), writes={"a": key.encode(), "b": b""})
            assert await store.keys() == sorted(NAMES)
            for prefix, after, limit in _selections():
                found = await store.keys(prefix, after=after, limit=limit)
                assert found == _select(NAMES, prefix, after, limit)
            for index, key in enumerate(NAMES):
                snapshots = (await store.load(key)).snapshots
                assert snapshots == ((StoredSnapshot(1, key.encode()),) if index % 3 else ())

    async def test_long_lists_are_whole(self, store: Store) -> None:
        """A list that is long, or whose values are large, has all that belongs to it."""
        names = [f"{number:05}" for number in range(1000)]
        async with store:
            await _commit(store, "chat/1", 1, writes={name: name.encode() * 100 for name in names})
            assert await store.list("chat/1") == [(name, name.encode() * 100) for name in names]
            found = await store.list("chat/1", "00", after="00499", limit=300)
            assert [name for name, _ in found] == names[500:800]
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(_commit, store, f"many/{name}", 1, b"")
            assert await store.keys("many/") == [f"many/{name}" for name in names]
            assert await store.keys("many/", after="many/00499", limit=300) == [
                f"many/{name}" for name in names[500:800]
            ]

    async def test_a_room_without_anything_has_no_key(self, store: Store) -> None:
        """A room goes with the last name of its storage; writing nothing makes none; numbers go on."""
        async with store:
            await _commit(store, "chat/1", 1, writes={"a": b"1"})
            await _commit(store, "chat/1", 2, writes={"a": None})
            await _commit(store, "chat/2", 1, writes={"a": None})
            await _commit(store, "chat/3", 1)
            assert await store.keys() == []
            for key, number in (("chat/1", 2), ("chat/2", 1), ("chat/3", 1)):
                assert await _loaded(store, key) == (number, ())
                with _raises(StaleWrite):
                    await _commit(store, key, number + 2, b"stale")
                await _commit(store, key, number + 1, writes={"b": b"1"})
                assert await _loaded(store, key) == (number + 1, ())
            assert await store.keys() == ["chat/1", "chat/2", "chat/3"]

    async def test_destroy_removes_everything(self, store: Store) -> None:
        """Destroying a room removes its snapshots and its storage, and nothing of any other room."""
        async with store:
            for key in ("chat/1", "chat/10"):
                await _commit(store, key, 1, b"one", {"a": b"1"})
                await _commit(store, key, 2, b"two", {"b": b"2"})
            await _commit(store, "chat/1", 3, destroy=True)
            assert await _loaded(store, "chat/1") == (3, ())
            assert await store.list("chat/1") == []
            assert await store.keys() == ["chat/10"]
            assert len((await store.load("chat/10")).snapshots) == 2

    async def test_numbers_go_on_after_destroy(self, store: Store) -> None:
        """A destroyed room that begins again, with a snapshot or with storage, has the next number."""
        async with store:
            for number in (1, 4, 7):
                await _commit(store, "chat/1", number, b"one", {"a": b"1"})
                await _commit(store, "chat/1", number + 1, destroy=True)
                for stale in (1, number, number + 3):
                    with _raises(StaleWrite):
                        await _commit(store, "chat/1", stale, b"one", {"a": b"1"})
                assert await _loaded(store, "chat/1") == (number + 1, ())
                if number == 4:
                    await _commit(store, "chat/1", 6, b"again")
                    snapshots: tuple[StoredSnapshot, ...] = (StoredSnapshot(6, b"again"),)
                else:
                    await _commit(store, "chat/1", number + 2, writes={"b": b"2"})
                    snapshots = ()
                    assert await store.list("chat/1") == [("b", b"2")]
                assert await _loaded(store, "chat/1") == (number + 2, snapshots)
                assert await store.keys() == ["chat/1"]

    async def test_what_is_left_of_an_ended_room_fences_or_goes(self, store: Store) -> None:
        """Opened again, the store has the number of an ended room or none; earlier owners are stale."""
        async with store:
            await _commit(store, "chat/1", 1, b"one")
            await _commit(store, "chat/1", 2, destroy=True)
        async with store:
            number, snapshots = await _loaded(store, "chat/1")
            assert number in {0, 2}
            assert snapshots == ()
            with _raises(StaleWrite):
                await store.commit(Commit("chat/1", number + 1, 1, b"stale"))
            await _commit(store, "chat/1", number + 1, b"again")
            assert (await store.head("chat/1")).number == number + 1

    async def test_destroying_what_is_not_there_counts(self, store: Store) -> None:
        """A room that does not exist can be destroyed."""
        async with store:
            await _commit(store, "chat/1", 1, destroy=True)
            await _commit(store, "chat/1", 2, destroy=True)
            assert await store.keys() == []
            assert await _loaded(store, "chat/1") == (2, ())

    async def test_large_documents_and_values(self, store: Store) -> None:
        """Documents and values of 1 MiB come back as they were, small ones beside them too."""
        large = bytes(range(256)) * 4096
        async with store:
            await _commit(store, "chat/1", 1, b"small", {"large": large, "small": b"1"})
            await _commit(store, "chat/1", 2, large)
            assert await _loaded(store, "chat/1") == (
                2,
                (StoredSnapshot(2, large), StoredSnapshot(1, b"small")),
            )
            assert await store.get("chat/1", "large") == large
            assert await store.list("chat/1") == [("large", large), ("small", b"1")]

    async def test_commits_are_durable(self, store: Store) -> None:
        """A store that is closed and opened again has what was committed."""
        async with store:
            await _commit(store, "chat/1", 1, b"one", {"a": b"1"})
            await _commit(store, "chat/1", 2, b"two", {"b": b"2"})
            await _commit(store, "chat/2", 1, writes={"c": b"3"})
        async with store:
            assert await _loaded(store, "chat/1") == (
                2,
                (StoredSnapshot(2, b"two"), StoredSnapshot(1, b"one")),
            )
            assert await store.list("chat/1") == [("a", b"1"), ("b", b"2")]
            assert await store.keys() == ["chat/1", "chat/2"]
            with _raises(StaleWrite):
                await _commit(store, "chat/1", 2, b"stale")

    async def test_the_epoch_counts_openings(self, store: Store) -> None:
        """The first opening has epoch 1, each later one the next."""
        for epoch in (1, 2, 3):
            async with store:
                assert store.epoch == epoch

    async def test_a_cancelled_caller_only_stops_waiting(self, store: Store) -> None:
        """A commit whose caller was cancelled before it began to wait is carried out, whole."""
        async with store:
            with trio.CancelScope() as scope:
                scope.cancel()
                await _commit(store, "chat/1", 1, b"one", {"a": b"1"})
            assert scope.cancelled_caught
            await _commit(store, "chat/1", 2, b"two")
            assert await _loaded(store, "chat/1") == (
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
                        await _commit(store, f"chat/{number}", 1, b"one")
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
                        await _commit(store, "chat/1", generation, document, {"last": document})
                    nursery.start_soon(_loads_well_formed, store, "chat/1")
            await _commit(store, "chat/1", count + 1, b"last")
            snapshots = (StoredSnapshot(count + 1, b"last"), StoredSnapshot(count, b"%d" % count))
            assert await _loaded(store, "chat/1") == (count + 1, snapshots)
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
                await _commit(store, key, 1, b"one")
                await _commit(store, key, 2, b"two", {"a": b"2"})
            if not self.damage(store, key, damaged):
                return
            async with store:
                stored = await store.load(key)
                assert stored.head.number == 2
                assert [one.generation for one in stored.snapshots] == [2, 1]
                documents = {one.generation: one.document for one in stored.snapshots if not one.damage}
                assert documents == ({2: b"two"} if damaged == 1 else {1: b"one"})
                assert [one.document for one in stored.snapshots if one.damage] == [b""]
                assert await store.get(key, "a") == b"2"
                assert key in await store.keys()
                await _commit(store, key, 3, b"three")
                newest, before = (await store.load(key)).snapshots
                assert newest == StoredSnapshot(3, b"three")
                assert before.generation == 2
                await _commit(store, key, 4, b"four")
                snapshots = (StoredSnapshot(4, b"four"), StoredSnapshot(3, b"three"))
                assert await _loaded(store, key) == (4, snapshots)

    async def test_many_rooms_commit_at_once(self, store: Store) -> None:
        """Commits of many rooms at once all succeed but the stale ones, which spoil nothing."""
        stale: list[str] = []

        async def commit(key: str, number: int) -> None:
            try:
                await _commit(store, key, number, b"%d" % number, {"a": b"%d" % number})
            except StaleWrite:
                stale.append(key)

        async with store:
            for number in range(0, 200, 2):
                await _commit(store, f"chat/{number:03}", 1, b"first")
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(commit, f"chat/{number:03}", 1)
            assert sorted(stale) == [f"chat/{number:03}" for number in range(0, 200, 2)]
            assert len(await store.keys("chat/")) == 200
            for number in range(200):
                key = f"chat/{number:03}"
                document = b"1" if number % 2 else b"first"
                assert await _loaded(store, key) == (1, (StoredSnapshot(1, document),))
                assert await store.get(key, "a") == (b"1" if number % 2 else None)

    async def test_readers_see_a_commit_whole(self, store: Store) -> None:
        """After its commit returned, a read of the room sees its snapshot and its writes."""

        async def work(key: str) -> None:
            for generation in range(1, 20):
                await _commit(store, key, generation, b"%d" % generation, {"a": b"%d" % generation})
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
                await _commit(store, "chat/1", number + 1, b"one")
                with _raises(StaleWrite):
                    await _commit(store, "chat/1", number + 1, b"other")
                destroyed = await _commit(store, "chat/1", number + 2, destroy=True)
                await store.commit(destroyed)
                statistics = store.statistics()
                assert (statistics.commits, statistics.failures, statistics.pending) == (3, 1, 0)
                assert 1 <= statistics.transactions <= 3

    # The journal.

    async def test_entries_are_read_as_they_were_sent(self, store: Store) -> None:
        """The journal has what was added, in its order, with what it says of it in the head."""
        entries = (*_entries(1, 2, 5), Entry(2**40, b"", b"\x00" * 1000, -1.5))
        async with store:
            await store.commit(_next(store, 1, entries=entries[:2], seq=3))
            head = await store.head("chat/1")
            assert (head.seq, head.before, head.floor, head.entries, head.entry_bytes) == (3, 0, 0, 2, 2)
            await store.commit(_next(store, 2, b"two", entries=entries[2:], seq=2**40, before=3, floor=1))
            assert await store.journal("chat/1", 0, 2**63 - 1, 2**62) == [*entries]
            assert await store.journal("chat/1", 1, 5, 2**62) == [*entries[1:3]]
            assert await store.journal("chat/1", 2, 4, 2**62) == []
            assert await store.journal("chat/1", 2**40, 2**63 - 1, 2**62) == []
            assert await store.journal("chat/2", 0, 2**63 - 1, 2**62) == []
            stored = await store.load("chat/1")
            assert stored.snapshots == (StoredSnapshot(2, b"two"),)
            assert stored.head == attrs.evolve(
                await store.head("chat/1"), seq=2**40, before=3, floor=1, entries=4, entry_bytes=1003
            )
        async with store:
            assert await store.journal("chat/1", 0, 2**63 - 1, 2**62) == [*entries]
            assert (await store.head("chat/1")).entries == 4

    async def test_seqs_only_rise(self, store: Store) -> None:
        """Entries at or below the highest seq, or a lower highest one, are stale and write nothing."""
        async with store:
            await store.commit(_next(store, 1, entries=_entries(5), seq=9))
            for entries, seq in ((_entries(5), 10), (_entries(9, 10), 10), (_entries(3), 9), ((), 8)):
                with _raises(StaleWrite):
                    await store.commit(_next(store, 2, b"stale", entries=entries, seq=seq))
            head = await store.head("chat/1")
            assert (head.number, head.seq, head.entries) == (1, 9, 1)
            await store.commit(_next(store, 2, seq=9, before=4, floor=9))
            await store.commit(_next(store, 3, b"three"))
            head = await store.head("chat/1")
            assert (head.number, head.seq, head.before, head.floor, head.entries) == (3, 9, 4, 9, 1)
            await store.commit(_next(store, 4, entries=_entries(10), seq=10))
            head = await store.head("chat/1")
            assert (head.seq, head.before, head.floor, head.entries) == (10, 0, 0, 2)

    async def test_a_journal_is_trimmed(self, store: Store) -> None:
        """Entries up to a seq go, those that come with it too; the seq stays."""
        async with store:
            await store.commit(_next(store, 1, entries=_entries(1, 2, 3, 4), seq=4))
            await store.commit(_next(store, 2, trim=2))
            assert [one.seq for one in await store.journal("chat/1", 0, 99, 99)] == [3, 4]
            await store.commit(_next(store, 3, entries=_entries(5, 6), seq=6, trim=5))
            assert [one.seq for one in await store.journal("chat/1", 0, 99, 99)] == [6]
            assert (await store.head("chat/1")).entry_bytes == 1
            await store.commit(_next(store, 4, b"four", entries=_entries(7), seq=7, trim=99))
            head = await store.head("chat/1")
            assert (head.seq, head.entries, head.entry_bytes) == (7, 0, 0)
            with _raises(StaleWrite):
                await store.commit(_next(store, 5, entries=_entries(7), seq=7))
            await store.commit(_next(store, 5, entries=_entries(8), seq=8))
            head = await store.head("chat/1")
            assert (head.seq, head.entries, head.entry_bytes) == (8, 1, 1)

    async def test_a_journal_is_read_in_pages(self, store: Store) -> None:
        """A page ends with the entry that makes it large enough, or the thousandth; one comes in any case."""
        entries = tuple(Entry(seq, b"all", bytes(100), 1.0) for seq in range(1, 2101))
        large = tuple(Entry(seq, b"all", bytes(200_000), 1.0) for seq in range(2101, 2105))
        async with store:
            await store.commit(_next(store, 1, entries=entries + large, seq=2104))
            for after, until, most, expected in (
                (0, 2104, 0, [1]),
                (0, 2104, 1, [1]),
                (7, 2104, 100, [8]),
                (7, 2104, 101, [8, 9]),
                (7, 2104, 1000, [*range(8, 18)]),
                (0, 2104, 2**62, [*range(1, 1001)]),
                (1000, 2104, 10**6, [*range(1001, 2001)]),
                (0, 50, 2**62, [*range(1, 51)]),
                (2099, 2104, 1, [2100]),
                (2099, 2104, 101, [2100, 2101]),
                (2100, 2104, 300_000, [2101, 2102]),
                (2103, 2104, 1, [2104]),
            ):
                found = await store.journal("chat/1", after, until, most)
                assert [one.seq for one in found] == expected
            head = await store.head("chat/1")
            assert (head.entries, head.entry_bytes) == (2104, 1_010_000)

    # Sessions.

    async def test_a_session_has_two_halves(self, store: Store) -> None:
        """Each is written without the other; the opening stays where it is not given."""
        opening = Opening(b"token", "\u00e9va", 7, 120.0)
        other = Opening(b"", None, 0, 0.0)
        async with store:
            await store.commit(
                _next(
                    store,
                    1,
                    sessions={2**60: RoomHalf(0, None, b"", opening), 1: RoomHalf(5, b"", b"c", other)},
                    links={1: LinkHalf(3, None)},
                )
            )
            expected = StoredSession(2**60, RoomHalf(0, None, b"", opening), LinkHalf(0, None))
            assert await store.session("chat/1", 2**60) == expected
            first = StoredSession(1, RoomHalf(5, b"", b"c", other), LinkHalf(3, None))
            assert await store.sessions("chat/1") == [first, expected]
            assert (await store.head("chat/1")).has_sessions
            await store.commit(_next(store, 2, b"two", sessions={2**60: RoomHalf(9, b"a", b"news")}))
            away = LinkHalf(0, 1e9 + 0.25, 8, b"left", ended=False)
            await store.commit(_next(store, 3, links={2**60: away}))
            expected = StoredSession(2**60, RoomHalf(9, b"a", b"news", opening), away)
            assert await store.session("chat/1", 2**60) == expected
            assert await store.session("chat/1", 1) == first
            await store.commit(_next(store, 4, sessions={1: RoomHalf(6, None, b"", opening)}))
            assert await store.session("chat/1", 1) == StoredSession(
                1, RoomHalf(6, None, b"", opening), LinkHalf(3, None)
            )
        async with store:
            assert await store.session("chat/1", 2**60) == expected
            assert await store.session("chat/2", 2**60) is None
            assert await store.session("chat/1", 2) is None

    async def test_what_is_of_no_session_is_not_written(self, store: Store) -> None:
        """Halves and verdicts of a session that there is not, also where it goes with the same commit."""
        session, gone = RoomHalf(1, None, b""), RoomHalf(1, None, b"", Opening(b"", None, 0, 1.0))
        verdicts = tuple(Verdict(sid, 1, b"") for sid in (1, 2, 3))
        async with store:
            await store.commit(_next(store, 1, b"one", sessions={3: gone}))
            away = LinkHalf(0, 1.0, 1)
            await store.commit(
                _next(
                    store,
                    2,
                    sessions={1: session, 3: None},
                    links={1: away, 2: away, 3: away},
                    verdicts=verdicts,
                )
            )
            assert await store.sessions("chat/1") == []
            assert await store.positions("chat/1") == {}
            assert await store.due(10, 10) == []
            await store.commit(_next(store, 3, sessions={1: gone, 2: gone, 3: gone}))
            for sid in (1, 2, 3):
                assert await store.verdicts("chat/1", sid) == {}
                assert (await store.sessions("chat/1"))[sid - 1].link == LinkHalf(0, None)
            await store.commit(_next(store, 4, verdicts=verdicts[:1], sessions={2: None}))
            assert await store.verdicts("chat/1", 1) == {1: b""}

    async def test_sessions_are_listed_in_pages(self, store: Store) -> None:
        """They come by id, behind one, so many at most; with ``ended`` only those that are over."""
        opened = RoomHalf(0, bytes(1000), b"", Opening(b"", None, 0, 1.0))
        sids = [7**n for n in range(1, 22)] + [*range(10**9, 10**9 + 200)]
        over = {sid: LinkHalf(0, None, ended=True) for sid in sids[::3]}
        async with store:
            await store.commit(_next(store, 1, sessions=dict.fromkeys(reversed(sids), opened), links=over))
            assert [one.sid for one in await store.sessions("chat/1")] == sorted(sids)
            assert [one.sid for one in await store.sessions("chat/1", ended=True)] == sorted(over)
            for wanted, ended in ((sorted(sids), False), (sorted(over), True)):
                for after, limit in ((0, 1), (7, 3), (7**5, 100), (2**62, 5), (0, 0), (1, 2**40)):
                    found = await store.sessions("chat/1", after=after, limit=limit, ended=ended)
                    assert [one.sid for one in found] == [sid for sid in wanted if sid > after][:limit]
            assert await store.sessions("chat/2") == []
            await store.commit(_next(store, 2, links={sids[0]: LinkHalf(1, None)}))
            assert sids[0] not in [one.sid for one in await store.sessions("chat/1", ended=True)]

    async def test_a_session_goes_with_its_verdicts(self, store: Store) -> None:
        """Deleted it is nowhere any more, and one with its id that begins later is another."""
        opened = RoomHalf(0, None, b"", Opening(b"", None, 0, 1.0))
        async with store:
            await store.commit(
                _next(
                    store,
                    1,
                    b"one",
                    sessions={1: opened, 2: opened},
                    links={1: LinkHalf(0, 5.0, 3), 2: LinkHalf(0, 6.0, 3)},
                    verdicts=(Verdict(1, 1, b"a"), Verdict(2, 1, b"b")),
                )
            )
            await store.commit(_next(store, 2, sessions={1: None, 77: None}))
            assert await store.session("chat/1", 1) is None
            assert await store.verdicts("chat/1", 1) == {}
            assert await store.positions("chat/1") == {3: 1}
            assert await store.due(10, 10) == [Due(6.0, "chat/1", sid=2)]
            assert await store.verdicts("chat/1", 2) == {1: b"b"}
            await store.commit(_next(store, 3, sessions={1: opened}))
            assert await store.session("chat/1", 1) == StoredSession(1, opened, LinkHalf(0, None))
            assert await store.verdicts("chat/1", 1) == {}
            await store.commit(_next(store, 4, sessions={1: None, 2: None}))
            head = await store.head("chat/1")
            assert (head.number, head.has_sessions) == (4, False)

    async def test_verdicts_are_replaced_and_go(self, store: Store) -> None:
        """They come by id; a later one of an id takes its place; those that were answered go first."""
        opened = RoomHalf(0, None, b"", Opening(b"", None, 0, 1.0))
        async with store:
            verdicts = tuple(Verdict(1, id_, b"%d" % id_) for id_ in (3, 1, 2, 1000))
            await store.commit(_next(store, 1, sessions={1: opened, 2: opened}, verdicts=verdicts))
            assert await store.verdicts("chat/1", 1) == {1: b"1", 2: b"2", 3: b"3", 1000: b"1000"}
            assert [*await store.verdicts("chat/1", 1)] == [1, 2, 3, 1000]
            assert await store.verdicts("chat/1", 2) == {}
            again = (Verdict(1, 2, b"other"), Verdict(2, 2, bytes(100_000)))
            await store.commit(_next(store, 2, b"two", verdicts=again))
            assert (await store.verdicts("chat/1", 1))[2] == b"other"
            assert await store.verdicts("chat/1", 2) == {2: bytes(100_000)}
            await store.commit(
                _next(store, 3, answered={1: 2, 2: 5, 9: 1}, verdicts=(Verdict(1, 1, b"new"),))
            )
            assert await store.verdicts("chat/1", 1) == {1: b"new", 3: b"3", 1000: b"1000"}
            assert await store.verdicts("chat/1", 2) == {}
            many = tuple(Verdict(1, id_, b"") for id_ in range(2000, 2500))
            await store.commit(_next(store, 4, verdicts=many, answered={1: 1000}))
            assert [*await store.verdicts("chat/1", 1)] == [*range(2000, 2500)]

    async def test_positions_are_counted(self, store: Store) -> None:
        """Those of sessions that are away and not over; 0 holds nothing."""
        opened = RoomHalf(0, None, b"", Opening(b"", None, 0, 1.0))
        links = {sid: LinkHalf(0, 9.0, 3 + sid % 3) for sid in range(1, 301)} | {
            301: LinkHalf(0, 9.0, 0),
            302: LinkHalf(5, None, 3),
            303: LinkHalf(0, 9.0, 3, ended=True),
            304: LinkHalf(0, 9.0, 3),
        }
        async with store:
            assert await store.positions("chat/1") == {}
            await store.commit(_next(store, 1, sessions=dict.fromkeys([*links, 305], opened), links=links))
            assert await store.positions("chat/1") == {3: 101, 4: 100, 5: 100}
            assert [*await store.positions("chat/1")] == [3, 4, 5]
            back = {sid: LinkHalf(sid, None) for sid in range(1, 301)} | {304: LinkHalf(0, 9.0, 8)}
            await store.commit(_next(store, 2, links=back))
            assert await store.positions("chat/1") == {8: 1}
            assert await store.positions("chat/2") == {}

    async def test_an_opening_gives_connections_up(self, store: Store) -> None:
        """Whoever had one, or was not told of one yet, is away for its window; the rest stays as it was."""
        wall = WallClock()
        windows = {1: 100.0, 2: 5.0, 3: 50.0, 4: 50.0, 5: 60.0}
        sessions = {
            sid: RoomHalf(0, b"a", b"c", Opening(b"t", None, 10 * sid, window))
            for sid, window in windows.items()
        }
        away, over = LinkHalf(0, 5.5, 7, b"gone"), LinkHalf(0, None, 7, ended=True)
        links = {1: LinkHalf(11, None, 0), 2: LinkHalf(12, None, 3, b"x"), 3: away, 4: over}
        async with store:
            await store.commit(_next(store, 1, sessions=sessions, links=links, seq=30, floor=15))
        before = wall.now()
        async with store:
            after = wall.now()
            assert await store.session("chat/1", 3) == StoredSession(3, sessions[3], away)
            assert await store.session("chat/1", 4) == StoredSession(4, sessions[4], over)
            for sid, pos, left in ((1, 16, b""), (2, 21, b"x"), (5, 51, b"")):
                session = await store.session("chat/1", sid)
                assert session is not None
                assert session.room == sessions[sid]
                until = session.link.until
                assert until is not None
                assert before + windows[sid] - 0.01 <= until <= after + windows[sid] + 0.01
                assert session.link == LinkHalf(0, until, pos, left)
            assert await store.positions("chat/1") == {7: 1, 16: 1, 21: 1, 51: 1}
            assert [one.sid for one in await store.due(math.inf, 10)] == [3, 2, 5, 1]
            assert await store.due(6, 10) == [Due(5.5, "chat/1", sid=3)]
            await store.commit(_next(store, 2, links={1: LinkHalf(1, None)}))
        async with store:
            assert [one.sid for one in await store.due(math.inf, 2)] == [3, 2]

    # Timers, and what is due.

    async def test_timers_are_kept_by_name(self, store: Store) -> None:
        """A later one of a name takes its place; they are listed as names are."""
        timers = {name: Timer(float(number), name.encode()) for number, name in enumerate(NAMES)}
        async with store:
            await store.commit(_next(store, 1, timers=timers))
            assert (await store.head("chat/1")).has_timers
            for name in NAMES:
                assert await store.timer("chat/1", name) == timers[name]
            assert await store.timers("chat/1") == sorted(timers.items())
            for prefix, after, limit in _selections():
                found = await store.timers("chat/1", prefix, after=after, limit=limit)
                assert [name for name, _ in found] == _select(NAMES, prefix, after, limit)
            never = Timer(None, b"\xff" * 100_000)
            await store.commit(_next(store, 2, b"two", timers={"a": never, "b": None, "no": None}))
            assert await store.timer("chat/1", "a") == never
            assert await store.timer("chat/1", "b") is None
            assert await store.timers("chat/1", "b") == []
            assert await store.timer("chat/2", "a") is None
        async with store:
            assert await store.timers("chat/1", "a", limit=1) == [("a", never)]

    async def test_due_timers_of_a_room(self, store: Store) -> None:
        """The longest due comes first; one without a time never does."""
        timers = {f"{number:03}": Timer(1000.0 - number, b"") for number in range(300)}
        async with store:
            await store.commit(_next(store, 1, timers=timers | {"never": Timer(None, b"")}))
            await store.commit(Commit("chat/2", 1, store.epoch, timers={"other": Timer(1.0, b"")}))
            assert await store.due_timers("chat/1", 700, 10) == []
            found = await store.due_timers("chat/1", 705, 10)
            assert found == [(f"{number:03}", timers[f"{number:03}"]) for number in range(299, 294, -1)]
            assert await store.due_timers("chat/1", 705, 2) == found[:2]
            names = [name for name, _ in await store.due_timers("chat/1", math.inf, 1000)]
            assert names == sorted(timers, reverse=True)
            await store.commit(_next(store, 2, timers={"299": Timer(None, b""), "298": Timer(2e3, b"x")}))
            assert [name for name, _ in await store.due_timers("chat/1", 705, 10)] == ["297", "296", "295"]
            assert (await store.due_timers("chat/1", math.inf, 1000))[-1] == ("298", Timer(2e3, b"x"))

    async def test_what_is_due_comes_in_order(self, store: Store) -> None:
        """Sessions and timers of all rooms by their times, in pages, and what is next."""
        opened = RoomHalf(0, None, b"", Opening(b"", None, 0, 1.0))
        expected = []
        async with store:
            assert await store.due(math.inf, 1) == []
            for room in range(10):
                key = f"chat/{room}"
                links, timers = {}, {}
                for number in range(20):
                    time = float(number * 7 % 20)
                    links[number + 1] = LinkHalf(0, time, 1)
                    expected.append(Due(time, key, sid=number + 1))
                    timers[f"t{number}"] = Timer(time + 0.5 * (room % 2), b"")
                    expected.append(Due(time + 0.5 * (room % 2), key, timer=f"t{number}"))
                links |= {50: LinkHalf(1, None), 51: LinkHalf(0, 3.0, ended=True), 52: LinkHalf(0, None)}
                timers["never"] = Timer(None, b"")
                sessions = dict.fromkeys(links, opened)
                await store.commit(Commit(key, 1, store.epoch, sessions=sessions, links=links, timers=timers))
            found = await store.due(math.inf, 1000)
            assert [one.time for one in found] == sorted(one.time for one in expected)
            assert len(found) == len(expected)
            assert set(found) == set(expected)
            # Of one time sessions come first.
            assert sorted(found, key=lambda one: (one.time, one.timer is not None)) == found
            for limit in (1, 3, 64, 400):
                pages: list[Due] = []
                while page := await store.due(math.inf, limit, after=pages[-1] if pages else None):
                    assert len(page) <= limit
                    pages += page
                assert pages == found
            assert await store.due(4.9, 1000) == [one for one in found if one.time <= 4.9]
            assert await store.due(4.9, 1000, after=found[30]) == [
                one for one in found[31:] if one.time <= 4.9
            ]
            assert await store.due(-1, 1000) == []
            assert (await store.due(math.inf, 1))[0].time == 0
            # What is not there any more still says where to go on.
            gone = found[100]
            there = Commit(
                gone.key, 2, store.epoch, sessions=dict.fromkeys(range(1, 21)), timers={"t3": None}
            )
            await store.commit(there)
            kept = [one for one in found[101:] if one.key != gone.key or one.timer not in {None, "t3"}]
            assert await store.due(math.inf, 1000, after=gone) == kept

    async def test_what_is_due_is_read_a_page_at_a_time(self, store: Store) -> None:
        """Sessions and timers of all rooms by their times, also where many have the same one."""
        session = RoomHalf(0, None, b"", Opening(b"token", None, 0, 60.0))
        async with store:
            wanted = set[tuple[float, str, int | None, str | None]]()
            for number, key in enumerate((*(f"chat/{one}" for one in range(5)), "chat/\U0010ffff")):
                times = {sid: float(10 + sid % 3) for sid in range(1, 20)}
                timers = {name: Timer(float(11 + number % 2), b"x") for name in NAMES[:20]}
                links = {sid: LinkHalf(0, time) for sid, time in times.items()}
                sessions = dict.fromkeys(times, session)
                await store.commit(Commit(key, 1, store.epoch, sessions=sessions, links=links, timers=timers))
                wanted |= {(time, key, sid, None) for sid, time in times.items()}
                wanted |= {(one.due or 0.0, key, None, name) for name, one in timers.items()}
            found: list[Due] = []
            for limit in (1, 7, 1000):
                found = []
                while page := await store.due(100.0, limit, after=found[-1] if found else None):
                    assert len(page) <= limit
                    found += page
                assert len(found) == len(wanted)
                assert {(one.time, one.key, one.sid, one.timer) for one in found} == wanted
                assert [one.time for one in found] == sorted(one.time for one in found)
            assert {one.time for one in await store.due(11.0, 1000, after=Due(10.0, ""))} == {11.0}
            assert await store.due(math.inf, 1) == found[:1]
            assert not await store.due(9.9, 1000)
            # What it comes behind need not be there any more; where its room is gone some comes again.
            place = next(place for place, one in enumerate(found) if one.timer and one.time == 11.0) + 3
            before, gone = found[:place], found[place]
            assert gone.timer is not None
            await store.commit(Commit(gone.key, 2, store.epoch, timers={gone.timer: None}))
            assert await store.due(100.0, 1000, after=gone) == found[place + 1 :]
            await store.commit(Commit(gone.key, 3, store.epoch, destroy=True))
            left = [one for one in found if one.key != gone.key]
            rest = await store.due(100.0, 1000, after=gone)
            assert rest[-1] == left[-1]
            assert {one.key for one in rest if one.time > gone.time} == {one.key for one in left}
            assert set(rest) >= {one for one in left if one not in before}

    # All of it.

    async def test_a_room_lives_by_anything(self, store: Store) -> None:
        """A room with a journal, a session or a timer and nothing else has a key, and goes with it."""
        opened = RoomHalf(0, None, b"", Opening(b"", None, 0, 1.0))
        async with store:
            for key, begun, over in (
                ("chat/journal", {"entries": _entries(1), "seq": 1}, {"trim": 1}),
                ("chat/session", {"sessions": {1: opened}}, {"sessions": {1: None}}),
                ("chat/timer", {"timers": {"a": Timer(None, b"")}}, {"timers": {"a": None}}),
            ):
                first = Commit(key, 1, store.epoch, **begun)
                await store.commit(first)
                await store.commit(first)
                await store.commit(Commit(key, 2, store.epoch))
                assert await store.keys(key) == [key]
                last = Commit(key, 3, store.epoch, **over)
                await store.commit(last)
                assert await store.keys(key) == []
                head = await store.head(key)
                assert head == RoomHead(3, last.nonce, store.epoch)
                await store.commit(last)
                with _raises(StaleWrite):
                    await store.commit(Commit(key, 3, store.epoch, **over))
                await store.commit(Commit(key, 4, store.epoch, **begun))
                assert await store.keys(key) == [key]
            await store.commit(Commit("chat/seq", 1, store.epoch, seq=7))
            assert await store.keys("chat/seq") == []

    async def test_destroy_removes_all(self, store: Store) -> None:
        """Of journal, sessions, verdicts and timers nothing is left, of another room everything."""
        opened = RoomHalf(0, None, b"", Opening(b"", None, 0, 1.0))
        async with store:
            for key in ("chat/1", "chat/2"):
                await store.commit(
                    Commit(
                        key,
                        1,
                        store.epoch,
                        b"one",
                        {"a": b"1"},
                        _entries(1, 2),
                        2,
                        sessions={1: opened, 2: opened},
                        links={1: LinkHalf(0, 2.0, 1), 2: LinkHalf(0, None, ended=True)},
                        verdicts=(Verdict(1, 1, b""),),
                        timers={"a": Timer(1.0, b"")},
                    )
                )
            destroy = _next(store, 2, destroy=True)
            await store.commit(destroy)
            assert await store.keys() == ["chat/2"]
            assert await store.head("chat/1") == RoomHead(2, destroy.nonce, store.epoch)
            expected = (2, 2, {1: 1}, {1: b""}, ["a"], 1)
            for key, left in (("chat/1", (0, 0, {}, {}, [], 0)), ("chat/2", expected)):
                assert (
                    len(await store.journal(key, 0, 99, 99)),
                    len(await store.sessions(key)),
                    await store.positions(key),
                    await store.verdicts(key, 1),
                    [name for name, _ in await store.timers(key)],
                    len(await store.sessions(key, ended=True)),
                ) == left
            assert {one.key for one in await store.due(10, 10)} == {"chat/2"}
            # It begins again with nothing of what it was.
            await store.commit(_next(store, 3, sessions={1: opened}, entries=_entries(1), seq=1))
            assert await store.session("chat/1", 1) == StoredSession(1, opened, LinkHalf(0, None))
            assert await store.verdicts("chat/1", 1) == {}
            head = await store.head("chat/1")
            assert (head.seq, head.entries, head.has_timers) == (1, 1, False)

    async def test_a_commit_with_everything_is_whole(self, store: Store) -> None:
        """All of it is there, and all of it once, also where it is repeated; a stale one writes nothing."""
        opened = RoomHalf(3, b"at", b"ch", Opening(b"to", "ana", 1, 9.0))
        commit: dict[str, Any] = {
            "writes": {"a": b"1"},
            "entries": _entries(4, 5),
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
            await store.commit(_next(store, 1, b"one", entries=_entries(1), seq=1))
            whole = _next(store, 2, b"two", **commit)
            await store.commit(whole)
            await store.commit(whole)
            for stale in (_next(store, 2, b"x", timers={"t": None}), _next(store, 4, **commit)):
                with _raises(StaleWrite):
                    await store.commit(stale)
        async with store:
            with _raises(StaleWrite):
                await store.commit(attrs.evolve(whole, number=3, entries=_entries(7), seq=7))
            assert await store.load("chat/1") == StoredRoom(
                RoomHead(2, whole.nonce, 1, 6, 2, 3, 1, 1, has_sessions=True, has_timers=True),
                (StoredSnapshot(2, b"two"), StoredSnapshot(1, b"one")),
            )
            assert await store.get("chat/1", "a") == b"1"
            assert await store.journal("chat/1", 0, 99, 99) == [*_entries(5)]
            assert await store.session("chat/1", 1) == StoredSession(1, opened, LinkHalf(0, 8.0, 5, b"l"))
            assert await store.verdicts("chat/1", 1) == {3: b"v"}
            assert await store.due(10, 10) == [Due(5.0, "chat/1", timer="t"), Due(8.0, "chat/1", sid=1)]

    async def test_the_last_commit_is_known_by_its_nonce(self, store: Store) -> None:
        """The head has number, nonce and epoch of it, with a document of any size or without one."""
        async with store:
            documents = (b"", b"small", None, bytes(100_000), None, b"small", bytes(1_000_000), b"x")
            commits = [_next(store, number, document) for number, document in enumerate(documents, 1)]
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

    async def test_a_store_that_is_not_open_refuses_everything(self, store: Store) -> None:
        """Before it is opened and after it is closed, a store raises StoreClosed; closing it does nothing."""
        await store.aclose()
        await _is_closed(store)
        async with store:
            await _commit(store, "chat/1", 1, b"one")
            await store.aclose()
            await _is_closed(store)
        await store.aclose()
        await _is_closed(store)

    async def test_a_store_is_opened_once(self, store: Store) -> None:
        """An open store cannot be opened again, and goes on to work."""
        async with store:
            with _raises(StoreInUse):
                await store.open()
            await _commit(store, "chat/1", 1, b"one")

    async def test_what_cannot_be_stored_is_refused_at_once(self, store: Store) -> None:
        """Half a surrogate pair, a bad limit, number or epoch, writing while destroying: ValueErrors."""
        bad: list[Callable[[], Awaitable[object]]] = [
            lambda: store.load(HALF_A_PAIR),
            lambda: store.get(HALF_A_PAIR, ""),
            lambda: store.get("chat/1", HALF_A_PAIR),
            lambda: store.list(HALF_A_PAIR),
            lambda: store.list("chat/1", HALF_A_PAIR),
            lambda: store.list("chat/1", after=HALF_A_PAIR),
            lambda: store.list("chat/1", limit=-1),
            lambda: store.keys(HALF_A_PAIR),
            lambda: store.keys(after=HALF_A_PAIR),
            lambda: store.keys(limit=-1),
            lambda: _commit(store, HALF_A_PAIR, 1, b""),
            lambda: _commit(store, "chat/1", 1, b"", {HALF_A_PAIR: b""}),
            lambda: _commit(store, "chat/1", 0, b""),
            lambda: _commit(store, "chat/1", -1),
            lambda: _commit(store, "chat/1", 2**63, b""),
            lambda: store.commit(Commit("chat/1", 1, 0, b"")),
            lambda: store.commit(Commit("chat/1", 1, 2**63)),
            lambda: _commit(store, "chat/1", 1, b"", destroy=True),
            lambda: _commit(store, "chat/1", 1, writes={"a": None}, destroy=True),
            lambda: store.session(HALF_A_PAIR, 1),
            lambda: store.sessions("chat/1", limit=-1),
            lambda: store.journal(HALF_A_PAIR, 0, 1, 1),
            lambda: store.timers("chat/1", HALF_A_PAIR),
            lambda: store.timer("chat/1", HALF_A_PAIR),
            lambda: store.due(1, -1),
            *(lambda commit=commit: store.commit(_next(store, 1, **commit)) for commit in _BAD),
        ]
        async with store:
            for call in bad:
                with _raises(ValueError):
                    await call()
            with _raises(TypeError):
                await _commit(store, "chat/1", 1, "text")  # type: ignore[arg-type]
            with _raises(TypeError):
                await _commit(store, "chat/1", 1, b"", {"a": "text"})  # type: ignore[dict-item]
            for commit in _TEXT:
                with _raises(TypeError):
                    await store.commit(_next(store, 1, **commit))
            assert await store.keys() == []

    async def test_every_operation_is_a_checkpoint(self, store: Store) -> None:
        """Each operation lets other tasks run, and can be cancelled."""
        async with store:
            await _commit(store, "chat/1", 1, b"one", {"a": b"1"})
            for operation in _everything(store, Commit("chat/1", 2, store.epoch, writes={"b": b"2"})):
                with trio.testing.assert_checkpoints():
                    await operation()
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await operation()
                assert scope.cancelled_caught


async def _commit(
    store: Store,
    key: str,
    number: int,
    document: bytes | None = None,
    writes: Mapping[str, bytes | None] | None = None,
    *,
    destroy: bool = False,
) -> Commit:
    """Commit as the store's present owner; gives the commit, to be repeated."""
    commit = Commit(key, number, store.epoch, document, {} if writes is None else writes, destroy=destroy)
    await store.commit(commit)
    return commit


def _next(store: Store, number: int, document: bytes | None = None, **rest: Any) -> Commit:
    """A commit of chat/1 by the store's present owner."""
    return Commit("chat/1", number, store.epoch, document, **rest)


def _entries(*seqs: int) -> tuple[Entry, ...]:
    """Entries of one byte, with what a store may change in them."""
    return tuple(Entry(seq, b"to %d" % seq, bytes([seq % 256]), seq + 0.5) for seq in seqs)


_OPENED = RoomHalf(0, None, b"", Opening(b"", None, 0, 1.0))
_BAD: tuple[dict[str, Any], ...] = (
    {"nonce": 0},
    {"nonce": 2**63},
    {"entries": _entries(1)},
    {"entries": _entries(1, 3), "seq": 2},
    {"entries": _entries(1, 1), "seq": 2},
    {"entries": _entries(2, 1), "seq": 2},
    {"entries": _entries(0), "seq": 2},
    {"entries": (Entry(1, b"", b"", math.nan),), "seq": 1},
    {"seq": -1},
    {"seq": 2**63},
    {"before": 1},
    {"floor": 3, "seq": 2},
    {"trim": -1},
    {"trim": 2**63},
    {"sessions": {0: _OPENED}},
    {"sessions": {2**63: _OPENED}},
    {"sessions": {1: attrs.evolve(_OPENED, last=-1)}},
    {"sessions": {1: attrs.evolve(_OPENED, opening=Opening(b"", HALF_A_PAIR, 0, 1.0))}},
    {"sessions": {1: attrs.evolve(_OPENED, opening=Opening(b"", None, -1, 1.0))}},
    {"sessions": {1: attrs.evolve(_OPENED, opening=Opening(b"", None, 0, math.inf))}},
    {"links": {0: LinkHalf(0, None)}},
    {"links": {1: LinkHalf(-1, None)}},
    {"links": {1: LinkHalf(0, math.inf)}},
    {"links": {1: LinkHalf(0, None, -1)}},
    {"verdicts": (Verdict(0, 1, b""),)},
    {"verdicts": (Verdict(1, 0, b""),)},
    {"answered": {1: 2**63}},
    {"timers": {HALF_A_PAIR: None}},
    {"timers": {"a": Timer(math.inf, b"")}},
    {"timers": {"a": Timer(math.nan, b"")}},
    *(
        {"destroy": True, **commit}
        for commit in (
            {"entries": _entries(1), "seq": 1},
            {"seq": 1},
            {"trim": 1},
            {"sessions": {1: None}},
            {"links": {1: LinkHalf(0, None)}},
            {"verdicts": (Verdict(1, 1, b""),)},
            {"answered": {1: 1}},
            {"timers": {"a": None}},
        )
    ),
)
"""What no store can carry out."""
_TEXT: tuple[dict[str, Any], ...] = (
    {"entries": (Entry(1, "text", b"", 1.0),), "seq": 1},  # type: ignore[arg-type]
    {"entries": (Entry(1, b"", "text", 1.0),), "seq": 1},  # type: ignore[arg-type]
    {"sessions": {1: RoomHalf(0, None, "text")}},  # type: ignore[arg-type]
    {"sessions": {1: RoomHalf(0, "text", b"")}},  # type: ignore[arg-type]
    {"sessions": {1: attrs.evolve(_OPENED, opening=Opening("text", None, 0, 1.0))}},  # type: ignore[arg-type]
    {"links": {1: LinkHalf(0, None, 0, "text")}},  # type: ignore[arg-type]
    {"verdicts": (Verdict(1, 1, "text"),)},  # type: ignore[arg-type]
    {"timers": {"a": Timer(None, "text")}},  # type: ignore[arg-type]
)
"""What is to be bytes, and is text."""


async def _loaded(store: Store, key: str) -> tuple[int, tuple[StoredSnapshot, ...]]:
    """The number of a room's last commit, and its snapshots."""
    stored = await store.load(key)
    assert stored.head == await store.head(key)
    return stored.head.number, stored.snapshots


def _selections() -> Iterator[tuple[str, str | None, int | None]]:
    """Prefixes, starts and limits with which `Store.list` and `Store.keys` may be asked."""
    for prefix in NAMES:
        yield prefix, None, None
        yield prefix, prefix, None
    for after in (*NAMES, "behind", "\0\0\0"):
        yield "", after, None
        yield "", after, 3
        yield "a", after, 2
    for limit in (0, 1, 2, len(NAMES) - 1, len(NAMES), 2**31, 2**40):
        yield "", None, limit
        yield "a", None, limit


def _select(names: Iterable[str], prefix: str, after: str | None, limit: int | None) -> list[str]:
    """Which names a store is to give for a selection, in which order."""
    chosen = sorted(name for name in names if name.startswith(prefix) and (after is None or name > after))
    return chosen if limit is None else chosen[:limit]


async def _loads_well_formed(store: Store, key: str) -> None:
    """Check that each generation of a room is the document that was committed as it."""
    for snapshot in (await store.load(key)).snapshots:
        assert snapshot.document == b"%d" % snapshot.generation


async def _is_closed(store: Store) -> None:
    """Check that a store refuses whatever it is asked."""
    with _raises(StoreClosed):
        assert store.epoch
    for operation in _everything(store, Commit("chat/1", 1, 1, b"closed")):
        with _raises(StoreClosed):
            await operation()


def _everything(store: Store, commit: Commit) -> list[Callable[[], Awaitable[object]]]:
    """Everything that a store can be asked."""
    return [
        lambda: store.load("chat/1"),
        lambda: store.head("chat/1"),
        lambda: store.get("chat/1", "a"),
        lambda: store.list("chat/1"),
        store.keys,
        lambda: store.session("chat/1", 1),
        lambda: store.sessions("chat/1"),
        lambda: store.positions("chat/1"),
        lambda: store.verdicts("chat/1", 1),
        lambda: store.journal("chat/1", 0, 10, 10),
        lambda: store.timers("chat/1"),
        lambda: store.due_timers("chat/1", 1e9, 10),
        lambda: store.timer("chat/1", "a"),
        lambda: store.due(1e9, 10),
        lambda: store.commit(commit),
    ]
