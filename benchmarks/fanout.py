"""How fast one message reaches everybody in a room."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Final

import attrs

from benchmarks.servers.users import GATHERED
from benchmarks.suite import disk
from benchmarks.suite.contestants import Contestant, Server, ours, peers, serving
from benchmarks.suite.dialects import CBOR, JSON, PLAIN, REFLECTED
from benchmarks.suite.load import BUSY, Load
from benchmarks.suite.numbers import median, percentile
from benchmarks.suite.probe import Probe
from benchmarks.suite.processes import cpu_seconds
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table
from benchmarks.suite.users import Users

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
BURST: Final = 10
"""Messages that the program sends one behind the other."""


@attrs.frozen
class Crowd:
    """Who hears what the program says."""

    name: str
    room: str
    group: Group = "ours"
    absent: str = ""


ASKED: Final = [
    Crowd("trio_rooms, from the program to those in use", "active"),
    Crowd("trio_rooms, from the program to those hibernated", "awake"),
    Crowd("trio_rooms, from the program to a room asleep", "parked"),
]
"""Who hears one message after the other, as the connections of the contestants do."""
CROWDS: Final = [
    Crowd("in use", "active"),
    Crowd("hibernated", "parked"),
    Crowd(f"hibernated, gathered for {GATHERED * 1000:.0f} ms", "gathered"),
]


def run(run: Run) -> None:
    """Measure every contestant with a few and with many connections, in one server; and who hibernates."""
    counts = sorted({run.connections(1000, quick=100), run.connections(10_000, quick=500)})
    tables = {count: _table(run, count) for count in counts}
    entrants: list[Contestant | Crowd] = [*_ours(), *ASKED, *peers("fanout"), _limit()]
    for entrant in run.each(entrants, *tables.values()):
        with run.attempt(entrant):
            if isinstance(entrant, Crowd):
                _tell(run, tables, entrant)
            else:
                _fan_out(run, tables, entrant)
    _run_crowds(run, counts[-1])


def _fan_out(run: Run, tables: dict[int, Table], contestant: Contestant) -> None:
    """Have a connection send to all."""
    with serving(contestant) as server, Load() as load:
        for done, (count, table) in enumerate(tables.items()):
            run.progress(f"{contestant.name}, {count:,} connections", done / len(tables))
            load.open(server.port, contestant.path, dialect=contestant.dialect, count=count)
            load.gather(PAYLOAD)
            _measure(run, table, contestant, server, load)


def _tell(run: Run, tables: dict[int, Table], crowd: Crowd) -> None:
    """Have the program send to all."""
    with disk.folder(run.options.results) as data, Users(data) as users, Load() as load:
        if crowd.room != "parked":
            users.do(f"wake {crowd.room}")
        for done, (count, table) in enumerate(tables.items()):
            run.progress(f"{crowd.name}, {count:,} connections", done / len(tables))
            load.open(users.port, f"/{crowd.room}/x", 1, JSON, count)

            def told(messages: int) -> list[float]:
                took = []
                for _ in range(messages):
                    began = perf_counter()
                    users.do(f"emit {crowd.room} 1")
                    took.append(load.hear(1) - began)
                return took

            messages = _messages(run, median(told(3)))
            wakes, spent = users.wakes(), cpu_seconds(users.process.pid)
            took = told(messages)
            spent = cpu_seconds(users.process.pid) - spent
            run.measured(
                table,
                crowd,
                rate=messages * count / sum(took),
                cost=spent / (messages * count),
                last=median(took),
                last99=percentile(took, 99),
                note="" if users.wakes() == wakes else "it was woken",
            )


def _run_crowds(run: Run, count: int) -> None:
    """Who is in use beside who hibernates."""
    table = run.table(
        "hibernated",
        f"The program sends to {count:,} connections, {BURST} messages one behind the other",
        [
            Column("rate", "deliveries/s", better="high"),
            Column("cost", "server's CPU per delivery", unit="µs", better="low"),
            Column("writes", "writes per delivery", digits=2, better="low"),
            Column("last", "last has all, p50", unit="ms", better="low"),
            Column("wait", "message in another room meanwhile, p99", unit="ms", better="low"),
            Column("longest", "max", unit="ms", better="low"),
            Column("before", "p99 before", unit="ms", better="low", spread=False),
            Column("held", "processor time of the server until others run, max", unit="ms", better="low"),
            Column("wakes", "rooms woken", digits=0, better="low", spread=False),
        ],
        drawn="cost",
        baseline=CROWDS[0].name,
        note="JSON events. A message in another room is due every 5 ms, and waits from then until its answer "
        "is there; the clients, which read all this, have a part in that where they share the processors. "
        "Until others run: between two turns of a task in the server that is ready each millisecond; the "
        "program gives its ten messages to the room between two of these.",
    )
    for crowd in run.each(CROWDS, table):
        run.progress(crowd.name, 0)
        with run.attempt(crowd), disk.folder(run.options.results) as data:
            _measure_crowd(run, table, crowd, count, Users(data))


def _measure_crowd(run: Run, table: Table, crowd: Crowd, count: int, users: Users) -> None:
    with users, Load() as load:
        if crowd.room == "active":
            users.do(f"wake {crowd.room}")
        load.open(users.port, f"/{crowd.room}/x", 1, JSON, count)
        with Probe(users.port, "/probe/x") as quiet:
            for _ in range(3):
                users.do(f"emit {crowd.room} {BURST}")
                load.hear(BURST)
        wakes, written = users.wakes(), load.segments()
        spent, took = cpu_seconds(users.process.pid), []
        users.do("held")
        with Probe(users.port, "/probe/x") as probe:
            for _ in range(3 if run.quick else 10):
                began = perf_counter()
                users.do(f"emit {crowd.room} {BURST}")
                took.append(load.hear(BURST) - began)
        deliveries = len(took) * BURST * count
        run.measured(
            table,
            crowd,
            rate=deliveries / sum(took),
            cost=(cpu_seconds(users.process.pid) - spent) / deliveries,
            writes=(load.segments() - written) / deliveries,
            last=median(took),
            wait=percentile(probe.latencies, 99),
            longest=max(probe.latencies),
            before=percentile(quiet.latencies, 99),
            held=float(users.do("held")),
            wakes=users.wakes() - wakes,
        )


def _table(run: Run, count: int) -> Table:
    return run.table(
        f"connections_{count}",
        f"One sender, {count:,} connections that hear it",
        COLUMNS,
        drawn="rate",
        baseline="trio-websocket",
        note=f"Messages of {PAYLOAD} bytes, the next when everybody has the last. Times from its sending on. "
        "From the program: JSON events, as the room's handle sends them.",
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
    seconds, least = (0.1, 3) if run.quick else (3.0, 10)
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


def _messages(run: Run, once: float) -> int:
    """How many are sent one after the other, where one takes so many seconds."""
    seconds, least = (0.3, 3) if run.quick else (3.0, 10)
    return min(max(least, int(seconds / once)), 10_000)
