"""Who is awake: rooms that somebody else wrote, that cool down, and what stays of those that sleep."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    Disconnect,
    HandlerFailed,
    MemoryStore,
    Room,
    RoomFailed,
    RoomHandle,
    Rooms,
    RoomsClosed,
    Stage,
    StaleWrite,
    StoreError,
    open_rooms,
)
from trio_rooms._runtime import supervisor
from trio_rooms._state.record import Record
from trio_rooms.testing import FaultyStore, connect

INTERVAL = 1.0


@attrs.define(eq=False)
class Journal:
    """What the rooms of a test wait for."""

    gate: trio.Event = attrs.field(factory=trio.Event)
    began: trio.Event = attrs.field(factory=trio.Event)


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


State = dict[str, Any]


async def _note(ctx: Context[State], data: str) -> list[str]:
    ctx.state.setdefault("notes", []).append(data)
    return [*ctx.state["notes"]]


async def _put(ctx: Context[State], data: str) -> None:
    ctx.room.storage.put(data, 1)


async def _names(ctx: Context[State]) -> list[str]:
    return [*await ctx.room.storage.list()]


async def _slow(ctx: Context[State]) -> None:
    ctx.state["slow"] = "begun"
    journal.began.set()
    await journal.gate.wait()


async def _crash(ctx: Context[State]) -> None:
    ctx.room.start_soon(_raise)


async def _raise() -> None:
    raise ZeroDivisionError


async def _untidy(ctx: Context[State], data: float) -> None:
    ctx.room.start_soon(_tidy_up, ctx, data)


async def _tidy_up(ctx: Context[State], seconds: float) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            ctx.room.storage.put("too late", 1)
            await trio.sleep(seconds)


def book() -> Room[State]:
    """The room under test."""
    room: Room[State] = Room("book", state=dict, idle_timeout=10, snapshot_interval=INTERVAL)
    room.on("note")(_note)
    room.on("put")(_put)
    room.on("names")(_names)
    room.on("slow")(_slow)
    room.on("crash")(_crash)
    room.on("untidy")(_untidy)
    return room


@attrs.define(eq=False)
class Running:
    """Rooms that run, one of them, and their store."""

    rooms: Rooms
    room: RoomHandle
    store: FaultyStore

    async def number(self) -> int:
        """That of the last commit of the room."""
        return (await self.store.head("book/x")).number

    async def written_by_another(self, *notes: str) -> int:
        """Somebody else writes the room, as a process does that took it over; the number of its commit."""
        other = Record("book/x", book().seal(), self.store)
        await other.load()
        await other.save(lambda: {"notes": [*notes]})
        return other.number


@contextlib.asynccontextmanager
async def running(stop_timeout: float = 10) -> AsyncIterator[Running]:
    """The book over a store in memory."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([book()], store=store, stop_timeout=stop_timeout) as rooms:
        yield Running(rooms, rooms.get("book", "x"), store)


# Somebody else wrote the room.


async def test_a_stale_room_drops_what_it_has_and_begins_with_what_the_other_wrote(
    autojump_clock: MockClock,
) -> None:
    """Nothing of its own is written, its storage included; its commits then follow the other's."""
    async with running() as run:
        await run.room.ask("note", "mine")
        await trio.sleep(INTERVAL)
        number = await run.written_by_another("theirs")
        await run.room.ask("put", "mine")
        assert await run.room.ask("note", "lost") == ["mine", "lost"]
        await trio.sleep(INTERVAL)
        assert run.rooms.statistics().supervisor.crashes == 1
        assert await run.number() == number
        assert await run.room.peek() == {"notes": ["theirs"]}
        assert await run.room.ask("names") == []
        assert await run.room.ask("note", "again") == ["theirs", "again"]
        await trio.sleep(INTERVAL)
        assert await run.number() == number + 1
        assert run.rooms.statistics().supervisor.crashes == 1


async def test_mail_that_waits_in_a_stale_room_is_handled_on_the_state_of_the_other(
    autojump_clock: MockClock,
) -> None:
    """What was being handled is told that it failed; what waited behind it is not, and keeps its order."""
    answers: dict[str, Any] = {}
    async with running() as run, trio.open_nursery() as nursery:

        async def ask(event: str, data: str) -> None:
            try:
                answers[data] = await run.room.ask(event, data)
            except RoomFailed as error:
                answers[data] = type(error.__cause__)

        await run.room.ask("note", "mine")
        await trio.sleep(INTERVAL)
        nursery.start_soon(ask, "slow", "current")
        await journal.began.wait()
        for data in ("first", "second"):
            nursery.start_soon(ask, "note", data)
            await wait_all_tasks_blocked()
        await run.written_by_another("theirs")
        await trio.sleep(2 * INTERVAL)
        assert answers == {
            "current": StaleWrite,
            "first": ["theirs", "first"],
            "second": ["theirs", "first", "second"],
        }
        await run.room.hibernate()
        assert await run.room.peek() == {"notes": ["theirs", "first", "second"]}


