"""Rooms with a gate, from outside: what is heard of them, and when, whatever the store does."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio_websocket
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.room.gates import full, held, nothing_comes, refusals, unknown
from trio_rooms import (
    Context,
    DefinitionError,
    EventError,
    HandlerFailed,
    MemoryStore,
    NotSaved,
    Room,
    RoomHandle,
    Rooms,
    RoomsClosed,
    Stage,
    StoreFull,
    WakeReport,
    open_rooms,
)
from trio_rooms._state import gate as gate_module
from trio_rooms._state.snapshot import Snapshot
from trio_rooms.stores import Commit
from trio_rooms.testing import FaultyStore, Gate, MemoryClient, connect

State = dict[str, Any]


@attrs.define
class Seen:
    """What the handlers of the room under test have seen; another one for each test."""

    wakes: list[str] = attrs.field(factory=list)
    greeted: int = 0
    gone: int = 0
    errors: list[Exception] = attrs.field(factory=list)
    go_on: trio.Event = attrs.field(factory=trio.Event)
    running: trio.Event = attrs.field(factory=trio.Event)
    context: Any = None


seen = Seen()

ledger: Room[State] = Room("ledger", state=dict, durability="commit", idle_timeout=100)
board: Room[State] = Room("board", state=dict)


@ledger.on_wake
async def _woke(ctx: Context[State], report: WakeReport) -> None:
    seen.wakes.append(report.cause)


@ledger.on_connect
async def _came(ctx: Context[State]) -> None:
    seen.greeted += 1
    if ctx.connection.attachment == "slow":
        seen.running.set()
        await seen.go_on.wait()
    if ctx.connection.attachment == "marked":
        ctx.state["came"] = ctx.state.get("came", 0) + 1


@ledger.on_disconnect
async def _went(ctx: Context[State]) -> None:
    seen.gone += 1


@ledger.on_error
async def _failed(ctx: Context[State], error: Exception) -> None:
    seen.errors.append(error)


@ledger.on("add")
async def _add(ctx: Context[State], data: int) -> int:
    ctx.state["balance"] = ctx.state.get("balance", 0) + data
    ctx.room.emit("balance", ctx.state["balance"])
    balance: int = ctx.state["balance"]
    return balance


@ledger.on("get")
async def _get(ctx: Context[State]) -> int:
    balance: int = ctx.state.get("balance", 0)
    return balance


@ledger.on("slow")
async def _slow(ctx: Context[State], data: int) -> int:
    """Half of it before a wait, half of it after."""
    ctx.state["balance"] = ctx.state.get("balance", 0) - data
    seen.running.set()
    try:
        await seen.go_on.wait()
    except trio.Cancelled:
        ctx.state["balance"] += 1000
        ctx.room.storage.put("cleaned", True)
        ctx.room.emit("cleaned", "up")
        raise
    ctx.state["balance"] += data
    return data


@ledger.on("put")
async def _put(ctx: Context[State], data: str) -> str:
    ctx.room.storage.put("text", data)
    return data


@ledger.on("text")
async def _text(ctx: Context[State]) -> Any:
    return await ctx.room.storage.get("text")


@ledger.on("rename")
async def _rename(ctx: Context[State], data: str) -> None:
    ctx.state["named"] = data
    ctx.connection.attachment = data
    ctx.connection.join(data)


@ledger.on("edit")
async def _edit(ctx: Context[State], data: str) -> None:
    ctx.state["named"] = data
    ctx.connection.attachment["name"] = data


@ledger.on("who")
async def _who(ctx: Context[State]) -> Any:
    return [ctx.connection.attachment, list(ctx.connection.channels), list(ctx.room.channels)]


@ledger.on("leave")
async def _leave(ctx: Context[State], data: int) -> None:
    ctx.state["left"] = data
    ctx.connection.emit("bye", data)
    ctx.connection.close(4000, "left")


@ledger.on("raise")
async def _raise(ctx: Context[State], data: str) -> None:
    ctx.state["raised"] = data
    ctx.room.emit("raising", data)
    if data == "refuse":
        raise EventError("refused", "as the test wants it")
    raise ValueError(data)


@ledger.on("early")
async def _early(ctx: Context[State]) -> None:
    ctx.state["early"] = True
    ctx.room.emit("late", 1)
    ctx.room.emit("early", 2, unconfirmed=True)
    ctx.connection.emit("early", 3, unconfirmed=True)


@ledger.on("tell")
async def _tell(ctx: Context[State], data: str) -> None:
    ctx.state["told"] = data
    ctx.rooms.get("board", "x").emit("told", data)


@ledger.on("spoil")
async def _spoil(ctx: Context[State]) -> None:
    ctx.state["spoiled"] = object()


@ledger.on("crash")
async def _crash(ctx: Context[State], data: int) -> None:
    ctx.state["balance"] = data
    ctx.room.start_soon(_break)


async def _break() -> None:
    msg = "on purpose"
    raise ValueError(msg)


@ledger.on("work")
async def _work(ctx: Context[State]) -> None:
    async def work() -> None:
        await seen.go_on.wait()
        ctx.state["worked"] = True
        ctx.room.emit("worked", True)

    ctx.room.start_soon(work)


@board.on("noted")
async def _noted(ctx: Context[State], data: str) -> None:
    pass


@attrs.define
class Run:
    """Open rooms over a store that fails when it is told to."""

    rooms: Rooms
    store: FaultyStore
    client: MemoryClient

    @property
    def room(self) -> RoomHandle:
        return self.rooms.get("ledger", "x")

    def commits(self) -> list[Commit]:
        return [call.commit for call in self.store.calls if call.commit is not None]

    async def stored(self) -> Any:
        return await self.room.peek()

    def held(self) -> AbstractAsyncContextManager[Gate]:
        """A gate for commits that is open in the end."""
        return held(self.store)

    async def until(self, stage: Stage) -> None:
        with trio.fail_after(10):
            while self.room.info().stage is not stage:
                await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(*, attachment: Any = None, store: FaultyStore | None = None) -> AsyncIterator[Run]:
    """A room that has been saved once, and a client in it."""
    global seen  # noqa: PLW0603 (handlers are static, and this is what they write to)
    seen = Seen()
    used = store or FaultyStore(MemoryStore())
    async with (
        open_rooms([ledger, board], store=used) as rooms,
        connect(rooms, "ledger/x", attachment=attachment) as client,
    ):
        await client.ask("add", 0)
        assert await client.receive() == {"event": "balance", "data": 0}
        try:
            yield Run(rooms, used, client)
        finally:
            seen.go_on.set()


# What is heard, and when.


async def test_nothing_is_heard_before_it_is_durable(autojump_clock: MockClock) -> None:
    """What the room sends to all, the answer, and a read behind a change: all of it, in order."""
    async with running() as run:
        async with run.held():
            await run.client.emit("add", 3, id=10)
            await run.client.emit("get", id=11)
            await nothing_comes(run.client)
        assert await run.client.receive_many(3) == [
            {"event": "balance", "data": 3},
            {"ack": 10, "data": 3},
            {"ack": 11, "data": 3},
        ]
        assert await run.stored() == {"balance": 3}


async def test_what_is_handled_while_a_commit_is_under_way_is_one_commit(autojump_clock: MockClock) -> None:
    """The room goes on with its mail, and all that it handles meanwhile is encoded once."""
    async with running() as run:
        async with run.held() as gate:
            await run.client.emit("add", 1, id=10)
            await gate.wait_arrived()
            for number in range(11, 21):
                await run.client.emit("add", 1, id=number)
            await wait_all_tasks_blocked()
            run.store.calls.clear()
        answers = [await run.client.receive() for _ in range(22)]
        assert [one["ack"] for one in answers if "ack" in one] == list(range(10, 21))
        assert [one["data"] for one in answers if "event" in one] == list(range(1, 12))
        assert len(run.commits()) == 1
        assert await run.stored() == {"balance": 11}


async def test_what_changed_nothing_leaves_at_once(autojump_clock: MockClock) -> None:
    """With nothing in flight a read needs no commit."""
    async with running() as run:
        run.store.calls.clear()
        async with run.held():
            assert await run.client.ask("get") == 0
            assert await run.room.ask("get") == 0
        assert run.commits() == []


async def test_a_handler_that_touches_the_storage_alone_encodes_no_state(autojump_clock: MockClock) -> None:
    """What is written of it is what it put."""
    async with running() as run:
        run.store.calls.clear()
        assert await run.client.ask("put", "a") == "a"
        assert await run.client.ask("text") == "a"
        (commit,) = run.commits()
        assert commit.document is None
        assert list(commit.writes) == ["text"]


async def test_each_change_is_a_commit_where_nothing_is_under_way(
    autojump_clock: MockClock,
) -> None:
    """And each has the number that follows."""
    async with running() as run:
        run.store.calls.clear()
        for number in range(1, 4):
            assert await run.client.ask("add", 1) == number
        numbers = [commit.number for commit in run.commits()]
        assert numbers == list(range(numbers[0], numbers[0] + 3))


async def test_a_connection_is_closed_when_that_is_durable(autojump_clock: MockClock) -> None:
    """Behind what it was sent; what it sends after the call is not handled."""
    async with running() as run:
        async with run.held():
            await run.client.emit("leave", 1, id=10)
            await run.client.emit("add", 5, id=11)
            await nothing_comes(run.client)
            assert run.room.info().connections == 1
        assert await run.client.receive_many(1) == [{"event": "bye", "data": 1}]
        with pytest.raises(trio.EndOfChannel):
            await run.client.receive_many(3)
        assert run.client.closed is not None
        assert run.client.closed.code == 4000
        assert await run.stored() == {"balance": 0, "left": 1}


async def test_an_unconfirmed_emission_leaves_before(autojump_clock: MockClock) -> None:
    """To all and to one; the rest of what the handler sends does not."""
    async with running() as run:
        async with run.held():
            await run.client.emit("early", id=10)
            assert await run.client.receive_many(2) == [
                {"event": "early", "data": 2},
                {"event": "early", "data": 3},
            ]
            await nothing_comes(run.client)
        assert await run.client.receive_many(2) == [{"event": "late", "data": 1}, {"ack": 10, "data": None}]


async def test_what_is_emitted_to_another_room_waits_too(autojump_clock: MockClock) -> None:
    """And is not emitted where it cannot be made durable."""
    async with running() as run, connect(run.rooms, "board/x") as other:
        async with run.held():
            await run.client.emit("tell", "a", id=10)
            await nothing_comes(other)
        assert await other.receive() == {"event": "told", "data": "a"}
        run.store.fail_commits(full)
        with pytest.raises(EventError, match="not_saved"):
            await run.client.ask("tell", "b")
        await nothing_comes(other)


@pytest.mark.parametrize("how", ["refuse", "fail"])
async def test_what_a_handler_did_that_raised_stays(how: str, autojump_clock: MockClock) -> None:
    """Its changes are saved and what it sent goes out, and the error is the answer, in its place."""
    async with running() as run:
        async with run.held():
            await run.client.emit("raise", how, id=10)
            await nothing_comes(run.client)
        code = "refused" if how == "refuse" else "internal_error"
        sent, answer = await run.client.receive_many(2)
        assert sent == {"event": "raising", "data": how}
        assert (answer["ack"], answer["error"]["code"]) == (10, code)
        assert await run.stored() == {"balance": 0, "raised": how}
        with pytest.raises(EventError if how == "refuse" else HandlerFailed):
            await run.room.ask("raise", how)


async def test_what_asks_hears_of_it_when_it_is_durable(autojump_clock: MockClock) -> None:
    """The program, too."""
    async with running() as run:
        async with run.held(), trio.open_nursery() as nursery:
            answers: list[int] = []

            async def ask() -> None:
                answers.append(await run.room.ask("add", 2))

            nursery.start_soon(ask)
            await trio.sleep(20)
            assert answers == []
            nursery.cancel_scope.shield = True
            run.store._commit_gates[-1].release()
        assert answers == [2]


async def test_what_comes_from_outside_keeps_its_place(autojump_clock: MockClock) -> None:
    """Behind what the room's handlers have sent; with nothing waiting it goes at once."""
    async with running() as run:
        async with run.held():
            run.room.emit("notice", 1)
            assert await run.client.receive() == {"event": "notice", "data": 1}
            await run.client.emit("add", 3, id=10)
            await wait_all_tasks_blocked()
            assert run.room.emit("notice", 2).reached == 1
            await nothing_comes(run.client)
        assert [one.get("data") for one in await run.client.receive_many(3)] == [3, 3, 2]


