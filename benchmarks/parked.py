"""What an idle WebSocket costs: resident memory for each, and processor time for all while nothing happens.

    benchmarks/run parked [--sockets N] [--idle SECONDS]

The server under test is a process of its own, and so are its clients. Each client says one thing and hears
it again, so that every connection has been used; then all are silent, and the room falls asleep. Memory is
the slope over three numbers of sockets, so that what the program takes without any is not in it: of what the
server has made itself (Anonymous in ``smaps_rollup``), of its proportional set size (Pss) and of its resident
set size (Rss). The last two have pages of shared libraries in them, and Pss moves when another Python starts.
What the kernel keeps for a socket is in no process's memory, and not in these figures. The peer is an echo
server of trio-websocket, which has a task for each connection.

Linux alone: it reads ``/proc``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs
import trio
import trio_websocket

from trio_rooms import ConnectRequest, Context, Room

RESULTS: Final = Path(__file__).resolve().parent / "results"
SPARE_FILES: Final = 200
"""Files that a process opens besides its sockets."""
AT_ONCE: Final = 100
"""Handshakes on their way at once."""
MEMORY: Final = ("Anonymous", "Pss", "Rss")
"""The fields of ``smaps_rollup`` that are of interest."""
ATTACHMENT: Final = 100
"""Bytes of an attachment, as CBOR."""

# The rooms, which ``trio-rooms serve`` finds here.

echo: Room[None] = Room("echo", idle_timeout=1.0)
attached: Room[None] = Room("attached", idle_timeout=1.0)


@attached.authenticate
async def attach(_: ConnectRequest) -> bytes:
    """An attachment of its own for each connection."""
    return os.urandom(ATTACHMENT - 2)  # CBOR puts two bytes before it.


@attached.on_message
@echo.on_message
async def say_again(ctx: Context[None], message: str | bytes) -> None:
    """Send a message back as it came."""
    ctx.connection.send(message)


# The peer.


async def serve_peer() -> None:
    """Run an echo server of trio-websocket until killed."""

    async def again(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while True:
                await connection.send_message(await connection.get_message())

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, again, "127.0.0.1", 0, None)
        print(f"listening on ws://127.0.0.1:{server.port}", flush=True)


# The clients, in a process of their own.


async def open_clients(port: int, path: str) -> None:
    """Have as many sockets open as each line on standard input says; answer with a line when that is so."""
    sockets: list[trio.socket.SocketType] = []
    limit = trio.CapacityLimiter(AT_ONCE)

    async def enter() -> None:
        async with limit:
            sockets.append(await _open_client(port, path))

    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        async with trio.open_nursery() as nursery:
            for _ in range(int(line) - len(sockets)):
                nursery.start_soon(enter)
        print(len(sockets), flush=True)
    for client in sockets:
        # With an RST: else thousands of ports would wait for a while.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


async def _open_client(port: int, path: str) -> trio.socket.SocketType:
    client = trio.socket.socket()
    await client.connect(("127.0.0.1", port))
    await client.send(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = await _receive(client, lambda data: data.endswith(b"\r\n\r\n"))
    if not head.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(f"the server answered {head!r}")
    # "hello" in a masked text frame; the mask is all zeros, which is allowed and saves the work.
    await client.send(b"\x81\x85\0\0\0\0hello")
    answer = await _receive(client, lambda data: len(data) >= 7)
    if answer != b"\x81\x05hello":
        raise ConnectionError(f"the server said {answer!r}")
    return client


async def _receive(client: trio.socket.SocketType, whole: Any) -> bytes:
    data = b""
    while not whole(data):
        more = await client.recv(4096)
        if not more:
            raise ConnectionError(f"the server hung up after {data!r}")
        data += more
    return data


# What /proc says.


def memory(pid: int) -> dict[str, int]:
    """What `MEMORY` names, of a process, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines[1:])
    return {name: int(fields[name].split()[0]) * 1024 for name in MEMORY}


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    # After the name, which may have anything in it; fields 14 and 15 of proc(5).
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The measurement.


@attrs.frozen
class Subject:
    """A server that is measured."""

    name: str
    command: tuple[str, ...]
    path: str
    sleeps: bool
    """Whether it has a room that falls asleep, and says so."""


def subjects() -> list[Subject]:
    """All servers, in the order of the table."""
    serve = (sys.executable, "-m", "trio_rooms", "serve")
    target = f"{Path(__file__).resolve()}:"
    return [
        Subject(
            "trio_rooms, no attachment", (*serve, f"{target}echo", "--port", "0"), "/echo/x", sleeps=True
        ),
        Subject(
            f"trio_rooms, {ATTACHMENT}-byte attachment",
            (*serve, f"{target}attached", "--port", "0"),
            "/attached/x",
            sleeps=True,
        ),
        Subject("trio-websocket", (sys.executable, __file__, "--role", "peer"), "/", sleeps=False),
    ]


