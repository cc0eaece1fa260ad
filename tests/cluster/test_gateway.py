"""Sockets at one node, in rooms that are at home at another: all is as if there were one node alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from trio_rooms import Admitted, ConnectRequest, Context, Disconnect, Policy, Room, Rooms, open_rooms
from trio_rooms._cluster import far
from trio_rooms._cluster.far import Door, FarLink, Outbound
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._runtime.registrar import Registrar
from trio_rooms._sockets.hub import SocketHub
from trio_rooms.engines import MemoryEngine
from trio_rooms.testing import MemoryClient, connect

JSON = ["trio-rooms.v1.json"]
CBOR = ["trio-rooms.v1.cbor"]


gone: list[Any] = []
"""Who has left, and how."""


def chat(**settings: Any) -> Room[Any]:
    """Rooms that say what they are told, and remember it."""
    room: Room[Any] = Room("chat", state=dict, **settings)

    @room.on("say")
    async def say(ctx: Context[Any], data: Any) -> Any:
        ctx.state["said"] = ctx.state.get("said", 0) + 1
        ctx.room.emit("said", data, reliable=True)
        return ctx.state["said"]

    @room.on("join")
    async def join(ctx: Context[Any], data: str) -> None:
        ctx.connection.join(data)

    @room.on("to")
    async def to(ctx: Context[Any], data: list[str]) -> None:
        ctx.room.emit("inside", data[1], channel=data[0])

    @room.on("tick")
    async def tick(ctx: Context[Any], data: int) -> None:
        ctx.room.emit("tick", data, volatile=True)

    @room.on("who")
    async def who(ctx: Context[Any]) -> list[Any]:
        return [ctx.connection.id, ctx.connection.user, ctx.connection.attachment]

    @room.authenticate
    async def admit(request: ConnectRequest) -> Admitted:
        user = request.query.get("user")
        return Admitted({"from": user}, user)

    @room.on("people")
    async def people(ctx: Context[Any]) -> list[Any]:
        return sorted(ctx.room.users)

    @room.on("leave")
    async def leave(ctx: Context[Any], data: list[Any]) -> None:
        ctx.connection.close(*data)

    return room


@asynccontextmanager
async def nodes(engine: MemoryEngine, *names: str, **settings: Any) -> AsyncIterator[list[Rooms]]:
    """Nodes that share an engine."""
    async with AsyncExitStack() as stack:
        found: list[Rooms] = []
        for name in names:
            shared = engine if not found else engine.another()
            opened = open_rooms([chat(**settings)], engine=shared, node=name, lease=2)
            found.append(await stack.enter_async_context(opened))
        await trio.sleep(1)  # Until they have seen each other.
        yield found


async def hear(client: MemoryClient, event: str, count: int = 1) -> list[Any]:
    """The data of the next events of a name; others are passed over."""
    found: list[Any] = []
    with trio.fail_after(10):
        while len(found) < count:
            message = await client.receive()
            if message.get("event") == event:
                found.append(message["data"])
    return found


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
async def test_what_is_said_at_one_node_is_heard_at_all(autojump_clock: Any, durability: str) -> None:
    """By whoever is in the room, once each and in order, in the kind of each."""
    async with (
        nodes(MemoryEngine(), "a", "b", "c", durability=durability) as (a, b, c),
        connect(a, "chat/x", subprotocols=JSON) as first,
        connect(b, "chat/x", subprotocols=JSON) as second,
        connect(b, "chat/x", subprotocols=CBOR) as third,
        connect(c, "chat/x", subprotocols=CBOR) as fourth,
    ):
        for number, client in enumerate((second, first, fourth, third)):
            assert await client.ask("say", number) == number + 1
        for client in (first, second, third, fourth):
            assert await hear(client, "said", 4) == [0, 1, 2, 3]


async def test_a_session_goes_on_at_another_node(autojump_clock: Any) -> None:
    """What was said meanwhile comes, once, and what was asked twice is done once."""
    async with (
        nodes(MemoryEngine(), "a", "b", "c") as (a, b, c),
        connect(a, "chat/x", subprotocols=JSON) as stays,
        connect(b, "chat/x", subprotocols=JSON) as leaves,
    ):
        await hear(leaves, "rooms.welcome")
        await leaves.ask("say", "one")
        assert await hear(leaves, "said") == ["one"]
        name = await leaves.ask("who")
        await leaves.drop()
        for number in range(100):
            await stays.ask("say", number)
        for node in (c, a, b):
            async with connect(node, "chat/x", resume=leaves) as again:
                await hear(again, "rooms.welcome")
                assert again.welcome is not None
                assert again.welcome["resumed"]
                assert await hear(again, "said", 100) == list(range(100))
                assert await again.ask("who") == name
                await again.drop()


async def test_channels_reach_members_wherever_they_are(autojump_clock: Any) -> None:
    """And nobody else."""
    async with (
        nodes(MemoryEngine(), "a", "b") as (a, b),
        connect(a, "chat/x", subprotocols=JSON) as first,
        connect(b, "chat/x", subprotocols=JSON) as second,
        connect(b, "chat/x", subprotocols=JSON) as third,
    ):
        for client in (first, second):
            await client.ask("join", "inner")
        await third.ask("to", ["inner", "psst"])
        await third.ask("say", "aloud")
        for client in (first, second):
            assert await hear(client, "inside") == ["psst"]
        message: dict[str, Any] = {}
        while message.get("event") != "said":
            message = await third.receive()
            assert message.get("event") != "inside"


async def test_who_is_written_to_by_a_task_is_not_slow_for_that(autojump_clock: Any) -> None:
    """What is volatile comes, where each is taken before the next."""
    async with (
        nodes(MemoryEngine(), "a", "b") as (a, b),
        connect(a, "chat/x", subprotocols=JSON) as first,
        connect(b, "chat/x", subprotocols=JSON) as second,
    ):
        await hear(second, "rooms.welcome")
        for number in range(20):
            await first.emit("tick", number)
            assert await hear(second, "tick") == [number]
        assert a.statistics().hub.dropped == 0


async def test_what_goes_on_is_counted_once(autojump_clock: Any) -> None:
    """Messages where their room is, and closes where the socket is."""
    async with (
        nodes(MemoryEngine(), "a", "b") as (a, b),
        connect(a, "chat/x", subprotocols=JSON) as first,
        connect(b, "chat/x", subprotocols=JSON) as second,
    ):
        for number in range(10):
            await second.ask("say", number)
        await hear(first, "said", 10)
        await hear(second, "said", 10)
        await second.emit("leave", [4321, "enough"])
        with trio.fail_after(5):
            async for _ in second:
                pass
        at_a, at_b = a.statistics().hub, b.statistics().hub
        assert (at_a.received, at_b.received) == (11, 0)
        assert (at_a.sent, at_b.sent) == (10 + 2 * 10, 0)
        assert (dict(at_a.closes), dict(at_b.closes)) == ({}, {4321: 1})


async def test_how_a_connection_ends_is_known_on_both_sides(autojump_clock: Any) -> None:
    """The room closes it with its code, and hears of those that leave."""
    gone.clear()
    room = chat()

    @room.on_disconnect
    async def left(ctx: Context[Any], disconnect: Disconnect) -> None:
        gone.append((ctx.connection.id, disconnect.code, disconnect.clean))

    engine = MemoryEngine()
    async with (
        open_rooms([room], engine=engine, node="a", lease=2) as a,
        open_rooms([chat()], engine=engine.another(), node="b", lease=2) as b,
        connect(a, "chat/x", subprotocols=JSON) as first,
    ):
        await first.ask("say", 1)
        await trio.sleep(1)
        async with connect(b, "chat/x", subprotocols=JSON) as second:
            names = [(await second.ask("who"))[0]]
            await second.emit("leave", [4321, "enough"])
            with trio.fail_after(5):
                async for _ in second:
                    pass
            assert second.closed is not None
            assert (second.closed.code, second.closed.reason) == (4321, "enough")
        async with connect(b, "chat/x", subprotocols=JSON) as third:
            names.append((await third.ask("who"))[0])
            await third.hang_up(1000)
        await trio.sleep(1)
        assert gone == [(names[0], 4321, True), (names[1], 1000, True)]
        assert a.statistics().hub.sockets == 1
        assert b.statistics().hub.sockets == 0


async def test_who_is_here_is_known_everywhere(autojump_clock: Any) -> None:
    """Users and what they are shown with are the home's, wherever their sockets are."""
    async with (
        nodes(MemoryEngine(), "a", "b", presence=True) as (a, b),
        connect(a, "chat/x", query={"user": "ana"}, subprotocols=JSON) as ana,
        connect(b, "chat/x", query={"user": "bo"}, subprotocols=JSON) as bo,
    ):
        assert await bo.ask("who") == [(await bo.ask("who"))[0], "bo", {"from": "bo"}]
        assert await ana.ask("people") == ["ana", "bo"]
        while "bo" not in str(await hear(ana, "rooms.presence")):
            pass
        await bo.hang_up()
        assert "bo" in str(await hear(ana, "rooms.presence"))
        assert await ana.ask("people") == ["ana"]


