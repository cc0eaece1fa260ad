"""Pings and vanished clients: who is given up, and who is not."""

from __future__ import annotations

import itertools
import math
import socket

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.raw import BINARY, CONTINUATION, PING, PONG, TEXT, frame
from tests.sockets.bench import Bench, bench, passes, ready, soon
from trio_rooms._sockets.flags import GONE, PAUSED, PINGED, RELEASED, REPLAYING, SESSION
from trio_rooms._sockets.roster import Disconnected
from trio_rooms._wire.frames import encode_binary, encode_ping


def pings(data: bytes) -> int:
    """How many pings these are, and nothing else."""
    assert data.count(encode_ping()) * len(encode_ping()) == len(data)
    return len(data) // len(encode_ping())


async def answered(clock: MockClock, seconds: int, *clients: socket.socket) -> list[int]:
    """How many pings came within a time to clients that answer each within a second."""
    counts = [0 for _ in clients]
    for _ in range(seconds):
        await passes(clock, 1)
        for number, client in enumerate(clients):
            came = pings(ready(client))
            client.send(frame(PONG) * came)
            counts[number] += came
    return counts


async def test_each_client_is_pinged_once_in_the_interval(mock_clock: MockClock) -> None:
    """Whoever was there and whoever comes; the shortest of two intervals holds, and no room hears of it."""
    async with bench(patience=1e6) as made:
        early, _ = made.client()
        made.hub.keepalive.ping_every(20)
        made.hub.keepalive.ping_every(40)
        late, _ = made.client("other/room")
        before = len(made.mail)
        assert await answered(mock_clock, 101, early, late) == [5, 5]
        made.hub.keepalive.ping_every(10)
        assert await answered(mock_clock, 101, early, late) == [10, 10]
        assert len(made.mail) == before
        made.hub.keepalive.ping_every(math.inf)


async def test_nobody_is_pinged_behind_what_waits_or_behind_a_close(mock_clock: MockClock) -> None:
    """Who has something to read is not forgotten by a proxy, and nothing may follow a close frame."""
    async with bench(patience=1e6, backlog=1 << 30) as made:
        made.hub.keepalive.ping_every(1)
        (slow, waiting), (_, closing) = made.client(buffer=4096), made.client()
        waiting.send(encode_binary(bytes(100_000)))
        made.hub.close(closing, 4000, "")
        size = waiting.in_flight
        await passes(mock_clock, 1)
        assert waiting.in_flight == size
        assert ready(made.clients[1]) == b"\x88\x02\x0f\xa0"
        slow.close()


def reports(made: Bench) -> list[int]:
    """The codes of the connections that were lost, as their rooms were told."""
    return [mail.code for _, mail in made.mail if isinstance(mail, Disconnected)]


SIGNS = [
    [frame(PONG)],
    [frame(PING)],
    [frame(TEXT, b"x")],
    [frame(BINARY, bytes(2000))],
    [frame(TEXT, b"x") * 3],
    [frame(TEXT, b"x", final=False), frame(CONTINUATION, b"x", final=False)],
    [frame(TEXT, b"x")[:2], frame(TEXT, b"x")[2:3], frame(TEXT, b"x")[3:4]],
]


@pytest.mark.parametrize("flags", [0, SESSION])
async def test_who_answers_nothing_is_given_up_at_the_next_ping(flags: int, mock_clock: MockClock) -> None:
    """Though it takes what is sent, since its program hangs. Anything that comes is an answer."""
    async with bench(patience=1e6) as made:
        _, ghost = made.client(flags=flags)
        made.hub.keepalive.ping_every(10)
        clients = [made.client(flags=flags)[0] for _ in SIGNS]
        answers = [itertools.chain(sign, itertools.repeat(sign[-1])) for sign in SIGNS]
        for second in range(38):
            assert reports(made) == ([1006] if second > 19 else [])
            await passes(mock_clock, 1)
            for client, signs in zip(clients, answers, strict=True):
                if encode_ping() in ready(client):
                    client.send(next(signs))
        assert ghost.flags & RELEASED
        assert made.hub.statistics().sockets == len(clients)


