"""Knows which rooms are awake: starts one when something arrives for it, and again when it crashed."""

from __future__ import annotations

import contextvars
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from secrets import randbelow
from typing import Any, Final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._definition.definition import Definition
from trio_rooms._keys import split_key
from trio_rooms._loop.deadlines import Deadline, Deadlines
from trio_rooms._loop.groups import alone, first_error, parted
from trio_rooms._loop.wall import WallClock
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._policy.policy import Policy
from trio_rooms._room.actor import Actor, RolledBack
from trio_rooms._room.answers import Answer, Late
from trio_rooms._room.dispatcher import refuse
from trio_rooms._room.handles import Handles, Program
from trio_rooms._room.lifecycle import Stage, Step
from trio_rooms._room.mail import Alarm, Ask, Destroy, Hibernate, Mail, Rouse, cause_of
from trio_rooms._room.placement import Placement, RoomInfo
from trio_rooms._room.reasons import WhyAwake
from trio_rooms._room.reliably import keep
from trio_rooms._room.schedules import Schedule, schedules_of
from trio_rooms._room.shared import Shared, roster_of
from trio_rooms._room.signs import Signs
from trio_rooms._sockets.fanout import Broadcast, Message
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.joined import Spread
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Connected, Disconnected, Dropped, Link, Resumed, Roster
from trio_rooms._sockets.sent import Sent
from trio_rooms._sockets.standing import Unsettled
from trio_rooms._state.audience import Audience
from trio_rooms._state.freight import Freight
from trio_rooms._state.plans import Plan
from trio_rooms._state.record import Record
from trio_rooms._users.directory import Directory
from trio_rooms._users.presence import people_of, presence_of
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms._wire.envelope import Body
from trio_rooms.errors import (
    RoomFailed,
    RoomsClosed,
    RoomsError,
    SnapshotError,
    StaleWrite,
    StoreError,
    Unavailable,
)
from trio_rooms.stores.base import Store

from .circles import Circles, is_inside, room_task_of
from .explanation import explain
from .pulse import Pulse
from .restarts import COOL_DOWN, CRASH_WINDOW, MOST_CRASHES, Restarts
from .rhythm import Rhythm
from .sweeper import Sweeper
from .waking import Waking, is_urgent
from .watch import Hanging, Watch

__all__ = ["Supervisor", "SupervisorStatistics"]

logger = logging.getLogger("trio_rooms")

_MOST_DEPARTED: Final = 1000
"""Departures that a sleeping room remembers; one with on_disconnect is then woken to hear of them.

One that cannot be loaded because the store fails forgets the oldest."""
_GRACE: Final = 1.0
"""Seconds that a cancelled handler has to end."""
_SETTLING: Final = 0.01
"""Seconds between two looks whether everything is written, at the end of the program."""
_OUT_OF_TOUCH: Final = "its node is out of touch with the others"
_CLOSING: Final = "the rooms are closing, nothing new is taken"
_TRIM_FIRST: Final = 0.5
_TRIM_LAST: Final = 32.0
"""Seconds between two looks whether a journal may be trimmed, doubled each time that nothing could go."""
PATIENCE: Final = 5.0
"""Seconds that mail waits while everything stands still, before it is refused."""
_REFUSING: Final = 0.5
"""Seconds between two times that what has come since is refused."""
_LOOKS: Final = 64
"""Rooms among which some are taken that stand for all."""


@attrs.frozen
class SupervisorStatistics:
    """What the supervisor has under it and has done."""

    awake: int
    """Rooms in memory, whatever their stage."""
    waiting: int
    """Rooms that something has come for, and that wait for their turn to wake."""
    stages: Mapping[str, int]
    """How many of them are in which stage; only stages that some are in."""
    wakes: int
    hibernations: int
    crashes: int
    failed: int
    """Rooms that were given up and are cooling down."""
    slow: int
    """Handlers that took longer than their room's ``slow_handler``."""
    hanging: tuple[Hanging, ...]
    """Those that still run; ten at most, those that do so longest."""
    pressure: str
    """What rooms are put to sleep for now: "memory", "lag", or nothing."""
    memory_limit: int | None
    """Bytes of resident memory from which on they are; None for any."""


