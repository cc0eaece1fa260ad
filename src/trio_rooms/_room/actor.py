"""One awake room: one task that handles its mail, one message at a time, to its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Final

import attrs
import trio

from trio_rooms._definition.definition import Handler
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.groups import parted
from trio_rooms._loop.turn import TURN
from trio_rooms._sockets.flags import CLOSING, DISMISSED, GONE, UNGREETED
from trio_rooms._sockets.roster import Disconnected, Link
from trio_rooms._state.gate import Gate
from trio_rooms._users.presence import presence_of
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.errors import (
    NotSaved,
    RoomFailed,
    RoomsClosed,
    RoomsError,
    StaleWrite,
    StateError,
    StoreError,
    Unavailable,
)

from .answers import Answer, own
from .background import Background
from .context import Context
from .dispatcher import Dispatcher, disconnect_of, refuse, refuse_unsaved
from .eager import Eager
from .endings import end_all, recall
from .firing import Firing
from .idleness import Idleness
from .lifecycle import Stage, Step, next_stage
from .live import LiveRoom
from .mail import LIFECYCLE, Alarm, Ask, Destroy, Hibernate, Mail, link_of
from .mailbox import Mailbox
from .members import Members
from .reports import WakeReport
from .saver import Saver
from .shared import Shared

__all__ = ["Actor", "ActorInfo", "RolledBack"]

logger = logging.getLogger("trio_rooms")

_LAST_TRIES: Final = 3
"""Commits in a row at hibernation, where background tasks go on changing the state."""
_RETRY_STOP: Final = 0.1
"""Seconds between two tries to save a room that is to stop."""
_RETRY_LAST: Final = 5.0
"""Seconds to which they grow for one that sleeps, but for what its tasks changed as they ended."""


@attrs.frozen
class ActorInfo:
    """One awake room, as `RoomHandle.info` shows it."""

    stage: Stage
    mailbox: int
    """Mail that waits."""
    handled: int
    """Mail handled since it woke."""
    held: tuple[str, ...]
    """Why it must not sleep now."""


class RolledBack(Exception):
    """The room has to go back to what the store has; see `Actor.rolled_back`."""


@attrs.define(eq=False)
class _Wake:
    """Why a room wakes, until its hook has heard of it."""

    cause: str
    slept: float | None
    came: float | None
    """When something came for it, on Trio's clock; None where it was awake before."""
    untold: tuple[Disconnected, ...] = ()
    """Who went away while it slept."""


