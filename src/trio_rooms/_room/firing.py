"""What becomes of an alarm: the handler of what is due is called, and what it was about goes on or ends."""

from __future__ import annotations

import logging
import random
from typing import Final

import attrs

from trio_rooms._definition.fire import Fire, Retry
from trio_rooms._state.codec import decode_value
from trio_rooms._state.plans import Plan
from trio_rooms._state.record import Record
from trio_rooms._state.timers import MOST_IN_A_ROW, Scheduled, Timers, Unreadable
from trio_rooms._values.misfits import describe
from trio_rooms.errors import EventError, ScheduleGivenUp

from .background import Background
from .dispatcher import Dispatcher
from .idleness import Idleness
from .mail import Alarm
from .mailbox import Mailbox
from .members import Members
from .schedules import WALL
from .shared import Shared

__all__ = ["Firing"]

logger = logging.getLogger("trio_rooms")

_SOON: Final = 10.0
"""Seconds for which a room that has nothing else to do waits for its next alarm rather than to sleep."""
_LONGEST_ERROR: Final = 200
"""Characters of an error that are kept."""


@attrs.frozen
class _GoingOn:
    """What becomes of an occurrence that was handled, or of one that failed. A `Change`."""

    scheduled: Scheduled
    after: Scheduled | None

    def make(self, timers: Timers) -> None:
        """Have it go on so, unless something else was scheduled in its place."""
        timers.go_on(self.scheduled, self.after)


