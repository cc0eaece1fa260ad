"""What a room schedules: the arguments of the calls that do so, and what is shown of it."""

from __future__ import annotations

import datetime
import math
import secrets
from typing import Any, Final

import attrs

from trio_rooms._arguments import number, text
from trio_rooms._definition.definition import Definition
from trio_rooms._loop.wall import WallClock
from trio_rooms._state.codec import decode_value
from trio_rooms._state.occurrences import FIRST_TIME, LAST_TIME, SHORTEST, Cron, Every, Rule
from trio_rooms._state.timers import Missed, Scheduled, Timers, Unreadable
from trio_rooms._values.cbor import encode_plain

__all__ = ["WALL", "Schedule", "Unwanted", "Wanted", "schedules_of", "wanted"]

WALL: Final = WallClock()
_LONGEST: Final = 256
"""Characters of a name."""
_MOST_DATA: Final = 64 * 1024
"""Bytes of CBOR that the data may have: it is read with each wake of the room."""


@attrs.frozen(kw_only=True)
class Schedule:
    """Something that a room has scheduled, as `LiveRoom.schedules` and `RoomHandle.schedules` show it."""

    name: str
    due: float | None
    """When it is handled next, or tried again, in seconds since 1970; None for what was given up."""
    data: Any
    """As it was given, but plain: classes are dicts."""
    every: float | None
    """Seconds of its period, if it has one."""
    cron: str | None
    """Its cron expression, if it has one."""
    tz: str | None
    """The time zone of that."""
    missed: Missed
    """What becomes of those whose time has passed."""
    failed: int
    """Attempts that failed since the last that did not."""
    error: str
    """Why the last attempt failed, until one does not."""


@attrs.frozen
class Wanted:
    """What a call asks for, checked; when that is, is known once it is made. A `Change`."""

    name: str
    data: bytes
    asked: tuple[str, float] | None
    every: float | None
    cron: Cron | None
    missed: Missed

    def make(self, timers: Timers) -> float:
        """Schedule it; returns when it is due.

        Raises:
            ScheduleError: the room has scheduled too much.
            ValueError: it would never be due.
        """
        rule: Rule | None = self.cron
        first = self.first(WALL.now())
        if self.every is not None:
            rule = Every(self.every, first)
        new = Scheduled(
            name=self.name,
            id=secrets.token_hex(8),
            due=first,
            time=first,
            data=self.data,
            rule=rule,
            asked=self.asked,
            missed=self.missed,
        )
        try:
            before = timers.get(self.name)
        except Unreadable:
            before = None
        if before is not None and before.same_times(new):
            new = attrs.evolve(before, data=self.data, missed=self.missed)
        if new != before:
            timers.put(new)
        assert new.due is not None
        return new.due

    def first(self, now: float) -> float:
        """When it is due for the first time.

        Raises:
            ValueError: never, as far as there is a calendar.
        """
        first: float | None = now
        if self.asked is not None:
            first = self.asked[1] if self.asked[0] == "at" else now + self.asked[1]
        elif self.every is not None:
            first = now + self.every
        elif self.cron is not None:
            first = self.cron.following(now)
        if first is None or not first < LAST_TIME:
            msg = f"{self.name!r:.100} would never be due"
            raise ValueError(msg)
        return first


@attrs.frozen
class Unwanted:
    """What is let go of, by its name. A `Change`."""

    name: str

    def make(self, timers: Timers) -> bool:
        """Let go of it; whether there was something."""
        return timers.remove(self.name)


