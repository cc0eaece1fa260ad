"""How every store checks and orders keys and names, and what it refuses in a commit.

A store orders by code point. UTF-8 keeps that order byte by byte, so a store that keeps
bytes may compare them as they are, and a prefix is a range of them.
"""

from __future__ import annotations

from trio_rooms._arguments import whole
from trio_rooms.errors import StaleWrite

from .base import Commit

__all__ = [
    "MOST_ENDED",
    "check_commit",
    "check_epoch",
    "check_limit",
    "differs",
    "encode",
    "encoded_range",
    "is_next",
]

MOST_ENDED = 10_000
"""Rooms of which a store remembers nothing but the number, see `Store.load`."""
_INTEGERS = 2**63
"""What numbers and epochs stay below: the integers that SQLite and CBOR readers elsewhere can hold."""


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
        ValueError: its key or a name cannot be encoded, its number or epoch is out of range, or
            it destroys and writes at once.
        TypeError: its document or a value is not ``bytes``.
    """
    encode(commit.key)
    if not 0 < commit.number < _INTEGERS or not 0 < commit.epoch < _INTEGERS:
        msg = (
            f"room {commit.key}: number and epoch of a commit are from 1 to 2**63 - 1, "
            f"not {commit.number} and {commit.epoch}"
        )
        raise ValueError(msg)
    if commit.document is not None:
        _check_bytes(commit.key, "the document", commit.document)
    for name, value in commit.writes.items():
        encode(name)
        if value is not None:
            _check_bytes(commit.key, f"the value of {name!r}", value)
    if commit.destroy and (commit.document is not None or commit.writes):
        msg = f"room {commit.key}: a commit that destroys a room cannot write to it; make two commits of it"
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


def is_next(commit: Commit, stored: int) -> bool:
    """Whether a commit follows on the number that is stored; False where it has that number again.

    Raises:
        StaleWrite: neither of the two.
    """
    if commit.number == stored + 1:
        return True
    if commit.number == stored:
        return False
    msg = (
        f"room {commit.key}: commit {commit.number} does not follow on the stored {stored}; somebody else "
        "has written this room since it was loaded: load it again"
    )
    raise StaleWrite(msg)


def differs(commit: Commit) -> StaleWrite:
    """The error for a commit that has the number of the last one and says something else."""
    return StaleWrite(
        f"room {commit.key}: the stored commit {commit.number} says something else; somebody else has "
        "written this room since it was loaded: load it again"
    )


def _check_bytes(key: str, what: str, value: object) -> None:
    if not isinstance(value, bytes):
        msg = f"room {key}: {what} must be bytes, not {type(value).__name__}"
        raise TypeError(msg)
