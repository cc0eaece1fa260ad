"""The state of a room and the values of its storage as CBOR: encoding, decoding, migrating.

What is large is encoded and decoded in a worker thread, in pieces, so that the event loop goes on.
"""

from __future__ import annotations

import collections
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import attrs
import cbor2

from trio_rooms._values import cbor
from trio_rooms._values.exact import decode_exact, decoder
from trio_rooms._values.heads import head
from trio_rooms._values.kinds import origin_of
from trio_rooms._values.shape_of import shape_of
from trio_rooms._values.shapes import KEPT, Aside, Part, Reading, Shape, Unfit
from trio_rooms.errors import MigrationError, SnapshotError, SnapshotTooNew, StateError

from .snapshot import Snapshot

__all__ = ["LARGE", "NOTHING", "Aside", "Codec", "Decoded", "Migration", "decode_value", "encode_value"]

logger = logging.getLogger("trio_rooms")

NOTHING: Final[Aside] = {}
"""What is set aside of a state in which everything fits: the same for all, and never changed."""
_ROOT: Final = 0
"""The key of what was set aside of the state itself, and not of something in it; no id is 0."""

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
class Decoded:
    """A state that came out of a snapshot."""

    state: Any
    aside: Aside
    """What of it the classes do not understand, and what is written beside them again."""


@attrs.frozen
class Codec:
    """Turns the state of one room definition into bytes and back.

    Args:
        kind: the type of the state; None where what ``make`` makes tells it.
        version: the version that is written and that `decode` ends with.
        migrations: from each old version to a later one, with the function that does it.
        make: makes the state of a new room; None for rooms without state.
        strict: whether a snapshot with fields that do not fit their class is refused.

    Raises:
        TypeError: states of this type could not be saved, or would come back as something else;
            the message says where in it.
    """

    kind: Any
    version: int
    migrations: Mapping[int, tuple[int, Migration]]
    make: Callable[[], Any] | None = None
    strict: bool = False
    _shape: list[tuple[Shape, str]] = attrs.field(init=False, factory=list)
    """The shape of the state and its fingerprint; empty until it is known."""
    _told: set[str] = attrs.field(init=False, factory=set)
    """What was reported of snapshots that do not fit: each thing is reported once."""

    def __attrs_post_init__(self) -> None:
        if self.kind is None and self.make is not None:
            return
        shape = shape_of(Any if self.kind is None else self.kind)
        if origin_of(self.kind) is not collections.defaultdict:
            self._shape.append(shape)

    def shape(self, sample: Any = None) -> tuple[Shape, str]:
        """The shape of the state, and its fingerprint.

        Args:
            sample: a new state, if one was made. Else one is made where nothing declares the type.

        Raises:
            TypeError: as for the class; where nothing declares the type, it is found out only now.
        """
        if not self._shape:
            if sample is None and self.make is not None:
                sample = self.make()
            made: Any = Any if sample is None else type(sample)  # None says nothing of what comes later.
            self._shape.append(shape_of(made if self.kind is None else self.kind, sample))
        return self._shape[0]

    @property
    def fingerprint(self) -> str:
        """That of the shape of what is encoded."""
        return self.shape()[1]

    def encode(self, key: str, state: Any, aside: Aside = NOTHING) -> bytes:
        """Encode a state at once.

        Raises:
            StateError: it holds what CBOR cannot, or what would come back as something else.
        """
        shape, _ = self.shape()
        _follow(state, aside)
        try:
            return cbor.written(shape.write, state, cbor.DEPTH, aside)
        except Exception as error:
            raise _blame(key, Part("state", state, shape), error, aside) from error

    def encode_large(self, key: str, state: Any, aside: Aside = NOTHING) -> bytes:
        """Encode a state in a worker thread, letting go of the GIL at every few items.

        The state must not change meanwhile.

        Raises:
            StateError: as for `encode`.
        """
        shape, _ = self.shape()
        _follow(state, aside)
        parts = []
        unyielded = 0
        try:
            for part in _pieces(state, shape, aside):
                parts.append(part)
                # A piece of a list is this long; a map's keys and values are parts of their own.
                unyielded += max(len(part), _PART)
                if unyielded >= _PIECE * _PART:
                    unyielded = 0
                    time.sleep(0)  # Else every system call of the event loop waits 5 ms for the GIL.
            return b"".join(parts)
        except Exception as error:
            raise _blame(key, Part("state", state, shape), error, aside) from error

    def decode(self, key: str, snapshot: Snapshot) -> Decoded:
        """The state of a snapshot, brought up to this version.

        Raises:
            SnapshotTooNew: it was written by a newer version.
            MigrationError: a step is missing, raised or returned nothing, or the result is not the
                state that the room declares.
            SnapshotError: it does not decode, although it is as it was written.
        """
        if snapshot.version > self.version:
            raise SnapshotTooNew(key, snapshot.version, self.version)
        try:
            value = decode_value(snapshot.state)
        except Exception as error:
            # Not damage, which the checksum has ruled out: to go back to an older one would lose this one.
            cause = error.__cause__ or error
            msg = f"its snapshot is intact, but its state does not decode here: {cause} (it is left as it is)"
            raise SnapshotError(key, msg) from error
        value = self._migrated(key, snapshot.version, value)
        reading = Reading(self.strict)
        try:
            shape, fingerprint = self.shape()
            state = shape.unpack(value, reading)
        except Exception as error:
            why = str(error) if isinstance(error, Unfit) else repr(error)
            msg = f"its state is not what the room declares ({why}); {self._advice(snapshot)}"
            raise MigrationError(key, msg) from error
        self._report(key, snapshot, fingerprint, reading)
        if (root := reading.aside.get(id(state))) is not None:
            reading.aside[_ROOT] = root
        return Decoded(state, reading.aside or NOTHING)

    def _migrated(self, key: str, version: int, value: Any) -> Any:
        """The plain state of a version as that of this one."""
        while version != self.version:
            if version not in self.migrations:
                msg = (
                    f"its snapshot has version {version}, the room version {self.version}, and nothing leads "
                    f"from {version} on; add @room.migrate({version}, {version + 1})"
                )
                raise MigrationError(key, msg)
            following, migrate = self.migrations[version]
            try:
                made = migrate(value)
            except Exception as error:
                msg = f"the migration of its state from version {version} to {following} raised: {error!r}"
                raise MigrationError(key, msg) from error
            if made is None and value is not None:
                msg = (
                    f"the migration of its state from version {version} to {following} returned nothing; "
                    "return the state at its end"
                )
                raise MigrationError(key, msg)
            value, version = made, following
        return value

    def _advice(self, snapshot: Snapshot) -> str:
        """What to do about a state that does not fit."""
        if snapshot.version != self.version:
            return f"see to it that the migrations from version {snapshot.version} on make it so"
        return f"where the class has changed, write version={self.version + 1} and add a migration"

    def _report(self, key: str, snapshot: Snapshot, fingerprint: str, reading: Reading) -> None:
        """Log what does not fit, each thing once; and that the shape has changed, where all of it fits."""
        for field, why in reading.found.items():
            if field not in self._told:
                self._told.add(field)
                logger.warning(
                    "room %s: its snapshot has a %s that does not fit (%s) and is kept aside there; %s "
                    "(this is said once, whatever other rooms have)",
                    key,
                    field,
                    why,
                    self._advice(snapshot),
                )
        changed = snapshot.shape not in ("", fingerprint) and snapshot.version == self.version
        if changed and not reading.found and snapshot.shape not in self._told:
            self._told.add(snapshot.shape)
            logger.info(
                "room %s: the classes of its state have changed since it was saved, all of which fits; "
                "version is still %d",
                key,
                self.version,
            )


