"""Connections that are no plain sockets: streams, and what a trio-websocket server hands over."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from tests.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Client, close_frame, frame, request, soon
from tests.sockets.bench import bench
from trio_rooms import (
    ConnectRequest,
    Context,
    Disconnect,
    Refused,
    Room,
    RoomsClosed,
    UnknownRoom,
    open_rooms,
)
from trio_rooms._rooms import Rooms
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.flags import CLOSING
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link
from trio_rooms._sockets.task_links import StreamLink
from trio_rooms._wire.frames import encode_text

LEFT: dict[str, trio.MemorySendChannel[Disconnect]] = {}
GATES: dict[str, trio.Event] = {}
room: Room[None] = Room("room", idle_timeout=math.inf, auto_respond={"ping": "pong"})


@room.authenticate
async def authenticate(asked: ConnectRequest) -> str:
    """Refuse who asks for it, or have them wait."""
    if "wait" in asked.query:
        GATES[f"came {asked.query['wait']}"].set()
        await GATES["late"].wait()
    if "refuse" in asked.query:
        close = asked.query.get("close")
        raise Refused(
            int(asked.query["refuse"]),
            "not you",
            close=None if close is None else int(close),
            headers={"X-Why": "so"},
        )
    return asked.query.get("as", "")


@room.on_message
async def on_message(ctx: Context[None], message: str | bytes) -> None:
    """Do what the message says."""
    command, _, rest = message.partition(" ") if isinstance(message, str) else ("echo", "", "")
    if command == "close":
        code, _, reason = rest.partition(" ")
        ctx.connection.close(int(code), reason)
    elif command == "flood":
        for number in range(int(rest)):
            ctx.connection.send(b"%09d" % number + b"x" * 10_000)
    elif command == "large":
        ctx.connection.send(b"x" * int(rest))
    elif command == "who":
        ctx.connection.send(ctx.connection.attachment)
    elif command == "wait":
        await GATES[rest].wait()
    else:
        ctx.connection.send(message)


@room.on_disconnect
async def on_disconnect(ctx: Context[None], left: Disconnect) -> None:
    """Tell the test."""
    LEFT[ctx.room.id].send_nowait(left)


spoken: Room[None] = Room("spoken", subprotocols=["mqtt", "v2"], idle_timeout=0)


@spoken.authenticate
async def on_spoken(asked: ConnectRequest) -> list[str]:
    """Write down what was offered."""
    return list(asked.subprotocols)


@spoken.on_message
async def on_spoken_message(ctx: Context[None], message: str) -> None:
    """Say what was chosen, and what was offered."""
    ctx.connection.send(f"{ctx.connection.subprotocol} {ctx.connection.attachment}")


events: Room[None] = Room("events")


@events.on("say")
async def on_say(ctx: Context[None], data: Any) -> Any:
    """Send it back."""
    return data


class Departures:
    """Who left a room, as its on_disconnect was told."""

    def __init__(self, id_: str = "x") -> None:
        LEFT[id_], self._left = trio.open_memory_channel(math.inf)

    async def one(self) -> tuple[int, str, bool]:
        """The next, and no other after it."""
        left = await self._left.receive()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            self._left.receive_nowait()
        return left.code, left.reason, left.clean


@contextlib.asynccontextmanager
async def streaming(stream: trio.abc.Stream, theirs: trio.abc.Stream, **options: Any) -> AsyncIterator[Any]:
    """A room that is served on a stream; the client, and the task that serves it."""
    with trio.fail_after(1000):
        async with open_rooms([room], **options) as rooms, trio.open_nursery() as nursery:
            over = trio.Event()

            async def serve() -> None:
                try:
                    await rooms.serve_stream(theirs, "room", "x", attachment="eve")
                finally:
                    over.set()

            nursery.start_soon(serve)
            await trio.testing.wait_all_tasks_blocked()
            yield Client(stream), rooms, over
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["socket", "task"])
async def test_what_waits_takes_no_more_memory_than_it_may(kind: str) -> None:
    """Of an empty message there are two bytes to send, and fifty in memory: the bound is for the memory."""
    limit = 1_000_000
    async with bench(backlog=limit) as made:
        link: Link = made.client(buffer=4096)[1]
        if kind == "task":
            ours, _ = trio.testing.memory_stream_pair()
            link = StreamLink(made.hub.new_id(), link.roster, None, 0, ours)
            made.hub.enter(link)
        tracemalloc.start()
        try:
            while not link.flags & CLOSING:
                for _ in range(100):
                    link.send(bytes((0x81, 0)))
            held = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert limit / 2 < held < 1.2 * limit


# Memory streams.


async def test_a_stream_speaks_websocket(autojump_clock: trio.testing.MockClock) -> None:
    """Messages in pieces, pings, automatic responses and a close go over any stream."""
    departures = Departures()
    async with streaming(*trio.testing.memory_stream_pair()) as (client, _, over):
        for byte in frame(TEXT, b"who", final=False) + frame(CONTINUATION):
            await client.send(bytes((byte,)))
        assert await client.frame() == (TEXT, b"eve")
        await client.send(frame(PING, b"1") + frame(TEXT, b"ping") + frame(BINARY, b"\0" * 70_000))
        assert [await client.frame() for _ in range(3)] == [
            (PONG, b"1"), (TEXT, b"pong"), (BINARY, b"\0" * 70_000)
        ]  # fmt: skip
        await client.send(close_frame(4000, "bye"))
        assert await client.closed() == (4000, "bye")
        await client.stream.aclose()
        await over.wait()
        assert await departures.one() == (4000, "bye", True)


async def test_a_room_closes_a_stream(autojump_clock: trio.testing.MockClock) -> None:
    """The room's code reaches the client, and the answer ends the task."""
    departures = Departures()
    async with streaming(*trio.testing.memory_stream_pair()) as (client, rooms, over):
        await client.send(frame(TEXT, b"close 4001 enough"))
        assert await client.frame() == (CLOSE, (4001).to_bytes(2) + b"enough")
        await client.send(close_frame(4001))
        await over.wait()
        assert await departures.one() == (4001, "", True)
        assert rooms.statistics().hub.closing == 0


