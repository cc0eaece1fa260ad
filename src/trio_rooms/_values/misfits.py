"""What does not fit its type, in words for whoever sent it."""

from __future__ import annotations

from typing import Any, Final

import cattrs
import cattrs.v

from .classes import is_class

__all__ = ["NAMED_AT_MOST", "describe", "name_of_type", "name_of_value"]

NAMED_AT_MOST: Final = 5
"""Faults of one value that are named: enough to mend a client by, too few to make an answer large."""
_LONGEST: Final = 200
"""Characters of one of them at most, since what does not fit may be as large as a message."""


def describe(error: BaseException) -> str:
    """One line for what did not fit, naming each field: ``ps[0].text: expected str, got int``.

    Args:
        error: what a converter raised.
    """
    found = []
    for line in cattrs.transform_error(error, path="data", format_exception=_describe_one)[:NAMED_AT_MOST]:
        what, _, where = line.rpartition(" @ data")
        field = _cut(where.removeprefix("."))
        found.append(f"{field}: {_cut(what)}" if field else _cut(what))
    return "; ".join(found)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _describe_one(error: BaseException, kind: type | None) -> str:
    """What is wrong with one field: the converters' own words, and cattrs' for the rest."""
    if isinstance(error, KeyError):
        return "required field missing"
    if isinstance(error, TypeError | ValueError) and error.args:
        return str(error.args[0])
    return str(cattrs.v.format_exception(error, kind))


def name_of_type(kind: Any) -> str:
    """What was wanted, as the sender knows it: a class of the application is a map to everybody else."""
    if is_class(kind):
        return "a map"
    return kind.__name__ if isinstance(kind, type) else str(kind)


def name_of_value(value: Any) -> str:
    """What was sent, as the sender knows it."""
    if isinstance(value, dict):
        return "a map"
    return "a list" if isinstance(value, list) else type(value).__name__
