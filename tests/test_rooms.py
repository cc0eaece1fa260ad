"""The runtime: opening, embedding, stopping, and what escapes from it."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    DefinitionError,
    DiskStore,
    HandlerFailed,
    MemoryStore,
    NoConnection,
    Policy,
    Room,
    Rooms,
    RoomsClosed,
    Stage,
    StoreFull,
    StoreInUse,
    UnknownRoom,
    open_rooms,
    testing,
)
from trio_rooms.testing import FaultyStore, connect


@attrs.define
class Total:
    """A number."""

    value: int = 0


@attrs.define(eq=False)
class Journal:
    """What happened in the rooms of a test."""

    begun: list[str] = attrs.field(factory=list)
    gate: trio.Event = attrs.field(factory=trio.Event)


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


async def _add(ctx: Context[Total], data: int) -> int:
    ctx.state.value += data
    return ctx.state.value


async def _stick(ctx: Context[Total]) -> None:
    ctx.state.value += 1000
    journal.begun.append(ctx.room.key)
    await journal.gate.wait()


async def _who(ctx: Context[Total]) -> str:
    return ctx.connection.id


async def _put(ctx: Context[Total], data: dict[str, Any]) -> None:
    for name, value in data.items():
        if value is None:
            ctx.room.storage.delete(name)
        else:
            ctx.room.storage.put(name, value)


async def _get(ctx: Context[Total], data: str) -> Any:
    return await ctx.room.storage.get(data, "nothing")


async def _listed(ctx: Context[Total], data: list[Any]) -> dict[str, Any]:
    prefix, after, limit = data
    return await ctx.room.storage.list(prefix, after=after, limit=limit)


def total_room(name: str = "total", **options: Any) -> Room[Total]:
    """The room under test."""
    room = Room(name, state=Total, **{"idle_timeout": 10.0, **options})
    room.on("add")(_add)
    room.on("stick")(_stick)
    room.on("who")(_who)
    room.on("put")(_put)
    room.on("get")(_get)
    room.on("list")(_listed)
    return room


def echo_room(**options: Any) -> Room[None]:
    """A plain room."""
    room = Room[None]("echo", **options)
    room.on_message(_echo)
    return room


async def _echo(ctx: Context[None], message: str | bytes) -> None:
    ctx.connection.send(message)


async def test_a_handle_neither_makes_nor_wakes_a_room(autojump_clock: MockClock) -> None:
    """Looking at a room, or emitting to it, leaves it asleep and the store empty."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([total_room()], store=store) as rooms:
        room = rooms.get("total", "x")
        assert room.info().stage is Stage.ASLEEP
        assert await room.peek() is None
        assert room.emit("notice", 1).reached == 0
        assert await store.keys() == []
        assert rooms.statistics().supervisor.wakes == 0


async def test_a_look_at_the_state_reads_nothing_else(autojump_clock: MockClock) -> None:
    """However many sessions and schedules the room has."""
    room: Room[dict[str, int]] = Room("seen", state=dict, idle_timeout=math.inf)
    room.on("keep")(_keep_one)
    room.on_schedule("later")(_later)
    store = FaultyStore(MemoryStore())
    async with open_rooms([room], store=store) as rooms:
        handle = rooms.get("seen", "x")
        await handle.schedule_durably("later", after=1000)
        async with connect(rooms, "seen/x", subprotocols=["trio-rooms.v1.json"]) as client:
            await client.ask("keep", 1)
            await client.drop()
        assert await handle.hibernate()
        store.calls.clear()
        assert await handle.peek() == {"kept": 1}
        assert [call.operation for call in store.calls] == ["load"]


async def _keep_one(ctx: Context[dict[str, int]], number: int) -> None:
    ctx.state["kept"] = number


async def _later(ctx: Context[dict[str, int]]) -> None:
    """It is never due here."""


@pytest.mark.parametrize("bad", ["", "x" * 257, "a\nb", "a\x7f", "\x85", "\ud800"])
async def test_an_id_that_is_not_allowed_is_refused(bad: str) -> None:
    """The message says what an id may be."""
    async with open_rooms([total_room()]) as rooms:
        with pytest.raises(UnknownRoom, match="1 to 256 characters"):
            rooms.get("total", bad)
        with pytest.raises(UnknownRoom, match="only: total"):
            rooms.get("nobody", "x")


