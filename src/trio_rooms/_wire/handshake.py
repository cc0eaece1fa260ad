"""The opening handshake, the server's side, without I/O: a request's head, and what it is answered.

A client may send its first frame right behind its request, so what comes after the head is
kept apart.

Nearly every head is a plain GET that comes in one read, and a regular expression reads it. All
others are read by h11.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Collection, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

import attrs
import h11

from trio_rooms._values.json_codec import encode

from .frames import encode_close

__all__ = [
    "HEAD_LIMIT",
    "METHODS",
    "MOST_SUBPROTOCOLS",
    "REFUSAL",
    "BadRequestError",
    "Head",
    "HeadReader",
    "Response",
    "accept",
    "offered_subprotocols",
    "read_usual",
    "refusal_of",
    "refuse_with_close",
    "visible_code",
]

HEAD_LIMIT: Final = 16 * 1024
"""Bytes that a request's head may have; browsers stay under 8 KiB."""
METHODS: Final = "GET, HEAD, OPTIONS"
"""What is answered, be it a page or the address of a room."""
MOST_SUBPROTOCOLS: Final = 15
"""Subprotocols that a room may have: a connection's record has four bits for its own."""
REFUSAL: Final = "trio-rooms.refusal"
"""The subprotocol of a WebSocket that is opened to be closed at once, with a code that says why. It is
offered beside others by clients in browsers, which are told nothing of a status."""
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What RFC 6455, 1.3 puts behind a client's key."""


@attrs.frozen
class Response:
    """An HTTP response other than 101, after which the connection is closed."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    kind: str = "text/plain; charset=utf-8"

    @classmethod
    def text(cls, status: int, text: str = "", **headers: str) -> Response:
        """One line of text; header names with ``_`` for ``-``."""
        line = text or HTTPStatus(status).phrase
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, f"{line}\n".encode(), named)

    @classmethod
    def json(cls, status: int, content: Any, **headers: str) -> Response:
        """Something in JSON that nobody caches; header names with ``_`` for ``-``."""
        named = {"Cache-Control": "no-store"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, encode(content) + b"\n", named, kind="application/json")

    def encode(self, now: float, *, head_only: bool = False) -> bytes:
        """The bytes of the response.

        Args:
            now: the time, in seconds since 1970.
            head_only: leave the body out, as a HEAD request wants it.
        """
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Refused"
        fields = {
            "Date": formatdate(now, usegmt=True),
            "Content-Type": self.kind,
            "Content-Length": str(len(self.body)),
            "Connection": "close",
        }
        if self.status == 304:  # It would be that of what was not modified (RFC 9110, 8.6).
            del fields["Content-Length"]
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in {**fields, **self.headers}.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head if head_only else head + self.body


class BadRequestError(Exception):
    """What came is no request, or one that is too large.

    Attributes:
        response: what its sender gets.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


@attrs.frozen
class Head:
    """The head of a request."""

    method: str
    target: str
    version: str
    headers: Mapping[str, str]
    """By lower-case name; of one given twice, all joined by ``", "``."""
    rest: bytes
    """The bytes that came behind the head, which are the first of the WebSocket."""

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks for an upgrade to WebSocket."""
        return _names(self.headers.get("upgrade", ""), "websocket")

    @property
    def has_body(self) -> bool:
        """Whether a body follows it, which would have to be read before anything else."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "").strip("0") != ""

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order."""
        return offered_subprotocols(self.headers)


def offered_subprotocols(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The subprotocols that a request's headers, by lower-case name, offer, in the client's order."""
    offered = headers.get("sec-websocket-protocol")
    if offered is None:
        return ()
    return tuple(name for name in (part.strip() for part in offered.split(",")) if name)


def _names(header: str, word: str) -> bool:
    """Whether a header that is a list of words, in whatever case, has this one, which is in lower case."""
    header = header.lower()
    return header == word or word in [token.strip() for token in header.split(",")]


class HeadReader:
    """Reads the head of one request, in whatever pieces it comes."""

    __slots__ = ("_parser", "_received")

    def __init__(self) -> None:
        self._received = b""
        self._parser: h11.Connection | None = None

    def feed(self, data: bytes) -> Head | None:
        """More bytes came; the head, as soon as it is complete.

        Raises:
            BadRequestError: what came is not HTTP (400), or its head is too large (431).
        """
        parser = self._parser
        if parser is None:
            head = read_usual(data)
            if head is not None:
                return head
            # Empty lines before a request are left by clients that put one behind a body (RFC 9112, 2.2).
            data = data.lstrip(b"\r\n")
            if not data:
                return None
            parser = self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        received = self._received = self._received + data
        try:
            parser.receive_data(data)
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            raise BadRequestError(Response.text(status, f"{HTTPStatus(status).phrase}: {error}")) from error
        rest = parser.trailing_data[0] if isinstance(event, h11.Request) else b""
        raw = received[: len(received) - len(rest)]
        if len(raw) > HEAD_LIMIT:
            raise BadRequestError(Response.text(431, f"the head of a request has at most {HEAD_LIMIT} bytes"))
        if not isinstance(event, h11.Request):
            return None
        if not event.http_version.startswith(b"1."):
            raise BadRequestError(Response.text(505, "this server speaks HTTP/1.1"))
        headers: dict[str, str] = {}
        for name, value in event.headers:
            _add(headers, name.decode("ascii"), value.decode("latin-1"))
        return Head(
            event.method.decode("ascii"), event.target.decode("ascii"), event.http_version.decode("ascii"),
            headers, rest,
        )  # fmt: skip


