"""What is due is handled by one node: the room's home, or where the room would be placed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import MockClock

from tests.users.dens import JSON
from trio_rooms import Context, Disconnect, Fire, Room, Rooms, open_rooms
from trio_rooms._cluster.cluster import Cluster
from trio_rooms.engines import MemoryEngine
from trio_rooms.testing import connect


@attrs.define(eq=False)
class Log:
    """What the rooms of all nodes have done."""

    fired: list[tuple[str, str, float]] = attrs.field(factory=list)
    """Where, which room, and when."""
    left: list[str] = attrs.field(factory=list)

    def nodes_of(self, key: str) -> list[str]:
        return [node for node, one, _ in self.fired if one == key]


@attrs.frozen
class App:
    """What the handlers of one node find."""

    node: str
    log: Log


def clock() -> Room[None]:
    """Rooms that do something when it is time."""
    room: Room[None] = Room("clock", resume_window=10)

    @room.on_schedule("strike")
    async def strike(ctx: Context[None], fire: Fire[Any]) -> None:
        ctx.app.log.fired.append((ctx.app.node, ctx.room.key, trio.current_time()))

    @room.on_disconnect
    async def leave(ctx: Context[None], disconnect: Disconnect) -> None:
        ctx.app.log.left.append(ctx.app.node)

    return room


@asynccontextmanager
async def nodes(log: Log, names: str = "abc") -> AsyncIterator[dict[str, tuple[Rooms, MemoryEngine]]]:
    """Nodes that know each other."""
    engine = MemoryEngine()
    async with AsyncExitStack() as stack:
        found = {}
        for name in names:
            own = engine.another()
            opening = open_rooms([clock()], engine=own, node=name, lease=2, app=App(name, log))
            found[name] = (await stack.enter_async_context(opening), own)
        await trio.sleep(1)
        yield found
        for _, own in found.values():
            own.mend()


def cluster(rooms: Rooms) -> Cluster:
    """The node that some rooms are at."""
    found = rooms._cluster
    assert found is not None
    return found


async def test_what_is_due_of_rooms_that_nobody_has_is_shared(autojump_clock: MockClock) -> None:
    """Each once, in time, by the node that it would be placed at."""
    log = Log()
    async with nodes(log) as found:
        rooms, _ = found["a"]
        began = trio.current_time()
        keys = [str(number) for number in range(60)]
        for key in keys:
            await rooms.get("clock", key).schedule_durably("strike", after=30)
        await trio.sleep(20)
        assert not any(cluster(one).ownership.keys() for one, _ in found.values())
        await trio.sleep(15)
        assert Counter(key for _, key, _ in log.fired) == Counter(f"clock/{key}" for key in keys)
        assert max(when for _, _, when in log.fired) - began < 32
        shares = Counter(node for node, _, _ in log.fired)
        assert all(shares[node] >= 8 for node in "abc")


async def test_what_is_due_of_a_room_that_is_at_home_is_handled_there(autojump_clock: MockClock) -> None:
    """Whoever has scheduled it, and wherever the room would go if nobody had it."""
    log = Log()
    async with nodes(log) as found:
        for node in "abc":
            rooms, _ = found[node]
            assert await cluster(rooms).ownership.take(f"clock/{node}")
            async with connect(rooms, f"clock/{node}"):
                for name, after in (("strike", 5), ("strike", 10)):
                    await rooms.get("clock", node).schedule_durably(name, after=after)
                    await trio.sleep(11)
            assert log.nodes_of(f"clock/{node}") == [node] * 2


async def test_what_falls_to_a_node_that_dies_falls_to_others(autojump_clock: MockClock) -> None:
    """As soon as it is found to be gone."""
    log = Log()
    async with nodes(log) as found:
        rooms, _ = found["a"]
        for number in range(30):
            await rooms.get("clock", str(number)).schedule_durably("strike", after=20)
        await trio.sleep(19)
        found["c"][1].cut()
        began = trio.current_time()
        await trio.sleep(10)
        assert len({key for _, key, _ in log.fired}) == len(log.fired) == 30
        assert {node for node, _, _ in log.fired} == {"a", "b"}
        assert max(when for _, _, when in log.fired) - began < 5


async def test_who_was_connected_to_a_node_that_died_has_left(autojump_clock: MockClock) -> None:
    """When the session is over: its room hears of it at another node, once."""
    log = Log()
    async with nodes(log) as found:
        rooms, engine = found["c"]
        assert await cluster(rooms).ownership.take("clock/x")
        async with connect(rooms, "clock/x", subprotocols=[JSON]) as client:
            assert (await client.receive())["event"] == "rooms.welcome"
            await trio.sleep(5)
            engine.cut()
            await trio.sleep(30)
            assert len(log.left) == 1
            assert log.left[0] in "ab"
            engine.mend()
            await trio.sleep(30)
        assert len(log.left) == 1


async def test_one_node_keeps_the_inboxes_in_order(autojump_clock: MockClock) -> None:
    """Whoever has put something there; another one, when that is gone."""
    async with nodes(Log(), "ab") as found:
        leading = [one for one in "ab" if cluster(found[one][0])._share.leads()]
        assert len(leading) == 1
        for rooms, _ in found.values():
            await rooms.user("ana").send("told", 1, ttl=10)
            await rooms.user("ana").send("told", 2, ttl=200)
        await trio.sleep(90)
        assert await rooms.user("ana").waiting() == 2
        found[leading[0]][1].cut()
        (other,) = {*"ab"} - {*leading}
        await trio.sleep(250)
        assert await found[other][0].user("ana").waiting() == 0
