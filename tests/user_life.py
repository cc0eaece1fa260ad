"""Lives of users: their clients, those who send to them, the rooms, the store, the process, and the driver.

What is seen on the way is told to `tests.user_model.Model`, which knows what must hold.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final

import attrs
import cbor2
import trio
import trio.testing
from hypothesis import strategies as st

from tests.user_model import WINDOW, Letter, Model, Visit
from trio_rooms import (
    Admitted,
    ConnectRequest,
    Context,
    EventError,
    HandlerFailed,
    MemoryStore,
    NotSaved,
    Policy,
    Refused,
    Room,
    RoomFailed,
    Rooms,
    RoomsClosed,
    Sent,
    StaleWrite,
    StoreError,
    StoreFull,
    open_rooms,
)
from trio_rooms._loop.wall import WallClock
from trio_rooms.stores import Commit, InboxSize, Post
from trio_rooms.testing import FaultyStore, Gate, MemoryClient, connect

__all__ = ["Step", "live", "lives"]

BOUND: Final = 6
"""How many messages an inbox holds here."""
OPEN, SAFE = "open/a", "safe/a"
WALL: Final = WallClock()
GUESTS: Final = (
    ("ana", OPEN, "trio-rooms.v1.json"),
    ("ana", SAFE, "trio-rooms.v1.cbor"),
    ("ben", OPEN, "trio-rooms.v1.json"),
    ("ben", SAFE, ""),
)
"""Who may come: the user, the room, and the subprotocol, empty for no session."""
PEOPLE: Final = ("ana", "ana", "ben", "cid")

# What a life is made of.

_who = st.integers(0, len(GUESTS) - 1)
_caller = st.integers(0, 1)
_user = st.sampled_from(PEOPLE)
_priority = st.sampled_from(("high", "normal", "normal", "low", "low"))
_ttl = st.sampled_from((86_400.0, 86_400.0, 86_400.0, 15.0, 0.5))
_volatile = st.sampled_from((False, False, False, False, True))
_filter = st.sampled_from(("", "", "", OPEN, SAFE))
_key = st.sampled_from((OPEN, SAFE))
_of_store = st.sampled_from(("commits", "posts", "posts"))
_often = (
    st.tuples(st.just("send"), _caller, _user, _priority, _ttl, _volatile, _filter),
    st.tuples(st.just("send"), _caller, _user, _priority, _ttl, _volatile, _filter),
    st.tuples(st.just("send"), _caller, _user, _priority, _ttl, _volatile, _filter),
    st.tuples(st.just("tell"), _key, _user, _priority, _ttl, _volatile, st.booleans()),
    st.tuples(st.just("come"), _who),
    st.tuples(st.just("come"), _who),
    st.tuples(st.just("drop"), _who),
    st.tuples(st.sampled_from(("ack", "ack", "speak", "deafen", "hear")), _who),
    st.tuples(st.just("sleep"), st.sampled_from((0.06, 0.3, 1.2, 3.5, 6.0))),
    st.tuples(st.just("ticks"), st.integers(1, 12)),
    st.tuples(st.sampled_from(("hold commits", "hold posts", "release", "release", "release one"))),
)
_now_and_then = (
    st.tuples(st.just("leave"), _who),
    st.tuples(st.just("sleep"), st.sampled_from((WINDOW / 2, WINDOW + 2))),
    st.tuples(st.just("hibernate"), _key),
    st.tuples(st.sampled_from(("hold settles", "hold reads"))),
    st.tuples(st.just("refuse"), _of_store, st.sampled_from((1, 1, 2))),
    st.tuples(st.just("doubt"), _of_store, st.sampled_from((1, 1, 3)), st.booleans()),
    st.tuples(st.just("doubt"), _of_store, st.sampled_from((1, 1, 3)), st.booleans()),
    st.tuples(st.just("kill"), st.booleans()),
    st.tuples(st.just("kill"), st.booleans()),
    st.tuples(st.just("restart")),
    st.tuples(st.just("destroy"), _key),
    st.tuples(st.just("flood"), _user, _priority),
)
_step = st.one_of(*_often, *_often, *_now_and_then)
# Some lists in a row, since one list would be a short one nearly always.
lives = st.tuples(*[st.lists(_step, max_size=12)] * 4).map(
    lambda parts: [step for part in parts for step in part]
)
"""What happens."""
Step = tuple[Any, ...]


# The rooms. Their handlers find whom to tell in `_process`, since they may not be closures.

_processes: list[Process] = []


def _process() -> Process:
    return _processes[-1]


async def _let_in(request: ConnectRequest) -> Admitted:
    return Admitted(user=request.query["user"])


async def _hello(_: Context[Any]) -> None:
    """Be spoken to."""


async def _tell(ctx: Context[Any], data: list[Any]) -> str:
    """Send to a user, from inside."""
    process = _process()
    user, priority, ttl, volatile, here = data
    key = ctx.room.key
    letter = process.letter(key, user, key if here else "", priority, ttl, volatile=volatile)
    if letter.number % 2 and key == SAFE:
        ctx.state["count"] = ctx.state.get("count", 0) + 1
    handle = ctx.room.user(user) if here else ctx.rooms.user(user)
    if key == OPEN:
        await process.send(letter, handle)
    else:
        letter.sent = await handle.send(
            "news", {"n": letter.name}, priority=priority, ttl=ttl, volatile=volatile
        )
        process.model.must(letter.sent == Sent(outbox=1), "it waits at the gate", letter.name, letter.sent)
    return letter.name


def _rooms() -> list[Room[Any]]:
    policy = Policy(idle_timeout=2.0, connection_idle_timeout=3.0, message_threshold=2, activity_window=4.0)
    shared: dict[str, Any] = {"policy": policy, "resume_window": WINDOW, "flush_after": 5.0}
    made: list[Room[Any]] = [
        Room("open", wakes=True, **shared),
        Room("safe", state=dict, durability="commit", **shared),
    ]
    for room in made:
        room.authenticate(_let_in)
        room.on("hello")(_hello)
        room.on("tell")(_tell)
    return made


# The store, which tells what it has.


class Disk(MemoryStore):
    """What survives a process."""

    model: Model
    dead: bool = False
    """Whether another process has it now, and what comes to this copy is nobody's business."""

    def _apply(self, commit: Commit) -> None:
        number = self._look_up(commit.key).number
        super()._apply(commit)
        if not self.dead and self._look_up(commit.key).number != number:
            self._tell(commit.sends)

    async def post(self, posts: Sequence[Post]) -> dict[str, InboxSize]:
        """Tell of what comes into inboxes."""
        if not self.dead:
            self._tell(posts)
        return await super().post(posts)

    async def settle(self, user: str, ids: Collection[int]) -> None:
        """Tell of what is removed."""
        if not self.dead:
            self.model.settled(user, ids)
        await super().settle(user, ids)

    def _tell(self, posts: Sequence[Post]) -> None:
        self.model.posted((post.user, post.id, cbor2.loads(post.body)["data"]["n"]) for post in posts)

    def taken(self, flying: list[Commit | Sequence[Post]]) -> Disk:
        """As it is now, with what was under way, for the next process; this one is told no more."""
        self.dead = True
        disk = copy.deepcopy(self, {id(self._wall): self._wall})
        disk.model = self.model
        for one in flying:
            if isinstance(one, Commit):
                with contextlib.suppress(StaleWrite):
                    disk._apply(one)
            else:
                disk._tell(one)
                disk._kept.inboxes.post(one)
        disk._opened = False
        return disk


