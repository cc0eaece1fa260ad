"""What goes to a room arrives in order and once at most, wherever the room is and however it moves."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_rooms._cluster.calls import Calls
from trio_rooms._cluster.desk import Desk
from trio_rooms._cluster.lanes import Lanes
from trio_rooms._cluster.router import Router
from trio_rooms._room.answers import Answer
from trio_rooms._room.mail import Ask, Hibernate, Mail
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.sent import Sent
from trio_rooms.engines.memory import MemoryEngine
from trio_rooms.errors import RoomsClosed, Unavailable

NAMES = ("a#1", "b#1", "c#1")


@attrs.define(eq=False)
class World:
    """Where rooms are at home, and what came to each, with its sender."""

    homes: dict[str, str] = attrs.field(factory=dict)
    came: dict[str, list[tuple[str, Any]]] = attrs.field(factory=dict)
    delays: list[float] = attrs.field(factory=list)
    claims: int = 0

    async def wait(self) -> None:
        """Let some time pass, which differs."""
        await trio.sleep(self.delays.pop() if self.delays else 0)


@attrs.define(eq=False)
class Seat:
    """A seat that is there."""

    incarnation: str
    members: dict[str, Any] = attrs.field(factory=lambda: dict.fromkeys(NAMES))
    on_gone: list[Callable[[Any], None]] = attrs.field(factory=list)
    on_over: list[Callable[[str], None]] = attrs.field(factory=list)

    def lose(self, incarnation: str) -> None:
        """It hears that another one is no member any more."""
        del self.members[incarnation]
        for told in self.on_gone:
            told(Gone(incarnation))


@attrs.frozen
class Gone:
    """One that was a member."""

    incarnation: str


@attrs.define(eq=False)
class Homes:
    """What one node knows of where rooms are."""

    world: World
    seat: Seat
    remembered: dict[str, str] = attrs.field(factory=dict)
    failing: bool = False

    def owns(self, key: str) -> bool:
        """Whether it is here."""
        return self.world.homes.get(key) == self.seat.incarnation

    def known(self, key: str) -> str | None:
        """Where it was."""
        found = self.remembered.get(key)
        return found if found in self.seat.members else None

    def misplaced(self, key: str, incarnation: str) -> None:
        """Not there."""
        if self.remembered.get(key) == incarnation:
            del self.remembered[key]

    async def place(self, key: str) -> str:
        """Look, now or then, and claim."""
        return await self._look(key) or await self._claim(key)

    async def find(self, key: str) -> str:
        """Look, now or then."""
        return await self._look(key)

    async def _look(self, key: str) -> str:
        await self.world.wait()
        if self.failing:
            raise Unavailable(key, "nobody says where it is")
        found = self.world.homes.get(key, "")
        await self.world.wait()
        if found and found != self.seat.incarnation:
            self.remembered[key] = found
        return found

    async def _claim(self, key: str) -> str:
        found = self.world.homes.setdefault(key, self.seat.incarnation)
        self.world.claims += 1
        await self.world.wait()
        return found


@attrs.define(eq=False)
class Shelves:
    """A `Supervisor` that notes what comes to its rooms."""

    world: World
    seat: Seat
    closed: bool = False

    def until_closed(self, _: Answer) -> contextlib.AbstractContextManager[None]:
        """Nobody ends it."""
        return contextlib.nullcontext()

    def serves(self, _: str) -> bool:
        """It does."""
        return True

    def deliver(self, key: str, mail: Mail) -> bool:
        """Note it, and answer."""
        assert isinstance(mail, Ask)
        assert self.world.homes.get(key) == self.seat.incarnation
        self.world.came.setdefault(key, []).append((mail.event, mail.data))
        mail.answer.succeed(mail.data)
        return True

    def deliver_soon(self, key: str, mail: Mail) -> None:
        """Note it, and answer."""
        assert isinstance(mail, Hibernate)
        self.world.came.setdefault(key, []).append(("hibernate", None))
        mail.answer.succeed(True)

    async def people(self, _: str) -> tuple[str, ...]:
        """Take a second to say who is there."""
        await trio.sleep(1)
        return (self.seat.incarnation,)

    def emit(self, key: str, *_: Any) -> Sent:
        """Note it."""
        self.world.came.setdefault(key, []).append(("emit", None))
        return Sent(active=3)


class Node:
    """A node of three, whose rooms only note what comes."""

    def __init__(self, engine: MemoryEngine, world: World, name: str) -> None:
        self.seat = Seat(name)
        self.homes = Homes(world, self.seat)
        self.lanes = Lanes(engine, self.seat)
        self.calls = Calls(self.lanes)
        shelves: Any = Shelves(world, self.seat)
        self.router = Router(shelves, self.homes, self.seat, self.calls)
        Desk(shelves, self.homes, self.calls)
        self.name = name

    def put(self, key: str, data: Any) -> Answer:
        """Send something to a room."""
        answer = Answer()
        self.router.deliver(key, Ask(self.name, data, answer))
        return answer

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be there until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.lanes.run)
            nursery.start_soon(self.calls.run)
            task_status.started()


class Three:
    """Three nodes, and a world in which their rooms move."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.world = World()
        self.engine = MemoryEngine()
        self.nodes = [Node(self.engine, self.world, name) for name in NAMES]
        self.nursery = nursery

    def lose(self, name: str) -> None:
        """A node is lost, for good, and the others hear of it."""
        for key in [key for key, home in self.world.homes.items() if home == name]:
            del self.world.homes[key]
        for node in self.nodes:
            if node.name != name and name in node.seat.members:
                node.seat.lose(name)