async def test_a_stream_that_does_not_answer_a_close(autojump_clock: trio.testing.MockClock) -> None:
    """After exactly the close timeout the stream is given up."""
    departures = Departures()
    async with streaming(*trio.testing.memory_stream_pair(), close_timeout=7) as (client, _, over):
        await client.send(frame(TEXT, b"close 4001"))
        await client.frame()
        began = trio.current_time()
        await over.wait()
        assert trio.current_time() - began == pytest.approx(7)
        assert (await departures.one())[::2] == (1006, False)


async def test_a_violation_on_a_stream(autojump_clock: trio.testing.MockClock) -> None:
    """A stream is closed with 1002, and given up when the client says nothing more."""
    departures = Departures()
    async with streaming(*trio.testing.memory_stream_pair(), close_timeout=7) as (client, _, over):
        await client.send(frame(TEXT, b"x", masked=False))
        assert (await client.closed())[0] == 1002
        await over.wait()
        assert (await departures.one())[::2] == (1002, False)


async def test_a_stream_that_is_lost(autojump_clock: trio.testing.MockClock) -> None:
    """An end without a closing handshake is 1006."""
    departures = Departures()
    async with streaming(*trio.testing.memory_stream_pair()) as (client, _, over):
        await client.stream.aclose()
        await over.wait()
        assert (await departures.one())[::2] == (1006, False)


async def test_a_stream_whose_reader_is_slow(autojump_clock: trio.testing.MockClock) -> None:
    """The frame that is half out is finished and 1013 follows, then the end."""
    departures = Departures()
    async with streaming(*trio.testing.lockstep_stream_pair(), max_unsent=100_000) as (client, _, over):
        await client.send(frame(TEXT, b"flood 100"))
        assert await client.frame() == (BINARY, b"000000000" + b"x" * 10_000)
        kind, content = await client.frame()
        assert kind == CLOSE
        assert content[:2] == (1013).to_bytes(2)
        await client.send(close_frame(1013))
        assert (await departures.one())[::2] == (1013, True)
        await over.wait()


