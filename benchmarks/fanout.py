"""How fast one message reaches everybody in a room."""

from __future__ import annotations

import sys
from typing import Final

from benchmarks.suite.contestants import Contestant, Server, ours, peers, serving
from benchmarks.suite.dialects import CBOR, JSON, PLAIN, REFLECTED
from benchmarks.suite.load import BUSY, Load
from benchmarks.suite.numbers import median, percentile
from benchmarks.suite.processes import cpu_seconds
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Table

NAME = "fanout"
ABOUT = "How fast one message reaches a thousand connections, and ten thousand, and when the last has it."

PAYLOAD: Final = 64
COLUMNS: Final = [
    Column("rate", "deliveries/s", better="high"),
    Column("cost", "server's CPU per delivery", unit="µs", better="low"),
    Column("first", "first has it", unit="ms", better="low"),
    Column("last", "last has it, p50", unit="ms", better="low"),
    Column("last99", "p99", unit="ms", better="low"),
    Column("busy", "generator busy", unit="%", digits=0, spread=False),
]


def run(run: Run) -> None:
    """Measure every contestant with a few and with many connections, in one server."""
    counts = sorted({run.connections(1000, quick=100), run.connections(10_000, quick=500)})
    tables = {count: _table(run, count) for count in counts}
    for contestant in run.each([*_ours(), *peers("fanout"), _limit()], *tables.values()):
        with run.attempt(contestant), serving(contestant) as server, Load() as load:
            for done, count in enumerate(counts):
                run.progress(f"{contestant.name}, {count:,} connections", done / len(counts))
                load.open(server.port, contestant.path, dialect=contestant.dialect, count=count)
                load.gather(PAYLOAD)
                _measure(run, tables[count], contestant, server, load)


def _table(run: Run, count: int) -> Table:
    return run.table(
        f"connections_{count}",
        f"One sender, {count:,} connections that hear it",
        COLUMNS,
        drawn="rate",
        baseline="trio-websocket",
        note=f"Messages of {PAYLOAD} bytes, the next when everybody has the last. Times from its sending on.",
    )


def _ours() -> list[Contestant]:
    kinds = (
        ("plain", "fan_plain", PLAIN),
        ("JSON events", "fan_events", JSON),
        ("CBOR events", "fan_events", CBOR),
    )
    return [
        Contestant(f"trio_rooms, {kind}", "ours", ours(room), dialect, f"/{room}/all")
        for kind, room, dialect in kinds
    ]


def _limit() -> Contestant:
    command = (sys.executable, "-m", "benchmarks.peers.bare_loop", "fanout")
    return Contestant("bare loop of writes in Python", "limit", command, REFLECTED)


def _measure(run: Run, table: Table, contestant: Contestant, server: Server, load: Load) -> None:
    seconds, least = (0.3, 3) if run.quick else (3.0, 10)
    once = median(load.fanout(3, PAYLOAD).last)
    messages = min(max(least, int(seconds / once)), 10_000)
    before = cpu_seconds(server.process.pid)
    heard = load.fanout(messages, PAYLOAD)
    spent = cpu_seconds(server.process.pid) - before
    run.measured(
        table,
        contestant,
        rate=heard.rate,
        cost=spent / heard.checked,
        first=median(heard.first),
        last=median(heard.last),
        last99=percentile(heard.last, 99),
        busy=heard.cpu_share,
        at_least=["rate"] if heard.cpu_share > BUSY else [],
    )
