"""Between typed Python and plain values: what travels in envelopes, and what lies in snapshots.

Two cattrs converters. ``wire`` is strict, for what strangers send: a ``str`` field takes a
string and nothing that could be made one. ``document`` is lenient, for what this library
wrote itself: types serve to build classes again, and what is not of its declared type comes
back as it was, because a room that cannot be loaded has lost its data.

The other way, a value goes by what it is and not by what was declared: `fields` and `plain`.
"""

from __future__ import annotations

import base64
import collections
import collections.abc
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import math
import operator
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
import cattrs
import cattrs.gen
import cattrs.gen.typeddicts
import cattrs.v
import cbor2

__all__ = ["describe", "document", "fields", "is_class", "plain", "wire"]

Structure = Callable[[Any, Any], Any]
"""What cattrs calls a structure hook: takes the value and the type that is wanted."""

wire: Final = cattrs.Converter(detailed_validation=True)
document: Final = cattrs.Converter(
    detailed_validation=True, structure_fallback_factory=lambda _: lambda value, _: value
)

_DESCRIBED: Final = 5
"""Faults named at most: enough to mend a client by, too few to make an answer large."""
_LINE: Final = 200
"""Characters of one of them at most, since what does not fit may be as large as a message."""

_LISTS: Final[Mapping[Any, type]] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.deque: collections.deque,
}
_SETS: Final[Mapping[Any, type]] = {
    set: set,
    frozenset: frozenset,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}
_MAPS: Final[Mapping[Any, type]] = {
    dict: dict,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
    collections.OrderedDict: collections.OrderedDict,
    collections.defaultdict: collections.defaultdict,
    collections.Counter: collections.Counter,
}
_ANYTHING: Final = (Any, object)


# What a type is.


def is_class(kind: Any) -> bool:
    """Whether a type is an attrs class or a dataclass."""
    origin = _origin(kind)
    return isinstance(origin, type) and (attrs.has(origin) or dataclasses.is_dataclass(origin))


def _origin(kind: Any) -> Any:
    return typing.get_origin(kind) or kind


def _is_kind_of(kinds: Mapping[Any, type]) -> Callable[[Any], bool]:
    return lambda kind: isinstance(_origin(kind), collections.abc.Hashable) and _origin(kind) in kinds


def _is_tuple(kind: Any) -> bool:
    origin = _origin(kind)
    return isinstance(origin, type) and issubclass(origin, tuple)


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _named(kind: Any) -> str:
    if is_class(kind):
        return "a map"
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _as_it_is(value: Any, _: Any) -> Any:
    return value


@attrs.frozen
class _Member:
    """What an element, a key or a value is to become."""

    structure: Structure
    kind: Any


def _member(converter: cattrs.Converter, kind: Any) -> _Member:
    return _Member(_as_it_is if kind in _ANYTHING else converter.get_structure_hook(kind), kind)


def _each(kind: Any, indices: Iterable[Any], values: Iterable[Any], members: Iterable[_Member]) -> list[Any]:
    """Structure each value; of those that do not fit, a few are enough to know."""
    result: list[Any] = []
    errors: list[Exception] = []
    for index, value, member in zip(indices, values, members, strict=False):
        try:
            result.append(member.structure(value, member.kind))
        except Exception as error:  # noqa: BLE001 (it is raised again below, with its place)
            error.add_note(cattrs.IterableValidationNote(f"@ index {index!r}", index, member.kind))
            errors.append(error)
            if len(errors) == _DESCRIBED:
                break
    if errors:
        raise cattrs.IterableValidationError(f"While structuring {kind}", errors, kind)
    return result


def _every(kind: Any, values: Any, member: _Member) -> Iterable[Any]:
    if member.structure is _as_it_is:
        return values  # type: ignore[no-any-return]
    return _each(kind, itertools.count(), values, itertools.repeat(member))


def _list_of(kind: Any, converter: cattrs.Converter, kinds: Mapping[Any, type]) -> Structure:
    make = kinds[_origin(kind)]
    member = _member(converter, (*typing.get_args(kind), Any)[0])
    return lambda value, _: make(_every(kind, value, member))