async def test_a_slow_stream_gets_the_newest_of_what_is_coalesced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """When it has read what was sent before. Who reads is not slow: what is sent meanwhile is not dropped."""
    volatile = Manner(volatile=True, key=None, window=0)
    cursor = Manner(volatile=False, key="cursor", window=0)
    async with streaming(*trio.testing.lockstep_stream_pair()) as (client, rooms, _):
        hub = rooms._hub
        (link,) = hub.rosters["room/x"].links.values()
        for name in ("a", "b"):
            hub.send_in(link, PlainMessage(name), volatile)
        await trio.testing.wait_all_tasks_blocked()
        hub.send_in(link, PlainMessage("while it is written"), volatile)
        await trio.sleep(1)
        assert link.slow
        for number in range(9):
            hub.send_in(link, PlainMessage(f"c{number}"), cursor)
            hub.send_in(link, PlainMessage("never"), volatile)
        got = [(await client.frame())[1] for _ in range(4)]
        assert got == [b"a", b"b", b"while it is written", b"c8"]
        hub.pacing.postpone(link, encode_text(b"d"), 60)
        hub.pacing.postpone(link, encode_text(b"e"), 60)
        began = trio.current_time()
        assert await client.read(6) == encode_text(b"d") + encode_text(b"e")
        assert trio.current_time() == began + 60


async def test_a_stream_that_is_read_on_is_not_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """However slowly, and in the middle of a message too; then there is the close timeout for the answer."""
    departures = Departures()
    async with streaming(*trio.testing.lockstep_stream_pair(), close_timeout=7) as (client, _, over):
        await client.send(
            frame(TEXT, b"large 1000000") + frame(TEXT, b"flood 5") + frame(TEXT, b"close 4001")
        )
        received = b""
        size = 10 + 1_000_000 + 5 * (4 + 10_009) + 4
        while len(received) < size:
            await trio.sleep(6)
            received += await client.stream.receive_some(20_000)
        assert received[-4:] == b"\x88\x02\x0f\xa1"
        assert trio.current_time() > 150
        await trio.sleep(6)
        await client.send(close_frame(4001))
        await over.wait()
        assert await departures.one() == (4001, "", True)


async def test_what_follows_a_large_message_on_a_stream_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is being written is not held against the reader; a pong comes before what has not begun."""
    async with streaming(*trio.testing.lockstep_stream_pair(), max_unsent=100_000) as (client, _, _):
        await client.send(frame(TEXT, b"large 1000000") + frame(TEXT, b"flood 5"))
        await trio.testing.wait_all_tasks_blocked()
        await client.send(frame(PING, b"1") + frame(PING, b"2"))
        await trio.testing.wait_all_tasks_blocked()
        assert await client.frame() == (BINARY, b"x" * 1_000_000)
        assert await client.frame() == (PONG, b"2")
        for number in range(5):
            assert await client.frame() == (BINARY, b"%09d" % number + b"x" * 10_000)


async def test_a_stream_is_not_read_while_its_room_is_busy(autojump_clock: trio.testing.MockClock) -> None:
    """About a thousand messages wait in a room, the rest in the stream; then all are handled in order."""
    Departures()
    GATES["x"] = trio.Event()
    async with streaming(*trio.testing.memory_stream_pair()) as (client, rooms, _):
        await client.send(frame(TEXT, b"wait x"))
        for number in range(5000):
            await client.send(frame(TEXT, b"%d" % number))
        handle = rooms.get("room", "x")
        await trio.testing.wait_all_tasks_blocked()
        # All of them came at once here: what was in the first pieces is in the box.
        assert handle.info().mailbox >= 1000
        GATES["x"].set()
        for number in range(5000):
            assert await client.frame() == (TEXT, b"%d" % number)


async def test_the_end_of_the_rooms_closes_streams(autojump_clock: trio.testing.MockClock) -> None:
    """Clients on streams get their close frame too, all of them, and have time to answer it."""
    for id_ in "abc":
        Departures(id_)
    pairs = [trio.testing.memory_stream_pair() for _ in "abc"]
    with trio.fail_after(30):
        async with open_rooms([room]) as rooms, trio.open_nursery() as nursery:
            for id_, (_, theirs) in zip("abc", pairs, strict=True):
                nursery.start_soon(rooms.serve_stream, theirs, "room", id_)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(rooms.aclose, 1012, "back soon")
            for ours, _ in pairs:
                client = Client(ours)
                assert await client.frame() == (CLOSE, (1012).to_bytes(2) + b"back soon")
                await client.send(close_frame(1012))
            assert rooms.statistics().hub.sockets == 0


async def test_a_stream_whose_task_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelling serve_stream ends the connection, and the room hears of it once."""
    departures = Departures()
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(30):
        async with open_rooms([room]) as rooms:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rooms.serve_stream, theirs, "room", "x")
                await trio.testing.wait_all_tasks_blocked()
                assert rooms.statistics().hub.sockets == 1
                nursery.cancel_scope.cancel()
            assert rooms.statistics().hub.sockets == 0
            assert (await departures.one())[::2] == (1006, False)
    await ours.aclose()


