"""What it takes to start a server whose rooms are stored, and to wake one of them."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from time import perf_counter
from typing import Final

import attrs

from benchmarks.suite import disk, stored
from benchmarks.suite.load import Load
from benchmarks.suite.numbers import median, percentile
from benchmarks.suite.processes import Process, memory, start
from benchmarks.suite.report import Entrant, Run
from benchmarks.suite.tables import Column, Group, Table, costs, over_sizes

NAME = "start"
ABOUT = "How long a server takes to start, and to wake a room, with up to a million stored rooms."

SIZE: Final = 256
"""Bytes of each room's state."""
BYTES_ON_DISK: Final = 700
"""What a room takes at most while the file is made, its log included."""
PAYLOAD: Final = 64
REST: Final = 0.002
"""Seconds before each message in which nothing happens, so that none meets the end of what was before it."""
WARM: Final = 20
"""Rooms that are woken first for nothing, so that what happens once is not measured."""
READY: Final = "listening on ws://127.0.0.1:"
SERVE: Final = (sys.executable, "-m", "trio_rooms", "serve", "benchmarks/servers/chat.py", "--port", "0")


@attrs.frozen
class Stored:
    """A server with so many rooms in its store."""

    count: int
    absent: str = ""
    group: Group = "ours"

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.count:,} stored rooms"


def run(run: Run) -> None:
    """Measure each number of rooms; the stores are made once, for all rounds."""
    limit = run.entrant("Python, and the package imported", "limit")
    with disk.folder(run.options.results) as folder:
        where = disk.disk_of(folder)
        counts = (0, 100, 1000) if run.quick else (0, 1000, 30_000, 1_000_000)
        samples = 10 if run.quick else 300
        all_stored = [Stored(count, _too_many(count, where)) for count in counts]
        table = run.table(
            "start",
            "trio-rooms serve, until it listens",
            [
                Column("seconds", "listening after", unit="s", better="low"),
                Column("memory", "memory then", unit="MB", better="low"),
                Column("answer", "first answer of a room", unit="ms", better="low"),
                Column("file", "store on disk", unit="MB", spread=False),
            ],
            drawn="seconds",
            note=f"Rooms of about {SIZE} bytes of state. Before each start the store's file is dropped from "
            "the system's cache. Memory is what the process itself made (Anonymous). The first answer is "
            "that of a room which is read for it.",
        )
        wakes = run.table(
            "wake",
            "A room of all that are stored is woken",
            [
                Column("p50", "p50", unit="ms", better="low"),
                Column("p99", "p99", unit="ms", better="low"),
                Column("cold", "p50, read from the disk", unit="ms", better="low"),
                Column("awake", "p50, awake", unit="ms", better="low"),
            ],
            note=f"{samples:,} of them, chosen at random, one after another: from the first byte of a "
            "message until the whole answer is there, with the store's file in the system's cache, and "
            "dropped from it. Awake: the second message to the same rooms.",
        )
        run.remark(str(where))
        _import()  # Once for nothing, so that all of Python's files are compiled.
        entrants: list[Entrant] = [*all_stored, limit]
        for entrant in run.each(entrants):
            with run.attempt(entrant):
                if isinstance(entrant, Stored):
                    data = folder / str(entrant.count)
                    if entrant.count and not data.exists():
                        run.progress(f"{entrant.name}: they are written")
                        stored.write(data, SIZE, chat=entrant.count)
                    _serve(run, table, entrant, data)
                    if entrant.count:
                        _wake(run, wakes, entrant, data, samples)
                else:
                    seconds, held = _import()
                    run.measured(table, limit, seconds=seconds, memory=held)
        _compare(run, wakes, all_stored)


def _compare(run: Run, wakes: Table, all_stored: list[Stored]) -> None:
    """Set the wakes with few stored rooms beside those with many."""
    kinds = {
        "p50": "to a room that sleeps, in the cache",
        "cold": "to a room that sleeps, on the disk",
        "awake": "to one that is awake",
    }
    there = [stored for stored in all_stored if wakes.row(stored.name, "ours").values]
    if len(there) < 2:
        return
    table = run.table(
        "grown",
        "A message beside how many rooms are stored, p50",
        over_sizes("stored rooms", "ms", [stored.count for stored in there]),
        over="stored rooms",
    )
    for key, name in kinds.items():
        rounds = (wakes.row(stored.name, "ours").values.get(key, []) for stored in there)
        for values in zip(*rounds, strict=False):  # One of them may have failed meanwhile.
            cost = {stored.count: value for stored, value in zip(there, values, strict=True)}
            run.measured(table, run.entrant(name, "ours"), **costs(cost))


def _too_many(count: int, where: disk.Disk) -> str:
    needed = count * BYTES_ON_DISK
    return "" if where.free > needed else f"{needed / 1e6:,.0f} MB of free disk are needed"


def _serve(run: Run, table: Table, entrant: Stored, data: Path) -> None:
    """Measure a start."""
    if entrant.count:
        disk.forget_cached(data)
    began = perf_counter()
    with start(*SERVE, "--data", str(data)) as process:
        port = _port(process)
        seconds = perf_counter() - began
        held = memory(process.pid).anonymous
        with Load() as load:
            load.open(port, f"/chat/{entrant.count // 2}")
            answer = load.ask(0, PAYLOAD)
        size = sum(file.stat().st_size for file in data.iterdir())
    run.measured(table, entrant, seconds=seconds, memory=held, answer=answer, file=size)


def _port(process: Process) -> int:
    """Where a server listens that was started."""
    told = process.line(300)
    if not told.startswith(READY):
        raise process.failure(f"said {told!r}")
    return int(told.removeprefix(READY))


def _wake(run: Run, table: Table, entrant: Stored, data: Path, samples: int) -> None:
    """Measure wakes, with the file on the disk alone and in the cache."""
    run.progress(f"{entrant.name}: they are woken", 0.5)
    if not run.quick:
        disk.forget_cached(data)
        run.measured(table, entrant, cold=median(_speak(data, entrant.count, samples)[0]))
    disk.read_ahead(data)
    woken, awake = _speak(data, entrant.count, samples)
    run.measured(table, entrant, p50=median(woken), p99=percentile(woken, 99), awake=median(awake))


def _speak(data: Path, count: int, samples: int) -> tuple[list[float], list[float]]:
    """Speak to so many rooms of a server in which all sleep, and again when each is awake."""
    woken: list[float] = []
    awake: list[float] = []
    with start(*SERVE, "--data", str(data)) as process, Load() as load:
        port = _port(process)
        for index, number in enumerate(random.sample(range(count), min(WARM + samples, count))):
            load.open(port, f"/chat/{number}", count=index + 1)
            for took in (woken, awake):
                time.sleep(REST)
                took.append(load.ask(index, PAYLOAD))
    return woken[WARM:], awake[WARM:]


def _import() -> tuple[float, int]:
    """The same without a server: what the interpreter and the imports take."""
    began = perf_counter()
    program = "import trio_rooms._cli.main; print('imported', flush=True); input()"
    with start(sys.executable, "-c", program) as process:
        process.line()
        return perf_counter() - began, memory(process.pid).anonymous
