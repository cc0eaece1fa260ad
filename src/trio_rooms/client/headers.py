"""Headers of a request: which a program may set, and the one that says who it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from trio_rooms._arguments import text

__all__ = ["bearer", "checked"]

_NAME: Final = re.compile("[!#$%&'*+\\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile("[\t\x20-\x7e\x80-\xff]*")
"""What a header's name and value may be (RFC 9110, 5)."""
_OWN: Final = re.compile("host|upgrade|connection|content-length|transfer-encoding|sec-websocket-.*")
"""Headers that a handshake has already."""


def checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that may be sent; a line break in one would begin another.

    Raises:
        TypeError: a name or a value is no string.
        ValueError: one may not be sent.
    """
    for name, value in headers.items():
        if not _NAME.fullmatch(text("a header's name", name)) or not _VALUE.fullmatch(
            text("a header", value)
        ):
            raise ValueError(f"no such header may be sent: {name!r:.100}: {value!r:.100}")
        if _OWN.fullmatch(name.lower()):
            raise ValueError(f"the header {name} belongs to the handshake, and is not yours to set")
    return dict(headers)


def bearer(token: Any) -> str:
    """The value of ``Authorization`` for a token, which no error shows.

    Raises:
        TypeError: it is no string.
        ValueError: it may not be sent.
    """
    if not isinstance(token, str):
        raise TypeError(f"a token is a string, not of type {type(token).__name__}")
    if not _VALUE.fullmatch(token):
        raise ValueError("the token has characters that may not stand in a header")
    return f"Bearer {token}"
