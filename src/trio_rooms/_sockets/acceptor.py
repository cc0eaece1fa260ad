"""Accept TCP connections and read request heads without a task for each.

While a client's request is on its way it is one small record in the hub's poller, as a
parked socket is: no task, no timer. So a thousand clients that come back at once cost what
their requests cost, and a client that never sends its request costs next to nothing.
"""

from __future__ import annotations

import contextlib
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

from trio_rooms._loop.turn import TURN
from trio_rooms._wire.handshake import HEAD_LIMIT, BadRequestError, Head, HeadReader, read_usual

from .hub import SocketHub

__all__ = ["Acceptor", "Newcomer"]

logger = logging.getLogger("trio_rooms")

_OUT_OF: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""What a busy machine runs out of, and has again after a while."""
_PAUSE: Final = 0.1
"""Seconds in which nobody is accepted, where there is no place for anybody."""
_SPARE: Final = 8
"""Places beside those for connections: who is in one of them is told that there are no more."""
_PATIENCE: Final = 0.1
"""Seconds that a newcomer has for its request even where others wait for its place."""
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
        reader = self._reader
        if reader is None:
            # Nearly always it comes at once, and there is nothing to remember.
            head = read_usual(data)
            if head is not None:
                return head
            reader = self._reader = HeadReader()
        return reader.feed(data)


class Acceptor:
    """Accepts clients and reads their requests.

    Args:
        hub: whose poller watches them.
        timeout: seconds that a client has for its request and whatever `admit` does about it.
        admit: takes a newcomer with its request, or with what is wrong with it. Its
            descriptor is `admit`'s from then on, and still watched: it parks it, or stops
            watching it and closes it.
        let_go: closes the connection of somebody that has been answered and has not left;
            False where there is nobody.
        most: connections that there may be, of whatever kind; None for any number.
        refusal: makes what somebody gets for whom there is no descriptor.
    """

    def __init__(
        self,
        hub: SocketHub,
        timeout: float,
        admit: Callable[[Newcomer, Head | BadRequestError], None],
        *,
        let_go: Callable[[], bool],
        most: int | None,
        refusal: Callable[[], bytes],
    ) -> None:
        self.accepted: int = 0
        """How many came."""
        self._hub = hub
        self._timeout = timeout
        self._admit = admit
        self._let_go = let_go
        self._places = None if most is None else most + _SPARE
        self._refusal = refusal
        self._spare: int | None = None
        """A descriptor for the answer to whom there is none for."""
        self._reading: dict[int, Newcomer] = {}
        """By descriptor, in the order in which they came, and so in that of their deadlines."""
        self._armed = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._reading)

    @enable_ki_protection
    async def accept(self, listener: socket.socket) -> None:
        """Accept clients from a socket that listens, until cancelled."""
        told = False
        listener.setblocking(False)  # Whatever socket.setdefaulttimeout() says.
        _tune(listener)
        self._keep_spare()
        while True:
            await trio.lowlevel.wait_readable(listener)
            until = perf_counter() + TURN
            waits = True
            try:
                deadline = trio.current_time() + self._timeout
                # What accept() calls. The object that it makes besides takes a tenth of a handshake's time.
                accept = listener._accept  # type: ignore[attr-defined]
                while perf_counter() < until:
                    fd, address = accept()
                    waits = False  # Without a descriptor accept() fails also where nobody waits any more.
                    if self._places is None or self._hub.held < self._places or self._make_place():
                        self._take(fd, address, deadline)
                    else:
                        self._turn_away(_object_of(fd))
            except BlockingIOError:
                if told:
                    told = False
                    logger.info("connections are accepted again")
            except OSError as error:
                # Anything else concerns the one client that was about to come (see accept(2)).
                if error.errno in _OUT_OF:
                    if not told:
                        told = True
                        logger.error("no connections are accepted for now: %s", error)  # noqa: TRY400
                    if waits and not (self._make_place() or self._use_spare(listener)):
                        await trio.sleep(_PAUSE)
                elif error.errno in {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}:
                    raise

    def _make_place(self) -> bool:
        """Close who was answered, or else who is slowest to ask; False where there is nobody like that."""
        if self._let_go():
            return True
        before = trio.current_time() + self._timeout - _PATIENCE
        while self._reading:
            oldest = next(iter(self._reading.values()))
            if oldest.deadline > before:
                return False
            self._ready(oldest.fd)  # It may have come by now.
            if self._reading.get(oldest.fd) is oldest:
                self._drop(oldest)
                return True
        return False

    def _turn_away(self, client: socket.socket) -> None:
        """Tell somebody that there is no place, without a look at the request."""
        with client, contextlib.suppress(OSError):
            client.setblocking(False)
            client.send(self._refusal())
            client.shutdown(socket.SHUT_WR)
            # Unread, the request would reset the connection, perhaps before the answer is read.
            client.recv(HEAD_LIMIT)

    def _use_spare(self, listener: socket.socket) -> bool:
        """Tell somebody for whom there is no descriptor, with the one that is kept for that."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(OSError):
                self._turn_away(listener.accept()[0])
        return self._keep_spare()

    def _keep_spare(self) -> bool:
        """Have a descriptor for that; False where there is none now."""
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return self._spare is not None

    def _take(self, fd: int, address: Any, deadline: float) -> None:
        """Watch one client that was accepted."""
        if self._closed:
            os.close(fd)
            return
        self.accepted += 1
        try:
            os.set_blocking(fd, False)
            if not _INHERITS:
                client = _object_of(fd)
                with contextlib.suppress(OSError):  # It has left already, which reading tells.
                    _tune(client)
                client.detach()
            self._hub.watch(fd, self._ready)
        except BaseException:
            os.close(fd)
            raise
        self._reading[fd] = Newcomer(fd, address, deadline)
        if not self._armed:
            self._arm(deadline)

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
        self._hub.timeouts.set(when, self._expire)

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
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        for newcomer in list(self._reading.values()):
            self._drop(newcomer)


def _object_of(fd: int) -> socket.socket:
    """A socket's object, which takes its descriptor.

    Some systems tell nothing more of a socket whose other side has gone, so nothing is asked of it. Of what
    kind the object says that it is does not matter for what is done with it here.
    """
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)


def _tune(endpoint: socket.socket) -> None:
    """Send at once, and find out about peers that vanished."""
    endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            endpoint.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
