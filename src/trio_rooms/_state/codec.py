"""The state of a room and the values of its storage as CBOR: encoding, decoding, migrating.

What is large is encoded and decoded in a worker thread, in pieces, so that the event loop goes on.
"""

from __future__ import annotations

import collections
import io
import itertools
import reprlib
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import attrs
import cbor2

from trio_rooms._values import cbor
from trio_rooms._values.classes import fields, is_class
from trio_rooms._values.lenient import document
from trio_rooms._values.misfits import describe
from trio_rooms.errors import MigrationError, SnapshotCorrupt, SnapshotTooNew, StateError

from .snapshot import Snapshot

__all__ = ["LARGE", "Codec", "Migration", "decode_value", "encode_value"]

Migration = Callable[[Any], Any]
"""Takes the plain state of one version, returns that of a later one."""

LARGE: Final = 128 * 1024
"""Bytes of encoded state from which on encoding and decoding leave the event loop.

Below it that takes a few milliseconds at most, even where the state is many small objects, and a
message may wait so long; a thread takes longer in all.
"""

_DEPTH: Final = 2 * cbor.DEPTH
"""Containers in containers that are decoded; the decoder counts a set, which is a tagged array, twice."""
_PIECE: Final = 64
"""Items encoded or decoded at a time in a worker thread before it lets go of the GIL."""
_PART: Final = 8
"""Bytes that an item counts for at least. Letting go takes 0.1 ms, too much after each of them."""
_DIVIDED: Final = 4
"""Levels of containers that are encoded or decoded in pieces."""


@attrs.frozen
class Codec:
    """Turns the state of one room definition into bytes and back.

    Args:
        kind: the type of the state, or None where it is taken as CBOR gives it.
        version: the version that is written and that `decode` ends with.
        migrations: from each old version to a later one, with the function that does it.
    """

    kind: Any
    version: int
    migrations: Mapping[int, tuple[int, Migration]]

    def encode(self, key: str, state: Any) -> bytes:
        """Encode a state at once.

        Raises:
            StateError: it holds what CBOR cannot.
        """
        try:
            return cbor.encode(state)
        except Exception as error:
            raise _blame(key, state, error) from error

    def encode_large(self, key: str, state: Any) -> bytes:
        """Encode a state in a worker thread, letting go of the GIL at every few items.

        The state must not change meanwhile.

        Raises:
            StateError: it holds what CBOR cannot.
        """
        parts = []
        unyielded = 0
        try:
            for part in _pieces(state):
                parts.append(part)
                # A piece of a list is this long; a map's keys and values are parts of their own.
                unyielded += max(len(part), _PART)
                if unyielded >= _PIECE * _PART:
                    unyielded = 0
                    time.sleep(0)  # Else every system call of the event loop waits 5 ms for the GIL.
            return b"".join(parts)
        except Exception as error:
            raise _blame(key, state, error) from error

    def decode(self, key: str, snapshot: Snapshot) -> Any:
        """The state of a snapshot, brought up to this version.

        Raises:
            SnapshotTooNew: it was written by a newer version.
            MigrationError: a step is missing or raised, or the result does not fit the state class.
            SnapshotCorrupt: it does not decode.
        """
        if snapshot.version > self.version:
            raise SnapshotTooNew(key, snapshot.version, self.version)
        try:
            value = decode_value(snapshot.state)
        except Exception as error:  # (whatever a decoder raises, the bytes are at fault)
            raise SnapshotCorrupt(key, f"its state does not decode: {error}") from error
        version = snapshot.version
        while version != self.version:
            if version not in self.migrations:
                msg = (
                    f"its snapshot has version {version}, the room version {self.version}, and nothing leads "
                    f"from {version} on; add @room.migrate({version}, {version + 1})"
                )
                raise MigrationError(key, msg)
            following, migrate = self.migrations[version]
            try:
                value = migrate(value)
            except Exception as error:
                msg = f"the migration of its state from version {version} to {following} raised: {error!r}"
                raise MigrationError(key, msg) from error
            version = following
        if self.kind is None:
            return value
        try:
            return document.structure(value, self.kind)
        except Exception as error:
            name = getattr(self.kind, "__qualname__", self.kind)
            msg = (
                f"its state is not a {name} ({describe(error)}); where the class has changed, "
                "raise version= and add a migration"
            )
            raise MigrationError(key, msg) from error