async def test_any_other_id_is_a_room(autojump_clock: MockClock) -> None:
    """Slashes, dots, blanks and all of Unicode; a room never becomes a file name."""
    ids = ["x" * 256, "a/b", "../../etc", "...", " ", "%2F", "日本", "\U0001f600" * 256, "'; --"]
    async with open_rooms([total_room()]) as rooms:
        for id_ in ids:
            assert await rooms.get("total", id_).ask("add", 1) == 1
        for id_ in ids:
            assert await rooms.get("total", id_).hibernate()
            assert await rooms.get("total", id_).ask("add", 1) == 2


async def test_what_the_body_raises_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    """No exception group of the runtime wraps the application's own exception; the rooms are saved."""
    store = MemoryStore()
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 (the block is what is tested)
        async with open_rooms([total_room()], store=store) as rooms:
            await rooms.get("total", "x").ask("add", 5)
            raise KeyError("mine")
    async with open_rooms([total_room()], store=store) as rooms:
        assert await rooms.get("total", "x").ask("add", 0) == 5


async def test_an_exception_group_of_the_body_stays_one(autojump_clock: MockClock) -> None:
    """A group that the application raised is the application's."""
    with pytest.raises(ExceptionGroup) as caught:
        async with open_rooms([total_room()]), trio.open_nursery() as nursery:
            nursery.start_soon(_raise, ValueError("one"))
    assert [type(error) for error in caught.value.exceptions] == [ValueError]


async def _raise(error: Exception) -> None:
    raise error


async def test_a_cancelled_block_saves_its_rooms(autojump_clock: MockClock) -> None:
    """A cancellation from around waits until every room is in the store."""
    store = FaultyStore(MemoryStore())
    with trio.move_on_after(5) as scope:
        async with open_rooms([total_room(snapshot_interval=1000)], store=store) as rooms:
            for number in range(20):
                await rooms.get("total", str(number)).ask("add", number)
            store.delay = 1
            await trio.sleep_forever()
    assert scope.cancelled_caught
    store.delay = 0
    async with open_rooms([total_room()], store=store) as rooms:
        for number in range(20):
            assert await rooms.get("total", str(number)).ask("add", 0) == number


async def test_mail_in_the_box_is_handled_before_the_end(autojump_clock: MockClock) -> None:
    """What a room had taken when the stop began is handled and saved."""
    store = MemoryStore()
    async with open_rooms([total_room()], store=store) as rooms, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(rooms.get("total", "x").ask, "add", 1)
        await trio.lowlevel.checkpoint()
    async with open_rooms([total_room()], store=store) as rooms:
        assert await rooms.get("total", "x").ask("add", 0) == 50


