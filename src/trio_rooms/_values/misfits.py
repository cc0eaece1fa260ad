"""What does not fit its type, in words for whoever sent it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
    faults = itertools.islice(_faults(error, "", None), NAMED_AT_MOST)
    return "; ".join(f"{field.removeprefix('.')}: {what}" if field else what for what, field in faults)


def _faults(error: BaseException, field: str, kind: type | None) -> Iterator[tuple[str, str]]:
    """What is wrong, and where, one after the other.

    `cattrs.transform_error` gives all at once, each with its whole path: a megabyte of long keys in one
    another became gigabytes.
    """
    if not isinstance(error, cattrs.ClassValidationError | cattrs.IterableValidationError):
        yield _cut(_describe_one(error, kind)), field
        return
    placed, others = error.group_exceptions()
    for inner, note in placed:
        place = f".{note.name}" if isinstance(note, cattrs.AttributeValidationNote) else f"[{note.index!r}]"
        yield from _faults(inner, _cut(field + place), note.type)
    for inner in others:
        yield from _faults(inner, field, None)


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
