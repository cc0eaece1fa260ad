"""What a WebSocket costs on which nothing happens: memory for each, and processor time for all.

Each connection says one thing and hears it again, so that it has been used; then all are silent, and our
rooms fall asleep. Memory is the slope over three numbers of connections, so that what a program takes without
any is not in it.
"""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any, Final

import attrs

from benchmarks.suite.contestants import Contestant, Server, ours, peers, serving, versions
from benchmarks.suite.failures import Failed
from benchmarks.suite.load import Load
from benchmarks.suite.numbers import slope
from benchmarks.suite.processes import Memory, cpu_seconds, kernel_memory, memory
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Table

NAME = "idle"
ABOUT = "What a connection costs on which nothing happens."

PAYLOAD: Final = 5
"""Bytes of the one message of each connection."""
NEVER: Final = "86400"
"""Seconds until a room sleeps that is to stay awake."""
QUIET: Final = 0.001
"""The share by which the memory of a server at rest may still change in a second."""
PATIENCE: Final = 15.0
"""Seconds after which a server's memory is taken as it is."""
COLUMNS: Final = [
    Column("anonymous", "memory a connection", unit="B", digits=0, better="low"),
    Column("pss", "as Pss", unit="B", digits=0, better="low", told=False),
    Column("rss", "as Rss", unit="B", digits=0, better="low", told=False),
    Column("kernel", "of the kernel", unit="B", digits=0, better="low", spread=False),
    Column("whole", "Rss in all", unit="MB", better="low", spread=False),
    Column("cpu", "CPU while idle", unit="%", digits=1, better="low", spread=False),
]
NOTE: Final = (
    "Memory a connection: what the server's process has made itself (Anonymous in smaps_rollup), as a slope "
    "over {counts} connections; Python takes it from the system "
    "1 MiB at a time, so a slope may be off by a hundred bytes at 10,000. Of the kernel: slab and socket "
    "buffers of the machine, for both ends of a connection, in nobody's memory above. CPU: of one processor, "
    "over {idle:g} s."
)


def contestants(soon: str = "1") -> list[Contestant]:
    """All who take part; ``soon`` is after how many seconds a room sleeps that is to sleep."""
    rooms = {
        "awake": ("plain", NEVER),
        "hibernated": ("plain", soon),
        "hibernated, 100-byte attachments": ("attached_100", soon),
        "hibernated, 1,000-byte attachments": ("attached_1000", soon),
        "hibernated, 3 channels": ("channels_3", soon),
        "hibernated, 100-byte attachments and 3 channels": ("attached_100_channels_3", soon),
    }
    own = [
        Contestant(f"trio_rooms, {how}", "ours", ours(room, "--idle-timeout", timeout), path=f"/{room}/x")
        for how, (room, timeout) in rooms.items()
    ]
    return own + peers("idle")


def run(run: Run) -> None:
    """Measure each contestant."""
    most = max(run.connections(10_000, quick=100), 10)
    counts = [most // 2, most] if run.quick else sorted({most // 10, most // 2, most})
    idle = 0.2 if run.quick else 5.0
    entrants = contestants("0.2" if run.quick else "1")
    run.versions.update(versions(entrants))
    table = run.table(
        "idle",
        f"A connection of {most:,} on which nothing happens",
        COLUMNS,
        drawn="anonymous",
        baseline="trio-websocket",
        note=NOTE.format(counts=", ".join(f"{count:,}" for count in counts), idle=idle),
    )
    for contestant in run.each(entrants):
        with run.attempt(contestant):
            measure(run, table, contestant, counts, idle)


@attrs.frozen
class Point:
    """What a server held with so many connections."""

    count: int
    held: Memory
    kernel: int


def measure(run: Run, table: Table, contestant: Contestant, counts: list[int], idle: float) -> None:
    """Start one contestant, open its clients, and look at it."""
    points = []
    with serving(contestant) as server, Load() as load:
        opened = 0
        for number, count in enumerate(counts):
            run.progress(f"{contestant.name}: {count:,} connections", number / (len(counts) + 1))
            load.open(
                server.port,
                path=contestant.path,
                rooms=contestant.rooms,
                dialect=contestant.dialect,
                count=count,
            )
            load.storm(range(opened, count), PAYLOAD)
            opened = count
            held = rest(run, contestant, server, count)
            points.append(Point(count, held, kernel_memory()))
        run.progress(f"{contestant.name}: nothing", len(counts) / (len(counts) + 1))
        spent, began = cpu_seconds(server.process.pid), time.monotonic()
        time.sleep(idle)
        share = (cpu_seconds(server.process.pid) - spent) / (time.monotonic() - began)
    run.measured(
        table,
        contestant,
        anonymous=slope(counts, [point.held.anonymous for point in points]),
        pss=slope(counts, [point.held.pss for point in points]),
        rss=slope(counts, [point.held.rss for point in points]),
        kernel=slope(counts, [point.kernel for point in points]),
        whole=points[-1].held.rss,
        cpu=share,
    )


def rest(run: Run, contestant: Contestant, server: Server, count: int) -> Memory:
    """Wait until nothing goes on in a server any more, and its memory does not change; what it holds then."""
    deadline = time.monotonic() + PATIENCE
    if contestant.group == "ours":
        _sleep(contestant, server, count)
    held = memory(server.process.pid)
    while time.monotonic() < deadline:
        time.sleep(0.05 if run.quick else 1.0)
        before, held = held, memory(server.process.pid)
        if run.quick or abs(held.anonymous - before.anonymous) <= QUIET * before.anonymous:
            break
    return held


def _sleep(contestant: Contestant, server: Server, count: int) -> None:
    awake = 1 if NEVER in contestant.command else 0
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/stats", timeout=30) as answer:
            told: dict[str, Any] = json.load(answer)
        if told["hub"]["sockets"] != count:
            raise Failed(f"{count} sockets are open, but the server says {told['hub']}")
        if told["supervisor"]["awake"] == awake:
            return
        if time.monotonic() > deadline:
            raise Failed(f"the server says {told['supervisor']}, and not that {awake} rooms are awake")
        time.sleep(0.1)
