"""Looking into a store without knowing its rooms' definitions, and rooms as plain files.

Snapshots and the values of a room's storage are self-describing CBOR, so what wrote them is
not needed to read them. An export is one CBOR map, which any CBOR reader can read::

    {"format": "trio-rooms.room.1", "room": "chat", "id": "lobby", "version": 1,
     "generation": 42, "state": ..., "storage": {"name": ..., ...}}
"""

from __future__ import annotations

import datetime
import decimal
import io
import json
import re
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import attrs
import cbor2

from trio_rooms._definition.room import Room
from trio_rooms._server.server import check_id
from trio_rooms._state.codec import decode_value
from trio_rooms._state.snapshot import Snapshot
from trio_rooms._values import cbor
from trio_rooms.errors import RoomsError, SnapshotCorrupt, UnknownRoom
from trio_rooms.stores.base import Commit, Store, StoredSnapshot

__all__ = ["Export", "ExportError", "check_key", "describe", "export", "list_rooms", "read_export", "restore"]

_FORMAT: Final = "trio-rooms.room.1"
_PAGE: Final = 64
"""Rooms, and values of a storage, that are in memory at a time."""
_TRIES: Final = 5
"""How often a room that a server is changing is read again, until its parts fit together."""
_SHOWN_BYTES: Final = 32
"""Bytes of a byte string that are shown; people recognize a thing by its beginning."""
_NARROW: Final = 88
"""Columns up to which a container is shown on one line."""
_INTEGERS: Final = 2**63
"""What versions and generations stay below: the integers that a store can hold."""


class ExportError(RoomsError):
    """A room cannot be exported or imported; the message says why and what to do."""


