"""What it costs to make something durable: a document in a store, and a message to a room."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import attrs

from benchmarks import durable as rooms
from benchmarks.suite import disk
from benchmarks.suite.numbers import percentile
from benchmarks.suite.processes import start
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table
from benchmarks.suite.valkey import valkey

NAME = "commit"
ABOUT = "How fast a store makes documents durable, and rooms the messages that they answer."

SIZES: Final = (200, 4096)
TOGETHER: Final = 1000
SQLITE: Final = "bare SQLite"
ALONE_COLUMNS: Final = [
    Column("rate", "commits/s", better="high"),
    Column("p50", "p50", unit="ms", better="low"),
    Column("p99", "p99", unit="ms", better="low"),
    Column("max", "max", unit="ms", better="low"),
]
TOGETHER_COLUMNS: Final = [
    Column("rate", "commits/s", better="high"),
    Column("p50", "all 1,000 durable, p50", unit="ms", better="low"),
    Column("max", "max", unit="ms", better="low"),
]


@attrs.frozen
class Keeper:
    """A kind that ``benchmarks/peers/keepers.py`` knows."""

    name: str
    group: Group
    kind: str
    server: str = ""
    absent: str = ""
    alone: bool = True
    """Whether it does something of its own with single documents."""


def keepers() -> list[Keeper]:
    """All of them, in the order of the tables."""
    found = valkey()
    name = found.version.partition(" ")[0] or "Valkey"
    path, absent = str(found.path), found.absent
    return [
        Keeper("trio_rooms DiskStore", "ours", "rooms"),
        Keeper("trio_rooms ValkeyStore", "ours", "rooms-valkey", path, absent),
        Keeper(SQLITE, "peer", "sqlite"),
        Keeper(f"{name}, appendfsync always", "peer", "valkey", path, absent),
        Keeper(
            f"{name}, appendfsync always, MULTI", "peer", "valkey-transactions", path, absent, alone=False
        ),
        Keeper("a file, written over and synced", "limit", "file"),
    ]


def run(run: Run) -> None:
    """Measure rooms, and the store without them."""
    rooms.run(run)
    _run_stores(run)


def _run_stores(run: Run) -> None:
    """Measure both sizes, alone and together."""
    alone = [
        run.table(
            f"alone-{size}",
            f"Documents of {size:,} bytes, one after another",
            ALONE_COLUMNS,
            drawn="rate",
            baseline=SQLITE,
            note="Each is durable before the next one is begun.",
        )
        for size in SIZES
    ]
    together = [
        run.table(
            f"together-{size}",
            f"Documents of {size:,} bytes, {TOGETHER:,} at once",
            TOGETHER_COLUMNS,
            drawn="rate",
            baseline=SQLITE,
            note="Ours: independent commits. SQLite: one transaction. Valkey: pipelined, or in one MULTI.",
        )
        for size in SIZES
    ]
    run.remark(
        "1,000 keys, written over again and again. DiskStore and ValkeyStore keep two documents of each; "
        "bare SQLite has WAL and synchronous=FULL, as DiskStore has. All was read again and compared at the "
        "end."
    )
    entrants = keepers()
    if found := valkey().version:
        name, _, release = found.partition(" ")
        run.versions[name] = release
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        for keeper in run.each(entrants, *alone, *together):
            with run.attempt(keeper):
                for number, size in enumerate(SIZES):
                    run.progress(f"{keeper.name}: {size:,} bytes", number / len(SIZES))
                    with disk.folder(folder) as data:
                        _measure(run, alone[number], together[number], keeper, data, size)


def _measure(run: Run, alone: Table, together: Table, keeper: Keeper, data: Path, size: int) -> None:
    seconds = 0.1 if run.quick else 3
    given = (keeper.kind, str(data), str(size), keeper.server)
    with start(sys.executable, "-m", "benchmarks.peers.keepers", *given) as process:
        if keeper.alone:
            process.write(f"alone {seconds}")
            took: list[float] = json.loads(process.line())
            run.measured(
                alone,
                keeper,
                rate=len(took) / sum(took),
                p50=percentile(took, 50),
                p99=percentile(took, 99),
                max=max(took),
            )
        process.write(f"together {seconds}")
        took = json.loads(process.line())
        rate = TOGETHER * len(took) / sum(took)
        run.measured(together, keeper, rate=rate, p50=percentile(took, 50), max=max(took))
        process.write("check")
        if process.line() != str(TOGETHER):
            raise process.failure("has lost documents")
