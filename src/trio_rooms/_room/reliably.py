"""What is sent reliably: it is in the room's journal until everybody who was meant has acknowledged it."""

from __future__ import annotations

from collections.abc import Hashable

from trio_rooms._arguments import text
from trio_rooms._definition.definition import Definition
from trio_rooms._sockets.fanout import ReliableBroadcast
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._state import kept
from trio_rooms._state.audience import Audience
from trio_rooms._state.record import Record
from trio_rooms._wire.envelope import Body, Reliable

__all__ = ["is_reliable", "keep", "manner_of"]


def is_reliable(definition: Definition, reliable: bool | None) -> bool:
    """Whether something is sent reliably; None for what the room's definition says.

    Raises:
        ValueError: it is to be, and the room has no sessions.
    """
    if reliable and not definition.resume_window:
        msg = f"room {definition.name} has resume_window=0: without sessions nothing can be sent reliably"
        raise ValueError(msg)
    return definition.reliable if reliable is None else reliable


def manner_of(
    window: float,
    reliable: bool | None = None,
    *,
    volatile: bool = False,
    coalesce: str | None = None,
    sender: Hashable = None,
) -> Manner | None:
    """How something is sent that an application sends.

    Args:
        window: seconds for which it waits at hibernated connections.
        reliable: what `is_reliable` is asked with.
        volatile: whether it is dropped for who is slow or away.
        coalesce: of what it is the newest of its sender; None for nothing.
        sender: who that is.

    Returns:
        None where it is written to everybody at once.

    Raises:
        TypeError, ValueError: what is sent cannot be all of that.
    """
    if coalesce is not None:
        text("coalesce", coalesce)
    if reliable and (volatile or coalesce is not None):
        what = "volatile" if volatile else "coalesced"
        msg = f"what is {what} cannot be sent reliably: who is away or slow does not get all of it"
        raise ValueError(msg)
    if not (volatile or window or coalesce is not None):
        return None
    return Manner(volatile=volatile, key=None if coalesce is None else (sender, coalesce), window=window)


def keep(
    record: Record,
    roster: Roster,
    hub: SocketHub,
    body: Body,
    audience: Audience,
    links: list[Link],
    manner: Manner | None = None,
) -> ReliableBroadcast:
    """Put an event into the journal, as part of what is written next; returns what is to be sent.

    Args:
        record: the room's, whose journal is known.
        roster: its connections.
        hub: closes those that are too far behind.
        body: the event.
        audience: whom it is for.
        links: those of them that are there.
        manner: how it is sent to them, see `manner_of`.

    Raises:
        TypeError, ValueError: it cannot be encoded; nothing is kept.
    """
    seq = kept.keep(record, roster, hub, body, audience)
    assert record.journal is not None
    return ReliableBroadcast(links, Reliable(body, seq), seq, record.journal, manner)
