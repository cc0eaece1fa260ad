"""Accept TCP connections and read request heads without a task for each.

While a client's request is on its way it is one small record in the hub's poller, as a
parked socket is: no task, no timer. So a thousand clients that come back at once cost what
their requests cost, and a client that never sends its request costs next to nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.turn import TURN
from trio_rooms._wire.handshake import BadRequestError, Head, HeadReader

from .hub import SocketHub

__all__ = ["Acceptor", "Newcomer"]

logger = logging.getLogger("trio_rooms")

_OUT_OF: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""What a busy machine runs out of, and has again after a while."""
_PAUSE: Final = 0.1
_CHUNK: Final = 4096
"""Bytes of a request read at a time."""
# A peer that vanished without a word is found after two minutes by the kernel: no task, no timer.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
_INHERITS: Final = sys.platform == "linux"
"""Whether an accepted socket has the options of the one that listened."""


class Newcomer:
    """One client whose request is awaited, or being answered."""

    __slots__ = ("_address", "_reader", "deadline", "fd")

    def __init__(self, fd: int, address: Any, deadline: float) -> None:
        self.fd: int = fd
        self.deadline: float = deadline
        """When it must be done, on Trio's clock."""
        self._address = address
        self._reader: HeadReader | None = None

    @property
    def remote(self) -> str:
        """The address of the other side."""
        address = self._address
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)

    def read(self) -> Head | None:
        """Read what has come; the head, when that is all of it.

        Raises:
            BadRequestError: it is no request.
            OSError: the client has left.
        """
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError
        if self._reader is None:
            self._reader = HeadReader()
        return self._reader.feed(data)


class Acceptor:
    """Accepts clients and reads their requests.

    Args:
        hub: whose poller watches them.
        timeout: seconds that a client has for its request and whatever `admit` does about it.
        admit: takes a newcomer with its request, or with what is wrong with it. Its
            descriptor is `admit`'s from then on, and still watched: it parks it, or stops
            watching it and closes it.
    """

    def __init__(
        self,
        hub: SocketHub,
        deadlines: Deadlines,
        timeout: float,
        admit: Callable[[Newcomer, Head | BadRequestError], None],
    ) -> None:
        self.accepted: int = 0
        """How many came."""
        self._hub = hub
        self._deadlines = deadlines
        self._timeout = timeout
        self._admit = admit
        self._reading: dict[int, Newcomer] = {}
        """By descriptor, in the order in which they came, and so in that of their deadlines."""
        self._armed = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._reading)

    @enable_ki_protection
    async def accept(self, listener: socket.socket) -> None:
        """Accept clients from a socket that listens, until cancelled."""
        short = False
        listener.setblocking(False)  # Whatever socket.setdefaulttimeout() says.
        _tune(listener)
        while True:
            await trio.lowlevel.wait_readable(listener)
            until = perf_counter() + TURN
            try:
                while perf_counter() < until:
                    self._take(*listener.accept())
                    if short:
                        short = False
                        logger.info("connections are accepted again")
            except BlockingIOError:
                continue
            except OSError as error:
                # Anything else concerns the one client that was about to come (see accept(2)).
                if error.errno in _OUT_OF:
                    if not short:
                        logger.error("no connections are accepted for now: %s", error)  # noqa: TRY400
                    short = True
                    await trio.sleep(_PAUSE)
                elif error.errno in {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}:
                    raise

    def _take(self, client: socket.socket, address: Any) -> None:
        """Watch one client that was accepted."""
        if self._closed:
            client.close()
            return
        self.accepted += 1
        client.setblocking(False)
        if not _INHERITS:
            _tune(client)
        newcomer = Newcomer(client.detach(), address, trio.current_time() + self._timeout)
        try:
            self._hub.watch(newcomer.fd, self._ready)
        except BaseException:
            os.close(newcomer.fd)
            raise
        self._reading[newcomer.fd] = newcomer
        if not self._armed:
            self._arm(newcomer.deadline)

    def _ready(self, fd: int) -> None:
        """Something of a newcomer's request has come, or it has left."""
        newcomer = self._reading[fd]
        try:
            request: Head | BadRequestError | None = newcomer.read()
        except BadRequestError as bad:
            request = bad
        except OSError:
            self._drop(newcomer)
            return
        except Exception:
            logger.exception("a request could not be read")
            self._drop(newcomer)
            return
        if request is not None:
            del self._reading[fd]
            self._admit(newcomer, request)

    def _arm(self, when: float) -> None:
        """Look for who is late."""
        self._armed = True
        self._deadlines.set(when, self._expire)

    def _expire(self) -> None:
        """Drop who has not sent its request in time."""
        self._armed = False
        now = trio.current_time()
        late = []
        for newcomer in self._reading.values():
            if newcomer.deadline > now:
                self._arm(newcomer.deadline)
                break
            late.append(newcomer)
        for newcomer in late:
            self._drop(newcomer)

    def _drop(self, newcomer: Newcomer) -> None:
        """Close a newcomer's socket without a word."""
        del self._reading[newcomer.fd]
        self._hub.unwatch(newcomer.fd)
        os.close(newcomer.fd)

    def dispose(self) -> None:
        """Turn away, without a word, who has not said what it wants, and whoever still comes."""
        self._closed = True
        for newcomer in list(self._reading.values()):
            self._drop(newcomer)


def _tune(endpoint: socket.socket) -> None:
    """Send at once, and find out about peers that vanished."""
    endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            endpoint.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
