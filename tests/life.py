"""Lives of a few rooms: the rooms, the steps that may happen to them, and the driver that takes these steps.

What is seen on the way is told to `tests.life_model.Model`, which knows what must hold.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import attrs
import trio
import trio.testing
from hypothesis import strategies as st
from wsproto.events import CloseConnection
from wsproto.utilities import LocalProtocolError

from tests.life_model import IDLE, INTERVAL, Guest, Letter, Model, Seen, State
from trio_rooms import (
    Context,
    EventError,
    HandlerFailed,
    MemoryStore,
    Policy,
    Room,
    RoomFailed,
    Rooms,
    RoomsClosed,
    StaleContext,
    StaleWrite,
    StoreError,
    open_rooms,
)
from trio_rooms._values.generated import switch
from trio_rooms.stores import Commit, RoomHead, StoredRoom
from trio_rooms.testing import FaultyStore, Gate, MemoryClient

__all__ = ["live", "lives"]

# What a life is made of.

SCRIPT = (
    "flip", "put", "put", "delete", "attach", "attach", "assign", "emit", "emit red", "join red", "join red",
    "leave red", "pause", "pause", "long pause", "task", "task keeps", "task keeps", "task raises", "crash",
    "refuse", "raise", "destroy", "close", "close all", "task untidy", "task untidy", "odd", "exit",
    "keep the context",
)  # fmt: skip
"""What a message can have its handler do."""
AWAITING = {"pause", "long pause", "crash"}
"""Of these, what awaits something."""
HOOKS = (
    "on_create", "on_wake", "on_hibernate", "on_connect", "on_disconnect", "on_destroy", "on_error",
)  # fmt: skip
STOPS = ("close", "leave the block", "cancel the block", "raise in the block", "kill")
KEYS = ("noisy/a", "calm/a", "eager/a")
"""Noisy rooms have all hooks, calm ones those of their state; eager ones also wake for who leaves."""

_key = st.sampled_from((KEYS[0], KEYS[0], KEYS[0], KEYS[1], KEYS[0], KEYS[2]))
_which = st.integers(0, 2)
_script = st.lists(st.sampled_from(SCRIPT), min_size=1, max_size=3).map(tuple)
_times = st.sampled_from((1, 1, 2, 6))
_often = (
    st.tuples(st.sampled_from(("connect", "connect", "connect slow to close")), _key),
    st.tuples(st.just("send"), _which, _script),
    st.tuples(st.just("send"), _which, _script),
    st.tuples(st.sampled_from(("send", "send without id")), _which, _script),
    st.tuples(st.just("ask"), _key, _script),
    st.tuples(st.just("ask"), _key, _script),
    st.tuples(st.sampled_from(("leave", "drop", "drop")), _which),
    st.tuples(st.just("sleep"), st.sampled_from((0.05, 0.31, INTERVAL, IDLE, IDLE + 0.3, 3 * IDLE))),
    st.tuples(st.just("sleep"), st.sampled_from((0.31, 0.7, 3 * IDLE, 40.0))),
    st.tuples(st.just("ticks"), st.integers(1, 8)),
    st.tuples(st.sampled_from(("hibernate", "hibernate", "destroy")), _key),
)
_now_and_then = (
    st.tuples(st.just("cancel the last ask")),
    st.tuples(st.just("emit"), _key, st.sampled_from((None, "red"))),
    st.tuples(st.just("break"), st.sampled_from(HOOKS), _times),
    st.tuples(st.sampled_from(("destroy in", "close all in")), st.sampled_from(HOOKS), _times),
    st.tuples(st.just("destroy in"), st.sampled_from(("on_create", "on_wake", "on_wake")), _times),
    st.tuples(st.just("store takes"), st.sampled_from((0.2, 1.2, 0.0))),
    st.tuples(st.just("store takes"), st.sampled_from((0.2, 1.2))),
    st.tuples(st.sampled_from(("hold commits", "release", "hold loads"))),
    st.tuples(st.just("fail commits"), _times, st.booleans()),
    st.tuples(st.just("fail commits"), _times, st.just(True)),
    st.tuples(st.just("use a kept context"), _which),
    st.tuples(st.just("use a kept context"), _which),
    st.tuples(st.just("fail commits"), _times, st.just(False)),
    st.tuples(st.just("fail loads"), _times),
    st.tuples(st.just("hooks take"), st.sampled_from((0.3, 0.0))),
    st.tuples(st.just("stand still"), st.sampled_from((0.05, 0.7, 3.0, 4.5))),
    st.tuples(st.sampled_from(STOPS)),
)
_step = st.one_of(*_often, *_often, *_now_and_then)
# Some lists in a row, since one list would be a short one nearly always.
_steps = st.tuples(*[st.lists(_step, max_size=12)] * 5).map(
    lambda parts: [step for part in parts for step in part]
)
lives = st.tuples(st.sampled_from((None, 1, None, 2, 1)), _steps)
"""``max_awake``, and what happens."""


GONE = (trio.BrokenResourceError, trio.ClosedResourceError, LocalProtocolError)
"""What a client meets whose connection has ended."""


class OnPurpose(Exception):
    """Raised by handlers and hooks that were told to."""


# The rooms. Their handlers find whom to tell in `_process`, since they may not be closures.

_processes: list[Process] = []


def _process(ctx: Context[State]) -> Process:
    return _processes[-1]


async def _note(ctx: Context[State], what: str) -> None:
    process = _process(ctx)
    await process.pause()
    ctx.state.log.append(what)
    process.model.changed(ctx.room.key, what, {})


async def _maybe_break(ctx: Context[State], hook: str) -> None:
    """What a hook does that was told to: end the room, close its connections, raise."""
    process = _process(ctx)
    if process.takes("close all", hook):
        _close_all(ctx)
    if hook != "on_destroy" and process.takes("destroy", hook):
        process.model.destroys_itself(ctx.room.key, waking=hook in ("on_create", "on_wake"))
        ctx.room.destroy()
    if process.broken.get(hook, 0) > 0:
        process.broken[hook] -= 1
        if hook not in ("on_connect", "on_disconnect"):
            process.model.crashed(ctx.room.key)
        raise OnPurpose(hook)


def _close_all(ctx: Context[State]) -> None:
    for connection in ctx.room.connections:
        guest = _process(ctx).model.guests[connection.attachment[0]]
        guest.closed = 4001  # Also of one whose on_connect raised: on_error comes before its close.
        connection.close(4001, "on purpose")


async def _storage(ctx: Context[State]) -> dict[str, str]:
    return await ctx.room.storage.list()


async def on_create(ctx: Context[State]) -> None:
    process = _process(ctx)
    process.tell(f"{ctx.room.key} is made")
    process.model.created(ctx.room.key, ctx.state, await _storage(ctx))
    await process.pause()
    await _maybe_break(ctx, "on_create")


async def on_wake(ctx: Context[State], report: Any) -> None:
    process = _process(ctx)
    process.tell(f"{ctx.room.key} wakes: {report.cause}")
    storage = await _storage(ctx)
    process.model.woken(ctx.room.key, ctx.state, storage, report.cause, restarted=report.restarted)
    process.model._must(not report.fell_back, "no snapshot is damaged", ctx.room.key)
    await process.pause()
    await _maybe_break(ctx, "on_wake")


async def on_hibernate(ctx: Context[State]) -> None:
    process = _process(ctx)
    process.tell(f"{ctx.room.key} hibernates")
    process.model.hibernating(ctx.room.key, asked=process.hibernate_asked(ctx.room.key))
    await _note(ctx, "hibernate")
    await _maybe_break(ctx, "on_hibernate")


async def on_destroy(ctx: Context[State]) -> None:
    process = _process(ctx)
    process.tell(f"{ctx.room.key} is destroyed")
    process.model.destroying(ctx.room.key)
    await process.pause()
    await _maybe_break(ctx, "on_destroy")


async def on_connect(ctx: Context[State]) -> None:
    process = _process(ctx)
    guest = process.model.guests[ctx.connection.attachment[0]]
    process.tell(f"{ctx.room.key} greets {guest.name}")
    process.model.connected(guest)
    try:
        await _note(ctx, f"greet {guest.name}")
        await _maybe_break(ctx, "on_connect")
    except BaseException as error:
        guest.closed = guest.closed or 1011  # Also where the room crashes meanwhile.
        if isinstance(error, OnPurpose):
            process.model.rooms[guest.key].raised.append("on_connect")
        raise


async def on_disconnect(ctx: Context[State], left: Any) -> None:
    process = _process(ctx)
    guest = process.model.guests[left.attachment[0]]
    process.tell(f"{ctx.room.key} parts from {guest.name}")
    again = guest.name in process.half_parted
    process.model.disconnected(guest, left.attachment, clean=left.clean, again=again)
    process.half_parted.add(guest.name)
    await _note(ctx, f"part {guest.name}")
    try:
        await _maybe_break(ctx, "on_disconnect")
    except OnPurpose:
        process.model.rooms[guest.key].raised.append("on_disconnect")
        raise
    process.half_parted.discard(guest.name)


async def on_error(ctx: Context[State], error: Exception) -> None:
    process = _process(ctx)
    process.tell(f"{ctx.room.key} hears of {error!r}")
    if isinstance(error, OnPurpose):
        process.model.heard_error(ctx.room.key, str(error))
    await process.pause()
    await _maybe_break(ctx, "on_error")


async def _task(
    ctx: Context[State], name: str, held: bool, raises: bool, untidy: bool, destroyed: int
) -> None:
    process = _process(ctx)
    try:
        for part in range(1 if raises else 3 if held else 6):
            await trio.sleep(0.2 if raises else 1.5 if held else 0.45)
            if process.is_over(ctx):
                return  # What it changes while it is cancelled is not kept.
            ctx.state.log.append(f"{name}.{part}")
            ctx.room.storage.put(name, str(part))
            ctx.state.kept[name] = str(part)
            process.model.changed(ctx.room.key, f"{name}.{part}", {name: str(part)})
        if raises:
            process.tell(f"a task of {ctx.room.key} raises")
            process.model.crashed(ctx.room.key)
            raise OnPurpose(name)
    except trio.Cancelled:
        process.model.cut(ctx.room.key, held=held, destroyed=destroyed)
        with contextlib.suppress(StaleContext):  # There is no state after a crash, or a destruction.
            ctx.state.log.append(f"{name}.cut")
            process.model.changed(ctx.room.key, f"{name}.cut", {})
        if untidy:
            process.unwinding[ctx.room.key] = trio.current_time() + 0.3
            with trio.CancelScope(shield=True):
                await trio.sleep(0.3)
            raise OnPurpose(name) from None
        raise


async def do(ctx: Context[State], data: list[Any]) -> str:
    """The one event: write down that it came, then what its script says."""
    process = _process(ctx)
    letter = process.model.letters[data[0]]
    process.tell(f"{ctx.room.key} handles {letter.name}")
    process.model.looks(ctx.room.key, ctx.state)
    connection = ctx.connection if ctx.from_connection else None
    process.model.begins(
        letter,
        None if connection is None else list(connection.attachment),
        set() if connection is None else set(connection.channels),
        len(ctx.room.channels.get("red", ())),
    )
    how = "cut"
    try:
        if letter.script[:1] != ("flip",):
            ctx.state.log.append(letter.name)
            process.model.changed(ctx.room.key, letter.name, {})
        for number, act in enumerate(letter.script):
            await _act(ctx, process, letter, f"{letter.name}.{number}", act)
        how = "ok"
    except EventError:
        how = "refused"
        raise
    except OnPurpose:
        how = "raised"
        raise
    except RoomFailed:
        how = "too late"  # It could not start its task in a room that is cancelled at the stop.
        raise
    finally:
        process.tell(f"{letter.name} is {how}")
        process.model.ends(letter, how)
    return letter.name


def do_now(ctx: Context[State], data: list[Any]) -> str:
    """The same as a plain function, for scripts that await nothing."""
    try:
        do(ctx, data).send(None)
    except StopIteration as returned:
        return str(returned.value)
    raise AssertionError("something is awaited")


def _event(letter: Letter) -> str:
    """Which of the two gets a letter: every other one, as far as that can be."""
    return "do" if letter.number % 2 or not AWAITING.isdisjoint(letter.script) else "do now"


async def _act(ctx: Context[State], process: Process, letter: Letter, name: str, act: str) -> None:
    key, guest, model = ctx.room.key, letter.guest, process.model
    connection = ctx.connection if guest is not None else None
    match act:
        case "flip":
            ctx.state.flag = not ctx.state.flag
            model.changed(key, "flip", {})
        case "put":
            ctx.room.storage.put(name, act)
            ctx.state.kept[name] = act
            ctx.state.log.append(name)
            model.changed(key, name, {name: act})
        case "delete" if ctx.state.kept:
            oldest = next(iter(ctx.state.kept))
            ctx.room.storage.delete(oldest)
            del ctx.state.kept[oldest]
            ctx.state.log.append(name)
            model.changed(key, name, {oldest: None})
        case "pause":
            await trio.sleep(0.4)
        case "long pause":
            await trio.sleep(13)
        case "attach" if guest is not None and connection is not None:
            connection.attachment.append(name)
            guest.draft = [*(guest.draft or guest.attachment), name]
        case "assign" if guest is not None and connection is not None:
            guest.attachment, guest.draft = [guest.name, name], None
            connection.attachment = list(guest.attachment)
        case "join red" if guest is not None and connection is not None and not connection.closed:
            connection.join("red")
            guest.channels.add("red")
        case "leave red" if guest is not None and connection is not None:
            connection.leave("red")
            guest.channels.discard("red")
        case "emit" | "emit red":
            channel = "red" if act == "emit red" else None
            process.said += 1
            model.said(key, process.said, channel)
            ctx.room.emit("said", process.said, channel=channel)
        case "task" | "task keeps" | "task raises" | "task untidy" | "crash":
            held, raises = act == "task keeps", act in ("task raises", "crash")
            destroyed = process.model.rooms[ctx.room.key].destroyed
            untidy = act == "task untidy"
            ctx.room.start_soon(_task, ctx, name, held, raises, untidy, destroyed, keep_awake=held)
            if act == "crash":
                await trio.sleep(0.4)  # It happens while this is handled.
        case "refuse":
            raise EventError("refused", "on purpose")
        case "raise":
            raise OnPurpose(letter.name)
        case "destroy":
            model.destroys_itself(key)
            ctx.room.destroy()
        case "keep the context":
            process.contexts.append(ctx)
        case "odd":
            model.crashed(key)
            raise GeneratorExit
        case "exit" if not model.stopping:
            process.stops()
            process.exits = True
            raise SystemExit
        case "close all":
            _close_all(ctx)
        case "close" if guest is not None and connection is not None:
            guest.closed = guest.closed or 4000
            connection.close(4000, "on purpose")
        case _:
            pass


def definitions() -> list[Room[State]]:
    """The rooms of one process."""
    noisy = Room("noisy", state=State, idle_timeout=IDLE, snapshot_interval=INTERVAL)
    eager = Room("eager", state=State, idle_timeout=IDLE, snapshot_interval=INTERVAL, wake_on_disconnect=True)
    calm = Room("calm", state=State, idle_timeout=IDLE, snapshot_interval=INTERVAL)
    for room in (noisy, eager, calm):
        room.on("do")(do)
        room.on("do now")(do_now)
        room.on_create(on_create)
        room.on_wake(on_wake)
        room.on_destroy(on_destroy)
    for room in (noisy, eager):
        room.on_hibernate(on_hibernate)
        room.on_connect(on_connect)
        room.on_disconnect(on_disconnect)
        room.on_error(on_error)
    return [noisy, eager, calm]


# The store, which tells what it has.


class Disk(MemoryStore):
    """What survives a process."""

    model: Model

    async def commit(self, commit: Any) -> None:
        """Told before, since a commit is applied before the first checkpoint."""
        if commit.number == self._look_up(commit.key).number + 1:
            self.model.applied(commit.key, commit.document, destroy=commit.destroy)
        await super().commit(commit)


class Watched(FaultyStore):
    """The store of one process."""

    model: Model
    doubtful: list[Commit]
    """Commits that were said to have failed."""

    async def load(self, key: str, *, newest: bool = False) -> StoredRoom:
        try:
            return await super().load(key, newest=newest)
        except StoreError:
            self.model.load_failed(key)
            raise

    async def head(self, key: str) -> RoomHead:
        try:
            return await super().head(key)
        except StoreError:
            self.model.load_failed(key)
            raise

    async def commit(self, commit: Commit) -> None:
        if any(commit is one for one in self.doubtful):
            await self._ask_again(commit)
            return
        self.model.handed_over(commit.key, commit.document)
        try:
            await super().commit(commit)
        except StaleWrite:
            self.model.stale(commit.key, commit.document, destroy=commit.destroy)
            raise
        except StoreError:
            self.doubtful.append(commit)
            self.model.committed(commit.key, failed=True, destroy=commit.destroy)
            raise
        self.model.committed(commit.key, failed=False, destroy=commit.destroy)

    async def _ask_again(self, commit: Commit) -> None:
        try:
            await super().commit(commit)
        except StaleWrite:
            raise
        except StoreError:
            self.model.asked_again(commit.key, failed=True)
            raise
        self.model.asked_again(commit.key, failed=False)


# The driver.


@attrs.define(eq=False)
class Line(trio.abc.Stream):
    """A client's end of its stream, which two tasks may send on: it answers a close of its own accord."""

    stream: trio.abc.Stream
    patience: float = 0.0
    """Seconds that it takes to answer a close frame."""
    turn: trio.Lock = attrs.field(factory=trio.Lock)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, behind what is being sent."""
        async with self.turn:
            if data[:1] == b"\x88":
                await trio.sleep(self.patience)
            await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until it can be sent on."""
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive."""
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Break off."""
        await self.stream.aclose()