async def test_a_handler_that_does_not_end_is_cancelled_at_the_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The stop is bounded in time; the state is saved as it then is, and who asked gets an answer."""
    store = MemoryStore()
    caught: list[Exception] = []

    async def ask(rooms: Rooms) -> None:
        try:
            await rooms.get("total", "x").ask("stick")
        except RoomsClosed as error:
            caught.append(error)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        async with open_rooms([total_room(snapshot_interval=1000)], store=store, stop_timeout=3) as rooms:
            await rooms.get("total", "x").ask("add", 7)
            nursery.start_soon(ask, rooms)
            await wait_all_tasks_blocked()
        assert trio.current_time() - began < 10
    assert len(caught) == 1
    assert "did not come to rest" in caplog.text
    async with open_rooms([total_room()], store=store) as rooms:
        assert await rooms.get("total", "x").ask("add", 0) == 1007


async def _begin(ctx: Context[Any]) -> None:
    """Do nothing: the room is there now."""


async def _do_not_end(ctx: Context[dict[str, Any]]) -> None:
    """Whatever cancels it, go on with changing a state, and keep no name of what is changed."""
    state = ctx.state
    ctx.app.set()
    with trio.CancelScope(shield=True):
        for number in range(1000):
            state["first"] = number
            state["lines"].append(number)
            state["last"] = number
            await trio.sleep(0.01)


async def test_what_a_handler_goes_on_changing_at_the_end_is_saved_whole(autojump_clock: MockClock) -> None:
    """A large state, of which a thread would meet a half of what the handler does."""
    room = Room(
        "growing", state=lambda: {"first": 0, "lines": [0] * 60_000, "last": 0}, snapshot_interval=1000
    )
    room.on("begin")(_begin)
    room.on("go")(_do_not_end)
    store, begun = MemoryStore(), trio.Event()
    async with (
        open_rooms([room], store=store, stop_timeout=1, app=begun) as rooms,
        trio.open_nursery() as nursery,
    ):
        await rooms.get("growing", "x").ask("begin")
        assert await rooms.get("growing", "x").hibernate()  # It is known to be large from here on.
        nursery.start_soon(_asks_in_vain, rooms)
        await begun.wait()
        nursery.cancel_scope.cancel()
    async with open_rooms([room], store=store) as rooms:
        state = await rooms.get("growing", "x").peek()
        assert 0 < state["first"] == state["last"] == len(state["lines"]) - 60_001


async def _asks_in_vain(rooms: Rooms) -> None:
    await rooms.get("growing", "x").ask("go", timeout=math.inf)


async def test_a_store_that_fails_at_the_end_is_said_to_lose(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop that cannot save tries until its time is over, and then says what is lost."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([total_room(snapshot_interval=1000)], store=store, stop_timeout=3) as rooms:
        await rooms.get("total", "x").ask("add", 7)
        store.fail_commits(lambda: StoreFull("full"), times=10_000)
    assert any(
        record.levelno == logging.CRITICAL and "is lost" in record.message for record in caplog.records
    )


async def test_closing_twice_and_using_closed_rooms(autojump_clock: MockClock) -> None:
    """A second close waits for the first; what is closed says so."""
    async with open_rooms([total_room(), echo_room()]) as rooms, connect(rooms, "echo/x") as client:
        await client.send("hello")
        assert await client.receive() == "hello"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rooms.aclose, 1012, "restart")
            await wait_all_tasks_blocked()
            nursery.start_soon(rooms.aclose)
            with pytest.raises(trio.EndOfChannel):
                await client.receive()
        assert client.closed is not None
        assert (client.closed.code, client.closed.reason) == (1012, "restart")
        with pytest.raises(RoomsClosed):
            await rooms.get("total", "x").ask("add", 1)
        with pytest.raises(RoomsClosed):
            await rooms.serve("127.0.0.1", 0)
        with pytest.raises(RoomsClosed):
            await rooms.get("total", "x").destroy()


async def test_a_close_code_that_may_not_be_sent_closes_nothing(autojump_clock: MockClock) -> None:
    """It is an error, and the rooms go on until they are closed with another, or their block ends."""
    async with open_rooms([total_room(), echo_room()]) as rooms, connect(rooms, "echo/x") as client:
        with pytest.raises(ValueError, match="close code 42 may not be sent"):
            await rooms.aclose(42)
        assert await rooms.get("total", "x").ask("add", 1) == 1
        await client.send("hello")
        assert await client.receive() == "hello"


async def test_two_rooms_of_one_name_are_refused() -> None:
    """A name is part of the key."""
    with pytest.raises(DefinitionError, match="two rooms are named 'total'"):
        async with open_rooms([total_room(), total_room()]):
            pass
    with pytest.raises(DefinitionError, match=r"write open_rooms\(\[room\]\)"):
        open_rooms(total_room())  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="takes a list of rooms"):
        async with open_rooms(["total"]):  # type: ignore[list-item]
            pass


async def test_a_data_directory_has_one_runtime(tmp_path: Any) -> None:
    """The error of the store comes out as it is."""
    async with open_rooms([total_room()], store=DiskStore(tmp_path)):
        with pytest.raises(StoreInUse):
            async with open_rooms([total_room()], store=DiskStore(tmp_path)):
                pass


async def test_plain_rooms_and_event_rooms_are_told_apart(autojump_clock: MockClock) -> None:
    """Asking a plain room for an event, or sending raw messages to the other kind, is an error at once."""
    async with open_rooms([total_room(), echo_room()]) as rooms:
        with pytest.raises(TypeError, match="plain"):
            await rooms.get("echo", "x").ask("add")
        with pytest.raises(TypeError, match="send"):
            rooms.get("echo", "x").emit("event")
        with pytest.raises(TypeError, match="emit"):
            rooms.get("total", "x").send("text")
        with pytest.raises(ValueError, match=r"rooms\."):
            rooms.get("total", "x").emit("rooms.welcome")


async def test_the_program_has_no_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that wants the connection of what the program asked is told that there is none."""
    async with open_rooms([total_room()]) as rooms:
        with pytest.raises(Exception, match="handler of 'who' raised") as caught:
            await rooms.get("total", "x").ask("who")
        assert isinstance(caught.value.__cause__, NoConnection)


