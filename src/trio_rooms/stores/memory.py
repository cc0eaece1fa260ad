"""A store in memory: for tests, and for rooms whose state may go with the process."""

from __future__ import annotations

import builtins
import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter

import attrs
import trio

from trio_rooms._loop.wall import WallClock
from trio_rooms.errors import StaleWrite, StoreClosed, StoreInUse

from .agenda import Agenda
from .base import (
    Commit,
    Due,
    Entry,
    InboxSize,
    LinkHalf,
    Post,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoredSnapshot,
    StoreStatistics,
    Timer,
    Waiting,
)
from .checks import (
    MOST_ENDED,
    MOST_ENTRIES,
    check_commit,
    check_epoch,
    check_ids,
    check_limit,
    check_posts,
    check_same,
    encode,
    is_next,
)
from .inboxes import Inboxes

__all__ = ["MemoryStore"]


@attrs.define(eq=False)
class _Stored:
    """What is kept of one room."""

    number: int = 0
    nonce: int = 0
    epoch: int = 0
    seq: int = 0
    before: int = 0
    floor: int = 0
    snapshots: tuple[StoredSnapshot, ...] = ()
    values: dict[str, bytes] = attrs.field(factory=dict)
    entries: list[Entry] = attrs.field(factory=list)
    """No deque, which takes 760 bytes where it is empty: as in nearly all rooms."""
    entry_bytes: int = 0
    sessions: dict[int, StoredSession] = attrs.field(factory=dict)
    verdicts: dict[int, dict[int, bytes]] = attrs.field(factory=dict)
    timers: dict[str, Timer] = attrs.field(factory=dict)
    lapses: float | None = None

    def head(self) -> RoomHead:
        return RoomHead(
            self.number,
            self.nonce,
            self.epoch,
            self.seq,
            self.before,
            self.floor,
            len(self.entries),
            self.entry_bytes,
            bool(self.sessions),
            bool(self.timers),
            self.lapses,
        )

    @property
    def empty(self) -> bool:
        return not (self.snapshots or self.values or self.entries or self.sessions or self.timers)


@attrs.define(eq=False)
class Kept:
    """All that a store in memory has: of one store, or of several that share it."""

    rooms: dict[str, _Stored] = attrs.field(factory=dict, init=False)
    ended: dict[str, tuple[int, int, int]] = attrs.field(factory=dict, init=False)
    """Number, nonce and epoch of rooms of which nothing else is left, in the order in which they ended."""
    due_sessions: Agenda[tuple[str, int]] = attrs.field(factory=Agenda, init=False)
    """When sessions expire, by room and id."""
    due_timers: Agenda[tuple[str, str]] = attrs.field(factory=Agenda, init=False)
    """When timers are due, by room and name."""
    due_rooms: Agenda[str] = attrs.field(factory=Agenda, init=False)
    """When rooms lapse."""
    inboxes: Inboxes = attrs.field(factory=Inboxes, init=False)

    def put_session(self, key: str, stored: _Stored, session: StoredSession) -> None:
        """Keep a session, and when it is due."""
        stored.sessions[session.sid] = session
        link = session.link
        self.due_sessions.set((key, session.sid), None if link.ended else link.until)

    def disconnect(self, key: str, now: float) -> None:
        """Have no session of a room have a connection: what held them is gone."""
        stored = self.rooms.get(key)
        if stored is None:
            return
        for session in stored.sessions.values():
            link, opening = session.link, session.room.opening
            if link.until is None and not link.ended and opening is not None:
                pos = max(link.pos, opening.start + 1)
                gone = attrs.evolve(link, link=0, until=now + opening.window, pos=pos)
                self.put_session(key, stored, attrs.evolve(session, link=gone))


