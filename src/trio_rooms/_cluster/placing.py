"""Which node a room goes to, where nobody has it yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from .seat import Member

__all__ = ["first", "is_open", "ranked", "serves"]


def ranked(what: str, members: Iterable[Member]) -> list[Member]:
    """The nodes in the order in which something goes to them: the same on each that knows the same nodes.

    When a node comes or goes, only what goes to it moves: rendezvous hashing. It goes by the names of the
    nodes, so that what a node had goes to it again after a restart.
    """
    return sorted(members, key=lambda one: (_weight(one.name, what), one.incarnation), reverse=True)


def first(what: str, members: Iterable[Member]) -> Member | None:
    """The node that something goes to, None where there is no node."""
    return max(members, key=lambda one: (_weight(one.name, what), one.incarnation), default=None)


def _weight(name: str, what: str) -> bytes:
    return hashlib.blake2b(f"{name}\n{what}".encode(), digest_size=8).digest()


def is_open(member: Member) -> bool:
    """Whether a node takes more rooms: it is neither full nor being emptied."""
    about = member.about
    return bool(about.get("open", True)) and not about.get("draining", False)


def serves(member: Member, key: str) -> bool:
    """Whether a node has the definition of a room."""
    rooms = member.about.get("rooms")
    return not isinstance(rooms, list) or key.partition("/")[0] in rooms
