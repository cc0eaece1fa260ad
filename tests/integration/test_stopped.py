"""Processes that stand still: a node, and the engine, stopped by a signal and let go on."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import trio

from tests.integration.conftest import Served
from tests.valkey import Valkey
from trio_rooms._wire import frames
from trio_rooms.client import connect_room

LEASE = 1.0
TICKER = """
import trio
from trio_rooms import Room

room = Room("ticker", state=dict)

async def tick(ctx):
    while True:
        for _ in range(300):
            ctx.state["n"] = ctx.state.get("n", 0) + 1
            ctx.room.emit("tick", ctx.state["n"])
        await trio.sleep(0.001)

@room.on("start")
async def start(ctx):
    ctx.room.start_soon(tick, ctx, keep_awake=True)

@room.on("add")
async def add(ctx):
    ctx.state["total"] = ctx.state.get("total", 0) + 1
    return ctx.state["total"]
"""


class Raw:
    """A client that reads what there is, and sends what it is told to."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.socket.recv(65536)
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        assert b" 101 " in head.split(b"\r\n")[0]

    def send(self, message: str) -> None:
        """Send a short message, masked with zeros."""
        body = message.encode()
        self.socket.sendall(bytes((0x81, 0x80 | len(body), 0, 0, 0, 0)) + body)

    def read_for(self, seconds: float) -> bytes:
        """What comes within some time; less where the other side has closed."""
        until, found = time.monotonic() + seconds, b""
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                part = self.socket.recv(1 << 20)
            except TimeoutError:
                break
            if not part:
                break
            found += part
        return found


async def test_a_node_that_was_stopped_says_nothing_when_it_goes_on(
    serve: Callable[..., Served], own_valkey: Valkey, tmp_path: Path
) -> None:
    """Wherever in its work it was: another node has its room by then, and its clients are to go there."""
    module = tmp_path / "ticker.py"
    module.write_text(TICKER)
    engine = ("--engine", own_valkey.url, "--lease", str(LEASE))
    a = serve(module, "--node", "a", *engine)
    b = serve(module, "--node", "b", *engine)
    raw = Raw(a.port, "/ticker/x")
    raw.send('{"event": "start"}')
    assert b"tick" in raw.read_for(0.3)
    os.kill(a.process.pid, signal.SIGSTOP)
    raw.read_for(0.5)
    async with connect_room(f"ws://127.0.0.1:{b.port}/ticker/x") as room:
        with trio.fail_after(20):
            assert await room.ask("add") == 1
        assert raw.read_for(0.1) == b""
        os.kill(a.process.pid, signal.SIGCONT)
        last = raw.read_for(1)
        # It may have had too much to say to be held back until it had found out that its room is gone.
        assert frames.decode_close(last).code in (1012, 1013)
        assert await room.ask("add") == 2
    raw.socket.close()
    assert a.stop() == 0


async def test_an_engine_that_was_stopped_costs_time_and_nothing_else(
    serve: Callable[..., Served], own_valkey: Valkey
) -> None:
    """Connections stay, what is asked meanwhile is answered once it goes on, and counts once."""
    node = serve("examples/ledger.py", "--engine", own_valkey.url, "--lease", str(LEASE), "--node", "a")
    answers: list[int] = []
    async with connect_room(f"ws://127.0.0.1:{node.port}/ledger/x") as room, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append((await room.ask("add", {"amount": 1}))["balance"])

        await ask()
        os.kill(own_valkey.pid, signal.SIGSTOP)
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.sleep(2 * LEASE)
        assert answers == [1]
        os.kill(own_valkey.pid, signal.SIGCONT)
        with trio.fail_after(20):
            while len(answers) < 6:
                await trio.sleep(0.02)
        assert answers == [1, 2, 3, 4, 5, 6]
        assert room.statistics().connects == 1
    assert node.stop() == 0
