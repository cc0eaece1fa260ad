"""One awake room: mail, idleness, saving, crashing, and the races between them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import cbor2
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    Disconnect,
    EventError,
    HandlerFailed,
    MemoryStore,
    Policy,
    Room,
    RoomFailed,
    RoomHandle,
    Rooms,
    Stage,
    StateError,
    StoreFull,
    WakeReport,
    open_rooms,
)
from trio_rooms.testing import FaultyStore, connect

IDLE = 10.0


@attrs.define
class State:
    """What the counter under test remembers."""

    total: int = 0
    seen: list[Any] = attrs.field(factory=list)
    nested: dict[str, list[int]] = attrs.field(factory=dict)


@attrs.define
class Add:
    """An addition."""

    amount: int


@attrs.define(eq=False)
class Journal:
    """What happened in the rooms of a test; handlers are static, so it lives in the module."""

    reports: list[WakeReport] = attrs.field(factory=list)
    errors: list[Exception] = attrs.field(factory=list)
    hooks: list[str] = attrs.field(factory=list)
    left: list[Disconnect] = attrs.field(factory=list)
    crash_on_wake: int = 0
    crash_on_hibernate: int = 0
    crash_on_destroy: int = 0
    gate: trio.Event = attrs.field(factory=trio.Event)
    entered: trio.Event = attrs.field(factory=trio.Event)
    running: int = 0
    cancelled: int = 0


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


def counter_room(**options: Any) -> Room[State]:
    """The room under test; a new definition each time, with the handlers of this module."""
    room = Room("counter", state=State, **{"idle_timeout": IDLE, "snapshot_interval": 2.0, **options})
    room.on("add")(_add)
    room.on("note")(_note)
    room.on("slow")(_slow)
    room.on("boom")(_boom)
    room.on("spoil")(_spoil)
    room.on("mend")(_mend)
    room.on("hold")(_hold)
    room.on("tasks")(_tasks)
    room.on("untidy")(_untidy)
    room.on("ticker")(_ticker)
    room.on("crash")(_crash)
    room.on("crash and wait")(_crash_and_wait)
    room.on("nap")(_nap)
    room.on("grow")(_grow)
    room.on("destroy")(_destroy)
    room.on("whoami")(_whoami)
    room.on("join")(_join)
    room.on_wake(_woke)
    room.on_create(_created)
    room.on_hibernate(_sleeps)
    room.on_destroy(_destroyed)
    room.on_error(_failed)
    return room


async def _add(ctx: Context[State], data: Add) -> int:
    ctx.state.total += data.amount
    return ctx.state.total


async def _note(ctx: Context[State], data: Any) -> None:
    ctx.state.seen.append(data)
    ctx.state.nested.setdefault("deep", []).append(len(ctx.state.seen))
    ctx.room.emit("noted", data)


async def _slow(ctx: Context[State], data: Any) -> None:
    journal.running += 1
    assert journal.running == 1, "two handlers of one room at once"
    ctx.state.seen.append(f"{data} begins")
    journal.entered.set()
    try:
        await journal.gate.wait()
    except trio.Cancelled:
        journal.cancelled += 1
        raise
    finally:
        journal.running -= 1
    ctx.state.seen.append(f"{data} ends")


async def _boom(_ctx: Context[State]) -> None:
    msg = "secret"
    raise ValueError(msg)


async def _spoil(ctx: Context[State]) -> None:
    ctx.state.nested["spoiled"] = [object()]  # type: ignore[list-item]


async def _mend(ctx: Context[State]) -> None:
    del ctx.state.nested["spoiled"]


async def _hold(ctx: Context[State], data: float) -> None:
    async def nothing() -> None:
        await trio.sleep(data)

    ctx.room.start_soon(nothing, keep_awake=True)


async def _tasks(ctx: Context[State]) -> None:
    ctx.room.start_soon(_linger)


async def _linger() -> None:
    try:
        await trio.sleep_forever()
    finally:
        journal.cancelled += 1


async def _untidy(ctx: Context[State]) -> None:
    ctx.room.start_soon(_tidy_up_slowly)


async def _tidy_up_slowly() -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
            journal.hooks.append("tidied up")


async def _ticker(ctx: Context[State], data: float) -> None:
    ctx.room.start_soon(_tick, ctx.state, data)


async def _tick(state: State, every: float) -> None:
    while True:
        await trio.sleep(every)
        state.total += 1


async def _crash(ctx: Context[State]) -> None:
    ctx.room.start_soon(_raise_in_task)


async def _raise_in_task() -> None:
    msg = "a task of the room"
    raise RuntimeError(msg)


async def _crash_and_wait(ctx: Context[State]) -> None:
    ctx.room.start_soon(_raise_in_task)
    await trio.sleep_forever()


async def _nap(_ctx: Context[State], data: float) -> None:
    await trio.sleep(data)


async def _grow(ctx: Context[State]) -> None:
    ctx.room.start_soon(_keep_growing, ctx.state)


async def _keep_growing(state: State) -> None:
    for number in range(1_000_000):
        state.nested[str(number % 5000)] = [number]
        if number % 5000 == 0:
            state.nested.clear()
        await trio.lowlevel.checkpoint()


async def _destroy(ctx: Context[State]) -> None:
    ctx.room.emit("last words")
    ctx.room.destroy()


async def _whoami(ctx: Context[State]) -> Any:
    visits = ctx.connection.attachment
    visits["visits"] += 1
    return visits


async def _join(ctx: Context[State], data: str) -> None:
    ctx.connection.join(data)


async def _woke(_ctx: Context[State], report: WakeReport) -> None:
    journal.reports.append(report)
    journal.hooks.append("wake")
    if journal.crash_on_wake:
        journal.crash_on_wake -= 1
        msg = "on_wake"
        raise RuntimeError(msg)


async def _created(_ctx: Context[State]) -> None:
    journal.hooks.append("create")


async def _sleeps(_ctx: Context[State]) -> None:
    journal.hooks.append("hibernate")
    if journal.crash_on_hibernate:
        journal.crash_on_hibernate -= 1
        msg = "on_hibernate"
        raise RuntimeError(msg)


async def _destroyed(_ctx: Context[State]) -> None:
    journal.hooks.append("destroy")
    if journal.crash_on_destroy:
        journal.crash_on_destroy -= 1
        msg = "on_destroy"
        raise RuntimeError(msg)


async def _failed(_ctx: Context[State], error: Exception) -> None:
    journal.errors.append(error)


@asynccontextmanager
async def running(
    store: FaultyStore | None = None, **options: Any
) -> AsyncIterator[tuple[Rooms, RoomHandle, FaultyStore]]:
    """The counter room over a store that can be told to misbehave."""
    store = store or FaultyStore(MemoryStore())
    async with open_rooms([counter_room(**options)], store=store) as rooms:
        yield rooms, rooms.get("counter", "a"), store


async def until_asleep(room: RoomHandle) -> None:
    """Let the idle timeout pass."""
    with trio.fail_after(100 * IDLE):
        while room.info().stage is not Stage.ASLEEP:
            await trio.sleep(IDLE / 7)


def loads(store: FaultyStore) -> int:
    """How often the store was asked for a snapshot."""
    return sum(call.operation == "load" for call in store.calls)


def commits(store: FaultyStore) -> int:
    """How often the store was given something to write."""
    return sum(call.operation == "commit" for call in store.calls)


# Sleeping and waking.


async def test_a_quiet_room_sleeps_and_wakes_with_its_state(autojump_clock: MockClock) -> None:
    """After the idle timeout the actor is gone, and the next message finds the state as it was."""
    async with running() as (_, room, store):
        assert await room.ask("add", Add(3)) == 3
        await room.ask("note", {"deep": [1, {"er": True}]})
        assert room.info().stage is Stage.AWAKE
        await until_asleep(room)
        assert await room.ask("add", Add(4)) == 7
        assert loads(store) == 2
        assert (await room.ask("add", Add(0))) == 7
        await until_asleep(room)
        state = await room.peek()
        assert state == State(7, [{"deep": [1, {"er": True}]}], {"deep": [1]})


async def test_a_room_sleeps_exactly_when_it_was_idle_long_enough(mock_clock: MockClock) -> None:
    """Each message moves the idle deadline; a room is neither early nor late."""
    async with running() as (_, room, _store):
        for _ in range(5):
            await room.ask("add", Add(1))
            mock_clock.jump(IDLE - 0.5)
            await wait_all_tasks_blocked()
            assert room.info().stage is Stage.AWAKE
        mock_clock.jump(0.6)
        await wait_all_tasks_blocked()
        assert room.info().stage is Stage.ASLEEP


async def test_mail_during_hibernation_keeps_the_room_awake_with_its_state(autojump_clock: MockClock) -> None:
    """Mail that comes while the snapshot is being committed waits, and is handled without a new load."""
    async with running(snapshot_interval=1000) as (_, room, store), trio.open_nursery() as nursery:
        await room.ask("add", Add(1))
        gate = store.hold_commits()
        await gate.wait_arrived()
        assert room.info().stage is Stage.HIBERNATING
        answers: list[int] = []

        async def ask() -> None:
            answers.append(await room.ask("add", Add(10)))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert room.info().mailbox == 1
        assert answers == []
        gate.release()
        await wait_all_tasks_blocked()
        assert answers == [11]
        assert room.info().stage is Stage.AWAKE
        assert loads(store) == 1
        await until_asleep(room)
        assert await room.peek() == State(11)


async def test_mail_during_waking_waits_in_order(autojump_clock: MockClock) -> None:
    """What comes while the snapshot is loaded is handled afterwards, in the order in which it came."""
    async with running() as (rooms, room, store), connect(rooms, "counter/a") as client:
        await room.ask("add", Add(1))
        await until_asleep(room)
        gate = store.hold_loads()
        await client.emit("note", 0)
        await gate.wait_arrived()
        assert room.info().stage is Stage.WAKING
        for number in range(1, 20):
            await client.emit("note", number)
        gate.release()
        assert [(await client.receive())["data"] for _ in range(20)] == list(range(20))
        await until_asleep(room)
        assert (await room.peek()).seen == list(range(20))


async def test_a_message_at_the_very_step_of_falling_asleep_is_not_lost(autojump_clock: MockClock) -> None:
    """However the end of the commit and a message fall together, each is handled once."""
    async with running(snapshot_interval=1000) as (_, room, store), trio.open_nursery() as nursery:
        for checkpoints in range(12):
            await room.ask("add", Add(1))
            gate = store.hold_commits()
            await gate.wait_arrived()
            gate.release()
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(room.ask, "add", Add(100))
            await wait_all_tasks_blocked()
            await until_asleep(room)
        assert (await room.peek()).total == 12 * 101


async def test_only_one_body_of_a_room_lives_at_a_time(autojump_clock: MockClock) -> None:
    """A room that is woken while its old tasks are still being cancelled waits for their end."""
    async with running() as (_, room, _store):
        await room.ask("untidy")
        assert await room.hibernate() is True
        await room.ask("add", Add(1))
        assert journal.hooks == ["create", "hibernate", "tidied up", "wake"]


async def test_an_unchanged_room_writes_nothing_when_it_sleeps(autojump_clock: MockClock) -> None:
    """Waking for a message that changes nothing costs no commit."""
    async with running() as (_, room, store):
        await room.ask("add", Add(1))
        await until_asleep(room)
        before = commits(store)
        await room.ask("add", Add(0))
        await until_asleep(room)
        assert commits(store) == before


@pytest.mark.parametrize("most", [4, 40])
async def test_a_busy_room_stays_awake_between_bursts(most: int, autojump_clock: MockClock) -> None:
    """With as many messages as `message_threshold`, an idle moment is not enough to send a room to sleep."""
    policy = Policy(idle_timeout=1.0, message_threshold=most, activity_window=8.0)
    async with running(idle_timeout=None, policy=policy) as (_, room, _store):
        for _ in range(5):
            for _ in range(4):
                await room.ask("add", Add(1))
            await trio.sleep(1.5)
            if room.info().stage is Stage.ASLEEP:
                break
        assert (room.info().stage is Stage.AWAKE) == (most < 5)
        await trio.sleep(10)
        assert room.info().stage is Stage.ASLEEP


async def test_what_holds_a_room_awake(autojump_clock: MockClock) -> None:
    """A task that asked for it keeps its room awake until it ends, and idleness counts from there."""
    async with running() as (_, room, _store):
        await room.ask("hold", 5 * IDLE)
        await trio.sleep(4.9 * IDLE)
        assert room.info().stage is Stage.AWAKE
        assert room.info().held
        assert await room.hibernate() is False
        await trio.sleep(1.05 * IDLE)
        assert room.info().stage is Stage.AWAKE
        await trio.sleep(0.2 * IDLE)
        assert room.info().stage is Stage.ASLEEP


async def test_other_tasks_end_with_their_room(autojump_clock: MockClock) -> None:
    """A background task does not keep its room awake; it is cancelled when the room sleeps."""
    async with running() as (_, room, _store):
        await room.ask("tasks")
        await until_asleep(room)
        assert journal.cancelled == 1


async def test_what_a_task_changes_during_the_last_commit_is_saved(autojump_clock: MockClock) -> None:
    """A background task that changes the state while the snapshot is written makes another one."""
    async with running(snapshot_interval=1000) as (_, room, store):
        await room.ask("ticker", 0.4 * IDLE)
        gate = store.hold_commits()
        await gate.wait_arrived()
        held = (await room.peek()) is None
        assert held
        await trio.sleep(0.5 * IDLE)
        gate.release()
        await until_asleep(room)
        assert (await room.peek()).total == 3


async def test_hibernate_puts_a_room_to_sleep_now(autojump_clock: MockClock) -> None:
    """`hibernate` does not wait for the idle timeout, and says so of a room that slept already."""
    async with running() as (_, room, _store):
        await room.ask("add", Add(2))
        assert await room.hibernate() is True
        assert room.info().stage is Stage.ASLEEP
        assert await room.hibernate() is True
        assert (await room.peek()).total == 2


# Saving.


async def test_a_change_is_in_the_store_within_the_interval(autojump_clock: MockClock) -> None:
    """An awake room saves a change before the snapshot interval is over, nested edits included."""
    async with running(idle_timeout=1000.0) as (_, room, store):
        await room.ask("add", Add(1))
        await trio.sleep(2.0)
        assert (await room.peek()).total == 1
        await room.ask("note", "x")
        await trio.sleep(2.0)
        assert (await room.peek()).nested == {"deep": [1]}
        before = commits(store)
        await trio.sleep(100)
        assert commits(store) == before


async def test_a_long_handler_does_not_hold_up_the_snapshot(autojump_clock: MockClock) -> None:
    """What earlier messages changed is saved in time while a handler waits for something."""
    async with running(idle_timeout=1000.0) as (_, room, _store), trio.open_nursery() as nursery:
        await room.ask("add", Add(5))
        nursery.start_soon(room.ask, "slow", "one")
        await journal.entered.wait()
        await trio.sleep(2.0)
        state = await room.peek()
        assert state.total == 5
        assert state.seen == ["one begins"]
        journal.gate.set()


async def test_a_full_disk_keeps_the_room_awake_until_there_is_room_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit that fails is told to on_error, loses nothing, and is tried again."""
    async with running() as (_, room, store):
        store.fail_commits(lambda: StoreFull("no room left"), times=8)
        await room.ask("add", Add(1))
        await trio.sleep(2 * IDLE)
        assert room.info().stage is Stage.AWAKE
        assert isinstance(journal.errors[0], StoreFull)
        assert await room.ask("add", Add(1)) == 2
        await until_asleep(room)
        assert (await room.peek()).total == 2
        assert "could not be saved: no room left" in caplog.text


