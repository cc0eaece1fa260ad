"""Users who are away: what is sent to them waits on the disk, and expires there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import attrs

from benchmarks.suite import disk
from benchmarks.suite.numbers import slope
from benchmarks.suite.processes import cpu_seconds, memory
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table
from benchmarks.suite.users import Users

NAME = "offline"
ABOUT = "A hundred thousand users who are away, with ten messages each: memory, and their expiry."

EACH: Final = 10
FIRST: Final = 0.02
"""The share that is sent first, to see how long all will take."""
PARTS: Final = 5
"""In which the others are sent; memory is looked at after each."""
SLACK: Final = 1.5


@attrs.frozen
class Kind:
    """Who is measured."""

    name: str = "trio_rooms"
    group: Group = "ours"
    absent: str = ""


def run(run: Run) -> None:
    """Send, look at memory, and let everything expire."""
    users = run.wanted(100_000, quick=500)
    table = run.table(
        "offline",
        f"{EACH} messages for each of {users:,} users who are away",
        [
            Column("rate", "messages/s", better="high"),
            Column("cpu", "processor time for each", unit="µs", better="low"),
            Column("memory", "memory of the server for each user", unit="B", digits=1, better="low"),
            Column("disk", "disk for each message", unit="B", digits=0, better="low"),
            Column("expiry", "all at once have expired after", unit="s", better="low"),
            Column("janitor", "processor time for each", unit="µs", better="low"),
            Column("lag", "longest that others wait", unit="ms", better="low"),
        ],
        note=f"Memory: a slope over {PARTS} parts of them. Others wait: a task that is ready each "
        "millisecond, while everything expires.",
    )
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        for kind in run.each([Kind()], table):
            with run.attempt(kind), disk.folder(folder) as data, Users(data) as server:
                _measure(run, table, kind, users, server, data)


def _measure(run: Run, table: Table, kind: Kind, users: int, server: Users, data: Path) -> None:
    first, part = max(1, int(users * FIRST)), users // PARTS
    pid = server.process.pid
    ttl = SLACK * float(server.do(f"fill first {first} {EACH} 3600")) * users / first + 2.0
    began, spent, sending, held = time.monotonic(), cpu_seconds(pid), 0.0, []
    for number in range(PARTS):
        run.progress(f"{(number + 1) * part:,} users", number / (PARTS + 1))
        left = began + ttl - time.monotonic()
        sending += float(server.do(f"fill part{number}. {part} {EACH} {left}"))
        held.append(memory(pid).anonymous)
    spent = cpu_seconds(pid) - spent
    count = PARTS * part * EACH
    if int(server.do("expired")):
        raise server.process.failure("let messages expire while others were still sent: the machine is busy")
    stored = sum(file.stat().st_size for file in data.iterdir())
    time.sleep(max(0.0, began + ttl - time.monotonic() - 0.2))
    server.do("lag")
    run.progress("all expire", PARTS / (PARTS + 1))
    cleaning, due = cpu_seconds(pid), began + ttl
    while int(server.do("expired")) < count:
        time.sleep(0.02)
    run.measured(
        table,
        kind,
        rate=count / sending,
        cpu=spent / count,
        memory=slope([part * (number + 1) for number in range(PARTS)], held),
        disk=stored / (count + first * EACH),
        expiry=max(0.0, time.monotonic() - due),
        janitor=(cpu_seconds(pid) - cleaning) / count,
        lag=float(server.do("lag")),
    )
