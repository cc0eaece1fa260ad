"""Writing a commit, in the transaction that is open.

What a commit does not have costs nothing: no statement is run for it.
"""

from __future__ import annotations

import sqlite3

from trio_rooms.stores.base import Commit, Opening, RoomHalf
from trio_rooms.stores.checks import check_epoch, check_same, encode, is_next

from . import inboxes
from .newest import GO_ON, LARGE, REPLACE
from .rooms import read_head
from .rows import damaged

__all__ = ["forget_ended", "write"]

# Two joins and no IN or ORDER BY: for those SQLite would make a table at each commit.
_NUMBERS = "rooms.id, number, coalesce(even.generation, -1), coalesce(odd.generation, -1)"
_OTHERS = "seq, before_block, floor, entries, bytes, had_sessions, had_timers"
_FROM = """
FROM rooms LEFT JOIN snapshots AS even ON even.id = 2 * rooms.id
LEFT JOIN snapshots AS odd ON odd.id = 2 * rooms.id + 1
WHERE key = ?
"""
_FIND = f"SELECT {_NUMBERS} {_FROM}"
_FIND_ALL = f"SELECT {_NUMBERS}, {_OTHERS} {_FROM}"
_NEW = (None, 0, -1, -1)
_NO_OTHERS = (0, 0, 0, 0, 0, 0, 0)
_NEW_WITH_ALL = (*_NEW, *_NO_OTHERS)
_ENDED = "SELECT number, nonce FROM ended WHERE key = ?"
_END = "INSERT OR REPLACE INTO ended (key, number, nonce, epoch) VALUES (?, ?, ?, ?)"
_BEGIN = f"INSERT INTO rooms (key, number, nonce, epoch, {_OTHERS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_GO_ON_WITH_ALL = """
UPDATE rooms SET number = ?, nonce = ?, epoch = ?, seq = ?, before_block = ?, floor = ?,
entries = ?, bytes = ?, had_sessions = ?, had_timers = ? WHERE id = ?
"""
_SNAPSHOT = "INSERT OR REPLACE INTO snapshots (generation, document, nonce, epoch, id) VALUES (?, ?, ?, ?, ?)"
_PUT = """
INSERT INTO storage (room, name, value) VALUES (?, ?, ?)
ON CONFLICT (room, name) DO UPDATE SET value = excluded.value
"""
_DELETE = "DELETE FROM storage WHERE room = ? AND name = ?"
_ENTRY = "INSERT INTO journal (room, seq, entries, bytes, time, audience, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_TRIM = "DELETE FROM journal WHERE room = ? AND seq <= ?"
_OPEN_SESSION = """
INSERT INTO sessions (last_id, attachment, channels, token, user, start, span, room, sid)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (room, sid) DO UPDATE SET
last_id = max(last_id, excluded.last_id), attachment = excluded.attachment,
channels = excluded.channels, token = excluded.token, user = excluded.user, start = excluded.start,
span = excluded.span
"""
_SESSION = (
    "UPDATE sessions SET last_id = max(last_id, ?), attachment = ?, channels = ? WHERE room = ? AND sid = ?"
)
_LINK = """
UPDATE sessions SET link = ?, until = ?, pos = ?, departure = ?, over_in = ?, held = ?, presence = ?
WHERE room = ? AND sid = ?
"""
_CLOSE_SESSION = "DELETE FROM sessions WHERE room = ? AND sid = ?"
_NO_VERDICTS = "DELETE FROM verdicts WHERE room = ? AND sid = ?"
_ANSWERED = "DELETE FROM verdicts WHERE room = ? AND sid = ? AND id <= ?"
_VERDICT = "INSERT OR REPLACE INTO verdicts (room, sid, id, content) VALUES (?, ?, ?, ?)"
_IS_THERE = "SELECT 1 FROM sessions WHERE room = ? AND sid = ?"
_TIMER = "INSERT OR REPLACE INTO timers (room, name, due, content) VALUES (?, ?, ?, ?)"
_NO_TIMER = "DELETE FROM timers WHERE room = ? AND name = ?"
_LAPSES = "UPDATE rooms SET lapses = ? WHERE id = ?"
_HAS_ANYTHING = """
SELECT EXISTS (SELECT 1 FROM storage WHERE room = :room) OR EXISTS (SELECT 1 FROM journal WHERE room = :room)
OR EXISTS (SELECT 1 FROM sessions WHERE room = :room) OR EXISTS (SELECT 1 FROM timers WHERE room = :room)
"""
_DESTROY = (
    "DELETE FROM snapshots WHERE id IN (2 * :room, 2 * :room + 1)",
    *(
        f"DELETE FROM {table} WHERE room = :room"
        for table in ("storage", "journal", "sessions", "verdicts", "timers")
    ),
    "DELETE FROM rooms WHERE id = :room",
)


def write(connection: sqlite3.Connection, commit: Commit, epoch: int) -> int | None:
    """Carry out a commit inside the transaction that is open; ``epoch`` is that of the file in it.

    Returns:
        The row of the room's newest snapshot, if it is known to have two, else 0. None where nothing but
        number, nonce and epoch is left of the room by it.

    Raises:
        StaleWrite: nothing of the commit was written, and the transaction can go on.
        StoreError: a number of the room is damaged; the transaction has to be rolled back.
        sqlite3.Error: the transaction has to be rolled back.
    """
    check_epoch(commit, epoch)
    key = encode(commit.key)
    execute = connection.execute
    # What changes none of the numbers beside its own need not know them.
    plain = not (commit.seq or commit.sessions or commit.timers)
    found = execute(_FIND if plain else _FIND_ALL, (key,)).fetchone() or (_NEW if plain else _NEW_WITH_ALL)
    room, number, even, odd = found[:4]
    if type(number) is not int or type(even) is not int or type(odd) is not int:
        raise damaged(key, "the number of its last commit", found[1:4])
    others: tuple[int, ...] = _NO_OTHERS if plain else found[4:]
    newest = ended = None
    if room is None:
        ended = execute(_ENDED, (key,)).fetchone()
        if ended is not None:
            number = ended[0]
    elif even >= 0 or odd >= 0:
        newest = 2 * room if even > odd else 2 * room + 1
        number = max(number, even, odd)
    if not is_next(commit, number, others[0]):
        check_same(commit, read_head(connection, key).nonce)
        return 0
    if commit.sends:
        inboxes.post(connection, commit.sends)
    if commit.destroy:
        _end(connection, commit, key, room)
        return None
    document = commit.document
    if room is None:
        if ended is not None:
            execute("DELETE FROM ended WHERE key = ?", (key,))
        row = (key, commit.number, commit.nonce, commit.epoch, *_others(commit, others))
        room = execute(_BEGIN, row).lastrowid
        assert room is not None  # for mypy: it was an INSERT
    elif not plain:
        changed = _others(commit, others)
        if changed != others or document is None or len(document) > LARGE:
            execute(_GO_ON_WITH_ALL, (commit.number, commit.nonce, commit.epoch, *changed, room))
    elif document is None or len(document) > LARGE:
        execute(GO_ON, (commit.number, commit.nonce, commit.epoch, room))
    if document is not None:
        newest = 2 * room if newest is None else newest ^ 1
        execute(
            _SNAPSHOT if even < 0 or odd < 0 else REPLACE,
            (commit.number, document, commit.nonce, commit.epoch, newest),
        )
    if commit.writes:
        for name, value in commit.writes.items():
            if value is None:
                execute(_DELETE, (room, encode(name)))
            else:
                execute(_PUT, (room, encode(name), value))
    if commit.entries:
        _, _, _, entries, size, *_ = others
        rows = []
        for entry in commit.entries:
            rows.append((room, entry.seq, entries, size, entry.time, entry.audience, entry.body))
            entries += 1
            size += len(entry.body)
        connection.executemany(_ENTRY, rows)
    if commit.trim:
        execute(_TRIM, (room, commit.trim))
    if commit.sessions or commit.links or commit.answered or commit.verdicts:
        _write_sessions(connection, commit, room)
    if commit.timers:
        for name, timer in commit.timers.items():
            if timer is None:
                execute(_NO_TIMER, (room, encode(name)))
            else:
                execute(_TIMER, (room, encode(name), timer.due, timer.content))
    if commit.offers:
        inboxes.offer(connection, commit.offers)
    if commit.lapses is not None:
        execute(_LAPSES, (commit.lapses or None, room))
    if document is None and newest is None and not execute(_HAS_ANYTHING, {"room": room}).fetchone()[0]:
        _end(connection, commit, key, room)
        return None
    has_two = (even >= 0 and odd >= 0) or (document is not None and (even >= 0 or odd >= 0))
    return newest if newest is not None and has_two else 0


def _others(commit: Commit, others: tuple[int, ...]) -> tuple[int, ...]:
    """What rooms has of a room beside its numbers, after a commit."""
    seq, before, floor, entries, size, had_sessions, had_timers = others
    if commit.seq:
        seq, before, floor = commit.seq, commit.before, commit.floor
        for entry in commit.entries:
            entries += 1
            size += len(entry.body)
    if commit.sessions and not had_sessions:
        had_sessions = any(half is not None and half.opening for half in commit.sessions.values())
    if commit.timers and not had_timers:
        had_timers = any(timer is not None for timer in commit.timers.values())
    return seq, before, floor, entries, size, bool(had_sessions), bool(had_timers)


def _write_sessions(connection: sqlite3.Connection, commit: Commit, room: int) -> None:
    known = 0
    changed = []
    for sid, half in commit.sessions.items():
        if half is None:
            connection.execute(_CLOSE_SESSION, (room, sid))
            connection.execute(_NO_VERDICTS, (room, sid))
        elif half.opening is None:
            changed.append((half.last, half.attachment, half.channels, room, sid))
        else:
            _open_session(connection, half, half.opening, room, sid)
            known += 1
    if changed:
        known += connection.executemany(_SESSION, changed).rowcount
    if commit.links:
        links = []
        for sid, link in commit.links.items():
            over_in = room if link.ended else 0
            held = 0 if link.until is None or link.ended else link.pos
            links.append(
                (link.link, link.until, link.pos, link.left, over_in, held, link.presence, room, sid)
            )
        connection.executemany(_LINK, links)
    if commit.answered:
        connection.executemany(_ANSWERED, [(room, sid, id_) for sid, id_ in commit.answered.items()])
    if commit.verdicts:
        rows = [(room, verdict.sid, verdict.id, verdict.content) for verdict in commit.verdicts]
        # A message that was handled changes its session too, so most often it is known to be there.
        if known < len(commit.sessions) or any(row[1] not in commit.sessions for row in rows):
            rows = [row for row in rows if connection.execute(_IS_THERE, row[:2]).fetchone() is not None]
        connection.executemany(_VERDICT, rows)


def _open_session(
    connection: sqlite3.Connection, half: RoomHalf, opening: Opening, room: int, sid: int
) -> None:
    user = None if opening.user is None else encode(opening.user)
    connection.execute(
        _OPEN_SESSION,
        (
            *(half.last, half.attachment, half.channels),
            *(opening.token, user, opening.start, opening.window, room, sid),
        ),
    )


def _end(connection: sqlite3.Connection, commit: Commit, key: bytes, room: int | None) -> None:
    """Keep nothing of a room but what tells its last commit from others."""
    if room is not None:
        for statement in _DESTROY:
            connection.execute(statement, {"room": room})
    connection.execute(_END, (key, commit.number, commit.nonce, commit.epoch))


def forget_ended(connection: sqlite3.Connection, key: bytes) -> None:
    """Forget the number of a room of which nothing else is left; nothing where it has begun again."""
    connection.execute("DELETE FROM ended WHERE key = ?", (key,))