def _follow(state: Any, aside: Aside) -> None:
    """Let a state that was put in the place of another of its class have what was set aside of that."""
    root = aside.get(_ROOT)
    if root is not None and root.instance is not state and type(root.instance) is type(state):
        aside.pop(id(root.instance), None)
        aside[_ROOT] = aside[id(state)] = attrs.evolve(root, instance=state)


def encode_value(key: str, name: str, value: Any) -> bytes:
    """Encode one value for a room's storage; ``name`` is said in the error."""
    try:
        return cbor.encode(value)
    except Exception as error:
        raise _blame(key, Part(name, value, KEPT), error, NOTHING) from error


def decode_value(encoded: bytes) -> Any:
    """Decode what this library encoded; large values a few items at a time."""
    if len(encoded) < LARGE:
        return decode_exact(encoded, _DEPTH)
    stream = io.BytesIO(encoded)
    return _gather(stream, decoder(stream, _DEPTH, read_size=256), 0)


def _pieces(
    value: Any, shape: Shape, aside: Aside, levels: int = cbor.DEPTH, depth: int = 0
) -> Iterator[bytes]:
    """The encoding of a value, as parts of a few items each."""
    division = shape.divide(value, aside) if depth < _DIVIDED else None
    if division is None:
        yield cbor.written(shape.write, value, levels, aside)
        return
    levels = cbor.inside(levels)
    # Copies: whoever changes the state all the same cannot make the count a lie, and so garbage of the rest.
    values = list(division.values)
    if division.keys is not None:
        names = list(division.keys)
        yield head(5, len(names))
        # (strict: else there could be fewer)
        for (name, inner), one in zip(zip(names, values, strict=True), division.shapes, strict=False):
            yield cbor2.dumps(name)
            yield from _pieces(inner, one, aside, levels, depth + 1)
        return
    yield head(4, len(values))
    one = next(iter(division.shapes))
    if len(values) <= _PIECE:
        for inner in values:
            yield from _pieces(inner, one, aside, levels, depth + 1)
    else:
        for start in range(0, len(values), _PIECE):
            some = values[start : start + _PIECE]
            yield cbor.written(one.write_all, some, levels, aside)


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


def _blame(key: str, whole: Part, error: Exception, aside: Aside) -> StateError:
    """Find what in a value cannot be encoded, and say where it is."""
    path, why = _culprit(whole, error, aside)
    if isinstance(why, UnicodeEncodeError):
        return StateError(key, path, "a string with a lone surrogate has no form in UTF-8")
    return StateError(key, path, str(why))


def _culprit(part: Part, error: Exception, aside: Aside) -> tuple[str, Exception]:
    """Descend to what cannot be encoded by itself; not where it is only the nesting, or a cycle."""
    for _ in range(cbor.DEPTH):
        inner = None if "levels deep" in str(error) else _first_unfit(part, aside)
        if inner is None:
            break
        part, error = inner
    return part.where, error


def _first_unfit(part: Part, aside: Aside) -> tuple[Part, Exception] | None:
    """The first part of a value that cannot be encoded by itself."""
    for inner in part.shape.parts(part.value):
        try:
            cbor.dumps(inner.shape.pack, inner.value, cbor.DEPTH, aside)
        except Exception as cause:  # noqa: BLE001 (whatever an encoder raises, it is this item's fault)
            reached = Part(part.where + inner.where, inner.value, inner.shape)
            # Its traceback holds this frame, and with it whoever is saving: a cycle.
            return reached, cause.with_traceback(None)
    return None
