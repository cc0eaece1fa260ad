"""How open rooms end: in order, and in time whatever hangs."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_rooms
from tests.raw import Client, request
from trio_rooms import (
    ConnectRequest,
    Context,
    MemoryStore,
    Room,
    Rooms,
    RoomsClosed,
    open_rooms,
)
from trio_rooms._loop.groups import first_error
from trio_rooms.stores import Commit, StoredRoom
from trio_rooms.testing import MemoryClient, connect

STOP, CLOSE = 3.0, 2.0
State = dict[str, Any]


@attrs.define(eq=False)
class Hang:
    """Something that does not end, however it is cancelled, before the test lets it."""

    how: str = "shield"
    begun: trio.Event = attrs.field(factory=trio.Event)
    _let_go: trio.Event = attrs.field(factory=trio.Event)
    _thread: threading.Event = attrs.field(factory=threading.Event)

    async def __call__(self) -> None:
        """Hang."""
        self.begun.set()
        if self.how == "shield":
            with trio.CancelScope(shield=True):
                await self._let_go.wait()
        elif self.how == "swallow":
            while not self._let_go.is_set():
                with contextlib.suppress(trio.Cancelled):
                    await trio.sleep_forever()
        elif self.how == "thread":
            await trio.to_thread.run_sync(self._thread.wait)
        else:
            assert self.how == "sleep"
            await trio.sleep_forever()

    def let_go(self) -> None:
        """Let it end."""
        self._let_go.set()
        self._thread.set()


hangs: list[Hang] = []


async def hang() -> None:
    """Hang as the test says."""
    await hangs[-1]()


def room_that_hangs(where: str) -> Room[State]:
    """A room that hangs at one place, and gets there when it is asked to."""
    room: Room[State] = Room("room", state=dict, snapshot_interval=1000)

    @room.on("add")
    async def add(ctx: Context[State]) -> int:
        ctx.state["n"] = ctx.state.get("n", 0) + 1
        return int(ctx.state["n"])

    @room.on("hang")
    async def handler(ctx: Context[State]) -> None:
        if where == "handler":
            await hang()
        elif where == "task":
            ctx.room.start_soon(hang)
            await hangs[-1].begun.wait()

    if where == "on_create":

        @room.on_create
        async def created(ctx: Context[State]) -> None:
            await hang()

    if where == "on_hibernate":

        @room.on_hibernate
        async def sleeps(ctx: Context[State]) -> None:
            await hang()

    return room


@attrs.define(eq=False)
class HangingStore(MemoryStore):
    """A store one of whose methods hangs."""

    where: str = ""

    async def load(self, key: str, *, newest: bool = False) -> StoredRoom:
        if self.where == "load":
            await hang()
        return await super().load(key, newest=newest)

    async def commit(self, commit: Commit) -> None:
        if self.where == "commit":
            await hang()
        await super().commit(commit)

    async def aclose(self) -> None:
        if self.where == "aclose":
            await hang()
        await super().aclose()


@contextlib.asynccontextmanager
async def ends_in_time(how: str) -> AsyncIterator[Hang]:
    """Something hangs inside, and yet what is inside ends in time; then it is let go, for the run to end."""
    hangs.append(Hang(how))
    try:
        yield hangs[-1]
    finally:
        hangs.pop().let_go()


async def _ask(rooms: Rooms, event: str) -> None:
    with contextlib.suppress(RoomsClosed):
        await rooms.get("room", "x").ask(event, timeout=1000)


@pytest.mark.parametrize("how", ["sleep", "shield", "thread"])
@pytest.mark.parametrize(
    "where", ["handler", "task", "on_create", "on_hibernate", "load", "commit", "aclose"]
)
async def test_the_end_takes_no_longer_than_is_said(
    where: str, how: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever hangs, and whether or not it can be cancelled; what may be lost is named."""
    store = HangingStore()
    store.where = where
    async with ends_in_time(how), trio.open_nursery() as nursery:
        async with open_rooms(
            [room_that_hangs(where)], store=store, stop_timeout=STOP, close_timeout=CLOSE
        ) as rooms:
            nursery.start_soon(_ask, rooms, "add")
            await wait_all_tasks_blocked()
            nursery.start_soon(_ask, rooms, "hang")
            await wait_all_tasks_blocked()
            began = trio.current_time()
        assert trio.current_time() - began <= STOP + 2 * CLOSE + 0.001
    lost = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert rooms.metrics().lost["state"] == sum("what was not saved is lost" in line for line in lost)
    if where == "commit":
        assert any("room/x" in line and "lost" in line for line in lost)
    elif where == "aclose":
        assert any("the store does not close" in line for line in lost)
    elif how == "sleep":
        assert not lost
    else:
        assert any("room/x" in line and "does not end" in line for line in lost)


