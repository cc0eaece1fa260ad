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

from collections.abc import Mapping
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


def encode_row(time: float, room: str, connection: int | None, what: int | str) -> bytes:
    """One row."""
    return cbor2.dumps((time, room, connection, what))


def encode_lost(count: int) -> bytes:
    """So many rows could not be kept."""
    return cbor2.dumps({"lost": count})


def encode_end(time: float) -> bytes:
    """The last item: when the recording ended."""
    return cbor2.dumps({"end": time})
