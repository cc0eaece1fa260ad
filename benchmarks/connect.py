"""What it takes to come in: handshakes a second, and a crowd of clients that come back all at once.

For the crowd, all connections are cut off first, as when a network fails, and when the server has let go of
the last, all clients connect at once. One is back when it has said something and heard it again. A client
whose connection is refused or reset tries again after a while; one for which there is no place in the
server's listen queue waits until its kernel knocks again, about a second later.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from benchmarks.suite.contestants import Contestant, Server, ours, peers, serving, versions
from benchmarks.suite.failures import Failed
from benchmarks.suite.load import BUSY, Load, Opened
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Table

NAME = "connect"
ABOUT = "How fast clients come in, and come back when all were cut off at once."

PAYLOAD: Final = 64
"""Bytes of what a client says when it is back."""
AT_ONCE: Final = 64
"""Handshakes on their way at once, before all come back."""
PATIENCE: Final = 60.0
"""Seconds that a server has to let go of those who were cut off."""
SPARE: Final = 20
"""Files that a server may have opened for itself meanwhile."""
STEADY: Final = [
    Column("rate", "handshakes/s", better="high"),
    Column("p50", "p50", unit="ms", better="low"),
    Column("p99", "p99", unit="ms", better="low"),
    Column("cpu", "generator", unit="%", digits=0, spread=False),
]
CROWD: Final = [
    Column("all", "all are back", unit="s", better="low"),
    Column("p50", "p50", unit="s", better="low"),
    Column("p99", "p99", unit="s", better="low"),
    Column("failed", "tried again", digits=0, better="low"),
    Column("dropped", "knocks at a full queue", digits=0, better="low", spread=False),
    Column("cpu", "generator", unit="%", digits=0, spread=False),
]


def contestants(count: int, *, few: bool) -> list[Contestant]:
    """All who take part, or a few, for so many clients."""
    return [
        Contestant("trio_rooms, 1 room", "ours", ours("plain"), path="/plain/x"),
        Contestant("trio_rooms, a room each", "ours", ours("plain"), path="/plain/{n}", rooms=count),
        *peers("echo", few=few),
    ]


def run(run: Run) -> None:
    """Measure each contestant."""
    count = run.connections(10_000, quick=300)
    entrants = contestants(count, few=run.few)
    run.versions.update(versions(entrants))
    queue = int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))
    steady = run.table(
        "steady",
        f"{count:,} clients come in, {AT_ONCE} at once",
        STEADY,
        drawn="rate",
        baseline="trio-websocket",
        note="p50 and p99: from connect() until the client may send.",
    )
    crowd = run.table(
        "crowd",
        f"{count:,} clients come back, all at once",
        CROWD,
        drawn="all",
        baseline="trio-websocket",
        note="From connect() until the client has said something and heard it again. A listen queue has "
        f"{queue:,} places here (net.core.somaxconn), or 512 where that is fixed (uWebSockets); who finds "
        "none knocks again by TCP's clock, a second later or more.",
    )
    for contestant in run.each(entrants):
        with run.attempt(contestant):
            measure(run, steady, crowd, contestant, count)


def measure(run: Run, steady: Table, crowd: Table, contestant: Contestant, count: int) -> None:
    """Start one contestant; let clients come in, cut them off, and let them come back."""
    with serving(contestant) as server, Load() as load:
        files = _files(server)
        _open(load, server, contestant, min(count, 500), AT_ONCE)  # Warms up.
        _cut_off(load, server, files)
        run.progress(f"{contestant.name}: {count:,} come in", 0.1)
        opened = _open(load, server, contestant, count, AT_ONCE)
        run.measured(
            steady,
            contestant,
            rate=opened.rate,
            p50=opened.p50,
            p99=opened.p99,
            cpu=opened.cpu_share,
            at_least=["rate", "p50", "p99"] if opened.cpu_share > BUSY else [],
            note=f"{opened.failed} tried again" if opened.failed else "",
        )
        load.storm(range(count), PAYLOAD)
        run.progress(f"{contestant.name}: {count:,} are cut off", 0.4)
        _cut_off(load, server, files)
        run.progress(f"{contestant.name}: {count:,} come back", 0.5)
        dropped = _dropped()
        opened = _open(load, server, contestant, count, count, said=PAYLOAD)
        run.measured(
            crowd,
            contestant,
            all=opened.seconds,
            p50=opened.p50,
            p99=opened.p99,
            failed=opened.failed,
            dropped=_dropped() - dropped,
            cpu=opened.cpu_share,
            at_least=["all", "p50", "p99"] if opened.cpu_share > BUSY else [],
        )


def _open(
    load: Load, server: Server, contestant: Contestant, count: int, at_once: int, said: int = 0
) -> Opened:
    return load.open(
        server.port, contestant.path, contestant.rooms, contestant.dialect, count, at_once, said=said
    )


def _cut_off(load: Load, server: Server, files: int) -> None:
    """Cut all clients off, and wait until the server has about as many files open as without them."""
    load.close()
    deadline = time.monotonic() + PATIENCE
    while _files(server) > files + SPARE:
        if time.monotonic() > deadline:
            raise Failed(
                f"{PATIENCE:.0f} s after all clients were cut off, it has {_files(server)} files open"
            )
        time.sleep(0.05)


def _files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def _dropped() -> int:
    """How often somebody has found a listen queue of this machine full."""
    names, values = (
        line.split()
        for line in Path("/proc/net/netstat").read_text(encoding="ascii").splitlines()
        if line.startswith("TcpExt:")
    )
    return int(values[names.index("ListenDrops")])