@attrs.define(eq=False)
class Process:
    """One life of the process, from its start to its stop or death."""

    model: Model
    disk: Disk
    history: list[str]
    numbers: Callable[[], int]
    max_awake: int | None
    store: Watched = attrs.field(init=False)
    rooms: Rooms = attrs.field(init=False)
    crowd: trio.Nursery = attrs.field(init=False)
    """The clients and the callers; they are not stopped from outside, but must all come to their end."""
    clients: dict[str, MemoryClient] = attrs.field(factory=dict)
    asking: list[tuple[Letter, trio.CancelScope]] = attrs.field(factory=list)
    unanswered: int = 0
    hibernates: dict[str, int] = attrs.field(factory=dict)
    gates: list[Gate] = attrs.field(factory=list)
    broken: dict[str, int] = attrs.field(factory=dict)
    told_to: dict[tuple[str, str], int] = attrs.field(factory=dict)
    """What else hooks are to do, and how often."""
    half_parted: set[str] = attrs.field(factory=set)
    hook_pause: float = 0.0
    contexts: list[Context[State]] = attrs.field(factory=list)
    """Those that somebody has kept, longer than he may."""
    unwinding: dict[str, float] = attrs.field(factory=dict)
    """Until when a task of a room goes on that was cancelled."""
    exits: bool = False
    """Whether a handler has ended the program: nothing begins any more."""
    said: int = 0
    standing: bool = False
    """Whether everything stands still."""

    def __attrs_post_init__(self) -> None:
        self.store = Watched(self.disk)
        self.store.model = self.disk.model = self.model
        self.store.doubtful = []

    def tell(self, what: str) -> None:
        """Write something down for whoever has to read this life."""
        self.history.append(f"{trio.current_time():8.2f}      {what}")

    async def pause(self) -> None:
        """What hooks take."""
        if self.hook_pause:
            await trio.sleep(self.hook_pause)

    def takes(self, what: str, hook: str) -> bool:
        """Whether a hook was told to do something, once less from now on."""
        left = self.told_to.get((what, hook), 0)
        self.told_to[what, hook] = left - 1
        return left > 0

    def is_over(self, ctx: Context[State]) -> bool:
        """Whether a background task is one of a room that sleeps, or of the one before it."""
        return self.stage(ctx.room.key) in ("asleep", "waking", "restarting", "failed")

    def stage(self, key: str) -> str:
        """Where a room is."""
        return self.rooms.get(*key.split("/")).info().stage.value

    def stages(self) -> dict[str, str]:
        """Where all are."""
        return {key: self.stage(key) for key in KEYS}

    def hibernate_asked(self, key: str) -> bool:
        """Whether the program has asked for this room's sleep."""
        return self.hibernates.get(key, 0) > 0

    # Clients and callers.

    async def client(self, guest: Guest, patience: float, task_status: trio.TaskStatus[None]) -> None:
        """A client from its coming to the end of its connection."""
        ours, theirs = trio.testing.memory_stream_pair()
        client = self.clients[guest.name] = MemoryClient(Line(ours, patience))

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            self.model.enters(guest)
            with contextlib.suppress(RoomsClosed):
                await self.rooms.serve_stream(theirs, *guest.key.split("/"), attachment=[guest.name])

        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.clients.pop, guest.name)
            nursery = await stack.enter_async_context(trio.open_nursery())
            await nursery.start(serve)
            task_status.started()
            async for message in client:
                self.hear(guest, message)
            code = None if client.closed is None else client.closed.code
            self.tell(f"{guest.name} is at its end: {code}")
            self.model.ended(guest, code)
            await ours.aclose()

    def hear(self, guest: Guest, message: Any) -> None:
        """A client got a message."""
        self.tell(f"{guest.name} hears {message}")
        if "event" in message:
            self.model.heard(guest, message["data"])
        elif "ack" not in message:
            guest.bare_errors += 1
        else:
            letter = self.model.letters[f"{guest.name}.{message['ack']}"]
            error = message["error"]["code"] if "error" in message else ""
            answers = {"": "ok", "internal_error": "raised", "room_failed": "failed", "refused": "refused"}
            self.model.answered(letter, answers[error])
            if not error:
                self.model._must(message["data"] == letter.name, "the answer is true", message)

    async def ask(self, letter: Letter, task_status: trio.TaskStatus[None]) -> None:
        """The program asks; by the time that `start` returns, the room has it."""
        answer = ""
        with trio.CancelScope() as scope:
            self.asking.append((letter, scope))
            self.unanswered += 1
            task_status.started()
            handle = self.rooms.get(*letter.key.split("/"))
            try:
                result = await handle.ask(_event(letter), [letter.name], timeout=math.inf)
                answer = "ok" if result == letter.name else "wrong"
            except EventError:
                answer = "refused"
            except HandlerFailed:
                answer = "raised"
            except RoomFailed:
                answer = "failed"
            except RoomsClosed:
                answer = "closed"
            finally:
                self.unanswered -= 1
        if answer:
            self.tell(f"{letter.name} is answered: {answer}")
            self.model.answered(letter, answer)
        else:
            letter.has_id = False  # Nobody waits for the answer, but it is handled all the same.

    async def hibernate(self, key: str) -> None:
        """The program wants a room to sleep."""
        self.hibernates[key] = self.hibernates.get(key, 0) + 1
        self.unanswered += 1
        with contextlib.suppress(RoomFailed, RoomsClosed):
            self.tell(f"hibernate {key}: {await self.rooms.get(*key.split('/')).hibernate()}")
        self.unanswered -= 1
        self.hibernates[key] -= 1

    async def destroy(self, key: str, task_status: trio.TaskStatus[None]) -> None:
        """The program destroys a room."""
        before = [one for one in self.model.letters.values() if one.key == key and one.guest is None]
        number = self.numbers()
        self.model.rooms[key].destroys[number] = before
        self.unanswered += 1
        task_status.started()
        try:
            await self.rooms.get(*key.split("/")).destroy()
            outcome = "done"
        except (RoomFailed, RoomsClosed, StoreError) as error:
            outcome = repr(error)
        finally:
            self.unanswered -= 1
        self.tell(f"destroy {key}: {outcome}")
        if outcome == "done":
            still = number in self.model.rooms[key].destroys
            self.model._must(not still, "who wanted a destruction is told when it is done", key)
        self.model.rooms[key].destroys.pop(number, None)
        self.model.rooms[key].destroys_perhaps.discard(number)

    async def close(self, task_status: trio.TaskStatus[None]) -> None:
        """The program closes the rooms; by the time that `start` returns, they are closing."""
        task_status.started()
        self.stops()
        await self.rooms.aclose()

    def use(self, ctx: Context[State]) -> None:
        """Change something through a context that was kept: it is kept as well, or refused."""
        key = ctx.room.key
        if self.stage(key) == "hibernating":
            return  # Nobody can tell that it has changed by now.
        name = f"kept.{self.numbers()}"
        try:
            ctx.state.log.append(name)
        except StaleContext:
            self.tell(f"{name} is too late")
        else:
            # Until its tasks have ended a context goes on.
            lives = self.stage(key) in ("awake", "waking") or trio.current_time() <= self.unwinding.get(
                key, 0
            )
            self.model._must(lives, "what sleeps cannot be changed", key)
            self.model.changed(key, name, {}, noticed=False)

    async def hang_up(self, client: MemoryClient) -> None:
        """A client closes with a handshake."""
        assert isinstance(client._stream, Line)
        client._stream.patience = 0.0
        with contextlib.suppress(*GONE):
            await client._stream.send_all(client._protocol.send(CloseConnection(1000, "")))

    def letter(self, key: str, script: tuple[str, ...], guest: Guest | None, has_id: bool) -> Letter:
        """What is sent next."""
        number = self.numbers()
        name = f"{guest.name if guest else 'ask'}.{number}"
        letter = Letter(name, key, number, script, trio.current_time(), guest, has_id)
        self.model.letters[name] = letter
        return letter

    async def begin(self, what: Callable[..., Any], *about: Any) -> None:
        """Start what happens beside the steps; a block that is cancelled just then breaks nothing off."""
        with trio.CancelScope(shield=True):
            await self.crowd.start(what, *about)

    # Steps.

    async def step(self, step: tuple[Any, ...]) -> None:
        """Take one."""
        model = self.model
        present = [one for one in model.guests.values() if one.present and one.name in self.clients]
        guest = (
            present[step[1] % len(present)] if len(step) > 1 and type(step[1]) is int and present else None
        )
        if step[0] == "send" and guest is None:
            await self.step(("connect", KEYS[0]))
            guest = next(one for one in reversed(model.guests.values()))
        match step:
            case ("connect" | "connect slow to close", key):
                guest = Guest(f"c{self.numbers()}", key, [])
                guest.attachment = [guest.name]
                model.guests[guest.name] = guest
                patience = 0.0 if step[0] == "connect" else 3.0 + 4 * (len(model.guests) % 2)
                await self.begin(self.client, guest, patience)
            case ("send" | "send without id", _, script) if guest is not None and guest.name in self.clients:
                letter = self.letter(guest.key, script, guest, step[0] == "send")
                number = letter.number if letter.has_id else None
                with contextlib.suppress(*GONE):
                    await self.clients[guest.name].emit(_event(letter), [letter.name], id=number)
            case ("ask", key, script):
                await self.begin(self.ask, self.letter(key, script, None, True))
            case ("cancel the last ask",) if self.asking:
                self.asking.pop()[1].cancel()
            case ("leave", _) if guest is not None:
                guest.left = True
                await self.hang_up(self.clients[guest.name])
            case ("drop", _) if guest is not None:
                guest.left = True
                await self.clients[guest.name].drop()
            case ("sleep", seconds):
                await trio.sleep(seconds)
            case ("ticks", count):
                for _ in range(count):
                    await trio.lowlevel.checkpoint()
            case ("hibernate", key):
                self.crowd.start_soon(self.hibernate, key)
            case ("destroy", key):
                await self.begin(self.destroy, key)
            case ("emit", key, channel):
                self.said += 1
                model.said(key, self.said, channel)
                self.rooms.get(*key.split("/")).emit("said", self.said, channel=channel)
            case ("use a kept context", which) if self.contexts:
                self.use(self.contexts[which % len(self.contexts)])
            case ("break", hook, times):
                self.broken[hook] = times
            case ("destroy in" | "close all in", hook, times):
                self.told_to[step[0].removesuffix(" in"), hook] = times
            case ("hooks take", seconds):
                self.hook_pause = seconds
            case ("store takes", seconds):
                self.store.delay = seconds
            case ("hold commits",):
                self.gates.append(self.store.hold_commits())
            case ("hold loads",):
                self.gates.append(self.store.hold_loads())
            case ("release",):
                self.release()
                self.store.delay = self.hook_pause = 0
            case ("fail commits", times, applied):
                self.store.fail_commits(lambda: StoreError("on purpose"), times, applied=applied)
                model.faults += times
            case ("fail loads", times):
                self.store.fail_loads(lambda: StoreError("on purpose"), times)
            case ("stand still", seconds) if not self.standing:
                self.standing = model.stood = True
                self.rooms._supervisor.pause()
                self.crowd.start_soon(self.go_on, seconds)
            case ("close",) if not model.stopping:
                await self.begin(self.close)
            case _:
                self.history.pop()  # Nothing that this could be done to.
                return
        if self.gates or self.store.delay or self.hook_pause or self.standing:
            model.troubled = math.inf
        elif step[0] in ("release", "store takes", "hooks take"):
            model.troubled = trio.current_time() + 3

    async def go_on(self, seconds: float) -> None:
        """Nothing stands still any more after a while: before any mail is refused for that."""
        await trio.sleep(seconds)
        self.standing = False
        self.rooms._supervisor.resume()
        if not (self.gates or self.store.delay or self.hook_pause):
            self.model.troubled = trio.current_time() + 10  # Something may have failed as well.

    def stops(self) -> None:
        """The stop begins; what is held at the store's gates is not held for ever."""
        self.model.stopping = True

        async def release() -> None:
            await trio.sleep(3)
            self.release()

        self.crowd.start_soon(release)

    def release(self) -> None:
        """Let the store go on."""
        while self.gates:
            self.gates.pop().release()

    def look(self) -> None:
        """Look at what can be seen at any time; the first rule that is broken ends the life."""
        self.model.looked()
        self.check()

    def check(self) -> None:
        """End the life where a rule is broken."""
        if self.model.broken:
            raise AssertionError(self.model.broken[0])

    async def rest(self) -> None:
        """A long silence without faults, after which all must be as if there never had been any."""
        self.release()
        self.store.delay, self.hook_pause = 0, 0
        self.broken.clear()
        self.told_to.clear()
        while self.standing:
            await trio.sleep(0.1)
        self.history.append(f"{trio.current_time():8.2f}  rest")
        for round_ in range(2):
            with trio.move_on_after(600):
                await trio.sleep(60)
                while set(self.stages().values()) != {"asleep"} or self.unanswered:
                    await trio.sleep(5)
            self.model._must(not self.unanswered, "everybody is answered", self.unanswered)
            infos = {key: self.rooms.get(*key.split("/")).info() for key in KEYS}
            self.model.rested(
                self.stages(),
                {key: info.connections for key, info in infos.items()},
                {key: set(info.channels) for key, info in infos.items()},
            )
            self.check()
            if not round_:
                for key in KEYS:
                    await self.begin(self.ask, self.letter(key, (), None, True))
        for guest in self.model.guests.values():
            if self.model.rooms[guest.key].hooks:
                self.model.told(guest)
        self.check()