# What waits for what.


async def test_what_was_handled_before_does_not_wait_for_a_handler_that_waits(
    autojump_clock: MockClock,
) -> None:
    """Once a handler was seen to hold up others, these are cut before it begins."""
    async with running() as run:
        async with run.held() as gate:  # It is seen.
            await run.client.emit("add", 1, id=10)
            await gate.wait_arrived()
            await run.client.emit("slow", 1, id=11)
            await wait_all_tasks_blocked()
        await run.client.receive_many(2)
        seen.go_on.set()
        assert (await run.client.receive())["ack"] == 11
        seen.go_on = trio.Event()
        async with run.held() as gate:
            await run.client.emit("add", 1, id=12)
            await gate.wait_arrived()
            await run.client.emit("add", 1, id=13)
            await run.client.emit("slow", 1, id=14)
            await wait_all_tasks_blocked()
            gate.release_one()
            await gate.wait_arrived(2)
        assert [one.get("ack") for one in await run.client.receive_many(4)] == [None, 12, None, 13]
        await nothing_comes(run.client)
        seen.go_on.set()
        assert (await run.client.receive())["ack"] == 14


async def test_half_a_handler_is_never_written(autojump_clock: MockClock) -> None:
    """However long it takes, and however much is written beside it."""
    async with running() as run:
        await run.client.emit("slow", 5, id=10)
        await seen.running.wait()
        await trio.sleep(100)
        assert await run.stored() == {"balance": 0}
        seen.go_on.set()
        assert (await run.client.receive())["ack"] == 10
        assert await run.stored() == {"balance": 0}


