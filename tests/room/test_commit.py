"""Rooms whose effects wait for what they wrote, from outside."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Context, EventError, MemoryStore, Room, StoreFull, open_rooms
from trio_rooms.testing import FaultyStore, connect

ledger: Room[dict[str, int]] = Room("ledger", state=dict, durability="commit")


@ledger.on("add")
async def _add(ctx: Context[dict[str, int]], data: int) -> int:
    ctx.state["balance"] = ctx.state.get("balance", 0) + data
    ctx.room.emit("balance", ctx.state["balance"])
    return ctx.state["balance"]


@ledger.on("get")
async def _get(ctx: Context[dict[str, int]]) -> int:
    return ctx.state.get("balance", 0)


async def test_an_answer_waits_for_the_commit(autojump_clock: MockClock) -> None:
    """Nothing is heard before what was changed is durable; what cannot be is refused, and undone."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([ledger], store=store) as rooms, connect(rooms, "ledger/x") as client:
        assert await client.ask("add", 3) == 3
        gate = store.hold_commits()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ask, "add", 4)
            await gate.wait_arrived()
            await trio.sleep(10)
            gate.release()
        assert await client.ask("get") == 7
        store.fail_commits(StoreFull("no room"))
        with pytest.raises(EventError, match="not_saved"):
            await client.ask("add", 1)
        assert await client.ask("get") == 7
