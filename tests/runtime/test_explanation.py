"""What is said of why a room is awake: all that keeps it so, for how long, and what will let it sleep."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    MemoryStore,
    Policy,
    Room,
    RoomHandle,
    Rooms,
    Stage,
    StaleContext,
    StoreError,
    WhyAwake,
    open_rooms,
)
from trio_rooms.testing import FaultyStore

SOON = Policy(idle_timeout=20, message_threshold=3, activity_window=60)


@attrs.define
class Count:
    """A state that changes."""

    said: int = 0


@attrs.define(eq=False)
class Scene:
    """What a room finds as ``ctx.app``."""

    store: FaultyStore = attrs.field(factory=lambda: FaultyStore(MemoryStore()))
    go: trio.Event = attrs.field(factory=trio.Event)
    told: list[WhyAwake] = attrs.field(factory=list)
    contexts: list[Context[Count]] = attrs.field(factory=list)
    began: float = attrs.field(factory=trio.current_time)
    rooms: Rooms = attrs.field(init=False)
    room: RoomHandle = attrs.field(init=False)

    async def until(self, when: float) -> None:
        """Let the time pass, from the beginning on."""
        await trio.sleep_until(self.began + when)
        await wait_all_tasks_blocked()

    def why(self) -> list[tuple[str, float, str]]:
        """What keeps it awake."""
        why = self.room.why_awake()
        assert why.key == "den/x"
        assert why.stage is self.room.info().stage
        return [(one.reason, round(one.for_seconds, 1), one.until) for one in why.reasons]


async def _say(ctx: Context[Count]) -> None:
    ctx.state.said += 1
    ctx.app.contexts.append(ctx)


async def _wait(ctx: Context[Count]) -> None:
    await ctx.app.go.wait()


async def _ask_why(ctx: Context[Count]) -> None:
    ctx.app.told.append(ctx.room.why_awake())


async def _hold(ctx: Context[Count]) -> None:
    ctx.room.start_soon(ctx.app.go.wait, name="poll", keep_awake=True)
    ctx.room.start_soon(_upload, ctx, "a" * 200)


async def _hold_much(ctx: Context[Count]) -> None:
    for number in range(150):
        ctx.room.start_soon(_upload, ctx, str(number // 2))


async def _upload(ctx: Context[Count], name: str) -> None:
    with ctx.room.keep_awake(name):
        await ctx.app.go.wait()


async def _crash(ctx: Context[Count]) -> None:
    ctx.room.start_soon(_raise)


async def _raise() -> None:
    raise ZeroDivisionError


@contextlib.asynccontextmanager
async def den(policy: Policy = SOON, **options: Any) -> AsyncIterator[tuple[Scene, trio.Nursery]]:
    """One room, of which nothing is known yet."""
    made: Room[Count] = Room("den", state=Count, policy=policy, **options)
    handlers = (_say, _wait, _ask_why, _hold, _hold_much, _crash)
    for handler in handlers:
        made.on(handler.__name__[1:])(handler)
    scene = Scene()
    async with (
        open_rooms([made], store=scene.store, app=scene) as scene.rooms,
        trio.open_nursery() as nursery,
    ):
        scene.room = scene.rooms.get("den", "x")
        yield scene, nursery
        nursery.cancel_scope.cancel()


async def test_a_quiet_room_waits_for_its_time(autojump_clock: MockClock) -> None:
    """And then for few messages in the window; one that sleeps has no reasons."""
    async with den() as (scene, nursery):
        assert scene.why() == []
        for _ in range(10):
            nursery.start_soon(scene.room.ask, "say")
        await scene.until(7.7)
        idle = ("idle", 7.7, "12.3 s without a message")
        assert scene.why() == [
            idle,
            ("activity", 0, "fewer than 3 messages in 60 s: in 52.3 s at the earliest"),
        ]
        await scene.until(25)
        assert scene.why() == [("activity", 5, "fewer than 3 messages in 60 s: in 35 s at the earliest")]
        await scene.until(70)
        assert scene.why() == []
        assert scene.rooms.statistics().supervisor.wakes == 1


async def test_what_is_in_progress(autojump_clock: MockClock) -> None:
    """A handler and what waits behind it, tasks and blocks; then the whole timeout passes."""
    async with den() as (scene, nursery):
        for event in ("say", "hold"):
            await scene.room.ask(event)
        await scene.until(5)
        nursery.start_soon(scene.room.ask, "wait")
        for _ in range(2):
            await scene.until(6)
            nursery.start_soon(scene.room.ask, "say")
        await scene.until(9)
        reason, lasted, until = scene.why()[0]
        assert (reason, until) == ("handler", "the handler of 'wait' returns")
        assert 3 <= lasted <= 4
        assert scene.why()[1:] == [
            ("mail", 4, "the 2 messages that wait are handled"),  # It was quiet until the handler began.
            ("task", 9, "the task 'poll' ends"),
            ("keep_awake", 9, f"the block of keep_awake('{'a' * 100}') ends"),
            ("idle", 0, "then 20 s without a message"),
        ]
        scene.go.set()
        await scene.until(10)
        assert [one[0] for one in scene.why()] == ["idle", "activity"]


async def test_many_holds_are_not_told_one_by_one(autojump_clock: MockClock) -> None:
    """Those that have the same name are counted."""
    async with den() as (scene, _):
        await scene.room.ask("hold_much")
        await wait_all_tasks_blocked()
        assert len(scene.why()) == 76
        assert ("keep_awake", 0, "the 2 blocks of keep_awake('0') end") in scene.why()


async def test_a_hundred_are_enough(autojump_clock: MockClock) -> None:
    """What is told has a bound; the rest is counted."""
    async with den() as (scene, _):
        await scene.room.ask("say")
        idleness = scene.rooms._supervisor._actors["den/x"].idleness
        for number in range(1000):
            idleness.hold("task", str(number))
        assert scene.why()[100] == ("task", 0, "900 more tasks and blocks end")
        assert len(scene.why()) == 102


async def test_a_handler_may_ask_itself(autojump_clock: MockClock) -> None:
    """Also where what it does waits until it is durable; after the end it is told that there is nothing."""
    for durability in ("snapshot", "commit"):
        async with den(durability=durability) as (scene, _):
            for event in ("ask_why", "say"):
                await scene.room.ask(event)
            assert scene.told[0].reasons[0].until == "the handler of 'ask_why' returns"
            await scene.until(1000)
            with pytest.raises(StaleContext):
                scene.contexts[0].room.why_awake()


async def test_one_that_never_sleeps_by_itself_says_so(autojump_clock: MockClock) -> None:
    """However long it was quiet."""
    async with den(Policy(idle_timeout=math.inf)) as (scene, _):
        await scene.room.ask("say")
        await scene.until(1000)
        assert scene.why() == [("idle", 1000, "never: idle_timeout is inf")]


async def test_one_that_was_put_to_sleep_too_early_waits_longer(autojump_clock: MockClock) -> None:
    """And says why; the wakes are counted, and a sleep that lasts ends it."""
    async with den(Policy(idle_timeout=20, activity_window=0)) as (scene, _):
        await scene.room.ask("say")
        now = 0.0
        for times in (1, 2, 4, 8, 8):
            assert (
                scene.room.why_awake()
                .reasons[0]
                .until.startswith("20 s" if times == 1 else f"{times * 20} s")
            )
            now += times * 20
            await scene.until(now - 0.1)
            assert scene.why() != []
            await scene.until(now)
            assert scene.why() == []
            await scene.until(now + 1.9)
            await scene.room.ask("say")
            now += 1.9
        text = "it waits 8 times its idle_timeout, since it was woken just after it slept"
        assert scene.why() == [("idle", 0, f"160 s without a message ({text})")]
        assert scene.rooms._hub.metrics.flaps == 5
        await scene.until(now + 160 + 2)
        await scene.room.ask("say")
        assert scene.why() == [("idle", 0, "20 s without a message")]
        assert scene.rooms._hub.metrics.flaps == 5


async def test_who_asks_for_a_sleep_does_not_have_it_flap(autojump_clock: MockClock) -> None:
    """Nor is an alarm a wake too early, nor the end of the program a sleep."""
    async with den() as (scene, _):
        for _ in range(3):
            await scene.room.ask("say")
            assert await scene.room.hibernate()
        assert scene.rooms._hub.metrics.flaps == 0
        assert scene.rooms._hub.metrics.sleeps["explicit"] == 3
        await scene.room.ask("say")
        metrics = scene.rooms._hub.metrics
    assert metrics.sleeps["shutdown"] == 1


async def test_what_is_on_its_way_to_the_store(autojump_clock: MockClock) -> None:
    """A commit, and then that it could not be written and when it is tried again."""
    async with den(snapshot_interval=2) as (scene, _):
        gate = scene.store.hold_commits()
        await scene.room.ask("say")
        await scene.until(4)
        assert scene.why() == [
            ("commit", 3, "the store has what is written now"),
            ("idle", 4, "16 s without a message"),
        ]
        await scene.until(30)
        assert scene.why() == [("commit", 29, "the store has what is written now")]
        assert scene.rooms._hub.metrics.blocked["commit"] > 0
        scene.store.fail_commits(StoreError("no"), times=3)
        gate.release()
        await scene.until(31)
        assert scene.why() == []
        await scene.room.ask("say")
        await scene.until(32.1)
        assert scene.why()[0] == ("save_failed", 0.1, "the store takes its snapshot; tried again in 0.1 s")


async def test_one_that_waits_for_its_turn(autojump_clock: MockClock) -> None:
    """Says how many do, and then is loaded as all others."""
    async with den(attrs.evolve(SOON, max_waking=1)) as (scene, nursery):
        loads = scene.store.hold_loads()
        others = [scene.rooms.get("den", str(number)) for number in range(3)]
        for other in (*others[:1], scene.room, *others[1:]):
            nursery.start_soon(other.ask, "say")
            await wait_all_tasks_blocked()
        await scene.until(0.5)
        assert scene.why()[1] == ("waking", 0.5, "it has its turn, for which 3 rooms wait")
        assert others[0].why_awake().reasons[1].until == "it has its state, and its hooks have returned"
        loads.release_one()
        await wait_all_tasks_blocked()
        assert scene.why()[1] == ("waking", 0.5, "it has its state, and its hooks have returned")
        loads.release()


async def test_the_rest_of_its_life(autojump_clock: MockClock) -> None:
    """As it wakes, as it sleeps, and after a crash."""
    async with den() as (scene, nursery):
        loads = scene.store.hold_loads()
        nursery.start_soon(scene.room.ask, "say")
        await scene.until(3)
        assert scene.why() == [
            ("mail", 3, "the message that waits is handled"),
            ("waking", 3, "it has its state, and its hooks have returned"),
        ]
        loads.release()
        await scene.until(3.1)
        gate = scene.store.hold_commits()
        nursery.start_soon(scene.room.hibernate)
        await scene.until(6)
        assert scene.why() == [("commit", 2.9, "the store has what is written now")]
        gate.release()
        await scene.until(7)
        assert scene.why() == []
        stages: list[Stage] = []
        for _ in range(10):
            if stages[-1:] != [Stage.FAILED]:
                await scene.room.ask("crash")
                await wait_all_tasks_blocked()
                stages.append(scene.room.why_awake().stage)
                again = ("restarting", 0, "it has begun anew, after a crash or a rollback")
                assert scene.why() == ([again] if stages[-1] is Stage.RESTARTING else [])
                await trio.sleep(5)
        assert stages[0] is Stage.RESTARTING
        assert stages[-1] is Stage.FAILED
