"""The nine flags of a connection, as data: who sets each, and which may stand together.

A record has one small integer for all of them. The hub and the links set them where the
table says, and nowhere else; tests hold every record of the hub against it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import attrs

__all__ = [
    "BINARY",
    "CLOSE_SENT",
    "CLOSING",
    "DISCARD_INPUT",
    "GONE",
    "PAUSED",
    "RELEASED",
    "RULES",
    "UNGREETED",
    "UNREPORTED",
    "Rule",
]

# Python keeps the integers up to 256 once for all, so all but a released record cost nothing for theirs.
BINARY: Final = 1
"""The client spoke binary last, and is answered in kind."""
CLOSING: Final = 2
"""It has left its room; nothing more of it is handed on, nothing more is sent to it but the close frame."""
CLOSE_SENT: Final = 4
"""The close frame was handed to the link, after which nothing may follow (RFC 6455, 5.5.1)."""
DISCARD_INPUT: Final = 8
"""What comes is read and thrown away: the other side has closed, or broke the protocol."""
PAUSED: Final = 16
"""Nothing is read: its room has to catch up first, or the server stops."""
UNGREETED: Final = 32
"""Its on_connect has not begun: what goes to everybody does not go to it yet."""
UNREPORTED: Final = 64
"""The room is not to be told when the connection ends."""
GONE: Final = 128
"""The end was announced, or is not to be; nothing is sent or heard any more."""
RELEASED: Final = 256
"""Its descriptor is closed, and may be somebody else's."""


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
        CLOSING: Rule("SocketHub.close, slow_consumer, the other side's close frame, a violation"),
        CLOSE_SENT: Rule("whoever sends the close frame", needs=CLOSING),
        DISCARD_INPUT: Rule("the other side's close frame, a violation", needs=CLOSING),
        PAUSED: Rule("Link.pause_reading"),
        UNGREETED: Rule("SocketHub.enter, where the room greets", excludes=CLOSING | GONE),
        UNREPORTED: Rule("SocketHub.close(report=False), Link.stop_reporting", needs=CLOSING | GONE),
        GONE: Rule("the announcement of the end, and SocketHub.release"),
        RELEASED: Rule("SocketHub.release", needs=GONE),
    }
)
"""Each flag with its rule."""
