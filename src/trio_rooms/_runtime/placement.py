"""Who owns a room: asked in one place."""

from __future__ import annotations

from typing import Protocol

from trio_rooms._room.mail import Mail
from trio_rooms._sockets.fanout import Message

__all__ = ["Placement"]


class Placement(Protocol):
    """Brings mail to a room, and what is said to it to its connections, wherever they are.

    Sockets, servers and handles reach rooms through it, by their keys, and know nothing of
    where a room runs. In one process the supervisor is it.
    """

    def accepts(self, key: str) -> bool:
        """Whether new connections of a room are taken now."""

    def deliver(self, key: str, mail: Mail) -> bool:
        """Hand mail to a room, and wake it if that is worth it; False asks to be spared for a while."""

    def deliver_soon(self, key: str, mail: Mail) -> None:
        """Hand over mail that must not keep messages waiting, however many rooms get some at once."""

    def emit(self, key: str, message: Message, channel: str | None) -> int:
        """Send to all connections of a room, or of a channel, and wake nobody; returns to how many."""
