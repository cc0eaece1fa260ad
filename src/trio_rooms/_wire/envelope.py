"""Envelopes, version 1: what an event looks like on the wire, in JSON and in CBOR."""

from __future__ import annotations

import io
import json
import math
import threading
from typing import Any, Final, NoReturn

import attrs
import cbor2

try:
    import orjson

    _OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
except ImportError:  # It is an extra.
    orjson = None  # type: ignore[assignment]

from trio_rooms._values import cbor
from trio_rooms._values.convert import plain
from trio_rooms.errors import EventError

from .frames import encode_binary, encode_text

__all__ = [
    "SUBPROTOCOLS",
    "Envelope",
    "Outgoing",
    "acknowledge",
    "decode",
    "event",
    "refuse",
    "reject",
    "welcome",
]

SUBPROTOCOLS: Final = {"trio-rooms.v1.json": False, "trio-rooms.v1.cbor": True}
"""The subprotocols that are spoken, and whether each begins in CBOR."""

_DEPTH: Final = 64
"""Containers in containers that a message may have; deeper data has no honest use in an event."""


# Not frozen, because attrs takes longer to make a frozen one, and each message has one.
@attrs.define
class Envelope:
    """One message of a client, decoded."""

    event: str
    data: Any = None
    id: int | None = None
    channel: str | None = None


class Outgoing:
    """A message to clients, encoded at most once in each kind, however many get it."""

    __slots__ = ("_binary", "_envelope", "_text")

    def __init__(self, envelope: dict[str, Any]) -> None:
        self._envelope = envelope
        self._text: bytes | None = None
        self._binary: bytes | None = None

    def frame(self, *, binary: bool) -> bytes:
        """The whole frame, in CBOR or in JSON.

        Raises:
            TypeError, ValueError: the data has no form in it; nothing was sent.
        """
        if binary:
            if self._binary is None:
                self._binary = encode_binary(cbor.encode_plain(self._envelope))
            return self._binary
        if self._text is None:
            self._text = encode_text(_to_json(self._envelope))
        return self._text


def event(name: str, data: Any) -> Outgoing:
    """An event for clients.

    Raises:
        ValueError: the name is empty or begins with ``rooms.``, which the library keeps.
    """
    if not name or name.startswith("rooms."):
        msg = f"an event needs a name that does not begin with 'rooms.', not {name!r}"
        raise ValueError(msg)
    return Outgoing({"event": name, "data": data})


def welcome(connection: int) -> Outgoing:
    """The first message to a client that negotiated a subprotocol; there is nothing to resume yet."""
    data = {"connection": format(connection, "x"), "session": None, "resume": None, "resumed": False}
    return Outgoing({"event": "rooms.welcome", "data": data})


def acknowledge(number: int, data: Any) -> Outgoing:
    """The answer to a message with an id that was handled; ``data`` is what the handler returned."""
    return Outgoing({"ack": number, "data": data})


def refuse(number: int | None, code: str, message: str) -> Outgoing:
    """The answer to a message that was refused or failed; without an id it says only the error."""
    error = {"error": {"code": code, "message": message}}
    return Outgoing(error if number is None else {"ack": number, **error})


def decode(message: str | bytes) -> Envelope | None:
    """Decode a message of a client; None for one that asks for nothing (an acknowledgement).

    Raises:
        EventError: ``invalid_message``, saying what is wrong with it.
    """
    content = _from_json(message) if isinstance(message, str) else _from_cbor(message)
    if type(content) is not dict:
        reject(f"an envelope is a map like {{'event': 'say', 'data': ...}}, not a {_kind(content)}")
    name = content.get("event")
    if name is None and type(content.get("ack")) is int:
        return None
    if type(name) is not str or not name:
        reject("an envelope needs an 'event', a string that is not empty")
    number = content.get("id")
    if number is not None and (type(number) is not int or not 0 <= number < 1 << 63):
        reject("the 'id' of an envelope is a whole number from 0 to 2**63 - 1")
    channel = content.get("channel")
    if channel is not None and type(channel) is not str:
        reject("the 'channel' of an envelope is a string")
    return Envelope(name, content.get("data"), number, channel)