class Watched(FaultyStore):
    """The store of one process."""

    flying: list[Commit | Sequence[Post]]
    """What was handed over, and nobody was told of."""

    async def commit(self, commit: Commit) -> None:
        self.flying.append(commit)
        try:
            await super().commit(commit)
        finally:
            self.flying.remove(commit)

    async def post(self, posts: Sequence[Post]) -> dict[str, InboxSize]:
        self.flying.append(posts)
        try:
            return await super().post(posts)
        finally:
            self.flying.remove(posts)


# The clients.


@attrs.define(eq=False)
class Line:
    """One connection of a client."""

    guest: Guest
    visit: Visit
    client: MemoryClient
    hears: trio.Event = attrs.field(factory=trio.Event)
    cut: bool = False
    seq: int = 0
    """The highest that it had when it was cut."""
    leaves: trio.CancelScope = attrs.field(factory=trio.CancelScope)


@attrs.define(eq=False)
class Guest:
    """Somebody who comes, resumes, hears and acknowledges."""

    number: int
    user: str
    key: str
    subprotocol: str
    visits: int = 0
    visit: Visit | None = None
    before: MemoryClient | None = None
    """What the session that it may resume was last seen with."""
    line: Line | None = None
    coming: bool = False


# The driver.


@attrs.define(eq=False)
class Process:
    """One life of the process, from its start to its stop or death."""

    model: Model
    disk: Disk
    history: list[str]
    numbers: Callable[[], int]
    guests: list[Guest]
    store: Watched = attrs.field(init=False)
    rooms: Rooms = attrs.field(init=False)
    crowd: trio.Nursery = attrs.field(init=False)
    callers: list[trio.MemorySendChannel[tuple[Any, ...]]] = attrs.field(factory=list)
    gates: list[Gate] = attrs.field(factory=list)
    unanswered: int = 0
    dead: bool = False

    def __attrs_post_init__(self) -> None:
        self.store = Watched(self.disk)
        self.store.flying = []

    def tell(self, what: str) -> None:
        """Write something down for whoever has to read this life."""
        self.history.append(f"{trio.current_time():8.2f}      {'(dead) ' if self.dead else ''}{what}")

    # Senders.

    def letter(
        self, sender: str, user: str, key: str, priority: str, ttl: float, *, volatile: bool
    ) -> Letter:
        """What is sent next."""
        letter = Letter(sender, self.numbers(), user, key, priority, ttl, volatile)
        letter.sent_at, letter.expires = trio.current_time(), WALL.now() + ttl
        self.model.letters[letter.name] = letter
        return letter

    async def send(self, letter: Letter, handle: Any) -> None:
        """Send to a user, and note what becomes of it."""
        outcome, sent = "", None
        self.tell(f"{letter.name} is sent to {letter.user}")
        try:
            sent = await handle.send(
                "news",
                {"n": letter.name},
                priority=letter.priority,
                ttl=letter.ttl,
                volatile=letter.volatile,
            )
            outcome = "sent"
        except (StoreFull, NotSaved):
            outcome = "refused"
        except (RoomsClosed, StoreError) as error:
            self.model.must(isinstance(error, RoomsClosed), "a send's outcome is definite", repr(error))
        if not self.dead:
            self.tell(f"{letter.name} is answered: {outcome} {sent}")
            self.model.answered(letter, outcome, sent)

    async def call(self, number: int, jobs: trio.MemoryReceiveChannel[tuple[Any, ...]]) -> None:
        """Somebody who sends, and waits each time for what becomes of it."""
        async for user, priority, ttl, volatile, key in jobs:
            if not self.dead:
                handle = self.rooms.get(*key.split("/")).user(user) if key else self.rooms.user(user)
                await self.send(
                    self.letter(f"p{number}", user, key, priority, ttl, volatile=volatile), handle
                )
            self.unanswered -= 1

    async def ask(self, key: str, what: list[Any]) -> None:
        """Have a room send."""
        verdict, name = "", None
        with contextlib.suppress(EventError, HandlerFailed, RoomFailed, RoomsClosed):
            try:
                name = await self.rooms.get(*key.split("/")).ask("tell", what, timeout=1000)
                verdict = "sent"
            except NotSaved:
                self.tell(f"{key} could not save")
        self.unanswered -= 1
        if key == SAFE and name is not None and not self.dead:
            letter = self.model.letters[name]
            self.tell(f"{letter.name} is answered: {verdict}")
            self.model.answered(letter, verdict, letter.sent)

    async def do(self, what: str, key: str) -> None:
        """The program wants a room to sleep, or to end."""
        room = self.rooms.get(*key.split("/"))
        with contextlib.suppress(RoomFailed, RoomsClosed, NotSaved, StoreError):
            self.tell(f"{what}: {await (room.hibernate() if what == 'hibernate' else room.destroy())}")
        self.unanswered -= 1

    # Clients.

    async def come(self, guest: Guest) -> None:
        """A client connects, to resume if it has something to resume."""
        guest.visits += 1
        visit = Visit(
            f"{guest.user}{guest.number}.{guest.visits}",
            guest.user,
            guest.key,
            bool(guest.subprotocol),
            trio.current_time(),
        )
        self.model.visits.append(visit)
        old = guest.before if guest.visit is not None and not guest.visit.over else None
        line: Line | None = None
        if old is not None:
            assert guest.visit is not None
            self.model.acknowledges(guest.visit, old.seq)  # Whoever resumes says what it has.
        try:
            async with connect(
                self.rooms,
                guest.key,
                query={"user": guest.user},
                subprotocols=[guest.subprotocol] if guest.subprotocol else [],
                resume=old,
            ) as client:
                line = guest.line = Line(guest, visit, client)
                guest.coming = False
                line.hears.set()
                if not guest.subprotocol:
                    guest.visit = visit
                with line.leaves:
                    while True:
                        await line.hears.wait()
                        self.hears(line, await client.receive())
        except (trio.EndOfChannel, RoomsClosed, Refused, StoreError, RoomFailed) as error:
            closed = None if line is None else line.client.closed
            self.tell(f"{visit.name} is closed: {error!r} {closed}")
            if closed is not None and closed.code == 1000 and line is not None and not line.cut:
                line.visit.over = True
        finally:
            guest.coming = False
            if line is not None:
                self.lost(line)
            if visit.away_since is None and visit is not guest.visit:
                visit.away_since = trio.current_time()

    def hears(self, line: Line, message: dict[str, Any]) -> None:
        """A client hears something."""
        if line.cut:
            line.client.seq = line.seq  # What comes now never came.
            return
        guest, client = line.guest, line.client
        event, data = message.get("event"), message.get("data")
        self.tell(f"{line.visit.name} hears {message}")
        if event == "rooms.welcome":
            assert data is not None
            if data["resumed"]:
                assert guest.visit is not None
                line.visit.over, line.visit.away_since = True, trio.current_time()
                line.visit = guest.visit
                line.visit.away_since = None
            else:
                if guest.visit is not None:
                    guest.visit.over = True
                guest.visit = line.visit
            guest.before = client
        elif event == "news":
            assert data is not None
            self.model.heard(line.visit, data["n"], message.get("seq"))

    def lost(self, line: Line) -> None:
        """A connection has ended."""
        if line.cut:
            return
        line.cut, line.seq = True, line.client.seq
        now = trio.current_time()
        line.visit.cut_at = now
        line.visit.away_since = now
        if line.guest.line is line:
            line.guest.line = None

    async def drop(self, line: Line) -> None:
        """A client's connection breaks; what it has not read is lost."""
        self.lost(line)
        await line.client.drop()
        line.hears.set()

    async def ack(self, line: Line) -> None:
        """A client acknowledges all that it has."""
        if line.client.welcome is not None:
            self.model.acknowledges(line.visit, line.client.seq)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await line.client.acknowledge()

    # Steps.

    async def step(self, step: Step) -> None:
        """Take one."""
        which = step[1] if len(step) > 1 and type(step[1]) is int else 0
        guest = self.guests[which if which < len(self.guests) else 0]
        line = guest.line
        match step:
            case ("send", caller, *what):
                self.give(caller, *what)
            case ("flood", user, priority):
                for _ in range(BOUND // 2):
                    self.give(0, user, priority, 86_400.0, False, "")
            case ("tell", key, user, priority, ttl, volatile, here):
                self.unanswered += 1
                self.crowd.start_soon(self.ask, key, [user, priority, ttl, volatile, here])
            case ("come", _) if line is None and not guest.coming:
                guest.coming = True
                self.crowd.start_soon(self.come, guest)
            case ("drop", _) if line is not None:
                await self.drop(line)
            case ("leave", _) if line is not None:
                line.visit.over = True
                self.lost(line)
                line.hears.set()
                line.leaves.cancel()
            case ("deafen", _) if line is not None and line.hears.is_set():
                line.hears = trio.Event()
            case ("hear", _) if line is not None:
                line.hears.set()
            case ("ack", _) if line is not None:
                await self.ack(line)
            case ("speak", _) if line is not None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await line.client.emit("hello")
            case ("hibernate" | "destroy" as what, key):
                if what == "destroy":
                    self.model.destroyed.add(key)
                    for visit in self.model.visits:
                        visit.over |= visit.key == key
                self.unanswered += 1
                self.crowd.start_soon(self.do, what, key)
            case ("sleep", seconds):
                await trio.sleep(seconds)
            case ("ticks", count):
                for _ in range(count):
                    await trio.lowlevel.checkpoint()
            case ("hold commits",):
                self.gates.append(self.store.hold_commits())
            case ("hold posts",):
                self.gates.append(self.store.hold_posts())
            case ("hold reads",):
                self.gates.append(self.store.hold_reads())
            case ("hold settles",):
                self.gates.append(self.store.hold_settles())
            case ("release",):
                self.release()
            case ("release one",) if self.gates:
                with contextlib.suppress(RuntimeError):
                    self.gates[0].release_one()
            case ("refuse", "commits", times):
                self.store.fail_commits(lambda: StoreFull("on purpose"), times)
            case ("refuse", _, times):
                self.store.fail_posts(lambda: StoreFull("on purpose"), times)
            case ("doubt", "commits", times, applied):
                self.store.fail_commits(lambda: StoreError("on purpose"), times, applied=applied)
            case ("doubt", _, times, applied):
                self.store.fail_posts(lambda: StoreError("on purpose"), times, applied=applied)
            case _:
                self.history.pop()  # Nothing that this could be done to.

    def give(self, caller: int, *what: Any) -> None:
        """Have a caller send something when it has sent what it was given before."""
        self.unanswered += 1
        self.callers[caller].send_nowait(what)

    def die(self) -> None:
        """Whatever is done here from now on never was."""
        self.dead = True
        self.model = attrs.evolve(self.model, rows={}, broken=[])
        for guest in self.guests:
            if guest.line is not None:
                self.lost(guest.line)
                guest.coming = False

    def release(self) -> None:
        """Let the store go on."""
        while self.gates:
            self.gates.pop().release()

    def check(self, model: Model | None = None) -> None:
        """End the life where a rule is broken."""
        for broken in (model or self.model).broken:
            raise AssertionError(broken)

    async def rest(self) -> None:
        """A long silence without faults, after which all must be as if there never had been any."""
        self.release()
        self.store._commit_faults.clear()
        self.store._post_faults.clear()
        self.history.append(f"{trio.current_time():8.2f}  rest")
        for pause in (*[5.0] * 4, WINDOW + 2, 5.0, WINDOW + 2, *[5.0] * 4):
            for guest in self.guests:
                if guest.line is not None:
                    guest.line.hears.set()
                    await self.ack(guest.line)
                elif not guest.coming:
                    guest.coming = True
                    self.crowd.start_soon(self.come, guest)
            await trio.sleep(pause)
            self.check()
        self.model.must(not self.unanswered, "everybody is answered", self.unanswered)
        here = {guest.user: guest.line is not None for guest in self.guests}
        self.model.must(all(here.values()), "everybody is here", here)
        users = sorted({*PEOPLE})
        stored = {user: [one.post.id for one in await self.disk.inbox(user)] for user in users}
        # Of those for whom nobody is here, who has no guest, nothing is removed before its time.
        self.model.rested(stored, self.rooms.statistics().users.dropped)
        self.check()


async def _run(process: Process, steps: list[Step]) -> Disk:
    """One process, which takes from the steps what it lives to see; what is then on the disk."""
    disk = process.disk
    with trio.CancelScope() as scope:
        async with open_rooms(
            _rooms(), store=process.store, stop_timeout=1.0, close_timeout=1.0
        ) as process.rooms:
            process.rooms._supervisor.users.office.inboxes._most = BOUND
            for number in range(2):
                jobs, taken = trio.open_memory_channel[tuple[Any, ...]](1000)
                process.callers.append(jobs)
                process.crowd.start_soon(process.call, number, taken)
            while steps:
                step = steps.pop(0)
                process.history.append(f"{trio.current_time():8.2f}  {' '.join(map(str, step))}")
                if step[0] == "kill":
                    # The process goes on to its stop, but what comes after it goes on from here.
                    process.model.died = trio.current_time()
                    disk = process.disk.taken(process.store.flying if step[1] else [])
                    process.die()
                    scope.cancel()
                if step[0] in ("kill", "restart"):
                    process.release()
                    break
                await process.step(step)
                process.check()
            else:
                await process.rest()
    return disk


async def _live(steps: list[Step], history: list[str]) -> None:
    model = Model(trio.current_time, WALL.now, BOUND)
    disk = Disk()
    disk.model = model
    numbers = iter(range(1, 10**6))
    guests = [Guest(number, *who) for number, who in enumerate(GUESTS)]
    living = trio.lowlevel.current_statistics().tasks_living
    steps = list(steps)
    while True:
        model.bumped = 0
        process = Process(model, disk, history, partial(next, numbers), guests)
        _processes.append(process)
        last = not any(step[0] in ("kill", "restart") for step in steps)
        try:
            async with trio.open_nursery() as process.crowd:
                disk = await _run(process, steps)
                for jobs in process.callers:
                    jobs.close()
                with trio.move_on_after(60):
                    while process.unanswered:
                        await trio.sleep(1)
                model.must(not process.unanswered, "everybody is answered at the end", process.unanswered)
                for guest in guests:
                    if guest.line is not None:
                        guest.line.hears.set()
                await trio.sleep(1)
                process.crowd.cancel_scope.cancel()
        finally:
            _processes.remove(process)
        await trio.testing.wait_all_tasks_blocked()
        model.must(trio.lowlevel.current_statistics().tasks_living == living, "no task outlives the runtime")
        process.check(model)
        if last and not steps:
            return
        if disk is not process.disk:
            await process.disk.aclose()


class Errors(logging.Handler):
    """Notes what went wrong inside, of all that is logged: much is, on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note what has a traceback."""
        if record.exc_info:
            self.found.append(self.format(record))


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
    assert not errors.found, "\n".join([*errors.found, "This was the life:", *history])
