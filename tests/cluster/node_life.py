"""Random lives of nodes in one run of Trio: they are killed, started again, cut off, and not heard.

``python -m tests.cluster.node_life FIRST LAST`` lives those of these numbers, and says what was wrong.
"""

from __future__ import annotations

import logging
import random
import sys
from functools import partial
from typing import Final

import attrs
import trio
import trio.testing
from hypothesis import strategies as st

from tests.cluster.test_far_lives import JSON, KEY, Visitor, ledger
from trio_rooms import Rooms, open_rooms
from trio_rooms._loop.groups import first_error
from trio_rooms.engines import MemoryEngine
from trio_rooms.testing import connect

__all__ = ["Step", "drawn", "happenings", "live"]

Step = tuple[float, str]
NAMES: Final = "abc"
LEASE: Final = 2.0
_CALM: Final = 90.0
"""Seconds after the last happening in which all has to be well again."""
HAPPENINGS: Final = (
    *(
        f"{what} {name}"
        for name in NAMES
        for what in ("cut", "mend", "kill", "kill", "restart", "deaf", "slow")
    ),
    *("heard", "down", "up", "drop", "drop"),
)
_GAPS: Final = (0.0, 0.05, 0.3, 1.0, 2.5, 6.0)
"""Seconds between two of them."""
happenings = st.lists(st.tuples(st.sampled_from(_GAPS), st.sampled_from(HAPPENINGS)), max_size=14)


@attrs.define(eq=False)
class Node:
    """A process, as far as others can tell."""

    name: str
    root: MemoryEngine
    all_rooms: list[Rooms]
    visitors: list[Visitor]
    engine: MemoryEngine = attrs.field(init=False)
    rooms: Rooms | None = attrs.field(init=False, default=None)
    _scope: trio.CancelScope = attrs.field(init=False)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until killed."""
        self.engine = self.root.another()
        self._scope = trio.CancelScope()
        with self._scope:
            async with open_rooms(
                [ledger("commit")], engine=self.engine, node=self.name, lease=LEASE
            ) as rooms:
                self.rooms = rooms
                self.all_rooms.append(rooms)
                task_status.started()
                await trio.sleep_forever()

    async def kill(self) -> None:
        """It says nothing to anybody any more: neither to the engine, nor to clients."""
        if self.rooms is None:
            return
        self.all_rooms.remove(self.rooms)
        self.rooms = None
        self.engine.cut()
        for visitor in self.visitors:
            if visitor.client is not None and visitor.at is not None and visitor.at not in self.all_rooms:
                await visitor.client.drop()
        self._scope.cancel()


async def live(steps: list[Step], seed: int) -> int:
    """Three nodes, four clients, and what happens to them; gives how much was said.

    Raises:
        AssertionError: something was lost, came twice, or in another order; or nothing was well again.
    """
    chance = random.Random(seed)
    root = MemoryEngine()
    all_rooms: list[Rooms] = []
    visitors = [Visitor(name, all_rooms, random.Random(chance.random())) for name in "wxyz"]
    nodes = {name: Node(name, root, all_rooms, visitors) for name in NAMES}
    async with trio.open_nursery() as outer:
        for node in nodes.values():
            await outer.start(node.run)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            for visitor in visitors:
                nursery.start_soon(visitor.live)
            for gap, step in steps:
                await trio.sleep(gap)
                await _happen(step, nodes, root, chance, outer)
            root.up()
            for node in nodes.values():
                if node.rooms is None:
                    await outer.start(node.run)
                node.engine.mend()
                node.engine.delay = node.engine.lose = None
            await trio.sleep(3)
            for visitor in visitors:
                visitor.stopping = True
            nursery.cancel_scope.deadline = trio.current_time() + _CALM
        assert not nursery.cancel_scope.cancelled_caught, "all is not well again"
        async with connect(chance.choice(all_rooms), KEY, subprotocols=JSON) as last:
            added = await last.ask("all")
        outer.cancel_scope.cancel()
    for visitor in visitors:
        visitor.check(added)
    return len(added)


async def _happen(
    step: str, nodes: dict[str, Node], root: MemoryEngine, chance: random.Random, outer: trio.Nursery
) -> None:
    what, _, name = step.partition(" ")
    node = nodes.get(name)
    match what:
        case "up" | "down":
            getattr(root, what)()
        case "heard":
            for one in nodes.values():
                one.engine.delay = one.engine.lose = None
        case "drop":
            client = chance.choice([visitor.client for one in nodes.values() for visitor in one.visitors])
            if client is not None:
                await client.drop()
        case "cut" | "mend" if node is not None and node.rooms is not None:
            getattr(node.engine, what)()
        case "kill" if node is not None:
            await node.kill()
        case "restart" if node is not None and node.rooms is None and root.reachable:
            await outer.start(node.run)
        case "deaf" if node is not None:
            node.engine.lose = lambda _: chance.random() < 0.3
        case "slow" if node is not None:
            node.engine.delay = partial(chance.uniform, 0, 0.5)


def drawn(seed: int) -> list[Step]:
    """What happens in the life of this number."""
    chance = random.Random(seed)
    return [(chance.choice(_GAPS), chance.choice(HAPPENINGS)) for _ in range(chance.randrange(15))]


def main(first: int, last: int) -> None:
    """Live those of these numbers."""
    logging.disable(logging.CRITICAL)
    said = 0
    for seed in range(first, last):
        steps = drawn(seed)
        try:
            said += trio.run(live, steps, seed, clock=trio.testing.MockClock(autojump_threshold=0))
        except Exception as error:
            print(seed, steps, f"{first_error(error)!r:.2000}", flush=True)
    print(f"{last - first} lives, {said} messages")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