@pytest.mark.parametrize("end", [RoomHandle.hibernate, RoomHandle.destroy])
async def test_a_stale_room_neither_sleeps_nor_is_destroyed(
    end: Callable[[RoomHandle], Any], autojump_clock: MockClock
) -> None:
    """Who wanted it is told; what the other wrote is all that there is, and the room goes on with it."""
    async with running() as run:
        await run.room.ask("note", "mine")
        await trio.sleep(INTERVAL)
        await run.room.ask("note", "lost")
        number = await run.written_by_another("theirs")
        with pytest.raises(RoomFailed, match="crashed"):
            await end(run.room)
        assert await run.number() == number
        assert await run.room.ask("note", "again") == ["theirs", "again"]


async def test_a_stale_room_that_changed_nothing_notices_nothing(autojump_clock: MockClock) -> None:
    """It has nothing to write: it sleeps, and wakes with what the other wrote."""
    async with running() as run:
        await run.room.ask("note", "mine")
        await trio.sleep(INTERVAL)
        await run.written_by_another("theirs")
        assert await run.room.hibernate()
        assert await run.room.ask("note", "again") == ["theirs", "again"]
        assert run.rooms.statistics().supervisor.crashes == 0


# Rooms that cool down.


async def given_up(run: Running) -> None:
    """Crash the room until it is left alone."""
    for _ in range(6):
        with contextlib.suppress(RoomFailed):
            await run.room.ask("crash")
        await trio.sleep(3)
    assert run.room.info().stage is Stage.FAILED


async def test_a_room_that_is_given_up_leaves_no_record(autojump_clock: MockClock) -> None:
    """Also where more was to be saved while the last crash waited for a commit in flight."""
    room: Room[State] = Room("room", state=dict, snapshot_interval=0.2)

    async def crash(ctx: Context[State]) -> None:
        await trio.sleep(0.15)
        ctx.state["in doubt"] = True
        raise ValueError

    @room.on("crash later")
    async def crash_later(ctx: Context[State]) -> None:
        ctx.state["times"] = ctx.state.get("times", 0) + 1
        ctx.room.start_soon(crash, ctx)

    store = FaultyStore(MemoryStore(), delay=1)
    async with open_rooms([room], store=store) as rooms:
        handle = rooms.get("room", "x")
        for _ in range(6):
            await handle.ask("crash later")
            await trio.sleep(5)
        assert handle.info().stage is Stage.FAILED
        assert rooms._supervisor._records == {}


async def test_a_room_that_is_killed_leaves_no_record() -> None:
    """Once its state is saved, nothing of it is on its way to the store."""
    async with running(stop_timeout=0) as run, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(RoomsClosed):
                await run.room.ask("slow", "x")

        nursery.start_soon(ask)
        await journal.began.wait()
        await run.rooms.aclose()
        assert run.rooms._supervisor._records == {}


async def test_a_room_that_cools_down_costs_nothing_for_what_it_refuses(autojump_clock: MockClock) -> None:
    """Each sender is told; no actor is made, no store is asked, and no record stays."""
    async with running() as run:
        await given_up(run)
        wakes = run.rooms.statistics().supervisor.wakes
        run.store.calls.clear()
        with pytest.raises(RoomFailed, match="left alone"):
            await run.room.ask("note", "x")
        assert run.rooms.statistics().hub.rosters == 0
        async with connect(run.rooms, "book/x") as client:
            for number in range(20):
                await client.emit("note", "x", id=number)
                answer = await client.receive()
                assert (answer["ack"], answer["error"]["code"]) == (number, "room_failed")
                with pytest.raises(RoomFailed, match="left alone"):
                    await run.room.ask("note", "x")
                with pytest.raises(RoomFailed, match="left alone"):
                    await run.room.destroy()
                assert await run.room.hibernate()
            assert run.rooms.statistics().supervisor.awake == 0
            assert run.rooms.statistics().hub.rosters == 1
        await wait_all_tasks_blocked()
        assert run.rooms.statistics().supervisor.wakes == wakes
        assert run.rooms.statistics().hub.rosters == 0
        assert run.store.calls == []
        assert run.rooms._supervisor._records == {}


