"""A room under test of which nothing is measured, and which nothing puts to sleep.

    python -m benchmarks.servers.unmeasured NAME

NAME is one of ``benchmarks/rooms.py``. It stands beside the same room as it is served, so that one sees what
metrics and policy cost. There is no such option: this takes out of the library what it is not meant to lose.
"""

from __future__ import annotations

import math
import sys
from typing import Final

import trio

from benchmarks import rooms
from trio_rooms import Policy, open_rooms
from trio_rooms._loop.collector import SERVER_THRESHOLDS
from trio_rooms._metrics.histogram import Histogram

NEVER: Final = Policy(
    idle_timeout=math.inf,
    ratio=0.0,
    max_active=None,
    max_awake=None,
    memory_limit=None,
    memory_stall=None,
    max_lag=None,
)


def note_nothing(self: Histogram, value: float) -> None:
    """In the place of `Histogram.note`."""


async def main(name: str) -> None:
    """Serve until it is ended."""
    room = getattr(rooms, name)
    async with (
        open_rooms([room], policy=NEVER, gc_thresholds=SERVER_THRESHOLDS) as opened,
        trio.open_nursery() as nursery,
    ):
        address = await nursery.start(opened.serve, "127.0.0.1", 0)
        print(f"listening on {address}", flush=True)


if __name__ == "__main__":
    Histogram.note = note_nothing  # type: ignore[method-assign]
    trio.run(main, sys.argv[1])
