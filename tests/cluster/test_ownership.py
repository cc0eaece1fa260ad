"""Rooms are claimed, found, let go of and taken back; never is one at home on two nodes that may act."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms._cluster import ownership as module
from trio_rooms._cluster.ownership import Ownership
from trio_rooms._cluster.placing import ranked
from trio_rooms._cluster.seat import Seat
from trio_rooms.engines import Claim, MemoryEngine
from trio_rooms.errors import EngineLost, Unavailable

LEASE = 2.0
CALLS = ("join", "renew", "claim", "find", "release", "reclaim")


@attrs.define(eq=False)
class Watched(MemoryEngine):
    """Counts what it is asked, and is slow and forgetful where a test wants it."""

    calls: Counter[str] = attrs.field(factory=Counter)
    lag: Callable[[], float] | None = None
    """Seconds for one way."""
    loses: Callable[[], bool | list[bool]] | None = None
    """Whether the next answer is lost."""


def _watched(name: str) -> Callable[..., Awaitable[Any]]:
    method = getattr(MemoryEngine, name)

    @wraps(method)
    async def watched(self: Watched, *args: Any) -> Any:
        self.calls[name] += 1
        if self.lag is not None:
            await trio.sleep(self.lag())
        answer = await method(self, *args)
        if self.lag is not None:
            await trio.sleep(self.lag())
        if self.loses is not None and self.loses() in (True, [True]):
            raise EngineLost("the answer was lost")
        return answer

    return watched


for _name in CALLS:
    setattr(Watched, _name, _watched(_name))


@attrs.define(eq=False)
class Node:
    """A seat and what it owns."""

    name: str
    engine: Watched
    nodes: dict[str, Node]
    used: set[str] = attrs.field(factory=set)
    is_open: bool = True
    lost: list[str] = attrs.field(factory=list)
    seat: Seat = attrs.field(init=False)
    ownership: Ownership = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.nodes[self.name] = self
        self.seat = Seat(self.engine, self.name, LEASE, lambda: {"open": self.is_open})
        self.ownership = Ownership(
            self.engine,
            self.seat,
            used=self.used.__contains__,
            opens=lambda: self.is_open,
            takes=self.takes,
        )
        self.ownership.on_lost.append(self.lost.append)

    async def takes(self, incarnation: str, key: str) -> bool:
        """Ask another node to take a room."""
        await trio.lowlevel.checkpoint()
        for node in self.nodes.values():
            if node.seat.incarnation == incarnation:
                return await node.ownership.take(key)
        raise Unavailable(key, "it is no more")

    @property
    def incarnation(self) -> str:
        return self.seat.incarnation


@asynccontextmanager
async def nodes(*names: str) -> AsyncIterator[list[Node]]:
    """Nodes that have joined and beat."""
    engine = Watched()
    known: dict[str, Node] = {}
    found = [Node(name, engine.another(), known) for name in names]
    async with trio.open_nursery() as nursery:
        for node in found:
            await node.seat.join()
        for node in found:
            nursery.start_soon(node.seat.run)
            nursery.start_soon(node.ownership.run)
        yield found
        nursery.cancel_scope.cancel()


async def test_a_room_is_at_home_where_it_is_wanted_first(autojump_clock: MockClock) -> None:
    """Others find it there, and remember that."""
    async with nodes("ana", "bob") as (ana, bob):
        assert await bob.ownership.find("chat/1") == ""
        assert await ana.ownership.place("chat/1") == ana.incarnation
        assert ana.ownership.owns("chat/1")
        assert ana.ownership.epoch_of("chat/1") == 1
        assert list(ana.ownership.keys()) == ["chat/1"]
        for _ in range(3):
            assert await bob.ownership.place("chat/1") == ana.incarnation
            assert await bob.ownership.find("chat/1") == ana.incarnation
        assert not bob.ownership.owns("chat/1")
        assert bob.ownership.epoch_of("chat/1") == 0
        assert bob.engine.calls["claim"] == 1
        assert ana.ownership.claims == 1


async def test_many_who_want_one_room_at_once(autojump_clock: MockClock) -> None:
    """It is claimed once by each node, and all agree where it is."""
    found = []

    async def place(node: Node) -> None:
        found.append(await node.ownership.place("chat/1"))

    async with nodes("ana", "bob", "eve") as members:
        await trio.sleep(1)
        for node in members:
            node.engine.lag = lambda: 0.1
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                for node in members:
                    nursery.start_soon(place, node)
        assert len(found) == 60
        assert len(set(found)) == 1
        assert [node.engine.calls["claim"] for node in members] == [1, 1, 1]


async def test_what_is_not_needed_is_let_go_of(autojump_clock: MockClock) -> None:
    """After some seconds, unless it is used or pinned; and many at a time, but not all at once."""
    async with nodes("ana") as (ana,):
        keys = [f"chat/{number}" for number in range(200)]
        for key in keys:
            await ana.ownership.place(key)
        ana.used.update(keys[:2])
        released: list[str] = []
        ana.ownership.on_released.append(released.append)
        with ana.ownership.pinned(keys[2]), ana.ownership.pinned(keys[2]):
            await trio.sleep(2.5)
            assert len(ana.ownership.keys()) == 200
            ana.engine.lag = lambda: 0.1
            await trio.sleep(4)
            assert 0 < len(released) < 150
            await trio.sleep(10)
            assert set(ana.ownership.keys()) == set(keys[:3])
        await trio.sleep(10)
        assert set(ana.ownership.keys()) == set(keys[:2])
        assert set(released) == set(keys[2:])
        assert not ana.lost


async def test_a_room_that_is_being_let_go_of_is_claimed_again(autojump_clock: MockClock) -> None:
    """Whoever wants it meanwhile waits, and has it with another epoch."""
    async with nodes("ana") as (ana,):
        await ana.ownership.place("chat/1")
        epoch = ana.ownership.epoch_of("chat/1")
        ana.engine.lag = lambda: 0.2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ana.ownership.release, "chat/1")
            await wait_all_tasks_blocked()
            assert not ana.ownership.owns("chat/1")
            assert await ana.ownership.place("chat/1") == ana.incarnation
        assert ana.ownership.epoch_of("chat/1") > epoch
        assert await ana.engine.find(["chat/1"]) == {"chat/1": ana.incarnation}
        assert not await ana.ownership.release("chat/2")


async def test_a_node_that_takes_no_more_asks_the_others(autojump_clock: MockClock) -> None:
    """In the order of rendezvous, those that are open; what has a home already stays where it is."""
    async with nodes("ana", "bob", "eve", "joe") as members:
        ana, bob, eve, joe = members
        await ana.ownership.place("chat/0")
        ana.is_open = False
        await trio.sleep(1)
        assert await ana.ownership.place("chat/0") == ana.incarnation
        key = next(
            key
            for key in (f"chat/{number}" for number in range(1, 100))
            if [one.name for one in ranked(key, ana.seat.members.values()) if one.name != "ana"][:2]
            == ["bob", "eve"]
        )
        assert await ana.ownership.place(key) == bob.incarnation
        await bob.ownership.release(key)
        ana.ownership.misplaced(key, bob.incarnation)
        bob.is_open = False  # And nobody knows yet.
        assert await ana.ownership.place(key) == eve.incarnation
        eve.is_open = joe.is_open = False
        await trio.sleep(1)
        began = trio.current_time()
        with pytest.raises(Unavailable, match="no node can take it"):
            await ana.ownership.place("chat/none")
        assert trio.current_time() - began == pytest.approx(5.0)


async def test_an_engine_that_is_away(autojump_clock: MockClock) -> None:
    """Rooms at home here are found still; others can be once it is back, or are unavailable after 5 s."""
    async with nodes("ana", "bob") as (ana, bob):
        await ana.ownership.place("chat/1")
        await bob.ownership.place("chat/1")
        ana.used.add("chat/1")
        ana.engine.down()
        assert await ana.ownership.place("chat/1") == ana.incarnation
        assert await bob.ownership.place("chat/1") == ana.incarnation
        with pytest.raises(EngineLost):
            await ana.ownership.take("chat/2")
        began = trio.current_time()
        for asking in (ana.ownership.place, ana.ownership.find):
            with pytest.raises(Unavailable):
                await asking("chat/2")
        assert trio.current_time() - began == pytest.approx(10.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ana.ownership.place, "chat/2")
            await trio.sleep(4)
            ana.engine.up()
        assert ana.ownership.owns("chat/2")
        assert ana.ownership.epoch_of("chat/1") == 1


async def test_a_claim_whose_answer_is_lost(autojump_clock: MockClock) -> None:
    """Whoever asks for the room next finds out, whether or not this node takes more."""
    async with nodes("ana", "bob") as (ana, bob):
        lost = [True, True]
        ana.engine.loses = lambda: bool(lost and lost.pop())
        for key in ("chat/1", "chat/2"):
            lost.append(True)
            with pytest.raises(EngineLost):
                await ana.ownership.take(key)
        lost.clear()
        assert not ana.ownership.owns("chat/1")
        assert await bob.ownership.place("chat/1") == ana.incarnation
        assert await ana.ownership.take("chat/1")
        ana.is_open = False
        assert not await ana.ownership.take("chat/3")
        assert await ana.ownership.take("chat/2")
        assert await ana.ownership.take("chat/2")


async def test_a_claim_that_nobody_here_knows_of_is_given_up_when_another_node_asks(
    autojump_clock: MockClock,
) -> None:
    """Its answer was lost, and who wanted the room does not any more: else nobody could ever have it."""
    async with nodes("ana", "bob") as (ana, bob):
        ana.engine.loses = lambda: True
        with trio.move_on_after(0.05):
            await ana.ownership.place("chat/a")
        ana.engine.loses = None
        assert not ana.ownership.owns("chat/a")
        assert await bob.ownership.find("chat/a") == ana.incarnation
        assert not await ana.ownership.has("chat/a")
        bob.ownership.misplaced("chat/a", ana.incarnation)
        assert await bob.ownership.place("chat/a") == bob.incarnation
        assert await bob.ownership.has("chat/a")
        assert not await ana.ownership.has("chat/a")
        assert bob.ownership.owns("chat/a")


async def test_a_placing_that_is_cancelled(autojump_clock: MockClock) -> None:
    """It holds nobody up, wherever it was."""
    async with nodes("ana") as (ana,):
        ana.engine.lag = lambda: 0.1
        for tenth in range(30):
            with trio.move_on_after(tenth / 100):
                await ana.ownership.place(f"chat/{tenth}")
            assert await ana.ownership.place(f"chat/{tenth}") == ana.incarnation
            with trio.move_on_after(tenth / 100):
                await ana.ownership.release(f"chat/{tenth}")
            assert await ana.ownership.place(f"chat/{tenth}") == ana.incarnation


async def test_a_claim_that_is_answered_to_the_next_incarnation(autojump_clock: MockClock) -> None:
    """It is not one of that: somebody else may have the room already."""
    async with nodes("ana", "bob") as (ana, bob):
        await trio.sleep(1)
        answered = trio.Event()
        claim = ana.engine.claim

        async def slow(key: str, incarnation: str) -> Claim:
            found = await claim(key, incarnation)
            await answered.wait()
            return found

        ana.ownership.patience = 60
        ana.engine.claim = slow  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ana.ownership.place, "chat/1")
            await trio.sleep(1)
            ana.engine.cut()
            await trio.sleep(LEASE + 1)
            ana.engine.mend()
            await trio.sleep(1)
            assert ana.seat.valid
            bob.used.add("chat/1")
            assert await bob.ownership.place("chat/1") == bob.incarnation
            answered.set()
        assert not ana.ownership.owns("chat/1")
        assert await ana.ownership.place("chat/1") == bob.incarnation


@pytest.mark.parametrize("late", [2, 3])
async def test_a_room_that_is_wanted_in_the_moment_it_would_go(autojump_clock: MockClock, late: int) -> None:
    """It stays, until the very step in which it would go."""
    async with nodes("ana") as (ana,):
        await ana.ownership.place("chat/1")
        epoch = ana.ownership.epoch_of("chat/1")
        looks: list[str] = []

        def used(key: str) -> bool:
            looks.append(key)
            return len(looks) > late

        ana.ownership.used = used
        await trio.sleep(20)
        assert len(looks) > late + 1
        assert ana.ownership.epoch_of("chat/1") == epoch


async def test_a_node_that_comes_back_has_what_nobody_wanted(autojump_clock: MockClock) -> None:
    """With the same epochs; what somebody took is lost, and who took it is found."""
    async with nodes("ana", "bob") as (ana, bob):
        keys = [f"chat/{number}" for number in range(2500)]
        for key in keys:
            await ana.ownership.place(key)
        ana.used.update(keys)
        epochs = {key: ana.ownership.epoch_of(key) for key in keys}
        former = ana.incarnation
        ana.engine.cut()
        await trio.sleep(LEASE + 1)
        assert former not in bob.seat.members
        taken = keys[::100]
        for key in taken:
            assert await bob.ownership.place(key) == bob.incarnation
        bob.used.update(taken)
        assert len(ana.ownership.keys()) == len(keys)
        ana.engine.mend()
        lost = iter([True] * 5)
        ana.engine.loses = lambda: next(lost, False)
        await trio.sleep(5)
        assert ana.incarnation != former
        assert sorted(ana.lost) == sorted(taken)
        assert set(ana.ownership.keys()) == set(keys) - set(taken)
        assert all(ana.ownership.epoch_of(key) == epochs[key] for key in list(ana.ownership.keys()))
        assert await bob.ownership.place(keys[1]) == ana.incarnation
        assert await ana.ownership.place(keys[0]) == bob.incarnation


async def test_a_room_that_somebody_else_has_written(autojump_clock: MockClock) -> None:
    """It is told once that it is lost, and can be placed again."""
    async with nodes("ana") as (ana,):
        await ana.ownership.place("chat/1")
        ana.ownership.lost("chat/1")
        ana.ownership.lost("chat/1")
        assert ana.lost == ["chat/1"]
        assert await ana.ownership.place("chat/1") == ana.incarnation


async def test_where_rooms_were_is_forgotten(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the node that had them, where that says that it has not, and when it is too much."""
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    async with nodes("ana", "bob", "eve") as (ana, bob, eve):
        for number in range(30):
            home = bob if number % 2 else eve
            home.used.add(f"chat/{number}")
            await home.ownership.place(f"chat/{number}")
            await ana.ownership.place(f"chat/{number}")
        assert len(ana.ownership._elsewhere) == 10
        assert ana.ownership.known("chat/29") == bob.incarnation
        ana.ownership.misplaced("chat/29", eve.incarnation)
        assert ana.ownership.known("chat/29") == bob.incarnation
        ana.ownership.misplaced("chat/29", bob.incarnation)
        assert ana.ownership.known("chat/29") is None
        eve.engine.cut()
        await trio.sleep(LEASE + 1)
        assert set(ana.ownership._elsewhere.values()) == {bob.incarnation}
        assert await ana.ownership.place("chat/28") == ana.incarnation