async def closed_with(client: MemoryClient) -> int | None:
    """The code that a client was closed with, once it is."""
    with trio.fail_after(30):
        async for _ in client:
            pass
    return None if client.closed is None else client.closed.code


async def test_a_room_goes_on_elsewhere_when_its_home_is_gone(autojump_clock: Any) -> None:
    """As soon as the lease is over; and who was cut off lets go of its own clients, too."""
    engine = MemoryEngine()
    async with (
        nodes(engine, "a", "b", "c", durability="commit") as (a, b, c),
        connect(a, "chat/x", subprotocols=JSON) as first,
        connect(b, "chat/x", subprotocols=JSON) as second,
    ):
        for client in (first, second):
            await hear(client, "rooms.welcome")
        assert await second.ask("say", 1) == 1
        assert await hear(second, "said") == [1]
        began = trio.current_time()
        engine.cut()  # That is a's view.
        assert await closed_with(second) == 1012
        assert trio.current_time() - began < 2.5
        async with connect(c, "chat/x", resume=second) as again:
            await hear(again, "rooms.welcome")
            assert again.welcome is not None
            assert again.welcome["resumed"]
            assert await again.ask("say", 2) == 2
            assert await hear(again, "said") == [2]
            engine.mend()
            assert await closed_with(first) == 1012
            async with connect(a, "chat/x", resume=first) as back:
                assert await hear(back, "said") == [2]
                assert await back.ask("say", 3) == 3
                assert await hear(again, "said") == [3]