class Firing:
    """Calls the handlers of what a room has scheduled, one occurrence with each alarm.

    Args:
        shared: the room.
        members: has the context of its handlers.
        dispatcher: tells of what they raise.
        record: has what is scheduled.
        mailbox: an alarm that is not over is put in again, behind what has come meanwhile.
        idleness: says whether the room stops, and is told when it has woken for alarms alone.
        background: its tasks.
        alone: whether the room wakes for an alarm, and sleeps again at once when nothing else comes.
    """

    __slots__ = (
        "_alarms",
        "_alone",
        "_background",
        "_dispatcher",
        "_handling",
        "_idleness",
        "_mailbox",
        "_members",
        "_record",
        "_shared",
        "_told",
    )

    def __init__(
        self,
        shared: Shared,
        members: Members,
        dispatcher: Dispatcher,
        record: Record,
        mailbox: Mailbox,
        idleness: Idleness,
        background: Background,
        *,
        alone: bool,
    ) -> None:
        self._shared = shared
        self._members = members
        self._dispatcher = dispatcher
        self._record = record
        self._mailbox = mailbox
        self._idleness = idleness
        self._background = background
        self._alarms = 0
        """How many it was given in this life."""
        self._handling: Scheduled | None = None
        """Whose handler runs."""
        self._alone = alone
        self._told = alone
        """Whether an alarm is there as the room begins."""

    def begin(self) -> None:
        """The room is awake: what is due is handled, also where whoever told of it is told no more."""
        if self._record.substantial:
            self._record.want(at_once=True)  # What came from outside while the room was not awake.
        told, self._told = self._told, False
        if not told and self._record.has_plans and self._record.plans.timers.due(WALL.now()) is not None:
            self._mailbox.post(Alarm())

    async def handle(self, alarm: Alarm) -> None:
        """Handle what is due for the longest time, if anything is, and see whether the room may sleep."""
        alarm.begun()
        self._alarms += 1
        timers, due = self._record.plans.timers, None
        if not self._idleness.stopping:  # Else it is due in the next process.
            due = timers.due(WALL.now())
            if due is not None:
                await self._handle(timers, due)
                due = timers.due(WALL.now())
        if due is not None:
            self._mailbox.post(alarm)
            return
        alarm.over(False)
        idleness = self._idleness
        nothing_else = self._alone and idleness.handled < self._alarms and not self._background.tasks
        if nothing_else and timers.next_due() > WALL.now() + _SOON:
            idleness.due, idleness.trigger = True, "idle"

    def interrupted(self) -> None:
        """The room has crashed: where it was in a handler of this, that was an attempt that failed."""
        scheduled = self._handling
        if scheduled is not None:
            after, _ = self._after_failure(scheduled, "the room crashed")
            self._go_on_in_any_case(scheduled, after)

    async def _handle(self, timers: Timers, name: str) -> None:
        """Handle the occurrence that is due, and have the next one be due, or another attempt."""
        key, now = self._shared.key, WALL.now()
        try:
            scheduled = timers.get(name)
            assert scheduled is not None
        except Unreadable as error:
            logger.critical("room %s: the schedule %r is set aside: %s", key, name, error)
            timers.set_aside(name)
            return
        if scheduled.lets_go(now):
            logger.info("room %s: %r was due %.0f s ago and is let go", key, name, now - scheduled.time)
            timers.go_on(scheduled, scheduled.following(now))
            return
        if scheduled.missed == "all" and scheduled.behind == MOST_IN_A_ROW:
            logger.warning(
                "room %s: %d occurrences of %r in a row came too late, and the rest of those is let go",
                key, MOST_IN_A_ROW, name,
            )  # fmt: skip
        self._handling = scheduled
        try:
            await self._call(scheduled)
            self._members.settle()
            timers.go_on(scheduled, scheduled.following(WALL.now()))
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the room goes on)
            await self._failed(timers, scheduled, error)
        self._handling = None

    async def _call(self, scheduled: Scheduled) -> None:
        """Run the handler to its end.

        Raises:
            Exception: what it raises; EventError where there is none, or the data does not fit.
        """
        name = scheduled.name
        handler = self._shared.definition.schedule_handler(name)
        if handler is None:
            code = "unknown_schedule"
            raise EventError(code, f"there is no @room.on_schedule for {name!r:.100} any more")
        data = decode_value(scheduled.data)
        if handler.convert is not None:
            try:
                data = handler.convert(data)
            except Exception as error:
                code = "invalid_data"
                raise EventError(code, describe(error)) from error
        fire = Fire(
            name=name,
            id=scheduled.occurrence,
            data=data,
            due=scheduled.time,
            attempt=scheduled.failed + 1,
        )
        await self._shared.run(f"on_schedule {name!r:.100}", handler.function, self._members.own, fire)

    async def _failed(self, timers: Timers, scheduled: Scheduled, error: Exception) -> None:
        """The handler has raised: tell of it, and have it tried again or the occurrence given up."""
        after, given_up = self._after_failure(scheduled, f"{type(error).__name__}: {error}")
        told = error
        if given_up:
            told = ScheduleGivenUp(self._shared.key, scheduled.name, scheduled.failed + 1)
            told.__cause__ = error
        await self._dispatcher.failed(self._members.own, f"the schedule {scheduled.name}", told)
        if self._dispatcher.half_run(error):
            self._go_on_in_any_case(scheduled, after)
        else:
            timers.go_on(scheduled, after)

    def _after_failure(self, scheduled: Scheduled, error: str) -> tuple[Scheduled | None, bool]:
        """What becomes of an occurrence after an attempt that failed, and whether it is given up."""
        handler = self._shared.definition.schedule_handler(scheduled.name)
        retry = Retry() if handler is None else handler.retry
        failed, now = scheduled.failed + 1, WALL.now()
        delay = retry.delay(failed, random.random())  # noqa: S311 (nothing to be kept secret)
        if delay is None:
            logger.critical(
                "room %s: %r, which was due %.0f s ago, is given up after %d attempts: %s",
                self._shared.key, scheduled.name, now - scheduled.time, failed, error,
            )  # fmt: skip
        return scheduled.after_failure(now, delay, error[:_LONGEST_ERROR]), delay is None

    def _go_on_in_any_case(self, scheduled: Scheduled, after: Scheduled | None) -> None:
        """Note what becomes of an occurrence also if all is forgotten that the room was about to write."""
        self._record.plans.make(Plan(_GoingOn(scheduled, after)))
