"""One connection: handshakes that go wrong, and servers that do at the worst moment what they may not."""

from __future__ import annotations

import json
import math
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Request,
    TextMessage,
)

from trio_rooms.client import ConnectionEnded, Unreachable, connect_room

WELCOME = {"connection": "1", "session": "1", "resume": "t", "resumed": False, "seq": 0}


class Server:
    """A server of one connection, which does what it is told to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.received: list[Event] = []

    async def send(self, *events: Event) -> None:
        """Send them in one piece."""
        await self.stream.send_all(b"".join(self.protocol.send(event) for event in events))

    async def next(self, kind: type[Event]) -> Any:
        """The next event of a kind."""
        while True:
            for event in self.received:
                if isinstance(event, kind):
                    self.received.remove(event)
                    return event
            data = bytes(await self.stream.receive_some())
            if not data:
                raise trio.BrokenResourceError
            self.protocol.receive_data(data)
            self.received += self.protocol.events()

    async def welcome(self, *more: Event) -> None:
        """Accept, and say welcome, and more, in one piece with the response."""
        request = await self.next(Request)
        message = TextMessage(json.dumps({"event": "rooms.welcome", "data": WELCOME}))
        await self.send(AcceptConnection(subprotocol=request.subprotocols[0]), message, *more)


@pytest.fixture
def serve(nursery: trio.Nursery) -> Callable[..., Callable[[], Awaitable[trio.abc.Stream]]]:
    """``serve(conversation)`` gives an ``open_stream``, each of whose streams has it on its other end."""

    def serve(
        converse: Callable[[Server], Awaitable[None]],
    ) -> Callable[[], Awaitable[trio.abc.Stream]]:
        async def talk(stream: trio.abc.Stream) -> None:
            with suppress(trio.BrokenResourceError):  # The client may be gone.
                await converse(Server(stream))
            await stream.aclose()

        async def open_stream() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            ours, theirs = memory_stream_pair()
            nursery.start_soon(talk, theirs)
            return ours

        return open_stream

    return serve


def connect(open_stream: Any, **settings: Any) -> Any:
    """A client of one attempt."""
    return connect_room("ws://localhost/a/b", open_stream=open_stream, open_within=0, **settings)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 6\r\n\r\nnobody", "nobody"),
        (
            b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nnobody\r\n0\r\n\r\n",
            "nobody",
        ),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 401 Go away\r\nConnection: close\r\n\r\nnobody", "Go away"),
        (b"HTTP/1.0 401 Go away\r\n\r\n", "Go away"),
        (b"HTTP/1.1 401 Go away\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000, "Go away"),
    ],
)
async def test_a_refusal_is_understood_however_it_ends(
    serve: Any, autojump_clock: MockClock, response: bytes, reason: str
) -> None:
    """By its length, its chunks, or the end of the connection."""

    async def refuse(server: Server) -> None:
        await server.stream.receive_some()
        await server.stream.send_all(response)

    with pytest.raises(ConnectionEnded) as refused:
        async with connect(serve(refuse)):
            pytest.fail("it was refused")
    assert (refused.value.status, refused.value.reason) == (401, reason)
    assert trio.current_time() == 0


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-server\r\n\r\n", b"HTTP/1.1 101 Switching"])
async def test_what_is_no_answer_is_a_failed_attempt(
    serve: Any, autojump_clock: MockClock, answer: bytes
) -> None:
    """It is known at once, and is not waited for."""

    async def answer_and_leave(server: Server) -> None:
        await server.stream.receive_some()
        await server.stream.send_all(answer)

    with pytest.raises(Unreachable, match="handshake"):
        async with connect(serve(answer_and_leave)):
            pytest.fail("nobody answered")
    assert trio.current_time() == 0


async def test_a_request_that_cannot_be_sent_is_a_failed_attempt(autojump_clock: MockClock) -> None:
    """As to a server that was killed when the connection had just been made."""

    async def open_stream() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        await theirs.aclose()
        return ours

    with pytest.raises(Unreachable, match="handshake"):
        async with connect(open_stream):
            pytest.fail("nobody is there")
    assert trio.current_time() == 0


async def test_a_welcome_may_come_with_the_response(serve: Any, autojump_clock: MockClock) -> None:
    """And so may events, and a close: nothing of it is lost."""

    async def hasty(server: Server) -> None:
        said = TextMessage(json.dumps({"event": "said", "data": 1}))
        await server.welcome(said, said, CloseConnection(4403, "out"))

    async with connect(serve(hasty)) as room:
        assert [(await anext(room)).data for _ in range(2)] == [1, 1]
        with pytest.raises(ConnectionEnded, match="closed with 4403, for good: out"):
            await anext(room)


async def test_a_close_in_the_place_of_a_welcome_is_a_refusal(serve: Any, autojump_clock: MockClock) -> None:
    """A server may refuse so, for the sake of pages."""

    async def refuse(server: Server) -> None:
        request = await server.next(Request)
        accept = AcceptConnection(subprotocol=request.subprotocols[0])
        await server.send(accept, CloseConnection(4403, "nobody knows you"))

    with pytest.raises(ConnectionEnded) as refused:
        async with connect(serve(refuse)):
            pytest.fail("it was refused")
    assert (refused.value.status, refused.value.code) == (None, 4403)
    assert (refused.value.reason, refused.value.applied) == ("nobody knows you", False)


async def test_a_ping_during_the_close_does_no_harm(serve: Any, autojump_clock: MockClock) -> None:
    """trio-websocket's reader fails at it; the block ends as it should."""
    pinged = trio.Event()

    async def ping(server: Server) -> None:
        await server.welcome()
        close = await server.next(CloseConnection)
        # What wsproto would not send any more: a ping without a payload.
        await server.stream.send_all(b"\x89\x00")
        pinged.set()
        await server.send(close.response())

    async with connect(serve(ping)):
        pass
    assert pinged.is_set()
    assert trio.current_time() == 0


