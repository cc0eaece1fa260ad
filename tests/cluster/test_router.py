"""Programs reach rooms wherever they are at home, as they do in a single process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import (
    AskRefused,
    AskTimeout,
    Context,
    EventError,
    Fire,
    HandlerFailed,
    Room,
    Rooms,
    Stage,
    open_rooms,
)
from trio_rooms.engines import MemoryEngine

State = list[Any]


def shelf(**options: Any) -> Room[State]:
    """Rooms that keep what they are given."""
    room: Room[State] = Room("shelf", state=list, **options)

    @room.on("keep")
    async def keep(ctx: Context[State], data: Any) -> State:
        ctx.state.append(data)
        return ctx.state

    @room.on("wait")
    async def wait(ctx: Context[State], data: float) -> State:
        await trio.sleep(data)
        return ctx.state

    @room.on("fail")
    async def fail(_: Context[State], data: str) -> None:
        if data == "sold_out":
            raise EventError(data, "there are none left")
        raise LookupError(data)

    @room.on("pass_on")
    async def pass_on(ctx: Context[State], data: str) -> Any:
        return await ctx.rooms.get("shelf", data).ask("keep", ctx.room.id)

    @room.on_schedule("later")
    async def later(ctx: Context[State], fire: Fire[Any]) -> None:
        ctx.state.append(fire.data)

    return room


class Two:
    """Two nodes; the room x is at home at the first."""

    def __init__(self, engines: tuple[MemoryEngine, MemoryEngine], rooms: tuple[Rooms, Rooms]) -> None:
        self.engines = engines
        self.rooms = rooms
        self.at_home = rooms[0].get("shelf", "x")
        self.far = rooms[1].get("shelf", "x")


@asynccontextmanager
async def two(**options: Any) -> AsyncIterator[Two]:
    """Two nodes that know each other."""
    engine = MemoryEngine()
    other = engine.another()
    async with (
        open_rooms([shelf(**options)], engine=engine, node="a", lease=2) as a,
        open_rooms([shelf(**options)], engine=other, node="b", lease=2) as b,
    ):
        await trio.sleep(1)
        both = Two((engine, other), (a, b))
        await both.at_home.ask("keep", 0)
        yield both


async def test_a_room_of_another_node_is_asked(autojump_clock: MockClock) -> None:
    """It is awake once, and the answer is as it would be there."""
    async with two() as nodes:
        assert await nodes.far.ask("keep", {"deep": [1.5, b"x", None]}) == [0, {"deep": [1.5, b"x", None]}]
        assert await nodes.at_home.ask("keep", 2) == [0, {"deep": [1.5, b"x", None]}, 2]
        assert [one.statistics().supervisor.awake for one in nodes.rooms] == [1, 0]
        assert await nodes.far.hibernate() is True
        assert nodes.at_home.info().stage is Stage.ASLEEP
        assert len(await nodes.far.peek()) == 3
        await nodes.far.destroy()
        assert await nodes.at_home.peek() is None


async def test_what_it_raises_is_raised(autojump_clock: MockClock) -> None:
    """An error is what it is in one process, but for its cause, of which the text is known."""
    async with two() as nodes:
        with pytest.raises(EventError, match="there are none left") as refused:
            await nodes.far.ask("fail", "sold_out")
        assert (type(refused.value), refused.value.code) == (EventError, "sold_out")
        with pytest.raises(HandlerFailed, match="shelf/x: the handler of 'fail' raised") as failed:
            await nodes.far.ask("fail", "why")
        assert str(failed.value.__cause__) == "LookupError: why"
        with pytest.raises(AskRefused, match="shelf/x: unknown_event"):
            await nodes.far.ask("what")
        with pytest.raises(AskTimeout, match="within 3 s"):
            await nodes.far.ask("wait", 4, timeout=3)
        assert await nodes.far.ask("wait", 0) == [0]


async def test_what_one_sends_arrives_in_order(autojump_clock: MockClock) -> None:
    """Also what is sent before it is known where the room is: asks, schedules and all else."""
    async with two() as nodes:
        async with trio.open_nursery() as nursery:
            for number in range(1, 50):
                nursery.start_soon(nodes.far.ask, "keep", number)
                await trio.lowlevel.checkpoint()  # Else they begin in any order.
        assert await nodes.far.ask("wait", 0) == list(range(50))
    async with two() as nodes:
        for number in range(10):
            nodes.far.schedule("later", number, after=1)
        nodes.far.cancel("later")
        nodes.far.schedule("later", "last", after=1)
        assert (await nodes.far.schedules())["later"].data == "last"
        await trio.sleep(5)
        assert await nodes.far.ask("wait", 0) == [0, "last"]
