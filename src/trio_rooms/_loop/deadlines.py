"""Deadlines of many owners, kept by one task.

A room has an idle deadline and a snapshot deadline, a closing socket has one more. A Trio
cancel scope for each would be touched at every message; here an owner sets a deadline once,
looks at the clock when it is due, and sets it again if it was too early. So a message costs
no timer, and a thousand rooms cost one heap.

Ten thousand rooms may have the same deadline. What a deadline sets going can wait a little, a
message cannot: so a few are called at a time, as many as leave the event loop responsive.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import attrs
import trio

__all__ = ["Deadline", "Deadlines"]

Deadline = list[Any]
"""One deadline that was set, for `Deadlines.cancel`: when, a number to tell equal times apart, what to call.

A list, because the heap compares lists in C, and because it can be emptied where it stands.
"""

_FEWEST: Final = 8
_MOST: Final = 256
"""Deadlines that are called between two turns of the event loop, at least and at most."""
_SHORT: Final = 0.002
_LONG: Final = 0.004
"""Seconds that what they set going may take until more of them, or fewer, are called the next time."""
_WORTH: Final = 64
"""Cancelled deadlines that may stay in the heap in any case; fewer are not worth a look at all."""


@attrs.define(eq=False)
class Deadlines:
    """Calls synchronous functions at times of Trio's clock."""

    _heap: list[Deadline] = attrs.field(init=False, factory=list)
    _numbers: itertools.count[int] = attrs.field(init=False, factory=itertools.count)
    _sleep: trio.CancelScope | None = attrs.field(init=False, default=None)
    _cancelled: int = attrs.field(init=False, default=0)

    def __len__(self) -> int:
        """How many it keeps, cancelled ones that are still there included."""
        return len(self._heap)

    def set(self, when: float, call: Callable[[], object]) -> Deadline | None:
        """Call ``call()`` at ``when`` on Trio's clock, or as soon after it as the loop gets to it.

        It must not raise. A deadline at ``math.inf`` is not kept, and None is returned.
        """
        if when == math.inf:
            return None
        deadline: Deadline = [when, next(self._numbers), call]
        heapq.heappush(self._heap, deadline)
        if self._sleep is not None and when < self._sleep.deadline:
            self._sleep.deadline = when
        return deadline

    def cancel(self, deadline: Deadline | None) -> None:
        """Do not call it any more, and let go of what it would have called. A second time does nothing."""
        if deadline is None or deadline[2] is None:
            return
        deadline[2] = None
        self._cancelled += 1
        if self._cancelled > _WORTH and 2 * self._cancelled > len(self._heap):
            # In place: `run` holds on to the list.
            self._heap[:] = [kept for kept in self._heap if kept[2] is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def run(self) -> None:
        """Call what is due, until cancelled."""
        heap = self._heap
        few = _FEWEST
        while True:
            with trio.CancelScope(deadline=heap[0][0] if heap else math.inf) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None
            # Whoever was woken together with this, by what has arrived, goes before it is called late.
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                began = perf_counter()
                for _ in range(few):
                    self._call_next()
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

    def _call_next(self) -> None:
        """Take the earliest out, and call it unless it was cancelled."""
        deadline = heapq.heappop(self._heap)
        call = deadline[2]
        if call is None:
            self._cancelled -= 1
        else:
            deadline[2] = None  # What is called now can be cancelled no more.
            call()
