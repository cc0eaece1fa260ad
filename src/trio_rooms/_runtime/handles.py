"""One room, as the program around it sees it."""

from __future__ import annotations

from typing import Any

import attrs

from trio_rooms._arguments import text
from trio_rooms._definition.definition import Definition
from trio_rooms._room.answers import Answer
from trio_rooms._room.lifecycle import Stage
from trio_rooms._room.mail import Ask, Destroy, Hibernate
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._state.persistent import PersistentState
from trio_rooms._values.cbor import as_sent
from trio_rooms._wire import envelope
from trio_rooms.stores.base import Store

from .placement import Placement
from .supervisor import Supervisor

__all__ = ["RoomHandle", "RoomInfo"]


@attrs.frozen
class RoomInfo:
    """One room as it is now, without waking it."""

    key: str
    stage: Stage
    connections: int
    channels: tuple[str, ...]
    mailbox: int
    """Mail that waits; 0 for a room that sleeps."""
    held: tuple[str, ...]
    """Why it must not sleep now: the reasons given to ``keep_awake``."""


@attrs.frozen
class RoomHandle:
    """One room, as the program around it sees it. Getting a handle neither makes nor wakes the room."""

    key: str
    _definition: Definition
    _placement: Placement
    _hub: SocketHub
    _supervisor: Supervisor
    _store: Store

    async def ask(self, event: str, data: Any = None) -> Any:
        """Have the room handle an event, waking it if need be, and return what its handler returned.

        A cancelled caller stops waiting; what was asked is handled all the same.

        Args:
            event: the name of the event.
            data: what a client could send, or classes and other things that become that.

        Returns:
            A copy of the handler's result as a client would get it: classes come as dicts,
            tuples and sets as lists, dates as strings.

        Raises:
            TypeError, ValueError: the event is no string, or the data has no form in CBOR; the room heard
                nothing of it.
            EventError: refused, by the handler or because there is none or the data does not fit.
            HandlerFailed: the handler raised.
            RoomFailed: the room cannot be loaded, or crashed too often.
            RoomsClosed: the runtime is stopping.
        """
        if self._definition.plain:
            msg = f"room {self._definition.name} is plain: it has no events that one could ask"
            raise TypeError(msg)
        text("event", event)
        answer = Answer()
        self._placement.deliver(self.key, Ask(event, as_sent(data), answer))
        return await answer.wait()

    def emit(self, event: str, data: Any = None, *, channel: str | None = None) -> int:
        """Send an event to all connections of the room, or to those in a channel; wakes nobody.

        Returns:
            How many connections it goes to.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the data cannot be encoded.
        """
        if self._definition.plain:
            self._definition.refuse_events()
        if channel is not None:
            text("channel", channel)
        return self._placement.emit(self.key, envelope.event(event, data), channel)

    def send(self, message: str | bytes, *, channel: str | None = None) -> int:
        """Send a message as it is to all connections of a plain room, or of a channel; wakes nobody."""
        if not self._definition.plain:
            self._definition.refuse_messages()
        if channel is not None:
            text("channel", channel)
        return self._placement.emit(self.key, PlainMessage(message), channel)

    def info(self) -> RoomInfo:
        """The room as it is now; wakes nobody."""
        roster = self._hub.rosters.get(self.key)
        actor = self._supervisor.actor(self.key)
        doing = None if actor is None else actor.info()
        return RoomInfo(
            self.key,
            self._supervisor.stage(self.key),
            len(roster.links) if roster is not None else 0,
            tuple(roster.channels or ()) if roster is not None else (),
            doing.mailbox if doing is not None else 0,
            doing.held if doing is not None else (),
        )

    async def peek(self) -> Any:
        """The room's state as its newest snapshot has it, a copy; None for a room that was never saved.

        Of an awake room this may be ``snapshot_interval`` behind. Wakes nobody. A checkpoint; a cancel
        changes nothing.

        Raises:
            StoreError: it cannot be read.
            SnapshotError: no snapshot of the room can be used.
        """
        loaded = await PersistentState(self.key, self._definition, self._store).load()
        return None if loaded is None else loaded.state

    async def hibernate(self) -> bool:
        """Put the room to sleep now, if nothing is to be done in it. A cancelled caller only stops waiting.

        Returns:
            Whether it sleeps; not so if mail came, something holds it awake, or it could not be saved.
        """
        answer = Answer()
        self._placement.deliver_soon(self.key, Hibernate(answer))
        return bool(await answer.wait())

    async def destroy(self) -> None:
        """Delete everything of the room and close its connections with 1000.

        A cancelled caller stops waiting; the room is deleted all the same.

        Raises:
            StoreError: it could not be deleted; the room goes on.
            RoomFailed: it cannot be loaded, so that its on_destroy could not be called.
        """
        answer = Answer()
        self._placement.deliver(self.key, Destroy(answer))
        await answer.wait()
