"""When a room falls asleep, and what is counted: idle, few messages, and nothing in progress."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import Context, MemoryStore, Policy, Room, RoomHandle, Rooms, Stage, open_rooms
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


async def _on_hibernate(ctx: Context[None]) -> None:
    ctx.app.slept.append(trio.current_time() - ctx.app.began)


@contextlib.asynccontextmanager
async def bed(policy: Policy, **options: Any) -> AsyncIterator[Bed]:
    """One room; nothing has come for it."""
    made: Room[None] = Room("bed", policy=policy, **options)
    for event, handler in {
        "say": _say, "handler": _handler, "task": _task, "keep_awake": _keep_awake,
    }.items():  # fmt: skip
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
