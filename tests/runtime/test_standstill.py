"""Everything stands still, and goes on: what waits, what is refused, and what a client sees of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    Disconnect,
    MemoryStore,
    Room,
    RoomFailed,
    RoomHandle,
    Rooms,
    Stage,
    StaleContext,
    StoreError,
    Unavailable,
    WakeReport,
    open_rooms,
)
from trio_rooms._room.answers import Answer
from trio_rooms._room.mail import Hibernate
from trio_rooms._runtime.supervisor import PATIENCE, Supervisor
from trio_rooms.client import connect_room
from trio_rooms.testing import Closed, FaultyStore, MemoryClient, connect

JSON = ("trio-rooms.v1.json",)
State = dict[str, Any]


@attrs.define(eq=False)
class Steps:
    """What the handlers of a test wait for, and what they did."""

    go: trio.Event = attrs.field(factory=trio.Event)
    begun: trio.Event = attrs.field(factory=trio.Event)
    done: list[Any] = attrs.field(factory=list)
    wakes: bool = False
    gates: list[Any] = attrs.field(factory=list)


steps = Steps()


@pytest.fixture(autouse=True)
def _fresh_steps() -> None:
    steps.__init__()  # type: ignore[misc]


async def _add(ctx: Context[State], data: int) -> int:
    total: int = ctx.state.get("total", 0) + data
    ctx.state["total"] = total
    ctx.room.emit("total", total, reliable=True)
    return total


async def _slow(ctx: Context[State], data: str) -> str:
    steps.begun.set()
    await steps.go.wait()
    ctx.room.emit("slow", data)
    return data


async def _say(ctx: Context[State], data: Any) -> None:
    steps.done.append(data)
    ctx.room.emit("said", data)


async def _chat(ctx: Context[State], message: str | bytes) -> None:
    ctx.room.send(message)


async def _came(ctx: Context[State]) -> None:
    steps.done.append("came")


async def _went(ctx: Context[State], _: Disconnect) -> None:
    steps.done.append("went")


def ledger(durability: Any = "snapshot", **options: Any) -> Room[State]:
    """A room that counts."""
    room: Room[State] = Room("ledger", state=dict, durability=durability, idle_timeout=10, **options)
    room.on("add")(_add)
    room.on("slow")(_slow)
    room.on("say")(_say)
    return room


@attrs.define(eq=False)
class Running:
    """Open rooms."""

    rooms: Rooms
    store: FaultyStore

    @property
    def supervisor(self) -> Supervisor:
        """Theirs."""
        return self.rooms._supervisor

    @property
    def room(self) -> RoomHandle:
        """One of them."""
        return self.rooms.get("ledger", "x")


@contextlib.asynccontextmanager
async def running(*definitions: Room[State]) -> AsyncIterator[Running]:
    """Rooms of which another node may have some."""
    store = FaultyStore(MemoryStore())
    async with open_rooms(definitions or [ledger()], store=store) as rooms:
        rooms._supervisor.on_moved = steps.done.append
        yield Running(rooms, store)


async def silent(client: MemoryClient, seconds: float = 1) -> None:
    """Nothing comes to a client for a while."""
    with trio.move_on_after(seconds) as waiting:
        pytest.fail(f"{await client.receive()} has come")
    assert waiting.cancelled_caught


async def answers(client: MemoryClient, count: int) -> list[tuple[int, Any]]:
    """The next messages, each an answer: the id, with the data or the code of the error."""
    return [
        (one["ack"], one["error"]["code"] if "error" in one else one.get("data"))
        for one in await client.receive_many(count)
    ]


# What waits.


@pytest.mark.parametrize("asleep", [False, True])
@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_nothing_is_handled_and_nothing_goes_out_until_all_goes_on(
    durability: str, asleep: bool, autojump_clock: MockClock
) -> None:
    """Then all of it is, in the order in which it came."""
    async with running(ledger(durability)) as run, connect(run.rooms, "ledger/x") as client:
        await client.emit("add", 1, id=1)
        await client.receive_many(2)
        if asleep:
            assert await run.room.hibernate()
        run.supervisor.pause()
        for number in (2, 3):
            await client.emit("add", 1, id=number)
        run.room.emit("from outside")
        await silent(client, PATIENCE - 1)
        assert run.room.info().connections == 1
        run.supervisor.resume()
        came = await client.receive_many(5)
        assert [one.get("event") or one["ack"] for one in came if one.get("event") != "from outside"] == [
            *("total", 2),
            *("total", 3),
        ]
        assert await run.room.ask("add", 1) == 4


async def test_what_a_handler_does_that_had_begun_waits_with_its_answer(autojump_clock: MockClock) -> None:
    """Also the answer to the program, in a room whose effects wait for nothing else."""
    async with running() as run, connect(run.rooms, "ledger/x") as client, trio.open_nursery() as nursery:
        told: list[str] = []

        async def ask() -> None:
            told.append(await run.room.ask("slow", "program"))

        nursery.start_soon(ask)
        await steps.begun.wait()
        run.supervisor.pause()
        steps.go.set()
        await silent(client)
        assert told == []
        run.supervisor.resume()
        assert (await client.receive())["data"] == "program"
        await wait_all_tasks_blocked()
        assert told == ["program"]


async def test_what_became_durable_meanwhile_waits_as_well(autojump_clock: MockClock) -> None:
    """A commit that was in flight when all stood still is in the store, and nobody hears of it before."""
    async with running(ledger("commit")) as run, connect(run.rooms, "ledger/x") as client:
        gate = run.store.hold_commits()
        await client.emit("add", 5, id=1)
        await gate.wait_arrived()
        run.supervisor.pause()
        gate.release()
        await silent(client)
        assert (await run.store.head("ledger/x")).number == 1
        run.supervisor.resume()
        assert [one.get("event", "answer") for one in await client.receive_many(2)] == ["total", "answer"]


async def test_a_welcome_and_what_a_session_has_missed_wait_as_well(autojump_clock: MockClock) -> None:
    """Who was about to come in, or back, is told so when all goes on."""
    async with running(ledger("commit")) as run:
        async with connect(run.rooms, "ledger/x", subprotocols=JSON) as client:
            await client.receive()
        gate = run.store.hold_commits()
        async with connect(run.rooms, "ledger/x", subprotocols=JSON) as client:
            await gate.wait_arrived()
            run.supervisor.pause()
            gate.release()
            await silent(client)
            run.supervisor.resume()
            assert (await client.receive())["event"] == "rooms.welcome"


async def test_nobody_comes_in_while_all_stands_still(autojump_clock: MockClock) -> None:
    """New connections are told to come again."""
    async with running() as run:
        assert run.supervisor.accepts("ledger/x")
        run.supervisor.pause()
        assert not run.supervisor.accepts("ledger/x")
        run.supervisor.resume()
        assert run.supervisor.accepts("ledger/x")


async def test_a_room_neither_sleeps_nor_saves_while_all_stands_still(autojump_clock: MockClock) -> None:
    """It keeps its state for as long as that takes, asks the store for nothing, and then does both."""
    async with running() as run:
        assert await run.room.ask("add", 1) == 1
        run.supervisor.pause()
        run.store.calls.clear()
        await trio.sleep(1000)
        assert run.store.calls == []
        assert run.supervisor.awake == 1
        run.supervisor.resume()
        await trio.sleep(30)
        assert run.supervisor.awake == 0
        assert await run.room.peek() == {"total": 1}


async def test_rooms_that_would_wake_do_so_when_all_goes_on(autojump_clock: MockClock) -> None:
    """Nothing is loaded before that."""
    async with running() as run, trio.open_nursery() as nursery:
        run.supervisor.pause()
        for number in range(100):
            nursery.start_soon(run.rooms.get("ledger", str(number)).ask, "add", number)
        await trio.sleep(PATIENCE - 1)
        assert not [call for call in run.store.calls if call.operation == "load"]
        run.supervisor.resume()


async def test_too_much_that_waits_for_a_room_is_for_nobody(autojump_clock: MockClock) -> None:
    """A program that goes on to speak does not fill the memory: those who listen are to come again."""
    async with running() as run, connect(run.rooms, "ledger/x") as client:
        run.supervisor.pause()
        for _ in range(50):
            run.room.emit("much", "x" * 100_000)
        assert run.room.info().connections == 0
        assert run.rooms._hub.rosters["ledger/x"].jobs is None
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed is not None
        assert client.closed.code == 1013
        run.supervisor.resume()


async def test_twice_is_as_good_as_once(autojump_clock: MockClock) -> None:
    """To stand still where all stands still, and to go on where all goes on, is nothing."""
    async with running() as run, connect(run.rooms, "ledger/x") as client:
        run.supervisor.resume()
        run.supervisor.pause()
        run.supervisor.pause()
        run.room.emit("one")
        await silent(client)
        run.supervisor.resume()
        run.supervisor.resume()
        assert (await client.receive())["event"] == "one"


async def test_the_rooms_can_be_closed_while_all_stands_still(autojump_clock: MockClock) -> None:
    """Clients are told so."""
    async with running() as run, connect(run.rooms, "ledger/x") as client:
        assert await client.ask("add", 1) == 1
        run.supervisor.pause()
        await run.rooms.aclose()
        assert [one["ack"] async for one in client if "ack" in one] == []
        assert client.closed == Closed(1001, "the server is going away")


# What is refused.


@pytest.mark.parametrize("asleep", [False, True])
async def test_who_waits_for_long_is_told_to_try_again(asleep: bool, autojump_clock: MockClock) -> None:
    """At once, although all else is held back; and so is whoever comes later."""
    async with running() as run, connect(run.rooms, "ledger/x") as client, trio.open_nursery() as nursery:
        if not asleep:
            await run.room.ask("add", 1)
            await client.receive()
        run.supervisor.pause()
        began = trio.current_time()

        async def ask() -> None:
            with pytest.raises(Unavailable, match="out of touch"):
                await run.room.ask("add", 1)

        nursery.start_soon(ask)
        await client.emit("add", 1, id=7)
        await client.emit("say", "without an id")
        first, second = await client.receive_many(2)
        assert (first["ack"], first["error"]["code"]) == (7, "unavailable")
        assert "ack" not in second
        assert second["error"]["code"] == "unavailable"
        assert trio.current_time() - began == pytest.approx(PATIENCE, abs=0.1)
        await client.emit("add", 1, id=8)
        assert await answers(client, 1) == [(8, "unavailable")]
        assert trio.current_time() - began < PATIENCE + 1
        await ask()
        run.supervisor.resume()
    assert steps.done == []


async def test_a_plain_room_closes_who_waits_for_long(autojump_clock: MockClock) -> None:
    """It has no other way to say so."""
    room: Room[State] = Room("plain", state=dict)
    room.on_message(_chat)
    async with running(room) as run, connect(run.rooms, "plain/x") as client:
        run.supervisor.pause()
        await client.send("hello")
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert client.closed == Closed(1013, "the room cannot be reached now")
        run.supervisor.resume()


async def test_what_has_happened_is_not_refused(autojump_clock: MockClock) -> None:
    """Comings and goings are told when all goes on, however long that took."""
    room = ledger()
    room.on_connect(_came)
    room.on_disconnect(_went)
    async with running(room) as run:
        async with connect(run.rooms, "ledger/x") as client:
            await client.ask("add", 1)
            run.supervisor.pause()
        await trio.sleep(100)
        assert steps.done == ["came"]
        run.supervisor.resume()
        await trio.sleep(1)
        assert steps.done == ["came", "went"]


# Ids that were refused.


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
@pytest.mark.parametrize("asleep", [False, True])
async def test_what_was_sent_behind_a_refused_message_is_refused_until_that_comes_again(
    durability: str, asleep: bool, autojump_clock: MockClock
) -> None:
    """Else the first would be a duplicate when it comes again, and would be lost."""
    async with (
        running(ledger(durability)) as run,
        connect(run.rooms, "ledger/x", subprotocols=JSON) as client,
    ):
        assert (await client.receive())["event"] == "rooms.welcome"
        await client.emit("add", 1, id=4)
        await client.receive_many(2)
        if asleep:
            assert await run.room.hibernate()
            await wait_all_tasks_blocked()
            assert run.supervisor._records == {}
        run.supervisor.pause()
        if asleep:
            await trio.sleep(PATIENCE + 1)  # So that it is refused without a room.
        await client.emit("add", 10, id=5)
        await client.emit("add", 10, id=6)
        assert await answers(client, 2) == [(5, "unavailable"), (6, "unavailable")]
        run.supervisor.resume()
        await trio.sleep(100)  # The room sleeps meanwhile.
        assert run.supervisor._records == {}
        await client.emit("add", 100, id=7)  # On its way since before the refusals arrived.
        assert await answers(client, 1) == [(7, "unavailable")]
        for number in (5, 6, 7):
            await client.emit("add", 1, id=number)
        assert [one["data"] for one in await client.receive_many(6) if "ack" in one] == [2, 3, 4]
        assert run.supervisor._stalled == {}


async def test_a_session_that_ends_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Nothing is kept of what it was refused."""
    async with running() as run:
        async with connect(run.rooms, "ledger/x", subprotocols=JSON) as client:
            await client.receive()
            run.supervisor.pause()
            await trio.sleep(PATIENCE + 1)
            await client.emit("add", 10, id=1)
            assert await answers(client, 1) == [(1, "unavailable")]
            run.supervisor.resume()
            await trio.sleep(60)
            assert len(run.supervisor._stalled) == 1
        await trio.sleep(60)
        assert run.supervisor._stalled == {}
        assert run.supervisor._records == {}


