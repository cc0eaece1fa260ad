from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.sockets.bench import Bench, Line, bench, ready, soon
from trio_rooms._metrics.histogram import Histogram
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._sockets.fanout import Broadcast, FanOut, PlainMessage, SendLater
from trio_rooms._sockets.flags import BINARY, CLOSE_SENT, GONE
from trio_rooms._sockets.links import SocketLink
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._sockets.use import Use
from trio_rooms._wire.envelope import Outgoing
from trio_rooms._wire.frames import encode_text


@attrs.define(eq=False)
class Desk:
    """A fan-out with rooms whose output is pieces of paper."""

    emptied: list[str] = attrs.field(factory=list)
    done: list[str] = attrs.field(factory=list)
    fan_out: FanOut = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.fan_out = FanOut(lambda roster: self.emptied.append(roster.key))

    def job(self, name: str, slices: int) -> Callable[[float], bool]:
        """Output that takes so many slices."""
        left: Iterator[int] = iter(range(slices - 1, -1, -1))

        def work(_: float) -> bool:
            over = next(left) == 0
            self.done.append(name + "." * (not over))
            return over

        return work


class Owner:
    """Has what is measured."""

    def __init__(self) -> None:
        self.metrics = Metrics()


def room(key: str) -> Roster:
    """A room without connections."""
    return Roster(Owner(), key, None, greets=False)  # type: ignore[arg-type]  # it is asked for nothing else


async def test_what_is_little_is_done_at_once() -> None:
    """Without the task, and nothing is left of it."""
    desk, one = Desk(), room("a/1")
    desk.fan_out.do(one, desk.job("short", 1))
    assert desk.done == ["short"]
    assert one.jobs is None
    assert desk.emptied == []


async def test_output_of_one_room_keeps_its_order(nursery: trio.Nursery) -> None:
    """What is short waits behind what takes long, and its room is reported once all of it is out."""
    desk, one = Desk(), room("a/1")
    nursery.start_soon(desk.fan_out.run)
    await wait_all_tasks_blocked()
    for _ in range(2):
        desk.fan_out.do(one, desk.job("long", 3))
        desk.fan_out.do(one, desk.job("short", 1))
        desk.fan_out.do(one, desk.job("last", 2))
        assert desk.done == ["long."]
        await wait_all_tasks_blocked()
        assert desk.done == ["long.", "long.", "long", "short", "last.", "last"]
        assert one.jobs is None
        desk.done.clear()
    assert desk.emptied == ["a/1", "a/1"]


async def test_rooms_take_turns(nursery: trio.Nursery) -> None:
    """A slice of each, and a turn of the event loop after each, however much one of them has to say."""
    desk, one, two = Desk(), room("a/1"), room("a/2")
    nursery.start_soon(desk.fan_out.run)
    await wait_all_tasks_blocked()
    desk.fan_out.do(one, desk.job("one", 100))
    desk.fan_out.do(two, desk.job("two", 3))
    turns = 0
    while one.jobs:
        await trio.lowlevel.checkpoint()
        turns += 1
    assert desk.done.index("two") < 10
    assert desk.emptied == ["a/2", "a/1"]
    assert turns > 90


async def test_what_is_held_back_is_done_in_its_order_later(nursery: trio.Nursery) -> None:
    """Also what was half done by then; nothing turns in circles meanwhile."""
    desk, one, two = Desk(), room("a/1"), room("a/2")
    nursery.start_soon(desk.fan_out.run)
    await wait_all_tasks_blocked()
    desk.fan_out.do(one, desk.job("long", 3))
    for _ in range(2):
        desk.fan_out.hold()
    desk.fan_out.do(one, desk.job("short", 1))
    desk.fan_out.do(two, desk.job("other", 1))
    await wait_all_tasks_blocked()
    assert desk.done == ["long."]
    assert desk.fan_out.holds
    for _ in range(2):
        desk.fan_out.let_go()
    await wait_all_tasks_blocked()
    assert [one for one in desk.done if one != "other"] == ["long.", "long.", "long", "short"]
    assert sorted(desk.emptied) == ["a/1", "a/2"]
    desk.fan_out.do(one, desk.job("at once", 1))
    assert desk.done[-1] == "at once"


async def test_what_a_room_has_to_send_can_be_dropped(nursery: trio.Nursery) -> None:
    """It is given back, and others are not concerned; or it is done at once, for whoever is left."""
    desk, one, two = Desk(), room("a/1"), room("a/2")
    nursery.start_soon(desk.fan_out.run)
    await wait_all_tasks_blocked()
    desk.fan_out.hold()
    job = desk.job("dropped", 1)
    desk.fan_out.do(one, job)
    desk.fan_out.do(two, desk.job("done", 3))
    assert list(desk.fan_out.drop(one)) == [job]
    assert list(desk.fan_out.drop(one)) == []
    desk.fan_out.finish(two)
    assert desk.done == ["done.", "done.", "done"]
    assert one.jobs is two.jobs is None
    desk.fan_out.let_go()
    await wait_all_tasks_blocked()
    assert desk.fan_out.rooms == 0
    assert len(desk.done) == 3


class Heard(Line):
    """Notes what it is sent."""

    def __init__(self, number: int, roster: Roster, flags: int = 0) -> None:
        super().__init__(number, roster, None, flags)
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        """Note it."""
        self.sent.append(frame)


def test_a_broadcast_goes_to_each_in_its_kind() -> None:
    """Encoded once for all of a kind; those that are closing or gone are passed by."""
    roster = room("a/1")
    text, binary = Heard(1, roster), Heard(2, roster, BINARY)
    over = [Heard(3, roster, CLOSE_SENT), Heard(4, roster, GONE)]
    message = Outgoing({"event": "x", "data": 1})
    assert Broadcast([text, binary, *over], message)(0)
    assert text.sent == [message.frame(binary=False)]
    assert binary.sent == [message.frame(binary=True)]
    assert text.sent[0] is message.frame(binary=False)
    assert [heard.sent for heard in over] == [[], []]


