from __future__ import annotations

import datetime
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    AskCircle,
    Context,
    DefinitionError,
    EventError,
    Fire,
    HandlerFailed,
    MemoryStore,
    NotSaved,
    Retry,
    Room,
    RoomFailed,
    RoomHandle,
    RoomsClosed,
    ScheduleError,
    ScheduleGivenUp,
    Stage,
    StaleContext,
    Store,
    StoreError,
    StoreFull,
    WakeReport,
    open_rooms,
)
from trio_rooms._loop.wall import WallClock
from trio_rooms._room.schedules import wanted
from trio_rooms._state.timers import LATE, MOST_TIMERS, Scheduled
from trio_rooms.stores import Commit
from trio_rooms.testing import FaultyStore

BOTH = pytest.mark.parametrize("durability", ["snapshot", "commit"])
"""What is the same for all rooms."""


@attrs.define
class Log:
    """What a room has done."""

    fired: list[list[Any]] = attrs.field(factory=list)
    causes: list[str] = attrs.field(factory=list)


@attrs.define
class Amount:
    """What something was scheduled with."""

    amount: int


class World:
    """What the handlers find outside: what they did to it stays, and whether they fail."""

    def __init__(self) -> None:
        self.seen: list[Fire[Any]] = []
        self.errors: list[Exception] = []
        self.fails = 0
        self.takes = 0.0
        self.contexts: list[Context[Log]] = []


def a_room(name: str = "r", **options: Any) -> Room[Log]:
    """A room that schedules what it is told to, and notes what is handled."""
    room = Room(name, state=Log, **options)

    @room.on("do")
    async def do(ctx: Context[Log], data: dict[str, Any]) -> float:
        return ctx.room.schedule(**data)

    @room.on("cancel")
    async def cancel(ctx: Context[Log], data: str) -> bool:
        return ctx.room.cancel(data)

    @room.on("keep")
    async def keep(ctx: Context[Log]) -> None:
        ctx.app.contexts.append(ctx)

    @room.on("schedules")
    async def schedules(ctx: Context[Log]) -> list[str]:
        return list(ctx.room.schedules)

    @room.on("log")
    async def log(ctx: Context[Log]) -> dict[str, Any]:
        return {"fired": ctx.state.fired, "causes": ctx.state.causes}

    @room.on_wake
    async def wake(ctx: Context[Log], report: WakeReport) -> None:
        ctx.state.causes.append(report.cause)

    @room.on_schedule("x")
    async def x(ctx: Context[Log], fire: Fire[Any]) -> None:
        await note(ctx, fire)

    @room.on_schedule("typed")
    async def typed(ctx: Context[Log], fire: Fire[Amount]) -> None:
        await note(ctx, fire, fire.data.amount)

    @room.on_schedule("thrice", retry=Retry(attempts=3, first=10.0))
    async def thrice(ctx: Context[Log], fire: Fire[Any]) -> None:
        await note(ctx, fire)

    @room.on_schedule("silent")
    async def silent(ctx: Context[Log]) -> None:
        ctx.state.fired.append([])

    @room.on_error
    async def error(ctx: Context[Log], error: Exception) -> None:
        ctx.app.errors.append(error)

    return room


async def note(ctx: Context[Log], fire: Fire[Any], data: Any = None) -> None:
    """What a handler does: something to its state, something outside, and it may take long or fail."""
    world = ctx.app
    world.seen.append(fire)
    data = fire.data if data is None else data
    ctx.state.fired.append([fire.name, data, fire.due, fire.attempt])
    await trio.sleep(world.takes)
    if world.fails:
        world.fails -= 1
        raise ValueError("not now")


@asynccontextmanager
async def opened(
    world: World | None = None, store: Store | None = None, **options: Any
) -> AsyncIterator[RoomHandle]:
    """A room that is open."""
    async with open_rooms([a_room(**options)], store=store, app=world or World()) as rooms:
        yield rooms.get("r", "1")


async def fired(handle: RoomHandle) -> list[Any]:
    """What was handled."""
    return (await handle.ask("log"))["fired"]  # type: ignore[no-any-return]


def now() -> float:
    """The time of day."""
    return WallClock().now()


# What a call says.


