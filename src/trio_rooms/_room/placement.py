"""Who owns a room: asked in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import attrs

from trio_rooms._sockets.fanout import Message
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.plans import Plan
from trio_rooms._wire.envelope import Body
from trio_rooms.errors import RoomsError

from .answers import Answer
from .lifecycle import Stage
from .mail import Mail
from .reasons import WhyAwake
from .schedules import Schedule

__all__ = ["Elsewhere", "Homes", "Placement", "RoomInfo"]


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
    node: str | None = None
    """The name of the node that it is at home at, where that is another one; empty where this node does not
    know which that is, if any. What stands above is what this node knows."""


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

    def waiting(self, key: str, answer: Answer) -> AbstractContextManager[None]:
        """The calling task waits inside the block for what it asked of a room.

        Raises:
            AskCircle: at once, where the answer would wait for the handler that the task works for.
        """

    def awaiting(self, key: str, answer: Answer) -> AbstractContextManager[None]:
        """Somebody waits inside the block for what is written of a room from outside of it.

        At the end of the rooms the answer is RoomsClosed, if there is none by then.

        Raises:
            RoomsClosed: that is now.
            AskCircle: at once, where the room writes nothing before its handler has ended, which waits for
                the handler that the task works for.
        """

    def emit(self, key: str, message: Message, channel: str | None, manner: Manner | None = None) -> Sent:
        """Send to all connections of a room, or of a channel, and wake nobody.

        Args:
            key: the room.
            message: what is sent.
            channel: to whom; None for all.
            manner: how, unless it is written to each at once.

        Returns:
            What becomes of it. Of a room of another node that is not known yet: `Sent.outbox` is 1 then, or
            `Sent.dropped` where too much is on its way there.
        """

    async def emit_counted(
        self, key: str, message: Message, channel: str | None, manner: Manner | None = None
    ) -> Sent:
        """The same, and wait a quarter of a second at most to hear what has become of it.

        A cancelled caller stops waiting. A node that has not answered by then counts as `Sent.stored`.
        """

    def emit_reliably(
        self,
        key: str,
        body: Body,
        channel: str | None,
        manner: Manner | None,
        done: Callable[[Sent], None] | None,
        refused: Callable[[RoomsError], None] | None,
    ) -> Sent:
        """Put an event into a room's journal and send it, and wake nobody.

        Args:
            key: the room, which has sessions.
            body: the event.
            channel: to whom; None for all.
            manner: how, unless it is written to each at once.
            done: called when it is durable, with what became of it.
            refused: called instead where it cannot be written.

        Returns:
            What becomes of it, as far as it is known now; see `emit`. Whether a session is away for which it
            is kept, is not where nothing of the room has been read.
        """

    def reschedule(self, key: str, plan: Plan, *, held: bool = True) -> None:
        """Change what a room has scheduled, awake or asleep, and wake nobody.

        Args:
            key: the room.
            plan: the change.
            held: whether it waits for what the handler writes that asks for it. Where somebody waits for it
                in turn, it must not.
        """

    async def schedules(self, key: str) -> Mapping[str, Schedule]:
        """All that a room has scheduled, by name, a copy; wakes nobody.

        Raises:
            StoreError: it cannot be read.
            Unavailable: the node that it is at does not answer.
        """

    async def people(self, key: str) -> tuple[str, ...]:
        """Who is in a room, see `LiveRoom.users`; wakes nobody.

        Raises:
            StoreError: it cannot be read who is away.
            Unavailable: the node that it is at does not answer.
        """

    def info(self, key: str) -> RoomInfo:
        """A room as it is now, as far as this process knows; wakes nobody."""

    def why_awake(self, key: str) -> WhyAwake:
        """What keeps a room awake now, as far as this process knows; wakes nobody."""

    async def find_info(self, key: str) -> RoomInfo:
        """A room as it is now, wherever it is; wakes nobody.

        Raises:
            Unavailable: the node that it is at does not answer.
        """

    async def find_why_awake(self, key: str) -> WhyAwake:
        """What keeps a room awake now, wherever it is; wakes nobody.

        Raises:
            Unavailable: the node that it is at does not answer.
        """


class Elsewhere(Protocol):
    """A room that is at home at another node, which has answered just now."""

    def roster(self) -> Roster:
        """Where sockets that come for the room go at this node; to be used before the next checkpoint.

        Raises:
            Unavailable: the other node has gone away meanwhile.
        """

    def beginning(
        self,
        *,
        user: str | None,
        attachment: bytes | None,
        presence: bytes,
        enveloped: bool,
        token: str | None,
        seq: int,
    ) -> Callable[[Link], bool]:
        """What brings a connection there that is about to enter that roster; see `SocketHub.park`.

        Args:
            user: who its client is. The connection itself has none here, and no attachment.
            attachment: what is known of it, as CBOR.
            presence: what those in the room are shown of it, as CBOR.
            enveloped: whether it speaks in envelopes.
            token: what it wants to resume its session with, if it wants that.
            seq: the highest that it has, as it says.
        """


class Homes(Protocol):
    """Says where rooms are at home, for servers of a node that is one of several."""

    def here(self, key: str) -> bool:
        """Whether a room is at home at this node now."""

    async def find(self, key: str) -> Elsewhere | None:
        """Where a room is at home; None for here, which holds until the next checkpoint.

        Raises:
            Unavailable: that node cannot be reached, or the engine.
        """
