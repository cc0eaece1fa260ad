"""Durable handlers, and ``ctx.commit()``, in rooms that are saved now and then."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.room.gates import full, held, nothing_comes, refusals, unknown
from trio_rooms import (
    Context,
    EventError,
    HandlerFailed,
    MemoryStore,
    NotSaved,
    Room,
    RoomHandle,
    Rooms,
    Stage,
    open_rooms,
)
from trio_rooms.testing import FaultyStore, MemoryClient, connect

State = dict[str, Any]


@attrs.define
class Seen:
    """What the handlers have seen; another one for each test."""

    go_on: trio.Event = attrs.field(factory=trio.Event)
    running: trio.Event = attrs.field(factory=trio.Event)
    failed: list[Exception] = attrs.field(factory=list)


seen = Seen()

bank: Room[State] = Room("bank", state=dict, snapshot_interval=1000, handler_timeout=60)


@bank.on("transfer", durable=True)
async def _transfer(ctx: Context[State], data: int) -> int:
    ctx.state["balance"] = ctx.state.get("balance", 0) + data
    ctx.room.emit("balance", ctx.state["balance"])
    balance: int = ctx.state["balance"]
    return balance


@bank.on("slowly", durable=True)
async def _slowly(ctx: Context[State], data: int) -> int:
    ctx.state["balance"] = ctx.state.get("balance", 0) - data
    seen.running.set()
    await seen.go_on.wait()
    ctx.state["balance"] += data
    return data


@bank.on("say")
async def _say(ctx: Context[State], data: str) -> str:
    ctx.state.setdefault("said", []).append(data)
    ctx.room.emit("said", data)
    return data


@bank.on("get")
async def _get(ctx: Context[State]) -> State:
    return ctx.state


@bank.on("commit")
async def _commit(ctx: Context[State], data: str) -> None:
    ctx.state["before"] = data
    ctx.room.storage.put("before", data)
    try:
        await ctx.commit()
    except NotSaved as error:
        seen.failed.append(error)
        raise EventError("sorry", str(error)) from None
    ctx.room.emit("certain", data)
    seen.running.set()
    await seen.go_on.wait()
    ctx.state["after"] = data


@bank.on("committing", durable=True)
async def _committing(ctx: Context[State]) -> None:
    ctx.state["never"] = True
    await ctx.commit()


@attrs.define
class Run:
    """Open rooms over a store that fails when it is told to."""

    rooms: Rooms
    store: FaultyStore
    client: MemoryClient

    @property
    def room(self) -> RoomHandle:
        return self.rooms.get("bank", "x")

    def commits(self) -> int:
        return sum(call.operation == "commit" for call in self.store.calls)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Run]:
    """A room that has been saved once, and a client in it."""
    global seen  # noqa: PLW0603 (handlers are static, and this is what they write to)
    seen = Seen()
    store = FaultyStore(MemoryStore())
    async with open_rooms([bank], store=store) as rooms, connect(rooms, "bank/x") as client:
        assert await client.ask("transfer", 0) == 0
        await client.receive()
        try:
            yield Run(rooms, store, client)
        finally:
            seen.go_on.set()


async def test_a_durable_handler_is_heard_when_it_is_durable(autojump_clock: MockClock) -> None:
    """And others are not kept waiting, where nothing is before them."""
    async with running() as run:
        async with held(run.store) as gate:
            assert await run.client.ask("say", "a") == "a"
            assert (await run.client.receive())["data"] == "a"
            gate.release()
        async with held(run.store) as gate:
            await run.client.emit("transfer", 3, id=10)
            await gate.wait_arrived()
            await nothing_comes(run.client)
        assert [one.get("data") for one in await run.client.receive_many(2)] == [3, 3]
        assert await run.room.peek() == {"balance": 3, "said": ["a"]}


async def test_what_was_changed_before_is_durable_before(autojump_clock: MockClock) -> None:
    """Else a failure would take back what others have seen already."""
    async with running() as run:
        await run.client.ask("say", "a")
        await run.client.receive()
        run.store.fail_commits(full, key="bank/other")
        commits = run.commits()
        assert await run.client.ask("transfer", 1) == 1
        assert run.commits() == commits + 2
        await run.client.receive()
        await run.client.ask("say", "b")
        await run.client.receive()
        async with held(run.store) as gate:
            await run.client.emit("transfer", 3, id=10)
            await gate.wait_arrived()
            run.store.fail_commits(full)
            gate.release_one()
        assert refusals([await run.client.receive()]) == [(10, "not_saved")]
        assert await run.client.ask("get") == {"balance": 1, "said": ["a", "b"]}


async def test_a_durable_handler_does_not_begin_where_nothing_can_be_saved(autojump_clock: MockClock) -> None:
    """Its sender is told that it was not saved, and what was changed before stays."""
    async with running() as run:
        await run.client.ask("say", "a")
        await run.client.receive()
        run.store.fail_commits(full)
        with pytest.raises(EventError, match="not_saved"):
            await run.client.ask("transfer", 1)
        assert await run.client.ask("get") == {"balance": 0, "said": ["a"]}
        run.store.fail_commits(full)
        with pytest.raises(NotSaved):
            await run.room.ask("transfer", 1)
        assert await run.room.ask("transfer", 1) == 1


async def test_what_is_handled_behind_it_waits_for_it_and_no_longer(autojump_clock: MockClock) -> None:
    """It is built on what may be undone; it needs no commit of its own."""
    async with running() as run, held(run.store) as gate:
        await run.client.emit("transfer", 3, id=10)
        await gate.wait_arrived()
        await run.client.emit("say", "a", id=11)
        await nothing_comes(run.client)
        gate.release_one()
        assert [one.get("ack") for one in await run.client.receive_many(4)] == [None, 10, None, 11]
        assert await run.client.ask("say", "b") == "b"
        assert gate.arrived == 1


async def test_what_was_handled_behind_it_is_undone_with_it(autojump_clock: MockClock) -> None:
    """And the room is as it was before, without a gate."""
    async with running() as run:
        run.store.fail_commits(full)
        async with held(run.store) as gate:
            await run.client.emit("transfer", 3, id=10)
            await gate.wait_arrived()
            await run.client.emit("say", "a", id=11)
            await wait_all_tasks_blocked()
        assert refusals(await run.client.receive_many(2)) == [(10, "not_saved"), (11, "not_saved")]
        async with held(run.store) as gate:
            assert await run.client.ask("get") == {"balance": 0}
            assert await run.client.ask("say", "b") == "b"
            assert gate.arrived == 0
        assert (await run.client.receive())["data"] == "b"


@pytest.mark.parametrize("applied", [False, True])
async def test_an_unknown_outcome_of_a_durable_handler(applied: bool, autojump_clock: MockClock) -> None:
    """It is sent again until it is known."""
    async with running() as run:
        run.store.fail_commits(unknown, 3, applied=applied)
        assert await run.client.ask("transfer", 2) == 2
        assert await run.room.peek() == {"balance": 2}


async def test_half_a_durable_handler_is_never_saved(autojump_clock: MockClock) -> None:
    """Also where the snapshot interval ends meanwhile."""
    async with running() as run:
        await run.client.emit("slowly", 5, id=10)
        await seen.running.wait()
        commits = run.commits()
        await run.client.emit("say", "a", id=11)
        await trio.sleep(50)
        assert run.commits() == commits
        assert await run.room.peek() == {"balance": 0}
        seen.go_on.set()
        assert [one.get("ack") for one in await run.client.receive_many(3)] == [10, None, 11]


async def test_a_durable_handler_that_took_too_long_is_undone(autojump_clock: MockClock) -> None:
    """Half of it must not be seen."""
    async with running() as run:
        with pytest.raises(EventError, match="handler_timeout"):
            await run.client.ask("slowly", 5)
        assert await run.client.ask("get") == {"balance": 0}
        with pytest.raises(HandlerFailed):
            await run.room.ask("slowly", 5, timeout=math.inf)
        assert await run.client.ask("get") == {"balance": 0}


async def test_the_room_sleeps_when_all_of_it_has_gone_out(autojump_clock: MockClock) -> None:
    """What was changed without a gate is saved, too."""
    async with running() as run:
        async with held(run.store) as gate, trio.open_nursery() as nursery:
            await run.client.emit("transfer", 3, id=10)
            await gate.wait_arrived()
            await run.client.emit("say", "a", id=11)
            nursery.start_soon(run.room.hibernate)
            await wait_all_tasks_blocked()
            gate.release()
        assert run.room.info().stage is Stage.ASLEEP
        assert await run.room.peek() == {"balance": 3, "said": ["a"]}


async def test_what_is_committed_is_durable_at_once(autojump_clock: MockClock) -> None:
    """What a handler has changed until then, and nothing that it changes later; nobody waits for it."""
    async with running() as run:
        await run.client.emit("commit", "a", id=10)
        await seen.running.wait()
        assert await run.room.peek() == {"balance": 0, "before": "a"}
        assert await run.store.get("bank/x", "before") is not None
        assert await run.client.receive() == {"event": "certain", "data": "a"}
        seen.go_on.set()
        assert (await run.client.receive())["ack"] == 10
        assert await run.client.ask("get") == {"balance": 0, "before": "a", "after": "a"}


@pytest.mark.parametrize("error", [full, unknown])
async def test_what_cannot_be_committed_is_told_and_not_undone(error: Any, autojump_clock: MockClock) -> None:
    """The handler goes on as it likes."""
    async with running() as run:
        run.store.fail_commits(error)
        with pytest.raises(EventError, match="sorry"):
            await run.client.ask("commit", "a")
        assert isinstance(seen.failed[0], NotSaved)
        assert await run.client.ask("get") == {"balance": 0, "before": "a"}


async def test_half_a_message_cannot_be_made_durable(autojump_clock: MockClock) -> None:
    """In a durable handler, and in a room where all are, it is a mistake."""
    room: Room[State] = Room("all", state=dict, durability="commit")
    room.on("commit")(_commit)
    async with running() as run:
        with pytest.raises(HandlerFailed) as caught:
            await run.room.ask("committing")
        assert "half a message" in str(caught.value.__cause__)
    async with open_rooms([room]) as rooms:
        with pytest.raises(HandlerFailed) as caught:
            await rooms.get("all", "x").ask("commit", "a")
        assert "half a message" in str(caught.value.__cause__)