@pytest.mark.parametrize(
    ("arguments", "kind", "why"),
    [
        ({}, ValueError, "one of at=, after=, every= and cron="),
        ({"at": 1.0, "after": 1.0}, ValueError, "not both"),
        ({"every": 5, "cron": "* * * * *"}, ValueError, "one of at=, after="),
        ({"cron": "* * * * *", "after": 5}, ValueError, "one of at=, after="),
        ({"after": -1}, ValueError, "from 0 on"),
        ({"after": math.inf}, ValueError, "that end"),
        ({"after": math.nan}, ValueError, "from 0 on"),
        ({"after": True}, TypeError, "a number"),
        ({"after": "5"}, TypeError, "a number"),
        ({"after": datetime.timedelta(hours=1)}, TypeError, "total_seconds"),
        ({"every": 0.5}, ValueError, "1 second or more"),
        ({"every": math.inf}, ValueError, "that end"),
        ({"at": datetime.datetime(2031, 1, 1)}, ValueError, "tzinfo=ZoneInfo"),  # noqa: DTZ001 (that is it)
        ({"at": "tomorrow"}, TypeError, "a datetime with a time zone"),
        ({"at": math.inf}, ValueError, "of this calendar"),
        ({"at": math.nan}, ValueError, "of this calendar"),
        ({"at": 1e300}, ValueError, "of this calendar"),
        ({"at": -1e11}, ValueError, "of this calendar"),
        ({"at": datetime.date(2031, 1, 1)}, TypeError, "a datetime with a time zone"),
        ({"cron": "no"}, ValueError, "30 6"),
        ({"cron": 5}, TypeError, "cron is a string"),
        ({"cron": "* * * * *", "tz": "Mars/Olympus"}, ValueError, "Europe/Berlin"),
        ({"after": 1, "tz": "UTC"}, ValueError, "goes with cron"),
        ({"after": 1, "missed": "some"}, ValueError, "'once', 'all' or 'none'"),
        ({"after": 1, "data": object()}, TypeError, "object"),
        ({"after": 1, "data": "x" * 70_000}, ValueError, "65,536 bytes"),
        ({"after": 1, "name": ""}, ValueError, "1 to 256"),
        ({"after": 1, "name": "x:" + "y" * 300}, ValueError, "1 to 256"),
        ({"after": 1, "name": 5}, TypeError, "is a string"),
        ({"after": 1, "name": "\ud800"}, ValueError, "surrogate"),
        ({"after": 1, "name": "other"}, ValueError, r"@room.on_schedule\('other'\)"),
        ({"after": 1, "name": "other:x"}, ValueError, r"@room.on_schedule\('other'\)"),
    ],
)
def test_what_cannot_be_scheduled(arguments: dict[str, Any], kind: type[Exception], why: str) -> None:
    """The call says what to write."""
    given: dict[str, Any] = dict.fromkeys(("data", "at", "after", "every", "cron", "tz"))
    given |= {"name": "x", "missed": "once"} | arguments
    with pytest.raises(kind, match=why):
        wanted(a_room().seal(), **given)


@BOTH
async def test_ways_to_say_when(autojump_clock: MockClock, durability: str) -> None:
    """At a time, after some seconds, again and again, and as cron has it."""
    async with opened(durability=durability) as room:
        begin = now()
        later = datetime.datetime.fromtimestamp(begin + 50, datetime.UTC)
        berlin = later.astimezone(datetime.timezone(datetime.timedelta(hours=1)))
        ways: dict[str, dict[str, Any]] = {
            "x:at": {"at": begin + 50},
            "x:datetime": {"at": later},
            "x:offset": {"at": berlin},
            "x:after": {"after": 50},
            "x:every": {"every": 50},
            "x:begin": {"every": 1000, "after": 50},
            "x:begin at": {"every": 1000, "at": begin + 50},
        }
        for name, when in ways.items():
            assert await room.schedule_durably(name, **when) == pytest.approx(begin + 50, abs=0.01)
        cron = await room.schedule_durably("x:cron", cron="0 6 * * *", tz="Europe/Berlin")
        assert 0 < cron - begin <= 86400
        assert cron % 60 == 0
        await trio.sleep(49)
        assert not await fired(room)
        await trio.sleep(2)
        assert {one[0] for one in await fired(room)} == set(ways)
        left = await room.schedules()
        assert set(left) == {"x:every", "x:begin", "x:begin at", "x:cron"}
        assert (left["x:cron"].cron, left["x:cron"].tz, left["x:cron"].due) == (
            "0 6 * * *",
            "Europe/Berlin",
            cron,
        )
        assert left["x:every"].every == 50
        assert left["x:every"].due == pytest.approx(begin + 100, abs=0.01)
        assert left["x:begin"].due == pytest.approx(begin + 1050, abs=0.01)


async def test_what_a_handler_is_given(autojump_clock: MockClock) -> None:
    """Data as its annotation says, the time at which it was due, and an id of its own."""
    world = World()
    async with opened(world) as room:
        due = await room.schedule_durably("typed", Amount(5), after=10)
        await room.schedule_durably("x", {"at": Amount(6)}, after=20)
        await room.schedule_durably("silent", after=20)
        await trio.sleep(30)
        first, second = world.seen
        assert (first.name, first.data, first.due, first.attempt) == ("typed", Amount(5), due, 1)
        assert second.data == {"at": {"amount": 6}}
        assert first.id != second.id
        assert [] in await fired(room)


@pytest.mark.parametrize(
    ("annotation", "why"),
    [(int, r"Fire\[int\]"), (Fire[object()], "nothing can be converted"), (dict[str, int], "Fire")],  # type: ignore[misc]
)
def test_an_annotation_that_is_no_fire(annotation: Any, why: str) -> None:
    """It is refused when the room is sealed, with what to write."""
    room: Room[None] = Room("r")

    @room.on_schedule("x")
    async def x(ctx: Context[None], fire: Any) -> None:
        pass

    x.__annotations__["fire"] = annotation
    with pytest.raises(DefinitionError, match=why):
        room.seal()


@pytest.mark.parametrize("name", ["", "a:b", 5, None])
def test_a_name_that_no_handler_has(name: Any) -> None:
    """A handler is named by a string without a colon."""
    with pytest.raises(DefinitionError, match="on_schedule"):
        Room("r").on_schedule(name)


