"""The flags of a connection, as data: who sets each, and which may stand together.

A record has one small integer for all of them, and for its subprotocol. The hub and the links set
the flags where the table says, and nowhere else; tests hold every record of the hub against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import attrs

__all__ = [
    "BINARY",
    "CLOSE_SENT",
    "CLOSING",
    "DISCARD_INPUT",
    "DISMISSED",
    "GONE",
    "OVER",
    "PAUSED",
    "PINGED",
    "RELEASED",
    "REPLAYING",
    "RULES",
    "SESSION",
    "UNGREETED",
    "UNREPORTED",
    "UNWELCOMED",
    "Rule",
    "opening_flags",
    "subprotocol_of",
]

# Python keeps the integers up to 256 once for all, so a parked record costs nothing for its own:
# the lowest bits are those that it may have.
BINARY: Final = 1
"""The client spoke binary last, and is answered in kind."""
_SUBPROTOCOL: Final = 0b11110
"""Not a flag, but a number: that of its subprotocol among those of its room, from 1 on."""
PAUSED: Final = 1 << 5
"""Nothing is read: its room has to catch up first, the server stops, or nothing more can come."""
UNGREETED: Final = 1 << 6
"""Its on_connect has not begun: what goes to everybody does not go to it yet."""
SESSION: Final = 1 << 7
"""It has a session, which outlives it."""
CLOSING: Final = 1 << 8
"""It has left its room; nothing more of it is handed on, nothing more is sent to it but the close frame."""
CLOSE_SENT: Final = 1 << 9
"""The close frame was handed to the link, after which nothing may follow (RFC 6455, 5.5.1)."""
DISCARD_INPUT: Final = 1 << 10
"""What comes is read and thrown away: the other side has closed, or broke the protocol."""
UNREPORTED: Final = 1 << 11
"""The room is not to be told when the connection ends."""
GONE: Final = 1 << 12
"""The end was announced, or is not to be; nothing is sent or heard any more."""
RELEASED: Final = 1 << 13
"""Its descriptor is closed, and may be somebody else's."""
DISMISSED: Final = 1 << 14
"""Its room, or the program, has closed it: what it sent, and is not handled yet, is not handled any more."""
REPLAYING: Final = 1 << 15
"""It is being sent what its session was away for; what else is sent waits in it."""
OVER: Final = 1 << 16
"""Its session ends with it: one of the two sides meant that."""
UNWELCOMED: Final = 1 << 17
"""It has a session, and its client has not been told what it could come back with."""
PINGED: Final = 1 << 18
"""It was asked for a sign of life, or has output that does not move, and nothing came of it since."""


def opening_flags(subprotocols: Sequence[str], chosen: str | None, *, binary: bool) -> int:
    """The flags that a connection begins with.

    Args:
        subprotocols: those of its room, `handshake.MOST_SUBPROTOCOLS` at most.
        chosen: its own, if it has one.
        binary: whether it is spoken to in CBOR.
    """
    number = 0 if chosen is None else subprotocols.index(chosen) + 1
    return number << 1 | (BINARY if binary else 0)


def subprotocol_of(flags: int, subprotocols: Sequence[str]) -> str | None:
    """The subprotocol of a connection with some flags; ``subprotocols`` are those of its room."""
    number = (flags & _SUBPROTOCOL) >> 1
    return subprotocols[number - 1] if number else None


@attrs.frozen
class Rule:
    """What is true of one flag."""

    set_by: str
    needs: int = 0
    """Of these flags one is set where this one is, if there are any."""
    excludes: int = 0
    """None of these is set where this one is."""


RULES: Final = MappingProxyType(
    {
        BINARY: Rule("the handshake, by the subprotocol; then each message, by its kind"),
        CLOSING: Rule("Closing.close and taken_out, the other side's close frame, a violation"),
        CLOSE_SENT: Rule("whoever sends the close frame", needs=CLOSING),
        DISCARD_INPUT: Rule("the other side's close frame, a violation", needs=CLOSING),
        PAUSED: Rule("Link.pause_reading"),
        SESSION: Rule("whoever lets it into its room; cleared where the session ends or goes on elsewhere"),
        REPLAYING: Rule("who resumes it; cleared by SocketHub.let_go"),
        UNWELCOMED: Rule("who begins its session; cleared with the welcome"),
        PINGED: Rule("Keepalive.ping; cleared by whatever is read, or with the last of its output"),
        OVER: Rule("Closing.close, the other side's close frame, who refuses it"),
        UNGREETED: Rule("SocketHub.enter, where the room greets; one with a session keeps it when it leaves"),
        UNREPORTED: Rule("Closing.close(report=False), Closing.close_room", needs=CLOSING | GONE),
        GONE: Rule("SocketHub.ended, and SocketHub.release"),
        RELEASED: Rule("SocketHub.release", needs=GONE),
        DISMISSED: Rule("Closing.close, Closing.close_room; Held.close, before these"),
    }
)
"""Each flag with its rule."""
