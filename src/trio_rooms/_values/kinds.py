"""What a type annotation is: a list, a map, a union, an enum, whatever form it is written in."""

from __future__ import annotations

import collections
import collections.abc
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

__all__ = [
    "LISTS",
    "MAPS",
    "SETS",
    "is_anything",
    "is_enum",
    "is_list",
    "is_literal",
    "is_map",
    "is_set",
    "is_tuple",
    "is_union",
    "origin_of",
]

# What an annotation may name, and what is made for it.
LISTS: Final[Mapping[Any, type]] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.deque: collections.deque,
}
SETS: Final[Mapping[Any, type]] = {
    set: set,
    frozenset: frozenset,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}
MAPS: Final[Mapping[Any, type]] = {
    dict: dict,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.defaultdict: collections.defaultdict,
    collections.Counter: collections.Counter,
}


def origin_of(kind: Any) -> Any:
    """What a generic type is without its parameters: ``list`` for ``list[int]``; any other as it is."""
    return typing.get_origin(kind) or kind


def is_anything(kind: Any) -> bool:
    """Whether every value is of a type, so that none is looked at."""
    return kind is Any or kind is object


def is_list(kind: Any) -> bool:
    """Whether a type is a list, a deque, or an abstract collection that a list is one of."""
    return _is_in(LISTS, kind)


def is_set(kind: Any) -> bool:
    """Whether a type is a set, frozen or not."""
    return _is_in(SETS, kind)


def is_map(kind: Any) -> bool:
    """Whether a type is a dictionary of some kind; a TypedDict is none."""
    return _is_in(MAPS, kind)


def _is_in(made: Mapping[Any, type], kind: Any) -> bool:
    origin = origin_of(kind)
    return isinstance(origin, collections.abc.Hashable) and origin in made


def is_tuple(kind: Any) -> bool:
    """Whether a type is a tuple, named or not."""
    origin = origin_of(kind)
    return isinstance(origin, type) and issubclass(origin, tuple)


def is_union(kind: Any) -> bool:
    """Whether a type is ``A | B`` or ``Optional[A]``."""
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def is_enum(kind: Any) -> bool:
    """Whether a type is an enum, also one that is an int or a string too."""
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def is_literal(kind: Any) -> bool:
    """Whether a type is ``Literal[...]``."""
    return typing.get_origin(kind) is typing.Literal
