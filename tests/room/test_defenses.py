"""What an attack on sleeping, destroying, crashing and stopping found, each held from then on."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    Disconnect,
    EventError,
    MemoryStore,
    Room,
    RoomsClosed,
    Stage,
    StoreError,
    WakeReport,
    open_rooms,
)
from trio_rooms.testing import FaultyStore, connect

IDLE = 10.0
caller: contextvars.ContextVar[str | None] = contextvars.ContextVar("caller", default=None)


@attrs.define
class State:
    """What the room under test remembers."""

    total: int = 0
    members: list[Any] = attrs.field(factory=list)


@attrs.define(eq=False)
class Journal:
    """What happened in the rooms of a test."""

    restarted: list[bool] = attrs.field(factory=list)
    hooks: list[str] = attrs.field(factory=list)
    departed: list[Any] = attrs.field(factory=list)
    raise_in_on_hibernate: int = 0
    raise_in_on_wake: int = 0
    destroy_in_on_hibernate: bool = False


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


async def _add(ctx: Context[State], data: int) -> int:
    ctx.state.total += data
    return ctx.state.total


async def _crash_after(ctx: Context[State], data: float) -> None:
    ctx.state.total += 100
    ctx.room.start_soon(_raise_after, data)


async def _raise_after(delay: float) -> None:
    await trio.sleep(delay)
    msg = "a task of the room"
    raise RuntimeError(msg)


async def _nap(_ctx: Context[State], data: float) -> None:
    await trio.sleep(data)


async def _exit(_ctx: Context[State]) -> None:
    raise SystemExit(3)


async def _end(ctx: Context[State]) -> None:
    for connection in ctx.room.connections:
        connection.close(4000, "over")
    ctx.room.destroy()


async def _end_later(ctx: Context[State], data: float) -> None:
    ctx.room.start_soon(_destroy_after, ctx, data)


async def _destroy_after(ctx: Context[State], delay: float) -> None:
    await trio.sleep(delay)
    ctx.room.destroy()


async def _spoil_later(ctx: Context[State], data: float) -> None:
    ctx.room.start_soon(_spoil_after, ctx, data)


async def _spoil_after(ctx: Context[State], delay: float) -> None:
    await trio.sleep(delay)
    ctx.state.members = [object()]
    await trio.sleep_forever()


async def _say_badly(_ctx: Context[State]) -> None:
    code = "no"
    raise EventError(code, "\ud800")


async def _whose(_ctx: Context[State]) -> str | None:
    return caller.get()


async def _joined(ctx: Context[State]) -> None:
    ctx.state.members.append(ctx.connection.attachment)


async def _left(_ctx: Context[State], _left: Disconnect) -> None:
    journal.hooks.append("left")


async def _created(_ctx: Context[State]) -> None:
    journal.hooks.append("created")


async def _woke(ctx: Context[State], report: WakeReport) -> None:
    if journal.raise_in_on_wake:
        journal.raise_in_on_wake -= 1
        msg = "on_wake"
        raise RuntimeError(msg)
    journal.restarted.append(report.restarted)
    journal.departed += [one.attachment for one in report.disconnects]
    if report.restarted:
        ctx.state.members.clear()
    if report.cause == "crash":
        ctx.state.total += 1000


async def _sleeps(ctx: Context[State]) -> None:
    if journal.destroy_in_on_hibernate:
        ctx.room.destroy()
    if journal.raise_in_on_hibernate:
        journal.raise_in_on_hibernate -= 1
        msg = "on_hibernate"
        raise RuntimeError(msg)


def make_room(*hooks: str, **options: Any) -> Room[State]:
    """A definition with some of this module's hooks."""
    room = Room("room", state=State, **{"idle_timeout": IDLE, "snapshot_interval": 1.0, **options})
    handlers: dict[str, Callable[..., Awaitable[Any]]] = {
        "add": _add,
        "crash after": _crash_after,
        "nap": _nap,
        "exit": _exit,
        "end": _end,
        "end later": _end_later,
        "spoil later": _spoil_later,
        "say badly": _say_badly,
        "whose": _whose,
    }
    for event, handler in handlers.items():
        room.on(event)(handler)
    known: dict[str, Callable[..., Awaitable[Any]]] = {
        "on_connect": _joined,
        "on_disconnect": _left,
        "on_create": _created,
        "on_wake": _woke,
        "on_hibernate": _sleeps,
    }
    for hook in hooks:
        getattr(room, hook)(known[hook])
    return room


