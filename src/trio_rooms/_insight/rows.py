"""A recorded life of rooms as CBOR: one item after the other, as they happened.

The first is a map, which says what the rooms' policies were::

    {"format": "trio-rooms.trace.1", "recording": "5f0c...",
     "policies": {"chat": {"idle_timeout": 300.0, "connection_idle_timeout": 60.0,
                           "message_threshold": 10, "activity_window": 60.0}}}

Then each row is a list of time, room, connection and bytes: ``[12.5, "chat/lobby", 4711, 80]``. The time is
in seconds, and those of one room are in order. In place of the bytes stands ``"here"`` where a connection is
there without having sent anything, and ``"gone"`` where it has left. The connection is null where the room
had something to do that no client sent. A map may say ``{"lost": n}``: so many rows could not be kept. The
last has the time at which the recording ended, ``{"end": 60.0}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Final

import attrs
import cbor2

from trio_rooms._policy.policy import OF_ROOMS, Policy

__all__ = ["FORMAT", "GONE", "HERE", "encode_end", "encode_header", "encode_lost", "encode_row"]

FORMAT: Final = "trio-rooms.trace.1"
HERE: Final = "here"
GONE: Final = "gone"
_SELF_DESCRIBED: Final = 55799
"""The tag by which a file is known to be CBOR (RFC 8949, 3.4.6)."""

# Rows are made by hand: cbor2 takes longer for one than the server for the message.
_begin_row: Final = Struct(">BBd").pack
"""A list of four, and its first, a float."""
_number: Final = Struct(">BQ").pack
_LIST: Final = 0x84
_FLOAT: Final = 0xFB
_UNSIGNED: Final = 0x1B
_NULL: Final = b"\xf6"
_WORDS: Final = {word: cbor2.dumps(word) for word in (HERE, GONE)}
_SMALL: Final = tuple(cbor2.dumps(number) for number in range(256))
"""What most messages have of bytes."""


def encode_header(policies: Mapping[str, Policy], recording: str = "") -> bytes:
    """What a recording begins with.

    Args:
        policies: those of the rooms, by name.
        recording: by which name the server knows it while it goes on.
    """
    told = {
        name: attrs.asdict(policy, filter=lambda field, _: field.name in OF_ROOMS)
        for name, policy in policies.items()
    }
    header = {"format": FORMAT, "recording": recording, "policies": told}
    return cbor2.dumps(cbor2.CBORTag(_SELF_DESCRIBED, header))


def encode_room(room: str) -> bytes:
    """A room's key, as rows have it.

    Raises:
        UnicodeEncodeError: it is no text.
    """
    return cbor2.dumps(room)


def encode_row(time: float, room: bytes, connection: int | None, what: int | str) -> bytes:
    """One row.

    Args:
        time: in seconds.
        room: what `encode_room` gave.
        connection: its number, or None.
        what: bytes, `HERE` or `GONE`.
    """
    who = _NULL if connection is None else _number(_UNSIGNED, connection)
    if isinstance(what, str):
        last = _WORDS[what]
    else:
        last = _SMALL[what] if what < len(_SMALL) else _number(_UNSIGNED, what)
    return _begin_row(_LIST, _FLOAT, time) + room + who + last


def encode_here(time: float, room: bytes, connections: Iterable[int]) -> bytes:
    """A row for each of some connections that are there; arguments as those of `encode_row`."""
    begins, ends = _begin_row(_LIST, _FLOAT, time) + room, _WORDS[HERE]
    return b"".join([begins + _number(_UNSIGNED, one) + ends for one in connections])


def encode_lost(count: int) -> bytes:
    """So many rows could not be kept."""
    return cbor2.dumps({"lost": count})


def encode_end(time: float) -> bytes:
    """The last item: when the recording ended."""
    return cbor2.dumps({"end": time})
