"""Envelopes, version 1: which map an event is on the wire, alike in JSON and in CBOR."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import attrs

from trio_rooms._values.cbor import decode_plain, decode_sent, encode_plain
from trio_rooms._values.json_codec import decode as decode_json
from trio_rooms._values.json_codec import encode as encode_json
from trio_rooms.errors import EventError

from .frames import encode_binary, encode_text

__all__ = [
    "SUBPROTOCOLS",
    "Acknowledgement",
    "Body",
    "Envelope",
    "Outgoing",
    "Reliable",
    "acknowledge",
    "acknowledgement",
    "bare",
    "decode",
    "event",
    "event_frame",
    "pong",
    "refuse",
    "reject",
    "welcome",
]

SUBPROTOCOLS: Final = {"trio-rooms.v1.json": False, "trio-rooms.v1.cbor": True}
"""The subprotocols that are spoken, and whether each begins in CBOR."""

_SEQ: Final = encode_plain("seq")
_LONGEST_NAME: Final = 256
"""Characters that the name of an event or a channel has at most: names are logged, and kept."""


# Not frozen, because attrs takes longer to make a frozen one, and each message has one.
@attrs.define
class Envelope:
    """One message of a client, decoded."""

    event: str
    data: Any = None
    id: int | None = None
    """What the answer is to carry as ``ack``; None for a message that wants no answer."""
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
                self._binary = encode_binary(encode_plain(self._envelope))
            return self._binary
        if self._text is None:
            self._text = encode_text(encode_json(self._envelope))
        return self._text


@attrs.frozen
class Body:
    """An event without its place in a room's journal, in both kinds."""

    cbor: bytes
    """What the journal keeps."""
    json: bytes

    @classmethod
    def of(cls, name: Any, data: Any) -> Body:
        """An event for clients.

        Raises:
            TypeError, ValueError: as `event`, or the data has no form in CBOR or in JSON: nobody knows yet
                which will be wanted.
        """
        _check_name(name)
        content = {"event": name, "data": data}
        return cls(encode_plain(content), encode_json(content))

    @classmethod
    def decode(cls, cbor: bytes) -> Body:
        """One of which a journal has the body.

        Raises:
            Exception: it has another one.
        """
        return cls(cbor, encode_json(decode_sent(cbor)))


class Reliable:
    """An event with its place in a room's journal, which is the last member of its map."""

    __slots__ = ("_binary", "_body", "_seq", "_text")

    def __init__(self, body: Body, seq: int) -> None:
        self._body = body
        self._seq = seq
        self._text: bytes | None = None
        self._binary: bytes | None = None

    def frame(self, *, binary: bool) -> bytes:
        """The whole frame, in CBOR or in JSON."""
        if binary:
            if self._binary is None:
                # A map of two becomes one of three.
                self._binary = encode_binary(b"\xa3" + self._body.cbor[1:] + _SEQ + encode_plain(self._seq))
            return self._binary
        if self._text is None:
            self._text = encode_text(self._body.json[:-1] + b',"seq":%d}' % self._seq)
        return self._text


def event(name: Any, data: Any) -> Outgoing:
    """An event for clients.

    Raises:
        TypeError: the name is no string.
        ValueError: it is empty or begins with ``rooms.``, which the library keeps.
    """
    if type(name) is not str or not name or name.startswith("rooms."):
        _check_name(name)  # Called for what is wrong alone: this is said with each event.
    return Outgoing({"event": name, "data": data})


def event_frame(name: Any, data: Any, *, binary: bool) -> bytes:
    """The whole frame of an event for one client, in CBOR or in JSON: that of `event`, kept nowhere.

    Raises:
        TypeError, ValueError: as there, or the data has no form in it.
    """
    if type(name) is not str or not name or name.startswith("rooms."):
        _check_name(name)
    content = {"event": name, "data": data}
    return encode_binary(encode_plain(content)) if binary else encode_text(encode_json(content))


def _check_name(name: Any) -> None:
    """Refuse what cannot be the name of an event."""
    try:
        reserved = not name or name.startswith("rooms.")
    except (AttributeError, TypeError):
        reserved = True
    if reserved:
        msg = f"an event needs a name that does not begin with 'rooms.', not {name!r:.100}"
        raise ValueError(msg) if isinstance(name, str) else TypeError(msg)


