"""Connections, and servers that are none, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.valkey import Valkey
from trio_rooms._valkey import Address, Connection, Server

GREETING = (
    b"%3\r\n$7\r\nversion\r\n$5\r\n9.0.0\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
)
"""What a server says first."""


@asynccontextmanager
async def connected(where: Valkey | int, **options: Any) -> AsyncIterator[Connection]:
    """A connection that runs."""
    port = where if isinstance(where, int) else where.port
    connection = await Connection.open(Address.parse(f"valkey://127.0.0.1:{port}"), **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        yield connection
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def served(where: Valkey | str, **options: Any) -> AsyncIterator[Server]:
    """A server that is connected to."""
    url = where if isinstance(where, str) else where.url
    server = Server(Address.parse(url), **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listening(handler: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncIterator[int]:
    """Somebody who takes connections; yields the port."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def greet(stream: trio.SocketStream) -> None:
    """Answer what a connection says first."""
    await stream.receive_some(4096)
    await stream.send_all(GREETING)
    await stream.receive_some(4096)
    await stream.send_all(b"+OK\r\n")
