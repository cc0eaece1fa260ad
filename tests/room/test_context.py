"""What is changed through a context is kept, at every moment of its life; after that it raises."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    Disconnect,
    MemoryStore,
    Room,
    RoomHandle,
    Rooms,
    SnapshotCorrupt,
    Stage,
    StaleContext,
    StoreError,
    open_rooms,
)
from trio_rooms.stores import Commit
from trio_rooms.testing import Closed, FaultyStore, MemoryClient, connect

State = dict[str, Any]


@attrs.define(eq=False)
class Journal:
    """What handlers gave to the test, since they can reach nothing else."""

    context: Any = None
    """The context that was kept."""
    connections: Any = None
    left: list[Any] = attrs.field(factory=list)
    """The attachments of those who left."""
    gate: trio.Event = attrs.field(factory=trio.Event)
    """What tasks wait for."""


journal = Journal()


@pytest.fixture(autouse=True)
def _new_journal() -> None:
    journal.__init__()  # type: ignore[misc]


async def _keep(ctx: Context[State]) -> None:
    """Let the context escape."""
    journal.context, journal.connections = ctx, ctx.room.connections
    ctx.connection.attachment = {"name": "ada"}


async def _set(ctx: Context[State], data: State) -> None:
    ctx.state.update(data)


async def _get(ctx: Context[State]) -> State:
    return ctx.state


async def _names(ctx: Context[State]) -> list[str]:
    return list(await ctx.room.storage.list())


async def _look(ctx: Context[State]) -> Any:
    return ctx.connection.attachment


async def _assign(ctx: Context[State]) -> None:
    """Edit what was assigned, before the handler has ended."""
    me = {"name": "ada"}
    ctx.connection.attachment = me
    me["role"] = "admin"


async def _start(ctx: Context[State], data: str) -> None:
    ctx.state["begun"] = True
    ctx.connection.attachment = {"name": "bob"}
    ctx.room.start_soon(TASKS[data], ctx, keep_awake=data == "holds")


def _change(ctx: Context[State]) -> None:
    """Change all that a room has."""
    ctx.state["changed"] = True
    ctx.room.storage.put("changed", True)
    ctx.connection.attachment["changed"] = True
    ctx.connection.join("changed")


async def _edit(ctx: Context[State]) -> None:
    """Have a task edit each attachment, and go on with another thing."""
    ctx.room.start_soon(_edit_all, ctx)


async def _edit_all(ctx: Context[State]) -> None:
    for connection in ctx.room.connections:
        connection.attachment["edited"] = True
    await trio.sleep_forever()


async def _at_once(ctx: Context[State]) -> None:
    _change(ctx)


async def _when_told(ctx: Context[State]) -> None:
    await journal.gate.wait()
    _change(ctx)


async def _as_it_is_cancelled(ctx: Context[State]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        _change(ctx)


async def _what_it_held(ctx: Context[State]) -> None:
    """Edit what was asked for long before, and settled since."""
    state, attachment = ctx.state, ctx.connection.attachment
    try:
        await trio.sleep_forever()
    finally:
        state["changed"] = attachment["changed"] = True
        ctx.room.storage.put("changed", True)
        ctx.connection.join("changed")


async def _raise(_ctx: Context[State], _error: Exception) -> None:
    msg = "on_error raised"
    raise RuntimeError(msg)


async def _crash(_ctx: Context[State]) -> None:
    msg = "on purpose"
    raise RuntimeError(msg)


async def _change_and_wait(ctx: Context[State]) -> None:
    """Half of a change, and then a crash."""
    ctx.state["half"] = True
    await journal.gate.wait()
    msg = "on purpose"
    raise RuntimeError(msg)


TASKS: dict[str, Callable[[Context[State]], Awaitable[None]]] = {
    "at once": _at_once,
    "when told": _when_told,
    "holds": _when_told,
    "as it is cancelled": _as_it_is_cancelled,
    "what it held": _what_it_held,
}


def make_room(**options: Any) -> Room[State]:
    """A room with all handlers."""
    room: Room[State] = Room("room", state=dict, idle_timeout=1000, **options)
    handlers: dict[str, Callable[..., Awaitable[Any]]] = {
        "keep": _keep, "set": _set, "get": _get, "names": _names, "look": _look, "assign": _assign,
        "start": _start, "crash": _crash, "edit": _edit, "change and wait": _change_and_wait,
    }  # fmt: skip
    for name, handler in handlers.items():
        room.on(name)(handler)
    room.on_error(_raise)
    return room


@attrs.frozen
class Run:
    """One room and one client in it."""

    rooms: Rooms
    room: RoomHandle
    client: MemoryClient
    store: FaultyStore


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Run]:
    """Run the room."""
    store = FaultyStore(MemoryStore())
    async with (
        open_rooms([make_room(**options)], store=store) as rooms,
        connect(rooms, "room/x") as client,
    ):
        yield Run(rooms, rooms.get("room", "x"), client, store)


def uses(ctx: Context[State]) -> dict[str, Callable[[], Any]]:
    """Each way to change a room or to look at it through a context."""
    room, connection, storage = ctx.room, ctx.connection, ctx.room.storage

    async def nothing() -> None:
        """A task."""

    def keep_awake() -> None:
        with room.keep_awake("reason"):
            """Nothing."""

    def set_state() -> None:
        ctx.state = {"lost": True}

    def set_attachment() -> None:
        connection.attachment = "lost"

    return {
        "state": lambda: ctx.state,
        "set state": set_state,
        "storage.put": lambda: storage.put("lost", 1),
        "storage.delete": lambda: storage.delete("lost"),
        "storage.get": lambda: storage.get("lost"),
        "storage.list": storage.list,
        "start_soon": lambda: room.start_soon(nothing),
        "keep_awake": keep_awake,
        "emit": lambda: room.emit("lost"),
        "destroy": room.destroy,
        "connections": lambda: room.connections,
        "channels": lambda: room.channels,
        "a kept connections": lambda: list(journal.connections),
        "attachment": lambda: connection.attachment,
        "set attachment": set_attachment,
        "join": lambda: connection.join("lost"),
        "leave": lambda: connection.leave("lost"),
    }


async def went_through(ctx: Context[State]) -> list[str]:
    """Which of them do not raise `StaleContext`."""
    through = []
    for name, use in uses(ctx).items():
        try:
            result = use()
            if hasattr(result, "__await__"):
                await result
        except StaleContext as error:
            assert str(error).startswith("room room/x: "), name  # noqa: PT017 (all are tried)
        else:
            through.append(name)
    return through


@pytest.mark.parametrize("end", ["hibernate", "destroy", "the next life"])
async def test_a_context_that_escaped_raises(end: str, autojump_clock: MockClock) -> None:
    """It writes neither into nothing nor into another life of the room; the connection outlives the sleep."""
    async with running() as run:
        await run.client.emit("keep")
        await run.client.ask("set", {"n": 1})
        ctx = journal.context
        if end == "destroy":
            await run.room.destroy()
        else:
            assert await run.room.hibernate()
        await wait_all_tasks_blocked()
        if end == "the next life":
            assert await run.client.ask("get") == {"n": 1}
        empty = ["a kept connections"] if end == "destroy" else []
        assert await went_through(ctx) == empty
        ctx.connection.emit("hello")
        if end == "destroy":
            assert ctx.connection.closed
            assert await run.room.ask("get") == {}
        else:
            assert (await run.client.receive())["event"] == "hello"
            assert await run.client.ask("get") == {"n": 1}
            assert await run.client.ask("look") == {"name": "ada"}
            assert await run.room.ask("names") == []
            ctx.connection.close(4000)
            with pytest.raises(trio.EndOfChannel):
                await run.client.receive()
            assert run.client.closed == Closed(4000, "")


async def test_nothing_changes_while_what_tasks_changed_last_is_saved(autojump_clock: MockClock) -> None:
    """From the end of the tasks on a context is over, so that one save has all of it."""
    async with running() as run:
        await run.client.emit("keep")
        await run.client.ask("start", "as it is cancelled")
        assert await run.client.ask("look") == {"name": "bob"}
        ctx = journal.context
        assert await run.room.hibernate()
        gate = run.store.hold_commits()
        ctx.state["n"] = 1
        await gate.wait_arrived()
        assert await went_through(ctx) == ["emit"]  # Which reaches who is there.
        gate.release()
        await is_changed(run, n=1)


@pytest.mark.parametrize("how", ["state", "storage"])
@pytest.mark.parametrize("turns", range(8))
async def test_a_change_from_outside_is_kept_or_refused(
    how: str, turns: int, autojump_clock: MockClock
) -> None:
    """A task of the program changes something as the room falls asleep: at no moment does it go nowhere."""
    async with running() as run:
        for number in range(1, 6):  # Trio runs what is ready in one turn in any order.
            await run.client.ask("set", {"n": 0})
            await run.client.emit("keep")
            await run.client.ask("get")
            went: list[bool] = []

            async def change(ctx: Context[State], number: int, went: list[bool]) -> None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                try:
                    if how == "state":
                        ctx.state["n"] = number
                    else:
                        ctx.room.storage.put(f"n{number}", number)
                except StaleContext:
                    went.append(False)
                else:
                    went.append(True)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(change, journal.context, number, went)
                nursery.start_soon(run.room.hibernate)
            there = (await run.client.ask("get"))["n"] == number or f"n{number}" in await run.room.ask(
                "names"
            )
            assert went == [there]


async def test_while_a_room_starts_again_there_is_nothing_to_change(autojump_clock: MockClock) -> None:
    """After a crash a context has no state until the room is loaded, and its connection is over."""
    async with running() as run:
        await run.client.ask("set", {"n": 1})
        await run.client.emit("keep")
        await run.client.emit("crash")
        with trio.fail_after(1):
            while run.room.info().stage is not Stage.RESTARTING:
                await trio.lowlevel.checkpoint()
        ctx = journal.context
        assert await went_through(ctx) == ["emit"]
        await trio.sleep(1)
        assert run.room.info().stage is Stage.AWAKE
        with pytest.raises(StaleContext):
            ctx.connection.attachment = "lost"
        assert await run.client.ask("look") == {"name": "ada"}
        ctx.state["n"] = 2
        assert await run.client.ask("get") == {"n": 2}


async def test_what_was_assigned_may_still_be_edited(autojump_clock: MockClock) -> None:
    """As what was asked for may be, until the handler has ended."""
    async with running() as run:
        await run.client.ask("assign")
        assert await run.room.hibernate()
        assert await run.client.ask("look") == {"name": "ada", "role": "admin"}


async def is_changed(run: Run, **more: Any) -> None:
    """All that was changed is there."""
    assert await run.client.ask("get") == {"begun": True, "changed": True, **more}
    assert await run.room.ask("names") == ["changed"]
    assert await run.client.ask("look") == {"name": "bob", "changed": True}
    assert run.room.info().channels == ("changed",)


@pytest.mark.parametrize("task", ["at once", "as it is cancelled", "what it held"])
async def test_what_a_task_changes_is_kept(task: str, autojump_clock: MockClock) -> None:
    """Whether it has ended when the room sleeps, or is cancelled by that: what holds it up is waited for."""
    async with running() as run:
        await run.client.ask("start", task)
        await trio.sleep(10)
        await run.client.ask("look")
        assert await run.room.hibernate()
        await is_changed(run)
        assert run.rooms.statistics().supervisor.crashes == 0


async def _left(_ctx: Context[State], left: Disconnect) -> None:
    journal.left.append(left.attachment)


async def test_a_departure_has_what_a_task_edited(autojump_clock: MockClock) -> None:
    """`Disconnect.attachment` is what was known of the connection, also where no handler ran since."""
    room = make_room()
    room.on_disconnect(_left)
    async with open_rooms([room]) as rooms:
        async with connect(rooms, "room/x") as client:
            await client.ask("start", "when told")
            await trio.sleep(1)
            await rooms.get("room", "x").ask("edit")
        await trio.sleep(1)
    assert journal.left == [{"name": "bob", "edited": True}]


@pytest.mark.parametrize("task", ["as it is cancelled", "what it held"])
async def test_what_a_task_changes_at_the_stop_is_kept(task: str, autojump_clock: MockClock) -> None:
    """The stop waits until it has ended, and is saved, however slow the store is."""
    memory = MemoryStore()
    async with (
        open_rooms([make_room()], store=FaultyStore(memory, delay=0.3)) as rooms,
        connect(rooms, "room/x") as client,
    ):
        await client.ask("start", task)
        await trio.sleep(10)
    async with open_rooms([make_room()], store=memory) as rooms:
        assert await rooms.get("room", "x").ask("get") == {"begun": True, "changed": True}
        assert await rooms.get("room", "x").ask("names") == ["changed"]


@pytest.mark.parametrize("task", ["when told", "holds"])
async def test_what_changes_during_the_last_commit_is_kept(task: str, autojump_clock: MockClock) -> None:
    """By a task that ends in it, as by one that does not."""
    async with running(snapshot_interval=1000) as run:
        await run.client.ask("start", task)
        gate = run.store.hold_commits()
        async with trio.open_nursery() as nursery:
            if task == "holds":
                run.rooms._supervisor._actors[
                    "room/x"
                ].stop()  # What holds it awake does not count at the stop.
            else:
                nursery.start_soon(run.room.hibernate)
            await gate.wait_arrived()
            journal.gate.set()
            await wait_all_tasks_blocked()
            gate.release()
        await wait_all_tasks_blocked()
        assert run.room.info().stage is Stage.ASLEEP
        await is_changed(run)


async def test_what_the_program_changes_through_a_context_is_kept(autojump_clock: MockClock) -> None:
    """It is saved within the interval although no handler ran; a change in the last commit is written too."""
    async with running() as run:
        await run.client.emit("keep")
        await trio.sleep(10)
        journal.context.state["a"] = 1
        await trio.sleep(1)
        assert await run.room.peek() == {"a": 1}
        gate = run.store.hold_commits()
        journal.context.state["b"] = 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.room.hibernate)
            await gate.wait_arrived()
            journal.context.state["c"] = 1
            gate.release()
        assert await run.room.peek() == {"a": 1, "b": 1, "c": 1}


async def test_who_changes_a_room_all_the_time_cannot_hold_up_the_stop(autojump_clock: MockClock) -> None:
    """It ends in a step after which nothing is changed, and before which all is saved."""
    memory, changes = MemoryStore(), 0

    async def go_on(ctx: Context[State]) -> None:
        nonlocal changes
        with contextlib.suppress(StaleContext):
            while True:
                ctx.state["n"] = changes + 1
                changes += 1
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        store = FaultyStore(memory, delay=0.1)
        async with open_rooms([make_room()], store=store) as rooms, connect(rooms, "room/x") as client:
            await client.ask("keep")
            nursery.start_soon(go_on, journal.context)
    assert changes > 30  # in each of the tries
    async with open_rooms([make_room()], store=memory) as rooms:
        assert await rooms.get("room", "x").ask("get") == {"n": changes}


async def test_a_value_that_is_damaged_is_its_readers_error(autojump_clock: MockClock) -> None:
    """It is named, whether the store finds it out or its bytes do; the room goes on."""
    async with running() as run:
        await run.client.emit("keep")
        await trio.sleep(1)
        storage = journal.context.room.storage
        storage.put("a", 1)
        storage.put("b", 1)
        await trio.sleep(10)
        number = (await run.store.head("room/x")).number
        await run.store.commit(Commit("room/x", number + 1, 1, writes={"b": b"\xff"}))
        run.store.damage_value("room/x", "a")
        with pytest.raises(StoreError, match="'a' in storage is damaged"):
            await storage.get("a")
        for read in (storage.get("b"), storage.list("b")):
            with pytest.raises(SnapshotCorrupt, match=r"room room/x: storage\['b'\] does not decode"):
                await read
        assert await run.client.ask("get") == {}


async def test_what_tasks_changed_last_is_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Until the store takes it, or the stop is over; who writes to the room meanwhile waits."""
    async with running() as run:
        await run.client.ask("start", "as it is cancelled")
        await trio.sleep(10)
        assert await run.room.hibernate()
        run.store.fail_commits(StoreError("gone"), 10)
        await is_changed(run)
        assert not [one for one in caplog.records if one.levelno == logging.CRITICAL]
        await run.client.ask("start", "as it is cancelled")
        await trio.sleep(10)
        assert await run.room.hibernate()
        run.store.fail_commits(StoreError("gone"), 1000)
        await run.client.emit("get")
        await trio.sleep(100)
        before = trio.current_time()
    assert trio.current_time() - before < 30
    [record] = [one for one in caplog.records if "changed last" in one.getMessage()]
    assert record.levelno == logging.CRITICAL
    assert record.getMessage() == "room room/x: what its tasks changed last is lost: gone"


@pytest.mark.parametrize("slow", [False, True])
async def test_no_save_that_waits_writes_what_a_crash_left(slow: bool, autojump_clock: MockClock) -> None:
    """A state in doubt is not saved behind a slow commit, nor while tasks of the crashed room unwind."""
    async with running(snapshot_interval=1) as run:
        await run.client.ask("set", {"n": 1})
        gate = run.store.hold_commits()
        await gate.wait_arrived()
        if slow:
            await run.client.emit("start", "as it is cancelled")
        else:
            await run.room.ask("set", {"n": 2})
            gate.release_one()
            await gate.wait_arrived(2)
        await run.client.emit("change and wait")
        await trio.sleep(3)
        journal.gate.set()
        await wait_all_tasks_blocked()
        gate.release()
        found = await run.client.ask("get")
        assert "half" not in found
        assert found["n"] in {1, 2}
