"""RFC 6455 frames, the server's side: bytes to messages and messages to bytes, without I/O.

Nothing is kept for a socket between frames. :func:`parse` takes what was read and gives back
messages; only while a frame or a fragmented message is unfinished is there a :class:`Partial`
to hand to the next call. No extension is ever negotiated, so every reserved bit is an error.

Nearly every frame is final, below 64 KiB and read whole. :func:`parse_one` is for a single one of those,
``_read_whole_frames`` for many in one read, and ``_read_frame`` for everything else: it alone
knows all the rules, and whatever looks odd to the others is left to it.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

import attrs

try:
    from websockets.speedups import apply_mask
except ImportError:  # It is an extra.
    apply_mask = None  # type: ignore[assignment]

from .close_codes import CloseCode, is_close_code

__all__ = [
    "CLOSE_FRAME",
    "LONG",
    "PONG_FRAME",
    "Close",
    "Partial",
    "Ping",
    "Pong",
    "Received",
    "Violation",
    "decode_close",
    "decode_message",
    "encode_binary",
    "encode_close",
    "encode_message",
    "encode_ping",
    "encode_pong",
    "encode_text",
    "parse",
    "parse_one",
    "too_big",
]


@attrs.frozen
class Ping:
    """A ping, to be answered with a pong of the same payload (at most 125 bytes)."""

    payload: bytes


@attrs.frozen
class Pong:
    """A pong, asked for or not."""

    payload: bytes


@attrs.frozen
class Close:
    """The peer's close frame. A frame without a code has 1005, and a reason of ``""``."""

    code: int
    reason: str


@attrs.frozen
class Violation:
    """The peer broke the protocol: the close code to answer with, and what was wrong.

    The reason is one sentence of at most 123 bytes, so it fits into the close frame.
    """

    code: int
    reason: str


Received = str | bytes | Ping | Pong | Close | Violation


# NO_OP: attrs would run the converter at each +=, and copy the whole payload for each piece.
@attrs.define(eq=False, on_setattr=attrs.setters.NO_OP)
class Partial:
    """What has arrived of an unfinished frame or message.

    All of it is plain data, so that a socket can be written down in the middle of a frame:
    ``Partial(**attrs.asdict(partial))`` is its equal, in this process or in another one.
    """

    unread: bytes = b""
    """The start of a frame that cannot be read yet: part of a header, or of a control frame."""
    payload: bytearray = attrs.field(factory=bytearray, converter=bytearray)
    """What has arrived of the message, unmasked."""
    checked: int = 0
    """How many bytes of ``payload`` are known to be whole UTF-8 characters."""
    opcode: int = 0
    """1 for a text message, 2 for a binary one, 0 outside of a message."""
    final: bool = False
    """Whether the frame being read is the message's last."""
    key: bytes = b""
    """The masking key, turned so that it begins with the byte for the next byte of payload."""
    remaining: int = 0
    """Bytes of payload that the frame being read still lacks."""

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self.unread) + len(self.payload)

    def forget(self) -> None:
        """Keep nothing of the message: what is still to come of it is read on without a look at it."""
        self.payload = bytearray()
        self.checked = 0
        if self.opcode:
            self.opcode = _BINARY


