"""What of one room is in the store, and what is still on its way there.

Everything that is written for a room goes through its one `Record`, whether it is awake or asleep.
The record outlives the actor: one commit is in flight at a time, and each has the number that follows
on the last one that is known to be in the store. The state is encoded between two steps of the event
loop, so a snapshot never shows half of what a handler does without an await; that of a room with a
gate between two messages, so it never shows half of a handler.

A commit that raised may have happened all the same. In a room with a gate, and of one that sleeps, the
same commit is sent again until its outcome is known. How else a commit gets its number, `writer` knows.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol

import attrs
import trio

from trio_rooms._loop.standstill import Standstill
from trio_rooms._loop.turn import TURN
from trio_rooms._loop.wall import WallClock
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._sockets.joined import Sending
from trio_rooms.errors import NotSaved, RoomsError, StaleWrite, StateError, StoreClosed, StoreError
from trio_rooms.stores.base import Entry, RoomHead, Store, StoredSession, Timer

from . import overlay
from .codec import LARGE
from .delta import Cut, Delta
from .freight import Freight
from .gate import MOST_TRIES, Gate, Outside
from .journal import LONGER, Journal
from .plans import Plans
from .rows import deleted
from .saved import BESIDE_DAMAGE, UNWRITTEN, Encoding, Loaded, Saved, digest_of
from .sessions import WHY, Answered, Session, Sessions
from .writer import Writer

__all__ = ["Definition", "Record", "Source"]

logger = logging.getLogger("trio_rooms")

_MANY_WRITES: Final = 4 * 1024 * 1024
"""Bytes of storage writes that do not wait for the snapshot interval."""
_READ_FIRST: Final = 0.1
_READ_LAST: Final = 5.0
"""Seconds after which what the store has of the room is read again, where it cannot be, doubled each time."""
_WALL: Final = WallClock()
_PARTS: Final = 8
"""When a room lapses is written anew once it has moved by such a part of its ``state_ttl``."""


class Definition(Encoding, Protocol):
    """What is asked of a room's definition."""

    @property
    def snapshot_interval(self) -> float:
        """Seconds after which a change is in the store at the latest."""

    @property
    def gated(self) -> bool:
        """Whether what its handlers do waits until what they wrote is durable."""

    @property
    def fleeting(self) -> bool:
        """Whether nobody can tell if the room was there before, as long as nothing is stored of it."""

    @property
    def resume_window(self) -> float:
        """Seconds that a session outlives its connection; 0 where there are no sessions."""

    @property
    def state_ttl(self) -> float | None:
        """Seconds after which a room goes that nobody is in; None for never."""


class Source(Protocol):
    """Where the state of an awake room is."""

    state: Any

    @property
    def restless(self) -> bool:
        """Whether tasks may change it without a word."""


_NOBODYS: Final = Metrics()
_NEVER: Final = Standstill()


