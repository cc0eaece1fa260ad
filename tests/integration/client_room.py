"""A ledger, for the tests of clients: a room that loses nothing."""

from __future__ import annotations

import attrs

from trio_rooms import Context, Room


@attrs.define
class Ledger:
    """What it remembers."""

    balance: int = 0
    count: int = 0


@attrs.define
class Add:
    """What is asked of it."""

    amount: int


room = Room("ledger", state=Ledger, durability="commit")


@room.on("add")
async def add(ctx: Context[Ledger], data: Add) -> dict[str, int]:
    """Add, and tell all."""
    ctx.state.balance += data.amount
    ctx.state.count += 1
    ctx.room.emit("balance", {"balance": ctx.state.balance, "count": ctx.state.count}, reliable=True)
    return {"balance": ctx.state.balance}


@room.on("get")
async def get(ctx: Context[Ledger]) -> dict[str, int]:
    """Answer with all of it."""
    return attrs.asdict(ctx.state)
