"""What needs no room goes back or on without it: in order, within limits, and waking nobody."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.raw import BINARY, CLOSE, PING, PONG, TEXT, Client, Served, frame, serving, soon
from tests.sockets.bench import Bench, bench, ready
from trio_rooms import Context, Room
from trio_rooms._sockets.automatic import Automatic
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.links import SocketLink
from trio_rooms._wire.frames import encode_binary, encode_message
from trio_rooms.stores import MemoryStore
from trio_rooms.testing import FaultyStore

AUTOMATIC = Automatic({"ping": encode_message("pong")}, ("♥", b"\x66"), ("at ", b"\x01", b"\x02\x03"), 100)
GATES: dict[str, trio.Event] = {}
options: dict[str, Any] = {
    "auto_respond": {"ping": "pong"},
    "auto_echo": ["♥", b"\x66"],
    "auto_relay": ["at ", b"\x01"],
    "relay_rate": math.inf,
}
sleeper: Room[None] = Room("sleeper", idle_timeout=0, **options)
awake: Room[None] = Room("awake", idle_timeout=math.inf, **options)
durable: Room[None] = Room("durable", idle_timeout=math.inf, durability="commit", **options)
greeting: Room[None] = Room("greeting", idle_timeout=math.inf, **options)


@sleeper.on_message
@awake.on_message
@durable.on_message
@greeting.on_message
async def on_message(ctx: Context[None], message: str | bytes) -> None:
    """Do what the message says, and tell everybody."""
    if message == "wait":
        await GATES[ctx.room.id].wait()
        ctx.room.storage.put("waited", 1)
    elif message == "leave":
        ctx.connection.close()
    ctx.room.send(message)


@greeting.on_connect
async def on_connect(ctx: Context[None]) -> None:
    """Take a while."""
    await GATES[ctx.room.id].wait()
    ctx.room.send("somebody came")


@asynccontextmanager
async def clients(served: Served, path: str, count: int = 2) -> AsyncIterator[list[Client]]:
    """So many clients of one room."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(served.client(path)) for _ in range(count)]


@given(st.text(max_size=3) | st.binary(max_size=3))
def test_prefixes_are_those_of_the_same_kind(message: str | bytes) -> None:
    """A text message does not begin with bytes, and what begins with nothing is the room's."""
    text = isinstance(message, str)
    assert AUTOMATIC.echoes(message) == (message[:1] == ("♥" if text else b"f"))
    at = message[:3] == "at " if text else message[:1] == b"\1" or message[:2] == b"\2\3"
    assert AUTOMATIC.relays(message) == at


@pytest.mark.parametrize("path", ["/sleeper/x", "/awake/x"])
async def test_what_needs_no_room_wakes_nobody(path: str) -> None:
    """Text stays text and bytes bytes, one alone or many in one read; the sender hears only its echo."""
    async with serving(sleeper, awake) as served, clients(served, path, 3) as (one, *others):
        await one.send(frame(TEXT, b"at 1"))
        for other in others:
            assert await other.frame() == (TEXT, b"at 1")
        await one.send(frame(BINARY, b"f7"))
        assert await one.frame() == (BINARY, b"f7")
        sent = [(BINARY, b"\x01" + bytes(5000)), (TEXT, "♥1".encode()), (TEXT, b"at 2"), (PING, b"?")]
        await one.send(b"".join(frame(*each) for each in sent))
        for other in others:
            assert await other.frame() == sent[0]
            assert await other.frame() == sent[2]
        assert [await one.frame(), await one.frame()] == [sent[1], (PONG, b"?")]
        statistics = served.rooms.statistics()
        assert (statistics.supervisor.wakes, statistics.hub.received) == (0, 0)
        assert (statistics.hub.relayed, statistics.hub.relays_dropped) == (3, 0)
        await one.send(frame(TEXT, b"to all"))
        for client in (one, *others):
            assert await client.frame() == (TEXT, b"to all")
        await one.send(frame(TEXT, b"at 3"))
        assert await others[0].frame() == (TEXT, b"at 3")


