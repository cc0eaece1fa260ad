"""A hub without rooms, with socket pairs for clients; and a connection without a socket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import trio
from trio.testing import MockClock

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.links import SocketLink
from trio_rooms._sockets.roster import Disconnected, Link, SocketEvent

__all__ = ["Bench", "Line", "bench", "passes", "ready", "soon", "writes"]


class Line(Link):
    """A connection without a socket, that does nothing."""

    __slots__ = ()

    def send(self, frame: bytes) -> None:
        """Nothing."""

    def send_eof(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""

    def attend(self) -> None:
        """Nothing."""

    def pause_reading(self) -> None:
        """Nothing."""

    def resume_reading(self) -> None:
        """Nothing."""


class Nobody:
    """Hears of the connections of users, and does nothing."""

    def entered(self, link: Link) -> None:
        """It has come."""

    def left(self, link: Link) -> None:
        """It is gone."""

    def acknowledged(self, link: Link, seq: int) -> None:
        """It has something."""

    def session_over(self, key: str, sid: int, user: str | None = None) -> None:
        """A session is over."""

    def all_over(self, key: str) -> None:
        """All are."""


class Bench:
    """A hub whose rooms are a list, with socket pairs for clients."""

    def __init__(self, *, backlog: int = 1 << 20) -> None:
        self.mail: list[tuple[str, SocketEvent]] = []
        self.goes_on = True
        """What whoever delivers mail is told."""
        self.clients: list[socket.socket] = []
        self.deadlines = Deadlines()
        self.hub = SocketHub(self.deadlines, max_message_size=1 << 20, backlog=backlog, close_timeout=5)
        self.hub.deliver = self._deliver
        self.hub.sessions = self
        self.hub.users = Nobody()

    def _deliver(self, key: str, mail: SocketEvent) -> bool:
        self.mail.append((key, mail))
        return self.goes_on

    def left(self, event: Disconnected, *, told: bool) -> None:
        """The connection of a session has ended."""
        if told:
            self.mail.append((event.link.roster.key, event))

    def answered(self, link: Link, number: int) -> None:
        """Nothing is kept for sessions."""

    def client(
        self,
        key: str = "a/b",
        flags: int = 0,
        *,
        greets: bool = False,
        buffer: int | None = None,
        kind: socket.SocketKind = socket.SOCK_STREAM,
    ) -> tuple[socket.socket, SocketLink]:
        """A client, and its record in the hub; of a ``SOCK_SEQPACKET`` it reads what was one write."""
        ours, theirs = socket.socketpair(type=kind)
        if buffer is not None:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        theirs.setblocking(False)
        ours.setblocking(False)
        self.clients.append(ours)
        return ours, self.hub.park(self.hub.roster(key, None, greets=greets), theirs.detach(), None, flags)


@contextlib.asynccontextmanager
async def bench(*, backlog: int = 1 << 20, patience: float = 30) -> AsyncIterator[Bench]:
    """A hub that runs."""
    made = Bench(backlog=backlog)
    try:
        with trio.fail_after(patience):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.hub.run)
                nursery.start_soon(made.deadlines.run)
                yield made
                nursery.cancel_scope.cancel()
    finally:
        made.hub.dispose()
        for client in made.clients:
            client.close()


async def passes(clock: MockClock, seconds: int) -> None:
    """Let time pass, a tenth of a second at a time."""
    for _ in range(seconds * 10):
        clock.jump(0.1)
        for _ in range(3):
            await trio.lowlevel.checkpoint()


async def soon(true: Callable[[], object]) -> None:
    """Let the other tasks run until something is so, where the clock stands still."""
    for _ in range(100_000):
        if true():
            return
        await trio.lowlevel.checkpoint()
    pytest.fail("it did not come to pass")


def writes(client: socket.socket) -> list[bytes]:
    """What a client of the kind ``SOCK_SEQPACKET`` can read now, each write by itself."""
    received: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while data := client.recv(1 << 20):
            received.append(data)
    return received


def ready(client: socket.socket, most: int = 1 << 62) -> bytes:
    """What a client can read now, or so many bytes of it."""
    received = b""
    with contextlib.suppress(BlockingIOError):
        while data := client.recv(min(1 << 20, most - len(received))):
            received += data
    return received
