"""Connections to durable rooms that ask again before they are answered."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from benchmarks.suite.dialects import client_frame, server_frame
from benchmarks.suite.opening import LoadError

__all__ = ["Pipelines"]

_TEXT: Final = 0x81
_ACKNOWLEDGED: Final = 64
"""Messages after which a client says what it has, as the client libraries do."""
_PATIENCE: Final = 60.0
_PIECE: Final = 1 << 16


class Pipelines:
    """The clients of ledgers, each the only one of its own.

    So the same bytes go to all of them and come from all of them: of message N the balance N, with or without
    the event that tells it to everybody.

    Args:
        epoll: knows all descriptors.
        fds: connections that have said nothing yet.
        event: what they ask for, ``add`` or ``count``; the second is answered alone.
    """

    def __init__(self, epoll: select.epoll, fds: Sequence[int], event: str) -> None:
        self._epoll = epoll
        self._event = event
        self._frames: list[bytes] = []
        self._stream = b""
        self._ends: list[int] = []
        self._sent = dict.fromkeys(fds, 0)
        self._answered = dict.fromkeys(fds, 0)
        self._at = dict.fromkeys(fds, 0)

    def prepare(self, each: int) -> None:
        """Make so many exchanges more, before the clock runs."""
        made, parts = len(self._frames), [self._stream]
        end = len(self._stream)
        for number in range(made + 1, made + 1 + each):
            asked = f'{{"event":"{self._event}","data":{{"amount":1}},"id":{number}}}'
            self._frames.append(client_frame(_TEXT, asked.encode()))
            if self._event == "add":
                told = f'{{"event":"balance","data":{{"balance":{number},"count":{number}}},"seq":{number}}}'
                parts.append(server_frame(_TEXT, told.encode()))
                end += len(parts[-1])
            parts.append(server_frame(_TEXT, f'{{"ack":{number},"data":{{"balance":{number}}}}}'.encode()))
            end += len(parts[-1])
            self._ends.append(end)
        self._stream = b"".join(parts)

    def run(self, seconds: float, window: int, probe: bool) -> tuple[int, list[float]]:
        """Ask, with so many on their way on each connection, until the time is over and all is answered.

        Args:
            seconds: until when something is asked.
            window: how many.
            probe: whether the first connection has only one on its way, and is timed.

        Returns:
            How many answers came in that time, and seconds from question to answer of the first connection.

        Raises:
            LoadError: something else came, or nothing.
        """
        probed = next(iter(self._sent)) if probe else -1
        sent, answered, at, ends = self._sent, self._answered, self._at, self._ends
        poll, read, clock = self._epoll.poll, os.read, perf_counter
        begins, frames = self._stream.startswith, self._frames
        took: list[float] = []
        for fd in sent:
            self._send(fd, 1 if fd == probed else window)
        asked = clock()
        count, until = 0, clock() + seconds
        last: int | None = None
        while True:
            now = clock()
            if last is None and now >= until:
                last = count
            if last is not None and answered == sent:
                return last, took
            events = poll(_PATIENCE, 256)
            if not events:
                raise LoadError("nothing has come for a minute, and something should have")
            for fd, _ in events:
                data = read(fd, _PIECE)
                place = at[fd]
                if not data or not begins(data, place):
                    raise _wrong(data, self._stream[place : place + len(data)])
                at[fd] = place = place + len(data)
                done = before = answered[fd]
                while done < len(ends) and ends[done] <= place:
                    done += 1
                if done == before:
                    continue
                answered[fd] = done
                count += done - before
                if fd == probed:
                    took.append(clock() - asked)
                if last is None:
                    first = sent[fd]
                    sent[fd] = first + done - before
                    if sent[fd] > len(frames):
                        raise LoadError(f"{len(frames)} messages of each connection were too few")
                    said = b"".join(frames[first : first + done - before])
                    if done // _ACKNOWLEDGED > before // _ACKNOWLEDGED:
                        said = _acknowledgement(done) + said
                    if os.write(fd, said) != len(said):
                        raise LoadError("the server does not read what it is sent")
                    if fd == probed:
                        asked = clock()

    def _send(self, fd: int, count: int) -> None:
        first = self._sent[fd]
        said = b"".join(self._frames[first : first + count])
        if os.write(fd, said) != len(said):
            raise LoadError("the server does not read what it is sent")
        self._sent[fd] = first + count


def _acknowledgement(number: int) -> bytes:
    return client_frame(_TEXT, f'{{"ack":{number},"id":{number}}}'.encode())


def _wrong(data: bytes, wanted: bytes) -> LoadError:
    if not data:
        return LoadError("the server hung up")
    place = next(
        (i for i, pair in enumerate(zip(data, wanted, strict=False)) if pair[0] != pair[1]), len(wanted)
    )
    near = slice(max(0, place - 60), place + 60)
    return LoadError(f"it said {data[near]!r} and not {wanted[near]!r}")
