"""The strict converter, for what strangers send: what is not of its declared type is refused.

Nothing is coerced: a ``str`` field takes a string, and nothing that could be made one. What
JSON has no form for is taken from the string that `plain` makes of it.
"""

from __future__ import annotations

import base64
import collections
import collections.abc
import contextlib
import datetime
import decimal
import enum
import threading
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import cattrs
import cattrs.gen.typeddicts

from .classes import is_class
from .kinds import is_enum, is_list, is_literal, is_map, is_set, is_tuple, is_union
from .misfits import name_of_type, name_of_value
from .structure import (
    Structure,
    as_it_is,
    class_of,
    list_of,
    map_of,
    member_of,
    set_of,
    tuple_of,
    unless_enum,
)
from .unions import chooser_of, members_of

__all__ = ["wire"]

_DIGITS: Final = 4300
"""Characters of a decimal number at most; the same as for integers, see `sys.int_info`."""
_HASHED: Final = 10_000
"""Elements of a set, or keys of a map, at most, where their hashes are not secret; see `_check_hashes`."""
_ALIKE: Final = 32
"""How many of them may have one hash."""

wire: Final = cattrs.Converter(detailed_validation=True)
"""Makes typed values of a client's data. What it raises, `misfits.describe` tells the client."""


# Scalars.


def _exactly(*allowed: type) -> Structure:
    """The hook for a value that is of one of some types already."""
    wanted = " or ".join(kind.__name__ for kind in allowed)

    def structure(value: Any, _: Any) -> Any:
        # bool is an int to Python, and to nobody who sends one.
        if isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool)):
            return value
        msg = f"expected {wanted}, got {name_of_value(value)}"
        raise TypeError(msg)

    return structure


def _float(value: Any, _: Any) -> float:
    """An int will do for a float: JSON does not tell them apart."""
    try:
        return float(_exactly(float, int)(value, float))
    except OverflowError:
        msg = "expected float, got an int that is too large for one"
        raise TypeError(msg) from None


def _bytes(value: Any, _: Any) -> bytes:
    """Bytes are themselves in CBOR, and base64 in JSON."""
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(_exactly(str)(value, str), validate=True)
    except (TypeError, ValueError):
        msg = f"expected bytes (in JSON: a base64 string), got {name_of_value(value)}"
        raise TypeError(msg) from None


def _from_string(read: Callable[[str], Any], name: str) -> Structure:
    """The hook for what is sent as a string.

    Args:
        read: makes the value of the string, or raises.
        name: what is wanted, in words.
    """

    def structure(value: Any, _: Any) -> Any:
        try:
            return read(_exactly(str)(value, str))
        except (ValueError, ArithmeticError):
            msg = f"expected {name}, got another string"
            raise TypeError(msg) from None
        except TypeError:
            msg = f"expected {name}, got {name_of_value(value)}"
            raise TypeError(msg) from None

    return structure


def _moment(text: str) -> datetime.datetime:
    """A date and time, which can be written again as RFC 3339 writes it: without seconds in its offset."""
    moment = datetime.datetime.fromisoformat(text)
    offset = moment.utcoffset()
    if offset is not None and offset % datetime.timedelta(minutes=1):
        raise ValueError
    return moment


def _decimal(text: str) -> decimal.Decimal:
    """A decimal number that is not so long that to write it takes for ever: that grows with the square."""
    if len(text) > _DIGITS:
        raise ValueError
    return decimal.Decimal(text)


def _one_of(members: Mapping[Any, Any]) -> Structure:
    """The hook for one of some values; by what is sent, what is meant."""
    # The type counts: True == 1 == 1.0.
    found = {(type(value), value): member for value, member in members.items()}
    wanted = ", ".join(repr(value) for value in members)

    def structure(value: Any, _: Any) -> Any:
        try:
            if isinstance(value, collections.abc.Hashable):
                return found[type(value), value]
        except LookupError:
            pass
        msg = f"expected one of {wanted}"
        raise TypeError(msg)

    return structure


def _enum(kind: Any) -> Structure:
    return _one_of({member.value: member for member in kind})


def _literal(kind: Any) -> Structure:
    allowed = typing.get_args(kind)
    return _one_of({arg.value if isinstance(arg, enum.Enum) else arg: arg for arg in allowed})


# Containers.


def _only(form: type, name: str, structure: Structure) -> Structure:
    """A hook that refuses what is not of one form: "abc" is iterable too, and would be a list of three."""

    def check(value: Any, target: Any) -> Any:
        if isinstance(value, form):
            return structure(value, target)
        msg = f"expected {name}, got {name_of_value(value)}"
        raise TypeError(msg)

    return check


def _class(kind: Any, converter: cattrs.Converter) -> Structure:
    return _only(dict, "a map", class_of(kind, converter))


def _tuple(kind: Any, converter: cattrs.Converter) -> Structure:
    return _only(list, "a list", tuple_of(kind, converter))


def _list(kind: Any, converter: cattrs.Converter) -> Structure:
    return _only(list, "a list", list_of(kind, converter))