def test_a_broadcast_stops_when_its_time_is_over_and_goes_on_from_there() -> None:
    """After a bounded number of sockets; nobody gets it twice."""
    roster = room("a/1")
    links = [Heard(number, roster) for number in range(200)]
    broadcast = Broadcast([*links], PlainMessage("x"))
    reached = []
    over = False
    while not over:
        over = broadcast(0)
        reached.append(sum(len(link.sent) for link in links))
    assert reached == [64, 128, 192, 200]
    assert all(link.sent == [encode_text(b"x")] for link in links)


def test_how_long_a_broadcast_takes_is_noted_once_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is done: from when it was made, however often it stopped, for each kind of recipient."""
    now = [1.0]
    monkeypatch.setattr("trio_rooms._sockets.fanout.perf_counter", lambda: now[0])
    roster = room("a/1")
    links = [Heard(number, roster) for number in range(130)]
    roster.links.update({link.id: link for link in links})
    metrics = roster.hub.metrics

    def broadcast(to: list[Link], *arguments: Any) -> tuple[int, int]:
        metrics.delivery_active, metrics.delivery_hibernated = Histogram(), Histogram()
        made = Broadcast(to, PlainMessage("x"), *arguments)
        for _ in range((len(to) + 63) // 64):
            assert metrics.delivery_active.count == metrics.delivery_hibernated.count == 0
            now[0] += 0.5
            made(0)
        return metrics.delivery_active.count, metrics.delivery_hibernated.count

    everybody: list[Link] = [*links]
    assert broadcast(everybody) == (0, 1)
    assert metrics.delivery_hibernated.max == 1.5
    roster.active = {everybody[100]: Use(0)}
    assert broadcast(everybody) == (1, 1)
    assert metrics.delivery_active.max == metrics.delivery_hibernated.max == 1.5
    assert broadcast([everybody[100]]) == (1, 0)
    assert broadcast([everybody[99]]) == (0, 1)
    roster.active = {link: Use(0) for link in everybody}
    assert broadcast(everybody) == (1, 0)
    # Behind others, sent before it came here, and what waits for a reason to be written.
    assert broadcast(everybody[:1], None, 0.25) == (1, 0)
    assert metrics.delivery_active.max == now[0] - 0.25
    assert broadcast(everybody, None, 0.0) == (0, 0)
    assert broadcast([]) == (0, 0)


@pytest.mark.parametrize("size", [1, 5_000, 500_000])
@pytest.mark.parametrize("binary", [False, True])
async def test_a_broadcast_writes_as_each_connection_would(size: int, binary: bool) -> None:
    """To those that take all of it, a part or nothing, where something waits, and where nobody is left."""
    message = Outgoing({"event": "x", "data": "y" * size})
    small, filling = 4096, b"z" * 400_000

    def clients(made: Bench, key: str) -> list[tuple[socket.socket, SocketLink]]:
        pairs = [made.client(key, flags, buffer=buffer) for flags in (0, BINARY) for buffer in (None, small)]
        pairs += [made.client(key, buffer=small) for _ in range(5)]
        full, waits, closing, lost, over = pairs[-5:]
        full[1].send(filling)
        made.hub.pacing.postpone(waits[1], encode_text(b"before"), 5)
        made.hub.close(closing[1], 1000, "")
        lost[0].close()
        over[1].abort()
        assert full[1].output is not None
        assert waits[1].postponed is not None
        return pairs

    def state(pairs: list[tuple[socket.socket, SocketLink]]) -> list[Any]:
        return [
            (link.flags, None if link.output is None else link.output.size, link.postponed is None)
            for _, link in pairs
        ]

    async with bench() as made:
        one, each = clients(made, "a/1"), clients(made, "a/2")
        if not binary:
            for _, link in (*one, *each):
                link.flags &= ~BINARY
        assert state(one) == state(each)
        assert Broadcast([link for _, link in one], message)(math.inf)
        for _, link in each:
            if not link.flags & (CLOSE_SENT | GONE):
                link.send(message.frame(binary=bool(link.flags & BINARY)))
        assert state(one) == state(each)
        received: dict[socket.socket, bytes] = dict.fromkeys([client for client, _ in (*one, *each)], b"")

        def all_read() -> bool:
            for client in received:
                received[client] += ready(client) if client.fileno() >= 0 else b""
            return all(link.output is None for _, link in (*one, *each))

        await soon(all_read)
        assert all_read()
        got = [[received[client] for client, _ in pairs] for pairs in (one, each)]
        assert got[0] == got[1]
        assert got[0][0] == message.frame(binary=False)


@pytest.mark.parametrize("data", [object(), "\ud800"])
def test_a_broadcast_without_a_form_goes_to_nobody(data: object) -> None:
    """Though it has one in a kind that others are spoken to in."""
    roster = room("a/1")
    links = [Heard(1, roster), Heard(2, roster, BINARY)]
    with pytest.raises((TypeError, ValueError)):
        Broadcast([*links], Outgoing({"event": "x", "data": data}))
    assert [link.sent for link in links] == [[], []]


def test_what_was_to_be_sent_later_is_not_sent_behind_a_close() -> None:
    """Nothing may follow the close frame."""
    roster = room("a/1")
    for flags, sent in ((0, [b"x"]), (CLOSE_SENT, []), (GONE, [])):
        heard = Heard(1, roster, flags)
        assert SendLater(heard, b"x")(0)
        assert heard.sent == sent
