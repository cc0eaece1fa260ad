"""Whether anything is lost, or done twice, when the server is killed again and again."""

from __future__ import annotations

import random
from functools import partial
from typing import Final

import trio

from benchmarks.suite import disk
from benchmarks.suite.killed import kill_again_and_again
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column

NAME = "crash"
ABOUT = "Whether anything is lost or done twice when the server is killed again and again."

KILLS: Final = 200
COLUMNS: Final = [
    Column("kills", "kills", digits=0),
    Column("asked", "amounts asked for", digits=0),
    Column("later", "of them for later", digits=0),
    Column("tries", "tries of these", digits=0),
    Column("sessions", "sessions", digits=0),
    Column("interrupted", "interruptions", digits=0),
    Column("heard", "balances heard", digits=0),
    Column("wrong", "lost, twice or out of order", digits=0, better="low"),
]


def run(run: Run) -> None:
    """Kill it as often as was asked for, in one round."""
    kills = run.options.kills or (10 if run.quick else KILLS)
    seed = random.randrange(1 << 32) if run.options.seed is None else run.options.seed
    table = run.table(
        "crash",
        f"20 clients add to 10 ledgers, and their server is killed {kills:,} times",
        COLUMNS,
        note="At the end each balance is the sum of what was asked for, once each; each client has heard "
        "every balance from when it came, once and in order; what was to be added later was, once.",
    )
    run.remark(f"The seed was {seed}.")
    ours = run.entrant("trio_rooms, DiskStore", "ours")
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        for number, entrant in enumerate(run.each([ours], table)):
            with run.attempt(entrant):
                data = folder / str(number)
                data.mkdir()
                told = partial(_progress, run, kills)
                tally = trio.run(partial(kill_again_and_again, data, kills, seed + number, told=told))
                run.measured(
                    table,
                    entrant,
                    kills=tally.kills,
                    asked=tally.asked,
                    later=tally.scheduled,
                    tries=tally.tries,
                    sessions=tally.sessions,
                    interrupted=tally.interrupted,
                    heard=tally.heard,
                    wrong=0,
                )
                run.remark(f"Round {number + 1}: {tally}. Nothing was lost, nothing came twice.")


def _progress(run: Run, kills: int, done: int) -> None:
    run.progress(f"{done:,} of {kills:,} kills", done / kills)
