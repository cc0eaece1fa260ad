"""CBOR with a bound on its nesting: any value to bytes, and what a stranger sent to plain values.

cbor2's encoder descends into what it is given without looking how deep it is: some thousand
levels overrun the stack and end the process. And what it does not know by itself it asks
about in Python, which takes longer than to write it. So values are made plain
first, with their levels counted, and cbor2 writes them in one go.
"""

from __future__ import annotations

import collections
import datetime
import enum
import io
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

import cbor2

from .classes import fields, is_class
from .plain import MESSAGE_DEPTH, plain

__all__ = [
    "ARRAYS",
    "DEPTH",
    "EARLIEST",
    "KNOWN",
    "LATEST",
    "PLAIN",
    "Form",
    "Forms",
    "as_sent",
    "decode_plain",
    "dumps",
    "encode",
    "encode_plain",
    "frozen",
    "inside",
    "kept",
    "moment",
    "no_form",
    "set_of",
    "whole",
    "written",
]

DEPTH: Final = 200
"""Containers in containers. Building nested classes again takes up to three calls for each of
them, and Python allows a thousand.
"""

Form = Callable[[Any, int], Any]
"""Makes a value plain; the number says how many containers it may be and have inside each other."""

PLAIN: Final[frozenset[type]] = frozenset((str, int, float, bool, type(None), bytes))
"""What is plain as it is. Checked for many values at once, in C, because most are of these types."""
ARRAYS: Final = (list, tuple, collections.deque, collections.UserList)
KNOWN: Final[tuple[type, ...]] = (*ARRAYS, Mapping, cbor2.CBORTag, bytearray, *PLAIN)
_SET: Final = 258
"""The tag of a set."""
_TIME: Final = 0
"""The tag of a point in time, as RFC 3339 writes it."""
_SECONDS: Final = 1
"""The tag of a point in time in seconds since 1970, UTC."""
_EXACT_FOR: Final = datetime.timedelta(seconds=2**33)
"""How far from 1970 a double tells microseconds apart: up to there its last bit is less than one of them."""
EARLIEST: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) - _EXACT_FOR
LATEST: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + _EXACT_FOR
"""Between these points in time, both not included, seconds in a double come back to the microsecond."""


class Forms(dict[type, Form]):
    """What is done with values of each type; looked up for a type when its first value comes.

    Args:
        special: what is done with a type that is no container, or otherwise than with other containers.
    """

    def __init__(self, special: Callable[[Forms, type], Form | None]) -> None:
        super().__init__(dict.fromkeys(PLAIN, _as_it_is))
        self._special = special

    def __missing__(self, kind: type) -> Form:
        form = self._special(self, kind)
        if form is None:
            if issubclass(kind, ARRAYS):
                form = self.array
            elif issubclass(kind, Mapping):
                form = self.map
            elif issubclass(kind, cbor2.CBORTag):
                form = self._tag
            elif is_class(kind):
                form = self._instance
            elif issubclass(kind, Sequence) and not issubclass(kind, KNOWN):
                # cbor2 would write it as an array, however deep it is.
                form = no_form
            else:
                form = _as_it_is
        self[kind] = form
        return form

    def encode(self, value: Any, levels: int) -> bytes:
        """The CBOR of a value that may have so many levels."""
        return dumps(self[type(value)], value, levels)

    def array(self, value: Any, levels: int) -> Any:
        """Make an array's elements plain."""
        levels = levels - 1 if levels else inside(levels)
        if PLAIN.issuperset(map(type, value)):
            return value
        return [item if type(item) in PLAIN else self[type(item)](item, levels) for item in value]

    def map(self, value: Any, levels: int) -> Any:
        """Make a map's values plain, and its keys; nearly all keys are strings."""
        levels = levels - 1 if levels else inside(levels)
        if not PLAIN.issuperset(map(type, value)):
            return {self._key(key, levels): self[type(item)](item, levels) for key, item in value.items()}
        if PLAIN.issuperset(map(type, value.values())):
            return value
        return {
            key: item if type(item) in PLAIN else self[type(item)](item, levels)
            for key, item in value.items()
        }

    def _key(self, key: Any, levels: int) -> Any:
        """Make a key plain, and hashable again."""
        return frozen(self[type(key)](key, levels))

    def _tag(self, tag: Any, levels: int) -> Any:
        """Make the value under a tag plain."""
        levels = inside(levels)
        return cbor2.CBORTag(tag.tag, self[type(tag.value)](tag.value, levels))

    def _instance(self, value: Any, levels: int) -> Any:
        """Make an instance of a class a map, with plain values."""
        levels = inside(levels)
        content = fields(value)
        if PLAIN.issuperset(map(type, content.values())):
            return content
        return {
            name: item if type(item) in PLAIN else self[type(item)](item, levels)
            for name, item in content.items()
        }


