"""One room as the content of a file: out of a store, and into one.

Snapshots and the values of a room's storage are self-describing CBOR, so what wrote them is
not needed to read them. An export is one CBOR map, which any CBOR reader can read::

    {"format": "trio-rooms.room.1", "room": "chat", "id": "lobby", "version": 1,
     "generation": 42, "state": ..., "storage": {"name": ..., ...}}

What CBOR has no form of its own for has a tag in it, as in the snapshots (`trio_rooms._values.exact`).

Sessions, the journal and timers are not in it: they belong to the clients and the clock of one server.
Those of a room that is replaced go with the state that they are of.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

import attrs
import cbor2

from trio_rooms._keys import make_key, split_key
from trio_rooms._state.codec import decode_value
from trio_rooms._state.snapshot import Snapshot
from trio_rooms._values import cbor
from trio_rooms._values.exact import decoder, exact
from trio_rooms.errors import RoomsError
from trio_rooms.stores.base import Commit, Store

from .render import printable
from .stored import (
    Generation,
    checked_key,
    generations_of,
    goes_on,
    newest_intact,
    no_such_room,
    sessions_of,
    storage_of,
    timers_of,
)

__all__ = ["Export", "ExportError", "Restored", "export", "read_export", "restore"]

_FORMAT: Final = "trio-rooms.room.1"
_TRIES: Final = 5
"""How often a room that a server is changing is read again, until its parts fit together."""
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
        return make_key(self.room, self.id)


async def export(store: Store, key: str) -> tuple[bytes, Generation | None]:
    """One room as the content of a file.

    Of a room that a server is changing meanwhile, state and storage are of the same commit.

    Returns:
        The content, and the newest generation if that is damaged and an older one was taken for it.

    Raises:
        UnknownRoom: the store has nothing of it.
        ExportError: no snapshot of it is intact, or it changes too fast to be read.
    """
    for _ in range(_TRIES):
        before = await store.load(key)
        async with aclosing(storage_of(store, key)) as values:
            storage = [item async for item in values]
        if (await store.head(key)).number != before.head.number:
            continue
        if not before.snapshots and not storage and not goes_on(before.head):
            raise no_such_room(key)
        generations = generations_of(key, before.snapshots)
        usable = newest_intact(generations)
        if usable is None or usable.snapshot is None:
            msg = f"room {printable(key)} has no intact snapshot that could be exported"
            raise ExportError(msg)
        try:
            kept = {name: decode_value(value) for name, value in storage}
            newest = generations[0]
            return _pack(usable.snapshot, usable.state, kept), None if usable is newest else newest
        except (cbor2.CBORError, TypeError, ValueError, RecursionError) as error:
            msg = f"room {printable(key)}: a value of it does not decode, or could not be written: {error}"
            raise ExportError(msg) from error
    msg = f"room {printable(key)} was changed each time it was read; stop the server, or try again later"
    raise ExportError(msg)


def _pack(snapshot: Snapshot, state: Any, storage: Mapping[str, Any]) -> bytes:
    return _encoded(
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


def _encoded(value: Any) -> bytes:
    """What was decoded, as it was encoded: tuples and the like are tagged, and not made lists."""
    return cbor.dumps(exact, value, 2 * cbor.DEPTH + 2)


def read_export(content: bytes) -> Export:
    """The inverse of `export`.

    Raises:
        ExportError: it is not what `export` writes; the message says what is wrong.
    """
    stream = io.BytesIO(content)
    try:
        # As deep as `decode_value` goes, and two levels more, inside of which the values of a storage lie.
        decoded = decoder(stream, 2 * cbor.DEPTH + 2).decode()
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
        checked_key(exported.room, exported.id)
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


@attrs.frozen
class Restored:
    """What has become of a room that was written from a file."""

    generation: int
    """The one it has now."""
    sessions: int
    """How many it had, which are gone."""
    entries: int
    """The same of its journal."""
    timers: int


async def restore(store: Store, exported: Export, key: str, *, replace: bool) -> Restored:
    """Write an export into a store, in one commit, in place of all that is there of the room.

    Raises:
        ExportError: the room is there already, and is not to be replaced.
        StoreError: nothing was written.
    """
    name, id_ = split_key(key)
    there = await store.load(key)
    async with aclosing(storage_of(store, key)) as stored:
        gone: dict[str, bytes | None] = {name: None async for name, _ in stored}
    if (there.snapshots or gone or goes_on(there.head)) and not replace:
        msg = f"room {printable(key)} is in the store already; give --replace to replace it, or another KEY"
        raise ExportError(msg)
    generation = there.head.number + 1
    try:
        state = _encoded(exported.state)
        values = {name: _encoded(value) for name, value in exported.storage.items()}
        for encoded in (state, *values.values()):
            decode_value(encoded)  # What cannot be read again is not written.
    except (cbor2.CBORError, TypeError, ValueError, RecursionError) as error:
        msg = f"it holds what cannot be kept: {error}"
        raise ExportError(msg) from error
    snapshot = Snapshot(name, id_, exported.version, generation, store.epoch, state)
    async with aclosing(sessions_of(store, key)) as sessions:
        ended = {session.sid: None async for session in sessions}
    async with aclosing(timers_of(store, key)) as timers:
        stopped = {name: None async for name, _ in timers}
    await store.commit(
        Commit(
            key,
            generation,
            store.epoch,
            snapshot.pack(),
            {**gone, **values},
            trim=there.head.seq,
            sessions=ended,
            timers=stopped,
        )
    )
    return Restored(generation, len(ended), there.head.entries, len(stopped))