async def test_a_handler_that_swallows_every_cancellation_does_not_keep_the_end() -> None:
    """It keeps the event loop busy, and everything else goes on beside it."""
    clock = MockClock(rate=50)

    async def main() -> None:
        async with ends_in_time("swallow"), trio.open_nursery() as nursery:
            async with open_rooms(
                [room_that_hangs("handler")], stop_timeout=STOP, close_timeout=CLOSE
            ) as rooms:
                nursery.start_soon(_ask, rooms, "hang")
                await hangs[-1].begun.wait()
                began = trio.current_time()
            assert trio.current_time() - began <= STOP + 2 * CLOSE + 5

    await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))


async def test_an_authenticate_that_does_not_end_keeps_neither_the_server_nor_the_end() -> None:
    """Its client is dropped, and whoever it would have let in later is not let in."""
    room: Room[State] = Room("room")
    served: list[Exception | None] = []

    @room.authenticate
    async def authenticate(request: ConnectRequest) -> None:
        await hang()

    async def serve(rooms: Rooms, task_status: trio.TaskStatus[Any]) -> None:
        await rooms.serve("127.0.0.1", 0, task_status=task_status)
        served.append(None)

    async with ends_in_time("shield") as hanging, trio.open_nursery() as nursery:
        async with open_rooms([room], stop_timeout=0, close_timeout=0) as rooms:
            address = await nursery.start(serve, rooms)
            client = Client(await trio.open_tcp_stream(address.host, address.port))
            await client.send(request("/room/x"))
            await hanging.begun.wait()
        assert served == [None]
        hanging.let_go()
        with contextlib.suppress(trio.BrokenResourceError):
            assert b" 101 " not in await client.rest()
        await client.stream.aclose()


# Rooms that ask each other while they stop.


async def _chain(ctx: Context[State]) -> None:
    await trio.sleep(0.05)
    await ctx.rooms.get("link", str(int(ctx.room.id) + 1)).ask("chain")


def asking_rooms() -> list[Room[State]]:
    """Tables that report to a lobby, and say goodbye to it and to a friend; ``ctx.app`` is a journal."""
    lobby: Room[State] = Room("lobby", state=dict, idle_timeout=10)
    table: Room[State] = Room("table", state=dict)

    @lobby.on("note")
    async def note(ctx: Context[State], data: str) -> None:
        ctx.state[data] = ctx.state.get(data, 0) + 1

    @lobby.on("all")
    async def all_notes(ctx: Context[State]) -> State:
        return ctx.state

    @table.on("sit")
    async def sit(ctx: Context[State], data: str) -> None:
        ctx.state["friend"] = data

    @table.on("report")
    async def report(ctx: Context[State], data: str) -> None:
        await trio.sleep(0.5)
        await ctx.rooms.get("lobby", "main").ask("note", data)

    @table.on_hibernate
    async def sleeps(ctx: Context[State]) -> None:
        ctx.app.append(ctx.room.id)
        await ctx.rooms.get("lobby", "main").ask("note", ctx.room.id)
        if "friend" in ctx.state:
            with contextlib.suppress(RoomsClosed):
                ctx.room.start_soon(ctx.rooms.get("table", ctx.state["friend"]).ask, "sit", ctx.room.id)
                await trio.sleep(0.01)

    link: Room[State] = Room("link", state=dict)

    @link.on("chain")
    async def chain(ctx: Context[State]) -> None:
        ctx.app.append(ctx.room.id)
        ctx.room.start_soon(_chain, ctx)
        await trio.sleep(0.1)

    return [lobby, table, link]


async def test_rooms_ask_each_other_until_all_are_at_rest(autojump_clock: MockClock) -> None:
    """From handlers and from on_hibernate; the room that is asked sleeps already, or comes to rest before."""
    store = MemoryStore()
    journal: list[str] = []
    handled: list[str] = []

    async def report(rooms: Rooms, id_: str, what: str) -> None:
        await rooms.get("table", id_).ask("report", what)
        handled.append(what)

    async with trio.open_nursery() as nursery:
        async with open_rooms(asking_rooms(), app=journal, store=store, stop_timeout=STOP) as rooms:
            await rooms.get("lobby", "main").ask("note", "first")
            await trio.sleep(20)
            for number in range(3):
                nursery.start_soon(report, rooms, f"t{number}", f"r{number}")
            await wait_all_tasks_blocked()
            began = trio.current_time()
        assert trio.current_time() - began < 1
        assert rooms.statistics().supervisor.crashes == 0
    assert sorted(handled) == ["r0", "r1", "r2"]
    assert sorted(journal) == ["t0", "t1", "t2"]
    async with open_rooms(asking_rooms(), app=journal, store=store) as rooms:
        notes = await rooms.get("lobby", "main").ask("all")
    assert notes == dict.fromkeys(["first", "r0", "r1", "r2", "t0", "t1", "t2"], 1)


