"""What several nodes do together, and what it costs that a client is at another node than its room."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import attrs

from benchmarks.suite import disk
from benchmarks.suite.contestants import Contestant, Server, ours, peers, serving
from benchmarks.suite.dialects import JSON, PLAIN
from benchmarks.suite.fetch import node_package
from benchmarks.suite.load import BUSY, Load
from benchmarks.suite.nodes import Shared, nodes, shared
from benchmarks.suite.numbers import median, percentile
from benchmarks.suite.processes import cpu_seconds, memory
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table

NAME = "nodes"
ABOUT = "Several nodes that share an engine: rates, what another node between client and room costs, fan-out."

PAYLOAD: Final = 64
_MOST: Final = 20_000
"""Durable messages a second that no connection sends one after the other."""
_ASLEEP: Final = 1.5
"""Seconds in which all rooms have fallen asleep that do so after 0.2 s."""
_CAVEAT: Final = (
    "Nodes, engine and load generator share the processors of one machine, so that more nodes cannot be "
    "faster here than the processors allow: read the CPU per message, which says how many messages a node "
    "with a processor of its own carries."
)


@attrs.frozen
class Way:
    """Where the room of a client is."""

    name: str
    """As it stands in the table."""
    engine: bool
    """Whether there is one."""
    far: bool
    """Whether the room is at another node than the client."""
    contestant: Contestant
    group: Group = "ours"
    absent: str = ""


def run(run: Run) -> None:
    """Measure one, two and three nodes; a client beside its room and away from it; and a fan-out over two."""
    _ways(run)
    _calls(run)
    _scale(run)
    _fan_out(run)
    _parked(run)


def _ours(room: str, dialect: object, path: str) -> Contestant:
    return Contestant(f"trio_rooms, {room}", "ours", ours(room), dialect, path)  # type: ignore[arg-type]


def _ways(run: Run) -> None:
    """A client at the node of its room, and at another one."""
    count = run.connections(100, quick=10)
    table = run.table(
        "ways",
        f"Echo, {count} clients in 10 rooms, messages of {PAYLOAD} bytes",
        [
            Column("rate", "messages/s", better="high"),
            Column("cost", "CPU of all nodes per message", unit="µs", better="low"),
            Column("engine", "CPU of the engine per message", unit="µs", better="low"),
            Column("calls", "engine calls per message", digits=2, better="low"),
            Column("p50", "paced, p50", unit="ms", better="low"),
            Column("p99", "p99", unit="ms", better="low"),
        ],
        drawn="rate",
        baseline="without an engine, events",
        note=f"{_CAVEAT} Paced: a thousand messages a second, from when each was due to its answer.",
    )
    ways = []
    for room, dialect in (("events", JSON),) if run.quick else (("plain", PLAIN), ("events", JSON)):
        contestant = _ours(room, dialect, f"/{room}/{{n}}")
        ways += [
            Way(f"without an engine, {room}", engine=False, far=False, contestant=contestant),
            Way(f"at the room's node, {room}", engine=True, far=False, contestant=contestant),
            Way(f"at another node, {room}", engine=True, far=True, contestant=contestant),
        ]
    for way in run.each(ways, table):
        with run.attempt(way), disk.folder(run.options.results) as data:
            if way.engine:
                with shared(data) as engine, nodes(way.contestant, engine, 2) as servers:
                    _measure_way(run, table, way, servers, count, engine)
            else:
                with serving(way.contestant) as server:
                    _measure_way(run, table, way, [server], count, None)


def _measure_way(
    run: Run, table: Table, way: Way, servers: list[Server], count: int, engine: Shared | None
) -> None:
    contestant = way.contestant
    with Load() as first, Load() as load:
        # Whoever comes first decides where a room is.
        first.open(servers[0].port, contestant.path, 10, contestant.dialect, 10, said=PAYLOAD)
        at = servers[-1] if way.far else servers[0]
        load.open(at.port, contestant.path, 10, contestant.dialect, count, said=PAYLOAD)
        seconds = 0.1 if run.quick else 4.0
        load.echo(seconds / 4, PAYLOAD)
        spent = _spent(servers)
        asked = cpu_seconds(engine.process.pid) if engine else 0.0
        calls = engine.calls() if engine else 0
        echoed = load.echo(seconds, PAYLOAD)
        total = echoed.checked
        paced_rate = 200 if run.quick else 1000
        cost = (_spent(servers) - spent) / total
        engine_cost = (cpu_seconds(engine.process.pid) - asked) / total if engine else 0.0
        per_message = (engine.calls() - calls) / total if engine else 0.0
        paced = load.paced(seconds, paced_rate, PAYLOAD)
        run.measured(
            table,
            way,
            rate=echoed.rate,
            cost=cost,
            engine=engine_cost,
            calls=per_message,
            p50=paced.p50,
            p99=paced.p99,
            at_least=["rate"] if echoed.cpu_share > BUSY else [],
        )


def _spent(servers: list[Server]) -> float:
    return sum(cpu_seconds(server.process.pid) for server in servers)


def _calls(run: Run) -> None:
    """What rooms ask of the engine, asleep and awake."""
    count = run.connections(200, quick=20)
    table = run.table(
        "calls",
        f"Engine calls of {count} rooms with a client each, at home at one node",
        [
            Column("calls", "engine calls", digits=2, better="low"),
            Column("cost", "CPU of the engine", unit="µs", better="low"),
        ],
        note="For each message, or each wake with the sleep that follows; for a second, of all the rooms, "
        "where they sleep: that is the lease of the node, and the looks for what is due.",
    )
    names = ("all asleep, a second", "wake and sleep", "awake, a message", "awake, a message with a commit")
    entrants = [run.entrant(name, "ours") for name in names]
    for entrant in run.each(entrants, table):
        commits, wakes = entrant.name.endswith("commit"), "sleep" in entrant.name
        contestant = Contestant(
            "trio_rooms",
            "ours",
            ours("ledger" if commits else "events", "--idle-timeout", "0.2" if wakes else "60"),
            JSON,
            "/ledger/{n}" if commits else "/events/{n}",
        )
        with (
            run.attempt(entrant),
            disk.folder(run.options.results) as data,
            shared(data) as engine,
            nodes(contestant, engine, 1) as servers,
            Load() as load,
        ):
            said, seconds = 0 if commits else PAYLOAD, 0.1 if run.quick else 3.0
            load.open(servers[0].port, contestant.path, count, contestant.dialect, count, said=said)
            time.sleep(_ASLEEP)
            before, spent = engine.calls(), cpu_seconds(engine.process.pid)
            if wakes:
                times = 1 if run.quick else 5
                for _ in range(times):
                    if "wake" in entrant.name:
                        load.storm(range(count), PAYLOAD)
                    time.sleep(_ASLEEP)
                done = times * (count if "wake" in entrant.name else _ASLEEP)
            elif commits:
                done = load.pipeline(seconds, 1, "add", round(seconds * _MOST) + 100).answered
            else:
                done = load.echo(seconds, PAYLOAD).checked
            run.measured(
                table,
                entrant,
                calls=(engine.calls() - before) / done,
                cost=(cpu_seconds(engine.process.pid) - spent) / done,
            )


def _scale(run: Run) -> None:
    """The same clients over more nodes, each at the node of its room."""
    count = run.connections(300, quick=30)
    table = run.table(
        "scale",
        f"Echo in rooms at home, {count} clients over one, two and three nodes",
        [
            Column("rate", "messages/s in turn", better="high"),
            Column("cost", "CPU of a node per message", unit="µs", better="low"),
            Column("alone", "messages/s of nodes with a processor each", better="high"),
        ],
        drawn="alone",
        note=f"{_CAVEAT} In turn: one node after the other is asked as fast as it can answer. The last "
        "column is computed: as many messages as fit into a second of the CPU that each took.",
    )
    entrants = [
        run.entrant(f"{number} node{'s' * (number > 1)}", "ours")
        for number in ((1, 2) if run.quick else (1, 2, 3))
    ]
    contestant = _ours("events", JSON, "/events/{n}")
    for entrant in run.each(entrants, table):
        number = int(entrant.name[0])
        with (
            run.attempt(entrant),
            disk.folder(run.options.results) as data,
            shared(data) as engine,
            nodes(contestant, engine, number) as servers,
        ):
            rates, costs = [], []
            for place, server in enumerate(servers):
                with Load() as load:
                    # Rooms of its own, which are where their first client is.
                    path = f"/events/at{place}-{{n}}"
                    load.open(server.port, path, 10, contestant.dialect, count // number, said=PAYLOAD)
                    before = cpu_seconds(server.process.pid)
                    echoed = load.echo(0.1 if run.quick else 3.0, PAYLOAD)
                    rates.append(echoed.rate)
                    costs.append((cpu_seconds(server.process.pid) - before) / echoed.checked)
            run.measured(
                table,
                entrant,
                rate=median(rates),
                cost=median(costs),
                alone=sum(1 / cost for cost in costs),
            )


def _fan_out(run: Run) -> None:
    """One room, whose connections are at two nodes."""
    count = run.connections(1000, quick=50)
    table = run.table(
        "fan_out",
        f"One sender, {count:,} connections at two nodes that hear it",
        [
            Column("rate", "deliveries/s", better="high"),
            Column("cost", "CPU of the nodes per delivery", unit="µs", better="low"),
            Column("engine", "CPU of the engine per message", unit="µs", better="low"),
            Column("calls", "engine calls per message", digits=1, better="low"),
            Column("last", "last has it, p50", unit="ms", better="low"),
            Column("last99", "p99", unit="ms", better="low"),
        ],
        drawn="rate",
        baseline="Socket.IO",
        note=f"{_CAVEAT} Messages of {PAYLOAD} bytes, the next when everybody has the last.",
    )
    for contestant in run.each(list(_fanned()), table):
        with (
            run.attempt(contestant),
            disk.folder(run.options.results) as data,
            shared(data) as engine,
            nodes(contestant, engine, 2) as servers,
            Load() as load,
        ):
            for part, server in enumerate(servers, 1):
                load.open(server.port, contestant.path, 1, contestant.dialect, count * part // 2)
            load.gather(PAYLOAD)
            once = median(load.fanout(3, PAYLOAD).last)
            messages = min(max(3 if run.quick else 10, int((0.1 if run.quick else 4.0) / once)), 5000)
            spent, asked, calls = _spent(servers), cpu_seconds(engine.process.pid), engine.calls()
            heard = load.fanout(messages, PAYLOAD)
            run.measured(
                table,
                contestant,
                rate=heard.rate,
                cost=(_spent(servers) - spent) / heard.checked,
                engine=(cpu_seconds(engine.process.pid) - asked) / messages,
                calls=(engine.calls() - calls) / messages,
                last=median(heard.last),
                last99=percentile(heard.last, 99),
                at_least=["rate"] if heard.cpu_share > BUSY else [],
            )


def _fanned() -> Iterator[Contestant]:
    yield _ours("fan_plain", PLAIN, "/fan_plain/all")
    yield _ours("fan_events", JSON, "/fan_events/all")
    adapter = node_package("@socket.io/redis-adapter")
    for peer in peers("fanout"):
        if peer.name == "Socket.IO":
            version = peer.version if adapter.absent else f"{peer.version}, adapter {adapter.version}"
            name = "Socket.IO with its Redis adapter"
            yield attrs.evolve(peer, name=name, version=version, absent=peer.absent or adapter.absent)


def _parked(run: Run) -> None:
    """What a connection that waits takes, beside its room and away from it."""
    count = run.connections(9000, quick=200) // 2
    table = run.table(
        "parked",
        f"{count:,} parked connections in one room",
        [
            Column("gateway", "memory of the node with the socket, per connection", unit="B", digits=0),
            Column("home", "memory of the room's node, per connection", unit="B", digits=0),
        ],
        note="Anonymous memory that the connections added. What is away takes a record at both.",
    )
    contestant = _ours("plain", PLAIN, "/plain/parked")
    entrants = [run.entrant("at the room's node", "ours"), run.entrant("at another node", "ours")]
    for entrant in run.each(entrants, table):
        far = entrant.name.startswith("at another")
        with (
            run.attempt(entrant),
            disk.folder(run.options.results) as data,
            shared(data) as engine,
            nodes(contestant, engine, 2) as servers,
            Load() as first,
            Load() as load,
        ):
            first.open(servers[0].port, contestant.path, 1, contestant.dialect, 1, said=PAYLOAD)
            at = servers[1] if far else servers[0]
            load.open(at.port, contestant.path, 1, contestant.dialect, count // 10, said=PAYLOAD)
            before = [memory(server.process.pid).anonymous for server in servers]
            load.open(at.port, contestant.path, 1, contestant.dialect, count, said=PAYLOAD)
            more = [
                (memory(server.process.pid).anonymous - had) / (count - count // 10)
                for server, had in zip(servers, before, strict=True)
            ]
            run.measured(table, entrant, gateway=more[1] if far else more[0], home=more[0])