# What nearly every head is: GET, HTTP/1.1, one Host, no body, and read whole. h11 reads the same in
# it and takes seven times as long, which was half of a handshake. Whatever does not look like this
# is left to h11, so nothing is accepted here that it would refuse.
_END: Final = b"\r\n\r\n"
_USUAL: Final = re.compile(
    rb"GET ([\x21-\x7e]+) HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"
)


def read_usual(data: bytes) -> Head | None:
    """The head of a usual request; None for what is not one, or not all of one."""
    end = data.find(_END) + len(_END)
    match = _USUAL.fullmatch(data, 0, end) if len(_END) <= end <= HEAD_LIMIT else None
    if match is None:
        return None
    target, fields = match.groups()
    parts = [field.partition(":") for field in fields.decode("latin-1").split("\r\n")[:-1]]
    headers = {name.lower(): value.strip(" \t") for name, _, value in parts}
    if len(headers) != len(parts):  # One of them is given twice.
        headers = {}
        for name, _, value in parts:
            _add(headers, name.lower(), value.strip(" \t"))
    host = headers.get("host")
    if host is None or ", " in host or "content-length" in headers or "transfer-encoding" in headers:
        return None
    return Head("GET", target.decode("ascii"), "1.1", headers, data[end:])


def _add(headers: dict[str, str], name: str, value: str) -> None:
    """Note a header, joined to an earlier one of that name (RFC 9110, 5.3)."""
    headers[name] = f"{headers[name]}, {value}" if name in headers else value


def refusal_of(head: Head) -> Response | None:
    """Why a request to a room is not a good WebSocket handshake (RFC 6455, 4.2.1), or None if it is."""
    if head.method not in ("GET", "HEAD"):
        return Response.text(405, "a WebSocket is opened with GET", Allow=METHODS)
    if head.method == "HEAD" or not head.wants_websocket:
        return _upgrade("a room is spoken to over WebSocket")
    headers = head.headers
    if not _names(headers.get("connection", ""), "upgrade") or head.version != "1.1":
        return Response.text(400, "a WebSocket handshake is HTTP/1.1 with 'Connection: Upgrade'")
    if headers.get("sec-websocket-version") != "13":
        return _upgrade("this server speaks WebSocket version 13", Sec_WebSocket_Version="13")
    if head.has_body:
        # Nobody could tell the body from the first frames.
        return Response.text(400, "a WebSocket handshake has no body")
    try:
        nonce = binascii.a2b_base64(headers.get("sec-websocket-key", ""), strict_mode=True)
    except ValueError:
        nonce = b""
    if len(nonce) != 16:
        return Response.text(400, "Sec-WebSocket-Key is 16 bytes in base64")
    return None


def _upgrade(text: str, **headers: str) -> Response:
    """The response that asks for a WebSocket of this server's version (RFC 9110, 15.5.22)."""
    return Response.text(426, text, Upgrade="websocket", Connection="close, Upgrade", **headers)


def accept(head: Head, subprotocol: str | None) -> bytes:
    """The response that opens the WebSocket which a good handshake asks for (RFC 6455, 4.2.2)."""
    key = head.headers["sec-websocket-key"] + _GUID
    # SHA-1 is what the RFC wants; it keeps no secret here.
    digest = hashlib.sha1(key.encode("ascii"), usedforsecurity=False).digest()
    chosen = b"" if subprotocol is None else f"Sec-WebSocket-Protocol: {subprotocol}\r\n".encode("ascii")
    return b"%b%b\r\n%b\r\n" % (_OPENING, binascii.b2a_base64(digest, newline=False), chosen)


_OPENING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


def visible_code(status: int, offered: Collection[str]) -> int | None:
    """The close code in the place of a status, for a client that offers these subprotocols.

    None where it did not ask for one, and where to try again may help: a client whose connection
    failed does that.
    """
    if REFUSAL not in offered or not 400 <= status < 500 or status in _PASSING:
        return None
    return 4000 + status


def refuse_with_close(head: Head, response: Response) -> tuple[int, bytes] | None:
    """A refusal with a `visible_code`, and what is sent for it; None where that is the response."""
    code = visible_code(response.status, head.subprotocols)
    if code is None or refusal_of(head) is not None:  # For a close there must be a WebSocket.
        return None
    return code, accept(head, REFUSAL) + encode_close(code, response.body.decode().rstrip("\n"))


_PASSING: Final = (408, 425, 429)
"""Statuses from 400 to 499 that say to try again."""
