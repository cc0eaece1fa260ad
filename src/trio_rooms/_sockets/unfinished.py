"""What is under way on one connection: a message that has come in part, output that has gone in part."""

from __future__ import annotations

from collections import deque
from typing import Final

from trio_rooms._wire import frames

__all__ = ["Output", "Unfinished", "held"]

_FRAME: Final = 64
"""Bytes that a frame takes beside its content while it waits: of a pong, nearly all."""

_AT_ONCE: Final = 64
"""Frames handed to one writev; Linux takes 1,024 at most, POSIX promises 16."""


def held(size: int, count: int) -> int:
    """What ``count`` frames of ``size`` bytes take while they wait: what a backlog is compared with."""
    return size + _FRAME * count


class Output:
    """Frames that wait for the kernel, the first perhaps half sent."""

    __slots__ = ("_frames", "_offset", "last", "size")

    def __init__(self, frame: bytes, offset: int) -> None:
        self._frames = deque((frame,))
        self._offset = offset
        self.size: int = len(frame) - offset
        self.last: bool = False
        """Whether nothing may follow, so that the socket is shut down when all of it is sent."""

    def add(self, frame: bytes, limit: int) -> bool:
        """Queue a frame, unless what waits already takes more than ``limit`` bytes."""
        if held(self.size, len(self._frames)) > limit:
            return False
        self._frames.append(frame)
        self.size += len(frame)
        return True

    def cut(self) -> None:
        """Forget all frames but one that is half sent."""
        first = self._frames[0]
        self._frames.clear()
        self.size = 0
        if self._offset:
            self._frames.append(first)
            self.size = len(first) - self._offset

    def next(self) -> list[bytes | memoryview]:
        """The next pieces to write, in order."""
        pieces: list[bytes | memoryview] = []
        for frame in self._frames:
            pieces.append(frame)
            if len(pieces) == _AT_ONCE:
                break
        if self._offset:
            pieces[0] = memoryview(pieces[0])[self._offset :]
        return pieces

    def sent(self, count: int) -> bool:
        """Take note of what was written; True when nothing is left."""
        self.size -= count
        count += self._offset
        while self._frames and count >= len(self._frames[0]):
            count -= len(self._frames.popleft())
        self._offset = count
        return not self._frames


class Unfinished:
    """Both of them; a connection has one of these only while it has either."""

    __slots__ = ("output", "partial")

    def __init__(self, partial: frames.Partial | None, output: Output | None) -> None:
        self.partial: frames.Partial | None = partial
        self.output: Output | None = output
