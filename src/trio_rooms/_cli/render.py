"""Values and names as people read them on a terminal."""

from __future__ import annotations

import collections
import datetime
import decimal
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import cbor2

__all__ = ["printable", "quoted", "show"]

_SHOWN_BYTES: Final = 32
"""Bytes of a byte string that are shown; people recognize a thing by its beginning."""
_NARROW: Final = 88
"""Columns up to which a container is shown on one line."""
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What would move the cursor, colour the terminal or turn the order of letters around."""


def printable(text: str) -> str:
    """A text in which what would harm a terminal is escaped."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def quoted(text: str) -> str:
    """A text as JSON has it, printable."""
    return printable(json.dumps(text, ensure_ascii=False))


def show(value: Any, margin: str) -> Iterator[str]:
    """A value as text like JSON, in pieces: on one line if it is short, else one item a line.

    Args:
        value: what `decode_value` gave.
        margin: what lines begin with, but for the first.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(value, Mapping) and value:
        items = [("".join((*show(key, ""), ": ")), inner) for key, inner in value.items()]
        yield from _container("{", items, "}", margin)
    elif isinstance(value, list | tuple | collections.deque) and value:
        yield from _container("[", [("", inner) for inner in value], "]", margin)
    elif isinstance(value, set | frozenset):
        yield from _container("set(", [("", inner) for inner in value], ")", margin)
    elif isinstance(value, cbor2.CBORTag):
        yield from _container(f"tag {value.tag}(", [("", value.value)], ")", margin)
    else:
        yield _scalar(value)


def _container(opening: str, items: list[tuple[str, Any]], closing: str, margin: str) -> Iterator[str]:
    """A container, of whose items each has a label: its key in a map, else nothing."""
    if len(items) <= _NARROW // 3 and not any(_is_container(inner) for _, inner in items):
        line = opening + ", ".join(label + _scalar(inner) for label, inner in items) + closing
        if len(line) <= _NARROW:
            yield line
            return
    yield opening
    separator = ""
    for label, inner in items:
        yield f"{separator}\n{margin}  {label}"
        yield from show(inner, f"{margin}  ")
        separator = ","
    yield f"\n{margin}{closing}"


def _is_container(value: Any) -> bool:
    """Whether a value may need more than one line; an empty container does not."""
    return isinstance(
        value, Mapping | list | tuple | collections.deque | set | frozenset | cbor2.CBORTag
    ) and bool(value)


def _scalar(value: Any) -> str:
    """Whatever is shown on one line: what is no container, and empty ones."""
    match value:
        case None | True | False:
            return json.dumps(value)
        case str():
            return quoted(value)
        case bytes() | bytearray():
            # As in the diagnostic notation of CBOR: RFC 8949, section 8.
            if len(value) <= _SHOWN_BYTES:
                return f"h'{value.hex()}'"
            return f"h'{value[:_SHOWN_BYTES].hex()}...' ({len(value):,} bytes)"
        case datetime.datetime():
            return value.isoformat(sep=" ")
        case datetime.date():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID():
            return str(value)
        case dict():
            return "{}"
        case list() | tuple() | collections.deque():
            return "[]"
        case set() | frozenset():
            return "set()"
    return printable(repr(value))
