"""Ours and Node's ws at once, in turns of a second, so that a slow minute of the machine is shared."""

from __future__ import annotations

import contextlib
from typing import Final

import attrs

from benchmarks.echo import KINDS, SIZES, entrants_of
from benchmarks.suite.contestants import Contestant, Server, peers, peers_with_events, serving
from benchmarks.suite.dialects import CBOR, JSON, PLAIN
from benchmarks.suite.load import Load
from benchmarks.suite.numbers import median
from benchmarks.suite.processes import cpu_seconds
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Table

NAME = "pairs"
ABOUT = "How many messages a second go there and back, beside Node's ws in turns of a second."

COLUMNS: Final = [
    Column("rate", "messages/s", better="high"),
    Column("times", "× Node ws", better="high"),
    Column("cost", "processor time, × Node ws", better="low"),
]
_TURNS: Final = 9


@attrs.frozen
class Turn:
    """What one server did in one turn."""

    rate: float
    cost: float
    """Seconds of processor time for a message."""


def run(run: Run) -> None:
    """Measure ours beside what does the same on Node."""
    connections = run.connections(100, quick=20)
    tables = {
        size: run.table(
            size.key,
            f"Echo of {size.title} beside Node ws, {connections:,} connections",
            COLUMNS,
            drawn="times",
            note=f"Both servers run at once, and are measured in {_TURNS} turns of a second; whoever begins "
            "changes. The median of the turns, each compared with the other's of the same turn. Events: "
            "beside a server that does JSON.parse and JSON.stringify, or cbor-x. Def: the handlers are plain "
            "functions.",
        )
        for size in SIZES
    }
    peer = {one.name: one for one in (*peers("echo"), *peers_with_events())}
    rivals = {
        PLAIN: peer["Node ws"],
        JSON: peer["Node ws, JSON.parse and JSON.stringify"],
        CBOR: peer["Node ws, cbor-x"],
    }
    kinds = KINDS[:1] if run.few else (*KINDS, ("CBOR events, def", "events_def", CBOR))
    pairs = {
        attrs.evolve(one, absent=rivals[one.dialect].absent): rivals[one.dialect]
        for one in entrants_of(kinds, connections)
    }
    for entrant in run.each([*pairs], *tables.values()):
        with run.attempt(entrant), contextlib.ExitStack() as running:
            sides = []
            for side in (entrant, pairs[entrant]):
                server, load = running.enter_context(serving(side)), running.enter_context(Load())
                load.open(server.port, side.path, side.rooms, side.dialect, connections, at_once=64)
                sides.append((server, load))
            for size, table in tables.items():
                _measure(run, table, entrant, sides, size.payload)


def _measure(
    run: Run, table: Table, entrant: Contestant, sides: list[tuple[Server, Load]], payload: int
) -> None:
    """Both in turns, with messages of one size."""
    found: list[list[Turn]] = [[], []]
    turns = 1 if run.quick else _TURNS
    for _, load in sides:
        load.echo(0.02 if run.quick else 1.0, payload)
    for turn in range(turns):
        run.progress(f"{entrant.name}, {payload:,} bytes", turn / turns)
        for number, (server, load) in sorted(enumerate(sides), reverse=turn % 2 == 1):
            before = cpu_seconds(server.process.pid)
            echoed = load.echo(0.05 if run.quick else 1.0, payload)
            spent = cpu_seconds(server.process.pid) - before
            found[number].append(Turn(echoed.rate, spent / echoed.checked))
    both = [*zip(*found, strict=True)]
    run.measured(
        table,
        entrant,
        rate=median([one.rate for one, _ in both]),
        times=median([one.rate / other.rate for one, other in both]),
        cost=median([one.cost / other.cost for one, other in both]),
    )