def _set(kind: Any, converter: cattrs.Converter) -> Structure:
    element = (*typing.get_args(kind), Any)[0]
    return _only(
        list,
        "a list",
        list_of(kind, converter) if _is_safe(element) else set_of(kind, converter, _check_hashes),
    )


def _map(kind: Any, converter: cattrs.Converter) -> Structure:
    key = (*typing.get_args(kind), Any)[0]
    return _only(dict, "a map", map_of(kind, converter, None if _is_safe(key) else _check_hashes))


def _is_safe(kind: Any) -> bool:
    """Whether nobody can choose many values of a type that a hash table has in one place."""
    return kind in (str, bytes) or is_enum(kind) or is_literal(kind)


def _check_hashes(values: Iterable[Any]) -> None:
    """Refuse values whose hashes were chosen so that a hash table of them takes for ever.

    Only strings are hashed with a secret. Numbers, UUIDs and what consists of them can be chosen so that
    all have one hash, and each is compared with all before it; or so that a table puts all behind one
    another, which is cheaper for each and still grows with the square.
    """
    # Counted by strings, because a table of chosen numbers is just what is to be avoided.
    counts = collections.Counter(map(str, map(hash, values)))
    if counts.total() > _HASHED:
        msg = f"expected at most {_HASHED} elements"
        raise TypeError(msg)
    if counts and max(counts.values()) > _ALIKE:
        msg = f"expected different elements; more than {_ALIKE} are equal or have the same hash"
        raise TypeError(msg)


def _typed_dict(kind: Any, converter: cattrs.Converter) -> Structure:
    return _only(dict, "a map", cattrs.gen.typeddicts.make_dict_structure_fn(kind, converter))


def _union(kind: Any, converter: cattrs.Converter) -> Structure:
    """The hook for a union.

    A value becomes the member whose very type it has; else, if it is a map, the class that it
    fits best; else the first member that it fits.

    What became of a list or a map is remembered until the whole value is done. Else one that is in
    a union of lists, in a union of lists and so on would be read twice as often with each level.
    """
    members = members_of(kind)
    choose = chooser_of(kind, converter)
    optional = type(None) in typing.get_args(kind)
    others = [member_of(converter, member) for member in members if not is_class(member)]
    only = member_of(converter, members[0]) if len(members) == 1 else None
    wanted = " or ".join(dict.fromkeys(name_of_type(member) for member in members))

    def structure(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        chosen = only or choose(value)
        for member in others:
            if type(value) is member.kind:
                chosen = member
        if chosen is not None:
            return chosen.structure(value, chosen.kind)
        made = first(value) if isinstance(value, str) else _remembered(first, value)
        if made is _NOTHING:
            msg = f"expected {wanted}, got {name_of_value(value)}"
            raise TypeError(msg)
        return made

    def first(value: Any) -> Any:
        """What the first member that a value fits makes of it."""
        for member in others:
            with contextlib.suppress(Exception):
                return member.structure(value, member.kind)
        return _NOTHING

    return structure


_NOTHING: Final = object()
"""What a value becomes that does not fit."""


class _Attempts(threading.local):
    """What became of values that were tried as unions, while this thread converts a value that has them."""

    made: dict[tuple[object, int], Any] | None = None


_attempts: Final = _Attempts()


def _remembered(first: Callable[[Any], Any], value: Any) -> Any:
    """What a union makes of a value, or has made of it before in the same conversion."""
    made = _attempts.made
    if made is None:
        _attempts.made = {}
        try:
            return first(value)
        finally:
            _attempts.made = None
    key = first, id(value)  # It is part of a value that somebody holds, so no other has this id.
    if key not in made:
        made[key] = first(value)
    return made[key]


_SCALARS: Final[Iterable[tuple[type, Structure]]] = (
    (str, _exactly(str)),
    (bool, _exactly(bool)),
    (int, _exactly(int)),
    (float, _float),
    (bytes, _bytes),
    (
        datetime.datetime,
        _from_string(_moment, "a date and time as ISO 8601 writes it"),
    ),
    (datetime.date, _from_string(datetime.date.fromisoformat, "a date as ISO 8601 writes it")),
    (decimal.Decimal, _from_string(_decimal, "a decimal number in a string")),
    (uuid.UUID, _from_string(uuid.UUID, "a UUID in a string")),
)

# Of two factories that take a type, cattrs asks the one that was registered later.
wire.register_structure_hook_factory(is_class, _class)
wire.register_structure_hook_factory(is_tuple, _tuple)
wire.register_structure_hook_factory(is_list, _list)
wire.register_structure_hook_factory(is_set, _set)
wire.register_structure_hook_factory(is_map, _map)
wire.register_structure_hook_factory(typing.is_typeddict, _typed_dict)
wire.register_structure_hook_factory(is_union, _union)
wire.register_structure_hook_factory(is_literal, _literal)
wire.register_structure_hook_factory(is_enum, _enum)
for _type, _structure in _SCALARS:
    wire.register_structure_hook(_type, unless_enum(_type, _structure, _enum))
wire.register_structure_hook_func(lambda kind: kind is object, as_it_is)
