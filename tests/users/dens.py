"""What tests of users have in common: a room whose clients say who they are, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from trio_rooms import Admitted, ConnectRequest, Context, Room, Rooms
from trio_rooms.testing import MemoryClient, connect

__all__ = ["den", "inside", "nothing", "told"]

JSON = "trio-rooms.v1.json"


async def _admit(request: ConnectRequest) -> Admitted:
    return Admitted(user=request.query.get("user"))


async def _tell(ctx: Context[Any], data: dict[str, Any]) -> Any:
    sent = await ctx.rooms.user(data["to"]).send("told", data["text"])
    ctx.state["told"] = [*(ctx.state.get("told") or []), data["text"]]
    return [sent.active, sent.parked, sent.queued, sent.stored, sent.dropped, sent.outbox]


async def _say(ctx: Context[Any], text: Any) -> None:
    ctx.room.emit("said", text, reliable=True)
    ctx.state["told"] = text


def den(name: str = "den", **options: Any) -> Room[dict[str, Any]]:
    """A room whose clients say who they are."""
    room: Room[dict[str, Any]] = Room(name, state=dict, **options)
    room.authenticate(_admit)
    room.on("tell")(_tell)
    room.on("say")(_say)
    return room


@asynccontextmanager
async def inside(
    rooms: Rooms, user: str, key: str = "den/a", resume: MemoryClient | None = None
) -> AsyncIterator[MemoryClient]:
    """A client with a session, which was welcomed."""
    async with connect(rooms, key, query={"user": user}, subprotocols=[JSON], resume=resume) as client:
        assert (await client.receive())["event"] == "rooms.welcome"
        yield client


async def told(client: MemoryClient, count: int) -> list[Any]:
    """The data of what a client gets next."""
    with trio.fail_after(5):
        return [message["data"] for message in await client.receive_many(count)]


async def nothing(client: MemoryClient) -> None:
    """A client gets nothing more."""
    with trio.move_on_after(5):
        pytest.fail(f"it got {await client.receive()}")
