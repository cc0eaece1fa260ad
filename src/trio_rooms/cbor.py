"""CBOR with a bound on its nesting, for all that states, events and attachments may hold.

cbor2's encoder descends into what it is given without looking how deep it is: some thousand
levels overrun the stack and end the process. So containers are counted on the way down.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

import cbor2

from .convert import fields, is_class, plain

__all__ = ["DEPTH", "as_sent", "encode", "encode_plain"]

DEPTH: Final = 200
"""Containers in containers. Building nested classes again takes up to three calls for each of
them, and Python allows a thousand.
"""

_Encode = Callable[[cbor2.CBOREncoder, Any], None]
_Encoder = cbor2.CBOREncoder


class _Level(threading.local):
    """How deep the encoder of this thread is."""

    depth = 0


_level: Final = _Level()


def _counted(write: _Encode) -> _Encode:
    def encode(encoder: cbor2.CBOREncoder, value: Any) -> None:
        if _level.depth >= DEPTH:
            msg = f"it is nested more than {DEPTH} levels deep"
            raise ValueError(msg)
        _level.depth += 1
        write(encoder, value)
        _level.depth -= 1

    return encode


def _encode_datetime(encoder: cbor2.CBOREncoder, value: datetime.datetime) -> None:
    offset = value.utcoffset()
    if offset is None:
        msg = "a datetime without a time zone names no moment; write datetime.now(datetime.UTC)"
        raise ValueError(msg)
    # RFC 3339, which CBOR's tag 0 refers to, has no seconds in an offset.
    encoder.encode_datetime(value.astimezone(datetime.UTC) if offset.total_seconds() % 60 else value)


def _encode_other(encoder: cbor2.CBOREncoder, value: Any) -> None:
    kind = type(value)
    if isinstance(value, enum.Enum):
        encoder.encode(value.value)
    elif is_class(kind):
        # From now on the encoder knows the class, and need not search for it.
        _ENCODERS[kind] = _encode_class
        _encode_class(encoder, value)
    else:
        msg = f"CBOR has no form for {kind.__module__}.{kind.__qualname__}"
        raise TypeError(msg)


def _encode_plain(encoder: cbor2.CBOREncoder, value: Any) -> None:
    encoder.encode(plain(value))


_encode_class: Final = _counted(lambda encoder, value: encoder.encode_map(fields(value)))

_CONTAINERS: Final[dict[type, _Encode]] = {
    **dict.fromkeys((list, tuple, collections.deque, collections.UserList), _counted(_Encoder.encode_array)),
    **dict.fromkeys(
        (
            dict,
            collections.OrderedDict,
            collections.defaultdict,
            collections.Counter,
            collections.UserDict,
            collections.ChainMap,
        ),
        _counted(_Encoder.encode_map),
    ),
    cbor2.CBORTag: _counted(lambda encoder, tag: encoder.encode_semantic(tag.tag, tag.value)),
}
_ENCODERS: Final[dict[type, _Encode]] = {
    **_CONTAINERS,
    set: _counted(_Encoder.encode_set),
    frozenset: _counted(_Encoder.encode_frozenset),
    datetime.datetime: _encode_datetime,
}
_PLAIN: Final[dict[type, _Encode]] = {
    **_CONTAINERS,
    **dict.fromkeys(
        (set, frozenset, datetime.datetime, datetime.date, decimal.Decimal, uuid.UUID), _encode_plain
    ),
}


def encode(value: Any, depth: int = 0) -> bytes:
    """The CBOR of a value that this library reads again, classes as maps, tags where there are any.

    Args:
        value: what is encoded.
        depth: how many containers it is already in.

    Raises:
        TypeError, ValueError: it holds what CBOR has no form for, or is nested too deeply.
    """
    return _dump(value, _encode_other, _ENCODERS, depth)


_SCALARS: Final = frozenset((str, int, float, bool, type(None), bytes))
_FEW: Final = 4
"""Levels of nesting that most messages stay under."""


def _simple(value: Any, levels: int = _FEW) -> bool:
    """Whether cbor2 by itself writes a value as it should be, without looking at each container in it."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if not levels:
        return False
    if kind is dict:
        return all(type(key) in _SCALARS for key in value) and _all_simple(value.values(), levels - 1)
    return kind in (list, tuple) and _all_simple(value, levels - 1)


def _all_simple(values: Iterable[Any], levels: int) -> bool:
    return _SCALARS.issuperset(map(type, values)) or all(_simple(value, levels) for value in values)


def encode_plain(value: Any) -> bytes:
    """The CBOR of a value for clients, who get what JSON would say: no tags.

    Raises:
        TypeError, ValueError: it holds what has no form, or is nested too deeply.
    """
    if _simple(value):
        # Three times as fast as with encoders of our own.
        return _dump(value, None, None, 0)
    return _dump(value, _encode_plain, _PLAIN, 0)


def as_sent(value: Any) -> Any:
    """What is left of a value when it was sent to a client or came from one: plain data, and a copy.

    Raises:
        TypeError, ValueError: it holds what has no form, or is nested too deeply.
    """
    return cbor2.loads(encode_plain(value))


def _dump(value: Any, default: _Encode | None, encoders: dict[type, _Encode] | None, depth: int) -> bytes:
    _level.depth = depth
    try:
        return cbor2.dumps(value, default=default, encoders=encoders)
    except cbor2.CBOREncodeError as error:
        # cbor2's errors are ValueErrors in its stubs alone.
        raise ValueError(str(error)) from error
