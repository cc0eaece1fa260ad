"""How a contestant is spoken to: the frame that asks, and the very bytes that must come back.

Payloads are printable ASCII without quotes or backslashes, so that every dialect carries them as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import attrs

__all__ = [
    "CBOR",
    "DIALECTS",
    "JSON",
    "PLAIN",
    "REFLECTED",
    "SESSIONLESS",
    "SESSIONLESS_CBOR",
    "SOCKET_IO",
    "Dialect",
    "client_frame",
    "server_frame",
]

_TEXT: Final = 0x81
_BINARY: Final = 0x82
# RFC 6455 section 5.2.
_MASKED: Final = 0x80
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127


@attrs.frozen
class Dialect:
    """What a message looks like on the wire, there and back."""

    name: str
    opcode: int
    """The first byte of a frame: the last of its message, text or binary."""
    encode: Callable[[bytes], bytes]
    """The message that carries a payload, the same in both directions."""
    preface: tuple[tuple[bytes, bytes], ...] = ()
    """What goes on between the handshake and the first message: each time a frame to send, or nothing, and
    what the message that comes next begins with."""
    subprotocol: str = ""
    """What the handshake offers, and must be given."""
    masked: bool = True
    """Not so for what is no WebSocket server at all and sends back the bytes that came."""

    def request(self, payload: bytes) -> bytes:
        """The frame with which a client asks; each time with another mask."""
        message = self.encode(payload)
        return client_frame(self.opcode, message) if self.masked else server_frame(self.opcode, message)

    def reply(self, payload: bytes) -> bytes:
        """The frame that must come back."""
        return server_frame(self.opcode, self.encode(payload))


def client_frame(opcode: int, message: bytes) -> bytes:
    """A whole frame under a random mask (RFC 6455 section 5.3)."""
    mask = os.urandom(4)
    covering = int.from_bytes((mask * (len(message) // 4 + 1))[: len(message)])
    covered = (int.from_bytes(message) ^ covering).to_bytes(len(message))
    return bytes((opcode,)) + _length(len(message), _MASKED) + mask + covered


def server_frame(opcode: int, message: bytes) -> bytes:
    """A whole frame without a mask."""
    return bytes((opcode,)) + _length(len(message), 0) + message


def _length(length: int, masked: int) -> bytes:
    if length < _LENGTH_16:
        return bytes((masked | length,))
    if length < 1 << 16:
        return bytes((masked | _LENGTH_16,)) + length.to_bytes(2)
    return bytes((masked | _LENGTH_64,)) + length.to_bytes(8)


def _as_it_is(payload: bytes) -> bytes:
    return payload


def _in_json(payload: bytes) -> bytes:
    return b'{"event":"echo","data":"%s"}' % payload


def _in_cbor(payload: bytes) -> bytes:
    # {"event": "echo", "data": payload}: a map of two; a text string's length is in its first byte,
    # or in one, two or four after it (RFC 8949 section 3).
    return b"\xa2\x65event\x64echo\x64data%s%s" % (_cbor_length(len(payload)), payload)


def _cbor_length(length: int) -> bytes:
    if length < 24:
        return bytes((0x60 | length,))
    if length < 1 << 8:
        return bytes((0x78, length))
    if length < 1 << 16:
        return b"\x79" + length.to_bytes(2)
    return b"\x7a" + length.to_bytes(4)


def _in_socket_io(payload: bytes) -> bytes:
    # Engine.IO's message (4), Socket.IO's event (2).
    return b'42["echo","%s"]' % payload


PLAIN: Final = Dialect("plain", _TEXT, _as_it_is)
JSON: Final = Dialect(
    "json", _TEXT, _in_json, ((b"", b'{"event":"rooms.welcome"'),), subprotocol="trio-rooms.v1.json"
)
SESSIONLESS: Final = Dialect("json without a session", _TEXT, _in_json)
CBOR: Final = Dialect(
    "cbor", _BINARY, _in_cbor, ((b"", b"\xa2\x65event\x6drooms.welcome"),), subprotocol="trio-rooms.v1.cbor"
)
SESSIONLESS_CBOR: Final = Dialect("cbor without a session", _BINARY, _in_cbor)
# Engine.IO's opening, then Socket.IO's connection to the default namespace and its confirmation.
SOCKET_IO: Final = Dialect(
    "socket.io", _TEXT, _in_socket_io, ((b"", b"0{"), (client_frame(_TEXT, b"40"), b"40{"))
)
REFLECTED: Final = Dialect("reflected", _TEXT, _as_it_is, masked=False)

DIALECTS: Final = {
    one.name: one for one in (PLAIN, JSON, SESSIONLESS, CBOR, SESSIONLESS_CBOR, SOCKET_IO, REFLECTED)
}
