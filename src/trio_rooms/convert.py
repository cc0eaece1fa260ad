"""Between typed Python and plain values: what travels in envelopes, and what lies in snapshots.

Two cattrs converters. ``wire`` is strict, for what strangers send: a ``str`` field takes a
string and nothing that could be made one. ``document`` is lenient, for what this library
wrote itself: types serve to build classes again, and what is not of its declared type comes
back as it was, because a room that cannot be loaded has lost its data.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable
from typing import Any, Final

import attrs
import cattrs
import cattrs.cols
import cattrs.gen
import cattrs.v
import cbor2

__all__ = ["describe", "document", "plain", "wire"]

wire: Final = cattrs.Converter(detailed_validation=True)
document: Final = cattrs.Converter(
    detailed_validation=True, structure_fallback_factory=lambda _: lambda value, _: value
)


def _exactly(*allowed: type) -> Callable[[Any, Any], Any]:
    wanted = " or ".join(kind.__name__ for kind in allowed)

    def structure(value: Any, _: Any) -> Any:
        # bool is an int to Python, and to nobody who sends one.
        if isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool)):
            return value
        msg = f"expected {wanted}, got {type(value).__name__}"
        raise TypeError(msg)

    return structure


def _number(value: Any, _: Any) -> float:
    return float(_exactly(float, int)(value, float))


def _bytes(value: Any, _: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(_exactly(str)(value, str), validate=True)
    except (TypeError, binascii.Error):
        msg = f"expected bytes (in JSON: a base64 string), got {type(value).__name__}"
        raise TypeError(msg) from None


def _moment(kind: type[datetime.date]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        return kind.fromisoformat(_exactly(str)(value, str))

    return structure


def _only(kind: type, name: str, structure: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    # cattrs takes any iterable for a list, so that "abc" would become ["a", "b", "c"].
    def check(value: Any, target: Any) -> Any:
        if isinstance(value, kind):
            return structure(value, target)
        msg = f"expected {name}, got {type(value).__name__}"
        raise TypeError(msg)

    return check


def _class(target: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    return _only(dict, "a map", cattrs.gen.make_dict_structure_fn(target, converter))


def _list(target: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    return _only(list, "a list", cattrs.cols.list_structure_factory(target, converter))


def _lenient(kind: type, structure: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, target: structure(value, target) if isinstance(value, kind) else value


def _lenient_class(target: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    return _lenient(dict, cattrs.gen.make_dict_structure_fn(target, converter))


def _lenient_list(target: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    return _lenient(list, cattrs.cols.list_structure_factory(target, converter))


wire.register_structure_hook_factory(attrs.has, _class)
wire.register_structure_hook_factory(cattrs.cols.is_sequence, _list)
wire.register_structure_hook(str, _exactly(str))
wire.register_structure_hook(bool, _exactly(bool))
wire.register_structure_hook(int, _exactly(int))
wire.register_structure_hook(float, _number)
wire.register_structure_hook(bytes, _bytes)
wire.register_structure_hook(datetime.datetime, _moment(datetime.datetime))
wire.register_structure_hook(datetime.date, _moment(datetime.date))
wire.register_structure_hook(decimal.Decimal, lambda value, _: decimal.Decimal(_exactly(str)(value, str)))
wire.register_structure_hook(uuid.UUID, lambda value, _: uuid.UUID(_exactly(str)(value, str)))

document.register_structure_hook_factory(attrs.has, _lenient_class)
document.register_structure_hook_factory(cattrs.cols.is_sequence, _lenient_list)
# CBOR has forms or tags for these, so a snapshot keeps them as they are.
for _native in (datetime.datetime, datetime.date, decimal.Decimal, uuid.UUID, bytes, str, bool, int, float):
    document.register_unstructure_hook(_native, lambda value: value)
    document.register_structure_hook(_native, lambda value, _: value)


def plain(value: Any) -> Any:
    """Make a value that an encoder does not know into one that it does, one level of it.

    What JSON and CBOR encoders call for what they have no form for: attrs classes and
    dataclasses become maps, sets arrays, dates, decimals and UUIDs strings, bytes (in JSON)
    base64 strings.

    Raises:
        TypeError: there is no form for it.
    """
    if attrs.has(type(value)) or hasattr(type(value), "__dataclass_fields__"):
        return wire.unstructure(value)
    match value:
        case cbor2.undefined:
            return None
        case enum.Enum():
            return value.value
        case datetime.date():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID():
            return str(value)
        case set() | frozenset():
            return list(value)
        case bytes() | bytearray():
            return base64.b64encode(value).decode("ascii")
    msg = f"a {type(value).__qualname__} cannot be sent; send strings, numbers, lists, maps or attrs classes"
    raise TypeError(msg)


def describe(error: BaseException) -> str:
    """One line for what did not fit, naming each field: ``ps[0].text: expected str, got int``."""
    found = []
    for line in cattrs.transform_error(error, path="data", format_exception=_describe_one)[:_DESCRIBED]:
        what, _, where = line.rpartition(" @ data")
        field = where.removeprefix(".")
        found.append(f"{field}: {what}" if field else what)
    return "; ".join(found)


_DESCRIBED: Final = 5
"""Faults named at most: enough to mend a client by, too few to make an answer large."""


def _describe_one(error: BaseException, kind: type | None) -> str:
    if isinstance(error, KeyError):
        return "required field missing"
    if isinstance(error, TypeError | ValueError) and error.args:
        return str(error.args[0])
    return str(cattrs.v.format_exception(error, kind))
