"""Leases: who lives, when a node pauses, and how it comes back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_rooms._cluster.placing import first, is_open, ranked, serves
from trio_rooms._cluster.seat import Member, Seat
from trio_rooms.engines import MemoryEngine, Renewal
from trio_rooms.errors import EngineLost

LEASE = 2.0
MARGIN = 0.1
BEAT = 0.25


@attrs.define(eq=False)
class Node:
    """A seat, and what it has told."""

    seat: Seat
    told: list[tuple[float, str]] = attrs.field(factory=list)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        seat = self.seat
        seat.on_pause.append(lambda: self.note("pause"))
        seat.on_resume.append(lambda: self.note("resume"))
        seat.on_over.append(lambda former: self.note(f"over {former == seat.incarnation}"))
        seat.on_come.append(lambda member: self.note(f"come {member.name}"))
        seat.on_change.append(lambda member: self.note(f"change {member.name}"))
        seat.on_gone.append(lambda member: self.note(f"gone {member.name}"))
        seat.on_joined.append(self.joined)

    def note(self, what: str) -> None:
        self.told.append((round(trio.current_time(), 2), what))

    async def joined(self) -> None:
        self.note("joined")
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        with self.scope:
            await self.seat.run()

    def what(self) -> list[str]:
        """What it has told since it was asked last."""
        told, self.told = self.told, []
        return [what for _, what in told]


Sit = Callable[..., Any]


@asynccontextmanager
async def seated() -> AsyncIterator[tuple[MemoryEngine, Sit]]:
    """An engine, and a way to have nodes join, each with its own view on that."""
    engine = MemoryEngine()
    async with trio.open_nursery() as nursery:

        async def sit(name: str, about: Callable[[], dict[str, Any]] = dict) -> tuple[Node, MemoryEngine]:
            own = engine.another()
            node = Node(Seat(own, name, LEASE, about))
            await node.seat.join()
            nursery.start_soon(node.run)
            return node, own

        yield engine, sit
        nursery.cancel_scope.cancel()


async def test_members_and_what_they_say(autojump_clock: MockClock) -> None:
    """Each node sees the others, what they say about themselves, and who comes and goes."""
    said = {"rooms": ["chat"]}
    async with seated() as (_, sit):
        ana, _ = await sit("ana", lambda: said)
        bob, _ = await sit("bob")
        await trio.sleep(2.5 * BEAT)
        assert ana.what() == ["resume", "come bob"]
        assert bob.what() == ["come ana", "resume"]
        assert set(ana.seat.members) == {ana.seat.incarnation, bob.seat.incarnation}
        member = bob.seat.members[ana.seat.incarnation]
        assert (member.name, member.about) == ("ana", said)
        await trio.sleep(10)
        assert bob.what() == []
        said["draining"] = ["yes"]
        await trio.sleep(2.5 * BEAT)
        assert bob.what() == ["change ana"]
        assert bob.seat.members[ana.seat.incarnation].about == said
        ana.scope.cancel()
        await ana.seat.leave()
        assert not ana.seat.valid
        await trio.sleep(2.5 * BEAT)
        assert bob.what() == ["gone ana"]
        assert ana.what() == []


async def test_a_node_that_dies_is_seen_within_its_lease(autojump_clock: MockClock) -> None:
    """And not before it has stopped by its own clock, had it been there still."""
    async with seated() as (_, sit):
        ana, _ = await sit("ana")
        bob, _ = await sit("bob")
        await trio.sleep(7.1)
        bob.told.clear()
        ana.scope.cancel()
        await trio.sleep(10)
        [(when, what)] = bob.told
        assert what == "gone ana"
        assert ana.seat.deadline < 7.1 + LEASE - MARGIN
        assert ana.seat.deadline < when < 7.1 + LEASE + BEAT


async def test_an_engine_that_was_away_changes_nothing(autojump_clock: MockClock) -> None:
    """Nodes pause at the end of their leases, and go on as they were when it is back, however late."""
    async with seated() as (engine, sit):
        ana, _ = await sit("ana")
        bob, _ = await sit("bob")
        await trio.sleep(3)
        incarnations = [ana.seat.incarnation, bob.seat.incarnation]
        for node in (ana, bob):
            node.told.clear()
        engine.down()
        await trio.sleep(100)
        engine.up()
        await trio.sleep(2.5 * BEAT)
        for node in (ana, bob):
            assert [what for _, what in node.told] == ["pause", "resume"]
            assert 3 + LEASE - MARGIN - BEAT <= node.told[0][0] <= 3 + LEASE - MARGIN
            assert 103 <= node.told[1][0] <= 103 + BEAT
            assert node.seat.pauses == 1
        assert [ana.seat.incarnation, bob.seat.incarnation] == incarnations


async def test_a_node_that_was_away_is_another_one(autojump_clock: MockClock) -> None:
    """Who could not renew in time was taken for dead: it joins again, and resumes once all is sorted."""
    async with seated() as (_, sit):
        ana, cable = await sit("ana")
        bob, _ = await sit("bob")
        await trio.sleep(3)
        before, members = ana.seat.incarnation, ana.seat.members
        ana.told.clear(), bob.told.clear()
        cable.cut()
        await trio.sleep(LEASE - MARGIN - BEAT - 0.01)
        assert ana.seat.check()
        await trio.sleep(5)
        assert not ana.seat.check()
        assert ana.seat.members == members
        assert ana.what() == ["pause"]
        assert bob.what() == ["gone ana"]
        cable.mend()
        await trio.sleep(2.5 * BEAT)
        assert ana.what() == ["over False", "joined", "resume"]
        assert bob.what() == ["come ana"]
        assert ana.seat.incarnation != before
        assert ana.seat.incarnation in bob.seat.members


async def test_the_first_look_after_the_deadline_pauses(autojump_clock: MockClock) -> None:
    """A process that was stopped finds out at once, whichever task runs first; nothing renews before that."""
    async with seated() as (_, sit):
        ana, _ = await sit("ana")
        await trio.sleep(3)
        ana.told.clear()
        now = trio.current_time
        ana.seat.now = lambda: now() + LEASE  # The clock went on, and no task ran.
        assert not ana.seat.check()
        assert not ana.seat.check()
        assert ana.what() == ["pause"]
        ana.seat.now = now
        await trio.sleep(2.5 * BEAT)
        assert ana.what() == ["resume"]


class Slow(MemoryEngine):
    """Its answers take their time."""

    takes = 0.0

    async def renew(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        await trio.sleep(self.takes / 2)
        answer = await super().renew(incarnation, about, lease)
        await trio.sleep(self.takes / 2)
        return answer


async def test_a_lease_counts_from_before_it_was_asked_for(autojump_clock: MockClock) -> None:
    """An answer that comes late is worth less, and one that comes too late nothing: the node pauses."""
    engine = Slow()
    node = Node(Seat(engine, "ana", LEASE, dict))
    async with trio.open_nursery() as nursery:
        await node.seat.join()
        nursery.start_soon(node.run)
        engine.takes = 1.0
        await trio.sleep(BEAT + 1.01)
        assert node.seat.deadline == pytest.approx(BEAT + LEASE - MARGIN)
        engine.takes = 3.0
        await trio.sleep(20)
        assert node.what() == ["resume", "pause"]
        assert not node.seat.valid
        engine.takes = 0.0
        await trio.sleep(4)
        assert node.what() == ["resume"]
        nursery.cancel_scope.cancel()


async def test_a_node_that_dies_while_it_comes_back(autojump_clock: MockClock) -> None:
    """What sorts out what it had is begun anew for the next incarnation, and only then does it resume."""
    begun: list[str] = []
    async with seated() as (_, sit):
        ana, cable = await sit("ana")
        await sit("bob")

        async def long() -> None:
            begun.append(ana.seat.incarnation)
            await trio.sleep(50 if len(begun) == 1 else 1)
            begun.append("done")

        ana.seat.on_joined.append(long)
        for _ in range(2):
            cable.cut()
            await trio.sleep(4)
            cable.mend()
            await trio.sleep(3.5 * BEAT)
            assert not ana.seat.valid
        await trio.sleep(1)
        assert ana.seat.valid
        assert len(set(begun)) == 3
        assert begun[1:] == [ana.seat.incarnation, "done"]
        assert ana.what().count("resume") == 2


async def test_two_processes_under_one_name(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The later one has the place; the other one keeps still until that has ended, and says why."""
    caplog.set_level(logging.WARNING)
    async with seated() as (_, sit):
        ana, _ = await sit("ana")
        await trio.sleep(3)
        ana.told.clear()
        twin, _ = await sit("ana")
        await trio.sleep(20)
        assert twin.what() == ["resume"]
        assert ana.what() == ["pause", "over True"]
        assert ana.seat.usurped
        assert "give each node a name of its own" in caplog.text
        assert len(caplog.records) == 1
        twin.scope.cancel()
        await trio.sleep(2 * LEASE)
        assert ana.what() == ["over False", "joined", "resume"]
        assert not ana.seat.usurped