# trio-websocket.


@contextlib.asynccontextmanager
async def adopting(
    adopt: Callable[[Rooms, trio_websocket.WebSocketRequest], Awaitable[None]] | None = None, **options: Any
) -> AsyncIterator[tuple[Rooms, str, list[BaseException]]]:
    """An application's own trio-websocket server, whose handler hands everybody over."""
    failures: list[BaseException] = []
    with trio.fail_after(30):
        async with open_rooms([room, events, spoken], **options) as rooms, trio.open_nursery() as nursery:

            async def handle(asked: trio_websocket.WebSocketRequest) -> None:
                try:
                    if adopt is not None:
                        await adopt(rooms, asked)
                    else:
                        name, id_ = asked.path.partition("?")[0].strip("/").split("/")
                        await rooms.adopt(asked, name, id_)
                except Exception as error:
                    failures.append(error)

            def serve(task_status: trio.TaskStatus[Any]) -> Awaitable[None]:
                return trio_websocket.serve_websocket(
                    handle, "127.0.0.1", 0, ssl_context=None, task_status=task_status
                )

            server = await nursery.start(serve)
            yield rooms, f"ws://127.0.0.1:{server.port}", failures
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def opened(
    url: str, subprotocols: tuple[str, ...] = ()
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A trio-websocket client on a stream that is closed in the end; by itself it leaves that open."""
    address, _, path = url.removeprefix("ws://").partition("/")
    host, _, port = address.partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream, trio.open_nursery() as nursery:
        websocket = await trio_websocket.wrap_client_stream(
            nursery, stream, host, f"/{path}", subprotocols=subprotocols
        )
        yield websocket
        await websocket.aclose()


async def test_messages_of_an_adopted_connection() -> None:
    """Text and binary of any size go both ways, and authenticate is asked."""
    Departures()
    async with adopting() as (rooms, url, failures), opened(f"{url}/room/x?as=eve") as websocket:
        await websocket.send_message("who")
        assert await websocket.get_message() == "eve"
        for message in ("hello", "", "é" * 40_000, b"", b"\0" * 100_000, "ping"):
            await websocket.send_message(message)
            assert await websocket.get_message() == ("pong" if message == "ping" else message)
        await websocket.ping(b"x")
        assert rooms.get("room", "x").info().connections == 1
        assert failures == []


async def test_what_waits_at_an_adopted_connection_comes_message_by_message() -> None:
    """In order, before what is sent next: trio-websocket takes no two of them for one."""
    async with adopting() as (rooms, url, failures), opened(f"{url}/room/x") as websocket:
        await soon(lambda: rooms.get("room", "x").info().connections == 1)
        (link,) = rooms._hub.rosters["room/x"].links.values()
        for name in (b"a", b"b"):
            rooms._hub.pacing.postpone(link, encode_text(name), 1000)
        await websocket.send_message("c")
        assert [await websocket.get_message() for _ in range(3)] == ["a", "b", "c"]
        assert failures == []


@pytest.mark.parametrize("message", [bytes(1001), "x" * 1001, "é" * 501, "\U0001f600" * 251])
async def test_a_message_of_an_adopted_connection_is_limited(message: str | bytes) -> None:
    """As it is by rooms.serve, in bytes; what fits is taken."""
    departures = Departures()
    async with (
        adopting(max_message_size=1000) as (rooms, url, failures),
        opened(f"{url}/room/x") as websocket,
    ):
        await websocket.send_message(message[: 1000 // 4 if isinstance(message, str) else 1000])
        await websocket.get_message()
        await websocket.send_message(message)
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await websocket.get_message()
        assert caught.value.reason is not None
        assert caught.value.reason.code == 1009
        assert (await departures.one())[::2] == (1009, False)
        assert rooms.statistics().hub.closes == {1009: 1}
        assert failures == []


@pytest.mark.parametrize(("code", "reason"), [(1000, None), (4001, "bye"), (1001, "é")])
async def test_a_close_by_the_client_of_an_adopted_connection(code: int, reason: str | None) -> None:
    """The client's code reaches on_disconnect."""
    departures = Departures()
    async with adopting() as (rooms, url, failures):
        async with opened(f"{url}/room/x") as websocket:
            await websocket.aclose(code, reason)
        assert await departures.one() == (code, reason or "", True)
        assert failures == []
        assert rooms.statistics().hub.closing == 0


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4001, "enough"), (4001, "")])
async def test_a_close_by_the_room_of_an_adopted_connection(code: int, reason: str) -> None:
    """The room's code reaches the client, and its answer on_disconnect."""
    departures = Departures()
    async with adopting() as (_, url, failures), opened(f"{url}/room/x") as websocket:
        await websocket.send_message(f"close {code} {reason}")
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await websocket.get_message()
        assert caught.value.reason is not None
        assert (caught.value.reason.code, caught.value.reason.reason or "") == (code, reason)
        assert await departures.one() == (code, reason, True)
        assert failures == []


