"""Programs reach rooms wherever they are at home, as they do in a single process."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.cluster.test_cluster import TOKEN, ask, nodes, told_by
from trio_rooms import (
    AskRefused,
    AskTimeout,
    Context,
    EventError,
    Fire,
    HandlerFailed,
    Room,
    Rooms,
    Sent,
    Stage,
    Unavailable,
    open_rooms,
)
from trio_rooms.engines import MemoryEngine
from trio_rooms.errors import RoomsClosed
from trio_rooms.testing import connect

State = list[Any]


def shelf(**options: Any) -> Room[State]:
    """Rooms that keep what they are given."""
    room: Room[State] = Room("shelf", state=list, **options)

    @room.on("keep")
    async def keep(ctx: Context[State], data: Any) -> State:
        ctx.state.append(data)
        return ctx.state

    @room.on("wait")
    async def wait(ctx: Context[State], data: float) -> State:
        await trio.sleep(data)
        return ctx.state

    @room.on("fail")
    async def fail(_: Context[State], data: str) -> None:
        if data == "sold_out":
            raise EventError(data, "there are none left")
        raise LookupError(data)

    @room.on("pass_on")
    async def pass_on(ctx: Context[State], data: str) -> Any:
        return await ctx.rooms.get("shelf", data).ask("keep", ctx.room.id)

    @room.on("announce")
    async def announce(ctx: Context[State], data: str) -> Any:
        other = ctx.rooms.get("shelf", data)
        assert other.emit("announced", ctx.room.id, reliable=False) == Sent(outbox=1)
        other.schedule("later", 1, after=1000)
        ctx.state.append(1)
        return ctx.state

    @room.on("circle")
    async def circle(ctx: Context[State], data: list[str]) -> Any:
        if not data:
            return None
        return await ctx.rooms.get("shelf", data[0]).ask("circle", data[1:], timeout=2)

    @room.on_schedule("later")
    async def later(ctx: Context[State], fire: Fire[Any]) -> None:
        ctx.state.append(fire.data)

    return room


def plain() -> Room[None]:
    """Rooms of messages without a form."""
    room: Room[None] = Room("plain")

    @room.on_message
    async def hear(_: Context[None], message: str | bytes) -> None:
        """Let it pass."""

    return room


class Two:
    """Two nodes; the room x is at home at the first."""

    def __init__(self, engines: tuple[MemoryEngine, MemoryEngine], rooms: tuple[Rooms, Rooms]) -> None:
        self.engines = engines
        self.rooms = rooms
        self.at_home = rooms[0].get("shelf", "x")
        self.far = rooms[1].get("shelf", "x")


@asynccontextmanager
async def two(**options: Any) -> AsyncIterator[Two]:
    """Two nodes that know each other."""
    engine = MemoryEngine()
    other = engine.another()
    async with (
        open_rooms([shelf(**options), plain()], engine=engine, node="a", lease=2) as a,
        open_rooms([shelf(**options), plain()], engine=other, node="b", lease=2) as b,
    ):
        await trio.sleep(1)
        both = Two((engine, other), (a, b))
        await both.at_home.ask("keep", 0)
        yield both


async def test_a_room_of_another_node_is_asked(autojump_clock: MockClock) -> None:
    """It is awake once, and the answer is as it would be there."""
    async with two() as nodes:
        assert await nodes.far.ask("keep", {"deep": [1.5, b"x", None]}) == [0, {"deep": [1.5, b"x", None]}]
        assert await nodes.at_home.ask("keep", 2) == [0, {"deep": [1.5, b"x", None]}, 2]
        assert [one.statistics().supervisor.awake for one in nodes.rooms] == [1, 0]
        assert await nodes.far.hibernate() is True
        assert nodes.at_home.info().stage is Stage.ASLEEP
        assert len(await nodes.far.peek()) == 3
        await nodes.far.destroy()
        assert await nodes.at_home.peek() is None


async def test_what_it_raises_is_raised(autojump_clock: MockClock) -> None:
    """An error is what it is in one process, but for its cause, of which the text is known."""
    async with two() as nodes:
        with pytest.raises(EventError, match="there are none left") as refused:
            await nodes.far.ask("fail", "sold_out")
        assert (type(refused.value), refused.value.code) == (EventError, "sold_out")
        with pytest.raises(HandlerFailed, match="shelf/x: the handler of 'fail' raised") as failed:
            await nodes.far.ask("fail", "why")
        assert str(failed.value.__cause__) == "LookupError: why"
        with pytest.raises(AskRefused, match="shelf/x: unknown_event"):
            await nodes.far.ask("what")
        with pytest.raises(AskTimeout, match="within 3 s"):
            await nodes.far.ask("wait", 4, timeout=3)
        assert await nodes.far.ask("wait", 0) == [0]


async def test_what_one_sends_arrives_in_order(autojump_clock: MockClock) -> None:
    """Also what is sent before it is known where the room is: asks, schedules and all else."""
    async with two() as nodes:
        async with trio.open_nursery() as nursery:
            for number in range(1, 50):
                nursery.start_soon(nodes.far.ask, "keep", number)
                await trio.lowlevel.checkpoint()  # Else they begin in any order.
        assert await nodes.far.ask("wait", 0) == list(range(50))
    async with two() as nodes:
        for number in range(10):
            nodes.far.schedule("later", number, after=1)
        nodes.far.cancel("later")
        nodes.far.schedule("later", "last", after=1)
        assert (await nodes.far.schedules())["later"].data == "last"
        await trio.sleep(5)
        assert await nodes.far.ask("wait", 0) == [0, "last"]


async def test_what_is_sent_reaches_connections_wherever_they_are(autojump_clock: MockClock) -> None:
    """From a node that has none of them; its counts are known to who waits for them."""
    async with (
        two(reliable=True) as nodes,
        connect(nodes.rooms[0], "shelf/x", subprotocols=["trio-rooms.v1.json"]) as here,
        connect(nodes.rooms[1], "shelf/x", subprotocols=["trio-rooms.v1.cbor"]) as there,
    ):
        for client in (here, there):
            assert (await client.receive())["event"] == "rooms.welcome"
        assert nodes.far.emit("said", 1, reliable=False) == Sent(outbox=1)
        assert nodes.far.emit("said", 2) == Sent(outbox=1)
        assert await nodes.far.emit_durably("said", 3) == Sent(active=2)
        assert await nodes.far.emit_counted("said", 4, volatile=True) == Sent(active=2)
        assert await nodes.far.emit_counted("said", 5, reliable=False, channel="none") == Sent()
        assert (await nodes.far.emit_counted("said", 6)).outbox
        assert (await nodes.far.find_info()).connections == 2
        assert nodes.at_home.emit("said", 7, coalesce="key") == Sent(active=2)
        for client in (here, there):
            assert [(await client.receive())["data"] for _ in range(6)] == [1, 2, 3, 4, 6, 7]
        with pytest.raises((TypeError, ValueError)):
            nodes.far.emit("said", object())
        assert nodes.far.info().node == "a"


async def test_plain_messages_reach_them_too(autojump_clock: MockClock) -> None:
    """As they are."""
    async with two() as nodes, connect(nodes.rooms[0], "plain/x") as client:
        far = nodes.rooms[1].get("plain", "x")
        assert far.send("text") == far.send(b"binary") == Sent(outbox=1)
        assert [await client.receive(), await client.receive()] == ["text", b"binary"]


async def test_what_is_scheduled_from_elsewhere(autojump_clock: MockClock) -> None:
    """All kinds of it: it is durable when that is said, shown as it is there, and can be let go of."""
    async with two() as nodes:
        due = await nodes.far.schedule_durably("later:1", {"a": 1}, after=100)
        await nodes.far.schedule_durably("later:2", at=due, missed="none")
        await nodes.far.schedule_durably("later:3", every=60.0, after=5)
        await nodes.far.schedule_durably("later:4", cron="0 3 * * *", tz="Europe/Berlin")
        shown = await nodes.far.schedules()
        assert shown == await nodes.at_home.schedules()
        assert list(shown) == ["later:1", "later:2", "later:3", "later:4"]
        assert (shown["later:1"].data, shown["later:1"].due) == ({"a": 1}, due)
        assert (shown["later:4"].cron, shown["later:4"].tz) == ("0 3 * * *", "Europe/Berlin")
        nodes.far.cancel("later:2")
        assert [await nodes.far.cancel_durably("later:3") for _ in range(2)] == [True, False]
        assert list(await nodes.at_home.schedules()) == ["later:1", "later:4"]
        await trio.sleep(120)
        assert await nodes.far.ask("wait", 0) == [0, {"a": 1}]


async def test_handlers_reach_rooms_elsewhere(autojump_clock: MockClock) -> None:
    """Also those whose effects wait until they are durable: what they send waits, what they ask does not."""
    async with (
        two(durability="commit") as nodes,
        connect(nodes.rooms[0], "shelf/x", subprotocols=["trio-rooms.v1.json"]) as client,
    ):
        await client.receive()
        mine = nodes.rooms[1].get("shelf", "mine")
        assert await mine.ask("pass_on", "x") == [0, "mine"]
        assert mine.info().node is None
        assert await mine.ask("announce", "x") == [1]
        message = await client.receive()
        assert (message["event"], message["data"]) == ("announced", "mine")
        with pytest.raises(HandlerFailed, match="'circle' raised"):
            # The other one waits for this one, and this one for the other: over two nodes nobody sees that.
            await nodes.at_home.ask("circle", ["mine", "x"])


async def test_a_room_that_sleeps_goes_to_who_wants_it(autojump_clock: MockClock) -> None:
    """Let go of, it is at home where it is next asked for; the other node finds it there."""
    async with two() as nodes:
        await nodes.at_home.hibernate()
        await trio.sleep(20)
        assert nodes.far.info().node in ("", "a")
        assert await nodes.far.ask("keep", 1) == [0, 1]
        assert nodes.far.info().node is None
        assert await nodes.at_home.ask("keep", 2) == [0, 1, 2]
        assert nodes.at_home.info().node == "b"
        assert [one.statistics().supervisor.awake for one in nodes.rooms] == [0, 1]


async def test_a_node_that_is_lost(autojump_clock: MockClock) -> None:
    """Who waits for its rooms is told once that is known; from then on they are here, as they were saved."""
    async with two() as nodes:
        assert await nodes.far.ask("keep", 1) == [0, 1]
        await trio.sleep(5)  # It is saved.
        async with trio.open_nursery() as nursery:
            began = trio.current_time()

            async def wait() -> None:
                with pytest.raises(Unavailable, match="room shelf/x is unavailable: its node was lost"):
                    await nodes.far.ask("wait", 1000, timeout=math.inf)
                assert trio.current_time() - began < 4

            nursery.start_soon(wait)
            await trio.sleep(0.5)
            nodes.engines[0].cut()
        assert await nodes.far.ask("keep", 2) == [0, 1, 2]
        nodes.engines[0].mend()
        await trio.sleep(5)
        assert await nodes.at_home.ask("keep", 3) == [0, 1, 2, 3]


async def test_a_node_that_stops(autojump_clock: MockClock) -> None:
    """What it does not do any more is unavailable, and others have its rooms when it has ended."""
    engine = MemoryEngine()
    stops = open_rooms([shelf()], engine=engine, node="a", lease=2)
    async with open_rooms([shelf()], engine=engine.another(), node="b", lease=2) as b:
        far = b.get("shelf", "x")
        async with stops as a:
            await trio.sleep(1)
            await a.get("shelf", "x").ask("keep", 0)
            await a.aclose()
            with pytest.raises(Unavailable, match="room shelf/x is unavailable: its node stops"):
                await far.ask("keep", "late")
            with pytest.raises(Unavailable, match="its node stops"):
                await far.schedule_durably("later", 1, after=1)
        assert await far.schedules() == {}
        assert await far.ask("keep", 1) == [0, 1]


async def test_who_waits_at_the_end(autojump_clock: MockClock) -> None:
    """Its own rooms close, so that what becomes of what it asked elsewhere is not heard."""
    async with two() as nodes, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(RoomsClosed):
                await nodes.far.ask("wait", 1000, timeout=math.inf)

        nursery.start_soon(wait)
        await trio.sleep(1)
        await nodes.rooms[1].aclose()


async def test_over_http_each_node_tells_of_all_rooms() -> None:
    """A room, why it is awake, and the counts of what is sent to it, at whichever node one asks."""
    engine = MemoryEngine()
    bearer = f"Authorization: Bearer {TOKEN}"
    async with nodes(engine, "a", "b", admin_token=TOKEN) as ((a, _), (_, port)):
        await a.get("counter", "x").ask("add", 3)
        await told_by(port, 2)
        told = (await ask(port, "GET", "/stats/counter/x"))[1]
        assert told == {"key": "counter/x", "stage": "awake", "connections": 0, "node": "a"}
        async with connect(a, "counter/x"):
            status, told = await ask(port, "GET", "/rooms/counter/x", bearer)
            assert (status, told) == (
                200,
                {"key": "counter/x", "stage": "awake", "connections": 1, "users": []},
            )
            status, told = await ask(port, "GET", "/why/counter/x")
            assert (told["stage"], [one["reason"] for one in told["reasons"]]) == ("awake", ["idle"])
            body = {"event": "said", "data": 1}
            status, told = await ask(port, "POST", "/rooms/counter/x/emit", bearer, body=body)
            counts = {"active": 1, "parked": 0, "queued": 0, "stored": 0, "dropped": 0}
            assert (status, told) == (200, counts)
        status, told = await ask(port, "GET", "/rooms/counter/nobody", bearer)
        assert told == {"key": "counter/nobody", "stage": "asleep", "connections": 0, "users": []}


async def test_who_only_looks_keeps_nobody_out() -> None:
    """Pages of rooms elsewhere that nobody answers do not take the turns of who has the token."""
    bearer = f"Authorization: Bearer {TOKEN}"
    engine = MemoryEngine()
    async with nodes(engine, "a", admin_token=TOKEN) as ((a, port),), trio.open_nursery() as nursery:
        await a.get("counter", "x").ask("add", 3)
        engine.down()
        for number in range(40):
            nursery.start_soon(ask, port, "GET", f"/why/counter/{number}")
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(2):
            body = {"event": "said", "data": 1}
            assert (await ask(port, "POST", "/rooms/counter/x/emit", bearer, body=body))[0] == 200
        nursery.cancel_scope.cancel()
        engine.up()
