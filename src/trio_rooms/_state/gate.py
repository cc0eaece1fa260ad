"""The output gate of a room: what its handlers do to the outside waits until what they wrote is durable.

A batch is what was handled from one cut to the next: jobs, which are what is to be done to the
outside, in order, and what is needed to take all of it back. At most one is in flight, on its way to
the store, and at most one more is cut and waits behind it, `ready`. What is handled meanwhile goes
into the `open` one. So what is in memory beyond the store is exactly these.

    open -> (cut between two messages) -> ready -> flight -> (durable) -> its jobs are done

A commit that definitely failed lets nothing out. The room goes back to what the store has: its tasks
end, what was edited is undone, who sent something is told that it was not saved, and what came from
outside the room's handlers is done once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, Protocol

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.standstill import Standstill
from trio_rooms._loop.turn import TURN
from trio_rooms._sockets.joined import Joined, Sending
from trio_rooms._sockets.roster import Link
from trio_rooms.errors import (
    NotSaved,
    RoomsClosed,
    RoomsError,
    StaleWrite,
    StateError,
    StoreError,
    StoreFull,
    StoreReadOnly,
)

from .delta import Cut

__all__ = ["Batch", "Gate", "Living", "Outside"]

logger = logging.getLogger("trio_rooms")

_MOST_JOBS: Final = 10_000
_MOST_BYTES: Final = 4 * 1024 * 1024
"""What may wait in an open batch: a room that has more takes no mail before some of it has gone out."""
_AT_ONCE: Final = 64
"""Jobs of a batch that changed nothing which are done in place, and not by the task that commits."""
_RETRY_FIRST: Final = 0.05
_RETRY_LAST: Final = 1.0
"""Seconds between two tries to write what came for a room that sleeps, doubled each time."""
_UNTOLD: Final = "the rooms closed before the store had said whether this is saved"
MOST_TRIES: Final = 20
"""Commits in a row that may definitely fail before what came from outside the room is given up."""


@attrs.define(eq=False, weakref_slot=False)
class Outside:
    """Something that came for a room from outside its handlers, and is no part of what they do.

    A rollback of the room does not take it back: it is done once more, in the same order.
    """

    action: Callable[[], None]
    refused: Callable[[RoomsError], None] | None
    """Told when it is given up."""
    tries: int = 0


@attrs.define(eq=False, weakref_slot=False)
class Batch:
    """What was handled between two cuts."""

    jobs: list[Callable[[], None]] = attrs.field(factory=list)
    size: int = 0
    """Bytes that the jobs hold."""
    last: list[Callable[[], None]] = attrs.field(factory=list)
    """What is done when all of these are. They stand apart, for jobs in a row may be done as one."""
    waiting: list[tuple[Link, int | None]] = attrs.field(factory=list)
    """Who sent messages that want an answer, with their ids, where they have no session; in a plain room
    without one."""
    messages: dict[tuple[int, int], list[Link]] = attrs.field(factory=dict)
    """The same of sessions: by session and id, the connections that brought a copy of the message."""
    asked: list[Callable[[RoomsError], None]] = attrs.field(factory=list)
    """Who else is told if this is not saved."""
    again: list[Any] = attrs.field(factory=list)
    """Mail that is handled once more if this is not saved: of what happened all the same, as comings."""
    undo: list[Callable[[], None]] = attrs.field(factory=list)
    """What takes back what was done at once, in the order in which it was done."""
    outside: list[Outside] = attrs.field(factory=list)
    durable: bool = False
    """Whether it has to be written where the gate is not there for good: a durable handler has run."""

    def refuse(self, failure: RoomsError) -> None:
        """Tell those who asked, and those outside, that nothing of it will be saved."""
        for refused in (*self.asked, *(one.refused for one in self.outside)):
            if refused is not None:
                refused(failure)

    def take_back(self) -> None:
        """Undo what was done at once, the last first."""
        while self.undo:
            self.undo.pop()()


class Living(Protocol):
    """What the gate of an awake room asks of it."""

    @property
    def between(self) -> bool:
        """Whether it is between two messages: no handler and no hook runs."""

    @property
    def in_background(self) -> bool:
        """Whether the task that runs now is one of the room's background tasks."""

    def look_soon(self) -> None:
        """Call `Gate.look` between two messages, soon."""

    def committed(self) -> None:
        """What was in flight is durable, and has gone out."""

    def roll_back(self) -> None:
        """End everything that runs in the room; when that has ended `Gate.roll_back` is called."""

    def crash(self, error: BaseException) -> None:
        """The room has lost its place in the store: crash."""