async def test_an_adopted_connection_that_does_not_answer_a_close() -> None:
    """After the close timeout it is given up, and was not closed cleanly."""
    departures = Departures()
    async with adopting(close_timeout=0.1) as (_, url, failures):
        stream = await _opened_raw(url)
        await stream.send_all(frame(TEXT, b"close 4001"))
        client = Client(stream)
        assert await client.frame() == (CLOSE, (4001).to_bytes(2))
        assert (await departures.one())[::2] == (1006, False)
        await stream.aclose()
        assert failures == []


async def test_an_adopted_connection_that_is_lost() -> None:
    """An end without a closing handshake is 1006, and not clean."""
    departures = Departures()
    async with adopting() as (_, url, failures):
        stream = await _opened_raw(url)
        await stream.send_all(frame(TEXT, b"hi"))
        assert await Client(stream).frame() == (TEXT, b"hi")
        await stream.aclose()
        assert (await departures.one())[::2] == (1006, False)
        assert failures == []


async def test_an_adopted_connection_that_does_not_read() -> None:
    """It is closed as too slow; the task of its connection ends."""
    departures = Departures()
    async with adopting(max_unsent=100_000, close_timeout=0.1) as (rooms, url, failures):
        stream = await _opened_raw(url)
        await stream.send_all(frame(TEXT, b"flood 2000"))
        assert (await departures.one())[::2] == (1006, False)
        await stream.aclose()
        assert failures == []
        assert rooms.statistics().hub.closing == 0