async def test_a_name_that_another_process_has_taken(autojump_clock: MockClock) -> None:
    """All rooms are lost at once: that process may claim them."""
    async with nodes("ana") as (ana,):
        await ana.ownership.place("chat/1")
        twin = Node("ana", ana.engine.another(), {})
        await twin.seat.join()
        await trio.sleep(1)
        assert ana.lost == ["chat/1"]
        assert await twin.ownership.place("chat/1") == twin.incarnation


@settings(max_examples=5)
@given(st.integers(0, 2**32))
def test_never_are_two_at_home_to_a_room(seed: int) -> None:
    """Whatever is slow, lost or cut: of the nodes whose lease is good one at most has a room."""
    trio.run(histories, random.Random(seed), clock=MockClock(autojump_threshold=0))


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=1000)
@given(st.integers(0, 2**32))
def test_never_are_two_at_home_to_a_room_in_manyhistories(seed: int) -> None:
    """The same, for long."""
    trio.run(histories, random.Random(seed), clock=MockClock(autojump_threshold=0))


async def histories(drawn: random.Random) -> None:
    """Three nodes that want four rooms, and what keeps them from it.

    Raises:
        AssertionError: a room was at home on two nodes at once, or nobody could have it in the end.
    """
    keys = [f"chat/{number}" for number in range(4)]
    async with nodes("ana", "bob", "eve") as members:
        engine = members[0].engine
        epochs: dict[str, tuple[int, str]] = {}

        def look() -> None:
            for key in keys:
                homes = [one for one in members if one.ownership.owns(key) and one.seat.check()]
                assert len(homes) < 2, f"{key} at {trio.current_time()}"
                row = engine._shared.owned.get(key)
                for home in homes:
                    epoch, name = home.ownership.epoch_of(key), home.name
                    before = epochs.setdefault(key, (epoch, name))
                    assert (epoch, name) == before or epoch > before[0], "an older epoch, or one of two"
                    epochs[key] = (epoch, name)
                    assert row is None or row.epoch >= epoch

        async def want(node: Node) -> None:
            while True:
                await trio.sleep(drawn.expovariate(3))
                key = drawn.choice(keys)
                try:
                    with trio.move_on_after(drawn.choice([0.05, 1, 10])):
                        if drawn.random() < 0.2:
                            await node.ownership.release(key)
                        elif await node.ownership.place(key) == node.incarnation:
                            look()
                except (Unavailable, EngineLost):
                    pass

        async def disturb(node: Node) -> None:
            while True:
                await trio.sleep(drawn.expovariate(0.3))
                node.engine.lag = partial(drawn.uniform, 0, drawn.choice([0.0, 0.0, 0.1, 1.0]))
                node.engine.loses = partial(drawn.choices, [False, True], [1, drawn.choice([0, 0.2])])
                if drawn.random() < 0.3:
                    node.engine.cut()
                    await trio.sleep(drawn.uniform(0, 6))
                    node.engine.mend()
                node.is_open = drawn.random() < 0.8

        async def crash() -> None:
            while True:
                await trio.sleep(drawn.expovariate(0.1))
                engine.down()
                await trio.sleep(drawn.uniform(0, 5))
                engine.up()

        with trio.move_on_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                for node in members:
                    nursery.start_soon(disturb, node)
                    for _ in range(2):
                        nursery.start_soon(want, node)
                while True:
                    await trio.sleep(0.05)
                    look()
        engine.up()
        for node in members:
            node.engine.mend()
            node.engine.lag = node.engine.loses = None
            node.is_open = True
        await trio.sleep(3 * LEASE)
        for key in keys:
            for node in members:
                incarnation = await node.ownership.place(key)
                [home] = [one for one in members if one.incarnation == incarnation]
                if not home.ownership.owns(key):
                    node.ownership.misplaced(key, incarnation)
            assert len({await node.ownership.place(key) for node in members}) == 1
            look()