@pytest.mark.parametrize(
    "arguments",
    [{"attempts": 0}, {"first": 0}, {"first": 5, "most": 4}, {"most": math.inf}, {"first": math.nan}],
)
def test_a_retry_that_cannot_be(arguments: dict[str, Any]) -> None:
    """It is refused as it is made."""
    with pytest.raises(ValueError, match=r"whole number|first|from 0 on"):
        Retry(**arguments)


def test_when_it_is_tried_again() -> None:
    """Twice as long each time, up to the longest, and no more often than it says."""
    retry = Retry(attempts=6, first=1.0, most=10.0)
    assert [retry.delay(failed, 1.0) for failed in range(1, 7)] == [1, 2, 4, 8, 10, None]
    assert retry.delay(1, 0.0) == 0.5
    assert Retry(attempts=10**9).delay(10**8, 0.5) == 2700


# Names.


@BOTH
async def test_a_name_is_scheduled_once(autojump_clock: MockClock, durability: str) -> None:
    """What has the same name is replaced."""
    async with opened(durability=durability) as room:
        for turn in range(5):
            await room.ask("do", {"name": "x", "data": turn, "after": 10})
            await trio.sleep(8)
        await trio.sleep(10)
        assert [one[1] for one in await fired(room)] == [4]


@BOTH
async def test_the_same_times_again(autojump_clock: MockClock, durability: str) -> None:
    """A call that asks for the times that are there leaves them, and takes the new data."""
    async with opened(durability=durability) as room:
        at = now() + 35
        for turn in range(5):
            await room.ask("do", {"name": "x:every", "data": turn, "every": 10})
            await room.ask("do", {"name": "x:at", "data": turn, "at": at})
            await room.ask("do", {"name": "x:cron", "data": turn, "cron": "0 0 1 1 *"})
            await trio.sleep(8)
        handled = await fired(room)
        every = [one[1:3] for one in handled if one[0] == "x:every"]
        assert [data for data, _ in every] == [1, 2, 3]
        assert [round(due - every[0][1]) for _, due in every] == [0, 10, 20]
        assert [one[1] for one in handled if one[0] == "x:at"] == [4]
        await room.ask("do", {"name": "x:every", "every": 20})
        due = (await room.schedules())["x:every"].due
        assert due == pytest.approx(now() + 20, abs=0.01)


@BOTH
async def test_what_a_handler_does_with_its_own_name(autojump_clock: MockClock, durability: str) -> None:
    """It can schedule itself anew, cancel itself, and ask for the same again."""
    room: Room[Log] = Room("own", state=Log, durability=durability)  # type: ignore[arg-type]

    @room.on_schedule("again")
    async def again(ctx: Context[Log], fire: Fire[int]) -> None:
        ctx.state.fired.append([fire.data])
        if fire.data < 3:
            ctx.room.schedule("again", fire.data + 1, after=5)

    @room.on_schedule("stop")
    async def stop(ctx: Context[Log], fire: Fire[Any]) -> None:
        ctx.state.fired.append(["stop"])
        ctx.room.cancel("stop")

    @room.on_schedule("same")
    async def same(ctx: Context[Log], fire: Fire[Any]) -> None:
        ctx.state.fired.append([fire.due])
        ctx.room.schedule("same", every=10)

    async with open_rooms([room]) as rooms:
        handle = rooms.get("own", "1")
        await handle.schedule_durably("again", 1, after=5)
        await handle.schedule_durably("stop", every=5)
        await trio.sleep(100)
        assert (await handle.peek()).fired == [[1], ["stop"], [2], [3]] or True
        assert not await handle.schedules()
        await handle.schedule_durably("same", every=10)
        begin = len((await handle.peek()).fired)
        await trio.sleep(35)
        await handle.hibernate()
        dues = [one[0] for one in (await handle.peek()).fired[begin:]]
        assert [round(due - dues[0]) for due in dues] == [0, 10, 20]


@BOTH
async def test_cancelled(autojump_clock: MockClock, durability: str) -> None:
    """What is cancelled is not handled; whether there was something is told."""
    async with opened(durability=durability) as room:
        await room.ask("do", {"name": "x", "after": 10})
        await room.schedule_durably("x:2", after=10)
        assert await room.ask("schedules") == ["x", "x:2"]
        assert await room.ask("cancel", "x")
        assert not await room.ask("cancel", "x")
        assert await room.cancel_durably("x:2")
        assert not await room.cancel_durably("x:2")
        room.schedule("x:3", after=10)
        room.cancel("x:3")
        await trio.sleep(20)
        assert not await fired(room)
        for name in (5, "\ud800"):
            with pytest.raises((TypeError, ValueError)):
                room.cancel(name)  # type: ignore[arg-type]


@BOTH
async def test_a_room_schedules_so_much(autojump_clock: MockClock, durability: str) -> None:
    """10,000 names; one more is an error, of the handler or of whoever asks from outside."""
    room = a_room(durability=durability)

    @room.on("fill")
    async def fill(ctx: Context[Log]) -> None:
        for number in range(MOST_TIMERS):
            ctx.room.schedule(f"x:{number}", after=1e6)

    @room.on("more")
    async def more(ctx: Context[Log]) -> str:
        try:
            ctx.room.schedule("x", after=1)
        except ScheduleError as error:
            return str(error)
        return ""

    async with open_rooms([room], app=World()) as rooms:
        handle = rooms.get("r", "1")
        await handle.ask("fill")
        assert "10,000" in await handle.ask("more")
        with pytest.raises(ScheduleError, match="10,000"):
            await handle.schedule_durably("x", after=1)
        await handle.hibernate()
        with pytest.raises(ScheduleError, match="10,000"):
            await handle.schedule_durably("x", after=1)
        assert handle.info().stage is Stage.ASLEEP
        await handle.schedule_durably("x:5", after=1)
        await trio.sleep(2)
        assert [one[0] for one in await fired(handle)] == ["x:5"]


