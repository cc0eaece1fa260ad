"""What a message costs, there and back through each server: as many as it can, and as many as it is asked."""

from __future__ import annotations

import sys
from typing import Final

import attrs

from benchmarks.suite.contestants import Contestant, Server, ours, peers, serving
from benchmarks.suite.dialects import CBOR, JSON, PLAIN, REFLECTED
from benchmarks.suite.load import BUSY, Load
from benchmarks.suite.processes import cpu_seconds
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Table

NAME = "echo"
ABOUT = "How many messages a second go there and back, how long each takes, and what it costs the server."


@attrs.frozen
class Size:
    """One size of message, and how often one is sent where the pace is given."""

    key: str
    payload: int
    rate: int
    """Messages a second: what every contestant can do, so that it is not a queue that is measured."""

    @property
    def title(self) -> str:
        """The size, as people say it."""
        return f"{self.payload} bytes" if self.payload < 1024 else f"{self.payload // 1024} KiB"


SIZES: Final = (Size("small", 64, 2000), Size("large", 4096, 1000))
COLUMNS: Final = [
    Column("rate", "messages/s", better="high"),
    Column("cost", "server's CPU per message", unit="µs", better="low"),
    Column("p50", "p50", unit="ms", better="low"),
    Column("p99", "p99", unit="ms", better="low"),
    Column("late", "sent late, p99", unit="ms", spread=False),
    Column("busy", "generator busy", unit="%", digits=0, spread=False),
]


def run(run: Run) -> None:
    """Measure every contestant with both sizes."""
    connections = run.connections(100, quick=20)
    tables = {size: _table(run, size, connections) for size in SIZES}
    entrants = _ours(connections)
    if run.options.beside is not None:
        there = run.options.beside
        entrants += [attrs.evolve(one, name=f"{one.name}, {there.name}", checkout=there) for one in entrants]
    for contestant in run.each([*entrants, *peers("echo"), _limit()], *tables.values()):
        with run.attempt(contestant), serving(contestant) as server, Load() as load:
            load.open(
                server.port, contestant.path, contestant.rooms, contestant.dialect, connections, at_once=64
            )
            for done, size in enumerate(SIZES):
                run.progress(f"{contestant.name}, {size.title}", done / len(SIZES))
                _measure(run, tables[size], contestant, server, load, size)


def _table(run: Run, size: Size, connections: int) -> Table:
    return run.table(
        size.key,
        f"Echo of {size.title}, {connections:,} connections",
        COLUMNS,
        drawn="rate",
        baseline="trio-websocket",
        note="Messages a second and their cost: each connection sends its next when it has the last answer. "
        f"Latencies: {size.rate:,} messages a second in all, each sent when it is due whatever became of "
        "those before, and counted from then; where the load generator was late, that is in them.",
    )


def _ours(connections: int) -> list[Contestant]:
    kinds = (("plain", "plain", PLAIN), ("JSON events", "events", JSON), ("CBOR events", "events", CBOR))
    return [
        Contestant(
            f"trio_rooms, {kind}, {name}",
            "ours",
            ours(room),
            dialect,
            f"/{room}/{{n}}",
            rooms,
        )
        for kind, room, dialect in kinds
        for rooms, name in ((1, "1 room"), (connections, "a room each"))
    ]


def _limit() -> Contestant:
    command = (sys.executable, "-m", "benchmarks.peers.reflector", "echo")
    return Contestant("bare reflector in Python, no WebSocket", "limit", command, REFLECTED)


def _measure(run: Run, table: Table, contestant: Contestant, server: Server, load: Load, size: Size) -> None:
    warm, seconds = (0.05, 0.15) if run.quick else (1.0, 3.0)
    load.echo(warm, size.payload)
    before = cpu_seconds(server.process.pid)
    echoed = load.echo(seconds, size.payload)
    spent = cpu_seconds(server.process.pid) - before
    paced = load.paced(seconds, size.rate, size.payload)
    kept_up = paced.completed >= 0.99 * paced.expected
    run.measured(
        table,
        contestant,
        rate=echoed.rate,
        cost=spent / echoed.checked,
        p50=paced.p50,
        p99=paced.p99,
        late=paced.late,
        busy=echoed.cpu_share,
        at_least=["rate"] if echoed.cpu_share > BUSY else [],
        note="" if kept_up else f"did not keep up with {size.rate:,} messages a second",
    )
