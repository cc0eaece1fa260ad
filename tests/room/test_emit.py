"""What is sent to many: to whom at once, to whom together with what follows, and what becomes of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Admitted, ConnectRequest, Context, Room, Rooms, Sent, open_rooms
from trio_rooms._room.lifecycle import Stage
from trio_rooms.testing import MemoryClient, connect

OFFERED = ["trio-rooms.v1.json"]
IDLE = 5.0
WINDOW = 0.5


def board(**options: Any) -> Room[None]:
    """A room in which everybody does what they want."""
    room: Room[None] = Room("board", idle_timeout=math.inf, connection_idle_timeout=IDLE, **options)

    @room.authenticate
    async def who(asked: ConnectRequest) -> Admitted:
        return Admitted(user=asked.query.get("user"))

    @room.on("point")
    async def point(ctx: Context[None], data: int) -> None:
        ctx.room.emit("cursor", [ctx.connection.user, data], coalesce="cursor")

    @room.on("point twice")
    async def point_twice(ctx: Context[None], data: int) -> None:
        ctx.room.storage.put("at", data)  # So that all of it goes out when that is durable.
        for number in (data, data + 1):
            ctx.room.emit("cursor", [ctx.connection.user, number], coalesce="cursor")

    @room.on("emit")
    async def emit(ctx: Context[None], data: dict[str, Any]) -> None:
        ctx.room.emit(**data)

    @room.on("emit to me")
    async def emit_to_me(ctx: Context[None], data: dict[str, Any]) -> None:
        ctx.connection.emit(**data)
        await ctx.connection.drained()

    @room.on("emit to others")
    async def emit_to_others(ctx: Context[None], data: dict[str, Any]) -> None:
        for one in ctx.room.connections:
            if one is not ctx.connection:
                one.emit(**data)

    @room.on("emit elsewhere")
    async def emit_elsewhere(ctx: Context[None], data: dict[str, Any]) -> list[int]:
        sent = ctx.rooms.get("board", "elsewhere").emit(**data)
        return [sent.outbox, sent.reached]

    @room.on("point in the background")
    async def background(ctx: Context[None]) -> None:
        async def task() -> None:
            for number in range(3):
                ctx.room.emit("cursor", ["nobody", number], coalesce="cursor")

        ctx.room.start_soon(task)
        await trio.testing.wait_all_tasks_blocked()

    return room


@contextlib.asynccontextmanager
async def hibernated(room: Room[None], **how: Any) -> AsyncIterator[tuple[Rooms, MemoryClient, MemoryClient]]:
    """A room with somebody who is active, and somebody who has been quiet for long enough."""
    async with (
        open_rooms([room]) as rooms,
        connect(rooms, "board/x", query={"user": "bob"}, **how) as bob,
        connect(rooms, "board/x", query={"user": "ana"}, **how) as ana,
    ):
        if how:
            await ana.receive()
            await bob.receive()
        await trio.sleep(IDLE + 0.1)
        await ana.ask("point", 0)
        await trio.sleep(WINDOW + 0.1)
        assert (await ana.receive())["event"] == (await bob.receive())["event"] == "cursor"
        yield rooms, ana, bob


def names(messages: list[Any]) -> list[Any]:
    """The events, with their data where they have some."""
    return [one["event"] if one["data"] is None else (one["event"], one["data"]) for one in messages]


@pytest.mark.parametrize("reliable", [False, True])
async def test_who_is_hibernated_gets_it_with_what_follows(autojump_clock: MockClock, reliable: bool) -> None:
    """After the batch window, in order, also what is kept until it is acknowledged."""
    how = {"subprotocols": OFFERED}
    async with hibernated(board(batch_window=WINDOW), **how) as (rooms, ana, bob):
        handle = rooms.get("board", "x")
        began = trio.current_time()
        for number in range(3):
            sent = handle.emit("said", number, reliable=reliable)
            assert sent == Sent(active=1, queued=1)
            assert (await ana.receive())["data"] == number
            await trio.sleep(0.1)
        assert trio.current_time() == pytest.approx(began + 0.3)
        assert names(await bob.receive_many(3)) == [("said", 0), ("said", 1), ("said", 2)]
        assert trio.current_time() == pytest.approx(began + WINDOW)


async def test_what_is_for_one_goes_behind_what_waits_for_all(autojump_clock: MockClock) -> None:
    """And takes it along: a hibernated connection has both at once, in the order in which they were sent."""
    async with hibernated(board(batch_window=WINDOW)) as (_, ana, bob):
        began = trio.current_time()
        await ana.ask("emit", {"event": "to all"})
        await ana.ask("emit to others", {"event": "to one"})
        assert names(await bob.receive_many(2)) == ["to all", "to one"]
        assert trio.current_time() == began
        await ana.ask("emit", {"event": "to all"})
        await bob.emit("point", 7)  # It is active by that, and so has all of it.
        assert names(await bob.receive_many(2)) == ["to all", ("cursor", ["bob", 7])]
        assert trio.current_time() == began


async def test_of_what_is_coalesced_each_senders_newest_arrives(autojump_clock: MockClock) -> None:
    """A sender is the user whose message is handled; what nobody has asked for is the room's own."""
    async with hibernated(board(batch_window=WINDOW)) as (rooms, ana, bob):
        async with connect(rooms, "board/x", query={"user": "cay"}) as cay:
            for number in range(4):
                await ana.ask("point", number)
                await cay.ask("point", number)
            await ana.ask("point in the background")
            await ana.ask("emit", {"event": "other", "coalesce": "other"})
            await trio.sleep(WINDOW)
        got = await bob.receive_many(4)
        wanted = [("cursor", ["ana", 3]), ("cursor", ["cay", 3]), ("cursor", ["nobody", 2]), "other"]
        assert names(got) == wanted