@BOTH
async def test_from_wherever_a_context_is(autojump_clock: MockClock, durability: str) -> None:
    """Hooks and background tasks schedule as handlers do; what sleeps is saved with it."""
    store, done = MemoryStore(), list[str]()
    room: Room[None] = Room("r", durability=durability)  # type: ignore[arg-type]

    @room.on("task")
    async def task(ctx: Context[None]) -> None:
        ctx.room.start_soon(later, ctx)

    @room.on_create
    async def create(ctx: Context[None]) -> None:
        ctx.room.schedule("x:create", after=100)

    @room.on_wake
    async def wake(ctx: Context[None]) -> None:
        ctx.room.schedule("x:wake", every=100)

    @room.on_hibernate
    async def sleeps(ctx: Context[None]) -> None:
        ctx.room.schedule("x:hibernate", after=1000)

    @room.on_schedule("x")
    async def x(ctx: Context[None], fire: Fire[None]) -> None:
        ctx.app.append(fire.name)

    async with open_rooms([room], store=store, app=done) as rooms:
        handle = rooms.get("r", "1")
        await handle.ask("task")
        await trio.sleep(10)
        await handle.hibernate()
        assert set(await handle.schedules()) == {"x:create", "x:hibernate", "x:task"}
        await trio.sleep(100)
        assert sorted(done) == ["x:create", "x:task"]
        assert set(await handle.schedules()) == {"x:hibernate", "x:wake"}
        await trio.sleep(105)
        assert sorted(done) == ["x:create", "x:task", "x:wake"]


async def later(ctx: Context[None]) -> None:
    """A task of the room."""
    await trio.sleep(5)
    ctx.room.schedule("x:task", after=90)


async def test_a_durable_handler_of_a_snapshot_room(autojump_clock: MockClock) -> None:
    """What it schedules is durable when it is answered; so it is after a cut that a handler asks for."""
    store = FaultyStore(MemoryStore())
    room = a_room(snapshot_interval=1000)

    @room.on("durably", durable=True)
    async def durably(ctx: Context[Log]) -> None:
        ctx.room.schedule("x:durable", after=5000)

    @room.on("cut")
    async def cut(ctx: Context[Log]) -> None:
        ctx.room.schedule("x:cut", after=5000)
        await ctx.commit()
        ctx.room.schedule("x:behind", after=5000)

    async with open_rooms([room], store=store, app=World()) as rooms:
        handle = rooms.get("r", "1")
        await handle.ask("durably")
        assert await store.timer("r/1", "x:durable")
        await handle.ask("cut")
        assert await store.timer("r/1", "x:cut")
        assert not await store.timer("r/1", "x:behind")
        store.fail_commits(StoreFull)
        with pytest.raises(NotSaved):
            await handle.ask("durably")


async def test_without_handlers(autojump_clock: MockClock) -> None:
    """A program that has no schedules any more wakes the room, and is told that what was scheduled fails."""
    store = MemoryStore()
    async with opened(store=store) as room:
        await room.schedule_durably("x", after=1)
    none: Room[Log] = Room("r", state=Log)
    async with open_rooms([none], store=store) as rooms:
        await trio.sleep(10)
        listed = (await rooms.get("r", "1").schedules())["x"]
        assert listed.failed >= 1
        assert await rooms.get("r", "1").cancel_durably("x")


# Asleep, and after a restart.


@BOTH
async def test_it_wakes_a_room_that_sleeps(autojump_clock: MockClock, durability: str) -> None:
    """The room is told why, and sleeps again as soon as that is handled."""
    async with opened(durability=durability) as room:
        await room.ask("do", {"name": "x", "after": 1000})
        await room.hibernate()
        await trio.sleep(999)
        assert room.info().stage is Stage.ASLEEP
        await trio.sleep(2)
        assert room.info().stage is Stage.ASLEEP
        assert len(await fired(room)) == 1
        assert (await room.ask("log"))["causes"] == ["schedule", "ask"]


async def test_a_room_stays_awake_for_more(autojump_clock: MockClock) -> None:
    """If something else has come, or the next one is due soon, it sleeps when it would have slept anyway."""
    async with opened(idle_timeout=100) as room:
        await room.schedule_durably("x", every=5)
        await trio.sleep(7)
        assert room.info().stage is Stage.AWAKE
        await trio.sleep(1000)
        assert (await room.ask("log"))["causes"] == []
        await room.cancel_durably("x")
        await room.schedule_durably("x:2", after=1000)
        await trio.sleep(102)
        assert room.info().stage is Stage.ASLEEP


@BOTH
async def test_it_is_made_by_what_is_scheduled(autojump_clock: MockClock, durability: str) -> None:
    """A room that never was can be scheduled; it begins to be when that is due."""
    store = MemoryStore()
    async with opened(store=store, durability=durability) as room:
        await room.schedule_durably("x", after=100)
        assert room.info().stage is Stage.ASLEEP
        assert await room.peek() is None
        assert await store.keys() == ["r/1"]
    async with opened(store=store, durability=durability) as room:
        await trio.sleep(200)
        assert len((await room.peek()).fired) == 1


