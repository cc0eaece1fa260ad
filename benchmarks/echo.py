"""What a message costs, there and back through each server: as many as it can, and as many as it is asked."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Final, TypeAlias

import attrs

from benchmarks.suite.contestants import (
    Contestant,
    Server,
    ours,
    peers,
    peers_with_events,
    serving,
)
from benchmarks.suite.dialects import CBOR, JSON, PLAIN, REFLECTED, Dialect
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
WATCHED: Final = [
    Column("on", "server's CPU per message, on", unit="µs", better="low"),
    Column("off", "off", unit="µs", better="low"),
    Column("extra", "more, on", unit="%", digits=1, better="low"),
]
Kind: TypeAlias = tuple[str, str, Dialect]
"""What a row is called, the room of `benchmarks.rooms`, and what is spoken."""
KINDS: Final[tuple[Kind, ...]] = (
    ("plain", "plain", PLAIN),
    ("plain, def", "plain_def", PLAIN),
    ("JSON events", "events", JSON),
    ("JSON events, def", "events_def", JSON),
    ("CBOR events", "events", CBOR),
)
_TURNS: Final = 10
"""How often each of two servers is measured, one after the other: what the machine does else hits both."""


def run(run: Run) -> None:
    """Measure every contestant with both sizes; and ours with and without what watches over them."""
    _watch(run)
    connections = run.connections(100, quick=20)
    tables = {size: _table(run, size, connections) for size in SIZES}
    entrants = entrants_of(KINDS, connections)
    if run.options.beside is not None:
        there = run.options.beside
        entrants += [attrs.evolve(one, name=f"{one.name}, {there.name}", checkout=there) for one in entrants]
    for contestant in run.each([*entrants, *peers("echo"), *peers_with_events(), _limit()], *tables.values()):
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
        "those before, and counted from then; where the load generator was late, that is in them. "
        "Def: the handlers are plain functions.",
    )


def entrants_of(kinds: Iterable[Kind], connections: int) -> list[Contestant]:
    """Ours, of each kind with all connections in one room and with a room for each."""
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
    warm, seconds = (0.02, 0.05) if run.quick else (1.0, 3.0)
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


def _watch(run: Run) -> None:
    """What metrics and policy cost: the same room with both and with neither, in turns."""
    connections = run.connections(100, quick=20)
    table = run.table(
        "watched",
        f"Metrics and policy, on and off: echo of {SIZES[0].title}, {connections:,} connections, 1 room",
        WATCHED,
        note=f"Both servers run at once, and are measured in {_TURNS} turns of a second. On: as `--policy "
        "classic` has it, which goes on looking for connections that could sleep. Off: nothing is measured, "
        "and nothing sleeps.",
    )
    kinds = {"plain": ("plain", PLAIN), "JSON events": ("events", JSON)}
    for entrant in run.each([run.entrant(f"trio_rooms, {kind}, watched", "ours") for kind in kinds], table):
        room, dialect = kinds[entrant.name.split(", ")[1]]
        on = Contestant(entrant.name, "ours", ours(room, "--policy", "classic"), dialect, f"/{room}/0")
        without = (sys.executable, "-m", "benchmarks.servers.unmeasured", room)
        with run.attempt(entrant), contextlib.ExitStack() as running:
            sides = []
            for contestant in (on, attrs.evolve(on, command=without)):
                server, load = running.enter_context(serving(contestant)), running.enter_context(Load())
                load.open(server.port, on.path, 1, dialect, connections, at_once=64)
                load.echo(0.02 if run.quick else 1.0, SIZES[0].payload)
                sides.append((server, load))
            watched, unwatched = _in_turn(run, sides)
            run.measured(table, entrant, on=watched, off=unwatched, extra=watched / unwatched - 1)


def _in_turn(run: Run, sides: list[tuple[Server, Load]]) -> list[float]:
    """Seconds of processor time for each message, of each server."""
    spent, checked = [0.0, 0.0], [0, 0]
    turns = 2 if run.quick else _TURNS
    for turn in range(turns):
        run.progress("metrics and policy, on and off", turn / turns)
        # Who goes first changes.
        for number, (server, load) in sorted(enumerate(sides), reverse=turn % 2 == 1):
            before = cpu_seconds(server.process.pid)
            echoed = load.echo(0.1 if run.quick else 1.0, SIZES[0].payload)
            spent[number] += cpu_seconds(server.process.pid) - before
            checked[number] += echoed.checked
    return [seconds / count for seconds, count in zip(spent, checked, strict=True)]
