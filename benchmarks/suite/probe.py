"""One client that speaks every few milliseconds, whatever the server does, until it is told to stop."""

from __future__ import annotations

import collections
import os
import select
import threading
from time import perf_counter
from types import TracebackType
from typing import Final, Self

from benchmarks.suite.dialects import PLAIN
from benchmarks.suite.opening import Handshakes, LoadError

__all__ = ["Probe"]

_PATIENCE: Final = 60.0
"""Seconds after which a message that has no answer will get none."""


class Probe:
    """A thread with a connection of its own; ends with the block.

    A message is sent when it is due, whether or not the one before it was answered, and its latency counts
    from then: a server that stands still for a second has let two hundred messages wait, and not one.

    Args:
        port: of the server, which sends each message back.
        path: of its room.
        every: seconds between two messages.
    """

    def __init__(self, port: int, path: str, every: float = 0.005) -> None:
        self.latencies: Final[list[float]] = []
        """Seconds from when each message was due until its answer was here; complete after the block."""
        self._every: Final = every
        self._stop: Final = threading.Event()
        self._error: BaseException | None = None
        self._epoll: Final = select.epoll()
        self._fd: Final = Handshakes(self._epoll, port, path, 1, PLAIN, {}).open(range(1), 1)[0]
        self._owed: Final[collections.deque[tuple[float, bytes]]] = collections.deque()
        self._unread = b""
        self._thread: Final = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._epoll.close()
        os.close(self._fd)
        if self._error is not None and kind is None:
            raise self._error

    def _run(self) -> None:
        try:
            self._probe()
        except (LoadError, OSError) as error:
            self._error = error

    def _probe(self) -> None:
        due = perf_counter()
        number = 0
        while not self._stop.is_set():
            while (wait := due - perf_counter()) > 0:
                # select, since epoll's own timeout is in whole milliseconds.
                if select.select([self._fd], [], [], wait)[0]:
                    self._read()
            message = b"probe %08d" % number
            self._owed.append((due, PLAIN.reply(message)))
            frame = PLAIN.request(message)
            if os.write(self._fd, frame) != len(frame):
                raise LoadError("the server does not read what it is sent")
            number += 1
            due += self._every
        until = perf_counter() + _PATIENCE
        while self._owed:
            if not select.select([self._fd], [], [], max(0.0, until - perf_counter()))[0]:
                raise LoadError(f"{len(self._owed)} messages were not answered within {_PATIENCE:.0f} s")
            self._read()

    def _read(self) -> None:
        self._unread += os.read(self._fd, 65536)
        now = perf_counter()
        if not self._unread:
            raise LoadError("the server hung up")
        while self._owed and self._unread.startswith(self._owed[0][1]):
            due, reply = self._owed.popleft()
            self.latencies.append(now - due)
            self._unread = self._unread[len(reply) :]
        expected = self._owed[0][1] if self._owed else b""
        if not expected.startswith(self._unread):
            raise LoadError(f"the server said {self._unread[:200]!r} instead of {expected!r}")
