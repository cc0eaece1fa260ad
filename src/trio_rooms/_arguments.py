"""Arguments of public calls: what does not fit is the caller's error, at the call, and changes nothing."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["number", "text", "whole"]


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
