"""The client that tests of rooms use."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
import trio

from trio_rooms import (
    ConnectRequest,
    Context,
    Disconnect,
    EventError,
    Refused,
    Room,
    RoomsClosed,
    Stage,
    UnknownRoom,
    open_rooms,
)
from trio_rooms.testing import Closed, connect

chat: Room[list[Any]] = Room("chat", state=list, idle_timeout=10)


@chat.authenticate
async def who(request: ConnectRequest) -> dict[str, Any]:
    """Let in who says a name."""
    user = request.query.get("user")
    if user is None:
        raise Refused(401, "say who you are")
    return {"user": user, "agent": request.headers.get("user-agent"), "path": request.path}


@chat.on("whoami")
async def whoami(ctx: Context[list[Any]]) -> Any:
    """Answer with the attachment."""
    return ctx.connection.attachment


@chat.on("say")
async def say(ctx: Context[list[Any]], data: str) -> int:
    """Say it to a channel, or to all."""
    if not data:
        raise EventError("empty", "nothing was said")
    ctx.state.append(data)
    ctx.room.emit("said", data, channel=ctx.channel)
    return len(ctx.state)


@chat.on("kick")
async def kick(ctx: Context[list[Any]]) -> None:
    """Close whoever asks for it."""
    ctx.room.emit("said", "bye")
    ctx.connection.close(4001, "out")


@chat.on_disconnect
async def gone(ctx: Context[list[Any]], left: Disconnect) -> None:
    """Write down who went, and how."""
    ctx.state.append([left.attachment["user"], left.code, left.clean])


@chat.on("log")
async def log(ctx: Context[list[Any]]) -> list[Any]:
    """Answer with the state."""
    return ctx.state


echo: Room[None] = Room("echo")


@echo.on_message
async def back(ctx: Context[None], message: str | bytes) -> None:
    """Send back what came."""
    ctx.connection.send(message)


async def test_it_comes_in_through_authenticate(autojump_clock: Any) -> None:
    """Query, headers and path are what `authenticate` sees, and what it returns is the attachment."""
    async with (
        open_rooms([chat]) as rooms,
        connect(rooms, "chat/a b/c", query={"user": "ada"}, headers={"User-Agent": "test"}) as ada,
        connect(rooms, "chat/x", query="user=bob&x=1") as bob,
    ):
        seen = {"user": "ada", "agent": "test", "path": "/chat/a%20b%2Fc"}
        assert await ada.ask("whoami") == seen
        assert (await bob.ask("whoami"))["user"] == "bob"


async def test_who_is_refused_is_told_by_the_error(autojump_clock: Any) -> None:
    """The application's own error comes out, alone, and the room has heard nothing."""
    async with open_rooms([chat]) as rooms:
        with pytest.raises(Refused) as refused:
            async with connect(rooms, "chat/x"):
                pass
        assert refused.value.status == 401
        assert rooms.get("chat", "x").info().stage is Stage.ASLEEP
        with pytest.raises(UnknownRoom):
            async with connect(rooms, "nothing/x"):
                pass
    with pytest.raises(RoomsClosed):
        async with connect(rooms, "chat/x", attachment=1):
            pass


async def test_an_attachment_takes_its_place(autojump_clock: Any) -> None:
    """With an attachment nobody is asked."""
    async with open_rooms([chat]) as rooms, connect(rooms, "chat/x", attachment={"user": "eve"}) as eve:
        assert await eve.ask("whoami") == {"user": "eve"}


async def test_ask_answers_and_keeps_the_rest(autojump_clock: Any) -> None:
    """What comes beside an answer or a pong is there for `receive`, in its order."""
    async with open_rooms([chat]) as rooms, connect(rooms, "chat/x", query="user=ada") as ada:
        assert await ada.ask("say", "one") == 1
        assert await ada.ask("say", "two") == 2
        await ada.emit("say", "three", id=70)
        await ada.ping(b"there?")
        said = [{"event": "said", "data": word} for word in ("one", "two", "three")]
        assert await ada.receive_many(4) == [*said, {"ack": 70, "data": 3}]
        with pytest.raises(EventError) as refused:
            await ada.ask("say", "")
        assert (refused.value.code, refused.value.message) == ("empty", "nothing was said")


async def test_it_sleeps_and_wakes(autojump_clock: Any) -> None:
    """The clock of the test is the clock of the room."""
    async with open_rooms([chat]) as rooms, connect(rooms, "chat/x", query="user=ada") as ada:
        await ada.ask("say", "one")
        await trio.sleep(11)
        assert rooms.get("chat", "x").info().stage is Stage.ASLEEP
        assert await ada.ask("say", "two") == 2


