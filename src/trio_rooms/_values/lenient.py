"""The lenient converter, for what this library wrote itself: types serve to build classes again.

What is not of its declared type comes back as it was, because a room that cannot be loaded
has lost its data.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import math
import typing
import uuid
from typing import Any, Final

import cattrs

from .classes import is_class
from .kinds import is_enum, is_list, is_literal, is_map, is_set, is_tuple, is_union, origin_of
from .structure import Structure, as_it_is, class_of, list_of, map_of, member_of, tuple_of, unless_enum
from .unions import chooser_of, members_of

__all__ = ["document"]

document: Final = cattrs.Converter(
    detailed_validation=True, structure_fallback_factory=lambda _: lambda value, _: value
)
"""Makes typed values of what a snapshot, a storage or an attachment holds."""

_CONTAINERS: Final = frozenset((list, tuple, dict, set, frozenset))

# What containers are when they come out of CBOR. Those that are keys or members of sets must be
# hashable: arrays are tuples then, and maps immutable ones.
_ARRAY: Final = (list, tuple)
_SET: Final = (set, frozenset)
_MAP: Final = collections.abc.Mapping


def _if_it_is(form: type | tuple[type, ...], structure: Structure) -> Structure:
    """A hook that gives back what is not of one form."""
    return lambda value, target: structure(value, target) if isinstance(value, form) else value


def _class(kind: Any, converter: cattrs.Converter) -> Structure:
    return _if_it_is(_MAP, class_of(kind, converter))


def _tuple(kind: Any, converter: cattrs.Converter) -> Structure:
    """The hook for a tuple; one of another length than was declared is a tuple of what is there."""
    whole = tuple_of(kind, converter)
    arguments = typing.get_args(kind)
    fixed = None if arguments[-1:] == (...,) or not arguments else len(arguments)
    if hasattr(origin_of(kind), "_fields"):
        fixed = len(origin_of(kind)._fields)

    def structure(value: Any, target: Any) -> Any:
        return whole(value, target) if fixed is None or len(value) == fixed else tuple(value)

    return _if_it_is(_ARRAY, structure)


def _list(kind: Any, converter: cattrs.Converter) -> Structure:
    return _if_it_is(_ARRAY, list_of(kind, converter))


def _set(kind: Any, converter: cattrs.Converter) -> Structure:
    return _if_it_is(_SET, list_of(kind, converter))


def _map(kind: Any, converter: cattrs.Converter) -> Structure:
    return _if_it_is(_MAP, map_of(kind, converter))


def _typed_dict(kind: Any, converter: cattrs.Converter) -> Structure:
    """The hook for a TypedDict; keys that are missing or not declared stay as they are."""
    members = {name: member_of(converter, hint) for name, hint in typing.get_type_hints(kind).items()}

    def structure(value: Any, _: Any) -> Any:
        made = dict(value)
        for name, member in members.items():
            if name in made:
                made[name] = member.structure(made[name], member.kind)
        return made

    return _if_it_is(_MAP, structure)


def _enum(kind: Any) -> Structure:
    """The hook for an enum; a value that it has no member for comes back."""

    def structure(value: Any, _: Any) -> Any:
        try:
            return kind(value)
        except Exception:  # noqa: BLE001 (its own _missing_ may raise anything)
            return value

    return structure


def _literal(kind: Any) -> Structure:
    """The hook for a Literal: of its members only those of enums are stored otherwise than they are."""
    members = [arg for arg in typing.get_args(kind) if isinstance(arg, enum.Enum)]
    return lambda value, _: next((member for member in members if member.value == value), value)


def _decimal(value: Any, _: Any) -> Any:
    # CBOR has one form for the infinities and NaN of both kinds of number.
    return decimal.Decimal(value) if isinstance(value, float) and not math.isfinite(value) else value


def _union(kind: Any, converter: cattrs.Converter) -> Structure:
    """The hook for a union.

    A map becomes the class that it fits best. Any other value stays if its very type is in the
    union; else a container becomes the first member that is stored like it, and a scalar the
    first enum that has it.
    """
    choose = chooser_of(kind, converter)
    others = [member_of(converter, member) for member in members_of(kind) if not is_class(member)]
    exact = {member.kind for member in others if isinstance(member.kind, type)}
    enums = [member for member in others if is_enum(member.kind)]
    containers = [member for member in others if _stored_as(member.kind) is not None]

    def structure(value: Any, _: Any) -> Any:
        chosen = choose(value)
        if chosen is None and type(value) not in exact - _CONTAINERS:
            for member in containers:
                if isinstance(value, _stored_as(member.kind) or ()):
                    return member.structure(value, member.kind)
            for member in enums:
                made = member.structure(value, member.kind)
                if made is not value:
                    return made
        return value if chosen is None else chosen.structure(value, chosen.kind)

    return structure


def _stored_as(kind: Any) -> type | tuple[type, ...] | None:
    """As what a container comes out of a document; None for what is none."""
    if is_tuple(kind) or is_list(kind):
        return _ARRAY
    if is_set(kind):
        return _SET
    if is_map(kind) or typing.is_typeddict(kind):
        return _MAP
    return None


# Of two factories that take a type, cattrs asks the one that was registered later.
document.register_structure_hook_factory(is_class, _class)
document.register_structure_hook_factory(is_tuple, _tuple)
document.register_structure_hook_factory(is_list, _list)
document.register_structure_hook_factory(is_set, _set)
document.register_structure_hook_factory(is_map, _map)
document.register_structure_hook_factory(typing.is_typeddict, _typed_dict)
document.register_structure_hook_factory(is_union, _union)
document.register_structure_hook_factory(is_literal, _literal)
document.register_structure_hook_factory(is_enum, _enum)
document.register_structure_hook_func(lambda kind: kind is object, as_it_is)
# CBOR has forms or tags for these, so a snapshot keeps them as they are.
for _type in (datetime.datetime, datetime.date, uuid.UUID, bytes, str, bool, int, float):
    document.register_structure_hook(_type, unless_enum(_type, as_it_is, _enum))
document.register_structure_hook(decimal.Decimal, _decimal)
document.register_structure_hook(bytearray, _if_it_is(bytes, lambda value, _: bytearray(value)))