def _tuple_of(kind: Any, converter: cattrs.Converter) -> Structure:
    origin, args = _origin(kind), typing.get_args(kind)
    if hasattr(origin, "_fields"):
        hints = typing.get_type_hints(origin)
        args = tuple(hints.get(name, Any) for name in origin._fields)
    elif not args or args[-1] is ...:
        member = _member(converter, (*args, Any)[0])
        return lambda value, _: tuple(_every(kind, value, member))
    members = [_member(converter, arg) for arg in args]

    def structure(value: Any, _: Any) -> Any:
        if len(value) != len(members):
            msg = f"expected a list of {len(members)}, got one of {len(value)}"
            raise TypeError(msg)
        items = _each(kind, itertools.count(), value, members)
        return tuple(items) if origin is tuple else origin(*items)

    return structure


def _map_of(kind: Any, converter: cattrs.Converter) -> Structure:
    origin, args = _origin(kind), typing.get_args(kind)
    make: Callable[[Iterable[Any]], Any] = _MAPS[origin]
    if origin is collections.Counter:
        args = (*(args or (Any,)), int)
    keys, values = (_member(converter, arg) for arg in (args or (Any, Any)))
    if origin is collections.defaultdict:
        factory = _origin(values.kind) if args else None
        make = functools.partial(collections.defaultdict, factory if callable(factory) else None)

    def structure(value: Any, _: Any) -> Any:
        made = zip(
            value if keys.structure is _as_it_is else _each(kind, value, value, itertools.repeat(keys)),
            value.values()
            if values.structure is _as_it_is
            else _each(kind, value, value.values(), itertools.repeat(values)),
            strict=True,
        )
        # A Counter takes pairs for things to be counted.
        return make(dict(made)) if origin is collections.Counter else make(made)

    return structure


def _class_of(kind: Any, converter: cattrs.Converter) -> Structure:
    """A class from a map, with what its ``__init__`` does not take set afterwards."""
    build = cattrs.gen.make_dict_structure_fn(kind, converter)
    late = [name for name, init in _field_names(_origin(kind)) if not init]
    if not late:
        return build
    hints = typing.get_type_hints(_origin(kind))
    members = {name: _member(converter, hints.get(name, Any)) for name in late}

    def structure(value: Any, target: Any) -> Any:
        instance = build(value, target)
        for name, member in members.items():
            if name in value:
                object.__setattr__(instance, name, member.structure(value[name], member.kind))
        return instance

    return structure


# Unions.


def _best(classes: list[Any]) -> Callable[[Mapping[Any, Any]], Any]:
    """Which of some classes a map is: by their Literal fields, then by the names of their fields."""
    names = {kind: {name for name, _ in _field_names(_origin(kind))} for kind in classes}
    hints = {kind: typing.get_type_hints(_origin(kind)) for kind in classes}
    literals = {
        kind: {name: typing.get_args(hint) for name, hint in hints[kind].items() if _is_literal(hint)}
        for kind in classes
    }
    for one, other in itertools.combinations(classes, 2):
        told_apart = any(
            not set(allowed) & set(literals[other][name])
            for name, allowed in literals[one].items()
            if name in literals[other]
        )
        if names[one] == names[other] and not told_apart:
            msg = (
                f"{one.__qualname__} and {other.__qualname__} have the same fields; tell them apart "
                f'by one more, such as kind: Literal["{one.__name__.lower()}"]'
            )
            raise TypeError(msg)

    def best(value: Mapping[Any, Any]) -> Any:
        def misfit(kind: Any) -> tuple[int, int]:
            wrong = sum(value.get(name) not in allowed for name, allowed in literals[kind].items())
            return wrong, len(names[kind] ^ value.keys())

        return min(classes, key=misfit)

    return best


def _union(kind: Any, converter: cattrs.Converter) -> tuple[list[Any], Callable[[Any], _Member | None]]:
    """The members of a union, and which of its classes a map is."""
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    classes = [member for member in members if is_class(member)]
    best = _best(classes) if len(classes) > 1 else lambda _: classes[0]
    made = {member: _member(converter, member) for member in classes}

    def choose(value: Any) -> _Member | None:
        return made[best(value)] if classes and isinstance(value, collections.abc.Mapping) else None

    return members, choose


