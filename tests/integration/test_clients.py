"""Clients that others wrote, as they come, against the examples in a server process."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import attrs
import cbor2
import pytest
import trio
import trio_websocket
import websocket
import websockets.asyncio.client
import websockets.sync.client

from tests.integration.conftest import TIMEOUT, Served

Serve = Callable[..., Served]
Scenario = Callable[..., Awaitable[None]]


class Client(Protocol):
    """What the tests do with a client, whoever made it."""

    async def send(self, message: str | bytes) -> None: ...
    async def receive(self) -> str | bytes: ...
    async def ping(self) -> None:
        """Send a ping and return when its pong is there."""

    async def close(self, code: int) -> int:
        """Close; returns the code of the server's close frame."""

    async def closed(self) -> int:
        """Wait until the server has closed; returns the code of its close frame."""


@attrs.frozen
class WebsocketsAsyncio:
    socket: websockets.asyncio.client.ClientConnection

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *subprotocols: str) -> AsyncIterator[Client]:
        offered: Any = list(subprotocols) or None
        async with websockets.asyncio.client.connect(url, subprotocols=offered) as socket:
            assert socket.subprotocol == (subprotocols[0] if subprotocols else None)
            yield cls(socket)

    async def send(self, message: str | bytes) -> None:
        await self.socket.send(message)

    async def receive(self) -> str | bytes:
        return await self.socket.recv()

    async def ping(self) -> None:
        await (await self.socket.ping())

    async def close(self, code: int) -> int:
        await self.socket.close(code)
        return await self.closed()

    async def closed(self) -> int:
        await self.socket.wait_closed()
        assert self.socket.protocol.close_rcvd is not None
        return self.socket.protocol.close_rcvd.code


@attrs.frozen
class WebsocketsSync:
    socket: websockets.sync.client.ClientConnection

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *subprotocols: str) -> AsyncIterator[Client]:
        offered: Any = list(subprotocols) or None
        with websockets.sync.client.connect(url, subprotocols=offered) as socket:
            assert socket.subprotocol == (subprotocols[0] if subprotocols else None)
            yield cls(socket)

    async def send(self, message: str | bytes) -> None:
        self.socket.send(message)

    async def receive(self) -> str | bytes:
        return self.socket.recv(TIMEOUT)

    async def ping(self) -> None:
        assert self.socket.ping().wait(TIMEOUT)

    async def close(self, code: int) -> int:
        self.socket.close(code)
        assert self.socket.protocol.close_rcvd is not None
        return self.socket.protocol.close_rcvd.code

    async def closed(self) -> int:
        with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
            self.socket.recv(TIMEOUT)
        assert caught.value.rcvd is not None
        return caught.value.rcvd.code


@attrs.frozen
class WebsocketClient:
    socket: Any

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *subprotocols: str) -> AsyncIterator[Client]:
        socket: Any = websocket.create_connection(
            url, timeout=TIMEOUT, subprotocols=list(subprotocols) or None
        )
        try:
            assert socket.getsubprotocol() == (subprotocols[0] if subprotocols else None)
            yield cls(socket)
        finally:
            socket.shutdown()

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.socket.send(message)
        else:
            self.socket.send_binary(message)

    async def receive(self) -> str | bytes:
        message: str | bytes = self.socket.recv()
        return message

    async def ping(self) -> None:
        self.socket.ping("are you there?")
        opcode, frame = self.socket.recv_data_frame(control_frame=True)
        assert (opcode, frame.data) == (websocket.ABNF.OPCODE_PONG, b"are you there?")

    async def close(self, code: int) -> int:
        self.socket.send_close(code)
        return await self.closed()

    async def closed(self) -> int:
        opcode, frame = self.socket.recv_data_frame(control_frame=True)
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        return int.from_bytes(frame.data[:2])


@attrs.frozen
class Aiohttp:
    socket: aiohttp.ClientWebSocketResponse

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *subprotocols: str) -> AsyncIterator[Client]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, protocols=subprotocols, autoping=False) as socket,
        ):
            assert socket.protocol == (subprotocols[0] if subprotocols else None)
            yield cls(socket)

    async def send(self, message: str | bytes) -> None:
        await (self.socket.send_str(message) if isinstance(message, str) else self.socket.send_bytes(message))

    async def receive(self) -> str | bytes:
        message = await self.socket.receive()
        assert message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}
        content: str | bytes = message.data
        return content

    async def ping(self) -> None:
        await self.socket.ping(b"are you there?")
        message = await self.socket.receive()
        assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"are you there?")

    async def close(self, code: int) -> int:
        await self.socket.close(code=code)
        assert self.socket.close_code is not None
        return self.socket.close_code

    async def closed(self) -> int:
        message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        return int(message.data)


@attrs.frozen
class TrioWebsocket:
    socket: trio_websocket.WebSocketConnection

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *subprotocols: str) -> AsyncIterator[Client]:
        async with trio_websocket.open_websocket_url(url, subprotocols=subprotocols) as socket:
            assert socket.subprotocol == (subprotocols[0] if subprotocols else None)
            yield cls(socket)
        # It leaves this to the garbage collector where the server closed first.
        await trio.aclose_forcefully(socket._stream)

    async def send(self, message: str | bytes) -> None:
        await self.socket.send_message(message)

    async def receive(self) -> str | bytes:
        return await self.socket.get_message()

    async def ping(self) -> None:
        await self.socket.ping(b"are you there?")

    async def close(self, code: int) -> int:
        await self.socket.aclose(code)
        assert self.socket.closed is not None
        return int(self.socket.closed.code)

    async def closed(self) -> int:
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await self.socket.get_message()
        assert caught.value.reason is not None
        return int(caught.value.reason.code)


Connect = Callable[..., AbstractAsyncContextManager[Client]]

