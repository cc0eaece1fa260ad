"""The suite of every store, run on the ones that the library brings, and the store for tests itself."""

from __future__ import annotations

import contextlib
import itertools
import math
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import event, given, settings
from hypothesis import strategies as st

from trio_rooms.errors import StaleWrite, StoreError, StoreFull
from trio_rooms.stores import memory
from trio_rooms.stores.base import (
    Commit,
    Entry,
    InboxSize,
    LinkHalf,
    Offer,
    Opening,
    Post,
    RoomHalf,
    RoomHead,
    Store,
    StoredRoom,
    StoredSnapshot,
    Timer,
    Verdict,
)
from trio_rooms.stores.memory import MemoryStore
from trio_rooms.stores.sqlite.store import DiskStore
from trio_rooms.testing import Call, FaultyStore, StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestDiskStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return DiskStore(tmp_path / "new" / "data directory?#%41")

    def damage(self, store: Store, key: str, generation: int) -> bool:
        """Make a number of the document."""
        assert isinstance(store, DiskStore)
        with contextlib.closing(sqlite3.connect(store.path / "rooms.sqlite3")) as outside, outside:
            (room,) = outside.execute("SELECT id FROM rooms WHERE key = ?", (key.encode(),)).fetchone()
            statement = "UPDATE snapshots SET document = 5 WHERE id / 2 = ? AND generation = ?"
            return outside.execute(statement, (room, generation)).rowcount == 1


class TestFaultyStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Store:
        return FaultyStore(MemoryStore())

    def damage(self, store: Store, key: str, generation: int) -> bool:
        """Let the store say so."""
        assert isinstance(store, FaultyStore)
        store.damage_snapshot(key, generation)
        return True


class TestDelayedStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Store:
        return FaultyStore(MemoryStore(), delay=1e-5)


async def loaded(store: Store, key: str) -> tuple[int, tuple[StoredSnapshot, ...]]:
    """The number of a room's last commit, and its snapshots."""
    stored = await store.load(key)
    return stored.head.number, stored.snapshots


def commits(keys: tuple[str, ...], names: tuple[str, ...]) -> st.SearchStrategy[Commit]:
    """Commits of every kind to a few rooms and names, stale ones among them."""
    key = st.sampled_from(keys)
    number, epoch = st.integers(1, 8), st.sampled_from((1, 1, 1, 1, 1, 1, 2))
    document = st.one_of(st.none(), st.binary(max_size=3))
    writes = st.dictionaries(st.sampled_from(names), st.one_of(st.none(), st.binary(max_size=3)), max_size=3)
    written = st.builds(Commit, key, number, epoch, document, writes)
    return st.one_of(written, written, written, st.builds(Commit, key, number, epoch, destroy=st.just(True)))


KEYS = ("a", "a\0", "ab")
SIDS = st.integers(1, 4)
BLOBS = st.binary(max_size=3)
TIMES = st.integers(0, 5).map(float)


