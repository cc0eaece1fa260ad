"""What the engine of a cluster does for each call, and how much memory it needs for each room that sleeps."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.suite import disk
from benchmarks.suite.failures import Failed
from benchmarks.suite.numbers import percentile
from benchmarks.suite.processes import Process, cpu_seconds, start
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table
from benchmarks.suite.valkey import valkey

NAME = "engine"
ABOUT = "How many commits, claims and messages between nodes an engine carries, and its memory for each room."

CALLS: Final = {
    "commit": "Commits of a room with 4,096 bytes of state",
    "claim": "Claims of rooms that nobody has",
    "send": "Messages of 200 bytes to a node",
}
TOGETHER: Final = (64, 512)
STATES: Final = (0, 1024, 4096)
SESSIONS: Final = (0, 1, 10)


@attrs.frozen
class Caller:
    """A kind that ``benchmarks/peers/engines.py`` knows."""

    name: str
    group: Group
    kind: str
    absent: str


@attrs.frozen
class State:
    """Rooms with a state of so many bytes."""

    size: int
    absent: str
    group: Group = "ours"

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.size:,} bytes of state" if self.size else "no state"


@attrs.frozen
class Server:
    """A server that runs."""

    process: Process
    port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"valkey://127.0.0.1:{self.port}"

    def memory(self) -> int:
        """Bytes that it has allocated for data."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as asked:
            asked.sendall(b"INFO memory\r\n")
            told = b""
            while b"used_memory:" not in told or not told.endswith(b"\r\n"):
                told += asked.recv(65536)
        found = re.search(rb"used_memory:(\d+)", told)
        assert found is not None
        return int(found[1])


def run(run: Run) -> None:
    """Measure the calls, and then the memory."""
    found = valkey()
    if found.version:
        name, _, release = found.version.partition(" ")
        run.versions[name] = release
    callers = [
        Caller("trio_rooms", "ours", "ours", found.absent),
        Caller("plain commands with as many bytes", "limit", "bare", found.absent),
    ]
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        _run_calls(run, callers, found.path, folder)
        sizes = STATES[:1] if run.quick else STATES
        _run_memory(run, [State(size, found.absent) for size in sizes], found.path, folder)


def _run_calls(run: Run, callers: list[Caller], program: Path, folder: Path) -> None:
    columns = [
        Column("p50", "alone, p50", unit="ms", better="low"),
        Column("p99", "p99", unit="ms", better="low"),
        *(Column(f"rate{tasks}", f"calls/s, {tasks} at a time", better="high") for tasks in TOGETHER),
        Column("cpu", "the engine's processor time for each", unit="µs", better="low"),
    ]
    tables = {
        call: run.table(
            call,
            title,
            columns,
            drawn=f"rate{TOGETHER[-1]}",
            baseline=callers[1].name,
            note="appendfsync always. One process calls, over one connection. The limit: "
            + {"commit": "SET", "claim": "HSET", "send": "PUBLISH"}[call]
            + ", by a loop that blocks.",
        )
        for call, title in CALLS.items()
    }
    seconds = 0.1 if run.quick else 3.0
    for caller in run.each(callers, *tables.values()):
        with (
            run.attempt(caller),
            disk.folder(folder) as data,
            _server(program, data) as server,
            start(sys.executable, "-m", "benchmarks.peers.engines", caller.kind, server.url) as process,
        ):
            for number, (call, table) in enumerate(tables.items()):
                run.progress(f"{caller.name}: {call}", number / len(tables))
                _measure(run, table, caller, call, seconds, server, process)
    _tell_the_rate(run, tables["commit"], callers[0])


def _measure(
    run: Run, table: Table, caller: Caller, call: str, seconds: float, server: Server, process: Process
) -> None:
    process.write(f"alone {call} {seconds}")
    took: list[float] = json.loads(process.line())
    values: dict[str, Any] = {"p50": percentile(took, 50), "p99": percentile(took, 99)}
    for tasks in TOGETHER:
        spent = cpu_seconds(server.process.pid)
        process.write(f"together {call} {tasks} {seconds}")
        count, lasted = json.loads(process.line())
        values[f"rate{tasks}"] = count / lasted
        values["cpu"] = (cpu_seconds(server.process.pid) - spent) / count
    run.measured(table, caller, **values)


def _tell_the_rate(run: Run, table: Table, caller: Caller) -> None:
    """Say when the one thread of an engine has no time left."""
    spent = next((row.median("cpu") for row in table.rows if row.name == caller.name), None)
    if spent:
        run.remark(
            f"An engine has one thread for commands: with these commits it is full at {1 / spent:,.0f} "
            "a second, from however many nodes they come."
        )


def _run_memory(run: Run, states: list[State], program: Path, folder: Path) -> None:
    rooms = run.wanted(20_000, quick=200)
    table = run.table(
        "memory",
        f"The engine's memory for each of {rooms:,} rooms that sleep",
        [
            Column(
                f"s{count}",
                f"{count or 'no'} session{'' if count == 1 else 's'} each",
                unit="B",
                better="low",
            )
            for count in SESSIONS
        ],
        note="used_memory of a new server with these rooms and nothing else. Nobody is connected: sessions "
        "are of clients that are away, with a user each. States are random bytes.",
    )
    for state in run.each(states, table):
        with run.attempt(state):
            values: dict[str, Any] = {}
            for number, sessions in enumerate(SESSIONS):
                run.progress(f"{state.name}, {sessions} sessions", number / len(SESSIONS))
                values[f"s{sessions}"] = _memory(program, folder, state.size, sessions, rooms)
            run.measured(table, state, **values)


def _memory(program: Path, folder: Path, size: int, sessions: int, rooms: int) -> float:
    with disk.folder(folder) as data, _server(program, data, "everysec") as server:
        with start(sys.executable, "-m", "benchmarks.peers.engines", "rooms", server.url) as process:
            process.write(f"fill {size} {sessions} 0")
            process.line()
            before = server.memory()
            process.write(f"fill {size} {sessions} {rooms}")
            process.line()
        return (server.memory() - before) / rooms


@contextlib.contextmanager
def _server(program: Path, data: Path, sync: str = "always") -> Iterator[Server]:
    """Start one, and wait until it answers."""
    # None of those that the kernel gives to whoever connects.
    port = random.randrange(20_000, 32_000)
    kept = ("--save", "", "--appendonly", "yes", "--appendfsync", sync, "--maxmemory-policy", "noeviction")
    where = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(data))
    with start(str(program), *where, *kept) as process:
        server = Server(process, port)
        until = time.monotonic() + 30
        while True:
            if process.ended() is not None:
                raise process.failure("has ended")
            try:
                server.memory()
            except OSError:
                if time.monotonic() > until:
                    raise Failed("the server does not answer") from None
                time.sleep(0.01)
            else:
                break
        yield server