@attrs.frozen
class Export:
    """One room as a file has it."""

    room: str
    id: str
    version: int
    generation: int
    state: Any
    storage: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The key of the room that was exported."""
        return f"{self.room}/{self.id}"


@attrs.frozen
class _Generation:
    """One stored generation: what it says, or what is wrong with it."""

    stored: StoredSnapshot
    snapshot: Snapshot | None = None
    state: Any = None
    fault: str | None = None


def check_key(key: str) -> str:
    """Return a key if it is one.

    Raises:
        UnknownRoom: it is not ``name/id``, or its id is not allowed.
        DefinitionError: its name is not allowed.
    """
    name, slash, id_ = key.partition("/")
    if not slash:
        msg = f"{key!r} is no room's key; a key is NAME/ID, like chat/lobby"
        raise UnknownRoom(msg)
    return _key(name, id_)


def _key(name: str, id_: str) -> str:
    Room(name)  # A name is what a definition may have.
    return f"{name}/{check_id(id_)}"


# Looking.


async def list_rooms(store: Store, write: Callable[[str], object]) -> None:
    """Write a table of all rooms, line by line, however many there are."""
    write(f"{'VERSION':>7}  {'GENERATION':>10}  {'BYTES':>11}  {'STORAGE':>7}  KEY")
    count = 0
    async with aclosing(_all_keys(store)) as keys:
        async for key in keys:
            count += 1
            write(await _line(store, key))
    write("1 room" if count == 1 else f"{count:,} rooms")


async def _all_keys(store: Store) -> AsyncGenerator[str, None]:
    last: str | None = None
    while keys := await store.keys(after=last, limit=_PAGE):
        for key in keys:
            yield key
        last = keys[-1]


async def _storage(store: Store, key: str) -> AsyncGenerator[tuple[str, bytes], None]:
    last: str | None = None
    while values := await store.list(key, after=last, limit=_PAGE):
        for name, value in values:
            yield name, value
        last = values[-1][0]


async def _line(store: Store, key: str) -> str:
    # What makes a generation usable is told apart from its state, which may be large.
    found = (await store.load(key)).snapshots
    names = 0
    async with aclosing(_storage(store, key)) as values:
        async for _ in values:
            names += 1
    version, note = "-", ""
    for stored in found:
        try:
            version = str(Snapshot.unpack(key, stored.document).version)
        except SnapshotCorrupt:
            continue
        if stored is not found[0]:
            note = "  (damaged: generation before it is intact)"
        break
    else:
        note = "  (damaged)" if found else "  (no snapshot)"
    generation = f"{found[0].generation:,}" if found else "-"
    size = f"{len(found[0].document):,}" if found else "-"
    return f"{version:>7}  {generation:>10}  {size:>11}  {names:>7,}  {_printable(key)}{note}"


async def describe(store: Store, key: str, write: Callable[[str], object]) -> bool:
    """Write what a store has of one room.

    Returns:
        Whether its state can be read.

    Raises:
        UnknownRoom: the store has nothing of it.
    """
    generations = _generations(key, (await store.load(key)).snapshots)
    sizes = []
    async with aclosing(_storage(store, key)) as values:
        async for name, value in values:
            sizes.append((name, len(value)))
    if not generations and not sizes:
        raise _nothing(key)
    usable = _usable(generations)
    write(f"room         {_printable(key)}")
    if usable is not None and usable.snapshot is not None:
        write(f"version      {usable.snapshot.version}")
        write(f"generation   {usable.snapshot.generation:,}")
        write(f"epoch        {usable.snapshot.epoch:,}")
        write(f"size         {len(usable.stored.document):,} bytes")
    heading = "generations"
    for one in generations or ():
        condition = "intact" if one.fault is None else f"DAMAGED: {one.fault}"
        write(f"{heading:<11}  {one.stored.generation:,}: {len(one.stored.document):,} bytes, {condition}")
        heading = ""
    if not generations:
        write("generations  none")
    write(f"storage      {len(sizes):,} {'name' if len(sizes) == 1 else 'names'}")
    for name, size in sizes:
        write(f"    {_string(name)}  {size:,} bytes")
    if usable is None:
        write("state        none that can be read")
        return False
    write(
        "state" if usable is generations[0] else f"state        (of generation {usable.stored.generation:,})"
    )
    try:
        # Written after all of it is made: half a state would look like a whole one.
        shown = "".join(_show(usable.state, "    "))
    except RecursionError:
        shown = "(nested too deeply to be shown; --export writes it)"
    write(f"    {shown}")
    return True


def _generations(key: str, found: Iterable[StoredSnapshot]) -> list[_Generation]:
    return [_examine(key, stored) for stored in found]


def _examine(key: str, stored: StoredSnapshot) -> _Generation:
    try:
        snapshot = Snapshot.unpack(key, stored.document)
        return _Generation(stored, snapshot, decode_value(snapshot.state))
    except SnapshotCorrupt as error:
        return _Generation(stored, fault=error.why)
    except (cbor2.CBORDecodeError, RecursionError) as error:
        return _Generation(stored, fault=f"its state does not decode: {error}")


def _usable(generations: Iterable[_Generation]) -> _Generation | None:
    """The one that a server would take: the newest that is intact."""
    return next((one for one in generations if one.fault is None), None)


def _nothing(key: str) -> UnknownRoom:
    return UnknownRoom(
        f"the store has no room {_printable(key)}; without a KEY, inspect lists the rooms it has"
    )


# Out of a store and into one.


async def export(store: Store, key: str) -> bytes:
    """One room as the content of a file.

    Of a room that a server is changing meanwhile, state and storage are of the same commit.

    Raises:
        UnknownRoom: the store has nothing of it.
        ExportError: no snapshot of it is intact, or it changes too fast to be read.
    """
    for _ in range(_TRIES):
        before = await store.load(key)
        async with aclosing(_storage(store, key)) as values:
            storage = [item async for item in values]
        if (await store.load(key)).number != before.number:
            continue
        if not before.snapshots and not storage:
            raise _nothing(key)
        usable = _usable(_generations(key, before.snapshots))
        if usable is None or usable.snapshot is None:
            msg = f"room {_printable(key)} has no intact snapshot that could be exported"
            raise ExportError(msg)
        try:
            return _pack(
                usable.snapshot, usable.state, {name: decode_value(value) for name, value in storage}
            )
        except (cbor2.CBORError, RecursionError) as error:
            msg = f"room {_printable(key)}: a value of its storage does not decode: {error}"
            raise ExportError(msg) from error
    msg = f"room {_printable(key)} was changed each time it was read; stop the server, or try again later"
    raise ExportError(msg)


def _pack(snapshot: Snapshot, state: Any, storage: Mapping[str, Any]) -> bytes:
    return cbor2.dumps(
        {
            "format": _FORMAT,
            "room": snapshot.room,
            "id": snapshot.id,
            "version": snapshot.version,
            "generation": snapshot.generation,
            "state": state,
            "storage": storage,
        }
    )


def read_export(content: bytes) -> Export:
    """The inverse of `export`.

    Raises:
        ExportError: it is not what `export` writes; the message says what is wrong.
    """
    stream = io.BytesIO(content)
    try:
        # As deep as `decode_value` goes, and two levels more, inside of which the values of a storage lie.
        decoded = cbor2.CBORDecoder(stream, max_depth=2 * cbor.DEPTH + 2).decode()
    except (cbor2.CBORDecodeError, ValueError, RecursionError, MemoryError) as error:
        msg = f"it is not CBOR: {error}"
        raise ExportError(msg) from error
    if not isinstance(decoded, dict) or "format" not in decoded:
        msg = f"it is not an export of a room, which is a map with 'format': {_FORMAT!r}"
        raise ExportError(msg)
    if decoded["format"] != _FORMAT:
        msg = f"its format is {decoded['format']!r:.100}, and this version of trio-rooms knows {_FORMAT!r}"
        raise ExportError(msg)
    if stream.tell() != len(content):
        msg = f"there are {len(content) - stream.tell()} bytes after the end of the export"
        raise ExportError(msg)
    fields = [field.name for field in attrs.fields(Export)]
    missing = [name for name in fields if name not in decoded]
    if missing:
        msg = f"it has no {' and no '.join(map(repr, missing))}"
        raise ExportError(msg)
    exported = Export(**{name: decoded[name] for name in fields})
    try:
        _key(exported.room, exported.id)
    except RoomsError as error:
        raise ExportError(str(error)) from error
    for name, number, least in (("version", exported.version, 1), ("generation", exported.generation, 0)):
        if type(number) is not int or not least <= number < _INTEGERS:
            msg = f"its {name!r} must be a whole number from {least} to 2**63 - 1, not {number!r:.100}"
            raise ExportError(msg)
    if not isinstance(exported.storage, dict) or not all(isinstance(name, str) for name in exported.storage):
        msg = "its 'storage' must be a map with strings as names"
        raise ExportError(msg)
    return exported


async def restore(store: Store, exported: Export, key: str, *, replace: bool) -> int:
    """Write an export into a store, in one commit.

    Returns:
        The generation it has there.

    Raises:
        ExportError: the room is there already, and is not to be replaced.
        StoreError: nothing was written.
    """
    name, _, id_ = key.partition("/")
    there = await store.load(key)
    async with aclosing(_storage(store, key)) as stored:
        gone: dict[str, bytes | None] = {name: None async for name, _ in stored}
    if (there.snapshots or gone) and not replace:
        msg = f"room {_printable(key)} is in the store already; give --replace to replace it, or another KEY"
        raise ExportError(msg)
    generation = there.number + 1
    try:
        state = cbor2.dumps(exported.state)
        values = {name: cbor2.dumps(value) for name, value in exported.storage.items()}
        for encoded in (state, *values.values()):
            decode_value(encoded)  # What cannot be read again is not written.
    except (cbor2.CBORError, ValueError, RecursionError) as error:
        msg = f"it holds what cannot be kept: {error}"
        raise ExportError(msg) from error
    snapshot = Snapshot(name, id_, exported.version, generation, store.epoch, state)
    await store.commit(Commit(key, generation, store.epoch, snapshot.pack(), gone | values))
    return generation


# Values, as people read them.

_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What would move the cursor, colour the terminal or turn the order of letters around."""


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _string(text: str) -> str:
    return _printable(json.dumps(text, ensure_ascii=False))