async def test_a_crash_during_a_slow_commit_leaves_the_state_alone(autojump_clock: MockClock) -> None:
    """A save that waited behind that commit has outlived its room, and saves nothing."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([make_room()], store=store) as rooms:
        room = rooms.get("room", "x")
        await room.ask("add", 3)
        await trio.sleep(2)
        gate = store.hold_commits()
        await room.ask("add", 1)
        await gate.wait_arrived()
        await room.ask("crash after", 0.1)
        await trio.sleep(1)
        gate.release()
        await trio.sleep(5)
        assert await room.peek() == State(4)
        assert await room.ask("add", 1) == 5


async def test_a_slow_destruction_is_not_undone_by_a_save(autojump_clock: MockClock) -> None:
    """What is destroyed does not come back into the store behind it."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([make_room()], store=store) as rooms:
        room = rooms.get("room", "x")
        await room.ask("add", 1)
        await trio.sleep(2)
        await room.ask("add", 1)
        gate = store.hold_commits()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.destroy)
            await gate.wait_arrived()
            await trio.sleep(1)
            gate.release()
        await trio.sleep(5)
        assert await store.keys() == []


async def test_hibernate_and_destroy_in_one_batch_are_both_answered(autojump_clock: MockClock) -> None:
    """In either order, and without a new room."""
    async with open_rooms([make_room("on_create")]) as rooms:
        room = rooms.get("room", "x")
        for first, second in ((room.hibernate, room.destroy), (room.destroy, room.hibernate)):
            journal.hooks.clear()
            with trio.fail_after(100):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(room.ask, "nap", 1)
                    await trio.sleep(0.1)
                    nursery.start_soon(first)
                    await trio.sleep(0.1)
                    nursery.start_soon(second)
            assert await room.peek() is None
            assert journal.hooks == ["created"]


async def test_a_room_may_destroy_itself_on_its_way_to_sleep(autojump_clock: MockClock) -> None:
    """In on_hibernate, or from a task during the last commit."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([make_room("on_hibernate")], store=store) as rooms:
        room = rooms.get("room", "x")
        journal.destroy_in_on_hibernate = True
        await room.ask("add", 1)
        await trio.sleep(3 * IDLE)
        assert await store.keys() == []
        journal.destroy_in_on_hibernate = False
        await room.ask("add", 1)
        await room.ask("end later", 0.2)
        gate = store.hold_commits()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.hibernate)
            await gate.wait_arrived()
            await trio.sleep(0.3)
            gate.release()
        await trio.sleep(IDLE / 2)
        assert await store.keys() == []


async def test_on_destroy_need_not_destroy(autojump_clock: MockClock) -> None:
    """A room that could not be destroyed goes on, also where its on_destroy asks for it again."""
    room: Room[State] = Room("room", state=State, idle_timeout=IDLE)

    @room.on("nothing")
    async def nothing(ctx: Context[State]) -> None:
        pass

    @room.on_destroy
    async def destroyed(ctx: Context[State]) -> None:
        journal.hooks.append("destroyed")
        ctx.room.destroy()

    store = FaultyStore(MemoryStore())
    async with open_rooms([room], store=store) as rooms:
        handle = rooms.get("room", "x")
        await handle.ask("nothing")
        store.fail_commits(lambda: StoreError("on purpose"), times=3)
        with pytest.raises(StoreError):
            await handle.destroy()
        await handle.ask("nothing")
        assert journal.hooks == ["destroyed"]


async def test_a_hook_that_raised_is_not_called_again_at_once(autojump_clock: MockClock) -> None:
    """A room that crashed on its way to sleep is idle for its timeout before it tries again."""
    async with open_rooms([make_room("on_hibernate")]) as rooms:
        room = rooms.get("room", "x")
        journal.raise_in_on_hibernate = 1000
        await room.ask("add", 1)
        await trio.sleep(IDLE + 5)
        assert room.info().stage is Stage.AWAKE
        assert journal.raise_in_on_hibernate == 999


async def test_the_end_of_an_old_connection_touches_no_new_one(autojump_clock: MockClock) -> None:
    """A room that was destroyed and began anew keeps its connections when the old one's are gone."""
    async with open_rooms([make_room()]) as rooms:
        room = rooms.get("room", "x")
        async with connect(rooms, "room/x") as old:
            await room.ask("add", 1)
            await room.destroy()
            async with connect(rooms, "room/x") as new:
                await old.drop()
                await wait_all_tasks_blocked()
                assert room.emit("hello").reached == 1
                assert (await new.receive())["event"] == "hello"


