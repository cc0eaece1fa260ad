"""Classes with fields, of attrs and of dataclasses: which types they are, and what their instances hold."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import attrs

from .kinds import origin_of

__all__ = ["declared", "fields", "is_class", "refuse_shared_defaults"]


def is_class(kind: Any) -> bool:
    """Whether a type is an attrs class or a dataclass."""
    origin = origin_of(kind)
    return isinstance(origin, type) and (attrs.has(origin) or dataclasses.is_dataclass(origin))


@functools.cache
def declared(kind: Any) -> tuple[tuple[str, bool], ...]:
    """The names of a class's fields, and whether its ``__init__`` takes them."""
    if attrs.has(kind):
        return tuple((field.name, field.init) for field in attrs.fields(kind))
    return tuple((field.name, field.init) for field in dataclasses.fields(kind))


def refuse_shared_defaults(kind: Any) -> None:
    """Refuse a class of whose instances all have one list, or another thing that can be changed, by default.

    Dataclasses refuse it themselves, and see it in the same way: what can be changed has no hash.

    Raises:
        TypeError: it has such a default.
    """
    for field in attrs.fields(kind) if attrs.has(kind) else ():
        default: Any = field.default
        if field.converter is None and type(default).__hash__ is None:
            msg = (
                f"{kind.__qualname__}.{field.name}: all instances would share its default, {default!r:.100}; "
                f"write attrs.field(factory={type(default).__qualname__}) or a factory of your own"
            )
            raise TypeError(msg)


@functools.cache
def _reader(kind: Any) -> tuple[list[str], Callable[[Any], tuple[Any, ...]]]:
    """The names of a class's fields, and what reads all of them from an instance."""
    names = [name for name, _ in declared(kind)]
    if len(names) < 2:  # For one, attrgetter gives the value and no tuple.
        return names, lambda value: tuple(getattr(value, name) for name in names)
    return names, operator.attrgetter(*names)


def fields(value: Any) -> dict[str, Any]:
    """The fields of an instance by name, as they are; one that was never set is left out."""
    kind: Any = type(value)
    names, read = _reader(kind)
    try:
        return dict(zip(names, read(value), strict=True))
    except AttributeError:
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
