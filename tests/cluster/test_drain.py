"""A node is drained: its rooms and its clients go to the others, and nobody loses anything."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import Context, Disconnect, Room, Rooms, Unavailable, open_rooms
from trio_rooms._cluster.cluster import Cluster
from trio_rooms.client import connect_room
from trio_rooms.engines import MemoryEngine
from trio_rooms.testing import Closed, connect

JSON = ["trio-rooms.v1.json"]
State = dict[str, Any]
heard: list[Any] = []
"""What hooks and handlers were told."""
stuck = trio.Event()


async def _add(ctx: Context[State], data: int) -> int:
    total: int = ctx.state.get("total", 0) + data
    ctx.state["total"] = total
    ctx.room.emit("total", total, reliable=True)
    return total


async def _hang(ctx: Context[State]) -> None:
    await stuck.wait()


async def _went(ctx: Context[State], who: Disconnect) -> None:
    heard.append(who.id)


def ledger(durability: Any, **options: Any) -> Room[State]:
    """Rooms that count."""
    room: Room[State] = Room("ledger", state=dict, durability=durability, **options)
    room.on("add")(_add)
    room.on("hang")(_hang)
    room.on_disconnect(_went)
    return room


@asynccontextmanager
async def nodes(
    *names: str, durability: Any = "snapshot", engine: MemoryEngine | None = None
) -> AsyncIterator[list[Rooms]]:
    """Nodes that share an engine, and know each other."""
    heard.clear()
    engine = engine or MemoryEngine()
    async with AsyncExitStack() as stack:
        found: list[Rooms] = []
        for name in names:
            shared = engine if not found else engine.another()
            opened = open_rooms([ledger(durability)], engine=shared, node=name, lease=2)
            found.append(await stack.enter_async_context(opened))
        for rooms in found:
            while len(cluster_of(rooms).seat.members) < len(names):
                await cluster_of(rooms).seat.beaten()
        yield found


def cluster_of(rooms: Rooms) -> Cluster:
    """What makes rooms a node."""
    cluster = rooms._runtime.node
    assert isinstance(cluster, Cluster)
    return cluster


def nothing_is_left(rooms: Rooms) -> bool:
    """Whether a node has neither rooms nor connections."""
    statistics = rooms.statistics()
    return not (statistics.hub.rosters or statistics.hub.sockets or cluster_of(rooms).ownership.keys())


async def drained(rooms: Rooms) -> None:
    """Drain a node, and wait until nothing is left there."""
    cluster_of(rooms).drain()
    with trio.fail_after(60):
        while not nothing_is_left(rooms):
            await trio.sleep(0.05)


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
@pytest.mark.parametrize("asleep", [False, True])
async def test_clients_go_on_at_another_node(
    durability: str, asleep: bool, autojump_clock: MockClock
) -> None:
    """With their sessions: each event once and in order, and each message handled once."""
    async with nodes("a", "b", durability=durability) as (a, b):
        async with (
            connect(a, "ledger/x", subprotocols=JSON) as ana,
            connect(b, "ledger/x", subprotocols=JSON) as bob,
        ):
            assert await ana.ask("add", 1) == 1
            assert await bob.ask("add", 1) == 2
            assert cluster_of(a).ownership.owns("ledger/x")
            if asleep:
                assert await a.get("ledger", "x").hibernate()
            await drained(a)
            for client in (ana, bob):
                assert [one["data"] async for one in client if one.get("event") == "total"] == [1, 2]
                assert client.closed == Closed(1012, "the room moves to another node")
        assert heard == []
        async with connect(b, "ledger/x", resume=ana) as ana, connect(b, "ledger/x", resume=bob) as bob:
            assert (await ana.receive())["data"]["resumed"] is True
            assert (await bob.receive())["data"]["resumed"] is True
            await ana.emit("add", 5, id=1)  # As if its answer had not come.
            assert (await ana.receive())["data"] == 1
            assert await ana.ask("add", 1) == 3
            assert await bob.ask("add", 1) == 4
            for client in (ana, bob):
                client._kept.clear()
        await trio.sleep(200)
        assert len(heard) == 2


async def test_a_node_that_is_drained_takes_nobody_and_no_room(autojump_clock: MockClock) -> None:
    """Whoever asks it for a room is sent to another node by it."""
    async with nodes("a", "b") as (a, b):
        await drained(a)
        with pytest.raises(Unavailable):
            async with connect(a, "ledger/x"):
                pass
        assert await a.get("ledger", "y").ask("add", 1) == 1
        assert cluster_of(b).ownership.owns("ledger/y")
        await trio.sleep(1)
        assert cluster_of(b).seat.members[cluster_of(a).seat.incarnation].about["draining"] is True


async def test_sockets_for_rooms_elsewhere_are_closed_as_well(autojump_clock: MockClock) -> None:
    """Their rooms hear of a lost connection, and go on."""
    async with nodes("a", "b") as (a, b):
        assert await b.get("ledger", "x").ask("add", 1) == 1
        async with connect(a, "ledger/x", subprotocols=JSON) as ana, connect(b, "ledger/x") as bob:
            assert await ana.ask("add", 1) == 2
            await drained(a)
            assert [one["data"] async for one in ana if one.get("event") == "total"] == [2]
            assert ana.closed is not None
            assert ana.closed.code == 1012
            async with connect(b, "ledger/x", resume=ana) as again:
                assert (await again.receive())["data"]["resumed"] is True
                assert await again.ask("add", 1) == 3
            assert await bob.ask("add", 1) == 4


async def test_a_room_that_hangs_stays_and_keeps_nobody_else(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, and goes once it has come to rest."""
    global stuck  # noqa: PLW0603
    stuck = trio.Event()
    async with nodes("a", "b") as (a, _), connect(a, "ledger/x") as ana, connect(a, "ledger/y") as bob:
        await bob.ask("add", 1)
        await ana.emit("hang")
        await wait_all_tasks_blocked()
        cluster_of(a).drain()
        await trio.sleep(5)
        assert set(cluster_of(a).ownership.keys()) == {"ledger/x"}
        await trio.sleep(60)
        assert "did not come to rest" in caplog.text
        assert a.statistics().hub.sockets == 1
        stuck.set()
        await trio.sleep(60)
        assert nothing_is_left(a)
        assert [one async for one in ana] == []
        assert ana.closed is not None
        assert ana.closed.code == 1012


