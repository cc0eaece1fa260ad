"""One awake room: one task that handles its mail, one message at a time, to its end."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

import attrs
import trio

from trio_rooms._definition.room import Room
from trio_rooms._loop.deadlines import Alarms
from trio_rooms._sockets.hub import ParkingLot, Roster
from trio_rooms._sockets.links import Link
from trio_rooms._state.codec import decode_value
from trio_rooms._state.persistent import PersistentState
from trio_rooms._values.cbor import as_sent
from trio_rooms._values.misfits import describe
from trio_rooms._wire import envelope as protocol
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.errors import EventError, HandlerFailed, RoomFailed, RoomsClosed, RoomsError, StoreError
from trio_rooms.stores.base import Store

from .context import Connection, Context, Departure, LiveRoom, WakeReport
from .lifecycle import Stage, Step, following
from .mail import Ask, Connected, Control, Disconnected, Mail, Trouble

__all__ = ["Actor", "ActorInfo"]

logger = logging.getLogger("trio_rooms")

_SLICE: Final = 0.002
"""Seconds of handling mail after which the rest of the program gets its turn."""
_MAILBOX_HIGH: Final = 1000
"""Mail in the box from which on the room's sockets are not read until it has caught up."""
_LOAD_TRIES: Final = 5
_LAST_TRIES: Final = 3
"""Commits in a row at hibernation, where background tasks go on changing the state."""
_RETRY_FIRST: Final = 0.1
_ENCODING_SHARE: Final = 10
"""How many times as long as encoding a large state takes it is left alone afterwards."""
_RETRY_LAST: Final = 30.0
"""Seconds between two tries to load or save, doubled each time from the first to the last."""


@attrs.frozen
class ActorInfo:
    """One awake room, as `Rooms.info` shows it."""

    stage: Stage
    mailbox: int
    """Mail that waits."""
    handled: int
    """Mail handled since it woke."""
    generation: int
    held: tuple[str, ...]
    """Why it must not sleep now."""