async def test_rooms_that_say_goodbye_to_each_other_come_to_rest(autojump_clock: MockClock) -> None:
    """At the stop on_hibernate is called once, whatever is asked of the room after it."""
    journal: list[str] = []
    async with open_rooms(asking_rooms(), app=journal, stop_timeout=1000) as rooms:
        await rooms.get("table", "a").ask("sit", "b")
        await rooms.get("table", "b").ask("sit", "a")
        began = trio.current_time()
    assert trio.current_time() - began < 1
    assert sorted(journal) == ["a", "b"]


async def test_nobody_is_woken_for_rooms_that_were_woken_at_the_stop_themselves(
    autojump_clock: MockClock,
) -> None:
    """A chain of tasks in which each room wakes the next ends when the rooms that began it are at rest."""
    journal: list[str] = []
    async with open_rooms(asking_rooms(), app=journal, stop_timeout=1000) as rooms:
        await rooms.get("link", "0").ask("chain")
        began = trio.current_time()
    assert trio.current_time() - began < 1
    assert journal[:2] == ["0", "1"]
    assert len(journal) < 10
    assert rooms.statistics().supervisor.crashes == 0


# When clients are told.


async def test_clients_are_told_when_their_room_is_at_rest(autojump_clock: MockClock) -> None:
    """Those of a room that sleeps at once; the slowest room holds up nobody else's."""
    room: Room[State] = Room("room", state=dict, idle_timeout=10)
    told: dict[str, float] = {}

    @room.on("take")
    async def take(ctx: Context[State], data: float) -> None:
        await trio.sleep(data)

    async def client(rooms: Rooms, id_: str) -> None:
        async with connect(rooms, f"room/{id_}") as client:
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
            told[id_] = trio.current_time() - began
            assert client.closed is not None
            assert (client.closed.code, client.closed.reason) == (4321, "bye")

    began = 0.0
    async with open_rooms([room], stop_timeout=5, close_timeout=2) as rooms, trio.open_nursery() as nursery:
        for id_ in ("asleep", "quick", "slow", "stuck"):
            nursery.start_soon(client, rooms, id_)
        await rooms.get("room", "asleep").ask("take", 0)
        await trio.sleep(20)
        for id_, seconds in (("quick", 1), ("slow", 4), ("stuck", 1000)):
            nursery.start_soon(_take, rooms, id_, seconds)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await rooms.aclose(4321, "bye")
    assert told == pytest.approx({"asleep": 0, "quick": 1, "slow": 4, "stuck": 5}, abs=0.2)


async def _take(rooms: Rooms, id_: str, seconds: float) -> None:
    with contextlib.suppress(RoomsClosed):
        await rooms.get("room", id_).ask("take", seconds, timeout=1000)


# What comes out of the block.


class Broken(Exception):
    """On purpose."""


