"""The room of the soak test: it numbers what is said, and refuses what is lost, doubled or out of order."""

from __future__ import annotations

import attrs
import trio

from trio_rooms import Context, EventError, Room


@attrs.define
class Ledger:
    """What a room has heard: how much in all, and the last from each sender."""

    count: int = 0
    last: dict[str, int] = attrs.field(factory=dict)
    wakes: int = 0
    joined: int = 0
    left: int = 0


@attrs.define
class Say:
    """Message ``n``, from 1 on, of a sender; its handler sleeps ``pause`` seconds halfway."""

    sender: str
    n: int
    pause: float = 0


room = Room("soak", state=Ledger)


@room.on_create
async def create(ctx: Context[Ledger]) -> None:
    """Count the first wake."""
    ctx.state.wakes += 1


@room.on_wake
async def wake(ctx: Context[Ledger]) -> None:
    """Count a wake."""
    ctx.state.wakes += 1


@room.on_connect
async def connect(ctx: Context[Ledger]) -> None:
    """Say how much was said before."""
    ctx.state.joined += 1
    ctx.connection.emit("hello", ctx.state.count)


@room.on_disconnect
async def disconnect(ctx: Context[Ledger]) -> None:
    """Count who leaves."""
    ctx.state.left += 1


@room.on("say")
async def say(ctx: Context[Ledger], data: Say) -> int:
    """Number a message and tell everybody; half before and half after a pause."""
    state = ctx.state
    before = state.last.get(data.sender, 0)
    if data.n != before + 1:
        code = "broken"
        raise EventError(code, f"message {data.n} of {data.sender} came after {before}")
    state.count += 1
    count = state.count
    if data.pause:
        await trio.sleep(data.pause)
    if state is not ctx.state or state.count != count:
        code = "overlap"
        raise EventError(code, f"message {data.n} of {data.sender} was not handled alone")
    state.last[data.sender] = data.n
    ctx.room.emit("said", [count, data.sender, data.n])
    return count


@room.on("census")
async def census(ctx: Context[Ledger]) -> Ledger:
    """Return all that the room knows."""
    return ctx.state
