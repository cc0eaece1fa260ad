"""Handlers and hooks that are plain functions: where they run, and that nothing else differs."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.raw import TEXT, frame
from trio_rooms import (
    Context,
    Disconnect,
    EventError,
    Fire,
    MemoryStore,
    Policy,
    Room,
    Rooms,
    Stage,
    WakeReport,
    open_rooms,
)
from trio_rooms._loop.turn import TURN
from trio_rooms._sockets import hub
from trio_rooms.testing import Closed, FaultyStore, MemoryClient, connect


@attrs.define(eq=False)
class Journal:
    """What the rooms of a test did."""

    done: list[Any] = attrs.field(factory=list)


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


def plain_functions(**options: Any) -> Room[list[Any]]:
    """A room all of whose handlers and hooks are plain functions, and tell what they are given."""
    room: Room[list[Any]] = Room("all", state=list, idle_timeout=5, resume_window=0, **options)

    @room.authenticate
    def authenticate(request: Any) -> dict[str, str]:
        return {"name": "ana"}

    @room.on_create
    def created(ctx: Context[Any]) -> None:
        journal.done.append("create")

    @room.on_wake
    def woke(ctx: Context[Any], report: WakeReport) -> None:
        journal.done.append(f"wake: {report.cause}")

    @room.on_connect
    def joined(ctx: Context[Any]) -> None:
        journal.done.append(f"connect: {ctx.connection.attachment['name']}")

    @room.on_disconnect
    def left(ctx: Context[Any], left: Disconnect) -> None:
        journal.done.append(f"disconnect: {left.attachment['name']}")

    @room.on_hibernate
    def sleeps(ctx: Context[Any]) -> None:
        journal.done.append("hibernate")

    @room.on_destroy
    def ends(ctx: Context[Any]) -> None:
        journal.done.append("destroy")

    @room.on_error
    def failed(ctx: Context[Any], error: Exception) -> None:
        journal.done.append(f"error: {error!r}")

    @room.on_schedule("later")
    def due(ctx: Context[Any], fire: Fire[int]) -> None:
        journal.done.append(f"schedule: {fire.data}")

    @room.on("add")
    def add(ctx: Context[list[Any]], data: int) -> int:
        ctx.state.append(data)
        return sum(ctx.state)

    @room.on("kept", durable=True)
    def kept(ctx: Context[list[Any]]) -> int:
        ctx.state.append(0)
        return len(ctx.state)

    @room.on("later")
    def later(ctx: Context[Any], data: int) -> None:
        ctx.room.schedule("later", data, after=1)

    @room.on("raise")
    def fails(ctx: Context[Any]) -> None:
        raise KeyError("broken")

    @room.on("refuse")
    def refuses(ctx: Context[Any]) -> None:
        raise EventError("sold_out", "come back tomorrow")

    @room.on_any
    def other(ctx: Context[Any], event: str, data: Any) -> Any:
        return event, data

    return room


@pytest.mark.parametrize("options", [{}, {"durability": "commit"}, {"handler_timeout": 1.0}])
async def test_all_handlers_and_hooks_may_be_plain_functions(
    options: dict[str, Any], autojump_clock: MockClock
) -> None:
    """Each is called as one that is awaited, also where what it does has to wait, or may not take long."""
    async with open_rooms([plain_functions(**options)], store=MemoryStore()) as rooms:
        handle = rooms.get("all", "x")
        async with connect(rooms, "all/x") as client:
            assert await client.ask("add", 2) == 2
            assert await client.ask("add", 3) == 5
            assert await client.ask("kept") == 3
            assert await client.ask("else", 1) == ["else", 1]
            await client.ask("later", 7)
            with pytest.raises(EventError, match="come back tomorrow"):
                await client.ask("refuse")
            with pytest.raises(EventError, match="could not handle"):
                await client.ask("raise")
            assert await handle.ask("add", 5) == 10
            await trio.sleep(10)
            assert await client.ask("add", 0) == 10
        await trio.sleep(10)
        await handle.destroy()
    assert journal.done == [
        "create",
        "connect: ana",
        "error: KeyError('broken')",
        "schedule: 7",
        "hibernate",
        "wake: message",
        "disconnect: ana",
        "hibernate",
        "wake: destroy",
        "destroy",
    ]


# Where a handler runs, and what else may happen there.

Act = Callable[[Context[Any]], object]


@attrs.define(eq=False)
class Scene:
    """What the handlers of a test do, by message, and what they did."""

    acts: dict[str, Act] = attrs.field(factory=dict)
    done: list[str] = attrs.field(factory=list)
    where: list[str] = attrs.field(factory=list)
    """For each of these, whether it was in the task of the room or of whoever had the message."""
    gate: trio.Event = attrs.field(factory=trio.Event)
    waits: bool = False
    """Whether on_error waits for the gate."""

    def note(self, ctx: Context[Any], what: str) -> None:
        """Something is done."""
        self.done.append(what)
        own = trio.lowlevel.current_task().name == ctx.room.key
        self.where.append("room" if own else "reader")


scene = Scene()


@pytest.fixture(autouse=True)
def _fresh_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    scene.__init__()  # type: ignore[misc]
    # On a busy machine a turn may be over before anything is handled in it.
    monkeypatch.setattr(hub, "perf_counter", lambda: 1.0)


def got(ctx: Context[Any], message: str) -> None:
    """A message of a plain room."""
    scene.note(ctx, message)
    scene.acts.get(message, str)(ctx)


def event(ctx: Context[Any], data: str) -> str:
    """An event."""
    scene.note(ctx, data)
    scene.acts.get(data, str)(ctx)
    return data


async def slow(ctx: Context[Any], data: str) -> str:
    """An event that waits."""
    scene.note(ctx, data)
    await scene.gate.wait()
    scene.note(ctx, f"{data} is done")
    return data


async def waiting_on_error(ctx: Context[Any], error: Exception) -> None:
    """Hears of what is raised."""
    scene.note(ctx, f"on_error {error}")
    if scene.waits:
        await scene.gate.wait()
        scene.note(ctx, "on_error is done")


def plain(**options: Any) -> Room[Any]:
    """A plain room with a plain function."""
    room: Room[Any] = Room("r", **{"state": list, "idle_timeout": 10, "snapshot_interval": 100, **options})
    room.on_message(got)
    return room


def mixed(**options: Any) -> Room[Any]:
    """A room with events that wait, and such that do not."""
    room: Room[Any] = Room("r", **{"state": list, "idle_timeout": 10, "snapshot_interval": 100, **options})
    room.on("event")(event)
    room.on("slow")(slow)
    room.on("durable", durable=True)(event)
    return room


@asynccontextmanager
async def one_client(room: Room[Any], **options: Any) -> AsyncIterator[tuple[Rooms, MemoryClient]]:
    """Rooms with a client in one that is awake, and quiet."""
    async with open_rooms([room], **options) as rooms, connect(rooms, "r/x") as client:
        await say(client, "first")
        scene.done.clear()
        scene.where.clear()
        yield rooms, client


async def say(client: MemoryClient, *messages: str) -> None:
    """Send messages, or events, and wait until all is quiet."""
    for message in messages:
        await (client.send(message) if client._plain else client.emit("event", message))
    await wait_all_tasks_blocked()


def here() -> tuple[list[str], list[str]]:
    """What was done, and where; and it begins anew."""
    done = scene.done[:], scene.where[:]
    scene.done.clear()
    scene.where.clear()
    return done


@pytest.mark.parametrize("room", [plain, mixed])
async def test_a_quiet_room_handles_where_the_message_is(room: Any, autojump_clock: MockClock) -> None:
    """But for the first after a while, which lets somebody look how long its handlers take."""
    async with one_client(room()) as (_, client):
        await say(client, "a", "b", "c")
        assert here() == (["a", "b", "c"], ["reader"] * 3)
        await trio.sleep(3)
        await say(client, "d")
        await say(client, "e")
        assert here() == (["d", "e"], ["room", "reader"])


async def test_what_comes_behind_other_mail_stays_behind_it(autojump_clock: MockClock) -> None:
    """While a handler waits, whoever comes waits, too, in order; then it is as before."""
    async with one_client(mixed()) as (rooms, client), trio.open_nursery() as nursery:
        await client.emit("slow", "slow", id=1)
        await say(client, "a", "b")
        nursery.start_soon(rooms.get("r", "x").ask, "event", "asked")
        await wait_all_tasks_blocked()
        await say(client, "c")
        assert here() == (["slow"], ["room"])
        scene.gate.set()
        await wait_all_tasks_blocked()
        assert here() == (["slow is done", "a", "b", "asked", "c"], ["room"] * 5)
        await say(client, "d")
        assert here() == (["d"], ["reader"])


async def test_behind_a_durable_handler_all_is_the_rooms_own(autojump_clock: MockClock) -> None:
    """What it did waits for its commit, and so does what is handled behind it."""
    store = FaultyStore(MemoryStore())
    async with one_client(mixed(), store=store) as (_, client):
        held = store.hold_commits()
        scene.acts["kept"] = lambda ctx: ctx.state.append("kept")
        await client.emit("durable", "kept", id=1)
        await held.wait_arrived()  # What was changed before is saved first.
        held.release_one()
        await held.wait_arrived(2)
        await say(client, "b")
        assert here() == (["kept", "b"], ["room", "room"])
        held.release()
        await wait_all_tasks_blocked()
        await say(client, "c")
        assert here() == (["c"], ["reader"])


async def test_behind_output_that_waits_all_is_the_rooms_own(autojump_clock: MockClock) -> None:
    """Else what a room sends would be made faster than it is written."""
    async with one_client(plain()) as (rooms, client):
        rooms._runtime.hub.hold_output()
        scene.acts["a"] = lambda ctx: ctx.connection.send("sent")
        await say(client, "a", "b")
        assert here() == (["a"], ["reader"])
        rooms._runtime.hub.let_output_go()
        await wait_all_tasks_blocked()
        assert here() == (["b"], ["room"])
        assert await client.receive() == "sent"


async def test_one_read_is_a_turn_at_most(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What many messages of one read take beyond that is taken in the task of the room, which pauses."""
    now = 0.0

    def takes(ctx: Context[Any]) -> None:
        nonlocal now
        now += 0.6 * TURN

    monkeypatch.setattr(hub, "perf_counter", lambda: now + 1)
    async with one_client(plain()) as (_, client):
        scene.acts["a"] = takes
        await client._stream.send_all(b"".join(frame(TEXT, b"a") for _ in range(10)))
        await wait_all_tasks_blocked()
        assert here() == (["a"] * 10, ["reader"] * 2 + ["room"] * 8)