@pytest.mark.parametrize("own", [None, KeyError("mine")])
async def test_a_store_that_cannot_close_does_not_hide_what_the_block_raised(
    own: Exception | None, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is raised where there is nothing else, and logged otherwise."""

    class CannotClose(MemoryStore):
        async def aclose(self) -> None:
            raise Broken

    with pytest.raises(Broken if own is None else KeyError):  # noqa: PT012 (the block is what is tested)
        async with open_rooms([room_that_hangs("")], store=CannotClose()):
            if own is not None:
                raise own
    assert ("Broken" in caplog.text) == (own is not None)


@pytest.mark.parametrize("own", [None, KeyError("mine")])
async def test_a_failure_inside_stops_the_rooms_in_order(
    own: Exception | None, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The block is cancelled and raises it, unless it raises something itself; nothing is lost."""
    store = MemoryStore()
    with pytest.raises(Broken if own is None else KeyError):  # noqa: PT012 (the block is what is tested)
        async with open_rooms([room_that_hangs("")], store=store) as rooms:
            await rooms.get("room", "x").ask("add")
            rooms._runtime.spawn(_break)
            try:
                await trio.sleep_forever()
            finally:
                if own is not None:
                    raise own
    assert ("Broken" in caplog.text) == (own is not None)
    async with open_rooms([room_that_hangs("")], store=store) as rooms:
        assert await rooms.get("room", "x").ask("add") == 2


async def _break() -> None:
    raise Broken


async def test_a_handler_that_exits_the_program_lets_the_others_come_to_rest(
    autojump_clock: MockClock,
) -> None:
    """Mail that waits is handled, also in other rooms, and on_hibernate is called."""
    store = MemoryStore()
    room: Room[State] = Room("room", state=dict)
    journal: list[str] = []

    @room.on("add")
    async def add(ctx: Context[State]) -> None:
        await trio.sleep(1)
        ctx.state["n"] = ctx.state.get("n", 0) + 1

    @room.on("exit")
    async def leave(ctx: Context[State]) -> None:
        ctx.state["n"] = 100
        sys.exit(3)

    @room.on_hibernate
    async def sleeps(ctx: Context[State]) -> None:
        ctx.app.append(ctx.room.id)

    async with trio.open_nursery() as nursery:
        with pytest.raises(SystemExit):  # noqa: PT012 (the block is what is tested)
            async with open_rooms([room], store=store, app=journal) as rooms:
                for _ in range(3):
                    nursery.start_soon(rooms.get("room", "x").ask, "add")
                await wait_all_tasks_blocked()
                await rooms.get("room", "y").ask("exit")
    assert journal == ["x"]
    async with open_rooms([room], store=store) as rooms:
        assert await rooms.get("room", "x").peek() == {"n": 3}
        assert await rooms.get("room", "y").peek() == {"n": 100}


# Ctrl-C.

PACKAGE = str(Path(trio_rooms.__file__).parent)


@attrs.define(eq=False)
class Interrupted:
    """A program that is interrupted at one line of its life."""

    at: int
    lines: int = 0
    acknowledged: int = 0
    parted: int = 0
    store: MemoryStore = attrs.field(factory=MemoryStore)

    def trace(self, frame: Any, event: str, _: Any) -> Any:
        """Press Ctrl-C at the line."""
        # Not as `program` enters or leaves its blocks: a key at that very line is between Python's own steps,
        # and nothing is told that it was entered.
        if not (frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "talk"):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self.trace

    async def program(self) -> None:
        """Ask a room a few things, with a client in it."""
        room = room_that_hangs("")

        @room.on_hibernate
        async def sleeps(ctx: Context[State]) -> None:
            ctx.app.parted += 1

        before = sys.gettrace()  # Coverage is measured by one.
        sys.settrace(self.trace)
        try:
            async with (
                open_rooms([room], store=self.store, app=self) as rooms,
                trio.open_nursery() as nursery,
            ):
                await self.talk(rooms, nursery)
        finally:
            sys.settrace(before)

    async def talk(self, rooms: Rooms, nursery: trio.Nursery) -> None:
        """What it asks."""
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(rooms.serve_stream, theirs, "room", "x")
        client = MemoryClient(ours)
        handle = rooms.get("room", "x")
        for _ in range(3):
            self.acknowledged = await handle.ask("add")
        await client.send('{"event": "add", "id": 1}')
        with contextlib.suppress(trio.EndOfChannel):
            await client.receive()
            self.acknowledged += 1
        await handle.hibernate()
        self.acknowledged = await handle.ask("add")
        await ours.aclose()

    async def saved(self) -> int:
        """What the store has, which must have been closed."""
        async with open_rooms([room_that_hangs("")], store=self.store) as rooms:
            state = await rooms.get("room", "x").peek()
        return 0 if state is None else int(state["n"])


def test_ctrl_c_at_any_moment_stops_the_rooms_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """In the program, in a room, in the hub, and while everything stops: what was answered is saved."""
    whole = Interrupted(0)
    trio.run(whole.program, clock=MockClock(autojump_threshold=0))
    assert (whole.acknowledged, whole.parted) == (5, 2)
    for at in range(1, whole.lines, max(1, whole.lines // 150)):
        one = Interrupted(at)
        try:
            trio.run(one.program, clock=MockClock(autojump_threshold=0))
        except (KeyboardInterrupt, BaseExceptionGroup) as error:
            outcome: BaseException | None = first_error(error)
        else:
            outcome = None
        assert isinstance(outcome, KeyboardInterrupt) or one.lines < at  # Not always are there as many.
        saved = trio.run(one.saved)
        assert saved >= one.acknowledged, at
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING], at
    gc.collect()
