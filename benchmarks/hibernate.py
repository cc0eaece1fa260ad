"""Many rooms fall asleep at once: how long that takes, and how long others wait meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Final

from benchmarks.suite import disk, stored
from benchmarks.suite.load import Load
from benchmarks.suite.numbers import percentile
from benchmarks.suite.probe import Probe
from benchmarks.suite.processes import cpu_seconds
from benchmarks.suite.report import Entrant, Run
from benchmarks.suite.sleepers import Sleepers
from benchmarks.suite.tables import Column, Table

NAME = "hibernate"
ABOUT = "How fast awake rooms are put to sleep, all at once, and how long a message waits meanwhile."

OURS: Final = "trio_rooms"
BY_HAND: Final = "one synced file per room"
SIZES: Final = {"quarter": 256, "four": 4096}
"""The tables, and how many bytes of state each room has."""
EVERY: Final = 0.005
"""Seconds between two messages of the probe."""
PAYLOAD: Final = 64


def run(run: Run) -> None:
    """Measure both sizes of state."""
    count = run.connections(10_000, quick=200)
    tables = [_table(run, key, count, size) for key, size in SIZES.items()]
    run.remark(
        f"{BY_HAND}: a program without actors and without members in its rooms. It encodes a state, and has "
        "one of 16 threads write it into a file, sync that and rename it; the folder is not synced."
    )
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        for entrant in run.each([run.entrant(OURS, "ours"), run.entrant(BY_HAND, "peer")]):
            with run.attempt(entrant):
                for number, (table, size) in enumerate(zip(tables, SIZES.values(), strict=True)):
                    run.progress(f"{entrant.name}: {count:,} rooms of {size:,} bytes", number / len(tables))
                    running = _ours if entrant.name == OURS else _by_hand
                    with disk.folder(folder) as data, running(data, size, count) as sleepers:
                        _measure(run, table, entrant, sleepers, count)


def _table(run: Run, key: str, count: int, size: int) -> Table:
    return run.table(
        key,
        f"{count:,} awake rooms with {size:,} bytes of changed state each are told to sleep at once",
        [
            Column("rate", "rooms/s", better="high"),
            Column("seconds", "all asleep", unit="s", better="low"),
            Column("cpu", "processor time", unit="s", better="low"),
            Column("p50", "message meanwhile, p50", unit="ms", better="low"),
            Column("p99", "p99", unit="ms", better="low"),
            Column("max", "max", unit="ms", better="low"),
            Column("before", "p99 before", unit="ms", better="low", spread=False),
        ],
        drawn="rate",
        baseline=BY_HAND,
        note=f"A message is due every {EVERY * 1000:.0f} ms, and waits from then until its answer is there.",
    )


@contextlib.contextmanager
def _ours(data: Path, size: int, count: int) -> Iterator[Sleepers]:
    """Awake rooms, with a socket in each, which have changed since they woke."""
    stored.write(data, size, chat=count)
    with Sleepers(data) as sleepers, Load() as load:
        load.open(sleepers.port, "/chat/{n}", rooms=count, count=count)
        load.storm(range(count), PAYLOAD)
        yield sleepers


@contextlib.contextmanager
def _by_hand(data: Path, size: int, count: int) -> Iterator[Sleepers]:
    with Sleepers(data, "benchmarks.peers.file_per_room", str(size), str(count)) as sleepers:
        yield sleepers


def _measure(run: Run, table: Table, entrant: Entrant, sleepers: Sleepers, count: int) -> None:
    """Put all to sleep, while somebody speaks to a room that stays awake."""
    with Probe(sleepers.port, "/chat/awake", EVERY) as quiet:
        time.sleep(0.2 if run.quick else 2.0)
    spent = cpu_seconds(sleepers.process.pid)
    with Probe(sleepers.port, "/chat/awake", EVERY) as probe:
        began = perf_counter()
        sleepers.sleep("chat", range(count))
        took = perf_counter() - began
    run.measured(
        table,
        entrant,
        rate=count / took,
        seconds=took,
        cpu=cpu_seconds(sleepers.process.pid) - spent,
        p50=percentile(probe.latencies, 50),
        p99=percentile(probe.latencies, 99),
        max=max(probe.latencies),
        before=percentile(quiet.latencies, 99),
    )
