"""Random lives of rooms that schedule: each is handled at least once, whatever happens."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, Literal

import attrs
import hypothesis
import pytest
import trio
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_rooms import (
    Context,
    Fire,
    MemoryStore,
    Retry,
    Room,
    RoomFailed,
    Rooms,
    RoomsError,
    Store,
    StoreError,
    StoreFull,
    open_rooms,
)
from trio_rooms._loop.wall import WallClock
from trio_rooms.testing import FaultyStore

Durability = Literal["snapshot", "commit"]
NAMES = ("a", "a:1", "b")
BOTH = pytest.mark.parametrize("durability", ["snapshot", "commit"])


@attrs.define
class Done:
    """What a room knows to have handled: how often each occurrence."""

    fires: dict[str, int] = attrs.field(factory=dict)


@attrs.define
class World:
    """What is outside of all rooms and processes, and how the next handlers end."""

    seen: dict[str, list[int]] = attrs.field(factory=dict)
    """By occurrence, its attempts."""
    dues: dict[str, float] = attrs.field(factory=dict)
    ends: list[str] = attrs.field(factory=list)
    promised: set[str] = attrs.field(factory=set)
    """Names that nobody schedules or cancels but once, and of which it was told that this is durable."""
    returned: set[str] = attrs.field(factory=set)
    """Names of which a handler has come to its end, in a process that was not killed before."""
    kills: int = 0
    halves: bool = False
    """Whether a handler has waited halfway: what it had done by then may be in a snapshot alone."""


class Crash(GeneratorExit):
    """Ends the room."""


def a_room(durability: Durability) -> Room[Done]:
    """A room that schedules what it is told to."""
    room = Room("r", state=Done, durability=durability, idle_timeout=20)

    @room.on("do")
    async def do(ctx: Context[Done], data: list[Any]) -> None:
        name, when, crash = data
        ctx.room.schedule(name, **when)
        if crash:
            raise Crash

    @room.on("cancel")
    async def cancel(ctx: Context[Done], data: str) -> None:
        ctx.room.cancel(data)

    @room.on_schedule("a", retry=Retry(attempts=1000, first=1.0, most=8.0))
    async def a(ctx: Context[Done], fire: Fire[None]) -> None:
        await handle(ctx, fire)

    @room.on_schedule("b", retry=Retry(attempts=1000, first=1.0, most=8.0))
    async def b(ctx: Context[Done], fire: Fire[None]) -> None:
        await handle(ctx, fire)

    return room


async def handle(ctx: Context[Done], fire: Fire[None]) -> None:
    """Do something inside and outside, and end as the world wants it."""
    world: World = ctx.app
    kills = world.kills
    world.seen.setdefault(fire.id, []).append(fire.attempt)
    assert world.dues.setdefault(fire.id, fire.due) == fire.due
    assert fire.due <= WallClock().now() + 0.01
    end = world.ends.pop() if world.ends else ""
    if end == "raise before":
        raise ValueError(end)
    ctx.state.fires[fire.id] = ctx.state.fires.get(fire.id, 0) + 1
    if end == "slow":
        world.halves = True
        await trio.sleep(7)
    elif end == "crash":
        raise Crash
    elif end == "again":
        ctx.room.schedule(fire.name, after=3)
    if world.kills == kills:
        world.returned.add(fire.name)


whens: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, after=st.sampled_from([0, 1, 5, 30])),
    st.builds(dict, every=st.sampled_from([2, 7, 40]), missed=st.sampled_from(["once", "all", "none"])),
    st.just({"cron": "* * * * *"}),
)
steps = st.one_of(
    st.tuples(st.just("do"), st.sampled_from(NAMES), whens, st.booleans()),
    st.tuples(st.just("from outside"), st.sampled_from(NAMES), whens),
    st.tuples(st.just("durably"), st.sampled_from(NAMES), whens),
    st.tuples(st.just("once"), st.sampled_from([0, 1, 5, 30]), st.booleans()),
    st.tuples(st.just("cancel"), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.4, 1, 10, 100])),
    st.tuples(st.just("handlers"), st.sampled_from(["raise before", "slow", "crash", "again"])),
    st.tuples(st.just("fail"), st.sampled_from([StoreFull, StoreError]), st.integers(1, 3), st.booleans()),
    st.tuples(st.just("hibernate")),
    st.tuples(st.just("restart"), st.sampled_from([0, 30, 500])),
    st.tuples(st.just("kill"), st.sampled_from([0, 30, 500])),
)


async def one_step(rooms: Rooms, store: FaultyStore, world: World, step: tuple[Any, ...]) -> None:
    """Do one thing; what fails is told, and that is all."""
    room = rooms.get("r", "1")
    match step:
        case ("do", name, when, crash):
            with contextlib.suppress(RoomsError):
                await room.ask("do", [name, when, crash and not world.ends])
        case ("from outside", name, when):
            room.schedule(name, **when)
        case ("durably", name, when):
            with contextlib.suppress(RoomsError), trio.move_on_after(50):
                await room.schedule_durably(name, **when)
        case ("once", after, outside):
            name = f"b:{len(world.promised)}:{after}"
            with contextlib.suppress(RoomsError), trio.move_on_after(50):
                if outside:
                    await room.schedule_durably(name, after=after)
                else:
                    await room.ask("do", [name, {"after": after}, False])
                if outside or room._definition.gated:
                    world.promised.add(name)
        case ("cancel", name, outside):
            if outside:
                room.cancel(name)
            else:
                with contextlib.suppress(RoomsError):
                    await room.ask("cancel", name)
        case ("wait", seconds):
            await trio.sleep(seconds)
        case ("handlers", end):
            world.ends.append(end)
        case ("fail", error, times, applied):
            store.fail_commits(error, times, applied=applied and error is StoreError)
        case ("hibernate",):
            with contextlib.suppress(RoomFailed):
                await room.hibernate()


async def live(durability: Durability, history: list[tuple[Any, ...]]) -> None:
    """Live through it, then let everything come to rest and look at what was done."""
    store, world = FaultyStore(MemoryStore()), World()
    while True:
        async with open_rooms([a_room(durability)], store=store, app=world) as rooms:
            while history and history[0][0] not in ("restart", "kill"):
                await one_step(rooms, store, world, history.pop(0))
            if not history:
                exactly = durability == "commit" or not (world.kills or world.halves)
                await check(rooms, world, exactly=exactly)
                return
            how, pause = history.pop(0)
            # What is written from here on is written by a process that is no more.
            left = copy_of(store.store) if how == "kill" else None
            world.kills += left is not None
        if left is not None:
            store = FaultyStore(left)
        await trio.sleep(pause)


def copy_of(store: Store) -> MemoryStore:
    """All that a store has now, in one that is not open."""
    assert isinstance(store, MemoryStore)
    left = copy.deepcopy(store, {id(store._wall): store._wall})
    left._opened = False
    return left


async def check(rooms: Rooms, world: World, *, exactly: bool) -> None:
    """What is due is handled, of what is left only what comes again; no change was made twice."""
    room = rooms.get("r", "1")
    world.ends.clear()
    await trio.sleep(200)
    left = await room.schedules()
    assert all(one.due is not None for one in left.values())
    assert all(one.every or one.cron for one in left.values())
    for one in left.values():
        assert one.due is not None
        assert one.due > WallClock().now() - 0.01
        assert one.due < WallClock().now() + 61
        await room.cancel_durably(one.name)
    assert not await room.schedules()
    count = sum(map(len, world.seen.values()))
    await room.hibernate()
    await trio.sleep(200)
    assert not rooms._supervisor._records
    assert sum(map(len, world.seen.values())) == count
    state = await room.peek()
    fires = {} if state is None else state.fires
    assert fires.keys() <= world.seen.keys()
    assert not exactly or set(fires.values()) <= {1}
    assert world.promised <= world.returned
    assert {attempts[0] for attempts in world.seen.values()} <= {1}


HALFWAY: list[tuple[Any, ...]] = [
    ("handlers", "slow"),
    ("once", 0, True),
    ("do", "a", {"cron": "* * * * *"}, False),
    ("do", "a", {"after": 0}, True),
]


@hypothesis.example("snapshot", HALFWAY)
@hypothesis.settings(max_examples=60)
@hypothesis.given(st.sampled_from(["snapshot", "commit"]), st.lists(steps, max_size=14))
def test_lives(durability: Durability, history: list[tuple[Any, ...]]) -> None:
    """Handlers that fail, crash and take long; commits that fail; sleep, restarts, calls from everywhere."""
    clock = MockClock(autojump_threshold=0)
    trio.run(live, durability, list(history), clock=clock)


@BOTH
def test_a_handler_that_waits_as_its_process_is_killed(durability: Durability) -> None:
    """It is called again, also where a snapshot was taken meanwhile."""
    history = [("handlers", "slow"), ("once", 1, True), ("wait", 3), ("kill", 0)]
    trio.run(live, durability, history, clock=MockClock(autojump_threshold=0))
