"""What is sent reliably: it is in the room's journal until everybody who was meant has acknowledged it."""

from __future__ import annotations

from typing import Final

import trio

from trio_rooms._loop.wall import WallClock
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Roster
from trio_rooms._sockets.standing import Unsettled
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms._wire.envelope import Body

from .audience import Audience
from .record import Record

__all__ = ["keep"]

_WALL: Final = WallClock()


def keep(record: Record, roster: Roster, hub: SocketHub, body: Body, audience: Audience) -> int:
    """Put an event into the journal, as part of what is written next; returns its place.

    Args:
        record: the room's, whose journal is known.
        roster: its connections.
        hub: closes those that are too far behind.
        body: the event.
        audience: whom it is for.
    """
    journal = record.journal
    assert journal is not None
    seq = record.append(audience.encode(), body.cbor, _WALL.now())
    now, floor = trio.current_time(), journal.floor
    while bound := journal.over_bound(now):
        record.delta.trim = max(record.delta.trim, bound)
    if journal.floor > floor:
        for link in roster.everybody():
            if type(link.session) is Unsettled and link.session.pos <= journal.floor:
                hub.close(
                    link, CloseCode.TRY_AGAIN_LATER, "too far behind: what was sent is not acknowledged"
                )
    return seq
