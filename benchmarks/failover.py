"""How long clients wait when the node of their room dies, is drained, or is stopped."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, Literal

import attrs
import trio

from benchmarks.suite import disk
from benchmarks.suite.asked import post
from benchmarks.suite.disturbed import Engine
from benchmarks.suite.killed import Server, free_port, started
from benchmarks.suite.ledgers import Wrong
from benchmarks.suite.numbers import median
from benchmarks.suite.report import Run
from benchmarks.suite.tables import Column, Group
from benchmarks.suite.valkey import valkey
from trio_rooms.client import connect_room

NAME = "failover"
ABOUT = "How long clients wait when the node of their room is killed, drained or stopped, beside its lease."

NODES: Final = "abc"
_SETTLED: Final = 1.0
"""Seconds for which all ask before anything happens."""
_PATIENCE: Final = 60.0


@attrs.frozen
class End:
    """What becomes of a node."""

    name: str
    way: Literal["kill", "drain", "stop"]
    lease: float
    group: Group = "ours"
    absent: str = ""


ENDS: Final = [
    End("killed, lease 1 s", "kill", 1.0),
    End("killed, lease 2 s", "kill", 2.0),
    End("killed, lease 5 s", "kill", 5.0),
    End("drained", "drain", 5.0),
    End("stopped", "stop", 5.0),
]


def run(run: Run) -> None:
    """End a node in each way, with clients that ask one thing after the other."""
    count = run.wanted(40, quick=6)
    table = run.table(
        "failover",
        f"{count} clients, each in a ledger of its own that is at home at the node which ends",
        [
            Column("near", "wait of clients of that node, p50", unit="s", digits=2, better="low"),
            Column("near_max", "max", unit="s", digits=2, better="low"),
            Column("far", "wait of clients of another node, p50", unit="s", digits=2, better="low"),
            Column("far_max", "max", unit="s", digits=2, better="low"),
            Column("beyond", "max, less the lease", unit="s", digits=2, better="low"),
            Column("before", "longest wait before", unit="ms", digits=0, spread=False),
            Column("answers", "answers", digits=0, spread=False),
        ],
        note="One of three nodes. Each client asks the next when it has its answer; its wait is the longest "
        "from asking to the answer, over whatever connections it takes. What each ledger has in the end is "
        "what its client was told. Each comes back after at most a tenth of a second, to any node that is "
        "left.",
    )
    found = valkey()
    ends = ENDS[::3] if run.quick else ENDS
    for end in run.each([attrs.evolve(end, absent=found.absent) for end in ends], table):
        with run.attempt(end), disk.folder(run.options.results) as folder:
            waits = trio.run(partial(_end, folder, found.path, end, count))
            near, far = waits.during[::2], waits.during[1::2]
            run.measured(
                table,
                end,
                near=median(near),
                near_max=max(near),
                far=median(far),
                far_max=max(far),
                beyond=max(waits.during) - (end.lease if end.way == "kill" else 0.0),
                before=max(waits.before),
                answers=sum(waits.answers),
            )


@attrs.define
class Waits:
    """What each client has seen; those with an even number began at the node that ends."""

    before: list[float]
    during: list[float]
    answers: list[int]
    calm: bool = True
    """Whether nothing has happened yet."""
    over: bool = False
    began: trio.Event = attrs.field(factory=trio.Event)


async def _end(folder: Path, program: Path, end: End, count: int) -> Waits:
    engine = Engine(program, folder / "engine")
    waits = Waits([0.0] * count, [0.0] * count, [0] * count)
    async with AsyncExitStack() as stack:
        stack.callback(engine.kill)
        await engine.start()
        nodes: list[Server] = []
        for name in NODES:
            port = free_port()
            arguments = (engine.url, name, str(port), str(end.lease), str(folder / "traces"))
            log = folder / f"log-{name}"
            node = await stack.enter_async_context(
                started("benchmarks.servers.nodes", *arguments, port=port, log=log)
            )
            nodes.append(node)
            await node.start()
        for node in nodes:
            await node.wait_listening()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                await nursery.start(_ask, waits, nodes, number)
            await trio.sleep(_SETTLED)
            waits.calm = False
            if end.way == "kill":
                await nodes[0].kill()
            elif end.way == "stop":
                await nodes[0].stop()
            else:
                headers = {"X-Trio-Rooms-Drain": "yes"}
                await post(nodes[1].port, f"/nodes/{NODES[0]}/drain", headers)
            asked = [*waits.answers]
            with trio.fail_after(_PATIENCE):
                # Each has had two answers since, so that the longest wait of each is over.
                while any(  # noqa: ASYNC110 (it is looked at from outside)
                    now < then + 3 for now, then in zip(waits.answers, asked, strict=True)
                ):
                    await trio.sleep(0.05)
            await trio.sleep(_SETTLED)
            waits.over = True
        if end.way == "drain":
            await nodes[0].stop()
        for node in nodes[1:]:
            await node.stop()
    return waits


async def _ask(
    waits: Waits,
    nodes: list[Server],
    number: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Ask until it is over, and compare in the end."""
    at = nodes[number % 2]

    async def open_stream() -> trio.abc.Stream:
        there = at if waits.calm else random.choice(nodes[1:])
        return await trio.open_tcp_stream("127.0.0.1", there.port)

    path = f"/ledger/client-{number}"
    # A room is where its first client comes to, and stays there for some seconds.
    async with connect_room(f"ws://127.0.0.1:{nodes[0].port}{path}") as first:
        await first.ask("get")
    async with connect_room(
        f"ws://127.0.0.1:1{path}",
        open_stream=open_stream,
        first_delay=0.02,
        max_delay=0.1,
        attempt_timeout=3,
        ping_interval=2,
        ping_timeout=2,
    ) as room:
        await room.ask("get")
        told = 0
        task_status.started()
        while not waits.over:
            began = trio.current_time()
            told = int((await room.ask("add", {"amount": 1}))["balance"])
            wait = trio.current_time() - began
            waits.answers[number] += 1
            longest = waits.before if waits.calm else waits.during
            longest[number] = max(longest[number], wait)
        found = await room.ask("get")
        if not found["balance"] == found["count"] == told == waits.answers[number]:
            raise Wrong(f"client {number} was told {told} after {waits.answers[number]}, and finds {found}")
