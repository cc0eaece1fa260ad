"""Lives of nodes that share an engine, and of clients that resume at any of them: steps, driver and rules.

Everything is the real thing but for the engine, the wires and the clocks: those are objects here, which lose,
delay and stop what they are told to. A node that is *stopped* is one whose process was sent SIGSTOP: nothing
of it goes out or comes in, and its clock stands still for its lease, so that it finds out when it goes on.

``python -m tests.node_life 20000`` lives so many random lives.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from trio_rooms import ConnectRequest, Context, Refused, Room, Rooms, RoomsError, open_rooms
from trio_rooms._cluster.cluster import Cluster
from trio_rooms._cluster.ownership import Ownership
from trio_rooms.engines import MemoryEngine, memory
from trio_rooms.stores import Commit

__all__ = ["BrokenRule", "Step", "live", "lives", "many"]

NAMES: Final = ("a", "b", "c")
KEYS: Final = ("main", "side")
LEASE: Final = 2.0
WINDOW: Final = 300.0
CLIENTS: Final = 3
MOST_UNANSWERED: Final = 5
_END: Final = 120.0
"""Seconds after which all must be well again once nothing hinders it any more."""
Step = tuple[Any, ...]

_who = st.integers(0, CLIENTS - 1)
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
    st.tuples(st.just("lag"), _node, st.sampled_from((0.0, 0.1, 0.6))),
    st.tuples(st.just("lose"), _node, st.sampled_from((0, 2, 5))),
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


async def _let_in(request: ConnectRequest) -> str:
    return request.query["who"]


async def _add(ctx: Context[State], name: str) -> int:
    ctx.state.applied.append(name)
    count = len(ctx.state.applied)
    ctx.room.emit("said", {"n": count, "name": name}, reliable=True)
    return count


async def _note(ctx: Context[State], name: str) -> int:
    return await _add(ctx, name)


def _room() -> Room[State]:
    room = Room("safe", state=State, durability="commit", idle_timeout=1.5, resume_window=WINDOW)
    room.authenticate(_let_in)
    room.on("add")(_add)
    room.on("note")(_note)
    return room


# The engine, as one node sees it.


class Wires(MemoryEngine):
    """A node's view, which may lose the answers to what it has asked."""

    lost_answers: int = 0
    """Every so manieth answer is lost although it was done; 0 for none."""
    asked: int = 0

    async def _answered(self, answer: Any) -> Any:
        self.asked += 1
        if self.lost_answers and self.asked % self.lost_answers == 0:
            from trio_rooms import EngineLost  # noqa: PLC0415

            raise EngineLost("the answer is lost")
        return answer

    async def renew(self, incarnation: str, about: bytes, lease: float) -> Any:
        renewal = await super().renew(incarnation, about, lease)
        if self.delay is not None:
            await trio.sleep(self.delay())
        return renewal

    async def claim(self, key: str, incarnation: str) -> Any:
        return await self._answered(await super().claim(key, incarnation))

    async def release(self, key: str, incarnation: str, epoch: int) -> bool:
        return bool(await self._answered(await super().release(key, incarnation, epoch)))


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

    def stop(self) -> None:
        if self.stood is None:
            self.stood, self.gone = trio.current_time(), trio.Event()

    def go_on(self) -> None:
        self.stood = None
        self.gone.set()


# The nodes.


