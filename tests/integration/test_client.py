"""The Python client in rooms of real servers, over real sockets."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import trio

from tests.integration.conftest import TIMEOUT, Served
from trio_rooms.client import AskFailed, ConnectionEnded, RemoteRoom, State, connect_room

COUNTER = "examples/counter.py"
LEDGER = "examples/ledger.py"
SOON: Any = {"first_delay": 0.02, "max_delay": 0.2, "attempt_timeout": 2}
"""How a client connects again that a test waits for."""


@attrs.define
class Value:
    """What the counter sends."""

    value: int


@pytest.fixture(scope="module")
def counter(serve_all: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A server of counters."""
    return serve_all(COUNTER, "--data", tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("protocol", ["json", "cbor"])
async def test_it_asks_emits_and_listens(counter: Served, protocol: Literal["json", "cbor"]) -> None:
    """Answers are those to what was asked, events come in order, and a refusal says why."""
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{counter.url}/counter/{protocol}", protocol=protocol) as room:
            assert room.state == "open"
            assert room.id
            assert await room.ask("add", {"amount": 2}) == 2
            room.emit("add", {"amount": 3})
            assert await room.ask("add", {"amount": 4}, result=int) == 9
            assert [(await anext(room)).convert(Value).value for _ in range(3)] == [2, 5, 9]
            with pytest.raises(AskFailed, match="amount: expected int, got str") as failed:
                await room.ask("add", {"amount": "many"})
            assert (failed.value.code, failed.value.retry, failed.value.applied) == (
                "invalid_data",
                False,
                False,
            )
        assert room.state == "closed"


async def test_where_there_is_no_room_the_client_does_not_begin(counter: Served) -> None:
    """It is told with what status it was refused."""
    with trio.fail_after(TIMEOUT), pytest.raises(ConnectionEnded) as refused:
        async with connect_room(f"{counter.url}/nothing/here"):
            pytest.fail("there is nothing here")
    assert (refused.value.status, refused.value.retry, refused.value.applied) == (404, False, False)


async def test_it_finds_a_restarted_server(serve: Callable[..., Served], tmp_path: Path) -> None:
    """What is asked while no server is there is answered by the next one."""
    first = serve(COUNTER, "--data", tmp_path / "data")
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{first.url}/counter/sheep", first_delay=0.05, max_delay=0.5) as room:
            assert await room.ask("add", {"amount": 2}) == 2
            assert (await anext(room)).data == {"value": 2}
            states = room.states()
            assert await anext(states) is State.OPEN
            await trio.to_thread.run_sync(first.stop, signal.SIGTERM)
            assert await anext(states) is State.RECONNECTING
            async with trio.open_nursery() as nursery:
                nursery.start_soon(room.ask, "add", {"amount": 40})
                serve(COUNTER, "--data", tmp_path / "data", "--port", str(first.port))
            assert await anext(states) is State.OPEN
            assert (await anext(room)).data == {"value": 42}
            assert room.statistics().connects == 2


class Road:
    """The way to a server, which can be closed at any time: a relay on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.travellers: set[trio.CancelScope] = set()
        self.is_frozen = False

    async def open_stream(self) -> trio.abc.Stream:
        """What a client connects with."""
        return await trio.open_tcp_stream("127.0.0.1", self.here)

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Relay, until cancelled."""
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._relay, 0)
            self.here = listeners[0].socket.getsockname()[1]
            task_status.started()

    def cut(self) -> None:
        """Break all connections."""
        for traveller in self.travellers:
            traveller.cancel()

    async def _relay(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope, suppress(OSError, trio.BrokenResourceError):
            self.travellers.add(scope)
            server = await trio.open_tcp_stream("127.0.0.1", self.port)
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, client, server, nursery.cancel_scope)
                nursery.start_soon(self._carry, server, client, nursery.cancel_scope)
        self.travellers.discard(scope)

    async def _carry(self, there: trio.SocketStream, back: trio.SocketStream, end: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in there:
                if self.is_frozen:
                    await trio.sleep_forever()
                await back.send_all(data)
        end.cancel()


async def add(room: RemoteRoom, amount: int = 1) -> int:
    """Add to a ledger."""
    answer: int = (await room.ask("add", {"amount": amount}))["balance"]
    return answer


async def counts(room: RemoteRoom, count: int) -> list[int]:
    """What the next balances count."""
    return [(await anext(room)).data["count"] for _ in range(count)]


@pytest.fixture(scope="module")
def ledger(serve_all: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A server of ledgers."""
    return serve_all(LEDGER, "--data", tmp_path_factory.mktemp("ledgers"))


async def test_a_session_outlives_its_connections(ledger: Served, nursery: trio.Nursery) -> None:
    """However often they break: each addition counts once, each balance comes once, in order."""
    road = Road(ledger.port)
    url = f"{ledger.url}/ledger/broken"
    with trio.fail_after(TIMEOUT):
        await nursery.start(road.serve)
        async with (
            connect_room(url, protocol="cbor") as other,
            connect_room(url, open_stream=road.open_stream, **SOON) as room,
        ):
            name = room.id
            for turn in range(5):
                async with trio.open_nursery() as adders:
                    for _ in range(4):
                        adders.start_soon(add, room)
                        adders.start_soon(add, other)
                    await trio.sleep(0)
                    road.cut()
                    await add(other)
                assert await counts(room, 9) == [*range(turn * 9 + 1, turn * 9 + 10)]
                assert await counts(other, 9) == [*range(turn * 9 + 1, turn * 9 + 10)]
            assert await room.ask("get") == {"balance": 45, "count": 45}
            assert room.id == name
            assert room.statistics().connects == 6


async def test_a_session_outlives_the_server(serve: Callable[..., Served], tmp_path: Path) -> None:
    """Killed with -9 in the middle, or stopped, and started again: nothing is missing or counts twice."""
    server = serve(LEDGER, "--data", tmp_path / "data")
    url = f"{server.url}/ledger/main"
    answered: list[int] = []

    async def adds(room: RemoteRoom) -> None:
        answered.append(await add(room))

    with trio.fail_after(2 * TIMEOUT):
        async with connect_room(url, **SOON) as room, connect_room(url, events=False, **SOON) as other:
            name = room.id
            for turn, number in enumerate((signal.SIGKILL, signal.SIGTERM)):
                async with trio.open_nursery() as adders:
                    for _ in range(15):
                        adders.start_soon(adds, room)
                        adders.start_soon(adds, other)
                    while len(answered) < 30 * turn + 5:
                        await trio.sleep(0)
                    await trio.to_thread.run_sync(server.stop, number)
                    server = serve(LEDGER, "--data", tmp_path / "data", "--port", str(server.port))
                assert await counts(room, 30) == [*range(turn * 30 + 1, turn * 30 + 31)]
            assert await room.ask("get") == {"balance": 60, "count": 60}
            assert sorted(answered) == [*range(1, 61)]
            assert room.id == name


async def test_a_dead_connection_is_found_out(ledger: Served, nursery: trio.Nursery) -> None:
    """One over which nothing comes any more; its session goes on over another."""
    road = Road(ledger.port)
    url = f"{ledger.url}/ledger/frozen"
    with trio.fail_after(TIMEOUT):
        await nursery.start(road.serve)
        settings: Any = {"open_stream": road.open_stream, "ping_interval": 0.2, "ping_timeout": 0.2, **SOON}
        async with connect_room(url, **settings) as room, connect_room(url) as other:
            assert await add(room) == 1
            road.is_frozen = True
            assert await add(other) == 2
            states = room.states()
            assert await anext(states) == "open"
            assert await anext(states) == "reconnecting"
            road.is_frozen = False
            assert await add(room) == 3
            assert await counts(room, 3) == [1, 2, 3]


async def test_another_connection_may_take_the_session(ledger: Served) -> None:
    """Whoever has its token; the one before is closed for good, and told so."""
    url = f"{ledger.url}/ledger/taken"
    with trio.fail_after(TIMEOUT):
        async with connect_room(url) as room:
            await add(room)
            async with connect_room(f"{url}?resume={room._session._token}&seq=0") as thief:
                assert thief.id == room.id
                assert await counts(thief, 1) == [1]
                assert await counts(room, 1) == [1]
                with pytest.raises(ConnectionEnded) as ended:
                    await anext(room)
                assert ended.value.code == 4001
