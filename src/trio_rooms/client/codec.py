"""Envelopes, the client's side: which bytes go up, and what those that come down say."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs
import cbor2

from trio_rooms._values.cbor import encode_plain
from trio_rooms._values.json_codec import encode as encode_json

__all__ = ["Codec"]

_ID: Final = b"\x62id"
"""The key "id" in CBOR."""


@attrs.frozen
class Codec:
    """JSON in text, or CBOR in binary messages."""

    binary: bool

    def body(self, event: str, data: Any, channel: str | None) -> bytes:
        """An event, still without its id: it is given one when it is sent first.

        Raises:
            TypeError, ValueError: the data has no form in it.
        """
        content = {"event": event, "data": data}
        if channel is not None:
            content["channel"] = channel
        return encode_plain(content) if self.binary else encode_json(content)

    def message(self, body: bytes, number: int | None) -> str | bytes:
        """The message to send: a body, with its id if it has one."""
        if self.binary:
            if number is None:
                return body
            # The first byte says how many pairs the map has, which are a few.
            return bytes((body[0] + 1,)) + body[1:] + _ID + cbor2.dumps(number)
        return body.decode() if number is None else f'{body[:-1].decode()},"id":{number}}}'

    def ack(self, seq: int, number: int) -> str | bytes:
        """The message that says: everything up to ``seq`` is here, and all answers up to ``number``."""
        content = {"ack": seq, "id": number}
        return cbor2.dumps(content) if self.binary else json.dumps(content)

    def read(self, message: str | bytes) -> dict[str, Any]:
        """The map that a server's message is.

        Raises:
            ValueError: it is none.
        """
        try:
            content = json.loads(message) if isinstance(message, str) else cbor2.loads(message)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except (ValueError, cbor2.CBORDecodeError) as error:
            raise ValueError(f"it is neither JSON nor CBOR: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"it is no map but a {type(content).__name__}")  # noqa: TRY004 (bytes are judged)
        return content
