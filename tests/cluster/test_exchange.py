"""Users who are connected to several nodes: who is told what, who offers what, and what is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.sockets.bench import soon
from tests.users.dens import den, inside, nothing, told
from trio_rooms import Rooms, Sent, Whereabouts, open_rooms
from trio_rooms._cluster.cluster import Cluster
from trio_rooms._users.message import Message
from trio_rooms.engines import MemoryEngine, Valkey
from trio_rooms.errors import EngineLost
from trio_rooms.testing import MemoryClient, connect


@attrs.define(eq=False)
class Node:
    """One node, and the rooms that are at home there: den/NAME and hall/NAME."""

    name: str
    engine: MemoryEngine
    rooms: Rooms

    @property
    def cluster(self) -> Cluster:
        cluster = self.rooms._cluster
        assert cluster is not None
        return cluster

    def inside(self, user: str, room: str = "den", resume: MemoryClient | None = None) -> Any:
        """A client with a session."""
        return inside(self.rooms, user, f"{room}/{self.name}", resume)

    async def take(self, key: str) -> None:
        """Have a room be at home here."""
        assert await self.cluster.ownership.take(key)


@asynccontextmanager
async def nodes(names: str = "ab", **options: Any) -> AsyncIterator[list[Node]]:
    """Nodes that know each other."""
    engine = MemoryEngine()
    async with AsyncExitStack() as stack:
        found: list[Node] = []
        for name in names:
            own = engine.another()
            definitions = [den(**options), den("hall", durability="commit", **options)]
            rooms = await stack.enter_async_context(open_rooms(definitions, engine=own, node=name, lease=2))
            node = Node(name, own, rooms)
            await node.take(f"den/{name}")
            await node.take(f"hall/{name}")
            found.append(node)
        await trio.sleep(1)
        assert all(len(node.cluster.seat.members) == len(names) for node in found)
        yield found


async def test_a_message_reaches_who_is_connected_to_another_node(autojump_clock: MockClock) -> None:
    """All her connections, at all nodes, in order; and the counts are those of all."""
    async with nodes("abc") as (a, b, c):
        ana = a.rooms.user("ana")
        assert await ana.send("told", 0) == Sent(stored=1)
        async with b.inside("ana") as one:
            assert await told(one, 1) == [0]
            assert await ana.send("told", 1) == Sent(active=1)
            async with b.inside("ana") as two, c.inside("ana", "hall") as three:
                assert await ana.send("told", 2) == Sent(active=3)
                assert await c.rooms.user("ana").send("told", 3) == Sent(active=3)
                assert await told(one, 3) == [1, 2, 3]
                assert await told(two, 2) == await told(three, 2) == [2, 3]
                assert await ana.waiting() == 4
                await three.acknowledge()
                await one.acknowledge()
                await soon(lambda: b.rooms.statistics().users.delivered == 4)
                await trio.sleep(1)
                assert await ana.waiting() == 0


async def test_what_is_volatile_goes_to_all_nodes_and_waits_nowhere(autojump_clock: MockClock) -> None:
    """It is dropped where she is not connected anywhere."""
    async with nodes() as (a, b):
        ana = a.rooms.user("ana")
        assert await ana.send("told", 0, volatile=True) == Sent(dropped=1)
        async with b.inside("ana") as one, a.inside("ana") as two:
            assert await ana.send("told", 1, volatile=True) == Sent(active=2)
            assert await told(one, 1) == await told(two, 1) == [1]
            assert await ana.waiting() == 0


async def test_a_handler_whose_effects_wait_sends_to_other_nodes_with_its_commit(
    autojump_clock: MockClock,
) -> None:
    """They are told when it is durable."""
    async with nodes() as (a, b), a.inside("bob", "hall") as bob, b.inside("ana") as ana:
        for number in range(3):
            assert await bob.ask("tell", {"to": "ana", "text": number}) == [0, 0, 0, 0, 0, 1]
        assert await told(ana, 3) == [0, 1, 2]
        await ana.acknowledge()
        await trio.sleep(1)
        assert await a.rooms.user("ana").waiting() == 0


async def test_what_waits_goes_to_one_of_those_who_come_at_the_same_time(autojump_clock: MockClock) -> None:
    """However many nodes they come to."""
    async with nodes("abc") as found:
        await found[0].rooms.user("ana").send("told", 1)
        got: list[Any] = []

        async def come(node: Node) -> None:
            async with node.inside("ana") as client:
                with trio.move_on_after(10):
                    while True:
                        got.append((await client.receive())["data"])

        for _ in range(10):  # Nobody acknowledges it, so that it is given back each time.
            got.clear()
            async with trio.open_nursery() as nursery:
                for node in found:
                    nursery.start_soon(come, node)
            await trio.sleep(1)
            assert got == [1]


async def test_what_a_session_gives_back_is_offered_at_another_node(autojump_clock: MockClock) -> None:
    """When it ends, to whoever is connected then."""
    async with nodes(resume_window=10) as (a, b):
        ana = a.rooms.user("ana")
        await ana.send("told", 1)
        async with a.inside("ana") as client:
            assert await told(client, 1) == [1]
            await client.drop()
        async with b.inside("ana") as other:
            await nothing(other)
            await trio.sleep(20)
            assert await told(other, 1) == [1]
            await other.acknowledge()
            await trio.sleep(1)
            assert await ana.waiting() == 0


async def test_a_node_tells_where_a_user_is_at_all(autojump_clock: MockClock) -> None:
    """Or how much of that answers in time."""
    async with nodes() as (a, b), a.inside("ana"), b.inside("ana"), b.inside("ana", "hall"):
        ana = a.rooms.user("ana")
        assert await ana.where() == Whereabouts(3, ("den/a", "den/b", "hall/b"))
        assert (await ana.where()).online
        assert ana.rooms == ("den/a",)
        assert await a.rooms.get("hall", "b").user("ana").where() == Whereabouts(1, ("hall/b",))
        assert not (await a.rooms.user("eve").where()).online
        b.engine.cut()
        assert await ana.where() == Whereabouts(1, ("den/a",))


async def test_who_does_not_answer_counts_as_one_for_whom_it_waits(autojump_clock: MockClock) -> None:
    """It comes when that node can be reached again."""
    async with nodes() as (a, b), b.inside("ana") as client:
        began = trio.current_time()
        b.engine.cut()
        assert await a.rooms.user("ana").send("told", 1) == Sent(stored=1)
        assert await a.rooms.user("ana").send("told", 2, volatile=True) == Sent(stored=1)
        assert trio.current_time() - began == pytest.approx(0.5, abs=0.01)
        b.engine.mend()
        assert sorted(await told(client, 2)) == [1, 2]


async def test_a_user_is_found_after_her_node_was_taken_for_dead(autojump_clock: MockClock) -> None:
    """What came while it was not one of them comes then."""
    async with nodes() as (a, b), b.inside("ana") as client:
        b.engine.cut()
        await trio.sleep(5)
        assert await a.rooms.user("ana").send("told", 1) == Sent(stored=1)
        b.engine.mend()
        assert await told(client, 1) == [1]
        await trio.sleep(1)
        assert await a.rooms.user("ana").send("told", 2) == Sent(active=1)
        assert await told(client, 1) == [2]


async def test_a_message_is_found_whose_sender_has_told_nobody(autojump_clock: MockClock) -> None:
    """When the node is gone that has put it there."""
    async with nodes() as (a, b), b.inside("ana") as client:
        await trio.sleep(1)
        late = Message.of("ana", "", "told", "late", "normal", 60, volatile=False)
        await a.rooms._store.post([late.post()])
        await nothing(client)
        a.engine.cut()
        await trio.sleep(5)
        assert await told(client, 1) == ["late"]


async def test_a_thousand_messages_of_two_nodes_are_one_order_for_all(autojump_clock: MockClock) -> None:
    """That of the inbox, at each of her connections; and each sender's is kept in it."""
    async with nodes("abc") as (a, b, c), b.inside("ana") as one, c.inside("ana") as two:

        async def send(node: Node) -> None:
            for number in range(100):
                await node.rooms.user("ana").send("told", f"{node.name}{number}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, a)
            nursery.start_soon(send, b)
        got = await told(one, 200)
        assert got == await told(two, 200)
        for name in "ab":
            assert [text for text in got if text[0] == name] == [f"{name}{number}" for number in range(100)]


async def test_nothing_is_left_of_users_who_have_gone(autojump_clock: MockClock) -> None:
    """Neither here nor in the engine; and nobody is asked for longer than it takes."""
    async with nodes() as (a, b):
        for number in range(3):
            async with a.inside(f"u{number}") as client, b.inside(f"u{number}"):
                await b.rooms.user(f"u{number}").send("told", 1)
                assert await told(client, 1) == [1]
                await client.acknowledge()
        await trio.sleep(30)
        for node in (a, b):
            exchange, office = node.cluster._exchange, node.rooms._supervisor.users.office
            held = (exchange._noted, exchange._changed, exchange._untold, exchange._tallies, exchange._wishes)
            assert not any(held)
            assert not exchange._questions
            assert not office._marks
            assert not office.offers._outs
            assert not await node.engine.nodes_of("u1")


async def test_users_are_reached_over_a_real_engine(valkey: Any) -> None:
    """Two nodes, one Valkey."""
    async with AsyncExitStack() as stack:
        found: list[Rooms] = []
        for name in "ab":
            definitions = [den(), den("hall", durability="commit")]
            opening = open_rooms(definitions, engine=Valkey(valkey.url), node=name, lease=5)
            found.append(await stack.enter_async_context(opening))
            cluster = found[-1]._cluster
            assert cluster is not None
            assert await cluster.ownership.take(f"den/{name}")
            assert await cluster.ownership.take(f"hall/{name}")
        await soon(lambda: all(len(rooms._cluster.seat.members) == 2 for rooms in found))  # type: ignore[union-attr]
        a, b = found
        await a.user("ana").send("told", 0)
        async with inside(b, "ana", "den/b") as ana, inside(a, "bob", "hall/a") as bob:
            assert await told(ana, 1) == [0]
            assert await a.user("ana").send("told", 1) == Sent(active=1)
            assert await bob.ask("tell", {"to": "ana", "text": 2}) == [0, 0, 0, 0, 0, 1]
            assert await told(ana, 2) == [1, 2]
            assert await a.user("ana").where() == Whereabouts(1, ("den/b",))
            await ana.acknowledge()
            with trio.fail_after(5):
                while await a.user("ana").waiting():
                    await trio.sleep(0.02)


@attrs.define(eq=False)
class Slow:
    """An engine as the users of a node see it, which takes its time, or is away for a moment."""

    engine: MemoryEngine
    note_takes: float = 0.0
    fails: int = 0

    async def note_user(self, user: str, incarnation: str, *, here: bool) -> None:
        await trio.sleep(self.note_takes)
        await self.engine.note_user(user, incarnation, here=here)

    async def nodes_of(self, user: str) -> tuple[str, ...]:
        if self.fails:
            self.fails -= 1
            raise EngineLost("not now")
        return await self.engine.nodes_of(user)


async def test_what_is_sent_before_the_others_know_that_she_is_there_is_found(
    autojump_clock: MockClock,
) -> None:
    """Her node looks into the inbox when they know."""
    async with nodes() as (a, b):
        b.cluster._exchange._engine = Slow(b.engine, note_takes=1)  # type: ignore[assignment]
        async with b.inside("ana") as client:
            await trio.sleep(0.5)
            assert await a.rooms.user("ana").send("told", 1) == Sent(stored=1)
            assert await told(client, 1) == [1]


async def test_who_could_not_be_told_is_told_later(autojump_clock: MockClock) -> None:
    """It is in the inbox, and nobody sends it again."""
    async with nodes() as (a, b), b.inside("ana") as client:
        a.cluster._exchange._engine = Slow(a.engine, fails=3)  # type: ignore[assignment]
        assert await a.rooms.user("ana").send("told", 1) == Sent(stored=1)
        assert await told(client, 1) == [1]


async def test_what_a_session_was_offered_goes_with_its_room(autojump_clock: MockClock) -> None:
    """The node that had the room does not hold on to it."""
    async with nodes(resume_window=60) as (a, b):
        await a.rooms.user("ana").send("told", 1)
        async with a.inside("ana") as client:
            await trio.sleep(1)
            await client.drop()
        await trio.sleep(10)
        assert not a.cluster.ownership.owns("den/a")
        await b.take("den/a")
        await a.take("hall/a")
        async with a.inside("ana", "hall") as other, inside(b.rooms, "ana", "den/a", client) as again:
            await nothing(other)
            await again.hang_up()
            assert await told(other, 1) == [1]


async def test_an_engine_that_is_away_holds_up_nothing_for_ever(autojump_clock: MockClock) -> None:
    """Who comes meanwhile gets what waits when it is back."""
    async with nodes() as (a, b):
        await a.rooms.user("ana").send("told", 1)
        async with connect(b.rooms, "den/b", query={"user": "ana"}) as first:
            assert await told(first, 1) == [1]
            a.engine.down()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.rooms.user("ana").send, "told", 2)
                await trio.sleep(1)
                a.engine.up()
            assert await told(first, 1) == [2]


async def test_what_a_room_has_just_sent_goes_before_what_it_sends_next(autojump_clock: MockClock) -> None:
    """Also where somebody has looked into the inbox while it was not known yet that it is there."""
    async with nodes("a") as (a,), a.inside("ana") as ana:
        assert await a.rooms.user("ana").send("told", 0) == Sent(active=1)
        office = a.rooms._supervisor.users.office
        sending = ("ana", "", "told")
        messages = [Message.of(*sending, number, "normal", 60, volatile=False) for number in (1, 2)]
        # As a room does whose commit is done, and whose answer is on its way.
        office._coming.add(messages[0].id)
        await a.rooms._store.post([messages[0].post()])
        office.look("ana", whole=True)
        await trio.sleep(1)
        await a.rooms._store.post([messages[1].post()])
        for message in messages:
            office._posted(message)
        assert await told(ana, 3) == [0, 1, 2]
