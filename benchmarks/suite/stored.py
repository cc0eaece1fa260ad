"""Rooms that sleep in a data directory: many of them, written in one go.

    python -m benchmarks.suite.stored DIRECTORY BYTES NAME=COUNT ...

Each of ``NAME/0``, ``NAME/1``, ... has a state of about so many bytes; see ``benchmarks/servers/chat.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from benchmarks.servers.chat import remembered, rooms
from benchmarks.suite.processes import start
from trio_rooms import DiskStore, Store
from trio_rooms._state.snapshot import Snapshot
from trio_rooms.stores import Commit

__all__ = ["write"]

_AT_ONCE: Final = 2000
"""Commits on their way together: so many that the cost of a sync does not count."""
_PATIENCE: Final = 900
"""Seconds that it may take."""


def write(directory: Path, size: int, **counts: int) -> None:
    """Write so many rooms of each name, in a process of its own, whose memory ends with it.

    Raises:
        ProcessFailed: it could not.
    """
    told = [f"{name}={count}" for name, count in counts.items()]
    with start(sys.executable, "-m", "benchmarks.suite.stored", str(directory), str(size), *told) as process:
        if process.line(_PATIENCE) != "written":
            raise process.failure("did not write the rooms")


async def _write_all(directory: Path, size: int, told: Sequence[str]) -> None:
    async with DiskStore(directory) as store:
        for name, _, count in (one.partition("=") for one in told):
            await _write(store, size, name, int(count))
    print("written", flush=True)


async def _write(store: Store, size: int, name: str, count: int) -> None:
    room = next(one for one in rooms if one.name == name)
    state = room.seal().codec.encode(name, remembered(size))
    for first in range(0, count, _AT_ONCE):
        async with trio.open_nursery() as nursery:
            for number in range(first, min(first + _AT_ONCE, count)):
                document = Snapshot(name, str(number), room.version, 1, store.epoch, state).pack()
                nursery.start_soon(store.commit, Commit(f"{name}/{number}", 1, store.epoch, document))


if __name__ == "__main__":
    trio.run(_write_all, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