async def test_a_commit_that_was_applied_but_reported_lost_does_no_harm(autojump_clock: MockClock) -> None:
    """After a commit with an unknown outcome, the next one has a generation of its own."""
    async with running() as (_, room, store):
        store.fail_commits(lambda: StoreFull("who knows"), applied=True)
        await room.ask("add", Add(1))
        await until_asleep(room)
        assert (await room.peek()).total == 1
        assert await room.ask("add", Add(1)) == 2


async def test_a_state_that_cannot_be_saved_names_its_path(autojump_clock: MockClock) -> None:
    """The last good snapshot stays, the error says where, and a mended state is saved."""
    async with running() as (_, room, _store):
        await room.ask("add", Add(1))
        await trio.sleep(2)
        await room.ask("spoil")
        await trio.sleep(3 * IDLE)
        assert room.info().stage is Stage.AWAKE
        error = journal.errors[0]
        assert isinstance(error, StateError)
        assert error.path == "state.nested['spoiled'][0]"
        assert (await room.peek()) == State(1)
        await room.ask("mend")
        await trio.sleep(60)
        await until_asleep(room)


async def test_a_store_that_breaks_its_contract_crashes_only_this_room(autojump_clock: MockClock) -> None:
    """An error that no store may raise restarts the room from its last snapshot."""
    async with running(idle_timeout=1000) as (_, room, store):
        await room.ask("add", Add(1))
        await trio.sleep(2)
        store.fail_commits(lambda: ZeroDivisionError("a bug in the store"))
        await room.ask("add", Add(1))
        await trio.sleep(5)
        assert [report.cause for report in journal.reports] == ["crash"]
        assert await room.ask("add", Add(10)) == 11