async def test_a_background_task_is_cut_between_messages(autojump_clock: MockClock) -> None:
    """What it emits leaves when what it changed is durable."""
    async with running() as run:
        await run.client.ask("work")
        async with run.held():
            seen.go_on.set()
            await nothing_comes(run.client)
        assert await run.client.receive() == {"event": "worked", "data": True}
        assert await run.stored() == {"balance": 0, "worked": True}


async def test_a_room_sleeps_only_when_all_has_gone_out(autojump_clock: MockClock) -> None:
    """And wakes with what it had."""
    async with running() as run:
        async with run.held() as gate:
            await run.client.emit("add", 3, id=10)
            await gate.wait_arrived()
            await trio.sleep(1000)
            assert run.room.info().stage is not Stage.ASLEEP
        await run.client.receive_many(2)
        await trio.sleep(1000)
        assert run.room.info().stage is Stage.ASLEEP
        assert await run.client.ask("get") == 3


async def test_a_destruction_comes_after_what_is_in_flight(autojump_clock: MockClock) -> None:
    """Who was in the gate is told before the room ends."""
    async with running() as run:
        async with run.held() as gate, trio.open_nursery() as nursery:
            await run.client.emit("add", 3, id=10)
            await gate.wait_arrived()
            nursery.start_soon(run.room.destroy)
            await nothing_comes(run.client)
            gate.release()
        assert [one.get("ack") for one in await run.client.receive_many(2)] == [None, 10]
        with pytest.raises(trio.EndOfChannel):
            await run.client.receive()
        assert await run.stored() is None


