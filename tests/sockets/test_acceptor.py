from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.raw import request
from tests.sockets.bench import Bench, bench, soon
from trio_rooms._sockets.acceptor import Acceptor, Newcomer
from trio_rooms._wire.handshake import BadRequestError, Head

TIMEOUT = 10.0


@attrs.define(eq=False)
class Door:
    """An acceptor, and who got through it."""

    made: Bench
    listener: socket.socket
    acceptor: Acceptor = attrs.field(init=False)
    admitted: list[tuple[Newcomer, Head | BadRequestError]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.acceptor = Acceptor(
            self.made.hub, self.made.deadlines, TIMEOUT, lambda *one: self.admitted.append(one)
        )

    async def knock(self, data: bytes = b"") -> socket.socket:
        """A client that has come, and says something."""
        before = self.acceptor.accepted
        client = socket.create_connection(self.listener.getsockname())
        client.setblocking(False)
        self.made.clients.append(client)
        await soon(lambda: self.acceptor.accepted > before)
        if data:
            client.send(data)
        return client


def ended(client: socket.socket) -> bool:
    """Whether the server has closed a connection to which it said nothing."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True  # Something that it had sent was not read.


@contextlib.asynccontextmanager
async def door() -> AsyncIterator[Door]:
    """An acceptor that accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with bench(patience=1e6) as made, trio.open_nursery() as nursery:
            opened = Door(made, listener)
            nursery.start_soon(opened.acceptor.accept, listener)
            try:
                yield opened
            finally:
                opened.acceptor.dispose()
                for newcomer, _ in opened.admitted:
                    made.hub.unwatch(newcomer.fd)
                    socket.socket(fileno=newcomer.fd).close()
            nursery.cancel_scope.cancel()


async def test_each_client_has_its_time_for_its_request(mock_clock: MockClock) -> None:
    """From when it came on; who is late is closed without a word, and one deadline does for all."""
    async with door() as opened:
        first = await opened.knock()
        mock_clock.jump(4)
        second = await opened.knock(request("/a/b")[:-1])
        third = await opened.knock(request("/a/b"))
        await soon(lambda: opened.admitted)
        assert len(opened.acceptor) == 2
        assert len(opened.made.deadlines) == 1
        mock_clock.jump(5.9)
        await turns()
        assert not ended(first)
        mock_clock.jump(0.2)
        await soon(lambda: ended(first))
        assert not ended(second)
        mock_clock.jump(4)
        await soon(lambda: ended(second))
        assert not ended(third)
        assert len(opened.acceptor) == 0
        # And the next one that comes is waited for as long again.
        fourth = await opened.knock()
        mock_clock.jump(9.9)
        await turns()
        assert not ended(fourth)
        mock_clock.jump(0.2)
        await soon(lambda: ended(fourth))


async def turns() -> None:
    """Let all that is due happen."""
    for _ in range(10):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("data", [request("/a/b?c"), b"nonsense\r\n\r\n"])
async def test_who_has_said_what_it_wants_is_handed_on_once(data: bytes, mock_clock: MockClock) -> None:
    """With its request or what is wrong with it, and its socket open; nobody else's time is up for it."""
    async with door() as opened:
        client = await opened.knock(data)
        await soon(lambda: opened.admitted)
        ((newcomer, head),) = opened.admitted
        assert isinstance(head, Head) is (data[:3] == b"GET")
        assert newcomer.remote == "{}:{}".format(*client.getsockname())
        assert newcomer.deadline == trio.current_time() + TIMEOUT
        mock_clock.jump(2 * TIMEOUT)
        await turns()
        assert not ended(client)
        assert len(opened.admitted) == 1


async def test_who_leaves_before_its_request_is_forgotten(mock_clock: MockClock) -> None:
    """In the middle of it or before it began."""
    async with door() as opened:
        for data in (b"", b"GET /"):
            client = await opened.knock(data)
            client.close()
            await soon(lambda: len(opened.acceptor) == 0)
        assert opened.acceptor.accepted == 2
        assert opened.admitted == []


async def test_after_the_end_whoever_comes_is_turned_away(mock_clock: MockClock) -> None:
    """Like those who had not said what they want."""
    async with door() as opened:
        before = await opened.knock(b"GET /")
        opened.acceptor.dispose()
        assert ended(before)
        after = socket.create_connection(opened.listener.getsockname())
        opened.made.clients.append(after)
        after.setblocking(False)
        await soon(lambda: ended(after))
        assert (opened.acceptor.accepted, len(opened.acceptor)) == (1, 0)