@pytest.mark.parametrize("junk", [b"\xff\xff\xff", b"\x81\x85mask", b"\x81\x02\xff\xff", b"\x83\x00"])
async def test_a_server_that_breaks_rfc_6455_is_left(
    serve: Any, autojump_clock: MockClock, junk: bytes
) -> None:
    """It is not a server of this protocol, and will not become one."""

    async def talk(server: Server) -> None:
        await server.welcome()
        await server.stream.send_all(junk)
        await trio.sleep(5)

    async with connect(serve(talk)) as room:
        with pytest.raises(ConnectionEnded) as ended:
            await anext(room)
        assert ended.value.code in (1002, 1007)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (TextMessage("{"), "neither JSON nor CBOR"),
        (TextMessage("[" * 100_000), "nested too deeply"),
        (BytesMessage(b"\xff"), "neither JSON nor CBOR"),
        (BytesMessage(b"\x81" * 100_000 + b"\x80"), "be read"),
        (BytesMessage(b"\x80"), "no map but a list"),
        (TextMessage("7"), "no map but a int"),
    ],
)
async def test_a_message_that_says_nothing_ends_it(
    serve: Any, autojump_clock: MockClock, message: Event, wrong: str
) -> None:
    """It is not passed over: something that was said would be missing."""

    async def talk(server: Server) -> None:
        await server.welcome(message)
        await trio.sleep(5)

    async with connect(serve(talk)) as room:
        with pytest.raises(ConnectionEnded, match=wrong):
            await anext(room)