def at_most(
    most: int, keys: st.SearchStrategy[Any], values: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    """Some of what there may be many of, and often none of it."""
    return st.just({}) | st.dictionaries(keys, values, max_size=most)


OPENINGS = st.builds(Opening, BLOBS, st.none() | st.sampled_from(("ana", "é")), st.integers(0, 9), TIMES)
ROOM_HALVES = st.builds(
    RoomHalf, st.integers(0, 9), st.none() | BLOBS, BLOBS, st.none() | OPENINGS | OPENINGS | OPENINGS
)
LINK_HALVES = st.builds(
    LinkHalf,
    st.integers(0, 3),
    st.none() | TIMES,
    st.integers(0, 9),
    BLOBS,
    st.integers(0, 4).map(lambda n: n == 4),
    BLOBS,
)
NAMES = st.sampled_from(("", "x", "x%"))
USERS = ("ana", "\u00e9", "")
IDS = st.integers(1, 5)
POSTS = st.builds(Post, st.sampled_from(USERS), IDS, BLOBS, TIMES, st.integers(0, 2), st.sampled_from(KEYS))
OFFERS = st.builds(Offer, st.sampled_from(USERS), st.sampled_from(KEYS), SIDS, IDS)


@attrs.frozen
class Step:
    """A commit whose numbers follow on what the store has then, or a few off; or the last one again."""

    key: str
    ahead: int
    gaps: list[int]
    """From the highest seq to the first entry, and from one to the next."""
    lower: int
    trim: int | None
    fields: dict[str, Any]
    destroy: bool
    again: bool
    posts: list[Post]
    """What is posted after it."""
    settled: dict[str, set[int]]
    """What is settled after that."""

    def commit(self, head: RoomHead, epoch: int) -> Commit:
        """What it is in a store where the head of its room is this."""
        number = max(head.number + self.ahead, 1)
        if self.destroy:
            return Commit(self.key, number, epoch, destroy=True, sends=self.fields["sends"])
        seqs = [max(seq, 1) for seq in itertools.accumulate(self.gaps, initial=head.seq)][1:]
        entries = tuple(Entry(seq, b"all", bytes(seq % 5), float(seq)) for seq in sorted(set(seqs)))
        seq = entries[-1].seq + self.lower % 2 if entries else 0
        numbers: dict[str, Any] = {
            "seq": seq,
            "before": min(self.lower, seq),
            "floor": min(self.lower * 2, seq),
        }
        trim = 0 if self.trim is None else max(head.seq - self.trim, 0)
        return Commit(self.key, number, epoch, entries=entries, trim=trim, **numbers, **self.fields)


STEPS = st.builds(
    Step,
    st.sampled_from(KEYS),
    st.sampled_from((1, 1, 1, 1, 1, 1, 1, 1, 0, 2)),
    st.just([]) | st.lists(st.integers(1, 3), max_size=3) | st.just([0, 1]),
    st.integers(0, 3),
    st.none() | st.integers(-2, 4),
    st.fixed_dictionaries(
        {
            "document": st.none() | BLOBS | st.just(bytes(20_000)),
            "writes": at_most(2, NAMES, st.none() | BLOBS),
            "sessions": at_most(3, SIDS, st.none() | ROOM_HALVES | ROOM_HALVES),
            "links": at_most(3, SIDS, LINK_HALVES),
            "verdicts": st.lists(st.builds(Verdict, SIDS, st.integers(1, 4), BLOBS), max_size=3).map(tuple),
            "answered": at_most(2, SIDS, st.integers(0, 4)),
            "timers": at_most(2, NAMES, st.none() | st.builds(Timer, st.none() | TIMES, BLOBS)),
            "sends": st.just(()) | st.lists(POSTS, max_size=3).map(tuple),
            "offers": at_most(2, IDS, OFFERS),
            "lapses": st.none() | st.none() | TIMES,
        }
    ),
    st.integers(0, 15).map(lambda n: n == 15),
    st.integers(0, 9).map(lambda n: n == 9),
    st.just([]) | st.lists(POSTS, max_size=3),
    at_most(2, st.sampled_from(USERS), st.sets(IDS, max_size=3)),
)


async def content(store: Store) -> dict[str, object]:
    """All that a store has."""
    all_due = await store.due(math.inf, 1000)
    expired = await store.expired(math.inf, 1000)
    found: dict[str, object] = {
        "due": sorted(map(repr, all_due)),
        "times": [(one.time, one.timer is None) for one in all_due],
        "keys": await store.keys(),
        "inboxes": await store.inboxes(),
        "expired": expired,
        "some": [
            await store.expired(2.0, 3, after=(one.post.expires, one.post.user, one.position))
            for one in expired[1:2]
        ],
        "users": [
            (
                await store.inbox(user),
                await store.inbox(user, after=2, limit=2),
                await store.inbox_size(user),
            )
            for user in USERS
        ],
    }
    for key in KEYS:
        assert (await store.load(key)).head == await store.head(key)
        found[key] = (
            await store.load(key),
            await store.load(key, newest=True),
            await store.list(key),
            await store.journal(key, 0, 2**62, 2**62),
            await store.sessions(key),
            await store.sessions(key, ended=True),
            await store.positions(key),
            [await store.verdicts(key, sid) for sid in range(5)],
            await store.timers(key),
            sorted(map(repr, await store.due_timers(key, 3.0, 1000))),
        )
    return found


@settings(max_examples=30, deadline=None)
@given(lives=st.lists(st.lists(STEPS, min_size=1, max_size=10), max_size=3))
def test_disk_and_memory_agree_about_all(
    lives: list[list[Step]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever becomes of journals, sessions, timers and inboxes, also from one opening to the next."""

    async def refused(store: Store, commit: Commit) -> bool:
        try:
            await store.commit(commit)
        except StaleWrite:
            return True
        return False

    async def main() -> None:
        disk, memory = DiskStore(tmp_path_factory.mktemp("data")), MemoryStore()
        for life in lives:
            last: dict[str, Commit] = {}
            async with disk, memory:
                assert await content(disk) == await content(memory)
                for step in life:
                    commit = step.commit(await memory.head(step.key), memory.epoch)
                    if step.again:
                        commit = last.get(step.key, commit)
                    event(outcome := f"refused: {await refused(memory, commit)}")
                    assert outcome == f"refused: {await refused(disk, commit)}"
                    last[step.key] = commit
                    assert await disk.post(step.posts) == await memory.post(step.posts)
                    for user, ids in step.settled.items():
                        await disk.settle(user, ids)
                        await memory.settle(user, ids)
                    assert await content(disk) == await content(memory)

    # The time of day stands still, so that both give the same times as they are opened.
    trio.run(main, clock=trio.testing.MockClock())


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(st.lists(commits(("a", "a\0", "ab", "é"), ("", "x", "x%")), max_size=8), max_size=4))
def test_disk_and_memory_agree(groups: list[list[Commit]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is committed, in groups or alone, both stores have the same and refuse the same."""

    async def commit(store: Store, commit: Commit, refused: list[Commit]) -> None:
        try:
            await store.commit(commit)
        except StaleWrite:
            refused.append(commit)

    async def main() -> None:
        disk, memory = DiskStore(tmp_path_factory.mktemp("data")), MemoryStore()
        failures = 0
        async with disk, memory:
            for group in groups:
                refused: list[Commit] = []
                for each in group:
                    await commit(memory, each, refused)
                for each in group[:-1]:
                    # Handed over without waiting, so that they share a transaction, in this order.
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await disk.commit(each)
                for each in group[-1:]:
                    await commit(disk, each, [])
                for key in ("a", "a\0", "ab", "é"):
                    assert await disk.load(key) == await memory.load(key)
                    assert await disk.list(key) == await memory.list(key)
                assert await disk.keys() == await memory.keys()
                failures += len(refused)
            assert disk.statistics().failures == failures

    trio.run(main)


async def test_a_gate_holds_commits_until_it_is_released() -> None:
    """A commit stops at a gate before it is applied, and goes on when it is let go."""
    memory = MemoryStore()
    async with FaultyStore(memory) as store, trio.open_nursery() as nursery:
        gate = store.hold_commits("chat/1")
        nursery.start_soon(store.commit, Commit("chat/1", 1, 1, b"one"))
        await gate.wait_arrived()
        await store.commit(Commit("chat/2", 1, 1, b"not held"))
        assert await loaded(memory, "chat/1") == (0, ())
        gate.release()
        await store.commit(Commit("chat/1", 2, 1, b"two"))
        assert await loaded(memory, "chat/1") == (2, (StoredSnapshot(2, b"two"), StoredSnapshot(1, b"one")))


async def test_a_gate_lets_one_go_on() -> None:
    """release_one lets the oldest go on and holds the rest; with none there it says so."""
    async with FaultyStore(MemoryStore()) as store, trio.open_nursery() as nursery:
        gate = store.hold_commits()
        with pytest.raises(RuntimeError, match="nothing waits"):
            gate.release_one()
        for number in range(3):
            nursery.start_soon(store.commit, Commit(f"chat/{number}", 1, 1, b""))
        await gate.wait_arrived(3)
        first = store.calls[-3].key
        gate.release_one()
        await trio.testing.wait_all_tasks_blocked()
        assert await store.keys() == [first]
        gate.release()


async def test_a_held_commit_survives_its_caller() -> None:
    """A commit whose caller is cancelled while it is held is applied after the release, in its order."""
    async with FaultyStore(MemoryStore()) as store:
        gate = store.hold_commits()
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.commit(Commit("chat/1", 1, 1, b"one"))
        assert gate.arrived == 1
        gate.release()
        await store.commit(Commit("chat/1", 2, 1, b"two"))
        assert [snapshot.generation for snapshot in (await store.load("chat/1")).snapshots] == [2, 1]


async def test_a_gate_holds_loads() -> None:
    """A load stops at a gate, may be cancelled there, and sees what was committed meanwhile."""
    async with FaultyStore(MemoryStore()) as store, trio.open_nursery() as nursery:
        gate = store.hold_loads()
        found: list[StoredRoom] = []

        async def load() -> None:
            found.append(await store.load("chat/1"))

        with trio.CancelScope() as scope:
            scope.cancel()
            await load()
        nursery.start_soon(load)
        await gate.wait_arrived(2)
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        gate.release_one()
        await trio.testing.wait_all_tasks_blocked()
        assert [one.snapshots for one in found] == [(StoredSnapshot(1, b"one"),)]


async def test_the_next_loads_and_commits_fail_as_told() -> None:
    """The given number of loads or commits of a room fail with the given error, then all is well."""
    async with FaultyStore(MemoryStore()) as store:
        store.fail_commits(StoreFull("no room"), 2, key="chat/1")
        store.fail_loads(lambda: StoreError("broken"))
        await store.commit(Commit("chat/2", 1, 1, b"one"))
        for _ in range(2):
            with pytest.raises(StoreFull, match="no room"):
                await store.commit(Commit("chat/1", 1, 1, b"one"))
        with pytest.raises(StoreError, match="broken"):
            await store.load("chat/2")
        await store.commit(Commit("chat/1", 1, 1, b"one"))
        assert await loaded(store, "chat/1") == (1, (StoredSnapshot(1, b"one"),))


async def test_reads_are_held_and_fail_as_told() -> None:
    """A read is any question but a load, which a head is too, and the keys."""
    async with FaultyStore(MemoryStore()) as store, trio.open_nursery() as nursery:
        reads: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: store.get("chat/1", "a"),
            "list": lambda: store.list("chat/1"),
            "session": lambda: store.session("chat/1", 1),
            "sessions": lambda: store.sessions("chat/1"),
            "positions": lambda: store.positions("chat/1"),
            "verdicts": lambda: store.verdicts("chat/1", 1),
            "journal": lambda: store.journal("chat/1", 0, 1, 1),
            "timers": lambda: store.timers("chat/1"),
            "due_timers": lambda: store.due_timers("chat/1", 1, 1),
            "timer": lambda: store.timer("chat/1", "a"),
            "inbox": lambda: store.inbox("chat/1"),
            "inbox_size": lambda: store.inbox_size("chat/1"),
        }
        for name, read in reads.items():
            store.fail_reads(StoreError(name))
            store.fail_reads(StoreError("another room"), key="chat/2")
            with pytest.raises(StoreError, match=name):
                await read()
            await read()
            store._read_faults.clear()
        of_all: list[Callable[[], Awaitable[object]]] = [
            lambda: store.due(1, 1),
            store.inboxes,
            lambda: store.expired(1, 1),
        ]
        for read in of_all:
            store.fail_reads(StoreError("of all"))
            with pytest.raises(StoreError, match="of all"):
                await read()
        store.fail_reads(StoreError("not these"))
        await store.head("chat/1")
        await store.load("chat/1")
        await store.keys()
        store._read_faults.clear()
        store.fail_loads(StoreError("head"))
        with pytest.raises(StoreError, match="head"):
            await store.head("chat/1")
        store.calls.clear()
        gate, loads = store.hold_reads("chat/1"), store.hold_loads()
        for read in reads.values():
            nursery.start_soon(read)
        nursery.start_soon(store.head, "chat/1")
        await gate.wait_arrived(len(reads))
        await loads.wait_arrived()
        assert sorted(call.operation for call in store.calls) == sorted([*reads, "head"])
        await store.get("chat/2", "a")
        await store.due(1, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.get("chat/1", "a")
        gate.release()
        loads.release()


@pytest.mark.parametrize("applied", [False, True])
async def test_a_crash_before_or_after_a_commit_was_applied(applied: bool) -> None:
    """A commit can fail before anything of it is written, or after all of it is."""
    async with FaultyStore(MemoryStore()) as store:
        store.fail_commits(StoreError("crash"), applied=applied)
        with pytest.raises(StoreError, match="crash"):
            await store.commit(Commit("chat/1", 1, 1, b"one"))
        assert (await store.head("chat/1")).number == applied


@pytest.mark.parametrize("applied", [False, True])
async def test_posts_and_settlements_fail_as_told(applied: bool) -> None:
    """Those of one user or of any, before or after they were applied; settlements apart from posts."""
    mail = [Post("ana", 1, b"", 1.0), Post("bo", 1, b"", 1.0)]
    async with FaultyStore(MemoryStore()) as store:
        store.fail_posts(StoreError("posts"), user="bo", applied=applied)
        store.fail_settles(StoreFull("settlements"), 2, applied=applied)
        await store.post(mail[:1])
        with pytest.raises(StoreError, match="posts"):
            await store.post(mail)
        assert len(await store.inbox("bo")) == applied
        assert await store.post(mail) == {"ana": InboxSize(1, 50), "bo": InboxSize(1, 50)}
        for _ in range(2):
            with pytest.raises(StoreFull, match="settlements"):
                await store.settle("ana", [1])
            assert len(await store.inbox("ana")) == (not applied)
        await store.settle("ana", [1])
        assert await store.inbox("ana") == []
        assert store.calls[1] == Call("post", "ana", posts=tuple(mail[:1]))
        assert [(one.key, one.ids) for one in store.calls if one.operation == "settle"] == [("ana", (1,))] * 3


async def test_held_posts_keep_their_order() -> None:
    """They are handed over before they are held, whoever is cancelled, and closing waits for them."""
    memory = MemoryStore()
    store = FaultyStore(memory)
    async with trio.open_nursery() as nursery:
        await store.open()
        posts, settles = store.hold_posts("ana"), store.hold_settles("bo")
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.post([Post("bo", 1, b"", 1.0), Post("ana", 1, b"", 1.0)])
        nursery.start_soon(store.settle, "bo", [1])
        await settles.wait_arrived()
        nursery.start_soon(store.post, [Post("bo", 2, b"", 1.0)])
        await trio.testing.wait_all_tasks_blocked()
        assert posts.arrived == 1
        nursery.start_soon(store.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert await memory.inbox("bo") == []
        posts.release()
        await trio.testing.wait_all_tasks_blocked()
        assert [one.post.id for one in await memory.inbox("bo")] == [1]
        settles.release()
        await trio.testing.wait_all_tasks_blocked()
    async with memory:
        assert [one.post.id for one in await memory.inbox("bo")] == [2]


async def test_delays_are_time_of_trio(autojump_clock: trio.testing.MockClock) -> None:
    """Loads and commits take the delay, each room's commits one after another, rooms beside each other."""
    async with FaultyStore(MemoryStore(), delay=10) as store:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for key in ("chat/1", "chat/2"):
                nursery.start_soon(store.commit, Commit(key, 1, 1, writes={"a": b"1"}))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.commit, Commit("chat/1", 2, 1, writes={"a": b"2"}))
        assert trio.current_time() - began == pytest.approx(20)
        await store.load("chat/1")
        assert trio.current_time() - began == pytest.approx(30)


async def test_calls_are_recorded() -> None:
    """The store lists what it was asked, in order."""
    store = FaultyStore(MemoryStore())
    async with store:
        commit = Commit("chat/1", 1, 1, b"one")
        await store.commit(commit)
        await store.load("chat/1")
        await store.get("chat/1", "a")
        await store.list("chat/1")
        await store.keys("chat/")
    assert store.calls == [
        Call("open"),
        Call("commit", "chat/1", commit),
        Call("load", "chat/1"),
        Call("get", "chat/1"),
        Call("list", "chat/1"),
        Call("keys", "chat/"),
        Call("aclose"),
    ]


async def test_the_memory_store_forgets_ended_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that ended first is forgotten first."""
    monkeypatch.setattr(memory, "MOST_ENDED", 3)
    async with MemoryStore() as store:
        for number in range(5):
            await store.commit(Commit(f"a/{number}", 1, 1, destroy=True))
        await store.commit(Commit("a/2", 2, 1, destroy=True))
        await store.commit(Commit("a/5", 1, 1, destroy=True))
        assert [(await store.head(f"a/{number}")).number for number in range(6)] == [0, 0, 2, 0, 1, 1]


async def test_a_value_is_damaged_when_a_test_wants_it() -> None:
    """What reads it raises, and what does not goes on."""
    store = FaultyStore(MemoryStore())
    async with store:
        await store.commit(Commit("a/1", 1, 1, writes={"a": b"1", "b": b"1"}))
        store.damage_value("a/1", "a")
        for read in (store.get("a/1", "a"), store.list("a/1")):
            with pytest.raises(StoreError, match="room a/1: the value of 'a' in storage is damaged"):
                await read
        assert await store.get("a/1", "b") == b"1"
        assert await store.list("a/1", "b") == [("b", b"1")]