async def _run(process: Process, steps: list[tuple[Any, ...]]) -> tuple[Disk, Model] | None:
    """One process, which takes from the steps what it lives to see; after a kill what is then there."""
    model, left, remains = process.model, math.inf, None
    # In turns: what was written by what is made for a class is read by the careful way, and so on.
    switch.on = not switch.on
    with trio.CancelScope() as scope, contextlib.suppress(OnPurpose, SystemExit):
        async with open_rooms(
            definitions(),
            store=process.store,
            policy=Policy(max_awake=process.max_awake, max_waking=process.max_awake or 64),
        ) as process.rooms:
            while True:
                ended = not steps or not left or process.exits
                step = ("leave the block",) if ended else steps.pop(0)
                if not steps and ended and not model.stopping:
                    await process.rest()
                process.history.append(f"{trio.current_time():8.2f}  {' '.join(map(str, step))}")
                match step:
                    case ("kill",):
                        # The process goes on to its stop, but what comes after it goes on from here.
                        remains = copy.deepcopy((process.disk, model))
                        scope.cancel()
                    case ("cancel the block",):
                        scope.cancel()
                    case ("leave the block",) | ("raise in the block",):
                        pass
                    case _:
                        await process.step(step)
                        process.look()
                        left = 3 if step == ("close",) else left - 1
                        continue
                process.stops()
                if step == ("raise in the block",):
                    raise OnPurpose
                break
    return remains


