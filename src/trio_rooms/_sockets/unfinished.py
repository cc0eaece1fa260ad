"""What is under way on one connection: a message that came in part, output that is not out or waits."""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from trio_rooms._wire import frames

from .postponed import Postponed

__all__ = ["Output", "Unfinished"]

_FRAME: Final = 64
"""Bytes that a frame takes beside its content while it waits: of a short one, nearly all."""

_AT_ONCE: Final = 64
"""Frames handed to one writev; Linux takes 1,024 at most, POSIX promises 16."""


class Output:
    """Frames that wait for the kernel, the first of them in flight: perhaps half sent, perhaps large.

    What is in flight is not held against the client. Else nothing could follow a message that is
    larger than the limit, however fast the client reads.
    """

    __slots__ = ("_emptied", "_frames", "_offset", "_placed", "_pong", "_seen", "_went", "last", "size")

    def __init__(self, frame: bytes, offset: int) -> None:
        self._frames = deque((frame,))
        self._offset = offset
        self._pong: bytes | None = None
        self._placed: bytes | None = None
        """The pong that was last put among the frames; it may be sent by now."""
        self._emptied: trio.Event | None = None
        self._went = 0
        """Bytes that the kernel has taken of it."""
        self._seen = -1 << 62
        """Those of them that had arrived at the last look."""
        self.size: int = len(frame) - offset
        """Bytes that are left to send."""
        self.last: bool = False
        """Whether nothing may follow, so that the connection is shut down when all of it is sent."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to write now, see `Replaying`."""
        return False

    def add(self, frame: bytes, limit: int) -> bool:
        """Queue a message, unless what waits behind the first one takes more than ``limit`` bytes already."""
        waiting = self._frames
        behind = self.size + self._offset - len(waiting[0])
        if behind + _FRAME * (len(waiting) - 1) > limit:
            return False
        waiting.append(frame)
        self.size += len(frame)
        return True

    def add_control(self, frame: bytes) -> None:
        """Queue a control frame, whatever waits.

        A pong takes the place of one that waits, since only the last ping needs an answer
        (RFC 6455, 5.5.3), and it goes out before the messages that have not begun.
        """
        self.size += len(frame)
        if frame[0] != frames.PONG_FRAME:
            self._frames.append(frame)
            return
        if self._pong is not None:
            self.size -= len(self._pong)
        self._pong = frame

    def cut(self, *, begun: bool = False) -> None:
        """Forget all frames but one that is half sent, or whose sending has ``begun``."""
        first = self._frames[0]
        self._frames.clear()
        self._pong = None
        self.size = 0
        if self._offset or begun:
            self._frames.append(first)
            self.size = len(first) - self._offset

    def next(self) -> list[bytes | memoryview]:
        """The next pieces to write, in order."""
        pieces: list[bytes | memoryview] = []
        for frame in self._up_next():
            pieces.append(frame)
            if len(pieces) == _AT_ONCE:
                break
        if self._offset:
            pieces[0] = memoryview(pieces[0])[self._offset :]
        return pieces

    def next_part(self, most: int) -> bytes | memoryview:
        """The next frame to write, or so many bytes of it at most."""
        first = self._up_next()[0]
        if not self._offset and len(first) <= most:
            return first
        return memoryview(first)[self._offset : self._offset + most]

    def _up_next(self) -> deque[bytes]:
        """What waits, with the pong in its place."""
        waiting, pong = self._frames, self._pong
        if pong is not None:
            at = 1 if self._offset else 0
            if len(waiting) > at and waiting[at] is self._placed:
                self.size -= len(waiting[at])
                waiting[at] = pong
            else:
                waiting.insert(at, pong)
            self._pong, self._placed = None, pong
        return waiting

    def sent(self, count: int) -> bool:
        """Take note of what was written; True when nothing is left."""
        self.size -= count
        self._went += count
        count += self._offset
        while self._frames and count >= len(self._frames[0]):
            count -= len(self._frames.popleft())
        self._offset = count
        if self.size:
            return False
        self.tell()
        return True

    def moved(self, unacknowledged: int) -> bool:
        """Whether more of it has arrived at the other side than at the last look, or this is the first.

        Args:
            unacknowledged: bytes that the kernel was given, and that have not arrived.
        """
        before, self._seen = self._seen, self._went - unacknowledged
        return self._seen > before

    async def emptied(self) -> None:
        """Wait until all of it is sent, or nobody waits for that any more."""
        if self._emptied is None:
            self._emptied = trio.Event()
        await self._emptied.wait()

    def tell(self) -> None:
        """Wake who waits for its end."""
        if self._emptied is not None:
            self._emptied.set()


class Unfinished:
    """All of it; a connection has one of these only while it has any of it."""

    __slots__ = ("output", "partial", "postponed")

    def __init__(
        self, partial: frames.Partial | None, output: Output | None, postponed: Postponed | None = None
    ) -> None:
        self.partial: frames.Partial | None = partial
        self.output: Output | None = output
        self.postponed: Postponed | None = postponed
