"""What waits, and what it costs meanwhile: sessions with a connection and without, and schedules."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from benchmarks.suite import disk
from benchmarks.suite.dialects import JSON, SESSIONLESS, Dialect
from benchmarks.suite.load import Load
from benchmarks.suite.numbers import slope
from benchmarks.suite.processes import Memory, Process, cpu_seconds, memory, start
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group, Table
from trio_rooms.stores.sqlite.database import FILE_NAME

NAME = "parked"
ABOUT = "What sessions and schedules cost that wait."

PAYLOAD: Final = 5
PATIENCE: Final = 15.0
QUIET: Final = 0.001
"""The share by which the memory of a server at rest may still change in a second."""
AT_ONCE: Final = 1500
"""Clients that are in use together: what many take for a moment leaves gaps in a process's memory."""
FIRST: Final = 1000
"""Sessions that are made by clients; the others are copies of their rows."""
EACH: Final = 100
"""Timers of a room."""
AHEAD: Final = 5.0
"""Seconds from the start of a server until everything is due."""


@attrs.frozen
class Parked:
    """Clients whose room sleeps."""

    name: str
    dialect: Dialect
    messages: int = 0
    """How many each has been sent reliably and has not acknowledged."""
    group: Group = "ours"
    absent: str = ""


PLAIN: Final = "no session"
CLIENTS: Final = [
    Parked(PLAIN, SESSIONLESS),
    Parked("a session", JSON),
    Parked("a session, ten messages unacknowledged", JSON, 10),
]


@attrs.frozen
class Waiting:
    """What is in the store alone."""

    name: str
    table: str
    """Of the store's file."""
    due: str
    """The column that says when."""
    group: Group = "ours"
    absent: str = ""


STORED: Final = [
    Waiting("sessions whose clients are away", "sessions", "until"),
    Waiting("schedules", "timers", "due"),
]


