"""What grows with the number of rooms, connections and recipients, and what does not.

Each cost is measured with few and with many, in one server; where it is flat the last column says 1.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any, Final

import attrs

from benchmarks.idle import at_rest
from benchmarks.suite.contestants import Contestant, Server, ours, peers, serving
from benchmarks.suite.dialects import JSON, PLAIN, REFLECTED
from benchmarks.suite.failures import Failed
from benchmarks.suite.load import Load
from benchmarks.suite.numbers import median
from benchmarks.suite.processes import cpu_seconds
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Group, costs, over_sizes

NAME = "sizes"
ABOUT = "What a message, a connection and a delivery cost where there are few, and where there are many."

PAYLOAD: Final = 64
IN_EACH: Final = 100
"""Connections of a room, where there are many rooms with several."""
STEPS: Final = 12
"""Times that some connections come."""
LOOKS: Final = (3, 6, 9, 12)
"""After which of these times the memory is looked at."""
PATIENCE: Final = 60.0
"""Seconds until all rooms sleep."""
DICTIONARY: Final = "rooms in a dictionary"
"""In the name of the peer that has rooms."""


@attrs.frozen
class Parked:
    """Connections in rooms that sleep."""

    name: str
    in_each: int
    """How many are in a room; 0 for all of them in one."""
    group: Group = "ours"
    absent: str = ""


PARKED: Final = [
    Parked("trio_rooms, in one room", 0),
    Parked(f"trio_rooms, in rooms of {IN_EACH}", IN_EACH),
    Parked("trio_rooms, one in each room", 1),
]


def run(run: Run) -> None:
    """Measure one cost after the other."""
    _messages(run)
    _connections(run)
    _recipients(run)


def _messages(run: Run) -> None:
    """The same connections, in one room, in some, and one in each."""
    count = run.connections(10_000, quick=50)
    sizes = (1, count) if run.quick else (1, 100, count)
    table = run.table(
        "rooms",
        f"The server's CPU for a message of {PAYLOAD} bytes, there and back: {count:,} connections",
        over_sizes("rooms", "µs", sizes),
        over="rooms",
        note="As many connections in each of them, and each sends its next when it has the last answer. A "
        "room is a task, which is woken for what has come to it meanwhile: in one room for many messages at "
        "once, and where each connection has one of its own for each message.",
    )
    entrants = [
        Contestant("trio_rooms, plain", "ours", ours("plain"), PLAIN, "/plain/{n}"),
        Contestant("trio_rooms, plain, def", "ours", ours("plain_def"), PLAIN, "/plain_def/{n}"),
        Contestant("trio_rooms, JSON events", "ours", ours("events"), JSON, "/events/{n}"),
        *(one for one in peers("echo") if DICTIONARY in one.name),
    ]
    for contestant in run.each(entrants, table):
        with run.attempt(contestant):
            cost = {}
            for done, rooms in enumerate(sizes):
                run.progress(f"{contestant.name}, {rooms:,} rooms", done / len(sizes))
                with serving(contestant) as server, Load() as load:
                    load.open(server.port, contestant.path, rooms, contestant.dialect, count)
                    load.echo(0.05 if run.quick else 1.0, PAYLOAD)
                    spent = cpu_seconds(server.process.pid)
                    echoed = load.echo(0.1 if run.quick else 3.0, PAYLOAD)
                    cost[rooms] = (cpu_seconds(server.process.pid) - spent) / echoed.checked
            run.measured(table, contestant, **costs(cost))


def _connections(run: Run) -> None:
    """What a server holds for each that sleeps."""
    most = max(run.connections(18_000, quick=120), STEPS)
    step = most // STEPS
    first, *sizes = (step * number for number in LOOKS)
    table = run.table(
        "connections",
        "Memory of a server for each parked connection",
        over_sizes("connections", "B", sizes),
        over="connections",
        note=f"They come {step:,} at a time. What the server itself has made (Anonymous) since there were "
        f"{first:,}, for each that came since; Python takes memory 1 MiB at a time, so that with "
        f"{sizes[0]:,} it may be off by {2**20 / (sizes[0] - first):,.0f} bytes.",
    )
    soon = "0.2" if run.quick else "1"
    # The same is done with each; they differ by their paths alone.
    for parked in run.each(PARKED[-1:] if run.few else PARKED, table):
        contestant = Contestant(parked.name, "ours", ours("plain", "--idle-timeout", soon), path="/plain/{n}")
        with run.attempt(parked), serving(contestant) as server, Load() as load:
            held = {}
            # As many are awake at once each time: what that takes is there from the beginning.
            for count in range(step, most + 1, step):
                run.progress(f"{parked.name}: {count:,} connections", count / most)
                # Who comes later goes into other rooms, so that there are as many with as many in them.
                path, rooms = "/plain/x", 1
                if parked.in_each:
                    path, rooms = f"/plain/{count}-{{n}}", max(step // parked.in_each, 1)
                load.open(server.port, path, rooms, PLAIN, count)
                load.storm(range(count - step, count), PAYLOAD)
                _sleep(server, count)
                if count in (first, *sizes):
                    held[count] = at_rest(run, server.process.pid).anonymous
            run.measured(
                table,
                parked,
                **costs({count: (held[count] - held[first]) / (count - first) for count in sizes}),
            )


def _sleep(server: Server, count: int) -> None:
    """Wait until no room is awake."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/stats", timeout=30) as answer:
            told: dict[str, Any] = json.load(answer)
        if told["hub"]["sockets"] != count:
            raise Failed(f"{count} sockets are open, but the server says {told['hub']}")
        if not told["supervisor"]["awake"]:
            return
        if time.monotonic() > deadline:
            raise Failed(f"{told['supervisor']['awake']} rooms are still awake after {PATIENCE:.0f} s")
        time.sleep(0.05)