# Rooms that cannot be loaded.


async def test_a_room_that_cannot_be_loaded_is_unavailable(autojump_clock: MockClock) -> None:
    """Where others may have it: in the end the same message may succeed."""
    async with running() as run, connect(run.rooms, "ledger/x", subprotocols=JSON) as client:
        await client.receive()
        await wait_all_tasks_blocked()
        run.store.fail_loads(StoreError("away"), 5)
        await client.emit("add", 1, id=1)
        await client.emit("add", 1, id=2)
        assert await answers(client, 2) == [(1, "unavailable"), (2, "unavailable")]
        run.store.fail_loads(StoreError("away"), 5)
        with pytest.raises(Unavailable, match="cannot be loaded"):
            await run.room.ask("add", 1)
        await client.emit("add", 1, id=2)
        assert await answers(client, 1) == [(2, "unavailable")]
        await client.emit("add", 1, id=1)
        assert (await client.receive_many(2))[1]["data"] == 1


# Rooms that somebody else has.


async def _wake(ctx: Context[State], _: WakeReport) -> None:
    if steps.wakes:
        steps.begun.set()
        await steps.go.wait()


async def _crash(ctx: Context[State]) -> None:
    ctx.room.start_soon(_raise)


async def _raise() -> None:
    raise ZeroDivisionError


