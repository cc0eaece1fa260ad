"""Lanes: what one node sends to another comes once and in order, whatever the engine loses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import cbor2
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rooms._cluster.lanes import Lane, Lanes
from trio_rooms.engines.memory import MemoryEngine
from trio_rooms.errors import EngineLost, Unavailable

KIND = 20


@attrs.define(eq=False)
class Seat:
    """A seat that is there, and knows whom it is told of."""

    incarnation: str
    members: dict[str, Any]
    on_gone: list[Callable[[Any], None]] = attrs.field(factory=list)
    on_over: list[Callable[[str], None]] = attrs.field(factory=list)

    def lose(self, incarnation: str) -> None:
        member = self.members.pop(incarnation)
        for told in self.on_gone:
            told(member)


@attrs.frozen
class Member:
    """One that is in it."""

    incarnation: str


class Lossy(MemoryEngine):
    """Loses some messages, and brings others late."""

    def __init__(self, fates: list[int]) -> None:
        super().__init__()
        self.fates = fates
        self.late: list[tuple[str, bytes]] = []

    async def send(self, incarnation: str, message: bytes) -> None:
        fate = self.fates.pop() if self.fates else 0
        if fate == 1:
            await trio.lowlevel.checkpoint()
            return
        if fate == 2:
            self.late.append((incarnation, message))
        if fate == 3:
            await super().send(incarnation, message)
            msg = "the answer is lost"
            raise EngineLost(msg)
        await super().send(incarnation, message)
        if fate != 2 and self.late:
            await super().send(*self.late.pop())


class Node:
    """A node that has lanes alone, and what came of them."""

    def __init__(self, engine: MemoryEngine, name: str, others: list[str], most: int) -> None:
        self.seat = Seat(name, {one: Member(one) for one in [name, *others]})
        self.lanes = Lanes(engine, self.seat, most=most)
        self.came: list[Any] = []
        self.ended: list[Lane] = []
        self.lanes.on_message(KIND, lambda _, value: self.came.append(value))
        self.lanes.on_end.append(self.ended.append)


@asynccontextmanager
async def two(engine: MemoryEngine, most: int = 1 << 24) -> Any:
    """Two nodes whose lanes run."""
    a, b = Node(engine, "a#1", ["b#1"], most), Node(engine, "b#1", ["a#1"], most)
    async with trio.open_nursery() as nursery:
        await nursery.start(a.lanes.run)
        await nursery.start(b.lanes.run)
        yield a, b
        nursery.cancel_scope.cancel()


async def test_what_is_posted_in_a_turn_goes_as_one_message(autojump_clock: Any) -> None:
    """A hundred messages and their acknowledgement are two of the engine, and then all is quiet."""
    engine = Lossy([])
    sent: list[bytes] = []
    send = engine.send

    async def noted(incarnation: str, message: bytes) -> None:
        sent.append(message)
        await send(incarnation, message)

    engine.send = noted  # type: ignore[method-assign]
    async with two(engine) as (a, b):
        for number in range(100):
            a.lanes.lane("b#1").post(KIND, number)
        await trio.sleep(5)
        assert b.came == list(range(100))
        assert len(sent) == 2  # And its acknowledgement.
        await trio.sleep(1000)
        assert len(sent) == 2  # Nothing is sent while nothing happens.
        assert a.lanes.lane("b#1").size == 0


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), max_size=60))
def test_nothing_is_lost_or_comes_twice_or_out_of_order(fates: list[int]) -> None:
    """Messages are lost, come late, and what was sent is not known to be."""

    async def main() -> None:
        async with two(Lossy(fates)) as (a, b):
            for number in range(10):
                a.lanes.lane("b#1").post(KIND, number)
                b.lanes.lane("a#1").post(KIND, -number)
                await trio.sleep(0.02 if number % 3 else 0.4)
            await trio.sleep(60)
            assert b.came == list(range(10))
            assert a.came == [-number for number in range(10)]
            assert a.lanes.lane("b#1").size == b.lanes.lane("a#1").size == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_it_goes_on_when_the_engine_comes_back(autojump_clock: Any) -> None:
    """What was posted while it was away is sent then."""
    engine = MemoryEngine()
    async with two(engine) as (a, b):
        a.lanes.lane("b#1").post(KIND, 1)
        await trio.sleep(1)
        engine.down()
        a.lanes.lane("b#1").post(KIND, 2)
        await trio.sleep(100)
        assert b.came == [1]
        engine.up()
        await trio.sleep(3)
        assert b.came == [1, 2]


async def test_what_is_large_goes_in_pieces(autojump_clock: Any) -> None:
    """A message may be larger than one of the engine."""
    async with two(MemoryEngine()) as (a, b):
        large = bytes(1_000_000)
        for value in (1, large, 2):
            a.lanes.lane("b#1").post(KIND, value)
        await trio.sleep(1)
        assert b.came == [1, large, 2]
        assert a.lanes.lane("b#1").size == 0


async def test_what_takes_long_lets_others_have_their_turn(autojump_clock: Any) -> None:
    """Twenty thousand messages that come at once are handled a few at a time."""
    async with two(MemoryEngine()) as (a, b):
        for number in range(20_000):
            a.lanes.lane("b#1").post(KIND, number)
        await trio.testing.wait_all_tasks_blocked()
        looked: list[int] = []
        while len(b.came) < 20_000:
            looked.append(len(b.came))
            await trio.lowlevel.checkpoint()
        await trio.sleep(1)
        assert b.came == list(range(20_000))
        assert a.lanes.lane("b#1").size == 0


async def test_too_much_ends_it_on_both_sides_and_a_new_one_begins(autojump_clock: Any) -> None:
    """What waits has a bound, and who is past it starts again with nothing."""
    engine = MemoryEngine()
    async with two(engine, most=1000) as (a, b):
        b.lanes.lane("a#1").post(KIND, "here")
        await trio.sleep(1)
        engine.down()
        old = a.lanes.lane("b#1")
        for number in range(100):
            old.post(KIND, number)
        assert old.over
        assert not a.ended  # Not in the middle of it.
        await trio.sleep(1)
        assert a.ended == [old]
        a.lanes.lane("b#1").post(KIND, "again")
        b.lanes.lane("a#1").post(KIND, "too late")
        engine.up()
        await trio.sleep(5)
        assert [lane.peer for lane in b.ended] == ["a#1"]
        assert b.came == ["again"]
        assert a.came == ["here"]
        b.lanes.lane("a#1").post(KIND, "new")
        await trio.sleep(1)
        assert a.came == ["here", "new"]


async def test_it_ends_when_the_other_is_no_member_any_more(autojump_clock: Any) -> None:
    """Nothing is taken of the dead."""
    async with two(MemoryEngine()) as (a, b):
        lane = a.lanes.lane("b#1")
        a.seat.lose("b#1")
        assert a.ended == [lane]
        b.lanes.lane("a#1").post(KIND, 1)
        await trio.sleep(10)
        assert a.came == []
        with pytest.raises(Unavailable):
            a.lanes.lane("b#1")


async def test_who_answers_is_reached_and_who_does_not_is_not(autojump_clock: Any) -> None:
    """To be a member is not enough."""
    engine = MemoryEngine()
    async with two(engine) as (a, _):
        assert not a.lanes.lane("b#1").up
        assert (await a.lanes.reach("b#1")).up
        engine.down()
        await trio.sleep(5)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await a.lanes.reach("b#1", patience=2)
        assert trio.current_time() - began == 2
        engine.up()
        await a.lanes.reach("b#1")


async def test_a_handler_that_raises_stops_nothing(autojump_clock: Any, caplog: Any) -> None:
    """What comes next is handled."""
    async with two(MemoryEngine()) as (a, b):
        b.lanes.on_message(21, lambda _: None)
        lane = a.lanes.lane("b#1")
        lane.post(21, "one too many")
        lane.post(99)
        lane.post(KIND, 1)
        await trio.sleep(1)
        assert b.came == [1]
        assert len(caplog.records) == 2


async def test_one_message_may_be_larger_than_all_that_may_wait(autojump_clock: Any) -> None:
    """An application may send what it likes; nothing follows until it has gone."""
    async with two(MemoryEngine(), most=1000) as (a, b):
        a.lanes.lane("b#1").post(KIND, large := bytes(2_000_000))
        await trio.sleep(1)
        assert b.came == [large]
        a.lanes.lane("b#1").post(KIND, large)
        a.lanes.lane("b#1").post(KIND, 1)
        await trio.sleep(1)
        assert [lane.peer for lane in a.ended] == ["b#1"]


async def test_what_cannot_be_read_ends_the_lane_and_nothing_else(autojump_clock: Any) -> None:
    """As it may come of another version of this program."""
    engine = MemoryEngine()
    async with two(engine) as (a, b):
        a.lanes.lane("b#1").post(KIND, 1)
        await trio.sleep(1)
        await engine.send("b#1", b"\xff")
        await engine.send("b#1", cbor2.dumps(("a#1", 0, 2, 0, 0, 0, b"\xff")))
        await trio.sleep(1)
        assert len(a.ended) == len(b.ended) == 1
        a.lanes.lane("b#1").post(KIND, 2)
        b.lanes.lane("a#1").post(KIND, 3)
        await trio.sleep(1)
        assert (a.came, b.came) == ([3], [1, 2])
