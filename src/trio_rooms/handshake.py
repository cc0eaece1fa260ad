"""From a fresh socket to a parked one, or to an answer in plain HTTP.

The request's head is read and checked here with h11; the WebSocket side of the handshake is
trio-websocket's, through its public API. It is given the head and not one byte more, since
a client may send its first frame at once and a reader that takes it loses it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

import attrs
import h11
import trio
import trio_websocket

from .groups import first_error

__all__ = ["HEAD_LIMIT", "Answer", "BadRequestError", "Head", "read_head", "refusal_of", "upgrade"]

HEAD_LIMIT: Final = 16 * 1024
"""Bytes that a request's head may have; browsers stay under 8 KiB."""
_CHUNK: Final = 4096


@attrs.frozen
class Answer:
    """An HTTP answer other than 101, after which the connection is closed."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    kind: str = "text/plain; charset=utf-8"

    @classmethod
    def text(cls, status: int, text: str = "", **headers: str) -> Answer:
        """One line of text; header names with ``_`` for ``-``."""
        line = text or HTTPStatus(status).phrase
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, f"{line}\n".encode(), named)

    def encode(self, *, head_only: bool = False) -> bytes:
        """The bytes of the answer."""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Refused"
        fields = {"Content-Type": self.kind, "Content-Length": str(len(self.body)), "Connection": "close"}
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in {**fields, **self.headers}.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head if head_only else head + self.body


class BadRequestError(Exception):
    """What came is not a request that can be answered with anything but this."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


@attrs.frozen
class Head:
    """The head of a request."""

    method: str
    target: str
    version: str
    headers: Mapping[str, str]
    """By lower-case name; of one given twice, all joined by ``", "``."""
    raw: bytes
    """The head as it came, to its empty line."""
    rest: bytes
    """What came behind it."""

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks for an upgrade to WebSocket."""
        return "websocket" in _tokens(self.headers.get("upgrade", ""))

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, in its order."""
        offered = self.headers.get("sec-websocket-protocol", "")
        return [name for name in (part.strip() for part in offered.split(",")) if name]


def _tokens(header: str) -> list[str]:
    return [token.strip().lower() for token in header.split(",")]


async def read_head(stream: trio.abc.ReceiveStream) -> Head | None:
    """Read a request's head; None where the client left before it was complete.

    Raises:
        BadRequestError: what came is not HTTP (400), or its head is too large (431).
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
    received = b""
    while True:
        data = bytes(await stream.receive_some(_CHUNK))
        if not data:
            return None
        received += data
        try:
            parser.receive_data(data)
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            raise BadRequestError(Answer.text(status, f"{HTTPStatus(status).phrase}: {error}")) from error
        if isinstance(event, h11.Request):
            break
        if len(received) > HEAD_LIMIT:
            raise BadRequestError(Answer.text(431, f"the head of a request has at most {HEAD_LIMIT} bytes"))
    rest = parser.trailing_data[0]
    headers: dict[str, str] = {}
    for name, value in event.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    raw = received[: len(received) - len(rest)]
    if len(raw) > HEAD_LIMIT:
        raise BadRequestError(Answer.text(431, f"the head of a request has at most {HEAD_LIMIT} bytes"))
    return Head(
        event.method.decode("ascii"), event.target.decode("ascii"), event.http_version.decode("ascii"),
        headers, raw, rest,
    )  # fmt: skip


def refusal_of(head: Head) -> Answer | None:
    """Why a request to a room is not a good WebSocket handshake (RFC 6455, 4.2.1), or None if it is."""
    if head.method != "GET":
        return Answer.text(405, "a WebSocket is opened with GET", Allow="GET")
    if not head.wants_websocket:
        return Answer.text(
            426, "a room is spoken to over WebSocket", Upgrade="websocket", Connection="close, Upgrade"
        )
    if "upgrade" not in _tokens(head.headers.get("connection", "")) or head.version != "1.1":
        return Answer.text(400, "a WebSocket handshake is HTTP/1.1 with 'Connection: Upgrade'")
    if head.headers.get("sec-websocket-version") != "13":
        return Answer.text(426, "this server speaks WebSocket version 13", Sec_WebSocket_Version="13")
    try:
        nonce = base64.b64decode(head.headers.get("sec-websocket-key", ""), validate=True)
    except ValueError:
        nonce = b""
    if len(nonce) != 16:
        return Answer.text(400, "Sec-WebSocket-Key is 16 bytes in base64")
    return None


class _HeadStream(trio.abc.Stream):
    """What trio-websocket reads the head from: then nothing, until it is told to stop."""

    def __init__(self, transport: trio.abc.SendStream, head: bytes, closed: Callable[[], None]) -> None:
        self._transport = transport
        self._head = head
        self._closed = closed
        self._done = trio.Event()

    def finish(self) -> None:
        self._done.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 (it gets it whole)
        if self._head:
            await trio.lowlevel.checkpoint()
            head, self._head = self._head, b""
            return head
        # Its reader must end here and nowhere else: cancelled, it could lose what it read.
        await self._done.wait()
        raise trio.ClosedResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self._closed()
        await trio.lowlevel.checkpoint()


async def upgrade(stream: trio.abc.SendStream, head: Head, subprotocol: str | None) -> bool:
    """Answer a good handshake with 101; False where trio-websocket answered with a refusal.

    Raises:
        BadRequestError: it could not make sense of the head, and nothing was answered.
    """
    accepted = False
    try:
        async with trio.open_nursery() as nursery:
            shim = _HeadStream(stream, head.raw, nursery.cancel_scope.cancel)
            request = await trio_websocket.wrap_server_stream(nursery, shim)
            await request.accept(subprotocol=subprotocol)
            accepted = True
            shim.finish()
    except Exception as group:  # noqa: BLE001 (the library raises what it likes about a head it cannot use)
        error = first_error(group)
        if isinstance(error, trio.BrokenResourceError | trio_websocket.ConnectionClosed):
            return False
        raise BadRequestError(Answer.text(400, "this is not a WebSocket handshake")) from error
    return accepted
