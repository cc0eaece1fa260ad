"""Sessions that ended while their room slept, and those that end with its journal."""

from __future__ import annotations

import logging
from typing import Final

from trio_rooms._sockets.roster import Disconnected, Remnant
from trio_rooms._state.audience import Membership
from trio_rooms._state.rows import decode_left, deleted
from trio_rooms._wire.close_codes import CloseCode

from .shared import Shared

__all__ = ["MOST_TOLD", "end_all", "recall"]

logger = logging.getLogger("trio_rooms")

MOST_TOLD: Final = 1000
"""Sessions that a room hears of in one go."""


async def recall(shared: Shared) -> list[Disconnected]:
    """Those of a room's sessions that are over and of which it has not heard, 1,000 at most.

    `Record.more_ended` says whether there may be more.

    Raises:
        StoreError: they cannot be read.
    """
    record, telling = shared.record, shared.record.telling
    pending = {
        sid: row
        for sid in record.ended_unwritten()
        if sid not in telling and (row := (await record.row(sid))[0]) is not None
    }
    stored = await record.page(0, MOST_TOLD + len(telling), ended=True)
    record.more_ended = len(stored) == MOST_TOLD + len(telling)
    rows = {row.sid: row for row in stored} | pending
    ended = []
    for sid, row in sorted(rows.items()):
        if sid not in telling and not record.is_deleted(sid):
            telling[sid] = None
            membership = Membership.decode(row.room.channels)
            met = membership.since is not None
            user = None if row.room.opening is None else row.room.opening.user
            link = Remnant(sid, shared.roster, row.room.attachment, membership.channels, user, met=met)
            ended.append(Disconnected(link, *decode_left(row.link.left)))
    return ended


async def end_all(shared: Shared) -> None:
    """End all sessions of a room whose state is older than they are, and its journal.

    Raises:
        StoreError: they cannot be read.
    """
    record, delta = shared.record, shared.record.delta
    logger.error("room %s: its sessions end, since its state is older than what they were told", shared.key)
    shared.hub.close_room(shared.roster, CloseCode.RESTART, "the room has lost what it told", ended=True)
    after = 0
    while rows := await record.page(after, MOST_TOLD):
        after = rows[-1].sid
        for row in rows:
            delta.sessions[row.sid] = deleted
    for sid in [*delta.links]:
        delta.sessions[sid] = deleted
    delta.links.clear()
    journal = record.end_journal()
    delta.trim = journal.seq