async def in_three(story: Callable[[Three], Any]) -> Three:
    """Tell a story of three nodes, and how they are then."""
    async with trio.open_nursery() as nursery:
        three = Three(nursery)
        for node in three.nodes:
            await nursery.start(node.run)
        await story(three)
        nursery.cancel_scope.cancel()
    return three


def drawn(chance: random.Random) -> list[tuple[str, Any, str]]:
    """What happens: mostly something is sent, by few nodes, and now and then a room moves."""
    steps: list[tuple[str, Any, str]] = []
    for _ in range(chance.randrange(60)):
        what = chance.random()
        key = chance.choice("xxxy")
        if what < 0.6:
            steps.append(("put", chance.choice((0, 0, 1)), key))
        elif what < 0.61:
            steps.append(("lose", "c#1", ""))
        elif what < 0.8:
            steps.append(("move", chance.choice((*NAMES, "")), key))
        else:
            steps.append(("wait", chance.choice((0, 0.001, 0.005, 0.06, 0.4)), ""))
    return steps


@settings(max_examples=30)
@given(st.integers(0, 1 << 32))
def test_whatever_moves_nothing_overtakes(seed: int) -> None:
    """Of what a node sends to a room, each arrives once and in order, or is said not to have arrived."""
    tell(seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 5000, 1000))
def test_whatever_moves_nothing_overtakes_in_many_ways(first: int) -> None:
    """The same, five thousand times."""
    for seed in range(first, first + 1000):
        tell(seed)


def tell(seed: int) -> None:
    """Have rooms move while things are sent to them, as a number says, and see what has become of them."""
    chance = random.Random(seed)
    sent: list[tuple[str, str, int, Answer]] = []
    loss = chance.choice((0, 0.2))

    async def story(three: Three) -> None:
        three.world.delays = [chance.choice((0, 0, 0.002, 0.05)) for _ in range(60)]
        three.engine.delay = lambda: chance.choice((0, 0, 0.001, 0.01))
        three.engine.lose = lambda _: chance.random() < loss
        for number, (step, what, key) in enumerate(drawn(chance)):
            if step == "put":
                node = three.nodes[what]
                sent.append((node.name, key, number, node.put(key, number)))
            elif step == "move":
                three.world.homes.pop(key, None)
                if what in three.nodes[0].seat.members:
                    three.world.homes[key] = what
            elif step == "lose":
                three.lose(what)
            else:
                await trio.sleep(what)
        await trio.sleep(60)
        assert not any(node.router._ways._ways for node in three.nodes)
        assert [node.router._ways._count for node in three.nodes] == [0, 0, 0]
        assert [node.router._ways._size for node in three.nodes] == [0, 0, 0]

    async def main() -> None:
        three = await in_three(story)
        there: set[int] = set()
        for key in "xy":
            came = three.world.came.get(key, [])
            for name in NAMES:
                numbers = [data for event, data in came if event == name]
                assert numbers == sorted(set(numbers))
                there.update(numbers)
        for _, _, number, answer in sent:
            assert answer.settled
            try:
                assert await answer.wait() == number
            except Unavailable as error:
                lost = "lost while" in error.why
                arrived = lost and number in there
            else:
                lost, arrived = False, True
            assert lost or (number in there) == arrived

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_what_was_refused_is_not_overtaken(autojump_clock: MockClock) -> None:
    """Where a room comes back to a node that has just refused something, what was sent behind that waits."""

    async def story(three: Three) -> None:
        a, b, _ = three.nodes
        three.engine.delay = lambda: 0.1
        three.world.homes["x"] = "c#1"
        b.homes.remembered["x"] = "a#1"
        first = b.put("x", 1)
        await trio.sleep(0.05)
        second = b.put("x", 2)
        await trio.sleep(0.07)
        assert not first.settled
        three.world.homes["x"] = "a#1"  # The first one has come there, and the second one has not.
        third = b.put("x", 3)
        assert [await one.wait() for one in (first, second, third)] == [1, 2, 3]
        assert three.world.came["x"] == [("b#1", 1), ("b#1", 2), ("b#1", 3)]
        assert await a.put("x", 4).wait() == 4

    await in_three(story)