def wanted(
    definition: Definition,
    name: str,
    data: Any,
    at: datetime.datetime | float | None,
    after: float | None,
    every: float | None,
    cron: str | None,
    tz: str | None,
    missed: Missed,
) -> Wanted:
    """Check the arguments of a call.

    Raises:
        TypeError, ValueError: one is not what it should be, they do not go together, or no handler is there
            for the name.
    """
    if not 0 < len(text("the name of a schedule", name)) <= _LONGEST:
        msg = f"the name of a schedule has 1 to {_LONGEST} characters, not {len(name):,}"
        raise ValueError(msg)
    if definition.schedule_handler(name) is None:
        of = name.partition(":")[0]
        msg = f"room {definition.name} has no handler for it: write @room.on_schedule({of!r:.100})"
        raise ValueError(msg)
    if missed not in ("once", "all", "none"):
        msg = f"missed is 'once', 'all' or 'none', not {missed!r:.100}"
        raise ValueError(msg)
    asked: tuple[str, float] | None = None
    if at is not None:
        asked = ("at", _moment(at))
    if after is not None:
        if asked is not None:
            msg = "it is due either at= a time or after= some seconds, not both"
            raise ValueError(msg)
        asked = ("after", _seconds("after", after))
    if every is not None and _seconds("every", every) < SHORTEST:
        msg = f"every is {SHORTEST:g} second or more, not {every}: each time is a commit; see start_soon"
        raise ValueError(msg)
    kinds = (every is not None) + (cron is not None)
    if kinds > 1 or not (kinds or asked) or (cron is not None and asked):
        msg = (
            "when it is due says one of at=, after=, every= and cron=; with every=, at= or after= may say "
            "when it begins"
        )
        raise ValueError(msg)
    if tz is not None and cron is None:
        msg = "tz= goes with cron=; a datetime has a time zone of its own"
        raise ValueError(msg)
    rule = None
    if cron is not None:
        rule = Cron(" ".join(text("cron", cron).split()), text("tz", "UTC" if tz is None else tz))
        rule.check()
    encoded = encode_plain(data)
    if len(encoded) > _MOST_DATA:
        msg = (
            f"the data of a schedule has at most {_MOST_DATA:,} bytes of CBOR, not {len(encoded):,}; "
            "keep it in the storage, and its name here"
        )
        raise ValueError(msg)
    found = Wanted(name, encoded, asked, None if every is None else float(every), rule, missed)
    found.first(WALL.now())
    return found


def schedules_of(timers: Timers) -> dict[str, Schedule]:
    """All that a room has scheduled, in the order of the names."""
    found: dict[str, Schedule] = {}
    for name in timers.names():
        try:
            one = timers.get(name)
            shown = None if one is None else _shown(one)
        except Unreadable as error:
            found[name] = Schedule(
                name=name, due=None, data=None, every=None, cron=None, tz=None, missed="once", failed=0,
                error=str(error),
            )  # fmt: skip
            continue
        if shown is not None:
            found[name] = shown
    return found


def _shown(one: Scheduled) -> Schedule:
    """What is shown of it.

    Raises:
        Unreadable: the data does not decode.
    """
    rule = one.rule
    try:
        data = decode_value(one.data)
    except Exception as error:  # (whatever a decoder raises, the bytes are at fault)
        msg = f"its data does not decode: {error}"
        raise Unreadable(msg) from error
    return Schedule(
        name=one.name,
        due=one.due,
        data=data,
        every=rule.period if isinstance(rule, Every) else None,
        cron=rule.expression if isinstance(rule, Cron) else None,
        tz=rule.zone if isinstance(rule, Cron) else None,
        missed=one.missed,
        failed=one.failed,
        error=one.error,
    )


def _moment(at: Any) -> float:
    """A time as seconds since 1970.

    Raises:
        TypeError: it is none.
        ValueError: it does not say in which time zone it is, or no date is so far away.
    """
    if isinstance(at, datetime.datetime):
        if at.utcoffset() is None:
            msg = (
                "at is a time without a time zone, and so different ones in different places: write "
                'datetime(..., tzinfo=ZoneInfo("Europe/Berlin")) or datetime.now(UTC) + timedelta(...)'
            )
            raise ValueError(msg)
        return at.timestamp()
    if not isinstance(at, int | float) or isinstance(at, bool):
        msg = f"at is a datetime with a time zone, or seconds since 1970, not {at!r:.100}"
        raise TypeError(msg)
    if not FIRST_TIME <= at < LAST_TIME:
        msg = f"at is a time of this calendar, in seconds since 1970, not {at}"
        raise ValueError(msg)
    return float(at)


def _seconds(what: str, value: Any) -> float:
    """Seconds that end.

    Raises:
        TypeError, ValueError: it is no such number.
    """
    if isinstance(value, datetime.timedelta):
        msg = f"{what} is a number of seconds: write {what}={value!r}.total_seconds()"
        raise TypeError(msg)
    if number(what, value) == math.inf:
        msg = f"{what} is a number of seconds that end, not {value}"
        raise ValueError(msg)
    return float(value)
