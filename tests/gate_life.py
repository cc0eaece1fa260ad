"""Lives of a committed room and of clients that resume: the room, its clients, the steps, and the driver.

What is seen on the way is told to `tests.gate_model.Model`, which knows what must hold.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import struct
from collections.abc import Callable
from typing import Any, Final

import attrs
import cbor2
import trio
import trio.testing
from hypothesis import strategies as st

from tests.gate_model import IDLE, SAFE, WINDOW, Letter, Model, Place, Said, State, Visit
from trio_rooms import (
    ConnectRequest,
    Context,
    EventError,
    Fire,
    HandlerFailed,
    HandlerTimeout,
    MemoryStore,
    NotSaved,
    Refused,
    Room,
    RoomFailed,
    Rooms,
    RoomsClosed,
    StaleWrite,
    StoreError,
    StoreFull,
    open_rooms,
)
from trio_rooms._state.snapshot import Snapshot
from trio_rooms.stores import Commit, StoredSnapshot
from trio_rooms.testing import FaultyStore, Gate

__all__ = ["live", "lives"]

# What a life is made of.

ACTS = (
    "emit", "emit", "emit red", "reliable", "reliable", "reliable", "reliable red", "reliable red", "whisper",
    "join", "join", "leave", "attach", "attach", "assign", "pause", "pause", "untidy", "refuse", "raise",
    "unconfirmed", "later", "close", "put",
)  # fmt: skip
"""What a message can have its handler do."""
BAD_ACTS = (*ACTS, "crash", "hang", "close", "destroy")
MOST_UNANSWERED: Final = 8

_who = st.integers(0, 2)
_acts = st.lists(st.sampled_from(ACTS), max_size=3).map(tuple)
_bad_acts = st.lists(st.sampled_from(BAD_ACTS), min_size=1, max_size=3).map(tuple)
_amount = st.integers(1, 9)
_applied = st.booleans()
_often = (
    st.tuples(st.just("send"), _who, st.just("do"), _acts, _amount),
    st.tuples(st.just("send"), _who, st.just("do"), _acts, _amount),
    st.tuples(st.just("send"), _who, st.sampled_from(("do", "keep", "look", "list")), _acts, _amount),
    st.tuples(st.just("send"), _who, st.sampled_from(("keep", "look", "list")), st.just(()), st.just(0)),
    st.tuples(st.just("drop"), _who),
    st.tuples(st.just("come"), _who),
    st.tuples(st.just("come"), _who),
    st.tuples(st.sampled_from(("take over", "deafen", "hear", "ack")), _who),
    st.tuples(st.just("ticks"), st.integers(1, 12)),
    st.tuples(st.just("sleep"), st.sampled_from((0.06, 0.3, 1.2, IDLE + 0.3))),
    st.tuples(st.sampled_from(("hold commits", "release", "release one", "release one"))),
    st.tuples(st.just("fail commits"), st.sampled_from((1, 1, 2))),
)
_now_and_then = (
    st.tuples(st.just("send"), _who, st.just("do"), _bad_acts, _amount),
    st.tuples(st.just("send without id"), _who, st.just("do"), _acts, _amount),
    st.tuples(st.just("ask"), st.sampled_from(("do", "keep", "look")), _acts, _amount),
    st.tuples(st.just("come without session"), _who),
    st.tuples(st.just("leave"), _who),
    st.tuples(st.sampled_from(("emit", "emit durably", "emit durably"))),
    st.tuples(st.just("sleep"), st.sampled_from((IDLE + 0.3, WINDOW / 2, WINDOW + 1))),
    st.tuples(st.just("hibernate")),
    st.tuples(st.just("store takes"), st.sampled_from((0.2, 0.0))),
    st.tuples(st.just("doubt commits"), st.sampled_from((1, 1, 3)), _applied),
    st.tuples(st.just("kill"), _applied),
    st.tuples(st.just("kill"), _applied),
    st.tuples(st.sampled_from(("restart", "fence"))),
    st.tuples(st.just("destroy")),
)
_step = st.one_of(*_often, *_often, *_now_and_then)
# Some lists in a row, since one list would be a short one nearly always.
lives = st.tuples(*[st.lists(_step, max_size=12)] * 4).map(
    lambda parts: [step for part in parts for step in part]
)
"""What happens."""
Step = tuple[Any, ...]


class OnPurpose(Exception):
    """Raised by handlers that were told to."""


# The room. Its handlers find whom to tell in `_process`, since they may not be closures.

_processes: list[Process] = []


def _process() -> Process:
    return _processes[-1]


def _name(ctx: Context[State]) -> str:
    """The visit that a context is of."""
    return str(ctx.connection.attachment[0])


async def _let_in(request: ConnectRequest) -> list[str]:
    return [request.query["visit"]]


async def _create(ctx: Context[State]) -> None:
    process = _process()
    process.tell("the room is made")
    process.wakes(ctx)


async def _wake(ctx: Context[State], report: Any) -> None:
    process = _process()
    process.tell(f"the room wakes: {report.cause}")
    process.wakes(ctx)
    if report.restarted:  # Connections have gone with their process; sessions have not.
        for name in [name for name in ctx.state.here if not process.model.visits[name].session]:
            _forget(ctx.state, name)


async def _connect(ctx: Context[State]) -> None:
    process, name, state = _process(), _name(ctx), ctx.state
    process.tell(f"the room greets {name}")
    process.model.greets(state, name)
    state.applied.append(f"+{name}")
    process.says(f"+{name}")
    state.here.append(name)
    process.say(ctx, f"+{name}", 0, reliable=True)
    if name.endswith(("2", "4")):
        await trio.sleep(0.1)
    process.say(ctx, f"+{name}", 1)


async def _disconnect(ctx: Context[State], left: Any) -> None:
    process, state = _process(), ctx.state
    name = left.attachment[0]
    process.tell(f"the room parts from {name}")
    if process.heir is None:
        process.model.parts(state, name, left.attachment)
    process.says(f"-{name}")
    _forget(state, name)
    process.say(ctx, f"-{name}", 0, reliable=True)


def _forget(state: State, name: str) -> None:
    state.applied.append(f"-{name}")
    state.here.remove(name)
    state.attached.pop(name, None)
    if name in state.red:
        state.red.remove(name)


async def _drop(ctx: Context[State], left: Any) -> None:
    process, name = _process(), _name(ctx)
    process.tell(f"the room hears that {name} has dropped")
    process.model._must(name in ctx.state.here, "on_drop is of who is here", name)
    ctx.state.applied.append(f"~{name}")


async def _resume(ctx: Context[State]) -> None:
    process, name = _process(), _name(ctx)
    process.tell(f"the room hears that {name} has resumed")
    process.model._must(name in ctx.state.here, "on_resume is of who is here", name)
    ctx.state.applied.append(f"^{name}")


async def _error(ctx: Context[State], error: Exception) -> None:
    expected = isinstance(error, OnPurpose | StoreError | HandlerTimeout)
    _process().model._must(expected, "nobody raises but on purpose", repr(error))


async def _do(ctx: Context[State], data: list[Any]) -> list[Any]:
    """Change the state, then what the script says."""
    process, state = _process(), ctx.state
    letter = process.begins(ctx, data[0], state)
    state.applied.append(letter.name)
    at = len(state.applied)
    state.total += letter.amount
    if letter.visit is not None and letter.id:
        state.last[letter.visit.name] = letter.id
    process.says(letter.name)
    for number, act in enumerate(letter.acts):
        await _act(ctx, process, letter, act, number)
    process.tell(f"{letter.name} is handled")
    return [letter.name, at]


async def _act(ctx: Context[State], process: Process, letter: Letter, act: str, number: int) -> None:
    state, mine = ctx.state, ctx.connection if ctx.from_connection else None
    match act:
        case "emit" | "emit red" | "reliable" | "reliable red":
            process.say(
                ctx, letter.name, number, red=act.endswith("red"), reliable=act.startswith("reliable")
            )
        case "unconfirmed":
            early = {"n": f"{letter.name}/{number}", "early": True}
            ctx.room.emit("said", early, unconfirmed=True)
        case "whisper" if mine is not None:
            process.say(ctx, letter.name, number, to=mine, reliable=True)
        case "put":
            ctx.room.storage.put(letter.name, 1)
        case "later" if letter.name not in state.later:
            ctx.room.schedule(f"later:{letter.name}", letter.amount, after=1.0)
            state.later.append(letter.name)
        case "join" if mine is not None and not mine.closed:
            mine.join("red")
            if _name(ctx) not in state.red:
                state.red.append(_name(ctx))
        case "leave" if mine is not None and not mine.closed:
            mine.leave("red")
            if _name(ctx) in state.red:
                state.red.remove(_name(ctx))
        case "attach" if mine is not None:
            mine.attachment.append(letter.name)
            state.attached[_name(ctx)] = list(mine.attachment)
        case "assign" if mine is not None:
            mine.attachment = [_name(ctx), letter.name]
            state.attached[_name(ctx)] = list(mine.attachment)
        case "pause":
            await trio.sleep(0.4)
        case "untidy":
            try:
                await trio.sleep(0.4)
            except trio.Cancelled:
                ctx.room.storage.put(f"{letter.name}.untidy", 1)
                process.say(ctx, letter.name, number)
                process.say(ctx, letter.name, number, reliable=True)
                raise
        case "hang":
            process.memory = None
            await trio.sleep(60)
        case "refuse":
            raise EventError("refused", "on purpose")
        case "raise":
            raise OnPurpose(letter.name)
        case "crash":
            process.memory = None
            ctx.room.start_soon(_raise, letter.name)
            await trio.sleep(0.2)
        case "close" if mine is not None:
            if letter.visit is not None and not process.dead:
                letter.visit.doubtful = True
            mine.close(4000, letter.name)
        case "destroy":
            process.doubt()
            ctx.room.destroy()
        case _:
            pass


async def _later(ctx: Context[State], fire: Fire[int]) -> None:
    """What a message has scheduled; some of it fails at first."""
    process, state, name = _process(), ctx.state, fire.name.partition(":")[2]
    process.tell(f"{fire.name} is due, {fire.attempt}")
    process.model._must(name in state.later, "what is scheduled is done once", name)
    if fire.data % 3 == 0 and fire.attempt == 1:
        raise OnPurpose(fire.name)
    state.later.remove(name)
    state.applied.append(f"!{name}")
    process.says(f"!{name}")
    if fire.data % 2:
        await trio.sleep(0.1)
    process.say(ctx, f"!{name}", 0, reliable=True)


async def _raise(name: str) -> None:
    raise OnPurpose(name)


async def _keep(ctx: Context[State], data: list[Any]) -> str:
    """Change the storage only."""
    process = _process()
    letter = process.begins(ctx, data[0], None)
    ctx.room.storage.put(letter.name, 1)
    for number, act in enumerate(letter.acts):
        if act == "reliable":
            name = f"{letter.name}/{number}"
            process.model.must[name] = set()
            ctx.room.emit("said", {"n": name, "at": 0, "to": None}, reliable=True)
        elif act == "pause":
            await trio.sleep(0.4)
        elif act == "raise":
            raise OnPurpose(letter.name)
    return letter.name


async def _look(ctx: Context[State], data: list[Any]) -> list[int]:
    """Read the state."""
    process = _process()
    process.begins(ctx, data[0], None)
    return [len(ctx.state.applied), ctx.state.total]


async def _list(ctx: Context[State], data: list[Any]) -> list[str]:
    """Read the storage."""
    process = _process()
    process.begins(ctx, data[0], None)
    return [*await ctx.room.storage.list()]


def _room() -> Room[State]:
    room = Room(
        "safe",
        state=State,
        durability="commit",
        idle_timeout=IDLE,
        resume_window=WINDOW,
        handler_timeout=3.0,
    )
    room.authenticate(_let_in)
    room.on("do")(_do)
    room.on("keep")(_keep)
    room.on("look")(_look)
    room.on("list")(_list)
    room.on_schedule("later")(_later)
    room.on_create(_create)
    room.on_wake(_wake)
    room.on_connect(_connect)
    room.on_disconnect(_disconnect)
    room.on_error(_error)
    room.on_drop(_drop)
    room.on_resume(_resume)
    return room


# The store, which tells what it has.


class Disk(MemoryStore):
    """What survives a process."""

    model: Model
    codec: Any
    dead: bool = False
    """Whether another process has it now, and what comes to this copy is nobody's business."""
    fenced: bool = False
    """Whether it refuses whatever comes from here."""

    @property
    def epoch(self) -> int:
        return super().epoch - self.fenced

    def fence(self) -> None:
        """Somebody else has opened it, and who has opened it here does not know yet."""
        self._epoch += 1
        self.fenced = True

    def _apply(self, commit: Commit) -> None:
        number = self._number(commit.key)
        super()._apply(commit)
        if self.dead or self._number(commit.key) == number:
            return
        if commit.destroy:
            self.model.destroyed()
            return
        state = None
        if commit.document is not None:
            snapshot = Snapshot.of(commit.key, StoredSnapshot(commit.number, commit.document))
            state = self.codec.decode(commit.key, snapshot).state
        kept = [name for name, value in commit.writes.items() if value is not None]
        said = [Said(*self._said(entry)) for entry in commit.entries]
        self.model.committed(state, kept, said)

    def _number(self, key: str) -> int:
        return self._look_up(key).number

    def _said(self, entry: Any) -> tuple[int, str, int, tuple[str, ...] | None, float]:
        data = cbor2.loads(entry.body)["data"]
        to = data["to"]
        return entry.seq, data["n"], data["at"], None if to is None else tuple(to), entry.time

    def entries(self) -> int:
        """How many the journal has."""
        return len(self._look_up(SAFE).entries)

    def taken(self, flying: list[Commit]) -> Disk:
        """As it is now, with these commits, for the next process; this one is told no more."""
        self.dead = True
        disk = copy.deepcopy(self, {id(self._wall): self._wall})
        disk.model, disk.codec = self.model, self.codec
        for commit in flying:
            with contextlib.suppress(StaleWrite):
                disk._apply(commit)
        disk._opened = False
        return disk