class Deaf(MemoryEngine):
    """Loses answers."""

    loses = 0

    async def join(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        answer = await super().join(incarnation, about, lease)
        if self.loses:
            self.loses -= 1
            raise EngineLost("the answer was lost")
        return answer


async def test_a_join_whose_answer_is_lost(autojump_clock: MockClock) -> None:
    """What it has become without knowing it is no other process; the next try takes its place."""
    engine = Deaf()
    node = Node(Seat(engine, "ana", LEASE, dict))
    await node.seat.join()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        await engine.leave(node.seat.incarnation)
        engine.loses = 3
        await trio.sleep(5.5 * BEAT)
        assert node.what() == ["resume", "pause", "over False", "joined", "resume"]
        assert set(node.seat.members) == {node.seat.incarnation}
        nursery.cancel_scope.cancel()


async def test_who_says_what_cannot_be_read(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a member of which nothing is known."""
    async with seated() as (engine, sit):
        await engine.join("eve#1", b"\xff", 100.0)
        await engine.join("evi#1", b"\x01", 100.0)
        ana, _ = await sit("ana")
        assert [ana.seat.members[one].about for one in ("eve#1", "evi#1")] == [{}, {}]
    assert "eve#1" in caplog.text


async def test_beats_can_be_waited_for(autojump_clock: MockClock) -> None:
    """Also those that failed."""
    async with seated() as (engine, sit):
        ana, _ = await sit("ana")
        for _ in range(2):
            began = trio.current_time()
            await ana.seat.beaten()
            await ana.seat.beaten()
            assert trio.current_time() - began <= 2 * BEAT
            engine.down()


def test_rendezvous() -> None:
    """Each room goes to one node; when one goes only its rooms move, evenly; a name is what counts."""
    members = [Member(f"{name}#{name}", {}) for name in ("ana", "bob", "eve", "joe")]
    keys = [f"chat/{number}" for number in range(2000)]
    homes = {key: first(key, members) for key in keys}
    assert homes == {key: first(key, reversed(members)) for key in keys}
    for member in members:
        assert 400 < sum(one is member for one in homes.values()) < 600
    rest = members[1:]
    for key, home in homes.items():
        assert ranked(key, members)[0] is home
        if home is not members[0]:
            assert first(key, rest) is home
        else:
            assert first(key, rest) is ranked(key, members)[1]
    again = [Member(f"{one.name}#again", {}) for one in members]
    assert all(first(key, again).name == home.name for key, home in homes.items() if home)  # type: ignore[union-attr]
    assert first("chat/1", []) is None


def test_who_is_open_and_serves_a_room() -> None:
    """By what it says about itself; who says nothing takes all."""
    assert is_open(Member("a#1", {}))
    assert not is_open(Member("a#1", {"draining": True}))
    assert not is_open(Member("a#1", {"open": False}))
    assert serves(Member("a#1", {}), "chat/1")
    assert serves(Member("a#1", {"rooms": ["chat"]}), "chat/1/2")
    assert not serves(Member("a#1", {"rooms": ["chats"]}), "chat/1")