async def test_closing_everybody_and_destroying_makes_no_new_room(autojump_clock: MockClock) -> None:
    """Departures of a room that is no more are told to nobody."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([make_room("on_create", "on_disconnect")], store=store) as rooms:
        async with connect(rooms, "room/x") as client:
            await client.emit("end")
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
        await trio.sleep(3 * IDLE)
        assert journal.hooks == ["created"]
        assert await store.keys() == []


async def test_a_restart_is_reported_once(autojump_clock: MockClock) -> None:
    """Also where the state is byte for byte what it was, so that nothing would have to be saved."""
    memory = MemoryStore()
    for expected in ([], [True, False]):
        journal.restarted.clear()
        async with open_rooms([make_room("on_wake", "on_connect")], store=memory) as rooms:
            room = rooms.get("room", "x")
            async with connect(rooms, "room/x", attachment="alice"):
                await trio.sleep(2 * IDLE)
                assert room.info().stage is Stage.ASLEEP
                if expected:
                    await room.ask("add", 0)
                    assert journal.restarted == expected
                    await trio.sleep(2 * IDLE)
                assert (await room.peek()).members == ["alice"]


async def test_an_exit_in_a_handler_saves_the_other_rooms(autojump_clock: MockClock) -> None:
    """SystemExit, or Ctrl-C in whatever task runs, ends the block at once and loses nothing."""
    memory = MemoryStore()
    began = trio.current_time()
    with pytest.raises(SystemExit):  # noqa: PT012 (the block is what is tested)
        async with open_rooms([make_room(snapshot_interval=100)], store=memory) as rooms:
            await rooms.get("room", "x").ask("add", 5)
            await rooms.get("room", "y").ask("exit")
    assert trio.current_time() - began < 5
    async with open_rooms([make_room()], store=memory) as rooms:
        assert await rooms.get("room", "x").ask("add", 0) == 5


async def test_everybody_is_answered_when_a_stuck_room_is_given_up(autojump_clock: MockClock) -> None:
    """Who asked it, who wanted it to sleep, and who comes later."""
    outcomes: list[str] = []

    async def note(what: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        try:
            await what(*arguments)
        except RoomsClosed:
            outcomes.append("closed")

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            async with open_rooms([make_room()], stop_timeout=3) as rooms:
                room = rooms.get("room", "x")
                nursery.start_soon(note, room.ask, "nap", 1)
                await trio.sleep(0.1)
                nursery.start_soon(note, room.hibernate)
                await trio.sleep(0.1)
                nursery.start_soon(note, room.ask, "nap", 1e6)
                await trio.sleep(2)
            await note(room.ask, "add", 1)
    assert set(outcomes) == {"closed"}
    assert len(outcomes) >= 2


async def test_handlers_do_not_see_the_context_of_who_woke_the_room(autojump_clock: MockClock) -> None:
    """Context variables of one caller stay that caller's."""

    async def ask(name: str) -> None:
        caller.set(name)
        assert await room.ask("whose") is None

    async with open_rooms([make_room()]) as rooms:
        room = rooms.get("room", "x")
        for name in ("first", "second"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, name)


async def test_mail_behind_a_destruction_does_not_hold_up_the_end(autojump_clock: MockClock) -> None:
    """The room that it begins is told to stop as well, and handles it."""
    answers: list[Any] = []

    async def ask(event: str, data: float) -> None:
        answers.append(await room.ask(event, data))

    async with trio.open_nursery() as nursery:
        async with open_rooms([make_room()]) as rooms:
            room = rooms.get("room", "x")
            nursery.start_soon(ask, "nap", 1)
            await trio.sleep(0.1)
            nursery.start_soon(room.destroy)
            await trio.sleep(0.1)
            nursery.start_soon(ask, "add", 7)
            await trio.sleep(0.1)
            began = trio.current_time()
        assert trio.current_time() - began < 3
    assert answers == [None, 7]


async def test_what_on_wake_changes_is_saved_within_the_interval(autojump_clock: MockClock) -> None:
    """Also after a crash that no mail followed."""
    async with open_rooms([make_room("on_wake", idle_timeout=1e6)]) as rooms:
        room = rooms.get("room", "x")
        await room.ask("add", 1)
        await trio.sleep(5)
        await room.ask("crash after", 5)
        await trio.sleep(20)
        assert (await room.peek()).total == 1101


async def test_a_state_spoiled_during_the_last_commit_keeps_the_room_awake(autojump_clock: MockClock) -> None:
    """It is an error to be told, not a crash."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([make_room()], store=store) as rooms:
        room = rooms.get("room", "x")
        await room.ask("add", 1)
        await room.ask("spoil later", 0.2)
        gate = store.hold_commits()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.hibernate)
            await gate.wait_arrived()
            await trio.sleep(0.3)
            gate.release()
        assert room.info().stage is Stage.AWAKE
        assert rooms.statistics().supervisor.crashes == 0
        assert await room.ask("add", 1) == 2


async def test_an_error_that_cannot_be_sent_is_an_internal_one(autojump_clock: MockClock) -> None:
    """A code or a text with no form in UTF-8 does not crash the room that says it."""
    async with open_rooms([make_room()]) as rooms, connect(rooms, "room/x") as client:
        await client.emit("say badly", id=1)
        assert (await client.receive())["error"]["code"] == "internal_error"
        await client.emit("add", 1, id=2)
        assert await client.receive() == {"ack": 2, "data": 1}
        assert rooms.statistics().supervisor.crashes == 0


async def test_who_left_is_reported_although_on_wake_raised_once(autojump_clock: MockClock) -> None:
    """The report of the next try has the departures too."""
    async with open_rooms([make_room("on_wake")]) as rooms:
        room = rooms.get("room", "x")
        async with connect(rooms, "room/x"):
            async with connect(rooms, "room/x", attachment="gone"):
                await room.ask("add", 1)
                assert await room.hibernate()
            await wait_all_tasks_blocked()
            journal.raise_in_on_wake = 1
            await room.ask("add", 1)
            assert journal.departed == ["gone"]
