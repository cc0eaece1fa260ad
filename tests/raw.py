"""A client that writes and reads bytes, so that a test can break every rule; and rooms served to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import attrs
import trio

from trio_rooms import Room, open_rooms
from trio_rooms._rooms import Rooms
from trio_rooms._server.server import Address

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Client",
    "Served",
    "close_frame",
    "frame",
    "request",
    "serving",
    "soon",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY: Final = b"\x01\x02\x03\x04"
PATIENCE: Final = 30
"""Seconds after which a test that waits for something that never comes fails."""


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: bytes | None = None,
) -> bytes:
    """One frame as a client sends it, right or wrong; ``length`` takes the place of all length bytes."""
    first = bytes(((0x80 if final else 0) | reserved << 4 | opcode,))
    bit = 0x80 if masked else 0
    size = len(payload)
    if length is not None:
        said = bytes((length[0] | bit,)) + length[1:]
    elif size < 126:
        said = bytes((size | bit,))
    elif size < 1 << 16:
        said = bytes((126 | bit,)) + size.to_bytes(2)
    else:
        said = bytes((127 | bit,)) + size.to_bytes(8)
    if not masked:
        return first + said + payload
    repeated = (KEY * (size // 4 + 1))[:size]
    hidden = (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)
    return first + said + KEY + hidden


def close_frame(code: int | None = 1000, reason: str = "") -> bytes:
    """A close frame as a client sends it."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2) + reason.encode())


def request(path: str, method: str = "GET", version: str = "1.1", /, **headers: str | None) -> bytes:
    """A WebSocket handshake's request; a header given as None is left out."""
    fields: dict[str, str | None] = {
        "Host": "localhost",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Client:
    """One connection, any stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._read = b""

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def read(self, size: int) -> bytes:
        """So many bytes, or fewer where the other side ended."""
        while len(self._read) < size:
            data = bytes(await self.stream.receive_some(1 << 20))
            if not data:
                break
            self._read += data
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    async def rest(self) -> bytes:
        """All that comes to the end. Raises `trio.BrokenResourceError` for a reset."""
        return await self.read(1 << 62)

    async def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """The status, the headers by lower-case name, and the body of an HTTP answer."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            one = await self.read(1)
            assert one, f"the connection ended after {head!r}"
            head += one
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", "0")) if body else 0
        return int(first.split(" ")[1]), headers, await self.read(size)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame, which must be whole, final, unmasked and of the shortest form."""
        first, second = await self.read(2)
        assert first & 0xF0 == 0x80
        assert second < 0x80
        size = second
        if second >= 126:
            size = int.from_bytes(await self.read(2 if second == 126 else 8))
            assert size > (125 if second == 126 else 0xFFFF)
        payload = await self.read(size)
        assert len(payload) == size
        return first & 0x0F, payload

    async def closed(self) -> tuple[int, str]:
        """The code and reason of the close frame that must come next, and no byte after it but the end."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        assert await self.rest() == b""
        return (int.from_bytes(payload[:2]) if payload else 1005), payload[2:].decode()


@attrs.frozen
class Served:
    """Rooms, and where they are served."""

    address: Address
    _rooms: Rooms | None = None

    @property
    def rooms(self) -> Rooms:
        """The rooms; there are none here where another process serves them."""
        assert self._rooms is not None
        return self._rooms

    @contextlib.asynccontextmanager
    async def connection(self, *, buffer: int | None = None) -> AsyncIterator[Client]:
        """A TCP connection, before any request."""
        plain = trio.socket.socket()
        if buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        with plain:
            await plain.connect((self.address.host, self.address.port))
            yield Client(trio.SocketStream(plain))

    @contextlib.asynccontextmanager
    async def client(
        self, path: str, *, buffer: int | None = None, first: bytes = b"", **headers: str | None
    ) -> AsyncIterator[Client]:
        """A WebSocket, opened; ``first`` is sent in the same segment as the request."""
        before = self._opened
        async with self.connection(buffer=buffer) as client:
            await client.send(request(path, **headers) + first)
            status, *_ = await client.answer(body=False)
            assert status == 101
            await soon(lambda: self._opened > before or self._rooms is None)
            yield client

    @property
    def _opened(self) -> int:
        """WebSockets opened here; one is on the wire just before it is in the hub."""
        return sum(server.opened for server in self._rooms.statistics().servers) if self._rooms else 0

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request, and read its answer to the end."""
        async with self.connection() as client:
            await client.send(data)
            answer = await client.answer()
            assert await client.rest() == b""
            return answer


@contextlib.asynccontextmanager
async def serving(
    *rooms: Room[Any], serve: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Served]:
    """Serve rooms on a free port; what hangs fails."""
    with trio.fail_after(PATIENCE):
        async with open_rooms(rooms, **options) as opened, trio.open_nursery() as nursery:
            address = await nursery.start(lambda task_status: _serve(opened, serve or {}, task_status))
            yield Served(address, opened)
            nursery.cancel_scope.cancel()


async def _serve(opened: Rooms, options: dict[str, Any], task_status: trio.TaskStatus[Address]) -> None:
    await opened.serve("127.0.0.1", 0, task_status=task_status, **options)


async def soon(true: Callable[[], bool]) -> None:
    """Let the other tasks run until something is so; for what nothing tells of."""
    while not true():
        await trio.sleep(0.001)