class Supervisor:
    """The parent of all awake rooms, and the placement of a single process: all rooms are here.

    Args:
        definitions: the rooms that are served, by name.
        hub: their sockets.
        store: where they are kept.
        deadlines: those of all that is under it.
        policy: what holds for all rooms together.
        app: what their handlers are to find as ``ctx.app``.
        placed: makes of it the placement of several processes; None for a process that is alone.
    """

    _make_actor: Callable[..., Actor] = Actor

    def __init__(
        self,
        definitions: Mapping[str, Definition],
        hub: SocketHub,
        store: Store,
        deadlines: Deadlines,
        policy: Policy,
        app: Any = None,
        placed: Callable[[Supervisor], Placement] | None = None,
    ) -> None:
        self.definitions: Mapping[str, Definition] = definitions
        """The rooms that are served, by name."""
        self._hub = hub
        self._store = store
        self._deadlines = deadlines
        self.policy: Policy = policy
        """What holds for all rooms together."""
        self.metrics: Metrics = hub.metrics
        """What is counted and measured."""
        self._nursery: trio.Nursery | None = None
        self._context = contextvars.Context()
        self._actors: dict[str, Actor] = {}
        self.sweeper: Sweeper = Sweeper(policy, hub, self._actors, deadlines, self._spawn)
        """Puts the least active to sleep."""
        self._circles = Circles()
        self.waking: Waking = Waking(
            policy,
            self._actors,
            self.sweeper,
            deadlines,
            self.metrics,
            self._circles.edges,
            self._begin,
            self._spawn,
        )
        """Lets rooms wake, in their turn."""
        self._ending: dict[str, Actor] = {}
        """Rooms that sleep, while their tasks still unwind."""
        self._records: dict[str, Record] = {}
        """What the store has of each room that is awake, or of which something is still on its way there."""
        self._freight = Freight()
        self._restarts = Restarts(deadlines)
        self._watch = Watch(deadlines, hub.trace)
        # Bound once, and not for each room.
        self._watch_actor, self._loaded, self._removed = self._watch.add, self.waking.loaded, self._remove
        self._spawned, self._rested, self._put_in = self._spawn, self._forget_record, self._trim_later
        self._on_journal, self._on_stale = self._journaled, self._moved
        self.pulse: Pulse = Pulse(
            policy, self.metrics, self._actors, self._watch, self.sweeper, self.waking, self._counts
        )
        """Looks how the process does while rooms are busy."""
        self.users: Directory = Directory(hub, store, self, self._spawn, deadlines)
        """Who is connected where."""
        self.signs: Signs = Signs(self.metrics, hub.rosters)
        """What keeps rooms from sleeping well."""
        self._rhythm = Rhythm(self.metrics, self.signs)
        self._trims: dict[str, float] = {}
        """Rooms of whose journals something may go, and the seconds between two looks at each."""
        self._stalled: dict[str, dict[int, int]] = {}
        """What `Sessions.stalled` has of rooms of which nothing else need be known."""
        self.paused: bool = False
        """Whether everything stands still, see `pause`."""
        self._refusing = False
        """Whether that is so for long, and mail is refused."""
        self._refused_at: Deadline | None = None
        """When what waits is refused next."""
        self._moving: set[str] = set()
        """Rooms that are given to somebody else."""
        self.on_moved: Callable[[str], None] | None = None
        """Told of a room that somebody else has by now, as its store says; None where nobody else can. Else
        a room that cannot be loaded is unavailable, and has not failed."""
        self._over: dict[str, int] = {}
        """Sessions that ended since their room fell asleep, by its key, where it would hear of them."""
        self._undelivered: deque[tuple[str, Mail]] = deque()
        self.failed: Callable[[BaseException], None]
        """Told of what ends the whole program, such as a SystemExit; the runtime sets it."""
        self._accepting = True
        self._stopping = False
        self._killing = False
        self._closed = False
        """Whether nothing is written any more."""
        self._awaited: set[Answer] = set()
        """Of those who wait until something is written, or until another node tells something."""
        self.noted: Callable[[float], None] = _nothing
        """Told when something is in the store that is due at a time of day; the runtime sets it."""
        self.on_sleep: Callable[[Actor], None] = _nothing
        """Told of each room that is about to leave memory, with all that it had."""
        self._at_rest: Callable[[str], None] = _nothing
        """Told of each room that has come to rest, while the program stops."""
        self._first: set[str] = set()
        """Rooms awake since before the stop, and not at rest yet: others may be woken for them."""
        self._parted: set[str] = set()
        """Rooms whose on_hibernate was called at the stop."""
        self._none_left = trio.Event()
        self._wall = WallClock()
        self._wakes = 0
        self._hibernations = 0
        self.placement: Placement = self if placed is None else placed(self)
        """Where rooms are, here or in other processes: what programs and handlers reach them through."""
        self.handles: Handles = Handles(definitions, self.placement, store, deadlines, self.users)
        """How rooms are reached."""
        self._program = Program(app, self.handles, self.signs)

    def statistics(self) -> SupervisorStatistics:
        """What it has under it now, and has done until now."""
        busy = self._busy()
        stages = {Stage.AWAKE.value: len(self._actors) - len(busy)}
        for actor in busy:
            stages[actor.stage.value] = stages.get(actor.stage.value, 0) + 1
        waiting = self.waking.queued
        if waiting:
            stages[Stage.WAKING.value] -= waiting
        return SupervisorStatistics(
            self.awake,
            waiting,
            {stage: count for stage, count in stages.items() if count},
            self._wakes,
            self._hibernations,
            self._restarts.total,
            len(self._restarts),
            self._watch.slow,
            self._watch.hanging(),
            self.pulse.pressure.trigger,
            self.pulse.pressure.limit,
        )

    @property
    def awake(self) -> int:
        """How many rooms are in memory, whatever their stage; not those that wait for their turn to wake."""
        return self.waking.awake

    @property
    def closed(self) -> bool:
        """Whether nothing is written any more, and nobody is answered."""
        return self._closed

    @property
    def crashes(self) -> int:
        """Crashes of rooms until now."""
        return self._restarts.total

    def depths(self) -> tuple[int, int]:
        """How much mail waits in all rooms that are awake, and how many bytes the journals in memory have."""
        mail = sum([actor.mailbox.waiting for actor in self._busy()])
        journals = [record.journal for record in self._records.values() if record.journal is not None]
        return mail, sum([journal.size for journal in journals])

    def _busy(self) -> list[Actor]:
        """Rooms in memory that are not awake and at rest; to ask each of the others for more takes long."""
        return [actor for actor in self._actors.values() if actor.mailbox.waiter is None]

    def _counts(self) -> tuple[int, int]:
        """How many rooms have woken until now, and how many have slept."""
        return self._wakes - self.waking.queued, self._hibernations

    def hibernated(self, link: Link) -> None:
        """A connection of an awake room is hibernated."""
        actor = self._actors.get(link.roster.key)
        if actor is not None:
            actor.park(link)
            self.signs.idle(actor.shared.definition, actor.key)

    def is_awake(self, key: str) -> bool:
        """Whether a room is in memory, so that nothing has to be loaded for its mail."""
        actor = self._actors.get(key)
        return actor is not None and actor.stage is not Stage.WAKING

    def has(self, key: str) -> bool:
        """Whether a room is in memory, or has connections, or something of it is under way."""
        return key in self._actors or key in self._records or key in self._hub.rosters

    def actor(self, key: str) -> Actor | None:
        """The awake room of a key, or None."""
        return self._actors.get(key)

    def awake_keys(self) -> list[str]:
        """The keys of all rooms in memory, whatever their stage."""
        return [*self._actors]

    def some_awake(self, most: int) -> list[Actor]:
        """A few of the awake rooms, which need not be the same each time."""
        first = randbelow(max(min(len(self._actors), _LOOKS) - most, 0) + 1)
        return [*islice(self._actors.values(), first, first + most)]

    def serves(self, key: str) -> bool:
        """Whether it has the definition of a room."""
        return split_key(key)[0] in self.definitions

    def stage(self, key: str) -> Stage:
        """Where a room is in its life now."""
        actor = self._actors.get(key)
        if actor is not None:
            return actor.stage
        return Stage.FAILED if self._restarts.given_up(key) else Stage.ASLEEP

    def definition(self, key: str) -> Definition:
        """What the application wrote about a room."""
        return self.definitions[split_key(key)[0]]

    def roster(self, key: str) -> Roster:
        """The connections of a room, awake or asleep; the hub forgets it where nobody needs it."""
        return roster_of(self._hub, self.definition(key), key)

    @enable_ki_protection
    def rouse(self, key: str) -> None:
        """Wake a room for a message of high priority to one of its users; nothing where it is awake."""
        actor = self._actors.get(key)
        if actor is None:
            self.deliver(key, Rouse())
        elif self.waking.queued:
            self.waking.hurry(actor)

    # Placement. Called by the program, too, and Ctrl-C must not leave a room half begun.

    def accepts(self, key: str) -> bool:
        """See `Placement`."""
        actor = self._actors.get(key)
        crowded = actor is not None and actor.mailbox.full
        closed = crowded or self.paused or key in self._moving or self._restarts.given_up(key)
        return self._accepting and not closed

    @enable_ki_protection
    def deliver(self, key: str, mail: Mail) -> bool:
        """See `Placement`."""
        actor = self._actors.get(key)
        if actor is not None:
            if self.waking.queued and is_urgent(mail):
                self.waking.hurry(actor)
            return actor.mailbox.post(mail)
        self._deliver_asleep(key, mail)
        return True

    @enable_ki_protection
    def deliver_soon(self, key: str, mail: Mail) -> None:
        """See `Placement`."""
        if self._stopping:
            self.deliver(key, mail)
        else:
            self._undelivered.append((key, mail))
            self._deadlines.set(trio.current_time(), self._deliver_next)

    @enable_ki_protection
    @contextmanager
    def awaiting(self, key: str, answer: Answer) -> Iterator[None]:
        """See `Placement`."""
        record = self._records.get(key)
        gated = self.definition(key).gated or (record is not None and record.gate is not None)
        with self.until_closed(answer), self.waiting(key, answer) if gated else nullcontext():
            yield

    @contextmanager
    def until_closed(self, answer: Answer) -> Iterator[None]:
        """Somebody waits inside the block; at the end of the rooms that is over, with RoomsClosed.

        Raises:
            RoomsClosed: that is now.
        """
        if self._closed:
            raise RoomsClosed(_CLOSING)
        self._awaited.add(answer)
        try:
            yield
        finally:
            self._awaited.discard(answer)

    def emit(self, key: str, message: Message, channel: str | None, manner: Manner | None = None) -> Sent:
        """See `Placement`."""
        roster = self._hub.rosters.get(key)
        links = [] if roster is None else roster.members(channel)
        if roster is None or not links:
            message.frame(binary=True)  # What cannot be sent is an error also where nobody listens.
            return Sent()
        broadcast, sent = Broadcast(links, message, manner), self._hub.pacing.counted(links, channel, manner)
        record = self._records.get(key)
        if record is None or not record.holds:
            self._hub.spread(roster, broadcast)
        else:
            # Behind what the room's handlers have sent before, and whatever becomes of that.
            record.behind(Spread(self._hub, roster, broadcast))
        return sent

    async def emit_counted(
        self, key: str, message: Message, channel: str | None, manner: Manner | None = None
    ) -> Sent:
        """See `Placement`."""
        await trio.lowlevel.checkpoint()
        return self.emit(key, message, channel, manner)

    def holding(self, key: str) -> Record | None:
        """What the store has of a room that is to send something which waits; None where nothing waits."""
        record = self._records.get(key)
        return None if record is None or not record.holds else record

    def record(self, key: str) -> Record:
        """What the store has of a room, and what is on its way there: that of an awake room, or a new one.

        It is forgotten when nothing of it is under way; see `Record.pin`.
        """
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = Record(
                key,
                self.definition(key),
                self._store,
                self._spawned,
                self._rested,
                self.noted,
                self._on_journal,
                self.metrics,
                self._freight,
                self._hub.standstill,
                None if self.on_moved is None else self._on_stale,
            )
            record.on_put = self._put_in
            if self._stalled:
                record.sessions.stalled = self._stalled.pop(key, {})
        return record

    def _journaled(self, record: Record) -> None:
        """A record knows where the sessions stand; those that have a connection are added."""
        roster, journal = self._hub.rosters.get(record.key), record.journal
        if journal is None:
            return
        links = [*self._hub.closing.leaving(record.key).values()]
        if roster is not None:
            roster.journal = journal
            links += roster.everybody()
        for link in links:
            if type(link.session) is Unsettled:
                journal.count_in(link.session)

    def _trim_later(self, record: Record) -> None:
        """Something was put into a journal: look now and then whether it has been acknowledged."""
        if record.key not in self._trims:
            self._trims[record.key] = _TRIM_FIRST
            self._deadlines.set(trio.current_time() + _TRIM_FIRST, partial(self._trim, record.key))

    def _trim(self, key: str) -> None:
        """Have written what nobody wants any more; of a room that sleeps that waits for its next commit."""
        record, pause = self._records.get(key), min(2 * self._trims[key], _TRIM_LAST)
        if record is None or record.journal is None or key not in self._actors:
            del self._trims[key]
            return
        if record.journal.trim():
            record.delta.trims = True
            record.want()
            pause = _TRIM_FIRST
        if record.journal.count:
            self._trims[key] = pause
            self._deadlines.set(trio.current_time() + pause, partial(self._trim, key))
        else:
            del self._trims[key]

    @enable_ki_protection
    def emit_reliably(
        self,
        key: str,
        body: Body,
        channel: str | None,
        manner: Manner | None,
        done: Callable[[Sent], None] | None,
        refused: Callable[[RoomsError], None] | None,
    ) -> Sent:
        """See `Placement`."""
        record, roster = self.record(key), self._hub.rosters.get(key)
        told = refused or partial(self.unsent, key)
        sent = self._counted(record, [] if roster is None else roster.members(channel), channel, manner)
        put = partial(self._put, record, body, channel, manner, done)
        record.when_known(lambda: record.outside(put, told))
        return sent

    def unsent(self, key: str, error: RoomsError) -> None:
        """What was sent reliably from outside a room could not be written, and nobody waits to hear of it."""
        logger.error("room %s: something that was sent to it is lost: %s", key, error)
        self.metrics.lost["message"] += 1

    def _counted(self, record: Record, links: list[Link], channel: str | None, manner: Manner | None) -> Sent:
        """What becomes of something that is sent reliably now."""
        sent = self._hub.pacing.counted(links, channel, manner)
        return attrs.evolve(sent, stored=1) if record.away else sent

    def _put(
        self,
        record: Record,
        body: Body,
        channel: str | None,
        manner: Manner | None,
        done: Callable[[Sent], None] | None,
    ) -> None:
        """Put an event into a journal, and send it when it is durable, or now if nothing waits for that."""
        roster, sent = self._hub.rosters.get(record.key), Sent()
        if roster is None and record.away:
            roster = roster_of(self._hub, self.definition(record.key), record.key)
        if roster is not None and (roster.count or record.away):
            links = roster.members(channel)
            broadcast = keep(record, roster, self._hub, body, Audience(channel=channel), links, manner)
            sent = self._counted(record, links, channel, manner)
            send = Spread(self._hub, roster, broadcast)
            if record.gate is None and roster.inbox is not None:
                send()
            else:
                record.after(send)
            self._hub.forget(roster)
        if done is not None:
            record.after(partial(done, sent))

    def session_ended(self, key: str) -> None:
        """A session of a room that sleeps is over, and it would hear of that: wake it if that is worth it."""
        definition, record = self.definition(key), self._records.get(key)
        roster = self._hub.rosters.get(key)
        ended = self._over[key] = self._over.get(key, 0) + 1
        somebody = (roster is not None and roster.count) or (record is not None and record.away > 0)
        few = not definition.wake_on_disconnect and ended < _MOST_DEPARTED
        if not ((somebody and few) or self._stopping or self._restarts.given_up(key)):
            self._start(self._new_actor(key, "disconnect"))

    def _spawn(self, function: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """Run a task that belongs to no room, until the rooms have stopped."""
        assert self._nursery is not None
        self._nursery.start_soon(function)

    def reschedule(self, key: str, plan: Plan, *, held: bool = True) -> None:  # noqa: ARG002 (see `Behind`)
        """See `Placement`."""
        if self._killing:
            plan.refuse(key, RoomsClosed(_CLOSING))
        else:
            self.record(key).plans.make(plan)

    def waiting(self, key: str, answer: Answer) -> AbstractContextManager[None]:
        """See `Placement`."""
        assert self._nursery is not None
        task = room_task_of(trio.lowlevel.current_task(), self._nursery)
        # The name is that of a room; the runtime's own tasks, which ask nothing, have others.
        if task is None:
            return nullcontext()
        actor = self._actors.get(task.name)
        if actor is not None and actor.stage is Stage.WAKING:
            self.waking.loaded(actor)  # Whom it asks may have to wake, and must not wait for it.
        return self._circles.waiting(task.name, key, answer)

    async def schedules(self, key: str) -> Mapping[str, Schedule]:
        """See `Placement`."""
        record = self.record(key)
        record.pin()
        try:
            return schedules_of(await record.plans.settle())
        finally:
            record.unpin()

    async def people(self, key: str) -> tuple[str, ...]:
        """See `Placement`."""
        await trio.lowlevel.checkpoint()
        if not self.definition(key).presence:
            return people_of(self._hub.rosters.get(key))
        while True:
            roster = roster_of(self._hub, self.definition(key), key)
            presence = presence_of(roster)
            assert presence is not None
            try:
                await presence.known()
                if self._hub.rosters.get(key) is roster:
                    return people_of(roster)
            except StoreError:
                if self._hub.rosters.get(key) is roster:
                    raise
                # Else everybody has left meanwhile, and others may have come.
            finally:
                self._hub.forget(roster)

    def info(self, key: str) -> RoomInfo:
        """See `Placement`."""
        roster = self._hub.rosters.get(key)
        actor = self._actors.get(key)
        doing = None if actor is None else actor.info()
        return RoomInfo(
            key,
            self.stage(key),
            roster.count if roster is not None else 0,
            roster.channel_names if roster is not None else (),
            doing.mailbox if doing is not None else 0,
            doing.held if doing is not None else (),
        )

    async def find_info(self, key: str) -> RoomInfo:
        """See `Placement`."""
        await trio.lowlevel.checkpoint()
        return self.info(key)

    async def find_why_awake(self, key: str) -> WhyAwake:
        """See `Placement`."""
        await trio.lowlevel.checkpoint()
        return self.why_awake(key)

    def why_awake(self, key: str) -> WhyAwake:
        """See `Placement`."""
        actor = self._actors.get(key)
        if actor is None:
            return WhyAwake(key, self.stage(key), ())
        waiting = self.waking.queued if self.waking.waits(actor) else 0
        return explain(actor, self._watch.since(actor), self._watch.busy_since(actor), waiting)

    def _deliver_next(self) -> None:
        """Deliver the oldest of what must not keep messages waiting."""
        if self._undelivered:  # Else all of it was delivered at the stop.
            self.deliver(*self._undelivered.popleft())

    def _deliver_asleep(self, key: str, mail: Mail) -> None:
        """Wake a room for mail, where the mail is worth it."""
        if isinstance(mail, Disconnected):
            self._note_departure(key, mail)
        elif isinstance(mail, Dropped | Resumed):
            pass  # Nobody is woken for it.
        elif isinstance(mail, Connected) and self.definition(key).on_connect is None:
            pass  # Nobody would hear of it.
        elif isinstance(mail, Hibernate):
            mail.answer.succeed(True)
        elif self._stopping and not (self._first and isinstance(mail, Ask | Destroy)):
            if isinstance(mail, Alarm):
                mail.over(False)
            if isinstance(mail, Ask | Destroy) and mail.answer is not None and not self._in_background():
                mail.answer.fail(RoomsClosed(_CLOSING))
        elif self._restarts.given_up(key):
            self._refuse_asleep(
                key, mail, RoomFailed(key, "it crashed too often and is left alone for a while")
            )
        elif self._refusing and isinstance(mail, tuple | Ask | Destroy | Rouse):
            self._refuse_asleep(key, mail, Unavailable(key, _OUT_OF_TOUCH))
        else:
            if type(mail) is tuple:
                self.signs.woken(self.definition(key), *mail)
            actor = self._new_actor(key, cause_of(mail))
            actor.mailbox.post(mail)
            self._start(actor, urgent=is_urgent(mail))

    def _refuse_asleep(self, key: str, mail: Mail, failure: Exception) -> None:
        """Refuse what came for a room that sleeps, and is not woken for it."""
        definition = self.definition(key)
        roster = roster_of(self._hub, definition, key)
        refuse(Shared(definition, roster, self._hub, self._program, self.record(key)), mail, failure)
        self._forget_record(key)
        self._hub.forget(roster)

    async def lapse(self, key: str) -> bool:
        """Destroy a room whose ``state_ttl`` is over, unless somebody is in it, or may come back to it.

        Returns:
            Whether that is done, or it is known when to look again; else it is to be tried later.
        """
        record = self.record(key)
        record.pin()
        try:
            await record.known()
            head = await self._store.head(key)
            if self._stopping or not head.lapses or head.lapses > self._wall.now():
                return True  # It was renewed meanwhile.
            if self.definition(key).state_ttl is None:
                record.never_lapses()
            elif self._is_used(key, record) or head.has_timers or not await self._let_go(key):
                record.renew()
            else:
                return True
            await record.durable()
        except RoomsError as error:
            logger.error("room %s: it cannot be let go: %s", key, error)  # noqa: TRY400
            return False
        finally:
            record.unpin()
        return True

    def _is_used(self, key: str, record: Record) -> bool:
        """Whether a room is awake, or somebody is in it or may come back to it."""
        roster = self._hub.rosters.get(key)
        return key in self._actors or record.away > 0 or (roster is not None and roster.count > 0)

    async def _let_go(self, key: str) -> bool:
        """Destroy a room, unless somebody has come meanwhile; whether it is."""
        answer = Answer()
        self.deliver(key, Destroy(answer, lapsed=True))
        return await answer.wait() is not False

    def _left_alone(self, key: str, record: Record | None = None) -> None:
        """Nobody is in a room from now on that may go after a time."""
        if self.definition(key).state_ttl is not None and not self._stopping:
            record = record or self.record(key)
            record.when_known(record.renew)

    def _in_background(self) -> bool:
        """Whether the task that runs now is a background task of a room.

        At the stop it is not told that nobody answers any more: that would crash its room, which drops
        what is not saved. It waits, and is cancelled as its room comes to rest.
        """
        assert self._nursery is not None
        task = trio.lowlevel.current_task()
        return is_inside(task, self._nursery) and room_task_of(task, self._nursery) is None

    def _note_departure(self, key: str, mail: Disconnected) -> None:
        """Remember who left a sleeping room, or wake it where nobody else may ever do so."""
        definition, roster = self.definition(key), mail.link.roster
        listens = definition.on_disconnect is not None
        if listens or definition.on_wake is not None:
            noted = roster.note_departure(mail)
            if roster.count and not listens:
                del noted[:-_MOST_DEPARTED]
        few = not definition.wake_on_disconnect and len(roster.departed or ()) < _MOST_DEPARTED
        if roster.count and (not listens or few):
            return
        if listens and not self._stopping and not self._restarts.given_up(key):
            # Nobody may ever come again, and a record that waits for that is a leak.
            self._start(self._new_actor(key, "disconnect"))
        else:
            roster.departed = None
            self._hub.forget(roster)
            self._left_alone(key)

    # Awake rooms.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the parent of the rooms, until cancelled."""
        self._context = contextvars.copy_context()
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._none_left.set()  # None runs any more, however this ended.

    def _new_actor(self, key: str, cause: str) -> Actor:
        """An actor that is in no table yet, with the record that its room has or a new one."""
        assert self._nursery is not None
        definition = self.definition(key)
        roster, record = roster_of(self._hub, definition, key), self.record(key)
        roster.journal = record.journal
        slept = None if roster.asleep_since is None else trio.current_time() - roster.asleep_since
        return self._make_actor(
            Shared(definition, roster, self._hub, self._program, record),
            self._deadlines,
            cause=cause,
            slept=slept,
            loaded=self._loaded,
            removed=self._removed,
            spawn=self._spawned,
            watch=self._watch_actor,
            reluctance=self._rhythm.woken(key, cause, slept),
        )

    def _start(self, actor: Actor, *, urgent: bool = False) -> None:
        """Put an actor into the table, and have it wake."""
        self._actors[actor.key] = actor
        self._over.pop(actor.key, None)
        actor.shared.roster.inbox = actor.mailbox
        if self._stopping:
            actor.stop(called=actor.key in self._parted)
        self._wakes += 1
        self.waking.enter(actor, urgent=urgent)

    def _begin(self, actor: Actor) -> None:
        """Start the task of a room, whose turn it is to wake."""
        assert self._nursery is not None
        # Not in the context of whoever happened to wake it, which others' mail would then see.
        self._context.run(partial(self._nursery.start_soon, self._supervise, actor, name=actor.key))

    @enable_ki_protection
    async def _supervise(self, actor: Actor) -> None:
        """Run a room, again and again while it crashes, until it sleeps or is given up."""
        before = self._ending.get(actor.key)
        if before is not None:
            await before.wait_ended()
        try:
            while self._actors.get(actor.key) is actor:
                try:
                    await actor.run()
                except BaseException as error:  # noqa: BLE001 (whatever ends a room ends no other)
                    delay = self._after_crash(actor, error)
                    if delay is None:
                        return
                    self.waking.loaded(actor)
                    await trio.sleep(delay)
                    if self._actors.get(actor.key) is not actor:
                        return  # It was forsaken meanwhile.
                    actor.take(Step.RETRIED)
                else:
                    return
        except BaseException as passing:
            ends = first_error(passing)
            if isinstance(ends, trio.Cancelled):
                raise
            self.failed(ends)  # SystemExit, for one: the program ends, in order.
            await self._kill(actor, 0)
        finally:
            self._ending.pop(actor.key, None)
            self._watch.discard(actor)
            actor.dispose()
            self._forget_record(actor.key)

    def _after_crash(self, actor: Actor, raised: BaseException) -> float | None:
        """Decide what becomes of a room that ended with an error: seconds to its next try, or None.

        Raises:
            BaseException: what of it is not about this room, such as a cancellation.
        """
        passing, crash = parted(raised)
        cancelled = passing is not None or actor.killed or self._actors.get(actor.key) is not actor
        if crash is not None and cancelled and not isinstance(first_error(crash), StaleWrite):
            logger.error("room %s: a task raised while it was cancelled", actor.key, exc_info=alone(crash))
        if passing is not None:
            # The runtime ends. The room's state stays as it is, and is saved.
            raise passing
        if cancelled or crash is None:
            return None
        error = first_error(crash)
        if isinstance(error, RolledBack):
            return actor.rolled_back()
        if actor.stage is Stage.WAKING and isinstance(error, SnapshotError | StoreError):
            self._unloadable(actor, error)
            return None
        self.metrics.errors += 1
        actor.crashed(error)
        delay = self._restarts.after_crash(actor.key)
        if delay is None:
            self._give_up(actor, error)
        else:
            logger.error(
                "room %s crashed and is started again in %.2f s", actor.key, delay, exc_info=alone(crash)
            )
        return delay

    def _unloadable(self, actor: Actor, error: Exception) -> None:
        """Answer all mail of a room that cannot be loaded; the next mail tries anew."""
        logger.error("room %s cannot be loaded: %s", actor.key, error)
        failure: RoomsError = RoomFailed(actor.key, f"it cannot be loaded: {error}")
        if self.on_moved is not None and isinstance(error, StoreError):
            failure = Unavailable(actor.key, f"it cannot be loaded: {error}")
        failure.__cause__ = error
        actor.refuse_all(failure)
        actor.take(Step.UNLOADABLE)
        roster = actor.shared.roster
        if isinstance(error, SnapshotError):
            roster.departed = None  # Nobody will hear of them: this program cannot read what there is.
            self.metrics.lost["snapshot"] += 1
        elif roster.departed is not None:
            # Each visit fails anew, and while the store does, that must not grow with the visits.
            del roster.departed[:-_MOST_DEPARTED]
        self._drop(actor)

    def _give_up(self, actor: Actor, error: BaseException) -> None:
        """Close a room that crashed too often, until it has cooled down."""
        logger.critical(
            "room %s crashed more than %d times in %.0f s and is closed for %.0f s",
            actor.key, MOST_CRASHES, CRASH_WINDOW, COOL_DOWN, exc_info=error,
        )  # fmt: skip
        failure = RoomFailed(actor.key, "it crashed too often")
        failure.__cause__ = error
        actor.refuse_all(failure)
        actor.take(Step.GIVEN_UP)
        self._hub.close_room(actor.shared.roster, CloseCode.INTERNAL_ERROR, "the room failed")
        self._drop(actor)

    def _remove(self, actor: Actor) -> None:
        """A room has ended as it should; called in the one step that decides it."""
        self.on_sleep(actor)
        self._hibernations += 1
        self._rhythm.slept(actor)
        self._ending[actor.key] = actor
        actor.shared.roster.asleep_since = trio.current_time()
        if self._stopping and actor.parted:
            self._parted.add(actor.key)
        if self._killing:
            actor.refuse_all(RoomsClosed(_CLOSING))
        left = actor.mailbox.drain()
        if not all(isinstance(mail, Dropped | Resumed) for mail in left):
            successor = self._new_actor(actor.key, cause_of(left[0]))
            successor.mailbox.mail.extend(left)
            successor.fruitless = actor.fruitless
            self._start(successor, urgent=any(is_urgent(mail) for mail in left))
        else:
            self._left_alone(actor.key, actor.saver.record)
            self._drop(actor)

    def _drop(self, actor: Actor) -> None:
        """Take an actor out of the tables; its tasks may still unwind."""
        roster = actor.shared.roster
        if self._actors.get(actor.key) is actor:
            del self._actors[actor.key]
        self.waking.left(actor)
        if roster.inbox is actor.mailbox:
            roster.inbox = roster.away = None
            self._hub.activity.all_quiet(roster)
            roster.pack()
        roster.resume_reading()
        self._hub.forget(roster)
        if self._stopping:
            self._first.discard(actor.key)
            self._at_rest(actor.key)
            if not self._actors:
                self._none_left.set()

    def _forget_record(self, key: str) -> None:
        """Let go of a record that nobody uses, and of which nothing is on its way to the store."""
        record = self._records.get(key)
        if record is None or key in self._actors or key in self._ending:
            return
        if not record.unsettled:
            if record.sessions.stalled:
                self._stalled[key] = record.sessions.stalled
            self._records.pop(key).dispose()
            roster = self._hub.rosters.get(key)
            if roster is not None:
                roster.journal = None
        elif record.substantial and not self._killing:
            record.flush()

    # Standing still, and letting go.

    def pause(self) -> None:
        """Stand still until `resume`: rooms take no mail, and what they do goes to nobody.

        Their states, their mail and their connections stay as they are. Mail waits for as long as
        `PATIENCE`; then it is refused as unavailable, and so is what comes later, but for what has happened,
        such as the end of a connection. New connections are not taken. A second call does nothing.
        To be called between any two tasks' steps, also in an instrument; it does not raise.
        """
        if not self.paused:
            self.paused = self.waking.paused = True
            self._hub.hold_output()
            for actor in self._actors.values():
                self._hub.work(actor.shared.roster, _at_once)  # While there is output, it takes no mail.
            self._refused_at = self._deadlines.set(trio.current_time() + PATIENCE, self._refuse_waiting)

    def resume(self) -> None:
        """Go on, with all that has waited. A second call does nothing."""
        if self.paused:
            self.paused = self._refusing = False
            self._deadlines.cancel(self._refused_at)
            self._hub.let_output_go()
            self.waking.go_on()
            for actor in self._actors.values():
                actor.saver.go_on()

    def _refuse_waiting(self) -> None:
        """Everything stands still for long: refuse what waits, and look again."""
        self._refusing = True
        for actor in [*self._actors.values()]:
            if actor.mailbox.waiting:
                actor.refuse_waiting(Unavailable(actor.key, _OUT_OF_TOUCH))
        self._refused_at = self._deadlines.set(trio.current_time() + _REFUSING, self._refuse_waiting)

    def _moved(self, record: Record) -> None:
        """The store says that somebody else has a room."""
        if self._records.get(record.key) is record and self.on_moved is not None:
            self.forsake(record.key)
            self.on_moved(record.key)

    @enable_ki_protection
    def forsake(self, key: str) -> None:
        """Let go of a room that somebody else has by now, without a save, and without a verdict for anybody.

        Its tasks are cancelled, what is not written is forgotten, what was to be sent is not; its
        connections are closed with 1012, and their sessions are left as the store has them. Whoever asked it
        something is told that it is unavailable: whether that has happened is not known. Mail that comes
        later is for a new life of the room, which waits for the end of what was cancelled. To be called
        between any two steps. Nothing happens to a room of which there is nothing.
        """
        failure = Unavailable(key, "it has moved, and what has become of this is not known")
        roster, actor = self._hub.rosters.get(key), self._actors.get(key)
        if roster is not None:
            self._drop_output(roster, failure)
            self._hub.close_room(roster, CloseCode.RESTART, "the room has moved", ended=True)
            roster.journal = None
        record = self._records.pop(key, None)
        if record is not None:
            record.forsake(failure)
        self._stalled.pop(key, None)
        self._over.pop(key, None)
        ending = self._ending.get(key)
        if ending is not None:
            ending.give_up()
        if actor is not None:
            waits = self.waking.withdraw(actor)
            actor.forsake(failure)
            if not waits:
                self._ending[key] = actor
            self._drop(actor)
            if waits:
                actor.dispose()
        elif roster is not None:
            self._hub.forget(roster)

    @contextmanager
    def moving(self, key: str) -> Iterator[None]:
        """Let nobody into a room that is about to be given away, until the end of the block."""
        self._moving.add(key)
        try:
            yield
        finally:
            self._moving.discard(key)

    async def settle(self, key: str) -> bool:
        """Have a room sleep as soon as its mail is handled, whatever holds it, and wait until it is written.

        Cancelled, it goes on. A room that sleeps is woken where it is still to hear who has left.

        Returns:
            Whether there was anything to wait for. If not, this was no checkpoint.
        """
        waited = False
        while True:
            actor, record = self._actors.get(key) or self._ending.get(key), self._records.get(key)
            roster = self._hub.rosters.get(key)
            if actor is not None:
                actor.stop()
                try:
                    await actor.wait_ended()
                finally:
                    actor.idleness.stopping = self._stopping
            elif record is not None and record.unsettled:
                await trio.sleep(_SETTLING)
            elif roster is not None and roster.departed and self.definition(key).on_disconnect is not None:
                self._start(self._new_actor(key, "disconnect"))
            else:
                return waited
            waited = True

    def _drop_output(self, roster: Roster, failure: Unavailable) -> None:
        """Forget what a room has still to send, and tell who waits for that as well."""
        for job in self._hub.drop_output(roster):
            if isinstance(job, Late):
                job.refuse(failure)

    # The end.

    def refuse_newcomers(self) -> None:
        """Take no more connections."""
        self._accepting = False

    async def rest(self, timeout: float, at_rest: Callable[[str], None]) -> None:  # noqa: ASYNC109 (a phase of it, not of a caller)
        """Let every room handle its mail and save itself.

        A room that sleeps is woken for one that still does so and asks it something, but for nothing
        else. So the rooms may tell each other what they have to, and cannot go on for ever.

        Args:
            timeout: seconds for all of it.
            at_rest: called with the key of each room that is done.
        """
        while self._undelivered:
            self._deliver_next()
        self._stopping, self._at_rest = True, at_rest
        self.pulse.stop()
        self._first = set(self._actors)
        for actor in list(self._actors.values()):
            actor.stop()
        with trio.move_on_after(timeout):
            while self._actors or self._ending:
                # What tasks of theirs change as they are cancelled is saved as well.
                await next(iter([*self._actors.values(), *self._ending.values()])).wait_ended()
            # What came for rooms that sleep is written as well. Nobody tells of each that is.
            while any(record.unsettled for record in self._records.values()):  # noqa: ASYNC110
                await trio.sleep(_SETTLING)
            await self.users.office.rest()

    async def kill(self, until: float) -> None:
        """Cancel the rooms that have not come to rest, and save them as they are then.

        Args:
            until: when what is not saved is given up, on Trio's clock.
        """
        assert self._nursery is not None
        self._killing = True
        self.waking.close()
        self._first.clear()
        if self._actors:
            self._none_left = trio.Event()
            grace = min(_GRACE, (until - trio.current_time()) / 2)
            for actor in list(self._actors.values()):
                logger.warning("room %s did not come to rest in time: its handler is cancelled", actor.key)
                self._nursery.start_soon(self._kill, actor, grace)
            with trio.move_on_at(until):
                await self._none_left.wait()
            for actor in list(self._actors.values()):
                if actor.stage in (Stage.AWAKE, Stage.HIBERNATING):
                    actor.shared.lost("what was not saved", "the store does not answer")
                self._drop_killed(actor)
        for actor in self._ending.values():
            actor.give_up()
        for record in self._records.values():
            record.abandon()
        if self.paused:
            # Nobody will be told any more what rooms did; but clients are, that they are to go.
            for roster in [*self._hub.rosters.values()]:
                self._drop_output(roster, Unavailable(roster.key, _OUT_OF_TOUCH))
            self.resume()
        self._closed = True
        self.sweeper.close()
        self.users.office.close()
        for answer in self._awaited:
            answer.fail(RoomsClosed("the rooms have closed, and what became of this is not known"))
        self._at_rest = _nothing
        self._nursery.cancel_scope.cancel()

    @enable_ki_protection
    async def _kill(self, actor: Actor, grace: float) -> None:
        """Cancel one room at the end of the program, and save it. May hang, with the store."""
        try:
            await actor.kill(grace, self._at_rest)
        except Exception:
            logger.critical("room %s: what was not saved is lost", actor.key, exc_info=True)
            self.metrics.lost["state"] += 1
        self._drop_killed(actor)
        self._forget_record(actor.key)

    def _drop_killed(self, actor: Actor) -> None:
        """Take an actor out of the tables that handles no more, and answer what came while it was saved."""
        actor.refuse_all(RoomsClosed(_CLOSING))
        self._drop(actor)


def _nothing(_: object) -> None:
    """Nobody is to be told."""


def _at_once(_: float) -> bool:
    """A piece of output that is nothing."""
    return True
