"""A network between a client and a server on loopback that fails at a given byte."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from typing import Final

import attrs
import trio

__all__ = ["Fault", "Kind", "Proxy", "Way"]

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
_MOST: Final = 65536


class Way(enum.Enum):
    """Where bytes go."""

    UP = "from the client to the server"
    DOWN = "from the server to the client"


class Kind(enum.Enum):
    """What happens to a connection."""

    CUT = "both ends see its end"
    RESET = "both ends see a reset"
    STALL = "nothing passes any more, and nobody is told"
    HALF = "nothing passes any more this way, and nobody is told; the other way it does"


@attrs.frozen
class Fault:
    """Something that happens when so many bytes have passed one way, of all connections together."""

    kind: Kind
    way: Way
    at: int


class Proxy:
    """Passes on what comes, until faults are due.

    A connection that has stalled stays as it is until the end of the proxy, whatever its ends do: neither
    learns that the other has left it.
    """

    def __init__(self, port: int, faults: Iterable[Fault] = ()) -> None:
        self._server = port
        self._faults = sorted(faults, key=lambda fault: fault.at)
        self.port = 0
        """Where it listens."""
        self.connections = 0
        """How many there were."""
        self.passed: Final = dict.fromkeys(Way, 0)
        """Bytes by their way, of all connections together."""
        self.happened: Final[list[Fault]] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        """Listen on a free port until the end of the block, at which every connection is reset."""
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._connect, [listener])
            yield self
            nursery.cancel_scope.cancel()

    async def _connect(self, client: trio.SocketStream) -> None:
        self.connections += 1
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._server)
        except OSError:
            _reset(client)
            return
        await _Connection(self, client, server).run()

    def due(self, way: Way, size: int) -> tuple[int, Fault | None]:
        """How many of so many bytes pass, and what happens then."""
        passed = self.passed[way]
        for fault in self._faults:
            if fault.way is way and passed <= fault.at < passed + size:
                self._faults.remove(fault)
                self.happened.append(fault)
                self.passed[way] = fault.at
                return fault.at - passed, fault
        self.passed[way] = passed + size
        return size, None


@attrs.define(eq=False)
class _Connection:
    proxy: Proxy
    client: trio.SocketStream
    server: trio.SocketStream
    ways: dict[Way, trio.CancelScope] = attrs.field(factory=lambda: {way: trio.CancelScope() for way in Way})
    silent: bool = False
    cut: bool = False

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass, Way.UP, self.client, self.server)
                nursery.start_soon(self._pass, Way.DOWN, self.server, self.client)
            if self.silent:
                await trio.sleep_forever()
        finally:
            _reset(self.client)
            _reset(self.server)

    async def _pass(self, way: Way, source: trio.SocketStream, target: trio.SocketStream) -> None:
        with self.ways[way]:
            try:
                while data := await source.receive_some(_MOST):
                    if self.cut:
                        continue
                    count, fault = self.proxy.due(way, len(data))
                    if count:
                        await target.send_all(data[:count])
                    if fault is not None:
                        await self._suffer(fault)
                        if not self.cut:
                            return
                if not self.silent and not self.cut:
                    await target.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                if not self.silent:
                    self._end()

    async def _suffer(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.CUT:
                # What still comes is read, for else closing would be a reset.
                self.cut = True
                for stream in (self.client, self.server):
                    # The other way may be sending at this moment: that fails.
                    with contextlib.suppress(OSError):
                        stream.socket.shutdown(socket.SHUT_WR)
            case Kind.RESET:
                _reset(self.client)
                _reset(self.server)
                self._end()
            case Kind.STALL:
                self.silent = True
                self._end()
            case Kind.HALF:
                self.silent = True

    def _end(self) -> None:
        for scope in self.ways.values():
            scope.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """Close it so that the other end sees a reset, if it sees anything any more."""
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    stream.socket.close()
