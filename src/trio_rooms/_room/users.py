"""One user as programs and handlers reach her: where she is, and what is sent to her."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import trio

from trio_rooms._sockets.sent import Sent
from trio_rooms._state.record import Record
from trio_rooms._users.directory import Directory
from trio_rooms._users.message import Message, Priority
from trio_rooms._users.whereabouts import Whereabouts

from .answers import Answer, own

__all__ = ["User"]


@attrs.frozen
class User:
    """A user, wherever she is: in several rooms, with several devices, or nowhere.

    Who she is says `Room.authenticate`. Getting this neither makes nor wakes anything, and there need be
    no such user.
    """

    name: str
    _directory: Directory = attrs.field(repr=False)
    _room: str = attrs.field(default="", repr=False)
    """The key of the only room whose connections are meant; empty for all."""
    _sender: Record | None = attrs.field(default=None, repr=False)
    """Of the room whose handler has this, if it has one."""

    async def where(self) -> Whereabouts:
        """Where she is connected now. A checkpoint.

        Where several nodes share an engine, it asks those that she is connected to, and waits for a quarter
        of a second at most.
        """
        return await self._directory.where(self.name, self._room)

    @property
    def online(self) -> bool:
        """Whether she has a connection now, to a room that is at home at this node; see `where`."""
        return any(True for _ in self._directory.of(self.name, self._room))

    @property
    def connections(self) -> int:
        """How many connections she has now, to rooms that are at home at this node; see `where`."""
        return sum(1 for _ in self._directory.of(self.name, self._room))

    @property
    def rooms(self) -> tuple[str, ...]:
        """The keys of the rooms at home at this node that she is connected to now, in order; see `where`."""
        return tuple(sorted({link.roster.key for link in self._directory.of(self.name, self._room)}))

    async def send(
        self,
        event: str,
        data: Any = None,
        *,
        priority: Priority = "normal",
        ttl: float = 86400.0,
        volatile: bool = False,
    ) -> Sent:
        """Send her an event: to each of her connections that is in a room of events, or into her inbox.

        An active connection gets it at once. At a hibernated one ``"low"`` waits until that becomes active,
        something else is written to it, or ``flush_after`` of its room is over; ``"normal"`` is written
        at once; ``"high"``, too, and the connection becomes active by it, and its room is woken where
        ``Room(wakes=True)`` says so. While she has no connection it waits in her inbox, for the next one.

        It is durable before anybody gets it, unless all who get it are connections without a session.
        It stays in her inbox until one of her sessions has acknowledged it, or it was written to a
        connection without one. What one sender sends to her arrives in order, whatever the priorities:
        a sender is a room, or a caller that awaits each result.

        A cancelled caller stops waiting; it is sent all the same. Where so much is under way for her that
        there is no room for this, the caller waits for that first, and cancelled then, nothing is sent.
        In a handler whose effects wait until they are durable, this does, too: it waits for nothing here.

        Args:
            event: its name.
            data: what it says.
            priority: ``"high"``, ``"normal"`` or ``"low"``.
            ttl: seconds after which nobody gets it any more, more than 0 and at most 30 days.
            volatile: whether it is dropped for who is slow or has no connection; it is never stored.

        Returns:
            What has become of it, a count each.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the data cannot be encoded.
            StoreFull, StoreReadOnly: it cannot be kept; nobody got it.
            RoomsClosed: the rooms have closed, or have before that was known.
        """
        message = Message.of(self.name, self._room, event, data, priority, ttl, volatile=volatile)
        office, answer = self._directory.office, Answer()
        if self._sender is not None and self._sender.gate is not None:
            office.send_behind(self._sender, message)
            return Sent(outbox=1)
        await office.room_for(self.name)
        office.send(message, answer.succeed, partial(_fail, answer))
        if answer.settled:
            await trio.lowlevel.checkpoint()
        sent: Sent = await answer.wait()
        return sent

    async def waiting(self) -> int:
        """How many messages are in her inbox, also those that are on their way to her. A checkpoint.

        Raises:
            StoreError: it cannot be read.
        """
        return await self._directory.office.waiting(self.name)


def _fail(answer: Answer, error: Exception) -> None:
    """Tell a caller why its message is lost."""
    answer.fail(own(error))
