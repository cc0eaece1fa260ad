"""What a WebSocket costs on which nothing happens, and a room: memory for each, and processor time for all.

Each connection says one thing and hears it again, so that it has been used; then all are silent, and our
rooms fall asleep. They come a few at a time, since what is in use at once leaves gaps in a process's memory.
Memory is a slope over several numbers of connections, so that what a program takes without any is not in it.
What a room takes that is awake, and waits, stands beside what takes its place
where there is no library: a task and a channel.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.suite import disk
from benchmarks.suite.contestants import Contestant, Server, ours, peers, serving, versions
from benchmarks.suite.failures import Failed
from benchmarks.suite.load import Load
from benchmarks.suite.numbers import slope
from benchmarks.suite.processes import Memory, Process, cpu_seconds, kernel_memory, memory, start
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table

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
    "from {least:,} to {most:,} connections; Python takes it from the system 1 MiB at a time, so a slope may "
    "be off by some of {grain:,.0f} bytes here. All of ours are in one room where nothing else is said, and "
    "keep on a disk what there is to keep. Of the kernel: slab and socket "
    "buffers of the machine, for both ends of a connection, in nobody's memory above. CPU: of one processor, "
    "over {idle:g} s."
)


STEPS: Final = 12
"""Times that some come; the memory is looked at from the half on."""
EACH: Final = 100
"""Connections of a room, where there are many rooms with several."""
TASK: Final = "a Trio task with a memory channel"


def contestants(soon: str, *, few: bool) -> list[Contestant]:
    """All who take part; ``soon`` is after how many seconds a room sleeps that is to sleep."""
    rooms = {
        "awake": ("plain", NEVER, "x"),
        "hibernated": ("plain", soon, "x"),
        f"hibernated, in rooms of {EACH}": ("plain", soon, "{hundred}"),
        "hibernated, one in each room": ("plain", soon, "{each}"),
        "hibernated, 100-byte attachments": ("attached_100", soon, "x"),
        f"hibernated, 100-byte attachments, in rooms of {EACH}": ("attached_100", soon, "{hundred}"),
        "hibernated, 100-byte attachments, one in each room": ("attached_100", soon, "{each}"),
        "hibernated, 1,000-byte attachments": ("attached_1000", soon, "x"),
        "hibernated, 3 channels": ("channels_3", soon, "x"),
        "hibernated, 100-byte attachments and 3 channels": ("attached_100_channels_3", soon, "x"),
    }
    own = [
        Contestant(f"trio_rooms, {how}", "ours", ours(room, "--idle-timeout", timeout), path=f"/{room}/{id_}")
        for how, (room, timeout, id_) in rooms.items()
    ]
    return own + peers("echo", few=few)


@attrs.frozen
class Awake:
    """Something that is awake, and waits for mail."""

    name: str
    kind: str
    """What `benchmarks.servers.awake` is told."""
    group: Group = "ours"
    absent: str = ""


AWAKE: Final = [
    Awake("an awake room with an empty state", "waiting"),
    Awake("an awake room without sessions", "sessionless"),
    Awake(TASK, "tasks", "limit"),
]


def run(run: Run) -> None:
    """Measure each contestant."""
    most = max(run.connections(18_000, quick=100), 10)
    counts = [most // 2, most] if run.quick else [most * step // STEPS for step in range(1, STEPS + 1)]
    idle = 0.2 if run.quick else 5.0
    entrants = contestants("0.2" if run.quick else "1", few=run.few)
    run.versions.update(versions(entrants))
    table = run.table(
        "idle",
        f"A connection of {most:,} on which nothing happens",
        COLUMNS,
        drawn="anonymous",
        baseline="trio-websocket",
        note=NOTE.format(least=most // 2, most=most, grain=2**20 / (most - most // 2), idle=idle),
    )
    rooms = [50, 100] if run.quick else [1_000, 5_000]
    awake = run.table(
        "awake",
        f"One of {rooms[-1]:,} rooms that are awake and have an empty state",
        [
            Column("anonymous", "memory of each", unit="B", digits=0, better="low"),
            Column("objects", "objects that the collector looks at", digits=1, better="low"),
        ],
        drawn="anonymous",
        baseline=TASK,
        note=f"Slopes over {' and '.join(f'{count:,}' for count in rooms)}. Each room has handled something, "
        "is written, and is not in use; its own task and all that belongs to it are in these figures.",
    )
    with disk.folder(run.options.results) as folder:
        for contestant in run.each(entrants, table):
            with run.attempt(contestant), disk.folder(folder) as data:
                measure(run, table, contestant, counts, idle, data)
        for kind in run.each(AWAKE, awake):
            with run.attempt(kind), disk.folder(folder) as data:
                measure_awake(run, awake, kind, rooms, data)


def measure_awake(run: Run, table: Table, kind: Awake, counts: list[int], data: Path) -> None:
    """See what so many of something take that is awake."""
    held, objects = [], []
    with start(sys.executable, "-m", "benchmarks.servers.awake", kind.kind, str(data)) as process:
        for count in counts:
            _asked(process, str(count))
            held.append(at_rest(run, process.pid).anonymous)
            objects.append(int(_asked(process, "objects")))
    run.measured(table, kind, anonymous=slope(counts, held), objects=slope(counts, objects))


def _asked(process: Process, line: str) -> str:
    process.write(line)
    return process.line(300)


@attrs.frozen
class Point:
    """What a server held with so many connections."""

    count: int
    held: Memory
    kernel: int


def measure(
    run: Run, table: Table, contestant: Contestant, counts: list[int], idle: float, data: Path
) -> None:
    """Start one contestant, open its clients, and look at it."""
    points = []
    options = ("--data", str(data)) if contestant.group == "ours" else ()
    with serving(contestant, *options) as server, Load() as load:
        opened = 0
        for number, count in enumerate(counts):
            run.progress(f"{contestant.name}: {count:,} connections", number / (len(counts) + 1))
            # Rooms of their own for those that come later, so that there are as many with so many in them.
            in_each = {"{hundred}": EACH, "{each}": 1}.get(contestant.path.rpartition("/")[2])
            place = f"{number}-{{n}}"
            load.open(
                server.port,
                path=contestant.path.replace("{hundred}", place).replace("{each}", place),
                rooms=1 if in_each is None else max((count - opened) // in_each, 1),
                dialect=contestant.dialect,
                count=count,
            )
            load.storm(range(opened, count), PAYLOAD)
            opened = count
            if contestant.group == "ours":
                _sleep(contestant, server, count)
            if 2 * count >= counts[-1]:
                points.append(Point(count, at_rest(run, server.process.pid), kernel_memory()))
        run.progress(f"{contestant.name}: nothing", len(counts) / (len(counts) + 1))
        spent, began = cpu_seconds(server.process.pid), time.monotonic()
        time.sleep(idle)
        share = (cpu_seconds(server.process.pid) - spent) / (time.monotonic() - began)
    counts = [point.count for point in points]
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


def at_rest(run: Run, pid: int) -> Memory:
    """What a process holds when that does not change any more."""
    deadline = time.monotonic() + PATIENCE
    held = memory(pid)
    while time.monotonic() < deadline:
        time.sleep(0.05 if run.quick else 1.0)
        before, held = held, memory(pid)
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