def _wire_union(kind: Any, converter: cattrs.Converter) -> Structure:
    members, choose = _union(kind, converter)
    optional = type(None) in typing.get_args(kind)
    others = [_member(converter, member) for member in members if not is_class(member)]
    only = _member(converter, members[0]) if len(members) == 1 else None
    wanted = " or ".join(dict.fromkeys(_named(member) for member in members))

    def structure(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        chosen = only or choose(value)
        for member in others:
            if type(value) is member.kind:
                chosen = member
        if chosen is not None:
            return chosen.structure(value, chosen.kind)
        for member in others:
            with contextlib.suppress(Exception):
                return member.structure(value, member.kind)
        msg = f"expected {wanted}, got {_kind(value)}"
        raise TypeError(msg)

    return structure


def _document_union(kind: Any, converter: cattrs.Converter) -> Structure:
    members, choose = _union(kind, converter)
    others = [_member(converter, member) for member in members if not is_class(member)]
    exact = {member.kind for member in others if isinstance(member.kind, type)}
    enums = [member for member in others if _is_enum(member.kind)]
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


_CONTAINERS: Final = frozenset((list, tuple, dict, set, frozenset))


def _stored_as(kind: Any) -> type | tuple[type, ...] | None:
    """As what a container comes out of a document; None for what is none."""
    if _is_tuple(kind) or _is_kind_of(_LISTS)(kind):
        # Arrays that are keys or members of sets are decoded as tuples.
        return (list, tuple)
    if _is_kind_of(_SETS)(kind):
        return (set, frozenset)
    if _is_kind_of(_MAPS)(kind) or typing.is_typeddict(kind):
        return collections.abc.Mapping
    return None


# The strict converter.


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a map"
    return "a list" if isinstance(value, list) else type(value).__name__


def _exactly(*allowed: type) -> Structure:
    wanted = " or ".join(kind.__name__ for kind in allowed)

    def structure(value: Any, _: Any) -> Any:
        # bool is an int to Python, and to nobody who sends one.
        if isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool)):
            return value
        msg = f"expected {wanted}, got {_kind(value)}"
        raise TypeError(msg)

    return structure


def _number(value: Any, _: Any) -> float:
    try:
        return float(_exactly(float, int)(value, float))
    except OverflowError:
        msg = "expected float, got an int that is too large for one"
        raise TypeError(msg) from None


