"""The CBOR of values without parts, put together here: a call of cbor2 for each of them takes longer.

All of it is byte for byte what cbor2 writes.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from .cbor import EARLIEST, LATEST, whole
from .exact import exact_moment

__all__ = ["ARRAYS", "FORMS", "MOMENT", "TEXTS", "double", "head"]

_SIZES: Final = ((24, 0, ""), (1 << 8, 24, "B"), (1 << 16, 25, ">H"), (1 << 32, 26, ">I"))


def head(major: int, count: int) -> bytes:
    """The head of an item with a length: RFC 8949, section 3. Major types 2 to 5: bytes, text, array, map."""
    if count < 256 and 2 <= major <= 5:
        return _SHORT[major - 2][count]
    return _head(major, count)


def _head(major: int, count: int) -> bytes:
    for limit, extra, form in _SIZES:
        if count < limit:
            return bytes([major << 5 | (extra or count)]) + (struct.pack(form, count) if form else b"")
    return bytes([major << 5 | 27]) + struct.pack(">Q", count)


_SHORT: Final = tuple(tuple(_head(major, count) for count in range(256)) for major in range(2, 6))
double: Final = struct.Struct(">d").pack
MOMENT: Final = b"\xc1\xfb"
"""What comes before the seconds of a point in time: tag 1, and that they are a double."""
TEXTS: Final = _SHORT[1]
"""The heads of short texts, by their length in UTF-8."""
ARRAYS: Final = _SHORT[2]
"""The heads of short arrays."""
_INTEGERS: Final = tuple(_head(0, number) for number in range(256))


def _text(value: str) -> bytes:
    encoded = value.encode()
    length = len(encoded)
    return (TEXTS[length] if length < 256 else head(3, length)) + encoded


def _integer(value: int) -> bytes:
    return _INTEGERS[value] if 0 <= value < 256 else whole(value)


def _float(value: float) -> bytes:
    # Infinities and what is no number have forms of their own.
    return b"\xfb" + double(value) if value - value == 0 else whole(value)


def _moment(value: datetime.datetime) -> bytes:
    if value.tzinfo is datetime.UTC and not value.fold and EARLIEST < value < LATEST:
        return MOMENT + double(value.timestamp())
    return whole(exact_moment(value))


FORMS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    str: _text,
    int: _integer,
    float: _float,
    bool: lambda value: b"\xf5" if value else b"\xf4",
    type(None): lambda _: b"\xf6",
    bytes: lambda value: head(2, len(value)) + value,
    datetime.datetime: _moment,
}
"""The CBOR of values of these types, and of no subclass of them, where they are to come back as they are."""
