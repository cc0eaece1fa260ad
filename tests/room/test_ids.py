"""The ids of a session's messages, in rooms with a gate: handled once, told one thing, now and later."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.room.gates import full, held, refusals, unknown
from trio_rooms import Context, MemoryStore, Room, RoomHandle, Rooms, open_rooms
from trio_rooms.stores import Commit
from trio_rooms.testing import FaultyStore, MemoryClient, connect

State = dict[str, Any]


@attrs.define
class Seen:
    """What the handlers have seen; another one for each test."""

    go_on: trio.Event = attrs.field(factory=trio.Event)
    handled: list[int] = attrs.field(factory=list)


seen = Seen()

ledger: Room[State] = Room("ledger", state=dict, durability="commit")


@ledger.on("add")
async def _add(ctx: Context[State], data: int) -> int:
    seen.handled.append(data)
    ctx.state["balance"] = ctx.state.get("balance", 0) + data
    balance: int = ctx.state["balance"]
    return balance


@ledger.on("slow")
async def _slow(ctx: Context[State], data: int) -> int:
    ctx.state["balance"] = ctx.state.get("balance", 0) + data
    await seen.go_on.wait()
    return data


@attrs.define
class Run:
    """Open rooms over a store that fails when it is told to, and one session."""

    rooms: Rooms
    store: FaultyStore
    client: MemoryClient
    welcome: Any

    @property
    def room(self) -> RoomHandle:
        return self.rooms.get("ledger", "x")

    def commits(self) -> list[Commit]:
        return [call.commit for call in self.store.calls if call.commit is not None]

    @contextlib.asynccontextmanager
    async def resumed(self, seq: int = 0) -> AsyncIterator[MemoryClient]:
        """The same session with another connection."""
        query = {"resume": self.welcome["resume"], "seq": str(seq)}
        async with connect(
            self.rooms, "ledger/x", query=query, subprotocols=["trio-rooms.v1.json"]
        ) as client:
            welcome = await client.receive()
            assert welcome["data"]["resumed"], welcome
            yield client


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Run]:
    """A room that has been saved once, and a session in it, that has used its first id."""
    global seen  # noqa: PLW0603 (handlers are static, and this is what they write to)
    seen = Seen()
    store = FaultyStore(MemoryStore())
    async with (
        open_rooms([ledger], store=store) as rooms,
        connect(rooms, "ledger/x", subprotocols=["trio-rooms.v1.json"]) as client,
    ):
        welcome = (await client.receive())["data"]
        await client.emit("add", 0, id=1)
        assert await client.receive() == {"ack": 1, "data": 0}
        try:
            yield Run(rooms, store, client, welcome)
        finally:
            seen.go_on.set()


async def test_story_1_a_refusal_is_an_answer(autojump_clock: MockClock) -> None:
    """An id was refused while its connection was gone, and a later one handled: it is refused again."""
    async with running() as run:
        run.store.fail_commits(full)
        async with held(run.store) as gate:
            await run.client.emit("add", 10, id=2)
            await gate.wait_arrived()
            await run.client.drop()
            await wait_all_tasks_blocked()
        await trio.sleep(1)
        async with run.resumed() as client:
            await client.emit("add", 10, id=2)
            await client.emit("add", 5, id=3)
            await client.emit("add", 10, id=2)
            answers = await client.receive_many(3)
            assert refusals([one for one in answers if one["ack"] == 2]) == [(2, "not_saved")] * 2
            assert {"ack": 3, "data": 5} in answers
        assert await run.room.peek() == {"balance": 5}


async def test_story_2_a_copy_of_what_is_in_flight_waits_with_it(autojump_clock: MockClock) -> None:
    """The commit fails: both are refused, and it is handled once."""
    async with running() as run:
        run.store.fail_commits(full)
        async with held(run.store) as gate:
            await run.client.emit("add", 10, id=2)
            await gate.wait_arrived()
            await run.client.drop()
            async with run.resumed() as client:
                await client.emit("add", 10, id=2)
                await wait_all_tasks_blocked()
                gate.release()
                assert refusals([await client.receive()]) == [(2, "not_saved")]
        assert seen.handled == [0, 10]
        assert await run.room.peek() == {"balance": 0}


async def test_a_copy_of_what_is_in_flight_is_told_the_same(autojump_clock: MockClock) -> None:
    """Once it is durable."""
    async with running() as run:
        async with held(run.store) as gate:
            await run.client.emit("add", 10, id=2)
            await gate.wait_arrived()
            await run.client.drop()
            async with run.resumed() as client:
                await client.emit("add", 10, id=2)
                await wait_all_tasks_blocked()
                gate.release()
                assert await client.receive() == {"ack": 2, "data": 10}
        assert seen.handled == [0, 10]


async def test_story_3_a_refusal_outlives_further_ones(autojump_clock: MockClock) -> None:
    """Nothing was committed in between, and the room has been loaded again each time."""
    async with running() as run:
        for number in (2, 3):
            run.store.fail_commits(full)
            await run.client.emit("add", 10, id=number)
            assert refusals([await run.client.receive()]) == [(number, "not_saved")]
        await run.client.emit("add", 1, id=4)
        assert await run.client.receive() == {"ack": 4, "data": 1}
        await run.client.emit("add", 10, id=2)
        assert refusals([await run.client.receive()]) == [(2, "not_saved")]
        assert await run.room.hibernate()
        await run.client.emit("add", 10, id=3)
        assert refusals([await run.client.receive()]) == [(3, "not_saved")]
        assert await run.room.peek() == {"balance": 1}


async def test_an_id_counts_as_handled_with_what_it_does(autojump_clock: MockClock) -> None:
    """And not with what was handled before it, which is cut as it begins: a crash just then would lose it."""
    async with running() as run:
        async with held(run.store) as gate:  # It is seen to wait.
            await run.client.emit("add", 1, id=2)
            await gate.wait_arrived()
            await run.client.emit("slow", 1, id=3)
            await wait_all_tasks_blocked()
        assert (await run.client.receive())["ack"] == 2
        seen.go_on.set()
        assert (await run.client.receive())["ack"] == 3
        seen.go_on = trio.Event()
        run.store.calls.clear()
        async with held(run.store) as gate:
            await run.client.emit("add", 1, id=4)
            await gate.wait_arrived()
            await run.client.emit("add", 1, id=5)
            await run.client.emit("slow", 1, id=6)
            await wait_all_tasks_blocked()
        assert await run.client.receive_many(2) == [{"ack": 4, "data": 3}, {"ack": 5, "data": 4}]
        last = [row.last for commit in run.commits() for row in commit.sessions.values() if row is not None]
        assert last == [4, 5]
        seen.go_on.set()
        assert (await run.client.receive())["ack"] == 6


async def test_what_could_not_be_looked_up_is_not_passed_over(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came behind it is to come again as well, in order: else it would count as handled."""

    async def fail(*_: Any) -> None:
        monkeypatch.undo()
        raise unknown()

    async with running() as run:
        assert await run.room.hibernate()
        monkeypatch.setattr(FaultyStore, "session", fail)
        for number in (2, 3):
            await run.client.emit("add", number, id=number)
        assert refusals(await run.client.receive_many(2)) == [(2, "unavailable"), (3, "unavailable")]
        for number in (2, 3):
            await run.client.emit("add", number, id=number)
        assert await run.client.receive_many(2) == [{"ack": 2, "data": 2}, {"ack": 3, "data": 5}]
        assert seen.handled == [0, 2, 3]


async def test_a_session_that_begins_as_the_room_is_destroyed_ends_with_it(autojump_clock: MockClock) -> None:
    """It was written for the room that is no more."""
    async with running() as run, trio.open_nursery() as nursery:
        async with held(run.store) as gate:
            await run.client.emit("add", 1, id=2)
            await gate.wait_arrived()
            nursery.start_soon(run.room.destroy)
            async with connect(run.rooms, "ledger/x", subprotocols=["trio-rooms.v1.json"]) as other:
                await wait_all_tasks_blocked()
                gate.release()
                with pytest.raises(trio.EndOfChannel):
                    await other.receive_many(2)
                assert other.closed is not None
                assert other.closed.code == 1000
        async with connect(run.rooms, "ledger/x", subprotocols=["trio-rooms.v1.json"]) as another:
            assert (await another.receive())["data"]["durable"]
            await another.emit("add", 1, id=1)
            assert await another.receive() == {"ack": 1, "data": 1}
