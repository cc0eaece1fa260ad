"""The output of a room with a gate: what handlers send waits in the batch that they are part of."""

from __future__ import annotations

from functools import partial

import trio

from trio_rooms._sockets.fanout import Broadcast, Message
from trio_rooms._sockets.flags import BINARY, CLOSING, DISMISSED, GONE
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.joined import Send, Spread
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._state.gate import Gate
from trio_rooms._wire.frames import encode_close

__all__ = ["Held"]

_JOB = 100
"""Bytes that a job takes beside what it sends."""


class Held:
    """An `Output` whose calls are done when what their batch wrote is durable, in order.

    Whom a message to many goes to is decided at the call, and its form too. A connection is closed,
    and looks so, when it is done; what it sends is not handled any more from the call on.

    Args:
        hub: what carries it out then.
        gate: has the batches.
    """

    __slots__ = ("_gate", "_hub")

    def __init__(self, hub: SocketHub, gate: Gate) -> None:
        self._hub = hub
        self._gate = gate

    def send(self, link: Link, message: Message) -> None:
        """See `Output`."""
        self.send_frame(link, message.frame(binary=link.flags & BINARY == BINARY))

    def send_frame(self, link: Link, frame: bytes) -> None:
        """See `Output`."""
        if link.flags & (CLOSING | GONE):
            return
        gate = self._gate
        batch = gate.open
        last = batch.jobs[-1] if batch.jobs else None
        if type(last) is Send and last.link is link:
            last.frames.append(frame)
            batch.size += len(frame) + _JOB
        else:
            gate.add(Send(self._hub, link, frame), len(frame) + _JOB)

    def send_in(self, link: Link, message: Message, manner: Manner) -> None:
        """See `Output`."""
        if not link.flags & (CLOSING | GONE):
            frame = message.frame(binary=link.flags & BINARY == BINARY)
            self._gate.add(partial(self._hub.send_frame_in, link, frame, manner), len(frame) + _JOB)

    async def drained(self, link: Link) -> bool:
        """See `Output`; a handler's own waits for its end, so it waits for what went out before alone."""
        living = self._gate.living
        if living is not None and living.in_background:
            out = trio.Event()
            self._gate.add(out.set)
            await out.wait()
        return await self._hub.drained(link)

    def broadcast(
        self,
        roster: Roster,
        message: Message,
        channel: str | None = None,
        exclude: frozenset[int] = frozenset(),
        manner: Manner | None = None,
    ) -> None:
        """See `Output`."""
        links = roster.members(channel, exclude)
        if len(links) == 1 and manner is None:
            self.send(links[0], message)
        elif links:
            broadcast = Broadcast(links, message, manner)
            self._gate.add(Spread(self._hub, roster, broadcast), broadcast.size + _JOB)
        else:
            message.frame(binary=True)  # What cannot be sent is an error also where nobody listens.

    def close(self, link: Link, code: int, reason: str, *, report: bool = True) -> None:
        """See `Output`."""
        encode_close(code, reason)  # What may not be sent is an error of who calls.
        if not link.flags & DISMISSED:
            link.flags |= DISMISSED
            self._gate.open.undo.append(partial(_take_back, link))
        self._gate.add(partial(self._hub.close, link, code, reason, report=report), _JOB)

    def close_room(
        self, roster: Roster, code: int, reason: str, *, but: int = 0, ended: bool = False
    ) -> None:
        """See `Output`."""
        self._gate.add(partial(self._hub.close_room, roster, code, reason, but=but, ended=ended), _JOB)


def _take_back(link: Link) -> None:
    """A connection was not closed after all, unless somebody else has closed it."""
    if not link.flags & (CLOSING | GONE):
        link.flags &= ~DISMISSED