async def test_subprotocols(autojump_clock: Any) -> None:
    """It speaks the kind that was chosen, and is welcomed in it."""
    offered = ["unknown", "trio-rooms.v1.cbor"]
    async with (
        open_rooms([chat]) as rooms,
        connect(rooms, "chat/x", query="user=ada", subprotocols=offered) as ada,
    ):
        assert ada.subprotocol == "trio-rooms.v1.cbor"
        assert (await ada.receive())["event"] == "rooms.welcome"
        assert await ada.ask("say", "one") == 1
        async with connect(rooms, "chat/x", query="user=bob") as bob:
            assert bob.subprotocol is None
            await bob.send(cbor2.dumps({"event": "say", "data": "two", "id": 1}))
            assert await bob.receive_many(2) == [{"event": "said", "data": "two"}, {"ack": 1, "data": 2}]


async def test_a_client_comes_back(autojump_clock: Any) -> None:
    """It goes on with its session, from where it was."""
    async with open_rooms([chat]) as rooms:
        async with connect(rooms, "chat/lobby", query="user=ada", subprotocols=["trio-rooms.v1.json"]) as ada:
            await ada.receive()
            await ada.drop()
        async with connect(rooms, "chat/lobby", query="user=ada", resume=ada) as again:
            assert (await again.receive())["data"]["resumed"]
            assert again.session == ada.session is not None


async def test_who_has_no_session_does_not_come_back(autojump_clock: Any) -> None:
    """Nobody takes a new client for one that was resumed."""
    bare: Room[list[Any]] = Room("bare", state=list, resume_window=0)
    bare.on("say")(say)
    json = "trio-rooms.v1.json"
    async with open_rooms([chat, bare]) as rooms:
        with pytest.raises(TypeError, match=r"write subprotocols=\['trio-rooms.v1.json'\]"):
            async with connect(rooms, "bare/x", subprotocols="trio-rooms.v1.json"):
                pass
        cases: list[tuple[str, list[str], int, str]] = [
            ("chat/x", [], 0, "have it offer one"),
            ("chat/x", ["soap"], 0, "have it offer one"),
            ("chat/x", [json], 0, "has not received its welcome"),
            ("bare/x", [json], 1, "the room keeps none"),
        ]
        for key, offered, count, why in cases:
            async with connect(rooms, key, query="user=ada", subprotocols=offered) as client:
                await client.receive_many(count)
                await client.drop()
            with pytest.raises(ValueError, match=why):
                async with connect(rooms, key, query="user=ada", resume=client):
                    pass


async def test_a_plain_room(autojump_clock: Any) -> None:
    """Messages of a plain room are what they are, also where they look like envelopes."""
    async with open_rooms([echo]) as rooms, connect(rooms, "echo/x") as client:
        for message in ("text", '{"event": 1}', b"\x00", b""):
            await client.send(message)
            assert await client.receive() == message


async def test_how_it_ends(autojump_clock: Any) -> None:
    """The block's end closes with 1000; `drop` breaks off; what the server closes with is told."""
    async with open_rooms([chat]) as rooms:
        async with connect(rooms, "chat/x", query="user=ada") as ada:
            await ada.emit("kick")
            assert [message async for message in ada] == [{"event": "said", "data": "bye"}]
            assert ada.closed == Closed(4001, "out")
            with pytest.raises(trio.EndOfChannel):
                await ada.receive()
        async with connect(rooms, "chat/x", query="user=bob"):
            pass
        async with connect(rooms, "chat/x", query="user=cid") as cid:
            await cid.hang_up(4000)
        async with connect(rooms, "chat/x", query="user=dan") as dan:
            await dan.drop()
        log = await rooms.get("chat", "x").ask("log")
        assert log == [["ada", 4001, True], ["bob", 1000, True], ["cid", 4000, True], ["dan", 1006, False]]


async def test_an_error_of_the_block_comes_out_as_it_is(autojump_clock: Any) -> None:
    """It is not wrapped into a group, and a group of the block's own is not unwrapped."""
    async with open_rooms([echo]) as rooms:
        with pytest.raises(ValueError, match="plain"):
            async with connect(rooms, "echo/x"):
                raise ValueError("plain")
        with pytest.raises(ExceptionGroup, match="mine") as raised:
            async with connect(rooms, "echo/x"):
                raise ExceptionGroup("mine", [ValueError("in it")])
        assert [str(error) for error in raised.value.exceptions] == ["in it"]
        with trio.move_on_after(1) as scope:
            async with connect(rooms, "echo/x"):
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_what_is_sent_while_another_task_receives() -> None:
    """It waits for what that sends; to a connection that is found to close it is an error of its own."""
    async with (
        open_rooms([echo]) as rooms,
        connect(rooms, "echo/x") as client,
        trio.open_nursery() as nursery,
    ):
        for number in range(10):
            nursery.start_soon(client.send, str(number))
        assert sorted(await client.receive_many(10)) == [*"0123456789"]
        await rooms.get("echo", "x").destroy()
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        with pytest.raises(trio.ClosedResourceError):
            await client.send("late")