# What stays of a room that sleeps.


async def test_the_next_actor_takes_over_the_record_of_one_that_still_unwinds(
    autojump_clock: MockClock,
) -> None:
    """It counts on from the same commit, which has what the old one's tasks wrote until they had ended."""
    async with running() as run:
        await run.room.ask("note", "one")
        await run.room.ask("untidy", 5)
        assert await run.room.hibernate()
        number = await run.number()
        record = run.rooms._supervisor._records["book/x"]
        began = trio.current_time()
        assert await run.room.ask("note", "two") == ["one", "two"]
        assert trio.current_time() - began == pytest.approx(5)
        assert run.rooms._supervisor._records["book/x"] is record
        assert await run.room.ask("names") == ["too late"]
        await run.room.ask("put", "in time")
        await run.room.hibernate()
        assert [name for name, _ in await run.store.list("book/x")] == ["in time", "too late"]
        assert await run.number() == number + 2
        assert run.rooms.statistics().supervisor.crashes == 0


async def test_a_task_that_writes_as_it_is_cancelled_leaves_no_record(autojump_clock: MockClock) -> None:
    """What a task writes while its sleeping room cancels it is kept, and nothing stays in memory for it."""
    async with running() as run:
        await run.room.ask("untidy", 1)
        assert await run.room.hibernate()
        await trio.sleep(30)
        assert [name for name, _ in await run.store.list("book/x")] == ["too late"]
        assert run.rooms._supervisor._records == {}
        assert run.rooms._supervisor._ending == {}


async def test_a_commit_in_flight_at_a_crash_is_waited_for(autojump_clock: MockClock) -> None:
    """The next life of the room loads what that commit wrote, and its own commits follow it."""
    async with running() as run:
        await run.room.ask("note", "one")
        gate = run.store.hold_commits()
        await gate.wait_arrived()
        await run.room.ask("crash")
        await wait_all_tasks_blocked()
        assert run.room.info().stage is Stage.AWAKE
        gate.release()
        assert await run.room.ask("note", "two") == ["one", "two"]
        assert await run.room.hibernate()
        assert await run.number() == 2
        assert run.rooms.statistics().supervisor.crashes == 1


# What a room raises is its own.


