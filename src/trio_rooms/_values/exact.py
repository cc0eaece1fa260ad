"""CBOR that is read again as it was: what a state holds where nothing declares what it is.

CBOR has one array and one map for all of Python's containers. So those that are no list, dict or
set have a tag here, by which they are made again. What would come back as something else is refused.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, Final

import cbor2

from .cbor import KNOWN, PLAIN, Form, Forms, frozen, inside, moment, no_form, set_of
from .classes import is_class

__all__ = [
    "decode_exact",
    "decoder",
    "exact",
    "exact_decimal",
    "exact_deque",
    "exact_key",
    "exact_moment",
    "exact_set",
    "exact_tuple",
]

_TUPLE: Final = 60257
_FROZEN_SET: Final = 60258
_DEQUE: Final = 60259
"""The tag of a deque: how long it may be or null, and its elements."""
_DECIMAL: Final = 60260
"""The tag of a decimal number that CBOR's own form would change, in a string."""
_ZONED: Final = 60261
"""The tag of a point in time by the clock of a place: without an offset as ISO 8601 writes it, the
place's name or an offset in seconds, and which of two times it is where the clock was put back."""
_ALIKE: Final = frozenset(
    (
        datetime.date,
        uuid.UUID,
        fractions.Fraction,
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        type(cbor2.undefined),
        cbor2.CBORSimpleValue,
    )
)
"""What cbor2 writes and reads again as it was."""


def exact_tuple(items: list[Any]) -> cbor2.CBORTag:
    """The form of a tuple where nothing says that it is one."""
    return cbor2.CBORTag(_TUPLE, items)


def exact_set(value: Iterable[Any], *, immutable: bool = False) -> cbor2.CBORTag:
    """The form of a set of plain members; ``immutable`` where nothing else says whether it is."""
    return cbor2.CBORTag(_FROZEN_SET, list(value)) if immutable else set_of(value)


def exact_deque(maxlen: int | None, items: list[Any]) -> cbor2.CBORTag:
    """The form of a deque that has a greatest length, or of which nothing says that it is one."""
    return cbor2.CBORTag(_DEQUE, [maxlen, items])


def exact_moment(value: datetime.datetime) -> Any:
    """The form of a point in time, with its zone.

    Raises:
        ValueError: it has no zone, or one that has no name.
    """
    zone = value.tzinfo
    if (zone is None or zone is datetime.UTC) and not value.fold:
        return moment(value, 0)
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return _clock(value, zone.key)
    offset = value.utcoffset()
    if offset is None:
        return moment(value, 0)
    if type(zone) is not datetime.timezone or zone.tzname(None) != datetime.timezone(offset).tzname(None):
        msg = f"a datetime with the time zone {zone!r} would come back with another; use zoneinfo.ZoneInfo"
        raise ValueError(msg)
    if value.fold or offset.total_seconds() % 60:  # RFC 3339 has no seconds in an offset.
        return _clock(value, offset.total_seconds())
    return moment(value, 0)


def _clock(value: datetime.datetime, place: str | float) -> cbor2.CBORTag:
    """The form of a point in time that RFC 3339 would change."""
    return cbor2.CBORTag(_ZONED, [value.replace(tzinfo=None).isoformat(), place, value.fold])


def _zoned(content: Any, _: bool) -> datetime.datetime:
    text, place, fold = content
    zone: datetime.tzinfo
    if isinstance(place, str):
        zone = zoneinfo.ZoneInfo(place)
    else:
        zone = datetime.timezone(datetime.timedelta(seconds=place))
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def exact_decimal(value: decimal.Decimal) -> Any:
    """The form of a decimal number; CBOR's own has no infinities and NaNs, and no sign of zero."""
    if not value.is_finite() or (not value and value.is_signed()):
        return cbor2.CBORTag(_DECIMAL, str(value))
    return value