def run(run: Run) -> None:
    """Measure clients, and what has none."""
    most = max(run.connections(18_000, quick=100), 10)
    counts = [most // 2, most] if run.quick else [most // 2, most * 3 // 4, most]
    stored = 1000 if run.quick else 100_000
    parked = run.table(
        "parked",
        f"A client of {most:,} in a room that sleeps",
        [
            Column("anonymous", "memory of the server for each", unit="B", digits=0, better="low"),
            Column("whole", "Rss in all", unit="MB", better="low", spread=False),
        ],
        drawn="anonymous",
        baseline=PLAIN,
        note=f"A slope over {', '.join(f'{count:,}' for count in counts)} clients, each in a server of "
        "its own. Python takes memory 1 MiB at a time, so a slope may be off by some of "
        f"{2**20 / (most - most // 2):,.0f} bytes.",
    )
    waiting = run.table(
        "waiting",
        f"{stored:,} that wait in the store, and are due all at once",
        [
            Column("memory", "memory of the server for each", unit="B", digits=1, better="low"),
            Column("seconds", "all are done", unit="s", better="low"),
            Column("cpu", "processor time for each", unit="µs", better="low"),
            Column("lag", "longest that others wait", unit="ms", better="low"),
        ],
        note=f"Memory: how much more a server has with them than without, at rest. Sessions are in one room, "
        f"schedules {EACH} in each. Others wait: a task that is ready each millisecond, "
        "while all of them end or fire.",
    )
    with disk.folder(run.options.results) as folder:
        run.remark(str(disk.disk_of(folder)))
        for clients in run.each(CLIENTS, parked):
            with run.attempt(clients):
                _measure_clients(run, parked, clients, counts, folder)
        for kind in run.each(STORED, waiting):
            with run.attempt(kind), disk.folder(folder) as data:
                _measure_waiting(run, waiting, kind, data, stored)


@contextlib.contextmanager
def _server(data: Path) -> Iterator[tuple[Process, int]]:
    """A server, and its port."""
    with start(sys.executable, "-m", "benchmarks.servers.parked", str(data)) as process:
        yield process, int(process.line().rpartition(":")[2])


def _do(process: Process, command: str) -> str:
    process.write(command)
    return process.line(600)


def _sleep(process: Process) -> None:
    if _do(process, "sleep") != "True":
        raise process.failure("has a room that does not sleep")


def _measure_clients(run: Run, table: Table, clients: Parked, counts: list[int], folder: Path) -> None:
    held = []
    for number, count in enumerate(counts):
        run.progress(f"{clients.name}: {count:,} clients", number / len(counts))
        with disk.folder(folder) as data, _server(data) as (process, port), Load() as load:
            for first in range(0, count, AT_ONCE):
                opened = min(first + AT_ONCE, count)
                load.open(port, "/crowd/x", 1, clients.dialect, opened)
                load.storm(range(first, opened), PAYLOAD)
                _sleep(process)
            if clients.messages:
                _do(process, f"tell {clients.messages}")
                _sleep(process)
            held.append(_at_rest(run, process))
    run.measured(
        table,
        clients,
        anonymous=slope(counts, [one.anonymous for one in held]),
        whole=held[-1].rss,
    )


def _at_rest(run: Run, process: Process) -> Memory:
    """What a server holds when that does not change any more."""
    deadline = time.monotonic() + PATIENCE
    held = memory(process.pid)
    while time.monotonic() < deadline:
        time.sleep(0.05 if run.quick else 1.0)
        before, held = held, memory(process.pid)
        if run.quick or abs(held.anonymous - before.anonymous) <= QUIET * before.anonymous:
            break
    return held


def _measure_waiting(run: Run, table: Table, kind: Waiting, data: Path, count: int) -> None:
    with _server(data) as (process, port), Load() as load:
        run.progress(f"{kind.name}: they are made", 0.1)
        if kind.table == "timers":
            _do(process, f"schedule {count // EACH} {EACH}")
        else:
            load.open(port, "/crowd/x", 1, JSON, min(FIRST, count))
            load.storm(range(min(FIRST, count)), PAYLOAD)
            # Its end tells the store of them all.
            _do(process, "sleep")
    file = data / FILE_NAME
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        if kind.table == "sessions":
            _multiply(connection, count)
        _set_due(connection, kind, time.time() + 1e6)
        (found,) = connection.execute(f"SELECT count(*) FROM {kind.table}").fetchone()  # noqa: S608
        if found != count:
            raise AssertionError(f"{found} {kind.name} were made, and not {count}")
    with disk.folder(data) as nothing, _server(nothing) as (process, _):
        empty = _at_rest(run, process).anonymous
    with _server(data) as (process, _):
        held = _at_rest(run, process).anonymous
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        due = time.time() + AHEAD
        _set_due(connection, kind, due)
    with _server(data) as (process, _):
        _do(process, "lag")
        time.sleep(max(0.0, due - 0.5 - time.time()))
        _do(process, "lag")
        spent = cpu_seconds(process.pid)
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            while connection.execute(f"SELECT 1 FROM {kind.table} LIMIT 1").fetchone():  # noqa: S608
                time.sleep(0.02)
        seconds = time.time() - due
        lag = float(_do(process, "lag"))
        spent = cpu_seconds(process.pid) - spent
    run.measured(table, kind, memory=(held - empty) / count, seconds=seconds, cpu=spent / count, lag=lag)


def _set_due(connection: sqlite3.Connection, kind: Waiting, at: float) -> None:
    gone = ", link = 0" if kind.table == "sessions" else ""
    connection.execute(f"UPDATE {kind.table} SET {kind.due} = ?{gone}", (at,))  # noqa: S608


def _multiply(connection: sqlite3.Connection, count: int) -> None:
    """Make so many sessions of those that there are, each with an id of its own."""
    columns = [row[1] for row in connection.execute("PRAGMA table_info(sessions)")]
    (there,) = connection.execute("SELECT count(*) FROM sessions").fetchone()
    if there == count:
        return
    others = ", ".join("sid + copies.n" if column == "sid" else column for column in columns)
    connection.execute(
        f"WITH RECURSIVE copies (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < ?) "  # noqa: S608
        f"INSERT INTO sessions ({', '.join(columns)}) SELECT {others} FROM sessions, copies",
        (count // there - 1,),
    )
