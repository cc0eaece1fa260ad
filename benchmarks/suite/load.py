"""The clients of a server, driven from here: `Load` starts the generator, and speaks with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import attrs

from benchmarks.suite.dialects import PLAIN, Dialect
from benchmarks.suite.numbers import percentile
from benchmarks.suite.opening import LoadError
from benchmarks.suite.processes import Process, start

__all__ = ["BUSY", "Echoed", "FannedOut", "Load", "LoadError", "Opened", "Paced", "Piped", "Stormed"]

BUSY: Final = 0.9
"""The share of a processor from which on it is the generator that was measured: a rate is at least that."""
_TIMEOUT: Final = 900.0
"""Seconds for one command; the generator itself gives up sooner when nothing comes."""


@attrs.frozen
class Opened:
    """What opening connections took."""

    count: int
    """Connections that were opened now."""
    failed: int
    """Tries that were refused or reset on the way, each followed by another one after 0.1 to 1 s."""
    seconds: float
    cpu_share: float
    latencies: list[float] = attrs.field(repr=False)
    """Seconds from the first ``connect()`` until the connection was open, for each of them."""

    @property
    def rate(self) -> float:
        """Handshakes a second."""
        return self.count / self.seconds

    @property
    def p50(self) -> float:
        """Half of the connections took no longer."""
        return percentile(self.latencies, 50)

    @property
    def p99(self) -> float:
        """99 percent of the connections took no longer."""
        return percentile(self.latencies, 99)


@attrs.frozen
class Echoed:
    """A closed loop: each connection has one message on its way."""

    rate: float
    """Round trips a second."""
    seconds: float
    cpu_share: float
    checked: int
    """Answers that were compared, those after the end of the measurement too."""


@attrs.frozen
class Paced:
    """An open loop: messages are sent when they are due, whatever became of those before."""

    p50: float
    """Seconds from when a message was due until its answer was here."""
    p99: float
    max: float
    late: float
    """Seconds that the generator itself was late in sending, the 99th percentile. It is in the latencies."""
    completed: int
    """Answers that had come a tenth of a second after the end; all came in the end."""
    expected: int
    seconds: float
    cpu_share: float


@attrs.frozen
class FannedOut:
    """Messages of one connection that all of them must hear."""

    rate: float
    """Deliveries a second."""
    first: list[float] = attrs.field(repr=False)
    """Seconds from the sending of each message until one connection had it."""
    last: list[float] = attrs.field(repr=False)
    """Seconds from the sending of each message until every connection had it."""
    checked: int
    seconds: float
    cpu_share: float


@attrs.frozen
class Stormed:
    """One message on each of many connections, all together."""

    latencies: list[float] = attrs.field(repr=False)
    """Seconds to each answer, in the order of the connections, from one common beginning."""
    sending: float
    """Seconds until the last had been sent."""


@attrs.frozen
class Piped:
    """A closed loop in which each connection has some messages on its way to a ledger of its own."""

    rate: float
    """Answers a second."""
    answered: int
    latencies: list[float] = attrs.field(repr=False)
    """Seconds from each message of the first connection to its answer, where that one was timed."""
    seconds: float
    cpu_share: float


class Load:
    """The clients of one server, in a process of their own; all gone when the block ends.

    Every operation raises `LoadError` where a byte is not as it must be, or a connection ends, or the server
    is silent for a minute. Of no use after that.
    """

    def __init__(self) -> None:
        # Isolated from what a run may have set for the programs it measures, but the same Python.
        self._process: Final[Process] = start(sys.executable, "-m", "benchmarks.suite.generator")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Its sockets are set to be reset when they are closed, however that comes about.
        self._process.end()

    @property
    def pid(self) -> int:
        """The process of the generator."""
        return self._process.pid

    def open(
        self,
        port: int,
        path: str = "/",
        rooms: int = 1,
        dialect: Dialect = PLAIN,
        count: int = 1,
        at_once: int = 64,
        said: int = 0,
    ) -> Opened:
        """Open connections until there are ``count``, all to one server.

        Args:
            port: the server's, on 127.0.0.1.
            path: where ``{n}`` is in it, it becomes the connection's index modulo ``rooms``.
            rooms: how many rooms the connections are spread over.
            dialect: how the server is spoken to.
            count: how many connections there are afterwards.
            at_once: how many handshakes are on their way together.
            said: if not 0, each connection asks with so many bytes of payload as soon as it can, and
                counts as open when it has the answer.
        """
        given = {"port": port, "path": path, "rooms": rooms, "dialect": dialect.name}
        return Opened(**self._do("open", **given, count=count, at_once=at_once, said=said))

    def echo(self, seconds: float, payload_size: int, connections: int | None = None) -> Echoed:
        """Let the first ``connections`` (all, if None) ask, and ask again as soon as they have the answer."""
        return Echoed(**self._do("echo", seconds=seconds, payload_size=payload_size, connections=connections))

    def paced(self, seconds: float, rate: float, payload_size: int, connections: int | None = None) -> Paced:
        """Let the first ``connections`` (all, if None) ask in turn, ``rate`` messages a second in all."""
        given = {"seconds": seconds, "rate": rate, "payload_size": payload_size}
        return Paced(**self._do("paced", **given, connections=connections))

    def gather(self, payload_size: int) -> None:
        """Let the first connection send to all, again and again, until a message has reached each of them.

        A client may have its handshake's answer before the server counts it among those who hear.
        """
        self._do("gather", payload_size=payload_size)

    def fanout(self, messages: int, payload_size: int) -> FannedOut:
        """Let the first connection send to all, itself included, and again when all have it."""
        return FannedOut(**self._do("fanout", messages=messages, payload_size=payload_size))

    def ask(self, index: int, payload_size: int, at: int | None = None) -> float:
        """Seconds from a message on one connection to the answer there, or on another one, ``at``."""
        there = index if at is None else at
        return float(self._do("ask", index=index, payload_size=payload_size, at=there)["latency"])

    def storm(self, indexes: Sequence[int], payload_size: int) -> Stormed:
        """Let each of some connections ask once, all together."""
        return Stormed(**self._do("storm", indexes=list(indexes), payload_size=payload_size))

    def pipeline(self, seconds: float, window: int, event: str, each: int, *, probe: bool = False) -> Piped:
        """Let each connection have ``window`` messages on its way to a room that only it is in.

        Args:
            seconds: how long something is asked; then all is answered.
            window: how many.
            event: ``add``, which is told to all and answered, or ``count``, which is answered alone.
                One of them until the connections are closed.
            each: more messages than any connection will send.
            probe: whether the first connection has one message on its way, whatever the window, and is
                timed.
        """
        given = {"seconds": seconds, "window": window, "event": event, "each": each, "probe": probe}
        return Piped(**self._do("pipeline", **given))

    def hear(self, messages: int, first: int = 0) -> float:
        """Wait until each connection from ``first`` on has heard so many messages more, and no others.

        Returns:
            When the last had come, by `time.perf_counter`, which is the same for all processes.
        """
        return float(self._do("hear", messages=messages, first=first)["heard"])

    def segments(self) -> int:
        """How many segments with data the server has sent: its writes, as long as nobody is slow."""
        return int(self._do("segments")["count"])

    def close(self) -> None:
        """Close all connections, with an RST so that their ports are free again."""
        self._do("close")

    def _do(self, command: str, **arguments: Any) -> dict[str, Any]:
        self._process.write(json.dumps([command, arguments]))
        answer: dict[str, Any] = json.loads(self._process.line(_TIMEOUT))
        if "error" in answer:
            raise LoadError(answer["error"])
        figures: dict[str, Any] = answer["figures"]
        return figures