def dumps(form: Callable[..., Any], value: Any, *given: Any) -> bytes:
    """The CBOR of what is made of a value: ``form(value, *given)``.

    Raises:
        TypeError, ValueError: it holds what has no form, or is nested too deeply.
    """
    try:
        return cbor2.dumps(form(value, *given), default=_unknown)
    except cbor2.CBOREncodeError as error:
        # cbor2's errors are ValueErrors in its stubs alone.
        raise ValueError(str(error)) from error
    except RecursionError:
        raise _too_deep() from None


def written(write: Callable[..., None], value: Any, *given: Any) -> bytes:
    """The CBOR of a value that is written in pieces: ``write(value, *given, out)`` adds them to a list.

    Raises:
        TypeError, ValueError: as for `dumps`.
    """
    out: list[bytes] = []
    try:
        write(value, *given, out)
    except cbor2.CBOREncodeError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise _too_deep() from None
    return b"".join(out)


def whole(packed: Any) -> bytes:
    """The CBOR of a plain value as one piece of such; what it raises is for `written` to say."""
    return cbor2.dumps(packed, default=_unknown)


def _too_deep() -> ValueError:
    return ValueError("it is nested too deeply for a stack as deep as this")


def _unknown(_: cbor2.CBOREncoder, value: Any) -> None:
    """What cbor2 calls for a value that it has no form for."""
    no_form(value, 0)


def frozen(form: Any) -> Any:
    """A plain value as one that can be a key, and is written alike."""
    if isinstance(form, cbor2.CBORTag):
        return cbor2.CBORTag(form.tag, frozen(form.value))
    if isinstance(form, Mapping):
        return cbor2.frozendict({key: frozen(value) for key, value in form.items()})
    if isinstance(form, ARRAYS):
        return tuple(map(frozen, form))
    return frozenset(form) if isinstance(form, set) else form


def _as_it_is(value: Any, _: int) -> Any:
    return value


def no_form(value: Any, _: int) -> Any:
    """The form of what CBOR has no form for: a TypeError that names its type."""
    kind = type(value)
    msg = f"CBOR has no form for {kind.__module__}.{kind.__qualname__}"
    raise TypeError(msg)


def inside(levels: int) -> int:
    """How many levels are left inside of a container; ValueError where it is one too many itself."""
    if not levels:
        msg = f"it is nested more than {DEPTH} levels deep, or contains itself"
        raise ValueError(msg)
    return levels - 1


# States, storage and attachments: what this library reads again as it was.


def _kept(forms: Forms, kind: type) -> Form | None:
    """Enums are their values; points in time and sets have tags, by which they are read again."""
    if issubclass(kind, enum.Enum):
        return lambda value, levels: forms[type(value.value)](value.value, levels)
    if issubclass(kind, datetime.datetime):
        return moment
    if issubclass(kind, set | frozenset):
        return lambda value, levels: set_of(forms.array(list(value), levels))
    return None


def set_of(members: Iterable[Any]) -> cbor2.CBORTag:
    """The form of a set of plain members."""
    return cbor2.CBORTag(_SET, list(members))


def moment(value: datetime.datetime, _: int) -> Any:
    """A point in time under its tag: in UTC as seconds, which is quicker; else as RFC 3339 writes it."""
    if value.tzinfo is datetime.UTC:
        if EARLIEST < value < LATEST:
            return cbor2.CBORTag(_SECONDS, value.timestamp())
    else:
        offset = value.utcoffset()
        if offset is None:
            msg = "a datetime without a time zone names no moment; write datetime.now(datetime.UTC)"
            raise ValueError(msg)
        if offset.total_seconds() % 60:  # RFC 3339 has no seconds in an offset.
            value = value.astimezone(datetime.UTC)
    # cbor2 by itself writes the same, and is slower.
    return cbor2.CBORTag(_TIME, value.isoformat().replace("+00:00", "Z"))


_KEPT: Final = Forms(_kept)

# What clients get: what JSON would say.


def _sent(forms: Forms, kind: type) -> Form | None:
    """Enums, and all that CBOR would need a tag for, are what `plain` makes of them."""

    def form(value: Any, levels: int) -> Any:
        known = plain(value)
        return forms[type(known)](known, levels)

    if issubclass(kind, enum.Enum) or not issubclass(kind, KNOWN):
        return form
    return None


_SENT: Final = Forms(_sent)


def kept(value: Any, levels: int) -> Any:
    """Make a value plain that this library reads again, classes as maps, tags where there are any.

    Args:
        value: what is encoded.
        levels: how many containers it may be and have inside each other.

    Raises:
        TypeError, ValueError: it holds what CBOR has no form for, or is nested too deeply.
    """
    return _KEPT[type(value)](value, levels)


def encode(value: Any) -> bytes:
    """The CBOR of such a value.

    Raises:
        TypeError, ValueError: as for `kept`.
    """
    return _KEPT.encode(value, DEPTH)


