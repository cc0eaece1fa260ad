"""Rooms that the JavaScript client is tried with, and a page that has it."""

from __future__ import annotations

import attrs

from trio_rooms import ConnectRequest, Context, Refused, Room

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<script type="module">
import { connectRoom, RoomError } from "/trio-rooms.js";
Object.assign(window, { connectRoom, RoomError });
</script>
"""


@attrs.define
class Tally:
    """A sum, and what became of connections."""

    sum: int = 0
    count: int = 0
    log: list[str] = attrs.field(factory=list)


tally = Room("tally", state=Tally, durability="commit", page=PAGE)


@tally.authenticate
async def authenticate(request: ConnectRequest) -> dict[str, str]:
    """Let in whoever has no bad token."""
    if request.query.get("token") == "bad":
        raise Refused(401, "who are you?")
    return {"token": request.query.get("token", "")}


@tally.on_connect
async def connect(ctx: Context[Tally]) -> None:
    """Note that a session began."""
    ctx.state.log.append("connect")


@tally.on_disconnect
async def disconnect(ctx: Context[Tally], left: object) -> None:
    """Note that one ended."""
    ctx.state.log.append("disconnect")


@tally.on("add")
async def add(ctx: Context[Tally], data: int) -> int:
    """Add, and tell all."""
    ctx.state.sum += data
    ctx.state.count += 1
    ctx.room.emit("sum", [ctx.state.count, ctx.state.sum], reliable=True)
    return ctx.state.sum


@tally.on("get")
async def get(ctx: Context[Tally]) -> list[int]:
    """How often something was added, and what it makes."""
    return [ctx.state.count, ctx.state.sum]


@tally.on("log")
async def log(ctx: Context[Tally]) -> list[str]:
    """What became of sessions."""
    return ctx.state.log


@tally.on("token")
async def token(ctx: Context[Tally]) -> str:
    """With which one this session began."""
    return str(ctx.connection.attachment["token"])


@tally.on("end")
async def end(ctx: Context[Tally], data: int) -> None:
    """Close whoever asks, with a code."""
    ctx.connection.close(data, "as you like")


plain: Room[None] = Room("plain")


@plain.on_message
async def message(ctx: Context[None], message: str | bytes) -> None:
    """It speaks no envelopes."""


rooms = [tally, plain]
