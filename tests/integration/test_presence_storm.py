"""Clients that come and go in great numbers, in every way, and those that hang: nobody is shown for ever."""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from tests.raw import close_frame, request, serving, soon
from trio_rooms import Admitted, ConnectRequest, Context, Disconnect, Room, open_rooms
from trio_rooms._rooms import Rooms
from trio_rooms.testing import connect

AT_ONCE: Final = 250
"""Clients that are there at the same time."""
USERS: Final = 100
WINDOW: Final = 10.0

INSIDE: set[str] = set()
"""Connections of which a room knows, which it is told of once and once more at their end."""
asleep: Room[None] = Room("asleep", idle_timeout=0, presence=True, resume_window=WINDOW)
awake: Room[None] = Room("awake", idle_timeout=math.inf, presence=True, resume_window=WINDOW)


@asleep.authenticate
@awake.authenticate
async def authenticate(ask: ConnectRequest) -> Admitted:
    """A client is who it says."""
    return Admitted(None, user=ask.query["user"], presence={"device": "phone"})


@asleep.on("nothing")
@awake.on("nothing")
async def nothing(ctx: Context[None]) -> None:
    """Nothing, with envelopes."""


@awake.on_connect
async def on_connect(ctx: Context[None]) -> None:
    """Note it."""
    assert ctx.connection.id not in INSIDE
    INSIDE.add(ctx.connection.id)


@awake.on_disconnect
async def on_disconnect(ctx: Context[None], left: Disconnect) -> None:
    """Note its end."""
    INSIDE.remove(left.id)


class Watcher:
    """A client that stays, and keeps who is here, as it is told. It has no socket, so it misses nothing."""

    def __init__(self) -> None:
        self.users: dict[str, list[dict[str, Any]]] = {}
        self.most = 0

    async def watch(self, rooms: Rooms, key: str) -> None:
        """Be there until cancelled."""
        async with connect(rooms, key, query={"user": "watcher"}) as client:
            async for message in client:
                data = message["data"]
                self.users = data.get("users", self.users)
                for user, entries in data.get("changes", {}).items():
                    self.users[user] = entries
                    if not entries:
                        del self.users[user]
                self.most = max(self.most, len(self.users))


