"""The part of ``commit`` with rooms in it: messages that are answered when they are durable."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.peers.rows import Rows
from benchmarks.suite import disk
from benchmarks.suite.contestants import Contestant, Server, ours, serving
from benchmarks.suite.dialects import JSON
from benchmarks.suite.load import BUSY, Load
from benchmarks.suite.numbers import percentile
from benchmarks.suite.processes import cpu_seconds, start
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table
from trio_rooms.stores.sqlite.database import FILE_NAME

__all__ = ["run"]

RATE_COLUMNS: Final = [
    Column("rate", "messages/s", better="high"),
    Column("commit", "messages a commit", digits=1, spread=False),
    Column("sync", "messages a sync", digits=1, spread=False),
    Column("cost", "server's CPU per message", unit="µs", better="low"),
    Column("busy", "generator busy", unit="%", digits=0, spread=False),
]
LATENCY_COLUMNS: Final = [
    Column("p50", "p50", unit="ms", better="low"),
    Column("p99", "p99", unit="ms", better="low"),
    Column("max", "max", unit="ms", better="low"),
]
MOST: Final = 60_000
"""Messages a second that no server here will answer, so that enough are prepared."""


@attrs.frozen
class Case:
    """Some rooms, each with one client, which has some messages on its way."""

    rooms: int
    window: int
    event: str = "add"
    group: Group = "ours"
    absent: str = ""

    @property
    def what(self) -> str:
        """It, as people say it."""
        rooms = "1 room" if self.rooms == 1 else f"{self.rooms} rooms"
        told = "" if self.event == "add" else ", nothing told to others"
        return f"{rooms}, {self.window} in flight each{told}"

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"trio_rooms, {self.what}"


CASES: Final = [Case(1, 1), Case(1, 5), Case(100, 1), Case(100, 5), Case(100, 5, "count")]


@attrs.frozen
class Gate:
    """A single message, while there is nothing else or much else."""

    loaded: bool
    group: Group = "ours"
    absent: str = ""

    @property
    def when(self) -> str:
        """What else there is."""
        return "beside 100 rooms with 5 in flight each" if self.loaded else "alone"

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"trio_rooms, {self.when}"


def run(run: Run) -> None:
    """Measure how many messages, and how long one takes."""
    rates = run.table(
        "rooms",
        "Messages to durable rooms, each answered when it is on the disk",
        RATE_COLUMNS,
        drawn="rate",
        note="Each changes the state of its room, is told to everybody in it reliably, and is answered. "
        "SQLite: the same rows of the same sizes, as many in a transaction, from a loop and nothing else.",
    )
    latencies = run.table(
        "gate",
        "One message to a durable room, from its sending to its answer",
        LATENCY_COLUMNS,
        drawn="p50",
        note="A bare sync: as many bytes as a commit of one message takes of the log, written and synced.",
    )
    with disk.folder(run.options.results) as folder:
        for case in run.each(CASES[-2:] if run.few else CASES, rates):
            with run.attempt(case), disk.folder(folder) as data:
                _measure_rate(run, rates, case, data)
        sizes: list[int] = []
        for gate in run.each([Gate(loaded=False), Gate(loaded=True)], latencies):
            with run.attempt(gate), disk.folder(folder) as data:
                if not sizes:
                    with disk.folder(folder) as other:
                        sizes.append(_bytes_of_a_commit(other))
                _measure_latency(run, latencies, gate, data, sizes[0])


def _served(data: Path, rooms: int) -> Contestant:
    command = ours("ledger", "--data", str(data / "rooms"))
    return Contestant("ledger", "ours", command, JSON, "/ledger/{n}", rooms)


def _measure_rate(run: Run, table: Table, case: Case, data: Path) -> None:
    seconds = 0.1 if run.quick else 4.0
    each = round(seconds * MOST / case.rooms) + 100
    with serving(_served(data, case.rooms)) as server, Load() as load:
        load.open(server.port, "/ledger/{n}", case.rooms, JSON, case.rooms)
        load.pipeline(seconds / 4, case.window, case.event, each)
        before, spent = _stored(server), cpu_seconds(server.process.pid)
        piped = load.pipeline(seconds, case.window, case.event, each)
        after, spent = _stored(server), cpu_seconds(server.process.pid) - spent
    commits, syncs = (max(1, after[key] - before[key]) for key in ("commits", "transactions"))
    # What came after the end is in these two, and they are ratios.
    messages = piped.answered + case.rooms * case.window
    run.measured(
        table,
        case,
        rate=piped.rate,
        commit=messages / commits,
        sync=messages / syncs,
        cost=spent / messages,
        busy=piped.cpu_share,
        at_least=["rate"] if piped.cpu_share > BUSY else [],
    )
    sizes = _sizes(data / "rooms" / FILE_NAME)
    rows = Rows(
        case.rooms, max(1, round(messages / commits)), max(1, round(commits / syncs)), *sizes, seconds
    )
    bare = data / "bare"
    bare.mkdir()
    given = json.dumps(attrs.asdict(rows))
    with start(sys.executable, "-m", "benchmarks.peers.rows", str(bare), given) as process:
        rate = float(process.line())
    entrant = run.entrant(f"SQLite, the rows of {case.what}", "limit")
    run.measured(table, entrant, rate=rate, commit=rows.messages, sync=rows.messages * rows.commits)


def _stored(server: Server) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/stats", timeout=30) as answer:
        told: dict[str, Any] = json.load(answer)
    store: dict[str, int] = told["store"]
    return store


def _sizes(file: Path) -> tuple[int, int, int]:
    """Bytes of a snapshot, of an entry of the journal, and of a verdict, as a server has left them."""
    connection = sqlite3.connect(file)
    try:
        return (
            _mean(connection, "SELECT avg(length(document)) FROM snapshots"),
            _mean(connection, "SELECT avg(length(body)) FROM journal"),
            _mean(connection, "SELECT avg(length(content)) FROM verdicts"),
        )
    finally:
        connection.close()


def _mean(connection: sqlite3.Connection, query: str) -> int:
    return round(connection.execute(query).fetchone()[0] or 0)


def _measure_latency(run: Run, table: Table, gate: Gate, data: Path, size: int) -> None:
    seconds = 0.1 if run.quick else 4.0
    rooms = 100 if gate.loaded else 1
    each = round(seconds * MOST / rooms) + 100
    with serving(_served(data, rooms)) as server, Load() as load:
        load.open(server.port, "/ledger/{n}", rooms, JSON, rooms)
        load.pipeline(seconds / 4, 5, "add", each, probe=True)
        probed = load.pipeline(seconds, 5, "add", each, probe=True)
        _tell(run, table, gate.name, gate.group, probed.latencies)
        with start(
            sys.executable, "-m", "benchmarks.peers.syncing", str(data / "synced"), str(size)
        ) as process:
            time.sleep(0.5)  # It makes its file.
            process.write(str(seconds))
            if gate.loaded:
                load.pipeline(seconds, 5, "add", each, probe=True)
            took: list[float] = json.loads(process.line())
        _tell(run, table, f"a bare sync of {size:,} bytes, {gate.when}", "limit", took)


def _bytes_of_a_commit(data: Path) -> int:
    """Bytes that a commit of one message writes to the log."""
    with serving(_served(data, 1)) as server, Load() as load:
        load.open(server.port, "/ledger/{n}", 1, JSON, 1)
        load.pipeline(0.1, 1, "add", 1000)
        before = _written(server)
        done = load.pipeline(0.1, 1, "add", 1000)
        return round((_written(server) - before) / (done.answered + 1))


def _written(server: Server) -> int:
    # proc(5): what this process has caused to be written to files.
    for line in Path(f"/proc/{server.process.pid}/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(": ")
        if name == "write_bytes":
            return int(value)
    raise AssertionError


def _tell(run: Run, table: Table, name: str, group: Group, took: list[float]) -> None:
    run.measured(
        table,
        run.entrant(name, group),
        p50=percentile(took, 50),
        p99=percentile(took, 99),
        max=max(took),
    )
