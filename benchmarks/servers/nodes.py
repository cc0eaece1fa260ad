"""A node of ledgers and of people who write to each other, killed and paused as often as it is told to.

    python -m benchmarks.servers.nodes ENGINE NAME PORT LEASE DIRECTORY

It does what `benchmarks.servers.forking` says. After ``start`` it says ``listening on ws://...``. All nodes
of an engine write the lines of deposits (`benchmarks.servers.ledger`) into the same file in ``DIRECTORY``.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs

from benchmarks.servers import ledger
from benchmarks.servers.forking import obey
from trio_rooms import Admitted, ConnectRequest, Context, Room, Rooms, run
from trio_rooms.engines.valkey import Valkey
from trio_rooms.errors import EngineLost, StoreError

__all__ = ["letters"]

letters: Room[None] = Room("letters", durability="commit", idle_timeout=0.1)


@attrs.define
class Letter:
    """What somebody writes to somebody."""

    to: str
    number: int


@letters.authenticate
async def authenticate(request: ConnectRequest) -> Admitted:
    """Everybody is who they say they are."""
    return Admitted(user=request.query["user"])


@letters.on("write")
async def write(ctx: Context[None], data: Letter) -> None:
    """Send it to whom it is for, wherever they are."""
    await ctx.rooms.user(data.to).send("letter", [ctx.connection.user, data.number])


def _serve(engine: str, name: str, port: int, lease: float, directory: Path) -> None:
    ledger.open_traces(directory)
    listened = False

    async def listening(rooms: Rooms) -> None:
        nonlocal listened
        listened = True
        await ledger.listening(rooms)

    while not listened:
        with suppress(EngineLost, StoreError):  # It may be down just now, too.
            run(
                [ledger.room, letters],
                listening,
                port=port,
                engine=Valkey(engine),
                node=name,
                lease=lease,
            )
            return
        time.sleep(0.1)


if __name__ == "__main__":
    obey(partial(_serve, sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5])))