@pytest.mark.parametrize("sign", [frame(PONG), frame(TEXT, b"x"), b""])
async def test_an_answer_that_is_here_is_read_before_anybody_is_given_up(sign: bytes) -> None:
    """The event loop may have stood still for a whole interval."""
    async with bench() as made:
        client, link = made.client()
        made.hub.keepalive.ping(link)
        client.send(sign)
        made.hub.keepalive.ping(link)
        assert reports(made) == ([] if sign else [1006])
        assert ready(client) == (encode_ping() * 2 if sign else encode_ping())


async def test_who_is_not_read_is_not_given_up() -> None:
    """Its answer may be among what waits; it is asked anew when it is read again."""
    async with bench() as made:
        client, link = made.client()
        made.hub.keepalive.ping(link)
        made.goes_on = False
        client.send(frame(TEXT, b"x"))
        await soon(lambda: link.flags & PAUSED)
        client.send(frame(PONG))
        for _ in range(3):
            made.hub.keepalive.ping(link)
        link.resume_reading()
        made.hub.keepalive.ping(link)
        await soon(lambda: not link.flags & PINGED)
        assert ready(client) == encode_ping() * 2
        assert not reports(made)


async def test_who_takes_nothing_of_its_output_is_given_up() -> None:
    """However much more is sent to it; but not who takes a little, and not who waits for its room."""
    async with bench(backlog=1 << 30) as made:
        (_, stuck), (reader, slow) = made.client(buffer=4096), made.client(buffer=4096)
        _, replaying = made.client(flags=SESSION | REPLAYING)
        made.hub.hold(replaying)
        for link in (stuck, slow):
            link.send(encode_binary(bytes(100_000)))
        for _ in range(4):
            for link in (stuck, slow, replaying):
                made.hub.keepalive.ping(link)
                if not link.flags & GONE:
                    link.send(encode_binary(bytes(100)))
            before = slow.in_flight
            while slow.in_flight >= before:
                ready(reader, 10_000)
                await trio.lowlevel.checkpoint()
        assert reports(made) == [1006]
        assert stuck.flags & RELEASED
        await soon(lambda: slow.output is None or ready(reader) is None)
        ready(reader)
        made.hub.keepalive.ping(slow)
        assert ready(reader) == encode_ping()
        assert slow.flags & PINGED


async def test_a_shorter_interval_gives_nobody_less_time_to_answer(mock_clock: MockClock) -> None:
    """Who was just asked is asked again at once then, perhaps."""
    async with bench(patience=1e6) as made:
        client, _ = made.client()
        made.hub.keepalive.ping_every(10)
        await passes(mock_clock, 11)
        made.hub.keepalive.ping_every(1)
        await passes(mock_clock, 1)
        mock_clock.jump(0.1)
        await trio.testing.wait_all_tasks_blocked()
        assert not reports(made)
        assert pings(ready(client)) == 2
        await passes(mock_clock, 1)
        assert reports(made) == [1006]


async def test_who_was_late_leaves_time_to_answer(mock_clock: MockClock) -> None:
    """A round that is late catches up, but not so that two visits are close to each other."""
    async with bench(patience=1e6) as made:
        made.client()
        made.hub.keepalive.ping_every(10)
        mock_clock.jump(19.9)
        await passes(mock_clock, 4)
        assert not reports(made)
        await passes(mock_clock, 2)
        assert reports(made) == [1006]


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
        monkeypatch.setattr(
            "trio_rooms._sockets.keepalive.has_vanished", lambda fd: vanished and fd == ghost.fd
        )
        assert await _lost(made, mock_clock) == vanished
        assert made.hub.statistics().sockets == 2 - vanished
