"""Nodes that share an engine, with clients at all of them; now this, now that is killed or paused."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import IO, Final

import attrs
import trio

from benchmarks.servers.ledger import FIRED
from benchmarks.suite.asked import get, post
from benchmarks.suite.killed import Crowd, Server, Tally, check_fired, first_wrong, free_port, started
from benchmarks.suite.ledgers import Account, Wrong
from benchmarks.suite.letters import Person, exchange
from trio_rooms.client import RemoteRoom

__all__ = ["WAYS", "Disturbances", "Engine", "disturb"]

WAYS: Final = (
    "node killed",
    "node paused",
    "node stopped",
    "node drained",
    "engine killed",
    "engine paused",
)
"""What may be done."""
_PATIENCE: Final = 60.0
"""Seconds until everything must have come, once nothing is disturbed any more."""
_START: Final = 30.0
_DRAIN: Final = 5.0
"""Seconds after which a node is stopped, drained or not."""
_LOOK: Final = 0.02
_GLANCE: Final = 0.2
"""Seconds between two looks at the claims, and for each of them."""
_AT_ONCE: Final = 2
"""Disturbances that may overlap."""
_BETWEEN: Final = (0.1, 1.5)
"""Seconds between the begins of two."""
_AWAKE: Final = 0.9
"""The share of connects that go to a node which is not disturbed, if there is one: a proxy would find out."""


@attrs.define
class Disturbances:
    """What was done, and what clients made of it."""

    done: Counter[str] = attrs.field(factory=Counter)
    clients: Tally = attrs.field(factory=Tally)
    letters: int = 0
    interrupted: int = 0
    """How often somebody who gets letters was without a connection."""
    claims: int = 0
    """Times that a room was claimed, as far as looks at the engine can tell."""

    def __str__(self) -> str:
        done = ", ".join(f"{count} x {what}" for what, count in sorted(self.done.items()))
        tally = self.clients
        return (
            f"{done}; {tally.asked:,} amounts asked for, {tally.scheduled:,} of them for later, which took "
            f"{tally.tries:,} tries; {tally.sessions:,} sessions with {tally.interrupted:,} interruptions, "
            f"which heard {tally.heard:,} balances; {self.claims:,} claims of "
            f"ledgers; {self.letters:,} letters, to people who were interrupted "
            f"{self.interrupted:,} times"
        )


class Engine:
    """A server of Valkey with a file that it writes before it answers.

    Args:
        program: what is started.
        folder: where its file is.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self.port: Final = free_port()
        self.url: Final = f"valkey://127.0.0.1:{self.port}"
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self._folder.mkdir(exist_ok=True)
        command = [str(self._program), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        command += ["--maxmemory-policy", "noeviction", "--loglevel", "warning"]
        with (self._folder / "log").open("ab") as log:
            # Not Trio's: it is waited for by whoever kills it.
            self._process = process = _popen(command, log)
        with trio.fail_after(_START):
            await _until(self._answers)
        if process.poll() is not None:
            raise Wrong(f"the engine ended with {process.returncode}")

    async def _answers(self) -> bool:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                await stream.send_all(b"PING\r\n")
                return bytes(await stream.receive_some()).startswith(b"+PONG")  # Else it reads its file.
        except OSError:
            return False

    async def epochs(self, keys: list[str]) -> dict[str, int]:
        """By which claims rooms are written now, those of them that are claimed; nothing where it is away."""
        answer = b""
        try:
            with trio.move_on_after(_GLANCE):
                async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                    await stream.send_all("".join(f"HGET {{rooms}}:r:{key} k\r\n" for key in keys).encode())
                    while len(found := re.findall(rb"\$-1\r\n|\$\d+\r\n(\d+)\r\n", answer)) < len(keys):
                        part = await stream.receive_some()
                        if not part:
                            break
                        answer += part
                    else:
                        return {key: int(epoch) for key, epoch in zip(keys, found, strict=True) if epoch}
        except (OSError, trio.BrokenResourceError):
            pass
        return {}

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@attrs.define(eq=False)
class Node:
    """One of the nodes."""

    name: str
    server: Server
    disturbed: bool = False


@attrs.define(eq=False)
class _Cluster:
    """All that runs."""

    engine: Engine
    nodes: list[Node]
    random: random.Random
    lease: float
    result: Disturbances
    wanted: Collection[str]
    disturbed: int = 0

    async def open_stream(self) -> trio.abc.Stream:
        """Connect to one of the nodes, as a proxy would that looks at them now and then."""
        awake = [node for node in self.nodes if not node.disturbed]
        nodes = awake if awake and self.random.random() < _AWAKE else self.nodes
        return await trio.open_tcp_stream("127.0.0.1", self.random.choice(nodes).server.port)

    async def start(self) -> None:
        """Start all, the engine first."""
        await self.engine.start()
        for node in self.nodes:
            await node.server.start()
        for node in self.nodes:
            await node.server.wait_listening()

    async def weather(self, ended: trio.Event) -> None:
        """Disturb one after the other, until it is over; then wait until all is calm."""
        ways: dict[str, Callable[[Node], Awaitable[None]]] = {
            "node killed": self._kill,
            "node paused": self._pause,
            "node stopped": self._stop,
            "node drained": self._drain,
        }
        others = {"engine killed": self._kill_engine, "engine paused": self._pause_engine}
        names = [name for name in (*ways, *others) if name in self.wanted]
        async with trio.open_nursery() as nursery:
            engine_busy = [False]
            while names and not ended.is_set():
                what = self.random.choice(names)
                calm = [node for node in self.nodes if not node.disturbed]
                if self.disturbed < _AT_ONCE:
                    if what in ways and len(calm) > 1:
                        node = self.random.choice(calm)
                        self.result.done[what] += 1
                        nursery.start_soon(self._disturb, node, ways[what])
                    elif what in others and not engine_busy[0]:
                        engine_busy[0] = True
                        self.result.done[what] += 1
                        nursery.start_soon(self._disturb_engine, engine_busy, others[what])
                with trio.move_on_after(self.random.uniform(*_BETWEEN)):
                    await ended.wait()

    async def watch(self, keys: list[str], ended: trio.Event) -> None:
        """Look at the claims of rooms until it is over.

        Raises:
            Wrong: one is older than one that was seen before.
        """
        seen: dict[str, int] = {}
        while not ended.is_set():
            for key, epoch in (await self.engine.epochs(keys)).items():
                before = seen.get(key, 0)
                if epoch < before:
                    raise Wrong(f"{key} is claimed by epoch {epoch}, after {before}")
                seen[key] = epoch
                self.result.claims += epoch > before
            await trio.sleep(_GLANCE)

    async def _disturb(self, node: Node, way: Callable[[Node], Awaitable[None]]) -> None:
        node.disturbed = True
        self.disturbed += 1
        await way(node)
        self.disturbed -= 1
        node.disturbed = False

    async def _disturb_engine(self, busy: list[bool], way: Callable[[], Awaitable[None]]) -> None:
        self.disturbed += 1
        await way()
        self.disturbed -= 1
        busy[0] = False

    async def _restart(self, node: Node) -> None:
        await node.server.start()
        await node.server.wait_listening(self.lease * 4 + _START)

    async def _kill(self, node: Node) -> None:
        await node.server.kill()
        await trio.sleep(self.random.uniform(0, 2 * self.lease))
        await self._restart(node)

    async def _pause(self, node: Node) -> None:
        await node.server.pause()
        await trio.sleep(self.random.uniform(0, 2.5 * self.lease))
        await node.server.go_on()

    async def _stop(self, node: Node) -> None:
        await node.server.stop()
        await trio.sleep(self.random.uniform(0, 0.5))
        await self._restart(node)

    async def _drain(self, node: Node) -> None:
        other = self.random.choice([one for one in self.nodes if one is node or not one.disturbed])
        with contextlib.suppress(OSError, trio.TooSlowError):  # Whoever was asked may be disturbed meanwhile.
            await post(other.server.port, f"/nodes/{node.name}/drain", {"X-Trio-Rooms-Drain": "yes"})
            with trio.move_on_after(_DRAIN):
                await _until(partial(self._is_drained, node.name, other))
        await self._stop(node)

    async def _is_drained(self, name: str, other: Node) -> bool:
        told = await get(other.server.port, "/nodes")
        for one in told["nodes"]:
            if one["name"] == name:
                return bool(one["draining"] and not any(one["rooms"].values()) and not one["connections"])
        return True

    async def _kill_engine(self) -> None:
        self.engine.kill()
        await trio.sleep(self.random.uniform(0, self.lease))
        await self.engine.start()

    async def _pause_engine(self) -> None:
        self.engine.signal(signal.SIGSTOP)
        await trio.sleep(self.random.uniform(0, 2 * self.lease))
        self.engine.signal(signal.SIGCONT)


def _popen(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


async def _until(true: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again."""
    while True:
        if await true():
            return
        await trio.sleep(_LOOK)


@contextlib.asynccontextmanager
async def _running(
    folder: Path, program: Path, count: int, lease: float, chance: random.Random, wanted: Collection[str]
) -> AsyncIterator[_Cluster]:
    engine = Engine(program, folder / "engine")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(engine.kill)
        nodes = []
        for name in "abcdefgh"[:count]:
            port = free_port()
            arguments = (engine.url, name, str(port), str(lease), str(folder / "traces"))
            log = folder / f"log-{name}"
            server = started("benchmarks.servers.nodes", *arguments, port=port, log=log)
            nodes.append(Node(name, await stack.enter_async_context(server)))
        cluster = _Cluster(engine, nodes, chance, lease, Disturbances(), wanted)
        await cluster.start()
        yield cluster


async def disturb(
    folder: Path,
    seconds: float,
    seed: int,
    *,
    program: Path,
    nodes: int = 3,
    lease: float = 2.0,
    clients: int = 20,
    accounts: int = 10,
    people: int = 10,
    wanted: Collection[str] = WAYS,
    told: Callable[[float], None] = lambda _: None,
) -> Disturbances:
    """Let clients add to ledgers and write letters while nodes and engine are disturbed, and compare all.

    Args:
        folder: for the engine's file and all logs; it is empty.
        seconds: for how long anything is disturbed.
        seed: of the random numbers that say who does what and when; what the machine makes of it is another
            matter each time.
        program: a server of Valkey.
        nodes: how many there are.
        lease: seconds of their leases.
        clients: how many share the ledgers.
        accounts: how many ledgers there are.
        people: how many write to each other.
        wanted: what may be done to nodes and engine.
        told: called with the seconds that have passed.

    Raises:
        Wrong: a promise was broken.
    """
    try:
        chance = random.Random(seed)
        async with _running(folder, program, nodes, lease, chance, wanted) as cluster:
            return await _live(cluster, folder, seconds, clients, accounts, people, told)
    except BaseExceptionGroup as group:
        wrong, rest = group.split(Wrong)
        if wrong is None or rest is not None:
            raise
        raise first_wrong(wrong) from None


async def _live(
    cluster: _Cluster,
    folder: Path,
    seconds: float,
    clients: int,
    accounts: int,
    people: int,
    told: Callable[[float], None],
) -> Disturbances:
    result, chance = cluster.result, cluster.random
    crowd = Crowd(
        [Account(str(number)) for number in range(accounts)],
        chance,
        "ws://127.0.0.1:1",
        cluster.open_stream,
        tally=result.clients,
    )
    writers = [Person(f"person-{number}") for number in range(people)]
    over = trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(clients):
            add = partial(crowd.add, stays=number < accounts)
            nursery.start_soon(add, crowd.accounts[number % accounts], f"client {number}")
        connect: Callable[[str], AbstractAsyncContextManager[RemoteRoom]] = partial(
            crowd.connect, protocol="json"
        )
        nursery.start_soon(exchange, writers, connect, chance, crowd.ending, _PATIENCE)
        async with trio.open_nursery() as disturbing:
            disturbing.start_soon(cluster.weather, over)
            disturbing.start_soon(cluster.watch, [f"ledger/{account.id}" for account in crowd.accounts], over)
            began = trio.current_time()
            while (passed := trio.current_time() - began) < seconds:
                told(passed)
                await trio.sleep(min(1.0, seconds - passed))
            over.set()
        crowd.ending.set()
    # Each node says the same, and so does one that has nothing but what the engine has on its disk.
    for node in cluster.nodes:
        await _check(crowd, node)
    for node in cluster.nodes:
        await node.server.kill()
    cluster.engine.kill()
    await cluster.engine.start()
    last = cluster.nodes[0]
    await last.server.start()
    await last.server.wait_listening(_START)
    await _check(crowd, last)
    await last.server.stop()
    result.clients.asked = sum(len(account.asked) for account in crowd.accounts)
    result.letters = sum(person.sent.total() for person in writers)
    result.interrupted = sum(person.interrupted for person in writers)
    check_fired(folder / "traces" / FIRED, crowd.later, result.clients)
    return result


async def _check(crowd: Crowd, node: Node) -> None:
    """Compare what a node says of each ledger."""

    async def open_stream() -> trio.abc.Stream:
        return await trio.open_tcp_stream("127.0.0.1", node.server.port)

    there = Crowd(crowd.accounts, crowd.random, crowd.url, open_stream)
    with trio.fail_after(_PATIENCE):
        for account in crowd.accounts:
            async with there.connect(f"/ledger/{account.id}", "cbor") as room:
                answer = await room.ask("get")
            account.check(answer["balance"], answer["count"])
