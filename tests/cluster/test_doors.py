"""Real sockets at one node and their room at another: what does not fit, what is slow, and what breaks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trio_websocket

from tests.raw import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Client,
    Served,
    close_frame,
    frame,
    request,
    serving,
    soon,
)
from trio_rooms import ConnectionGone, Context, Disconnect, Room
from trio_rooms._cluster import far, lanes
from trio_rooms._sockets.flags import PAUSED
from trio_rooms.engines import MemoryEngine

PIECE = "x" * 200_000


@attrs.define
class Log:
    """What a room notes for its test."""

    gone: list[tuple[int, bool]] = attrs.field(factory=list)
    poured: int = 0
    heard: int = 0
    drained: bool | None = None
    go: trio.Event = attrs.field(factory=trio.Event)


def talk() -> Room[Any]:
    """Rooms that do what they are told."""
    room: Room[Any] = Room("talk", resume_window=0, auto_respond={"ping": "pong", b"ping": b"pong"})

    @room.on("say")
    async def say(ctx: Context[Any], data: Any) -> None:
        ctx.app.heard += 1
        ctx.room.emit("said", data)

    @room.on("pour")
    async def pour(ctx: Context[Any], data: int) -> None:
        for number in range(data):
            ctx.connection.emit("piece", [number, PIECE])
            await ctx.connection.drained()
            ctx.app.poured += 1

    @room.on("flood")
    async def flood(ctx: Context[Any], data: int) -> None:
        for number in range(data):
            ctx.room.emit("drop", number, volatile=True)
            ctx.room.emit("last", number, coalesce="last")

    @room.on("tick")
    async def tick(ctx: Context[Any], data: int) -> None:
        ctx.room.emit("tick", data, volatile=True)

    @room.on("big")
    async def big(ctx: Context[Any], data: int) -> None:
        ctx.room.emit("big", "x" * data)

    @room.on("wait")
    async def wait(ctx: Context[Any]) -> None:
        await ctx.app.go.wait()

    @room.on("soak")
    async def soak(ctx: Context[Any], data: list[int]) -> None:
        """Wait so often for a client to read, and give up but for the last time."""
        connection, (times, size) = ctx.connection, data
        connection.emit("piece", "x" * size)

        async def wait() -> None:
            for _ in range(times):
                with trio.move_on_after(0):
                    await connection.drained()
            try:
                await connection.drained()
            except ConnectionGone:
                ctx.app.drained = False
            else:
                ctx.app.drained = True

        ctx.room.start_soon(wait, keep_awake=True)

    @room.on("count")
    async def count(ctx: Context[Any]) -> None:
        ctx.connection.emit("count", len(ctx.room.connections))

    @room.on_disconnect
    async def left(ctx: Context[Any], disconnect: Disconnect) -> None:
        ctx.app.gone.append((disconnect.code, disconnect.clean))

    return room


@asynccontextmanager
async def two(
    log: Log, room: Room[Any] | None = None, other: Room[Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Served, Served]]:
    """Two nodes that listen; ``/talk/x`` is at home at the first."""
    engine = MemoryEngine()
    settings: dict[str, Any] = {"app": log, "lease": 2, **options}
    async with (
        serving(room or talk(), engine=engine, node="a", **settings) as a,
        serving(other or talk(), engine=engine.another(), node="b", **settings) as b,
        a.client("/talk/x") as keeper,
    ):
        await keeper.send(told("say", "here"))
        assert await heard(keeper) == ("said", "here")
        await soon(lambda: log.heard == 1)
        cluster = b.rooms._cluster
        assert cluster is not None
        await soon(lambda: len(cluster.seat.members) == 2)
        yield a, b


def told(event: str, data: Any = None) -> bytes:
    """An event as a client sends it."""
    return frame(TEXT, json.dumps({"event": event, "data": data}).encode())


async def heard(client: Client) -> tuple[str, Any]:
    """The next event."""
    opcode, payload = await client.frame()
    assert opcode == TEXT
    message = json.loads(payload)
    return message["event"], message["data"]


async def test_the_first_message_may_come_with_the_request() -> None:
    """And pings are answered where the socket is."""
    log = Log()
    async with two(log) as (_, b), b.client("/talk/x", first=told("say", 1)) as client:
        assert await heard(client) == ("said", 1)
        await client.send(frame(PING, b"here?"))
        assert await client.frame() == (PONG, b"here?")
        await client.send(told("say", 2) * 1000)
        for _ in range(1000):
            assert await heard(client) == ("said", 2)
        await client.send(close_frame(4000, "bye"))
        assert await client.closed() == (4000, "bye")
        await soon(lambda: log.gone == [(4000, True)])


@pytest.mark.parametrize("how", ["reset", "violation", "large"])
async def test_a_socket_that_ends_badly_is_told_of(how: str) -> None:
    """The room hears what it would of a socket of its own node."""
    log = Log()
    async with two(log, max_message_size=1000) as (_, b), b.client("/talk/x") as client:
        if how == "reset":
            await client.stream.aclose()
            await soon(lambda: log.gone == [(1006, False)])
        elif how == "violation":
            await client.send(frame(3, b""))
            assert (await client.closed())[0] == 1002
            await soon(lambda: log.gone == [(1002, False)])
        else:
            await client.send(told("say", "x" * 2000))
            assert (await client.closed())[0] == 1009
            await soon(lambda: log.gone == [(1009, False)])


async def test_a_handler_waits_until_its_client_has_read() -> None:
    """As it would for a socket of its own node; so little is on its way at a time."""
    log = Log()
    async with two(log) as (a, b), b.client("/talk/x", buffer=4096) as client:
        await client.send(told("pour", 100))
        await soon(lambda: log.poured > 0)
        before = 0
        while log.poured != before:
            before = log.poured
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert log.poured < 50
        for number in range(100):
            assert await heard(client) == ("piece", [number, PIECE])
        await soon(lambda: log.poured == 100)
        await soon(lambda: all(link.unfinished is None for link in a.rooms._hub.guests))


async def test_who_reads_nothing_is_too_slow() -> None:
    """What waits for it has a bound, and nobody else is held up."""
    log = Log()
    async with (
        two(log, max_unsent=100_000) as (a, b),
        b.client("/talk/x", buffer=4096),
        a.client("/talk/x") as other,
    ):
        for number in range(60):
            await other.send(told("say", [number, PIECE]))
            assert await heard(other) == ("said", [number, PIECE])
        await soon(lambda: b.rooms.statistics().hub.closes.get(1013) == 1)


async def test_who_is_too_slow_is_in_its_room_no_more() -> None:
    """Though its handshake lasts, and who waits for it to read is told that it has not."""
    log = Log()
    async with (
        two(log, max_unsent=100_000) as (a, b),
        b.client("/talk/x", buffer=4096) as slow,
        b.client("/talk/x") as other,
    ):
        await slow.send(told("soak", [0, 8_000_000]))
        await soon(lambda: any(link.slow for link in a.rooms._hub.guests))
        for _ in range(3):
            await other.send(told("big", 200_000))
            assert (await heard(other))[0] == "big"
        await soon(lambda: b.rooms.statistics().hub.closes.get(1013) == 1)
        await soon(lambda: log.drained is not None)
        assert log.drained is False
        assert log.gone == []
        await other.send(told("count"))
        assert await heard(other) == ("count", 2)


async def test_however_often_it_is_asked_whether_a_client_has_read() -> None:
    """One task waits for it at its node, and the answer is not that of an earlier question."""
    log = Log()
    async with two(log) as (a, b), b.client("/talk/x", buffer=65536) as client:
        cluster = b.rooms._cluster
        assert cluster is not None
        tasks = cluster.lanes._nursery
        assert tasks is not None
        before = len(tasks.child_tasks)
        await client.send(told("soak", [500, 8_000_000]))
        await soon(lambda: any(link.slow for link in a.rooms._hub.guests))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(tasks.child_tasks) <= before + 1
        assert log.drained is None
        assert (await heard(client))[0] == "piece"
        await soon(lambda: log.drained is True)
        await soon(lambda: len(tasks.child_tasks) == before)


async def test_a_client_is_spoken_to_in_its_own_kind_whoever_has_heard_it() -> None:
    """What it says may be answered where its socket is, and its room hears nothing of that."""
    log = Log()
    async with two(log) as (a, b), b.client("/talk/x") as client, a.client("/talk/x") as other:
        for opcode, several in ((BINARY, 1), (TEXT, 3), (BINARY, 3), (TEXT, 1)):
            await client.send(frame(opcode, b"ping") * several)
            for _ in range(several):
                assert await client.frame() == (opcode, b"pong")
            await trio.testing.wait_all_tasks_blocked(0.01)
            await other.send(told("say", 1))
            assert (await client.frame())[0] == opcode


async def test_what_is_volatile_is_dropped_for_the_slow_alone() -> None:
    """The home knows who is slow; of what is coalesced the newest comes in the end."""
    log = Log()
    async with two(log) as (a, b), b.client("/talk/x", buffer=4096) as client:
        await client.send(told("big", 3_000_000))
        await soon(lambda: any(link.slow for link in a.rooms._hub.guests))
        await client.send(told("flood", 1000))
        await soon(lambda: a.rooms.statistics().hub.dropped == 1000)
        assert (await heard(client))[0] == "big"
        assert await heard(client) == ("last", 999)
        await soon(lambda: not any(link.slow for link in a.rooms._hub.guests))
        await client.send(told("tick", 5))
        assert await heard(client) == ("tick", 5)


async def test_who_sends_more_than_its_room_takes_is_not_read() -> None:
    """The home says so, and the gateway leaves it in the kernel."""
    log = Log()
    async with two(log) as (a, b), b.client("/talk/x") as client, trio.open_nursery() as nursery:
        await client.send(told("wait"))
        sent = 0

        async def send() -> None:
            nonlocal sent
            while sent < 8_000:
                await client.send(told("say", "x" * 1000) * 10)
                sent += 10

        nursery.start_soon(send)
        await soon(lambda: any(link.flags & PAUSED for link in a.rooms._hub.guests))
        before = -1
        while sent != before:
            before = sent
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert sent < 8_000
        assert log.heard == 1
        log.go.set()
        count = 0
        while count < 8_000:
            count += (await heard(client))[0] == "said"
        assert log.heard == 8_001


async def test_a_room_waits_for_a_gateway_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way between two nodes stays small, however much a room sends to many."""
    monkeypatch.setattr(far, "FULL", 200_000)
    monkeypatch.setattr(lanes, "_LITTLE", 50_000)
    log = Log()
    async with two(log) as (a, b), a.client("/talk/x") as keeper, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(_reads, b)
        await soon(lambda: a.rooms.statistics().hub.sockets == 22)
        cluster = a.rooms._cluster
        assert cluster is not None
        sizes = [0]

        async def look() -> None:
            while True:
                sizes.extend(lane.size for lane in cluster.lanes.all())
                await trio.sleep(0)

        async def send() -> None:
            for _ in range(100):
                await keeper.send(told("say", PIECE[:50_000]))

        nursery.start_soon(look)
        nursery.start_soon(send)
        count = 0
        while count < 100:
            count += (await heard(keeper))[0] == "said"
        assert 200_000 < max(sizes) < 1_000_000
        nursery.cancel_scope.cancel()


