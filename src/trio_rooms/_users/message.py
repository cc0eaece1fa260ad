"""A message for a user, before it is known what becomes of it."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Final, Literal

import attrs

from trio_rooms._arguments import number, text
from trio_rooms._loop.wall import WallClock
from trio_rooms._wire.envelope import Body
from trio_rooms._wire.frames import encode_binary, encode_text
from trio_rooms.stores.base import Post, draw_nonce

__all__ = ["EACH", "HIGH", "LOW", "MOST_BYTES", "NORMAL", "Message", "Priority", "check_user"]

LOW: Final = 0
NORMAL: Final = 1
HIGH: Final = 2
Priority = Literal["high", "normal", "low"]
_PRIORITIES: Final[dict[str, int]] = {"low": LOW, "normal": NORMAL, "high": HIGH}
MOST_BYTES: Final = 1024 * 1024
"""Bytes that an inbox keeps."""
EACH: Final = 50
"""Bytes that a message counts with there beside its body."""
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
    began: float = attrs.field(default=0.0, eq=False)
    """When it was sent, by `perf_counter`; 0 for one that has waited in an inbox."""

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
        body = Body.of(event, data)
        if len(body.cbor) > MOST_BYTES - EACH:
            most = MOST_BYTES - EACH
            msg = f"a message for a user has at most {most:,} bytes in CBOR, not {len(body.cbor):,}"
            raise ValueError(msg)
        return cls(user, body, known, _WALL.now() + ttl, bool(volatile), room, began=perf_counter())

    @classmethod
    def stored(cls, post: Post) -> Message:
        """One that was in an inbox.

        Raises:
            Exception: its body is none of this library's.
        """
        return cls(post.user, Body.decode(post.body), post.priority, post.expires, False, post.room, post.id)

    def post(self) -> Post:
        """As an inbox keeps it."""
        return Post(self.user, self.id, self.body.cbor, self.expires, self.priority, self.room)

    def frame(self, *, binary: bool) -> bytes:
        """The whole frame, in CBOR or in JSON, for who does not acknowledge it."""
        return encode_binary(self.body.cbor) if binary else encode_text(self.body.json)

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