# What definitely cannot be made durable.


async def test_a_commit_that_failed_is_undone(autojump_clock: MockClock) -> None:
    """State and storage are as the store has them, and the room wakes to be told so."""
    async with running() as run:
        await run.client.ask("put", "a")
        run.store.fail_commits(full)
        with pytest.raises(EventError) as caught:
            await run.client.ask("add", 3)
        assert caught.value.code == "not_saved"
        assert await run.client.ask("text") == "a"
        assert seen.wakes == ["rollback"]
        run.store.fail_commits(full)
        with pytest.raises(EventError):
            await run.client.ask("put", "b")
        assert await run.client.ask("text") == "a"
        assert await run.client.ask("get") == 0
        await nothing_comes(run.client)


async def test_what_was_handled_behind_it_is_undone_as_well(autojump_clock: MockClock) -> None:
    """It was built on what there is not: each is told, the program too, and what comes later is handled."""
    async with running() as run:
        run.store.fail_commits(full)
        failed: list[NotSaved] = []

        async def ask() -> None:
            with pytest.raises(NotSaved) as caught:
                await run.room.ask("add", 1)
            failed.append(caught.value)

        async with run.held() as gate, trio.open_nursery() as nursery:
            await run.client.emit("add", 1, id=10)
            await gate.wait_arrived()
            await run.client.emit("add", 1, id=11)
            await run.client.emit("get", id=12)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            gate.release()
        answers = await run.client.receive_many(3)
        assert refusals(answers) == [(number, "not_saved") for number in (10, 11, 12)]
        assert isinstance(failed[0].__cause__, StoreFull)
        assert await run.client.ask("add", 5) == 5


