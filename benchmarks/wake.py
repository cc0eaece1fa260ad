"""What it costs that a room sleeps: how much later an answer comes from it than from one that is awake."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from benchmarks.suite import disk, stored
from benchmarks.suite.load import Load
from benchmarks.suite.numbers import median, percentile
from benchmarks.suite.probe import Probe
from benchmarks.suite.processes import cpu_seconds, memory
from benchmarks.suite.report import Entrant, Run
from benchmarks.suite.sleepers import Sleepers
from benchmarks.suite.tables import Column, Group, Table

NAME = "wake"
ABOUT = "How long a message to a sleeping room takes, beside the same message to one that is awake."

PAYLOAD: Final = 64
"""Bytes of each message."""
REST: Final = 0.002
"""Seconds before each message in which nothing happens, so that none meets the end of what was before it."""
EVERY: Final = 0.005
"""Seconds between two messages of somebody who speaks to a room that is awake, while others wake."""
PAIRS: Final = 20
"""Rooms with two members."""
COLUMNS: Final = [
    Column("p50", "p50", unit="ms", better="low"),
    Column("p99", "p99", unit="ms", better="low"),
    Column("max", "max", unit="ms", better="low"),
    Column("extra", "p50 more than awake", unit="ms", better="low"),
]


@attrs.frozen
class Rooms:
    """Rooms with so much state in each; they are measured asleep and awake."""

    size: int
    group: Group = "ours"
    absent: str = ""

    @property
    def state(self) -> str:
        """How much state, as people say it."""
        return f"{self.size // 1024} KiB of state" if self.size else "no state"

    @property
    def name(self) -> str:
        """As they stand in the tables."""
        return f"asleep, {self.state}"


SIZES: Final = [Rooms(0), Rooms(4 * 1024), Rooms(100 * 1024)]


@attrs.frozen
class Crowd:
    """Many rooms without state, with one way or another of running the garbage collector."""

    name: str
    group: Group
    options: tuple[str, ...]
    absent: str = ""


CROWDS: Final = [
    Crowd("collector as the command runs it", "ours", ()),
    Crowd("collector as Python runs it", "limit", ("python",)),
]


def run(run: Run) -> None:
    """Measure each size of state."""
    sockets = run.connections(10_000, quick=200)
    count = min(50 if run.quick else 1000, sockets)
    samples = 10 if run.quick else 300
    one = run.table(
        "one",
        f"One room at a time answers, {sockets:,} sockets parked",
        COLUMNS,
        drawn="p50",
        note="From the first byte of a message until the whole answer is there, through a socket.",
    )
    storm = run.table(
        "storm",
        f"{count:,} rooms are spoken to at once, each through a socket of its own",
        [*COLUMNS, Column("quiet", "message to an awake room meanwhile, p99", unit="ms", better="low")],
        drawn="p99",
        note="From the moment when the first message is sent; the maximum is when all have answered. "
        f"Somebody else speaks to a room that is awake, every {EVERY * 1000:.0f} ms.",
    )
    recipient = run.table(
        "recipient",
        "One socket speaks to its room, another one in it has the message",
        COLUMNS,
        drawn="p50",
        note="Both are parked while the room sleeps.",
    )
    crowd = run.table(
        "crowd",
        f"{sockets:,} rooms without state are spoken to at once, and stay awake",
        [
            Column("seconds", "all have answered", unit="s", better="low"),
            Column("cpu", "processor time", unit="s", better="low"),
            Column("stop", "longest stop by the garbage collector", unit="ms", better="low"),
            Column("stops", "all its stops", unit="s", better="low"),
            Column("kept", "memory for each awake room", unit="KiB", better="low"),
        ],
        drawn="stop",
        note="While the collector looks at the objects of the program, nothing else happens in it.",
    )
    run.remark(
        "The state is that of the chat example: an attrs class with a list of lines, each an attrs class "
        "with user, text and time."
    )
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        for rooms in run.each(SIZES):
            with run.attempt(rooms), _asleep(folder, rooms, sockets, count) as (sleepers, load):
                awake = run.entrant(f"awake, {rooms.state}", "limit")
                order = random.sample(range(count), min(samples, count))
                _tell(run, one, rooms, awake, *_one_by_one(run, rooms, sleepers, load, order))
                _tell(run, storm, rooms, awake, *_storms(run, rooms, sleepers, load, count))
                heard = _recipients(run, rooms, sleepers, load, sockets, samples)
                _tell(run, recipient, rooms, awake, *heard)
        for way in run.each(CROWDS, crowd):
            with run.attempt(way), disk.folder(folder) as data:
                _crowd(run, crowd, way, data, sockets)


@contextlib.contextmanager
def _asleep(folder: Path, rooms: Rooms, sockets: int, count: int) -> Iterator[tuple[Sleepers, Load]]:
    """A server with so many rooms, all asleep, and so many sockets that are spread over them."""
    data = folder / str(rooms.size)
    if not data.exists():
        stored.write(data, rooms.size, chat=count, pair=PAIRS)
    with Sleepers(data) as sleepers, Load() as load:
        load.open(sleepers.port, "/chat/{n}", rooms=count, count=sockets)
        # From now on the snapshots are of this process, and its code has run once.
        load.storm(range(count), PAYLOAD)
        sleepers.sleep("chat", range(count))
        yield sleepers, load


def _one_by_one(
    run: Run, rooms: Rooms, sleepers: Sleepers, load: Load, order: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Speak to one room after another, asleep and then awake."""
    asleep, awake = [], []
    for done, number in enumerate(order):
        run.progress(f"{rooms.name}: one at a time", 0.1 + 0.5 * done / len(order))
        time.sleep(REST)
        asleep.append(load.ask(number, PAYLOAD))
        time.sleep(REST)
        awake.append(load.ask(number, PAYLOAD))
        sleepers.sleep("chat", range(number, number + 1))
    return asleep, awake


