"""What one room has scheduled: each as a row of the store, and all of them as a room sees them.

Pure: nothing here waits, or looks at a clock. Times are seconds since 1970.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, Self

import attrs
import cbor2

from trio_rooms.errors import ScheduleError
from trio_rooms.stores.base import Timer

from .occurrences import LAST_TIME, Cron, Every, Rule

__all__ = ["LATE", "MOST_IN_A_ROW", "MOST_TIMERS", "Missed", "Scheduled", "Timers", "Unreadable"]

Missed = Literal["once", "all", "none"]
"""What becomes of those whose time has passed before they could be handled."""

LATE: Final = 60.0
"""Seconds after which what has missed its time is not made up for, where that is asked: a process that
is started again takes as long."""
MOST_IN_A_ROW: Final = 1000
"""Missed ones that are made up for one after another, before the rest of them is let go."""
MOST_TIMERS: Final = 10_000
MOST_BYTES: Final = 4 * 1024 * 1024
"""What one room may have scheduled, and the bytes of it: all is read when it wakes."""


_KEYS: Final = frozenset(
    ("asked", "behind", "count", "cron", "data", "error", "every", "failed", "id", "missed", "time")
)
"""What the content of a row can have."""


class Unreadable(ValueError):
    """The content of a row is not one that this version has written."""


@attrs.frozen(kw_only=True)
class Scheduled:
    """Something that a room has scheduled."""

    name: str
    id: str
    """Of all of its occurrences; with their count it is that of one."""
    due: float | None
    """When it is handled, or tried again; None for what was given up."""
    time: float
    """When the occurrence was to be that is handled next."""
    data: bytes
    """CBOR."""
    rule: Rule | None = None
    """When it comes again; None for what happens once."""
    asked: tuple[str, float] | None = None
    """From when on it was asked for: ``("at", time)`` or ``("after", seconds)``."""
    missed: Missed = "once"
    count: int = 1
    """Which occurrence it is, those counted in that were let go."""
    behind: int = 0
    """Occurrences in a row that were handled after the time of the next one."""
    failed: int = 0
    """Attempts at this occurrence that failed."""
    error: str = ""
    """Why the last attempt failed, of this occurrence or of one before it that was given up."""

    @property
    def occurrence(self) -> str:
        """The id of the occurrence that is handled next."""
        return f"{self.id}-{self.count}"

    def row(self) -> Timer:
        """What the store keeps."""
        content: dict[str, Any] = {
            "id": self.id,
            "time": self.time,
            "data": self.data,
            "missed": self.missed,
            "count": self.count,
        }
        if isinstance(self.rule, Every):
            content["every"] = [self.rule.period, self.rule.first]
        elif isinstance(self.rule, Cron):
            content["cron"] = [self.rule.expression, self.rule.zone]
        more = {"asked": self.asked, "behind": self.behind, "failed": self.failed, "error": self.error}
        content |= {name: value for name, value in more.items() if value}
        return Timer(self.due, cbor2.dumps(content))

    @classmethod
    def of(cls, name: str, row: Timer) -> Self:
        """What a row says.

        Raises:
            Unreadable: this version did not write it.
        """
        try:
            content = _known(cbor2.loads(row.content))
            rule: Rule | None = None
            if "every" in content:
                rule = Every(*content["every"])
            elif "cron" in content:
                rule = Cron(*content["cron"])
            asked = content.get("asked")
            return cls(
                name=name,
                id=content["id"],
                due=row.due,
                time=content["time"],
                data=content["data"],
                rule=rule,
                asked=None if asked is None else (asked[0], asked[1]),
                missed=content["missed"],
                count=content["count"],
                behind=content.get("behind", 0),
                failed=content.get("failed", 0),
                error=content.get("error", ""),
            )
        except Exception as error:  # (whatever a decoder raises, the bytes are at fault)
            msg = f"this version cannot read it: {type(error).__name__}: {error}"
            raise Unreadable(msg) from error

    def same_times(self, other: Scheduled) -> bool:
        """Whether another one, which was asked for later, is to happen at the same times as this one.

        What was asked for some seconds from now is not: it counts from when it was asked.
        """
        if self.due is None or self.asked != other.asked:
            return False
        match self.rule, other.rule:
            case Every(period=period), Every(period=another):
                return period == another
            case None, None:
                return self.asked is not None and self.asked[0] == "at"
        return self.rule == other.rule

    # What becomes of it.

    def following(self, now: float) -> Scheduled | None:
        """It, once the occurrence was handled, or given up; None where no other one comes."""
        if self.rule is None:
            return None
        makes_up = self.missed == "all" and self.behind < MOST_IN_A_ROW
        # The clock may have been set back: nothing is handled a second time.
        when = self.rule.following(self.time if makes_up else max(now, self.time))
        if when is None or when >= LAST_TIME:
            return None
        behind = self.behind + 1 if when <= now else 0
        return attrs.evolve(
            self, due=when, time=when, count=self.count + 1, behind=behind, failed=0, error=""
        )

    def lets_go(self, now: float) -> bool:
        """Whether the occurrence came too late to be handled at all."""
        return self.missed == "none" and not self.failed and now - self.time > LATE

    def after_failure(self, now: float, delay: float | None, error: str) -> Scheduled | None:
        """It, once an attempt at the occurrence has failed.

        Args:
            now: when it did.
            delay: seconds to the next one; None where it is given up.
            error: why it failed.

        Returns:
            What is tried again; or, given up, what goes on with the next occurrence, or is kept without
            being due.
        """
        failed = self.failed + 1
        if delay is not None:
            return attrs.evolve(self, due=now + delay, failed=failed, error=error)
        following = self.following(now)
        if following is not None:
            return attrs.evolve(following, error=error)
        if self.rule is not None:
            return None
        return attrs.evolve(self, due=None, failed=failed, error=error)


@attrs.define(eq=False)
class Timers:
    """All that one room has scheduled, as it is with what is not in the store yet.

    Args:
        key: the room.
        write: has a row written, or deleted with None, with the next commit. Once that is durable, `written`
            is to be called with the same two.
    """

    key: str
    write: Callable[[str, Timer | None], None]
    _rows: dict[str, Timer] = attrs.field(init=False, factory=dict)
    _size: int = attrs.field(init=False, default=0)
    _heap: list[tuple[float, int, str, Timer]] = attrs.field(init=False, factory=list)
    """Each row that is in the store and will be due, and some that are there no more."""
    _numbers: Iterator[int] = attrs.field(init=False, factory=itertools.count)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._rows)

    def load(self, rows: Iterable[tuple[str, Timer]]) -> None:
        """Take what the store has, in the place of what there was."""
        self._rows = dict(rows)
        self._size = sum(map(_size, self._rows.items()))
        self._heap = [
            (row.due, next(self._numbers), name, row)
            for name, row in self._rows.items()
            if row.due is not None
        ]
        heapq.heapify(self._heap)

    def get(self, name: str) -> Scheduled | None:
        """What is scheduled under a name.

        Raises:
            Unreadable: it cannot be read.
        """
        row = self._rows.get(name)
        return None if row is None else Scheduled.of(name, row)

    def names(self) -> list[str]:
        """The names under which there is something, in their order."""
        return sorted(self._rows)

    def put(self, scheduled: Scheduled) -> None:
        """Schedule something, in the place of what has its name.

        Raises:
            ScheduleError: the room has scheduled too much; nothing has changed.
        """
        name, row = scheduled.name, scheduled.row()
        before = self._rows.get(name)
        size = self._size + _size((name, row)) - (0 if before is None else _size((name, before)))
        if before is None and len(self._rows) >= MOST_TIMERS:
            raise ScheduleError(self.key, name, f"the room has {MOST_TIMERS:,} schedules, which is the most")
        if size > MOST_BYTES and size > self._size:
            why = f"the schedules of a room have {MOST_BYTES:,} bytes at most; data belongs into the storage"
            raise ScheduleError(self.key, name, why)
        self._rows[name], self._size = row, size
        self.write(name, row)

    def go_on(self, before: Scheduled, after: Scheduled | None) -> None:
        """Put what has become of an occurrence in its place, unless that was scheduled anew meanwhile.

        It may be handled as soon as it is due, durable or not: after a crash what it comes from is handled.
        """
        try:
            present = self.get(before.name)
        except Unreadable:
            return
        if present is None or present.occurrence != before.occurrence:
            return
        if after is None:
            self.remove(before.name)
            return
        # What it was scheduled with may have been replaced.
        row = attrs.evolve(after, data=present.data, missed=present.missed).row()
        self._size += _size((before.name, row)) - _size((before.name, self._rows[before.name]))
        self._rows[before.name] = row
        self.write(before.name, row)
        self.written(before.name, row)

    def remove(self, name: str) -> bool:
        """Remove what has a name; whether there was something."""
        row = self._rows.pop(name, None)
        if row is None:
            return False
        self._size -= _size((name, row))
        self.write(name, None)
        return True

    def set_aside(self, name: str) -> None:
        """Keep what cannot be read as it is, and have it be due no more."""
        row = attrs.evolve(self._rows[name], due=None)
        self._rows[name] = row
        self.write(name, row)

    def written(self, name: str, row: Timer | None) -> None:
        """A row is durable: only what will be there after a crash may be handled."""
        if row is None or self._rows.get(name) is not row or row.due is None:
            return
        heapq.heappush(self._heap, (row.due, next(self._numbers), name, row))
        if len(self._heap) > 64 + 2 * len(self._rows):
            self._heap = [one for one in self._heap if self._counts(one)]
            heapq.heapify(self._heap)

    def due(self, now: float) -> str | None:
        """The name of what is due for the longest time, in the store and as it is now; None for nothing."""
        return self._heap[0][2] if self.next_due() <= now else None

    def next_due(self) -> float:
        """When the next one is due that is in the store; infinity where none is."""
        heap = self._heap
        while heap and not self._counts(heap[0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def _counts(self, item: tuple[float, int, str, Timer]) -> bool:
        """Whether an item of the heap is a row that is still there."""
        return self._rows.get(item[2]) is item[3]


def _known(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a row that this version understands: to leave something out would be to delete it.

    Raises:
        KeyError: it does not understand all of it.
    """
    unknown = content.keys() - _KEYS
    if unknown:
        raise KeyError(*sorted(unknown))
    return content


def _size(item: tuple[str, Timer]) -> int:
    """What a row counts for, in bytes."""
    name, row = item
    return len(name) + len(row.content)
