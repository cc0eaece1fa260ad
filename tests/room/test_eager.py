"""Handlers and hooks that are plain functions: where they run, and that nothing else differs."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from trio_rooms import (
    Context,
    Disconnect,
    EventError,
    Fire,
    MemoryStore,
    Room,
    WakeReport,
    open_rooms,
)
from trio_rooms.testing import connect


@attrs.define(eq=False)
class Journal:
    """What the rooms of a test did."""

    done: list[Any] = attrs.field(factory=list)


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


def plain_functions(**options: Any) -> Room[list[Any]]:
    """A room all of whose handlers and hooks are plain functions, and tell what they are given."""
    room: Room[list[Any]] = Room("all", state=list, idle_timeout=5, resume_window=0, **options)

    @room.authenticate
    def authenticate(request: Any) -> dict[str, str]:
        return {"name": "ana"}

    @room.on_create
    def created(ctx: Context[Any]) -> None:
        journal.done.append("create")

    @room.on_wake
    def woke(ctx: Context[Any], report: WakeReport) -> None:
        journal.done.append(f"wake: {report.cause}")

    @room.on_connect
    def joined(ctx: Context[Any]) -> None:
        journal.done.append(f"connect: {ctx.connection.attachment['name']}")

    @room.on_disconnect
    def left(ctx: Context[Any], left: Disconnect) -> None:
        journal.done.append(f"disconnect: {left.attachment['name']}")

    @room.on_hibernate
    def sleeps(ctx: Context[Any]) -> None:
        journal.done.append("hibernate")

    @room.on_destroy
    def ends(ctx: Context[Any]) -> None:
        journal.done.append("destroy")

    @room.on_error
    def failed(ctx: Context[Any], error: Exception) -> None:
        journal.done.append(f"error: {error!r}")

    @room.on_schedule("later")
    def due(ctx: Context[Any], fire: Fire[int]) -> None:
        journal.done.append(f"schedule: {fire.data}")

    @room.on("add")
    def add(ctx: Context[list[Any]], data: int) -> int:
        ctx.state.append(data)
        return sum(ctx.state)

    @room.on("kept", durable=True)
    def kept(ctx: Context[list[Any]]) -> int:
        ctx.state.append(0)
        return len(ctx.state)

    @room.on("later")
    def later(ctx: Context[Any], data: int) -> None:
        ctx.room.schedule("later", data, after=1)

    @room.on("raise")
    def fails(ctx: Context[Any]) -> None:
        raise KeyError("broken")

    @room.on("refuse")
    def refuses(ctx: Context[Any]) -> None:
        raise EventError("sold_out", "come back tomorrow")

    @room.on_any
    def other(ctx: Context[Any], event: str, data: Any) -> Any:
        return event, data

    return room


@pytest.mark.parametrize("options", [{}, {"durability": "commit"}, {"handler_timeout": 1.0}])
async def test_all_handlers_and_hooks_may_be_plain_functions(
    options: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    """Each is called as one that is awaited, also where what it does has to wait, or may not take long."""
    async with open_rooms([plain_functions(**options)], store=MemoryStore()) as rooms:
        handle = rooms.get("all", "x")
        async with connect(rooms, "all/x") as client:
            assert await client.ask("add", 2) == 2
            assert await client.ask("add", 3) == 5
            assert await client.ask("kept") == 3
            assert await client.ask("else", 1) == ["else", 1]
            await client.ask("later", 7)
            with pytest.raises(EventError, match="come back tomorrow"):
                await client.ask("refuse")
            with pytest.raises(EventError, match="could not handle"):
                await client.ask("raise")
            assert await handle.ask("add", 5) == 10
            await trio.sleep(10)
            assert await client.ask("add", 0) == 10
        await trio.sleep(10)
        await handle.destroy()
    assert journal.done == [
        "create",
        "connect: ana",
        "error: KeyError('broken')",
        "schedule: 7",
        "hibernate",
        "wake: message",
        "disconnect: ana",
        "hibernate",
        "wake: destroy",
        "destroy",
    ]