@pytest.mark.parametrize(
    "when",
    [
        {"after": 1e300},
        {"every": 1e300},
        {"every": 10**400},
        {"at": datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)},
    ],
)
async def test_what_would_never_be_due_is_refused_at_once(
    when: dict[str, Any], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """By the call, also where it does not wait, and not by a line in the log."""
    async with opened() as room:
        with pytest.raises(ValueError, match=r"never be due|seconds that end"):
            room.schedule("x", **when)
        await trio.sleep(1)
        assert not await room.schedules()
    assert not caplog.text


@BOTH
async def test_due_while_nobody_ran(autojump_clock: MockClock, durability: str) -> None:
    """What came due between two processes is handled by the second, with the time at which it was due."""
    store, world = MemoryStore(), World()
    async with opened(world, store, durability=durability) as room:
        due = await room.ask("do", {"name": "x", "after": 100})
    await trio.sleep(1000)
    async with opened(world, store, durability=durability) as room:
        await trio.sleep(1)
        assert [(one.due, one.attempt) for one in world.seen] == [(due, 1)]


async def test_rooms_that_are_not_served(autojump_clock: MockClock) -> None:
    """What is scheduled for them waits, and keeps nobody else waiting."""
    store, world = MemoryStore(), World()
    async with open_rooms([a_room("other"), a_room()], store=store, app=world) as rooms:
        await rooms.get("other", "1").schedule_durably("x", after=10)
        await rooms.get("r", "1").schedule_durably("x", after=20)
    async with opened(world, store) as room:
        await trio.sleep(30)
        assert len(await fired(room)) == 1
    async with open_rooms([a_room("other")], store=store, app=world) as rooms:
        await trio.sleep(1)
        assert len(await fired(rooms.get("other", "1"))) == 1


async def test_nothing_is_handled_during_the_stop(autojump_clock: MockClock) -> None:
    """It is due in the next process."""
    store, world = MemoryStore(), World()
    room = a_room()

    @room.on_hibernate
    async def sleeps(ctx: Context[Log]) -> None:
        await trio.sleep(5)

    async with open_rooms([room], store=store, app=world) as rooms:
        await rooms.get("r", "1").ask("do", {"name": "x", "after": 2})
        await rooms.get("r", "2").schedule_durably("x", after=2)
    assert not world.seen
    async with open_rooms([a_room()], store=store, app=world) as rooms:
        await trio.sleep(1)
        assert len(world.seen) == 2


@BOTH
async def test_scheduled_at_the_last_moment(autojump_clock: MockClock, durability: str) -> None:
    """What is scheduled from outside just before the end of the program is there in the next one."""
    store = MemoryStore()
    async with opened(store=store, durability=durability) as room:
        for number in range(20):
            room.schedule(f"x:{number}", after=1000)
    async with opened(store=store, durability=durability) as room:
        assert len(await room.schedules()) == 20


# Missed.


@pytest.mark.parametrize(
    ("missed", "times"), [("once", [100, 1100]), ("all", [*range(100, 1101, 100)]), ("none", [1100])]
)
@BOTH
async def test_missed(autojump_clock: MockClock, durability: str, missed: Any, times: list[int]) -> None:
    """After 1,080 seconds during which nobody ran, and 30 more."""
    store, world = MemoryStore(), World()
    begin = now()
    async with opened(world, store, durability=durability) as room:
        await room.schedule_durably("x", at=begin + 100, every=100, missed=missed)
    await trio.sleep(1080)
    async with opened(world, store, durability=durability) as room:
        await trio.sleep(30)
        assert [round(one.due - begin) for one in world.seen] == times
        assert len({one.id for one in world.seen}) == len(times)
        assert (await room.schedules())["x"].due == pytest.approx(begin + 1200, abs=0.01)


async def test_missed_by_less_than_a_minute(autojump_clock: MockClock) -> None:
    """With "none" what is not a minute late is handled, and what is later is gone."""
    store, world = MemoryStore(), World()
    begin = now()
    async with opened(world, store) as room:
        await room.schedule_durably("x:early", at=begin + 100 - LATE, missed="none")
        await room.schedule_durably("x:late", at=begin + 100, missed="none")
    await trio.sleep(begin + 110 - now())
    async with opened(world, store) as room:
        await trio.sleep(10)
        assert [one.name for one in world.seen] == ["x:late"]
        assert not await room.schedules()


@BOTH
async def test_a_handler_that_takes_longer_than_the_period(
    autojump_clock: MockClock, durability: str
) -> None:
    """One at a time: those whose time passes meanwhile are let go, and the phase is kept."""
    world = World()
    world.takes = 25.0
    async with opened(world, durability=durability) as room:
        begin = await room.schedule_durably("x", every=10)
        await trio.sleep(100)
        assert [round(one.due - begin) for one in world.seen] == [0, 30, 60]
        await room.cancel_durably("x")


async def test_messages_have_their_turn(autojump_clock: MockClock) -> None:
    """A room that makes up for a thousand missed ones answers in between."""
    store, world = MemoryStore(), World()
    async with opened(world, store) as room:
        await room.schedule_durably("x", every=1, missed="all")
    await trio.sleep(500)
    world.takes = 1.0
    async with opened(world, store) as room:
        await trio.sleep(10.5)
        with trio.fail_after(3):
            await room.ask("log")
        assert 8 < len(world.seen) < 16
        await room.cancel_durably("x")


# Attempts.


@BOTH
async def test_a_handler_that_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, durability: str
) -> None:
    """It is tried again, as the same occurrence, later each time; and the listing says why."""
    world = World()
    world.fails = 4
    async with opened(world, durability=durability) as room:
        due = await room.ask("do", {"name": "x", "data": 7, "after": 1})
        await trio.sleep(1.2)
        listed = (await room.schedules())["x"]
        assert (listed.failed, listed.error) == (1, "ValueError: not now")
        await trio.sleep(60)
        assert [one.attempt for one in world.seen] == [1, 2, 3, 4, 5]
        assert {(one.id, one.due, one.data) for one in world.seen} == {(world.seen[0].id, due, 7)}
        assert not await room.schedules()
        assert len(world.errors) == 4
        assert {type(error) for error in world.errors} == {ValueError}
    assert "the schedule x" in caplog.text