@pytest.mark.parametrize(
    "message",
    [
        {"event": "said", "data": WELCOME},
        {"event": "rooms.welcome", "data": 7},
        {"event": "rooms.welcome", "data": WELCOME | {"resume": 7}},
        {"event": "rooms.welcome", "data": WELCOME | {"seq": "7"}},
    ],
)
async def test_a_server_without_a_welcome_is_none(
    serve: Any, autojump_clock: MockClock, message: Any
) -> None:
    """The first message is what the protocol has it to be."""

    async def talk(server: Server) -> None:
        request = await server.next(Request)
        accept = AcceptConnection(subprotocol=request.subprotocols[0])
        await server.send(accept, TextMessage(json.dumps(message)))
        await trio.sleep(5)

    with pytest.raises(ConnectionEnded, match="welcome"):
        async with connect(serve(talk)):
            pytest.fail("that was no welcome")


async def test_a_message_that_is_too_long_ends_it(serve: Any, autojump_clock: MockClock) -> None:
    """It would come again."""

    async def talk(server: Server) -> None:
        await server.welcome(TextMessage(json.dumps({"event": "said", "data": "x" * 1000})))
        await server.next(CloseConnection)

    async with connect(serve(talk), max_message_size=1000) as room:
        with pytest.raises(ConnectionEnded, match="closed with 1009, for good: Exceeded maximum") as ended:
            await anext(room)
    assert ended.value.retry is False


async def test_pings_of_the_server_are_answered(serve: Any, autojump_clock: MockClock) -> None:
    """While messages go both ways."""

    async def talk(server: Server) -> None:
        await server.welcome(Ping(b"1"))
        message = json.loads((await server.next(Message)).data)
        await server.send(Ping(b"2"), TextMessage(json.dumps({"ack": message["id"], "data": 1})))
        await server.next(CloseConnection)

    async with connect(serve(talk)) as room:
        assert await room.ask("echo") == 1


async def test_a_server_that_speaks_and_answers_no_ping_is_left_alone(
    serve: Any, autojump_clock: MockClock
) -> None:
    """Whatever comes is a sign of life."""

    async def talk(server: Server) -> None:
        await server.welcome()
        for _ in range(10):
            await trio.sleep(1.2)
            await server.send(TextMessage(json.dumps({"event": "said"})))

    async with connect(serve(talk), ping_interval=1, ping_timeout=0.5) as room:
        for _ in range(10):
            assert (await anext(room)).name == "said"
        assert room.statistics().connects == 1


async def test_a_program_that_stood_still_does_not_blame_the_server(
    serve: Any, autojump_clock: MockClock
) -> None:
    """The time to answer begins when the server is asked."""

    async def talk(server: Server) -> None:
        await server.welcome()
        while True:
            ping = await server.next(Ping)
            await trio.sleep(0.4)
            await server.send(ping.response())

    async with connect(serve(talk), ping_interval=1, ping_timeout=0.5) as room:
        for _ in range(5):
            autojump_clock.jump(100)
            await trio.sleep(2.7)
        assert room.statistics().connects == 1


async def test_over_tls(tmp_path: Path, require: Callable[..., str]) -> None:
    """With a certificate that it knows; one that it does not know ends it."""
    command = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem "
        "-days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [require("openssl"), *command.split()], cwd=tmp_path, check=True, capture_output=True, timeout=30
    )
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    theirs = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    async def talk(stream: trio.abc.Stream) -> None:
        server = Server(stream)
        try:
            await server.welcome(TextMessage(json.dumps({"event": "said", "data": 1})))
            close = await server.next(CloseConnection)
            await server.send(close.response())
        except trio.BrokenResourceError:
            pass  # Its client does not trust it.

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_ssl_over_tcp, talk, 0, ours)
            port = listeners[0].transport_listener.socket.getsockname()[1]
            url = f"wss://localhost:{port}/a/b"
            async with connect_room(url, ssl_context=theirs, ping_interval=math.inf) as room:
                assert (await anext(room)).data == 1
            with pytest.raises(ConnectionEnded, match="certificate verify failed"):
                async with connect_room(url):
                    pytest.fail("nobody knows that certificate")
            nursery.cancel_scope.cancel()
