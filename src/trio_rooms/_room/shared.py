"""What all parts of one awake room have in common."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Protocol

import trio

from trio_rooms._definition.definition import Definition, Handler
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.joined import Spread
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._state.audience import Audience
from trio_rooms._state.gate import Gate
from trio_rooms._state.record import Record
from trio_rooms._state.rows import half_of
from trio_rooms._wire.envelope import Body
from trio_rooms.errors import StaleContext

from .handles import Program
from .held import Held
from .output import Farewell, Output
from .reliably import keep

__all__ = ["Editable", "Shared", "roster_of"]

logger = logging.getLogger("trio_rooms")


class Editable(Protocol):
    """Something that a handler may have edited in place."""

    def settle(self) -> None:
        """Keep it as it is now.

        Raises:
            RoomsError: it cannot be kept; it is again what it was.
        """


class Shared:
    """The room's names and its ways out; the same for as long as it is awake.

    Args:
        definition: what the application wrote.
        roster: its connections.
        hub: what it speaks to, behind a gate if there is one.
        program: what is around it, for its handlers.
        record: what of it is in the store.
    """

    __slots__ = (
        "definition",
        "edited",
        "gate",
        "hook",
        "hub",
        "key",
        "output",
        "over",
        "plain",
        "program",
        "record",
        "roster",
    )

    def __init__(
        self, definition: Definition, roster: Roster, hub: SocketHub, program: Program, record: Record
    ) -> None:
        self.key: str = roster.key
        self.definition: Definition = definition
        self.plain: bool = definition.plain
        self.roster: Roster = roster
        self.record: Record = record
        self.hub: SocketHub = hub
        """Where what waits for nothing goes."""
        self.gate: Gate | None = record.gate if definition.gated else None
        """What holds back what handlers do, if anything does."""
        self.output: Output = hub if self.gate is None else Held(hub, self.gate)
        self.program: Program = program
        self.edited: dict[Editable, None] = {}
        """Attachments that a handler looked at, and may have edited, since they were last settled. A dict,
        as an empty set takes 150 bytes more."""
        self.over: bool = True
        """Whether there is nothing now that a context could change: before the room is loaded, after a
        crash, and once it has ended."""
        self.hook: tuple[str, float] | None = None
        """The hook that runs now, and since when on Trio's clock."""

    async def run(self, name: str, hook: Handler, *arguments: Any) -> None:
        """Run a hook, and have `hook` say so meanwhile."""
        self.hook = (name, trio.current_time())
        try:
            await hook(*arguments)
        finally:
            self.hook = None

    def lost(self, what: str, why: object) -> None:
        """Something of the room's state could not be saved, and will not be."""
        logger.critical("room %s: %s is lost: %s", self.key, what, why)
        self.hub.metrics.lost["state"] += 1

    def check_life(self, what: str) -> None:
        """Refuse what would be written into nothing, or into another life of the room.

        Raises:
            StaleContext: this life is over.
        """
        if self.over:
            raise StaleContext(self.key, what)

    def hold(self, gate: Gate) -> None:
        """What handlers do waits at a gate from now on."""
        self.gate, self.output = gate, Held(self.hub, gate)

    def let_go(self) -> None:
        """Nothing waits any more."""
        if self.gate is not None:
            self.gate, self.output = None, self.hub

    def touched(self, link: Link) -> None:
        """A connection's attachment or channels are about to change: a gate keeps what they were."""
        if link.session is not None:
            record = self.record
            record.delta.sessions[link.sid] = partial(half_of, record, link)
            record.want()
        if self.gate is not None:
            before = self.record.delta.before_edits
            if link not in before:
                journal = link.roster.journal
                changes = () if journal is None or link.session is None else journal.changes(link.session)
                before[link] = (link.attachment, link.channels, changes)

    def emit(self, body: Body, audience: Audience, links: list[Link], manner: Manner | None = None) -> None:
        """Send something reliably.

        Args:
            body: what.
            audience: to whom.
            links: those of them that are here.
            manner: how, see `manner_of`.
        """
        record, roster, hub, gate = self.record, self.roster, self.hub, self.gate
        broadcast = keep(record, roster, hub, body, audience, links, manner)
        if gate is None:
            hub.spread(roster, broadcast)
            record.want()
        else:
            gate.add(Spread(hub, roster, broadcast), len(body.cbor) + broadcast.size)

    def end(self) -> None:
        """Nothing of the room runs any more: whoever kept a context finds out."""
        self.over = True
        self.gate, self.output = None, Farewell(self.hub, self.key)


def roster_of(hub: SocketHub, definition: Definition, key: str) -> Roster:
    """The connections of a room, awake or asleep; the hub forgets the record when nobody needs it."""
    roster = hub.roster(key, definition.automatic, greets=definition.on_connect is not None)
    if definition.presence and roster.presence is None:
        roster.presence = hub.new_presence(roster, sessions=definition.resume_window > 0)
    return roster
