"""Everything stands still for now: what waits for its end, and who asks whether it has begun."""

from __future__ import annotations

import trio

__all__ = ["Standstill"]


class Standstill:
    """Whether nothing may go out for now; one for all that belongs to the same hub.

    It begins and ends between any two steps, also in an instrument or a signal handler.
    """

    __slots__ = ("_over", "on")

    def __init__(self) -> None:
        self.on: bool = False
        """Whether it has begun, and not ended."""
        self._over: trio.Event | None = None

    def begin(self) -> None:
        """From now on."""
        self.on = True

    def end(self) -> None:
        """Until now: whoever waits for that goes on."""
        self.on = False
        over, self._over = self._over, None
        if over is not None:
            over.set()

    async def over(self) -> None:
        """Wait for the end; not a checkpoint where there is nothing to wait for."""
        while self.on:
            if self._over is None:
                self._over = trio.Event()
            await self._over.wait()