def _no_task(_: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """There is no runtime around: whoever made the record only reads."""


@attrs.define(eq=False)
class Record:
    """Loads and saves one room.

    Whoever is about to use the room calls `load` first; what an actor that crashed leaves
    unsaved goes with `discard`, or with `rewind` where there is a gate. After a StaleWrite the same:
    `discard`, then `load`.

    What a handler writes goes into `delta`, and with a crash or a rollback it is gone. What comes
    from elsewhere is written by `outside`.

    Args:
        key: the room, ``"name/id"``.
        definition: how its state is encoded.
        store: where it is kept; open.
        spawn: starts a task of the runtime.
        on_rest: called when nothing is under way any more and nobody is awake.
        noted: called with the time of what is in the store since then and is due the earliest.
        on_journal: called when there is a `journal`, or another one.
        metrics: where it is noted what snapshots take.
        freight: what is on its way to the store of all rooms.
        standstill: while it is on, nothing that waited until it is durable goes out.
        on_stale: called when the store has refused a commit, since somebody else has the room.
    """

    key: str
    _definition: Definition
    _store: Store
    spawn: Callable[[Callable[..., Coroutine[Any, Any, None]]], None] = _no_task
    _on_rest: Callable[[str], None] | None = None
    _noted: Callable[[float], None] | None = None
    _on_journal: Callable[[Record], None] | None = None
    _metrics: Metrics = _NOBODYS
    _freight: Freight = attrs.field(factory=Freight)
    standstill: Standstill = _NEVER
    _on_stale: Callable[[Record], None] | None = None
    wanted: Callable[[bool], None] | None = attrs.field(init=False, default=None)
    """Called when there is something to write, and whether it is so much that it should be written at
    once; None while no actor would write it."""
    source: Source | None = attrs.field(init=False, default=None)
    """Where the state is, if it is to be written between two messages."""
    gate: Gate | None = attrs.field(init=False, default=None)
    """What holds back what handlers do. In a room with ``durability="commit"`` there is one always."""
    head: RoomHead | None = attrs.field(init=False, default=None)
    """What the store had when the room was last loaded, or looked at; None where it never was."""
    _delta: Delta | None = attrs.field(init=False, default=None)
    """See `delta`; None while there is nothing in it, since each awake room has one of these."""
    _plans: Plans | None = attrs.field(init=False, default=None)
    """What the room has scheduled, if there is any or somebody has asked."""
    _no_timers: bool = attrs.field(init=False, default=False)
    """Whether the room is loaded and there was none then."""
    journal: Journal | None = attrs.field(init=False, default=None)
    """Where its reliable messages and its sessions stand; None until that is known, or without sessions."""
    sessions: Sessions = attrs.field(init=False, factory=Sessions)
    """What is known of its sessions."""
    away: int = attrs.field(init=False, default=0)
    """How many of them have no connection, once there is a `journal`."""
    telling: dict[int, None] = attrs.field(init=False, factory=dict)
    """Sessions that are over, and whose room is about to hear of it: it has that among its mail."""
    more_ended: bool = attrs.field(init=False, default=False)
    """Whether there may be more than those."""
    on_put: Callable[[Record], None] | None = attrs.field(init=False, default=None)
    """Called when something was put into the journal."""
    _on_release: trio.Event | None = attrs.field(init=False, default=None)
    _lapses: float = attrs.field(init=False, default=0.0)
    """When it is looked at whether the room may go, as it is written or about to be; 0 for never."""
    forsaken: RoomsError | None = attrs.field(init=False, default=None)
    """Why it is worth nothing any more, see `forsake`."""
    pins: int = attrs.field(init=False, default=0)
    """How many need it still; see `pin`."""
    dirty: bool = attrs.field(init=False, default=False)
    """Whether something may have changed since the state was last encoded. Always, where there is a gate
    for good, or no state: there `touched` alone counts, and messages need not say anything."""
    touched: bool = attrs.field(init=False, default=False)
    """Whether somebody has asked for the state since it was last encoded."""
    _under_way: tuple[Delta, ...] = attrs.field(init=False, default=())
    """What was taken for commits that are not known to be in the store."""
    _loaded: bool = attrs.field(init=False, default=False)
    """Whether handlers may have written something that `discard` would forget."""
    _until_known: deque[Callable[[], None]] | None = attrs.field(init=False, default=None)
    """What waits for the head, if anything does."""
    _saved: Saved = attrs.field(
        init=False, default=attrs.Factory(lambda self: Saved(self.key, self._definition), True)
    )
    _writer: Writer = attrs.field(
        init=False,
        default=attrs.Factory(
            lambda self: Writer(self.key, self._definition, self._store, self._saved, self._noted), True
        ),
    )

    def __attrs_post_init__(self) -> None:
        if self._definition.gated:
            self.gate = Gate(self)
            self.dirty = True

    @property
    def shared(self) -> bool:
        """Whether somebody else can have the room one day."""
        return self._on_stale is not None

    @property
    def number(self) -> int:
        """That of the last commit that is known to be in the store."""
        return self._writer.number

    @property
    def large(self) -> bool:
        """Whether the state is encoded in a thread, during which nobody may change it."""
        return self._saved.large

    @property
    def size(self) -> int:
        """Bytes that the state had when it was last read or encoded."""
        return self._saved.size

    @property
    def encoding_took(self) -> float:
        """Seconds that encoding the state took the last time."""
        return self._saved.took

    @property
    def unsettled(self) -> bool:
        """Whether something is in flight, or waits for a commit: it must not be dropped now."""
        gate = self.gate
        plans = self._plans is not None and self._plans.waits
        under_way = self._writer.busy or self.pins > 0 or plans
        return under_way or self.substantial or (gate is not None and not gate.empty)

    @property
    def in_flight(self) -> float | None:
        """When the commit began that is on its way to the store, on Trio's clock; None where none is.

        What goes out at a gate counts as well.
        """
        if self._writer.since is None and self.gate is not None and self.gate.flight is not None:
            return trio.current_time()
        return self._writer.since

    @property
    def holds(self) -> bool:
        """Whether something is to be sent that waits for what is read or written first."""
        return self._until_known is not None or (self.gate is not None and not self.gate.empty)

    @property
    def delta(self) -> Delta:
        """What goes with the next commit beside the state; another one after each cut."""
        if self._delta is None:
            self._delta = Delta()
        return self._delta

    @property
    def substantial(self) -> bool:
        """Whether there is anything in the delta that must be written."""
        return self._delta is not None and self._delta.substantial

    @property
    def waits(self) -> bool:
        """Whether there is something that must be written, as far as is told."""
        return self.substantial or (self.source is not None and self.touched)

    @property
    def changed(self) -> bool:
        """Whether the state may have changed since it was last encoded."""
        return self.touched if self._silent else self.dirty

    @property
    def _silent(self) -> bool:
        """Whether messages need not say that the state may have changed."""
        return self._definition.gated or (self._saved.empty and self._definition.fleeting)

    def pin(self) -> None:
        """Keep the record as it is until `unpin` was called as often: what it knows is needed."""
        self.pins += 1

    def unpin(self) -> None:
        """It is needed no more."""
        self.pins -= 1
        if not self.pins:
            self.rested()

    def rested(self) -> None:
        """Something is over: the record may go, if nobody needs it."""
        if self._on_rest is not None:
            self._on_rest(self.key)

    def touch(self) -> None:
        """The state may have changed."""
        if not (self.touched and self.dirty):
            self.touched = self.dirty = True
            if self.gate is not None:
                self.gate.request()
            elif self.wanted is not None:
                self.wanted(False)

    # When it may go.

    def renew(self) -> None:
        """Nobody is in the room from now on: it is looked at later whether it may go, if that is wanted."""
        if self.number and self._next_lapse():
            self.outside(self._note_lapse)

    def _next_lapse(self) -> float | None:
        """When the room lapses if it is left alone from now on; None where what is written will do."""
        ttl = self._definition.state_ttl
        if ttl is None or ttl == math.inf:
            return None
        lapses = _WALL.now() + ttl
        return lapses if lapses - self._lapses > ttl / _PARTS else None

    def _note_lapse(self) -> None:
        """Write that with the next commit."""
        lapses = self._next_lapse()
        if lapses is not None:
            self.delta.lapses = self._lapses = lapses

    def never_lapses(self) -> None:
        """The room does not go by itself any more."""

        def never() -> None:
            self.delta.lapses = self._lapses = 0.0

        self.outside(never)

    # What comes from outside the room's handlers.

    def outside(
        self, action: Callable[[], None], refused: Callable[[RoomsError], None] | None = None
    ) -> None:
        """Do something to the record that is no part of what a handler does, and have it written soon.

        Args:
            action: writes into `delta`, and calls `after` for what waits until it is durable. It is
                called now, and once more after each rollback of the room before it is durable.
            refused: called instead of what waits where it cannot be written.
        """
        if self.forsaken is not None:
            if refused is not None:
                refused(self.forsaken)
            return
        gate = self.gate
        if gate is not None:
            gate.open.outside.append(Outside(action, refused))
        elif refused is not None:
            self.delta.failed.append(refused)
        action()
        self.want()

    def outside_again(self, outside: Outside, failure: NotSaved) -> None:
        """Do once more what a rollback has undone, unless that was so too often.

        Args:
            outside: what was done.
            failure: why it is given up, if it is.
        """
        outside.tries += 1
        if outside.tries < MOST_TRIES:
            if self.gate is not None:
                self.gate.open.outside.append(outside)
            outside.action()
            self.want()
        elif outside.refused is not None:
            outside.refused(failure)

    def after(self, job: Callable[[], None]) -> None:
        """Call ``job()`` when all that was written until now is durable, in order where there is a gate."""
        if self.gate is not None:
            self.gate.add(job)
        else:
            self.delta.after.append(job)

    async def durable(self) -> None:
        """Wait until all that was written until now is durable. A cancel only stops the waiting.

        Raises:
            NotSaved: it could not be written.
        """
        done = trio.Event()
        failed: list[RoomsError] = []

        def refused(error: RoomsError) -> None:
            failed.append(error)
            done.set()

        self.outside(lambda: self.after(done.set), refused)
        self.want(at_once=True)
        await done.wait()
        if failed:
            raise failed.pop()

    def want(self, *, at_once: bool = False) -> None:
        """Have what there is written, in time, or at once."""
        if self.gate is not None:
            self.gate.request()
        elif self.wanted is not None:
            self.wanted(at_once)
        else:
            self.flush()

    def flush(self) -> None:
        """Have what came for a room that sleeps written now, and forget the record then."""
        if self.gate is None:
            gate = self.gate = Gate(self, self._end_gate)
            gate.open.jobs, self.delta.after = self.delta.after, []
            gate.open.asked, self.delta.failed = list(self.delta.failed), []
        self.gate.request()

    def _end_gate(self) -> None:
        """All has gone out through a gate that was there only for that."""
        self.gate = None
        if self.wanted is not None and (self.dirty or self.substantial):
            self.wanted(False)

    def hold(self, ended: Callable[[], None]) -> Gate:
        """A gate for what is done from now on, until all of it has gone out.

        Args:
            ended: called then.
        """
        assert self.gate is None

        def end() -> None:
            self._end_gate()
            ended()

        self.gate = Gate(self, end)
        return self.gate

    async def _adopt(self) -> None:
        """Take over what came while the room slept: an actor goes on with it."""
        gate = self.gate
        if gate is not None and gate.done is not None:
            await gate.landed()
            if self.gate is gate:
                batch = gate.dissolve()
                self.gate = None
                # What an awake room sends goes out at once, and must not overtake what was sent before.
                waits = []
                for job in batch.jobs:
                    if isinstance(job, Sending):
                        job()
                    else:
                        waits.append(job)
                self.delta.after[:0] = waits
                self.delta.failed += [
                    *batch.asked,
                    *(one.refused for one in batch.outside if one.refused is not None),
                ]

    # What is due at a time of day.

    @property
    def plans(self) -> Plans:
        """What the room has scheduled."""
        if self._plans is None:
            self._plans = Plans(self, known=self._no_timers)
        return self._plans

    @property
    def has_plans(self) -> bool:
        """Whether there is anything that the room has scheduled, or may have."""
        return self._plans is not None

    @property
    def busy_later(self) -> bool:
        """Whether the room, which is loaded, has scheduled something."""
        return self._plans is not None and len(self._plans.timers) > 0

    def dispose(self) -> None:
        """Nobody needs it any more: hold nothing that holds this."""
        self._plans = self.gate = None

    async def _load_timers(self, head: RoomHead) -> None:
        """Read what is scheduled."""
        if head.has_timers:
            await self.plans.read()
        elif self._plans is not None:
            await self._plans.read(there_are_any=False)
        else:
            self._no_timers = True

    def write_timer(self, name: str, row: Timer | None) -> None:
        """Write a row with the next commit, or delete it."""
        self.delta.timers[name] = row
        self.dirty = True
        # Nothing is handled before it is durable; what is due before the next save does not wait for that.
        due = None if row is None else row.due
        self.want(at_once=due is not None and due < _WALL.now() + self._definition.snapshot_interval)

    # Sessions, and what is sent reliably.

    def when_known(self, action: Callable[[], None]) -> None:
        """Do something as soon as it is known what the store has: now, or in order with what else waits."""
        if self._until_known is not None:
            self._until_known.append(action)
        elif self.head is not None:
            action()
        else:
            self._until_known = deque((action,))
            self.pin()
            self.spawn(self._ask)

    async def _ask(self) -> None:
        """Find out what the store has, however long it takes."""
        pause = _READ_FIRST
        try:
            while True:
                try:
                    await self.known()
                except StoreClosed:
                    return
                except StoreError as error:
                    if self.forsaken is not None:
                        return
                    if pause == _READ_FIRST:
                        logger.warning("room %s cannot be read and is tried again: %s", self.key, error)
                    await trio.sleep(pause)
                    pause = min(2 * pause, _READ_LAST)
                else:
                    return
        finally:
            self.unpin()

    def behind(self, job: Callable[[], None]) -> None:
        """Call ``job()`` behind all that `holds`, whatever becomes of that."""
        self.when_known(lambda: self.outside(lambda: self.after(job)))

    def append(self, audience: bytes, body: bytes, now: float) -> int:
        """Put something into the journal, as part of what is written next; returns its place.

        Args:
            audience: whom it is for.
            body: what is sent.
            now: the time of day.
        """
        journal = self.journal
        assert journal is not None
        seq = journal.append(len(audience) + len(body), trio.current_time())
        self.delta.entries.append(Entry(seq, audience, body, now))
        if self.on_put is not None:
            self.on_put(self)
        return seq

    def end_journal(self) -> Journal:
        """Forget who wants what: all sessions are over. What is given out from now on goes on behind it."""
        before = self.journal
        assert before is not None
        self.sessions = Sessions()
        self.telling.clear()
        self._begin_journal(RoomHead(seq=before.seq, before=before.before, floor=before.floor), {})
        assert self.journal is not None
        return self.journal

    def _deltas(self) -> list[Delta]:
        """All that is not known to be in the store, in order."""
        return [*self._under_way, *(() if self._delta is None else (self._delta,))]

    def _arrived(self, delta: Delta) -> None:
        """What was under way is in the store, or goes another way."""
        self._under_way = tuple(one for one in self._under_way if one is not delta)

    def ended_unwritten(self) -> list[int]:
        """Sessions that are over, as far as that is not in the store yet."""
        return [sid for delta in self._deltas() for sid, half in delta.links.items() if half.ended]

    def unwritten_links(self) -> list[int]:
        """Sessions of whose connections something is not in the store yet."""
        return [*dict.fromkeys(sid for delta in self._deltas() for sid in delta.links)]

    def is_deleted(self, sid: int) -> bool:
        """Whether a session is gone, as far as that is not in the store yet."""
        return any(delta.sessions.get(sid) is deleted for delta in self._deltas())

    async def entries(self, after: int, until: int, most_bytes: int) -> list[Entry]:
        """Entries of the journal as they are, durable or not; limited as `Store.journal`. A checkpoint.

        Raises:
            StoreError: they cannot be read.
        """
        return await overlay.entries(self._store, self.key, self._deltas(), after, until, most_bytes)

    async def released(self) -> None:
        """Wait until something more of the journal was sent, or taken back."""
        assert self.journal is not None
        if self._on_release is None:
            self._on_release = trio.Event()
            self.journal.moved = self._tell_released
        await self._on_release.wait()

    def _tell_released(self) -> None:
        released, self._on_release = self._on_release, None
        if released is not None:
            released.set()

    async def page(self, after: int, limit: int, *, ended: bool = False) -> list[StoredSession]:
        """Sessions that the store has, see `Store.sessions`.

        Raises:
            StoreError: they cannot be read.
        """
        return await self._store.sessions(self.key, after=after, limit=limit, ended=ended)

    async def row(self, sid: int) -> tuple[StoredSession | None, bool]:
        """A session as it is, durable or not, and whether the store has it; None for one that is not there.

        What is done without a checkpoint after this finds it so. A cancel changes nothing.

        Raises:
            StoreError: it cannot be read.
        """
        stored = await self._writer.read(lambda: self._store.session(self.key, sid))
        session = overlay.session(sid, stored, self._deltas())
        return session, session is not None and stored is not None

    def forget_session(self, sid: int) -> None:
        """A session is over for good: nothing of it is kept."""
        delta, session = self.delta, self.sessions.get(sid)
        if session is not None:
            for number in session.verdicts:
                delta.verdicts.pop((sid, number), None)
        for about in (delta.handled, delta.links, delta.answered):
            about.pop(sid, None)
        delta.sessions[sid] = deleted
        self.sessions.forget(sid)
        self.want()

    async def session(self, sid: int) -> Session:
        """What is known of the messages of a session; read once. A checkpoint only where it is read.

        Raises:
            StoreError: it cannot be read.
        """
        session = self.sessions.get(sid)
        if session is None:
            stored, verdicts = await self._writer.read(partial(self._read_session, sid))
            session = self.sessions.get(sid)
            if session is None:
                last = 0 if stored is None else stored.room.last
                session = self.sessions.know(sid, Session(max([last, *verdicts]), verdicts))
        return session

    async def _read_session(self, sid: int) -> tuple[StoredSession | None, dict[int, bytes]]:
        stored = await self._store.session(self.key, sid)
        return stored, {} if stored is None else await self._store.verdicts(self.key, sid)

    # Loading.

    async def known(self) -> RoomHead:
        """What the store has of the room; read once, in turn. A cancel changes nothing.

        Raises:
            StoreError: it cannot be read.
        """
        if self.head is None or self._until_known is not None:
            await self._writer.take()
            try:
                await self._know()
            finally:
                self._writer.give()
        assert self.head is not None
        return self.head

    async def _know(self) -> None:
        if self.head is None:
            await self._learn(await self._store.head(self.key))

    async def _learn(self, head: RoomHead) -> None:
        """Take what the store says of the room.

        Raises:
            StaleWrite: nobody asks any more, since somebody else has the room.
            StoreError: it cannot be read.
        """
        self.check_ours()
        journals = self.journal is None and self._definition.resume_window > 0
        away = await self._store.positions(self.key) if journals and head.has_sessions else {}
        self.check_ours()
        self.head = head
        self._lapses = head.lapses or 0.0
        self._writer.learn(head)
        if journals:
            self._begin_journal(head, away)
        until = perf_counter() + TURN
        while self._until_known:
            self._until_known.popleft()()
            if perf_counter() > until:
                # Who asks meanwhile waits for the turn to write, and what comes goes behind these.
                await trio.lowlevel.cancel_shielded_checkpoint()
                until = perf_counter() + TURN
        self._until_known = None

    def _begin_journal(self, head: RoomHead, away: Mapping[int, int]) -> None:
        self.journal = Journal(
            head,
            away,
            lost=not self._definition.gated and head.epoch != self._writer.epoch,
            patience=self._definition.resume_window + LONGER,
            now=trio.current_time(),
        )
        self.away = sum(away.values())
        if self._on_journal is not None:
            self._on_journal(self)

    def discard(self) -> None:
        """Forget what is not in the store, after a crash: the state, and what handlers wrote beside it.

        What was said already stays: entries of the journal, sessions, what messages were answered, and what
        is known of connections. What waits for its turn to save saves nothing any more. A commit in flight
        goes on: `settled` waits for it.
        """
        self._writer.life = object()
        if self._delta is not None:
            self._delta.writes, self._delta.size, self._delta.timers = {}, 0, {}
        self._forget_state()

    def rewind(self) -> None:
        """Go back to what the store has, after a commit that failed, or a crash, in a room with a gate.

        Nothing is in flight. Nothing of what is forgotten was said to anybody.
        """
        self._writer.life = object()
        for delta in reversed(self._deltas()):
            delta.undo()
        self._under_way = ()
        self._delta = None
        self._lapses = 0.0
        self.sessions.clear()
        if self.journal is not None:
            self.journal.rewind(self._writer.seq)
        self._forget_state()

    def sleep(self) -> None:
        """The room has fallen asleep, or is given up: what its tasks wrote too late is forgotten."""
        self.wanted = self.source = None
        self.discard()
        self._loaded = False
        if self.gate is not None:
            self.gate.sleep()

    def lose(self) -> None:
        """The same for a room that sleeps, and that somebody else has written: what is there is read anew."""
        self.rewind()
        self.head = None

    def forsake(self, failure: RoomsError) -> None:
        """Somebody else has the room: forget what is not written, and tell whoever waits for that so.

        Nobody is told whether it is written: that is not known. What comes later is refused in the same way.
        """
        self.forsaken = failure
        self._writer.life = object()
        waiting, self._until_known = self._until_known or (), None
        for action in waiting:
            action()  # Which is refused.
        if self.gate is not None:
            self.gate.forsake(failure)
        for delta in self._deltas():
            told, delta.failed = delta.failed, []
            delta.after = []
            for refused in told:
                refused(failure)
        if self._plans is not None:
            self._plans.forsake(failure)
        self.wanted = self.source = None
        self._tell_released()
        self.abandon()

    def check_ours(self) -> None:
        """Whether this is still what is written for the room.

        Raises:
            StaleWrite: it is not.
        """
        if self.forsaken is not None:
            raise StaleWrite(str(self.forsaken))

    def _forget_state(self) -> None:
        self._no_timers = False
        if self._plans is not None:
            self._plans.forget()
            if self._plans.idle:
                self._plans = None
        self._saved.forget()
        self.touched = False
        self.dirty = self._definition.gated

    async def load(self) -> Loaded | None:
        """The newest state in the store that decodes; None for a room that has none.

        Waits for a commit in flight. Then what the store says is true: what handlers wrote and is not
        saved is forgotten, and no commit is in doubt any more. Cancelled while the store is asked for the
        first time, or where that fails, nothing has changed.

        Raises:
            StoreError: the store could not read.
            SnapshotError: no generation can be used; the store is left as it is.
        """
        await self._adopt()
        await self._writer.take()
        try:
            began = trio.current_time()
            stored = await self._store.load(self.key, newest=True)
            if self._loaded and self.gate is None:
                self.discard()
            self._loaded = True
            self._writer.life = object()
            self._forget_state()
            await self._learn(stored.head)
            await self._load_timers(stored.head)
            loaded = await self._saved.newest(
                stored.snapshots, self._writer.epoch, began, partial(self._store.load, self.key)
            )
            if self._definition.fleeting and self._has_nothing(loaded):
                self._saved.know_nothing(stored=loaded is not None)
                self.dirty = True
            elif loaded is None:
                self.touched = True  # A room that never was is one as soon as it has handled something.
            elif not self._saved.as_loaded:
                self.dirty = self.touched = True
            return loaded
        finally:
            self._writer.give()

    def _has_nothing(self, loaded: Loaded | None) -> bool:
        """Whether no state was found, and none need be written to say so."""
        return self.number == 0 if loaded is None else loaded.state is None and not loaded.fell_back

    # Saving: at any moment, where there is no gate.

    async def save(self, state: Callable[[], Any], *, in_thread: bool = True) -> None:
        """Make the state and what goes with it durable, if anything changed.

        Args:
            state: gives the state when it is encoded.
            in_thread: whether a large state may be encoded in a thread, since nobody can
                change it meanwhile.

        Cancelled while it waits for its turn, nothing was done; after that it is not
        cancelled, since a commit is carried out whether or not somebody waits. Not a
        checkpoint where there is nothing to write.

        Raises:
            StateError: the state holds what CBOR cannot, or what would come back as something else;
                nothing was written.
            StaleWrite: somebody else has written the room, or opened the store; nothing was
                written, nor can be before the room is loaded again.
            StoreError: it is not known to be written; a later call tries again.
        """
        writer, freight = self._writer, self._freight
        life = writer.life
        await writer.take()
        try:
            if freight.full:
                await freight.wait()
            if life is writer.life:
                await self._save(state, life, in_thread=in_thread)
            else:
                freight.give(0)
        finally:
            writer.give()

    async def _save(self, state: Callable[[], Any], life: object, *, in_thread: bool) -> None:
        """Encode the state and write it, if it changed. Nothing is shielded where nothing is waited for."""
        self.dirty, self.touched = self._silent, False
        self._loaded = True
        writer, saved = self._writer, self._saved
        delta: Delta | None = None
        size = saved.size if saved.large else 0
        if size:
            self._freight.take(size)
        try:
            encoded = None
            if saved.large and in_thread:
                with trio.CancelScope(shield=True) as writer.shield:
                    encoded = await self._encode_in_thread(state())
                    await trio.lowlevel.checkpoint_if_cancelled()  # It was abandoned.
                writer.check_answered()
            # Whatever was written while the thread was at it: it goes with a state that did not change.
            if encoded is None:
                encoded = saved.encode(state())
            if life is not writer.life:
                return
            saved.large = len(encoded) >= LARGE
            if len(encoded) > size:
                more, size = len(encoded) - size, len(encoded)
                self._freight.take(more)
            digest, before = digest_of(encoded), saved.digest
            substantial = self.substantial
            changed = saved.news(digest, more=substantial)
            if changed or substantial:
                delta = self._take_delta()
                with trio.CancelScope(shield=True) as writer.shield:
                    if self.head is None:
                        await self._know()
                    await self._carry(encoded if changed else None, delta)
                writer.check_answered()
        except BaseException as error:
            if delta is not None:
                self._put_back(delta, life)
            self.dirty = self.touched = True
            self._tell_failed(error)
            raise
        finally:
            self._freight.give(size)
        if delta is not None:
            self._arrived(delta)
            for job in delta.after:
                job()
        if changed and life is writer.life:
            saved.digest = digest
            if before == BESIDE_DAMAGE:
                saved.digest, self.dirty, self.touched = b"", True, True

    def _take_delta(self) -> Delta:
        """What goes with a commit, and is under way from now on."""
        if self._definition.state_ttl is not None:
            self._note_lapse()
        delta, self._delta = self.delta, None
        journal = self.journal
        if journal is not None:
            trim = journal.trim()
            if trim:
                journal.trimmed_to(trim)
                delta.trim = max(delta.trim, trim)
            if delta.trim and delta.entries:
                # Many are acknowledged before they are ever written.
                delta.entries = [entry for entry in delta.entries if entry.seq > delta.trim]
            delta.seq, delta.before, delta.floor = journal.seq, journal.before, journal.floor
        delta.refused = self.sessions.refused
        for one, code in delta.refused.items():
            delta.verdicts[one] = Answered(code, WHY.get(code, "")).encode()
        delta.encode()
        self._under_way = (*self._under_way, delta)
        return delta

    async def _carry(self, encoded: bytes | None, delta: Delta, *, until_known: bool = False) -> None:
        """Write what was taken for a commit, see `Writer.carry`."""
        began = trio.current_time()
        try:
            await self._writer.carry(encoded, delta, until_known=until_known)
        except StaleWrite:
            self._tell_stale()
            raise
        if encoded is not None:
            self._metrics.snapshot_bytes.note(len(encoded))
            self._metrics.snapshot_seconds.note(trio.current_time() - began)
        self.sessions.recorded(delta.refused)
        if delta.timers:
            for name, row in delta.timers.items():
                self.plans.timers.written(name, row)

    def _tell_stale(self) -> None:
        """Tell who wants to know that somebody else has the room."""
        if self._on_stale is not None and self.forsaken is None:
            self._on_stale(self)

    def _put_back(self, delta: Delta, life: object) -> None:
        """What was not written goes with the next commit; what was written meanwhile is newer."""
        self._arrived(delta)
        if life is not self._writer.life:
            delta.writes, delta.size, delta.timers = {}, 0, {}
        self._delta = self.delta.behind(delta)

    def _tell_failed(self, error: BaseException) -> None:
        """Who waits for what could not be written waits no more; it is tried again all the same."""
        told = [] if self._delta is None else self._delta.failed
        if told:
            self.delta.failed = []
            failure = NotSaved(self.key, str(error))
            for refused in told:
                refused(failure)

    async def _encode_in_thread(self, state: Any) -> bytes | None:
        """Encode a large state; None where somebody may have changed it meanwhile.

        No handler and no task of the room runs then, but a task of the program may have a context.
        """
        try:
            encoded = await self._saved.encode_in_thread(state)
        except StateError:
            if not self.touched:
                raise
            encoded = b""
        if not self.touched:
            return encoded
        self.dirty = self._definition.gated
        self.touched = False
        return None

    def unsaved(self, state: Any) -> bool:
        """Whether a state differs from the saved one, or something waits; found out by encoding it."""
        if self.substantial:
            return True
        try:
            return self._saved.differs(state)
        except StateError:
            return True  # Whoever saves it is told why.

    # Saving: between two messages, through the gate.

    def cut(self) -> Cut | None:
        """All that there is to write; None where nothing must be.

        Raises:
            StateError: the state cannot be written.
        """
        source, encoded = self.source, None
        if source is not None and (
            self.touched or source.restless or (self._saved.digest == UNWRITTEN and self.substantial)
        ):
            self.touched = False
            encoded = self._saved.encode(source.state)
        return self._cut(encoded)

    async def cut_large(self) -> Cut | None:
        """The same, with the state encoded in a thread where nobody can change it meanwhile."""
        source, encoded = self.source, None
        if source is not None and self.touched and not source.restless:
            self.touched = False
            with trio.CancelScope(shield=True):
                encoded = await self._encode_in_thread(source.state)
            if encoded is None:
                encoded = self._saved.encode(source.state)
            return self._cut(encoded)
        return self.cut()

    def _cut(self, encoded: bytes | None) -> Cut | None:
        if encoded is not None:
            saved = self._saved
            saved.large = len(encoded) >= LARGE
            digest = digest_of(encoded)
            if not saved.news(digest, more=self.substantial):
                encoded = None
            elif saved.digest == BESIDE_DAMAGE:
                saved.digest, self.touched = b"", True
            else:
                saved.digest = digest
        if encoded is None and not self.substantial:
            if self._delta is not None:
                self._delta.before_edits.clear()  # What they go with is as it is in the store.
            return None
        return Cut(encoded, self._take_delta())

    async def commit(self, cut: Cut) -> None:
        """Make a cut durable; where the outcome is not known, the same commit is sent again until it is.

        It is not cancelled, but by `abandon`.

        Raises:
            StoreFull, StoreReadOnly, ValueError, TypeError: nothing of it was written.
            StaleWrite: the same, and nothing can be before the room is loaded again.
            StoreError: it was abandoned, or the store was closed.
        """
        await self._writer.take()
        try:
            with trio.CancelScope(shield=True) as self._writer.shield:
                if self.head is None:
                    await self._know()
                await self._carry(cut.encoded, cut.delta, until_known=True)
            self._writer.check_answered()
            self._arrived(cut.delta)
        finally:
            self._writer.give()

    def put_back(self, cut: Cut) -> None:
        """A cut of a room that sleeps was not written, and goes with the next one."""
        self._put_back(cut.delta, self._writer.life)

    async def settled(self) -> None:
        """Wait until no commit is in flight; not a checkpoint where none is."""
        if self.gate is not None:
            await self.gate.landed()
        if self._writer.busy:
            await self._writer.take()
            self._writer.give()

    async def destroy(self) -> None:
        """Delete all that the store has of the room, its number apart; what is unsaved is forgotten.

        Cancelled while it waits for its turn, nothing was done; after that it is not cancelled.

        Raises:
            StaleWrite, StoreError: as for `save`; the room goes on, and what is unsaved stays.
        """
        await self._writer.take()
        try:
            with trio.CancelScope(shield=True) as self._writer.shield:
                self.dirty = self.touched = True
                if self.head is None:
                    await self._know()
                try:
                    await self._writer.carry(None, Delta(), destroy=True, until_known=self._definition.gated)
                except StaleWrite:
                    self._tell_stale()
                    raise
            self._writer.check_answered()
            self._delta = None
            self._lapses = math.inf  # Until there is a new one.
            self.sessions, self._writer.seq, self.more_ended = Sessions(), 0, False
            self.telling.clear()
            if self.journal is not None:
                self._begin_journal(RoomHead(), {})
            self.discard()
        finally:
            self._writer.give()

    def abandon(self) -> None:
        """Wait no longer for the commit in flight, if there is one; whoever waited gets a StoreError."""
        self._writer.abandon()

    # The storage of the room.

    def write(self, name: str, encoded: bytes | None) -> None:
        """Write a value, or delete it, with the next commit."""
        delta = self.delta
        delta.writes[name] = encoded
        delta.size += len(encoded or b"")
        self.dirty = True
        if self.gate is not None:
            self.gate.request()
        elif self.wanted is not None:
            self.wanted(delta.size > _MANY_WRITES)

    def _pending(self) -> dict[str, bytes | None]:
        """Each name's newest write that is not known to be in the store."""
        if not self._under_way:
            return {} if self._delta is None else self._delta.writes
        pending: dict[str, bytes | None] = {}
        for delta in self._deltas():
            pending |= delta.writes
        return pending

    async def get(self, name: str) -> bytes | None:
        """A value as it is, whether it is durable yet or not."""
        pending = self._pending()
        if name in pending:
            await trio.lowlevel.checkpoint()
            return pending[name]
        return await self._store.get(self.key, name)

    async def list(self, prefix: str, after: str | None, limit: int | None) -> list[tuple[str, bytes]]:
        """Values as they are, ordered by name."""
        return await overlay.values(self._store, self.key, self._pending(), prefix, after, limit)
