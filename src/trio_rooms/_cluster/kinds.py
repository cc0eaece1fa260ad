"""What goes through lanes: the kinds of messages, and what follows each."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ABORT",
    "CLOSE",
    "DRAIN",
    "DRAINED",
    "ENTER",
    "FRAMES",
    "GONE",
    "KIND",
    "LEFT",
    "MAIL",
    "PAUSE",
    "SLOW",
]

# From a socket's gateway to its room's home. Sockets of one room at one gateway are those of an uplink, which
# the gateway gives a number; a socket in it has the number that it has at the gateway.
ENTER: Final = 16
"""A socket comes: uplink, the room's key, socket, user, attachment, flags, whether it speaks in envelopes,
the token that it comes back with, seq, presence."""
MAIL: Final = 17
"""A message of a socket: uplink, socket, message."""
GONE: Final = 18
"""A socket is gone: uplink, socket, code, reason, whether with a handshake. Once for each that came."""
SLOW: Final = 19
"""A socket does not take what it is sent, or does again: uplink, socket, whether it is slow."""
DRAINED: Final = 20
"""All that a socket was sent before is written: uplink, socket, the number of the question."""
LEFT: Final = 21
"""A socket is closed as too slow: it is in its room no more, and that it is gone follows: uplink, socket."""
KIND: Final = 22
"""A socket is to be spoken to in another kind, as it has said where only the gateway has heard it: uplink,
socket, whether that is binary."""

# From the home to the gateway.
FRAMES: Final = 24
"""A frame: uplink, to whom, frame. To whom is a number, several packed in 8 bytes each, or an array of one
number: to the same as the last list of that uplink that began with this number."""
CLOSE: Final = 25
"""A socket is to be closed: uplink, socket, code, reason."""
ABORT: Final = 26
"""It is to be cut off: uplink, socket."""
PAUSE: Final = 27
"""Whether nothing more is to be read of a socket for a while: uplink, socket, whether."""
DRAIN: Final = 28
"""A question when all is written: uplink, socket, number."""