class Odd(BaseException):
    """What is no exception."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "an error": ValueError,
    "no exception": Odd,
    "the end of a generator": GeneratorExit,
    "both": lambda: BaseExceptionGroup("", [Odd(), ValueError()]),
}


async def _untidy_task(error: BaseException, seconds: float) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error


async def _untidy_tasks(ctx: Context[State], data: str) -> None:
    ctx.room.start_soon(trio.sleep_forever)
    for seconds in (0, 3):
        ctx.room.start_soon(_untidy_task, RAISED[data](), seconds)


async def _raise_in_task(ctx: Context[State], data: str) -> None:
    ctx.room.start_soon(_raise_this, RAISED[data]())
    await trio.sleep(0.1)


async def _raise_this(error: BaseException) -> None:
    raise error


async def _raise_in_handler(_ctx: Context[State], data: str) -> None:
    error = RAISED[data]()
    raise error


async def _hang(_ctx: Context[State]) -> None:
    await trio.sleep_forever()


async def _hang_shielded(_ctx: Context[State]) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(30)


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize(
    "end", ["sleep", "destroy", "task", "handler", "stop", "hang", "hang shielded", "cancel"]
)
async def test_nothing_that_a_room_raises_leaves_it(raised: str, end: str, autojump_clock: MockClock) -> None:
    """Also what its tasks raise as they are cancelled: the other rooms go on, and all are saved."""
    room = book()
    room.on("untidy tasks")(_untidy_tasks)
    room.on("task")(_raise_in_task)
    room.on("handler")(_raise_in_handler)
    room.on("hang")(_hang)
    room.on("hang shielded")(_hang_shielded)
    store = MemoryStore()

    async def ask(event: str, data: str | None = None) -> None:
        with contextlib.suppress(HandlerFailed, RoomFailed, RoomsClosed):
            await handle.ask(event, data)

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery, open_rooms([room], store=store, stop_timeout=2) as rooms:
            handle, other = rooms.get("book", "x"), rooms.get("book", "y")
            assert await other.ask("note", "before") == ["before"]
            await handle.ask("untidy tasks", raised)
            if end in ("sleep", "destroy"):
                await (handle.hibernate() if end == "sleep" else handle.destroy())
            elif end in ("task", "handler"):
                await ask(end, raised)
            elif end in ("hang", "hang shielded"):
                nursery.start_soon(ask, end)
                await trio.sleep(0.1)
            if end in ("sleep", "destroy", "task", "handler"):
                await trio.sleep(5)
            assert await other.ask("note", "after") == ["before", "after"]
            if end == "cancel":
                nursery.cancel_scope.cancel()
    async with open_rooms([room], store=store) as rooms:
        assert (await rooms.get("book", "y").peek())["notes"] == ["before", "after"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_ends_it_in_order(
    end: type[BaseException], autojump_clock: MockClock
) -> None:
    """Also beside another error, and where tasks raise as they are cancelled: all rooms are saved."""
    room = book()
    room.on("untidy tasks")(_untidy_tasks)

    @room.on("end")
    async def end_it(ctx: Context[State]) -> None:
        ctx.state["notes"].append("last")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_raise_this, ValueError())
            nursery.start_soon(_raise_this, end())

    store = MemoryStore()
    with pytest.raises(end):  # noqa: PT012 (the block is what is tested)
        async with open_rooms([room], store=store) as rooms:
            for name in "xy":
                await rooms.get("book", name).ask("note", name)
                await rooms.get("book", name).ask("untidy tasks", "an error")
            await rooms.get("book", "x").ask("end")
    async with open_rooms([room], store=store) as rooms:
        assert (await rooms.get("book", "x").peek())["notes"] == ["x", "last"]
        assert (await rooms.get("book", "y").peek())["notes"] == ["y"]


async def test_everybody_who_is_told_of_a_failure_raises_an_error_of_his_own(
    autojump_clock: MockClock,
) -> None:
    """With the same cause: an error that two tasks raise has the traceback of both."""
    store, told = FaultyStore(MemoryStore()), list[RoomFailed]()

    async def ask(what: Callable[[], Awaitable[Any]]) -> None:
        try:
            await what()
        except RoomFailed as error:
            told.append(error)

    async with open_rooms([book()], store=store) as rooms:
        room = rooms.get("book", "x")
        store.fail_loads(lambda: StoreError("on purpose"), 100)
        async with trio.open_nursery() as nursery:
            for what in (
                partial(room.ask, "names"),
                partial(room.ask, "names"),
                room.hibernate,
                room.destroy,
            ):
                nursery.start_soon(ask, what)
                await wait_all_tasks_blocked()
    assert len(told) == len({*map(id, told)}) == 4
    assert len({*map(str, told)}) == 1
    assert {type(error.__cause__) for error in told} == {StoreError}


# Who leaves a room that sleeps.


async def _seen(ctx: Context[State]) -> None:
    ctx.state.setdefault("here", []).append(ctx.connection.attachment)


async def _missed(ctx: Context[State], left: Disconnect) -> None:
    await trio.sleep(0.1)
    ctx.state["here"].remove(left.attachment)
    ctx.room.emit("here", ctx.state["here"])


def presence(**options: Any) -> Room[State]:
    """Shows who is there."""
    room: Room[State] = Room("presence", state=dict, idle_timeout=10, snapshot_interval=INTERVAL, **options)
    room.on_connect(_seen)
    room.on_disconnect(_missed)
    return room


@pytest.mark.parametrize("many", [1, 50])
@pytest.mark.parametrize("wakes", [False, True])
async def test_a_departure_wakes_a_room_that_is_to_hear_of_it_at_once(
    wakes: bool, many: int, autojump_clock: MockClock
) -> None:
    """Those who stay are told then, and not when something else wakes it; many at once wake it once."""
    async with open_rooms([presence(wake_on_disconnect=wakes)]) as rooms:
        room = rooms.get("presence", "x")
        async with connect(rooms, "presence/x", attachment="stays") as stays:
            async with contextlib.AsyncExitStack() as leave:
                for number in range(many):
                    await leave.enter_async_context(connect(rooms, "presence/x", attachment=number))
                await wait_all_tasks_blocked()
                await room.hibernate()
                woken = rooms.statistics().supervisor.wakes
            await trio.sleep(60)
            assert room.info().stage is Stage.ASLEEP
            assert rooms.statistics().supervisor.wakes == woken + wakes
            assert len((await room.peek())["here"]) == 1 + (0 if wakes else many)
            if wakes:
                assert (await stays.receive_many(many))[-1]["data"] == ["stays"]
        await trio.sleep(60)
        assert (await room.peek())["here"] == []


async def test_a_departure_wakes_nobody_at_the_stop(autojump_clock: MockClock) -> None:
    """Who ends with the server is told to nobody; an awake room hears of those that left before."""
    store = MemoryStore()
    async with open_rooms([presence(wake_on_disconnect=True)], store=store) as rooms:
        for id_ in "xy":
            handle = rooms.get("presence", id_)
            async with connect(rooms, f"presence/{id_}", attachment="stays") as stays:
                async with connect(rooms, f"presence/{id_}", attachment="leaves"):
                    await wait_all_tasks_blocked()
                    if id_ == "x":
                        await handle.hibernate()
                if id_ == "y":
                    await rooms.aclose()
                    assert await stays.receive() == {"event": "here", "data": ["stays"]}
            if id_ == "x":
                await trio.sleep(60)
                assert (await handle.peek())["here"] == []
    async with open_rooms([presence()], store=store) as rooms:
        assert (await rooms.get("presence", "y").peek())["here"] == ["stays"]


async def test_a_departure_of_a_room_that_cannot_be_loaded_is_kept(autojump_clock: MockClock) -> None:
    """Until it can; it was woken for it, and is not tried again for that alone."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([presence(wake_on_disconnect=True)], store=store) as rooms:
        room = rooms.get("presence", "x")
        async with connect(rooms, "presence/x", attachment="stays"):
            async with connect(rooms, "presence/x", attachment="leaves"):
                await wait_all_tasks_blocked()
                await room.hibernate()
                store.fail_loads(lambda: StoreError("on purpose"), 5)
            await trio.sleep(60)
            assert len((await room.peek())["here"]) == 2
            async with connect(rooms, "presence/x", attachment="third"):
                await trio.sleep(60)
                assert (await room.peek())["here"] == ["stays", "third"]


