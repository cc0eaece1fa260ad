from __future__ import annotations

import contextlib
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_rooms._definition.room import Room
from trio_rooms._state.codec import LARGE
from trio_rooms._state.record import Record
from trio_rooms._state.saved import Loaded
from trio_rooms._state.snapshot import Snapshot
from trio_rooms.errors import (
    MigrationError,
    SnapshotCorrupt,
    SnapshotError,
    SnapshotTooNew,
    StaleWrite,
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


def new_state(store: FaultyStore, room: Room[Chat] = chat) -> Record:
    """That of the room of these tests."""
    return Record(KEY, room.seal(), store)


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
    return [one.generation for one in (await store.load(KEY)).snapshots]


async def test_a_room_that_never_was(store: FaultyStore) -> None:
    """There is nothing to load of a new room, and its first commit has number 1."""
    record = new_state(store)
    assert await record.load() is None
    await save(record, Chat(1))
    assert await stored(store) == [1]


async def test_a_saved_state_is_loaded(store: FaultyStore) -> None:
    """What was saved last comes back, in another object too."""
    record = new_state(store)
    for n in (1, 2, 3):
        await save(record, Chat(n))
    assert await new_state(store).load() == Loaded(Chat(3), restarted=False, fell_back=False)
    assert await stored(store) == [3, 2]


async def test_a_restart_is_noticed(store: FaultyStore) -> None:
    """A state that an earlier owner of the store wrote says that the process was restarted."""
    await save(new_state(store), Chat(1))
    await store.aclose()
    await store.open()
    assert await new_state(store).load() == Loaded(Chat(1), restarted=True, fell_back=False)


async def test_what_did_not_change_is_not_written(store: FaultyStore) -> None:
    """A state that is as it was saved or loaded costs no commit and no number."""
    record = new_state(store)
    await save(record, Chat(1))
    await save(record, Chat(1))
    assert len(commits(store)) == 1
    again = new_state(store)
    await again.load()
    assert not again.unsaved(Chat(1))
    assert again.unsaved(Chat(2))
    await save(again, Chat(1))
    assert len(commits(store)) == 1
    await save(again, Chat(2))
    assert [commit.number for commit in commits(store)] == [1, 2]


async def test_somebody_is_told_once_that_there_is_something_to_write(store: FaultyStore) -> None:
    """A change asks for a save once; a lot of storage asks for it at once; what failed counts on."""
    wanted: list[bool] = []
    record = Record(KEY, chat.seal(), store)
    record.wanted = wanted.append
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


async def test_storage_alone_is_a_commit_with_a_number(store: FaultyStore) -> None:
    """Writes without a change of the state are committed without a snapshot, and counted."""
    record = new_state(store)
    await save(record, Chat(1))
    record.write("a", b"1")
    assert record.unsaved(Chat(1))
    await save(record, Chat(1))
    assert commits(store)[1].document is None
    assert await store.get(KEY, "a") == b"1"
    assert await stored(store) == [1]
    assert record.number == 2
    await save(record, Chat(2))
    assert await stored(store) == [3, 1]
    again = new_state(store)
    await again.load()
    assert again.number == 3


async def test_state_and_storage_are_one_commit(store: FaultyStore) -> None:
    """What a handler wrote to both becomes durable at once."""
    record = new_state(store)
    record.write("a", b"1")
    record.write("b", None)
    await save(record, Chat(1))
    (commit,) = commits(store)
    assert commit.document is not None
    assert commit.writes == {"a": b"1", "b": None}


LOST = StoreError("the connection broke")


async def fails(record: Record, state: Any, error: type[StoreError] = StoreError) -> None:
    """Save a state, which must not work."""
    with pytest.raises(error):
        await save(record, state)
    assert record.dirty
    assert record.unsaved(state)


async def agrees(store: FaultyStore, record: Record, state: Chat) -> None:
    """A saved state is what the store has, under the number that is known."""
    again = new_state(store)
    assert await again.load() == Loaded(state, restarted=False, fell_back=False)
    assert again.number == record.number
    assert not record.unsaved(state)
    assert not record._writer.doubtful  # Each would keep a whole state in memory.


async def test_a_commit_that_failed_leaves_no_gap(store: FaultyStore) -> None:
    """What was not applied is tried again under the same number, with what is to be written then."""
    record = new_state(store)
    await save(record, Chat(1))
    store.fail_commits(StoreFull("no room"), times=2)
    await fails(record, Chat(2, "a long text"), StoreFull)
    await fails(record, Chat(3), StoreFull)
    await save(record, Chat(4))
    assert [commit.number for commit in commits(store)] == [1, 2, 2, 2]
    await agrees(store, record, Chat(4))


async def test_a_commit_that_had_happened_is_found_out(store: FaultyStore) -> None:
    """What was applied although it raised is told by the store, and the next commit follows on it."""
    record = new_state(store)
    await save(record, Chat(1))
    record.write("a", b"1")
    store.fail_commits(LOST, applied=True)
    await fails(record, Chat(2))
    assert record.number == 1
    record.write("b", b"2")
    await save(record, Chat(3))
    assert [commit.number for commit in commits(store)] == [1, 2, 2, 3]
    assert await stored(store) == [3, 2]
    assert await store.list(KEY) == [("a", b"1"), ("b", b"2")]
    await agrees(store, record, Chat(3))


async def test_the_same_again_is_another_commit(store: FaultyStore) -> None:
    """What was applied although it raised is found, and the same is written again."""
    record = new_state(store)
    record.write("a", b"1")
    store.fail_commits(LOST, applied=True)
    await fails(record, Chat(1))
    await save(record, Chat(1))
    assert [commit.number for commit in commits(store)] == [1, 1, 2]
    assert len({commit.nonce for commit in commits(store)}) == 3
    await agrees(store, record, Chat(1))


async def test_a_state_that_went_back_is_written_again(store: FaultyStore) -> None:
    """After a commit in doubt the state is written although it is the one that was saved before."""
    record = new_state(store)
    await save(record, Chat(1))
    store.fail_commits(LOST, applied=True)
    await fails(record, Chat(2))
    await save(record, Chat(1))
    await agrees(store, record, Chat(1))


@pytest.mark.parametrize("happened", [0, 1, 2])
async def test_one_of_several_in_doubt_had_happened(store: FaultyStore, happened: int) -> None:
    """Whichever of some commits that raised was applied, it is found."""
    record = new_state(store)
    for n in range(3):
        store.fail_commits(LOST, applied=n == happened)
        if n > happened:
            # Refused by the store below, and the answer lost too.
            store.fail_commits(LOST)
        await fails(record, Chat(n))
        store._commit_faults.clear()
    await save(record, Chat(9))
    assert record.number == 2
    await agrees(store, record, Chat(9))


@pytest.mark.parametrize("happened", [0, 25, 49])
async def test_doubts_take_no_memory(store: FaultyStore, happened: int) -> None:
    """However long the store is away, whichever try came through is found, and no state is kept for that."""
    record = new_state(store)
    for n in range(50):
        store.fail_commits(LOST, applied=n == happened)
        if n > happened:
            store.fail_loads(LOST)  # So nobody is told that it has come through.
        await fails(record, Chat(n))
        store._commit_faults.clear()
        store._load_faults.clear()
    assert record._writer.doubtful == range(
        min(nonces := {one.nonce for one in commits(store)}), max(nonces) + 1
    )
    assert len(record._writer.doubtful) == len(nonces) == 50
    await save(record, Chat(99))
    assert record.number == 2
    await agrees(store, record, Chat(99))


async def test_a_failure_while_it_is_found_out(store: FaultyStore) -> None:
    """If the store fails while it is asked what had happened, it is asked the next time."""
    record = new_state(store)
    store.fail_commits(LOST, applied=True)
    await fails(record, Chat(1))
    store.fail_loads(LOST)
    await fails(record, Chat(2))
    assert [call.operation for call in store.calls if call.key][-1] == "head"
    await save(record, Chat(3))
    await agrees(store, record, Chat(3))


async def test_another_writer_is_noticed(store: FaultyStore) -> None:
    """Where somebody else has written the room, saving is refused, in doubt or not, and loading goes on."""
    for doubt in (None, False, True):
        record = new_state(store)
        await record.load()
        await save(record, Chat(1, str(doubt)))
        if doubt is not None:
            store.fail_commits(LOST, applied=doubt)
            await fails(record, Chat(2))
        other = new_state(store)
        await other.load()
        await save(other, Chat(3, str(doubt)))
        record.write("a", b"1")
        for _ in range(2):
            await fails(record, Chat(4), StaleWrite)
        with pytest.raises(StaleWrite):
            await record.destroy()
        record.discard()
        loaded = await record.load()
        assert loaded is not None
        assert loaded.state == Chat(3, str(doubt))
        assert not record.dirty
        assert record.number == other.number
        assert await record.get("a") is None
        await save(record, Chat(5, str(doubt)))
        await agrees(store, record, Chat(5, str(doubt)))


async def test_a_former_epoch_is_noticed(store: FaultyStore) -> None:
    """What was in doubt when the store was opened again is not sent as if it were of the new owner."""
    record = new_state(store)
    store.fail_commits(LOST)
    await fails(record, Chat(1))
    await store.aclose()
    await store.open()
    await save(new_state(store), Chat(2))
    await fails(record, Chat(3), StaleWrite)


async def test_a_load_ends_the_doubt(store: FaultyStore) -> None:
    """What the store says is true: after a load nothing is in doubt, and the next number follows on it."""
    for applied in (False, True):
        record = new_state(store)
        await record.load()
        await save(record, Chat(1, applied))
        store.fail_commits(LOST, applied=applied)
        await fails(record, Chat(2, applied))
        loaded = await record.load()
        assert loaded == Loaded(Chat(2 if applied else 1, applied), restarted=False, fell_back=False)
        assert not record.unsaved(loaded.state)
        assert not record._writer.doubtful
        store.calls.clear()
        await save(record, Chat(3, applied))
        assert len(commits(store)) == 1
        await agrees(store, record, Chat(3, applied))


async def test_writes_of_a_failed_commit_are_kept(store: FaultyStore) -> None:
    """What a failed commit was to write goes with the next one; what was written meanwhile is newer."""
    record = new_state(store)
    record.write("a", b"old")
    record.write("b", b"old")
    record.write("c", b"old")
    store.fail_commits(StoreFull("no room"))
    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(fails, record, Chat(1), StoreFull)
        await gate.wait_arrived()
        record.write("b", b"new")
        record.write("c", None)
        gate.release()
    assert [await record.get(name) for name in "abc"] == [b"old", b"new", None]
    await save(record, Chat(1))
    assert await store.list(KEY) == [("a", b"old"), ("b", b"new")]


async def test_a_state_that_cannot_be_saved_loses_nothing(store: FaultyStore) -> None:
    """A StateError writes nothing, keeps the storage's writes, and a mended state is saved."""
    record = new_state(store)
    record.write("a", b"1")
    with pytest.raises(StateError, match=r"state\.other"):
        await save(record, Chat(1, print))
    assert commits(store) == []
    assert record.dirty
    await save(record, Chat(1))
    assert commits(store)[0].number == 1
    assert await store.get(KEY, "a") == b"1"


async def seen(record: Record) -> dict[str, bytes]:
    """All of a room's storage, by both ways to read it."""
    listed = dict(await record.list("", None, None))
    for name in ("a", "b", "c", "d"):
        assert await record.get(name) == listed.get(name)
    return listed


async def test_storage_is_seen_as_it_was_written(store: FaultyStore) -> None:
    """A write is seen at once: before a commit, while one is under way, and after it."""
    await store.commit(Commit(KEY, 1, 1, writes={"a": b"0", "b": b"0", "c": b"0"}))
    record = new_state(store)
    await record.load()
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
        record = new_state(slow)
        record.write("a", b"1")
        async with trio.open_nursery() as nursery, held(slow) as gate:
            nursery.start_soon(save, record, Chat(1))
            await gate.wait_arrived()
            nursery.start_soon(_release_later, gate)
            assert await record.list("", None, None) == [("a", b"1")]
            assert not record.unsaved(Chat(1))


async def test_lists_are_cut_as_asked(store: FaultyStore) -> None:
    """Prefix, after and limit count what is there, durable or not, and not what was deleted."""
    await store.commit(Commit(KEY, 1, 1, writes={f"x{number}": b"0" for number in range(8)} | {"y": b"0"}))
    record = new_state(store)
    await record.load()
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
    record = new_state(store)
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
    assert [commit.number for commit in commits(store)] == [1, 2]
    assert await new_state(store).load() == Loaded(Chat(3), restarted=False, fell_back=False)


async def test_a_cancelled_save_is_whole(store: FaultyStore) -> None:
    """A save that has begun is carried out whoever is cancelled; one that waits for its turn is not begun."""
    record = new_state(store)
    record.write("a", b"1")
    async with trio.open_nursery() as cancelled, held(store) as gate:
        cancelled.start_soon(save, record, Chat(1))
        await gate.wait_arrived()
        cancelled.start_soon(save, record, Chat(2))
        await wait_all_tasks_blocked()
        cancelled.cancel_scope.cancel()
    assert [commit.number for commit in commits(store)] == [1]
    assert await store.get(KEY, "a") == b"1"
    assert not record.unsaved(Chat(1))
    await save(record, Chat(2))
    assert await stored(store) == [2, 1]


async def _release_later(gate: Gate) -> None:
    await wait_all_tasks_blocked()
    gate.release()


async def spoil(store: FaultyStore, number: int, document: bytes) -> None:
    """Put a document into the store."""
    await store.commit(Commit(KEY, number, 1, document))


async def test_a_corrupt_generation_is_passed_over_loudly(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the newest is corrupt, the one before is taken, said aloud, and saved above the newest."""
    await save(new_state(store), Chat(1))
    await spoil(store, 2, b"nothing")
    record = new_state(store)
    assert await record.load() == Loaded(Chat(1), restarted=False, fell_back=True)
    assert "generation 2 cannot be used" in caplog.text
    assert "took generation 1" in caplog.text
    assert record.dirty
    assert record.unsaved(Chat(1))
    await save(record, Chat(1))
    assert await stored(store) == [3, 2]
    assert await new_state(store).load() == Loaded(Chat(1), restarted=False, fell_back=False)


async def test_the_older_generation_is_read_only_where_the_newest_is_of_no_use(store: FaultyStore) -> None:
    """And where that read fails, the next try finds it."""
    for number in (1, 2):
        await save(new_state(store), Chat(number))
    del store.calls[:]
    await new_state(store).load()
    assert [call.operation for call in store.calls] == ["load"]
    await spoil(store, 3, b"nothing")
    record, gate, raised = new_state(store), store.hold_loads(), list[Exception]()

    async def load() -> None:
        try:
            await record.load()
        except StoreError as error:
            raised.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        await gate.wait_arrived()
        store.fail_loads(StoreError("on purpose"))
        gate.release()
    assert len(raised) == 1
    del store.calls[:]
    assert await record.load() == Loaded(Chat(2), restarted=False, fell_back=True)
    assert [call.operation for call in store.calls] == ["load", "load"]


async def test_after_a_fallback_there_are_two_sound_generations_again(store: FaultyStore) -> None:
    """The first save takes the place of the sound one, so a second one takes that of the damaged one."""
    await save(new_state(store), Chat(1))
    await spoil(store, 2, b"nothing")
    record = new_state(store)
    await record.load()
    await save(record, Chat(1))
    assert record.dirty
    assert record.unsaved(Chat(1))
    await save(record, Chat(1))
    assert not record.dirty
    assert await stored(store) == [4, 3]
    store.damage_snapshot(KEY, 4)
    assert await new_state(store).load() == Loaded(Chat(1), restarted=False, fell_back=True)


async def test_a_generation_that_the_store_cannot_read_is_passed_over(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong with it is said; where there is no other it is the error, and the store stays so."""
    for number in (1, 2):
        await save_anew(store, Chat(number))
    store.damage_snapshot(KEY, 2)
    assert await new_state(store).load() == Loaded(Chat(1), restarted=False, fell_back=True)
    assert "room chat/lobby: generation 2 cannot be used: " in caplog.text
    assert "its snapshot cannot be read: as the test" in caplog.text
    store.damage_snapshot(KEY, 1)
    before = await store.load(KEY)
    with pytest.raises(SnapshotCorrupt, match="cannot be read: as the test wants it"):
        await new_state(store).load()
    assert await store.load(KEY) == before


async def test_an_old_snapshot_does_not_pass_for_a_new_one(store: FaultyStore) -> None:
    """A snapshot says which generation it is: one that is stored as a later one is damaged."""
    await save(new_state(store), Chat(1))
    old = (await store.load(KEY)).snapshots[0].document
    await save_anew(store, Chat(2))
    await spoil(store, 3, old)
    assert await new_state(store).load() == Loaded(Chat(2), restarted=False, fell_back=True)


async def save_anew(store: FaultyStore, state: Chat) -> None:
    """Save a state as whoever loads the room next does."""
    record = new_state(store)
    await record.load()
    await save(record, state)


async def test_nothing_usable_is_an_error_and_stays(store: FaultyStore) -> None:
    """Where no generation decodes, the newest's error is raised, and the store is left as it is."""
    await spoil(store, 1, b"one")
    await spoil(store, 2, Snapshot("chat", "other", 1, 2, 1, b"").pack())
    before = await store.load(KEY)
    with pytest.raises(SnapshotCorrupt, match="that of chat/other"):
        await new_state(store).load()
    assert await store.load(KEY) == before


async def test_a_newer_version_is_left_untouched(store: FaultyStore) -> None:
    """A snapshot of a newer version is an error, no older one is taken for it, nothing is written."""
    await save(new_state(store), Chat(1))
    await spoil(store, 2, Snapshot("chat", "lobby", 2, 2, 1, b"\xa0").pack())
    before = await store.load(KEY)
    with pytest.raises(SnapshotTooNew):
        await new_state(store).load()
    assert await store.load(KEY) == before


async def test_a_failed_migration_is_left_untouched(store: FaultyStore) -> None:
    """A migration that raises does not make the room fall back to an older state."""
    for generation in (1, 2):
        await spoil(store, generation, Snapshot("chat", "lobby", 1, generation, 1, b"\xa0").pack())
    with pytest.raises(MigrationError):
        await new_state(store, newer).load()
    assert await stored(store) == [2, 1]


async def test_a_migrated_state_is_saved(store: FaultyStore) -> None:
    """What a migration changed is written in its new version, and migrated only once."""
    await save(new_state(store), Chat(1))
    record = new_state(store, newer)
    assert await record.load() == Loaded(Chat(101), restarted=False, fell_back=False)
    assert record.dirty
    await save(record, Chat(101))
    assert Snapshot.unpack(KEY, (await store.load(KEY)).snapshots[0].document).version == 2
    assert await new_state(store, newer).load() == Loaded(Chat(101), restarted=False, fell_back=False)


async def test_a_failed_load_can_be_tried_again(store: FaultyStore) -> None:
    """A store that could not read is an error, and the next try loads."""
    await save(new_state(store), Chat(1))
    store.fail_loads(StoreError("unplugged"))
    record = new_state(store)
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


class Meddling(Noting):
    """Has something done in the event loop by the first thread that reads a field."""

    def __init__(self, field: Any, meddle: Callable[[], None]) -> None:
        super().__init__(field, [])
        self.meddle = meddle

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        value = super().__get__(instance, owner)
        if len(self.readers) == 1 and self.readers[0] is not threading.main_thread():
            trio.from_thread.run_sync(self.meddle)
        return value


@pytest.mark.parametrize("grows", [False, True])
async def test_a_large_state_that_changes_as_it_is_encoded_is_encoded_again(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch, grows: bool
) -> None:
    """By a task of the program that has a context: what is stored is the state of one moment."""
    record = new_state(store)
    state = Chat(1, {"text": "x" * LARGE, "after": []})
    await save(record, state)

    def meddle() -> None:
        record.touch()
        state.other["after"].append(3)
        if grows:
            state.other["more"] = 3
        record.write("value", b"3")

    state.n = 2
    record.touch()
    monkeypatch.setattr(Chat, "n", Meddling(vars(Chat)["n"], meddle))
    await save(record, state)
    monkeypatch.undo()
    assert not record.dirty
    await agrees(store, record, state)
    assert await store.list(KEY) == [("value", b"3")]
    assert [dict(commit.writes) for commit in commits(store)] == [{}, {"value": b"3"}]


async def test_a_large_state_leaves_the_event_loop(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long is encoded in a thread, from the second time on, and decoded in one."""
    record = new_state(store)
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
    again = new_state(store)
    assert await again.load() == Loaded(state, restarted=False, fell_back=False)
    assert again.large
    assert not again.unsaved(state)
    assert [commit.number for commit in commits(store)] == [1, 2]
    await save(again, Chat(3))
    assert not again.large


@pytest.mark.parametrize("destroy", [False, True])
async def test_an_abandoned_commit_is_waited_for_no_longer_and_is_in_doubt(
    store: FaultyStore, destroy: bool
) -> None:
    """Its outcome is not known, whoever comes next has its turn, and nothing is lost."""
    record = new_state(store)
    await save(record, Chat(1))
    outcomes: list[str] = []

    scope = trio.CancelScope()

    async def wait() -> None:
        with scope, pytest.raises(StoreError, match="has not answered whether room chat/lobby is written"):
            await (record.destroy() if destroy else save(record, Chat(2)))
        outcomes.append("told")

    async with held(store):
        record.abandon()  # Nothing is in flight.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert outcomes == []
            record.abandon()
    assert outcomes == ["told"]
    await save(record, Chat(3))
    loaded = await new_state(store).load()
    assert loaded is not None
    assert loaded.state == Chat(3)


async def test_settled_waits_for_the_commit(store: FaultyStore) -> None:
    """`settled` returns when nothing is under way."""
    record = new_state(store)
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
    """Nothing of a destroyed room is left in the store but its number, and nothing unsaved is kept."""
    record = new_state(store)
    record.write("a", b"1")
    await save(record, Chat(1))
    record.write("b", b"1")
    await record.destroy()
    assert await store.keys() == []
    assert record.number == 2
    assert not record.dirty
    assert await record.get("b") is None
    again = new_state(store)
    assert await again.load() is None
    assert again.number == 2
    await save(record, Chat(1))
    assert record.number == 3
    await agrees(store, record, Chat(1))


async def test_a_save_that_waits_for_destroy_saves_nothing(store: FaultyStore) -> None:
    """What waits while the room is deleted does not bring it back."""
    record = new_state(store)
    await save(record, Chat(1))
    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(record.destroy)
        await gate.wait_arrived()
        record.write("a", b"1")
        nursery.start_soon(save, record, Chat(2))
        await wait_all_tasks_blocked()
        gate.release()
    assert await store.keys() == []
    assert len(commits(store)) == 2


@pytest.mark.parametrize("applied", [False, True])
async def test_a_destroy_in_doubt(store: FaultyStore, applied: bool) -> None:
    """A room whose deletion raised goes on with its state, or is deleted by the next try."""
    record = new_state(store)
    for again in (False, True):
        await record.load()
        record.write("a", b"1")
        await save(record, Chat(1))
        record.write("b", b"1")
        store.fail_commits(LOST, applied=applied)
        with pytest.raises(StoreError):
            await record.destroy()
        assert record.dirty
        assert record.unsaved(Chat(1))
        assert await record.get("a") == (None if applied else b"1")
        assert await record.get("b") == b"1"
        if again:
            await record.destroy()
            assert await store.keys() == []
        else:
            await save(record, Chat(1))
            await agrees(store, record, Chat(1))
            assert await store.list(KEY) == [("a", b"1"), ("b", b"1")][applied:]
            assert record.number == 2 + applied


async def test_a_room_that_could_not_be_destroyed_is_saved_again(store: FaultyStore) -> None:
    """After a deletion that raised there is something to save, since the room may be gone from the store."""
    record = new_state(store)
    await save(record, Chat(1))
    assert not record.dirty
    store.fail_commits(LOST, applied=True)
    with pytest.raises(StoreError):
        await record.destroy()
    assert record.dirty


@pytest.mark.parametrize("applied", [False, True])
async def test_a_destroy_behind_a_save_in_doubt(store: FaultyStore, applied: bool) -> None:
    """A room is deleted whether or not the commit before that had happened."""
    record = new_state(store)
    store.fail_commits(LOST, applied=applied)
    await fails(record, Chat(1))
    await record.destroy()
    assert await store.keys() == []
    assert record.number == (await store.head(KEY)).number == 1 + applied


async def test_discard_forgets_what_is_unsaved(store: FaultyStore) -> None:
    """After a crash no unsaved value is written any more, nor what waits for its turn, also after a load."""
    record = new_state(store)
    await save(record, Chat(1))
    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(save, record, Chat(2))
        await gate.wait_arrived()
        record.write("a", b"1")
        nursery.start_soon(save, record, Chat(3))
        await wait_all_tasks_blocked()
        record.discard()
        assert not record.dirty
        record.write("b", b"2")
        nursery.start_soon(record.load)
        await wait_all_tasks_blocked()
        assert await record.get("a") is None
        gate.release()
    assert [commit.number for commit in commits(store)] == [1, 2]
    assert await store.list(KEY) == []
    assert not record.dirty
    await agrees(store, record, Chat(2))


async def test_what_fails_after_a_discard_is_not_tried_again(store: FaultyStore) -> None:
    """The writes of a commit that was in flight when the room crashed, and failed, are forgotten."""
    record = new_state(store)
    await save(record, Chat(1))
    record.write("a", b"1")
    store.fail_commits(LOST)
    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(fails, record, Chat(2))
        await gate.wait_arrived()
        record.discard()
        gate.release()
    await record.settled()
    assert await record.load() == Loaded(Chat(1), restarted=False, fell_back=False)
    assert not record.dirty
    await save(record, Chat(3))
    assert await store.list(KEY) == []
    await agrees(store, record, Chat(3))


async def test_it_is_told_whether_anything_is_unsettled(store: FaultyStore) -> None:
    """While a commit is in flight or a write waits it must be kept, and is free to go else."""
    record = new_state(store)
    assert not record.unsettled
    async with trio.open_nursery() as nursery, held(store) as gate:
        nursery.start_soon(save, record, Chat(1))
        await gate.wait_arrived()
        assert record.unsettled
        gate.release()
    assert not record.unsettled
    record.write("a", b"1")
    assert record.unsettled
    record.discard()
    assert not record.unsettled


async def test_nobody_needs_to_be_told(store: FaultyStore) -> None:
    """Without an actor there is nobody to ask for a save; one that wakes is asked."""
    record = new_state(store)
    record.write("a", b"1")
    record.dirty = False
    wanted: list[bool] = []
    record.wanted = wanted.append
    record.touch()
    assert wanted == [False]
    record.wanted = None
    record.dirty = False
    record.touch()
    assert wanted == [False]


async def test_it_is_freed_without_the_garbage_collector(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happened to it, it goes with its last reference."""
    # What pytest captures of the log has the exceptions.
    monkeypatch.setattr(logging.getLogger("trio_rooms"), "disabled", True)

    async def live(record: Record) -> None:
        await record.load()
        record.write("a", b"1")
        await save(record, Chat(1))
        await save(record, Chat(2))
        store.fail_commits(lambda: StoreError("lost"), applied=True)
        with contextlib.suppress(StoreError):
            await save(record, Chat(3))
        await save(record, Chat(4))
        with contextlib.suppress(StateError):
            await save(record, Chat(1, print))
        number = record.number + 1
        await store.commit(Commit(KEY, number, 1, b"of somebody else"))
        with contextlib.suppress(StaleWrite):
            await save(record, Chat(5))
        record.discard()
        assert await record.load() == Loaded(Chat(4), restarted=False, fell_back=True)
        await store.commit(Commit(KEY, number + 1, 1, b"of somebody else, again"))
        with contextlib.suppress(SnapshotCorrupt):
            await record.load()
        await record.destroy()

    gc.collect()
    gc.disable()
    try:
        record = new_state(store)
        freed = weakref.ref(record)
        await live(record)
        del record
        assert freed() is None
    finally:
        gc.enable()


# What is not understood.


@attrs.define
class Note:
    text: str = ""
    due: str = ""


@attrs.define
class Notes:
    notes: list[Note] = attrs.field(factory=list)
    title: str = ""


@attrs.define
class Reminder:
    text: str = ""
    due: int | None = None


@attrs.define
class Reminders:
    notes: list[Reminder] = attrs.field(factory=list)


def before_and_after(**options: Any) -> tuple[Room[Any], Room[Any]]:
    """A room, and the same one with other classes and the same version."""
    return Room("chat", state=Notes), Room("chat", state=Reminders, **options)


async def test_what_was_set_aside_outlives_saves_and_wakes(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Fields that a class does not understand are in each snapshot, told once, and come back with it."""
    before, after = before_and_after()
    await save_as(store, before, Notes([Note("milk", "monday"), Note("bread")], "shopping"))
    for number in range(3):
        record = new_state(store, after)
        loaded = await record.load()
        assert loaded is not None
        assert [note.due for note in loaded.state.notes] == [None, None]
        loaded.state.notes[0].text = f"milk {number}"
        await save(record, loaded.state)
        loaded.state.notes[1].text = f"bread {number}"
        await save(record, Reminders(loaded.state.notes))  # Another state, with the same notes.
    told = [record for record in caplog.records if "kept aside" in record.getMessage()]
    assert len(told) == 2
    assert all("add a migration" in record.getMessage() for record in told)
    back = await new_state(store, before).load()
    assert back is not None
    assert back.state == Notes([Note("milk 2", "monday"), Note("bread 2")], "shopping")


async def save_as(store: FaultyStore, room: Room[Any], state: Any) -> None:
    """Save the first state of a room."""
    record = new_state(store, room)
    await record.load()
    await save(record, state)


async def test_a_strict_room_is_left_untouched(store: FaultyStore) -> None:
    """A strict room with fields that do not fit is not loaded, and nothing is written."""
    before, after = before_and_after(strict=True)
    await save_as(store, before, Notes([Note("milk", "monday")]))
    stored_before = await store.load(KEY)
    with pytest.raises(MigrationError, match=r"notes\[0\].due: expected int \| None.*version=2"):
        await new_state(store, after).load()
    assert await store.load(KEY) == stored_before


async def test_another_shape_is_told(store: FaultyStore, caplog: pytest.LogCaptureFixture) -> None:
    """Where the classes have changed and all of the state fits, that is told once, as information."""
    caplog.set_level(logging.INFO, "trio_rooms")

    def room(**fields: Any) -> Room[Any]:
        return Room("chat", state=attrs.make_class("Board", fields))

    smaller, larger = (
        room(n=attrs.field(type=int, default=1)),
        room(n=attrs.field(type=int, default=1), more=attrs.field(type=int, default=2)),
    )
    await save_as(store, smaller, smaller.seal().new_state())
    for made, times in ((smaller, 0), (larger, 1), (larger, 1)):
        assert await new_state(store, made).load() is not None
        assert caplog.text.count("have changed since it was saved") == times


def forgets(state: Any) -> None:
    """A migration that lacks its return."""
    state["n"] += 1


@pytest.mark.parametrize(
    ("migrate", "said"),
    [
        (forgets, "returned nothing"),
        (lambda state: [state], "not what the room declares"),
        (lambda state: Chat(state["n"]), "not what the room declares"),
        (lambda state: {**state, "n": {}}, "not what the room declares"),
    ],
)
async def test_a_migration_that_returns_no_state_is_left_untouched(
    store: FaultyStore, migrate: Any, said: str
) -> None:
    """Neither generation is overwritten, however often it is tried; the mended migration finds all."""

    @attrs.define
    class Strict:
        n: int
        other: Any = None

    for number in (1, 2):
        await save_anew(store, Chat(number))
    before = await store.load(KEY)
    room: Room[Any] = Room("chat", state=lambda: Strict(0), version=2)
    room.migrate(1, 2)(migrate)
    for _ in range(3):
        with pytest.raises(MigrationError, match=said):
            await new_state(store, room).load()
    assert await store.load(KEY) == before


async def test_what_cannot_be_read_and_is_intact_is_left_untouched(store: FaultyStore) -> None:
    """An older generation is taken for a damaged one, and not for one that somebody else can read."""
    await save(new_state(store), Chat(1))
    await spoil(store, 2, Snapshot("chat", "lobby", 1, 2, 1, b"\xff").pack())
    before = await store.load(KEY)
    with pytest.raises(SnapshotError, match="intact"):
        await new_state(store).load()
    assert await store.load(KEY) == before


async def test_a_refused_state_leaves_the_store_as_it_is(store: FaultyStore) -> None:
    """What would come back as something else is not written; once it is mended it is."""
    record = new_state(store)
    await save(record, Chat(1))
    before = await store.load(KEY)
    wrong: Any = Chat(2, other=[Note()])
    record.touch()
    for _ in range(2):
        with pytest.raises(StateError, match=r"state.other\[0\]: a Note would come back as a map"):
            await save(record, wrong)
        assert record.unsaved(wrong)
    assert await store.load(KEY) == before
    wrong.other = None
    await save(record, wrong)
    assert await new_state(store).load() == Loaded(Chat(2), restarted=False, fell_back=False)


async def test_what_waits_for_what_the_store_has_is_done_in_order_and_a_turn_at_a_time(
    store: FaultyStore, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks meanwhile is told when all of it is done, and what comes meanwhile is done behind it."""
    monkeypatch.setattr("trio_rooms._state.record.TURN", -1)
    record = Record(KEY, chat.seal(), store, nursery.start_soon)
    done: list[int] = []
    for number in range(100):
        record.when_known(partial(done.append, number))
    while not done:
        await trio.lowlevel.checkpoint()
    assert len(done) < 10
    assert record.holds
    record.when_known(partial(done.append, 100))
    with trio.CancelScope() as scope:
        scope.cancel()
        await record.known()
    await record.known()
    assert done == [*range(101)]
    record.when_known(partial(done.append, 101))
    assert done[-1] == 101
    assert not record.holds