def _bytes(value: Any, _: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(_exactly(str)(value, str), validate=True)
    except (TypeError, ValueError):
        msg = f"expected bytes (in JSON: a base64 string), got {_kind(value)}"
        raise TypeError(msg) from None


def _written(read: Callable[[str], Any], name: str) -> Structure:
    def structure(value: Any, _: Any) -> Any:
        try:
            return read(_exactly(str)(value, str))
        except (ValueError, ArithmeticError):
            msg = f"expected {name}, got another string"
            raise TypeError(msg) from None
        except TypeError:
            msg = f"expected {name}, got {_kind(value)}"
            raise TypeError(msg) from None

    return structure


def _only(form: type | tuple[type, ...], name: str, structure: Structure) -> Structure:
    # "abc" is iterable too, and would become ["a", "b", "c"].
    def check(value: Any, target: Any) -> Any:
        if isinstance(value, form):
            return structure(value, target)
        msg = f"expected {name}, got {_kind(value)}"
        raise TypeError(msg)

    return check


def _one_of(values: Iterable[Any], find: Callable[[Any], Any]) -> Structure:
    wanted = ", ".join(repr(value) for value in values)

    def structure(value: Any, _: Any) -> Any:
        try:
            return find(value)
        except LookupError:
            msg = f"expected one of {wanted}"
            raise TypeError(msg) from None

    return structure


def _wire_choice(members: Mapping[Any, Any]) -> Structure:
    # The type counts: True == 1 == 1.0.
    found = {(type(value), value): member for value, member in members.items()}

    def find(value: Any) -> Any:
        if not isinstance(value, collections.abc.Hashable):
            raise KeyError
        return found[type(value), value]

    return _one_of(members, find)


def _wire_enum(kind: Any, _: cattrs.Converter) -> Structure:
    return _wire_choice({member.value: member for member in kind})


def _wire_literal(kind: Any, _: cattrs.Converter) -> Structure:
    allowed = typing.get_args(kind)
    return _wire_choice({arg.value if isinstance(arg, enum.Enum) else arg: arg for arg in allowed})


def _wire_typed_dict(kind: Any, converter: cattrs.Converter) -> Structure:
    return _only(dict, "a map", cattrs.gen.typeddicts.make_dict_structure_fn(kind, converter))


def _factory(
    form: type | tuple[type, ...], name: str, make: Callable[[Any, cattrs.Converter], Structure]
) -> Callable[[Any, cattrs.Converter], Structure]:
    return lambda kind, converter: _only(form, name, make(kind, converter))


def _proper(
    kind: Any, structure: Structure, make_enum: Callable[[Any, cattrs.Converter], Structure]
) -> Structure:
    """A hook for a type, which cattrs calls for its subclasses too: an IntEnum is an int."""
    cached = functools.cache(lambda target: make_enum(target, wire))

    def check(value: Any, target: Any) -> Any:
        return (cached(target) if target is not kind and _is_enum(target) else structure)(value, target)

    return check


wire.register_structure_hook_factory(is_class, _factory(dict, "a map", _class_of))
wire.register_structure_hook_factory(_is_tuple, _factory(list, "a list", _tuple_of))
wire.register_structure_hook_factory(
    _is_kind_of(_LISTS), _factory(list, "a list", functools.partial(_list_of, kinds=_LISTS))
)
wire.register_structure_hook_factory(
    _is_kind_of(_SETS), _factory(list, "a list", functools.partial(_list_of, kinds=_SETS))
)
wire.register_structure_hook_factory(_is_kind_of(_MAPS), _factory(dict, "a map", _map_of))
wire.register_structure_hook_factory(typing.is_typeddict, _wire_typed_dict)
wire.register_structure_hook_factory(_is_union, _wire_union)
wire.register_structure_hook_factory(_is_literal, _wire_literal)
wire.register_structure_hook_factory(_is_enum, _wire_enum)
for _type, _structure in (
    (str, _exactly(str)),
    (bool, _exactly(bool)),
    (int, _exactly(int)),
    (float, _number),
    (bytes, _bytes),
    (datetime.datetime, _written(datetime.datetime.fromisoformat, "a date and time as ISO 8601 writes it")),
    (datetime.date, _written(datetime.date.fromisoformat, "a date as ISO 8601 writes it")),
    (decimal.Decimal, _written(decimal.Decimal, "a decimal number in a string")),
    (uuid.UUID, _written(uuid.UUID, "a UUID in a string")),
):
    wire.register_structure_hook(_type, _proper(_type, _structure, _wire_enum))


wire.register_structure_hook_func(lambda kind: kind is object, _as_it_is)


# The lenient converter.


def _lenient(form: type | tuple[type, ...], structure: Structure) -> Structure:
    return lambda value, target: structure(value, target) if isinstance(value, form) else value


def _document_class(kind: Any, converter: cattrs.Converter) -> Structure:
    # A class that is a member of a set is decoded as an immutable map.
    return _lenient(collections.abc.Mapping, _class_of(kind, converter))


def _document_tuple(kind: Any, converter: cattrs.Converter) -> Structure:
    whole = _tuple_of(kind, converter)
    arguments = typing.get_args(kind)
    fixed = None if arguments[-1:] == (...,) or not arguments else len(arguments)
    if hasattr(_origin(kind), "_fields"):
        fixed = len(_origin(kind)._fields)

    def structure(value: Any, target: Any) -> Any:
        return whole(value, target) if fixed is None or len(value) == fixed else tuple(value)

    return _lenient((list, tuple), structure)


def _document_list(kind: Any, converter: cattrs.Converter) -> Structure:
    return _lenient((list, tuple), _list_of(kind, converter, _LISTS))


def _document_set(kind: Any, converter: cattrs.Converter) -> Structure:
    return _lenient((set, frozenset), _list_of(kind, converter, _SETS))


def _document_map(kind: Any, converter: cattrs.Converter) -> Structure:
    return _lenient(collections.abc.Mapping, _map_of(kind, converter))


def _document_typed_dict(kind: Any, converter: cattrs.Converter) -> Structure:
    members = {name: _member(converter, hint) for name, hint in typing.get_type_hints(kind).items()}

    def structure(value: Any, _: Any) -> Any:
        made = dict(value)
        for name, member in members.items():
            if name in made:
                made[name] = member.structure(made[name], member.kind)
        return made

    return _lenient(collections.abc.Mapping, structure)


def _document_enum(kind: Any, _: cattrs.Converter) -> Structure:
    def structure(value: Any, _: Any) -> Any:
        try:
            return kind(value)
        except Exception:  # noqa: BLE001 (its own _missing_ may raise anything)
            return value

    return structure


def _document_literal(kind: Any, _: cattrs.Converter) -> Structure:
    members = [arg for arg in typing.get_args(kind) if isinstance(arg, enum.Enum)]
    return lambda value, _: next((member for member in members if member.value == value), value)


def _document_decimal(value: Any, _: Any) -> Any:
    # CBOR has one form for the infinities and NaN of both kinds of number.
    return decimal.Decimal(value) if isinstance(value, float) and not math.isfinite(value) else value


document.register_structure_hook_factory(is_class, _document_class)
document.register_structure_hook_factory(_is_tuple, _document_tuple)
document.register_structure_hook_factory(_is_kind_of(_LISTS), _document_list)
document.register_structure_hook_factory(_is_kind_of(_SETS), _document_set)
document.register_structure_hook_factory(_is_kind_of(_MAPS), _document_map)
document.register_structure_hook_factory(typing.is_typeddict, _document_typed_dict)
document.register_structure_hook_factory(_is_union, _document_union)
document.register_structure_hook_factory(_is_literal, _document_literal)
document.register_structure_hook_factory(_is_enum, _document_enum)
document.register_structure_hook_func(lambda kind: kind is object, _as_it_is)
# CBOR has forms or tags for these, so a snapshot keeps them as they are.
for _type in (datetime.datetime, datetime.date, uuid.UUID, bytes, str, bool, int, float):
    document.register_structure_hook(_type, _proper(_type, _as_it_is, _document_enum))
document.register_structure_hook(decimal.Decimal, _document_decimal)
document.register_structure_hook(bytearray, _lenient(bytes, lambda value, _: bytearray(value)))


# From Python to plain values: by what a value is, whatever was declared.


@functools.cache
def _field_names(kind: Any) -> tuple[tuple[str, bool], ...]:
    """The names of a class's fields, and whether its ``__init__`` takes them."""
    if attrs.has(kind):
        return tuple((field.name, field.init) for field in attrs.fields(kind))
    return tuple((field.name, field.init) for field in dataclasses.fields(kind))


@functools.cache
def _reader(kind: Any) -> tuple[list[str], Callable[[Any], tuple[Any, ...]]]:
    """The names of a class's fields, and what reads all of them from an instance."""
    names = [name for name, _ in _field_names(kind)]
    if len(names) < 2:  # For one, attrgetter gives the value and no tuple.
        return names, lambda value: tuple(getattr(value, name) for name in names)
    return names, operator.attrgetter(*names)


def fields(value: Any) -> dict[str, Any]:
    """The fields of an attrs class's or dataclass's instance as they are; one never set is left out."""
    kind: Any = type(value)
    names, read = _reader(kind)
    try:
        return dict(zip(names, read(value), strict=True))
    except AttributeError:
        return {name: getattr(value, name) for name in names if hasattr(value, name)}


wire.register_unstructure_hook_factory(
    is_class,
    lambda _: lambda value: {name: wire.unstructure(inner) for name, inner in fields(value).items()},
)


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
    msg = f"a {type(value).__qualname__} cannot be sent; send strings, numbers, lists, maps or attrs classes"
    raise TypeError(msg)


def describe(error: BaseException) -> str:
    """One line for what did not fit, naming each field: ``ps[0].text: expected str, got int``."""
    found = []
    for line in cattrs.transform_error(error, path="data", format_exception=_describe_one)[:_DESCRIBED]:
        what, _, where = line.rpartition(" @ data")
        field = _short(where.removeprefix("."))
        found.append(f"{field}: {_short(what)}" if field else _short(what))
    return "; ".join(found)


def _short(text: str) -> str:
    return text if len(text) <= _LINE else f"{text[: _LINE - 3]}..."


def _describe_one(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return "required field missing"
    if isinstance(error, TypeError | ValueError) and error.args:
        return str(error.args[0])
    return str(cattrs.v.format_exception(error, kind))
