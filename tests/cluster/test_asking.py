"""Programs at several nodes ask rooms, while nodes lose the engine and come back: nothing is done twice."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_rooms import Context, Room, Rooms, open_rooms
from trio_rooms.engines import MemoryEngine
from trio_rooms.errors import RoomsError

NAMES = "abc"
ROOMS = ("x", "y")
State = list[list[Any]]


def ledger() -> Room[State]:
    """Rooms that write down who asks what, before anybody hears of it."""
    room: Room[State] = Room("ledger", state=list, durability="commit", idle_timeout=1)

    @room.on("put")
    async def put(ctx: Context[State], data: list[Any]) -> int:
        ctx.state.append(data)
        return len(ctx.state)

    @room.on("all")
    async def everything(ctx: Context[State]) -> State:
        return ctx.state

    return room


@attrs.define(eq=False)
class Lives:
    """Some nodes, and what their programs know of what they asked."""

    chance: random.Random
    engines: list[MemoryEngine] = attrs.field(factory=list)
    nodes: list[Rooms] = attrs.field(factory=list)
    done: list[list[Any]] = attrs.field(factory=list)
    unknown: list[list[Any]] = attrs.field(factory=list)
    over: bool = False

    async def ask(self, node: int) -> None:
        """Be a program that asks one thing after the other."""
        number = 0
        while not self.over:
            number += 1
            room = self.chance.choice(ROOMS)
            asked = [NAMES[node], room, number]
            try:
                await self.nodes[node].get("ledger", room).ask("put", asked, timeout=20)
                self.done.append(asked)
            except RoomsError:
                self.unknown.append(asked)
            await trio.sleep(self.chance.choice((0, 0.01, 0.3, 0.5)))

    async def disturb(self) -> None:
        """Cut nodes off, for a short or a long time, and take the engine away."""
        for _ in range(self.chance.randrange(1, 5)):
            await trio.sleep(self.chance.random() * 4)
            engine = self.chance.choice(self.engines)
            everywhere = self.chance.random() < 0.2
            pause = self.chance.choice((0.1, 1.0, 3.0, 9.0))
            (engine.down if everywhere else engine.cut)()
            await trio.sleep(pause)
            (engine.up if everywhere else engine.mend)()
        await trio.sleep(30)
        self.over = True


async def live(seed: int) -> None:
    """Have nodes live, and see what is in the rooms then."""
    lives = Lives(random.Random(seed))
    engine = MemoryEngine()
    async with AsyncExitStack() as stack:
        for name in NAMES:
            lives.engines.append(engine.another())
            lives.engines[-1].delay = lambda: lives.chance.choice((0, 0.001, 0.1, 0.3))
            opened = open_rooms([ledger()], engine=lives.engines[-1], node=name, lease=2)
            lives.nodes.append(await stack.enter_async_context(opened))
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            for node in range(len(NAMES)):
                nursery.start_soon(lives.ask, node)
            nursery.start_soon(lives.disturb)
        await trio.sleep(10)
        for room in ROOMS:
            there = await lives.nodes[0].get("ledger", room).ask("all")
            for name in NAMES:
                numbers = [number for who, _, number in there if who == name]
                assert numbers == sorted(set(numbers)), "twice, or out of order"
            for asked in lives.done:
                assert asked[1] != room or asked in there, "acknowledged and lost"
            for asked in there:
                assert asked in lives.done or asked in lives.unknown
        assert len(lives.done) > 20


def run(story: Callable[[int], Awaitable[None]], seed: int) -> None:
    """Let time pass as fast as it goes."""
    trio.run(story, seed, clock=MockClock(autojump_threshold=0))


@settings(max_examples=2)
@given(st.integers(0, 1 << 32))
def test_what_is_asked_is_done_once_whoever_is_cut_off(seed: int) -> None:
    """What was answered is in the room, once; what was not, once at most; and all in order."""
    run(live, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200))
def test_the_same_in_many_ways(seed: int) -> None:
    """Two hundred times."""
    run(live, seed)