@pytest.mark.parametrize("pause", [0, 3])
async def test_who_is_closed_in_the_middle_of_a_read_is_not_heard_any_more(
    pause: float, autojump_clock: MockClock
) -> None:
    """Neither with what it had sent behind the message that had it closed."""
    async with one_client(plain()) as (_, client):
        await trio.sleep(pause)
        scene.acts["close"] = lambda ctx: ctx.connection.close(4000, "enough")
        await client._stream.send_all(b"".join(frame(TEXT, one) for one in (b"a", b"close", b"b")))
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed == Closed(4000, "enough")
    assert here() == (["a", "close"], ["room" if pause else "reader"] * 2)


async def test_what_needs_no_room_is_answered_before_what_comes_behind_it(autojump_clock: MockClock) -> None:
    """Also where a client sends all of it in one piece; and none of it is lost where a handler closes."""
    made = plain(auto_respond={"ping": "pong"}, auto_echo=["e:"])
    async with one_client(made) as (_, client):
        scene.acts["b"] = lambda ctx: ctx.connection.send("re b")
        scene.acts["c"] = lambda ctx: ctx.connection.send("re c")
        scene.acts["close"] = lambda ctx: ctx.connection.close(4000, "enough")
        sent = (b"ping", b"b", b"e:1", b"c", b"e:2", b"ping", b"close")
        await client._stream.send_all(b"".join(frame(TEXT, one) for one in sent))
        got = [await client.receive() for _ in range(6)]
        assert got == ["pong", "re b", "e:1", "re c", "e:2", "pong"]
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed == Closed(4000, "enough")


