"""Arguments of public calls: what does not fit is the caller's error, at the call, and changes nothing."""

from __future__ import annotations

import math
import re
from typing import Any, Final

__all__ = ["lease", "node", "number", "text", "whole"]

_SHORTEST_LEASE: Final = 0.5
"""Seconds. A process that collects its garbage, or a disk that is busy, may take a part of that."""
_LONGEST_LEASE: Final = 3600.0
_NODE: Final = re.compile("[A-Za-z0-9._-]{1,64}")


def text(what: str, value: Any) -> str:
    """A string that has a form in UTF-8.

    Args:
        what: the argument, for the error.
        value: what was given for it.

    Raises:
        TypeError: it is no string.
        ValueError: it has half a surrogate pair.
    """
    if not isinstance(value, str):
        msg = f"{what} is a string, not {value!r:.100} of type {type(value).__name__}"
        raise TypeError(msg)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            where = f"half a surrogate pair at {error.start}"
            msg = f"{what} has {where}, which has no form in UTF-8: {value!r:.100}"
            raise ValueError(msg) from None
    return value


def whole(what: str, value: Any, *, least: int = 0) -> int:
    """A whole number.

    Raises:
        TypeError: it is none.
        ValueError: it is less than ``least``.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        msg = f"{what} is a whole number, not {value!r:.100} of type {type(value).__name__}"
        raise TypeError(msg)
    if value < least:
        msg = f"{what} is a whole number from {least} on, not {value}"
        raise ValueError(msg)
    return value


def number(what: str, value: Any) -> float:
    """A number from 0 on, infinity included; seconds, mostly.

    Raises:
        TypeError: it is none.
        ValueError: it is negative, or NaN.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        msg = f"{what} is a number, not {value!r:.100} of type {type(value).__name__}"
        raise TypeError(msg)
    if not value >= 0:
        msg = f"{what} is a number from 0 on, not {value}"
        raise ValueError(msg)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def node(value: Any) -> str:
    """The name of a node.

    Raises:
        TypeError: it is no string.
        ValueError: no node can have this name.
    """
    name = text("node", value)
    if not _NODE.fullmatch(name):
        msg = f"a node's name has 1 to 64 letters, digits, '.', '_' and '-', and is not {name!r:.100}"
        raise ValueError(msg)
    return name


def lease(value: Any) -> float:
    """Seconds of a node's lease.

    Raises:
        TypeError: it is no number.
        ValueError: no lease can be as short, or as long.
    """
    seconds = number("lease", value)
    if not _SHORTEST_LEASE <= seconds <= _LONGEST_LEASE:
        msg = f"lease is a number of seconds from {_SHORTEST_LEASE:g} to {_LONGEST_LEASE:g}, not {value}"
        raise ValueError(msg)
    return seconds
