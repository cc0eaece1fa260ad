"""A server of ledgers that is killed and started again, as often as it is told to.

    python -m benchmarks.servers.ledger DIRECTORY PORT

It does what `benchmarks.servers.forking` says. After ``start`` it says ``listening on ws://...``.

The ledger is that of the examples, and has what is due later besides. Whatever changes a balance is in the
balance once; the lines in ``DIRECTORY/fired``, which no store knows of, are as many as there were tries.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from benchmarks.servers.forking import obey
from examples.ledger import Add, Balance, Ledger
from trio_rooms import Context, DiskStore, Fire, Room, Rooms, run

__all__ = ["FIRED", "listening", "open_traces", "room"]

FIRED: Final = "fired"
"""The file, in the directory of the store, with a line for each time that a deposit was made."""
_fired: int | None = None

room = Room("ledger", state=Ledger, durability="commit", idle_timeout=0.1)


@attrs.define
class Later:
    """Something that is to be added in so many seconds."""

    amount: int
    after: float


@room.on("add")
async def add(ctx: Context[Ledger], data: Add) -> dict[str, int]:
    """Add at once."""
    return {"balance": _add(ctx, data.amount)}


@room.on("get")
async def get(ctx: Context[Ledger]) -> Balance:
    """What there is."""
    return Balance(ctx.state.balance, ctx.state.count)


@room.on("later")
async def later(ctx: Context[Ledger], data: Later) -> None:
    """Add later, whatever happens until then."""
    ctx.room.schedule(f"deposit:{data.amount}", data.amount, after=data.after)


@room.on_schedule("deposit")
async def deposit(ctx: Context[Ledger], fire: Fire[int]) -> None:
    """Add what was due, and leave a trace outside."""
    assert _fired is not None
    os.write(_fired, f"{ctx.room.id} {fire.data}\n".encode())
    _add(ctx, fire.data)


def _add(ctx: Context[Ledger], amount: int) -> int:
    ctx.state.balance += amount
    ctx.state.count += 1
    ctx.room.emit("balance", Balance(ctx.state.balance, ctx.state.count), reliable=True)
    return ctx.state.balance


def open_traces(directory: Path) -> None:
    """Open the file in which it is written down that a deposit is made."""
    global _fired  # noqa: PLW0603 (of this process, and before anything runs)
    directory.mkdir(exist_ok=True)
    _fired = os.open(directory / FIRED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


async def listening(rooms: Rooms) -> None:
    """Say where."""
    print(f"listening on {rooms.addresses[0]}", flush=True)
    await trio.sleep_forever()


def _serve(directory: Path, port: int) -> None:
    open_traces(directory)
    run([room], listening, port=port, store=DiskStore(directory))


if __name__ == "__main__":
    obey(partial(_serve, Path(sys.argv[1]), int(sys.argv[2])))