def diary(version: int) -> Room[State]:
    """Hears of everyone who leaves, and of nobody who comes."""
    room: Room[State] = Room("diary", state=dict, version=version, idle_timeout=10)
    room.on("nop")(_nop)
    room.on_disconnect(_left)
    return room


async def _nop(_ctx: Context[State]) -> None:
    """Nothing: it makes the room."""


async def _left(ctx: Context[State]) -> None:
    ctx.state["left"] = ctx.state.get("left", 0) + 1


async def visit(rooms: Rooms, times: int) -> None:
    """Come and go."""
    for _ in range(times):
        async with connect(rooms, "diary/x"):
            """Nothing."""
        await wait_all_tasks_blocked()


async def test_visits_to_a_room_that_cannot_be_read_leave_nothing() -> None:
    """This program will never tell the room of them."""
    store = MemoryStore()
    async with open_rooms([diary(2)], store=store) as rooms:
        await rooms.get("diary", "x").ask("nop")
    async with open_rooms([diary(1)], store=store) as rooms:
        async with connect(rooms, "diary/x"):
            await visit(rooms, 5)
            with pytest.raises(RoomFailed):
                await rooms.get("diary", "x").ask("nop")
            assert rooms._hub.rosters["diary/x"].departed is None
        await wait_all_tasks_blocked()
        assert rooms.statistics().hub.rosters == 0
        assert rooms._supervisor._records == {}


