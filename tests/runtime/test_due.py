from __future__ import annotations

import bisect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import StoreError
from trio_rooms._loop.wall import WallClock
from trio_rooms._room.mail import Alarm
from trio_rooms._runtime.due import Agenda
from trio_rooms.stores.base import Due

Order = tuple[float, str, int, str]


def place(one: Due) -> Order:
    """Where it comes in the order of what is due."""
    return one.time, one.key, one.sid or 0, one.timer or ""


class Index:
    """What is due, as a store has it."""

    def __init__(self) -> None:
        self.rows: list[Order] = []
        self.reads = 0
        self.fails = 0
        self.during: Callable[[], None] | None = None

    def put(self, when: float, key: str, timer: str = "", sid: int = 0) -> None:
        bisect.insort(self.rows, (when, key, sid, timer))

    async def due(self, now: float, limit: int, *, after: Due | None = None) -> list[Due]:
        self.reads += 1
        begin = 0 if after is None else bisect.bisect_right(self.rows, place(after))
        found = [row for row in self.rows[begin : begin + limit] if row[0] <= now]
        await trio.lowlevel.checkpoint()
        if self.fails:
            self.fails -= 1
            raise StoreError("not now")
        if self.during is not None:
            call, self.during = self.during, None
            call()
        return [Due(when, key, sid or None, timer or None) for when, key, sid, timer in found]


class Rooms:
    """Who is told; an alarm is over when the test says so, or at once."""

    def __init__(self, agenda: Callable[[], Agenda], index: Index) -> None:
        self.index = index
        self.told: list[str] = []
        self.ended: list[tuple[str, list[int]]] = []
        self.alarms: dict[str, Alarm] = {}
        self.awake: set[str] = set()
        self.elsewhere: set[str] = set()
        self.at_once = True
        self.refuse = False
        self.ends = True
        self.hold: trio.Event | None = None
        self._agenda = agenda

    def tell(self, key: str, alarm: Alarm) -> None:
        self.told.append(key)
        if self.refuse:
            alarm.over(True)
        elif self.at_once:
            alarm.begun()
            self.handled(key)
            alarm.over(False)
        else:
            self.alarms[key] = alarm

    def handled(self, key: str) -> None:
        """What of a room is due is in the store no more."""
        now = WallClock().now()
        self.index.rows = [row for row in self.index.rows if row[1] != key or row[0] > now]

    async def expire(self, key: str, sids: list[int]) -> bool:
        if self.hold is not None:
            await self.hold.wait()
        await trio.lowlevel.checkpoint()
        self.ended.append((key, sids))
        if self.ends:
            self.index.rows = [row for row in self.index.rows if row[1] != key or row[2] not in sids]
        return self.ends

    async def lapse(self, key: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.ended.append((key, []))
        return True

    def note(self, after: float, key: str, timer: str = "x", sid: int = 0) -> None:
        """Something becomes durable that is due so many seconds from now."""
        when = WallClock().now() + after
        self.index.put(when, key, timer if not sid else "", sid)
        self._agenda().noted(when)


@asynccontextmanager
async def kept(
    *, before: Callable[[Index], None] | None = None
) -> AsyncIterator[tuple[Agenda, Rooms, Index]]:
    """An agenda that runs."""
    index = Index()
    if before is not None:
        before(index)
    async with trio.open_nursery() as nursery:
        agenda: Agenda
        rooms = Rooms(lambda: agenda, index)
        agenda = Agenda(
            index,  # type: ignore[arg-type]
            lambda key: key not in rooms.elsewhere,
            lambda key: key in rooms.awake,
            lambda key, alarm: rooms.tell(key, alarm),  # noqa: PLW0108 (tests replace it)
            rooms.expire,
            rooms.lapse,
            nursery.start_soon,
        )
        nursery.start_soon(agenda.run)
        yield agenda, rooms, index
        agenda.stop()
        with trio.fail_after(100):
            await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) <= (rooms.hold is not None)
        nursery.cancel_scope.cancel()


