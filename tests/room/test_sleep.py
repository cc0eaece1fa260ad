"""When a room falls asleep, and what is counted: idle, few messages, and nothing in progress."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.room.gates import full
from trio_rooms import Context, MemoryStore, Policy, Room, RoomHandle, Rooms, Stage, open_rooms
from trio_rooms._room.answers import Answer
from trio_rooms._room.mail import Ask
from trio_rooms.testing import FaultyStore

IDLE = 10.0
WINDOW = 30.0
OVER = 12.0
"""When what is in progress ends."""


@attrs.define(eq=False)
class Bed:
    """What a room finds as ``ctx.app``, which notes when it sleeps and is busy until it is told."""

    store: FaultyStore = attrs.field(factory=lambda: FaultyStore(MemoryStore()))
    slept: list[float] = attrs.field(factory=list)
    """When it fell asleep, from the beginning on."""
    go: trio.Event = attrs.field(factory=trio.Event)
    began: float = attrs.field(factory=trio.current_time)
    rooms: Rooms = attrs.field(init=False)
    room: RoomHandle = attrs.field(init=False)

    @property
    def blocked(self) -> dict[str, int]:
        """What kept it from sleeping, and how often."""
        return dict(self.rooms._hub.metrics.blocked)

    @property
    def sleeps(self) -> dict[str, int]:
        """Why it slept, and how often."""
        return {trigger: count for trigger, count in self.rooms._hub.metrics.sleeps.items() if count}

    async def until(self, when: float) -> None:
        """Let the time pass, from its beginning on."""
        await trio.sleep_until(self.began + when)
        await wait_all_tasks_blocked()


async def _say(_ctx: Context[None]) -> None:
    """Nothing; it is a message."""


async def _handler(ctx: Context[None]) -> None:
    await ctx.app.go.wait()


async def _task(ctx: Context[None]) -> None:
    ctx.room.start_soon(ctx.app.go.wait, name="poll", keep_awake=True)


async def _keep_awake(ctx: Context[None]) -> None:
    ctx.room.start_soon(_upload, ctx)


async def _upload(ctx: Context[None]) -> None:
    with ctx.room.keep_awake("upload"):
        await ctx.app.go.wait()


async def _change(ctx: Context[dict[str, int]]) -> None:
    ctx.state["count"] = ctx.state.get("count", 0) + 1


async def _restless(ctx: Context[dict[str, int]]) -> None:
    ctx.room.start_soon(_go_on_changing, ctx)


async def _go_on_changing(ctx: Context[dict[str, int]]) -> None:
    while not ctx.app.go.is_set():
        ctx.state["count"] = ctx.state.get("count", 0) + 1
        await trio.sleep(0.1)


async def _on_hibernate(ctx: Context[None]) -> None:
    ctx.app.slept.append(trio.current_time() - ctx.app.began)


@contextlib.asynccontextmanager
async def bed(policy: Policy, **options: Any) -> AsyncIterator[Bed]:
    """One room; nothing has come for it."""
    made: Room[None] = Room("bed", policy=policy, **options)
    handlers: dict[str, Any] = {
        "say": _say, "handler": _handler, "task": _task, "keep_awake": _keep_awake,
        "change": _change, "restless": _restless,
    }  # fmt: skip
    for event, handler in handlers.items():
        made.on(event)(handler)
    made.on_hibernate(_on_hibernate)
    one = Bed()
    async with open_rooms([made], store=one.store, app=one) as one.rooms:
        one.room = one.rooms.get("bed", "x")
        yield one


@pytest.mark.parametrize("busy", ["", "handler", "task", "keep_awake", "commit", "gate"])
@pytest.mark.parametrize("low", [True, False])
@pytest.mark.parametrize("idle", [True, False])
async def test_a_room_sleeps_when_all_three_are_so(
    idle: bool, low: bool, busy: str, autojump_clock: MockClock
) -> None:
    """Not before, and as soon as the last of them is; what kept it awake is counted."""
    policy = Policy(idle_timeout=IDLE, message_threshold=4, activity_window=WINDOW)
    options: dict[str, Any] = {"durability": "commit"} if busy == "gate" else {"snapshot_interval": 1}
    if busy in ("commit", "gate"):
        options["state"] = dict  # Else there is nothing to commit.
    async with bed(policy, **options) as one, trio.open_nursery() as nursery:
        gate = one.store.hold_commits() if busy in ("commit", "gate") else None
        for _ in range(1 if low else 50):
            nursery.start_soon(one.room.ask, "say")
        await wait_all_tasks_blocked()
        if busy and gate is None:
            nursery.start_soon(one.room.ask, busy)
        if not idle:
            await one.until(8)
            nursery.start_soon(one.room.ask, "say")
        await one.until(11)
        asleep = idle and low and not busy
        assert one.room.info().stage is (Stage.ASLEEP if asleep else Stage.AWAKE)
        obstacle = "commit" if busy == "gate" else busy or ("" if low else "activity")
        # What came at 8 s waits behind a handler, so that this has kept it awake since the beginning.
        looked = (idle and not asleep) or busy == "handler"
        assert one.blocked == ({obstacle: one.blocked.get(obstacle, 1)} if looked else {})
        await one.until(OVER)
        one.go.set()
        if gate is not None:
            gate.release()
        ended = OVER if busy in ("handler", "task", "keep_awake") else 0.0
        quiet = max(ended, 0.0 if idle else 8.0)
        due = max(quiet + IDLE, OVER if gate is not None else 0.0)
        await one.until(100)
        assert one.slept == pytest.approx([due if low else quiet + WINDOW])
        assert one.sleeps == {"idle" if low else "low_activity": 1}


async def test_it_is_counted_what_kept_a_room_awake_that_was_to_sleep(autojump_clock: MockClock) -> None:
    """By whoever wanted it: a sweep, the program, or the room itself; once each time."""
    async with bed(Policy(idle_timeout=IDLE), state=dict) as one, trio.open_nursery() as nursery:
        await one.room.ask("say")
        actor = one.rooms._supervisor._actors["bed/x"]
        actor.idleness.sleep_now("cap")
        nursery.start_soon(one.room.ask, "say")  # It finds the room about to sleep.
        await wait_all_tasks_blocked()
        assert one.blocked == {"mail": 1}
        actor.mailbox.post(Ask("say", None, Answer()))
        actor.idleness.sleep_now("cap")
        await wait_all_tasks_blocked()
        assert one.blocked == {"mail": 2}
        await one.room.ask("keep_awake")
        await wait_all_tasks_blocked()
        assert not await one.room.hibernate()
        assert one.blocked == {"mail": 2, "keep_awake": 1}
        one.go.set()
        await wait_all_tasks_blocked()
        one.store.fail_commits(full(), times=1)
        await one.room.ask("change")
        assert not await one.room.hibernate()
        assert one.blocked == {"mail": 2, "keep_awake": 1, "save_failed": 1}
        await one.room.destroy()
        assert one.sleeps == {}


async def test_a_room_that_changes_as_it_sleeps_is_kept_awake_by_its_task(autojump_clock: MockClock) -> None:
    """By one that changes it during each commit."""
    async with bed(Policy(idle_timeout=IDLE), state=dict, snapshot_interval=100) as one:
        one.store.delay = 1
        await one.room.ask("restless")
        await one.until(30)
        assert one.room.info().stage is not Stage.ASLEEP
        assert one.blocked["task"] > 0
        one.go.set()
        await one.until(60)
        assert one.sleeps == {"idle": 1}


async def test_low_activity_is_the_trigger_only_where_it_came_last(autojump_clock: MockClock) -> None:
    """Not where a message came since, after which the room was idle last."""
    async with bed(Policy(idle_timeout=IDLE, activity_window=10.5)) as one:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one.room.ask, "say")
        await one.until(10.2)
        assert one.blocked == {"activity": 1}
        await one.room.ask("say")
        await one.until(30)
        assert one.slept == pytest.approx([20.2])
        assert one.sleeps == {"idle": 1}


async def test_each_sleep_is_counted_by_what_it_came_from(autojump_clock: MockClock) -> None:
    """A room that is destroyed does not sleep, and one that woke for an alarm alone sleeps by itself."""
    async with bed(Policy(idle_timeout=IDLE)) as one:
        for trigger in ("ratio", "cap", "memory", "lag"):
            await one.room.ask("say")
            one.rooms._supervisor._actors["bed/x"].idleness.sleep_now(trigger)
            await wait_all_tasks_blocked()
            assert one.room.info().stage is Stage.ASLEEP
        await one.room.ask("say")
        await one.room.destroy()
        assert one.sleeps == {"ratio": 1, "cap": 1, "memory": 1, "lag": 1}
        assert one.rooms._hub.metrics.flaps == 4  # The wake before the last one, and those before it.
        await one.room.ask("say")
        await trio.sleep(0)
        metrics = one.rooms._hub.metrics
    assert metrics.sleeps["shutdown"] == 1
