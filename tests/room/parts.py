"""The parts of one room, wired as an actor wires them but without one, so that each can be tested alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from tests.sockets.bench import Line
from trio_rooms import Context, MemoryStore, Room
from trio_rooms._definition.definition import Definition
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.standstill import Standstill
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._room.background import Background
from trio_rooms._room.dispatcher import Dispatcher
from trio_rooms._room.handles import Program
from trio_rooms._room.idleness import Idleness
from trio_rooms._room.live import LiveRoom
from trio_rooms._room.mailbox import Mailbox
from trio_rooms._room.members import Members
from trio_rooms._room.saver import Saver
from trio_rooms._room.shared import Shared
from trio_rooms._room.signs import Signs
from trio_rooms._sockets.fanout import Message
from trio_rooms._sockets.flags import CLOSING, DISMISSED, GONE, UNREPORTED
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._state.record import Record
from trio_rooms._wire.frames import decode_message
from trio_rooms.stores import Store

__all__ = ["Parts", "Wire", "wired"]

NOTHING: Any = Program(None, None, Signs(Metrics(), {}))  # type: ignore[arg-type]
"""The program around a room whose handlers need none."""


class Wire:
    """An `Output` that notes what a room does to its connections."""

    def __init__(self) -> None:
        self.said: list[tuple[Link, Any]] = []
        """What was sent to whom, decoded."""
        self.closed: list[tuple[Link, int, bool]] = []
        """Who was closed, with which code, and whether the room is to hear of the end."""
        self.reasons: list[str] = []
        """Why, in the same order."""
        self.metrics: Metrics = Metrics()
        self.standstill: Standstill = Standstill()

    def send(self, link: Link, message: Message) -> None:
        """Note it; a message that has no form raises, as it does at the hub."""
        if not link.flags & (CLOSING | GONE):
            self.send_frame(link, message.frame(binary=False))

    def tell(self, link: Link, message: Message) -> None:
        """The same."""
        self.send(link, message)

    async def drained(self, link: Link) -> bool:
        """Nothing ever waits."""
        await trio.lowlevel.checkpoint()
        return not link.flags & (CLOSING | GONE)

    def send_frame(self, link: Link, frame: bytes) -> None:
        """Note it."""
        message = decode_message(frame)
        self.said.append((link, json.loads(message) if message[:1] == "{" else message))

    def broadcast(
        self,
        roster: Roster,
        message: Message,
        channel: str | None = None,
        exclude: frozenset[int] = frozenset(),
        manner: Manner | None = None,
    ) -> None:
        """Send it to each."""
        for link in roster.members(channel, exclude):
            self.send(link, message)

    def send_frames(self, link: Link, frames: list[bytes]) -> None:
        """Note each."""
        for frame in frames:
            self.send_frame(link, frame)

    def close(self, link: Link, code: int, reason: str, *, report: bool = True) -> None:
        """Note it; a connection is closed once."""
        if not link.flags & CLOSING:
            link.flags |= CLOSING
            self.closed.append((link, int(code), report))
            self.reasons.append(reason)
        link.flags |= DISMISSED if report else DISMISSED | UNREPORTED

    def close_room(self, roster: Roster, code: int, reason: str, *, but: int = 0) -> None:
        """Close each."""
        for link in roster.links.values():
            if not link.flags & but:
                self.close(link, code, reason, report=False)


@attrs.define(eq=False)
class Parts:
    """One room: everything of it but the actor."""

    definition: Definition
    record: Record
    deadlines: Deadlines
    runtime: trio.Nursery
    """Where what outlives the room runs."""
    metrics: Metrics = attrs.field(init=False, factory=Metrics)
    output: Wire = attrs.field(init=False, factory=Wire)
    mailbox: Mailbox = attrs.field(init=False, factory=Mailbox)
    roster: Roster = attrs.field(init=False)
    shared: Shared = attrs.field(init=False)
    idleness: Idleness = attrs.field(init=False)
    background: Background = attrs.field(init=False)
    saver: Saver = attrs.field(init=False)
    members: Members = attrs.field(init=False)
    dispatcher: Dispatcher = attrs.field(init=False)
    live: LiveRoom = attrs.field(init=False)
    _ids: itertools.count[int] = attrs.field(init=False, factory=lambda: itertools.count(1))

    def __attrs_post_init__(self) -> None:
        key = self.record.key
        # Nothing here asks the owner of a link for anything.
        self.roster = Roster(None, key, None, greets=False)  # type: ignore[arg-type]
        hub: Any = self.output
        self.shared = Shared(self.definition, self.roster, hub, NOTHING, self.record)
        self.shared.over = False
        signs = Signs(self.metrics, {})
        self.idleness = Idleness(self.mailbox, self.definition, self.deadlines, self.record, signs)
        self.members = Members(self.shared)
        self.background = Background(key, self.mailbox, self.members, self.idleness, self.record)
        self.members.background = self.background
        self.saver = Saver(
            self.shared,
            self.mailbox,
            self.idleness,
            self.background,
            self.deadlines,
            self.runtime.start_soon,
        )
        self.live = LiveRoom(
            self.shared,
            self.members,
            self.record,
            self.mailbox,
            self.idleness,
            self.background,
        )
        own: Context[Any] = Context(self.live, self.saver, None)
        self.members.own = own
        self.dispatcher = Dispatcher(self.shared, self.members)

    def line(self, attachment: bytes | None = None) -> Line:
        """A new connection of the room."""
        line = Line(next(self._ids), self.roster, attachment, 0)
        self.roster.links[line.id] = line
        return line


@asynccontextmanager
async def wired(room: Room[Any], store: Store | None = None) -> AsyncIterator[Parts]:
    """The parts of the room ``name/x``, with deadlines that are kept and a nursery for its tasks."""
    definition = room.seal()
    used = MemoryStore() if store is None else store
    async with used, trio.open_nursery() as runtime:
        deadlines = Deadlines()
        runtime.start_soon(deadlines.run)
        parts = Parts(definition, Record(f"{room.name}/x", definition, used), deadlines, runtime)
        async with trio.open_nursery() as nursery:
            parts.background.nursery = nursery
            yield parts
            parts.background.nursery = None
            nursery.cancel_scope.cancel()
        runtime.cancel_scope.cancel()
