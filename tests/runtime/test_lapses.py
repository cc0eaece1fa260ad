"""Rooms that nobody was in for their ``state_ttl`` are destroyed, and no others."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

from tests.users.dens import inside
from trio_rooms import Context, MemoryStore, Room, StoreError, open_rooms
from trio_rooms.stores import Store
from trio_rooms.testing import FaultyStore, connect


def shed(
    durability: Literal["snapshot", "commit"] = "snapshot", ttl: float | None = 1000
) -> Room[dict[str, Any]]:
    """A room that goes when it is left alone."""
    room: Room[dict[str, Any]] = Room(
        "shed", state=dict, durability=durability, state_ttl=ttl, idle_timeout=10, resume_window=100
    )

    @room.on("put")
    async def put(ctx: Context[dict[str, Any]], value: Any) -> None:
        ctx.state["value"] = value

    @room.on("later")
    async def later(ctx: Context[dict[str, Any]], seconds: float) -> None:
        ctx.room.schedule("look", after=seconds)

    @room.on_schedule("look")
    async def look(ctx: Context[dict[str, Any]]) -> None:
        pass

    @room.on_destroy
    async def destroyed(ctx: Context[dict[str, Any]]) -> None:
        DESTROYED.append(ctx.room.id)

    return room


DESTROYED: list[str] = []


async def keys(store: Store) -> list[str]:
    """The rooms that there are."""
    return await store.keys()


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_a_room_goes_when_it_was_left_alone(
    durability: Literal["snapshot", "commit"], autojump_clock: MockClock
) -> None:
    """Not before its time, counted from when somebody was there last; its on_destroy is called."""
    DESTROYED.clear()
    store = MemoryStore()
    async with open_rooms([shed(durability)], store=store) as rooms:
        for name in "abcde":
            await rooms.get("shed", name).ask("put", 1)
        await rooms.get("shed", "d").ask("later", 5000)
        async with connect(rooms, "shed/b"), inside(rooms, "ana", "shed/e") as ana:
            await trio.sleep(900)
            await rooms.get("shed", "c").ask("put", 2)
            await trio.sleep(500)
            assert DESTROYED == ["a"]
            await ana.drop()
        await trio.sleep(900)
        assert await keys(store) == ["shed/b", "shed/d", "shed/e"]
        await trio.sleep(200)
        assert await keys(store) == ["shed/d"]
        assert sorted(DESTROYED) == ["a", "b", "c", "e"]
        await trio.sleep(5000)
        assert await keys(store) == []


async def test_what_lapses_while_nothing_runs_goes_at_the_start(autojump_clock: MockClock) -> None:
    """And a room whose definition does not say so any more stays."""
    store = MemoryStore()
    async with open_rooms([shed()], store=store) as rooms:
        await rooms.get("shed", "a").ask("put", 1)
    await trio.sleep(2000)
    async with open_rooms([shed(ttl=None)], store=store):
        await trio.sleep(1)
    assert (await head_lapses(store)) is None
    async with open_rooms([shed()], store=store) as rooms:
        await rooms.get("shed", "a").ask("put", 2)
    await trio.sleep(2000)
    async with open_rooms([shed()], store=store):
        await trio.sleep(1)
        assert await keys(store) == []


async def head_lapses(store: MemoryStore) -> float | None:
    """When the room lapses."""
    async with store:
        return (await store.head("shed/a")).lapses


async def test_who_comes_as_it_goes_finds_the_room(autojump_clock: MockClock) -> None:
    """It is looked again once it is awake; and is tried again where the store fails."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([shed()], store=store) as rooms:
        await rooms.get("shed", "a").ask("put", 1)
        await trio.sleep(500)
        held = store.hold_loads("shed/a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.wait_arrived)
        held.release_one()
        await held.wait_arrived(2)
        async with connect(rooms, "shed/a") as client:
            held.release()
            await trio.sleep(100)
            assert client.closed is None
            assert await keys(store) == ["shed/a"]
        store.fail_loads(StoreError("not now"), times=3)
        await trio.sleep(1300)
        assert await keys(store) == []
