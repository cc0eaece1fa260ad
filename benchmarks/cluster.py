"""Whether anything is lost, or done twice, when nodes and their engine are killed, paused and drained."""

from __future__ import annotations

import random
from functools import partial
from typing import Final

import trio

from benchmarks.suite import disk
from benchmarks.suite.disturbed import disturb
from benchmarks.suite.report import Named, Run
from benchmarks.suite.tables import Column
from benchmarks.suite.valkey import valkey

NAME = "cluster"
ABOUT = "Whether anything is lost or done twice when nodes and their engine are killed, paused and drained."

MINUTES: Final = 5.0
NODES: Final = 3
LEASE: Final = 2.0
COLUMNS: Final = [
    Column("disturbances", "disturbances", digits=0),
    Column("asked", "amounts asked for", digits=0),
    Column("later", "of them for later", digits=0),
    Column("sessions", "sessions", digits=0),
    Column("interrupted", "interruptions", digits=0),
    Column("heard", "balances heard", digits=0),
    Column("letters", "letters", digits=0),
    Column("wrong", "lost, twice or out of order", digits=0, better="low"),
]


def run(run: Run) -> None:
    """Disturb them for as long as was asked for, in one round."""
    minutes = run.options.minutes or (0.2 if run.quick else MINUTES)
    seed = random.randrange(1 << 32) if run.options.seed is None else run.options.seed
    table = run.table(
        "cluster",
        f"20 clients of 10 ledgers, and 10 people who write letters, at {NODES} nodes, for {minutes:g} min",
        COLUMNS,
        note="Nodes are killed, paused, stopped and drained; the engine is killed and paused. In the end "
        "each balance is the sum of what was asked for, once each, at every node, and after all were killed; "
        "each client has heard every balance from when it came, once and in order; each letter came once.",
    )
    run.remark(f"The seed was {seed}. Leases are {LEASE:g} s.")
    found = valkey()
    ours = Named(f"trio_rooms, {found.version or 'Valkey'}", "ours", found.absent)
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        for number, entrant in enumerate(run.each([ours], table)):
            with run.attempt(entrant):
                data = folder / str(number)
                data.mkdir()
                told = partial(_progress, run, 60 * minutes)
                living = partial(
                    disturb,
                    data,
                    60 * minutes,
                    seed + number,
                    program=found.path,
                    nodes=NODES,
                    lease=LEASE,
                    told=told,
                )
                result = trio.run(living)
                run.measured(
                    table,
                    entrant,
                    disturbances=result.done.total(),
                    asked=result.clients.asked,
                    later=result.clients.scheduled,
                    sessions=result.clients.sessions,
                    interrupted=result.clients.interrupted + result.interrupted,
                    heard=result.clients.heard,
                    letters=result.letters,
                    wrong=0,
                )
                run.remark(f"Round {number + 1}: {result}. Nothing was lost, nothing came twice.")


def _progress(run: Run, seconds: float, passed: float) -> None:
    run.progress(f"{passed:,.0f} of {seconds:,.0f} s", passed / seconds)
