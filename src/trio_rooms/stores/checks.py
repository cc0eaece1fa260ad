"""How every store checks and orders keys and names, and what it refuses in a commit.

A store orders by code point. UTF-8 keeps that order byte by byte, so a store that keeps
bytes may compare them as they are, and a prefix is a range of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from trio_rooms._arguments import whole
from trio_rooms.errors import StaleWrite

from .base import Commit, Post

__all__ = [
    "MOST_ENDED",
    "MOST_ENTRIES",
    "OVERHEAD",
    "check_commit",
    "check_epoch",
    "check_ids",
    "check_limit",
    "check_posts",
    "check_same",
    "encode",
    "encoded_range",
    "is_next",
    "writes_more",
]

MOST_ENDED = 10_000
"""Rooms of which a store remembers nothing but the number, see `Store.load`."""
MOST_ENTRIES = 1000
"""Entries of a journal that are read at once."""
OVERHEAD = 50
"""Bytes that a message in an inbox counts beside its body: about what its row has around that."""
_INTEGERS = 2**63
"""What whole numbers stay below: the integers that SQLite and CBOR readers elsewhere can hold."""
_SID = "the id of a session"
_LATEST = 2.0**62
"""What times stay below: many times the age of the world, and no infinity, which is never due."""


def encode(text: str) -> bytes:
    """A key, name or prefix as UTF-8.

    Raises:
        TypeError: it is no string.
        ValueError: it holds half a surrogate pair, which no encoding of Unicode can carry.
    """
    try:
        return text.encode()
    except AttributeError:
        msg = f"a key or a name in a store is a string, not {text!r:.100} of type {type(text).__name__}"
        raise TypeError(msg) from None
    except UnicodeEncodeError as exc:
        msg = (
            f"{text!r} cannot be a key or a name in a store: the character at {exc.start} is half a "
            "surrogate pair; decode what it came from with errors='strict' or errors='replace'"
        )
        raise ValueError(msg) from None


def encoded_range(prefix: str, after: str | None) -> tuple[bytes, bytes]:
    """The half-open range of UTF-8 strings that start with ``prefix`` and come behind ``after``."""
    lower = encode(prefix)
    # No byte of UTF-8 is 0xFF, so the last one can always be counted up, even that of U+10FFFF.
    upper = lower[:-1] + bytes([lower[-1] + 1]) if lower else b"\xff"
    if after is not None:
        # The string that follows directly on another is that one and a NUL.
        lower = max(lower, encode(after) + b"\0")
    return lower, upper


def check_limit(limit: int | None) -> None:
    """Refuse a limit that is no whole number with TypeError, a negative one with ValueError."""
    if limit is not None:
        whole("limit", limit)


def check_commit(commit: Commit) -> None:
    """Refuse a commit that no store can carry out, before anything of it is handed over.

    Raises:
        ValueError: its key or a name cannot be encoded, a number of it is out of range, its entries do
            not ascend, or it destroys and writes at once.
        TypeError: what is to be ``bytes`` is something else.
    """
    encode(commit.key)
    if not (0 < commit.number < _INTEGERS and 0 < commit.epoch < _INTEGERS and 0 < commit.nonce < _INTEGERS):
        msg = (
            f"room {commit.key}: number, epoch and nonce of a commit are from 1 to 2**63 - 1, "
            f"not {commit.number}, {commit.epoch} and {commit.nonce}"
        )
        raise ValueError(msg)
    if commit.document is not None:
        _check_bytes(commit, "the document", commit.document)
    for name, value in commit.writes.items():
        encode(name)
        if value is not None:
            _check_bytes(commit, f"the value of {name!r}", value)
    if commit.entries or commit.seq or commit.before or commit.floor or commit.trim:
        _check_journal(commit)
    if commit.sessions or commit.links or commit.answered or commit.verdicts:
        _check_sessions(commit)
    for name, timer in commit.timers.items():
        encode(name)
        if timer is not None:
            _check_bytes(commit, f"the content of the timer {name!r}", timer.content)
            if timer.due is not None and not -_LATEST < timer.due < _LATEST:
                raise _no_time(commit, f"the time of the timer {name!r}", timer.due)
    if commit.sends:
        check_posts(commit.sends)
    if commit.offers:
        _check_offers(commit)
    if commit.lapses is not None and not -_LATEST < commit.lapses < _LATEST:
        raise _no_time(commit, "when it is looked at whether it may go", commit.lapses)
    if commit.destroy and (commit.document is not None or writes_more(commit)):
        msg = f"room {commit.key}: a commit that destroys a room cannot write to it; make two commits of it"
        raise ValueError(msg)


def writes_more(commit: Commit) -> bool:
    """Whether a commit writes something of its room beside a snapshot."""
    return bool(
        commit.writes
        or commit.entries
        or commit.seq
        or commit.trim
        or commit.sessions
        or commit.links
        or commit.verdicts
        or commit.answered
        or commit.timers
        or commit.offers
        or commit.lapses is not None
    )


# What follows is run for each message of a committed room: nothing is formatted before it is refused.


def _check_journal(commit: Commit) -> None:
    last = 0
    for entry in commit.entries:
        if entry.seq <= last:
            msg = f"room {commit.key}: entry {entry.seq} cannot come after {last}; entries ascend, from 1 on"
            raise ValueError(msg)
        last = entry.seq
        if type(entry.audience) is not bytes or type(entry.body) is not bytes:
            _check_bytes(commit, f"the audience of entry {last}", entry.audience)
            _check_bytes(commit, f"the body of entry {last}", entry.body)
        if not -_LATEST < entry.time < _LATEST:
            raise _no_time(commit, f"the time of entry {last}", entry.time)
    if not last <= commit.seq < _INTEGERS:
        raise _out_of_range(commit, "seq, that of the last entry or more,", commit.seq, last)
    if not (0 <= commit.before <= commit.seq and 0 <= commit.floor <= commit.seq):
        msg = (
            f"room {commit.key}: before and floor are from 0 to seq, {commit.seq}, "
            f"not {commit.before} and {commit.floor}"
        )
        raise ValueError(msg)
    if not 0 <= commit.trim < _INTEGERS:
        raise _out_of_range(commit, "trim", commit.trim, 0)


def _check_sessions(commit: Commit) -> None:
    for sid, half in commit.sessions.items():
        if not 0 < sid < _INTEGERS:
            raise _out_of_range(commit, _SID, sid)
        if half is None:
            continue
        if not 0 <= half.last < _INTEGERS:
            raise _out_of_range(commit, f"the last id of session {sid}", half.last, 0)
        if type(half.channels) is not bytes:
            _check_bytes(commit, f"the channels of session {sid}", half.channels)
        if half.attachment is not None and type(half.attachment) is not bytes:
            _check_bytes(commit, f"the attachment of session {sid}", half.attachment)
        opening = half.opening
        if opening is not None:
            _check_bytes(commit, f"the token of session {sid}", opening.token)
            if opening.user is not None:
                encode(opening.user)
            if not 0 <= opening.start < _INTEGERS:
                raise _out_of_range(commit, f"the start of session {sid}", opening.start, 0)
            if not 0 <= opening.window < _LATEST:
                raise _no_time(commit, f"the window of session {sid}", opening.window)
    for sid, link in commit.links.items():
        if not 0 < sid < _INTEGERS:
            raise _out_of_range(commit, _SID, sid)
        for value in (link.link, link.pos):
            if not 0 <= value < _INTEGERS:
                raise _out_of_range(commit, f"the connection or the position of session {sid}", value, 0)
        _check_bytes(commit, f"how the connection of session {sid} ended", link.left)
        _check_bytes(commit, f"the presence of session {sid}", link.presence)
        if link.until is not None and not -_LATEST < link.until < _LATEST:
            raise _no_time(commit, f"the end of session {sid}", link.until)
    for sid, id_ in commit.answered.items():
        if not 0 < sid < _INTEGERS:
            raise _out_of_range(commit, _SID, sid)
        if not 0 <= id_ < _INTEGERS:
            raise _out_of_range(commit, f"an id of session {sid}", id_, 0)
    for verdict in commit.verdicts:
        if not 0 < verdict.sid < _INTEGERS:
            raise _out_of_range(commit, _SID, verdict.sid)
        if not 0 < verdict.id < _INTEGERS:
            raise _out_of_range(commit, f"an id of session {verdict.sid}", verdict.id)
        if type(verdict.content) is not bytes:
            _check_bytes(commit, f"verdict {verdict.id} of session {verdict.sid}", verdict.content)


def _check_offers(commit: Commit) -> None:
    for id_, offer in commit.offers.items():
        encode(offer.user)
        encode(offer.key)
        for what, value in (("message", id_), ("session", offer.sid), ("entry", offer.seq)):
            if not 0 < value < _INTEGERS:
                raise _out_of_range(commit, f"the {what} of an offer", value)


def check_posts(posts: Iterable[Post]) -> None:
    """Refuse messages for users that no store can keep.

    Raises:
        ValueError: a user or a room cannot be encoded, or a number is out of range.
        TypeError: a body is not ``bytes``, or a user or room no string.
    """
    for post in posts:
        encode(post.user)
        encode(post.room)
        if not 0 < post.id < _INTEGERS:
            msg = f"the id of a message for user {post.user} is from 1 to 2**63 - 1, not {post.id}"
            raise ValueError(msg)
        if type(post.body) is not bytes:
            msg = f"the body of message {post.id} for user {post.user} must be bytes, not {post.body!r:.100}"
            raise TypeError(msg)
        if not (-_LATEST < post.expires < _LATEST and post.priority in {0, 1, 2}):
            msg = (
                f"message {post.id} for user {post.user} expires at a finite number of seconds and has the "
                f"priority 0, 1 or 2, not {post.expires} and {post.priority}"
            )
            raise ValueError(msg)


def check_ids(ids: Iterable[int]) -> None:
    """Refuse what cannot be the id of a message with ValueError."""
    for id_ in ids:
        if not 0 < id_ < _INTEGERS:
            msg = f"the id of a message is from 1 to 2**63 - 1, not {id_}"
            raise ValueError(msg)


def check_epoch(commit: Commit, epoch: int) -> None:
    """Refuse a commit whose epoch is not the store's present one.

    Raises:
        StaleWrite: the store was opened by somebody else since.
    """
    if commit.epoch != epoch:
        msg = (
            f"room {commit.key}: a commit of epoch {commit.epoch} is refused, the store has epoch {epoch}: "
            "it was opened for writing since, and whoever did that is the only one to write now"
        )
        raise StaleWrite(msg)


def is_next(commit: Commit, number: int, seq: int) -> bool:
    """Whether a commit follows on the number that is stored; False where it has that number again.

    Args:
        commit: which commit.
        number: that of the last one.
        seq: the highest that was given out.

    Raises:
        StaleWrite: neither of the two, or its seqs do not go on from there.
    """
    if commit.number != number + 1:
        if commit.number == number:
            return False
        msg = (
            f"room {commit.key}: commit {commit.number} does not follow on the stored {number}; somebody "
            "else has written this room since it was loaded: load it again"
        )
        raise StaleWrite(msg)
    if commit.seq and (commit.seq < seq or (commit.entries and commit.entries[0].seq <= seq)):
        first = commit.entries[0].seq if commit.entries else commit.seq
        msg = (
            f"room {commit.key}: seq {first} does not follow on the stored {seq}; somebody else has written "
            "this room since it was loaded: load it again"
        )
        raise StaleWrite(msg)
    return True


def check_same(commit: Commit, nonce: int) -> None:
    """Refuse a commit that has the number of the last one, and is not that one.

    Raises:
        StaleWrite: its nonce is another than ``nonce``, that of the last one.
    """
    if commit.nonce != nonce:
        msg = (
            f"room {commit.key}: the stored commit {commit.number} is another; somebody else has written "
            "this room since it was loaded: load it again"
        )
        raise StaleWrite(msg)


def _check_bytes(commit: Commit, what: str, value: object) -> None:
    if not isinstance(value, bytes):
        msg = f"room {commit.key}: {what} must be bytes, not {type(value).__name__}"
        raise TypeError(msg)


def _out_of_range(commit: Commit, what: str, value: int, least: int = 1) -> ValueError:
    return ValueError(f"room {commit.key}: {what} is from {least} to 2**63 - 1, not {value}")


def _no_time(commit: Commit, what: str, value: float) -> ValueError:
    return ValueError(f"room {commit.key}: {what} is a finite number of seconds, not {value}")