class Actor:
    """The living side of a room; the supervisor starts it and is told when it has ended.

    It is the only one that writes its stage, and what it decides about its end it decides in
    one step: between the look at the mailbox and the removal nothing is awaited.

    Args:
        shared: its names, its ways out, and its record, which outlives the actor.
        deadlines: those of the runtime.
        cause: what it was woken for.
        slept: seconds that it slept in this process, if it did.
        loaded: is told when it is awake.
        removed: takes it out of the table of awake rooms; synchronous.
        spawn: starts a task that belongs to the runtime and not to this room.
        watch: is told, with the count of handled mail or None, when it begins to do something.
        reluctance: how many times as long as others it waits before it sleeps.
    """

    __slots__ = (
        "_asked",
        "_ended",
        "_firing",
        "_keeping",
        "_loaded",
        "_removed",
        "_wake",
        "_watch",
        "background",
        "dispatcher",
        "fruitless",
        "idleness",
        "killed",
        "mailbox",
        "members",
        "parted",
        "saver",
        "shared",
        "stage",
        "watched",
    )

    def __init__(
        self,
        shared: Shared,
        deadlines: Deadlines,
        *,
        cause: str,
        slept: float | None,
        loaded: Callable[[Actor], None],
        removed: Callable[[Actor], None],
        spawn: Callable[..., None],
        watch: Callable[[Actor, int | None], None],
        reluctance: float = 1.0,
    ) -> None:
        definition, record = shared.definition, shared.record
        self.shared: Shared = shared
        self.stage: Stage = next_stage(Stage.ASLEEP, Step.MAIL)
        self.mailbox: Mailbox = Mailbox(record)
        self.idleness: Idleness = Idleness(
            self.mailbox, definition, deadlines, record, shared.program.signs, reluctance
        )
        self.members: Members = Members(shared)
        self.background: Background = Background(
            shared.key, self.mailbox, self.members, self.idleness, record
        )
        self.members.background = self.background
        self.saver: Saver = Saver(shared, self.mailbox, self.idleness, self.background, deadlines, spawn)
        live = LiveRoom(
            shared,
            self.members,
            record,
            self.mailbox,
            self.idleness,
            self.background,
        )
        self.members.own = Context(live, self.saver, None)
        self.dispatcher: Dispatcher = Dispatcher(shared, self.members)
        self._firing: Firing | None = self._new_firing(alone=True) if cause == "schedule" else None
        """What handles alarms; most rooms have none."""
        self.killed: bool = False
        """Whether it was cancelled by `kill`, and its state is kept whatever its tasks raise then."""
        self.fruitless: bool = False
        """Whether the one before it, and at its end this one, destroyed itself before it handled anything."""
        self.parted: bool = False
        """Whether on_hibernate was called at the stop: there it is called only once."""
        self._wake: _Wake | None = _Wake(cause, slept, trio.current_time())
        """None while it is awake."""
        self._asked: tuple[Answer, ...] = ()
        """Who wants to know whether it sleeps."""
        self._loaded = loaded
        self._removed = removed
        self._watch = watch
        self.watched: bool = False
        """Whether somebody looks how long its handlers take; whoever does sets it."""
        self._ended: trio.Event | None = None
        self._keeping: trio.CancelScope | None = None
        """What keeps it at saving what its tasks changed last."""

    @property
    def key(self) -> str:
        """The room's key."""
        return self.shared.key

    @property
    def firing(self) -> Firing:
        """What handles alarms."""
        if self._firing is None:
            self._firing = self._new_firing(alone=False)
        return self._firing

    def _new_firing(self, *, alone: bool) -> Firing:
        return Firing(
            self.shared, self.members, self.dispatcher, self.shared.record, self.mailbox, self.idleness,
            self.background, alone=alone,
        )  # fmt: skip

    # What the supervisor asks of it.

    def stop(self, *, called: bool = False) -> None:
        """Sleep as soon as the mail is handled, whatever holds it awake.

        Args:
            called: whether on_hibernate was called at this stop already.
        """
        self.idleness.stopping = True
        self.parted = called
        self.mailbox.poke()

    @property
    def quiet(self) -> bool:
        """Whether it could be sent to sleep now."""
        return self.mailbox.waiter is not None and not self.idleness.obstacle

    def park(self, link: Link) -> None:
        """One of its connections is hibernated."""
        busy = self.mailbox.current is not None or self.shared.hook is not None
        self.members.park(link, handling=busy)

    def info(self) -> ActorInfo:
        """What it does now."""
        return ActorInfo(self.stage, self.mailbox.waiting, self.idleness.handled, self.idleness.held)

    def take(self, step: Step) -> None:
        """Go on to the next stage of the room's life."""
        self.stage = next_stage(self.stage, step)

    def refuse_all(self, error: Exception) -> None:
        """Answer all mail with an error, what was being handled included."""
        current, self.mailbox.current = self.mailbox.current, None
        if current is not None:
            self.dispatcher.interrupted(current, error)
        for mail in self.mailbox.drain():
            refuse(self.shared, mail, error)

    def crashed(self, error: BaseException) -> None:
        """Drop state and tasks, fail the current message, keep the mailbox."""
        current, self.mailbox.current = self.mailbox.current, None
        failure = RoomFailed(self.key, "it crashed")
        failure.__cause__ = error
        self._answer_asked(failure)
        gate = self.saver.record.gate
        if gate is not None:
            unsaved = NotSaved(self.key, "the room crashed before it was saved")
            unsaved.__cause__ = error
            self._undo_crashed(gate, current, unsaved)
        elif current is not None:
            self.dispatcher.interrupted(current, failure)
        if self._firing is not None:
            self._firing.interrupted()
        self._begin_again(Step.CRASHED, "crash")

    def _undo_crashed(self, gate: Gate, current: Mail | None, unsaved: NotSaved) -> None:
        """Where there is a gate, nothing is left of what was not cut; that was being handled included."""
        lost = gate.lost
        again = self._take_back(gate, unsaved)
        if lost is not None:
            # Somebody else has the room now. Whoever waits for anything is to ask there.
            for link in self.shared.roster.everybody():
                self.shared.hub.close(link, CloseCode.RESTART, "the room has moved")
        if isinstance(current, Ask) or (lost is None and isinstance(current, tuple)):
            self.dispatcher.not_saved(current, unsaved)
        elif isinstance(current, Destroy) or (
            current is not None and lost is None and not any(mail is current for mail in again)
        ):
            self.dispatcher.interrupted(current, unsaved)
        self.mailbox.put_back(again)

    def rolled_back(self) -> float:
        """Go back to what the store has; returns the seconds after which to begin anew."""
        gate = self.saver.record.gate
        assert gate is not None
        assert gate.failure is not None
        current, self.mailbox.current = self.mailbox.current, None
        failure, pause = gate.failure, gate.pause
        if gate.failures <= 1:
            logger.error("room %s goes back to what is in the store: %s", self.key, failure)
        self._answer_asked(answer=False)
        again = self._take_back(gate, failure)
        if isinstance(current, (Alarm, *LIFECYCLE)):
            if not any(mail is current for mail in again):
                again.append(current)
        elif current is not None:
            self.dispatcher.not_saved(current, failure)
        self.mailbox.put_back(again)
        self._begin_again(Step.ROLLED_BACK, "rollback")
        return pause

    def _begin_again(self, step: Step, cause: str) -> None:
        """Drop the state, and whatever was known by it; the mail stays."""
        # What asked for its end was a handler of the state that is dropped.
        for mail in [mail for mail in self.mailbox.mail if isinstance(mail, Destroy) and mail.answer is None]:
            self.mailbox.mail.remove(mail)
        self.take(step)
        if self._wake is None:
            self._wake = _Wake(cause, None, None)
        else:
            self._wake.cause, self._wake.slept = cause, None
        self.members.clear()
        self.idleness.reset()
        self.saver.reset()

    def _take_back(self, gate: Gate, failure: NotSaved) -> list[Mail]:
        """Undo what waits at the gate, and tell who waits for it; what is in flight has ended.

        Returns:
            What has happened all the same, and is to be told to the room once more.
        """
        record, lost = self.saver.record, gate.lost
        batches = gate.roll_back()
        record.rewind()
        if gate.done is not None:
            gate.done()
        for batch in batches:
            for link, number in batch.waiting if lost is None else ():
                refuse_unsaved(self.shared, link, number)
            for (_, number), links in batch.messages.items() if lost is None else ():
                for link in links:
                    refuse_unsaved(self.shared, link, number)
            for refused in batch.asked:
                refused(failure)
        for outside in (one for batch in batches for one in batch.outside):
            record.outside_again(outside, failure)
        again = [mail for batch in batches for mail in batch.again]
        for mail in again:
            if isinstance(mail, Disconnected) and mail.link.session is not None:
                record.telling[mail.link.sid] = None  # Else its row would have it told twice.
        return again

    async def kill(self, grace: float, refused: Callable[[str], None]) -> None:
        """Cancel what it does and save its state as it is then; for a room that does not come to rest.

        Args:
            grace: seconds that what is cancelled has to end.
            refused: called with the room's key when all its mail is answered, before it is saved.
        """
        self.killed = True
        nursery = self._close()
        if nursery is not None:
            nursery.cancel_scope.cancel()
            with trio.move_on_after(grace):
                await self.wait_ended()
        closing = RoomsClosed("the rooms are closing")
        self._answer_asked(closing)
        gate = self.saver.record.gate
        if gate is not None:
            await self._let_in_flight(gate, closing)
        self.refuse_all(closing)
        refused(self.key)
        if gate is None and self.stage in (Stage.AWAKE, Stage.HIBERNATING) and self.saver.has_state:
            try:
                # What does not end may go on changing the state, so it is not encoded in a thread.
                ended = self._ended is not None and self._ended.is_set()
                await self.saver.record.save(self.saver.give_state, in_thread=ended)
            except RoomsError as error:
                self.shared.lost("what was not saved", error)
        # What is cancelled may still run; from here on it cannot change what nobody would save.
        self.shared.end()
        self.saver.dispose()

    def refuse_waiting(self, failure: Unavailable) -> None:
        """Refuse what waits for it and may come again; what has happened stays, and is told in time."""
        kept = []
        for mail in self.mailbox.drain():
            if isinstance(mail, tuple) or (
                isinstance(mail, Ask | Hibernate | Destroy) and mail.answer is not None
            ):
                refuse(self.shared, mail, failure)
            else:
                kept.append(mail)
        if kept:
            self.mailbox.put_back(kept)

    def forsake(self, failure: Unavailable) -> None:
        """Somebody else has the room: end, without a save, and without a verdict for anybody.

        Its record is forsaken, and its connections are closed; its tasks are cancelled here.
        """
        self.killed = True
        nursery = self._close()
        current, self.mailbox.current = self.mailbox.current, None
        waiting = self.mailbox.drain()
        for mail in waiting if current is None else (current, *waiting):
            if isinstance(mail, Ask | Hibernate | Destroy) and mail.answer is not None:
                mail.answer.fail(own(failure))
            elif isinstance(mail, Alarm):
                mail.over(False)
        self._answer_asked(failure)
        self.take(Step.FORSAKEN)
        self.shared.end()
        if nursery is not None:
            nursery.cancel_scope.cancel()

    async def _let_in_flight(self, gate: Gate, closing: RoomsClosed) -> None:
        """At the end: what is in flight still goes out; nothing that was handled later, or half, is saved."""
        gate.abandon()
        for refused in (one for batch in gate.behind() for one in batch.asked):
            refused(closing)  # Before the wait, which may be given up with this task.
        await gate.landed()
        batches = gate.roll_back()
        gate.abandon()
        self.saver.record.rewind()
        for refused in (one for batch in batches for one in batch.asked):
            refused(closing)
        if isinstance(self.mailbox.current, tuple):
            self.mailbox.current = None  # Nothing of it was done: who sent it may send it again elsewhere.

    def give_up(self) -> None:
        """Try no longer to save what its tasks changed last, when the program ends."""
        if self._keeping is not None:
            self._keeping.cancel()

    async def wait_ended(self) -> None:
        """Wait until nothing of it runs any more."""
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    def dispose(self) -> None:
        """Nothing of it runs any more: break every cycle, so that a sleeping room's memory is free at once.

        Else it would wait for the garbage collector, whose look at a process with thousands of
        rooms stops all of them for a good part of a second.
        """
        if self._ended is not None:
            self._ended.set()
        if self.stage in (Stage.ASLEEP, Stage.FAILED):  # Else what it has is still to be saved.
            self._close()
            self.members.dispose()
            self.saver.dispose()

    # Its life.

    async def run(self) -> None:
        """Live until the room sleeps or is destroyed.

        Raises:
            SnapshotError, StoreError: it cannot be loaded.
            StaleWrite: somebody else wrote the room; nothing of this life was written since.
            RolledBack: what was done could not be made durable.
            Exception: it crashed.
        """
        record, sleeps = self.saver.record, False
        self._be_watched()
        try:
            async with trio.open_nursery() as nursery:
                self.background.nursery = nursery
                try:
                    await self._begin()
                    sleeps = await self._work()
                except BaseException as error:
                    # Where it could not even be loaded nothing is in doubt, and what came for it is still to
                    # be written, though nobody lives in it.
                    self._doubt(error, nursery)
                    raise
                if nursery.child_tasks:
                    nursery.cancel_scope.cancel()
            if record.gate is not None and record.gate.failure is not None and not (sleeps or self.killed):
                raise RolledBack
        finally:
            if sleeps and self.saver.has_state:
                # Also where one of its tasks has raised as it was cancelled.
                await self._keep_last_changes()
            self.background.nursery = self.mailbox.eager = None
            self.saver.close()  # Nothing may queue up behind what is waited for here.
            if record.unsettled:
                # What a crash leaves in flight must be in the store before it is loaded again.
                with trio.CancelScope(shield=True):
                    await record.settled()

    def doubt(self, error: BaseException) -> None:
        """Its work is about to end with an error; where that leaves the state in doubt, it is not saved."""
        nursery = self.background.nursery
        if nursery is not None:
            self._doubt(error, nursery)

    def _doubt(self, error: BaseException, nursery: trio.Nursery) -> None:
        """Save nothing more, if an error that ends its work leaves the state in doubt."""
        if self._is_crash(error, nursery) and self.saver.has_state:
            self.saver.abandon()  # Now: to unwind its tasks may take as long as a save.

    def _is_crash(self, error: BaseException, nursery: trio.Nursery) -> bool:
        """Whether what ends its work leaves the state in doubt: no cancellation from outside, and no exit."""
        passing, _ = parted(error)
        by_a_task = nursery.cancel_scope.cancel_called and not (self.killed or self.background.exits)
        return by_a_task if passing is not None else not self.killed

    async def _begin(self) -> None:
        """Load the state and call the hooks of waking."""
        definition, roster, wake, own = (
            self.shared.definition,
            self.shared.roster,
            self._wake,
            self.members.own,
        )
        assert wake is not None
        metrics = self.shared.hub.metrics
        loaded = await self.saver.load()
        if loaded is not None:
            self.shared.program.signs.loaded(self.key, loaded, self.saver.record.number)
            metrics.state_restoration.note(loaded.seconds)
        presence = presence_of(roster)
        if presence is not None:
            await presence.known()
        self.shared.over = False
        departed, roster.departed = roster.departed or [], None
        record = self.saver.record
        if loaded is not None and loaded.fell_back:
            self.shared.hub.metrics.lost["snapshot"] += 1
            if definition.resume_window:
                await end_all(self.shared)
        if definition.on_disconnect is not None:
            if definition.resume_window and record.journal is not None:
                departed += await self._recall()
            self.mailbox.put_back(departed)
        wake.untold += tuple(departed)
        if loaded is None:
            self.saver.record.dirty = True
            if definition.on_create is not None:
                await self.shared.run("on_create", definition.on_create, own)
        elif definition.on_wake is not None:
            disconnects = tuple(disconnect_of(one) for one in wake.untold)
            report = WakeReport(wake.cause, wake.slept, disconnects, loaded.restarted, loaded.fell_back)
            await self.shared.run("on_wake", definition.on_wake, own, report)
            self.saver.record.dirty = True
        wake.untold = ()
        self.members.settle()
        self.take(Step.LOADED)
        self._loaded(self)
        self.idleness.begin()
        self.saver.begin()
        if self._firing is not None or record.substantial or record.has_plans:
            self.firing.begin()
        if wake.came is not None:
            took = trio.current_time() - wake.came
            metrics.wake_latency.note(took)
            logger.debug(
                "room %s is awake: %s, after %.3f s", self.key, wake.cause, took,
                extra={"cause": wake.cause, "duration": took},
            )  # fmt: skip
        self._wake = None

    async def _recall(self) -> list[Disconnected]:
        """Sessions that ended while the room slept."""
        record = self.saver.record
        if record.head is None or not (record.head.has_sessions or record.ended_unwritten()):
            return []
        return await recall(self.shared)

    async def _work(self) -> bool:
        """Handle mail until the room sleeps, or is destroyed; whether it sleeps."""
        # Each message goes through the inner loop and each batch through the outer one, so what
        # these look up they look up once.
        shared, roster, idleness, saver, mailbox = (
            self.shared,
            self.shared.roster,
            self.idleness,
            self.saver,
            self.mailbox,
        )
        record, box, edited = saver.record, mailbox.mail, shared.edited
        dispatcher, members, contexts = self.dispatcher, self.members, self.members.contexts
        eager = None
        if shared.definition.eager:
            eager = Eager(self, shared, mailbox, idleness, self.dispatcher)
        mailbox.eager = None if eager is None else eager.take
        on_message = shared.definition.on_message if eager is None else None
        gate = shared.gate  # In a plain room it is there always or never: it has no durable handlers.
        idle_timeout = idleness.timeout
        window = idleness.window
        task, clock = trio.lowlevel.current_task(), trio.lowlevel.current_clock()
        looked, before = False, -1
        mail: Mail | None = None
        message: str | bytes | None = None
        if not box:
            mailbox.refill()  # After a crash in the last of a round.
        while True:
            pause_at = 0.0
            if box:
                if idleness.due:
                    idleness.block("mail")
                if not self.watched:
                    self._watch(self, idleness.handled)
            while box:
                if roster.jobs:
                    while roster.jobs:
                        await shared.hub.flow(roster)  # What it sends is written faster than it is made.
                    continue  # What was there may have been refused meanwhile.
                mailbox.current = mail = box.popleft()
                # Before, because a snapshot may be taken while the handler waits; after, since it may go on.
                if not record.dirty:
                    record.touch()
                if type(mail) is tuple and on_message is not None:
                    link, message = mail
                    if not link.flags & DISMISSED:
                        context = contexts.get(link.id) or members.context_for(link)
                        if gate is not None:
                            gate.before(on_message)
                            gate.open.waiting.append((link, None))
                        try:
                            await on_message(context, message)
                            if edited:
                                members.settle()
                        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
                            await dispatcher.turn_away(context, "on_message", error)
                elif type(mail) is tuple:
                    await dispatcher.handle(mail)
                elif type(mail) is Hibernate:
                    self._asked += (mail.answer,)
                elif type(mail) is Destroy:
                    if await self._destroy(mail):
                        return False
                elif type(mail) is Alarm:
                    await self.firing.handle(mail)
                else:
                    await dispatcher.handle(mail)
                if not record.dirty:
                    record.touch()
                mailbox.current = None
                idleness.handled += 1
                if not box and not mailbox.refill():
                    break
                now = perf_counter()
                if not pause_at:
                    pause_at = now + TURN
                elif now > pause_at:
                    if saver.requested:
                        await saver.look()
                    await trio.lowlevel.checkpoint()
                    pause_at = 0.0
            if roster.paused:
                roster.resume_reading()
            if saver.requested:
                looked = True
                await saver.look()
                continue
            if idleness.stopping or ((idleness.due or self._asked) and not idleness.holds):
                if shared.hub.standstill.on:
                    await shared.hub.flow(roster)
                    continue
                if await self._hibernate():
                    return True
                if box or idleness.stopping or saver.requested:
                    continue  # Something came while it was busy, and so found nobody to wake.
                # It sleeps as soon as it can be saved, and not an idle timeout later.
                looked = clock.current_time() < idleness.not_before
            elif self._asked:
                idleness.block(idleness.obstacle)
                self._answer_asked(False)
            idleness.due = False
            if idleness.handled != before or not looked:  # To save is no reason to stay awake.
                idleness.quiet_since, before = clock.current_time(), idleness.handled
                if idleness.quiet_since >= window.ends:
                    window.turn(idleness.quiet_since, before)
            looked = False
            if idleness.deadline is None:
                idleness.arm(idleness.quiet_since + idle_timeout)
            mail = message = None  # What was handled is not kept in memory while the room waits.
            if eager is None:
                await mailbox.wait(task)
            else:
                before += await eager.wait(task)

    def _be_watched(self) -> None:
        """Have somebody look how long the hooks take that may run now."""
        if not self.watched:
            self._watch(self, None)

    async def _save(self) -> bool:
        """Make durable what there is; whether it is."""
        gate = self.shared.gate
        if gate is not None:
            await gate.settled()
        saved = self.shared.definition.gated or await self.saver.save()
        if self.killed:
            await trio.lowlevel.checkpoint_if_cancelled()  # It has ended meanwhile, whatever became of that.
        return saved

    async def _run_hook(self, name: str, hook: Handler) -> None:
        """Run a hook of the room's end; nothing is cut while it does."""
        gate = self.shared.gate
        if gate is not None:
            gate.paused = True
        await self.shared.run(name, hook, self.members.own)
        if gate is not None:
            gate.paused = False

    # Its end.

    async def _hibernate(self) -> bool:
        """Save the room and end it; False where it has to go on."""
        self.take(Step.QUIET)
        self._be_watched()
        saver, box, idleness, decided = self.saver, self.mailbox.mail, self.idleness, trio.current_time()
        idleness.disarm()
        if idleness.stopping:
            idleness.trigger = "shutdown"
        elif not idleness.due:
            idleness.trigger = "explicit"
        on_hibernate = self.shared.definition.on_hibernate
        if self.shared.edited:
            self.members.settle_quietly()
        saved = await self._save()
        if saved and on_hibernate is not None and not box and not self.parted:
            # Two rooms that ask each other here would else never come to rest.
            self.parted = self.idleness.stopping
            # Saved before as well, so that a hook that raises costs nobody's changes.
            await self._run_hook("on_hibernate", on_hibernate)
            self.members.settle_quietly()
            saver.record.dirty = True
            saved = await self._save()
        restless = saved and saver.unsaved
        for _ in range(_LAST_TRIES):
            if box or not restless:
                break
            saved = await self._save()  # Something was changed during the commit, by a task for instance.
            restless = saved and saver.unsaved
        idleness.due = False
        # One step: nothing is awaited between this look at the mailbox and the removal.
        stopping = idleness.stopping
        if not saved and stopping and saver.hopeless and not box and not self.background.tasks:
            # Nobody is left who could change the state into one that can be saved.
            self.shared.lost("what was not saved", saver.hopeless)
            self._end(Step.COMMITTED)
            self._end_contexts()
            self._answer_asked(False)
            return True
        if not saved or box or ((idleness.holds or restless) and not stopping):
            self.take(Step.INTERRUPTED)
            if not saved:
                idleness.block("save_failed")
            else:
                idleness.block(idleness.obstacle if box or idleness.holds else "task")
            self._answer_asked(False)
            if not saved and stopping:
                await trio.sleep(_RETRY_STOP)
            return False
        self.shared.hub.metrics.hibernation_latency.note(trio.current_time() - decided)
        self._end(Step.COMMITTED)
        if not (self.background.started or restless):
            self.members.settle_quietly()
            self._end_contexts()
        self._answer_asked(True)
        return True

    def _end_contexts(self) -> None:
        """Let go of the state in the step that decides the end: nobody would save what is changed later."""
        self.members.clear()
        self.saver.dispose()

    async def _keep_last_changes(self) -> None:
        """Keep what was changed until the tasks had ended: only then may the room be loaded again.

        While the store fails it is tried again, until `give_up`; who writes to the room meanwhile waits.
        """
        saver, delay, failure = self.saver, _RETRY_STOP, "the program has ended"
        # Out of reach of a cancellation: the room is in no table any more, and nobody else would save it.
        with trio.CancelScope(shield=True) as self._keeping:
            await self.members.settle_all()
            if not saver.unsaved:
                return
            if self.shared.gate is not None:
                await self._let_out_last(self.shared.gate)
                return
            # Its contexts end in the same step, so that one save has all that was changed through them.
            state = saver.take_state()
            self.members.clear()
            while True:
                try:
                    await saver.record.save(lambda: state)
                except (StaleWrite, StateError) as error:
                    failure = str(error)
                    break
                except RoomsError as error:
                    failure = str(error)
                    await trio.sleep(delay)
                    delay = min(2 * delay, _RETRY_LAST)
                else:
                    return
        self.shared.lost("what its tasks changed last", failure)

    async def _let_out_last(self, gate: Gate) -> None:
        """The same where there is a gate, which tries once: what is refused there is so for good."""
        self.members.clear()
        try:
            await gate.settled()
        except RoomsError as error:
            self.shared.lost("what its tasks changed last", error)
            self._take_back(gate, NotSaved(self.key, str(error)))

    async def _destroy(self, mail: Destroy) -> bool:
        """Delete the room and end it; False where it could not be deleted and goes on."""
        if mail.lapsed and self._is_wanted():
            if mail.answer is not None:
                mail.answer.succeed(False)
            return False
        on_destroy = self.shared.definition.on_destroy
        if on_destroy is not None:
            await self._run_hook("on_destroy", on_destroy)
        gate = self.shared.gate
        if gate is not None:
            await gate.settled()  # What was handled before it is told so before it.
        try:
            await self.saver.record.destroy()
        except StaleWrite:
            raise
        except StoreError as error:
            logger.error("room %s goes on, it could not be destroyed: %s", self.key, error)  # noqa: TRY400
            if mail.answer is not None:
                mail.answer.fail(error)
            return False
        self.mailbox.current = None
        before, self.fruitless = self.fruitless, mail.answer is None and not self.idleness.handled
        hopeless = before and self.fruitless
        # A room that ends before it has begun has nothing of those who are just coming.
        but = UNGREETED if self.fruitless and not hopeless else 0
        self.shared.hub.close_room(
            self.shared.roster, CloseCode.NORMAL, "the room was destroyed", but=but, ended=True
        )
        if gate is not None:
            self._begin_outside_again(gate)
        self.mailbox.mail.extend(self._outliving(self.mailbox.drain(), hopeless=hopeless))
        asleep = not self.mailbox.mail
        self.idleness.trigger = ""
        self._end(Step.DESTROYED)
        self._end_contexts()
        if mail.answer is not None:
            mail.answer.succeed(None)
        self._answer_asked(asleep)
        return True

    def _is_wanted(self) -> bool:
        """Whether somebody is in the room, or may come back to it, or something is to be done."""
        record = self.saver.record
        return bool(
            self.shared.roster.count
            or record.away
            or self.mailbox.mail
            or self.idleness.holds
            or record.busy_later
        )

    def _begin_outside_again(self, gate: Gate) -> None:
        """What came from outside while the room was deleted is of the next one."""
        failure = NotSaved(self.key, "the room was destroyed")
        for batch in gate.roll_back():
            for outside in batch.outside:
                self.saver.record.outside_again(outside, failure)

    def _outliving(self, waited: list[Mail], *, hopeless: bool) -> list[Mail]:
        """What waited behind a destruction and begins a new room; what only asked for the end is answered.

        Of those who were in the old room nothing is heard any more, however far their own end is.

        Args:
            waited: all of it.
            hopeless: whether a new room would end in the same way, and so on for ever.
        """
        outlives: list[Mail] = []
        for mail in waited:
            link = link_of(mail)
            if link is not None:
                if link.flags & UNGREETED and not link.flags & (CLOSING | GONE):
                    outlives.append(mail)
            elif isinstance(mail, Ask | Destroy | Hibernate) and mail.answer is not None:
                if hopeless and isinstance(mail, Ask):
                    why = "it destroys itself whenever it wakes, before it handles anything"
                    mail.answer.fail(RoomFailed(self.key, why))
                elif outlives or isinstance(mail, Ask):
                    outlives.append(mail)
                else:
                    mail.answer.succeed(True)
            elif isinstance(mail, Alarm):
                mail.over(False)
        return outlives

    def _end(self, step: Step) -> None:
        """Leave the tables in the step that decides it; after this nothing of the room may be changed."""
        self.take(step)
        self._close()
        self._removed(self)

    def _close(self) -> trio.Nursery | None:
        """Start nothing more: no task, no save, no deadline. Returns the nursery, if there is one."""
        nursery, self.background.nursery = self.background.nursery, None
        self.idleness.close()
        self.saver.close()
        return nursery

    def _answer_asked(self, answer: bool | Exception) -> None:
        """Tell those who wait for the room to sleep whether it does, or why it never will."""
        asked, self._asked = self._asked, ()
        for waiting in asked:
            if isinstance(answer, bool):
                waiting.succeed(answer)
            else:
                waiting.fail(own(answer))
