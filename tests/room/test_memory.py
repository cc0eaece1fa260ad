"""What a room leaves in memory when it sleeps: nothing, without the garbage collector's help."""

from __future__ import annotations

import collections
import contextlib
import gc
import logging
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    EventError,
    MemoryStore,
    NotSaved,
    Room,
    RoomFailed,
    Rooms,
    StaleWrite,
    StoreFull,
    open_rooms,
)
from trio_rooms.testing import FaultyStore, connect

SIZE = 100_000
"""Bytes of each room's state: one that stays is seen beside all else, and none is encoded in a thread."""

room: Room[dict[str, Any]] = Room("chat", state=dict, idle_timeout=30, snapshot_interval=1000)
gated: Room[dict[str, Any]] = Room("chat", state=dict, idle_timeout=30, durability="commit")
eager: Room[dict[str, Any]] = Room("chat", state=dict, idle_timeout=30, snapshot_interval=1000)


@gated.on("fill")
@room.on("fill")
async def fill(ctx: Context[dict[str, Any]], data: Any = None) -> None:
    """Use what a handler can use."""
    ctx.state["big"] = "x" * SIZE
    ctx.room.storage.put("name", data)
    assert await ctx.room.storage.get("name") == data
    if ctx.from_connection:
        ctx.connection.attachment = {"seen": [data]}
        ctx.connection.attachment["seen"].append(1)
        ctx.connection.join("red")
    ctx.room.emit("filled", len(ctx.room.connections))


@eager.on("say")
def say(ctx: Context[dict[str, Any]], data: str) -> None:
    """Use what one without an await can use, and raise, if that is said."""
    ctx.state["big"] = "x" * SIZE
    ctx.connection.attachment = {"seen": [data]}
    ctx.connection.attachment["seen"].append(1)
    ctx.room.emit("said", data)
    if data == "raise":
        raise ValueError(data)


@eager.on_error
async def on_error(ctx: Context[dict[str, Any]], error: Exception) -> None:
    """Wait for a moment."""
    await trio.lowlevel.checkpoint()


@gated.on("durably")
@room.on("durably", durable=True)
async def durably(ctx: Context[dict[str, Any]], data: Any = None) -> None:
    """The same, behind a gate."""
    await fill(ctx, data)


@gated.on("task")
@room.on("task")
async def task(ctx: Context[dict[str, Any]]) -> None:
    """Start a background task that the room's sleep cancels, and one that ends."""
    ctx.room.start_soon(trio.sleep_forever)
    ctx.room.start_soon(trio.sleep, 1, keep_awake=True)


@gated.on("crash")
@room.on("crash")
async def crash(ctx: Context[dict[str, Any]]) -> None:
    """Crash the room by a background task."""
    ctx.room.start_soon(_raise)
    await trio.sleep(1)


@gated.on("refuse")
@room.on("refuse")
async def refuse(ctx: Context[dict[str, Any]]) -> None:
    """Refuse."""
    code = "no"
    raise EventError(code)


async def _raise() -> None:
    msg = "on purpose"
    raise ValueError(msg)


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    """No garbage collector, and no log, whose records hold what they tell of."""
    gc.collect()
    gc.disable()
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()
        gc.collect()


