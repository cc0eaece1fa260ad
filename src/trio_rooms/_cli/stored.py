"""Rooms as a store has them, read without their definitions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

import attrs
import cbor2

from trio_rooms._definition.room import Room
from trio_rooms._keys import make_key, split_key
from trio_rooms._state.codec import decode_value
from trio_rooms._state.snapshot import Snapshot
from trio_rooms.errors import SnapshotCorrupt, SnapshotError, UnknownRoom
from trio_rooms.stores.base import RoomHead, Store, StoredSession, StoredSnapshot, Timer

from .render import printable

__all__ = [
    "Generation",
    "all_keys",
    "check_key",
    "checked_key",
    "generations_of",
    "goes_on",
    "newest_intact",
    "no_such_room",
    "sessions_of",
    "storage_of",
    "timers_of",
    "waiting_in",
]

_PAGE: Final = 64
"""Rooms, and values, sessions or timers of one, that are in memory at a time."""
_PAGE_OF_USERS: Final = 1000
"""The same for users: of each there is only how much waits."""


def check_key(key: str) -> str:
    """Return a key if it is one.

    Raises:
        UnknownRoom: it is not ``name/id``, or its id is not allowed.
        DefinitionError: its name is not allowed.
    """
    if "/" not in key:
        msg = f"{key!r} is no room's key; a key is NAME/ID, like chat/lobby"
        raise UnknownRoom(msg)
    return checked_key(*split_key(key))


def checked_key(name: str, id_: str) -> str:
    """The key of a room, whose name and id may be anything.

    Raises:
        UnknownRoom: the id is not allowed.
        DefinitionError: the name is not allowed.
    """
    Room(name)  # A name is what a definition may have.
    return make_key(name, id_)


async def all_keys(store: Store) -> AsyncGenerator[str, None]:
    """The keys of all rooms, in order, a page at a time."""
    last: str | None = None
    while keys := await store.keys(after=last, limit=_PAGE):
        for key in keys:
            yield key
        last = keys[-1]


async def storage_of(store: Store, key: str) -> AsyncGenerator[tuple[str, bytes], None]:
    """Names and encoded values of a room's storage, in order, a page at a time."""
    last: str | None = None
    while values := await store.list(key, after=last, limit=_PAGE):
        for name, value in values:
            yield name, value
        last = values[-1][0]


async def sessions_of(store: Store, key: str) -> AsyncGenerator[StoredSession, None]:
    """The sessions of a room by their ids, a page at a time."""
    last = 0
    while sessions := await store.sessions(key, after=last, limit=_PAGE):
        for session in sessions:
            yield session
        last = sessions[-1].sid


async def timers_of(store: Store, key: str) -> AsyncGenerator[tuple[str, Timer], None]:
    """The timers of a room by their names, a page at a time."""
    last: str | None = None
    while timers := await store.timers(key, after=last, limit=_PAGE):
        for timer in timers:
            yield timer
        last = timers[-1][0]


async def waiting_in(store: Store) -> tuple[int, int]:
    """How many messages wait for how many users; read a page of users at a time, and no message."""
    messages = users = 0
    last: str | None = None
    while inboxes := await store.inboxes(after=last, limit=_PAGE_OF_USERS):
        users += len(inboxes)
        messages += sum(size.count for _, size in inboxes)
        last = inboxes[-1][0]
    return messages, users


@attrs.frozen
class Generation:
    """One stored generation: what it says, or what is wrong with it."""

    stored: StoredSnapshot
    snapshot: Snapshot | None = None
    """None if it is damaged."""
    state: Any = None
    """The state, plain."""
    fault: str | None = None
    """What is wrong with it; None if it can be read."""
    damaged: bool = False
    """Whether it is not as it was written, so that the one before it is taken."""


def generations_of(key: str, found: Iterable[StoredSnapshot]) -> list[Generation]:
    """What the snapshots of a room say, newest first, as `Store.load` gives them."""
    return [_examine(key, stored) for stored in found]


def _examine(key: str, stored: StoredSnapshot) -> Generation:
    """Decode a snapshot with its state, or find out what is wrong with it."""
    try:
        snapshot = Snapshot.of(key, stored)
        return Generation(stored, snapshot, decode_value(snapshot.state))
    except SnapshotError as error:
        return Generation(stored, fault=error.why, damaged=isinstance(error, SnapshotCorrupt))
    except (cbor2.CBORDecodeError, RecursionError) as error:
        return Generation(stored, fault=f"its state does not decode: {error}")


def newest_intact(generations: Iterable[Generation]) -> Generation | None:
    """The one that a server would take: the newest that is not damaged, if it can be read."""
    newest = next((one for one in generations if not one.damaged), None)
    return newest if newest is not None and newest.fault is None else None


def goes_on(head: RoomHead) -> bool:
    """Whether a room has something beside state and storage, which clients or the clock come back to."""
    return bool(head.entries or head.has_sessions or head.has_timers)


def no_such_room(key: str) -> UnknownRoom:
    """The error for a room of which a store has nothing."""
    return UnknownRoom(
        f"the store has no room {printable(key)}; without a KEY, inspect lists the rooms it has"
    )
