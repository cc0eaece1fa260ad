"""The suite that every store passes: what `Store` promises, one test for each promise.

pytest is not imported here, so that this can be imported without it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

import trio
import trio.testing

from trio_rooms.errors import StaleWrite, StoreClosed, StoreInUse
from trio_rooms.stores.base import (
    Commit,
    Due,
    LinkHalf,
    Opening,
    RoomHalf,
    Store,
    StoredSnapshot,
    StoreStatistics,
    Timer,
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
        ]
        async with store:
            for call in bad:
                with _raises(ValueError):
                    await call()
            with _raises(TypeError):
                await _commit(store, "chat/1", 1, "text")  # type: ignore[arg-type]
            with _raises(TypeError):
                await _commit(store, "chat/1", 1, b"", {"a": "text"})  # type: ignore[dict-item]
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