async def _stubborn(ctx: Context[State], data: int) -> None:
    ctx.room.start_soon(_tidy_up, ctx)
    await _slow(ctx, "never said")


async def _tidy_up(ctx: Context[State]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            ctx.state["total"] = 1000
            with contextlib.suppress(StaleContext):
                ctx.room.storage.put("too late", 1)
            with contextlib.suppress(StaleContext):
                ctx.room.emit("too late")
            await trio.sleep(3)


async def stand(run: Running, stage: str, ask: Callable[[str, Any], None]) -> None:
    """Bring the room, which is awake, to a stage of its life."""
    if stage in ("asleep", "loading", "waking", "queued"):
        assert await run.room.hibernate()
    match stage:
        case "handling":
            ask("stubborn", 0)
            await steps.begun.wait()
        case "loading":
            loads = run.store.hold_loads()
            steps.gates.append(loads)
            ask("say", 0)
            await loads.wait_arrived()
        case "waking":
            steps.wakes = True
            ask("say", 0)
            await steps.begun.wait()
            steps.wakes = False
        case "queued":
            run.supervisor.pause()
            ask("say", 0)
            await wait_all_tasks_blocked()
            assert run.supervisor.waking.queued == 1
        case "sleeping" | "saving":
            commits = run.store.hold_commits()
            steps.gates.append(commits)
            ask("add", 1)
            await wait_all_tasks_blocked()
            if stage == "sleeping":
                run.supervisor.deliver("ledger/x", Hibernate(Answer()))
            await trio.sleep(2)
            assert commits.arrived
        case "restarting":
            with contextlib.suppress(RoomFailed):
                await run.room.ask("crash")
            await wait_all_tasks_blocked()
            assert run.room.info().stage is Stage.RESTARTING
        case _:
            pass


STAGES = (
    *("asleep", "awake", "handling", "loading", "waking", "queued", "saving", "sleeping", "restarting"),
)


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_room_that_somebody_else_has_is_let_go_of_in_every_stage(
    stage: str, durability: str, autojump_clock: MockClock
) -> None:
    """Nothing of it is written or said any more, who waits is told so, who asks later finds a new life."""
    room = ledger(durability)
    room.on_wake(_wake)
    room.on("crash")(_crash)
    room.on("stubborn")(_stubborn)
    unavailable: list[str] = []
    async with (
        running(room) as run,
        connect(run.rooms, "ledger/x", subprotocols=JSON) as ana,
        connect(run.rooms, "ledger/x") as bob,
        trio.open_nursery() as nursery,
    ):

        async def expect(event: str, data: Any) -> None:
            try:
                await run.room.ask(event, data)
            except Unavailable as error:
                unavailable.append(str(error))

        await ana.receive()
        assert await bob.ask("add", 1) == 1
        assert (await ana.receive())["event"] == "total"
        await trio.sleep(5)
        await stand(run, stage, lambda event, data: nursery.start_soon(expect, event, data))
        answered = ("saving", "sleeping") if durability == "snapshot" else ()
        asked = stage not in ("asleep", "awake", "restarting", *answered)
        run.store.calls.clear()
        run.supervisor.forsake("ledger/x")
        assert run.supervisor.actor("ledger/x") is None
        assert "ledger/x" not in run.supervisor._records
        run.supervisor.resume()
        for client in (ana, bob):
            assert "slow" not in [one.get("event") async for one in client]
            assert client.closed == Closed(1012, "the room has moved")
        await wait_all_tasks_blocked()
        assert len(unavailable) == asked
        for gate in steps.gates:
            gate.release()
        await trio.sleep(1)
        assert [call.operation for call in run.store.calls if call.operation == "commit"] == []
        state = await run.room.peek()
        assert state["total"] in ((1, 2) if stage in ("saving", "sleeping") else (1,))
        assert list(run.supervisor._ending) == ["ledger/x"] * (stage == "handling")
        async with connect(run.rooms, "ledger/x", resume=ana) as again:
            assert (await again.receive())["data"]["resumed"] is True
            assert await again.ask("add", 1) == state["total"] + 1
        await trio.sleep(60)
        assert run.supervisor._records == {}
        assert run.rooms.statistics().hub.rosters == 0
        assert [name for name, _ in await run.store.list("ledger/x")] == []


async def test_what_was_durable_and_not_told_is_told_by_whoever_has_the_room(
    autojump_clock: MockClock,
) -> None:
    """Nothing of it goes out here; who comes back gets the event, and the answer to the same id."""
    async with running(ledger("commit")) as run:
        async with connect(run.rooms, "ledger/x", subprotocols=JSON) as ana:
            await ana.receive()
            commits = run.store.hold_commits()
            await ana.emit("add", 5, id=1)
            await commits.wait_arrived()
            run.supervisor.pause()
            commits.release()
            await trio.sleep(1)
            run.supervisor.forsake("ledger/x")
            run.supervisor.resume()
            assert [one async for one in ana] == []
            assert ana.closed == Closed(1012, "the room has moved")
        async with connect(run.rooms, "ledger/x", resume=ana) as ana:
            assert (await ana.receive())["data"]["resumed"] is True
            await ana.emit("add", 5, id=1)
            first, second = await ana.receive_many(2)
            assert (first["event"], first["data"]) == ("total", 5)
            assert (second["ack"], second["data"]) == (1, 5)
            assert await run.room.ask("add", 1) == 6


async def test_a_room_of_which_there_is_nothing_can_be_let_go_of(autojump_clock: MockClock) -> None:
    """Nothing happens."""
    async with running() as run:
        run.supervisor.forsake("ledger/x")
        assert await run.room.ask("add", 1) == 1


@pytest.mark.parametrize("over", [False, True])
async def test_a_room_is_let_go_of_before_it_is_known_what_is_stored_of_it(
    over: bool, autojump_clock: MockClock
) -> None:
    """A connection that ended meanwhile is nothing to anybody here, and nothing is tried for it."""
    async with running(ledger("commit")) as run, connect(run.rooms, "ledger/x", subprotocols=JSON) as ana:
        await ana.receive()
        await trio.sleep(60)
        assert run.supervisor._records == {}
        loads, reads = run.store.hold_loads(), run.store.hold_reads()
        if over:
            await ana.hang_up()
        else:
            await ana.drop()
        await trio.sleep(1)
        assert loads.arrived + reads.arrived == 1
        run.supervisor.forsake("ledger/x")
        loads.release()
        reads.release()
        run.store.calls.clear()
        await trio.sleep(60)
        assert run.store.calls == []
        assert run.supervisor._records == {}


async def test_a_client_asks_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was refused for now it sends once more, in its order, and nothing before that."""
    monkeypatch.setattr("trio_rooms._runtime.supervisor.PATIENCE", 0.05)
    monkeypatch.setattr("trio_rooms._runtime.supervisor._REFUSING", 0.05)
    totals: list[int] = []
    async with running(ledger("commit")) as run, trio.open_nursery() as serving:
        address = await serving.start(run.rooms.serve, "127.0.0.1", 0)
        async with connect_room(f"ws://127.0.0.1:{address.port}/ledger/x") as room:

            async def ask() -> None:
                totals.append(await room.ask("add", 1))

            await ask()
            async with trio.open_nursery() as asking:
                for _ in range(3):
                    run.supervisor.pause()
                    for _ in range(5):
                        asking.start_soon(ask)
                    await trio.sleep(0.15)
                    run.supervisor.resume()
                    await trio.sleep(0.01)
            assert totals == [*range(1, 17)]
            assert room.statistics().connects == 1
        serving.cancel_scope.cancel()
