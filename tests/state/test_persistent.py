from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_rooms._definition.room import Room
from trio_rooms._state.persistent import Loaded, Record
from trio_rooms._state.snapshot import LARGE, Snapshot
from trio_rooms.errors import (
    MigrationError,
    SnapshotCorrupt,
    SnapshotTooNew,
    StateError,
    StoreError,
    StoreFull,
)
from trio_rooms.stores.base import Commit
from trio_rooms.stores.memory import MemoryStore
from trio_rooms.testing import FaultyStore, Gate

KEY = "chat/lobby"


@attrs.define
class Chat:
    n: int = 0
    other: Any = None


chat: Room[Chat] = Room("chat", state=Chat)
chat.seal()
newer: Room[Chat] = Room("chat", state=Chat, version=2)


@newer.migrate(1, 2)
def raise_by_hundred(state: Any) -> Any:
    """Makes migrated states known by their number."""
    state["n"] += 100
    return state


newer.seal()


@pytest.fixture
async def store() -> AsyncIterator[FaultyStore]:
    """An open store that fails when it is told to."""
    async with FaultyStore(MemoryStore()) as store:
        yield store


def new_record(store: FaultyStore, room: Room[Chat] = chat) -> Record:
    """A record of the room of these tests."""
    return Record(KEY, room, store, lambda _: None)


@asynccontextmanager
async def held(store: FaultyStore) -> AsyncIterator[Gate]:
    """A gate for commits that is open in the end, or a save, which is shielded, would wait for ever."""
    gate = store.hold_commits()
    try:
        yield gate
    finally:
        gate.release()


async def save(record: Record, state: Any) -> None:
    """Save a state."""
    await record.save(lambda: state)


def commits(store: FaultyStore) -> list[Commit]:
    """What was handed to the store."""
    return [call.commit for call in store.calls if call.commit is not None]


async def stored(store: FaultyStore) -> list[int]:
    """The generations in the store."""
    return [one.generation for one in await store.load(KEY)]


async def test_a_room_that_never_was(store: FaultyStore) -> None:
    """There is nothing to load of a new room, and its first generation is 1."""
    record = new_record(store)
    assert await record.load() is None
    await save(record, Chat(1))
    assert await stored(store) == [1]


async def test_a_saved_state_is_loaded(store: FaultyStore) -> None:
    """What was saved last comes back, in a new record too."""
    record = new_record(store)
    for n in (1, 2, 3):
        await save(record, Chat(n))
    assert await new_record(store).load() == Loaded(Chat(3), restarted=False, fell_back=False)
    assert await stored(store) == [3, 2]


async def test_a_restart_is_noticed(store: FaultyStore) -> None:
    """A state that an earlier owner of the store wrote says that the process was restarted."""
    await save(new_record(store), Chat(1))
    await store.aclose()
    await store.open()
    assert await new_record(store).load() == Loaded(Chat(1), restarted=True, fell_back=False)


async def test_what_did_not_change_is_not_written(store: FaultyStore) -> None:
    """A state that is as it was saved or loaded costs no commit and no generation."""
    record = new_record(store)
    await save(record, Chat(1))
    await save(record, Chat(1))
    assert len(commits(store)) == 1
    again = new_record(store)
    await again.load()
    assert not again.unsaved(Chat(1))
    assert again.unsaved(Chat(2))
    await save(again, Chat(1))
    assert len(commits(store)) == 1
    await save(again, Chat(2))
    assert [commit.generation for commit in commits(store)] == [1, 2]


async def test_somebody_is_told_once_that_there_is_something_to_write(store: FaultyStore) -> None:
    """A change asks for a save once; a lot of storage asks for it at once; what failed counts on."""
    wanted: list[bool] = []
    record = Record(KEY, chat, store, wanted.append)
    record.touch()
    record.touch()
    assert wanted == [False]
    await save(record, Chat(1))
    assert not record.dirty
    record.touch()
    assert wanted == [False, False]
    record.write("a", bytes(3 * 2**20))
    record.write("b", bytes(2 * 2**20))
    assert wanted[2:] == [False, True]
    store.fail_commits(StoreFull("no room"))
    with pytest.raises(StoreFull):
        await save(record, Chat(2))
    record.write("c", b"")
    assert wanted[4:] == [True]
    await save(record, Chat(2))
    record.write("d", b"")
    assert wanted[5:] == [False]