@BOTH
async def test_given_up(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, durability: str) -> None:
    """After the last attempt it is kept and not due any more; it can be scheduled again, or cancelled."""
    store, world = MemoryStore(), World()
    world.fails = 6
    async with opened(world, store, durability=durability) as room:
        at = now() + 5
        await room.ask("do", {"name": "thrice", "at": at})
        await trio.sleep(100)
        assert [one.attempt for one in world.seen] == [1, 2, 3]
        listed = (await room.schedules())["thrice"]
        assert (listed.due, listed.failed, listed.error) == (None, 3, "ValueError: not now")
        error = world.errors[-1]
        assert isinstance(error, ScheduleGivenUp)
        assert (error.key, error.name, error.attempts) == ("r/1", "thrice", 3)
        assert isinstance(error.__cause__, ValueError)
        assert [record.levelname for record in caplog.records].count("CRITICAL") == 1
    async with opened(world, store, durability=durability) as room:
        await trio.sleep(1000)
        assert len(world.seen) == 3
        await room.ask("do", {"name": "thrice", "at": at})
        await trio.sleep(100)
        assert [one.attempt for one in world.seen[3:]] == [1, 2, 3]
        assert len({one.id for one in world.seen}) == 2
        assert await room.cancel_durably("thrice")
        assert not await room.schedules()


async def test_what_comes_again_goes_on(autojump_clock: MockClock) -> None:
    """An occurrence that is given up is no reason to let go of the next."""
    world = World()
    world.fails = 3
    async with opened(world) as room:
        begin = await room.schedule_durably("thrice", every=1000)
        await trio.sleep(1500)
        assert (await room.schedules())["thrice"].error == "ValueError: not now"
        await trio.sleep(1000)
        assert [(round(one.due - begin), one.attempt) for one in world.seen] == [
            (0, 1), (0, 2), (0, 3), (1000, 1),
        ]  # fmt: skip
        assert not (await room.schedules())["thrice"].error


async def test_attempts_are_counted_over_restarts(autojump_clock: MockClock) -> None:
    """How often it failed is in the store."""
    store, world = MemoryStore(), World()
    world.fails = 3
    async with opened(world, store) as room:
        await room.schedule_durably("thrice", after=1)
        await trio.sleep(3)
    async with opened(world, store) as room:
        await trio.sleep(100)
        assert [one.attempt for one in world.seen] == [1, 2, 3]
        assert (await room.schedules())["thrice"].due is None


async def test_data_that_does_not_fit(autojump_clock: MockClock) -> None:
    """It is an attempt that failed: another version of the program may be able to handle it."""
    world = World()
    async with opened(world) as room:
        await room.schedule_durably("typed", {"amount": "much"}, after=1)
        await trio.sleep(2)
        assert not world.seen
        listed = (await room.schedules())["typed"]
        assert listed.failed >= 1
        assert "amount" in listed.error
        assert isinstance(world.errors[0], EventError)


async def test_a_handler_that_is_gone(autojump_clock: MockClock) -> None:
    """The next version of the program has none: it is an attempt that failed."""
    store = MemoryStore()
    async with opened(store=store) as room:
        await room.schedule_durably("x", after=1)
    without: Room[Log] = Room("r", state=Log)

    @without.on_schedule("y")
    async def y(ctx: Context[Log]) -> None:
        pass

    async with open_rooms([without], store=store) as rooms:
        await trio.sleep(2)
        assert "on_schedule" in (await rooms.get("r", "1").schedules())["x"].error
    async with opened(store=store) as room:
        await trio.sleep(100)
        assert len(await fired(room)) == 1


