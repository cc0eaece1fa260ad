from __future__ import annotations

import itertools
import math

import pytest
import trio
from trio.testing import MockClock

from tests.sockets.bench import Bench, bench, ready
from trio_rooms._sockets.links import SocketLink
from trio_rooms._sockets.rounds import Rounds
from trio_rooms._wire.frames import encode_binary, encode_ping


async def passes(clock: MockClock, seconds: int) -> None:
    """Let time pass, a tenth of a second at a time."""
    for _ in range(seconds * 10):
        clock.jump(0.1)
        for _ in range(3):
            await trio.lowlevel.checkpoint()


async def test_each_socket_is_visited_once_in_each_round(mock_clock: MockClock) -> None:
    """However many there are, and never many together; one that comes in the middle has its turn too."""
    async with bench(patience=1e6) as made:
        visited: list[SocketLink] = []
        links = [made.client()[1] for _ in range(300)]
        rounds = Rounds(made.deadlines, made.hub._sockets, 10, visited.append)
        rounds.go()
        rounds.go()
        most = 0
        for _ in range(11):
            before = len(visited)
            await passes(mock_clock, 1)
            most = max(most, len(visited) - before)
        assert set(visited) == set(links)
        assert most < 200
        new = made.client()[1]
        await passes(mock_clock, 11)
        assert new in visited
        assert all(2 <= visited.count(link) <= 3 for link in links)
        rounds.stop()
        before = len(visited)
        await passes(mock_clock, 30)
        assert len(visited) == before


@pytest.mark.parametrize("count", [1, 40, 70])
async def test_a_round_takes_its_time_and_no_longer(count: int, mock_clock: MockClock) -> None:
    """Also where a few more sockets than are visited together begin another few."""
    async with bench(patience=1e6) as made:
        times: list[float] = []
        for _ in range(count):
            _, link = made.client()
        rounds = Rounds(
            made.deadlines,
            made.hub._sockets,
            10,
            lambda one: times.append(trio.current_time()) if one is link else None,
        )
        rounds.go()
        await passes(mock_clock, 50)
        assert all(9.9 < two - one < 10.5 for one, two in itertools.pairwise(times))
        assert len(times) >= 4


async def test_where_there_is_nobody_nothing_goes_round(mock_clock: MockClock) -> None:
    """The round that met nobody is the last, until somebody comes."""
    async with bench(patience=1e6) as made:
        visited: list[SocketLink] = []
        client, link = made.client()
        rounds = Rounds(made.deadlines, made.hub._sockets, 5, visited.append)
        rounds.go()
        await passes(mock_clock, 6)
        assert visited == [link]
        client.close()
        await passes(mock_clock, 120)
        assert len(made.deadlines) == 0
        made.client()
        rounds.go()
        await passes(mock_clock, 6)
        assert len(visited) == 2


def pings(data: bytes) -> int:
    """How many pings these are, and nothing else."""
    assert data.count(encode_ping()) * len(encode_ping()) == len(data)
    return len(data) // len(encode_ping())


async def test_each_client_is_pinged_once_in_the_interval(mock_clock: MockClock) -> None:
    """Whoever was there and whoever comes; the shortest of two intervals holds, and no room hears of it."""
    async with bench(patience=1e6) as made:
        early, _ = made.client()
        made.hub.ping_every(20)
        made.hub.ping_every(40)
        late, _ = made.client("other/room")
        await passes(mock_clock, 101)
        assert (pings(ready(early)), pings(ready(late))) == (5, 5)
        made.hub.ping_every(10)
        await passes(mock_clock, 101)
        assert (pings(ready(early)), pings(ready(late))) == (10, 10)
        before = len(made.mail)
        early.send(b"\x8a\x80\1\2\3\4")  # A pong.
        await passes(mock_clock, 1)
        assert len(made.mail) == before
        made.hub.ping_every(math.inf)


async def test_nobody_is_pinged_behind_what_waits_or_behind_a_close(mock_clock: MockClock) -> None:
    """Who has something to read is not forgotten by a proxy, and nothing may follow a close frame."""
    async with bench(patience=1e6, backlog=1 << 30) as made:
        made.hub.ping_every(1)
        (slow, waiting), (_, closing) = made.client(buffer=4096), made.client()
        waiting.send(encode_binary(bytes(100_000)))
        made.hub.close(closing, 4000, "")
        size = waiting.in_flight
        await passes(mock_clock, 3)
        assert waiting.in_flight == size
        assert ready(made.clients[1]) == b"\x88\x02\x0f\xa0"
        slow.close()


async def _lost(made: Bench, clock: MockClock) -> int:
    await passes(clock, 31)
    return sum(type(mail).__name__ == "Disconnected" for _, mail in made.mail)


@pytest.mark.parametrize("vanished", [False, True])
async def test_who_has_vanished_is_found_within_a_round(
    vanished: bool, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its room is told, as of any connection that is lost."""
    async with bench(patience=1e6) as made:
        _, ghost = made.client()
        made.client()
        monkeypatch.setattr("trio_rooms._sockets.hub.has_vanished", lambda fd: vanished and fd == ghost.fd)
        assert await _lost(made, mock_clock) == vanished
        assert made.hub.statistics().sockets == 2 - vanished
