"""Our rooms under test, each by its name: ``trio-rooms serve benchmarks/rooms.py:NAME``.

None sets how soon it sleeps: ``--idle-timeout`` does.
"""

from __future__ import annotations

import os
from typing import Any, Final

import attrs

from trio_rooms import ConnectRequest, Context, Room

# Echo: what came goes back to who sent it.

plain: Final[Room[None]] = Room("plain")
events: Final[Room[None]] = Room("events")

# The same with handlers that are plain functions.

plain_def: Final[Room[None]] = Room("plain_def")
events_def: Final[Room[None]] = Room("events_def")

# Fan-out: what came goes to all, whoever sent it included.

fan_plain: Final[Room[None]] = Room("fan_plain")
fan_events: Final[Room[None]] = Room("fan_events")

# What is answered when it is durable.


@attrs.define
class Tally:
    """What was added, and how often."""

    balance: int = 0
    count: int = 0


@attrs.define
class Add:
    """Something that is added."""

    amount: int


ledger: Final[Room[Tally]] = Room("ledger", state=Tally, durability="commit")

# What a connection carries while nothing happens; for the rest as `plain`.

attached_100: Final[Room[None]] = Room("attached_100")
attached_1000: Final[Room[None]] = Room("attached_1000")
channels_3: Final[Room[None]] = Room("channels_3")
attached_100_channels_3: Final[Room[None]] = Room("attached_100_channels_3")


@plain.on_message
@attached_100.on_message
@attached_1000.on_message
@channels_3.on_message
@attached_100_channels_3.on_message
async def send_back(ctx: Context[None], message: str | bytes) -> None:
    """Send a message back as it came."""
    ctx.connection.send(message)


@events.on("echo")
async def emit_back(ctx: Context[None], data: Any) -> None:
    """Send an event back as it came."""
    ctx.connection.emit("echo", data)


@plain_def.on_message
def send_back_at_once(ctx: Context[None], message: str | bytes) -> None:
    """Send a message back as it came."""
    ctx.connection.send(message)


@events_def.on("echo")
def emit_back_at_once(ctx: Context[None], data: Any) -> None:
    """Send an event back as it came."""
    ctx.connection.emit("echo", data)


@fan_plain.on_message
async def send_to_all(ctx: Context[None], message: str | bytes) -> None:
    """Send a message to everybody."""
    ctx.room.send(message)


@fan_events.on("echo")
async def emit_to_all(ctx: Context[None], data: Any) -> None:
    """Send an event to everybody."""
    ctx.room.emit("echo", data)


@attached_100.authenticate
@attached_100_channels_3.authenticate
async def attach_100(_: ConnectRequest) -> bytes:
    """100 bytes of CBOR, other ones for each connection."""
    return os.urandom(100 - 2)  # CBOR puts two bytes before them.


@ledger.on("add")
async def add(ctx: Context[Tally], data: Add) -> dict[str, int]:
    """Add, and tell everybody."""
    told = await count(ctx, data)
    ctx.room.emit("balance", {**told, "count": ctx.state.count}, reliable=True)
    return told


@ledger.on("count")
async def count(ctx: Context[Tally], data: Add) -> dict[str, int]:
    """Add, and tell nobody else."""
    ctx.state.balance += data.amount
    ctx.state.count += 1
    return {"balance": ctx.state.balance}


@attached_1000.authenticate
async def attach_1000(_: ConnectRequest) -> bytes:
    """1,000 bytes of CBOR, other ones for each connection."""
    return os.urandom(1000 - 3)  # CBOR puts three bytes before them.


@channels_3.on_connect
@attached_100_channels_3.on_connect
async def join_three(ctx: Context[None]) -> None:
    """Three channels, the same for all connections."""
    for channel in ("news", "chat", "scores"):
        ctx.connection.join(channel)