def _storms(
    run: Run, rooms: Rooms, sleepers: Sleepers, load: Load, count: int
) -> tuple[list[float], list[float], list[float]]:
    """Speak to all rooms at once, asleep and then awake; and how long a quiet client waited meanwhile."""
    run.progress(f"{rooms.name}: {count:,} at once", 0.6)
    with Probe(sleepers.port, "/chat/awake", EVERY) as probe:
        time.sleep(REST)
        asleep = load.storm(range(count), PAYLOAD).latencies
    time.sleep(REST)
    awake = load.storm(range(count), PAYLOAD).latencies
    sleepers.sleep("chat", range(count))
    return asleep, awake, probe.latencies


def _recipients(
    run: Run, rooms: Rooms, sleepers: Sleepers, load: Load, first: int, samples: int
) -> tuple[list[float], list[float]]:
    """Let one of two members of a room speak, asleep and then awake, and look when the other has it."""
    load.open(sleepers.port, "/pair/{n}", rooms=PAIRS, count=first + 2 * PAIRS)
    # A connection is in the room of its number modulo all.
    members = {number % PAIRS: (number, number + PAIRS) for number in range(first, first + PAIRS)}
    for speaker, listener in members.values():
        load.ask(speaker, PAYLOAD, listener)
    sleepers.sleep("pair", range(PAIRS))
    asleep, awake = [], []
    for done in range(samples):
        run.progress(f"{rooms.name}: one hears another", 0.7 + 0.3 * done / samples)
        number = done % PAIRS
        time.sleep(REST)
        asleep.append(load.ask(members[number][0], PAYLOAD, members[number][1]))
        time.sleep(REST)
        awake.append(load.ask(members[number][0], PAYLOAD, members[number][1]))
        sleepers.sleep("pair", range(number, number + 1))
    return asleep, awake


def _crowd(run: Run, table: Table, way: Crowd, data: Path, count: int) -> None:
    """Wake all rooms of a server at once, while the collector runs in one way or the other."""
    run.progress(f"{way.name}: {count:,} rooms", 0.1)
    stored.write(data, 0, chat=count)
    with Sleepers(data, "benchmarks.servers.sleepers", *way.options) as sleepers, Load() as load:
        load.open(sleepers.port, "/chat/{n}", rooms=count, count=count)
        load.ask(0, PAYLOAD)
        before = memory(sleepers.process.pid).anonymous
        load.storm(range(1, count), PAYLOAD)
        kept = (memory(sleepers.process.pid).anonymous - before) / (count - 1)
        # Once more, so that nothing is measured that happens to the first rooms alone.
        sleepers.sleep("chat", range(count))
        sleepers.stops()
        spent = cpu_seconds(sleepers.process.pid)
        seconds = max(load.storm(range(count), PAYLOAD).latencies)
        spent = cpu_seconds(sleepers.process.pid) - spent
        longest, together = sleepers.stops()
    run.measured(table, way, seconds=seconds, cpu=spent, stop=longest, stops=together, kept=kept)


def _tell(
    run: Run,
    table: Table,
    rooms: Rooms,
    awake: Entrant,
    slept: Sequence[float],
    woke: Sequence[float],
    quiet: Sequence[float] = (),
) -> None:
    p50, p50_awake = median(slept), median(woke)
    tell = partial(run.measured, table, rooms, p50=p50, p99=percentile(slept, 99), max=max(slept))
    if quiet:
        tell = partial(tell, quiet=percentile(quiet, 99))
    tell(extra=p50 - p50_awake)
    run.measured(table, awake, p50=p50_awake, p99=percentile(woke, 99), max=max(woke))
