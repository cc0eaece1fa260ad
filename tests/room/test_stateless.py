"""Rooms without state: of those that nothing else is stored of the store has nothing at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

from tests.users.dens import JSON
from trio_rooms import Context, MemoryStore, Room, Rooms, StoreError, WakeReport, open_rooms
from trio_rooms._cli.export import export
from trio_rooms._state.snapshot import Snapshot
from trio_rooms.stores import Commit, Store
from trio_rooms.testing import FaultyStore, connect

Durability = Literal["snapshot", "commit"]
KEY = "hall/x"
NOTHING = b"\xf6"
"""No state, as CBOR has it."""


def hall(durability: Durability = "snapshot", **options: Any) -> Room[Any]:
    """A room without state, with a few ways of leaving something behind all the same."""
    room: Room[Any] = Room("hall", durability=durability, idle_timeout=10, **options)

    @room.on("say")
    async def say(ctx: Context[Any], text: Any) -> None:
        ctx.room.emit("said", text)

    @room.on("get")
    async def get(ctx: Context[Any]) -> Any:
        return [ctx.state, await ctx.room.storage.get("kept")]

    @room.on("put")
    async def put(ctx: Context[Any], value: Any) -> None:
        ctx.room.storage.put("kept", value)

    @room.on("assign")
    async def assign(ctx: Context[Any], value: Any) -> None:
        ctx.state = value

    @room.on("later")
    async def later(ctx: Context[Any]) -> None:
        ctx.room.schedule("look", after=1000)

    @room.on("reliably")
    async def reliably(ctx: Context[Any], text: str) -> None:
        ctx.room.emit("said", text, reliable=True)

    @room.on_schedule("look")
    async def look(ctx: Context[Any]) -> None:
        ctx.app.append("look")

    return room


@contextlib.asynccontextmanager
async def opened(store: Store, room: Room[Any] | None = None, **options: Any) -> AsyncIterator[Rooms]:
    """The room, of which something is heard in ``app``."""
    async with open_rooms([room or hall()], store=store, **options) as rooms:
        yield rooms


async def ask(rooms: Rooms, *what: Any) -> Any:
    """Ask the room, and let it sleep again."""
    answer = await rooms.get("hall", "x").ask(*what)
    await trio.sleep(100)
    assert rooms.get("hall", "x").info().stage.value == "asleep"
    return answer


def commits(store: FaultyStore) -> int:
    """How often the store was given something to write."""
    return sum(call.operation == "commit" for call in store.calls)


async def state_of(store: Store) -> bytes | None:
    """The state in the newest snapshot, if there is one."""
    snapshots = (await store.load(KEY)).snapshots
    return Snapshot.unpack(KEY, snapshots[0].document).state if snapshots else None


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_nothing_is_stored_of_a_room_that_leaves_nothing(
    durability: Durability, autojump_clock: MockClock
) -> None:
    """However often it wakes, and whoever is in it; nor is there a save that finds that out."""
    store = FaultyStore(MemoryStore())
    async with opened(store, hall(durability)) as rooms:
        for _ in range(3):
            assert await ask(rooms, "get") == [None, None]
        async with connect(rooms, KEY) as client:
            for text in "ab":
                await client.send(json.dumps({"event": "say", "data": text}))
                assert (await client.receive())["data"] == text
                await trio.sleep(100)
        assert commits(store) == 0
        assert await store.keys() == []


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_what_is_stored_goes_with_a_snapshot(durability: Durability, autojump_clock: MockClock) -> None:
    """So such a room is listed, and can be exported, as any other; it is written once."""
    store = FaultyStore(MemoryStore())
    async with opened(store, hall(durability)) as rooms:
        await ask(rooms, "put", 5)
        assert await ask(rooms, "get") == [None, 5]
        await ask(rooms, "put", 6)
        assert await ask(rooms, "get") == [None, 6]
        stored = await store.load(KEY)
        assert await state_of(store) == NOTHING
        assert (stored.head.number, [one.generation for one in stored.snapshots]) == (2, [1])
        assert await store.keys() == [KEY]
        content, damaged = await export(store, KEY)
        assert content
        assert damaged is None


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_a_first_commit_that_fails_leaves_the_snapshot_to_the_next(
    durability: Durability, autojump_clock: MockClock
) -> None:
    """Whether it has happened all the same or not."""
    for applied in (False, True):
        store = FaultyStore(MemoryStore())
        async with opened(store, hall(durability)) as rooms:
            await ask(rooms, "say")
            store.fail_commits(lambda: StoreError("on purpose"), applied=applied)
            with contextlib.suppress(StoreError):
                await rooms.get("hall", "x").ask("put", 5)
            await trio.sleep(100)
            assert await ask(rooms, "get") == [None, 5]
            assert await state_of(store) == NOTHING


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_a_state_that_is_given_to_it_is_kept(durability: Durability, autojump_clock: MockClock) -> None:
    """And one that is taken away again is gone, although nothing declares it."""
    store = FaultyStore(MemoryStore())
    async with opened(store, hall(durability)) as rooms:
        await ask(rooms, "say")
        await ask(rooms, "assign", {"a": [1]})
        assert await ask(rooms, "get") == [{"a": [1]}, None]
        await ask(rooms, "say")
    async with opened(store, hall(durability)) as rooms:
        assert await ask(rooms, "get") == [{"a": [1]}, None]
        await ask(rooms, "assign", None)
        assert await ask(rooms, "get") == [None, None]
        written = commits(store)
        await ask(rooms, "say")
        assert commits(store) == written
        await ask(rooms, "assign", 7)
        assert await ask(rooms, "get") == [7, None]


async def _created(ctx: Context[Any]) -> None:
    ctx.app.append("create")


async def _woken(ctx: Context[Any], report: WakeReport) -> None:
    ctx.app.append(report.restarted)


async def _destroyed(ctx: Context[Any]) -> None:
    ctx.app.append("destroy")


async def test_who_was_there_before_is_known_where_somebody_asks(autojump_clock: MockClock) -> None:
    """on_create is called once, also over the end of the process, and on_wake later."""
    store, heard = MemoryStore(), list[Any]()
    room = hall()
    room.on_create(_created)
    room.on_wake(_woken)
    for _ in range(2):
        async with opened(store, room, app=heard) as rooms:
            await ask(rooms, "say")
            await ask(rooms, "say")
    assert heard == ["create", False, True, False]


async def test_on_wake_alone_finds_that_too(autojump_clock: MockClock) -> None:
    """The first time that a room is woken is none of its wakes."""
    heard = list[Any]()
    room = hall()
    room.on_wake(_woken)
    async with opened(MemoryStore(), room, app=heard) as rooms:
        for _ in range(3):
            await ask(rooms, "say")
    assert heard == [False, False]


async def test_one_that_lapses_is_destroyed(autojump_clock: MockClock) -> None:
    """Its on_destroy hears of that, as that of any room with a ``state_ttl``."""
    store, heard = MemoryStore(), list[Any]()
    room = hall(state_ttl=1000)
    room.on_destroy(_destroyed)
    async with opened(store, room, app=heard) as rooms:
        await ask(rooms, "say")
        assert await store.keys() == [KEY]
        await trio.sleep(2000)
        assert (heard, await store.keys()) == (["destroy"], [])


async def test_what_is_scheduled_is_done_in_another_process(autojump_clock: MockClock) -> None:
    """The room sleeps meanwhile, and was never told to the store otherwise."""
    store, heard = MemoryStore(), list[str]()
    async with opened(store, app=heard) as rooms:
        await ask(rooms, "later")
    async with opened(store, app=heard):
        await trio.sleep(2000)
    assert heard == ["look"]


async def test_a_session_goes_on_in_another_process(autojump_clock: MockClock) -> None:
    """What was sent reliably reaches it, each once, with growing places."""
    store = MemoryStore()
    async with (
        opened(store, hall(resume_window=1000)) as rooms,
        connect(rooms, KEY, subprotocols=[JSON]) as client,
    ):
        assert (await client.receive())["event"] == "rooms.welcome"
        await ask(rooms, "reliably", "one")
        first = await client.receive()
        await client.drop()
    async with (
        opened(store, hall(resume_window=1000)) as rooms,
        connect(rooms, KEY, subprotocols=[JSON], resume=client) as client,
    ):
        assert (await client.receive())["data"]["resumed"]
        await ask(rooms, "say", "between")
        await ask(rooms, "reliably", "two")
        got = [await client.receive() for _ in range(2)]
    assert [message["data"] for message in (first, *got)] == ["one", "between", "two"]
    assert got[1]["seq"] > first["seq"]


@pytest.mark.parametrize("state", [NOTHING, b"\x05"], ids=["nothing", "something"])
async def test_what_a_former_version_wrote_stays(state: bytes, autojump_clock: MockClock) -> None:
    """A snapshot that says nothing is not written anew; one that says something is found."""
    store = FaultyStore(MemoryStore())
    async with store:
        document = Snapshot("hall", "x", 1, 1, store.epoch, state).pack()
        await store.commit(Commit(KEY, 1, store.epoch, document))
    written = commits(store)
    async with opened(store) as rooms:
        assert await ask(rooms, "get") == [None if state == NOTHING else 5, None]
        assert (commits(store) > written) is (state != NOTHING)
        await ask(rooms, "put", 1)
        assert await state_of(store) == state


async def test_one_that_is_destroyed_begins_anew(autojump_clock: MockClock) -> None:
    """Also where there was nothing to destroy."""
    store = MemoryStore()
    async with opened(store) as rooms:
        room = rooms.get("hall", "x")
        await ask(rooms, "say")
        await room.destroy()
        assert await ask(rooms, "get") == [None, None]
        await ask(rooms, "put", 5)
        await room.destroy()
        assert await ask(rooms, "get") == [None, None]