# Failing.


async def test_a_handler_that_raises_hurts_only_its_sender(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The sender gets internal_error without the text, on_error is called, the room goes on."""
    async with running() as (rooms, room, _store), connect(rooms, "counter/a") as client:
        await client.emit("boom", id=1)
        await client.emit("boom")
        await client.emit("add", {"amount": 2}, id=2)
        one, two, three = await client.receive_many(3)
        assert one["ack"] == 1
        assert one["error"]["code"] == "internal_error"
        assert "secret" not in str(one)
        assert two["error"]["code"] == "internal_error"
        assert three == {"ack": 2, "data": 2}
        assert [str(error) for error in journal.errors] == ["secret", "secret"]
        with pytest.raises(HandlerFailed) as caught:
            await room.ask("boom")
        assert isinstance(caught.value.__cause__, ValueError)
        assert "secret" in caplog.text


async def test_a_crash_restarts_the_room_and_keeps_its_mail(autojump_clock: MockClock) -> None:
    """A task that raises takes the room back to its last snapshot; what waited is handled, in order."""
    async with running(idle_timeout=1000) as (rooms, _, _store), connect(rooms, "counter/a") as client:
        await client.emit("add", {"amount": 5}, id=1)
        await client.receive()
        await trio.sleep(2)
        await client.emit("slow", "x", id=2)
        await journal.entered.wait()
        for number in range(3, 8):
            await client.emit("add", {"amount": 1}, id=number)
        await wait_all_tasks_blocked()
        actor = rooms._supervisor.actor("counter/a")
        assert actor is not None
        actor.background.start(_raise_in_task, (), None, keep_awake=False)
        answers = await client.receive_many(6)
        assert answers[0]["error"]["code"] == "internal_error"
        assert [answer["data"] for answer in answers[1:]] == [6, 7, 8, 9, 10]
        assert [answer["ack"] for answer in answers] == list(range(2, 8))
        assert journal.reports[-1].cause == "crash"


async def test_a_room_that_crashes_too_often_is_closed(autojump_clock: MockClock) -> None:
    """After several crashes its connections get 1011 and its mail an answer; later it is tried again."""
    async with running() as (rooms, room, _store):
        await room.ask("add", Add(1))
        await until_asleep(room)
        journal.crash_on_wake = 100
        async with connect(rooms, "counter/a") as client, connect(rooms, "counter/b") as other:
            await client.emit("add", {"amount": 1}, id=1)
            with pytest.raises(RoomFailed):
                await room.ask("add", Add(1))
            answer = await client.receive()
            assert answer["error"]["code"] == "room_failed"
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
            assert client.closed is not None
            assert client.closed.code == 1011
            await other.emit("add", {"amount": 1}, id=1)
            assert await other.receive() == {"ack": 1, "data": 1}
            assert room.info().stage is Stage.FAILED
            with pytest.raises(RoomFailed):
                await room.ask("add", Add(1))
        journal.crash_on_wake = 0
        await trio.sleep(60)
        assert await room.ask("add", Add(1)) == 2


async def test_a_hook_that_raises_at_hibernation_costs_no_change(autojump_clock: MockClock) -> None:
    """The state is saved before on_hibernate is called."""
    async with running(snapshot_interval=1000) as (_, room, _store):
        await room.ask("add", Add(7))
        journal.crash_on_hibernate = 1
        await trio.sleep(1.5 * IDLE)
        assert await room.ask("add", Add(1)) == 8
        assert journal.reports[0].cause == "crash"


async def test_who_waits_for_a_room_that_crashes_is_told(autojump_clock: MockClock) -> None:
    """A hook that raises, or a task that does, answers destroy, hibernate and ask with RoomFailed."""
    async with running(idle_timeout=1000) as (_, room, _store):
        await room.ask("add", Add(7))
        await trio.sleep(2)
        journal.crash_on_destroy = 1
        with trio.fail_after(100), pytest.raises(RoomFailed, match="crashed") as caught:
            await room.destroy()
        assert str(caught.value.__cause__) == "on_destroy"
        assert await room.ask("add", Add(1)) == 8
        journal.crash_on_hibernate = 1
        with trio.fail_after(100), pytest.raises(RoomFailed, match="crashed"):
            await room.hibernate()
        with trio.fail_after(100), pytest.raises(RoomFailed, match="crashed") as caught:
            await room.ask("crash and wait")
        assert str(caught.value.__cause__) == "a task of the room"


async def until_peeked(room: RoomHandle, wanted: Callable[[State], bool]) -> None:
    """Wait, in real time because threads are at work, until a snapshot shows something."""
    with trio.fail_after(60):
        while not wanted(await room.peek()):
            await trio.sleep(0.02)


async def test_a_large_state_is_saved_while_its_room_is_busy() -> None:
    """The snapshot of a state that is encoded in a thread waits for the end of a message, not of all."""
    async with running(idle_timeout=1000, snapshot_interval=0.1) as (_, room, _store):
        await room.ask("note", "x" * 300_000)
        await until_peeked(room, lambda state: state is not None)
        async with trio.open_nursery() as nursery:

            async def keep_busy() -> None:
                while True:
                    await room.ask("nap", 0.001)

            for _ in range(5):
                nursery.start_soon(keep_busy)
            await room.ask("add", Add(5))
            await until_peeked(room, lambda state: state.total == 5)
            nursery.cancel_scope.cancel()


async def test_a_task_may_change_a_large_state_while_it_is_saved() -> None:
    """With tasks running, a large state is encoded where they cannot change it at the same time."""
    async with running(idle_timeout=1000, snapshot_interval=0.05) as (_, room, _store):
        await room.ask("note", "x" * 300_000)
        await until_peeked(room, lambda state: state is not None)
        await room.ask("grow")
        await until_peeked(room, lambda state: len(state.nested) > 500)
        assert journal.errors == []
        assert journal.reports == []


async def test_a_load_that_fails_is_tried_again(autojump_clock: MockClock) -> None:
    """A store that fails for a moment delays the mail and loses none of it."""
    async with running() as (_, room, store):
        await room.ask("add", Add(1))
        await until_asleep(room)
        store.fail_loads(lambda: StoreFull("a moment"), times=3)
        assert await room.ask("add", Add(1)) == 2


async def test_a_room_that_cannot_be_loaded_tells_its_senders(autojump_clock: MockClock) -> None:
    """When no try succeeds the senders are told, the sockets stay, and the snapshot is as it was."""
    async with running() as (rooms, room, store), connect(rooms, "counter/a") as client:
        await room.ask("add", Add(1))
        await until_asleep(room)
        before = await store.load("counter/a")
        store.fail_loads(lambda: StoreFull("for good"), times=5)
        await client.emit("add", {"amount": 1}, id=4)
        answer = await client.receive()
        assert answer["ack"] == 4
        assert answer["error"]["code"] == "room_failed"
        assert room.info().stage is Stage.ASLEEP
        assert await store.load("counter/a") == before
        await client.emit("add", {"amount": 1}, id=5)
        assert await client.receive() == {"ack": 5, "data": 2}


async def test_the_older_snapshot_is_taken_loudly(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A newest generation that does not decode costs what came after the one before it, and no more."""
    memory = MemoryStore()
    async with running(FaultyStore(memory)) as (_, room, _store):
        for _ in range(2):
            await room.ask("add", Add(1))
            await until_asleep(room)
        stored = memory._kept.rooms["counter/a"]
        newest, older = stored.snapshots
        stored.snapshots = (attrs.evolve(newest, document=newest.document[:-1]), older)
        caplog.set_level(logging.ERROR)
        assert await room.ask("add", Add(10)) == 11
        assert journal.reports[-1].fell_back
        assert "generation 2 cannot be used" in caplog.text
        await until_asleep(room)
        assert (await room.peek()).total == 11


async def test_a_newer_snapshot_is_left_alone(autojump_clock: MockClock) -> None:
    """A snapshot of a newer version is refused with both versions in the message, and not touched."""
    memory = MemoryStore()
    async with running(FaultyStore(memory), version=3) as (_, room, store):
        await room.ask("add", Add(1))
        await until_asleep(room)
    async with running(FaultyStore(memory), version=2) as (_, room, store):
        before = await store.load("counter/a")
        with pytest.raises(RoomFailed, match=r"version 3.*version 2"):
            await room.ask("add", Add(1))
        assert await store.load("counter/a") == before


# Mail.


async def test_one_message_at_a_time_to_its_end(autojump_clock: MockClock) -> None:
    """A handler that waits keeps the next message waiting."""
    async with running() as (_, room, _store), trio.open_nursery() as nursery:
        nursery.start_soon(room.ask, "slow", "one")
        nursery.start_soon(room.ask, "slow", "two")
        await wait_all_tasks_blocked()
        assert room.info().mailbox == 1
        journal.gate.set()
        await wait_all_tasks_blocked()
        await until_asleep(room)
        seen = (await room.peek()).seen
        assert sorted(seen[::2]) == ["one begins", "two begins"]
        assert [line.split()[0] for line in seen[::2]] == [line.split()[0] for line in seen[1::2]]


async def test_a_cancelled_caller_only_stops_waiting(autojump_clock: MockClock) -> None:
    """What was asked is handled although nobody waits for the answer any more."""
    async with running() as (_, room, store):
        store.delay = 5
        with trio.move_on_after(1):
            await room.ask("add", Add(1))
        store.delay = 0
        await until_asleep(room)
        assert (await room.peek()).total == 1


async def test_what_does_not_fit_never_reaches_the_handler(autojump_clock: MockClock) -> None:
    """The error names the event or the field, for clients and for programs alike."""
    async with running() as (rooms, room, _store), connect(rooms, "counter/a") as client:
        await client.emit("add", {"amount": "many"}, id=1)
        await client.send(cbor2.dumps({"event": "nonsense", "id": 2}))
        one, two = await client.receive_many(2)
        assert one["error"] == {"code": "invalid_data", "message": "amount: expected int, got str"}
        assert two["error"]["code"] == "unknown_event"
        assert "nonsense" in two["error"]["message"]
        with pytest.raises(EventError, match="required field missing"):
            await room.ask("add", {})
        assert journal.errors == []


async def test_destroying_a_room_leaves_nothing(autojump_clock: MockClock) -> None:
    """Its snapshot and storage are deleted, its connections closed with 1000, and the name is free."""
    async with running() as (rooms, room, store):
        await room.ask("add", Add(1))
        async with connect(rooms, "counter/a") as client:
            await client.emit("add", {"amount": 1}, id=1)
            await client.receive()
            await client.emit("destroy")
            assert await client.receive() == {"event": "last words", "data": None}
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
            assert client.closed is not None
            assert client.closed.code == 1000
        assert await store.keys() == []
        assert journal.hooks[-1] == "destroy"
        assert await room.ask("add", Add(1)) == 1
        await room.destroy()
        assert await store.keys() == []
        await until_asleep(room)


async def test_mail_behind_a_destruction_begins_a_new_room(autojump_clock: MockClock) -> None:
    """What was in the mailbox behind it goes to a room that begins anew."""
    async with running() as (rooms, room, _store), trio.open_nursery() as nursery:
        await room.ask("add", Add(100))
        nursery.start_soon(room.ask, "slow", "x")
        await wait_all_tasks_blocked()
        nursery.start_soon(room.destroy)
        await wait_all_tasks_blocked()
        answers: list[int] = []

        async def ask() -> None:
            answers.append(await room.ask("add", Add(1)))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        journal.gate.set()
        await wait_all_tasks_blocked()
        assert answers == [1]
        assert rooms.statistics().supervisor.awake == 1


# Connections.


async def test_attachments_and_channels_survive_hibernation(autojump_clock: MockClock) -> None:
    """Edits of an attachment and memberships are there when the room wakes."""
    async with (
        running() as (rooms, room, _store),
        connect(rooms, "counter/a", attachment={"visits": 0}) as client,
    ):
        await client.emit("join", "red")
        for number in range(1, 4):
            await client.emit("whoami", id=number)
            assert await client.receive() == {"ack": number, "data": {"visits": number}}
            await until_asleep(room)
        assert room.info().channels == ("red",)
        assert room.emit("notice", 1, channel="red").reached == 1
        assert room.emit("notice", 2, channel="blue").reached == 0
        assert await client.receive() == {"event": "notice", "data": 1}
        assert room.info().stage is Stage.ASLEEP


async def test_waking_touches_no_attachment_that_no_handler_touches(autojump_clock: MockClock) -> None:
    """An attachment is decoded when a handler looks at it, and not before."""
    async with (
        running() as (rooms, _, _store),
        connect(rooms, "counter/a", attachment={"visits": 0}) as client,
    ):
        roster = rooms._hub.rosters["counter/a"]
        (link,) = roster.links.values()
        link.attachment = b"\xff not CBOR"
        await client.emit("add", {"amount": 1}, id=1)
        assert await client.receive() == {"ack": 1, "data": 1}
        await client.emit("whoami", id=2)
        assert (await client.receive())["error"]["code"] == "internal_error"


async def test_the_wake_report_says_what_happened_meanwhile(autojump_clock: MockClock) -> None:
    """Cause, time slept, and who went away."""
    async with running() as (rooms, room, _store), connect(rooms, "counter/a") as stays:
        async with connect(rooms, "counter/a", attachment="gone") as leaves:
            await stays.emit("add", {"amount": 1}, id=1)
            await stays.receive()
            await until_asleep(room)
            began = trio.current_time()
            await leaves.hang_up(4001, "bye")
        await trio.sleep(50)
        await stays.emit("add", {"amount": 1}, id=2)
        await stays.receive()
        (report,) = journal.reports
        assert report.cause == "message"
        assert report.slept == pytest.approx(trio.current_time() - began, abs=IDLE)
        (departure,) = report.disconnects
        assert (departure.attachment, departure.code, departure.reason, departure.clean) == (
            "gone",
            4001,
            "bye",
            True,
        )
        assert not report.restarted


async def test_the_wake_report_says_that_the_process_is_a_new_one(autojump_clock: MockClock) -> None:
    """After a restart the state may know connections that are gone, and the report says so."""
    memory = MemoryStore()
    for expected in ([], [True]):
        async with running(FaultyStore(memory)) as (_, room, _store):
            await room.ask("add", Add(1))
        assert [report.restarted for report in journal.reports] == expected


def _leaving_room() -> Room[State]:
    room = Room("leaving", state=State, idle_timeout=IDLE)
    room.on("note")(_note)
    room.on_disconnect(_left)
    room.on_connect(_came)
    return room


async def _came(ctx: Context[State]) -> None:
    if ctx.connection.attachment == "unwanted":
        msg = "unwanted"
        raise ValueError(msg)
    ctx.state.seen.append(["came", ctx.connection.attachment])


async def _left(ctx: Context[State], left: Disconnect) -> None:
    journal.left.append(left)
    ctx.state.seen.append(["left", left.attachment, left.code])


async def test_each_departure_is_told_once(autojump_clock: MockClock) -> None:
    """Awake at once, asleep at the next waking, and at once when the last one has left."""
    async with open_rooms([_leaving_room()]) as rooms:
        room = rooms.get("leaving", "x")
        async with connect(rooms, "leaving/x", attachment=1) as first:
            async with connect(rooms, "leaving/x", attachment=2) as second:
                async with connect(rooms, "leaving/x", attachment=3) as third:
                    await third.hang_up(1000)
                    await wait_all_tasks_blocked()
                    assert [left.attachment for left in journal.left] == [3]
                await until_asleep(room)
                await second.hang_up(4002)
                await wait_all_tasks_blocked()
                assert room.info().stage is Stage.ASLEEP
                assert len(journal.left) == 1
            await first.emit("note", "here")
            await first.receive()
            assert [left.attachment for left in journal.left] == [3, 2]
            await until_asleep(room)
            await first.drop()
        await until_asleep(room)
        assert [(left.attachment, left.code) for left in journal.left] == [(3, 1000), (2, 4002), (1, 1006)]
        assert (await room.peek()).seen == [
            ["came", 1], ["came", 2], ["came", 3],
            ["left", 3, 1000], ["left", 2, 4002], "here", ["left", 1, 1006],
        ]  # fmt: skip
        await wait_all_tasks_blocked()
        assert rooms.statistics().hub.rosters == 0


async def test_a_failing_on_connect_closes_that_connection_alone(autojump_clock: MockClock) -> None:
    """Its connection gets 1011; the others and the room go on."""
    async with open_rooms([_leaving_room()]) as rooms:  # noqa: SIM117 (one block in the other)
        async with connect(rooms, "leaving/x", attachment=1) as first:
            async with connect(rooms, "leaving/x", attachment="unwanted") as second:
                with pytest.raises(trio.EndOfChannel):
                    await second.receive()
                assert second.closed is not None
                assert second.closed.code == 1011
            await first.emit("note", "here")
            assert (await first.receive())["data"] == "here"


def _greeting_room() -> Room[None]:
    room = Room[None]("greeting", idle_timeout=IDLE)
    room.on_connect(_greet)
    return room


async def _greet(ctx: Context[None]) -> None:
    journal.entered.set()
    await journal.gate.wait()
    ctx.connection.emit("hello", len(ctx.room.connections))


async def test_nothing_reaches_a_connection_before_its_on_connect(autojump_clock: MockClock) -> None:
    """What is said to everybody passes by a connection that the room has not greeted."""
    store = FaultyStore(MemoryStore())
    gate = store.hold_loads()
    async with open_rooms([_greeting_room()], store=store) as rooms:
        room = rooms.get("greeting", "x")
        async with connect(rooms, "greeting/x") as first, connect(rooms, "greeting/x") as second:
            await gate.wait_arrived()
            assert room.emit("too early").reached == 0
            gate.release()
            await journal.entered.wait()
            assert room.emit("for the first").reached == 1
            journal.gate.set()
            assert [await first.receive(), await first.receive()] == [
                {"event": "for the first", "data": None},
                {"event": "hello", "data": 1},
            ]
            assert await second.receive() == {"event": "hello", "data": 2}
            assert room.emit("for both").reached == 2
            assert (await second.receive())["event"] == "for both"
