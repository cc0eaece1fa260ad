"""What of one room there is, durable or not: what the store has, beneath what is not written yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from trio_rooms.stores.base import Entry, Store, StoredSession
from trio_rooms.stores.checks import MOST_ENTRIES

from .delta import Delta

__all__ = ["entries", "session", "values"]


async def entries(
    store: Store, key: str, deltas: Sequence[Delta], after: int, until: int, most_bytes: int
) -> list[Entry]:
    """Entries of the journal, limited as `Store.journal`. A checkpoint.

    Args:
        store: where the room is kept.
        key: the room.
        deltas: what is not known to be in the store, in order.
        after: they are behind this one,
        until: and up to this one.
        most_bytes: the limit.

    Raises:
        StoreError: they cannot be read.
    """
    # What is not written yet now is so later, or is there: so it is looked at first.
    pending = {entry.seq: entry for delta in deltas for entry in delta.entries if after < entry.seq <= until}
    stored = await store.journal(key, after, until, most_bytes)
    last = stored[-1].seq if stored else until
    if len(stored) and any(entry.seq > last for entry in pending.values()):
        more = await store.journal(key, last, until, 1)
        if not more:
            last = until
    merged = pending | {entry.seq: entry for entry in stored}
    page: list[Entry] = []
    size = 0
    for seq in sorted(merged):
        if seq > last or (page and size >= most_bytes) or len(page) == MOST_ENTRIES:
            break
        page.append(merged[seq])
        size += len(merged[seq].body)
    return page


def session(sid: int, stored: StoredSession | None, deltas: Sequence[Delta]) -> StoredSession | None:
    """A session as it is; None for one that is not there.

    Args:
        sid: which.
        stored: what the store has of it.
        deltas: what is not known to be in the store, in order.
    """
    room = None if stored is None else stored.room
    link = None if stored is None else stored.link
    opening = None if room is None else room.opening
    for delta in deltas:
        half = delta.sessions.get(sid) or delta.handled.get(sid)
        if half is not None:
            room = delta.rows[sid] if sid in delta.rows else half()
            opening = opening if room is None or room.opening is None else room.opening
            if room is None:
                opening = None
        link = delta.links.get(sid, link)
    if room is None or link is None or opening is None:
        return None
    return StoredSession(sid, attrs.evolve(room, opening=opening), link)


async def values(
    store: Store,
    key: str,
    pending: Mapping[str, bytes | None],
    prefix: str,
    after: str | None,
    limit: int | None,
) -> list[tuple[str, bytes]]:
    """Values of the storage, ordered by name, limited as `Store.list`.

    Args:
        store: where the room is kept.
        key: the room.
        pending: by name, the newest write that is not known to be in the store; None deletes.
        prefix: of the names.
        after: they are behind this one.
        limit: as many at most.

    Raises:
        StoreError: they cannot be read.
    """
    # As they are now: a commit may end while the store reads from before it.
    pending = dict(pending)
    # A deletion that is not durable yet hides a stored name, so as many more are read.
    stored = await store.list(key, prefix, after=after, limit=None if limit is None else limit + len(pending))
    merged: dict[str, bytes | None] = dict(stored)
    merged |= {
        name: encoded
        for name, encoded in pending.items()
        if name.startswith(prefix) and (after is None or name > after)
    }
    found = sorted((name, encoded) for name, encoded in merged.items() if encoded is not None)
    return found if limit is None else found[:limit]