async def test_storage_is_seen_at_once_and_survives(autojump_clock: MockClock) -> None:
    """Values written are read back at once, listed in order, and there after hibernation and restart."""
    store = FaultyStore(MemoryStore())
    async with open_rooms([total_room()], store=store) as rooms:
        room = rooms.get("total", "x")
        await room.ask("put", {"a/2": [1, {"b": b"c"}], "a/1": "one", "b": 3})
        assert await room.ask("get", "a/1") == "one"
        assert await room.ask("list", ["a/", None, None]) == {"a/1": "one", "a/2": [1, {"b": b"c"}]}
        await room.hibernate()
        await room.ask("put", {"a/1": None, "a/3": 3})
        assert await room.ask("get", "a/1") == "nothing"
        assert await room.ask("list", ["a/", None, 1]) == {"a/2": [1, {"b": b"c"}]}
        assert await room.ask("list", ["a/", "a/2", 5]) == {"a/3": 3}
    async with open_rooms([total_room()], store=store) as rooms:
        room = rooms.get("total", "x")
        assert await room.ask("list", ["", None, None]) == {"a/2": [1, {"b": b"c"}], "a/3": 3, "b": 3}


async def test_quiet_rooms_sleep_early_when_too_many_are_awake(autojump_clock: MockClock) -> None:
    """With `max_awake`, the rooms that woke first make place, and none loses anything."""
    async with open_rooms([total_room(idle_timeout=10_000.0)], policy=Policy(max_awake=10)) as rooms:
        for turn in range(1, 4):
            for number in range(30):
                assert await rooms.get("total", str(number)).ask("add", 1) == turn
                assert rooms.statistics().supervisor.awake <= 11


async def test_asking_from_within_a_handler_of_another_room(autojump_clock: MockClock) -> None:
    """Rooms may ask each other through what the application gives them; attrs results come as plain data."""
    async with open_rooms([total_room()]) as rooms:
        assert await rooms.get("total", "x").ask("put", {"t": 1}) is None


async def test_ten_thousand_sleeping_rooms_are_nothing_but_their_store(autojump_clock: MockClock) -> None:
    """A room that sleeps without connections leaves no record in memory."""
    async with open_rooms([total_room()]) as rooms:
        for number in range(500):
            await rooms.get("total", str(number)).ask("add", 1)
        await trio.sleep(30)
        statistics = rooms.statistics()
        assert statistics.supervisor.awake == 0
        assert statistics.hub.rosters == 0
        assert rooms._supervisor._ending == {}


async def test_a_cancellation_after_an_explicit_close_ends_the_block(autojump_clock: MockClock) -> None:
    """Closing by hand and a cancellation from around go together."""
    with trio.fail_after(100), trio.CancelScope() as scope:
        async with open_rooms([total_room()]) as rooms:
            await rooms.aclose(1012, "restart")
            scope.cancel()
    assert scope.cancelled_caught or scope.cancel_called


async def test_hibernate_returns_when_the_rooms_have_closed() -> None:
    """A handle that outlives its rooms, or is asked while they close, waits for nobody."""
    answers = []
    with trio.fail_after(10):
        async with trio.open_nursery() as outer:

            async def ask() -> None:
                answers.append(await handle.hibernate())

            async with open_rooms([total_room()]) as rooms:
                handle = rooms.get("total", "x")
                assert await handle.ask("add", 1) == 1
                outer.start_soon(ask)
        answers.append(await handle.hibernate())
    assert len(answers) == 2
    assert answers[1]


vault: Room[int] = Room("vault", state=int, public=False)


@vault.on("add")
async def _add_to_vault(ctx: Context[int], data: int) -> int:
    ctx.state += data
    return ctx.state


bank: Room[list[Any]] = Room("bank", state=list)