class Watched(FaultyStore):
    """The store of one process."""

    flying: list[Commit]
    """Commits that were handed over, and nobody was told of."""

    async def commit(self, commit: Commit) -> None:
        self.flying.append(commit)
        try:
            await super().commit(commit)
        finally:
            self.flying.remove(commit)


# The clients.


def _frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame, with a mask that changes nothing."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return bytes((0x80 | opcode,)) + length + bytes(4) + payload


def _frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """The server's whole frames at the front of a buffer, which are taken from there."""
    found = []
    while len(buffer) >= 2:
        size, start = buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(buffer[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(buffer[2:10], "big"), 10
        if len(buffer) < start + size:
            break
        found.append((buffer[0] & 15, bytes(buffer[start : start + size])))
        del buffer[: start + size]
    return found


@attrs.define(eq=False)
class Line:
    """One connection of a client."""

    client: Client
    visit: Visit
    """The one that it resumes, or began."""
    next: Visit
    """The one that begins if it resumes none."""
    stream: trio.abc.Stream
    resumes: bool
    welcome: bool = False
    ready: bool = attrs.field(init=False, default=attrs.Factory(lambda self: not self.resumes, True))
    """Whether what is sent now stands behind all that is sent again."""
    hears: trio.Event = attrs.field(factory=trio.Event)
    cut: bool = False
    """Whether the client has let go of it: it hears nothing more here."""
    replaced: bool = False
    place: Place = (0, 0)
    """Where in what was said the last was that it heard here."""
    last: Place = (0, 0)
    """The last of it that was not kept."""
    code: int | None = None
    since: float = 0.0
    """When it was welcomed."""
    deaf_since: float | None = None
    """When it began not to read; it may have been closed since without knowing it."""
    turn: trio.Lock = attrs.field(factory=trio.Lock)

    async def write(self, frame: bytes) -> None:
        """Send a frame; nothing where the connection has ended."""
        async with self.turn:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_all(frame)


@attrs.define(eq=False)
class Client:
    """Somebody who comes, resumes, and speaks the protocol by the letter."""

    number: int
    cbor: bool
    visits: int = 0
    visit: Visit | None = None
    line: Line | None = None


# The driver.


@attrs.define(eq=False)
class Process:
    """One life of the process, from its start to its stop or death."""

    model: Model
    disk: Disk
    history: list[str]
    numbers: Callable[[], int]
    clients: list[Client]
    store: Watched = attrs.field(init=False)
    rooms: Rooms = attrs.field(init=False)
    crowd: trio.Nursery = attrs.field(init=False)
    gates: list[Gate] = attrs.field(factory=list)
    unanswered: int = 0
    dead: bool = False
    memory: State | None = None
    """The state that the room works on."""
    life: int = 0
    """Of which of the room's lives it is."""
    heir: Disk | None = None
    """What another process has taken from this one, which does not know it yet."""

    def __attrs_post_init__(self) -> None:
        self.store = Watched(self.disk)
        self.store.flying = []

    def tell(self, what: str) -> None:
        """Write something down for whoever has to read this life."""
        self.history.append(f"{trio.current_time():8.2f}      {'(dead) ' if self.dead else ''}{what}")

    # What handlers tell.

    def wakes(self, ctx: Context[State]) -> None:
        """The room has its state."""
        if self.dead:
            return
        self.memory, self.life = ctx.state, self.model.durable.life
        attached, red = {}, set()
        for connection in ctx.room.connections:
            attachment = list(connection.attachment)
            attached[attachment[0]] = attachment
            if "red" in connection.channels:
                red.add(attachment[0])
        self.model.wakes(ctx.state, attached, red)

    def begins(self, ctx: Context[State], name: str, state: State | None) -> Letter:
        """A handler begins."""
        letter = self.model.letters[name]
        if not self.dead:
            self.tell(f"{name} begins: {' '.join((letter.event, *letter.acts))}")
            mine = ctx.connection if ctx.from_connection and state is not None else None
            attachment = None if mine is None else list(mine.attachment)
            red = mine is not None and "red" in mine.channels
            self.model.handles(letter, state, attachment, red=red)
        return letter

    def says(self, name: str) -> None:
        """A handler or hook begins to say what it has to; what it said before in vain does not count."""
        if not self.dead:
            self.model.plain[name] = []

    def say(
        self,
        ctx: Context[State],
        name: str,
        number: int,
        *,
        red: bool = False,
        reliable: bool = False,
        to: Any = None,
    ) -> None:
        """Say something to all, to a channel or to one, and who must hear it."""
        state = ctx.state
        whom = tuple(state.red if red else state.here) if to is None else (to.attachment[0],)
        body = {"n": f"{name}/{number}", "at": len(state.applied), "to": whom}
        if not reliable and not self.dead:
            self.model.plain[name].append((number, whom))
        if to is not None:
            to.emit("said", body, reliable=reliable)
        else:
            ctx.room.emit("said", body, channel="red" if red else None, reliable=reliable)

    # Clients.

    def line_of(self, which: int) -> Line | None:
        """The open connection of a client."""
        line = self.clients[which].line
        return None if line is None or line.cut or line.code is not None else line

    async def come(self, client: Client, *, session: bool = True) -> None:
        """A client connects, to resume if it has something to resume."""
        client.visits += 1
        number = client.number
        new = Visit(f"c{number}.{client.visits}", session)
        self.model.visits[new.name] = new
        old = client.visit if client.visit is not None and client.visit.resumable and session else None
        query = {"visit": new.name}
        if old is not None:
            query |= {"resume": old.token, "seq": str(old.seq)}
        kind = "cbor" if client.cbor else "json"
        headers = {"sec-websocket-protocol": f"trio-rooms.v1.{kind}"} if session else {}
        room, id_ = SAFE.split("/")
        request = ConnectRequest(room, id_, f"/{SAFE}", query, headers, "memory:0")
        ours, theirs = trio.testing.memory_stream_pair()
        if client.line is not None and client.line.code is None and not client.line.cut:
            client.line.replaced = True
        line = client.line = Line(client, old or new, new, ours, old is not None)
        line.hears.set()
        if old is None:
            client.visit = new
            if not session:
                line.welcome = True
        self.crowd.start_soon(self._serve, theirs, request)
        self.crowd.start_soon(self._listen, line)

    async def _serve(self, theirs: trio.abc.Stream, request: ConnectRequest) -> None:
        with contextlib.suppress(RoomsClosed, Refused, StoreError):
            await self.rooms.serve_stream(theirs, request.room, request.id, request=request)

    async def _listen(self, line: Line) -> None:
        """Hear what comes on a connection until it ends."""
        buffer = bytearray()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await line.hears.wait()
                data = await line.stream.receive_some(65536)
                await line.hears.wait()
                if line.cut or not data:
                    break
                buffer += data
                for opcode, payload in _frames(buffer):
                    if not line.cut:
                        await self._frame(line, opcode, payload)
        if not line.cut:
            self._is_lost(line)
            await line.stream.aclose()

    async def _frame(self, line: Line, opcode: int, payload: bytes) -> None:
        if opcode in (1, 2):
            message = json.loads(payload) if opcode == 1 else cbor2.loads(payload)
            self.tell(f"{line.visit.name} hears {message}{' (replaced)' if line.replaced else ''}")
            if not line.replaced:
                await self._hear(line, message)
        elif opcode == 8:
            line.code = int.from_bytes(payload[:2], "big") if payload else 1005
            reason = payload[2:].decode()
            self.tell(f"{line.visit.name} is closed: {line.code} {reason}")
            if line.code == 4000:
                self.model.closed_by(reason)
            if line.code in (1000, 4000) and not line.replaced:
                line.visit.over = line.visit.over or f"closed {line.code}"
            await line.write(_frame(8, payload))

    async def _hear(self, line: Line, message: dict[str, Any]) -> None:
        model, visit, data = self.model, line.visit, message.get("data")
        event = message.get("event")
        if event == "rooms.welcome" and data is not None:
            model._must(not line.welcome, "a welcome comes first, and once", visit.name)
            line.welcome = True
            await self._welcome(line, data)
            return
        model._must(line.welcome, "a welcome comes first, and once", visit.name, message)
        if event is None:
            verdict = message["error"]["code"] if "error" in message else "ok"
            if "ack" not in message:
                return
            model.answered(visit, message["ack"], verdict, data)
        elif data is not None and not data.get("early"):
            number = int(data["n"].partition("/")[2] or 0)
            place = (data["at"], number)
            if visit.session and message.get("seq") is not None:
                model.heard(visit, message["seq"], data)
            elif data["at"]:
                plain = message.get("seq") is None
                # Beside what is replayed, what is not kept comes as soon as there is room for it.
                before = line.last if line.resumes else line.place
                model.heard_plain(visit, data, before, line.last if plain else (0, 0))
                if plain:
                    line.last = place
            if data["at"]:
                line.place = place

    async def _welcome(self, line: Line, data: dict[str, Any]) -> None:
        model, line.since = self.model, trio.current_time()
        if data["resumed"]:
            model.resumed(line.visit, data)
            line.visit.lost_before, line.visit.lost_at = line.visit.lost_at, None
            sent, unanswered = 0, line.visit.unanswered
            while later := [number for number in unanswered if number > sent]:
                sent = min(later)
                await self.transmit(line, unanswered[sent])
            line.ready = True
            return
        if line.resumes:
            model.reset(line.visit, data["reason"])
            line.visit = line.client.visit = line.next
            line.ready = True
        model.welcomed(line.visit, data)

    def _is_lost(self, line: Line) -> None:
        """A connection has ended."""
        line.cut = True
        if line.next is not line.visit:
            line.next.over = "lost"
        if line.client.line is line:
            closed = line.code is not None and line.deaf_since is not None
            if line.welcome or line.visit.lost_at is None:  # Else it had not come back.
                line.visit.lost_at = line.deaf_since if closed else trio.current_time()
                fresh = trio.current_time() < line.since + 2 or self.gates or self.heir is not None
                if line.visit.lost_before is not None and fresh:
                    line.visit.lost_at = line.visit.lost_before  # That it had come back may not be written.
            line.visit.deaf = False
            if not line.visit.resumable:
                line.visit.over = line.visit.over or "lost"

    async def drop(self, line: Line) -> None:
        """A client's connection breaks; what it has not read is lost."""
        self._is_lost(line)
        line.hears.set()
        await line.stream.aclose()

    async def transmit(self, line: Line, letter: Letter) -> None:
        """Send a message, or send it again."""
        await self.write(line, {"event": letter.event, "data": letter.wire, "id": letter.id or None})

    async def write(self, line: Line, message: dict[str, Any]) -> None:
        """Send an envelope."""
        message = {name: value for name, value in message.items() if value is not None}
        kind, payload = (2, cbor2.dumps(message)) if line.client.cbor else (1, json.dumps(message).encode())
        await line.write(_frame(kind, payload))

    async def send(self, line: Line, event: str, acts: tuple[str, ...], amount: int, *, has_id: bool) -> None:
        """A client sends something new."""
        visit = line.visit
        if len(visit.unanswered) >= MOST_UNANSWERED:
            return
        if has_id:
            visit.asked += 1
            name, number = f"{visit.name}-{visit.asked}", visit.asked
        else:
            name, number = f"{visit.name}:{self.numbers()}", 0
        letter = Letter(name, event, acts, amount if event == "do" else 0, visit, number)
        self.model.letters[name] = letter
        if has_id:
            visit.unanswered[number] = letter
        if line.ready:
            await self.transmit(line, letter)

    # The program.

    async def ask(self, letter: Letter) -> None:
        """The program asks."""
        self.unanswered += 1
        verdict, data = "closed", None
        try:
            data = await self.rooms.get(*SAFE.split("/")).ask(letter.event, letter.wire, timeout=1000)
            verdict = "ok"
        except EventError:
            verdict = "refused"
        except HandlerFailed as error:
            verdict = "handler_timeout" if isinstance(error.__cause__, HandlerTimeout) else "internal_error"
        except NotSaved:
            verdict = "not_saved"
        except RoomFailed:
            verdict = "closed"
        except RoomsClosed:
            verdict = "closed"
        self.unanswered -= 1
        if not self.dead:
            self.tell(f"{letter.name} is answered: {verdict} {data}")
            self.model.asked(letter, verdict, data)

    async def emit(self, name: str) -> None:
        """The program says something reliably, and waits until it is durable."""
        self.unanswered += 1
        try:
            await self.rooms.get(*SAFE.split("/")).emit_durably("said", {"n": name, "at": 0, "to": None})
            outcome = "durable"
        except NotSaved:
            outcome = "refused"
        except (RoomsClosed, RoomFailed, StoreError):
            outcome = "lost"
        self.unanswered -= 1
        if not self.dead:
            self.tell(f"{name} is {outcome}")
            self.model.emitted(name, outcome)

    async def do(self, what: str) -> None:
        """The program wants the room to sleep, or to end."""
        self.unanswered += 1
        room = self.rooms.get(*SAFE.split("/"))
        with contextlib.suppress(RoomFailed, RoomsClosed, NotSaved, StoreError):
            self.tell(f"{what}: {await (room.hibernate() if what == 'hibernate' else room.destroy())}")
        self.unanswered -= 1

    # Steps.

    async def step(self, step: Step) -> None:
        """Take one."""
        which = step[1] if len(step) > 1 and type(step[1]) is int and step[1] < len(self.clients) else 0
        client, line, model = self.clients[which], self.line_of(which), self.model
        match step:
            case ("send" | "send without id", _, event, acts, amount):
                if line is None:
                    await self.come(client)
                    line = self.line_of(which)
                assert line is not None
                await self.send(line, event, acts, amount, has_id=step[0] == "send")
            case ("come", _) if line is None:
                await self.come(client)
            case ("come without session", _) if line is None and (
                client.visit is None or not client.visit.resumable
            ):
                await self.come(client, session=False)
            case ("take over", _) if line is not None and line.visit.resumable:
                await self.come(client)
            case ("drop", _) if line is not None:
                await self.drop(line)
            case ("leave", _) if line is not None:
                line.visit.over = "left"
                await line.write(_frame(8, b"\x03\xe8"))
                await self.drop(line)
            case ("deafen", _) if line is not None and line.hears.is_set():
                line.hears = trio.Event()
                line.deaf_since = trio.current_time()
                line.visit.deaf = True
            case ("hear", _) if line is not None:
                line.hears.set()
                line.visit.deaf = False
            case ("ack", _) if line is not None and line.welcome:
                await self.ack(line)
            case ("ask", event, acts, amount):
                letter = Letter(f"a{self.numbers()}", event, acts, amount if event == "do" else 0)
                self.model.letters[letter.name] = letter
                self.crowd.start_soon(self.ask, letter)
            case ("emit",):
                name = f"o{self.numbers()}"
                self.model.emits(name)
                self.rooms.get(*SAFE.split("/")).emit("said", {"n": name, "at": 0, "to": None}, reliable=True)
            case ("emit durably",):
                name = f"o{self.numbers()}"
                self.model.emits(name)
                self.crowd.start_soon(self.emit, name)
            case ("hibernate" | "destroy" as what,):
                if what == "destroy":
                    self.doubt()
                self.crowd.start_soon(self.do, what)
            case ("sleep", seconds):
                await trio.sleep(seconds)
            case ("ticks", count):
                for _ in range(count):
                    await trio.lowlevel.checkpoint()
            case ("store takes", seconds):
                self.store.delay = seconds
            case ("hold commits",):
                self.gates.append(self.store.hold_commits())
            case ("fence",) if self.heir is None:
                # Another process has the store now; this one has not heard of it.
                self.heir = self.disk.taken([])
                self.disk.fence()
                self.memory = None
                model.doubt_outside()
            case ("release",):
                self.release()
            case ("release one",) if self.gates:
                with contextlib.suppress(RuntimeError):
                    self.gates[0].release_one()
            case ("fail commits", times):
                self.store.fail_commits(lambda: StoreFull("on purpose"), times)
            case ("doubt commits", times, applied):
                self.store.fail_commits(lambda: StoreError("on purpose"), times, applied=applied)
            case _:
                self.history.pop()  # Nothing that this could be done to.

    async def ack(self, line: Line) -> None:
        """A client acknowledges all that it has."""
        visit = line.visit
        below = min(visit.unanswered, default=visit.asked + 1) - 1
        await self.write(line, {"ack": visit.seq, "id": below or None})

    def die(self) -> None:
        """Whatever is done here from now on never was."""
        self.dead = True
        self.model = Model(self.model.clock, visits=self.model.visits)
        for client in self.clients:
            if client.line is not None and not client.line.cut:
                self._is_lost(client.line)
                client.line.hears.set()
                self.crowd.start_soon(client.line.stream.aclose)

    def doubt(self) -> None:
        """The room is to be destroyed: what is not durable yet, and every session, may be lost."""
        if self.dead:
            return
        self.model.doubt_outside()
        for visit in self.model.visits.values():
            visit.doubtful = True

    def release(self) -> None:
        """Let the store go on."""
        while self.gates:
            self.gates.pop().release()

    def look(self) -> None:
        """Look at what can be seen at any time; the first rule that is broken ends the life."""
        stage = self.rooms.get(*SAFE.split("/")).info().stage.value
        if (
            stage == "asleep"
            and self.memory is not None
            and self.heir is None
            and self.life == self.model.durable.life
        ):
            self.model.sleeps(self.memory)
            self.memory = None
        self.check()

    def check(self, model: Model | None = None) -> None:
        """End the life where a rule is broken."""
        for broken in (model or self.model).broken:
            raise AssertionError(broken)

    async def rest(self) -> None:
        """A long silence without faults, after which all must be as if there never had been any."""
        self.release()
        self.store.delay = 0
        self.store._commit_faults.clear()
        self.history.append(f"{trio.current_time():8.2f}  rest")
        for client in self.clients:
            if client.line is not None and not client.line.cut:
                client.line.hears.set()
        for pause in (*[5.0] * 8, 2 * WINDOW, 2.0, 2.0):
            for which, client in enumerate(self.clients):
                line = self.line_of(which)
                if line is not None and line.welcome and line.ready and line.visit.session:
                    await self.ack(line)
                    if line.visit.waits:
                        line.visit.waits = False
                        for _, letter in sorted(line.visit.unanswered.items()):
                            await self.transmit(line, letter)
                elif client.visit is not None and client.visit.resumable and line is None:
                    await self.come(client)
            await trio.sleep(pause)
            self.check()
            if pause != 5:  # So that it has heard of all who are gone, and lets go of what all have.
                letter = Letter(f"a{self.numbers()}", "do", (), 1)
                self.model.letters[letter.name] = letter
                await self.ask(letter)
        with trio.move_on_after(600):
            while self.stage != "asleep" or self.unanswered:
                await trio.sleep(5)
        self.model._must(self.stage == "asleep", "a quiet room falls asleep", self.stage)
        self.model._must(not self.unanswered, "everybody is answered", self.unanswered)
        present = {
            line.visit.name: line.welcome
            for which in range(len(self.clients))
            if (line := self.line_of(which)) is not None
        }
        self.model.rested(present, self.disk.entries())
        self.check()

    @property
    def stage(self) -> str:
        """Where the room is."""
        return self.rooms.get(*SAFE.split("/")).info().stage.value


async def _run(process: Process, steps: list[Step]) -> Disk:
    """One process, which takes from the steps what it lives to see; what is then on the disk."""
    disk, model = process.disk, process.model
    with trio.CancelScope() as scope:
        async with open_rooms(
            [_room()], store=process.store, stop_timeout=1.0, close_timeout=1.0
        ) as process.rooms:
            while steps:
                step = steps.pop(0)
                process.history.append(f"{trio.current_time():8.2f}  {' '.join(map(str, step))}")
                if step[0] == "kill" or (step[0] == "restart" and process.heir is not None):
                    # The process goes on to its stop, but what comes after it goes on from here.
                    disk = process.heir or disk.taken(process.store.flying if step[-1] is True else [])
                    process.die()
                    model.doubt_outside()
                    scope.cancel()
                if step[0] in ("kill", "restart"):
                    process.release()
                    break
                await process.step(step)
                process.look()
                if not steps and process.heir is not None:
                    steps.append(("kill", False))
            else:
                await process.rest()
            process.memory = None
    model.doubt_outside()
    return disk


async def _live(steps: list[Step], history: list[str]) -> None:
    model = Model(trio.current_time)
    disk = Disk()
    disk.model = model
    disk.codec = _room().seal().codec
    numbers = iter(range(1, 10**6))
    clients = [Client(1, cbor=False), Client(2, cbor=True), Client(3, cbor=False)]
    living = trio.lowlevel.current_statistics().tasks_living
    steps = list(steps)
    while True:
        process = Process(model, disk, history, lambda: next(numbers), clients)
        _processes.append(process)
        last = not any(step[0] in ("kill", "restart") for step in steps)
        try:
            async with trio.open_nursery() as process.crowd:
                disk = await _run(process, steps)
                with trio.move_on_after(60):
                    while process.unanswered:
                        await trio.sleep(1)
                model._must(not process.unanswered, "everybody is answered at the end", process.unanswered)
                for client in clients:
                    if client.line is not None and not client.line.cut:
                        client.line.hears.set()
                await trio.sleep(1)
                process.crowd.cancel_scope.cancel()
            for client in clients:
                if client.line is not None and not client.line.cut:
                    await process.drop(client.line)
        finally:
            _processes.remove(process)
        await trio.testing.wait_all_tasks_blocked()
        model._must(trio.lowlevel.current_statistics().tasks_living == living, "no task outlives the runtime")
        process.check(model)
        if last and not steps:
            return
        if disk is not process.disk:
            await process.disk.aclose()


def live(steps: list[Step]) -> None:
    """Live it; raises AssertionError with all that happened where a rule is broken."""
    history: list[str] = []
    logger = logging.getLogger("trio_rooms")
    logger.disabled = True  # It has much to say about what happens here, on purpose.
    try:
        trio.run(_live, steps, history, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:
        first = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        first.add_note("\n".join(["This was the life:", *history]))
        raise first from None
    finally:
        logger.disabled = False
