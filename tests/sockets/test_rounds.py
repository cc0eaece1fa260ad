from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.sockets.bench import bench, passes
from trio_rooms._sockets.links import SocketLink
from trio_rooms._sockets.rounds import Rounds


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