async def test_many_rooms_may_send_much_in_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """To clients of one other node: each gets it all, in order, and a close that comes behind it last."""
    monkeypatch.setattr(far, "FULL", 200_000)
    monkeypatch.setattr(lanes, "_LITTLE", 50_000)
    count = 30
    async with two(Log()) as (a, b), AsyncExitStack() as stack:
        clients = []
        for one in range(count):
            await stack.enter_async_context(a.client(f"/talk/r{one}"))
            clients.append(await stack.enter_async_context(b.client(f"/talk/r{one}")))
        await soon(lambda: a.rooms.statistics().hub.sockets == 2 * count + 1)
        cluster = a.rooms._cluster
        assert cluster is not None
        cluster.lanes.most = 1_000_000
        for one in range(count):
            room = a.rooms.get("talk", f"r{one}")
            room.emit("much", "x" * 90_000)
            room.emit("less", one)
        for link in [*a.rooms._hub.guests]:
            a.rooms._hub.close(link, 4000, "")
        for one, client in enumerate(clients):
            assert await heard(client) == ("much", "x" * 90_000)
            assert await heard(client) == ("less", one)
            assert await client.frame() == (CLOSE, (4000).to_bytes(2))


async def test_what_fills_a_lane_in_one_moment_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing waited yet as the first of it was sent, and nothing is sent later."""
    monkeypatch.setattr(far, "FULL", 50_000)
    monkeypatch.setattr(lanes, "_LITTLE", 20_000)
    async with two(Log()) as (a, b), b.client("/talk/x") as client:
        await soon(lambda: a.rooms.statistics().hub.sockets == 2)
        for number in range(8):
            a.rooms.get("talk", "x").emit("part", [number, "x" * 20_000])
        for number in range(8):
            assert await heard(client) == ("part", [number, "x" * 20_000])


async def _reads(served: Served) -> None:
    async with served.client("/talk/x") as client:
        while await client.stream.receive_some(1 << 20):
            pass


async def test_a_node_that_cannot_be_reached_is_503(caplog: Any) -> None:
    """It is said before the WebSocket is opened, so that any client understands."""
    engine = MemoryEngine()
    log = Log()
    async with (
        serving(talk(), engine=engine, node="a", app=log, lease=60) as a,
        serving(talk(), engine=(second := engine.another()), node="b", app=log, lease=60) as b,
        a.client("/talk/x") as keeper,
    ):
        await keeper.send(told("say", 1))
        await heard(keeper)
        cluster = b.rooms._cluster
        assert cluster is not None
        await soon(lambda: len(cluster.seat.members) == 2)
        cluster.ownership.patience = 0.05
        second.cut()
        status, headers, _ = await b.ask(request("/talk/x"))
        assert status == 503
        assert headers["retry-after"] == "1"
        second.mend()
        cluster.ownership.patience = 5
        async with b.client("/talk/x", first=told("say", 2)) as client:
            assert await heard(client) == ("said", 2)


async def test_a_room_that_takes_nobody_lets_nobody_in_from_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that was given up, for example: who comes to another node is refused before its handshake, too."""
    log = Log()
    async with two(log) as (a, b):
        monkeypatch.setattr(a.rooms._supervisor, "accepts", lambda key: key != "talk/x")
        for served in (a, b):
            async with served.connection() as refused:
                await refused.send(request("/talk/x"))
                status, headers, _ = await refused.answer()
                assert (status, headers["retry-after"]) == (503, "1")


async def test_a_connection_of_a_trio_websocket_server_comes_in_as_well() -> None:
    """Its frames are its own server's, and go one by one."""
    log = Log()
    async with two(log) as (_, b), trio.open_nursery() as nursery:

        async def adopt(asked: trio_websocket.WebSocketRequest) -> None:
            await b.rooms.adopt(asked, "talk", "x")

        serve = partial(trio_websocket.serve_websocket, adopt, "127.0.0.1", 0, None)
        server = await nursery.start(serve)
        async with trio_websocket.open_websocket("127.0.0.1", server.port, "/", use_ssl=False) as client:
            await client.send_message(json.dumps({"event": "say", "data": 5}))
            assert json.loads(await client.get_message()) == {"event": "said", "data": 5}
            await client.aclose(4000, "bye")
        await soon(lambda: log.gone == [(4000, True)])
        nursery.cancel_scope.cancel()
