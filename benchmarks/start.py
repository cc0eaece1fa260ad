"""What it takes to start a server whose rooms are stored."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Final

import attrs

from benchmarks.suite import disk, stored
from benchmarks.suite.load import Load
from benchmarks.suite.processes import memory, start
from benchmarks.suite.report import Entrant, Run
from benchmarks.suite.tables import Column, Group, Table

NAME = "start"
ABOUT = "How long a server takes to start, and what it holds then, with up to a million stored rooms."

SIZE: Final = 256
"""Bytes of each room's state."""
BYTES_ON_DISK: Final = 700
"""What a room takes at most while the file is made, its log included."""
PAYLOAD: Final = 64
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
        counts = (0, 10_000) if run.quick else (0, 10_000, 1_000_000)
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
                else:
                    seconds, held = _import()
                    run.measured(table, limit, seconds=seconds, memory=held)


def _too_many(count: int, where: disk.Disk) -> str:
    needed = count * BYTES_ON_DISK
    return "" if where.free > needed else f"{needed / 1e6:,.0f} MB of free disk are needed"


def _serve(run: Run, table: Table, entrant: Stored, data: Path) -> None:
    if entrant.count:
        disk.forget_cached(data)
    began = perf_counter()
    with start(*SERVE, "--data", str(data)) as process:
        told = process.line(300)
        seconds = perf_counter() - began
        if not told.startswith(READY):
            raise process.failure(f"said {told!r}")
        held = memory(process.pid).anonymous
        with Load() as load:
            load.open(int(told.removeprefix(READY)), f"/chat/{entrant.count // 2}")
            answer = load.ask(0, PAYLOAD)
        size = sum(file.stat().st_size for file in data.iterdir())
    run.measured(table, entrant, seconds=seconds, memory=held, answer=answer, file=size)


def _import() -> tuple[float, int]:
    """The same without a server: what the interpreter and the imports take."""
    began = perf_counter()
    program = "import trio_rooms._cli.main; print('imported', flush=True); input()"
    with start(sys.executable, "-c", program) as process:
        process.line()
        return perf_counter() - began, memory(process.pid).anonymous
