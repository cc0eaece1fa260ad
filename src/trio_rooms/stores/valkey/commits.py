"""A commit as the arguments of the function that carries it out."""

from __future__ import annotations

from typing import Any, Final

from trio_rooms._valkey import Argument
from trio_rooms.errors import StaleWrite, StoreError, StoreFull
from trio_rooms.stores.base import Commit
from trio_rooms.stores.checks import encode

from .rows import (
    above,
    eight,
    number,
    pack_entry,
    pack_link,
    pack_offer,
    pack_opening,
    pack_post,
    pack_room,
    pack_timer,
)

__all__ = ["MOST_BYTES", "arguments", "check_size", "judge", "reduces", "refusal"]

MOST_BYTES: Final = 32 * 2**20
"""Of one document, value or body: what is larger cannot be read in one answer."""


def check_size(commit: Commit) -> None:
    """Refuse what could be written, and never be read.

    Raises:
        StoreFull: something in it is too large.
    """
    largest = len(commit.document or b"")
    for value in commit.writes.values():
        largest = max(largest, len(value or b""))
    for entry in commit.entries:
        largest = max(largest, len(entry.body))
    for timer in commit.timers.values():
        largest = max(largest, 0 if timer is None else len(timer.content))
    for half in commit.sessions.values():
        largest = max(largest, 0 if half is None else len(half.attachment or b""))
    for verdict in commit.verdicts:
        largest = max(largest, len(verdict.content))
    for post in commit.sends:
        largest = max(largest, len(post.body))
    if largest > MOST_BYTES:
        raise StoreFull(
            f"room {commit.key}: the engine keeps at most {MOST_BYTES >> 20} MiB in one piece, not "
            f"{largest:,} bytes; nothing was written"
        )


def arguments(prefix: bytes, commit: Commit, counter: bytes, count: int) -> list[Argument]:
    """What the function is given.

    Args:
        prefix: what all keys begin with.
        commit: what is written.
        counter: which counter says who may write.
        count: what it has to be.
    """
    lapses: bytes = b"" if commit.lapses is None else number(commit.lapses) if commit.lapses else b"0"
    given: list[Argument] = [
        *(prefix, encode(commit.key), counter, count),
        *(commit.epoch, commit.number, commit.number - 1, commit.nonce),
        commit.seq,
        commit.entries[0].seq if commit.entries else 0,
        b"1" if commit.destroy else b"",
        b"" if commit.document is None else b"1",
        commit.document or b"",
        lapses,
        b"",
    ]
    letters = ""
    if commit.writes:
        letters += "v"
        given.append(len(commit.writes))
        for name, value in commit.writes.items():
            given += (encode(name), b"" if value is None else b"1", value or b"")
    if commit.seq or commit.trim:
        letters += "j"
        given += (commit.before, commit.floor, commit.trim, len(commit.entries))
        given += map(pack_entry, commit.entries)
    if commit.sessions:
        letters += "r"
        given.append(len(commit.sessions))
        for sid, half in commit.sessions.items():
            if half is None:
                given += (eight(sid), above(sid), b"", b"", b"")
            else:
                opening = b"" if half.opening is None else pack_opening(half.opening)
                given += (eight(sid), b"", half.last, pack_room(half), opening)
    if commit.links:
        letters += "c"
        given.append(len(commit.links))
        for sid, link in commit.links.items():
            given += (eight(sid), pack_link(link))
    if commit.verdicts or commit.answered:
        letters += "y"
        given.append(len(commit.answered))
        for sid, id_ in commit.answered.items():
            given += (eight(sid), eight(sid) + above(id_))
        given.append(len(commit.verdicts))
        for verdict in commit.verdicts:
            place = eight(verdict.sid)
            given += (place, place + eight(verdict.id), place + above(verdict.id), verdict.content)
    if commit.timers:
        letters += "t"
        given.append(len(commit.timers))
        for name, timer in commit.timers.items():
            if timer is None:
                given += (encode(name), b"", b"", b"")
            else:
                given += (encode(name), b"1", *pack_timer(timer))
    if commit.sends:
        letters += "p"
        given.append(len(commit.sends))
        for post in commit.sends:
            given += pack_post(post)
    if commit.offers:
        letters += "f"
        given.append(len(commit.offers))
        for id_, offer in commit.offers.items():
            given += (encode(offer.user), eight(id_), pack_offer(offer))
    given[14] = letters
    return given


def reduces(commit: Commit) -> bool:
    """Whether a commit takes away, and adds nothing: it is to be carried out where memory has run out.

    That a connection has gone counts as taking away, since its session ends by that some day.
    """
    if commit.document is not None or commit.entries or commit.verdicts or commit.sends or commit.offers:
        return False
    kinds = (commit.writes, commit.sessions, commit.timers)
    return not any(what is not None for kind in kinds for what in kind.values())


def judge(commit: Commit, answer: Any) -> bool:
    """What an answer to a commit means.

    Returns:
        Whether it was carried out, or else has to be sent again once the room's sessions are repaired.

    Raises:
        StoreError: it is refused.
    """
    if answer == b"OK" or answer[0] == b"same":
        return True
    if answer[0] == b"repair":
        return False
    raise refusal(commit, answer[0], answer[1].decode() if len(answer) > 1 else "")


def refusal(commit: Commit, why: bytes, found: str) -> StoreError:
    """Why the server has refused a commit.

    Args:
        commit: which.
        why: the kind.
        found: what it has.
    """
    who = f"room {commit.key}: "
    again = "somebody else has written this room since it was loaded: load it again"
    match why:
        case b"opened":
            return StaleWrite(
                f"{who}a commit of epoch {commit.epoch} is refused: the store was opened for writing since, "
                "and whoever did that is the only one to write now"
            )
        case b"claimed":
            return StaleWrite(
                f"{who}a commit of epoch {commit.epoch} is refused, the room has epoch {found}: another node "
                "has taken it"
            )
        case b"number":
            return StaleWrite(f"{who}commit {commit.number} does not follow on the stored {found}; {again}")
        case b"nonce":
            return StaleWrite(f"{who}the stored commit {commit.number} is another; {again}")
        case b"seq":
            first = commit.entries[0].seq if commit.entries else commit.seq
            return StaleWrite(f"{who}seq {first} does not follow on the stored {found}; {again}")
    return StoreError(f"{who}the engine has answered {why!r:.100} to a commit")