@pytest.mark.parametrize("attachment", ["old", {"name": "old"}])
async def test_attachments_and_channels_go_back(attachment: Any, autojump_clock: MockClock) -> None:
    """Assigned, edited in place, joined: as they were."""
    async with running(attachment=attachment) as run:
        run.store.fail_commits(full)
        with pytest.raises(EventError, match="not_saved"):
            await run.client.ask("rename" if attachment == "old" else "edit", "new")
        assert await run.client.ask("who") == [attachment, [], []]
        await run.client.ask("rename", "newer")
        assert await run.client.ask("who") == ["newer", ["newer"], ["newer"]]
        run.store.fail_commits(full)
        with pytest.raises(EventError, match="not_saved"):
            await run.client.ask("rename", "newest")
        assert await run.client.ask("who") == ["newer", ["newer"], ["newer"]]


async def test_a_close_is_taken_back(autojump_clock: MockClock) -> None:
    """The connection goes on; what it sent after the call was not handled, and it is told so."""
    async with running() as run:
        run.store.fail_commits(full)
        await run.client.emit("leave", 1, id=10)
        await run.client.emit("add", 1, id=11)
        assert refusals(await run.client.receive_many(2)) == [(10, "not_saved"), (11, "not_saved")]
        assert await run.client.ask("add", 1) == 1


async def test_comings_and_goings_are_told_once_more(autojump_clock: MockClock) -> None:
    """They have happened, whatever the room made of them."""
    async with running() as run:
        run.store.fail_commits(full)
        async with connect(run.rooms, "ledger/x", attachment="marked") as other:
            await trio.sleep(1)
            assert await other.ask("get") == 0
            assert seen.greeted == 3
            assert seen.wakes == ["rollback"]
            assert await run.stored() == {"balance": 0, "came": 1}
            await run.client.ask("add", 1)
            assert await other.receive() == {"event": "balance", "data": 1}
        await trio.sleep(1)
        assert seen.gone == 1


async def test_a_state_that_cannot_be_written_is_undone(autojump_clock: MockClock) -> None:
    """As where the store refuses it."""
    async with running() as run:
        with pytest.raises(EventError, match="not_saved"):
            await run.client.ask("spoil")
        assert await run.client.ask("add", 1) == 1
        assert await run.stored() == {"balance": 1}


async def test_while_nothing_can_be_written_each_message_is_refused(
    autojump_clock: MockClock,
) -> None:
    """In time. The room is no crashed one, however often it goes back, and goes on when there is room."""
    async with running() as run:
        run.store.fail_commits(full, times=50)
        for _ in range(50):
            with trio.fail_after(2), pytest.raises(EventError, match="not_saved"):
                await run.client.ask("add", 1)
        assert await run.client.ask("add", 1) == 1
        assert run.rooms.statistics().supervisor.crashes == 0


async def test_story_6_who_cleans_up_writes_into_nothing(autojump_clock: MockClock) -> None:
    """The disk is full; the next handler waits, and emits and writes as it is cancelled: nothing of it is."""
    async with running() as run:
        run.store.fail_commits(full)
        async with run.held() as gate:
            await run.client.emit("add", 1, id=10)
            await gate.wait_arrived()
            await run.client.emit("slow", 1, id=11)
            await seen.running.wait()
        assert refusals(await run.client.receive_many(2)) == [(10, "not_saved"), (11, "not_saved")]
        assert await run.client.ask("get") == 0
        assert await run.store.get("ledger/x", "cleaned") is None
        await nothing_comes(run.client)


async def test_what_came_from_outside_stays(autojump_clock: MockClock) -> None:
    """It is no part of what the room's handlers do: it goes out behind what is durable, once."""
    async with running() as run:
        run.store.fail_commits(full)
        async with run.held() as gate:
            await run.client.emit("add", 1, id=10)
            await gate.wait_arrived()
            run.room.emit("notice", 1)
            run.room.emit("notice", 2)
            await nothing_comes(run.client)
        messages = await run.client.receive_many(3)
        assert [one.get("ack") or one["data"] for one in messages] == [10, 1, 2]
        await nothing_comes(run.client)


# What may be durable, and nobody knows.


