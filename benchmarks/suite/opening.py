"""WebSocket handshakes, many at once: the clients' side, without a library."""

from __future__ import annotations

import base64
import hashlib
import heapq
import itertools
import os
import random
import select
import socket
import struct
from collections.abc import Mapping
from time import perf_counter
from typing import Final

import attrs

from benchmarks.suite.dialects import Dialect
from benchmarks.suite.failures import Failed

__all__ = ["Exchange", "Handshakes", "LoadError"]

Exchange = tuple[bytes, bytes]
"""A frame to send, and the frame that must come back."""

_SECRET: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3.
_RESET: Final = struct.pack("ii", 1, 0)
_NO_PORT_YET: Final = 24
"""``IP_BIND_ADDRESS_NO_PORT``, which Python knows from 3.12 on: the port is chosen by ``connect()``."""
_PORTS: Final = 20_000
"""Connections from one address: Linux has 28,232 ports for them."""
_PATIENCE: Final = 60.0
"""Seconds in which something must come from the server."""
_PAUSE: Final = (0.1, 1.0)
"""Seconds, from and to, after which a client tries again."""


class LoadError(Failed):
    """A server answered with something else than it must, or not at all."""


@attrs.define(eq=False)
class _Opening:
    index: int
    key: bytes
    began: float
    fd: int = -1
    connected: bool = False
    step: int = -1
    """Of the preface; -1 before the server's head."""
    received: bytes = b""