CLIENTS: dict[str, Connect] = {
    "websockets.asyncio": WebsocketsAsyncio.connect,
    "websockets.sync": WebsocketsSync.connect,
    "websocket-client": WebsocketClient.connect,
    "aiohttp": Aiohttp.connect,
    "trio-websocket": TrioWebsocket.connect,
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """The name of one of the clients."""
    return str(request.param)


def run(client: str, scenario: Scenario, *arguments: Any) -> None:
    """Run a scenario with a client in the event loop that it needs, for not too long."""
    connect = CLIENTS[client]
    if client == "trio-websocket":

        async def in_trio() -> None:
            with trio.fail_after(TIMEOUT):
                await scenario(connect, *arguments)

        trio.run(in_trio)
    else:

        async def in_asyncio() -> None:
            async with asyncio.timeout(TIMEOUT):
                await scenario(connect, *arguments)

        asyncio.run(in_asyncio())


async def use_echo(connect: Connect, served: Served) -> None:
    """Send everything there is, with a sleep in between."""
    everything = bytes(range(256))
    large = random.Random(1).randbytes(1_000_000)
    text = "Grüße, 世界 🌍"
    messages: list[str | bytes] = [text, "", everything, b"", large, "é" * 500_000, "last"]
    async with connect(f"{served.url}/echo/of%20all") as socket:
        for message in messages:
            await socket.send(message)
            assert await socket.receive() == message
        await socket.ping()
        served.wait_until("echo/of%20all", "asleep")
        await socket.ping()
        served.wait_until("echo/of%20all", "asleep")
        for message in messages:
            await socket.send(message)
        for message in messages:
            assert await socket.receive() == message
        assert await socket.close(4321) == 4321


def test_echo(client: str, serve: Serve) -> None:
    """Text, binary and large messages come back, also from a room that slept; so does a close code."""
    served = serve("examples/echo.py", "--idle-timeout", "0.2")
    run(client, use_echo, served)
    assert served.stop() == 0


@pytest.fixture(scope="module")
def counter(serve_all: Serve) -> str:
    """The address of the counters."""
    return f"{serve_all('examples/counter.py').url}/counter"


async def use_counter_in_json(connect: Connect, url: str) -> None:
    """Count, and be refused."""
    async with connect(url) as socket:
        await socket.send(json.dumps({"event": "add", "data": {"amount": 3}, "id": 1}))
        got = [json.loads(await socket.receive()) for _ in range(2)]
        assert {"event": "value", "data": {"value": 3}} in got
        assert {"ack": 1, "data": 3} in got
        await socket.send(json.dumps({"event": "add", "data": {"amount": "3"}, "id": 2}))
        refused = json.loads(await socket.receive())
        assert refused["ack"] == 2
        assert refused["error"]["code"] == "invalid_data"
        assert await socket.close(1000) == 1000


def test_counter_in_json(client: str, counter: str) -> None:
    """A client without a subprotocol speaks JSON in text frames."""
    run(client, use_counter_in_json, f"{counter}/{client}%20json")


async def use_counter_in_cbor(connect: Connect, url: str) -> None:
    """Be welcomed, and count."""
    async with connect(url, "trio-rooms.v1.cbor") as socket:
        welcome = cbor2.loads(binary(await socket.receive()))
        assert welcome["event"] == "rooms.welcome"
        await socket.send(cbor2.dumps({"event": "add", "data": {"amount": 2**40}, "id": 1}))
        got = [cbor2.loads(binary(await socket.receive())) for _ in range(2)]
        assert {"event": "value", "data": {"value": 2**40}} in got
        assert {"ack": 1, "data": 2**40} in got
        assert await socket.close(1000) == 1000


def binary(message: str | bytes) -> bytes:
    """A message that came in a binary frame."""
    assert isinstance(message, bytes)
    return message


def test_counter_in_cbor(client: str, counter: str) -> None:
    """A client that negotiates the CBOR subprotocol is spoken to in CBOR from the first message on."""
    run(client, use_counter_in_cbor, f"{counter}/{client}%20cbor")


BROKER = """
from trio_rooms import Refused, Room
room = Room("broker", subprotocols=["mqtt", "graphql-transport-ws"])
@room.authenticate
async def who(request):
    if request.query:
        raise Refused(403, "not you", close=4403)
@room.on_message
async def packet(ctx, message):
    ctx.connection.send(ctx.connection.subprotocol or "")
"""


async def use_subprotocol(connect: Connect, url: str) -> None:
    """Ask what is spoken."""
    for offered in ("mqtt",), ("graphql-transport-ws", "mqtt"), ():
        async with connect(url, *offered) as socket:
            await socket.send("?")
            assert await socket.receive() == (offered[0] if offered else "")
            await socket.close(1000)
    async with connect(f"{url}?refuse=1", "mqtt") as socket:
        assert await socket.closed() == 4403


def test_subprotocols_of_a_plain_room(client: str, serve: Serve, tmp_path: Path) -> None:
    """Every client gets the subprotocol that it asks for, and takes it; one that is refused sees the code."""
    program = tmp_path / "broker.py"
    program.write_text(BROKER)
    run(client, use_subprotocol, f"{serve(program).url}/broker/x")


async def see_restart(connect: Connect, served: Served) -> None:
    """Be there when the server is told to end."""
    async with connect(f"{served.url}/echo/x") as socket:
        await socket.send("here")
        assert await socket.receive() == "here"
        served.process.terminate()
        assert await socket.closed() == 1012


def test_restart(client: str, serve: Serve) -> None:
    """Every client learns from the close code that the server restarts."""
    served = serve("examples/echo.py")
    run(client, see_restart, served)
    assert served.process.wait(TIMEOUT) == 0