@pytest.mark.parametrize("applied", [False, True])
async def test_an_outcome_that_is_not_known_is_found_out(applied: bool, autojump_clock: MockClock) -> None:
    """The same commit is sent again until it is: nothing leaves before, and nobody is told anything else."""
    async with running() as run:
        run.store.calls.clear()
        run.store.fail_commits(unknown, 5, applied=applied)
        began = trio.current_time()
        await run.client.emit("add", 3, id=10)
        assert await run.client.receive_many(2) == [{"event": "balance", "data": 3}, {"ack": 10, "data": 3}]
        assert trio.current_time() > began
        commits = run.commits()
        assert len({commit.nonce for commit in commits}) == 1
        assert len(commits) == 6
        assert seen.wakes == []


@pytest.mark.parametrize("applied", [False, True])
async def test_a_refusal_after_an_unknown_outcome_is_looked_into(
    applied: bool, autojump_clock: MockClock
) -> None:
    """The store says which commit it has last: a full disk does not make undone what was done."""
    async with running() as run:
        run.store.fail_commits(unknown, applied=applied)
        run.store.fail_commits(full)
        await run.client.emit("add", 3, id=10)
        answer = await run.client.receive()
        if applied:
            assert answer == {"event": "balance", "data": 3}
        else:
            assert answer["error"]["code"] == "not_saved"
        assert await run.stored() == {"balance": 3 if applied else 0}


@pytest.mark.parametrize("applied", [False, True])
async def test_a_refusal_is_looked_into_also_where_the_store_cannot_be_read_at_first(
    applied: bool, autojump_clock: MockClock
) -> None:
    """Nobody is told anything before, and the room does not lose its place over it."""
    async with running() as run:
        run.store.fail_commits(unknown, applied=applied)
        run.store.fail_commits(full)
        run.store.fail_loads(unknown, 3)
        await run.client.emit("add", 3, id=10)
        answer = await run.client.receive()
        if applied:
            assert answer == {"event": "balance", "data": 3}
        else:
            assert answer["error"]["code"] == "not_saved"
        assert await run.stored() == {"balance": 3 if applied else 0}


async def test_who_lost_its_place_gives_no_verdict(autojump_clock: MockClock) -> None:
    """Somebody else has written the room: whoever waits is to ask again, and the room is loaded anew."""
    async with running() as run:
        below = run.store.store
        head = await below.head("ledger/x")
        document = Snapshot("ledger", "x", 1, head.number + 1, below.epoch, b"\xa1gbalance\x18c").pack()
        await below.commit(Commit("ledger/x", head.number + 1, below.epoch, document))
        with pytest.raises(trio.EndOfChannel):
            await run.client.ask("add", 1)
        assert run.client.closed is not None
        assert run.client.closed.code == 1012
        assert await run.room.ask("get") == 99


# Half-run handlers.


async def test_a_handler_that_took_too_long_is_undone(autojump_clock: MockClock) -> None:
    """Half of it must not be seen by those after it."""
    room: Room[State] = Room("hasty", state=dict, durability="commit", handler_timeout=5)
    room.on("add")(_add)
    room.on("get")(_get)
    room.on("slow")(_slow)
    global seen  # noqa: PLW0603
    seen = Seen()
    async with open_rooms([room]) as rooms, connect(rooms, "hasty/x") as client:
        assert await client.ask("add", 1) == 1
        with pytest.raises(EventError, match="handler_timeout"):
            await client.ask("slow", 1)
        assert await client.ask("get") == 1
        with pytest.raises(HandlerFailed):
            await rooms.get("hasty", "x").ask("slow", 1)
        assert await client.ask("get") == 1


async def test_a_handler_that_is_cancelled_at_the_stop_is_not_saved(autojump_clock: MockClock) -> None:
    """What was handled before it and was on its way is; it is not, nor what it cleans up."""
    store = FaultyStore(MemoryStore())
    async with store.store:  # Opened twice below, and kept between.
        pass
    async with running(store=store) as run:
        await run.client.emit("add", 3, id=10)
        await run.client.receive_many(2)
        await run.client.emit("slow", 5, id=11)
        await seen.running.wait()
        await run.rooms.aclose()
        seen.go_on.set()
    async with store.store:
        rooms_state = Snapshot.of("ledger/x", (await store.store.load("ledger/x")).snapshots[0]).state
        assert rooms_state == b"\xa1gbalance\x03"
        assert await store.store.list("ledger/x") == []