async def test_what_is_volatile_or_coalesced_is_not_kept(autojump_clock: MockClock) -> None:
    """Also where the room keeps what is emitted: who is away does not get it, and there is no seq."""
    async with open_rooms([board(reliable=True)]) as rooms:
        handle = rooms.get("board", "x")
        async with connect(rooms, "board/x", subprotocols=OFFERED) as client:
            await client.receive()
            options: dict[str, Any]
            for options in ({"volatile": True}, {"coalesce": "x"}):
                assert handle.emit("gone", **options).reached == 1
                assert "seq" not in await client.receive()
                for how in ("emit", "emit to me"):
                    await client.emit(how, {"event": "gone", **options})
                    assert "seq" not in await client.receive()
            await client.drop()
        await trio.sleep(0.1)
        assert handle.emit("gone", volatile=True) == Sent()
        assert handle.emit("kept") == Sent(stored=1)
        assert await handle.emit_durably("kept") == Sent(stored=1)
        async with connect(rooms, "board/x", resume=client) as again:
            assert names((await again.receive_many(3))[1:]) == ["kept", "kept"]


async def test_what_cannot_be_is_refused(autojump_clock: MockClock) -> None:
    """Wherever it is asked for: reliable and dropped for some, or a name that is none."""
    async with open_rooms([board()]) as rooms, connect(rooms, "board/x") as client:
        handle = rooms.get("board", "x")
        with pytest.raises(ValueError, match="what is volatile cannot be sent reliably"):
            handle.emit("x", reliable=True, volatile=True)
        with pytest.raises(ValueError, match="what is coalesced cannot be sent reliably"):
            handle.emit("x", reliable=True, coalesce="x")
        with pytest.raises(TypeError, match="coalesce"):
            handle.emit("x", coalesce=1)  # type: ignore[arg-type]
        for how in ("emit", "emit to me"):
            for wrong in ({"reliable": True, "volatile": True}, {"coalesce": 1}):
                await client.emit(how, {"event": "x", **wrong}, id=1)
        assert handle.emit("last") == Sent(active=1)
        got = [message for message in await client.receive_many(5) if "event" in message]
        assert names(got) == ["last"]


async def test_behind_a_gate_the_rest_is_not_known_yet(autojump_clock: MockClock) -> None:
    """How it is sent is kept until it goes out."""
    room = board(durability="commit", batch_window=WINDOW)
    async with hibernated(room) as (rooms, ana, bob), connect(rooms, "board/elsewhere") as far:
        began = trio.current_time()
        assert await ana.ask("emit elsewhere", {"event": "far"}) == [1, 0]
        assert await ana.ask("emit elsewhere", {"event": "far", "volatile": True}) == [1, 0]
        for number in range(3):
            await ana.ask("point", number)
            await ana.ask("emit", {"event": "gone", "volatile": True})
            await ana.ask("emit to me", {"event": "mine", "coalesce": "x"})
        assert trio.current_time() == began
        assert names(await far.receive_many(2)) == ["far", "far"]
        assert trio.current_time() == pytest.approx(began + WINDOW)
        wanted = [("cursor", ["ana", 0]), "gone", "mine"]
        assert names(await ana.receive_many(9))[:3] == wanted
        assert names(await bob.receive_many(4)) == ["gone", "gone", ("cursor", ["ana", 2]), "gone"]
        assert trio.current_time() == pytest.approx(began + WINDOW)
        await ana.ask("point twice", 7)
        assert names(await bob.receive_many(1)) == [("cursor", ["ana", 8])]
        assert trio.current_time() == pytest.approx(began + 2 * WINDOW)


async def test_in_a_room_that_sleeps_all_are_hibernated(autojump_clock: MockClock) -> None:
    """However much they said before; they are active again with their next message."""
    room: Room[None] = Room("board", idle_timeout=1)

    @room.on("hello")
    async def hello(ctx: Context[None]) -> None:
        """Nothing."""

    async with open_rooms([room]) as rooms, connect(rooms, "board/x") as client:
        handle = rooms.get("board", "x")
        for _ in range(20):
            await client.ask("hello")
        assert handle.emit("x") == Sent(active=1)
        await trio.sleep(1.1)
        assert handle.info().stage is Stage.ASLEEP
        assert handle.emit("x") == Sent(parked=1)
        await client.ask("hello")
        assert handle.emit("x") == Sent(active=1)


async def test_what_becomes_of_a_message_of_a_plain_room(autojump_clock: MockClock) -> None:
    """The same counts; what is sent to a room without anybody reached nobody."""
    plain: Room[None] = Room("plain", batch_window=WINDOW)

    @plain.on_message
    async def on_message(ctx: Context[None], message: str | bytes) -> None:
        ctx.connection.join("red")
        ctx.room.send(message)

    async with (
        open_rooms([plain]) as rooms,
        connect(rooms, "plain/x") as one,
        connect(rooms, "plain/x") as other,
    ):
        handle = rooms.get("plain", "x")
        await one.send("hello")
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        assert handle.send("a") == Sent(active=1, queued=1)
        assert handle.send("b", channel="red") == Sent(active=1)
        assert handle.send("c", channel="blue") == Sent()
        assert rooms.get("plain", "y").send("d") == Sent()
        assert await one.receive_many(3) == ["hello", "a", "b"]
        assert trio.current_time() == began
        assert await other.receive_many(2) == ["hello", "a"]
        assert trio.current_time() == pytest.approx(began + WINDOW)
