"""Lives of nodes that share an engine, and of clients that resume at any of them: steps, driver and rules.

Everything is the real thing but for the engine, the wires and the clocks: those are objects here, which lose,
delay and stop what they are told to. A node that is *stopped* is one whose process was sent SIGSTOP: nothing
of it goes out or comes in, and its clock stands still for its lease, so that it finds out when it goes on.

``python -m tests.cluster.node_life 20000`` lives so many random lives, on all cores, and says how many kept
the rules; with a number behind that, others.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import json
import logging
import multiprocessing
import os
import random
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from trio_rooms import Admitted, ConnectRequest, Context, Refused, Room, Rooms, RoomsError, open_rooms
from trio_rooms._cluster.cluster import Cluster
from trio_rooms._cluster.ownership import Ownership
from trio_rooms.engines import Claim, MemoryEngine, Renewal, memory
from trio_rooms.errors import EngineLost, StoreError
from trio_rooms.stores import Commit, Store

__all__ = ["BrokenRule", "Step", "live", "lives"]

NAMES: Final = ("a", "b", "c")
KEYS: Final = ("safe/main", "safe/side", "loose/main")
CLIENTS: Final = (KEYS[0], KEYS[0], KEYS[1], KEYS[2], KEYS[2])
"""Where each of them is; the last one has no session."""
PLAIN: Final = len(CLIENTS) - 1
LEASE: Final = 2.0
WINDOW: Final = 300.0
MOST_UNANSWERED: Final = 5
_END: Final = 120.0
"""Seconds after which all must be well again once nothing hinders it any more."""
Step = tuple[Any, ...]

_who = st.integers(0, len(CLIENTS) - 1)
_node = st.integers(0, len(NAMES) - 1)
_often = (
    st.tuples(st.just("send"), _who),
    st.tuples(st.just("send"), _who),
    st.tuples(st.just("send"), _who),
    st.tuples(st.just("come"), _who, _node),
    st.tuples(st.just("drop"), _who),
    st.tuples(st.just("sleep"), st.sampled_from((0.01, 0.05, 0.3))),
    st.tuples(st.just("sleep"), st.sampled_from((LEASE / 2, LEASE, LEASE + 0.3, 2 * LEASE))),
)
_faults = (
    st.tuples(st.just("stop"), _node),
    st.tuples(st.just("stop"), _node),
    st.tuples(st.just("go on"), _node),
    st.tuples(st.just("crash"), _node),
    st.tuples(st.just("cut"), _node),
    st.tuples(st.just("mend"), _node),
    st.tuples(st.just("down")),
    st.tuples(st.just("up")),
    st.tuples(st.just("lag"), _node, st.sampled_from((0.0, 0.1, 0.6, 1.0))),
    st.tuples(st.just("lose"), _node, st.sampled_from((0, 2, 5))),
    st.tuples(st.just("twice"), _node, st.sampled_from((0, 2))),
    st.tuples(st.just("slow commits"), _node, st.sampled_from((0.0, 0.1, 3.0))),
    st.tuples(st.just("lose answers"), _node, st.sampled_from((0, 3))),
    st.tuples(st.just("drain"), _node),
    st.tuples(st.just("leave"), _node),
    st.tuples(st.just("emit"), _node, st.sampled_from(KEYS)),
    st.tuples(st.just("hibernate"), _node, st.sampled_from(KEYS)),
)
_step = st.one_of(*_often, *_often, *_faults)
lives = st.tuples(*[st.lists(_step, max_size=10)] * 3).map(
    lambda parts: [step for part in parts for step in part]
)
"""What happens."""


class BrokenRule(AssertionError):
    """Something that must hold does not; the text has what has happened."""


@attrs.define
class State:
    """What a room has done, by the names of the messages."""

    applied: list[str] = attrs.field(factory=list)


async def _let_in(request: ConnectRequest) -> Admitted:
    return Admitted(user=request.query["who"])


async def _add(ctx: Context[State], name: str) -> int:
    ctx.state.applied.append(name)
    count = len(ctx.state.applied)
    ctx.room.emit("said", {"n": count, "name": name}, reliable=True)
    return count


def _rooms() -> Iterator[Room[State]]:
    for name, durability in (("safe", "commit"), ("loose", "snapshot")):
        room = Room(
            name,
            state=State,
            durability=durability,  # type: ignore[arg-type]
            idle_timeout=1.5,
            resume_window=WINDOW,
            presence=True,
        )
        room.authenticate(_let_in)
        room.on("add")(_add)
        yield room


@attrs.define(eq=False)
class Clock:
    """A node's clock, which stands still while it is stopped."""

    stood: float | None = None
    gone: trio.Event = attrs.field(factory=trio.Event)

    def now(self) -> float:
        return trio.current_time() if self.stood is None else self.stood

    async def sleep_until(self, when: float) -> None:
        while True:
            if self.stood is not None:
                await self.gone.wait()
            if trio.current_time() >= when:
                await trio.lowlevel.checkpoint()
                if self.stood is None:
                    return
                continue
            await trio.sleep_until(when)

    async def going(self) -> None:
        """Wait until it goes on, where it stands still."""
        while self.stood is not None:
            await self.gone.wait()

    def stop(self) -> None:
        if self.stood is None:
            self.stood, self.gone = trio.current_time(), trio.Event()

    def go_on(self) -> None:
        self.stood = None
        self.gone.set()


