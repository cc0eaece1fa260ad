"""The record of a room that sleeps: what comes for it from outside is written without an actor."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import MemoryStore, NotSaved, Room, RoomsClosed, StaleWrite, StoreError, StoreFull
from trio_rooms._state.gate import MOST_TRIES
from trio_rooms._state.record import Record
from trio_rooms.stores import Commit
from trio_rooms.testing import FaultyStore

snapshot: Room[dict[str, Any]] = Room("r", state=dict)
commit: Room[dict[str, Any]] = Room("r", state=dict, durability="commit")
KEY = "r/x"
BOTH = pytest.mark.parametrize("room", [snapshot, commit], ids=["snapshot", "commit"])


@attrs.define
class Bench:
    """A record over a store that fails when it is told to."""

    store: FaultyStore
    nursery: trio.Nursery
    room: Room[Any]
    rests: list[str] = attrs.field(factory=list)
    said: list[Any] = attrs.field(factory=list)
    refused: list[Exception] = attrs.field(factory=list)
    record: Record = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.record = Record(KEY, self.room.seal(), self.store, self.nursery.start_soon, self.rests.append)

    def put(self, name: str, value: bytes = b"1") -> None:
        """Something comes from outside; said when it is durable."""

        def action() -> None:
            self.record.write(name, value)
            self.record.after(lambda: self.said.append(name))

        self.record.outside(action, self.refused.append)

    def commits(self) -> list[Commit]:
        return [call.commit for call in self.store.calls if call.commit is not None]


@contextlib.asynccontextmanager
async def bench(room: Room[Any]) -> AsyncIterator[Bench]:
    """One of a room that never was."""
    async with FaultyStore(MemoryStore()) as store, trio.open_nursery() as nursery:
        yield Bench(store, nursery, room)
        nursery.cancel_scope.cancel()


@BOTH
async def test_what_comes_for_a_room_that_sleeps_is_written(
    room: Room[Any], autojump_clock: MockClock
) -> None:
    """Without an actor; it is told when it is durable, and the record is free to go."""
    async with bench(room) as b:
        gate = b.store.hold_commits()
        b.put("a")
        b.put("b")
        await gate.wait_arrived()
        assert b.said == []
        assert b.record.unsettled
        b.put("c")
        gate.release_one()
        await gate.wait_arrived(2)
        assert b.said == ["a", "b"]
        gate.release()
        await wait_all_tasks_blocked()
        assert b.said == ["a", "b", "c"]
        assert [dict(one.writes) for one in b.commits()] == [{"a": b"1", "b": b"1"}, {"c": b"1"}]
        assert [one.number for one in b.commits()] == [1, 2]
        assert not b.record.unsettled
        assert b.rests


@BOTH
async def test_its_number_follows_on_that_of_the_store(room: Room[Any], autojump_clock: MockClock) -> None:
    """Which is read first, once."""
    async with bench(room) as b:
        await b.store.store.commit(Commit(KEY, 1, b.store.epoch, writes={"old": b"1"}))
        b.put("a")
        await wait_all_tasks_blocked()
        b.put("b")
        await wait_all_tasks_blocked()
        assert [one.number for one in b.commits()] == [2, 3]
        assert sum(call.operation == "head" for call in b.store.calls) == 1


@BOTH
@pytest.mark.parametrize("applied", [False, True])
async def test_an_outcome_that_is_not_known_is_found_out(
    room: Room[Any], applied: bool, autojump_clock: MockClock
) -> None:
    """The same commit is sent again."""
    async with bench(room) as b:
        b.store.fail_commits(lambda: StoreError("as the test wants it"), 3, applied=applied)
        b.put("a")
        with trio.fail_after(10):
            await b.record.durable()
        assert b.said == ["a"]
        assert len({one.nonce for one in b.commits()[:4]}) == 1


@BOTH
async def test_what_was_refused_is_tried_again_in_its_place(
    room: Room[Any], autojump_clock: MockClock
) -> None:
    """With what came meanwhile behind it: there is nothing to go back to, and nobody has heard of it."""
    async with bench(room) as b:
        b.store.fail_commits(lambda: StoreFull("no room"), 3)
        b.put("a", b"1")
        await wait_all_tasks_blocked()
        b.put("b")
        b.put("a", b"2")
        with trio.fail_after(10):
            await b.record.durable()
        assert b.said == ["a", "b", "a"]
        assert await b.store.list(KEY) == [("a", b"2"), ("b", b"1")]
        assert b.refused == []


@BOTH
async def test_what_can_never_be_written_is_given_up(room: Room[Any], autojump_clock: MockClock) -> None:
    """Whoever waits for it is told, and what comes later is written."""
    async with bench(room) as b:
        b.store.fail_commits(lambda: StoreFull("no room"), MOST_TRIES)
        b.put("a")
        with trio.fail_after(100), pytest.raises(NotSaved):
            await b.record.durable()
        assert len(b.refused) == 1
        b.put("b")
        await b.record.durable()
        assert b.said == ["b"]
        assert await b.store.list(KEY) == [("b", b"1")]


@BOTH
async def test_who_lost_the_room_writes_nothing(room: Room[Any], autojump_clock: MockClock) -> None:
    """And begins with what is there."""
    async with bench(room) as b:
        await b.record.known()
        await b.store.store.commit(Commit(KEY, 1, b.store.epoch, writes={"other": b"1"}))
        b.put("a")
        await wait_all_tasks_blocked()
        assert isinstance(b.refused[0].__cause__, StaleWrite)
        b.put("b")
        await b.record.durable()
        assert await b.store.list(KEY) == [("b", b"1"), ("other", b"1")]


@BOTH
@pytest.mark.parametrize("fails", [False, True])
async def test_an_actor_that_wakes_takes_over_what_is_under_way(
    room: Room[Any], fails: bool, autojump_clock: MockClock
) -> None:
    """It waits for the commit in flight; what is left goes with its own."""
    async with bench(room) as b:
        if fails:
            b.store.fail_commits(lambda: StoreFull("no room"))
        gate = b.store.hold_commits()
        b.put("a")
        await gate.wait_arrived()
        loaded = trio.Event()

        async def load() -> None:
            b.record.wanted = lambda _: None
            await b.record.load()
            loaded.set()

        b.nursery.start_soon(load)
        await wait_all_tasks_blocked()
        b.put("b")
        assert not loaded.is_set()
        gate.release()
        await loaded.wait()
        if room is snapshot:
            await b.record.save(dict)
        else:
            await trio.sleep(1)
        assert b.said == ["a", "b"]
        assert await b.store.list(KEY) == [("a", b"1"), ("b", b"1")]


async def test_what_handlers_wrote_goes_and_what_came_from_outside_is_done_again(
    autojump_clock: MockClock,
) -> None:
    """A rollback, step by step."""
    async with bench(commit) as b:
        record, gate = b.record, b.record.gate
        assert gate is not None
        await record.known()
        gate.abandon()  # As a room does that crashes.
        record.write("handler", b"1")
        gate.add(lambda: b.said.append("handler"))
        gate.open.undo.append(lambda: b.said.append("undone"))
        b.put("outside")
        batches = gate.roll_back()
        record.rewind()
        assert b.said == ["undone"]
        for batch in batches:
            for outside in batch.outside:
                record.outside_again(outside, NotSaved(KEY, "why"))
        await record.durable()
        assert b.said == ["undone", "outside"]
        assert await b.store.list(KEY) == [("outside", b"1")]


async def test_a_cancelled_wait_changes_nothing(autojump_clock: MockClock) -> None:
    """What was to become durable does."""
    async with bench(commit) as b:
        gate = b.store.hold_commits()
        b.put("a")
        with trio.move_on_after(1):
            await b.record.durable()
        gate.release()
        await trio.sleep(1)
        assert b.said == ["a"]


async def test_a_job_that_fails_keeps_nothing_else_from_going_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged."""
    async with bench(commit) as b:

        def action() -> None:
            b.record.write("bad", b"1")
            b.record.after(lambda: 1 // 0)  # type: ignore[arg-type]

        b.record.outside(action)
        b.put("a")
        await b.record.durable()
        assert b.said == ["a"]
        assert "could not be done" in caplog.text


async def test_a_record_can_be_kept(autojump_clock: MockClock) -> None:
    """While somebody needs what it knows."""
    async with bench(commit) as b:
        b.record.pin()
        assert b.record.unsettled
        b.rests.clear()
        b.record.unpin()
        assert not b.record.unsettled
        assert b.rests == [KEY]


async def test_what_the_store_never_answered_is_not_called_unsaved(autojump_clock: MockClock) -> None:
    """At the end of the program: it may be there. What waited behind it is not."""
    async with bench(commit) as b:
        await b.record.known()
        b.store.fail_commits(lambda: StoreError("no answer"), times=1_000_000, applied=True)
        b.put("a")
        await trio.sleep(3)
        b.put("b")
        b.record.abandon()
        await wait_all_tasks_blocked()
        assert [type(one) for one in b.refused] == [RoomsClosed, NotSaved]
        assert b.said == []
        assert await b.store.list(KEY) == [("a", b"1")]


@BOTH
async def test_what_is_not_written_yet_is_read_a_page_at_a_time(
    room: Room[Any], autojump_clock: MockClock
) -> None:
    """As what is: whoever sends it on would else have all of it in memory, and hold up everybody."""
    async with bench(room) as b:
        record, journal = b.record, b.store.hold_commits()
        await record.known()
        for _ in range(1500):
            record.append(b"", bytes(100), 0.0)
        assert [one.seq for one in await record.entries(0, 1500, 250)] == [1, 2, 3]
        assert [one.seq for one in await record.entries(3, 5, 250)] == [4, 5]
        assert [one.seq for one in await record.entries(5, 1500, 1)] == [6]
        assert len(await record.entries(0, 1500, 1 << 30)) == 1000
        journal.release()