async def test_a_last_wish_of_a_room_that_moves_is_fulfilled(autojump_clock: MockClock) -> None:
    """Mail that waits is handled before it goes."""
    global stuck  # noqa: PLW0603
    stuck = trio.Event()
    async with nodes("a", "b", durability="commit") as (a, b):
        async with connect(a, "ledger/x", subprotocols=JSON) as ana:
            await ana.receive()
            await ana.emit("hang", id=1)
            for number in range(2, 6):
                await ana.emit("add", 1, id=number)
            await wait_all_tasks_blocked()
            cluster_of(a).drain()
            await trio.sleep(1)
            stuck.set()
            answers = [one["ack"] async for one in ana if "ack" in one]
            assert answers == [1, 2, 3, 4, 5]
        assert await b.get("ledger", "x").peek() == {"total": 4}


@attrs.define(eq=False)
class Client:
    """One that asks for as long as the test lasts, at whichever node takes it."""

    ports: list[int]
    room: str
    asked: int = 0
    totals: list[int] = attrs.field(factory=list)
    longest: float = 0.0
    done: bool = False
    at: int = 0

    async def open_stream(self) -> trio.SocketStream:
        """The next node's turn."""
        self.at += 1
        return await trio.open_tcp_stream("127.0.0.1", self.ports[self.at % len(self.ports)])

    async def run(self, until: trio.Event, count: Callable[[], float]) -> None:
        """Ask, one after the other; then listen until all that was asked in the room was heard of."""
        url = f"ws://127.0.0.1:{self.ports[0]}/ledger/{self.room}"
        async with connect_room(url, open_stream=self.open_stream) as room, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, room)
            while not until.is_set():
                began = trio.current_time()
                await room.ask("add", 1)
                self.asked += 1
                self.longest = max(self.longest, trio.current_time() - began)
                await trio.sleep(0.005)
            self.done = True
            with trio.fail_after(10):
                while count() > self.totals[-1]:
                    await trio.sleep(0.01)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    async def _listen(self, room: Any) -> None:
        async for event in room:
            if event.name == "total":
                self.totals.append(event.data)


async def test_a_deploy_under_load() -> None:
    """Node after node is drained while clients ask: ledgers are exact, each event comes once, in order."""
    async with nodes("a", "b", "c", durability="commit") as found, trio.open_nursery() as nursery:
        ports = []
        for rooms in found:
            address = await nursery.start(rooms.serve, "127.0.0.1", 0)
            ports.append(address.port)
        clients = [Client(ports, str(number % 3), at=number) for number in range(9)]
        over = trio.Event()

        def asked(room: str) -> float:
            those = [client for client in clients if client.room == room]
            done = all(client.done for client in those)
            return sum(client.asked for client in those) if done else math.inf

        async with trio.open_nursery() as asking:
            for client in clients:
                asking.start_soon(client.run, over, partial(asked, client.room))
            await trio.sleep(0.3)
            for rooms in found[:2]:
                await drained(rooms)
                await trio.sleep(0.2)
            over.set()
        for name in ("0", "1", "2"):
            those = [client for client in clients if client.room == name]
            total = int(asked(name))
            assert await found[2].get("ledger", name).peek() == {"total": total}
            for client in those:
                assert client.totals == list(range(client.totals[0], total + 1))
        assert max(client.longest for client in clients) < 5
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("durability", ["snapshot", "commit"])
@pytest.mark.parametrize("session", [True, False])
@pytest.mark.parametrize("asleep", [True, False])
async def test_who_is_closed_already_and_does_not_answer_holds_up_nothing(
    durability: str, session: bool, asleep: bool, autojump_clock: MockClock
) -> None:
    """The room goes at once, and hears nothing of it."""
    async with (
        nodes("a", "b", durability=durability) as (a, b),
        connect(a, "ledger/x", subprotocols=JSON if session else []) as ana,
        connect(a, "ledger/x"),
    ):
        assert await ana.ask("add", 1) == 1
        if asleep:
            assert await a.get("ledger", "x").hibernate()
        link = next(iter(a._hub.rosters["ledger/x"].links.values()))
        a._hub.close(link, 1013, "too slow")
        assert list(a._hub.closing.leaving("ledger/x").values()) == [link]
        began = trio.current_time()
        cluster_of(a).drain()
        with trio.fail_after(60):
            while cluster_of(a).ownership.keys():
                await trio.sleep(0.05)
        assert trio.current_time() - began < 1
        assert await b.get("ledger", "x").ask("add", 1) == 2
        assert heard == []