async def test_storage_alone_needs_no_generation(store: FaultyStore) -> None:
    """Writes without a change of the state are committed without a snapshot."""
    record = new_record(store)
    await save(record, Chat(1))
    record.write("a", b"1")
    assert record.unsaved(Chat(1))
    await save(record, Chat(1))
    assert commits(store)[1].document is None
    assert await store.get(KEY, "a") == b"1"
    assert await stored(store) == [1]


async def test_state_and_storage_are_one_commit(store: FaultyStore) -> None:
    """What a handler wrote to both becomes durable at once."""
    record = new_record(store)
    record.write("a", b"1")
    record.write("b", None)
    await save(record, Chat(1))
    (commit,) = commits(store)
    assert commit.document is not None
    assert commit.writes == {"a": b"1", "b": None}


async def test_no_generation_is_used_twice(store: FaultyStore) -> None:
    """After a commit that failed, whether it was applied or not, the next has a number of its own."""
    record = new_record(store)
    await save(record, Chat(1))
    store.fail_commits(StoreFull("no room"), times=2)
    store.fail_commits(StoreError("the connection broke"), applied=True)
    for n in (2, 2, 3):
        with pytest.raises(StoreError):
            await save(record, Chat(n))
        assert record.dirty
        assert record.unsaved(Chat(n))
    await save(record, Chat(3))
    assert [commit.generation for commit in commits(store)] == [1, 2, 3, 4, 5]
    assert await stored(store) == [5, 4]
    assert await new_record(store).load() == Loaded(Chat(3), restarted=False, fell_back=False)


async def test_writes_of_a_failed_commit_are_kept(store: FaultyStore) -> None:
    """What a failed commit was to write goes with the next one; what was written meanwhile is newer."""
    record = new_record(store)
    record.write("a", b"old")
    record.write("b", b"old")
    record.write("c", b"old")
    store.fail_commits(StoreFull("no room"))
    async with trio.open_nursery() as nursery, held(store) as gate:

        async def fails() -> None:
            with pytest.raises(StoreFull):
                await save(record, Chat(1))

        nursery.start_soon(fails)
        await gate.wait_arrived()
        record.write("b", b"new")
        record.write("c", None)
        gate.release()
    assert [await record.get(name) for name in "abc"] == [b"old", b"new", None]
    await save(record, Chat(1))
    assert await store.list(KEY) == [("a", b"old"), ("b", b"new")]


async def test_a_state_that_cannot_be_saved_loses_nothing(store: FaultyStore) -> None:
    """A StateError writes nothing, keeps the storage's writes, and a mended state is saved."""
    record = new_record(store)
    record.write("a", b"1")
    with pytest.raises(StateError, match=r"state\.other"):
        await save(record, Chat(1, print))
    assert commits(store) == []
    assert record.dirty
    await save(record, Chat(1))
    assert commits(store)[0].generation == 1
    assert await store.get(KEY, "a") == b"1"


async def seen(record: Record) -> dict[str, bytes]:
    """All of a room's storage, by both ways to read it."""
    listed = dict(await record.list("", None, None))
    for name in ("a", "b", "c", "d"):
        assert await record.get(name) == listed.get(name)
    return listed


async def test_storage_is_seen_as_it_was_written(store: FaultyStore) -> None:
    """A write is seen at once: before a commit, while one is under way, and after it."""
    await store.commit(Commit(KEY, writes={"a": b"0", "b": b"0", "c": b"0"}))
    record = new_record(store)
    assert await seen(record) == {"a": b"0", "b": b"0", "c": b"0"}
    record.write("a", b"1")
    record.write("b", None)
    record.write("d", b"1")
    before = {"a": b"1", "c": b"0", "d": b"1"}
    assert await seen(record) == before
    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(save, record, Chat(1))
        await gate.wait_arrived()
        assert await seen(record) == before
        record.write("d", None)
        record.write("b", b"2")
        during = {"a": b"1", "b": b"2", "c": b"0"}
        assert await seen(record) == during
        gate.release()
    assert await seen(record) == during
    await save(record, Chat(1))
    assert await seen(record) == during
    assert dict(await store.list(KEY)) == during