class Handshakes:
    """Opens connections to one server, each until its first message may be sent, or was answered.

    Args:
        epoll: what every connection is registered with, to be read.
        port: the server's.
        path: may hold ``{n}``, which becomes the connection's index modulo ``rooms``.
        rooms: how many rooms the connections are spread over.
        dialect: how the server is spoken to.
        first: by index, what a connection says at once when it is open.
    """

    def __init__(
        self,
        epoll: select.epoll,
        port: int,
        path: str,
        rooms: int,
        dialect: Dialect,
        first: Mapping[int, Exchange],
    ) -> None:
        self._epoll = epoll
        self._address = ("127.0.0.1", port)
        self._path = path
        self._rooms = rooms
        self._dialect = dialect
        self._first = first
        self._openings: dict[int, _Opening] = {}
        self._pausing: list[tuple[float, int, _Opening]] = []
        self.latencies: list[float] = []
        """Seconds for each connection that was opened, from its first try on."""
        self.failed = 0
        """Tries that were refused or reset on the way."""

    def open(self, indexes: range, at_once: int) -> dict[int, int]:
        """Open a connection for each index, ``at_once`` at a time; one that fails tries again after a pause.

        Returns:
            The descriptor of each.

        Raises:
            LoadError: the server answered something else than it must, was silent for a minute, or
                failed more often than there are connections.
        """
        keys = [base64.b64encode(os.urandom(16)) for _ in indexes]
        waiting = zip(indexes, keys, strict=True)
        opened: dict[int, int] = {}
        heard = perf_counter()
        try:
            while len(opened) < len(indexes):
                while self._pausing and self._pausing[0][0] <= perf_counter():
                    self._connect(heapq.heappop(self._pausing)[2])
                room = at_once - len(self._openings) - len(self._pausing)
                for following in itertools.islice(waiting, room):
                    self._connect(_Opening(*following, began=perf_counter()))
                if self._take(opened, len(indexes)):
                    heard = perf_counter()
                else:
                    self._check_patience(heard)
        except BaseException:
            for fd in (*self._openings, *opened.values()):
                os.close(fd)
            raise
        return opened

    def _take(self, opened: dict[int, int], most: int) -> bool:
        """Wait for what comes, and go on from there; whether something came."""
        timeout = max(0.0, self._pausing[0][0] - perf_counter()) if self._pausing else _PATIENCE
        events = self._epoll.poll(timeout, 256)
        for fd, _ in events:
            opening = self._openings.get(fd)
            if opening is None:
                raise LoadError(f"an open connection heard {os.read(fd, 256)!r}, which nobody asked for")
            try:
                done = self._go_on(opening)
            except (ConnectionError, TimeoutError) as error:
                self._pause(opening, most, error)
                continue
            if done:
                self.latencies.append(perf_counter() - opening.began)
                opened[opening.index] = fd
                del self._openings[fd]
        return bool(events)

    def _check_patience(self, heard: float) -> None:
        if perf_counter() - heard > _PATIENCE - 1:
            raise LoadError(f"{len(self._openings)} handshakes got no answer for {_PATIENCE:.0f} s")

    def _connect(self, opening: _Opening) -> None:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Closed with an RST: else thousands of ports would wait for a while.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.IPPROTO_IP, _NO_PORT_YET, 1)
        client.bind((f"127.0.0.{2 + opening.index // _PORTS}", 0))
        client.connect_ex(self._address)
        opening.fd = client.detach()
        self._openings[opening.fd] = opening
        # Writable when it is connected, and when it could not be.
        self._epoll.register(opening.fd, select.EPOLLOUT)

    def _pause(self, opening: _Opening, most: int, error: OSError) -> None:
        del self._openings[opening.fd]
        os.close(opening.fd)
        self.failed += 1
        if self.failed > most:
            raise LoadError(f"{self.failed} connections failed, the last so: {error}") from error
        until = perf_counter() + random.uniform(*_PAUSE)
        again = _Opening(opening.index, opening.key, opening.began)
        heapq.heappush(self._pausing, (until, opening.index, again))

    def _go_on(self, opening: _Opening) -> bool:
        """Do what can be done; True when the connection is open."""
        if not opening.connected:
            # Where connecting failed, this raises why.
            _write(opening.fd, self._request(opening))
            opening.connected = True
            self._epoll.modify(opening.fd, select.EPOLLIN)
            return False
        data = os.read(opening.fd, 1 << 16)
        if not data:
            raise ConnectionResetError(f"the server hung up after {opening.received[:200]!r}")
        opening.received += data
        if opening.step < 0:
            head, end, rest = opening.received.partition(b"\r\n\r\n")
            if not end:
                return False
            self._check(opening, head)
            opening.received = rest
            self._next_step(opening)
        preface = self._dialect.preface
        while opening.step < len(preface):
            message = _take_message(opening)
            if message is None:
                return False
            begin = preface[opening.step][1]
            if not message.startswith(begin):
                raise LoadError(
                    f"after the handshake came {message[:200]!r}, which must begin with {begin!r}"
                )
            self._next_step(opening)
        wanted = self._first[opening.index][1] if self._first else b""
        if not wanted.startswith(opening.received):
            raise LoadError(
                f"the first message that came was {opening.received[:200]!r}, not {wanted[:200]!r}"
            )
        return opening.received == wanted

    def _request(self, opening: _Opening) -> bytes:
        offered = self._dialect.subprotocol
        return (
            f"GET {self._path.replace('{n}', str(opening.index % self._rooms))} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self._address[1]}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {opening.key.decode()}\r\n"
            + (f"Sec-WebSocket-Protocol: {offered}\r\n" if offered else "")
            + "\r\n"
        ).encode()

    def _check(self, opening: _Opening, head: bytes) -> None:
        lines = head.split(b"\r\n")
        pairs = (line.partition(b":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        accept = base64.b64encode(hashlib.sha1(opening.key + _SECRET).digest())  # noqa: S324 (RFC 6455)
        if (
            not lines[0].startswith(b"HTTP/1.1 101")
            or headers.get(b"sec-websocket-accept") != accept
            or headers.get(b"sec-websocket-protocol", b"") != self._dialect.subprotocol.encode()
            or b"sec-websocket-extensions" in headers
        ):
            raise LoadError(f"the handshake was answered with {head[:500]!r}")

    def _next_step(self, opening: _Opening) -> None:
        opening.step += 1
        preface = self._dialect.preface
        if opening.step < len(preface):
            _write(opening.fd, preface[opening.step][0])
        elif self._first:
            _write(opening.fd, self._first[opening.index][0])


def _write(fd: int, data: bytes) -> None:
    if data and os.write(fd, data) != len(data):
        raise LoadError("a fresh socket did not take what is little")


def _take_message(opening: _Opening) -> bytes | None:
    """The payload of the next frame out of what was received, or None."""
    data = opening.received
    if len(data) < 2:
        return None
    length, start = data[1], 2
    # RFC 6455 section 5.2.
    if length >= 126:
        start = 4 if length == 126 else 10
        length = int.from_bytes(data[2:start])
    if len(data) < start + length:
        return None
    opening.received = data[start + length :]
    return data[start : start + length]
