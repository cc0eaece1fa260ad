"""Sending a connection what its session was away for."""

from __future__ import annotations

import logging
from typing import Final

from trio.lowlevel import enable_ki_protection

from trio_rooms._sockets.flags import BINARY, CLOSING, GONE, OVER
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.replaying import Replaying
from trio_rooms._sockets.roster import Link
from trio_rooms._state.audience import Audience
from trio_rooms._state.record import Record
from trio_rooms._state.rows import membership_of
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms._wire.envelope import Body, Reliable
from trio_rooms.errors import StoreError
from trio_rooms.stores.base import Entry

__all__ = ["caught_up", "replay"]

logger = logging.getLogger("trio_rooms")

_PAGE: Final = 256 * 1024
"""Bytes that are read of a journal, and written to a connection, before the next are read."""


@enable_ki_protection
async def replay(hub: SocketHub, record: Record, link: Link, output: Replaying, at: int) -> None:
    """Send what was missed, a page at a time, as fast as the connection reads that.

    Args:
        hub: holds the connection.
        record: that of its room, pinned for this; it is unpinned at the end.
        link: the connection.
        output: what it is sent meanwhile waits in.
        at: the seq up to which nothing was missed.
    """
    journal = record.journal
    assert journal is not None
    target, sent = journal.seq, 0
    try:
        while not link.flags & (CLOSING | GONE):
            await hub.standstill.over()
            if link.flags & (CLOSING | GONE):
                return
            released = journal.released
            if at < released:
                page = await record.entries(at, released, _PAGE)
                await hub.standstill.over()
                if link.flags & (CLOSING | GONE):
                    return
                sent = _feed(record, link, output, page) or sent
                at = page[-1].seq if page else released
                await output.written()
            elif released >= min(target, journal.seq):
                caught_up(hub, record, link, sent)
                return
            else:
                await record.released()
    except StoreError as error:
        logger.error("room %s: what a session has missed cannot be read: %s", record.key, error)  # noqa: TRY400
        hub.close(link, CloseCode.TRY_AGAIN_LATER, "what was missed cannot be read now")
    except Exception:
        # It would be so each time that it comes back; and all other rooms go on.
        logger.exception("room %s: what a session has missed is damaged", record.key)
        link.flags |= OVER
        hub.close(link, CloseCode.INTERNAL_ERROR, "what was missed is damaged")
    finally:
        record.unpin()


def _feed(record: Record, link: Link, output: Replaying, page: list[Entry]) -> int:
    """Send what of a page is for a session; returns the last of that, or 0."""
    journal, sent = record.journal, 0
    assert journal is not None
    membership, sid = membership_of(record, link), link.sid
    for entry in page:
        if Audience.decode(entry.audience).includes(sid, membership, entry.seq):
            assert link.session is not None
            link.session = journal.stand(link.session, entry.seq)
            output.feed(
                Reliable(Body.decode(entry.body), entry.seq).frame(binary=link.flags & BINARY == BINARY)
            )
            sent = entry.seq
    return sent


def caught_up(hub: SocketHub, record: Record, link: Link, sent: int) -> None:
    """A session has all that it was away for; the last that it was sent of that is ``sent``, or that is 0."""
    assert record.journal is not None
    assert link.session is not None
    link.session = record.journal.caught_up(link.session, sent)
    hub.let_go(link)