async def test_it_tells_when_the_time_has_come(autojump_clock: MockClock) -> None:
    """Each at its time, whatever came first into the store; and the store is read for these alone."""
    async with kept() as (_, rooms, index):
        await wait_all_tasks_blocked()
        for after in (50, 10, 30, 86400 * 365):
            rooms.note(after, f"r/{after}")
        await trio.sleep(9.9)
        for told in ([], ["r/10"], ["r/10"], ["r/10", "r/30"], ["r/10", "r/30"]):
            assert rooms.told == told
            await trio.sleep(10)
        assert rooms.told == ["r/10", "r/30", "r/50"]
        reads = index.reads
        await trio.sleep(86400 * 300)
        assert index.reads == reads
        await trio.sleep(86400 * 100)
        assert rooms.told[-1] == "r/31536000"


async def test_what_was_due_before(autojump_clock: MockClock) -> None:
    """What came due while no process ran is told at the start, the longest first."""

    def before(index: Index) -> None:
        now = WallClock().now()
        for number in range(1000):
            index.put(now - number, f"r/{number}", "x")

    async with kept(before=before) as (_, rooms, index):
        await trio.sleep(0.1)
        assert rooms.told == [f"r/{number}" for number in reversed(range(1000))]
        assert not index.rows
        assert index.reads < 10


async def test_a_room_is_told_once(autojump_clock: MockClock) -> None:
    """As long as it is at it; and again when something is due after it said that it is done."""
    async with kept() as (_, rooms, _):
        rooms.at_once = False
        for number in range(600):
            rooms.note(1 + number / 1000, "r/1", f"x{number}")
        await trio.sleep(10)
        assert rooms.told == ["r/1"]
        rooms.note(1, "r/1", "y")
        await trio.sleep(10)
        assert rooms.told == ["r/1"]
        rooms.handled("r/1")
        rooms.alarms["r/1"].over(False)
        rooms.note(1, "r/1", "z")
        await trio.sleep(10)
        assert rooms.told == ["r/1", "r/1"]


async def test_so_many_are_woken_at_a_time(autojump_clock: MockClock) -> None:
    """16 wake, 1,000 are at it; those that are awake already need not be woken."""
    async with kept() as (_, rooms, _):
        rooms.at_once = False
        rooms.awake = {f"r/{number:04}" for number in range(20, 120)}
        for number in range(2000):
            rooms.note(1, f"r/{number:04}")
        await trio.sleep(10)
        assert len(rooms.told) == 16
        for number in range(16):
            rooms.alarms[f"r/{number:04}"].begun()
        await trio.sleep(10)
        assert len(rooms.told) == 16 + 4 + 100 + 12
        while len(rooms.told) < 1000:
            before = len(rooms.told)
            for key in rooms.told:
                rooms.alarms[key].begun()
            await trio.sleep(1)
            assert before < len(rooms.told)
        for key in rooms.told:
            rooms.alarms[key].begun()
        await trio.sleep(10)
        assert len(rooms.told) == 1000
        rooms.alarms["r/0500"].over(False)
        await trio.sleep(10)
        assert len(rooms.told) == 1001