async def _ask(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    address, _, path = url.removeprefix("ws://").partition("/")
    host, _, port = address.partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(request(f"/{path}", **headers))
        return await Client(stream).answer()


async def _opened_raw(url: str) -> trio.SocketStream:
    host, _, port = url.removeprefix("ws://").partition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    await stream.send_all(request("/room/x"))
    assert (await Client(stream).answer(body=False))[0] == 101
    return stream


async def test_a_connection_that_is_adopted_while_the_rooms_close() -> None:
    """It is closed with the code of the others, and who adopts it is told."""

    async def adopt(rooms: Rooms, asked: trio_websocket.WebSocketRequest) -> None:
        accept = asked.accept

        async def accept_slowly(**options: Any) -> trio_websocket.WebSocketConnection:
            websocket = await accept(**options)
            await rooms.aclose(4000, "x" * 200)
            return websocket

        asked.accept = accept_slowly  # type: ignore[method-assign]
        await rooms.adopt(asked, "room", "x")

    async with adopting(adopt) as (rooms, url, failures), opened(f"{url}/room/x") as websocket:
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await websocket.get_message()
        assert caught.value.reason is not None
        assert (caught.value.reason.code, caught.value.reason.reason) == (4000, "x" * 123)
        await soon(lambda: bool(failures))
        assert [type(failure) for failure in failures] == [RoomsClosed]
        assert rooms.statistics().hub.sockets == 0


async def test_who_waits_for_authenticate_while_the_rooms_close_is_not_let_in() -> None:
    """Neither a request of trio-websocket, which gets 503, nor a stream; whoever brought them is told."""
    GATES.update({name: trio.Event() for name in ("came one", "came two", "late")})
    answers: list[int] = []
    asked = ConnectRequest("room", "x", "/room/x", {"wait": "one"}, {}, "nobody")
    ours, theirs = trio.testing.memory_stream_pair()

    async def ask(url: str) -> None:
        answers.append((await _ask(f"{url}/room/x?wait=two"))[0])

    async with adopting() as (rooms, url, failures), trio.open_nursery() as nursery:

        async def stream() -> None:
            with pytest.raises(RoomsClosed):
                await rooms.serve_stream(theirs, "room", "x", request=asked)

        nursery.start_soon(stream)
        nursery.start_soon(ask, url)
        await GATES["came one"].wait()
        await GATES["came two"].wait()
        await rooms.aclose()
        GATES["late"].set()
        await soon(lambda: bool(answers) and bool(failures))
    assert answers == [503]
    assert [type(failure) for failure in failures] == [RoomsClosed]
    await ours.aclose()


async def test_authenticate_refuses_a_request() -> None:
    """The client gets the status and the reason, as from rooms.serve."""
    async with adopting() as (rooms, url, failures):
        answer = await _ask(f"{url}/room/x?refuse=401")
        assert (answer[0], answer[2]) == (401, b"not you")
        assert (answer[1]["x-why"], answer[1]["www-authenticate"]) == ("so", "Bearer")
        assert failures == []
        assert rooms.statistics().hub.rosters == 0


async def test_a_page_is_refused_with_a_close() -> None:
    """As from rooms.serve, where it offers that; what may be otherwise soon stays a status."""
    offered = ("odd", "trio-rooms.refusal")
    async with adopting() as (rooms, url, failures):
        async with opened(f"{url}/room/x?refuse=401", offered) as websocket:
            assert websocket.subprotocol == "trio-rooms.refusal"
            with pytest.raises(trio_websocket.ConnectionClosed):
                await websocket.get_message()
            assert websocket.closed is not None
            assert (websocket.closed.code, websocket.closed.reason) == (4401, "not you")
        answer = await _ask(f"{url}/room/x?refuse=503", Sec_WebSocket_Protocol=", ".join(offered))
        assert answer[0] == 503
        assert failures == []
        assert rooms.statistics().hub.rosters == rooms.statistics().supervisor.wakes == 0


async def test_authenticate_closes_what_it_refuses() -> None:
    """The client sees the code, and no room hears of it."""
    async with (
        adopting() as (rooms, url, failures),
        opened(f"{url}/room/x?refuse=403&close=4403", ("odd",)) as websocket,
    ):
        with pytest.raises(trio_websocket.ConnectionClosed):
            await websocket.get_message()
        assert websocket.closed is not None
        assert (websocket.closed.code, websocket.closed.reason) == (4403, "not you")
        assert failures == []
        assert rooms.statistics().hub.rosters == rooms.statistics().supervisor.wakes == 0


@pytest.mark.parametrize(
    ("name", "id_"), [("nobody", "x"), ("room", ""), ("room", "a\0"), ("room", "x" * 257)]
)
async def test_an_unknown_room_rejects_a_request(name: str, id_: str) -> None:
    """The client gets 404, and the application an error."""

    async def adopt(rooms: Rooms, asked: trio_websocket.WebSocketRequest) -> None:
        await rooms.adopt(asked, name, id_)

    async with adopting(adopt) as (_, url, failures):
        assert (await _ask(f"{url}/"))[0] == 404
        assert [type(failure) for failure in failures] == [UnknownRoom]


async def test_a_given_attachment_is_taken_without_asking() -> None:
    """An application that knows its user says so, and authenticate is not asked."""
    Departures()

    async def adopt(rooms: Rooms, asked: trio_websocket.WebSocketRequest) -> None:
        await rooms.adopt(asked, "room", "x", attachment="adam")

    async with adopting(adopt) as (_, url, failures), opened(f"{url}/?refuse=403") as websocket:
        await websocket.send_message("who")
        assert await websocket.get_message() == "adam"
        assert failures == []


async def test_cancelling_the_task_that_adopted() -> None:
    """The client is cut off, and the room hears of it once."""
    departures = Departures()
    scopes: list[trio.CancelScope] = []

    async def adopt(rooms: Rooms, asked: trio_websocket.WebSocketRequest) -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await rooms.adopt(asked, "room", "x", attachment=None)

    async with adopting(adopt) as (rooms, url, failures), opened(url) as websocket:
        await websocket.send_message("hi")
        assert await websocket.get_message() == "hi"
        scopes[0].cancel()
        with pytest.raises(trio_websocket.ConnectionClosed):
            await websocket.get_message()
        assert (await departures.one())[::2] == (1006, False)
        assert rooms.statistics().hub.sockets == 0
        assert failures == []


async def test_the_subprotocol_of_an_adopted_connection() -> None:
    """The envelope's kind is negotiated as by rooms.serve, and a welcome comes first."""
    async with (
        adopting() as (_, url, failures),
        opened(f"{url}/events/x", ("odd", "trio-rooms.v1.cbor")) as websocket,
    ):
        assert websocket.subprotocol == "trio-rooms.v1.cbor"
        assert isinstance(await websocket.get_message(), bytes)
        await websocket.send_message('{"event": "say", "data": 1, "id": 1}')
        assert isinstance(await websocket.get_message(), str)
        assert failures == []


async def test_the_subprotocol_of_an_adopted_connection_to_a_plain_room() -> None:
    """The room's own, in the client's order; there is no welcome, and sleep takes nothing of it."""
    async with (
        adopting() as (rooms, url, failures),
        opened(f"{url}/spoken/x", ("odd", "v2", "mqtt")) as websocket,
    ):
        assert websocket.subprotocol == "v2"
        for _ in range(2):
            await websocket.send_message("?")
            assert await websocket.get_message() == "v2 ['odd', 'v2', 'mqtt']"
            assert await rooms.get("spoken", "x").hibernate()
        assert failures == []


async def test_the_end_of_the_rooms_closes_adopted_connections() -> None:
    """They get the code of the end."""
    Departures()
    async with adopting() as (rooms, url, failures), opened(f"{url}/room/x") as websocket:
        await websocket.send_message("hi")
        assert await websocket.get_message() == "hi"
        await rooms.aclose(1012, "back soon")
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await websocket.get_message()
        assert caught.value.reason is not None
        assert caught.value.reason.code == 1012
        assert failures == []
