"""What a handler is given: the state, the room, and who spoke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from trio_rooms.errors import NoConnection, StaleContext

from .connection import Connection
from .handles import Handles
from .live import LiveRoom
from .saver import Saver

__all__ = ["Context"]

S = TypeVar("S")


class Context(Generic[S]):
    """What a handler is given: the state, the room, and who spoke."""

    __slots__ = ("_connection", "_saver", "channel", "room")

    def __init__(self, room: LiveRoom, saver: Saver, connection: Connection | None) -> None:
        self.room: LiveRoom = room
        self._saver = saver
        self._connection = connection
        self.channel: str | None = None
        """The channel that the message named, if it did."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Say where something is that is not here."""
            parts = {"connection": Connection, "room": LiveRoom}
            found = [f"ctx.{part}.{name}" for part, kind in parts.items() if hasattr(kind, name)]
            hint = f"; there is {' and '.join(found)}" if found and not name.startswith("_") else ""
            raise AttributeError(f"'Context' has no {name!r}{hint}", name=name, obj=self)

    def _for(self, connection: Connection) -> Context[S]:
        """The same for what a connection sends."""
        return Context(self.room, self._saver, connection)

    @property
    def state(self) -> S:
        """The room's state. Change it in place, or assign a new one.

        Raises:
            StaleContext: the room has fallen asleep since, or is starting again after a crash.
        """
        saver = self._saver
        try:
            state: S = saver.state
        except AttributeError:
            raise StaleContext(self.room.key, "there is no state") from None
        if not saver.record.touched:
            saver.record.touch()  # Whoever asks for it may change it, and need not be a handler.
        return state

    @state.setter
    def state(self, value: S) -> None:
        saver = self._saver
        if not hasattr(saver, "state"):
            raise StaleContext(self.room.key, "the state cannot be set")
        saver.state = value
        saver.record.touch()

    @property
    def connection(self) -> Connection:
        """The connection that spoke.

        Raises:
            NoConnection: nobody did: the program asked, or this is a hook of the room.
        """
        if self._connection is None:
            msg = (
                f"room {self.room.key}: there is no connection here; "
                "what is handled came from the program, or this is a hook of the room"
            )
            raise NoConnection(msg)
        return self._connection

    @property
    def app(self) -> Any:
        """What the program gave to ``open_rooms(..., app=...)``; None where it gave nothing."""
        return self.room._shared.program.app

    @property
    def rooms(self) -> Handles:
        """The other rooms: ``await ctx.rooms.get("ledger", "main").ask("add", 3)``.

        What is emitted through it waits, in a room with a gate, as what the room itself emits. What is
        asked does not: see `RoomHandle.ask`.
        """
        shared = self.room._shared
        gate = shared.record.gate
        rooms = shared.program.rooms
        return rooms if gate is None else rooms.behind(gate, shared.record)

    async def commit(self) -> None:
        """Make durable what was changed until now: what the room has at this await, whoever changed it.

        For a handler that goes on afterwards, such as one that tells another system of what is certain.
        A cancelled caller stops waiting; what was handed to the store is written all the same.

        Raises:
            NotSaved: it is not known to be durable. Nothing is undone; it is tried again in the room's time.
            RuntimeError: the room has ``durability="commit"``, or the handler is ``durable``: there half a
                message would be durable, and would be handled again.
            StaleContext: the room has fallen asleep since.
        """
        self.room._shared.check_life("nothing can be saved")
        await self._saver.commit_now()

    async def _hold(self) -> None:
        """A durable handler begins: what it does waits from here on.

        Raises:
            NotSaved: what was changed before could not be made durable, so it does not begin.
        """
        await self._saver.hold()

    @property
    def from_connection(self) -> bool:
        """Whether a connection spoke, and not the program."""
        return self._connection is not None