@bank.on("grant", internal=True)
async def _grant(ctx: Context[list[Any]], data: Any) -> list[Any]:
    ctx.state.append(["grant", data])
    return ctx.state


@bank.on_any
async def _anything(ctx: Context[list[Any]], event: str, data: Any) -> None:
    ctx.state.append([event, data])


async def test_an_internal_event_is_closed_to_clients(autojump_clock: MockClock) -> None:
    """The program's question is handled; a client's message is one of an event that there is not."""
    async with open_rooms([bank]) as rooms, connect(rooms, "bank/x") as client:
        assert await rooms.get("bank", "x").ask("grant", 1) == [["grant", 1]]
        await client.emit("grant", 2, id=1)
        await client.emit("grant", 3)
        await client.emit("other", 4, id=2)
        answers = await client.receive_many(3)
        refusal = {"code": "unknown_event", "message": "this room has no event 'grant'"}
        assert answers == [{"ack": 1, "error": refusal}, {"error": refusal}, {"ack": 2, "data": None}]
        assert await rooms.get("bank", "x").ask("grant", 5) == [["grant", 1], ["other", 4], ["grant", 5]]


async def test_no_client_gets_into_a_private_room(autojump_clock: MockClock) -> None:
    """There is no way in but the handle's, and nothing is woken by who tries."""
    async with open_rooms([vault, bank]) as rooms:
        with pytest.raises(UnknownRoom, match="public=False"):
            async with testing.connect(rooms, "vault/x"):
                pass
        with pytest.raises(UnknownRoom, match="public=False"):
            async with testing.connect(rooms, "vault/x", attachment={"user": "ada"}):
                pass
        assert rooms.statistics().supervisor.wakes == 0
        assert await rooms.get("vault", "x").ask("add", 3) == 3


async def _hire(ctx: Context[Any], data: str) -> list[Any]:
    ctx.app.append((ctx.room.key, data))
    return [data, await ctx.rooms.get("vault", data).ask("add", 1)]


async def test_a_handler_has_the_app_and_the_other_rooms(autojump_clock: MockClock) -> None:
    """Of its own process, in each handler, before and after sleep; without one there is none."""
    office: Room[Any] = Room("office", idle_timeout=10)
    office.on("hire")(_hire)
    store = MemoryStore()
    for _ in range(2):
        seen: list[Any] = []
        async with open_rooms([office, vault], store=store, app=seen) as rooms:
            async with testing.connect(rooms, "office/x") as client:
                first = await client.ask("hire", "ada")
                await trio.sleep(20)
                assert await client.ask("hire", "ada") == ["ada", first[1] + 1]
            assert await rooms.get("office", "y").ask("hire", "bob")
            assert seen == [("office/x", "ada"), ("office/x", "ada"), ("office/y", "bob")]
    async with open_rooms([office, vault]) as rooms:
        with pytest.raises(HandlerFailed) as caught:
            await rooms.get("office", "x").ask("hire", "ada")
        assert "'NoneType' object has no attribute 'append'" in str(caught.value.__cause__)


def test_another_event_loop_is_named() -> None:
    """Who runs asyncio is told to run Trio, and nothing was opened."""

    async def main() -> None:
        async with open_rooms([total_room()]):
            pass

    with pytest.raises(RuntimeError, match=r"start the program with trio\.run"):
        asyncio.run(main())


async def _misplaced(ctx: Any, data: str) -> None:
    getattr(ctx, data)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("emit", "; there is ctx.connection.emit and ctx.room.emit"),
        ("storage", "; there is ctx.room.storage"),
        ("join", "; there is ctx.connection.join"),
        ("nothing", "'Context' has no 'nothing'"),
        ("_link", "'Context' has no '_link'"),
    ],
)
async def test_what_a_context_has_not_is_said_where_it_is(
    name: str, said: str, autojump_clock: MockClock
) -> None:
    """The error names the place."""
    made: Room[None] = Room("made")
    made.on("look")(_misplaced)
    async with open_rooms([made]) as rooms:
        with pytest.raises(HandlerFailed) as caught:
            await rooms.get("made", "x").ask("look", name)
        assert isinstance(caught.value.__cause__, AttributeError)
        assert str(caught.value.__cause__).endswith(said)