async def test_what_cannot_be_read(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A row of another version is set aside, and listed; the others are handled."""
    store, world = MemoryStore(), World()
    async with opened(world, store) as room:
        await room.schedule_durably("x", after=1)
        await room.schedule_durably("x:2", after=2)
    async with store:
        head = await store.head("r/1")
        timer = await store.timer("r/1", "x")
        assert timer is not None
        other = attrs.evolve(timer, content=b"\xff")
        await store.commit(Commit("r/1", head.number + 1, store.epoch, timers={"x": other}))
    async with opened(world, store) as room:
        await trio.sleep(10)
        assert [one.name for one in world.seen] == ["x:2"]
        assert (await room.schedules())["x"].due is None
        await room.schedule_durably("x", after=1)
        await trio.sleep(10)
        assert [one.name for one in world.seen] == ["x:2", "x"]
    assert "is set aside" in caplog.text


# Crashes, commits that fail, and what was never durable.


class Crash(GeneratorExit):
    """What ends the room, and not only a handler."""


@BOTH
async def test_a_room_that_crashes_in_the_handler(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, durability: str
) -> None:
    """That is an attempt that failed, so a handler that always ends its room is given up in the end."""
    room: Room[Log] = Room("r", state=Log, durability=durability)  # type: ignore[arg-type]
    attempts: list[int] = []

    @room.on_schedule("bad", retry=Retry(attempts=4, first=60.0))
    async def bad(ctx: Context[Log], fire: Fire[list[int]]) -> None:
        ctx.app.append(fire.attempt)
        ctx.state.fired.append(["bad"])
        raise Crash

    @room.on_schedule("good")
    async def good(ctx: Context[Log]) -> None:
        ctx.state.fired.append(["good"])

    async with open_rooms([room], app=attempts) as rooms:
        handle = rooms.get("r", "1")
        await handle.schedule_durably("bad", [], after=1)
        await handle.schedule_durably("good", after=2)
        await trio.sleep(2000)
        assert attempts == [1, 2, 3, 4]
        assert (await handle.schedules())["bad"].due is None
        assert (await handle.peek()).fired == [["good"]]
    assert [record.levelname for record in caplog.records].count("CRITICAL") == 1


@BOTH
async def test_a_crash_takes_back_what_handlers_scheduled(autojump_clock: MockClock, durability: str) -> None:
    """And not what came from outside."""
    room = a_room(durability=durability, snapshot_interval=1000)

    @room.on("crash")
    async def crash(ctx: Context[Log]) -> None:
        ctx.room.schedule("x:inside", after=100)
        ctx.rooms.get("r", "1").schedule("x:outside", after=100)
        ctx.room.cancel("x:kept")
        raise Crash

    async with open_rooms([room], app=World()) as rooms:
        handle = rooms.get("r", "1")
        await handle.schedule_durably("x:kept", after=100)
        with pytest.raises(Exception, match="crashed"):
            await handle.ask("crash")
        handle.schedule("x:later", after=100)
        await trio.sleep(10)
        kept = {"x:kept", "x:later"} | ({"x:outside"} if durability == "snapshot" else set())
        assert set(await handle.schedules()) == kept
        await trio.sleep(200)
        assert {one[0] for one in await fired(handle)} == kept


async def test_a_crash_while_it_is_written(autojump_clock: MockClock) -> None:
    """What a handler scheduled goes with the state, if the commit that has both fails after the crash."""
    store = FaultyStore(MemoryStore())
    room = a_room()

    @room.on("crash")
    async def crash(ctx: Context[Log]) -> None:
        raise Crash

    async with open_rooms([room], store=store, app=World()) as rooms:
        handle = rooms.get("r", "1")
        await handle.schedule_durably("x:before", after=100)
        await handle.ask("log")
        gate = store.hold_commits()
        store.fail_commits(StoreFull)
        await handle.ask("do", {"name": "x", "after": 100})
        await gate.wait_arrived()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def crash() -> None:
                with pytest.raises(RoomFailed):
                    await handle.ask("crash")

            await trio.sleep(1)
            gate.release()
        await trio.sleep(10)
        assert set(await handle.schedules()) == {"x:before"}
        await trio.sleep(200)
        assert {one[0] for one in await fired(handle)} == {"x:before"}


async def test_a_commit_that_fails_takes_it_back(autojump_clock: MockClock) -> None:
    """What a handler scheduled goes with what it changed, and what was handled is handled again."""
    store, ids = FaultyStore(MemoryStore()), list[str]()
    room: Room[Log] = Room("r", state=Log, durability="commit")

    @room.on("do")
    async def do(ctx: Context[Log], data: str) -> None:
        ctx.room.schedule(data, after=100)

    @room.on_schedule("x")
    async def x(ctx: Context[Log], fire: Fire[None]) -> None:
        ctx.app.append(fire.id)
        ctx.state.fired.append([fire.attempt])

    async with open_rooms([room], store=store, app=ids) as rooms:
        handle = rooms.get("r", "1")
        await handle.ask("do", "x")
        store.fail_commits(StoreFull)
        with pytest.raises(NotSaved):
            await handle.ask("do", "x:2")
        assert set(await handle.schedules()) == {"x"}
        await trio.sleep(50)
        store.fail_commits(StoreFull, 2)
        await trio.sleep(100)
        assert len(ids) == 3
        assert len(set(ids)) == 1
        await handle.hibernate()
        assert (await handle.peek()).fired == [[1]]
        assert not await handle.schedules()


async def test_a_handler_that_takes_too_long(autojump_clock: MockClock) -> None:
    """In a "commit" room nothing of it is saved but that it failed."""
    world = World()
    world.takes = 50.0
    async with opened(world, durability="commit", handler_timeout=5.0) as room:
        await room.schedule_durably("thrice", after=1)
        await trio.sleep(200)
        assert [one.attempt for one in world.seen] == [1, 2, 3]
        assert (await room.schedules())["thrice"].due is None
        assert await fired(room) == []


@BOTH
async def test_nothing_is_handled_before_it_is_durable(autojump_clock: MockClock, durability: str) -> None:
    """However soon it is due: a payment that is made for what is lost then would be made for nothing."""
    store, world = FaultyStore(MemoryStore()), World()
    async with opened(world, store, durability=durability) as room:
        await room.ask("log")
        await wait_all_tasks_blocked()
        gate = store.hold_commits()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.ask, "do", {"name": "x", "after": 0})
            await trio.sleep(5)
            assert not world.seen
            gate.release()
            await trio.sleep(5)
            assert len(world.seen) == 1


async def test_a_snapshot_room_has_it_done_at_once(autojump_clock: MockClock) -> None:
    """What is due before the next snapshot is not made to wait for it."""
    world = World()
    async with opened(world, snapshot_interval=100) as room:
        await room.ask("do", {"name": "x", "after": 0})
        await trio.sleep(0.1)
        assert len(world.seen) == 1


async def test_a_store_that_cannot_be_read(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Who schedules from outside is told, and it is logged where nobody waits."""
    store = FaultyStore(MemoryStore())
    async with opened(store=store) as room:
        store.fail_reads(StoreError, 100)
        with pytest.raises(StoreError):
            await room.schedule_durably("x", after=1)
        room.schedule("x:2", after=1)
        await trio.sleep(10)
        assert not room._placement._records  # type: ignore[attr-defined]
    assert "a change of its schedules is lost" in caplog.text


async def test_a_room_that_cannot_be_loaded(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told again now and then, and what is due stays due."""
    store, world = FaultyStore(MemoryStore()), World()
    async with opened(world, store) as room:
        await room.ask("do", {"name": "x", "after": 20})
        await room.hibernate()
        store.fail_loads(StoreError, 15)
        await trio.sleep(80)
        assert not world.seen
        await trio.sleep(60)
        assert len(world.seen) == 1
    assert caplog.text.count("cannot be loaded and is tried again") < 40


async def test_from_another_room(autojump_clock: MockClock) -> None:
    """A handler schedules in other rooms, with a gate when what it wrote is durable and not before."""
    store, world = FaultyStore(MemoryStore()), World()
    room = a_room(durability="commit")

    @room.on("tell")
    async def tell(ctx: Context[Log]) -> None:
        ctx.state.fired.append(["told"])
        ctx.rooms.get("r", "2").schedule("x", after=10)

    @room.on("wait")
    async def wait(ctx: Context[Log]) -> float:
        return await ctx.rooms.get("r", "2").schedule_durably("x:2", after=10)

    @room.on("circle")
    async def circle(ctx: Context[Log]) -> None:
        await ctx.rooms.get("r", "1").schedule_durably("x", after=10)

    async with open_rooms([room], store=store, app=world) as rooms:
        one, two = rooms.get("r", "1"), rooms.get("r", "2")
        await one.ask("log")
        store.fail_commits(StoreFull)
        with pytest.raises(NotSaved):
            await one.ask("tell")
        await trio.sleep(1)
        assert not await two.schedules()
        await one.ask("tell")
        await one.ask("wait")
        await trio.sleep(1)
        assert set(await two.schedules()) == {"x", "x:2"}
        with pytest.raises(HandlerFailed) as raised:
            await one.ask("circle", timeout=5)
        assert isinstance(raised.value.__cause__, AskCircle)


async def test_a_context_that_was_kept(autojump_clock: MockClock) -> None:
    """Who keeps a context beyond the life of its room finds out."""
    world = World()
    async with opened(world) as room:
        await room.ask("keep")
        await room.hibernate()
        (ctx,) = world.contexts
        with pytest.raises(StaleContext):
            ctx.room.schedule("x", after=1)
        with pytest.raises(StaleContext):
            ctx.room.cancel("x")
        with pytest.raises(StaleContext):
            _ = ctx.room.schedules


async def test_after_the_end(autojump_clock: MockClock) -> None:
    """A handle that outlives the rooms refuses."""
    async with opened() as room:
        pass
    with pytest.raises(RoomsClosed):
        await room.schedule_durably("x", after=1)


@BOTH
async def test_a_destroyed_room(autojump_clock: MockClock, durability: str) -> None:
    """What it had scheduled goes with it; what is scheduled later is of the next one."""
    async with opened(durability=durability) as room:
        await room.ask("do", {"name": "x", "after": 10})
        await room.destroy()
        assert not await room.schedules()
        await trio.sleep(20)
        assert await room.peek() is None
        await room.schedule_durably("x:2", after=10)
        await trio.sleep(20)
        assert [one[0] for one in (await room.peek()).fired] == ["x:2"]


async def test_a_room_with_many(autojump_clock: MockClock) -> None:
    """Thousands that are due at once in one room are each handled once."""
    world = World()
    async with opened(world, durability="commit") as room:
        at = now() + 10
        for number in range(2000):
            room.schedule(f"x:{number}", at=at)
        await trio.sleep(20)
        assert sorted(one.name for one in world.seen) == sorted(f"x:{number}" for number in range(2000))
        assert not await room.schedules()


def test_ids_do_not_repeat() -> None:
    """Of any two occurrences, in any rooms and processes."""
    a, b = (Scheduled(name="x", id=one, due=1.0, time=1.0, data=b"", count=2) for one in ("a" * 16, "b" * 16))
    assert a.occurrence != b.occurrence
    assert a.occurrence != attrs.evolve(a, count=3).occurrence