@contextlib.contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone when the block ends."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def line_of(started: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert started.stdout is not None
    line = started.stdout.readline()
    if not line:
        raise RuntimeError(f"{started.args!r} ended with {started.wait()}")
    return line.rstrip("\n")


def measure(subject: Subject, counts: list[int], idle: float) -> dict[str, Any]:
    """Start one server, open its clients, and look at it."""
    quiet = {"stderr": subprocess.DEVNULL}
    with process(*subject.command, **quiet) as server:
        port = int(line_of(server).rpartition(":")[2])
        role = ("--role", "clients", "--port", str(port), "--path", subject.path)
        with process(sys.executable, __file__, *role, stdin=subprocess.PIPE) as clients:
            assert clients.stdin is not None
            points = []
            for count in counts:
                print(count, file=clients.stdin, flush=True)
                assert line_of(clients) == str(count)
                _rest(subject, port, count)
                points.append({"sockets": count, **memory(server.pid)})
            before, began = processor_time(server.pid), time.monotonic()
            time.sleep(idle)
            took, spent = time.monotonic() - began, processor_time(server.pid) - before
    slopes = {
        name: statistics.linear_regression(counts, [point[name] for point in points]).slope for name in MEMORY
    }
    return {
        "name": subject.name,
        "points": points,
        "bytes_per_socket": slopes,
        "idle_seconds": took,
        "idle_processor_seconds": spent,
    }


def _rest(subject: Subject, port: int, count: int) -> None:
    """Wait until nothing goes on in a server any more."""
    time.sleep(1.0)
    while subject.sleeps:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=30) as answer:
            told = json.load(answer)
        if told["lot"]["sockets"] != count:
            raise RuntimeError(f"{count} sockets are open, but the server says {told['lot']}")
        if not told["supervisor"]["awake"]:
            return
        time.sleep(0.1)


def main() -> None:
    """Measure all servers, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description="What an idle WebSocket costs.", allow_abbrev=False)
    parser.add_argument("--sockets", metavar="N", type=int, default=10_000, help="how many (%(default)s)")
    parser.add_argument(
        "--idle", metavar="S", type=float, default=5.0, help="seconds of idling (%(default)s)"
    )
    parser.add_argument("--limit", metavar="S", type=int, default=300, help="give up after (%(default)s)")
    parser.add_argument("--role", choices=("peer", "clients"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()

    # What is started inherits it.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if options.role == "peer":
        trio.run(serve_peer)
    elif options.role == "clients":
        trio.run(open_clients, options.port, options.path)
    else:
        if options.sockets < 10:
            parser.error("a slope takes at least 10 sockets")
        most = options.sockets if files == resource.RLIM_INFINITY else files - SPARE_FILES
        if options.sockets > most:
            print(f"a process may have {files} files open: {most} sockets instead of {options.sockets}")
        signal.signal(signal.SIGTERM, _give_up)
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(options.limit)
        compare(min(options.sockets, most), options.idle)


def _give_up(number: int, _: object) -> NoReturn:
    raise SystemExit(f"ended by {signal.Signals(number).name}; nothing was kept")


def compare(sockets: int, idle: float) -> None:
    """Measure each server with so many sockets."""
    counts = sorted({min(1000, sockets // 10), sockets // 2, sockets})
    print(f"{sockets:,} idle WebSockets; the room sleeps; memory as a slope over {counts}")
    names = "".join(f"{name:>11}" for name in MEMORY)
    print(f"{'bytes per socket':34}{names}{'Rss in all':>12}{'idle CPU':>15}")
    results = []
    for subject in subjects():
        result = measure(subject, counts, idle)
        results.append(result)
        cpu = f"{result['idle_processor_seconds']:.2f} s in {result['idle_seconds']:.0f} s"
        figures = "".join(f"{result['bytes_per_socket'][name]:>11,.0f}" for name in MEMORY)
        whole = f"{result['points'][-1]['Rss'] / 1e6:,.1f} MB"
        print(f"{result['name']:34}{figures}{whole:>12}{cpu:>15}", flush=True)
    now = datetime.datetime.now(datetime.UTC)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"parked-{now:%Y%m%dT%H%M%SZ}.json"
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
    }
    versions = {name: version(name) for name in ("trio", "trio-websocket")}
    content = {"at": now.isoformat(), "sockets": sockets, "machine": machine, "versions": versions}
    file.write_text(json.dumps({**content, "results": results}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