class Storm:
    """Clients of one room, where the clock moves by hand."""

    def __init__(self, rooms: Rooms, port: int, room: Room[None], clock: MockClock) -> None:
        self._address = ("127.0.0.1", port)
        self._rooms = rooms
        self._room = room
        self._clock = clock
        self._came = 0
        self.clients: list[socket.socket] = []
        self.watching: trio.CancelScope
        self.watcher = Watcher()

    def _connect(self, user: str) -> socket.socket:
        client = socket.create_connection(self._address)
        client.setblocking(False)
        path = f"/{self._room.name}/x?user={user}"
        client.sendall(request(path, Sec_WebSocket_Protocol="trio-rooms.v1.json"))
        return client

    @property
    def connections(self) -> int:
        """Those that the rooms know."""
        return self._rooms.statistics().hub.sockets

    async def watch(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        """Have somebody watch who is here."""
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await self.watcher.watch(self._rooms, f"{self._room.name}/x")

    async def wave(self, count: int) -> None:
        """So many come. Half of them go, in one of three ways; the others answer nothing any more."""
        self.clients = clients = []
        for _ in range(count):
            self._came += 1
            clients.append(self._connect(f"u{self._came % USERS}"))
            if self._came % 16 == 0:
                await trio.lowlevel.checkpoint()
        await come_true(lambda: self.connections == count + 1)
        await self.until(lambda: len(self.watcher.users) == min(count, USERS) + 1)
        for number, client in enumerate(clients):
            if number % 6 == 0:
                client.send(close_frame(1000))
            elif number % 6 == 1:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if number % 6 < 3:
                client.close()
        await come_true(lambda: self.connections == count - sum(n % 6 < 3 for n in range(count)) + 1)
        await self.until(lambda: self.connections == 1)
        for client in clients:
            client.close()
        await self.until(lambda: {*self.watcher.users} == {"watcher"})

    async def until(self, true: Callable[[], bool]) -> None:
        """Let time pass until something is so; three minutes at most."""
        for _ in range(180):
            if true():
                return
            self._clock.jump(1)
            for _ in range(4):
                await trio.lowlevel.checkpoint()
        pytest.fail("it did not come to pass in three minutes")


async def come_true(true: Callable[[], bool]) -> None:
    """Let the other tasks run until something is so; the clock stands still."""
    for _ in range(100_000):
        if true():
            return
        await trio.lowlevel.checkpoint()
    pytest.fail("it did not come to pass")


@contextlib.asynccontextmanager
async def storm(room: Room[None], clock: MockClock) -> AsyncIterator[tuple[Storm, Rooms]]:
    """One over real sockets."""
    async with open_rooms([room]) as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        made = Storm(rooms, address.port, room, clock)
        made.watching = await nursery.start(made.watch)
        try:
            await come_true(lambda: made.connections == 1)
            yield made, rooms
        finally:
            for client in made.clients:
                client.close()
            clock.autojump_threshold = 0.01
            nursery.cancel_scope.cancel()


async def _weather(room: Room[None], clock: MockClock, waves: int) -> None:
    INSIDE.clear()
    async with storm(room, clock) as (made, rooms):
        tracemalloc.start()
        try:
            sizes = []
            for _ in range(waves):
                await made.wave(AT_ONCE)
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert {*made.watcher.users} == {"watcher"}
        assert len(INSIDE) == (room is awake)
        assert await rooms.get(room.name, "x").users() == ("watcher",)
        assert sizes[-1] - sizes[0] < 50_000
        assert made.watcher.most == USERS + 1
        statistics = rooms.statistics()
        assert (statistics.hub.sockets, statistics.hub.rosters) == (1, 1)
        assert statistics.supervisor.wakes == (room is awake)
        made.watching.cancel()
        await made.until(lambda: rooms.statistics().hub.rosters == (room is awake) and not INSIDE)
        assert not await rooms.get(room.name, "x").users()
        assert not rooms.statistics().supervisor.crashes


@pytest.mark.parametrize("room", [asleep, awake], ids=["asleep", "awake"])
async def test_nobody_is_left_of_hundreds_who_came_and_went(room: Room[None], mock_clock: MockClock) -> None:
    """Half of them answered nothing any more. Nor is anything left in memory."""
    await _weather(room, mock_clock, 2)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("room", [asleep, awake], ids=["asleep", "awake"])
async def test_nobody_is_left_of_ten_thousand(room: Room[None], mock_clock: MockClock) -> None:
    """The same for long."""
    await _weather(room, mock_clock, 40)


CLIENT: Final = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(bytes.fromhex(sys.argv[2]))
while data := client.recv(100_000):
    if b"\\x89\\x00" in data:
        client.sendall(b"\\x8a\\x80\\0\\0\\0\\0")
        print("pong", flush=True)
"""
"""Answers pings."""


async def test_a_client_that_is_stopped_is_found_while_its_room_sleeps() -> None:
    """Its kernel takes what is sent and acknowledges it; until it was stopped it was left alone."""
    async with serving(asleep, serve={"ping_interval": 0.05}) as served:
        arguments = [str(served.address.port), request("/asleep/x?user=ana").hex()]
        client = subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE)
        assert client.stdout is not None
        try:
            for _ in range(5):
                assert await trio.to_thread.run_sync(client.stdout.readline) == b"pong\n"
            statistics = served.rooms.statistics()
            assert statistics.hub.sockets == 1
            client.send_signal(signal.SIGSTOP)
            await soon(lambda: served.rooms.statistics().hub.sockets == 0)
            assert statistics.supervisor.wakes == 0
        finally:
            client.kill()
            client.communicate()
