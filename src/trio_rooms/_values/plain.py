"""Plain values: those that JSON and CBOR have a form for, and what others become for clients.

A value goes by what it is, and not by what was declared.
"""

from __future__ import annotations

import base64
import collections
import collections.abc
import datetime
import decimal
import enum
import inspect
import math
import uuid
from typing import Any, Final

import cbor2

from .classes import fields, is_class

__all__ = ["MESSAGE_DEPTH", "finite", "plain"]

MESSAGE_DEPTH: Final = 64
"""Containers in containers that a client's message may have, besides the outermost; deeper data has no
honest use in an event.
"""


def plain(value: Any) -> Any:
    """Make a value that an encoder does not know into one that it does, one level of it.

    What JSON and CBOR encoders call for what they have no form for: attrs classes and
    dataclasses become maps, sets arrays, dates, decimals and UUIDs strings, bytes (in JSON)
    base64 strings.

    Raises:
        TypeError: there is no form for it.
    """
    if is_class(type(value)):
        return fields(value)
    match value:
        case cbor2.undefined:
            return None
        case enum.Enum() | cbor2.CBORSimpleValue():
            return value.value
        case datetime.date():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID():
            return str(value)
        case set() | frozenset() | collections.deque():
            return list(value)
        case collections.abc.Mapping():
            return dict(value)
        case bytes() | bytearray():
            return base64.b64encode(value).decode("ascii")
    if inspect.iscoroutine(value):
        value.close()  # Python would warn of it as well, later and elsewhere.
        msg = f"{value.__qualname__}() was not awaited; write: await {value.__name__}(...)"
        raise TypeError(msg)
    msg = f"a {type(value).__qualname__} cannot be sent; send strings, numbers, lists, maps or attrs classes"
    raise TypeError(msg)


def finite(value: Any) -> Any:
    """Plain values with None in the place of what is no number in JSON: infinity, as a timeout may be."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