@attrs.define(eq=False)
class MemoryStore(Store):
    """Keeps everything in dicts; no thread, no file, no real time.

    A test simulates a restart by closing the store and opening it again: it then has what
    was committed, and its epoch is one higher. A commit is applied before the first
    checkpoint of `commit`.
    """

    _kept: Kept = attrs.field(factory=Kept, init=False)
    _wall: WallClock = attrs.field(factory=WallClock, init=False)
    _epoch: int = attrs.field(default=0, init=False)
    _opened: bool = attrs.field(default=False, init=False)
    _commits: int = attrs.field(default=0, init=False)
    _failures: int = attrs.field(default=0, init=False)

    @property
    def epoch(self) -> int:
        """Counts how often this store was opened."""
        self._check_open()
        return self._epoch

    async def open(self) -> None:
        """Open the store; what earlier openings committed is still there.

        Raises:
            StoreInUse: it is open already.
        """
        if self._opened:
            msg = "this MemoryStore is open already: a store serves one runtime at a time"
            raise StoreInUse(msg)
        await trio.lowlevel.checkpoint()
        self._opened = True
        self._commits = self._failures = 0
        self._take()

    def _take(self) -> None:
        """Be the one to write from now on."""
        self._epoch += 1
        self._kept.ended.clear()
        now = self._wall.now()
        for key in self._kept.rooms:
            self._kept.disconnect(key, now)

    async def aclose(self) -> None:
        """Close the store and keep what it has. A second call does nothing."""
        self._opened = False
        await trio.lowlevel.checkpoint()

    async def load(self, key: str, *, newest: bool = False) -> StoredRoom:
        """See `Store.load`."""
        stored = self._look_up(key)
        room = StoredRoom(stored.head(), stored.snapshots[:1] if newest else stored.snapshots)
        await trio.lowlevel.checkpoint()
        return room

    async def head(self, key: str) -> RoomHead:
        """See `Store.head`."""
        head = self._look_up(key).head()
        await trio.lowlevel.checkpoint()
        return head

    async def commit(self, commit: Commit) -> None:
        """See `Store.commit`."""
        self._check_open()
        check_commit(commit)
        try:
            self._apply(commit)
        except StaleWrite:
            self._failures += 1
            raise
        self._commits += 1
        # A caller that is cancelled here has its commit carried out.
        await trio.lowlevel.checkpoint()

    async def get(self, key: str, name: str) -> bytes | None:
        """See `Store.get`."""
        encode(name)
        value = self._look_up(key).values.get(name)
        await trio.lowlevel.checkpoint()
        return value

    async def list(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, bytes]]:
        """See `Store.list`."""
        values = self._look_up(key).values
        found = [(name, values[name]) for name in _select(values, prefix, after, limit)]
        await trio.lowlevel.checkpoint()
        return found

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """See `Store.keys`."""
        self._check_open()
        found = _select(self._kept.rooms, prefix, after, limit)
        await trio.lowlevel.checkpoint()
        return found

    async def session(self, key: str, sid: int) -> StoredSession | None:
        """See `Store.session`."""
        session = self._look_up(key).sessions.get(sid)
        await trio.lowlevel.checkpoint()
        return session

    async def sessions(
        self, key: str, *, after: int = 0, limit: int | None = None, ended: bool = False
    ) -> builtins.list[StoredSession]:
        """See `Store.sessions`."""
        check_limit(limit)
        sessions = self._look_up(key).sessions
        sids = sorted(sid for sid, one in sessions.items() if sid > after and (one.link.ended or not ended))
        found = [sessions[sid] for sid in sids[:limit]]
        await trio.lowlevel.checkpoint()
        return found

    async def positions(self, key: str) -> dict[int, int]:
        """See `Store.positions`."""
        found: dict[int, int] = {}
        for session in self._look_up(key).sessions.values():
            link = session.link
            if link.pos and link.until is not None and not link.ended:
                found[link.pos] = found.get(link.pos, 0) + 1
        await trio.lowlevel.checkpoint()
        return dict(sorted(found.items()))

    async def verdicts(self, key: str, sid: int) -> dict[int, bytes]:
        """See `Store.verdicts`."""
        found = dict(sorted(self._look_up(key).verdicts.get(sid, {}).items()))
        await trio.lowlevel.checkpoint()
        return found

    async def journal(self, key: str, after: int, until: int, most_bytes: int) -> builtins.list[Entry]:
        """See `Store.journal`."""
        found: builtins.list[Entry] = []
        size = 0
        for entry in self._look_up(key).entries:
            if entry.seq > after:
                if entry.seq > until or (found and size >= most_bytes) or len(found) == MOST_ENTRIES:
                    break
                found.append(entry)
                size += len(entry.body)
        await trio.lowlevel.checkpoint()
        return found

    async def timers(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, Timer]]:
        """See `Store.timers`."""
        timers = self._look_up(key).timers
        found = [(name, timers[name]) for name in _select(timers, prefix, after, limit)]
        await trio.lowlevel.checkpoint()
        return found

    async def due_timers(self, key: str, now: float, limit: int) -> builtins.list[tuple[str, Timer]]:
        """See `Store.due_timers`."""
        check_limit(limit)
        timers = self._look_up(key).timers
        due = sorted(
            (one.due, name) for name, one in timers.items() if one.due is not None and one.due <= now
        )
        await trio.lowlevel.checkpoint()
        return [(name, timers[name]) for _, name in due[:limit]]

    async def timer(self, key: str, name: str) -> Timer | None:
        """See `Store.timer`."""
        encode(name)
        timer = self._look_up(key).timers.get(name)
        await trio.lowlevel.checkpoint()
        return timer

    async def due(self, now: float, limit: int, *, after: Due | None = None) -> builtins.list[Due]:
        """See `Store.due`."""
        self._check_open()
        check_limit(limit)
        kept = self._kept
        sessions: tuple[float, tuple[str, int]] | float = -math.inf
        timers: tuple[float, tuple[str, str]] | float = -math.inf
        rooms: tuple[float, str] | float = -math.inf
        if after is not None:
            sessions = timers = rooms = after.time
            # Of its own time all timers come behind a session, and all rooms behind these.
            before = math.nextafter(after.time, -math.inf)
            if after.sid is not None:
                sessions, timers, rooms = (after.time, (after.key, after.sid)), before, before
            elif after.timer is not None:
                timers, rooms = (after.time, (after.key, after.timer)), before
            elif after.lapses:
                rooms = (after.time, after.key)
        found = [
            Due(time, key, sid=sid) for time, (key, sid) in kept.due_sessions.first(now, limit, sessions)
        ]
        found += [
            Due(time, key, timer=name) for time, (key, name) in kept.due_timers.first(now, limit, timers)
        ]
        found += [Due(time, key, lapses=True) for time, key in kept.due_rooms.first(now, limit, rooms)]
        found.sort(key=lambda one: one.time)
        await trio.lowlevel.checkpoint()
        return found[:limit]

    async def post(self, posts: Sequence[Post]) -> dict[str, InboxSize]:
        """See `Store.post`."""
        self._check_open()
        check_posts(posts)
        sizes = self._kept.inboxes.post(posts)
        self._commits += 1
        await trio.lowlevel.checkpoint()
        return sizes

    async def settle(self, user: str, ids: Collection[int]) -> None:
        """See `Store.settle`."""
        self._check_open()
        encode(user)
        check_ids(ids)
        self._kept.inboxes.settle(user, ids)
        self._commits += 1
        await trio.lowlevel.checkpoint()

    async def inbox(self, user: str, *, after: int = 0, limit: int | None = None) -> builtins.list[Waiting]:
        """See `Store.inbox`."""
        self._check_open()
        encode(user)
        check_limit(limit)
        found = self._kept.inboxes.inbox(user, after, limit)
        await trio.lowlevel.checkpoint()
        return found

    async def inbox_size(self, user: str) -> InboxSize:
        """See `Store.inbox_size`."""
        self._check_open()
        encode(user)
        size = self._kept.inboxes.size(user)
        await trio.lowlevel.checkpoint()
        return size

    async def inboxes(
        self, *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, InboxSize]]:
        """See `Store.inboxes`."""
        self._check_open()
        found = self._kept.inboxes.sizes(_select(self._kept.inboxes.users(), "", after, limit))
        await trio.lowlevel.checkpoint()
        return found

    async def expired(
        self, now: float, limit: int, *, after: tuple[float, str, int] | None = None
    ) -> builtins.list[Waiting]:
        """See `Store.expired`."""
        self._check_open()
        check_limit(limit)
        found = self._kept.inboxes.expired(now, limit, after)
        await trio.lowlevel.checkpoint()
        return found

    def statistics(self) -> StoreStatistics:
        """What the store has done since it was opened; each commit is a transaction of its own."""
        return StoreStatistics(
            commits=self._commits, transactions=self._commits, failures=self._failures, pending=0
        )

    def _look_up(self, key: str) -> _Stored:
        """What there is of a room; nobody may change it who has it from here."""
        self._check_open()
        encode(key)
        return self._kept.rooms.get(key) or _Stored(*self._kept.ended.get(key, ()))

    def _apply(self, commit: Commit) -> None:
        self._check_fence(commit)
        kept, key = self._kept, commit.key
        stored = self._look_up(key)
        if not is_next(commit, stored.number, stored.seq):
            check_same(commit, stored.nonce)
            return
        stored.number, stored.nonce, stored.epoch = commit.number, commit.nonce, commit.epoch
        if commit.destroy:
            for sid in stored.sessions:
                kept.due_sessions.set((key, sid), None)
            for name in stored.timers:
                kept.due_timers.set((key, name), None)
            stored = _Stored(commit.number, commit.nonce, commit.epoch)
        if commit.document is not None:
            newest = StoredSnapshot(commit.number, commit.document)
            stored.snapshots = (newest, *stored.snapshots[:1])
        for name, value in commit.writes.items():
            if value is None:
                stored.values.pop(name, None)
            else:
                stored.values[name] = value
        _apply_journal(commit, stored)
        self._apply_sessions(commit, stored)
        for name, timer in commit.timers.items():
            if timer is None:
                stored.timers.pop(name, None)
            else:
                stored.timers[name] = timer
            kept.due_timers.set((key, name), None if timer is None else timer.due)
        if commit.sends:
            kept.inboxes.post(commit.sends)
        if commit.offers:
            kept.inboxes.offer(commit.offers)
        if commit.lapses is not None:
            stored.lapses = commit.lapses or None
        kept.ended.pop(key, None)
        if not stored.empty:
            kept.rooms[key] = stored
            kept.due_rooms.set(key, stored.lapses)
            return
        kept.due_rooms.set(key, None)
        kept.rooms.pop(key, None)
        kept.ended[key] = (stored.number, stored.nonce, stored.epoch)
        if len(kept.ended) > MOST_ENDED:
            del kept.ended[next(iter(kept.ended))]

    def _apply_sessions(self, commit: Commit, stored: _Stored) -> None:
        kept, key, sessions = self._kept, commit.key, stored.sessions
        for sid, half in commit.sessions.items():
            there = sessions.get(sid)
            if half is None:
                sessions.pop(sid, None)
                stored.verdicts.pop(sid, None)
                kept.due_sessions.set((key, sid), None)
            elif there is not None:
                opening = half.opening or there.room.opening
                last = max(half.last, there.room.last)
                room = attrs.evolve(half, opening=opening, last=last)
                sessions[sid] = attrs.evolve(there, room=room)
            elif half.opening is not None:
                sessions[sid] = StoredSession(sid, half, LinkHalf(0, None))
        for sid, link in commit.links.items():
            there = sessions.get(sid)
            if there is not None:
                kept.put_session(key, stored, attrs.evolve(there, link=link))
        for sid, id_ in commit.answered.items():
            verdicts = stored.verdicts.get(sid, {})
            for answered in [one for one in verdicts if one <= id_]:
                del verdicts[answered]
        for verdict in commit.verdicts:
            if verdict.sid in sessions:
                stored.verdicts.setdefault(verdict.sid, {})[verdict.id] = verdict.content

    def _check_fence(self, commit: Commit) -> None:
        """Refuse a commit of who may not write any more with StaleWrite."""
        check_epoch(commit, self._epoch)

    def _check_open(self) -> None:
        if not self._opened:
            msg = "this MemoryStore is not open; use it inside 'async with store:'"
            raise StoreClosed(msg)


def _apply_journal(commit: Commit, stored: _Stored) -> None:
    if commit.seq:
        stored.seq, stored.before, stored.floor = commit.seq, commit.before, commit.floor
    for entry in commit.entries:
        stored.entries.append(entry)
        stored.entry_bytes += len(entry.body)
    gone = bisect_right(stored.entries, commit.trim, key=attrgetter("seq"))
    if gone:
        stored.entry_bytes -= sum(len(entry.body) for entry in stored.entries[:gone])
        del stored.entries[:gone]


def _select(names: Iterable[str], prefix: str, after: str | None, limit: int | None) -> list[str]:
    check_limit(limit)
    encode(prefix)
    if after is not None:
        encode(after)
    chosen = [name for name in names if name.startswith(prefix) and (after is None or name > after)]
    return sorted(chosen)[:limit]
