"""Close codes: the names of those that are used here, and which of all may be sent."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["PASSING", "CloseCode", "is_close_code"]


class CloseCode(enum.IntEnum):
    """Why a connection is closed: RFC 6455 section 7.4.1 and the IANA registry that it began."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    NO_STATUS = 1005
    """Never on the wire: the close frame had no code."""
    ABNORMAL = 1006
    """Never on the wire: the connection ended without a close frame."""
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    TRY_AGAIN_LATER = 1013
    TAKEN = 4001
    """Another connection has taken the session."""


PASSING: Final = frozenset(
    (CloseCode.GOING_AWAY, CloseCode.INTERNAL_ERROR, CloseCode.RESTART, CloseCode.TRY_AGAIN_LATER)
)
"""What a server closes with that does not mean this client: it may come back, and go on."""


# First and last of each range that may stand in a close frame. 1004 is reserved, 1005, 1006 and
# 1015 are for local use; 1012 to 1014 were registered with IANA after the RFC; 3000 to 3999 are
# for libraries and 4000 to 4999 for applications (RFC 6455 section 7.4.2).
_SENDABLE: Final = ((1000, 1003), (1007, 1014), (3000, 4999))


def is_close_code(code: int) -> bool:
    """Whether a code may stand in a close frame, sent or received."""
    return any(first <= code <= last for first, last in _SENDABLE)
