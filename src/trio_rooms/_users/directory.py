"""Who is connected where: the users of a process with their connections, found by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._sockets.flags import CLOSING, GONE, UNGREETED
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.record import Record
from trio_rooms._wire.envelope import event

from .message import Message

__all__ = ["Directory"]


class Directory:
    """The connections of each user that is connected; derived from what exists, and never counted."""

    __slots__ = ("_definition", "_hub", "links")

    def __init__(self, hub: SocketHub, definition: Callable[[str], Definition]) -> None:
        self._hub = hub
        self._definition = definition
        self.links: dict[str, Link | tuple[Link, ...]] = {}
        """By user: a tuple only where there are several, since most have one."""

    def entered(self, link: Link) -> None:
        """A connection of a user is in its room from now on, and has been greeted if its room greets."""
        user = link.user
        assert user is not None
        there = self.links.get(user)
        if there is None:
            self.links[user] = link
        elif isinstance(there, Link):
            if there is not link:
                self.links[user] = (there, link)
        elif link not in there:
            self.links[user] = (*there, link)

    def left(self, link: Link) -> None:
        """A connection of a user has left its room, or waits to be greeted again; it need not be here."""
        user = link.user
        assert user is not None
        there = self.links.get(user)
        if there is link:
            del self.links[user]
        elif isinstance(there, tuple) and link in there:
            rest = tuple(one for one in there if one is not link)
            self.links[user] = rest[0] if len(rest) == 1 else rest

    def acknowledged(self, link: Link, seq: int) -> None:
        """See `trio_rooms._sockets.roster.Users`."""

    def of(self, user: str, room: str = "") -> Iterator[Link]:
        """The connections of a user, or those in one room, by its key; a copy."""
        there = self.links.get(user, ())
        links = (there,) if isinstance(there, Link) else there
        return iter(links) if not room else (link for link in links if link.roster.key == room)

    # What is sent to them.

    async def room_for(self, message: Message) -> None:
        """Wait until a message may be handed over; not a checkpoint where it may be now."""

    def send(
        self, message: Message, done: Callable[[Sent], None], refused: Callable[[Exception], None]
    ) -> None:
        """Send something to a user; it is told what became of it."""
        links = [link for link in self.of(message.user, message.room) if self._may_get(link)]
        if not links and not message.volatile:
            refused(NotImplementedError("inboxes"))
            return
        for link in links:
            self._hub.send(link, event(*message.content))
        done(Sent(active=len(links), dropped=0 if links else 1))

    def send_behind(self, sender: Record, message: Message) -> None:
        """The same from a handler whose effects wait until they are durable."""
        sender.after(partial(self.send, message, _nothing, _nothing))

    async def waiting(self, user: str) -> int:  # noqa: ARG002
        """How many messages are in an inbox."""
        await trio.lowlevel.checkpoint()
        return 0

    def _may_get(self, link: Link) -> bool:
        """Whether messages for its user go to a connection."""
        return not link.flags & (CLOSING | GONE | UNGREETED) and not self._definition(link.roster.key).plain


def _nothing(_: object) -> None:
    """Nobody waits."""
