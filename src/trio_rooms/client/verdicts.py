"""The end of a connection: what it says about trying again."""

from __future__ import annotations

from typing import Final

import attrs

from trio_rooms._wire.close_codes import CloseCode

__all__ = ["TAKEN", "TOKEN_EXPIRED", "Ending", "LinkEnded", "LinkLost", "closed", "refused"]

TAKEN: Final = 4001
"""Another connection took the session."""
TOKEN_EXPIRED: Final = 4003

_FOR_GOOD: Final = frozenset(
    (
        CloseCode.NORMAL,  # The room was destroyed.
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED,
        CloseCode.INVALID_DATA,
        CloseCode.POLICY,
        CloseCode.TOO_BIG,
        *range(4000, 5000),  # The application's own; and 4001, another connection took the session.
    )
)
"""Close codes after which the same client would be closed again."""

_PASSING: Final = frozenset((408, 425, 429))
"""HTTP statuses below 500 that are about the moment, and not about who asks."""

_LONGEST_WAIT: Final = 300.0
"""Seconds of a Retry-After that are believed."""


@attrs.frozen
class Ending:
    """How the server ended it for good."""

    status: int | None
    code: int | None
    reason: str


class LinkEnded(Exception):
    """A connection was refused or closed for good. Never seen outside of this package."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending: Ending = ending


class LinkLost(Exception):
    """A connection failed or was lost, and the next may do better. Never seen outside of this package.

    Args:
        why: what happened, for people.
        retry_after: seconds that the server wants to be left alone.
        answered: whether it was the server that said no, so that nothing of it is still under way.
    """

    def __init__(self, why: str, retry_after: float = 0, *, answered: bool = False) -> None:
        super().__init__(why)
        self.why: str = why
        self.retry_after: float = retry_after
        self.answered: bool = answered


def closed(code: int, reason: str) -> LinkLost | LinkEnded:
    """What a server's close frame says; 1005 for one without a code, 1006 for none at all."""
    if code in _FOR_GOOD:
        return LinkEnded(Ending(None, code, reason))
    if code == CloseCode.ABNORMAL:
        return LinkLost("the connection broke")
    return LinkLost(f"closed with {code}: {reason}" if reason else f"closed with {code}")


def refused(status: int, reason: str, retry_after: str) -> LinkLost | LinkEnded:
    """What the response to a handshake says that was not 101.

    Args:
        status: its status.
        reason: the first words of its body.
        retry_after: its header ``Retry-After``; a date in it is not read.
    """
    # What is below 400 is a redirect, or no WebSocket at all: it will be the same the next time.
    if status < 500 and status not in _PASSING:
        return LinkEnded(Ending(status, None, reason))
    wait = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else 0
    return LinkLost(f"refused with HTTP {status}: {reason}", min(wait, _LONGEST_WAIT), answered=True)