async def _live(max_awake: int | None, steps: list[tuple[Any, ...]], history: list[str]) -> None:
    model, disk = Model(trio.current_time), Disk()
    model.rooms = {
        key: Seen(key, hooks=not key.startswith("calm"), eager=key.startswith("eager")) for key in KEYS
    }
    model.may_press = max_awake is not None
    numbers = iter(range(1, 10**6))
    living = trio.lowlevel.current_statistics().tasks_living
    steps = list(steps)
    while True:
        model.epoch, model.stopping, model.troubled, model.faults = model.epoch + 1, False, -1.0, 0
        last = not any(step[0] in STOPS for step in steps)
        process = Process(model, disk, history, lambda: next(numbers), max_awake)
        _processes.append(process)
        try:
            async with trio.open_nursery() as process.crowd:
                remains = await _run(process, steps)
                with trio.move_on_after(60):
                    while process.unanswered or process.clients:
                        await trio.sleep(1)
                waiting = process.unanswered, list(process.clients)
                model._must(waiting == (0, []), "everybody is answered at the end", waiting)
                process.crowd.cancel_scope.cancel()
        finally:
            _processes.remove(process)
        await trio.testing.wait_all_tasks_blocked()
        model._must(trio.lowlevel.current_statistics().tasks_living == living, "no task outlives the runtime")
        model.process_ended(killed=False)
        process.check()
        if remains is not None:
            disk, model = remains
            model.process_ended(killed=True)
            await disk.aclose()
        elif last and not steps:
            return


def live(max_awake: int | None, steps: list[tuple[Any, ...]]) -> None:
    """Live it; raises AssertionError with all that happened where a rule is broken."""
    history: list[str] = []
    logger = logging.getLogger("trio_rooms")
    logger.disabled = True  # It has much to say about what happens here, on purpose.
    switch.on = len(steps) % 2 == 0
    try:
        trio.run(_live, max_awake, steps, history, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:
        first = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        first.add_note("\n".join(["This was the life:", *history]))
        raise first from None
    finally:
        logger.disabled = False
        switch.on = True
