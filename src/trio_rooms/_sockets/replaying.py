"""Output of a connection that is being sent what its session was away for: all else waits behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from .unfinished import Output

__all__ = ["Replaying"]

_FRAME: Final = 64
"""Bytes that a frame takes beside its content while it waits."""


class Replaying(Output):
    """Holds back what is sent meanwhile, whether or not the connection could take it.

    Args:
        attend: has what is there written, now that there is some.
    """

    __slots__ = ("_attend", "_held", "_held_size", "_over", "_written", "fed")
    size: int

    def __init__(self, attend: Callable[[], None]) -> None:
        super().__init__(b"", 0)
        self._frames.clear()
        self._attend = attend
        self._held: deque[bytes] = deque()
        self._held_size = 0
        self._over = False
        self._written: trio.Event | None = None
        self.fed: bool = False
        """Whether its first message has been sent: nothing may be heard before that."""

    def follow(self, output: Output) -> None:
        """Begin with what waits already."""
        self._frames, self._offset, self.size = output._frames, output._offset, output.size
        self._pong, self._placed = output._pong, output._placed

    @property
    def idle(self) -> bool:
        return not self._frames and self._pong is None

    def add(self, frame: bytes, limit: int) -> bool:
        if self._over:
            return super().add(frame, limit)
        if self._held_size > limit:
            return False
        self._held.append(frame)
        self._held_size += len(frame) + _FRAME
        self.size += len(frame)
        return True

    def add_control(self, frame: bytes) -> None:
        super().add_control(frame)
        self._attend()

    def cut(self, *, begun: bool = False) -> None:
        self._held.clear()
        self._held_size = 0
        if self._frames:
            super().cut(begun=begun)
        else:
            self.size = 0
        self._over = True

    def sent(self, count: int) -> bool:
        done = super().sent(count)
        if not self._frames and self._written is not None:
            self._written.set()
        return done and self._over

    def feed(self, frame: bytes) -> None:
        """Send something that the session was away for."""
        self.fed = True
        self._frames.append(frame)
        self.size += len(frame)
        self._attend()

    async def written(self) -> None:
        """Wait until all that was fed is written, or nobody waits for that any more."""
        if self.idle or self._over:
            await trio.lowlevel.checkpoint()
            return
        self._written = trio.Event()
        await self._written.wait()

    def end(self) -> bool:
        """All was sent: what was held back follows. Whether there is nothing of it, nor of anything else."""
        self._over = True
        self._frames.extend(self._held)
        self._held.clear()
        if self._written is not None:
            self._written.set()
        return self.idle

    def tell(self) -> None:
        super().tell()
        if self._written is not None:
            self._written.set()