def reject(why: str) -> NoReturn:
    """Refuse a message before any handler sees it."""
    code = "invalid_message"
    raise EventError(code, why)


def _to_json(value: Any) -> bytes:
    try:
        try:
            return _dump(value)
        except (TypeError, ValueError):
            # What CBOR clients may send and JSON has no form for must not make a room unable
            # to speak to its JSON clients: NaN and infinities become null, odd keys strings.
            return _encode_json(_for_json(value)).encode()
    except RecursionError:
        msg = "it is nested too deeply, or contains itself"
        raise ValueError(msg) from None


# Made once: json.dumps and json.loads with options make a new one at each call, which takes
# longer than a short message.
_encode_json: Final = json.JSONEncoder(
    default=plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


def _dump(value: Any) -> bytes:
    if orjson is not None:
        # It leaves to `plain` what it would write in another form than the standard library, and
        # what it refuses (integers beyond 64 bits, keys that are no strings) to that.
        try:
            return orjson.dumps(value, plain, _OPTIONS)
        except TypeError:
            pass
    return _encode_json(value).encode()


def _for_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {_json_key(key): _for_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return _for_json(plain(value))


def _json_key(key: Any) -> str | int | None:
    if key is None or isinstance(key, str | int):
        return key
    try:
        return str(plain(key))
    except TypeError:
        return str(key)


def _from_json(text: str) -> Any:
    # Not by orjson, which makes floats of integers beyond 64 bits.
    try:
        value, end = _json.raw_decode(text) if text.startswith("{") else (None, -1)
        if end != len(text):
            value = _json.decode(text)  # There is white space around it, or it is wrong.
        # An escaped lone surrogate makes a string that neither JSON nor CBOR can carry on.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        reject("the JSON is nested too deeply")
    except UnicodeEncodeError:
        reject("the JSON has an escaped surrogate without its other half")
    except ValueError as error:
        reject(f"not JSON: {error}")
    if text.count("[") + text.count("{") > _DEPTH and not _shallow(value):
        reject(f"the JSON is nested more than {_DEPTH} levels deep")
    return value


def _shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_DEPTH + 1):
        level = [
            inner
            for outer in level
            if type(outer) in (dict, list)
            for inner in (outer.values() if type(outer) is dict else outer)
        ]
        if not level:
            return True
    return False


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is not a JSON number"
    raise ValueError(msg)


_json: Final = json.JSONDecoder(parse_constant=_no_constant)


def _no_tag(*_: object) -> NoReturn:
    msg = "tags are not allowed"
    raise ValueError(msg)


# Every tag that the decoder would make an object of; `tag_hook` is asked about the others.
_TAGS: Final = dict.fromkeys(
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799),
    _no_tag,
)


class _Decoder(threading.local):
    """This thread's CBOR decoder: to make one takes longer than to decode a short message."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.decoder = cbor2.CBORDecoder(
            io.BytesIO(),
            tag_hook=_no_tag,
            semantic_decoders=_TAGS,
            max_depth=_DEPTH,
            strict_hashable_types=False,
        )


_cbor: Final = _Decoder()


def _from_cbor(message: bytes) -> Any:
    decoder = _cbor.decoder
    decoder.fp = stream = io.BytesIO(message)
    try:
        value = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError, RecursionError, MemoryError) as error:
        _cbor.renew()  # Whatever state it was left in.
        reject(f"not CBOR as it is allowed here (no tags, at most {_DEPTH} levels): {error}")
    if stream.tell() != len(message):
        _cbor.renew()  # It may have read ahead.
        reject(f"{len(message) - stream.tell()} bytes after the end of the CBOR")
    return value


def _kind(value: object) -> str:
    return {
        list: "list",
        str: "string",
        int: "number",
        float: "number",
        bool: "boolean",
        type(None): "null",
    }.get(type(value), type(value).__name__)