async def test_a_commit_that_ends_during_a_list_is_in_it(store: FaultyStore) -> None:
    """What was written before a list was asked for is in it, whatever the store had read by then."""

    class SlowReader(FaultyStore):
        """A store whose lists are read long before they are handed over."""

        async def list(
            self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
        ) -> list[tuple[str, bytes]]:
            found = await super().list(key, prefix, after=after, limit=limit)
            # Longer than the commit that is let go meanwhile.
            for _ in range(3):
                await wait_all_tasks_blocked()
            return found

    async with SlowReader(MemoryStore()) as slow:
        record = new_record(slow)
        record.write("a", b"1")
        async with trio.open_nursery() as nursery, held(slow) as gate:
            nursery.start_soon(save, record, Chat(1))
            await gate.wait_arrived()
            nursery.start_soon(_release_later, gate)
            assert await record.list("", None, None) == [("a", b"1")]
            assert not record.unsaved(Chat(1))


async def test_lists_are_cut_as_asked(store: FaultyStore) -> None:
    """Prefix, after and limit count what is there, durable or not, and not what was deleted."""
    await store.commit(Commit(KEY, writes={f"x{number}": b"0" for number in range(8)} | {"y": b"0"}))
    record = new_record(store)
    for name in ("x0", "x2", "x3", "x9"):
        record.write(name, None)
    record.write("x25", b"1")
    record.write("w", b"1")
    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(save, record, Chat(1))
        await gate.wait_arrived()
        record.write("x4", None)
        record.write("x26", b"2")
        expected = ["w", "x1", "x25", "x26", "x5", "x6", "x7", "y"]
        for prefix in ("", "x", "x2", "z"):
            for after in (None, "", "x1", "x2", "x25", "x3", "z"):
                for limit in (None, 0, 1, 2, 3, 100):
                    found = await record.list(prefix, after, limit)
                    wanted = [
                        name
                        for name in expected
                        if name.startswith(prefix) and (after is None or name > after)
                    ]
                    assert [name for name, _ in found] == wanted[:limit], (prefix, after, limit)
        gate.release()


async def test_saves_take_turns(store: FaultyStore) -> None:
    """One commit is under way at a time; the next takes the state as it is at its turn."""
    record = new_record(store)
    state = Chat(1)
    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(save, record, state)
        await gate.wait_arrived()
        state.n = 2
        nursery.start_soon(save, record, state)
        nursery.start_soon(save, record, state)
        await wait_all_tasks_blocked()
        assert gate.arrived == 1
        state.n = 3
        gate.release()
    assert [commit.generation for commit in commits(store)] == [1, 2]
    assert await new_record(store).load() == Loaded(Chat(3), restarted=False, fell_back=False)


async def test_a_cancelled_save_is_whole(store: FaultyStore) -> None:
    """A save that has begun is carried out whoever is cancelled; one that waits for its turn is not begun."""
    record = new_record(store)
    record.write("a", b"1")
    async with trio.open_nursery() as cancelled, held(store) as gate:
        cancelled.start_soon(save, record, Chat(1))
        await gate.wait_arrived()
        cancelled.start_soon(save, record, Chat(2))
        await wait_all_tasks_blocked()
        cancelled.cancel_scope.cancel()
    assert [commit.generation for commit in commits(store)] == [1]
    assert await store.get(KEY, "a") == b"1"
    assert not record.unsaved(Chat(1))
    await save(record, Chat(2))
    assert await stored(store) == [2, 1]


async def _release_later(gate: Gate) -> None:
    await wait_all_tasks_blocked()
    gate.release()


async def spoil(store: FaultyStore, generation: int, document: bytes) -> None:
    """Put a document into the store."""
    await store.commit(Commit(KEY, generation, document))