def _exact(forms: Forms, kind: type) -> Form | None:
    """What comes back as it is, and nothing else."""
    if kind in (list, dict) or kind in _ALIKE:
        return None
    if kind is tuple:
        return lambda value, levels: exact_tuple(list(forms.array(value, levels)))
    if kind is set:
        return lambda value, levels: exact_set(map(frozen, forms.array(list(value), levels)))
    if kind is frozenset:
        return lambda value, levels: exact_set(map(frozen, forms.array(list(value), levels)), immutable=True)
    if kind is collections.deque:
        return lambda value, levels: exact_deque(value.maxlen, list(forms.array(value, inside(levels))))
    if kind is datetime.datetime:
        return lambda value, _: exact_moment(value)
    if kind is decimal.Decimal:
        return lambda value, _: exact_decimal(value)
    if kind is cbor2.frozendict:
        return forms.map
    if kind is cbor2.CBORTag:
        return lambda value, levels: _stranger(forms, value, levels)
    return _changed


def _stranger(forms: Forms, tag: Any, levels: int) -> Any:
    """A tag comes back as one if nobody knows it, and what is in it as what can be hashed."""
    known = cbor2.loads(cbor2.dumps(cbor2.CBORTag(tag.tag, None)), tag_hook=lambda tag, _: tag)
    content = tag.value
    if tag.tag in _TAGS or type(known) is not cbor2.CBORTag or type(content) not in (*PLAIN, tuple):
        msg = f"what is under the tag {tag.tag} would come back as something else"
        raise ValueError(msg)
    levels = inside(levels)
    return cbor2.CBORTag(tag.tag, forms.array(content, levels) if type(content) is tuple else content)


def _changed(value: Any, _: int) -> Any:
    """The form of what would come back as something else: a TypeError that says what to do."""
    kind = type(value)
    if not (is_class(kind) or issubclass(kind, (*KNOWN, enum.Enum, set, frozenset, *_ALIKE))):
        no_form(value, 0)
    what = "a map" if is_class(kind) or issubclass(kind, Mapping) else "a plain value"
    msg = (
        f"a {kind.__qualname__} would come back as {what}, because nothing declares it; "
        f"annotate what holds it, as in dict[str, {kind.__name__}]"
    )
    raise TypeError(msg)


_EXACT: Final = Forms(_exact)


def exact(value: Any, levels: int) -> Any:
    """Make a value plain that nothing declares, so that it comes back as it is.

    Raises:
        TypeError, ValueError: it would not.
    """
    return _EXACT[type(value)](value, levels)


def exact_key(key: Any, levels: int) -> Any:
    """Make the key of a map plain, and hashable again."""
    return frozen(exact(key, levels))


# How it is read.


def _of_two(make: Callable[[Any], Any]) -> Callable[[Any, bool], Any]:
    """A decoder, which is also told whether what it makes is to be hashable."""
    return lambda content, _: make(content)


_TAGS: Final = {
    _TUPLE: _of_two(tuple),
    _FROZEN_SET: _of_two(lambda content: frozenset(map(frozen, content))),
    _DEQUE: _of_two(lambda content: collections.deque(content[1], content[0])),
    _DECIMAL: _of_two(decimal.Decimal),
    _ZONED: _zoned,
}


def decode_exact(content: bytes, depth: int) -> Any:
    """The value of what this library encoded, with at most so many containers in containers.

    Raises:
        cbor2.CBORDecodeError: it is something else.
    """
    # With decoders to look up, cbor2 takes longer for each tag that is not among them.
    if _may_have_tags(content):
        return cbor2.loads(content, max_depth=depth, semantic_decoders=_TAGS)
    return cbor2.loads(content, max_depth=depth)


def _may_have_tags(content: bytes) -> bool:
    """Whether one of `_TAGS` may be in it: all are 0xEB.. in two bytes, behind 0xD9 or the zeros of more."""
    place = content.find(b"\xeb")
    for _ in range(_LOOKS):
        if place < 0:
            return False
        if content[place - 1] in (0xD9, 0):
            return True
        place = content.find(b"\xeb", place + 1)
    return True


_LOOKS: Final = 64
"""Bytes 0xEB that are looked at; in some languages each third byte of a text is one."""


def decoder(stream: BinaryIO, depth: int, **options: Any) -> cbor2.CBORDecoder:
    """A decoder of such values, as many as are in a stream."""
    return cbor2.CBORDecoder(stream, max_depth=depth, semantic_decoders=_TAGS, **options)