def garbage() -> dict[str, int]:
    """What only the collector would find of this library's objects now, by the names of their classes."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return dict(
            collections.Counter(
                type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("trio_rooms")
            )
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


async def one_message(rooms: Rooms, number: int) -> None:
    """Asked by the program, then put to sleep."""
    handle = rooms.get("chat", str(number))
    await handle.ask("fill", number)
    assert await handle.hibernate()


async def with_a_socket(rooms: Rooms, number: int) -> None:
    """Spoken to by a client that stays while the room sleeps and wakes."""
    async with connect(rooms, f"chat/{number}") as client:
        for _ in range(2):
            await client.emit("fill", number, id=1)
            await client.receive_many(2)
            await trio.sleep(60)


async def with_tasks(rooms: Rooms, number: int) -> None:
    """With background tasks, one of which its sleep cancels."""
    handle = rooms.get("chat", str(number))
    await handle.ask("task")
    await trio.sleep(60)


async def refused(rooms: Rooms, number: int) -> None:
    """Handlers that refuse, and events that nobody handles."""
    handle = rooms.get("chat", str(number))
    for event in ("refuse", "nothing"):
        with contextlib.suppress(EventError):
            await handle.ask(event)
    await trio.sleep(60)


async def destroyed(rooms: Rooms, number: int) -> None:
    """Destroyed while it is awake."""
    handle = rooms.get("chat", str(number))
    await handle.ask("fill", number)
    await handle.destroy()


async def behind_a_gate(rooms: Rooms, number: int) -> None:
    """With a durable handler, and what is emitted from outside meanwhile."""
    handle = rooms.get("chat", str(number))
    async with connect(rooms, f"chat/{number}") as client, trio.open_nursery() as nursery:
        nursery.start_soon(handle.ask, "durably", number)
        await trio.lowlevel.checkpoint()
        handle.emit("notice", number)
        await client.receive_many(2)
    assert await handle.hibernate()


WAYS: list[Callable[[Rooms, int], Awaitable[None]]] = [
    one_message,
    with_a_socket,
    with_tasks,
    refused,
    destroyed,
]


@pytest.mark.parametrize("of", [room, gated], ids=["snapshot", "commit"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_room_that_sleeps_leaves_no_cycle(
    way: Callable[[Rooms, int], Awaitable[None]], of: Room[Any], autojump_clock: MockClock
) -> None:
    """However a room came to its sleep, nothing of it waits for the garbage collector."""
    async with open_rooms([of]) as rooms:
        await way(rooms, 0)
        garbage()
        for number in range(1, 4):
            await way(rooms, number)
        await wait_all_tasks_blocked()
        assert rooms.statistics().supervisor.awake == 0
        assert garbage() == {}


async def test_plain_functions_leave_no_cycle(autojump_clock: MockClock) -> None:
    """Nor what they raised, and was left to the task of their room."""
    async with open_rooms([eager]) as rooms:
        for number in range(3):
            async with connect(rooms, f"chat/{number}") as client:
                for what in ("a", "b", "raise", "raise", "c"):
                    await client.emit("say", what)
                    await wait_all_tasks_blocked()
                await trio.sleep(60)
            assert rooms.statistics().supervisor.awake == 0
            if number:
                assert garbage() == {}
            else:
                garbage()


async def test_what_crashes_leaves_no_room_behind(autojump_clock: MockClock) -> None:
    """Of a room that crashed, failed to load or was not saved, no part stays once it sleeps."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([room], store=store) as rooms:
        for number in range(3):
            handle = rooms.get("chat", str(number))
            await handle.ask("fill", number)
            with contextlib.suppress(RoomFailed):
                await handle.ask("crash")
            store.fail_commits(lambda: StoreFull("on purpose"), times=2, key=handle.key)
            await trio.sleep(200)
        assert rooms.statistics().supervisor.awake == 0
        assert not {"Actor", "Saver", "Members", "Context"} & garbage().keys()


async def test_what_went_back_leaves_no_room_behind(autojump_clock: MockClock) -> None:
    """Nor does the error of the store that it went back for."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([gated], store=store) as rooms:
        for number in range(3):
            handle = rooms.get("chat", str(number))
            store.fail_commits(lambda: StoreFull("on purpose"), times=2)
            async with connect(rooms, f"chat/{number}") as client:
                await client.emit("fill", number, id=1)
                await client.receive()
                with contextlib.suppress(NotSaved):
                    await handle.ask("fill", number)
                await handle.ask("fill", number)
            await trio.sleep(200)
        assert rooms.statistics().supervisor.awake == 0
        assert garbage() == {}


async def test_a_stale_room_leaves_no_cycle(autojump_clock: MockClock) -> None:
    """Nor does the error of the save that crashed it, which has the frames that encoded the state."""
    store = FaultyStore(MemoryStore())
    soon: Room[dict[str, Any]] = Room("soon", state=dict, idle_timeout=30, snapshot_interval=1)
    soon.on("fill")(fill)
    async with open_rooms([soon], store=store) as rooms:
        for number in range(3):
            store.fail_commits(lambda: StaleWrite("on purpose"))
            await rooms.get("soon", str(number)).ask("fill", number)
            await trio.sleep(100)
            assert not {"Saver", "Record", "StaleWrite"} & garbage().keys()
        assert rooms.statistics().supervisor.crashes == 3


async def test_waves_end_with_the_memory_that_they_began_with() -> None:
    """A hundred rooms that wake and sleep take no more memory than five did before them.

    But for a few hundred bytes each that Trio keeps of deadlines that are over, of a thousand at most.
    """

    @contextlib.asynccontextmanager
    async def measured() -> AsyncIterator[list[int]]:
        sizes: list[int] = []
        tracemalloc.start()
        try:
            yield sizes
        finally:
            tracemalloc.stop()

    async with open_rooms([room], store=Forgetful()) as rooms, measured() as sizes:
        for wave in (range(5), range(5, 105)):
            for number in wave:
                await rooms.get("chat", str(number)).ask("fill", number)
            for number in wave:
                assert await rooms.get("chat", str(number)).hibernate()
            await wait_all_tasks_blocked()
            sizes.append(tracemalloc.get_traced_memory()[0])
        assert sizes[1] - sizes[0] < SIZE


class Forgetful(MemoryStore):
    """A store that keeps nothing, so that what it has is not in the way of what is measured."""

    async def commit(self, commit: Any) -> None:
        """Nothing."""
        await trio.lowlevel.checkpoint()
