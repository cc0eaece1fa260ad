"""Clients at several nodes live through what happens to these: each says and hears all, once and in order."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Any, Literal

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rooms import Context, Room, Rooms, open_rooms
from trio_rooms.engines import MemoryEngine
from trio_rooms.errors import RoomsError
from trio_rooms.testing import MemoryClient, connect

KEY = "ledger/main"
JSON = ["trio-rooms.v1.json"]
CALM = 60.0
"""Seconds after the last fault in which all has to be well again."""
FAULTS = ("cut a", "cut b", "cut c", "mend a", "mend b", "mend c", "down", "up", "drop")


def ledger(durability: Literal["snapshot", "commit"]) -> Room[Any]:
    """A room that adds up."""
    room: Room[Any] = Room("ledger", state=dict, durability=durability, resume_window=600)

    @room.on("add")
    async def add(ctx: Context[Any], data: str) -> int:
        count: int = ctx.state.get("count", 0) + 1
        ctx.state["count"] = count
        ctx.state.setdefault("added", []).append(data)
        ctx.room.emit("added", [count, data], reliable=True)
        return count

    @room.on("all")
    async def everything(ctx: Context[Any]) -> Any:
        return ctx.state.get("added", [])

    return room


@attrs.define(eq=False)
class Visitor:
    """A client that comes back, wherever it is let in, and says again what was not answered."""

    name: str
    nodes: list[Rooms]
    chance: random.Random
    sent: int = 0
    answered: dict[int, int] = attrs.field(factory=dict)
    heard: list[list[Any]] = attrs.field(factory=list)
    sessions: int = 0
    client: MemoryClient | None = None
    at: Rooms | None = None
    """The node that it is at, or was last."""
    stopping: bool = False

    async def live(self) -> None:
        """Come, and come again, until told to stop and all is answered."""
        while not (self.stopping and len(self.answered) == self.sent and self.is_up_to_date()):
            if not self.nodes:
                await trio.sleep(0.1)
                continue
            node = self.at = self.chance.choice(self.nodes)
            try:
                async with connect(node, KEY, subprotocols=JSON, resume=self.client) as client:
                    try:
                        await self.visit(client)
                    finally:
                        await client.drop()
            except (RoomsError, trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError):
                pass
            await trio.sleep(self.chance.choice((0, 0.1, 1)))

    def is_up_to_date(self) -> bool:
        """Whether it has heard all that it knows of."""
        return bool(self.heard) and self.heard[-1][0] >= max(self.answered.values(), default=0)

    async def visit(self, client: MemoryClient) -> None:
        """Be connected, for a while."""
        await client.receive()
        assert client.welcome is not None
        if not client.welcome["resumed"]:
            self.sessions += 1
            assert self.sessions == 1, client.welcome
        self.client = client
        with trio.move_on_after(self.chance.choice((0.1, 3, 30))):
            if len(self.answered) < self.sent:
                await self.say(client, self.sent)
            elif not self.stopping:
                await self.next(client)
            while True:
                message = await client.receive()
                if message.get("event") == "added":
                    self.heard.append(message["data"])
                    if self.chance.random() < 0.3:
                        await client.acknowledge()
                elif "error" in message:
                    assert message["error"]["code"] == "unavailable", message
                    await trio.sleep(0.2)
                    await self.say(client, message["ack"])
                elif "ack" in message:
                    assert message["ack"] not in self.answered
                    self.answered[message["ack"]] = message["data"]
                    await trio.sleep(self.chance.choice((0, 0, 0.3)))
                    if not self.stopping:
                        await self.next(client)
                    elif self.is_up_to_date():
                        return

    def check(self, added: list[str]) -> None:
        """See that what it has said, was answered and has heard is what there is."""
        mine = [one for one in added if one.startswith(self.name)]
        assert mine == [f"{self.name}{number + 1}" for number in range(self.sent)]
        for number, count in self.answered.items():
            assert added[count - 1] == f"{self.name}{number}"
        first = self.heard[0][0]
        assert self.heard == [[first + at, added[first + at - 1]] for at in range(len(self.heard))]

    async def next(self, client: MemoryClient) -> None:
        """Say something new."""
        self.sent += 1
        await self.say(client, self.sent)

    async def say(self, client: MemoryClient, number: int) -> None:
        """Say something, perhaps again."""
        await client.emit("add", f"{self.name}{number}", id=number)


async def life(faults: list[tuple[float, str]], seed: int, durability: Literal["snapshot", "commit"]) -> int:
    """Three nodes, four clients, and what happens to them; gives how much was said."""
    chance = random.Random(seed)
    engines = [MemoryEngine()]
    engines += [engines[0].another() for _ in range(2)]
    by_name = dict(zip("abc", engines, strict=True))
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                open_rooms([ledger(durability)], engine=engine, node=name, lease=2)
            )
            for name, engine in by_name.items()
        ]
        await trio.sleep(1)
        visitors = [Visitor(name, nodes, random.Random(chance.random())) for name in "wxyz"]
        async with trio.open_nursery() as nursery:
            for visitor in visitors:
                nursery.start_soon(visitor.live)
            for gap, fault in faults:
                await trio.sleep(gap)
                what, _, who = fault.partition(" ")
                if what == "drop":
                    client = chance.choice(visitors).client
                    if client is not None:
                        await client.drop()
                else:
                    getattr(by_name.get(who, engines[0]), what)()
            engines[0].up()
            for engine in engines:
                engine.mend()
            await trio.sleep(3)
            for visitor in visitors:
                visitor.stopping = True
            nursery.cancel_scope.deadline = trio.current_time() + CALM
        assert not nursery.cancel_scope.cancelled_caught, [
            attrs.asdict(one, filter=_told) for one in visitors
        ]
        async with connect(chance.choice(nodes), KEY, subprotocols=JSON) as last:
            added = await last.ask("all")
    for visitor in visitors:
        visitor.check(added)
    return len(added)


def _told(attribute: Any, _: Any) -> bool:
    return attribute.name not in ("nodes", "chance", "client")


happenings = st.lists(
    st.tuples(st.sampled_from((0.0, 0.05, 0.3, 1.0, 2.5, 6.0)), st.sampled_from(FAULTS)), max_size=12
)


@settings(max_examples=2)
@given(happenings, st.integers(0, 1 << 30))
def test_nothing_said_is_lost_or_heard_twice(faults: list[tuple[float, str]], seed: int) -> None:
    """Where what is answered is durable, whatever becomes of nodes and engine."""
    trio.run(life, faults, seed, "commit", clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.long
@settings(max_examples=2000)
@given(happenings, st.integers(0, 1 << 30))
def test_nothing_said_is_lost_or_heard_twice_for_long(faults: list[tuple[float, str]], seed: int) -> None:
    """The same, for very many lives."""
    trio.run(life, faults, seed, "commit", clock=trio.testing.MockClock(autojump_threshold=0))
