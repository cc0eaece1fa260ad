"""JSON for clients: any value that can be sent to bytes, and what a stranger sent to plain values."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

try:
    import orjson

    _OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
except ImportError:  # It is an extra.
    orjson = None  # type: ignore[assignment]

from .plain import MESSAGE_DEPTH, plain

__all__ = ["decode", "encode"]


def encode(value: Any) -> bytes:
    """The JSON of a value for clients, as UTF-8; the same with orjson and without it.

    What CBOR clients may send and JSON has no form for becomes something near it: NaN and
    infinities null, keys that are no strings one.

    Raises:
        TypeError, ValueError: it holds what has no form, or is nested too deeply.
    """
    if orjson is not None:
        # It leaves to `plain` what it would write in another form than the standard library, and
        # what it refuses (integers beyond 64 bits, keys that are no strings) to that.
        try:
            return orjson.dumps(value, plain, _OPTIONS)
        except TypeError:
            pass
    try:
        try:
            return _encode(value).encode()
        except (TypeError, ValueError):
            pass
        # Else one client's NaN would make a room unable to speak to its JSON clients.
        return _encode(_for_json(value)).encode()
    except RecursionError:
        msg = "it is nested too deeply, or contains itself"
        raise ValueError(msg) from None


# Made once: json.dumps and json.loads with options make a new one at each call, which takes
# longer than a short message.
_encode: Final = json.JSONEncoder(
    default=plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


def _for_json(value: Any) -> Any:
    """Replace all that JSON has no form for, at every level."""
    if isinstance(value, dict):
        return {_key_for_json(key): _for_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return _for_json(plain(value))


def _key_for_json(key: Any) -> str | int | None:
    """A key that JSON writes as a string, whatever it was."""
    if key is None or isinstance(key, str | int):
        return key
    try:
        return str(plain(key))
    except TypeError:
        return str(key)


def decode(text: str) -> Any:
    """The value of a stranger's JSON, of which every part can be sent on as JSON and as CBOR.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has half a surrogate pair; the
            text says which, and is for the sender.
    """
    if orjson is not None:
        try:
            value = orjson.loads(text)
        except ValueError:
            pass  # It is worded below; and numbers that are infinite are taken there.
        else:
            if len(text) > _NEVER_DEEP:
                if type(value) is dict and _FLAT.issuperset(map(type, value.values())):
                    return value
                _check_depth(text, value)
            # It makes floats of integers beyond 64 bits, which have so many digits or more. A number that
            # is so long has one of them at one of these places, where most texts have none.
            if not _find_digit(text[_LONG - 1 :: _LONG]) or _DIGITS not in text.encode().translate(_ALIKE):
                return value
    return _decode(text)


_LONG: Final = 19
_find_digit: Final = re.compile("[0-9]").search
_DIGITS: Final = b"0" * _LONG
_ALIKE: Final = bytes(ord("0") if chr(byte) in "0123456789" else 0 for byte in range(256))
"""Makes all digits one, and all else another byte: a tenth of the time that a pattern for them takes."""
_NEVER_DEEP: Final = 2 * MESSAGE_DEPTH
"""Characters that containers take that are nested as deeply as they may be."""
_FLAT: Final[frozenset[type]] = frozenset((str, int, bool, type(None)))
"""Types of what is neither a container nor a number that was an integer."""


def _decode(text: str) -> Any:
    """Decode as `decode` does, by the standard library alone."""
    try:
        value, end = _decoder.raw_decode(text) if text.startswith("{") else (None, -1)
        if end != len(text):
            value = _decoder.decode(text)  # There is white space around it, or it is wrong.
        # An escaped lone surrogate makes a string that neither JSON nor CBOR can carry on.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        msg = "the JSON is nested too deeply"
        raise ValueError(msg) from None
    except UnicodeEncodeError:
        msg = "the JSON has an escaped surrogate without its other half"
        raise ValueError(msg) from None
    except ValueError as error:
        msg = f"not JSON: {error}"
        raise ValueError(msg) from error
    _check_depth(text, value)
    return value


def _check_depth(text: str, value: Any) -> None:
    """Refuse the value of a text that has more levels than a message may have."""
    if text.count("[") + text.count("{") > MESSAGE_DEPTH and not _is_shallow(value):
        msg = f"the JSON is nested more than {MESSAGE_DEPTH} levels deep"
        raise ValueError(msg)


def _is_shallow(value: Any) -> bool:
    """Whether a value has no more levels than a message may have, without recursion."""
    level = [value]
    for _ in range(MESSAGE_DEPTH + 1):
        level = [
            inner
            for outer in level
            if type(outer) in (dict, list)
            for inner in (outer.values() if type(outer) is dict else outer)
        ]
        if not level:
            return True
    return False


def _no_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python reads and RFC 8259 does not have."""
    msg = f"{name} is not a JSON number"
    raise ValueError(msg)


_decoder: Final = json.JSONDecoder(parse_constant=_no_constant)