async def test_whatever_is_to_be_awaited_is_no_answer_of_a_plain_function(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where it is no coroutine, and nobody would be warned of it."""

    class Later:
        def __await__(self) -> Any:
            """Nobody waits for it."""

    room: Room[Any] = Room("r", state=list)

    @room.on_message
    def later(_: Context[Any]) -> Any:
        return Later()

    async with open_rooms([room]) as rooms, connect(rooms, "r/x") as client:
        await client.send("a")
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
    assert "which is not awaited: write async def" in caplog.text


@pytest.mark.parametrize("room", [plain, mixed])
@pytest.mark.parametrize("hears", [None, "at once", "waits"])
async def test_what_a_handler_raises_stays_in_its_room(
    room: Any, hears: str | None, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and told as ever; what on_error waits for keeps all that comes behind it waiting."""
    made = room()
    scene.waits = hears == "waits"
    if hears is not None:
        made.on_error(waiting_on_error)

    def broken(ctx: Context[Any]) -> None:
        ctx.connection.attachment = ["edited"]
        ctx.connection.attachment.append("before")
        raise KeyError("broken")

    scene.acts["raise"] = broken
    async with one_client(made) as (rooms, client), connect(rooms, "r/x") as other:
        await say(other, "hello")
        here()
        await say(client, "raise")
        assert "KeyError: 'broken'" in caplog.text
        await say(other, "a")
        if hears == "at once":
            assert here() == (["raise", "on_error 'broken'", "a"], ["reader", "room", "reader"])
        elif hears == "waits":
            assert here() == (["raise", "on_error 'broken'"], ["reader", "room"])
            scene.gate.set()
            await wait_all_tasks_blocked()
            assert here() == (["on_error is done", "a"], ["room", "room"])
        else:
            assert here() == (["raise", "a"], ["reader", "reader"])
        if room is plain:
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
            assert client.closed == Closed(1011, "the room failed")
        await say(other, "b")
        assert here() == (["b"], ["reader"])


async def test_who_is_refused_is_told_so_at_once(autojump_clock: MockClock) -> None:
    """A refusal is no failure: on_error hears nothing, and nothing is left to the room's task."""

    def refuse(ctx: Context[Any]) -> None:
        raise EventError("sold_out", "come back tomorrow")

    scene.acts["refuse"] = refuse
    made = mixed()
    made.on_error(waiting_on_error)
    async with one_client(made) as (_, client):
        await client.emit("event", "refuse", id=7)
        await client.emit("none", id=8)
        await say(client, "a")
        assert [(await client.receive())["error"]["code"] for _ in range(2)] == ["sold_out", "unknown_event"]
        assert here() == (["refuse", "a"], ["reader", "reader"])


class Strange(BaseException):
    """What is no Exception, and ends no program."""


@pytest.mark.parametrize("how", ["on_error raises", "strange"])
async def test_what_crashes_a_room_crashes_it_alone(
    how: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its state goes back to what was saved, nothing of it is saved meanwhile, and the hub goes on."""
    made = plain(snapshot_interval=1)

    @made.on_error
    async def fails(ctx: Context[Any], error: Exception) -> None:
        raise error

    def crash(ctx: Context[Any]) -> None:
        ctx.state.append("in doubt")
        for _ in range(20 if how == "strange" else 0):
            ctx._saver._save_soon()  # One of them comes before the room's own task, whatever their order.
        raise (Strange if how == "strange" else ValueError)("crash")

    scene.acts["crash"] = crash
    scene.acts["add"] = lambda ctx: ctx.state.append("kept")
    scene.acts["tell"] = lambda ctx: ctx.connection.send(",".join(ctx.state))
    store = MemoryStore()
    async with one_client(made, store=store) as (rooms, client), connect(rooms, "r/x") as other:
        await say(client, "add")
        await trio.sleep(5)
        await say(other, "a")
        here()
        await say(client, "crash")
        assert here()[1] == ["reader"]
        assert "crashed" in caplog.text
        await other.send("tell")
        assert await other.receive() == "kept"


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_ends_the_program_ends_it_in_order(
    ends: type[BaseException], cancelled: bool, autojump_clock: MockClock
) -> None:
    """It is raised where the room is, and not in the hub; nor is it lost where the room is cancelled, too."""
    store = MemoryStore()

    def end(ctx: Context[Any]) -> None:
        ctx.state.append("saved")
        if cancelled:
            ctx.room._background.cancel()
        raise ends

    scene.acts["end"] = end

    async def life() -> None:
        async with one_client(plain(), store=store) as (_, client):
            await say(client, "end")
            await trio.sleep_forever()

    with pytest.raises(ends):
        await life()
    scene.acts["tell"] = lambda ctx: ctx.connection.send(",".join(ctx.state))
    async with one_client(plain(), store=store) as (_, client):
        await client.send("tell")
        # A task that cancels its own room has crashed it, whatever else is raised.
        assert await client.receive() == ("" if cancelled else "saved")


async def test_what_is_changed_is_saved_in_time(autojump_clock: MockClock) -> None:
    """State and attachments alike, without the room's task."""
    store = MemoryStore()

    def change(ctx: Context[Any]) -> None:
        kept[0].append("changed")
        ctx.connection.attachment["seen"].append("changed")

    kept: list[Any] = []

    def begin(ctx: Context[Any]) -> None:
        ctx.connection.attachment = {"seen": []}
        kept.append(ctx.state)  # Who does that is not seen when it is changed.

    scene.acts["begin"] = begin
    scene.acts["change"] = change
    async with one_client(plain(snapshot_interval=1), store=store) as (rooms, client):
        await say(client, "begin")
        await trio.sleep(5)
        await say(client, "a")
        await trio.sleep(0.8)  # What was before is saved.
        here()
        await say(client, "change")
        assert here()[1] == ["reader"]
        before = (await store.load("r/x")).snapshots[0]
        await trio.sleep(1)
        assert (await store.load("r/x")).snapshots[0] != before
        await rooms.get("r", "x").hibernate()
        scene.acts["tell"] = lambda ctx: ctx.connection.send(f"{ctx.state} {ctx.connection.attachment}")
        await client.send("tell")
        assert await client.receive() == "['changed'] {'seen': ['changed']}"


async def test_a_room_sleeps_when_its_time_without_messages_is_over(autojump_clock: MockClock) -> None:
    """Counted from the last, whoever handled it; a save in between neither shortens nor lengthens it."""
    scene.acts["change"] = lambda ctx: ctx.state.append(1)
    async with one_client(plain(snapshot_interval=3)) as (rooms, client):
        info = rooms.get("r", "x").info
        for _ in range(5):
            await trio.sleep(0.5)
            await say(client, "a")
            await trio.sleep(7)
            await say(client, "a", "change")
        last = trio.current_time()
        assert here()[1][-1] == "reader"
        assert info().stage is Stage.AWAKE
        await trio.sleep_until(last + 5)
        actor = rooms._runtime.supervisor.actor("r/x")
        assert actor is not None
        actor.saver.look_soon()  # As a large state has its own task save it.
        await trio.sleep_until(last + 9.9)
        assert info().stage is Stage.AWAKE
        await trio.sleep_until(last + 10.1)
        assert info().stage is Stage.ASLEEP


async def test_an_attachment_that_cannot_be_kept_is_a_failure_at_once(autojump_clock: MockClock) -> None:
    """And not when the room is to sleep, when nobody would know whose it is."""
    scene.acts["begin"] = lambda ctx: setattr(ctx.connection, "attachment", [])
    scene.acts["spoil"] = lambda ctx: ctx.connection.attachment.append(object())
    async with one_client(plain()) as (_, client):
        await say(client, "begin", "spoil")
        assert here()[1] == ["reader"] * 2
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed == Closed(1011, "the room failed")


async def async_got(ctx: Context[Any], message: str) -> None:
    """The same, and awaited."""
    got(ctx, message)


async def test_activity_counts_as_that_of_other_handlers(autojump_clock: MockClock) -> None:
    """A room with many messages lately sleeps no sooner and no later than one whose handler is awaited."""
    slept: list[float] = []
    policy = Policy(idle_timeout=0.2, activity_window=0.8, message_threshold=20)
    for handler in (got, async_got):
        made: Room[None] = Room("r", policy=policy)
        made.on_message(handler)
        async with open_rooms([made]) as rooms, connect(rooms, "r/x") as client:
            began = trio.current_time()
            for count in (30, 1, 15, 15, 15, 15, 9):
                await say(client, *["a"] * count)
                await trio.sleep(0.15)
            while rooms.get("r", "x").info().stage is not Stage.ASLEEP:
                await trio.sleep(0.01)
            slept.append(trio.current_time() - began)
    assert slept[0] == pytest.approx(slept[1])
    assert slept[0] > 1.2
    assert "reader" in scene.where


async def test_a_handler_that_runs_is_not_called_again(autojump_clock: MockClock) -> None:
    """What comes for its room from within it is mail like other."""

    def act(ctx: Context[Any]) -> None:
        eager = ctx.room._mailbox.eager
        assert eager is not None
        assert eager((ctx.connection.link, "b"))
        scene.note(ctx, "a is done")

    scene.acts["a"] = act
    async with one_client(plain()) as (_, client):
        await say(client, "a")
    assert here() == (["a", "a is done", "b"], ["reader", "reader", "room"])


async def test_a_handler_may_do_all_that_others_may(autojump_clock: MockClock) -> None:
    """Start tasks, which are the room's; speak to its own room from outside, and to others; destroy it."""

    async def task(ctx: Context[Any]) -> None:
        scene.note(ctx, "task")
        await trio.sleep(1)
        ctx.room.send("task is done")

    def act(ctx: Context[Any]) -> None:
        ctx.room.start_soon(task, ctx, keep_awake=True)
        ctx.room.send("to all")
        ctx.rooms.get("r", "y").send("elsewhere")
        ctx.rooms.get("r", "x").send("to itself")

    scene.acts["act"] = act
    scene.acts["destroy"] = lambda ctx: ctx.room.destroy()
    async with one_client(plain(idle_timeout=0.5)) as (rooms, client), connect(rooms, "r/y") as other:
        await say(client, "act", "a")
        assert here()[0] == ["act", "task", "a"]
        assert [await client.receive() for _ in range(3)] == ["to all", "to itself", "task is done"]
        assert await other.receive() == "elsewhere"
        await trio.sleep(0.1)
        await say(client, "b")
        await say(client, "destroy", "c")
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed == Closed(1000, "the room was destroyed")
        assert here()[0] == ["b", "destroy"]


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nothing")


async def test_what_a_handler_sets_in_its_context_stays_in_its_room(autojump_clock: MockClock) -> None:
    """It is there for the next message, and for no other room."""
    scene.acts["set"] = lambda ctx: VARIABLE.set(ctx.room.id)
    scene.acts["tell"] = lambda ctx: ctx.connection.send(VARIABLE.get())
    async with one_client(plain()) as (rooms, client), connect(rooms, "r/y") as other:
        await say(other, "a")
        await say(client, "set", "tell")
        await say(other, "tell")
        assert scene.where[-3:] == ["reader"] * 3
        assert await client.receive() == "x"
        assert await other.receive() == "nothing"
        await trio.sleep(3)
        await say(client, "tell")
        assert scene.where[-1:] == ["room"]
        assert await client.receive() == "x"


async def test_a_message_that_was_handled_is_not_handled_again(autojump_clock: MockClock) -> None:
    """An id of a session is handled once, wherever that is."""
    scene.acts["add"] = lambda ctx: ctx.state.append(1)
    room = mixed(resume_window=60)
    json = ["trio-rooms.v1.json"]
    async with open_rooms([room]) as rooms, connect(rooms, "r/x", subprotocols=json) as client:
        await client.receive()
        for number in (1, 2, 2, 1, 0):
            await client.emit("event", "add", id=number)
            await wait_all_tasks_blocked()
        answers = [await client.receive() for _ in range(5)]
        assert [one["ack"] for one in answers] == [1, 2, 2, 1, 0]
        assert answers[4]["error"]["code"] == "invalid_message"
        assert here() == (["add", "add"], ["room", "reader"])


async def test_what_blocks_all_is_named(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A plain function that blocks stops all rooms; the log says which was busy."""
    scene.acts["block"] = lambda ctx: autojump_clock.jump(10)
    async with one_client(plain(idle_timeout=1000)) as (_, client):
        await say(client, "block")
        assert here()[1] == ["reader"]
        await trio.sleep(1)
    assert "nothing ran for 9 s or more" in caplog.text
    assert "Busy were the rooms r/x" in caplog.text


async def test_who_records_hears_of_a_message_before_what_follows_from_it(autojump_clock: MockClock) -> None:
    """Else one who is closed for a message would seem to send it afterwards."""
    heard: list[str] = []
    scene.acts["close"] = lambda ctx: ctx.connection.close()
    async with one_client(plain()) as (rooms, client):
        rooms._runtime.hub.record(lambda link, size: heard.append("message"))
        scene.acts["close"] = lambda ctx: heard.append("handled")
        await say(client, "close")
        rooms._runtime.hub.record(None)
    assert heard == ["message", "handled"]


async def test_a_coroutine_that_nobody_awaits_is_a_failure(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain function that calls an async one has done nothing, and its client is told so."""
    made: Room[None] = Room("r")

    @made.on("forgets")
    def forgets(ctx: Context[None]) -> Any:
        return slow(ctx, "never")

    async with open_rooms([made]) as rooms, connect(rooms, "r/x") as client:
        for _ in range(2):
            with pytest.raises(EventError, match="could not handle"):
                await client.ask("forgets")
    assert caplog.text.count("forgets is a plain function, and returned a coroutine") == 2
