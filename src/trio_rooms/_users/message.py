"""A message for a user, before it is known what becomes of it."""

from __future__ import annotations

from typing import Any, Final, Literal

import attrs

from trio_rooms._arguments import number, text
from trio_rooms._loop.wall import WallClock
from trio_rooms._values.cbor import decode_sent
from trio_rooms._wire.envelope import Body
from trio_rooms.stores.base import draw_nonce

__all__ = ["HIGH", "LOW", "NORMAL", "Message", "Priority", "check_user"]

LOW: Final = 0
NORMAL: Final = 1
HIGH: Final = 2
Priority = Literal["high", "normal", "low"]
_PRIORITIES: Final[dict[str, int]] = {"low": LOW, "normal": NORMAL, "high": HIGH}
_LONGEST_LIFE: Final = 30 * 86400.0
"""Seconds that a message waits at most."""
_LONGEST_NAME: Final = 256
_WALL: Final = WallClock()


@attrs.frozen
class Message:
    """What is sent to a user."""

    user: str
    body: Body
    priority: int
    expires: float
    volatile: bool
    """Whether it is for those alone who are there now."""
    room: str
    """The key of the only room whose connections get it; empty for any."""
    id: int = attrs.field(factory=draw_nonce)

    @classmethod
    def of(
        cls, user: str, room: str, event: Any, data: Any, priority: Any, ttl: Any, *, volatile: bool
    ) -> Message:
        """One of what a caller gave.

        Raises:
            TypeError, ValueError: it is not what it should be, or the data cannot be encoded.
        """
        known = _PRIORITIES.get(priority) if isinstance(priority, str) else None
        if known is None:
            msg = f"priority is 'high', 'normal' or 'low', not {priority!r:.100}"
            raise ValueError(msg) if isinstance(priority, str) else TypeError(msg)
        if not 0 < number("ttl", ttl) <= _LONGEST_LIFE:
            msg = f"ttl is more than 0 seconds and at most 30 days, not {ttl}"
            raise ValueError(msg)
        return cls(user, Body.of(event, data), known, _WALL.now() + ttl, bool(volatile), room)

    @property
    def content(self) -> tuple[str, Any]:
        """The event and its data."""
        content = decode_sent(self.body.cbor)
        return content["event"], content["data"]

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits in memory."""
        return len(self.body.cbor) + len(self.body.json)


def check_user(name: Any) -> str:
    """The name of a user.

    Raises:
        TypeError, ValueError: no user can have it.
    """
    if not 0 < len(text("a user", name)) <= _LONGEST_NAME:
        msg = f"the name of a user has 1 to {_LONGEST_NAME} characters, not {len(name):,}"
        raise ValueError(msg)
    return str(name)