async def test_a_corrupt_generation_is_passed_over_loudly(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the newest is corrupt, the one before is taken, said aloud, and saved above the newest."""
    await save(new_record(store), Chat(1))
    await spoil(store, 7, b"nothing")
    record = new_record(store)
    assert await record.load() == Loaded(Chat(1), restarted=False, fell_back=True)
    assert "generation 7 cannot be used" in caplog.text
    assert "took generation 1" in caplog.text
    assert record.dirty
    assert record.unsaved(Chat(1))
    await save(record, Chat(1))
    assert await stored(store) == [8, 7]
    assert await new_record(store).load() == Loaded(Chat(1), restarted=False, fell_back=False)


async def test_nothing_usable_is_an_error_and_stays(store: FaultyStore) -> None:
    """Where no generation decodes, the newest's error is raised, and the store is left as it is."""
    await spoil(store, 1, b"one")
    await spoil(store, 2, Snapshot("chat", "other", 1, 2, 1, b"").pack())
    before = await store.load(KEY)
    with pytest.raises(SnapshotCorrupt, match="that of chat/other"):
        await new_record(store).load()
    assert await store.load(KEY) == before


async def test_a_newer_version_is_left_untouched(store: FaultyStore) -> None:
    """A snapshot of a newer version is an error, no older one is taken for it, nothing is written."""
    await save(new_record(store), Chat(1))
    await spoil(store, 2, Snapshot("chat", "lobby", 2, 2, 1, b"\xa0").pack())
    before = await store.load(KEY)
    with pytest.raises(SnapshotTooNew):
        await new_record(store).load()
    assert await store.load(KEY) == before


async def test_a_failed_migration_is_left_untouched(store: FaultyStore) -> None:
    """A migration that raises does not make the room fall back to an older state."""
    for generation in (1, 2):
        await spoil(store, generation, Snapshot("chat", "lobby", 1, generation, 1, b"\xa0").pack())
    with pytest.raises(MigrationError):
        await new_record(store, newer).load()
    assert await stored(store) == [2, 1]


async def test_a_migrated_state_is_saved(store: FaultyStore) -> None:
    """What a migration changed is written in its new version, and migrated only once."""
    await save(new_record(store), Chat(1))
    record = new_record(store, newer)
    assert await record.load() == Loaded(Chat(101), restarted=False, fell_back=False)
    assert record.dirty
    await save(record, Chat(101))
    assert Snapshot.unpack(KEY, (await store.load(KEY))[0].document).version == 2
    assert await new_record(store, newer).load() == Loaded(Chat(101), restarted=False, fell_back=False)


async def test_a_failed_load_can_be_tried_again(store: FaultyStore) -> None:
    """A store that could not read is an error, and the next try loads."""
    await save(new_record(store), Chat(1))
    store.fail_loads(StoreError("unplugged"))
    record = new_record(store)
    with pytest.raises(StoreError):
        await record.load()
    assert await record.load() == Loaded(Chat(1), restarted=False, fell_back=False)


class Noting:
    """A field that notes which thread reads it."""

    def __init__(self, field: Any, readers: list[threading.Thread]) -> None:
        self.field = field
        self.readers = readers

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        self.readers.append(threading.current_thread())
        return self.field.__get__(instance, owner)


async def test_a_large_state_leaves_the_event_loop(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long is encoded in a thread, from the second time on, and decoded in one."""
    record = new_record(store)
    state = Chat(1, ["x" * LARGE])
    await save(record, state)
    assert record.large
    state.n = 2
    record.touch()
    assert record.unsaved(state)
    encoders: list[threading.Thread] = []
    monkeypatch.setattr(Chat, "n", Noting(vars(Chat)["n"], encoders))
    await save(record, state)
    monkeypatch.undo()
    assert encoders
    assert threading.current_thread() not in encoders
    again = new_record(store)
    assert await again.load() == Loaded(state, restarted=False, fell_back=False)
    assert again.large
    assert not again.unsaved(state)
    assert [commit.generation for commit in commits(store)] == [1, 2]
    await save(again, Chat(3))
    assert not again.large


async def test_settled_waits_for_the_commit(store: FaultyStore) -> None:
    """`settled` returns when nothing is under way."""
    record = new_record(store)
    await record.settled()
    done = trio.Event()

    async def wait() -> None:
        await record.settled()
        done.set()

    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(save, record, Chat(1))
        await gate.wait_arrived()
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not done.is_set()
        gate.release()
        await done.wait()


async def test_destroy_deletes_all(store: FaultyStore) -> None:
    """Nothing of a destroyed room is left in the store."""
    record = new_record(store)
    record.write("a", b"1")
    await save(record, Chat(1))
    await record.destroy()
    assert await store.keys() == []
    assert await new_record(store).load() is None
