"""Handing a message to connections of its user, each as it is: in use, hibernated, or slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Protocol

import attrs

from trio_rooms._definition.definition import Definition
from trio_rooms._sockets.fanout import ReliableBroadcast
from trio_rooms._sockets.flags import BINARY, CLOSING, GONE, SESSION, UNGREETED
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.joined import Send, Spread
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.audience import Audience
from trio_rooms._state.kept import keep
from trio_rooms._state.record import Record
from trio_rooms._wire.envelope import Reliable
from trio_rooms.errors import RoomsError
from trio_rooms.stores.base import Offer

from .message import HIGH, LOW, Message
from .offers import Offered, Out

__all__ = ["Around", "Courier", "Recipients", "has_session"]

Recipients = Sequence[Link]


class Around(Protocol):
    """What is asked of whoever has the rooms."""

    def definition(self, key: str) -> Definition:
        """What the application wrote about a room."""

    def record(self, key: str) -> Record:
        """What the store has of a room, see `Placement.record`."""

    def holding(self, key: str) -> Record | None:
        """The same of a room that is to send something which waits; None where nothing waits."""

    def roster(self, key: str) -> Roster:
        """The connections of a room, awake or asleep; to be forgotten where nobody needs it."""

    def serves(self, key: str) -> bool:
        """Whether it has the definition of a room."""

    def rouse(self, key: str) -> None:
        """Wake a room for a message of high priority; nothing where it is awake."""


class Whole(Protocol):
    """What is asked of whoever knows which messages are out."""

    def placed(self, offered: Offered, seq: int) -> None:
        """A message has its place in the journal of a room."""

    def refused(self, offered: Offered) -> None:
        """It could not be sent there."""

    def written(self, out: Out) -> None:
        """It was written to a connection without a session."""

    def offer(self, out: Out, key: str, sid: int) -> Offered:
        """It is out at one place more."""


@attrs.define(eq=False)
class Courier:
    """Hands messages to connections.

    Args:
        hub: has the connections.
        around: has their rooms.
        whole: told what becomes of each.
    """

    _hub: SocketHub
    _around: Around
    _whole: Whole

    def may_get(self, link: Link) -> bool:
        """Whether a connection gets what is sent to its user."""
        flags = link.flags
        return not flags & (CLOSING | GONE | UNGREETED) and not self._around.definition(link.roster.key).plain

    def can_write(self, links: Recipients, message: Message) -> bool:
        """Whether all of some connections can be written to now, and have it by that."""
        return not any(has_session(link) for link in links) and (
            message.priority != LOW or all(map(self._hub.activity.is_active, links))
        )

    def fling(self, message: Message, links: Recipients) -> Sent:
        """Send what is volatile, and kept nowhere."""
        hub = self._hub
        active = parked = queued = 0
        dropped = 0 if links else 1
        for link in links:
            frame = message.frame(binary=link.flags & BINARY == BINARY)
            in_use = hub.activity.is_active(link)
            if link.slow:
                dropped += 1
                continue
            if in_use or message.priority != LOW:
                self._behind(link, Send(hub, link, frame))
                active += in_use
                parked += not in_use
            else:
                self._behind(link, partial(hub.pacing.postpone, link, frame, self._delay(link)))
                queued += 1
            if message.priority == HIGH and not in_use:
                self._rouse(link)
        self._note(message, active > 0, parked > 0)
        return Sent(active=active, parked=parked, queued=queued, dropped=dropped)

    def _behind(self, link: Link, job: Callable[[], None]) -> None:
        """Do something now, or behind what is to be sent to the same session and is not durable yet."""
        record = self._around.holding(link.roster.key) if has_session(link) else None
        if record is None:
            job()
        else:
            record.behind(job)

    def hand(self, message: Message, links: Recipients, out: Out | None, *, at_once: bool = False) -> Sent:
        """Send a message to each of some connections.

        Args:
            message: what.
            links: those.
            out: it is in the inbox, and is out from now on; None for what `can_write`.
            at_once: whether it waits at none of them, of whatever priority.
        """
        hub, whole = self._hub, self._whole
        active = parked = queued = 0
        written_active = written_hibernated = False
        for link in links:
            in_use = hub.activity.is_active(link)
            later = message.priority == LOW and not (in_use or at_once)
            if out is not None and has_session(link):
                self._offer(message, link, whole.offer(out, link.roster.key, link.sid), later=later)
            elif out is not None and later:
                whole.offer(out, link.roster.key, link.id)
                frame = message.frame(binary=link.flags & BINARY == BINARY)
                hub.pacing.postpone(link, frame, self._delay(link), done=partial(whole.written, out))
            else:
                hub.send_frame(link, message.frame(binary=link.flags & BINARY == BINARY))
                written_active |= in_use
                written_hibernated |= not in_use
            if in_use:
                active += 1
            elif later:
                queued += 1
            else:
                parked += 1
            if message.priority == HIGH and not in_use:
                self._rouse(link)
        if out is not None and (written_active or written_hibernated):
            whole.written(out)
        self._note(message, written_active, written_hibernated)
        return Sent(active=active, parked=parked, queued=queued)

    def _note(self, message: Message, active: bool, hibernated: bool) -> None:
        """A message was written to connections of one kind or both: note how long that took."""
        if message.began and message.priority != LOW:
            delay = perf_counter() - message.began
            if active:
                self._hub.metrics.delivery_active.note(delay)
            if hibernated:
                self._hub.metrics.delivery_hibernated.note(delay)

    def _delay(self, link: Link) -> float:
        return self._around.definition(link.roster.key).flush_after

    def _rouse(self, link: Link) -> None:
        """A hibernated connection becomes active, and its room is woken if that wants to be."""
        self._hub.activity.use(link)
        key = link.roster.key
        if self._around.definition(key).wakes and link.roster.inbox is None:
            self._around.rouse(key)

    # Through the journal of a room.

    def _offer(self, message: Message, link: Link, offered: Offered, *, later: bool) -> None:
        """Send something to a session, in one order with all else that is sent to it reliably."""
        record = self._around.record(link.roster.key)
        put = partial(self._put, record, message, offered, later=later)
        refused = partial(self._refused, record, offered)

        def known() -> None:
            # What an awake room without a gate sends is out before it is written, and tried for ever.
            at_once = record.gate is None and link.roster.inbox is not None
            record.outside(put, None if at_once else refused)

        record.when_known(known)

    def _put(self, record: Record, message: Message, offered: Offered, *, later: bool) -> None:
        """Put it into the journal, and send it when that is durable, or now if nothing waits for that."""
        if offered.over or record.journal is None:
            return
        hub, roster, sid = self._hub, self._around.roster(record.key), offered.sid
        link = roster.link_of(sid)
        links = [] if link is None or link.flags & (CLOSING | GONE) else [link]
        seq = keep(record, roster, hub, message.body, Audience(sid=sid))
        self._whole.placed(offered, seq)
        if not offered.settled:
            record.delta.offers[message.id] = Offer(message.user, record.key, sid, seq)
        reliable = Reliable(message.body, seq)
        delay = self._around.definition(record.key).flush_after
        wait = Manner(volatile=False, key=None, window=delay) if later else None
        began = 0.0 if message.priority == LOW else message.began
        broadcast = ReliableBroadcast(links, reliable, seq, record.journal, wait, began)
        send = Spread(hub, roster, broadcast)
        if record.gate is None and roster.inbox is not None:
            send()
        else:
            record.after(send)
        hub.forget(roster)

    def _refused(self, record: Record, offered: Offered, error: RoomsError) -> None:  # noqa: ARG002
        """It could not be written, and is undone; or was sent, and is tried again."""
        journal = record.journal
        if not offered.seq or journal is None or offered.seq > journal.released:
            self._whole.refused(offered)


def has_session(link: Link) -> bool:
    """Whether what is sent to a connection can be acknowledged."""
    return link.flags & SESSION != 0 and link.session is not None
