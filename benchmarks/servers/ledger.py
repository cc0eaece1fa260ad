"""A server of ledgers that is killed and started again, as often as it is told to.

    python -m benchmarks.servers.ledger DIRECTORY PORT

A line on its standard input is ``start``, ``kill`` (with SIGKILL) or ``stop`` (with SIGTERM). After ``start``
it says ``listening on ws://...``, after the others how the server has ended: its exit status, or minus the
signal. Each server is a process of its own that has nothing from those before it. It is forked from one that
has imported everything, so that many can be killed in a minute, and leads no process group: all end together.

The ledger is that of the examples, and has what is due later besides. Whatever changes a balance is in the
balance once; the lines in ``DIRECTORY/fired``, which no store knows of, are as many as there were tries.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

import attrs
import trio

from examples.ledger import Add, Balance, Ledger
from trio_rooms import Context, DiskStore, Fire, Room, Rooms, run

__all__ = ["FIRED", "room"]

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


def _serve(directory: Path, port: int) -> None:
    async def listening(rooms: Rooms) -> None:
        print(f"listening on {rooms.addresses[0]}", flush=True)
        await trio.sleep_forever()

    global _fired  # noqa: PLW0603 (of this process, and before anything runs)
    directory.mkdir(exist_ok=True)
    _fired = os.open(directory / FIRED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    run([room], listening, port=port, store=DiskStore(directory))


def _fork(directory: Path, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _serve(directory, port)
        status = 0
    finally:
        # Nothing of the parent is to be ended twice.
        sys.stderr.flush()
        os._exit(status)


def _ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(directory: Path, port: int) -> None:
    """Obey until the standard input ends."""
    child = 0
    try:
        for line in sys.stdin:
            match line.strip():
                case "start":
                    child = _fork(directory, port)
                case command:
                    os.kill(child, signal.SIGKILL if command == "kill" else signal.SIGTERM)
                    child, status = 0, _ended(child)
                    print(status, flush=True)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            _ended(child)


if __name__ == "__main__":
    # An exception, so that the server is ended; it has its own way with this signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(Path(sys.argv[1]), int(sys.argv[2]))