@pytest.mark.parametrize("name", ["sleeper", "awake", "durable"])
@pytest.mark.parametrize("joined", [False, True])
async def test_it_stays_behind_what_its_connection_sent_before(name: str, joined: bool) -> None:
    """Also where that waits for its commit. What others send meanwhile does not wait."""
    GATES[name] = trio.Event()
    async with serving(sleeper, awake, durable) as served, clients(served, f"/{name}/{name}") as (one, other):
        mixed = [(TEXT, b"wait"), (TEXT, b"at 1"), (TEXT, "♥".encode()), (TEXT, b"said"), (BINARY, b"\1at 2")]
        for piece in (
            [b"".join(frame(*each) for each in mixed)] if joined else [frame(*each) for each in mixed]
        ):
            await one.send(piece)
        await soon(lambda: served.rooms.statistics().hub.received == len(mixed))
        if name != "durable":
            await other.send(frame(BINARY, b"\1other") + frame(BINARY, b"f"))
            assert await one.frame() == (BINARY, b"\1other")
            assert await other.frame() == (BINARY, b"f")
        GATES[name].set()
        assert [await other.frame() for _ in range(4)] == [*mixed[:2], *mixed[3:]]
        assert [await one.frame() for _ in range(3)] == [mixed[0], *mixed[2:4]]


async def test_it_stays_behind_what_waits_for_its_commit() -> None:
    """The room is at rest then, and what it said to everybody has not gone out."""
    store = FaultyStore(MemoryStore())
    GATES["y"] = trio.Event()
    GATES["y"].set()
    async with serving(durable, store=store) as served, clients(served, "/durable/y") as (one, other):
        await one.send(frame(TEXT, b"first"))
        assert await one.frame() == await other.frame() == (TEXT, b"first")
        gate = store.hold_commits()
        await one.send(frame(TEXT, b"wait"))
        await gate.wait_arrived()
        await one.send(frame(TEXT, b"at 1") + frame(TEXT, "♥".encode()))
        await soon(lambda: served.rooms.statistics().hub.received == 4)
        gate.release()
        assert [await other.frame() for _ in range(2)] == [(TEXT, b"wait"), (TEXT, b"at 1")]
        assert [await one.frame() for _ in range(2)] == [(TEXT, b"wait"), (TEXT, "♥".encode())]


@pytest.mark.parametrize("name", ["awake", "durable"])
async def test_what_follows_a_close_by_the_room_goes_nowhere(name: str) -> None:
    """As a message of which the handler never hears."""
    GATES[name] = trio.Event()
    async with serving(awake, durable) as served, clients(served, f"/{name}/{name}") as (one, other):
        await one.send(
            frame(TEXT, b"wait") + frame(TEXT, b"leave") + frame(TEXT, b"at 1") + frame(TEXT, "♥".encode())
        )
        await soon(lambda: served.rooms.statistics().hub.received == 4)
        GATES[name].set()
        for client in (one, other):
            assert await client.frame() == (TEXT, b"wait")
        assert (await one.frame())[0] == CLOSE
        await other.send(frame(TEXT, b"last"))
        assert [await other.frame() for _ in range(2)] == [(TEXT, b"leave"), (TEXT, b"last")]


async def test_who_is_not_greeted_yet_neither_gives_nor_takes() -> None:
    """What it sends waits for its on_connect; what others send is not for it."""
    GATES["x"] = trio.Event()
    GATES["x"].set()
    async with serving(greeting) as served, served.client("/greeting/x") as early:
        assert await early.frame() == (TEXT, b"somebody came")
        async with served.client("/greeting/x") as other:
            assert await early.frame() == await other.frame() == (TEXT, b"somebody came")
            GATES["x"] = trio.Event()
            await early.send(frame(TEXT, b"wait"))
            await soon(lambda: served.rooms.statistics().hub.received == 1)
            async with served.client("/greeting/x", first=frame(TEXT, b"at 2")) as late:
                await other.send(frame(TEXT, b"at 1"))
                assert await early.frame() == (TEXT, b"at 1")
                GATES["x"].set()
                assert await late.frame() == (TEXT, b"somebody came")
                texts = [(TEXT, text) for text in (b"wait", b"somebody came", b"at 2")]
                assert [await early.frame() for _ in range(3)] == texts
                await early.send(frame(TEXT, b"at 3"))
                assert await late.frame() == (TEXT, b"at 3")