def encode_plain(value: Any) -> bytes:
    """The CBOR of a value for clients, who get what JSON would say: no tags.

    Raises:
        TypeError, ValueError: it holds what has no form, or is nested too deeply.
    """
    local = _this_thread
    # Whatever it calls may encode something as well, which a `CBOREncoder` does not survive.
    encoder, local.encoder = local.encoder, None
    if encoder is not None:
        try:
            encoded: bytes = encoder.encode_to_bytes(_SENT[type(value)](value, DEPTH))
            local.encoder = encoder
            return encoded
        except Exception:  # noqa: BLE001, S110 (whatever it is, it is said below)
            pass
        finally:
            if local.encoder is None:
                local.renew()  # Whatever state that one was left in.
    return _SENT.encode(value, DEPTH)


def as_sent(value: Any) -> Any:
    """What is left of a value when it was sent to a client or came from one: plain data, and a copy.

    Raises:
        TypeError, ValueError: it holds what has no form, or is nested too deeply.
    """
    return decode_sent(encode_plain(value))


def decode_sent(content: bytes) -> Any:
    """The inverse of `encode_plain`, for what it has made: more than a stranger may send.

    Raises:
        Exception: it is something else.
    """
    return cbor2.loads(content)


# What strangers send.


_INTEGER_KEYS: Final = 16 * 1024
"""Bytes of the longest message whose maps may have integers as keys.

Strings are hashed with a secret. Of everything else a stranger can choose many that a hash table has
in one place, integers too, and to build the table takes time that grows with the square of their
number: in this many bytes some milliseconds.
"""


def decode_plain(content: bytes) -> Any:
    """The value of a stranger's CBOR, which may have no tags: what a tag makes is up to the sender.

    The keys of maps are strings, of text or bytes; in a short message they may be integers.

    Raises:
        ValueError: it is not CBOR, has a tag or another key, is nested too deeply, or has bytes
            behind it; the text says which, and is for the sender.
    """
    if len(content) > _INTEGER_KEYS:
        return _decode_carefully(content)  # What is wrong at its end would be decoded twice.
    try:
        # In an array, in front of what no stranger knows: only so is it seen whether bytes follow, without
        # a stream to read from.
        value, end = cbor2.loads(
            _PAIR + content + _END_WRITTEN,
            tag_hook=_no_tag,
            semantic_decoders=_TAGS,
            max_depth=MESSAGE_DEPTH + 1,
            strict_hashable_types=True,
        )
        if end == _END:
            return value
    except _NOT_TAKEN:
        pass
    return _decode_carefully(content)


_PAIR: Final = b"\x82"
_END: Final = secrets.token_bytes(16)
_END_WRITTEN: Final = cbor2.dumps(_END)


def _decode_carefully(content: bytes) -> Any:
    """Decode as `decode_plain` does, and say what is wrong; integers may be keys of a short message."""
    short = len(content) <= _INTEGER_KEYS
    stream = io.BytesIO(content)
    try:
        value = _new_decoder(stream, strings_only=not short).decode()
    except _NOT_TAKEN as error:
        msg = f"not CBOR as it is allowed here (no tags, at most {MESSAGE_DEPTH} levels): {error}"
        raise ValueError(msg) from error
    if stream.tell() != len(content):
        msg = f"{len(content) - stream.tell()} bytes after the end of the CBOR"
        raise ValueError(msg)
    level = [value] if short else []
    while level:
        for outer in level:
            if type(outer) is dict and not _KEYS.issuperset(map(type, outer)):
                msg = "not CBOR as it is allowed here: the keys of a map are strings or integers"
                raise ValueError(msg)
        level = [
            inner
            for outer in level
            if type(outer) in (dict, list)
            for inner in (outer.values() if type(outer) is dict else outer)
        ]
    return value


_KEYS: Final[frozenset[type]] = frozenset((str, bytes, int))
_NOT_TAKEN: Final = (cbor2.CBORDecodeError, ValueError, RecursionError, MemoryError)
"""What a decoder raises for what it does not take."""


def _no_tag(*_: object) -> NoReturn:
    msg = "tags are not allowed"
    raise ValueError(msg)


# Every tag that the decoder would make an object of; `tag_hook` is asked about the others.
_TAGS: Final = dict.fromkeys(
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799),
    _no_tag,
)


def _new_decoder(stream: io.BytesIO, *, strings_only: bool) -> cbor2.CBORDecoder:
    """A decoder of what strangers send.

    Args:
        stream: what it reads from.
        strings_only: refuse keys that are no strings, before they are put into a map.
    """
    return cbor2.CBORDecoder(
        stream,
        tag_hook=_no_tag,
        semantic_decoders=_TAGS,
        max_depth=MESSAGE_DEPTH,
        strict_hashable_types=strings_only,
    )


class _ThisThread(threading.local):
    """This thread's encoder: to make one takes as long as to encode a short message."""

    encoder: cbor2.CBOREncoder | None
    """None while it is used."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Make a new one, that nothing has been encoded with."""
        self.encoder = cbor2.CBOREncoder(io.BytesIO(), default=_unknown)


_this_thread: Final = _ThisThread()