def encode_value(key: str, name: str, value: Any) -> bytes:
    """Encode one value for a room's storage; ``name`` is said in the error."""
    try:
        return cbor.encode(value)
    except Exception as error:
        raise _blame(key, value, error, name) from error


def decode_value(encoded: bytes) -> Any:
    """Decode what this library encoded; large values a few items at a time."""
    if len(encoded) < LARGE:
        return cbor2.loads(encoded, max_depth=_DEPTH)
    stream = io.BytesIO(encoded)
    return _gather(stream, cbor2.CBORDecoder(stream, max_depth=_DEPTH, read_size=256), 0)


def _pieces(value: Any, depth: int = 0) -> Iterator[bytes]:
    """The encoding of a value, as parts of a few items each."""
    if depth < _DIVIDED and is_class(type(value)):
        value = fields(value)
    if depth < _DIVIDED and type(value) is dict:
        yield _header(5, len(value))
        for key, inner in value.items():
            yield cbor.encode(key, depth + 1)
            yield from _pieces(inner, depth + 1)
    elif depth < _DIVIDED and type(value) in (list, tuple):
        yield _header(4, len(value))
        if len(value) <= _PIECE:
            for inner in value:
                yield from _pieces(inner, depth + 1)
            return
        for start in range(0, len(value), _PIECE):
            some = value[start : start + _PIECE]
            yield cbor.encode(some, depth)[len(_header(4, len(some))) :]
    else:
        yield cbor.encode(value, depth)


def _header(major: int, count: int) -> bytes:
    """The head of a CBOR array (4) or map (5): RFC 8949, section 3."""
    for limit, extra, form in ((24, 0, ""), (1 << 8, 24, "B"), (1 << 16, 25, ">H"), (1 << 32, 26, ">I")):
        if count < limit:
            return bytes([major << 5 | (extra or count)]) + (struct.pack(form, count) if form else b"")
    return bytes([major << 5 | 27]) + struct.pack(">Q", count)


def _gather(stream: io.BytesIO, decoder: cbor2.CBORDecoder, depth: int) -> Any:
    """Decode the next value of a stream, large arrays and maps a few items at a time."""
    start = stream.tell()
    first = stream.read(1)[0]
    major, extra = first >> 5, first & 31
    if major not in (4, 5) or extra > 27 or depth >= _DIVIDED:  # RFC 8949: 28 and above give no count
        stream.seek(start)
        return decoder.decode()
    count = extra if extra < 24 else int.from_bytes(stream.read(1 << extra - 24))
    inner = partial(_gather, stream, decoder, depth + 1) if count <= _PIECE else decoder.decode
    if major == 4:
        items = []
        for number in range(count):
            items.append(inner())
            if number % _PIECE == 0:
                time.sleep(0)
        return items
    result = {}
    for number in range(count):
        key = decoder.decode(immutable=True)
        result[key] = inner()
        if number % _PIECE == 0:
            time.sleep(0)
    return result


def _blame(key: str, state: Any, error: Exception, name: str = "state") -> StateError:
    """Find what in a value cannot be encoded, and say where it is."""
    path, why = _culprit(state, name, error)
    if isinstance(why, UnicodeEncodeError):
        return StateError(key, path, "a string with a lone surrogate has no form in UTF-8")
    return StateError(key, path, str(why))


def _culprit(value: Any, path: str, error: Exception) -> tuple[str, Exception]:
    """Descend to what cannot be encoded by itself; not where it is only the nesting, or a cycle."""
    if "levels deep" in str(error):
        return path, error
    inner: Iterable[tuple[str, Any]] = ()
    if is_class(type(value)):
        inner = ((f"{path}.{field}", item) for field, item in fields(value).items())
    elif isinstance(value, Mapping):
        keys = ((f"{path} (the key {_brief(key)})", key) for key in value)
        items = ((f"{path}[{_brief(key)}]", item) for key, item in value.items())
        inner = itertools.chain(keys, items)
    elif isinstance(value, list | tuple | collections.deque):
        inner = ((f"{path}[{number}]", item) for number, item in enumerate(value))
    elif isinstance(value, set | frozenset):
        inner = ((f"{path} (the member {_brief(item)})", item) for item in value)
    for where, item in inner:
        try:
            cbor.encode(item)
        except Exception as cause:  # noqa: BLE001 (whatever an encoder raises, it is this item's fault)
            # Its traceback holds this frame, and with it whoever is saving: a cycle.
            return _culprit(item, where, cause.with_traceback(None))
    return path, error


def _brief(value: Any) -> str:
    return reprlib.repr(value)