async def test_when_all_of_them_hang(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """What waits for them is told of."""
    async with kept() as (_, rooms, _):
        rooms.at_once = False
        for number in range(20):
            rooms.note(1, f"r/{number:04}")
        await trio.sleep(130)
        assert len(rooms.told) == 16
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["what is due waits"] * 2


async def test_rooms_that_are_not_served_here(autojump_clock: MockClock) -> None:
    """They are left alone, keep nobody waiting, and are not read again with each of the others."""
    async with kept() as (_, rooms, index):
        rooms.elsewhere = {f"other/{number}" for number in range(3000)}
        for key in rooms.elsewhere:
            rooms.note(1, key)
        rooms.note(2, "r/1")
        await trio.sleep(3)
        assert rooms.told == ["r/1"]
        reads = index.reads
        for number in range(10):
            rooms.note(1, f"r/{number}")
            await trio.sleep(2)
        assert len(rooms.told) == 11
        assert index.reads - reads <= 30


async def test_a_room_that_refuses(autojump_clock: MockClock) -> None:
    """It is told again after half a minute, and not before."""
    async with kept() as (_, rooms, index):
        rooms.refuse = True
        rooms.note(1, "r/1")
        await trio.sleep(91.5)
        assert rooms.told == ["r/1"] * 4
        assert index.reads < 15
        rooms.refuse = False
        await trio.sleep(100)
        assert rooms.told == ["r/1"] * 5


async def test_what_is_due_before_what_was_seen(autojump_clock: MockClock) -> None:
    """What comes into the store with a time that has passed is told as well."""
    async with kept() as (_, rooms, _):
        rooms.elsewhere = {"other/1"}
        rooms.note(0, "other/1")
        await trio.sleep(1)
        rooms.note(-1000, "r/1")
        await trio.sleep(1)
        assert rooms.told == ["r/1"]


async def test_what_comes_into_the_store_while_it_is_read(autojump_clock: MockClock) -> None:
    """It is told, wherever the reading was."""
    async with kept() as (_, rooms, index):
        await trio.sleep(1)
        for number in range(300):
            rooms.note(1 + number / 1000, f"r/{number}")
        index.during = lambda: rooms.note(-5, "late/1")
        await trio.sleep(10)
        index.during = lambda: rooms.note(-5, "late/2")
        rooms.note(1, "r/x")
        await trio.sleep(10)
        assert "late/1" in rooms.told
        assert "late/2" in rooms.told
        assert len(rooms.told) == 303


async def test_a_store_that_cannot_be_read(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, ever more slowly, and told once."""
    async with kept() as (_, rooms, index):
        await trio.sleep(1)
        index.fails = 20
        rooms.note(1, "r/1")
        await trio.sleep(100)
        assert 5 < 20 - index.fails < 12
        await trio.sleep(1000)
        assert rooms.told == ["r/1"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_sessions_end_by_room(autojump_clock: MockClock) -> None:
    """Those of one room together, a page at a time, and 64 rooms at a time."""
    async with kept() as (_, rooms, index):
        for number in range(1, 601):
            rooms.note(1, "r/1", sid=number)
        await trio.sleep(5)
        assert [(key, len(sids)) for key, sids in rooms.ended] == [("r/1", 256), ("r/1", 256), ("r/1", 88)]
        assert not index.rows
        rooms.ended.clear()
        rooms.hold = trio.Event()
        for number in range(200):
            rooms.note(1, f"r/{number}", sid=5)
        await trio.sleep(5)
        assert not rooms.ended
        hold, rooms.hold = rooms.hold, None
        hold.set()
        await trio.sleep(5)
        assert len(rooms.ended) == 200


async def test_sessions_that_cannot_be_ended(autojump_clock: MockClock) -> None:
    """They are tried again after half a minute."""
    async with kept() as (_, rooms, _):
        rooms.ends = False
        rooms.note(1, "r/1", sid=5)
        await trio.sleep(35)
        assert len(rooms.ended) == 2
        rooms.ends = True
        await trio.sleep(100)
        assert len(rooms.ended) == 3


async def test_nobody_is_told_after_the_stop(autojump_clock: MockClock) -> None:
    """Also not what was due before, and waited for others."""
    async with kept() as (agenda, rooms, _):
        rooms.at_once = False
        for number in range(100):
            rooms.note(1, f"r/{number}")
        await trio.sleep(5)
        assert len(rooms.told) == 16
        agenda.stop()
        for key in list(rooms.told):
            rooms.alarms[key].over(False)
        rooms.note(1, "r/x")
        await trio.sleep(100)
        assert len(rooms.told) == 16


@pytest.mark.parametrize("shift", [3600.0, -3600.0])
async def test_a_clock_that_is_set(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due follows the clock on the wall, which is looked at again and again."""
    real = time.time
    monkeypatch.setattr("trio_rooms._runtime.due._LOOK", 0.02)
    async with kept() as (_, rooms, _):
        await wait_all_tasks_blocked()
        rooms.note(1800, "r/1")
        rooms.note(0.05, "r/2")
        monkeypatch.setattr(time, "time", lambda: real() + shift)
        await trio.sleep(0.2)
        assert rooms.told == (["r/2", "r/1"] if shift > 0 else [])


async def test_the_loop_goes_on(autojump_clock: MockClock) -> None:
    """Thousands that are due at once are told in turns of a few milliseconds."""
    turns = 0
    async with kept() as (_, rooms, _):
        for number in range(1000):
            rooms.note(1, f"r/{number}")

        def tell(key: str, alarm: Alarm) -> None:
            until = time.perf_counter() + 0.0005
            while time.perf_counter() < until:
                pass
            rooms.told.append(key)
            alarm.over(False)

        rooms.tell = tell  # type: ignore[method-assign]
        await trio.sleep(1)
        while len(rooms.told) < 1000:
            await trio.lowlevel.checkpoint()
            turns += 1
    assert turns > 100