class Actor:
    """The living side of a room; the supervisor starts it and is told when it has ended.

    Args:
        cause: what it was woken for.
        slept: how long it slept in this process, if it did.
        removed: takes it out of the table of awake rooms; synchronous, because between the
            look at its mailbox and its removal nothing may happen.
        spawn: starts a task that belongs to the runtime and not to this room.
    """

    def __init__(
        self,
        key: str,
        room: Room[Any],
        roster: Roster,
        lot: ParkingLot,
        store: Store,
        alarms: Alarms,
        *,
        cause: str,
        slept: float | None,
        removed: Callable[[Actor], None],
        spawn: Callable[..., None],
    ) -> None:
        self.key = key
        self.room = room
        self.plain = room.plain
        self.roster = roster
        self.lot = lot
        self.live = LiveRoom(self)
        self.state: Any = None
        self.stage = following(Stage.ASLEEP, Step.MAIL)
        self.mailbox: deque[Mail] = deque()
        self.handled = 0
        self.abandoned = False
        """Whether it is cancelled, and its state kept whatever its tasks raise then."""
        self.crashes: list[float] = []
        """When it crashed, lately; the supervisor's to count."""
        self.ended = trio.Event()
        """Set when nothing of it runs any more."""
        self._alarms = alarms
        self._cause = cause
        self._slept = slept
        self._removed = removed
        self._spawn = spawn
        self._store = store
        self._record: PersistentState | None = None
        self._nursery: trio.Nursery | None = None
        self._waiting: trio.lowlevel.Task | None = None
        self._current: Mail | None = None
        self._contexts: dict[int, Context[Any]] = {}
        self._own_context: Context[Any] = Context(self, None)
        self._touched: set[Connection] = set()
        self._holds: dict[str, int] = {}
        self._tasks = 0
        self._over = False
        self._idle = False
        self._asked: list[Control] = []
        self._untold: list[Disconnected] = []
        """Who went away while it slept, until on_wake has heard of it."""
        self._stopping = False
        self._destroying: list[Control] | None = None
        self._quiet_since = 0.0
        self._sleepless_until = 0.0
        self._idle_alarm = False
        self._save_alarm = False
        self._save_now = False
        self._save_failures = 0
        self._rate_mark = (0.0, 0)

    # What the supervisor and the lot ask of it.

    def post(self, mail: Mail) -> bool:
        """Put mail into the box; False when it is nearly full."""
        mailbox = self.mailbox
        mailbox.append(mail)
        task = self._waiting
        if task is not None:
            self._waiting = None
            trio.lowlevel.reschedule(task)
        return len(mailbox) < _MAILBOX_HIGH

    def stop(self) -> None:
        """Sleep as soon as the mail is handled, whatever holds it awake."""
        self._stopping = True
        self._poke()

    @property
    def quiet(self) -> bool:
        """Whether it could be sent to sleep now."""
        return (
            self._waiting is not None and self.stage is Stage.AWAKE and not self._holds and not self.mailbox
        )

    def sleep_now(self) -> None:
        """Sleep although the idle timeout has not passed, unless there is something to do."""
        self._idle = True
        self._poke()

    def info(self) -> ActorInfo:
        """What it does now."""
        return ActorInfo(self.stage, len(self.mailbox), self.handled, self.record.number, tuple(self._holds))

    @property
    def record(self) -> PersistentState:
        """What the store has of this room."""
        if self._record is None:
            self._record = PersistentState(self.key, self.room, self._store, self._write_wanted)
        return self._record

    def refuse_all(self, error: Exception) -> None:
        """Answer all mail with an error: what was being handled when the room crashed, and what waits."""
        while self.mailbox:
            self.refuse(self.mailbox.popleft(), error)

    def refuse(self, mail: Mail, error: Exception) -> None:
        """Answer one piece of mail with an error."""
        if type(mail) is tuple:
            link, _ = mail
            if self.plain:
                self.lot.close(link, CloseCode.INTERNAL_ERROR, "the room failed")
            else:
                self._send_error(link, _number_of(mail[1]), "room_failed", "the room failed; try again later")
        elif isinstance(mail, Ask | Control):
            mail.reply.fail(error)
        elif isinstance(mail, Connected):
            # Of a connection that the room was never told of it does not hear the end either.
            self.lot.close(mail.link, CloseCode.INTERNAL_ERROR, "the room failed", tell=False)
        elif isinstance(mail, Disconnected) and self.room.has_hook("on_disconnect"):
            self.roster.note_departure(mail)

    def crashed(self, error: Exception) -> None:
        """Forget everything but the mail; what was being handled is answered."""
        current, self._current = self._current, None
        failure = RoomFailed(self.key, "it crashed")
        failure.__cause__ = error
        for control in [*self._asked, *(self._destroying or ())]:
            control.reply.fail(failure)
        self._asked = []
        if type(current) is tuple and not self.plain:
            self._send_error(current[0], _number_of(current[1]), "internal_error", "the room failed")
        elif isinstance(current, Connected):
            # Its on_connect had begun, and may be in a snapshot: it is to hear of the end.
            self.lot.close(current.link, CloseCode.INTERNAL_ERROR, "the room failed")
        elif current is not None:
            self.refuse(current, failure)
        self.stage = following(self.stage, Step.CRASHED)
        self._cause, self._slept = "crash", None
        self._forget()

    def _forget(self) -> None:
        if self._record is not None:
            self._record.discard()
        self._idle = self._save_now = False
        self.state = None
        self._record = None
        self._contexts = {}
        self._touched = set()
        self._holds = {}
        self._tasks = 0
        self._destroying = None

    async def abandon(self, grace: float) -> None:
        """Cancel what it does and save its state as it is then; for a room that does not come to rest.

        Args:
            grace: seconds that what is cancelled has to end.
        """
        logger.warning("room %s did not come to rest in time: its handler is cancelled", self.key)
        self._over = self.abandoned = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            with trio.move_on_after(grace):
                await self.ended.wait()
        if self.stage in (Stage.AWAKE, Stage.HIBERNATING):
            try:
                await self.record.save(lambda: self.state)
            except RoomsError as error:
                logger.critical("room %s: what was not saved is lost: %s", self.key, error)
        self.mailbox.extendleft([*self._asked, *(self._destroying or ())])
        if self._current is not None:
            self.mailbox.appendleft(self._current)
        self.refuse_all(RoomsClosed("the rooms are closing"))

    # Its life.

    async def run(self) -> None:
        """Live until the room sleeps or is destroyed.

        Raises:
            SnapshotError, StoreError: it cannot be loaded.
            Exception: it crashed.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                await self._wake()
                await self._work()
                self._over = True
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            # What a crash leaves in flight must be in the store before it is loaded again.
            with trio.CancelScope(shield=True):
                await self.record.settled()

    async def _wake(self) -> None:
        loaded = await self._load()
        departed, self.roster.departed = self.roster.departed or [], None
        if self.room.has_hook("on_disconnect"):
            self.mailbox.extendleft(reversed(departed))
        departed = self._untold = [*self._untold, *departed]
        if loaded is None:
            self.state = self.room.new_state()
            self.record.dirty = True
            await self.room.call_hook("on_create", self._own_context)
        else:
            self.state = loaded.state
            report = WakeReport(
                self._cause,
                self._slept,
                tuple(self._departure(one) for one in departed) if self.room.has_hook("on_wake") else (),
                loaded.restarted,
                loaded.fell_back,
            )
            await self.room.call_hook("on_wake", self._own_context, report)
            if self.room.has_hook("on_wake"):
                self.record.dirty = True
        self._untold = []
        self._settle()
        self.stage = following(self.stage, Step.LOADED)
        self._rate_mark = (trio.current_time(), self.handled)
        if loaded is None or self.record.dirty:
            self._arm_save()

    async def _load(self) -> Any:
        for attempt in range(_LOAD_TRIES):
            try:
                return await self.record.load()
            except StoreError as error:
                if attempt == _LOAD_TRIES - 1:
                    raise
                logger.warning("room %s cannot be loaded and is tried again: %s", self.key, error)
                await trio.sleep(_RETRY_FIRST * 2**attempt)
        return None

    async def _work(self) -> None:
        # Each message goes through the inner loop and each batch through the outer one, so what
        # these look up they look up once.
        mailbox, roster, record = self.mailbox, self.roster, self.record
        on_message = self.room.message_handler if self.plain else None
        contexts, touched = self._contexts, self._touched
        task, stop_waiting = trio.lowlevel.current_task(), self._stop_waiting
        idle_timeout, current_time = self.room.idle_timeout, trio.lowlevel.current_clock().current_time
        while True:
            pause_at = 0.0
            self._idle = self._idle and not mailbox
            while mailbox:
                while roster.jobs:
                    await trio.lowlevel.checkpoint()  # What it sends is written faster than it is made.
                self._current = mail = mailbox.popleft()
                # Before, because a snapshot may be taken while the handler waits; after, since it may go on.
                if not record.dirty:
                    record.touch()
                if on_message is not None and type(mail) is tuple:
                    link, message = mail
                    context = contexts.get(link.id) or self._meet(link)
                    try:
                        await on_message(context, message)
                        if touched:
                            self._settle()
                    except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
                        await self._failed(context, "on_message", error)
                else:
                    await self._handle(mail)
                if not record.dirty:
                    record.touch()
                self._current = None
                self.handled += 1
                if self._destroying is not None:
                    break
                if self._save_now:
                    await self._save_large()
                if not mailbox:
                    break
                now = perf_counter()
                if not pause_at:
                    pause_at = now + _SLICE
                elif now > pause_at:
                    await trio.lowlevel.checkpoint()
                    pause_at = 0.0
            if self._destroying is not None:
                if await self._destroy(self._destroying):
                    return
                continue
            if roster.paused:
                self.lot.resume(roster)
            if self._save_now:
                await self._save_large()
                continue
            if self._may_sleep():
                if await self._hibernate():
                    return
                if self._has_work:
                    continue
            elif self._asked:
                self._answer_asked(asleep=False)
            self._idle = False
            self._quiet_since = current_time()
            if not self._idle_alarm:
                self._arm_idle(self._quiet_since + idle_timeout)
            self._waiting = task
            await trio.lowlevel.wait_task_rescheduled(stop_waiting)

    @property
    def _has_work(self) -> bool:
        """Whether something came while it was busy, and so found nobody to wake."""
        return bool(self.mailbox) or self._stopping or self._destroying is not None or self._save_now

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _poke(self) -> None:
        task = self._waiting
        if task is not None:
            self._waiting = None
            trio.lowlevel.reschedule(task)

    # Handling.

    async def _handle(self, mail: Mail) -> None:
        if type(mail) is tuple:
            link, message = mail
            await self._envelope(self._contexts.get(link.id) or self._meet(link), link, message)
        elif isinstance(mail, Ask):
            await self._ask(mail)
        elif isinstance(mail, Connected):
            await self._connected(mail.link)
        elif isinstance(mail, Disconnected):
            await self._disconnected(mail)
        elif isinstance(mail, Control):
            self._control(mail)
        elif isinstance(mail, Trouble):
            await self._report(self._own_context, mail.error)

    def _meet(self, link: Link) -> Context[Any]:
        context = self._contexts[link.id] = Context(self, Connection(self, link))
        return context

    async def _envelope(self, context: Context[Any], link: Link, message: str | bytes) -> None:
        number, name = None, ""
        try:
            envelope = protocol.decode(message)
            if envelope is None:
                return
            number, name = envelope.id, envelope.event
            if envelope.channel is not None:
                context = Context(self, context.connection)
                context.channel = envelope.channel
            result = await self._dispatch(context, name, envelope.data)
            self._settle()
            if number is not None:
                self.lot.send(link, protocol.acknowledge(number, result))
        except EventError as error:
            self._settle_quietly()
            self._send_error(link, number, error.code, error.message)
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
            self._send_error(link, number, "internal_error", "the room could not handle this")
            await self._failed(context, name, error)

    async def _dispatch(self, context: Context[Any], event: str, data: Any) -> Any:
        handler = self.room.handler(event)
        if handler is None:
            code = "unknown_event"
            raise EventError(code, f"this room has no event {event[:100]!r}")
        if handler.convert is not None:
            try:
                data = handler.convert(data)
            except Exception as error:
                code = "invalid_data"
                raise EventError(code, describe(error)) from error
        arguments = (context, event, data) if handler.named else (context, data)
        return await handler.function(*arguments[: handler.arguments])

    async def _ask(self, mail: Ask) -> None:
        try:
            result = await self._dispatch(self._own_context, mail.event, mail.data)
            self._settle()
            mail.reply.succeed(as_sent(result))
        except EventError as error:
            self._settle_quietly()
            mail.reply.fail(error)
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
            failure = HandlerFailed(self.key, mail.event)
            failure.__cause__ = error
            mail.reply.fail(failure)
            await self._failed(self._own_context, mail.event, error)

    async def _connected(self, link: Link) -> None:
        if not self.room.has_hook("on_connect"):
            return
        context = self._meet(link)
        self.lot.greeted(link)
        try:
            await self.room.call_hook("on_connect", context)
            self._settle()
        except Exception as error:  # noqa: BLE001 (one connection's failure touches no other)
            self.lot.close(link, CloseCode.INTERNAL_ERROR, "the room failed")
            await self._failed(context, "on_connect", error)

    async def _disconnected(self, mail: Disconnected) -> None:
        link = mail.link
        context = self._contexts.pop(link.id, None)
        if not self.room.has_hook("on_disconnect"):
            return
        context = context or Context(self, Connection(self, link))
        try:
            await self.room.call_hook("on_disconnect", context, self._departure(mail))
            self._settle()
        except Exception as error:  # noqa: BLE001 (one connection's failure touches no other)
            await self._failed(context, "on_disconnect", error)

    def _departure(self, mail: Disconnected) -> Departure:
        encoded = mail.link.attachment
        attachment = None if encoded is None else decode_value(encoded)
        return Departure(format(mail.link.id, "x"), attachment, mail.code, mail.reason, mail.clean)

    def _control(self, mail: Control) -> None:
        if mail.destroy:
            self._destroying = [*(self._destroying or ()), mail]
        else:
            self._asked.append(mail)

    async def _failed(self, context: Context[Any], event: str, error: Exception) -> None:
        logger.error("room %s: the handler of %r raised", self.key, event, exc_info=error)
        self._settle_quietly()
        await self._report(context, error)

    async def _report(self, context: Context[Any], error: Exception) -> None:
        await self.room.call_hook("on_error", context, error)
        self._settle_quietly()

    def _send_error(self, link: Link, number: int | None, code: str, message: str) -> None:
        try:
            self.lot.send(link, protocol.refuse(number, code, message))
        except (TypeError, ValueError):
            logger.exception("room %s: the error %r cannot be sent", self.key, code)
            answer = protocol.refuse(number, "internal_error", "the room could not handle this")
            self.lot.send(link, answer)

    def touch_attachment(self, connection: Connection) -> None:
        """A handler looked at an attachment, and may edit it."""
        self._touched.add(connection)

    def _settle(self) -> None:
        """Keep the attachments that were edited; the first that cannot be kept is an error."""
        while self._touched:
            self._touched.pop().settle()

    def _settle_quietly(self) -> None:
        while self._touched:
            try:
                self._settle()
            except RoomsError as error:
                logger.error("%s", error)  # noqa: TRY400

    # What handlers ask of it through their context.

    def connection(self, link: Link) -> Connection:
        """The view on a link that handlers share."""
        context = self._contexts.get(link.id) or self._meet(link)
        return context.connection

    def event(self, name: str, data: Any) -> protocol.Outgoing:
        """An event that this room sends."""
        if self.plain:
            self.room.refuse_events()
        return protocol.event(name, data)

    def start_soon(
        self,
        function: Callable[..., Awaitable[Any]],
        arguments: tuple[Any, ...],
        name: str | None,
        *,
        keep_awake: bool,
    ) -> None:
        """Run a background task in the room's nursery."""
        if self._nursery is None or self._over:
            raise RoomFailed(self.key, "it is going to sleep, and starts no more tasks")
        label = name or str(getattr(function, "__qualname__", function))
        if keep_awake:
            self.hold(label)
        self._tasks += 1
        self._nursery.start_soon(
            self._task, function, arguments, label, keep_awake, name=f"{self.key}: {label}"
        )

    async def _task(
        self,
        function: Callable[..., Awaitable[Any]],
        arguments: tuple[Any, ...],
        label: str,
        held: bool,
    ) -> None:
        try:
            await function(*arguments)
        finally:
            self._tasks -= 1
            self.record.touch()
            if held:
                self.let_go(label)

    def hold(self, reason: str) -> None:
        """Do not sleep until `let_go`."""
        self._holds[reason] = self._holds.get(reason, 0) + 1

    def let_go(self, reason: str) -> None:
        """Take one hold back."""
        left = self._holds.get(reason, 0) - 1
        if left > 0:
            self._holds[reason] = left
        else:
            self._holds.pop(reason, None)
        if not self._holds and not self._over:
            self._quiet_since = trio.current_time()
            self._arm_idle(self._quiet_since + self.room.idle_timeout)
            self._poke()

    def destroy_soon(self) -> None:
        """Be destroyed after the current message."""
        self._destroying = self._destroying or []
        self._poke()

    # Sleeping.

    def _may_sleep(self) -> bool:
        if self._stopping:
            return True
        return (self._idle or bool(self._asked)) and not self._holds

    def _arm_idle(self, when: float) -> None:
        if not self._idle_alarm and not self._holds:
            self._idle_alarm = True
            self._alarms.set(max(when, self._sleepless_until), _weakly(self._idle_rings))

    def _idle_rings(self) -> None:
        self._idle_alarm = False
        if self._waiting is None or self.stage is not Stage.AWAKE or self._holds:
            return  # Armed again when it is quiet, or let go.
        now, timeout = trio.current_time(), self.room.idle_timeout
        due = max(self._quiet_since + timeout, self._sleepless_until)
        if now < due:
            self._arm_idle(due)
            return
        since, handled = self._rate_mark
        self._rate_mark = (now, self.handled)
        if now > since and (self.handled - handled) / (now - since) > self.room.busy_rate:
            self._arm_idle(now + timeout)
            return
        self.sleep_now()

    async def _hibernate(self) -> bool:
        self.stage = following(self.stage, Step.QUIET)
        saved = await self._save()
        if saved and self.room.has_hook("on_hibernate") and not self.mailbox:
            # Saved before as well, so that a hook that raises costs nobody's changes.
            await self.room.call_hook("on_hibernate", self._own_context)
            self._settle_quietly()
            self.record.dirty = True
            saved = await self._save()
        for _ in range(_LAST_TRIES):
            if not saved or self.mailbox or not self._tasks or not self.record.unsaved(self.state):
                break
            saved = await self._save()  # A background task changed something during the commit.
        self._idle = False
        # One step: nothing is awaited between this look at the mailbox and the removal.
        restless = self._tasks and saved and self.record.unsaved(self.state)
        wanted = self.mailbox or self._destroying is not None
        if not saved or wanted or ((self._holds or restless) and not self._stopping):
            self.stage = following(self.stage, Step.INTERRUPTED)
            self._answer_asked(asleep=False)
            if not saved and self._stopping:
                await trio.sleep(_RETRY_FIRST)
            return False
        self._end(Step.COMMITTED)
        self._answer_asked(asleep=True)
        return True

    def _answer_asked(self, *, asleep: bool) -> None:
        asked, self._asked = self._asked, []
        for control in asked:
            control.reply.succeed(asleep)

    def _end(self, step: Step) -> None:
        self.stage = following(self.stage, step)
        self._over = True
        self._removed(self)

    async def _destroy(self, asked: list[Control]) -> bool:
        await self.room.call_hook("on_destroy", self._own_context)
        try:
            await self.record.destroy()
        except StoreError as error:
            self._destroying = None
            logger.error("room %s goes on, it could not be destroyed: %s", self.key, error)  # noqa: TRY400
            for control in asked:
                control.reply.fail(error)
            return False
        self._destroying = None
        for link in list(self.roster.links.values()):
            self.lot.close(link, CloseCode.NORMAL, "the room was destroyed", tell=False)
        for context in self._contexts.values():
            self.lot.abandon(context.connection.link)  # Closed by a handler before, and not gone yet.
        # Who was told by the old room is nobody to the new one that other mail may begin.
        left, self.mailbox = self.mailbox, deque()
        for mail in left:
            if isinstance(mail, Control):
                asked.append(mail) if mail.destroy else self._asked.append(mail)
            elif not isinstance(mail, Connected | Disconnected | Trouble):
                self.mailbox.append(mail)
        self._end(Step.DESTROYED)
        for control in asked:
            control.reply.succeed(None)
        self._answer_asked(asleep=True)
        return True

    # Saving.

    def _write_wanted(self, at_once: bool) -> None:
        if at_once:
            self._spawn(self._save_in_background)
        else:
            self._arm_save()

    def _arm_save(self, delay: float | None = None) -> None:
        if self._save_alarm or self._over:
            return
        self._save_alarm = True
        # Half the interval, so that the commit is done when all of it is over.
        wait = self.room.snapshot_interval / 2 if delay is None else delay
        self._alarms.set(trio.current_time() + wait, _weakly(self._save_rings))

    def _save_rings(self) -> None:
        self._save_alarm = False
        if self._over or self._record is None or not self._record.dirty:
            return
        if self._record.large:
            # Encoded in a thread while the actor waits, since a state must not change under it.
            self._save_now = True
            self._poke()
        elif self.stage is not Stage.WAKING:
            self._spawn(self._save_in_background)

    async def _save_large(self) -> None:
        self._save_now = False
        await self._save()

    async def _save_in_background(self) -> None:
        record = self._record
        try:
            if not self._over and record is not None and not record.large:
                await self._save(actor_waits=False)
        except Exception as error:  # noqa: BLE001 (a store that breaks its contract crashes this room and no other)
            if self._nursery is not None and not self._over and record is self._record:
                self._nursery.start_soon(_raise, error)

    async def _save(self, *, actor_waits: bool = True) -> bool:
        """Save; a failure is told, and tried again later.

        Args:
            actor_waits: whether this is the actor's own task, so that no handler runs meanwhile.
        """
        try:
            # Behind a save that found the state to be large, one in the background must not use a thread.
            await self.record.save(lambda: self.state, in_thread=actor_waits and not self._tasks)
        except RoomsError as error:
            self._save_failures += 1
            delay = min(_RETRY_FIRST * 2**self._save_failures, _RETRY_LAST)
            if self._save_failures == 1:
                logger.error("room %s stays awake, its state could not be saved: %s", self.key, error)  # noqa: TRY400
            if self.room.has_hook("on_error") and not self._stopping:
                self.mailbox.append(Trouble(error))
                self._poke()
            self._sleepless_until = trio.current_time() + delay
            self._arm_save(delay)
            return False
        if self._save_failures:
            logger.info("room %s: its state is saved again", self.key)
            self._save_failures = 0
        if self._current is not None or self._tasks:
            self.record.dirty = True  # What is suspended now may change something when it goes on.
        if self.record.dirty:
            self._arm_save(max(self.room.snapshot_interval / 2, _ENCODING_SHARE * self.record.encoding_took))
        return True


def _number_of(message: str | bytes) -> int | None:
    """The id of a message that will not be handled, for the answer that says so."""
    try:
        envelope = protocol.decode(message)
    except EventError:
        return None
    return None if envelope is None else envelope.id


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Call a method only as long as its object lives: an alarm must not keep a sleeping room in memory."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    return call


async def _raise(error: Exception) -> None:
    raise error