# The engine, as one node sees it.

_ON_ITS_WAY: Final = contextvars.ContextVar("_ON_ITS_WAY", default=False)
"""Whether what is done was sent to the engine already, so that nothing keeps it from coming there."""


@attrs.define(eq=False)
class Wires(MemoryEngine):
    """A node's view: what it asks takes its time, and comes there also where the node is gone by then.

    What another node is sent may come twice, and old messages may come again.
    """

    lag: float = 0.0
    """Seconds from asking to the answer."""
    slow: float = 0.0
    """Seconds until a commit arrives, where that is longer."""
    lost_answers: int = 0
    """Every so manieth answer is lost although it was done; 0 for none."""
    twice: random.Random | None = None
    """Draws which messages come twice."""
    clock: Clock = attrs.field(factory=Clock)
    crowd: trio.Nursery | None = None
    """Where goes on what nobody waits for any more."""
    _asked: int = 0
    _before: deque[tuple[str, bytes]] = attrs.field(factory=lambda: deque(maxlen=8))

    async def _ask(self, what: Callable[..., Any], *about: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if not self.reachable:
            raise EngineLost("the engine cannot be reached")
        if self.lag:
            await trio.sleep(self.lag / 2)
        # It is on its way: that this node is cut off now changes nothing.
        answer = await what(MemoryEngine(shared=self._shared), *about)
        await self.answered(EngineLost)
        return answer

    async def answered(self, lost: type[Exception]) -> None:
        """Wait for an answer."""
        if self.lag:
            await trio.sleep(self.lag / 2)
        await self.clock.going()
        self._asked += 1
        if not self.reachable or (self.lost_answers and self._asked % self.lost_answers == 0):
            raise lost("the answer is lost")

    async def join(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        renewal: Renewal = await self._ask(MemoryEngine.join, incarnation, about, lease)
        return renewal

    async def renew(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        renewal: Renewal = await self._ask(MemoryEngine.renew, incarnation, about, lease)
        return renewal

    async def claim(self, key: str, incarnation: str) -> Claim:
        claim: Claim = await self._ask(MemoryEngine.claim, key, incarnation)
        return claim

    async def release(self, key: str, incarnation: str, epoch: int) -> bool:
        return bool(await self._ask(MemoryEngine.release, key, incarnation, epoch))

    async def reclaim(self, incarnation: str, epochs: Mapping[str, int]) -> frozenset[str]:
        kept: frozenset[str] = await self._ask(MemoryEngine.reclaim, incarnation, epochs)
        return kept

    async def send(self, incarnation: str, message: bytes) -> None:
        await super().send(incarnation, message)
        if self.twice is not None:
            self._before.append((incarnation, message))
            if self.twice.random() < 0.5:
                await super().send(*self.twice.choice(self._before))

    def store(self, fence: Any, *, durable: bool) -> Store:
        return _WiredStore(engine=self, shared=self._shared, fence=fence)


@attrs.define(eq=False, kw_only=True)
class _WiredStore(memory._FencedStore):
    """A store whose commits are on their way for a while: they arrive also where the node is gone by then."""

    async def commit(self, commit: Commit) -> None:
        wires = self._engine
        assert isinstance(wires, Wires)
        after = max(wires.lag / 2, wires.slow)
        if not after:
            await super().commit(commit)
            return
        await self._reach()
        done, failures = trio.Event(), list[Exception]()
        assert wires.crowd is not None
        wires.crowd.start_soon(self._arrive, commit, after, done, failures)
        await done.wait()
        await wires.answered(StoreError)
        for failure in failures:
            raise failure

    async def _arrive(
        self, commit: Commit, after: float, done: trio.Event, failures: list[Exception]
    ) -> None:
        await trio.sleep(after)
        _ON_ITS_WAY.set(True)
        try:
            await super().commit(commit)
        except StoreError as error:
            failures.append(error)
        finally:
            done.set()

    async def _reach(self) -> None:
        if not _ON_ITS_WAY.get():
            await super()._reach()
        elif not self._shared.up:
            raise StoreError("the engine cannot be reached")


# The nodes.


@attrs.define(eq=False)
class Node:
    """One process: from its start to its stop, or its death."""

    name: str
    wires: Wires
    rooms: Rooms | None = None
    lines: list[Line] = attrs.field(factory=list)
    over: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    leaves: trio.Event = attrs.field(factory=trio.Event)
    dead: bool = False
    cut: bool = False
    drained: bool = False

    @property
    def clock(self) -> Clock:
        """Its own."""
        return self.wires.clock

    @property
    def stopped(self) -> bool:
        return self.clock.stood is not None

    @property
    def usable(self) -> bool:
        """Whether a client can speak to it."""
        return self.rooms is not None and not (self.dead or self.stopped or self.leaves.is_set())

    def reach(self) -> None:
        """Have the engine be as reachable as it is for this one now."""
        if self.cut or self.dead or self.stopped:
            self.wires.cut()
        else:
            self.wires.mend()


# The clients.


def _frame(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame, with a mask that changes nothing."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return bytes((0x80 | opcode,)) + length + bytes(4) + payload


def _frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    while len(buffer) >= 2:
        size, start = buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(buffer[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(buffer[2:10], "big"), 10
        if len(buffer) < start + size:
            return
        yield buffer[0] & 15, bytes(buffer[start : start + size])
        del buffer[: start + size]


@attrs.define(eq=False)
class Client:
    """Somebody who asks, resumes, and speaks the protocol by the letter."""

    number: int
    key: str
    """Its room's: a name and an id."""
    token: str = ""
    seq: int = 0
    """The highest that it has."""
    count: int = 0
    """The number that the last event had; 0 before the first."""
    asked: int = 0
    unanswered: dict[int, str] = attrs.field(factory=dict)
    line: Line | None = None
    here: dict[str, Any] = attrs.field(factory=dict)
    """Who is in its room, as it was told."""

    @property
    def safe(self) -> bool:
        """Whether its room loses nothing."""
        return self.key.startswith("safe")

    @property
    def plain(self) -> bool:
        """Whether it has no session."""
        return self.number == PLAIN


@attrs.define(eq=False)
class Line:
    """One connection, and the network that it goes over."""

    client: Client
    node: Node
    near: Any
    """The client's end."""
    far: Any
    """The node's end."""
    open: bool = True
    welcomed: bool = False
    code: int | None = None
    turn: trio.Lock = attrs.field(factory=trio.Lock)

    def end(self) -> None:
        """Break it off on both sides, at once."""
        self.open = False
        for stream in (self.near, self.far):
            stream.send_stream.close()
            stream.receive_stream.close()


@attrs.define(eq=False)
class World:
    """All of it."""

    root: MemoryEngine
    crowd: trio.Nursery
    history: list[str] = attrs.field(factory=list)
    broken: BrokenRule | None = None
    nodes: list[Node] = attrs.field(factory=list)
    clients: list[Client] = attrs.field(factory=list)
    known: dict[str, str] = attrs.field(factory=dict)
    """What became of each message: "sent", "applied", or an error's code."""
    said: dict[tuple[str, int], str] = attrs.field(factory=dict)
    """By room and number, which message it was of, as some client heard it."""
    writers: dict[tuple[str, int], str] = attrs.field(factory=dict)
    """By room and epoch, which node has written."""
    commits: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """By room, epoch and number of the last commit that was applied."""
    serial: Iterator[int] = attrs.field(factory=itertools.count)

    def tell(self, what: str) -> None:
        """Write something down for whoever has to read this life."""
        self.history.append(f"{trio.current_time():8.2f}  {what}")

    def must(self, holds: object, rule: str, about: object = "") -> None:
        """Check a rule.

        Raises:
            BrokenRule: it does not hold.
        """
        if not holds:
            self.history.append(f"{trio.current_time():8.2f}  BROKEN: {rule}: {about}")
            broken = BrokenRule(f"{rule}: {about}\n" + "\n".join(self.history))
            # Where it is raised may be in code that handles every error.
            self.broken = self.broken or broken
            raise broken

    def see(self) -> None:
        """Look whether all rules have held.

        Raises:
            BrokenRule: one did not.
        """
        if self.broken is not None:
            raise self.broken

    # Nodes.

    async def start(self, place: int) -> None:
        """Start a node, as a new process under the same name."""
        wires = Wires(shared=self.root._shared, crowd=self.crowd)
        node = Node(NAMES[place], wires)
        if len(self.nodes) > place:
            self.nodes[place] = node
        else:
            self.nodes.append(node)
        await self.crowd.start(self._run, node)

    async def _run(self, node: Node, task_status: trio.TaskStatus[None]) -> None:
        told = False
        try:
            with node.over:
                opening = open_rooms(
                    _rooms(),
                    engine=node.wires,
                    node=node.name,
                    lease=LEASE,
                    stop_timeout=3.0,
                    close_timeout=1.0,
                )
                opening._runtime.node.seat.now = node.clock.now  # type: ignore[attr-defined]
                opening._runtime.node.seat.sleep_until = node.clock.sleep_until  # type: ignore[attr-defined]
                async with opening as node.rooms:
                    self.tell(f"{node.name} serves")
                    told = True
                    task_status.started()
                    await node.leaves.wait()
                    self.tell(f"{node.name} leaves")
        except RoomsError as error:
            self.tell(f"{node.name} ends: {error}")
            if not node.dead and not node.cut and not node.stopped and self.root.reachable:
                raise
        finally:
            node.rooms = None
            for line in [*node.lines]:
                line.end()
            if not told:
                task_status.started()

    def die(self, node: Node) -> None:
        """Kill a node: nothing of it reaches anybody from now on."""
        node.dead = True
        node.reach()
        for line in [*node.lines]:
            line.end()
        node.clock.go_on()
        node.over.cancel()

    # Clients.

    async def come(self, client: Client, node: Node) -> None:
        """A client connects, and resumes if it has something to resume."""
        if client.line is not None and client.line.open:
            client.line.end()
        if client.plain:
            client.seq = 0  # It goes on with nothing, and the room may have gone back to its last snapshot.
        query = {"who": str(client.number)}
        if client.token:
            query |= {"resume": client.token, "seq": str(client.seq)}
        headers = {} if client.plain else {"sec-websocket-protocol": "trio-rooms.v1.json"}
        name, _, what = client.key.partition("/")
        request = ConnectRequest(name, what, f"/{client.key}", query, headers, "memory:0")
        near, far = trio.testing.memory_stream_pair()
        inner, outer = trio.testing.memory_stream_pair()
        line = client.line = Line(client, node, near, outer, welcomed=client.plain)
        node.lines.append(line)
        self.tell(f"client {client.number} comes to {node.name}, has {client.seq}")
        self.crowd.start_soon(self._serve, node, inner, request, line)
        # Between the client and the node there is a network, which stands still where the node is stopped.
        self.crowd.start_soon(self._carry, far, outer, line)
        self.crowd.start_soon(self._carry, outer, far, line)
        self.crowd.start_soon(self._listen, line)

    async def _serve(self, node: Node, inner: Any, request: ConnectRequest, line: Line) -> None:
        rooms = node.rooms
        if rooms is None:
            line.end()
            return
        try:
            await rooms.serve_stream(inner, request.room, request.id, request=request)
        except (RoomsError, Refused) as error:
            self.tell(f"client {line.client.number} is turned away at {node.name}: {error}")
        finally:
            line.end()

    async def _carry(self, source: Any, target: Any, line: Line) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                data = await source.receive_some()
                # What was written before it was stopped is with the network by then.
                written = line.node.stopped
                await line.node.clock.going()
                if not data or line.node.dead:
                    break
                if source is line.far and not written:
                    self.sent(line, data)
                await target.send_all(data)
        line.end()

    async def _listen(self, line: Line) -> None:
        buffer = bytearray()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await line.near.receive_some():
                buffer += data
                for opcode, payload in _frames(buffer):
                    if line is not line.client.line:
                        return
                    if opcode == 8:
                        line.code = int.from_bytes(payload[:2], "big")
                        self.tell(f"client {line.client.number} is closed with {line.code}")
                        line.end()
                        return
                    if opcode == 1:
                        await self._heard(line, json.loads(payload))
        line.end()

    async def _heard(self, line: Line, message: dict[str, Any]) -> None:
        client = line.client
        if message.get("event") == "rooms.welcome":
            data = message["data"]
            self.must(line.welcomed is False, "one welcome for each connection", client.number)
            line.welcomed = True
            if client.token and client.safe:
                self.must(data["resumed"], "a session that is not over can be resumed", data.get("reason"))
            if not data["resumed"]:
                client.seq = data["seq"]
                for name in client.unanswered.values():
                    self.known[name] = "lost"
                client.unanswered.clear()
            client.token = str(data["resume"])
            for number, name in sorted(client.unanswered.items()):
                await self._send(line, number, name)
        elif message.get("event") == "said":
            data, seq = message["data"], message["seq"]
            self.must(seq > client.seq, "no event comes twice, and each in order", (client.number, message))
            client.seq = seq
            if not client.safe:
                return
            known = self.said.setdefault((client.key, data["n"]), data["name"])
            self.must(known == data["name"], "all hear the same in the same order", (client.number, message))
            follows = not client.count or data["n"] == client.count + 1
            self.must(follows, "no event is missing", (client.number, client.count, message))
            client.count = data["n"]
        elif message.get("event") == "rooms.presence":
            data = message["data"]
            client.here = data["users"] if "users" in data else client.here | data["changes"]
        elif "ack" in message:
            name = client.unanswered.get(message["ack"], "")
            error = message.get("error")
            if not name:
                return
            if error is not None and error["code"] == "unavailable":
                self.tell(f"client {client.number}: {name} is unavailable")
                self.crowd.start_soon(self._send_again, line, message["ack"], name)
                return
            del client.unanswered[message["ack"]]
            if error is None:
                self.known[name] = "applied"
                if client.safe and message.get("data") is not None:
                    known = self.said.setdefault((client.key, message["data"]), name)
                    self.must(known == name, "an answer is that of the message", (name, message, known))
            else:
                self.known[name] = error["code"]
            self.tell(f"client {client.number}: {name} {self.known[name]}")

    async def _send_again(self, line: Line, number: int, name: str) -> None:
        await trio.sleep(0.5)
        if line.open and number in line.client.unanswered:
            await self._send(line, number, name)

    async def _send(self, line: Line, number: int, name: str) -> None:
        content = json.dumps({"event": "add", "data": name, "id": number}).encode()
        async with line.turn:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await line.near.send_all(_frame(content))

    # Steps.

    async def step(self, step: Step) -> None:
        """Do one thing."""
        self.tell(" ".join(map(str, step)))
        what, *about = step
        match what:
            case "send":
                client = self.clients[about[0]]
                if not client.plain and len(client.unanswered) < MOST_UNANSWERED:
                    client.asked += 1
                    name = f"m{next(self.serial)}"
                    client.unanswered[client.asked] = name
                    self.known[name] = "sent"
                    if client.line is not None and client.line.open and client.line.welcomed:
                        await self._send(client.line, client.asked, name)
            case "come":
                node = self.nodes[about[1]]
                if node.usable and not node.drained:
                    await self.come(self.clients[about[0]], node)
            case "drop":
                line = self.clients[about[0]].line
                if line is not None:
                    line.end()
            case "sleep":
                await trio.sleep(about[0])
            case "stop":
                node = self.nodes[about[0]]
                if node.usable and sum(one.stopped for one in self.nodes) < 2:
                    node.clock.stop()
                    node.reach()
            case "go on":
                self._go_on(self.nodes[about[0]])
            case "crash":
                node = self.nodes[about[0]]
                if node.rooms is not None and not node.dead:
                    self.die(node)
                    await self.start(about[0])
            case "cut" | "mend":
                node = self.nodes[about[0]]
                node.cut = what == "cut"
                node.reach()
            case "down":
                self.root.down()
            case "up":
                self.root.up()
            case "lag":
                wires, lag = self.nodes[about[0]].wires, about[1]
                wires.lag, wires.delay = lag, (lambda: lag / 2) if lag else None
            case "slow commits":
                self.nodes[about[0]].wires.slow = about[1]
            case "twice":
                twice = random.Random(next(self.serial)) if about[1] else None
                self.nodes[about[0]].wires.twice = twice
            case "lose":
                every, dice = about[1], random.Random(next(self.serial))
                lose = (lambda _: dice.randrange(every) == 0) if every else None
                self.nodes[about[0]].wires.lose = lose
            case "lose answers":
                self.nodes[about[0]].wires.lost_answers = about[1]
            case "emit":
                node = self.nodes[about[0]]
                if node.usable:
                    assert node.rooms is not None
                    node.rooms.get(*about[1].split("/")).emit("noise", 1)
            case "hibernate":
                node = self.nodes[about[0]]
                if node.usable:
                    assert node.rooms is not None
                    self.crowd.start_soon(self._quietly, node.rooms.get(*about[1].split("/")).hibernate)
            case "drain":
                node = self.nodes[about[0]]
                others = [one for one in self.nodes if one is not node and one.usable and not one.drained]
                if node.usable and not node.drained and len(others) > 1:
                    assert node.rooms is not None
                    node.drained = True
                    node.rooms._runtime.node.drain()  # type: ignore[union-attr]
            case "leave":
                node = self.nodes[about[0]]
                if node.usable and not node.cut and self.root.reachable:
                    node.leaves.set()
                    await self.start(about[0])
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        self.see()

    async def _quietly(self, function: Callable[[], Any]) -> None:
        with contextlib.suppress(RoomsError):
            await function()

    def _go_on(self, node: Node) -> None:
        if node.stopped:
            node.clock.go_on()
            node.reach()

    # The end.

    async def heal(self) -> None:
        """Take all hindrances away, and see that everybody gets what they are owed."""
        self.tell("nothing hinders it any more")
        self.root.up()
        for place, node in enumerate(self.nodes):
            node.wires.delay = node.wires.lose = node.wires.twice = None
            node.wires.lag = node.wires.slow = node.wires.lost_answers = 0
            node.cut = False
            self._go_on(node)
            node.reach()
            if node.rooms is None:
                await self.start(place)
        until = trio.current_time() + _END
        quiet = 0
        for turn in itertools.count():
            self.see()
            quiet = quiet + 1 if all(self._content(client) for client in self.clients) else 0
            if quiet > 4:
                break
            self.must(trio.current_time() < until, "all is answered in the end", self._owed())
            for client in self.clients:
                if client.line is None or not client.line.open:
                    usable = [node for node in self.nodes if node.usable and not node.drained]
                    await self.come(client, usable[(client.number + turn) % len(usable)])
            await trio.sleep(0.5)
        for key in KEYS:
            await self._compare(key)
        for key in KEYS:
            here = {str(client.number) for client in self.clients if client.key == key}
            links = [
                link
                for node in self.nodes
                if node.rooms is not None and key in node.rooms._hub.rosters
                for link in node.rooms._hub.rosters[key].links
            ]
            self.must(len(links) == len(here), "each client is in its room once", (key, links))
            for client in self.clients:
                if client.key == key and client.safe:
                    self.must(
                        {who: [one["status"] for one in what] for who, what in client.here.items() if what}
                        == {who: ["online"] for who in here},
                        "everybody is told who is here",
                        (client.number, client.here),
                    )

    def _content(self, client: Client) -> bool:
        return client.line is not None and client.line.open and client.line.welcomed and not client.unanswered

    def _owed(self) -> str:
        return "; ".join(
            f"client {client.number}: {client.unanswered}, line {client.line and client.line.open}"
            for client in self.clients
        )

    async def _compare(self, key: str) -> None:
        node = next(node for node in self.nodes if node.usable)
        assert node.rooms is not None
        state = await node.rooms.get(*key.split("/")).peek()
        applied: list[str] = [] if state is None else state.applied
        self.must(len(set(applied)) == len(applied), "nothing is applied twice", applied)
        if not key.startswith("safe"):
            return
        for name, known in self.known.items():
            clients = [client for client in self.clients if client.key == key]
            if known == "not_saved":
                self.must(name not in applied, "what is refused is not applied", name)
            if known == "applied" and self._is_of(name, clients):
                self.must(name in applied, "what is acknowledged is applied", name)
        for (where, number), name in self.said.items():
            if where == key:
                self.must(
                    applied[number - 1 : number] == [name],
                    "what was heard is what has happened",
                    (number, name),
                )
        for client in self.clients:
            if client.key == key and client.count:
                self.must(client.count == len(applied), "everybody has heard all in the end", client.number)

    def _is_of(self, name: str, clients: list[Client]) -> bool:
        return (clients[0].key, name) in {(where, said) for (where, _), said in self.said.items()}

    def committed(self, commit: Commit, fence: Any) -> None:
        """A commit was applied."""
        epoch, number = self.commits.get(commit.key, (0, 0))
        self.must(commit.epoch >= epoch, "no effect of an older epoch after one of a newer", commit.key)
        self.must(commit.number == number + 1, "commits follow on each other", (commit.key, commit.number))
        owned = self.root._shared.owned.get(commit.key)
        ours = owned is not None and owned.epoch == commit.epoch
        self.must(ours, "only who owns a room writes it", (commit.key, commit.epoch))
        name = fence.seat.name
        known = self.writers.setdefault((commit.key, commit.epoch), name)
        self.must(known == name, "no two nodes write by one epoch", (commit.key, commit.epoch, known, name))
        self.commits[commit.key] = commit.epoch, commit.number

    def taken(self, ownership: Any, key: str) -> None:
        """A node has claimed a room just now."""
        for node in self.nodes:
            if node.rooms is None or node.dead or node.stopped:
                continue
            other = node.rooms._runtime.node
            assert isinstance(other, Cluster)
            seat = other.seat
            if other.ownership is ownership or not seat.valid or trio.current_time() >= seat.deadline:
                continue
            self.must(
                not other.ownership.owns(key), "a room is at home at one node at most", (key, node.name)
            )
            roster = node.rooms._hub.rosters.get(key)
            empty = roster is None or not (roster.links or roster.inbox)
            self.must(empty, "nobody is in a room that is let go of", (key, node.name))

    def sent(self, line: Line, frame: bytes) -> None:
        """A node has sent something to a client."""
        node, key = line.node, line.client.key
        if node.rooms is None or node.stopped or not (b'"said"' in frame or b'"noise"' in frame):
            return
        other = node.rooms._runtime.node
        assert isinstance(other, Cluster)
        epoch, owned = other.ownership.epoch_of(key), self.root._shared.owned.get(key)
        if not epoch:
            return  # It is at home elsewhere.
        late = trio.current_time() >= other.seat.deadline
        self.must(not late, "a room says nothing once its node's lease is over", (node.name, frame))
        ours = owned is None or owned.epoch <= epoch
        self.must(ours, "a room says nothing once another node has it", (node.name, frame))


async def _live(steps: list[Step]) -> None:
    root = MemoryEngine()
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as crowd:
            world = World(root, crowd)
            stack.enter_context(_watched(world))
            for place in range(len(NAMES)):
                await world.start(place)
            for number, key in enumerate(CLIENTS):
                world.clients.append(Client(number, key))
                await world.come(world.clients[-1], world.nodes[number % len(NAMES)])
            await trio.sleep(0.5)
            for step in steps:
                await world.step(step)
            await world.heal()
            for node in world.nodes:
                node.leaves.set()
            await trio.sleep(10)
            world.see()
            crowd.cancel_scope.cancel()


@contextlib.contextmanager
def _watched(world: World) -> Iterator[None]:
    """Hear of each commit that is applied, whichever node it is of."""
    with pytest.MonkeyPatch.context() as patch:
        apply = memory._FencedStore._apply

        def heard(self: Any, commit: Commit) -> None:
            number = self._look_up(commit.key).number
            apply(self, commit)
            if self._look_up(commit.key).number != number:
                world.committed(commit, self._fence)

        patch.setattr(memory._FencedStore, "_apply", heard)
        claim, reclaimed = Ownership._claim, Ownership._reclaimed

        async def claimed(self: Any, key: str) -> bool:
            had = self.owns(key)
            got = await claim(self, key)
            if got and not had:
                world.taken(self, key)
            return got

        async def again(self: Any, epochs: Any) -> frozenset[str]:
            kept = await reclaimed(self, epochs)
            for key in kept:
                world.taken(self, key)
            return kept

        patch.setattr(Ownership, "_claim", claimed)
        patch.setattr(Ownership, "_reclaimed", again)
        yield


def live(steps: list[Step], order: int | None = None) -> None:
    """Live one life.

    Args:
        steps: what happens.
        order: draws in which order tasks run that could run at once; None for any.

    Raises:
        BrokenRule: something that must hold does not.
    """
    logger = logging.getLogger("trio_rooms")
    before, logger.disabled = logger.disabled, True
    try:
        with pytest.MonkeyPatch.context() as patch:
            if order is not None:
                patch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
                patch.setattr(trio._core._run, "_r", random.Random(order))
            trio.run(partial(_live, steps), clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseExceptionGroup as group:
        raise _broken(group) from None
    finally:
        logger.disabled = before


def _broken(group: BaseExceptionGroup[BaseException]) -> BaseException:
    for one in group.exceptions:
        found = _broken(one) if isinstance(one, BaseExceptionGroup) else one
        if isinstance(found, BrokenRule):
            return found
    first = group.exceptions[0]
    return _broken(first) if isinstance(first, BaseExceptionGroup) else first


def search(count: int, start: int = 0) -> tuple[int, list[Step], str]:
    """Live at most so many random lives, until one breaks a rule.

    Returns:
        How many kept them, the one that did not, and what it has broken; the latter two empty for none.
    """
    held, last = 0, list[Step]()

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(lives)
    def random_lives(life: list[Step]) -> None:
        nonlocal held, last
        last = life
        live(life)
        held += 1

    try:
        random_lives()
    except Exception as error:
        return held, last, f"{type(error).__name__}: {error}"
    return held, [], ""


def main(count: int, start: int = 0) -> int:
    """Live so many random lives, on all cores; gives how many broke a rule."""
    began, held, broken = time.monotonic(), 0, 0
    batches = [(min(_BATCH, count - at), start + at) for at in range(0, count, _BATCH)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for kept, life, what in pool.imap_unordered(_batch, batches):
            held, broken = held + kept, broken + bool(what)
            if what:
                print(f"{what}\n{life}", flush=True)
            print(f"{held:,} lives kept the rules, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{held:,} of {held + broken:,} lives kept the rules")
    return broken


_BATCH: Final = 100
"""Lives in a row; one that breaks a rule is the last one of it."""


def _batch(about: tuple[int, int]) -> tuple[int, list[Step], str]:
    return search(*about)


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
