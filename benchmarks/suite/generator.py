"""The load generator: asks as fast as Python can, and compares every byte that comes back.

A process of its own, so that its work is not in the server's figures: one line of JSON in for each thing to
do, one out with what was seen. `benchmarks.suite.load.Load` drives it, and says what the figures mean.

What it sends is made before the clock runs, and each of its loops is little more than ``epoll``, ``read`` and
``write``. Each measurement tells how busy it was, and a reflector in the server's place shows how fast it can
be at most. Linux alone.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import itertools
import json
import os
import random
import select
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

from benchmarks.suite.dialects import DIALECTS, PLAIN, Dialect
from benchmarks.suite.numbers import percentile
from benchmarks.suite.opening import Exchange, Handshakes, LoadError
from benchmarks.suite.pipelines import Pipelines

__all__ = ["COMMANDS", "Generator"]

COMMANDS: Final = (
    "open",
    "echo",
    "paced",
    "gather",
    "fanout",
    "ask",
    "storm",
    "pipeline",
    "hear",
    "segments",
    "close",
)
_VARIANTS: Final = 4
"""Different messages of each connection, in turn: the answer to an earlier one is noticed."""
_PATIENCE: Final = 60.0
"""Seconds in which something must come from the server."""
_BATCH: Final = 16
"""Messages that may go out in a row before answers are looked for."""
_CALLS: Final = 5
"""Messages after which everybody must have heard one."""
_PAUSE: Final = 3.0
"""Seconds without an arrival after which the others have missed a message."""
_A_MOMENT: Final = 0.01
"""Seconds in which nothing must come that was not asked for."""
_EVENTS: Final = 1024
_IN_TIME: Final = 0.1
"""Seconds after the end of a paced run in which an answer still counts as having kept up."""
_TCP_INFO_SIZE: Final = 256
_DATA_SEGS_IN: Final = 152
"""Where Linux has that in its ``struct tcp_info``."""
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-+*/()=!?#"

Figures = dict[str, Any]


class Generator:
    """The clients of one server, by index."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fds: list[int] = []
        self._dialect: Dialect = PLAIN
        self._letters = bytes(random.Random(1).choices(_LETTERS, k=1 << 18))
        self._made = 0
        self._pipelines: Pipelines | None = None

    def open(
        self, port: int, path: str, rooms: int, dialect: str, count: int, at_once: int, said: int
    ) -> Figures:
        """Open connections until there are ``count``."""
        self._dialect = DIALECTS[dialect]
        more = range(len(self._fds), count)
        first = {index: next(self._variants(said)) for index in more} if said else {}
        handshakes = Handshakes(self._epoll, port, path, rooms, self._dialect, first)
        with _hot() as took:
            opened = handshakes.open(more, at_once)
            figures = took()
        self._fds += [opened[index] for index in more]
        return {**figures, "count": len(more), "failed": handshakes.failed, "latencies": handshakes.latencies}

    def close(self) -> Figures:
        """Close all connections, with an RST."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._pipelines = None
        return {}

    def echo(self, seconds: float, payload_size: int, connections: int | None) -> Figures:
        """Each connection asks, and asks again when it has its answer."""
        fds = self._fds[:connections]
        ask = self._exchanges(fds, payload_size)
        limit = len(self._dialect.reply(self._payload(payload_size))) + 1
        waiting: dict[int, bytes] = {}
        parts: dict[int, bytes] = {}
        poll, read, write, clock = self._epoll.poll, os.read, os.write, perf_counter
        count = 0
        with _hot() as took:
            for fd in fds:
                frame, waiting[fd] = ask[fd]()
                _send(fd, frame)
            until = clock() + seconds
            while clock() < until:
                events = poll(_PATIENCE, _EVENTS)
                if not events:
                    raise _silence(len(fds))
                for fd, _ in events:
                    data = read(fd, limit)
                    if data != waiting[fd] and not _completes(parts, fd, data, waiting[fd]):
                        continue
                    frame, waiting[fd] = ask[fd]()
                    if write(fd, frame) != len(frame):
                        raise LoadError("the server does not read what it is sent")
                    count += 1
            figures = took()
        self._collect(waiting, parts)
        self._expect_silence()
        return {**figures, "rate": count / figures["seconds"], "checked": count + len(fds)}

    def paced(self, seconds: float, rate: float, payload_size: int, connections: int | None) -> Figures:
        """Connections ask in turn, at a steady rate whatever the server does."""
        fds = self._fds[:connections]
        ask = self._exchanges(fds, payload_size)
        turns = itertools.cycle(fds)
        total = max(1, round(seconds * rate))
        owed: dict[int, collections.deque[tuple[float, bytes]]] = {fd: collections.deque() for fd in fds}
        parts: dict[int, bytes] = {}
        unsent: dict[int, bytes] = {}
        answered: list[tuple[float, float]] = []
        late: list[float] = []
        poll, read, clock = self._epoll.poll, os.read, perf_counter
        with _hot() as took:
            began = due = heard = clock()
            while len(answered) < total:
                for _ in range(_BATCH):
                    now = clock()
                    if now < due or len(late) == total:
                        break
                    fd = next(turns)
                    frame, reply = ask[fd]()
                    owed[fd].append((due, reply))
                    late.append(now - due)
                    due = began + len(late) / rate
                    _send_later(unsent, fd, frame)
                for fd in tuple(unsent):
                    _send_later(unsent, fd, b"")
                events = poll(0, _EVENTS)
                if not events:
                    if clock() - heard > _PATIENCE:
                        raise _silence(len(late) - len(answered))
                    # Not epoll's own timeout, which is in whole milliseconds.
                    wait = 0.001 if unsent else 1.0 if len(late) == total else max(0.0, due - clock())
                    select.select((self._epoll,), (), (), wait)
                    continue
                for fd, _ in events:
                    data = read(fd, 1 << 16)
                    heard = clock()
                    if not data:
                        raise _wrong(data, b"")
                    data = parts.pop(fd, b"") + data
                    queue = owed[fd]
                    while queue and data.startswith(queue[0][1]):
                        since, reply = queue.popleft()
                        answered.append((since, heard))
                        data = data[len(reply) :]
                    if data:
                        if not queue or not queue[0][1].startswith(data):
                            raise _wrong(data, queue[0][1] if queue else b"")
                        parts[fd] = data
            figures = took()
        self._expect_silence()
        latencies = [at - since for since, at in answered]
        end = began + total / rate + _IN_TIME
        return {
            **figures,
            "p50": percentile(latencies, 50),
            "p99": percentile(latencies, 99),
            "max": max(latencies),
            "late": percentile(late, 99),
            "completed": sum(at <= end for _, at in answered),
            "expected": total,
        }

    def gather(self, payload_size: int) -> Figures:
        """The first connection sends until every connection has heard one message."""
        waiting: dict[int, bytes] = {}
        for _ in range(_CALLS):
            frame, reply = next(self._variants(payload_size))
            waiting = dict.fromkeys(self._fds, reply)
            parts: dict[int, bytes] = {}
            _send(self._fds[0], frame)
            while waiting and self._take(waiting, parts, {}, _PAUSE):
                pass
            if not waiting:
                self._expect_silence()
                return {}
        raise LoadError(f"{len(waiting):,} of {len(self._fds):,} connections hear nothing")

    def fanout(self, messages: int, payload_size: int) -> Figures:
        """The first connection sends, and every connection must hear it; then the next message."""
        fds = self._fds
        exchanges = list(self._variants(payload_size, messages))
        stream = b"".join([reply for _, reply in exchanges])
        begins, size = stream.startswith, len(stream) // messages
        heard = dict.fromkeys(fds, 0)
        """Bytes of the stream that each connection has."""
        first: list[float] = []
        last: list[float] = []
        poll, read, clock = self._epoll.poll, os.read, perf_counter
        with _hot() as took:
            for number, (frame, _) in enumerate(exchanges, 1):
                missing = len(fds)
                began = clock()
                _send(fds[0], frame)
                while missing:
                    events = poll(_PATIENCE, _EVENTS)
                    if not events:
                        raise _silence(missing)
                    for fd, _ in events:
                        data = read(fd, size + 1)
                        at = heard[fd]
                        if not data or not begins(data, at):
                            raise _wrong(data, stream[at : number * size])
                        heard[fd] = at = at + len(data)
                        if at == number * size:
                            missing -= 1
                            if len(first) < number:
                                first.append(clock() - began)
                last.append(clock() - began)
            figures = took()
        self._expect_silence()
        checked = messages * len(fds)
        return {
            **figures,
            "rate": checked / figures["seconds"],
            "first": first,
            "last": last,
            "checked": checked,
        }

    def ask(self, index: int, payload_size: int, at: int) -> Figures:
        """One connection sends, and one, the same or another, must hear it."""
        payload = self._payload(payload_size)
        frame, reply = self._dialect.request(payload), self._dialect.reply(payload)
        fd = self._fds[at]
        with _hot():
            began = perf_counter()
            _send(self._fds[index], frame)
            arrivals = self._collect({fd: reply}, {})
        return {"latency": arrivals[fd] - began}

    def storm(self, indexes: Sequence[int], payload_size: int) -> Figures:
        """Each of some connections asks once, all together."""
        fds = [self._fds[index] for index in indexes]
        ask = self._exchanges(fds, payload_size)
        waiting: dict[int, bytes] = {}
        parts: dict[int, bytes] = {}
        arrivals: dict[int, float] = {}
        with _hot():
            began = perf_counter()
            for number, fd in enumerate(fds, 1):
                frame, waiting[fd] = ask[fd]()
                _send(fd, frame)
                if number % _BATCH == 0:
                    self._take(waiting, parts, arrivals, 0)
            sending = perf_counter() - began
            arrivals |= self._collect(waiting, parts)
        self._expect_silence()
        return {"latencies": [arrivals[fd] - began for fd in fds], "sending": sending}

    def pipeline(self, seconds: float, window: int, event: str, each: int, probe: bool) -> Figures:
        """Each connection has some messages on its way to a ledger of its own."""
        if self._pipelines is None:
            self._pipelines = Pipelines(self._epoll, self._fds, event)
        self._pipelines.prepare(each)
        with _hot() as took:
            answered, latencies = self._pipelines.run(seconds, window, probe)
            figures = took()
        self._expect_silence()
        return {**figures, "rate": answered / seconds, "answered": answered, "latencies": latencies}

    def hear(self, messages: int, first: int) -> Figures:
        """Each connection from one on hears so many messages, which nobody has asked for here."""
        missing = dict.fromkeys(self._fds[first:], messages)
        parts: dict[int, bytes] = {}
        heard = 0.0
        with _hot() as took:
            while missing:
                events = self._epoll.poll(_PATIENCE, _EVENTS)
                if not events:
                    raise _silence(len(missing))
                for fd, _ in events:
                    data = os.read(fd, 1 << 16)
                    count, parts[fd] = _messages(parts.get(fd, b"") + data)
                    left = missing.get(fd, 0) - count
                    if not data or left < 0:
                        raise _wrong(data, b"")
                    if left or parts[fd]:
                        missing[fd] = left
                    else:
                        missing.pop(fd, None)
                heard = perf_counter()
            figures = took()
        return {"heard": heard, "cpu_share": figures["cpu_share"]}

    def segments(self) -> Figures:
        """How many segments with data have come, on all connections since they were opened."""
        return {"count": sum(_segments(fd) for fd in self._fds)}

    def _expect_silence(self) -> None:
        """Notice what came too often."""
        for fd, _ in self._epoll.poll(_A_MOMENT, 1):
            raise _wrong(os.read(fd, 1 << 16), b"")

    def _collect(self, waiting: dict[int, bytes], parts: dict[int, bytes]) -> dict[int, float]:
        """Wait until every answer that is waited for has come; when each did."""
        arrivals: dict[int, float] = {}
        while waiting:
            if not self._take(waiting, parts, arrivals, _PATIENCE):
                raise _silence(len(waiting))
        return arrivals

    def _take(
        self, waiting: dict[int, bytes], parts: dict[int, bytes], arrivals: dict[int, float], timeout: float
    ) -> bool:
        events = self._epoll.poll(timeout, _EVENTS)
        for fd, _ in events:
            wanted = waiting.get(fd, b"")
            data = os.read(fd, len(wanted) + 1)
            if (data == wanted and data) or _completes(parts, fd, data, wanted):
                arrivals[fd] = perf_counter()
                del waiting[fd]
        return bool(events)

    def _exchanges(self, fds: Sequence[int], payload_size: int) -> dict[int, Callable[[], Exchange]]:
        """For each connection what gives the next frame to send and its answer."""
        return {fd: itertools.cycle(list(self._variants(payload_size))).__next__ for fd in fds}

    def _variants(self, payload_size: int, count: int = _VARIANTS) -> Iterator[Exchange]:
        for _ in range(count):
            payload = self._payload(payload_size)
            yield self._dialect.request(payload), self._dialect.reply(payload)

    def _payload(self, size: int) -> bytes:
        """One that was never sent before, as far as so many bytes allow."""
        self._made += 1
        number = b"%d " % self._made
        at = self._made * 7919 % (len(self._letters) - size)
        return (number + self._letters[at : at + size])[:size]


def _send(fd: int, frame: bytes) -> None:
    """Send a frame whole, although the server may take a while to read it."""
    unsent: dict[int, bytes] = {}
    _send_later(unsent, fd, frame)
    while unsent:
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        if not poller.poll(_PATIENCE * 1000):
            raise LoadError("the server does not read what it is sent")
        _send_later(unsent, fd, b"")


def _send_later(unsent: dict[int, bytes], fd: int, frame: bytes) -> None:
    """Send what can be sent now, and keep the rest."""
    if fd in unsent:
        frame = unsent.pop(fd) + frame
    try:
        sent = os.write(fd, frame)
    except BlockingIOError:
        sent = 0
    if sent < len(frame):
        unsent[fd] = frame[sent:]


def _completes(parts: dict[int, bytes], fd: int, data: bytes, wanted: bytes) -> bool:
    """Whether what came makes an answer whole that came in pieces."""
    whole = parts.pop(fd, b"") + data
    if not data or not wanted.startswith(whole):
        raise _wrong(whole, wanted)
    if len(whole) < len(wanted):
        parts[fd] = whole
        return False
    return True


def _messages(data: bytes) -> tuple[int, bytes]:
    """How many whole frames of a server begin something, and what is behind them (RFC 6455 section 5.2)."""
    count = at = 0
    while len(data) >= at + 4:
        size, head = data[at + 1], 2
        if size == 126:
            size, head = int.from_bytes(data[at + 2 : at + 4]), 4
        if len(data) < at + head + size:
            break
        at += head + size
        count += 1
    return count, data[at:]


def _segments(fd: int) -> int:
    """How many segments with data a socket has been sent."""
    with socket.socket(fileno=os.dup(fd)) as one:
        told = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    return int.from_bytes(told[_DATA_SEGS_IN : _DATA_SEGS_IN + 4], sys.byteorder)


def _wrong(data: bytes, wanted: bytes) -> LoadError:
    if not data:
        return LoadError("the server hung up")
    at = next(
        (i for i, pair in enumerate(zip(data, wanted, strict=False)) if pair[0] != pair[1]), len(wanted)
    )
    start = max(0, at - 16)
    return LoadError(
        f"{len(wanted):,} bytes should have come, and {len(data):,} did; from byte {start:,} on "
        f"{data[start : start + 120]!r} in place of {wanted[start : start + 120]!r}"
    )


def _silence(missing: int) -> LoadError:
    return LoadError(f"{missing:,} answers were missing, and none came for {_PATIENCE:.0f} s")


@contextlib.contextmanager
def _hot() -> Iterator[Callable[[], Figures]]:
    """Nothing is collected inside; what is yielded says how long it took, and how busy this process was."""
    gc.collect()
    gc.freeze()
    gc.disable()
    began, busy = perf_counter(), process_time()

    def took() -> Figures:
        seconds = perf_counter() - began
        return {"seconds": seconds, "cpu_share": (process_time() - busy) / seconds}

    try:
        yield took
    finally:
        gc.enable()
        gc.unfreeze()


def main() -> None:
    """Do what each line says."""
    with contextlib.suppress(OSError):
        # A timer may be so many nanoseconds late; the kernel's default of 50 µs would be in every latency.
        Path("/proc/self/timerslack_ns").write_text("1", encoding="ascii")
    generator = Generator()
    for line in sys.stdin:
        command, arguments = json.loads(line)
        assert command in COMMANDS
        try:
            answer = {"figures": getattr(generator, command)(**arguments)}
        except (LoadError, OSError) as error:
            answer = {"error": str(error) or type(error).__name__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
