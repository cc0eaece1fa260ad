"""The inboxes of users: writing them, in the transaction that is open, and reading them.

How much is in an inbox is kept beside its user, and one with nothing in it has no row. Places are counted
for all users together, so that none comes twice although inboxes come and go.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from types import NoneType
from typing import Any

from trio_rooms.errors import StoreError
from trio_rooms.stores.base import InboxSize, Offer, Post, Waiting
from trio_rooms.stores.checks import OVERHEAD, encode

from .rows import UNLIMITED, TooLarge

__all__ = ["offer", "post", "read_expired", "read_inbox", "read_size", "read_sizes", "settle"]

_POSTED = "SELECT posted FROM store"
_COUNT_UP = "UPDATE store SET posted = ?"
_FIND = "SELECT id, count, bytes FROM inboxes WHERE user = ?"
_BEGIN = "INSERT INTO inboxes (user, count, bytes) VALUES (?, 0, 0)"
_KEEP = "UPDATE inboxes SET count = ?, bytes = ? WHERE id = ?"
_END = "DELETE FROM inboxes WHERE id = ?"
_PUT = """
INSERT INTO messages (inbox, position, id, expires, priority, room, body) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (inbox, id) DO NOTHING
"""
_OFFER = """
UPDATE messages SET offer_key = ?, offer_sid = ?, offer_seq = ?
WHERE inbox = (SELECT id FROM inboxes WHERE user = ?) AND id = ?
"""
_LOOK = "SELECT length(body) FROM messages WHERE inbox = ? AND id = ?"
_TAKE = "DELETE FROM messages WHERE inbox = ? AND id = ?"

# One whose body is larger than what may be read has a NULL as that.
_COLUMNS = """
position, messages.id, expires, priority, room, offer_key, offer_sid, offer_seq,
CASE WHEN length(body) <= :most THEN body END
"""
_TYPES: tuple[type | tuple[type, ...], ...] = (
    *(int, int, float, int, bytes),
    *((bytes, NoneType), (int, NoneType), (int, NoneType), bytes),
)
_INBOX = f"""
SELECT {_COLUMNS}, :user FROM messages
WHERE inbox = (SELECT id FROM inboxes WHERE user = :user) AND position > :after
ORDER BY position LIMIT :limit
"""
# Joined crosswise: SQLite then reads the left one first, by what has expired.
_EXPIRED = f"""
SELECT {_COLUMNS}, user FROM messages CROSS JOIN inboxes ON inboxes.id = inbox
WHERE expires <= :now AND (expires, position) > (:time, :after)
ORDER BY expires, position LIMIT :limit
"""
_SIZE = "SELECT user, count, bytes FROM inboxes WHERE user = ?"
_SIZES = "SELECT user, count, bytes FROM inboxes WHERE user >= ? AND user < ? ORDER BY user LIMIT ?"


def post(connection: sqlite3.Connection, posts: Iterable[Post]) -> dict[str, InboxSize]:
    """Put messages in; gives how much each of their users has then.

    Raises:
        StoreError: how much is in one of them is damaged; the transaction has to be rolled back.
        sqlite3.Error: the same.
    """
    execute = connection.execute
    (posted,) = execute(_POSTED).fetchone()
    inboxes: dict[str, tuple[int, int, int]] = {}
    for each in posts:
        inbox, count, size = inboxes.get(each.user) or _find_or_begin(connection, each.user)
        row = (inbox, posted + 1, each.id, each.expires, each.priority, encode(each.room), each.body)
        if execute(_PUT, row).rowcount:
            posted += 1
            count += 1
            size += len(each.body) + OVERHEAD
        inboxes[each.user] = inbox, count, size
    connection.executemany(_KEEP, [(count, size, inbox) for inbox, count, size in inboxes.values()])
    execute(_COUNT_UP, (posted,))
    return {user: InboxSize(count, size) for user, (_, count, size) in inboxes.items()}


def _find(connection: sqlite3.Connection, user: bytes) -> tuple[int, int, int] | None:
    """The number of an inbox, and how much is in it; None where there is none.

    Raises:
        StoreError: how much is damaged; the transaction has to be rolled back.
    """
    found: tuple[int, Any, Any] | None = connection.execute(_FIND, (user,)).fetchone()
    if found is not None and not (isinstance(found[1], int) and isinstance(found[2], int)):
        raise _damaged(user, "how much waits", found[1:])
    return found


def _find_or_begin(connection: sqlite3.Connection, user: str) -> tuple[int, int, int]:
    encoded = encode(user)
    found = _find(connection, encoded)
    if found is not None:
        return found
    inbox = connection.execute(_BEGIN, (encoded,)).lastrowid
    assert inbox is not None  # for mypy: it was an INSERT
    return inbox, 0, 0


def offer(connection: sqlite3.Connection, offers: Mapping[int, Offer]) -> None:
    """Write to which sessions messages are on their way; what is not there is passed over."""
    connection.executemany(
        _OFFER,
        [(encode(one.key), one.sid, one.seq, encode(one.user), id_) for id_, one in offers.items()],
    )


def settle(connection: sqlite3.Connection, user: str, ids: Collection[int]) -> None:
    """Remove messages; what is not there is passed over.

    Raises:
        StoreError: how much is in it is damaged; the transaction has to be rolled back.
        sqlite3.Error: the same.
    """
    execute = connection.execute
    found = _find(connection, encode(user))
    if found is None:
        return
    inbox, count, size = found
    for id_ in ids:
        row = execute(_LOOK, (inbox, id_)).fetchone()
        if row is not None:
            execute(_TAKE, (inbox, id_))
            count -= 1
            size -= row[0] + OVERHEAD
    if not count:
        execute(_END, (inbox,))
    elif count != found[1]:
        execute(_KEEP, (count, size, inbox))


def read_inbox(
    connection: sqlite3.Connection, user: bytes, after: int, limit: int, most_bytes: int
) -> list[Waiting]:
    """The messages of one user above a place, at most ``limit``.

    Raises:
        TooLarge: they have more than ``most_bytes`` together.
        StoreError: one of them is damaged.
    """
    return _read(connection, _INBOX, {"user": user, "after": after, "limit": limit}, most_bytes)


def read_expired(
    connection: sqlite3.Connection, now: float, behind: tuple[float, int], limit: int, most_bytes: int
) -> list[Waiting]:
    """What has expired behind a time and a place, at most ``limit``; raises as `read_inbox`."""
    wanted = {"now": now, "time": behind[0], "after": behind[1], "limit": limit}
    return _read(connection, _EXPIRED, wanted, most_bytes)


def _read(
    connection: sqlite3.Connection, statement: str, wanted: Mapping[str, Any], most_bytes: int
) -> list[Waiting]:
    found = []
    # Row by row: a cursor that is dropped early has not read the rest.
    with contextlib.closing(connection.execute(statement, {**wanted, "most": most_bytes})) as rows:
        for *row, user in rows:
            body = row[-1]
            if body is None and most_bytes < UNLIMITED:
                raise TooLarge
            found.append(_waiting(user, row))
            if most_bytes < UNLIMITED:
                most_bytes -= len(body)
                if most_bytes < 0:
                    raise TooLarge
    return found


def _waiting(user: bytes, row: list[Any]) -> Waiting:
    """What a row says.

    Raises:
        StoreError: it is damaged.
    """
    position, id_, expires, priority, room, key, sid, seq, body = row
    for value, expected in zip(row, _TYPES, strict=True):
        if not isinstance(value, expected):
            raise _damaged(user, f"message {id_}", value)
    name = _decoded(user, user)
    post = Post(name, id_, body, expires, priority, _decoded(user, room))
    if key is None:
        return Waiting(position, post)
    return Waiting(position, post, Offer(name, _decoded(user, key), sid, seq))


def read_size(connection: sqlite3.Connection, user: bytes) -> InboxSize:
    """How much waits for one user.

    Raises:
        StoreError: it is damaged.
    """
    row = connection.execute(_SIZE, (user,)).fetchone()
    return InboxSize() if row is None else _size(row)[1]


def read_sizes(
    connection: sqlite3.Connection, within: tuple[bytes, bytes], limit: int
) -> list[tuple[str, InboxSize]]:
    """How much waits for users in a half-open range, at most ``limit``; raises as `read_size`."""
    return [_size(row) for row in connection.execute(_SIZES, (*within, limit)).fetchall()]


def _size(row: tuple[Any, ...]) -> tuple[str, InboxSize]:
    user, count, size = row
    if not (isinstance(count, int) and isinstance(size, int)):
        raise _damaged(user, "how much waits", (count, size))
    return _decoded(user, user), InboxSize(count, size)


def _decoded(user: bytes, name: bytes) -> str:
    try:
        return name.decode()
    except (AttributeError, UnicodeDecodeError):
        raise _damaged(user, "a name", name) from None


def _damaged(user: object, what: str, found: object) -> StoreError:
    name = user.decode(errors="backslashreplace") if isinstance(user, bytes) else repr(user)
    return StoreError(
        f"the inbox of user {name}: {what} is damaged: it is {found!r:.100} of type "
        f"{type(found).__name__}; restore the file from a backup"
    )