async def test_a_crash_leaves_what_was_in_flight(autojump_clock: MockClock) -> None:
    """What was handled behind it is undone, and its senders are told that it was not saved."""
    async with running() as run:
        async with run.held() as gate:
            await run.client.emit("add", 3, id=10)
            await gate.wait_arrived()
            await run.client.emit("crash", 50, id=11)
            await wait_all_tasks_blocked()
        answers = await run.client.receive_many(3)
        assert answers[:2] == [{"event": "balance", "data": 3}, {"ack": 10, "data": 3}]
        assert (answers[2]["ack"], answers[2]["error"]["code"]) == (11, "not_saved")
        assert await run.client.ask("get") == 3
        assert seen.wakes == ["crash"]


# Plain rooms.

plain: Room[list[str]] = Room("plain", state=list, durability="commit")


@plain.on_message
async def _got(ctx: Context[list[str]], message: str | bytes) -> None:
    ctx.state.append(str(message))
    ctx.room.send(f"got {message!s}")


async def test_a_plain_room_has_a_gate_too(autojump_clock: MockClock) -> None:
    """It has no answers, so whose message could not be saved is closed."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([plain], store=store) as rooms, connect(rooms, "plain/x") as client:
        async with held(store):
            await client.send("a")
            await nothing_comes(client)
        assert await client.receive() == "got a"
        store.fail_commits(full)
        await client.send("b")
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed is not None
        assert client.closed.code == 1011
        assert await rooms.get("plain", "x").peek() == ["a"]


def test_what_waits_is_told_by_its_name() -> None:
    """Anything else is refused at the definition."""
    with pytest.raises(DefinitionError, match='"snapshot" or "commit"'):
        Room("x", durability="always")  # type: ignore[arg-type]


async def test_a_hook_that_waits_as_a_commit_fails_is_called_once_more(autojump_clock: MockClock) -> None:
    """And not twice: what has happened is told anew, each thing once."""
    async with running() as run:
        run.store.fail_commits(full)
        async with run.held() as gate:
            await run.client.emit("add", 1, id=10)
            await gate.wait_arrived()
            async with connect(run.rooms, "ledger/x", attachment="slow") as other:
                await seen.running.wait()
                gate.release()
                assert refusals([await run.client.receive()]) == [(10, "not_saved")]
                seen.go_on.set()
                assert await other.ask("get") == 0
        assert seen.greeted == 3  # Of the client, and of the other one twice.


async def test_at_the_stop_nobody_waits_for_what_is_never_known(autojump_clock: MockClock) -> None:
    """A caller is told so in time, and no client is told anything that may not be true."""
    async with running() as run:
        run.store.fail_commits(unknown, times=1_000_000)
        failed: list[RoomsClosed] = []

        async def ask() -> None:
            with pytest.raises(RoomsClosed) as caught:
                await run.room.ask("add", 1, timeout=1000)
            failed.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await run.client.emit("add", 1, id=10)
            await trio.sleep(1)
            await run.rooms.aclose()
        assert len(failed) == 1
        with pytest.raises(trio.EndOfChannel):
            await run.client.receive()


@pytest.mark.parametrize("kind", ["socket", "websocket"])
async def test_what_leaves_together_comes_as_it_was(kind: str) -> None:
    """Several messages to one connection are one write; each is a message all the same."""
    async with open_rooms([ledger]) as rooms, trio.open_nursery() as nursery:
        if kind == "socket":
            address = await nursery.start(rooms.serve, "127.0.0.1", 0)
            port = address.port
        else:

            async def adopt(request: trio_websocket.WebSocketRequest) -> None:
                await rooms.adopt(request, "ledger", "y")

            serve = partial(trio_websocket.serve_websocket, adopt, "127.0.0.1", 0, ssl_context=None)
            port = (await nursery.start(serve)).port
        async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{port}/ledger/y") as client:
            for number in range(1, 11):
                await client.send_message(json.dumps({"event": "add", "data": 1, "id": number}))
            got = [json.loads(await client.get_message()) for _ in range(20)]
        assert [one["ack"] for one in got if "ack" in one] == list(range(1, 11))
        assert [one["data"] for one in got if "event" in one] == list(range(1, 11))
        nursery.cancel_scope.cancel()


async def test_a_greeting_that_takes_too_long_is_not_told_again(autojump_clock: MockClock) -> None:
    """Else the room would go back for it for ever; the client is closed, and others are let in."""
    room: Room[State] = Room("hasty", state=dict, durability="commit", handler_timeout=5)
    room.on("add")(_add)
    room.on_connect(_came)
    global seen  # noqa: PLW0603
    seen = Seen()
    async with open_rooms([room]) as rooms:
        async with connect(rooms, "hasty/x", attachment="slow") as client:
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
            assert client.closed is not None
            assert client.closed.code == 1011
        await trio.sleep(60)
        assert seen.greeted == 1
        async with connect(rooms, "hasty/x") as client:
            assert await client.ask("add", 1) == 1


async def test_it_is_said_aloud_that_nothing_can_be_saved(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and once that it can be again."""
    async with running() as run:
        run.store.fail_commits(full, times=5)
        for _ in range(5):
            with pytest.raises(EventError, match="not_saved"):
                await run.client.ask("add", 1)
        await run.client.ask("add", 1)
    assert caplog.text.count("goes back to what is in the store") == 1
    assert "no room" in caplog.text