def _recipients(run: Run) -> None:
    """One message to few, and to many."""
    most = run.connections(10_000, quick=100)
    sizes = (most // 100, most // 10, most) if most >= 1000 else (most // 10, most // 2, most)
    table = run.table(
        "recipients",
        f"The server's CPU for a delivery of {PAYLOAD} bytes, from one connection to all in its room",
        over_sizes("recipients", "µs", sizes),
        over="recipients",
        note="The next message is sent when everybody has the last, and what there is to do once for each is "
        "in the figures: with few recipients that is much of it.",
    )
    limit = Contestant(
        "bare loop of writes in Python",
        "limit",
        (sys.executable, "-m", "benchmarks.peers.bare_loop", "fanout"),
        REFLECTED,
    )
    entrants = [
        Contestant("trio_rooms, plain", "ours", ours("fan_plain"), PLAIN, "/fan_plain/all"),
        Contestant("trio_rooms, JSON events", "ours", ours("fan_events"), JSON, "/fan_events/all"),
        *(one for one in peers("fanout") if DICTIONARY in one.name),
        limit,
    ]
    for contestant in run.each(entrants, table):
        with run.attempt(contestant), serving(contestant) as server, Load() as load:
            cost = {}
            for done, count in enumerate(sizes):
                run.progress(f"{contestant.name}, {count:,} recipients", done / len(sizes))
                load.open(server.port, contestant.path, 1, contestant.dialect, count)
                load.gather(PAYLOAD)
                cost[count] = _delivery(run, server, load)
            run.measured(table, contestant, **costs(cost))


def _delivery(run: Run, server: Server, load: Load) -> float:
    """Seconds of the server's processor for each delivery."""
    once = median(load.fanout(3, PAYLOAD).last)
    messages = min(max(5, int((0.1 if run.quick else 3.0) / once)), 10_000)
    spent = cpu_seconds(server.process.pid)
    heard = load.fanout(messages, PAYLOAD)
    return (cpu_seconds(server.process.pid) - spent) / heard.checked
