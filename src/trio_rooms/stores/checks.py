"""How every store checks and orders keys and names, and what it refuses in a commit.

A store orders by code point. UTF-8 keeps that order byte by byte, so a store that keeps
bytes may compare them as they are, and a prefix is a range of them.
"""

from __future__ import annotations

from .base import Commit

__all__ = ["check_commit", "check_limit", "encode", "encoded_range", "stale_message"]

_GENERATIONS = 2**63
"""What a generation stays below: the integers that SQLite and CBOR readers elsewhere can hold."""


def encode(text: str) -> bytes:
    """A key, name or prefix as UTF-8.

    Raises:
        ValueError: it holds half a surrogate pair, which no encoding of Unicode can carry.
    """
    try:
        return text.encode()
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
    """Refuse a negative limit with ValueError."""
    if limit is not None and limit < 0:
        msg = f"limit must be 0 or more, or None for no limit; it is {limit}"
        raise ValueError(msg)


def check_commit(commit: Commit) -> None:
    """Refuse a commit that no store can carry out, before anything of it is handed over.

    Raises:
        ValueError: its key or a name cannot be encoded, its generation is out of range, or it
            destroys and writes at once.
        TypeError: its document or a value is not ``bytes``.
    """
    encode(commit.key)
    if commit.document is not None:
        _check_bytes(commit.key, "the document", commit.document)
        if not 0 <= commit.generation < _GENERATIONS:
            msg = f"room {commit.key}: a generation is from 0 to 2**63 - 1, not {commit.generation}"
            raise ValueError(msg)
    for name, value in commit.writes.items():
        encode(name)
        if value is not None:
            _check_bytes(commit.key, f"the value of {name!r}", value)
    if commit.destroy and (commit.document is not None or commit.writes):
        msg = f"room {commit.key}: a commit that destroys a room cannot write to it; make two commits of it"
        raise ValueError(msg)


def stale_message(key: str, generation: int, stored: int) -> str:
    """What a `StaleWrite` says."""
    return (
        f"room {key}: generation {generation} is not above the stored {stored}; somebody else has "
        "written this room since it was loaded: load it again"
    )


def _check_bytes(key: str, what: str, value: object) -> None:
    if not isinstance(value, bytes):
        msg = f"room {key}: {what} must be bytes, not {type(value).__name__}"
        raise TypeError(msg)
