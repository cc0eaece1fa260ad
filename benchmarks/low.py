"""Messages that can wait: what is saved where they go together, beside sending each at once."""

from __future__ import annotations

import math
import time
from time import perf_counter
from typing import Final

import attrs

from benchmarks.suite import disk
from benchmarks.suite.dialects import JSON
from benchmarks.suite.load import Load
from benchmarks.suite.processes import cpu_seconds
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table
from benchmarks.suite.users import Users

NAME = "low"
ABOUT = "Messages of low priority for parked users: the writes and wakes saved beside sending each at once."

EACH: Final = 10
"""Messages that each user is sent."""


@attrs.frozen
class Kind:
    """How they are sent."""

    name: str
    words: str
    """What the server is told."""
    group: Group = "ours"
    absent: str = ""


KINDS: Final = [
    Kind("high: each wakes its room", "high"),
    Kind("normal: each at once", "normal"),
    Kind("low: together", "low"),
    Kind("low and volatile: together", "low volatile"),
]


def run(run: Run) -> None:
    """Measure each way to send."""
    users = run.connections(1000, quick=50)
    flush_after = 1.0 if run.quick else 15.0
    table = run.table(
        "low",
        f"{EACH} messages for each of {users:,} parked users, one in a room",
        [
            Column("writes", "writes for each user", digits=1, better="low"),
            Column("wakes", "wakes for each user", digits=1, better="low"),
            Column("cpu", "processor time for each message", unit="µs", better="low"),
            Column("rate", "messages/s", better="high"),
            Column("late", "the last arrives after", unit="s", better="low", spread=False),
        ],
        drawn="writes",
        baseline=KINDS[0].name,
        note="Rooms that were woken sleep again before the next message for their users: that is in the "
        f"processor time, and not in the rate. Low ones wait for {flush_after:g} s at most here. All have "
        "sessions; what is not volatile is durable before it goes out.",
    )
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        for number, kind in enumerate(run.each(KINDS, table)):
            run.progress(kind.name, number / len(KINDS))
            with run.attempt(kind), disk.folder(folder) as data:
                _measure(run, table, kind, users, Users(data, flush_after))


def _measure(run: Run, table: Table, kind: Kind, count: int, users: Users) -> None:
    with users, Load() as load:
        load.open(users.port, "/home/{n}", count, JSON, count)
        written, wakes, spent = load.segments(), users.wakes(), cpu_seconds(users.process.pid)
        sending, last = 0.0, math.inf
        for _ in range(EACH):
            began = perf_counter()
            users.do(f"send {count} {kind.words}")
            sending += perf_counter() - began
            last = perf_counter()
            users.do(f"sleep {count}")
        heard = load.hear(EACH)
        time.sleep(0.05)  # Until the server has done what it does behind its writes.
        run.measured(
            table,
            kind,
            writes=(load.segments() - written) / count,
            wakes=(users.wakes() - wakes) / count,
            cpu=(cpu_seconds(users.process.pid) - spent) / (EACH * count),
            rate=EACH * count / sending,
            late=max(0.0, heard - last),
        )