class Commits(Protocol):
    """What a gate asks of the record of its room."""

    key: str

    @property
    def large(self) -> bool:
        """Whether the state is encoded in a thread."""

    standstill: Standstill
    """While it is on, nothing goes out."""

    @property
    def waits(self) -> bool:
        """Whether there is anything that must be written."""

    def cut(self) -> Cut | None:
        """Take all that there is to write; None where nothing must be written."""

    async def cut_large(self) -> Cut | None:
        """The same for a large state, while nothing is handled."""

    async def commit(self, cut: Cut) -> None:
        """Make it durable, however long the outcome is not known."""

    def put_back(self, cut: Cut) -> None:
        """It was not written, and goes with the next one."""

    def lose(self) -> None:
        """Forget what is not written, and what is known of the store."""

    def spawn(self, function: Callable[..., Any]) -> None:
        """Run a task that outlives the room."""

    def rested(self) -> None:
        """Nothing is under way any more, and nobody is awake."""


class Gate:
    """Lets out what a room's handlers do when it is durable, in order, and takes back what cannot be.

    Args:
        record: what writes.
        done: called when all has gone out, for a gate that ends then; None for one that is there as long as
            the record.
    """

    __slots__ = (
        "_commits",
        "_cut",
        "_moved",
        "_parked",
        "_requested",
        "_running",
        "broken",
        "done",
        "failed",
        "failure",
        "failures",
        "flight",
        "handling",
        "living",
        "lost",
        "open",
        "paused",
        "ready",
        "slow",
    )

    def __init__(self, record: Commits, done: Callable[[], None] | None = None) -> None:
        self._commits = record
        self.done: Callable[[], None] | None = done
        """Called when all has gone out, for a gate that ends then."""
        self.open: Batch = Batch()
        self.ready: tuple[Batch, Cut] | None = None
        self.flight: Batch | None = None
        self.failed: bool = False
        """Whether the batch in flight was not saved."""
        self.failure: NotSaved | None = None
        """Why the room has to go back, until it has."""
        self.lost: Exception | None = None
        """Why nobody will know whether the batch in flight was saved."""
        self.broken: bool = False
        """Whether nothing more is cut or sent before `roll_back`; what is in flight goes on."""
        self.paused: bool = True
        """Whether nothing may be cut now: a hook runs, or the room is not awake yet."""
        self.living: Living | None = None
        """The awake room."""
        self.slow: set[Any] = set()
        """Handlers that were seen to wait: what was handled before is cut before they begin."""
        self.handling: Any = None
        """The handler that runs, where that is told."""
        self._cut: Cut | None = None
        """What the batch in flight writes; None where it changed nothing."""
        self.failures: int = 0
        """Commits in a row that definitely failed."""
        self._requested = False
        self._running = False
        self._parked: trio.lowlevel.Task | None = None
        self._moved: trio.Event | None = None

    # What handlers do.

    def add(self, job: Callable[[], None], size: int = 0) -> None:
        """Do something when all that was written until now is durable, behind all that was added before."""
        batch = self.open
        batch.jobs.append(job)
        batch.size += size
        if not self._requested:
            self.request()

    def request(self) -> None:
        """There is something to cut."""
        self._requested = True
        if self.living is not None:
            self.living.look_soon()
        elif not self.broken:
            self._go()

    @property
    def full(self) -> bool:
        """Whether so much waits that no more may be handled now."""
        return self.open.size > _MOST_BYTES or len(self.open.jobs) > _MOST_JOBS

    @property
    def empty(self) -> bool:
        """Whether nothing waits, and nothing that was done must still be written."""
        return self.flight is None and self.ready is None and not self.open.jobs and not self._must_cut

    @property
    def _must_cut(self) -> bool:
        """Whether there is something in the open batch, or beside it, that must be written through here."""
        if self.done is not None and self.living is not None:
            return self.open.durable  # What else there is, the room saves in its own time.
        return self._commits.waits

    def holds(self, sid: int, number: int) -> list[Link] | None:
        """Who waits for the answer to a message of a session that is in the gate; None where it is not."""
        batches = (self.open, self.flight, self.ready[0] if self.ready is not None else None)
        for batch in batches:
            if batch is not None:
                links = batch.messages.get((sid, number))
                if links is not None:
                    return links
        return None

    # Cutting.

    async def look(self) -> None:
        """Between two messages: cut what there is, if nothing is in flight; wait where too much waits."""
        while True:
            self._requested = False
            if self.flight is None and self.ready is None and not (self.broken or self.paused):
                await self.seal()
            if not (self.full or self.broken):
                return
            await self._wait_moved()  # Where it is broken, for the end.

    def before(self, handler: Any) -> None:
        """A handler is about to begin; if it is known to wait, what was handled before goes its way first."""
        self.handling = handler
        if handler in self.slow and self.ready is None and not self._commits.large:
            if self.flight is None:
                self._seal()
            elif self._must_cut:
                cut = self._try_to_cut()
                if cut is not None:
                    self.ready, self.open = (self.open, cut), Batch()

    async def seal(self) -> None:
        """Cut the open batch, and send it on its way; between two messages, with nothing in flight."""
        if self._commits.large and self._must_cut:
            self.paused = True  # What came meanwhile would be cut, too, by who sees nothing in flight.
            try:
                cut = await self._commits.cut_large()
            except StateError as error:
                self.fail(error)
                return
            finally:
                self.paused = False
            self._send(cut)
        else:
            self._seal()

    def _seal(self) -> None:
        cut = self._try_to_cut()
        if not self.broken:
            self._send(cut)

    def _try_to_cut(self) -> Cut | None:
        """What there is to write; a state that cannot be written breaks the gate."""
        if self.done is not None and self.living is not None and not self.open.durable:
            return None
        try:
            return self._commits.cut()
        except StateError as error:
            self.fail(error)
            return None

    def _send(self, cut: Cut | None) -> None:
        """Send the open batch on its way; what changed nothing goes out at once."""
        self._requested = False
        batch = self.open
        if cut is None:
            if not batch.jobs and not batch.outside:
                self._check_done()
                return
            self.open = Batch()
            if len(batch.jobs) <= _AT_ONCE and not self._commits.standstill.on:
                for job in (*batch.jobs, *batch.last):
                    _do(job)
                self._check_done()
                return
        else:
            self.open = Batch()
        self.flight, self._cut = batch, cut
        self._go()

    def _check_done(self) -> None:
        if self.done is not None and self.empty:
            self.done()

    # The task that commits.

    def _go(self) -> None:
        """Have the task look what there is to do."""
        parked, self._parked = self._parked, None
        if parked is not None:
            trio.lowlevel.reschedule(parked)
        elif not self._running:
            self._running = True
            self._commits.spawn(self._run)

    @enable_ki_protection
    async def _run(self) -> None:
        """Commit batch after batch; while the room is awake it waits for the next one."""
        try:
            while True:
                if self.flight is not None and not (self.failed or self.lost):
                    await self._carry_out()
                elif not self._next():
                    if self.living is None or self.done is not None:
                        return
                    self._parked = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        finally:
            self._running = False
            self._tell()
            self._commits.rested()

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _next(self) -> bool:
        """Send what is cut already, or cut what there is if nobody is at it; whether there was any."""
        if self.broken:
            return False
        if self.ready is not None:
            (self.flight, self._cut), self.ready = self.ready, None
            return True
        living = self.living
        if not (self.open.jobs or self._must_cut):
            return False
        if living is None:
            self._seal()
        elif not self.paused:  # Else whoever has paused it looks.
            if living.between and not self._commits.large:
                self._seal()
            else:
                if not living.between and self.handling is not None:
                    self.slow.add(self.handling)  # It waits, and so does what was handled before it.
                living.look_soon()
        return self.flight is not None

    async def _carry_out(self) -> None:
        """Write the batch in flight, and let out what waits for it."""
        batch, cut = self.flight, self._cut
        assert batch is not None
        if cut is not None:
            try:
                await self._commits.commit(cut)
            except (StoreFull, StoreReadOnly, StateError, TypeError, ValueError) as error:
                if self.flight is batch:
                    await self._refused(error, cut)
                return
            except StoreError as error:
                if self.flight is batch:
                    self._lose(error)
                return
        if self.failures:
            logger.info("room %s: what is done there is saved again", self._commits.key)
            self.failures = 0
        await self._commits.standstill.over()
        if self.flight is not batch:
            return  # The room is somebody else's by now.
        await _release(batch, self._commits.standstill)
        if self.flight is not batch:
            return
        self.flight = self._cut = None
        self._tell()
        if self.living is not None:
            self.living.committed()
        self._check_done()

    async def _refused(self, error: Exception, cut: Cut) -> None:
        """Nothing of the batch in flight was written."""
        if self.living is not None:
            self.failed = True
            self.failures += 1
            self.fail(error)
            return
        # Nothing of it is of a handler. So there is nothing to go back to, and it can be tried again.
        batch = self.flight
        assert batch is not None
        self._commits.put_back(cut)
        self.failures += 1
        if self.failures == 1:
            logger.error("room %s: what came while it slept cannot be written: %s", self._commits.key, error)
        if self.failures >= MOST_TRIES:
            self.failures = 0
            self._drop(error)
            return
        batch.jobs += self.open.jobs
        batch.last += self.open.last
        batch.outside += self.open.outside
        batch.asked += self.open.asked
        batch.size += self.open.size
        self.open, self.flight, self._cut = batch, None, None
        await trio.sleep(min(_RETRY_FIRST * 2**self.failures, _RETRY_LAST))

    def fail(self, error: Exception) -> None:
        """The room has to go back to what the store has; what is in flight and not failed goes on."""
        failure = NotSaved(self._commits.key, str(error))
        failure.__cause__ = error
        self.failure, self.broken = failure, True
        if self.living is not None:
            self.living.roll_back()
        self._tell()

    def _lose(self, error: Exception) -> None:
        """The room has lost its place in the store, or the store is gone: nobody gets a verdict."""
        if self.living is not None:
            self.broken, self.lost = True, error
            if self.flight is not None and not isinstance(error, StaleWrite):
                self.flight.refuse(RoomsClosed(_UNTOLD))
            self.living.crash(error)
            self._tell()
        else:
            logger.critical("room %s: what came while it slept is lost: %s", self._commits.key, error)
            self._drop(error, known=isinstance(error, StaleWrite))

    def _drop(self, error: Exception, *, known: bool = True) -> None:
        """Give up what came for a room that sleeps, and tell those who wait for it.

        Args:
            error: why.
            known: whether the batch in flight is certain not to be saved; what is behind it is in any case.
        """
        failure = NotSaved(self._commits.key, str(error))
        failure.__cause__ = error
        flight = self.flight
        for batch in self.roll_back():
            batch.refuse(RoomsClosed(_UNTOLD) if batch is flight and not known else failure)
        self._commits.lose()
        self._tell()

    @property
    def pause(self) -> float:
        """Seconds after which a room that went back begins anew: more while nothing can be written."""
        return min(_RETRY_FIRST * 2.0 ** max(self.failures - 1, 0), _RETRY_LAST)

    # The end of a life.

    def abandon(self) -> None:
        """Nothing more is cut or sent: what was handled since the last cut is in doubt."""
        self.broken = True

    async def landed(self) -> None:
        """Wait until what is in flight is durable and has gone out, or failed, or nobody works on it."""
        while self.flight is not None and self._running and not (self.failed or self.lost):
            await self._wait_moved()

    async def settled(self) -> None:
        """Cut until nothing is left, and wait until all of it has gone out. Between two messages.

        Raises:
            NotSaved: a commit failed, and nobody has cancelled this.
            StoreError: nobody knows what became of one.
        """
        while True:
            if self.broken:
                await trio.lowlevel.checkpoint()
                raise self.failure or self.lost or NotSaved(self._commits.key, "the room ends")
            if self.empty:
                return
            if self.flight is None and self.ready is None:
                await self.seal()
            else:
                await self._wait_moved()

    def behind(self) -> list[Batch]:
        """What is not on its way yet."""
        return [*(self.ready[:1] if self.ready is not None else ()), self.open]

    def roll_back(self) -> list[Batch]:
        """Take back what was done at once, and begin anew; returns what was not saved, the first first."""
        batches = [one for one in (self.flight, self.ready[0] if self.ready else None, self.open) if one]
        for batch in reversed(batches):
            batch.take_back()
        self.flight = self.ready = self._cut = None
        self.open = Batch()
        self.failure, self.lost, self.failed, self.broken = None, None, False, False
        self.paused, self._requested = True, False
        self.handling = None
        return batches

    def forsake(self, failure: RoomsError) -> None:
        """Somebody else has the room: nothing of what waits goes out, and nobody is told a verdict."""
        batches = [one for one in (self.flight, self.ready[0] if self.ready else None, self.open) if one]
        self.flight = self.ready = self._cut = self.living = self.handling = None
        self.open, self.broken, self.paused = Batch(), True, True
        for batch in batches:
            for waits in (batch.jobs, batch.last, batch.undo):
                waits.clear()  # In place, since they may be about to be done.
            batch.refuse(failure)
        self._tell()
        if self._parked is not None:
            self._go()

    def dissolve(self) -> Batch:
        """End a gate through which nothing is on its way: what is open goes another way."""
        batch, self.open, self.broken = self.open, Batch(), True
        self._go()
        return batch

    def sleep(self) -> None:
        """The room has fallen asleep: the task ends when there is nothing more to do."""
        self.living, self.handling, self.paused = None, None, True
        self.slow.clear()
        self._go()

    async def _wait_moved(self) -> None:
        """Wait until something has gone out, or nothing will."""
        if self._moved is None:
            self._moved = trio.Event()
        await self._moved.wait()

    def _tell(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None:
            moved.set()


async def _release(batch: Batch, standstill: Standstill) -> None:
    """Do what waited for a batch, a turn at a time; what is taken out of it meanwhile is not done."""
    until = perf_counter() + TURN
    joined = Joined()
    for job in batch.jobs:
        if not (isinstance(job, Sending) and job.join(joined)):
            joined.write()
            _do(job)
        if perf_counter() > until:
            joined.write()
            await trio.lowlevel.checkpoint()
            await standstill.over()
            until = perf_counter() + TURN
    joined.write()
    for job in batch.last:
        _do(job)


def _do(job: Callable[[], None]) -> None:
    """Do one thing; what goes wrong with it keeps nothing else from going out."""
    try:
        job()
    except Exception:
        logger.exception("something that had waited until it was durable could not be done")