async def test_what_is_for_nobody_claims_nothing(autojump_clock: MockClock) -> None:
    """What is sent to connections reaches none where a room is at home nowhere, and it sleeps already."""

    async def story(three: Three) -> None:
        b = three.nodes[1].router
        assert b.emit("x", PlainMessage("hello"), None) == Sent(outbox=1)
        assert await b.emit_counted("x", PlainMessage("hello"), None) == Sent()
        answer = Answer()
        b.deliver_soon("x", Hibernate(answer))
        assert await answer.wait() is True
        assert (three.world.claims, three.world.came) == (0, {})
        three.world.homes["x"] = "a#1"
        assert await b.emit_counted("x", PlainMessage("hello"), None) == Sent(active=3)
        # Behind something that wants the room to be somewhere, it is sent there.
        sent = b.emit("y", PlainMessage("hello"), None)
        assert await three.nodes[1].put("y", 1).wait() == 1
        assert (sent, three.world.claims) == (Sent(outbox=1), 1)
        assert three.world.came["y"] == [("emit", None), ("b#1", 1)]

    await in_three(story)


async def test_counts_are_waited_for_no_longer_than_that(autojump_clock: MockClock) -> None:
    """A node that does not answer in a quarter of a second counts as stored."""

    async def story(three: Three) -> None:
        three.world.homes["x"] = "a#1"
        three.engine.delay = lambda: 1.0
        began = trio.current_time()
        b = three.nodes[1].router
        assert await b.emit_counted("x", PlainMessage("hello"), None) == Sent(stored=1)
        assert trio.current_time() - began == pytest.approx(0.25)
        await trio.sleep(10)
        assert three.world.came["x"] == [("emit", None)]

    await in_three(story)


async def test_what_only_reads_is_read_again(autojump_clock: MockClock) -> None:
    """Where a node is lost while it is asked, the one that has the room then is; and others need not wait."""

    async def story(three: Three) -> None:
        b, found = three.nodes[1], []
        three.world.homes["x"] = "c#1"

        async def read() -> None:
            found.append(await b.router.people("x"))

        three.nursery.start_soon(read)
        await trio.sleep(0.5)
        three.lose("c#1")
        three.world.homes["x"] = "a#1"
        answer = b.put("x", 1)
        await trio.sleep(0.4)
        assert await answer.wait() == 1
        await trio.sleep(2)
        assert found == [("a#1",)]
        three.world.homes["x"] = "b#1"
        assert await b.router.people("x") == ("b#1",)

    await in_three(story)


async def test_what_cannot_be_placed_is_unavailable(autojump_clock: MockClock) -> None:
    """Each who asks is told, and nothing is left of it."""

    async def story(three: Three) -> None:
        b = three.nodes[1]
        b.homes.failing = True
        answers = [b.put("x", number) for number in range(3)]
        assert b.router.emit("x", PlainMessage("hello"), None) == Sent(outbox=1)
        for answer in answers:
            with pytest.raises(Unavailable, match="room x is unavailable: nobody says where it is"):
                await answer.wait()
        b.homes.failing = False
        assert await b.put("x", 3).wait() == 3

    await in_three(story)


async def test_what_waits_at_the_end_is_told(autojump_clock: MockClock) -> None:
    """Who asks a room elsewhere, or one that is looked for, gets RoomsClosed when the node ends."""
    answers: list[Answer] = []

    async def story(three: Three) -> None:
        b = three.nodes[1]
        three.world.homes["x"] = "a#1"
        three.engine.delay = lambda: 100.0
        answers.append(b.put("x", 1))
        await trio.sleep(1)
        three.world.delays = [100.0]
        answers.append(b.put("y", 1))
        await trio.sleep(1)

    three = await in_three(story)
    answers += [three.nodes[1].put("z", 1), three.nodes[1].put("x", 1)]
    for answer in answers:
        with pytest.raises(RoomsClosed):
            await answer.wait()


async def test_too_much_is_refused(autojump_clock: MockClock) -> None:
    """What is under way has a bound, of which nothing is left when all has arrived."""

    async def story(three: Three) -> None:
        b = three.nodes[1]
        three.world.homes["x"] = "a#1"
        large = PlainMessage(bytes(3 * 1024 * 1024))
        sent = [b.router.emit("x", large, None) for _ in range(7)]
        assert sent == [Sent(outbox=1)] * 5 + [Sent(dropped=1)] * 2
        refused = b.put("x", bytes(2 * 1024 * 1024))
        with pytest.raises(Unavailable, match="too much is under way"):
            await refused.wait()
        await trio.sleep(10)
        # More than the lane is to have at a time has waited.
        assert three.world.came["x"] == [("emit", None)] * 5
        assert await b.put("x", 1).wait() == 1
        answer = b.put("x", bytes(5 * 1024 * 1024))
        with pytest.raises(Unavailable, match="more than 4,194,304 bytes do not go to its node"):
            await answer.wait()

    await in_three(story)