async def test_sockets_of_a_gateway_that_is_gone_are_lost(autojump_clock: Any) -> None:
    """To the room they are as any that have broken."""
    engine = MemoryEngine()
    cut = engine.another()
    async with (
        open_rooms([chat()], engine=engine, node="a", lease=2) as a,
        open_rooms([chat()], engine=cut, node="b", lease=2) as b,
        connect(a, "chat/x", subprotocols=JSON) as first,
    ):
        await first.ask("say", 1)
        await trio.sleep(1)
        async with connect(b, "chat/x", subprotocols=JSON) as second:
            await hear(second, "rooms.welcome")
            assert a.statistics().hub.sockets == 2
            cut.cut()
            await trio.sleep(3)
            assert a.statistics().hub.sockets == 1
            await first.ask("say", 2)
            cut.mend()
            assert await closed_with(second) == 1012
            async with connect(b, "chat/x", resume=second) as again:
                assert await hear(again, "said") == [2]


async def test_all_goes_on_when_the_engine_was_away(autojump_clock: Any) -> None:
    """Nobody is closed, and nothing is lost, however long it took."""
    engine = MemoryEngine()
    async with (
        nodes(engine, "a", "b") as (a, b),
        connect(a, "chat/x", subprotocols=JSON) as first,
        connect(b, "chat/x", subprotocols=JSON) as second,
    ):
        await second.ask("say", 0)
        engine.down()
        await trio.sleep(1)
        await second.emit("say", 1)
        await trio.sleep(20)
        engine.up()
        for client in (first, second):
            assert await hear(client, "said", 2) == [0, 1]
        assert await second.ask("say", 2) == 3


async def test_a_room_that_fell_asleep_is_where_it_was(autojump_clock: Any) -> None:
    """Far connections are parked as any others, and wake it."""
    async with (
        nodes(MemoryEngine(), "a", "b", policy=Policy(idle_timeout=10)) as (a, b),
        connect(b, "chat/x", subprotocols=JSON) as first,
        connect(a, "chat/x", subprotocols=JSON) as second,
    ):
        assert await second.ask("say", 1) == 1
        await trio.sleep(30)
        assert b.statistics().supervisor.awake == 0
        assert await second.ask("say", 2) == 2
        assert await hear(first, "said", 2) == [1, 2]
        assert a.statistics().supervisor.awake == 0
        await first.hang_up()
        await second.hang_up()
        await trio.sleep(30)
        async with connect(a, "chat/x", subprotocols=JSON) as third:
            assert await third.ask("say", 3) == 3
            assert a.statistics().supervisor.awake == 1  # It has moved.


