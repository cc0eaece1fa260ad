"""Envelopes, version 1: which map an event is on the wire, alike in JSON and in CBOR."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import attrs

from trio_rooms._values.cbor import decode_plain, encode_plain
from trio_rooms._values.json_codec import decode as decode_json
from trio_rooms._values.json_codec import encode as encode_json
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


def event(name: Any, data: Any) -> Outgoing:
    """An event for clients.

    Raises:
        TypeError: the name is no string.
        ValueError: it is empty or begins with ``rooms.``, which the library keeps.
    """
    try:
        reserved = not name or name.startswith("rooms.")
    except (AttributeError, TypeError):
        reserved = True
    if reserved:
        msg = f"an event needs a name that does not begin with 'rooms.', not {name!r:.100}"
        raise ValueError(msg) if isinstance(name, str) else TypeError(msg)
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