class _BrokenError(Exception):
    """Raised where a violation is found; `parse` catches it, and returns the violation."""

    def __init__(self, reason: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.violation = Violation(code, reason)


_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = (_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG)
_CONTROL = 0x08  # the bit that all opcodes of control frames have, and no others
_FINAL = 0x80
CLOSE_FRAME = _FINAL | _CLOSE
PONG_FRAME = _FINAL | _PONG
"""The first bytes of frames that this side sends."""
_MASKED = 0x80
_FINAL_TEXT = _FINAL | _TEXT
_FINAL_BINARY = _FINAL | _BINARY
# The longest payload whose length stands in the second byte, and the longest of a control frame.
_SHORT = 125
_LENGTH_16, _LENGTH_64 = 126, 127
LONG = _MASKED | _LENGTH_64
"""The second byte of a frame with 64 KiB of payload or more; in any other it is a violation."""
_MASKED_16 = _MASKED | _LENGTH_16
_KEY = 4
_MAX_REASON = _SHORT - 2
_NOT_UTF8 = "A text message was not valid UTF-8; other bytes can be sent as binary."


def _fault(first: int) -> str:
    """What is wrong with a frame that begins with this byte; "" for nothing."""
    opcode = first & 0x0F
    if first & 0x70:
        return "A reserved bit was set in a frame; no extension is in use, so all three must be 0."
    if opcode not in _OPCODES:
        return f"A frame had the reserved opcode {opcode}; those in use are 0, 1, 2, 8, 9 and 10."
    if opcode & _CONTROL and not first & _FINAL:
        return "A control frame was fragmented; it must be one frame with the FIN bit set."
    return ""


# `_fault` by first byte.
_FAULTS = tuple(_fault(first) for first in range(256))

# The length of the payload by a frame's second byte. Not masked or not short: more than any read.
_LENGTH = tuple(
    second - _MASKED if _MASKED <= second <= _MASKED | _SHORT else 1 << 62 for second in range(256)
)

# XOR with one byte, for bytes.translate. Above some 500 bytes four of these over every fourth byte
# are faster than one long number: 4 KiB in 5 us instead of 10, 64 KiB in 70 us instead of 200.
_XOR = tuple(bytes(a ^ b for a in range(256)) for b in range(256))
_LONG = 512


def unmask(payload: bytes, key: bytes) -> bytes:
    """Unmask a payload of any length; the key, of four bytes, begins with the byte for its first."""
    size = len(payload)
    if size < _LONG:
        repeated = (key * (size // _KEY + 1))[:size]
        return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)
    unmasked = bytearray(payload)  # whose slices with a step are twice as fast as those of bytes
    for i in range(_KEY):
        unmasked[i::_KEY] = unmasked[i::_KEY].translate(_XOR[key[i]])
    return bytes(unmasked)


_unmask: Callable[[bytes, bytes], bytes] = unmask
if apply_mask is not None:
    _unmask = apply_mask  # 4 KiB in 0.2 us.


def parse_one(data: bytes, limit: int) -> str | bytes | None:
    """Read a single message below 64 KiB; None for anything else, which `parse` then tells apart.

    The hottest lines of the library: all that they check is what tells such a message from the rest.

    Args:
        data: what was read from a socket that has nothing unfinished.
        limit: as in `parse`.
    """
    size = len(data) - 6
    if size < 0:
        return None
    second = data[1]
    if size == _LENGTH[second]:
        if size > limit:
            return None
        payload = _unmask(data[6:], data[2:6])
    elif second == _MASKED_16:
        size -= 2
        if not _SHORT < size <= limit or size != data[2] << 8 | data[3]:
            return None
        payload = _unmask(data[8:], data[4:8])
    else:
        return None
    first = data[0]
    if first == _FINAL_TEXT:
        try:
            return payload.decode()
        except UnicodeDecodeError:
            return None
    return payload if first == _FINAL_BINARY else None


def parse(data: bytes, partial: Partial | None, limit: int) -> tuple[list[Received], Partial | None]:
    """Read the frames in what a client sent.

    Args:
        data: what was read from the socket.
        partial: what the call before this one returned, None at first. It is used up.
        limit: the longest message that is accepted, in bytes of payload on the wire.

    Returns:
        What was received, in order: ``str`` for a text message, ``bytes`` for a binary one,
        :class:`Ping`, :class:`Pong`, and as the last that this socket will ever give
        :class:`Close` or :class:`Violation`; and what is unfinished, None if nothing is.
        A violation is found as soon as the bytes that make it one are there: a message over the
        limit by the header that goes beyond it, invalid UTF-8 in the middle of a frame.
    """
    received: list[Received] = []
    if partial is not None and partial.unread:
        data = partial.unread + data
        partial.unread = b""
    at = 0
    end = len(data)
    try:
        while at < end:
            if partial is None:
                at = _read_whole_frames(data, at, limit, received)
                if at == end:
                    break
                partial = Partial()
            item, at = _read_frame(data, at, partial, limit)
            if item is not None:
                received.append(item)
                if type(item) is Close:
                    return received, None
            if not partial.opcode and not partial.unread:
                partial = None
    except _BrokenError as broken:
        received.append(broken.violation)
        return received, None
    return received, partial


def _read_whole_frames(data: bytes, at: int, limit: int, received: list[Received]) -> int:
    """Read whole unfragmented messages, and return where the first frame of another kind is."""
    end = len(data)
    try:
        while at + 6 <= end:
            first = data[at]
            if first not in (_FINAL_TEXT, _FINAL_BINARY):
                break
            size = _LENGTH[data[at + 1]]
            stop = at + 6 + size
            if stop <= end:
                if size > limit:
                    break
                payload = _unmask(data[at + 6 : stop], data[at + 2 : at + 6])
            else:
                if data[at + 1] != _MASKED_16:
                    break
                size = data[at + 2] << 8 | data[at + 3]
                stop = at + 8 + size
                if stop > end or not _SHORT < size <= limit:
                    break
                payload = _unmask(data[at + 8 : stop], data[at + 4 : at + 8])
            received.append(payload.decode() if first == _FINAL_TEXT else payload)
            at = stop
    except UnicodeDecodeError:
        pass  # _read_frame finds it again, and says so
    return at


def _read_frame(data: bytes, at: int, partial: Partial, limit: int) -> tuple[Received | None, int]:
    """Read one frame, or as much of it as is there; return what it completed, and where it ends."""
    if not partial.remaining:
        opcode = data[at] & 0x0F
        header = _read_header(data, at, partial.opcode)
        if header is None or (opcode & _CONTROL and header[1] > len(data)):
            partial.unread = data[at:]
            return None, len(data)
        start, stop = header
        key = data[start - _KEY : start]
        if opcode & _CONTROL:
            return _read_control(opcode, _unmask(data[start:stop], key)), stop
        if len(partial.payload) + stop - start > limit:
            raise _BrokenError(too_big(limit).reason, CloseCode.TOO_BIG)
        partial.opcode = partial.opcode or opcode
        partial.final = data[at] >= _FINAL
        partial.key = key
        partial.remaining = stop - start
        at = start
    piece = data[at : at + partial.remaining]
    partial.payload += _unmask(piece, partial.key)
    partial.remaining -= len(piece)
    turn = len(piece) % _KEY
    partial.key = partial.key[turn:] + partial.key[:turn]
    at += len(piece)
    complete = partial.final and not partial.remaining
    if partial.opcode == _TEXT:
        _check_text(partial, complete)
    if not complete:
        return None, at
    message = partial.payload.decode() if partial.opcode == _TEXT else bytes(partial.payload)
    partial.opcode = 0
    return message, at


def too_big(limit: int) -> Violation:
    """What is wrong with a message of more than ``limit`` bytes."""
    reason = f"A message was longer than {limit} bytes, which is the most that is accepted here."
    return Violation(CloseCode.TOO_BIG, reason)


def _read_header(data: bytes, at: int, opened: int) -> tuple[int, int] | None:
    """Return where the payload begins and ends, or None if the header is not all there.

    ``opened`` is the opcode of the message that is unfinished, or 0.
    """
    if fault := _FAULTS[data[at]]:
        raise _BrokenError(fault)
    opcode = data[at] & 0x0F
    if opcode == _CONTINUATION and not opened:
        raise _BrokenError("A continuation frame came without a message to continue.")
    if opcode in (_TEXT, _BINARY) and opened:
        raise _BrokenError("A message began before the one before it was finished.")
    if at + 2 > len(data):
        return None
    if not data[at + 1] & _MASKED:
        raise _BrokenError("A frame was not masked; every frame that a client sends must be.")
    size = data[at + 1] & 0x7F
    start = at + 2 + _KEY
    if size > _SHORT:
        if opcode & _CONTROL:
            raise _BrokenError("A control frame had more than 125 bytes of payload, the most it may have.")
        extended, least = (2, _SHORT + 1) if size == _LENGTH_16 else (8, 1 << 16)
        if at + 2 + extended > len(data):
            return None
        size = int.from_bytes(data[at + 2 : at + 2 + extended])
        if size < least:
            raise _BrokenError("A frame's length was not written in the fewest bytes that can hold it.")
        if size >> 63:
            raise _BrokenError("A frame's length had its highest bit set; it may be 2**63 - 1 at most.")
        start += extended
    return (start, start + size) if start <= len(data) else None


def _read_control(opcode: int, payload: bytes) -> Ping | Pong | Close:
    """What a control frame says, or a violation (RFC 6455 section 5.5)."""
    if opcode == _PING:
        return Ping(payload)
    if opcode == _PONG:
        return Pong(payload)
    if not payload:
        return Close(CloseCode.NO_STATUS, "")
    if len(payload) == 1:
        raise _BrokenError("A close frame had one byte of payload; it must have none, or at least two.")
    code = int.from_bytes(payload[:2])
    if not is_close_code(code):
        raise _BrokenError(f"A close frame had code {code}; use 1000-1003, 1007-1014 or 3000-4999.")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        fault = "The reason in a close frame was not valid UTF-8."
        raise _BrokenError(fault, CloseCode.INVALID_DATA) from None


def _check_text(partial: Partial, complete: bool) -> None:
    """Check what of a text message is not checked yet; not its last character, if that is cut in two.

    A message that is complete has no character that may be cut.
    """
    unchecked = partial.payload[partial.checked :]
    try:
        checked = codecs.utf_8_decode(unchecked, "strict", complete)[1]
    except UnicodeDecodeError:
        raise _BrokenError(_NOT_UTF8, CloseCode.INVALID_DATA) from None
    partial.checked += checked
    # Python waits for the third byte of a surrogate (its "surrogatepass" wants to see it), but
    # the second already tells that this cannot become UTF-8.
    rest = unchecked[checked:]
    if rest[:1] == b"\xed" and rest[1:2] >= b"\xa0":
        raise _BrokenError(_NOT_UTF8, CloseCode.INVALID_DATA)


_TEXT_HEADERS = tuple(bytes((_FINAL_TEXT, size)) for size in range(_SHORT + 1))
_BINARY_HEADERS = tuple(bytes((_FINAL_BINARY, size)) for size in range(_SHORT + 1))


def encode_text(payload: bytes) -> bytes:
    """Make the frame of a text message that is UTF-8 already."""
    if len(payload) <= _SHORT:
        return _TEXT_HEADERS[len(payload)] + payload
    return _long_header(_FINAL_TEXT, len(payload)) + payload


def encode_binary(payload: bytes) -> bytes:
    """Make the frame of a binary message."""
    if len(payload) <= _SHORT:
        return _BINARY_HEADERS[len(payload)] + payload
    return _long_header(_FINAL_BINARY, len(payload)) + payload


def _long_header(first: int, size: int) -> bytes:
    """The header of a frame with more than 125 bytes of payload, its length in the fewest bytes."""
    if size >> 16:
        return bytes((first, _LENGTH_64)) + size.to_bytes(8)
    return bytes((first, _LENGTH_16)) + size.to_bytes(2)


def encode_message(message: str | bytes) -> bytes:
    """Make the frame of a message: text for ``str``, binary for ``bytes``.

    Raises:
        TypeError: it is neither.
        UnicodeEncodeError: the text has a lone surrogate, which UTF-8 cannot say.
    """
    if isinstance(message, str):
        payload = message.encode()
        # As in encode_text: nearly all messages come by here, and a call is a tenth of the work.
        size = len(payload)
        return _TEXT_HEADERS[size] + payload if size <= _SHORT else encode_text(payload)
    if isinstance(message, bytes):
        return encode_binary(message)
    msg = f"a message is str or bytes, not {type(message).__name__}"
    raise TypeError(msg)


def decode_message(frame: bytes) -> str | bytes:
    """Give the message back of which :func:`encode_message` made this frame.

    Raises:
        ValueError: it is not the frame of a message.
    """
    first, second = frame[:2]
    payload = frame[{_LENGTH_16: 4, _LENGTH_64: 10}.get(second, 2) :]
    if first == _FINAL_TEXT:
        return payload.decode()
    if first == _FINAL_BINARY:
        return payload
    raise ValueError(f"a text or binary frame is wanted, not one that begins with {first:#04x}")


def encode_ping(payload: bytes = b"") -> bytes:
    """Make a ping. Raises ValueError for a payload over 125 bytes (RFC 6455 section 5.5)."""
    return _encode_control(_PING, payload)


def encode_pong(payload: bytes = b"") -> bytes:
    """Make a pong. Raises ValueError for a payload over 125 bytes (RFC 6455 section 5.5)."""
    return _encode_control(_PONG, payload)


def encode_close(code: int, reason: str = "") -> bytes:
    """Make a close frame.

    Args:
        code: one that :func:`is_close_code` allows; 1005 and 1006 make a frame without a code,
            which cannot have a reason either.
        reason: cut at a character's end to the 123 bytes of UTF-8 that the frame has room for.

    Raises:
        TypeError: the code is no whole number, or the reason no string.
        ValueError: the code may not be sent.
    """
    given: tuple[object, object] = (code, reason)  # What a program gives to close(), whatever that is.
    if not isinstance(given[0], int) or not isinstance(given[1], str):
        raise TypeError(f"a close has a whole number and a string, not {code!r:.100} and {reason!r:.100}")
    if code in (CloseCode.NO_STATUS, CloseCode.ABNORMAL):
        return _encode_control(_CLOSE, b"")
    if not is_close_code(code):
        raise ValueError(f"close code {code} may not be sent; use 1000-1003, 1007-1014 or 3000-4999")
    # "replace": a reason is often an error's text, and a connection must close all the same.
    cut = reason.encode(errors="replace")[:_MAX_REASON].decode(errors="ignore").encode()
    return _encode_control(_CLOSE, code.to_bytes(2) + cut)


def decode_close(frame: bytes) -> Close:
    """Give code and reason back of which :func:`encode_close` made this frame; 1005 where it has no code."""
    code = int.from_bytes(frame[2:4]) if len(frame) > 2 else CloseCode.NO_STATUS
    return Close(code, frame[4:].decode())


def _encode_control(opcode: int, payload: bytes) -> bytes:
    """Make a control frame. Raises ValueError for a payload over 125 bytes."""
    if len(payload) > _SHORT:
        raise ValueError(f"a control frame has at most {_SHORT} bytes of payload, not {len(payload)}")
    return bytes((_FINAL | opcode, len(payload))) + payload