async def test_nothing_is_left_of_those_who_have_gone(autojump_clock: Any) -> None:
    """Neither here nor there, however they went."""
    async with (
        nodes(MemoryEngine(), "a", "b") as (a, b),
        connect(a, "chat/x") as stays,
    ):
        await stays.ask("say", 0)
        for number in range(10):
            async with connect(b, "chat/x") as client, connect(b, "chat/x") as other:
                await client.ask("say", number)
                if number % 3 == 0:
                    await client.drop()
                elif number % 3 == 1:
                    await client.emit("leave", [4000, ""])
                await other.hang_up()
        await trio.sleep(10)
        homes, cluster = (b._cluster.homes, a._cluster) if a._cluster and b._cluster else (None, None)
        assert homes is not None
        assert cluster is not None
        assert homes.connections == b._hub.foreign == a._hub.far == 0
        assert b._hub.rosters == {}
        assert a._hub.guests == set(a._hub.rosters["chat/x"].links.values())
        for lane in [*cluster.lanes.all(), *homes._lanes.all()]:
            assert lane.size == lane.load == 0
            for kept in lane.context.values():
                assert not any(getattr(kept, name, None) for name in ("doors", "coming", "uplinks", "by_key"))


async def test_a_gateway_that_stops_says_how_each_has_ended(autojump_clock: Any) -> None:
    """So that a room need not wait until the node is known to be gone."""
    gone.clear()
    room = chat(resume_window=0)

    @room.on_disconnect
    async def left(ctx: Context[Any], disconnect: Disconnect) -> None:
        gone.append((disconnect.code, disconnect.clean))

    engine = MemoryEngine()
    async with (
        open_rooms([room], engine=engine, node="a", lease=60) as a,
        connect(a, "chat/x") as first,
    ):
        await first.ask("who")
        await trio.sleep(1)
        async with (
            open_rooms([chat(resume_window=0)], engine=engine.another(), node="b", lease=60) as b,
            connect(b, "chat/x") as second,
            trio.open_nursery() as nursery,
        ):
            await second.ask("who")
            nursery.start_soon(b.aclose)
            assert await closed_with(second) == 1001
        await trio.sleep(1)
        assert gone == [(1001, True)]


async def test_who_cannot_be_let_in_is_not_left_alone(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong at the home."""
    async with (
        nodes(MemoryEngine(), "a", "b") as (a, b),
        connect(a, "chat/x", subprotocols=JSON) as first,
    ):
        await first.ask("say", 1)
        with monkeypatch.context() as patch:
            patch.setattr(Registrar, "beginning", lambda *_: 1 / 0)
            async with connect(b, "chat/x", subprotocols=JSON) as second:
                assert await closed_with(second) == 1011
        assert "could not be let in" in caplog.text
        async with connect(b, "chat/x", subprotocols=JSON) as third:
            assert await third.ask("say", 2) == 2
        await trio.sleep(1)
        assert a._hub.far == b._hub.foreign == 0


async def test_what_a_connection_elsewhere_takes() -> None:
    """A few hundred bytes at the home, all tables included, and at the gateway those of any other."""
    hub = SocketHub(Deadlines(), max_message_size=1000, backlog=1000, close_timeout=1)
    lane: Any = SimpleNamespace(peer="b#1")
    door = Door(lane, Outbound(lane, hub.stall), 1, "x/1", lambda _: None)
    roster = hub.roster("x/1", None, greets=False)
    numbers = [(1 << 50) + at for at in range(5000)]
    before = trace()
    for number in numbers:
        link = FarLink(hub.new_id(), roster, None, 0, door, number)
        door.links[number] = link
        hub.guests.add(link)
        roster.links[link.id] = link
    assert (trace() - before) / len(numbers) < 420
    tracemalloc.stop()
    hub.poller.close()


def trace() -> int:
    """Bytes that are taken now."""
    tracemalloc.start()
    return tracemalloc.get_traced_memory()[0]


async def test_nobody_waits_long_for_a_gateway_that_is_silent(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be dead, and its lease not over yet; what waits for it has its bound all the same."""
    monkeypatch.setattr(far, "FULL", 10_000)
    engine = MemoryEngine()
    cut = engine.another()
    async with (
        open_rooms([chat()], engine=engine, node="a", lease=60) as a,
        open_rooms([chat()], engine=cut, node="b", lease=60) as b,
        connect(a, "chat/x", subprotocols=JSON) as first,
    ):
        await first.ask("say", 0)
        await trio.sleep(1)
        async with connect(b, "chat/x", subprotocols=JSON) as second:
            await second.ask("say", 0)
            cut.cut()
            began = trio.current_time()
            for _ in range(100):
                await first.ask("say", "x" * 1000)
            assert 2 < trio.current_time() - began < 5
            cut.mend()
            assert len(await hear(second, "said", 101)) == 101