def _show(value: Any, margin: str) -> Iterator[str]:
    """A value as text like JSON: on one line if it is short, else one item a line."""
    if isinstance(value, Mapping) and value:
        items = [("".join((*_show(key, ""), ": ")), inner) for key, inner in value.items()]
        yield from _container("{", items, "}", margin)
    elif isinstance(value, list | tuple) and value:
        yield from _container("[", [("", inner) for inner in value], "]", margin)
    elif isinstance(value, set | frozenset):
        yield from _container("set(", [("", inner) for inner in value], ")", margin)
    elif isinstance(value, cbor2.CBORTag):
        yield from _container(f"tag {value.tag}(", [("", value.value)], ")", margin)
    else:
        yield _scalar(value)


def _container(opening: str, items: list[tuple[str, Any]], closing: str, margin: str) -> Iterator[str]:
    if len(items) <= _NARROW // 3 and not any(_is_container(inner) for _, inner in items):
        line = opening + ", ".join(label + _scalar(inner) for label, inner in items) + closing
        if len(line) <= _NARROW:
            yield line
            return
    yield opening
    separator = ""
    for label, inner in items:
        yield f"{separator}\n{margin}  {label}"
        yield from _show(inner, f"{margin}  ")
        separator = ","
    yield f"\n{margin}{closing}"


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple | set | frozenset | cbor2.CBORTag) and bool(value)


def _scalar(value: Any) -> str:
    match value:
        case None | True | False:
            return json.dumps(value)
        case str():
            return _string(value)
        case bytes() | bytearray():
            # As in the diagnostic notation of CBOR: RFC 8949, section 8.
            if len(value) <= _SHOWN_BYTES:
                return f"h'{value.hex()}'"
            return f"h'{value[:_SHOWN_BYTES].hex()}...' ({len(value):,} bytes)"
        case datetime.datetime():
            return value.isoformat(sep=" ")
        case datetime.date():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID():
            return str(value)
        case dict() | list() | tuple() | set() | frozenset():
            return {dict: "{}", list: "[]", tuple: "[]"}.get(type(value), "set()")
    return _printable(repr(value))
