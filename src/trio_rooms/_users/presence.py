"""Who is in a room, as far as its connections are told.

It is made of what there is: the connections that are in the room, the sessions that are away, and what
each has set. Nothing is counted. So it is right after whatever happened, and of a change there is nothing
to know but whose it is: what is told is what is so when it is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, cast

import attrs
import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._sockets.flags import CLOSING, GONE, OVER, SESSION, UNGREETED, UNWELCOMED
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._state.audience import Membership
from trio_rooms._state.record import Record
from trio_rooms._values.cbor import decode_sent, encode_plain
from trio_rooms._values.json_codec import encode as encode_json
from trio_rooms.errors import StoreClosed, StoreError
from trio_rooms.stores.base import LinkHalf, StoredSession

from .telling import Telling

__all__ = ["Presence", "Presences", "encode_presence", "people_of", "presence_of", "sound"]

logger = logging.getLogger("trio_rooms")

_NOT_HERE: Final = CLOSING | GONE | UNGREETED
"""Flags of connections that are not here, or not yet."""
_MOST_BYTES: Final = 1024
"""Bytes of CBOR that a connection may set: all that are in the room get it, and each one that comes."""
_WINDOW: Final = 0.05
"""Seconds for which what changes is gathered: no one sees the difference, and a storm is told at once."""
_SHARE: Final = 10.0
"""Times that what a room was told last took, for which the next waits: a tenth of the time at most."""
_LONGEST: Final = 10.0
"""Seconds that it waits at most."""
_PAGE: Final = 256
"""Sessions that are read of a room at a time."""
_RETRY: Final = 5.0
"""Seconds after which they are read again, where they cannot be."""


def encode_presence(definition: Definition, value: Any) -> bytes:
    """The CBOR of what a connection of a room sets; nothing for None.

    Raises:
        TypeError: the room has no presence, or it is no dict with strings as keys, or something in it has
            no form for clients.
        ValueError: it is larger than 1 KiB of CBOR, or something in it has no form.
    """
    if not definition.presence:
        msg = (
            f"room {definition.name} tells nobody who is here: write Room({definition.name!r}, presence=True)"
        )
        raise TypeError(msg)
    if value is None:
        return b""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        msg = f"a presence is a dict with strings as keys, such as {{'status': 'busy'}}, not {value!r:.100}"
        raise TypeError(msg)
    encoded = encode_plain(value)
    encode_json(value)
    if len(encoded) > _MOST_BYTES:
        msg = (
            f"a presence has {len(encoded)} bytes of CBOR, more than {_MOST_BYTES:,}: everybody in the room "
            "gets it, and gets it again with each change; keep what is large in the state"
        )
        raise ValueError(msg)
    return encoded


def sound(encoded: bytes) -> bytes:
    """What a store has of a presence, if it is one: what is damaged there is shown to nobody."""
    try:
        value = decode_sent(encoded) if encoded else {}
        encode_plain(value)
        encode_json(value)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with it)
        logger.error("a presence in the store is damaged: %s", error)  # noqa: TRY400
        return b""
    return encoded if isinstance(value, dict) else b""


def people_of(roster: Roster | None) -> tuple[str, ...]:
    """The users with a connection in a room that was greeted, by name; in one with presence also who is away.

    `Presence.known` waits until that is known.
    """
    if roster is None:
        return ()
    names = {link.user for link in roster.everybody() if link.user is not None and not link.flags & _NOT_HERE}
    presence = presence_of(roster)
    if presence is not None:
        names.update(presence.away_users())
    return tuple(sorted(names))


def presence_of(roster: Roster | None) -> Presence | None:
    """That of a room, if it has one."""
    return None if roster is None else cast("Presence | None", roster.presence)


@attrs.define(eq=False)
class Presences:
    """What the presences of all rooms share.

    Args:
        hub: holds the connections.
        deadlines: those of the runtime.
        record: gives the record of a room.
        spawn: starts a task of the runtime.
        links: gives the connections of a user in a room, by its key.
    """

    hub: SocketHub
    deadlines: Deadlines
    record: Callable[[str], Record]
    spawn: Callable[..., None]
    links: Callable[[str, str], Iterable[Link]]
    stopped: bool = attrs.field(init=False, default=False)
    """Whether the program stops: everybody goes, and nobody need be told."""

    def new(self, roster: Roster, *, sessions: bool) -> Presence:
        """That of a room; ``sessions`` is whether it has some."""
        return Presence(self, roster, sessions=sessions)


@attrs.define(eq=False)
class _Away:
    """A session without a connection."""

    half: LinkHalf | None
    """What is written of it; None as long as its connection still closes, or the store has to be asked."""
    met: bool
    """Whether its room has met it: before that it is not here."""


class Presence:
    """Who is in one room, awake or asleep, and who is to be told of what; see `roster.Presence`.

    Args:
        shared: what all rooms have in common.
        roster: the room's connections.
        sessions: whether it has sessions.
    """

    __slots__ = (
        "_armed",
        "_away",
        "_changed",
        "_joined",
        "_known",
        "_not_before",
        "_roster",
        "_seen",
        "_sessions",
        "_shared",
        "_telling",
        "_values",
    )

    def __init__(self, shared: Presences, roster: Roster, *, sessions: bool) -> None:
        self._shared = shared
        self._roster = roster
        self._values: dict[int, bytes] = {}
        """By session: what it has set."""
        self._away: dict[str, dict[int, _Away]] = {}
        """By user and session."""
        self._changed: dict[str, None] = {}
        """Users of whom something may be to be told."""
        self._joined: dict[Link, None] = {}
        """Who is to be told the whole."""
        self._armed = False
        self._telling = False
        self._not_before = 0.0
        self._sessions = sessions
        self._known: trio.Event | None = trio.Event() if sessions else None
        """Set when it is known who is away; None from then on."""
        self._seen: set[int] | None = None
        """While that is read: sessions of which more is known here than there."""

    # What the hub says.

    def entered(self, link: Link) -> None:
        """See `roster.Presence`."""
        if not self._roster.has(link):
            self._note_met(link, met=True)
            return
        if link.user is not None:
            self._take_away(link.user, link.sid)
            self._change(link.user)
        self._joined[link] = None
        self._go()
        if self._known is not None and self._seen is None:
            self._seen = set()
            self._shared.record(self._roster.key).when_known(self._begin)

    def left(self, link: Link, *, met: bool) -> None:
        """See `roster.Presence`."""
        self._joined.pop(link, None)
        flags, user = link.flags, link.user
        if not flags & SESSION:
            self._values.pop(link.sid, None)
        elif user is not None and not flags & (OVER | UNWELCOMED):
            self._away.setdefault(user, {})[link.sid] = _Away(None, met)
            self._see(link.sid)
        if user is not None and met:
            self._change(user)
            self._go()

    def taken_back(self, link: Link) -> None:
        """See `roster.Presence`."""
        if self._joined.pop(link, None) is None and not self._roster.has(link):
            self._note_met(link, met=False)
        if link.user is not None:
            self._change(link.user)
            self._go()

    def over(self) -> None:
        """See `roster.Presence`."""
        kept = {link.id: self._values.get(link.sid, b"") for link in self._roster.everybody()}
        self._values = {number: value for number, value in kept.items() if value}
        for user in self._away:
            self._change(user)
        self._away.clear()
        self._learned()

    def forgotten(self) -> None:
        """See `roster.Presence`."""
        if self._sessions:
            unknown, self._known = self._known, trio.Event()
            if unknown is not None:
                unknown.set()
            self._seen = None
            self._away.clear()
            self._changed.clear()

    def _note_met(self, link: Link, *, met: bool) -> None:
        """Whether the room has met a session that is away has changed."""
        away = None if link.user is None else self._away.get(link.user, {}).get(link.sid)
        if away is not None:
            assert link.user is not None
            away.met = met
            self._change(link.user)
            self._go()

    # What the sessions say.

    def given(self, sid: int, value: bytes) -> None:
        """What a connection that is about to enter has set, or its session before."""
        if value:
            self._values[sid] = value
        else:
            self._values.pop(sid, None)

    def value(self, sid: int) -> bytes:
        """What a connection or a session has set."""
        return self._values.get(sid, b"")

    def dropped(self, link: Link, half: LinkHalf) -> None:
        """A session is away, and this is written of it."""
        self._see(link.sid)
        if link.user is None:
            self._values.pop(link.sid, None)  # Nobody is shown it; its row has it.
            return
        there, met = self._away.setdefault(link.user, {}), not link.flags & UNGREETED
        if link.sid not in there and met:  # It left a room that everybody had left, and others have come.
            self._change(link.user)
            self._go()
        there[link.sid] = _Away(half, met)

    def ended(self, link: Link) -> None:
        """A session is over."""
        self._see(link.sid)
        self._values.pop(link.sid, None)
        if link.user is not None and self._take_away(link.user, link.sid):
            self._change(link.user)
            self._go()

    def _take_away(self, user: str, sid: int) -> bool:
        """A session is not away any more; whether it was."""
        self._see(sid)
        sessions = self._away.get(user)
        if sessions is None or sessions.pop(sid, None) is None:
            return False
        if not sessions:
            del self._away[user]
        return True

    def _see(self, sid: int) -> None:
        """What is read of a session now may be what it was."""
        if self._seen is not None:
            self._seen.add(sid)

    # What handlers say.

    def set(self, link: Link, value: bytes, record: Record) -> None:
        """Set what is shown of a connection; nothing for one that is gone.

        It is told whatever becomes of what else the handler does, and written with what goes next.

        Args:
            link: the connection, or the last one of a session that is away.
            value: see `encode_presence`.
            record: its room's.
        """
        sid, user = link.sid, link.user
        here = self._roster.has(link)
        away = None if user is None else self._away.get(user, {}).get(sid)
        if not (here or away is not None) or value == self.value(sid):
            return
        self._values[sid] = value
        if user is not None:
            self._change(user)
            self._go()
        if link.session is not None:
            written = record.delta.links.get(sid)
            if written is None:
                record.outside(partial(self._write, record, user, sid))
            else:
                record.delta.links[sid] = attrs.evolve(written, presence=value)

    def _write(self, record: Record, user: str | None, sid: int) -> None:
        """Have what a session has set written, wherever it is now."""
        away = None if user is None else self._away.get(user, {}).get(sid)
        link = self._roster.link_of(sid)
        if away is not None and away.half is not None:
            half = away.half = attrs.evolve(away.half, presence=self.value(sid))
        elif link is not None and link.session is not None and record.journal is not None:
            half = LinkHalf(link.id, None, record.journal.behind(link.session), presence=self.value(sid))
        else:
            return  # It is over, or what is written of it next has it.
        record.delta.links[sid] = half

    def as_it_is(self, sid: int, half: LinkHalf) -> LinkHalf:
        """What is written of a session's connection, with what it has set now, if that is known here."""
        value = self._values.get(sid, half.presence)
        return half if value == half.presence else attrs.evolve(half, presence=value)

    # What is so.

    def entries(self, user: str) -> list[dict[str, Any]]:
        """What there is of a user now, in the order in which it came; empty where she is not here."""
        links = self._shared.links(user, self._roster.key)
        found = [(link.sid, False) for link in links if not link.flags & _NOT_HERE]
        found += [(sid, True) for sid, away in self._away.get(user, {}).items() if away.met]
        found.sort()
        return [self._entry(sid, away=away) for sid, away in found]

    def _entry(self, sid: int, *, away: bool) -> dict[str, Any]:
        encoded = self._values.get(sid)
        value = decode_sent(encoded) if encoded else {}
        return {**value, "status": "away"} if away else {"status": "online", **value}

    def away_users(self) -> list[str]:
        """Those of whom a session is away."""
        return [user for user, sessions in self._away.items() if any(one.met for one in sessions.values())]

    # Who is away, when that is not known yet.

    async def known(self) -> None:
        """Wait until it is known who is away. A checkpoint only where it is not.

        Raises:
            StoreError: it cannot be read.
        """
        unknown = self._known
        if unknown is None:
            return
        await self._shared.record(self._roster.key).known()
        if self._seen is None and not unknown.is_set():
            self._seen = set()
            self._begin()
        await unknown.wait()
        if self._known is not None:
            msg = f"room {self._roster.key}: it cannot be read who is away"
            raise StoreError(msg)

    def _begin(self) -> None:
        """The record knows how many sessions are away."""
        record = self._shared.record(self._roster.key)
        reading = self._known
        if reading is None or self._seen is None:
            return
        if record.away:
            record.pin()
            self._shared.spawn(self._read, record, reading)
        else:
            self._learned()

    async def _read(self, record: Record, reading: trio.Event) -> None:
        """Read which they are, however long it takes."""
        try:
            while self._known is reading:
                try:
                    await self._read_all(record, reading)
                except StoreClosed:
                    return
                except StoreError as error:
                    logger.error("room %s: it cannot be read who is away: %s", record.key, error)  # noqa: TRY400
                    if self._known is reading:
                        self._known = trio.Event()
                        reading.set()  # Who waits tries again, or does not.
                        reading = self._known
                    await trio.sleep(_RETRY)
                else:
                    if self._known is reading:
                        self._learned()
        finally:
            record.unpin()

    async def _read_all(self, record: Record, reading: trio.Event) -> None:
        """Read it once, unless it is known otherwise. What changes meanwhile is seen here, and counts."""
        for sid in record.unwritten_links():
            row, _ = await record.row(sid)
            if self._known is not reading:
                return
            self._learn(row)
        after = 0
        while (rows := await record.page(after, _PAGE)) and self._known is reading:
            after = rows[-1].sid
            for row in rows:
                self._learn(row)

    def _learn(self, row: StoredSession | None) -> None:
        """Take what is written of a session, unless more is known."""
        seen = self._seen
        if row is None or seen is None or row.sid in seen:
            return
        seen.add(row.sid)
        opening, half = row.room.opening, row.link
        user = None if opening is None else opening.user
        if user is None or half.link or half.ended or half.until is None:
            return
        self.given(row.sid, sound(half.presence))
        met = not self._roster.greets or Membership.decode(row.room.channels).since is not None
        self._away.setdefault(user, {})[row.sid] = _Away(half, met)

    def _learned(self) -> None:
        """It is known who is away."""
        if self._known is not None:
            self._known.set()
        self._known = self._seen = None
        self._go()

    # Telling.

    def _change(self, user: str) -> None:
        """Something of a user may have changed, and somebody may have been told what it was."""
        if self._known is None and self._roster.count:
            self._changed[user] = None

    def _go(self) -> None:
        """Have told what there is to be told, in a while."""
        if self._armed or self._telling or self._known is not None:
            return
        if not ((self._changed or self._joined) and self._roster.count):
            return
        self._armed = True
        when = max(trio.current_time() + _WINDOW, self._not_before)
        self._shared.deadlines.set(when, self._tell)

    def _tell(self) -> None:
        """Tell what there is to be told now, behind what the room has still to send."""
        self._armed = False
        changed, self._changed = self._changed, {}
        joined, self._joined = self._joined, {}
        roster = self._roster
        if self._shared.stopped or not roster.count:
            return
        self._telling = True
        self._shared.hub.work(roster, Telling(self, roster, changed, joined, self._told))

    def present(self) -> Iterable[str]:
        """The users of the connections in the room, and those of sessions that are away, each once."""
        users = dict.fromkeys(link.user for link in self._roster.members(None) if link.user is not None)
        users.update(dict.fromkeys(self.away_users()))
        return users

    def waits(self, link: Link) -> bool:
        """Whether a connection has still to be told the whole."""
        return link in self._joined

    def _told(self, took: float, sent: int) -> None:
        """All of it was told, to so many."""
        self._shared.hub.note_sent(sent)
        self._telling = False
        self._not_before = trio.current_time() + min(_SHARE * took, _LONGEST)
        self._go()
