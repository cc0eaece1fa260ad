"""Lives of users whose clients, and those who send to them, are at several nodes; with faults of the engine.

What is seen on the way is told to `tests.user_model.Model`, which knows what must hold, of several nodes as
of one.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import trio
import trio.testing
from hypothesis import strategies as st

from tests.user_life import Errors
from tests.user_model import WINDOW, Letter, Model, Visit
from tests.users.dens import JSON, den
from trio_rooms import Rooms, StoreError, open_rooms
from trio_rooms._loop.wall import WallClock
from trio_rooms.engines import MemoryEngine
from trio_rooms.errors import EngineLost, RoomsError
from trio_rooms.testing import MemoryClient, connect

__all__ = ["Step", "live", "lives"]

NODES: Final = "abc"
LEASE: Final = 6.0
WALL: Final = WallClock()
GUESTS: Final = (
    ("ana", "den/a"),
    ("ana", "hall/b"),
    ("ana", "den/c"),
    ("ben", "den/b"),
    ("ben", "hall/b"),
)
"""Who may come: the user and the room, which is at home at the node of its id."""

Step = tuple[Any, ...]
_node = st.integers(0, 2)
_who = st.integers(0, len(GUESTS) - 1)
_user = st.sampled_from(("ana", "ana", "ben", "cid"))
_step = st.one_of(
    st.tuples(st.just("send"), _node, _user, st.sampled_from((False, False, False, True))),
    st.tuples(st.just("send"), _node, _user, st.just(False)),
    st.tuples(st.just("tell"), _node, _user),
    st.tuples(st.just("come"), _who),
    st.tuples(st.just("come"), _who),
    st.tuples(st.sampled_from(("drop", "ack", "ack")), _who),
    st.tuples(st.just("sleep"), st.sampled_from((0.0, 0.01, 0.1, 0.7, 3.0))),
    st.tuples(st.just("leave"), _who),
    st.tuples(st.just("sleep"), st.just(WINDOW + 8)),
    st.tuples(st.just("slow"), st.sampled_from((0.0, 0.02, 0.2, 0.6))),
    st.tuples(st.just("lose"), st.integers(0, 3)),
    st.tuples(st.sampled_from(("cut", "mend")), _node),
    st.tuples(st.sampled_from(("down", "up"))),
    st.tuples(st.sampled_from(("strand", "kill")), _node),
)
# Some lists in a row, since one list would be a short one nearly always.
lives = st.tuples(*[st.lists(_step, max_size=10)] * 4).map(
    lambda parts: [step for part in parts for step in part]
)
"""What happens."""


@attrs.define(eq=False)
class Guest:
    """Somebody who may come."""

    user: str
    key: str
    client: MemoryClient | None = None
    last: MemoryClient | None = None
    """What it may go on with."""
    visit: Visit | None = None
    scope: trio.CancelScope | None = None


@attrs.define(eq=False)
class Life:
    """Three nodes, and all who are there."""

    model: Model
    engines: list[MemoryEngine]
    nodes: list[Rooms]
    nursery: trio.Nursery
    history: list[str]
    guests: list[Guest] = attrs.field(factory=lambda: [Guest(*one) for one in GUESTS])
    sending: dict[str, trio.Lock] = attrs.field(factory=dict)
    sent: dict[str, int] = attrs.field(factory=dict)
    under_way: tuple[set[trio.CancelScope], ...] = attrs.field(factory=lambda: (set(), set(), set()))
    """What programs and handlers do now, by node."""
    zombies: list[MemoryEngine] = attrs.field(factory=list)
    """Of nodes that were killed: they are cut off, and go on without anybody noticing."""
    faulty: bool = False
    """Whether something has kept nodes from hearing of each other in time."""

    def letter(self, sender: str, user: str, *, volatile: bool) -> Letter:
        number = self.sent[sender] = self.sent.get(sender, 0) + 1
        letter = Letter(sender, number, user, "", "normal", 86_400.0, volatile)
        letter.sent_at, letter.expires, letter.posted = trio.current_time(), WALL.now() + 86_400, not volatile
        self.model.letters[letter.name] = letter
        return letter

    async def step(self, step: Step) -> None:
        """Take one step."""
        self.history.append(f"{trio.current_time():.3f} {step}")
        what, *given = step
        await getattr(self, f"do_{what}")(*given)

    async def do_send(self, node: int, user: str, volatile: bool) -> None:
        self.nursery.start_soon(self._send, node, user, volatile)

    async def _send(self, node: int, user: str, volatile: bool) -> None:
        sender = f"program {node}"
        with self._at(node):
            async with self.sending.setdefault(sender, trio.Lock()):
                letter = self.letter(sender, user, volatile=volatile)
                try:
                    sent = await self.nodes[node].user(user).send("news", letter.name, volatile=volatile)
                except StoreError as error:
                    self.history.append(f"{trio.current_time():.3f} {letter.name} is lost: {error}")
                    return
                self.history.append(f"{trio.current_time():.3f} {letter.name}: {sent}")
                if sent.stored and (
                    sent.reached or volatile
                ):  # A node has not said so, and it may come there.
                    sent = attrs.evolve(sent, stored=0, active=max(sent.active, 1))
                self.model.answered(letter, "sent", sent)

    @contextlib.contextmanager
    def _at(self, node: int) -> Iterator[None]:
        """Do something at a node, until that is killed."""
        with trio.CancelScope() as scope:
            self.under_way[node].add(scope)
            if self.engines[node] in self.zombies:
                scope.cancel()
            yield
        self.under_way[node].discard(scope)

    async def do_tell(self, node: int, user: str) -> None:
        """Send as a handler whose effects wait for its commit would."""
        key = f"hall/{NODES[node]}"
        rooms = self.nodes[node]
        if not await self._at_home(key):
            return

        async def tell() -> None:
            with self._at(node), contextlib.suppress(RoomsError):
                async with self.sending.setdefault(key, trio.Lock()):
                    letter = self.letter(key, user, volatile=False)
                    data = {"to": user, "text": letter.name}
                    with trio.move_on_after(20):
                        await rooms.get(*key.split("/")).ask("tell", data)

        self.nursery.start_soon(tell)

    async def _at_home(self, key: str) -> bool:
        rooms = self.nodes[NODES.index(key[-1])]
        assert rooms._cluster is not None
        with contextlib.suppress(Exception):
            with trio.move_on_after(3):
                return await rooms._cluster.ownership.take(key)
        return False

    async def do_come(self, who: int) -> None:
        guest = self.guests[who]
        if guest.client is None and await self._at_home(guest.key):
            with trio.move_on_after(5):
                await self.nursery.start(self._be_there, guest)

    async def _be_there(
        self, guest: Guest, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        rooms = self.nodes[NODES.index(guest.key[-1])]
        with contextlib.suppress(StoreError):
            options: dict[str, Any] = {"query": {"user": guest.user}, "subprotocols": [JSON]}
            async with connect(rooms, guest.key, resume=guest.last, **options) as client:
                welcome = (await client.receive())["data"]
                if not (welcome.get("resumed") and guest.visit is not None):
                    if guest.visit is not None:
                        guest.visit.over = True
                    name = f"{guest.user}@{guest.key}.{len(self.model.visits)}"
                    # What is sent in the same moment may reach it, too.
                    guest.visit = Visit(name, guest.user, guest.key, True, trio.current_time() - 0.001)
                    self.model.visits.append(guest.visit)
                guest.visit.away_since = None
                self.history.append(f"{trio.current_time():.3f} {guest.visit.name} is there: {welcome}")
                guest.client = guest.last = client
                task_status.started()
                try:
                    with trio.CancelScope() as guest.scope:
                        async for message in client:
                            if message.get("event") in ("news", "told"):
                                self.history.append(f"{trio.current_time():.3f} {guest.visit.name} {message}")
                                self.model.heard(guest.visit, message["data"], message.get("seq"))
                    if guest.visit.over:
                        with trio.move_on_after(5):
                            await client.hang_up()
                finally:
                    guest.client = None
                    guest.visit.away_since = guest.visit.cut_at = trio.current_time()

    async def do_drop(self, who: int) -> None:
        client = self.guests[who].client
        if client is not None:
            await client.drop()
            await trio.testing.wait_all_tasks_blocked()

    async def do_leave(self, who: int) -> None:
        guest = self.guests[who]
        if guest.client is not None and guest.visit is not None:
            assert guest.scope is not None
            guest.visit.over, guest.last = True, None
            guest.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()

    async def do_ack(self, who: int) -> None:
        guest = self.guests[who]
        if guest.client is not None and guest.visit is not None:
            self.model.acknowledges(guest.visit, guest.client.seq)
            await guest.client.acknowledge()

    async def do_sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def do_slow(self, seconds: float) -> None:
        self.faulty |= seconds > 0.1
        chance = random.Random(1)
        for engine in self.engines:
            engine.delay = (lambda: chance.random() * seconds) if seconds else None

    async def do_lose(self, share: int) -> None:
        self.faulty |= share > 0
        chance = random.Random(2)
        for engine in self.engines:
            engine.lose = (lambda _: chance.random() * 10 < share) if share else None

    async def do_cut(self, node: int) -> None:
        self.faulty = True
        self.engines[node].cut()
        self.nursery.start_soon(self._later, self.engines[node], LEASE - 2)

    async def do_strand(self, node: int) -> None:
        """Others take it for dead meanwhile."""
        self.faulty = True
        self.engines[node].cut()
        self.nursery.start_soon(self._later, self.engines[node], LEASE + 3)

    async def do_kill(self, node: int) -> None:
        """The node is gone, and is there again with nothing that it knew."""
        self.faulty = True
        old, name = self.engines[node], NODES[node]
        old.cut()
        self.zombies.append(old)
        self.model.died = trio.current_time()
        for scope in self.under_way[node]:
            scope.cancel()
        for guest in self.guests:
            if guest.key[-1] == name and guest.client is not None:
                await guest.client.drop()
        await trio.testing.wait_all_tasks_blocked()
        self.engines[node] = new = old.another()
        new.delay, new.lose = old.delay, old.lose
        with trio.move_on_after(60):
            while True:
                with contextlib.suppress(EngineLost):
                    self.nodes[node] = await self.nursery.start(_open, new, name)
                    return
                await trio.sleep(1)

    async def do_mend(self, node: int) -> None:
        self.engines[node].mend()

    async def do_down(self) -> None:
        self.faulty = True
        self.engines[0].down()
        self.nursery.start_soon(self._up_later)

    async def do_up(self) -> None:
        self.engines[0].up()

    async def _later(self, engine: MemoryEngine, seconds: float) -> None:
        await trio.sleep(seconds)
        if engine not in self.zombies:
            engine.mend()

    async def _up_later(self) -> None:
        await trio.sleep(LEASE - 2)
        self.engines[0].up()

    async def end(self) -> None:
        """All is well again, and all who ever come are there, and acknowledge everything."""
        await self.do_slow(0)
        await self.do_lose(0)
        await self.do_up()
        for engine in self.engines:
            engine.mend()
        await trio.sleep(WINDOW + 15)
        for user in ("ana", "ben"):
            who = next(i for i, guest in enumerate(self.guests) if guest.user == user)
            with trio.move_on_after(60):
                while self.guests[who].client is None:
                    await self.do_come(who)
                    await trio.sleep(1)
        for _ in range(4):
            await trio.sleep(12)
            for who in range(len(self.guests)):
                await self.do_ack(who)
        await trio.sleep(5)
        self.model.must(not any(self.under_way), "everybody is answered", self.under_way)
        for user in ("ana", "ben"):
            left = [row.post.body for row in await self.nodes[0]._store.inbox(user)]
            self.model.must(not left, "nothing waits for who is here and has acknowledged all", user, left)
        for letter in self.model.letters.values():
            if letter.outcome == "sent" and not letter.volatile and letter.user != "cid":
                self.model.must(letter.heard, "nothing is lost", letter.name, letter.sent)
            if letter.sent is not None and not self.faulty and letter.user != "cid":
                enough = len(letter.heard) >= letter.sent.reached or self.model._cut_since(letter)
                self.model.must(enough, "as many get it as was told", letter.name, letter.sent)


async def _open(
    engine: MemoryEngine, name: str, task_status: trio.TaskStatus[Rooms] = trio.TASK_STATUS_IGNORED
) -> None:
    """Be a node, until cancelled."""
    definitions = [den(resume_window=WINDOW), den("hall", durability="commit", resume_window=WINDOW)]
    async with open_rooms(definitions, engine=engine, node=name, lease=LEASE) as rooms:
        task_status.started(rooms)
        await trio.sleep_forever()


async def _live(steps: Sequence[Step], history: list[str]) -> None:
    model = Model(trio.current_time, WALL.now, 1000)
    engine = MemoryEngine()
    engines = [engine, engine.another(), engine.another()]
    async with trio.open_nursery() as nursery:
        nodes = [await nursery.start(_open, own, name) for own, name in zip(engines, NODES, strict=True)]
        await trio.sleep(1)
        life = Life(model, engines, nodes, nursery, history)
        for step in steps:
            await life.step(step)
        await life.end()
        for own in life.zombies:
            own.mend()
        nursery.cancel_scope.cancel()
    assert not model.broken, "\n".join(model.broken)


def live(steps: list[Step]) -> None:
    """Live it; raises AssertionError with all that happened where a rule is broken."""
    history: list[str] = []
    logger, errors = logging.getLogger("trio_rooms"), Errors()
    logger.addHandler(errors)
    logger.propagate = False
    try:
        trio.run(_live, steps, history, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:
        first = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        first.add_note("\n".join(["This was the life:", *history]))
        raise first from None
    finally:
        logger.propagate = True
        logger.removeHandler(errors)
    found = [one for one in errors.found if not any(known in one for known in _KNOWN)]
    assert not found, "\n".join([*found, "This was the life:", *history])


_KNOWN = ("cannot be read", "could not be written", "is not known")
"""What is logged while the engine is away."""
