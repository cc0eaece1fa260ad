"""The client and real rooms in one process, over streams in memory and by a clock that is moved."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
import trio_websocket
from trio.testing import MockClock, memory_stream_pair

from trio_rooms import Context, MemoryStore, Room, Rooms, Store, StoreError, StoreFull, open_rooms
from trio_rooms.client import AnswerLost, AskFailed, RemoteRoom, connect_room
from trio_rooms.testing import FaultyStore


@attrs.define
class Ledger:
    """What a room remembers."""

    balance: int = 0
    count: int = 0
    log: list[str] = attrs.field(factory=list)


ledger = Room("ledger", state=Ledger, durability="commit", resume_window=3000, idle_timeout=10)


@ledger.on("add")
async def add(ctx: Context[Ledger], data: int) -> int:
    """Add, and tell all."""
    ctx.state.balance += data
    ctx.state.count += 1
    ctx.room.emit("balance", ctx.state.count, reliable=True)
    return ctx.state.balance


@ledger.on("enter")
async def enter(ctx: Context[Ledger], data: str) -> None:
    """Write something down, and tell all."""
    ctx.state.log.append(data)
    ctx.room.emit("entered", data, reliable=True)


@ledger.on("log")
async def log(ctx: Context[Ledger]) -> list[str]:
    """Answer with what was written down."""
    return ctx.state.log


@ledger.on("slow")
async def slow(ctx: Context[Ledger], data: float) -> int:
    """Take a while."""
    await trio.sleep(data)
    ctx.state.count += 1
    return ctx.state.count


class Way:
    """The way of clients to one room."""

    def __init__(self, rooms: Rooms | None, nursery: trio.Nursery) -> None:
        self.rooms = rooms
        self.nursery = nursery
        self.streams: list[trio.abc.Stream] = []
        self.is_open = True

    async def open_stream(self) -> trio.abc.Stream:
        """What a client connects with."""
        await trio.lowlevel.checkpoint()
        if not self.is_open or self.rooms is None:
            raise OSError("closed")
        ours, theirs = memory_stream_pair()
        self.streams.append(ours)
        self.nursery.start_soon(self._serve, theirs)
        return ours

    async def cut(self) -> None:
        """Break what is open."""
        for stream in self.streams:
            await trio.aclose_forcefully(stream)
        self.streams.clear()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        # What trio-websocket's reader raises where its connection breaks at the wrong moment.
        with suppress(Exception, ExceptionGroup):
            async with trio.open_nursery() as nursery:
                request: Any = await trio_websocket.wrap_server_stream(nursery, stream)
                assert self.rooms is not None
                await self.rooms.adopt(request, "ledger", "main")
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def served(store: Store) -> AsyncIterator[Way]:
    """Rooms, and the way to one of them."""
    async with open_rooms([ledger], store=store) as rooms, trio.open_nursery() as nursery:
        way = Way(rooms, nursery)
        yield way
        await way.cut()


def connect(way: Way, **settings: Any) -> Any:
    """A client."""
    return connect_room("ws://localhost/ledger/main", open_stream=way.open_stream, **settings)


async def counts(room: RemoteRoom, count: int) -> list[Any]:
    """The next events."""
    return [(await anext(room)).data for _ in range(count)]


async def test_a_session_goes_on_while_its_room_sleeps(autojump_clock: MockClock) -> None:
    """What others did meanwhile comes, in order, whether the room slept or not."""
    with trio.fail_after(1000):
        async with (
            served(MemoryStore()) as way,
            connect(way) as room,
            connect(Way(way.rooms, way.nursery)) as other,
        ):
            name = room.id
            assert await room.ask("add", 1) == 1
            way.is_open = False
            await way.cut()
            for number in range(2, 6):
                assert await other.ask("add", 1) == number
            await trio.sleep(20)
            way.is_open = True
            assert await room.ask("add", 1) == 6
            assert await counts(room, 6) == [1, 2, 3, 4, 5, 6]
            assert room.id == name
            await trio.sleep(100)
            await way.cut()
            assert await room.ask("add", 1) == 7
            assert await counts(room, 1) == [7]
            assert room.id == name


async def test_who_is_away_for_too_long_is_told(autojump_clock: MockClock) -> None:
    """The session has expired; who asked before is told that nobody knows."""
    with trio.fail_after(5000):
        async with served(MemoryStore()) as way, connect(way) as room, trio.open_nursery() as nursery:
            await room.ask("add", 1)
            reasons: list[str] = []

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(AnswerLost) as lost:
                    await room.ask("slow", 5)
                assert lost.value.applied is None
                reasons.append(lost.value.reason)

            await trio.sleep(1)
            way.is_open = False
            await way.cut()
            await trio.sleep(4000)
            way.is_open = True
            assert await room.ask("add", 1) == 2
            assert await counts(room, 3) == [1, {"reason": reasons[0]}, 3]
            assert reasons[0] in ("expired", "unknown")  # By whether its end is still known.


async def test_what_cannot_be_looked_up_yet_is_not_taken_for_done(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store cannot tell what of a session was handled, all of it is asked again, and done once."""
    store = FaultyStore(MemoryStore())
    with trio.fail_after(1000):
        async with served(store) as way, connect(way, first_delay=0.1) as room:
            await room.ask("enter", "first")
            assert way.rooms is not None
            await way.rooms.get("ledger", "main").hibernate()
            read = store.store.session
            faults = [StoreError("not now")]

            async def session(key: str, sid: int) -> Any:
                if faults:
                    raise faults.pop()
                return await read(key, sid)

            monkeypatch.setattr(store, "session", session)
            async with trio.open_nursery() as nursery:
                for what in ("second", "third", "fourth"):
                    nursery.start_soon(room.ask, "enter", what)
            assert sorted(await room.ask("log")) == ["first", "fourth", "second", "third"]


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 1), st.integers(1, 5)),
    st.tuples(st.just("ask and give up"), st.integers(0, 1), st.sampled_from([0.0, 0.0001, 0.5])),
    st.tuples(st.just("cut"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("away"), st.integers(0, 1), st.sampled_from([1, 12, 40])),
    st.tuples(st.just("come back"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("sleep"), st.just(0), st.sampled_from([0, 0.1, 1, 15])),
    st.tuples(st.just("slow store"), st.just(0), st.sampled_from([0, 0.2, 3])),
    st.tuples(st.just("full store"), st.just(0), st.integers(1, 2)),
    st.tuples(st.just("lost reply"), st.booleans(), st.integers(1, 2)),
    st.tuples(st.just("unreadable store"), st.just(0), st.integers(1, 3)),
    st.tuples(st.just("hibernate"), st.just(0), st.just(0)),
    st.tuples(st.just("restart"), st.just(0), st.sampled_from([0, 5])),
    st.tuples(st.just("crash"), st.just(0), st.sampled_from([0, 5])),
)


class World:
    """Two clients of one room, the process that the room is in, and the store that outlives it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.store = FaultyStore(MemoryStore())
        self.ways = [Way(None, nursery), Way(None, nursery)]
        self.clients: list[RemoteRoom] = []
        self.process = trio.CancelScope()
        self.stopping = trio.Event()
        self.stopped = trio.Event()
        self.heard: list[list[Any]] = [[], []]
        self.asked = 0
        self.waiting: set[str] = set()
        self.answered: list[str] = []
        self.refused: list[str] = []
        self.unknown: list[str] = []
        self.codes: set[str] = set()

    async def run_process(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A process, to its end."""
        self.stopping, self.stopped = trio.Event(), trio.Event()
        with trio.CancelScope() as self.process:
            async with open_rooms([ledger], store=self.store) as rooms:
                for way in self.ways:
                    way.rooms = rooms
                task_status.started()
                await self.stopping.wait()
                for way in self.ways:
                    way.rooms = None
        for way in self.ways:
            way.rooms = None
            await way.cut()
        self.stopped.set()

    async def ask(self, who: int, patience: float = math.inf) -> None:
        """Ask for something to be written down."""
        self.asked += 1
        what = f"{who}: {self.asked}"
        self.waiting.add(what)
        with trio.move_on_after(patience) as scope:
            try:
                await self.clients[who].ask("enter", what)
            except AskFailed as failed:
                (self.refused if failed.applied is False else self.unknown).append(what)
                self.codes.add(failed.code)
            else:
                self.answered.append(what)
        if scope.cancelled_caught:
            self.unknown.append(what)
        self.waiting.discard(what)

    async def listen(self, who: int) -> None:
        """Note all that a client hears."""
        async for event in self.clients[who]:
            self.heard[who].append(event.data)

    async def step(self, what: str, who: int, how: Any) -> None:
        """One step."""
        if what == "ask":
            for _ in range(how):
                self.nursery.start_soon(self.ask, who)
                await trio.testing.wait_all_tasks_blocked()
        elif what == "ask and give up":
            self.nursery.start_soon(self.ask, who, how)
        elif what in ("cut", "away"):
            self.ways[who].is_open = what == "cut"
            await self.ways[who].cut()
            await trio.sleep(how)
        elif what == "come back":
            self.ways[who].is_open = True
        elif what == "sleep":
            await trio.sleep(how)
        elif what == "slow store":
            self.store.delay = how
        elif what == "full store":
            self.store.fail_commits(StoreFull, how)
        elif what == "lost reply":
            self.store.fail_commits(StoreError, how, applied=bool(who))
        elif what == "unreadable store":
            self.store.fail_reads(StoreError, how)
        elif what == "hibernate":
            assert self.ways[0].rooms is not None
            with trio.move_on_after(5):
                await self.ways[0].rooms.get("ledger", "main").hibernate()
        else:
            if what == "crash":
                self.process.cancel()
            self.stopping.set()
            await self.stopped.wait()
            await trio.sleep(how)
            await self.nursery.start(self.run_process)

    async def settle(self) -> list[str]:
        """From now on all goes well; returns what was written down."""
        self.store.delay = 0
        self.store._commit_faults.clear()
        self.store._read_faults.clear()
        for way in self.ways:
            way.is_open = True
        while self.waiting:
            await trio.sleep(1)
        await trio.sleep(60)
        written: list[str] = []
        for client in self.clients:
            written = await client.ask("log")
        await trio.sleep(1)
        return written


async def live_with_rooms(steps: list[Any], protocol: Any) -> None:
    """The lives of two clients, and of a room."""
    with trio.fail_after(20_000):
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            await nursery.start(world.run_process)
            settings = {"protocol": protocol, "first_delay": 0.1, "max_delay": 1}
            first, second = (connect(way, **settings) for way in world.ways)
            async with first as one, second as other:
                world.clients = [one, other]
                for who in range(2):
                    nursery.start_soon(world.listen, who)
                for what, who, how in steps:
                    await world.step(what, who, how)
                written = await world.settle()
            world.stopping.set()
    assert world.codes <= {"not_saved", "room_failed"}
    assert len(written) == len(set(written)), "something was applied twice"
    assert set(world.answered) <= set(written), "something was answered and is lost"
    assert not set(world.refused) & set(written), "something was refused and is there"
    assert set(written) <= {*world.answered, *world.unknown}
    for who in range(2):
        assert world.heard[who] == written, "not all was heard, once and in order"
        own = [int(what[3:]) for what in written if what.startswith(f"{who}: ")]
        assert own == sorted(own), "what one client asked was not handled in its order"


@hypothesis.settings(max_examples=25)
@hypothesis.example(
    # It cannot be loaded, while something waits until it is known what the store has of it.
    [*[("unreadable store", 0, how) for how in (3, 3, 2, 3)], ("ask and give up", 1, 0.5), ("away", 0, 12)],
    "json",
)
@hypothesis.given(st.lists(STEPS, max_size=15), st.sampled_from(["json", "cbor"]))
def test_whatever_happens_to_clients_and_rooms(steps: list[Any], protocol: str) -> None:
    """Each thing is done once, or refused and not done; all hear of all, once and in order."""
    trio.run(live_with_rooms, steps, protocol, clock=MockClock(autojump_threshold=0))


@pytest.mark.long
@hypothesis.settings(max_examples=2000)
@hypothesis.given(st.lists(STEPS, max_size=40), st.sampled_from(["json", "cbor"]))
def test_whatever_happens_to_clients_and_rooms_for_longer(steps: list[Any], protocol: str) -> None:
    """The same, often."""
    trio.run(live_with_rooms, steps, protocol, clock=MockClock(autojump_threshold=0))
