"""What an awake room speaks to."""

from __future__ import annotations

from typing import NoReturn, Protocol

from trio_rooms._sockets.fanout import Message
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms.errors import StaleContext

__all__ = ["Farewell", "Output"]


class Output(Protocol):
    """Carries what a room's handlers do to its connections to the sockets, in the order in which they do it.

    For a room whose effects wait for nothing this is the hub itself.
    """

    def send(self, link: Link, message: Message) -> None:
        """Send to one connection, in the kind that it is spoken to in; nothing where it is closing."""

    def send_frame(self, link: Link, frame: bytes) -> None:
        """Send what is the same for all clients to one connection, as `send` does."""

    def send_in(self, link: Link, message: Message, manner: Manner) -> None:
        """Send to one connection, in a manner of its own."""

    def broadcast(
        self,
        roster: Roster,
        message: Message,
        channel: str | None = None,
        exclude: frozenset[int] = frozenset(),
        manner: Manner | None = None,
    ) -> None:
        """Send to all connections, or those of a channel, but those with some ids."""

    async def drained(self, link: Link) -> bool:
        """Wait until nothing of what was sent to a connection waits here; False where it ended before."""

    def close(self, link: Link, code: int, reason: str, *, report: bool = True) -> None:
        """Close a connection after everything that was sent to it, and tell the room of its end or not."""

    def close_room(
        self, roster: Roster, code: int, reason: str, *, but: int = 0, ended: bool = False
    ) -> None:
        """Close all connections of a room that ends, but those with some flags; it hears no more of any."""


class Farewell:
    """What a context speaks to that was kept beyond the life of its room.

    Connections outlive that, and can be spoken to. The room as a whole cannot: its next life has other
    connections, and may be under way.
    """

    __slots__ = ("_key", "_output")

    def __init__(self, output: Output, key: str) -> None:
        self._output = output
        self._key = key

    def send(self, link: Link, message: Message) -> None:
        """See `Output`."""
        self._output.send(link, message)

    def send_frame(self, link: Link, frame: bytes) -> None:
        """See `Output`."""
        self._output.send_frame(link, frame)

    def send_in(self, link: Link, message: Message, manner: Manner) -> None:
        """See `Output`."""
        self._output.send_in(link, message, manner)

    async def drained(self, link: Link) -> bool:
        """See `Output`."""
        return await self._output.drained(link)

    def close(self, link: Link, code: int, reason: str, *, report: bool = True) -> None:
        """See `Output`."""
        self._output.close(link, code, reason, report=report)

    def close_room(
        self, roster: Roster, code: int, reason: str, *, but: int = 0, ended: bool = False
    ) -> None:
        """See `Output`."""
        self._output.close_room(roster, code, reason, but=but, ended=ended)

    def broadcast(self, *_: object) -> NoReturn:
        """Refuse it.

        Raises:
            StaleContext: in any case.
        """
        raise StaleContext(self._key, "nothing can be sent to the room")