async def test_each_connection_has_a_rate(mock_clock: MockClock) -> None:
    """As many as a second has at once, and after that as they come in; it is soon forgotten."""
    async with bench(patience=1e6) as made:
        (one, *others), before = room_of(made, 3, 10), len(made.deadlines)

        def got(count: int) -> int:
            for _ in range(count):
                made.hub.take(one[1], "at 1")
            received = ready(others[1][0])
            assert ready(others[0][0]) == received
            return received.count(b"at 1")

        assert (got(9), got(9)) == (9, 1)
        mock_clock.jump(0.35)
        assert got(9) == 3
        made.hub.take(others[0][1], "at 2")
        assert ready(one[0]) == ready(others[1][0]) == encode_message("at 2")
        mock_clock.jump(60)
        assert got(99) == 10
        statistics = made.hub.statistics()
        assert (statistics.relayed, statistics.relays_dropped) == (24, 8 + 6 + 89)
        relays = made.hub.relays
        assert len(relays) == 2
        for _ in range(2):
            mock_clock.jump(1)
            await trio.testing.wait_all_tasks_blocked()
        assert (len(relays), len(made.deadlines)) == (0, before)


@pytest.mark.parametrize("rate", [0.5, 1.5])
async def test_a_low_rate_lets_one_through_now_and_then(rate: float, mock_clock: MockClock) -> None:
    """However often it is tried meanwhile, and though what is known of it is looked through each second."""
    async with bench(patience=1e6) as made:
        one, other = room_of(made, 2, rate)
        for _ in range(200):
            made.hub.take(one[1], b"\1")
            mock_clock.jump(0.1)
            await trio.testing.wait_all_tasks_blocked()
        assert len(ready(other[0])) // len(encode_binary(b"\1")) == pytest.approx(20 * rate, abs=1)


async def test_who_is_slow_gets_none_and_is_not_closed_for_them() -> None:
    """They are worth nothing later."""
    async with bench(backlog=1000) as made:
        one, slow, quick = [*room_of(made, 2, math.inf, buffer=4096), made.client()]
        slow[1].send(encode_binary(bytes(100_000)))
        for _ in range(100):
            made.hub.take(one[1], b"\1" + bytes(100))
        assert ready(quick[0]).count(b"\1") == 100
        received = b""
        while len(received) < 100_004:
            received += ready(slow[0])
            await trio.lowlevel.checkpoint()
        made.hub.take(one[1], b"\1!")
        assert ready(slow[0]) == encode_binary(b"\1!")


async def test_what_the_room_has_still_to_send_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room that is behind takes a hundred pieces; with more, who wants echoes is not read on."""
    monkeypatch.setattr("trio_rooms._sockets.fanout.TURN", -1.0)
    async with bench() as made:
        one, *others = room_of(made, 200, math.inf)
        made.hub.broadcast(one[1].roster, PlainMessage("first"))
        for number in range(200):
            made.hub.take(one[1], f"at {number}")
        for number in range(120):
            made.hub.take(one[1], f"♥{number}")
        assert one[1].roster.paused == {one[1]: None}
        statistics = made.hub.statistics()
        assert statistics.relayed == 99
        assert statistics.relays_dropped == 101
        await soon(lambda: not one[1].roster.jobs)
        first = encode_message("first")
        echoes = b"".join(encode_message(f"♥{number}") for number in range(120))
        relays = b"".join(encode_message(f"at {number}") for number in range(99))
        assert ready(one[0]) == first + echoes
        assert all(ready(client) == first + relays for client, _ in others)
        assert one[1].roster.paused is None
        one[0].send(frame(TEXT, b"at 1"))
        await soon(lambda: made.hub.statistics().relayed == 100)


async def test_many_in_one_read_hold_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the turn of that read is too short for is written by the task that writes what takes long."""
    async with bench() as made:
        one, *others = room_of(made, 100, math.inf)
        made.hub.data_received(one[1], frame(BINARY, b"\1"))
        assert ready(others[-1][0]) == encode_binary(b"\1")
        monkeypatch.setattr("trio_rooms._sockets.hub.perf_counter", lambda: perf_counter() - 1)
        made.hub.data_received(one[1], frame(BINARY, b"\1") * 50)
        assert not ready(others[-1][0])
        assert len(one[1].roster.jobs or ()) == 50
        await soon(lambda: not one[1].roster.jobs)
        assert ready(others[-1][0]) == encode_binary(b"\1") * 50


def room_of(
    made: Bench, count: int, rate: float, *, buffer: int | None = None
) -> list[tuple[Any, SocketLink]]:
    """So many clients of a room that relays and echoes, with their records."""
    automatic = Automatic({}, ("♥",), ("at ", b"\1"), rate)
    made.hub.roster("a/b", automatic, greets=False)
    return [made.client(buffer=buffer) for _ in range(count)]
