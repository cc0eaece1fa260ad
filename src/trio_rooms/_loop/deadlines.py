"""Deadlines of many owners, kept by one task.

A room has an idle deadline and a snapshot deadline, a closing socket has one more. A Trio
cancel scope for each would be touched at every message; here an owner sets an alarm once,
looks at the clock when it rings, and sets it again if it was too early. So a message costs
no timer, and a thousand rooms cost one heap.

Ten thousand rooms may have the same deadline. What an alarm sets going can wait a little, a
message cannot: so they ring a few at a time, as many as leave the event loop responsive.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from time import perf_counter
from typing import Final

import attrs
import trio

__all__ = ["Alarms"]

_FEWEST: Final = 8
_MOST: Final = 256
"""Alarms that ring between two turns of the event loop, at least and at most."""
_SHORT: Final = 0.002
_LONG: Final = 0.004
"""Seconds that what they set going may take until more of them, or fewer, ring the next time."""


@attrs.define(eq=False)
class Alarms:
    """Calls synchronous functions at times of Trio's clock."""

    _heap: list[tuple[float, int, Callable[[], object]]] = attrs.field(init=False, factory=list)
    _numbers: itertools.count[int] = attrs.field(init=False, factory=itertools.count)
    _sleep: trio.CancelScope | None = attrs.field(init=False, default=None)

    def set(self, when: float, ring: Callable[[], object]) -> None:
        """Call ``ring()`` at ``when`` on Trio's clock, or as soon after it as the loop gets to it.

        An alarm cannot be taken back: ``ring`` finds out whether it still matters. It must
        not raise. An alarm for ``math.inf`` is not kept.
        """
        if when == math.inf:
            return
        heapq.heappush(self._heap, (when, next(self._numbers), ring))
        if self._sleep is not None and when < self._sleep.deadline:
            self._sleep.deadline = when

    async def run(self) -> None:
        """Ring what is due, for ever."""
        heap = self._heap
        few = _FEWEST
        while True:
            with trio.CancelScope(deadline=heap[0][0] if heap else math.inf) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                began = perf_counter()
                for _ in range(few):
                    heapq.heappop(heap)[2]()
                    if not heap or heap[0][0] > now:
                        break
                else:
                    # Once for the tasks that were woken, once for those that these wake.
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
                    took = perf_counter() - began
                    if took < _SHORT:
                        few = min(2 * few, _MOST)
                    elif took > _LONG:
                        few = max(few // 2, _FEWEST)
