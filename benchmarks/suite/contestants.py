"""Who is measured: a program for each contestant, and how to start it."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

import attrs

from benchmarks.suite.dialects import PLAIN, SESSIONLESS, SESSIONLESS_CBOR, SOCKET_IO, Dialect
from benchmarks.suite.failures import Failed
from benchmarks.suite.fetch import Found, bun, node, node_package, python_package
from benchmarks.suite.processes import ROOT, Process, ProcessFailed, start

__all__ = ["Contestant", "Server", "ours", "peers", "peers_with_events", "serving", "versions"]

_DYING: Final = 0.2
"""Seconds that a process may take to be gone when its sockets are."""
_ROOM_EACH: Final = 1_000_000
"""More rooms than there are connections."""
_READY: Final = "listening on ws://127.0.0.1:"
_PHOENIX: Final = "Debian has Elixir, but no package of Phoenix; mix would fetch its source from Hex"
_FEW: Final = ("trio-websocket", "Node ws")
"""Whose figures ours are most often set beside."""


@attrs.frozen
class Contestant:
    """A server that is measured."""

    name: str
    """As it stands in tables."""
    group: Literal["ours", "peer", "limit"]
    command: tuple[str, ...]
    """What starts it; it prints ``listening on ws://127.0.0.1:PORT`` when it is ready."""
    dialect: Dialect = PLAIN
    path: str = "/"
    """Where its WebSocket is; ``{n}`` in it is the number of the connection modulo ``rooms``."""
    rooms: int = 1
    version: str = ""
    """The release, of what is no Python package."""
    checkout: Path = ROOT
    """Whose code it is, where it is ours."""
    absent: str = ""
    """Why it cannot run here; empty where it can."""


@attrs.frozen
class Server:
    """A contestant that runs."""

    port: int
    process: Process


def ours(room: str, *options: str) -> tuple[str, ...]:
    """The command that serves a room of ``benchmarks/rooms.py`` on a free port."""
    target = f"benchmarks/rooms.py:{room}"
    return (sys.executable, "-m", "trio_rooms", "serve", target, "--port", "0", *options)


def peers(role: Literal["echo", "fanout"], *, few: bool = False) -> list[Contestant]:
    """What others would use, in the order of the tables; those that cannot run here say so.

    What has to be fetched is fetched at the first call.

    Args:
        role: what they do.
        few: two of them, where the suite is on trial and another benchmark starts them all.
    """
    return [one for one in _peers(role) if not few or one.name in _FEW]


def peers_with_events() -> list[Contestant]:
    """Those that answer events as ours do: they read them, look which they are, and write them again."""
    kinds = (("JSON.parse and JSON.stringify", "events", SESSIONLESS), ("cbor-x", "cbor", SESSIONLESS_CBOR))
    return [
        attrs.evolve(_node(f"Node ws, {name}", "ws.mjs", node_package("ws"), role), dialect=dialect)
        for name, role, dialect in kinds
    ]


@functools.cache
def _peers(role: str) -> tuple[Contestant, ...]:
    loop = "asyncio" if python_package("uvloop", "uvloop").absent else "uvloop"
    bun_here = bun()
    socketio = node_package("socket.io")
    path = "/socket.io/?EIO=4&transport=websocket"
    picows = _python(f"picows ({loop})", "picows_server", "picows", "picows", role)
    return (
        _python("trio-websocket", "trio_websocket_server", "trio-websocket", "trio_websocket", role),
        _python("websockets (asyncio)", "websockets_asyncio", "websockets", "websockets.asyncio", role),
        _python("websockets (Trio)", "websockets_trio", "websockets", "websockets.trio", role),
        _python("aiohttp", "aiohttp_server", "aiohttp", "aiohttp", role),
        _python("FastAPI (uvicorn)", "fastapi_server", "fastapi", "fastapi", role, needs="uvicorn"),
        picows,
        attrs.evolve(
            picows,
            name=f"{picows.name}, rooms in a dictionary",
            command=(*picows.command, "rooms"),
            path="/room/{n}",
            rooms=1 if role == "fanout" else _ROOM_EACH,
        ),
        _node("Node ws", "ws.mjs", node_package("ws"), role),
        attrs.evolve(_node("Socket.IO", "socketio.mjs", socketio, role), dialect=SOCKET_IO, path=path),
        _python("uWebSockets (socketify)", "socketify_server", "socketify", "socketify", role),
        Contestant(
            "uWebSockets (Bun)",
            "peer",
            (str(bun_here.path), str(node_package("ws").path / "bun.mjs"), role),
            version=bun_here.version,
            absent=bun_here.absent,
        ),
        Contestant("Phoenix", "peer", (), absent=_PHOENIX),
    )


def _python(name: str, program: str, package: str, module: str, role: str, *, needs: str = "") -> Contestant:
    """One that is a Python package; ``needs`` is another one that it is served by."""
    command = (sys.executable, "-m", f"benchmarks.peers.{program}", role)
    absent = python_package(package, module).absent or (needs and python_package(needs, needs).absent)
    return Contestant(name, "peer", command, absent=absent)


def _node(name: str, file: str, found: Found, role: str) -> Contestant:
    command = ("node", str(found.path / file), role)
    version = f"{found.version} (Node {node().version})"
    return Contestant(name, "peer", command, version=version, absent=found.absent)


def versions(contestants: Iterable[Contestant]) -> dict[str, str]:
    """The releases of what is no Python package, for `Run.versions`."""
    return {one.name: one.version for one in contestants if one.version and not one.absent}


@contextlib.contextmanager
def serving(contestant: Contestant, *options: str) -> Iterator[Server]:
    """Start a contestant, fresh, and end it with the block; ``options`` go to the end of its command.

    Raises:
        ProcessFailed: it ended, or was not ready in time. If something else has failed in the block, but the
            contestant has ended, that is the reason.
    """
    checkout = contestant.checkout
    env = {"NODE_ENV": "production"}
    if checkout != ROOT:
        # Before what is installed, which is this one.
        env["PYTHONPATH"] = str(checkout / "src")
    with start(*contestant.command, *options, env=env, cwd=checkout) as process:
        while True:
            line = process.line()
            if line.startswith(_READY):
                break
        port = line.removeprefix(_READY).rstrip("/")
        if not port.isdecimal():
            raise ProcessFailed(f"{contestant.name} said {line!r}, which has no port in it")
        try:
            yield Server(int(port), process)
        except Failed as error:
            # What its clients saw of its death says less than its own last words.
            status = process.ended(_DYING)
            if status is None:
                raise
            raise process.failure(f"ended with {status}") from error
