"""What one room has scheduled, as its record knows it, and how that is changed from outside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

import attrs
import trio

from trio_rooms.errors import RoomsError, ScheduleError, StoreError
from trio_rooms.stores.base import Store, Timer

from .timers import MOST_TIMERS, Timers
from .writer import Writer

__all__ = ["Change", "Plan", "Plans"]

logger = logging.getLogger("trio_rooms")

_PAGE: Final = 1000
"""Rows that are read at a time."""
_TRIES: Final = 5
_RETRY_FIRST: Final = 0.1
"""Seconds until they are tried to be read again, doubled each time."""
_MOST_READING: Final = 16
"""Rooms that sleep whose rows are read at a time. A program may schedule something in thousands in one step,
and all of their tasks would otherwise have their first turn together."""
_readers: Final[trio.lowlevel.RunVar[trio.CapacityLimiter]] = trio.lowlevel.RunVar("trio_rooms readers")


class Change(Protocol):
    """What is to become of what a room has scheduled, as a value: it is made again where it was undone."""

    def make(self, timers: Timers) -> Any:
        """Make it; the result is for who asked for it.

        Raises:
            ScheduleError: the room has scheduled too much.
            ValueError: it cannot be made.
        """


@attrs.define(eq=False, weakref_slot=False)
class Plan:
    """A change to what a room has scheduled that comes from outside its handlers.

    No crash of the room and no rollback takes it back: until it is durable it is made again.
    """

    change: Change
    told: Callable[[Any], None] | None = None
    """Called with the result of the change once that is durable; without it a failure is logged."""
    failed: Callable[[Exception], None] | None = None
    """Called instead, if it could not be made."""
    made: int = attrs.field(init=False, default=0)
    """How often it was made."""

    def refuse(self, key: str, error: Exception) -> None:
        """It cannot be made."""
        if self.failed is not None:
            self.failed(error)
        else:
            logger.error("room %s: a change of its schedules is lost: %s", key, error)


class Committing(Protocol):
    """What is asked of the record of the room."""

    key: str
    spawn: Callable[[Callable[..., Coroutine[Any, Any, None]]], None]
    _store: Store
    _writer: Writer

    def outside(
        self, action: Callable[[], None], refused: Callable[[RoomsError], None] | None = None
    ) -> None:
        """Do something that is no part of what a handler does, also after a rollback."""

    def after(self, job: Callable[[], None]) -> None:
        """Do something when all that was written is durable."""

    def want(self, *, at_once: bool = False) -> None:
        """Have what there is written, in time or at once."""

    def rested(self) -> None:
        """Something is over: the record may go, if nobody needs it."""

    def write_timer(self, name: str, row: Timer | None) -> None:
        """Write a row with the next commit."""


class Plans:
    """Knows what a room has scheduled, once that was read, and makes changes from outside in their order.

    Args:
        record: that of the room.
        known: whether nothing has to be read, since there is nothing.
    """

    __slots__ = ("_made", "_reading", "_record", "_waiting", "known", "timers")

    def __init__(self, record: Committing, *, known: bool = False) -> None:
        self.timers: Timers = Timers(record.key, record.write_timer)
        self.known: bool = known
        """Whether it was read, and nothing has been forgotten since."""
        self._record = record
        self._waiting: dict[Plan, None] = {}
        """What is to be made as soon as it is known, in order."""
        self._made: dict[Plan, None] = {}
        """What was made, and is not durable, in order."""
        self._reading = False

    @property
    def waits(self) -> bool:
        """Whether something is to be made."""
        return bool(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing was asked for that is not done."""
        return not (self._waiting or self._made or self._reading)

    def forget(self) -> None:
        """What is not in the store is gone; changes from outside are made again once it is read."""
        if self.known or self._made:
            self.known = False
            self.timers.load(())
            self._waiting = {**self._made, **self._waiting}
            self._made = {}
            if self._waiting:
                self._read_soon()

    def forsake(self, failure: RoomsError) -> None:
        """Somebody else has the room: whoever waits for a change is told so."""
        waiting, self._waiting = self._waiting, {}
        for plan in waiting:
            plan.refuse(self._record.key, failure)

    async def read(self, *, there_are_any: bool = True) -> None:
        """Read what the store has; whoever calls has the turn.

        Raises:
            StoreError: it cannot be read; nothing has changed.
        """
        rows: list[tuple[str, Timer]] = []
        record = self._record
        while there_are_any:
            page = await record._store.timers(record.key, after=rows[-1][0] if rows else None, limit=_PAGE)
            rows += page
            there_are_any = len(page) == _PAGE
        self.timers.load(rows)
        self.known = True
        waiting, self._waiting = self._waiting, {}
        for plan in waiting:
            self._register(plan)

    def make(self, plan: Plan) -> None:
        """Make a change, now or as soon as what there is is known.

        Raises:
            ScheduleError: too many are waiting.
        """
        if self.known:
            self._register(plan)
            return
        if len(self._waiting) >= MOST_TIMERS:
            raise ScheduleError(self._record.key, "", f"{MOST_TIMERS:,} changes wait for the store")
        self._waiting[plan] = None
        self._read_soon()

    def _register(self, plan: Plan) -> None:
        self._record.outside(partial(self._make, plan), partial(self._refused, plan))

    def _make(self, plan: Plan) -> None:
        """Make it; again after each rollback."""
        if not self.known:
            self._waiting[plan] = None
            self._read_soon()
            return
        try:
            result = plan.change.make(self.timers)
        except Exception as error:  # noqa: BLE001 (whoever asked for it is told)
            plan.refuse(self._record.key, error)
            return
        plan.made += 1
        self._made[plan] = None
        self._record.after(partial(self._durable, plan, plan.made, result))
        self._record.want(at_once=plan.told is not None)

    def _durable(self, plan: Plan, made: int, result: Any) -> None:
        if plan.made == made and plan in self._made:
            del self._made[plan]
            if plan.told is not None:
                plan.told(result)

    def _refused(self, plan: Plan, error: RoomsError) -> None:
        if plan not in self._waiting:
            self._made.pop(plan, None)
            plan.refuse(self._record.key, error)

    # Reading for a room that sleeps.

    def _read_soon(self) -> None:
        if not self._reading:
            self._reading = True
            self._record.spawn(self._read_in_turn)

    async def _read_in_turn(self) -> None:
        """Read what there is, unless somebody else does, and make what waits for that."""
        failure: Exception | None = None
        for tries in range(_TRIES):
            try:
                async with _limiter():
                    await self._read_once()
            except StoreError as error:
                failure = error
                await trio.sleep(_RETRY_FIRST * 2**tries)
            else:
                failure = None
                break
        self._reading = False
        if failure is not None:
            waiting, self._waiting = self._waiting, {}
            for plan in waiting:
                plan.refuse(self._record.key, failure)
        elif self._waiting:
            self._read_soon()  # It was forgotten again meanwhile.
        self._record.rested()

    async def _read_once(self) -> None:
        await self._record._writer.take()
        try:
            if not self.known:
                await self.read()
        finally:
            self._record._writer.give()

    async def settle(self) -> Timers:
        """What is scheduled now, read if need be.

        Raises:
            StoreError: it cannot be read.
        """
        await trio.lowlevel.checkpoint()
        while not self.known:
            await self._read_once()
        return self.timers


def _limiter() -> trio.CapacityLimiter:
    """What lets so few read at a time; the same for all records of a run."""
    try:
        return _readers.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_MOST_READING)
        _readers.set(limiter)
        return limiter
