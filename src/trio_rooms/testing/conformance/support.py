"""What the parts of the suite have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trio_rooms.stores.base import Commit, Entry, Opening, RoomHalf, Store, StoredSnapshot

__all__ = [
    "HALF_A_PAIR",
    "NAMES",
    "OPENED",
    "following",
    "loaded",
    "put",
    "raises",
    "selected",
    "selections",
    "sent",
]


@contextlib.contextmanager
def raises(expected: type[BaseException]) -> Iterator[None]:
    """Fail unless an exception of this type is raised: `pytest.raises` without pytest."""
    try:
        yield
    except expected:
        return
    msg = f"{expected.__name__} was not raised"
    raise AssertionError(msg)


NAMES = (
    "", "\0", "\0\0", "\x01", " ", "%", "%%", "*", "/", "?", "A", "Z", "[a]", "\\", "_", "a", "a\0", "a\0b",
    "a%b", "a/", "a/b", "aXb", "a_b", "aa", "ab", "b", "e\u0301", "z", "\x7f", "\u00e9", "\u00ff", "\u07ff",
    "\u0800", "\ud7ff", "\ue000", "\uffff", "\uffffa", "\U00010000", "\U0001f600",
    "\U0010ffff", "\U0010ffff\U0010ffff", "\U0010ffffa",
)  # fmt: skip
"""Names that a store may trip over."""

HALF_A_PAIR = "\ud800"
"""Half a surrogate pair, which has no form in UTF-8: no store can keep it as a name."""
OPENED = RoomHalf(0, None, b"", Opening(b"", None, 0, 1.0))
"""The first of a room's halves, of a session of nobody."""


async def put(
    store: Store,
    key: str,
    number: int,
    document: bytes | None = None,
    writes: Mapping[str, bytes | None] | None = None,
    *,
    destroy: bool = False,
) -> Commit:
    """Commit as the store's present owner; gives the commit, to be repeated."""
    commit = Commit(key, number, store.epoch, document, {} if writes is None else writes, destroy=destroy)
    await store.commit(commit)
    return commit


def following(store: Store, number: int, document: bytes | None = None, **rest: Any) -> Commit:
    """A commit of chat/1 by the store's present owner."""
    return Commit("chat/1", number, store.epoch, document, **rest)


def sent(*seqs: int) -> tuple[Entry, ...]:
    """Entries of one byte, with what a store may change in them."""
    return tuple(Entry(seq, b"to %d" % seq, bytes([seq % 256]), seq + 0.5) for seq in seqs)


async def loaded(store: Store, key: str) -> tuple[int, tuple[StoredSnapshot, ...]]:
    """The number of a room's last commit, and its snapshots."""
    stored = await store.load(key)
    assert stored.head == await store.head(key)
    return stored.head.number, stored.snapshots


def selections() -> Iterator[tuple[str, str | None, int | None]]:
    """Prefixes, starts and limits with which `Store.list` and `Store.keys` may be asked."""
    for prefix in NAMES:
        yield prefix, None, None
        yield prefix, prefix, None
    for after in (*NAMES, "behind", "\0\0\0"):
        yield "", after, None
        yield "", after, 3
        yield "a", after, 2
    for limit in (0, 1, 2, len(NAMES) - 1, len(NAMES), 2**31, 2**40):
        yield "", None, limit
        yield "a", None, limit


def selected(names: Iterable[str], prefix: str, after: str | None, limit: int | None) -> list[str]:
    """Which names a store is to give for a selection, in which order."""
    chosen = sorted(name for name in names if name.startswith(prefix) and (after is None or name > after))
    return chosen if limit is None else chosen[:limit]