def welcome(
    connection: int,
    token: str | None = None,
    seq: int = 0,
    *,
    durable: bool = False,
    resumed: bool = False,
    reason: str = "",
) -> Outgoing:
    """The first message to a client that negotiated a subprotocol.

    Args:
        connection: its number, which is that of its session.
        token: what it resumes its session with; None where there is none.
        seq: from where the session counts.
        durable: whether the session outlives the process already.
        resumed: whether it is one that it had before.
        reason: why it is not that which it asked for, if it asked for one.
    """
    id_ = format(connection, "x")
    data: dict[str, Any] = {
        "connection": id_,
        "session": None if token is None else id_,
        "resume": token,
        "resumed": resumed,
        "seq": seq,
        "durable": durable,
    }
    if reason:
        data["reason"] = reason
    return Outgoing({"event": "rooms.welcome", "data": data})


def pong() -> Outgoing:
    """The answer to a client that wants to know whether its connection still works."""
    return Outgoing({"event": "rooms.pong", "data": None})


def acknowledge(number: int, data: Any) -> Outgoing:
    """The answer to a message with an id that was handled; ``data`` is what the handler returned."""
    return Outgoing({"ack": number, "data": data})


def bare(number: int) -> Outgoing:
    """The answer to a message that was handled, of whose handler nothing is known any more but that."""
    return Outgoing({"ack": number})


def refuse(number: int | None, code: str, message: str) -> Outgoing:
    """The answer to a message that was refused or failed; without an id it says only the error."""
    error = {"error": {"code": code, "message": message}}
    return Outgoing(error if number is None else {"ack": number, **error})


@attrs.frozen
class Acknowledgement:
    """What a client says that it has."""

    seq: int
    """Everything up to there."""
    id: int | None
    """And all answers up to this message of its own."""
    ping: bool
    """Whether it wants to know that its connection works."""


def acknowledgement(message: str | bytes) -> Acknowledgement | None:
    """A message that is an acknowledgement and nothing else; None for any other, understood or not."""
    try:
        content = decode_json(message) if isinstance(message, str) else decode_plain(message)
    except ValueError:
        return None
    if type(content) is not dict or "event" in content:
        return None
    seq, id_ = content.get("ack"), content.get("id")
    if type(seq) is not int or not (id_ is None or type(id_) is int):
        return None
    return Acknowledgement(seq, id_, content.get("ping") is True)


def decode(message: str | bytes) -> Envelope | None:
    """Decode a message of a client; None for one that asks for nothing (an acknowledgement).

    Raises:
        EventError: ``invalid_message``, saying what is wrong with it.
    """
    try:
        content = decode_json(message) if isinstance(message, str) else decode_plain(message)
    except ValueError as error:
        reject(str(error))
    if type(content) is not dict:
        reject(f"an envelope is a map like {{'event': 'say', 'data': ...}}, not a {_kind(content)}")
    name = content.get("event")
    if name is None and type(content.get("ack")) is int:
        return None
    if type(name) is not str or not 0 < len(name) <= _LONGEST_NAME:
        reject(f"an envelope needs an 'event', a string of 1 to {_LONGEST_NAME} characters")
    number = content.get("id")
    if number is not None and (type(number) is not int or not 0 <= number < 1 << 63):
        reject("the 'id' of an envelope is a whole number from 0 to 2**63 - 1")
    channel = content.get("channel")
    if channel is not None and (type(channel) is not str or len(channel) > _LONGEST_NAME):
        reject(f"the 'channel' of an envelope is a string of at most {_LONGEST_NAME} characters")
    return Envelope(name, content.get("data"), number, channel)


def reject(why: str) -> NoReturn:
    """Refuse a message before any handler sees it.

    Raises:
        EventError: ``invalid_message``, with this text for the client.
    """
    code = "invalid_message"
    raise EventError(code, why)


def _kind(value: object) -> str:
    """What JSON calls a value that is no map."""
    return {
        list: "list",
        str: "string",
        int: "number",
        float: "number",
        bool: "boolean",
        type(None): "null",
    }.get(type(value), type(value).__name__)