@attrs.define(eq=False)
class Node:
    """One process: from its start to its stop, or its death."""

    name: str
    wires: Wires
    clock: Clock = attrs.field(factory=Clock)
    rooms: Rooms | None = None
    lines: list[Line] = attrs.field(factory=list)
    over: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    leaves: trio.Event = attrs.field(factory=trio.Event)
    dead: bool = False
    cut: bool = False
    drained: bool = False

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
    token: str = ""
    seq: int = 0
    """The highest that it has."""
    count: int = 0
    """The number that the last event had; 0 before the first."""
    asked: int = 0
    unanswered: dict[int, str] = attrs.field(factory=dict)
    line: Line | None = None
    resumed: bool = False


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
            raise BrokenRule(f"{rule}: {about}\n" + "\n".join(self.history))

    # Nodes.

    async def start(self, place: int) -> None:
        """Start a node, as a new process under the same name."""
        wires = Wires(shared=self.root._shared)
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
                    [_room()],
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
        query = {"who": str(client.number)}
        client.resumed = bool(client.token)
        if client.token:
            query |= {"resume": client.token, "seq": str(client.seq)}
        headers = {"sec-websocket-protocol": "trio-rooms.v1.json"}
        request = ConnectRequest("safe", client.key, f"/safe/{client.key}", query, headers, "memory:0")
        near, far = trio.testing.memory_stream_pair()
        inner, outer = trio.testing.memory_stream_pair()
        line = client.line = Line(client, node, near, outer)
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
                while line.node.stopped:
                    await line.node.clock.gone.wait()
                if not data:
                    break
                if line.node.dead:
                    break
                if source is line.far:
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
            if client.token:
                self.must(data["resumed"], "a session that is not over can be resumed", data.get("reason"))
            else:
                client.seq = data["seq"]
            client.token = str(data["resume"])
            for number, name in sorted(client.unanswered.items()):
                await self._send(line, number, name)
        elif message.get("event") == "said":
            data, seq = message["data"], message["seq"]
            self.must(seq > client.seq, "no event comes twice, and each in order", (client.number, message))
            client.seq = seq
            known = self.said.setdefault((client.key, data["n"]), data["name"])
            self.must(known == data["name"], "all hear the same in the same order", (client.number, message))
            follows = not client.count or data["n"] == client.count + 1
            self.must(follows, "no event is missing", (client.number, client.count, message))
            client.count = data["n"]
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
                if message.get("data") is not None:
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
                if len(client.unanswered) < MOST_UNANSWERED:
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
                delay = about[1]
                self.nodes[about[0]].wires.delay = (lambda: delay) if delay else None
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
                    node.rooms.get("safe", about[1]).emit("noise", 1)
            case "hibernate":
                node = self.nodes[about[0]]
                if node.usable:
                    assert node.rooms is not None
                    self.crowd.start_soon(self._quietly, node.rooms.get("safe", about[1]).hibernate)
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
            node.wires.delay = node.wires.lose = None
            node.wires.lost_answers = 0
            node.cut = False
            self._go_on(node)
            node.reach()
            if node.rooms is None:
                await self.start(place)
        until = trio.current_time() + _END
        quiet = 0
        for turn in itertools.count():
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
        connected = 0
        for node in self.nodes:
            if node.rooms is not None:
                other = node.rooms._runtime.node
                assert isinstance(other, Cluster)
                connected += sum(
                    len(one.links) for key, one in node.rooms._hub.rosters.items() if "\n" not in key
                )
        self.must(connected == CLIENTS, "each client is in one room once", connected)

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
        state = await node.rooms.get("safe", key).peek()
        applied: list[str] = [] if state is None else state.applied
        self.must(len(set(applied)) == len(applied), "nothing is applied twice", applied)
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
        node, key = line.node, f"safe/{line.client.key}"
        if b"said" not in frame or node.rooms is None or node.stopped:
            return
        other = node.rooms._runtime.node
        assert isinstance(other, Cluster)
        late = other.ownership.owns(key) and trio.current_time() >= other.seat.deadline
        self.must(not late, "a room says nothing once its node's lease is over", (node.name, frame))


async def _live(steps: list[Step]) -> None:
    root = MemoryEngine()
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as crowd:
            world = World(root, crowd)
            stack.enter_context(_watched(world))
            for place in range(len(NAMES)):
                await world.start(place)
            for number in range(CLIENTS):
                world.clients.append(Client(number, KEYS[number == CLIENTS - 1]))
                await world.come(world.clients[-1], world.nodes[number])
            await trio.sleep(0.5)
            for step in steps:
                await world.step(step)
            await world.heal()
            for node in world.nodes:
                node.leaves.set()
            await trio.sleep(10)
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


def live(steps: list[Step]) -> None:
    """Live one life.

    Raises:
        BrokenRule: something that must hold does not.
    """
    logger = logging.getLogger("trio_rooms")
    before, logger.disabled = logger.disabled, True
    try:
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


def many(count: int, start: int = 0, *, tell: bool = False) -> int:
    """Live so many random lives; returns how many it were until one broke a rule, which is raised."""
    lived = 0
    began = time.monotonic()

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(lives)
    def random_lives(life: list[Step]) -> None:
        nonlocal lived
        lived += 1
        live(life)
        if tell and lived % 100 == 0:
            print(f"{lived} lives, {time.monotonic() - began:.0f} s", flush=True)

    random_lives()
    return lived


if __name__ == "__main__":
    many(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, tell=True)