async def test_visits_while_the_store_fails_are_remembered_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The newest are told to the room once it can be loaded, and no more are kept however many come."""
    monkeypatch.setattr(supervisor, "_MOST_DEPARTED", 7)
    store = FaultyStore(MemoryStore())
    async with open_rooms([diary(1)], store=store) as rooms:
        room = rooms.get("diary", "x")
        await room.ask("nop")
        await room.hibernate()
        store.fail_loads(lambda: StoreError("on purpose"), 1_000_000)
        for _ in range(20):
            await visit(rooms, 1)
            await trio.sleep(5)
            assert len(rooms._hub.rosters["diary/x"].departed or ()) <= 7
        store._load_faults.clear()
        await room.ask("nop")
        await room.hibernate()
        assert (await room.peek())["left"] == 7
        assert rooms.statistics().hub.rosters == 0


async def _raise_now(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("where", ["handler", "task", "beside a crash"])
async def test_an_exit_keeps_state_and_storage_together(where: str, autojump_clock: MockClock) -> None:
    """What its room had written goes with the state that it has then, or neither does."""
    room = book()

    @room.on("exit")
    async def leave(ctx: Context[State]) -> None:
        ctx.state["notes"].append("last")
        ctx.room.storage.put("last", 1)
        if where == "handler":
            raise SystemExit(3)
        if where == "beside a crash":
            ctx.room.start_soon(_raise_now, ValueError())
        ctx.room.start_soon(_raise_now, SystemExit(3))
        await trio.sleep_forever()

    store = MemoryStore()
    with pytest.raises(SystemExit):  # noqa: PT012 (the block is what is tested)
        async with open_rooms([room], store=store) as rooms:
            await rooms.get("book", "x").ask("note", "first")
            await rooms.get("book", "x").ask("put", "first")
            await trio.sleep(2 * INTERVAL)
            await rooms.get("book", "x").ask("exit")
    async with open_rooms([book()], store=store) as rooms:
        notes = (await rooms.get("book", "x").peek())["notes"]
        assert await rooms.get("book", "x").ask("names") == notes
        assert notes == (["first", "last"] if where != "beside a crash" else notes)


async def test_what_comes_while_a_cancelled_room_is_saved_is_answered(autojump_clock: MockClock) -> None:
    """Nobody waits for ever; and who sent what was cancelled is not told that nothing was done."""
    store, told = FaultyStore(MemoryStore()), list[str]()

    async def ask(what: Callable[[], Awaitable[Any]]) -> None:
        try:
            await what()
        except RoomsClosed:
            told.append("closed")

    with trio.fail_after(1000):
        async with (
            trio.open_nursery() as nursery,
            open_rooms([book()], store=store, stop_timeout=3) as rooms,
        ):
            room = rooms.get("book", "x")
            async with connect(rooms, "book/x") as client:
                await client.emit("slow", id=1)
                await journal.began.wait()
                gate = store.hold_commits()
                nursery.start_soon(rooms.aclose)
                await gate.wait_arrived()
                await trio.sleep(4)
                for what in (partial(room.ask, "names"), room.hibernate, room.destroy):
                    nursery.start_soon(ask, what)
                await wait_all_tasks_blocked()
                gate.release()
                answer = await client.receive()
                assert answer["ack"] == 1
                assert answer["error"]["code"] == "internal_error"
    assert told == ["closed"] * 3


async def _changes_late(ctx: Context[State], seconds: float) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        ctx.state["late"] = True
        ctx.room.storage.put("late", 1)
        raise ValueError


@pytest.mark.parametrize("seconds", [0, 2])
@pytest.mark.parametrize("end", ["sleep", "stop", "sleep and stop"])
async def test_what_tasks_change_as_they_are_cancelled_is_kept_although_they_raise(
    end: str, seconds: float, autojump_clock: MockClock
) -> None:
    """The stop waits for them as well, though their room sleeps."""
    room = book()

    @room.on("start")
    async def start(ctx: Context[State]) -> None:
        ctx.room.start_soon(_changes_late, ctx, seconds)

    store = MemoryStore()
    async with open_rooms([room], store=store) as rooms:
        await rooms.get("book", "x").ask("start")
        if end != "stop":
            assert await rooms.get("book", "x").hibernate()
        if end == "sleep":
            await trio.sleep(10)
            assert (await rooms.get("book", "x").peek()) == {"late": True}
    async with open_rooms([book()], store=store) as rooms:
        assert (await rooms.get("book", "x").peek()) == {"late": True}
        assert await rooms.get("book", "x").ask("names") == ["late"]


async def test_a_room_that_sleeps_keeps_its_connections_closer_together(autojump_clock: MockClock) -> None:
    """It reaches all of them, asleep and awake, who comes meanwhile as well, and not who leaves."""
    async with open_rooms([Room("book", resume_window=0)]) as rooms, contextlib.AsyncExitStack() as stack:
        room, roster = rooms.get("book", "x"), rooms._supervisor.roster("book/x")
        clients = [await stack.enter_async_context(connect(rooms, "book/x")) for _ in range(2)]

        async def check() -> None:
            room.emit("news", len(clients))
            assert room.info().connections == roster.count == len(clients)
            for client in clients:
                assert (await client.receive())["data"] == len(clients)

        for _ in range(2):
            await check()
            clients.append(await stack.enter_async_context(connect(rooms, "book/x")))
            await check()
            await clients.pop(0).hang_up()
            await wait_all_tasks_blocked()
            await check()
            rooms._supervisor.rouse("book/x")
            await check()
            assert isinstance(roster.holder, dict)
            assert await room.hibernate()
            assert isinstance(roster.holder, tuple)
