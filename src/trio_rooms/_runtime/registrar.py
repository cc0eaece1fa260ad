"""Sessions: how they begin, lose their connection, go on with another, and end.

A session is a row of its room, and whatever happens to it is written through the room's record, in one
order with all else. Who has a connection is known in memory; of all others the row is all that there
is, whether their room is awake or asleep.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import attrs
import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._keys import split_key
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.wall import WallClock
from trio_rooms._room.endings import MOST_TOLD
from trio_rooms._room.shared import roster_of
from trio_rooms._sockets.flags import BINARY, CLOSING, GONE, OVER, REPLAYING, SESSION, UNREPORTED, UNWELCOMED
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.replaying import Replaying
from trio_rooms._sockets.roster import Disconnected, Dropped, Link, Remnant, Roster
from trio_rooms._sockets.standing import Unsettled
from trio_rooms._state.audience import Membership
from trio_rooms._state.record import Record
from trio_rooms._state.rows import decode_left, deleted, encode_left, half_of, membership_of
from trio_rooms._state.sessions import Session, Token
from trio_rooms._users.presence import presence_of, sound
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms._wire.envelope import welcome
from trio_rooms.errors import RoomsError, StoreError
from trio_rooms.stores.base import LinkHalf, Opening, StoredSession

from .replay import caught_up, replay

__all__ = ["Registrar", "Resumption"]

logger = logging.getLogger("trio_rooms")

_MOST_AWAY: Final = 200_000
"""Sessions of one room that are away; of more the oldest end early. Each is a row, and takes no memory."""
_AT_ONCE: Final = 256
"""Sessions that end together."""
_RETRY: Final = 10.0
"""Seconds after which it is tried again to write what became of a session."""
_TAKEN: Final = "another connection took the session"


@attrs.frozen
class Resumption:
    """A session that a client may go on with."""

    record: Record
    row: StoredSession
    token: str
    seq: int
    """What the client says that it has."""
    durable: bool
    """Whether the session outlives the process."""


@attrs.define(eq=False)
class Registrar:
    """Begins, interrupts, resumes and ends sessions.

    Args:
        definitions: the rooms that are served, by name.
        hub: holds the connections.
        record: gives the record of a room.
        ended: told of the key of a room that sleeps, which would hear of a session that is over.
        spawn: starts a task of the runtime.
        deadlines: those of the runtime.
    """

    _definitions: Mapping[str, Definition]
    _hub: SocketHub
    _record: Callable[[str], Record]
    _ended: Callable[[str], None]
    _spawn: Callable[..., None]
    _deadlines: Deadlines
    stopping: bool = attrs.field(init=False, default=False)
    """Whether the program stops: connections end, and sessions do not."""
    _wall: WallClock = attrs.field(init=False, factory=WallClock)
    _crowded: set[str] = attrs.field(init=False, factory=set)
    """Rooms of which sessions end since they have too many."""

    def _roster(self, key: str) -> Roster:
        return roster_of(self._hub, self._definition(key), key)

    def _definition(self, key: str) -> Definition:
        return self._definitions[split_key(key)[0]]

    # Beginning.

    def beginning(self, user: str | None, found: Resumption | str) -> Callable[[Link], bool]:
        """What gives a connection its session, before it enters its room, and sends the first message.

        It returns whether the room has met the session.

        Args:
            user: who its client is, which has negotiated a subprotocol of envelopes.
            found: what it may go on with, or why it may not; empty where it did not ask.
        """
        if isinstance(found, Resumption):
            return partial(self.go_on, found)
        return partial(self.begin, user, found)

    def begin(self, user: str | None, reason: str, link: Link) -> bool:
        """Give a connection a session of its own, and send the first message, before it enters its room.

        Args:
            user: who its client is, which has negotiated a subprotocol of envelopes.
            reason: why this is not the session that it asked for; empty where it asked for none.
            link: the connection.

        Returns:
            False: its room has not met it.
        """
        definition = self._definition(link.roster.key)
        if not definition.resume_window or self.stopping:
            self._hub.send(link, welcome(link.id, reason=reason))
            return False
        if reason:
            self._hub.metrics.resumes[reason] += 1
        record = self._record(link.roster.key)
        token = Token.new(link.id)
        link.session = link.id
        link.flags |= SESSION
        if record.head is not None and not definition.gated:
            seq = self._open(record, link, Opening(token.digest, user, 0, definition.resume_window))
            self._hub.send(link, welcome(link.id, str(token), seq, reason=reason))
            return False
        # Nothing goes out before the welcome, which waits for what is read or written first. Who leaves
        # before that cannot come back.
        output = self._hub.hold(link)
        link.flags |= UNWELCOMED

        def welcomed(seq: int) -> None:
            greeting = welcome(link.id, str(token), seq, durable=definition.gated, reason=reason)
            self._welcome(link, output, greeting.frame(binary=link.flags & BINARY == BINARY))

        def act() -> None:
            if link.session is None:
                without()  # It ended with the room that it came for, which was destroyed.
                return
            seq = self._open(record, link, Opening(token.digest, user, 0, definition.resume_window))
            if definition.gated:
                record.after(partial(welcomed, seq))

        def refused(error: RoomsError) -> None:
            logger.error("room %s: a session could not be written: %s", record.key, error)
            without()

        def without() -> None:
            """It has no session: all else it can do."""
            link.flags &= ~SESSION
            if link.session is not None:
                self._hub.users.session_over(record.key, link.sid)
            greeting = welcome(link.id, reason=reason)
            self._welcome(link, output, greeting.frame(binary=link.flags & BINARY == BINARY))

        def known() -> None:
            if record.forsaken is not None:
                without()
            elif definition.gated:
                record.outside(act, refused)
            else:
                record.outside(act)
                assert record.journal is not None
                welcomed(record.journal.seq)

        record.when_known(known)
        return False

    def _open(self, record: Record, link: Link, opening: Opening) -> int:
        """Write a session with what goes next; returns from where it counts."""
        journal = record.journal
        assert journal is not None
        link.roster.journal = journal
        start = journal.begin(link.id)
        opening = attrs.evolve(opening, start=start)
        session = record.sessions.know(link.id, Session(opening=opening))
        record.delta.sessions[link.id] = partial(half_of, record, link)
        half = LinkHalf(link.id, None, start + 1, presence=_value(link.roster, link.id))
        record.delta.links[link.id] = half
        record.after(partial(_opened, session))
        record.want()
        return start

    def _welcome(self, link: Link, output: Replaying, frame: bytes) -> None:
        """Send the first message, and then what has waited for it."""
        if not link.flags & (CLOSING | GONE):
            link.flags &= ~UNWELCOMED
            output.feed(frame)
            self._hub.let_go(link)

    # Going on.

    async def look_up(self, key: str, user: str | None, token: str, seq: int) -> Resumption | str:
        """What a client may go on with, or why it may not. A cancel changes nothing.

        What it may is to be handed to `go_on` without a checkpoint; its record is pinned, and to be
        unpinned then.

        Args:
            key: the room.
            user: who the client is.
            token: what it has.
            seq: the highest that it has.

        Raises:
            StoreError: it cannot be read.
        """
        parsed = Token.parse(token)
        if parsed is None or not self._definition(key).resume_window:
            await trio.lowlevel.checkpoint()
            return "unknown"
        record = self._record(key)
        record.pin()
        try:
            await record.known()
            row, durable = await record.row(parsed.sid)
            record.check_ours()
            found = self._examine(record, row, parsed, user, seq, durable=durable)
        except BaseException:
            record.unpin()
            raise
        if isinstance(found, str):
            record.unpin()
        return found

    def _examine(
        self,
        record: Record,
        row: StoredSession | None,
        token: Token,
        user: str | None,
        seq: int,
        *,
        durable: bool,
    ) -> Resumption | str:
        opening = None if row is None else row.room.opening
        if row is None or opening is None or not hmac.compare_digest(opening.token, token.digest):
            return "unknown"
        if opening.user != user:
            return "unknown"
        link = self._present(record.key, row)
        if row.link.ended or (link is not None and link.flags & OVER):
            return "expired"
        until = row.link.until
        if until is not None and until <= self._wall.now() and (link is None or link.flags & GONE):
            return "expired"  # Whoever ends what is due has not come to it yet.
        journal = record.journal
        assert journal is not None
        membership, pos = self._standing(record, row, link)
        reason = journal.refusal(seq, membership, pos)
        if reason:
            if link is not None and not link.flags & (CLOSING | GONE):
                link.flags |= OVER
                self._hub.close(link, CloseCode.TAKEN, _TAKEN)
            else:
                self._end(record, row, link)
            return reason
        return Resumption(record, row, str(token), seq, durable)

    def _present(self, key: str, row: StoredSession) -> Link | None:
        """What there is in memory of a session: its connection, one that closes, or the last one."""
        roster = self._hub.rosters.get(key)
        link = None
        if roster is not None:
            link = roster.link_of(row.sid)
            if link is None and roster.away is not None:
                link = roster.away.get(row.sid)
        if link is None and row.link.link:
            link = self._hub.closing.leaving(key).get(row.link.link)
        return link if link is not None and link.flags & SESSION else None

    def _standing(self, record: Record, row: StoredSession, link: Link | None) -> tuple[Membership, int]:
        """The channels of a session, and the first seq that it may not have."""
        assert record.journal is not None
        if link is None or link.session is None:
            return Membership.decode(row.room.channels), row.link.pos
        return membership_of(record, link), record.journal.behind(link.session)

    def go_on(self, resumption: Resumption, link: Link) -> bool:
        """Let a session go on with a connection, before that enters its room.

        Returns:
            Whether the room has met it.
        """
        self._hub.metrics.resumes["resumed"] += 1
        record, row, roster = resumption.record, resumption.row, link.roster
        journal, sid = record.journal, row.sid
        assert journal is not None
        roster.journal = journal
        old = self._present(roster.key, row)
        membership, pos = self._standing(record, row, old)
        since = journal.since(resumption.seq, membership, pos)
        shown = sound(row.link.presence) if old is None else _value(old.roster, sid)
        if old is None or old.session is None:
            link.attachment, link.channels = row.room.attachment, membership.channels
            standing = Unsettled(sid, pos, 0, membership.changes, journal.serial)
            record.away -= 1
        else:
            link.attachment, link.channels = old.attachment, old.channels
            standing = journal.depart(old.session)
            self._take_from(record, roster, old)
        link.session = journal.back(standing, since)
        link.flags |= SESSION | REPLAYING
        if roster.presence is not None:
            roster.presence.given(link.id, b"")
            roster.presence.given(sid, shown)
        half = LinkHalf(link.id, None, since + 1, presence=shown)
        record.outside(partial(self._note_link, record, sid, half))
        output = self._hub.hold(link)
        greeting = welcome(sid, resumption.token, resumption.seq, durable=resumption.durable, resumed=True)
        output.feed(greeting.frame(binary=link.flags & BINARY == BINARY))
        met = membership.since is not None or not roster.greets
        if not met or since >= journal.released >= journal.seq:
            caught_up(self._hub, record, link, 0)
        else:
            record.pin()
            self._spawn(replay, self._hub, record, link, output, since)
        return met

    def _take_from(self, record: Record, roster: Roster, old: Link) -> None:
        """A session leaves the connection that it had: one that is there, that closes, or that is gone."""
        if old.flags & GONE:
            record.away -= 1
            if roster.away is not None:
                roster.away.pop(old.sid, None)
        elif old.flags & CLOSING:
            old.flags |= UNREPORTED
        else:
            # With its session, which is not over: what that was sent and has not acknowledged stays with it.
            self._hub.close(old, CloseCode.TAKEN, _TAKEN, report=False)
        old.flags &= ~SESSION
        old.session = old.sid

    def _note_link(self, record: Record, sid: int, half: LinkHalf) -> None:
        presence = presence_of(self._hub.rosters.get(record.key))
        record.delta.links[sid] = half if presence is None else presence.as_it_is(sid, half)

    # What happens on a connection.

    def left(self, event: Disconnected, *, told: bool) -> None:
        """See `trio_rooms._sockets.hub.Sessions`."""
        link = event.link
        roster = link.roster
        if roster.inbox is None and not roster.count and self._definition(roster.key).on_disconnect is None:
            roster.departed = None  # Nobody stays, so nobody is told of those who left before.
        if self.stopping and (not told or roster.inbox is None):
            return  # Its time begins when the store is opened again.
        record = self._record(roster.key)
        if link.flags & (OVER | UNWELCOMED):
            record.when_known(partial(self._end_of, record, event, told=told))
            return
        window = self._definition(roster.key).resume_window
        until = self._wall.now() + window
        record.when_known(partial(self._drop, record, event, until))
        if roster.inbox is not None and link.flags & SESSION:
            if roster.away is None:
                roster.away = {}
            roster.away[link.sid] = link
            if told and self._definition(roster.key).on_drop is not None:
                roster.inbox.post(Dropped(link, event.code, event.reason, event.clean))

    def _drop(self, record: Record, event: Disconnected, until: float) -> None:
        """A session has no connection from now on."""
        link = event.link
        if not link.flags & SESSION or link.session is None or record.forsaken is not None:
            return  # Of a room that somebody else has, the session is theirs.
        assert record.journal is not None
        link.session = record.journal.depart(link.session)
        record.away += 1
        shown = _value(link.roster, link.sid)
        half = LinkHalf(0, until, link.session.pos, encode_left(event), presence=shown)
        self._write(record, link, half)
        presence = presence_of(self._hub.rosters.get(record.key))
        if presence is not None:
            presence.given(link.sid, shown)
            presence.dropped(link, half)
        if record.away > _MOST_AWAY and record.key not in self._crowded:
            self._crowded.add(record.key)
            self._spawn(self._thin_out, record.key)

    def _write(self, record: Record, link: Link, half: LinkHalf) -> None:
        """Have it written that a session is away, and tried again for as long as it is."""

        def refused(error: RoomsError) -> None:
            if record.forsaken is not None:
                return  # Who has the room now knows that nobody is connected here.
            logger.error("room %s: that a connection is gone could not be written: %s", record.key, error)
            self._deadlines.set(trio.current_time() + _RETRY, again)

        def again() -> None:
            if link.flags & SESSION and not self.stopping:
                self._write(self._record(record.key), link, half)

        record.outside(partial(self._note_link, record, link.sid, half), refused)

    async def move(self, roster: Roster, code: int, reason: str) -> None:
        """Close all connections of a room that is about to be given to somebody else, and that sleeps.

        It hears nothing of it. Their sessions are away from now on; when this returns, that is written, or is
        not known to be. Cancelled, some are closed.
        """
        links = [*roster.everybody(), *self._hub.closing.leaving(roster.key).values()]
        sessions = any(link.flags & SESSION for link in links)
        record = self._record(roster.key)
        record.pin()
        try:
            if sessions:
                await record.known()
            for count, link in enumerate(links, 1):
                self._hub.close(link, code, reason, report=False)
                link.flags |= UNREPORTED
                if link.flags & SESSION:
                    self.left(Disconnected(link, code, reason, clean=True), told=False)
                    link.flags &= ~SESSION
                if count % _AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            if sessions:
                await record.durable()
        except RoomsError as error:
            logger.error("room %s: that its sessions are away could not be written: %s", roster.key, error)  # noqa: TRY400
        finally:
            record.unpin()

    def answered(self, link: Link, number: int) -> None:
        """See `trio_rooms._sockets.hub.Sessions`."""
        record = self._record(link.roster.key)
        session = record.sessions.get(link.sid)
        if session is not None and session.answered(number):
            record.delta.answered[link.sid] = min(number, session.last)

    # The end.

    def _end_of(self, record: Record, event: Disconnected, *, told: bool) -> None:
        """The connection of a session has ended, and the session with it."""
        link = event.link
        if not link.flags & SESSION or link.session is None or record.forsaken is not None:
            return
        assert record.journal is not None
        standing = record.journal.depart(link.session)
        link.session = record.journal.settle(standing)
        link.flags &= ~SESSION
        self._over(record, event, LinkHalf(0, None, standing.pos, encode_left(event), ended=True), told=told)

    def _end(self, record: Record, row: StoredSession, link: Link | None) -> None:
        """A session that is away is over.

        Args:
            record: its room's.
            row: what is written of it.
            link: the last connection that it had, if that is in memory.
        """
        roster, told = self._hub.rosters.get(record.key), True
        assert record.journal is not None
        if link is None or link.session is None:
            record.journal.leave(row.link.pos)
            record.away -= 1
            if roster is None:
                roster = self._roster(record.key)
            membership = Membership.decode(row.room.channels)
            told = membership.since is not None
            user = None if row.room.opening is None else row.room.opening.user
            link = Remnant(row.sid, roster, row.room.attachment, membership.channels, user, met=told)
        else:
            link.session = record.journal.settle(record.journal.depart(link.session))
            if link.flags & GONE:
                record.away -= 1
            else:
                link.flags |= UNREPORTED
            if link.roster.away is not None:
                link.roster.away.pop(row.sid, None)
            link.flags &= ~SESSION
        event = Disconnected(link, *decode_left(row.link.left))
        self._over(record, event, attrs.evolve(row.link, link=0, until=None, ended=True), told=told)
        self._hub.forget(link.roster)

    def _over(self, record: Record, event: Disconnected, half: LinkHalf, *, told: bool) -> None:
        """A session is over, and counts nowhere any more; its room hears of it when it is awake."""
        sid, roster = event.link.sid, event.link.roster
        self._hub.users.session_over(record.key, sid, event.link.user if half.pos else None)
        presence = presence_of(roster)
        if presence is not None:
            presence.ended(event.link)
        listens = told and self._definition(record.key).on_disconnect is not None
        if roster.inbox is not None:
            record.outside(partial(self._note_link, record, sid, half))
            record.telling[sid] = None
            roster.inbox.post(event)
        elif listens:
            record.outside(partial(self._note_link, record, sid, half))
            self._ended(record.key)
        else:
            if told and roster.count and self._definition(record.key).on_wake is not None:
                del roster.note_departure(event)[:-MOST_TOLD]
            record.outside(partial(self._note_deleted, record, sid))
            record.sessions.forget(sid)

    def _note_deleted(self, record: Record, sid: int) -> None:
        record.delta.sessions[sid] = deleted
        record.delta.links.pop(sid, None)

    async def expire(self, key: str, sids: list[int], *, early: bool = False) -> bool:
        """End those of some sessions whose time is over; whether that is durable, or else left for later.

        Args:
            key: their room.
            sids: the sessions.
            early: whether they end although it is not.
        """
        record = self._record(key)
        record.pin()
        try:
            await record.known()
            for sid in sids:
                row, _ = await record.row(sid)
                if row is None or row.link.ended or row.link.until is None or self.stopping:
                    continue
                link = self._present(key, row)
                gone = link is None or link.flags & GONE
                if gone and (early or row.link.until <= self._wall.now()):
                    self._end(record, row, link)
            await record.durable()
        except RoomsError as error:
            logger.error("room %s: the ends of sessions could not be written: %s", key, error)  # noqa: TRY400
            return False
        finally:
            record.unpin()
        return True

    async def _thin_out(self, key: str) -> None:
        """End the oldest of too many sessions that are away."""
        record = self._record(key)
        record.pin()
        logger.warning("room %s: more than %d sessions are away, the oldest end early", key, _MOST_AWAY)
        try:
            after = 0
            while record.away > _MOST_AWAY and not self.stopping:
                rows = await record.page(after, _AT_ONCE)
                if not rows:
                    return
                after = rows[-1].sid
                await self.expire(key, [row.sid for row in rows if row.link.until is not None], early=True)
        except StoreError as error:
            logger.error("room %s: its sessions cannot be read: %s", key, error)  # noqa: TRY400
        finally:
            self._crowded.discard(key)
            record.unpin()


def _value(roster: Roster, sid: int) -> bytes:
    """What a connection or a session has set, for those in its room to see."""
    presence = presence_of(roster)
    return b"" if presence is None else presence.value(sid)


def _opened(session: Session) -> None:
    """The first row of a session is durable."""
    session.opening = None