async def test_looking_at_a_stored_state_leaves_no_cycle(autojump_clock: MockClock) -> None:
    """Whoever peeks often leaves nothing to the garbage collector."""
    async with running() as run:
        await run.stored()
        gc.collect()
        gc.disable()
        try:
            await run.stored()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            assert [one for one in gc.garbage if type(one).__name__ in ("Record", "Gate")] == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


@ledger.on("grow")
async def _grow(ctx: Context[State], data: int) -> int:
    ctx.state["big"] = "x" * data
    return data


@ledger.on("tidy")
async def _tidy(ctx: Context[State]) -> None:
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ctx.state["tidied"] = True
            ctx.room.emit("tidied", True)

    ctx.room.start_soon(work)


async def test_a_large_state_is_cut_between_messages() -> None:
    """It is encoded in a thread, while the room waits; what comes meanwhile is handled later."""
    async with running() as run:
        assert await run.client.ask("grow", 300_000) == 300_000
        for number in range(10, 20):
            await run.client.emit("add", 1, id=number)
        answers = [await run.client.receive() for _ in range(20)]
        assert [one["ack"] for one in answers if "ack" in one] == list(range(10, 20))
        assert [one["data"] for one in answers if "event" in one] == list(range(1, 11))
        assert (await run.stored())["balance"] == 10
        run.store.fail_commits(full)
        with pytest.raises(EventError, match="not_saved"):
            await run.client.ask("add", 1)
        assert await run.client.ask("get") == 10
        assert await run.room.hibernate()
        assert await run.client.ask("add", 1) == 11


async def test_what_tasks_do_as_the_room_sleeps_is_durable_and_heard(autojump_clock: MockClock) -> None:
    """They are cancelled, and clean up: that is no handler, and no half of one."""
    async with running() as run:
        await run.client.ask("tidy")
        async with run.held() as gate, trio.open_nursery() as nursery:
            nursery.start_soon(run.room.hibernate)
            await gate.wait_arrived()
            await nothing_comes(run.client)
            gate.release()
        assert await run.client.receive() == {"event": "tidied", "data": True}
        assert await run.stored() == {"balance": 0, "tidied": True}
        assert await run.client.ask("get") == 0


async def test_a_room_that_does_more_than_is_written_takes_no_mail(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits at the gate is bounded; all of it comes in the end."""
    monkeypatch.setattr(gate_module, "_MOST_JOBS", 10)
    async with running() as run, connect(run.rooms, "ledger/x") as other:
        async with run.held() as gate:
            for number in range(10, 40):
                await run.client.emit("add", 1, id=number)
                await wait_all_tasks_blocked()
            await gate.wait_arrived()
            assert run.room.info().mailbox > 10
        answers = [await run.client.receive() for _ in range(60)]
        assert [one["ack"] for one in answers if "ack" in one] == list(range(10, 40))
        assert [(await other.receive())["data"] for _ in range(30)] == list(range(1, 31))


async def test_at_the_stop_who_waits_behind_what_is_never_known_is_told(autojump_clock: MockClock) -> None:
    """What was handled behind it is dropped, and its caller does not wait for ever."""
    async with running() as run:
        run.store.fail_commits(unknown, times=1_000_000)
        failed: list[RoomsClosed] = []

        async def ask() -> None:
            with pytest.raises(RoomsClosed) as caught:
                await run.room.ask("add", 1, timeout=1000)
            failed.append(caught.value)

        async with trio.open_nursery() as nursery:
            await run.client.emit("add", 1, id=10)
            await trio.sleep(1)
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.sleep(1)
            await run.rooms.aclose()
        assert len(failed) == 2
