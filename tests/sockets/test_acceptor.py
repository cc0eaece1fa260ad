from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.raw import request
from tests.sockets.bench import Bench, bench, ready, soon
from trio_rooms._sockets.acceptor import Acceptor, Newcomer
from trio_rooms._wire.handshake import BadRequestError, Head

TIMEOUT = 10.0


@attrs.define(eq=False)
class Door:
    """An acceptor, and who got through it."""

    made: Bench
    listener: socket.socket
    acceptor: Acceptor = attrs.field(init=False)
    most: int | None = None
    admitted: list[tuple[Newcomer, Head | BadRequestError]] = attrs.field(factory=list)
    answered: list[Newcomer] = attrs.field(factory=list)
    """Those of them that may be let go."""

    def __attrs_post_init__(self) -> None:
        self.acceptor = Acceptor(
            self.made.hub,
            TIMEOUT,
            lambda *one: self.admitted.append(one),
            let_go=self._let_go,
            most=self.most,
            refusal=lambda: b"no place",
        )

    def _let_go(self) -> bool:
        """Close somebody who was answered."""
        if not self.answered:
            return False
        newcomer = self.answered.pop(0)
        self.admitted = [one for one in self.admitted if one[0] is not newcomer]
        self.made.hub.unwatch(newcomer.fd)
        socket.socket(fileno=newcomer.fd).close()
        return True

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
async def door(most: int | None = None) -> AsyncIterator[Door]:
    """An acceptor that accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with bench(patience=1e6) as made, trio.open_nursery() as nursery:
            opened = Door(made, listener, most)
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


async def test_who_sent_its_request_in_time_is_not_late_where_nobody_read_it(mock_clock: MockClock) -> None:
    """As after a stall of the event loop; whatever it is read in, and however many there are."""
    async with door() as opened:
        half = [await opened.knock(request("/a/b", X_Long="x" * 9000)[:-1]) for _ in range(300)]
        silent = await opened.knock(b"GET /")
        await turns()
        for client in half:
            client.send(b"\n")
        mock_clock.jump(2 * TIMEOUT)
        await soon(lambda: ended(silent))
        assert len(opened.admitted) == len(half)
        assert not any(ended(client) for client in half)


async def test_who_is_slow_to_ask_gives_its_place_to_others(mock_clock: MockClock) -> None:
    """The slowest first, and none whose request is there although it was not read."""
    async with door(most=2) as opened:
        slow = [await opened.knock(b"GET /") for _ in range(10)]
        mock_clock.jump(1)
        slow[0].send(request("/a/b")[5:])
        good = await opened.knock(request("/a/b"))
        await soon(lambda: len(opened.admitted) == 2)
        assert [number for number, client in enumerate(slow) if ended(client)] == [1]
        assert not ended(good)


async def test_who_was_answered_goes_before_who_still_asks(mock_clock: MockClock) -> None:
    """And where there is neither, whoever comes is told so at once."""
    async with door(most=0) as opened:
        answered = [await opened.knock(b"nonsense\r\n\r\n") for _ in range(8)]
        await soon(lambda: len(opened.admitted) == 8)
        turned_away = socket.create_connection(opened.listener.getsockname())
        opened.made.clients.append(turned_away)
        turned_away.setblocking(False)
        received = b""
        while not received.endswith(b"place"):
            await trio.lowlevel.checkpoint()
            received += ready(turned_away)
        assert opened.acceptor.accepted == 8
        opened.answered.append(opened.admitted[3][0])
        await opened.knock(request("/a/b"))
        await soon(lambda: isinstance(opened.admitted[-1][1], Head))
        assert [number for number, client in enumerate(answered) if ended(client)] == [3]


async def test_without_descriptors_who_comes_is_told_so(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With one that is kept for that; and who is slow to ask gives its own to the next."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    caplog.set_level("INFO", "trio_rooms")
    async with door() as opened:
        slow = await opened.knock(b"GET /")
        clients = [socket.socket() for _ in range(3)]
        opened.made.clients += clients
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free(), hard))
        try:
            for client in clients:
                client.setblocking(False)
            for client in clients[:2]:
                client.connect_ex(opened.listener.getsockname())
                await soon(lambda client=client: ready(client) == b"no place")  # type: ignore[misc]
            mock_clock.jump(1)
            clients[2].connect_ex(opened.listener.getsockname())
            await soon(lambda: opened.acceptor.accepted == 2)
            assert ended(slow)
            clients[2].send(request("/a/b"))
            await soon(lambda: opened.admitted)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await opened.knock()
    assert [record.message[:30] for record in caplog.records] == [
        "no connections are accepted fo",
        "connections are accepted again",
    ]


def first_free() -> int:
    """The lowest descriptor that is free, and so the limit at which there is none."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    return free
