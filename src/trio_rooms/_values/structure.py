"""Structure hooks that the strict converter is made of: lists, tuples, maps and classes from plain values.

None of them looks whether the value is a list or a map at all: `strict` has seen to that before.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
import cattrs
import cattrs.gen

from .classes import declared, refuse_shared_defaults
from .kinds import LISTS, MAPS, SETS, is_anything, is_enum, origin_of
from .misfits import NAMED_AT_MOST

__all__ = [
    "Check",
    "Member",
    "Structure",
    "as_it_is",
    "class_of",
    "list_of",
    "map_of",
    "member_of",
    "set_of",
    "tuple_of",
    "unless_enum",
]

Structure = Callable[[Any, Any], Any]
"""What cattrs calls a structure hook: takes the value and the type that is wanted."""

Check = Callable[[Iterable[Any]], None]
"""Raises a TypeError for values that do not belong into one hash table."""

_COLLECTIONS: Final = {**LISTS, **SETS}


def as_it_is(value: Any, _: Any) -> Any:
    """The hook that changes nothing."""
    return value


@attrs.frozen
class Member:
    """What an element, a key, a field or a member of a union is to become."""

    structure: Structure
    kind: Any


def member_of(converter: cattrs.Converter, kind: Any) -> Member:
    """The hook that a converter has for a type, and the type."""
    return Member(as_it_is if is_anything(kind) else converter.get_structure_hook(kind), kind)


def _each(kind: Any, indices: Iterable[Any], values: Iterable[Any], members: Iterable[Member]) -> list[Any]:
    """Structure each value; of those that do not fit, a few are enough to know.

    Raises:
        IterableValidationError: some do not fit; it has the index of each.
    """
    result: list[Any] = []
    errors: list[Exception] = []
    for index, value, member in zip(indices, values, members, strict=False):
        try:
            result.append(member.structure(value, member.kind))
        except Exception as error:  # noqa: BLE001 (it is raised again below, with its place)
            error.add_note(cattrs.IterableValidationNote(f"@ index {index!r}", index, member.kind))
            errors.append(error)
            if len(errors) == NAMED_AT_MOST:
                break
    if errors:
        raise cattrs.IterableValidationError(f"While structuring {kind}", errors, kind)
    return result


def _all(kind: Any, values: Any, member: Member) -> Iterable[Any]:
    """Structure all elements of a container as one type."""
    if member.structure is as_it_is:
        return values  # type: ignore[no-any-return]
    return _each(kind, itertools.count(), values, itertools.repeat(member))


def list_of(kind: Any, converter: cattrs.Converter) -> Structure:
    """The hook for a list or a set, from any iterable."""
    make = _COLLECTIONS[origin_of(kind)]
    member = member_of(converter, (*typing.get_args(kind), Any)[0])
    return lambda value, _: make(_all(kind, value, member))


def set_of(kind: Any, converter: cattrs.Converter, check: Check) -> Structure:
    """The hook for a set whose elements are checked before they are put into one."""
    make = _COLLECTIONS[origin_of(kind)]
    member = member_of(converter, (*typing.get_args(kind), Any)[0])

    def structure(value: Any, _: Any) -> Any:
        elements = _all(kind, value, member)
        check(elements)
        return make(elements)

    return structure


def tuple_of(kind: Any, converter: cattrs.Converter) -> Structure:
    """The hook for a tuple of any or of fixed length, or a named one, from a sequence.

    It raises a TypeError for one of another length.
    """
    origin, args = origin_of(kind), typing.get_args(kind)
    if hasattr(origin, "_fields"):
        hints = typing.get_type_hints(origin)
        args = tuple(hints.get(name, Any) for name in origin._fields)
    elif not args or args[-1] is ...:
        member = member_of(converter, (*args, Any)[0])
        return lambda value, _: tuple(_all(kind, value, member))
    members = [member_of(converter, arg) for arg in args]

    def structure(value: Any, _: Any) -> Any:
        if len(value) != len(members):
            msg = f"expected a list of {len(members)}, got one of {len(value)}"
            raise TypeError(msg)
        items = _each(kind, itertools.count(), value, members)
        return tuple(items) if origin is tuple else origin(*items)

    return structure


def map_of(kind: Any, converter: cattrs.Converter, check: Check | None = None) -> Structure:
    """The hook for a dictionary of any kind, from a map; a defaultdict makes what its values are.

    Args:
        kind: the type.
        converter: has the hooks for its keys and values.
        check: is shown keys that were made of others before they are put into a dictionary.
    """
    origin, args = origin_of(kind), typing.get_args(kind)
    make: Callable[[Iterable[Any]], Any] = MAPS[origin]
    if origin is collections.Counter:
        args = (*(args or (Any,)), int)
    keys, values = (member_of(converter, arg) for arg in (args or (Any, Any)))
    if origin is collections.defaultdict:
        factory = origin_of(values.kind) if args else None
        make = functools.partial(collections.defaultdict, factory if callable(factory) else None)

    def structure(value: Any, _: Any) -> Any:
        names = value
        if keys.structure is not as_it_is:
            names = _each(kind, value, value, itertools.repeat(keys))
            if check is not None:
                check(names)
        made = zip(
            names,
            value.values()
            if values.structure is as_it_is
            else _each(kind, value, value.values(), itertools.repeat(values)),
            strict=True,
        )
        # A Counter takes pairs for things to be counted.
        return make(dict(made)) if origin is collections.Counter else make(made)

    return structure


def class_of(kind: Any, converter: cattrs.Converter) -> Structure:
    """The hook for a class, from a map; what its ``__init__`` does not take is set afterwards."""
    refuse_shared_defaults(origin_of(kind))
    if attrs.has(origin_of(kind)):
        with contextlib.suppress(NameError):  # cattrs says it better.
            attrs.resolve_types(
                origin_of(kind)
            )  # cattrs resolves no name inside of another type: list["Node"].
    build = cattrs.gen.make_dict_structure_fn(kind, converter)
    late = [name for name, init in declared(origin_of(kind)) if not init]
    if not late:
        return build
    hints = typing.get_type_hints(origin_of(kind))
    members = {name: member_of(converter, hints.get(name, Any)) for name in late}

    def structure(value: Any, target: Any) -> Any:
        instance = build(value, target)
        for name, member in members.items():
            if name in value:
                object.__setattr__(instance, name, member.structure(value[name], member.kind))
        return instance

    return structure


def unless_enum(kind: Any, structure: Structure, make_enum: Callable[[Any], Structure]) -> Structure:
    """The hook for a type such as int, which cattrs calls for subclasses too: an IntEnum is an int.

    Args:
        kind: the type.
        structure: the hook for it and for other subclasses.
        make_enum: makes the hook for a subclass that is an enum.
    """
    make = functools.cache(make_enum)

    def choose(value: Any, target: Any) -> Any:
        return (make(target) if target is not kind and is_enum(target) else structure)(value, target)

    return choose
