"""A storm of wakes takes its turns, and beyond a number a room wakes in another's place."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import (
    Context,
    MemoryStore,
    Policy,
    Room,
    RoomFailed,
    Rooms,
    RoomsClosed,
    StoreError,
    WakeReport,
    open_rooms,
)
from trio_rooms._runtime import waking
from trio_rooms._runtime.sweeper import Sweeper
from trio_rooms.stores import Store
from trio_rooms.testing import FaultyStore, connect

State = dict[str, Any]


@attrs.define(eq=False)
class Scene:
    """Open rooms, what they did, and what their waking waits for."""

    rooms: Rooms = attrs.field(init=False)
    nursery: trio.Nursery = attrs.field(init=False)
    gate: trio.Event = attrs.field(factory=trio.Event)
    """What rooms wait for as they wake whose id begins with a b."""
    begun: list[str] = attrs.field(factory=list)
    """Rooms that began to wake, by id."""
    loading: int = 0
    most_loading: int = 0
    cost: float = 0.0
    """Seconds of processor time that each of them takes to wake."""
    clock: float = 0.0
    """That time."""
    handled: list[Any] = attrs.field(factory=list)
    """What was handled, in its order."""
    answers: dict[Any, Any] = attrs.field(factory=dict)
    """What became of what was asked."""

    @property
    def awake(self) -> int:
        """Rooms that are."""
        return self.rooms.statistics().supervisor.awake

    @property
    def waiting(self) -> int:
        """Rooms that wait for their turn."""
        return self.rooms.statistics().supervisor.waiting

    async def ask(self, name: str, event: str = "say", data: Any = None) -> Any:
        """Ask a room, and note what becomes of it."""
        data = name if data is None and event == "say" else data
        try:
            answer = await self.rooms.get("hut", name).ask(event, data, timeout=math.inf)
        except Exception as error:
            answer = type(error)
        self.answers[name] = answer
        return answer

    async def asks(self, *names: str) -> None:
        """Ask rooms in the background, one after the other."""
        for name in names:
            self.nursery.start_soon(self.ask, name)
            await wait_all_tasks_blocked()


async def _wake(ctx: Context[State], report: WakeReport | None = None) -> None:
    made: Scene = ctx.app
    made.begun.append(ctx.room.id)
    made.clock += made.cost
    made.loading += 1
    made.most_loading = max(made.loading, made.most_loading)
    name = ctx.room.id
    try:
        if name.startswith("b"):
            await made.gate.wait()
        elif name.startswith("chain") and name != "chain0":
            await ctx.rooms.get("hut", f"chain{int(name[5:]) - 1}").ask("say", "asked")
        elif name == "crash":
            raise ZeroDivisionError
        await trio.lowlevel.checkpoint()
    finally:
        made.loading -= 1


async def _say(ctx: Context[State], data: Any) -> int:
    made: Scene = ctx.app
    made.handled.append(data)
    ctx.state["said"] = ctx.state.get("said", 0) + 1
    said: int = ctx.state["said"]
    return said


async def _think(ctx: Context[State], data: float) -> None:
    await trio.sleep(data)
    ctx.state["thought"] = ctx.state.get("thought", 0) + 1


async def _hold(ctx: Context[State]) -> None:
    ctx.room.start_soon(trio.sleep_forever, keep_awake=True)


async def _relay(ctx: Context[State], data: str) -> int:
    answer: int = await ctx.rooms.get("hut", data).ask("say", data)
    return answer


async def _part(ctx: Context[State]) -> None:
    if ctx.room.id == "parting":
        await ctx.rooms.get("hut", "asked").ask("say", "farewell")


def hut() -> Room[State]:
    """The room under test."""
    room: Room[State] = Room("hut", state=dict, idle_timeout=math.inf)
    room.on_create(_wake)
    room.on_wake(_wake)
    room.on_hibernate(_part)
    room.on("say")(_say)
    room.on("relay")(_relay)
    room.on("think")(_think)
    room.on("hold")(_hold)
    return room


@contextlib.asynccontextmanager
async def scene(store: Store | None = None, stop_timeout: float = 10, **policy: Any) -> AsyncIterator[Scene]:
    """One that runs."""
    made = Scene()
    async with trio.open_nursery() as made.nursery:
        async with open_rooms(
            [hut()], store=store, policy=Policy(**policy), stop_timeout=stop_timeout, app=made
        ) as made.rooms:
            yield made
        made.nursery.cancel_scope.cancel()


# Turns.


async def test_no_more_load_at_a_time_than_may(autojump_clock: MockClock) -> None:
    """Three hundred are asked at once: all answer, and what they waited is noted."""
    async with scene(max_waking=7) as made:
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(made.ask, str(number))
        assert len(made.handled) == 300
        assert made.most_loading == 7
        assert made.waiting == 0
        assert made.rooms.metrics().wake_wait_seconds.count >= 293


@pytest.mark.parametrize(("cost", "least", "most"), [(0.01, 1, 4), (0.0, 8, 64)])
async def test_in_each_turn_so_many_begin_as_leave_the_others_theirs(
    cost: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few at first, however many have mail in the same moment; then by how long those before took.

    By Trio's own clock: one that stands still has many turns in the same moment.
    """
    async with scene() as made:
        made.cost = cost
        monkeypatch.setattr(waking, "thread_time", lambda: made.clock)
        for number in range(200):
            made.nursery.start_soon(made.ask, f"a{number}")
        turns = []
        while len(made.begun) < 200:
            before = len(made.begun)
            await trio.lowlevel.checkpoint()
            turns.append(len(made.begun) - before)
        turns = [begun for begun in turns if begun]
        assert max(turns[:3]) <= 12
        assert least <= max(turns[5:-1]) <= most


async def test_one_at_a_time_needs_no_turn(autojump_clock: MockClock) -> None:
    """Where nothing is limited a room wakes in the same step."""
    async with scene(max_waking=1) as made:
        for number in range(3):
            assert await made.ask(str(number)) == 1
        assert made.rooms.metrics().wake_wait_seconds.count == 0
        assert autojump_clock.current_time() == 0


async def test_first_come_first_served_and_who_is_waited_for_before(autojump_clock: MockClock) -> None:
    """What clients send takes its turn behind what is asked; but one of four rooms is theirs."""
    async with scene(max_waking=1) as made, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(made.rooms, f"hut/c{n}")) for n in range(3)]
        await made.asks("b")
        for number, client in enumerate(clients):
            await client.emit("say", f"c{number}")
            await wait_all_tasks_blocked()
        await made.asks(*"opqrst")
        assert made.waiting == 9
        made.gate.set()
        await trio.sleep(1)
        assert made.handled == ["b", "o", "p", "q", "c0", "r", "s", "t", "c1", "c2"]


async def test_what_comes_for_a_room_that_waits_gathers(autojump_clock: MockClock) -> None:
    """In its order; and something urgent takes it before the others."""
    async with scene(max_waking=1) as made, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(made.rooms, f"hut/c{n}")) for n in range(4)]
        await made.asks("b")
        for number, client in enumerate(clients):
            await client.emit("say", f"c{number}")
        await clients[2].emit("say", "more")
        await wait_all_tasks_blocked()
        await made.asks("c2")
        made.rooms._supervisor.rouse("hut/c3")
        assert made.waiting == 4
        assert not made.rooms._supervisor.is_awake("hut/c2")
        made.gate.set()
        await trio.sleep(1)
        assert made.handled == ["b", "c2", "more", "c2", "c3", "c0", "c1"]


async def test_rooms_that_ask_each_other_as_they_wake_give_their_turn_back(
    autojump_clock: MockClock,
) -> None:
    """Else the one that is asked would wait for the one that asks; and no time passes."""
    async with scene(max_waking=1) as made:
        assert await made.ask("chain5") == 1
        assert autojump_clock.current_time() == 0
        assert made.answers == {"chain5": 1}


async def test_who_takes_long_to_wake_keeps_nobody_out(autojump_clock: MockClock) -> None:
    """Not longer than a second or two, whatever it waits for: it may be for one that is still to wake."""
    async with scene(max_waking=2) as made:
        await made.asks("b1", "b2", "x", "y")
        assert made.waiting == 2
        await trio.sleep(2)
        assert made.answers == {"x": 1, "y": 1}
        assert await made.ask("z") == 1
        made.gate.set()
        await trio.sleep(1)
        assert made.answers["b1"] == made.answers["b2"] == 1


async def test_one_that_cannot_be_loaded_keeps_nobody_out(autojump_clock: MockClock) -> None:
    """Nor does one that crashes as it wakes."""
    store = FaultyStore(MemoryStore())
    async with scene(store, max_waking=1) as made:
        for name in ("a", "c"):
            store.fail_loads(StoreError("it is away"), times=99, key=f"hut/{name}")
        await made.asks("a", "c", "x", "crash", "y")
        await trio.sleep(60)
        assert made.answers["a"] is made.answers["c"] is made.answers["crash"] is RoomFailed
        assert made.answers["x"] == made.answers["y"] == 1


@pytest.mark.parametrize("limit", ["max_waking", "max_awake"])
async def test_at_the_stop_those_who_wait_handle_their_mail(limit: str, autojump_clock: MockClock) -> None:
    """And are saved."""
    store = MemoryStore()
    async with scene(store, **{limit: 1}) as made, connect(made.rooms, "hut/c") as client:
        await made.asks("b")
        await client.emit("say", "c")
        await made.asks("x", "y")
        made.rooms._runtime.stop(1001, "")
        made.gate.set()
        await made.rooms._runtime.wait_stopped()
        assert made.handled == ["b", "x", "y", "c"]
    async with scene(store) as made:
        assert await made.ask("c") == 2


async def test_a_stop_that_takes_too_long_answers_those_who_wait(autojump_clock: MockClock) -> None:
    """None of them begins any more."""
    async with scene(stop_timeout=1, max_waking=1, max_awake=1) as made:
        await made.asks("b", "x", "y")
        await made.rooms.aclose()
        await trio.sleep(1)
        assert made.answers == {"b": RoomsClosed, "x": RoomsClosed, "y": RoomsClosed}
        assert made.begun == ["b"]


# Places.


@pytest.mark.parametrize(("count", "most"), [(500, 10), (150, 50)])
async def test_many_wake_where_few_may_be_awake(count: int, most: int, autojump_clock: MockClock) -> None:
    """All answer, never are more awake than may be, and it takes no second for each."""
    async with scene(max_awake=most) as made:
        highest = 0
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(made.ask, str(number))
            while len(made.handled) < count:
                highest = max(highest, made.awake)
                await trio.sleep(0.0005)
        assert highest == most
        assert autojump_clock.current_time() < 1
        slept = {trigger: count for trigger, count in made.rooms.metrics().sleeps.items() if count}
        assert slept == {"cap": count - made.awake}
        for number in range(0, count, 50):
            assert await made.ask(str(number)) == 2


async def test_the_least_active_makes_room(autojump_clock: MockClock) -> None:
    """And a fifth of all, if they were not just used: so not each wake has to wait for one."""
    async with scene(max_awake=10) as made:
        for number in range(10):
            await made.ask(str(number))
            await trio.sleep(1)
        await made.ask("0")
        assert await made.ask("x") == 1
        await trio.sleep(0.1)
        assert made.awake == 9
        asleep = [n for n in range(10) if not made.rooms._supervisor.is_awake(f"hut/{n}")]
        assert asleep == [1, 2]
        for number in range(10):
            await made.ask(str(number))
        assert made.awake == 10
        assert await made.ask("y") == 1
        assert made.awake == 10  # Nobody else had to sleep, as all were just used.


async def test_where_all_are_held_a_room_wakes_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More are awake then than may be, and sleep as soon as they can, for which is looked now and then."""
    looks, least_active = 0, Sweeper.least_active

    async def counted(sweeper: Sweeper, count: int) -> list[Any]:
        nonlocal looks
        looks += 1
        return await least_active(sweeper, count)

    monkeypatch.setattr(Sweeper, "least_active", counted)
    async with scene(max_awake=3) as made:
        for number in range(3):
            await made.ask(f"h{number}", "hold")
        for number in range(3):
            assert await made.ask(str(number)) == 1
            assert autojump_clock.current_time() < 1
            await trio.sleep(0.1)
        await trio.sleep(5)
        assert made.awake == 3
        assert all(made.rooms._supervisor.is_awake(f"hut/h{number}") for number in range(3))
        before = looks
        await made.ask("x", "hold")
        await trio.sleep(1000)
        assert looks - before < 50


async def test_a_room_that_a_room_waits_for_does_not_wait_for_that(autojump_clock: MockClock) -> None:
    """Neither as that wakes, nor while it handles something, nor as it falls asleep to make room."""
    async with scene(max_awake=1) as made:
        assert await made.ask("chain5") == 1
        await trio.sleep(0.5)
        assert made.awake == 1
        assert await made.ask("a", "relay", "c") == 1
        assert await made.ask("parting") == 1
        assert await made.ask("x") == 1
        assert made.handled[-2:] == ["farewell", "x"]
        await trio.sleep(0.1)
        assert autojump_clock.current_time() < 1
        assert made.awake == 1


async def test_where_all_are_busy_a_room_wakes_a_second_later(autojump_clock: MockClock) -> None:
    """Or before that, when one has nothing to do any more; and the others sleep later."""
    async with scene(max_awake=2) as made:
        made.nursery.start_soon(made.ask, "a", "think", 0.5)
        made.nursery.start_soon(made.ask, "c", "think", 100)
        await wait_all_tasks_blocked()
        assert await made.ask("x") == 1
        assert 0.5 <= autojump_clock.current_time() < 0.6
        made.nursery.start_soon(made.ask, "x", "think", 100)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        assert await made.ask("y") == 1
        assert 1 <= trio.current_time() - began < 1.1
        made.nursery.start_soon(made.ask, "y", "think", 100)
        await trio.sleep(20)
        began = trio.current_time()
        assert await made.ask("z") == 1
        assert 1 <= trio.current_time() - began < 1.1
        await trio.sleep(150)
        assert made.awake <= 2


async def test_where_the_store_hangs_a_room_wakes_a_second_later(autojump_clock: MockClock) -> None:
    """Though another is on its way to sleep, which may take for ever."""
    store = FaultyStore(MemoryStore())
    async with scene(store, max_awake=1) as made:
        await made.ask("a")
        gate = store.hold_commits()
        assert await made.ask("x") == 1
        assert 1 <= autojump_clock.current_time() < 1.1
        gate.release()


async def test_one_that_is_quiet_at_last_has_a_second_to_sleep(autojump_clock: MockClock) -> None:
    """However long it was waited for until then."""
    store = FaultyStore(MemoryStore())
    async with scene(store, max_awake=1) as made:
        await made.ask("a")
        await trio.sleep(5)
        made.nursery.start_soon(made.ask, "a", "think", 0.995)
        await wait_all_tasks_blocked()
        made.nursery.start_soon(made.ask, "x")
        await trio.sleep(0.98)
        gate = store.hold_commits()
        await trio.sleep(0.5)
        assert "x" not in made.answers
        gate.release()
        await trio.sleep(0.1)
        assert made.answers["x"] == 1


async def test_a_place_is_kept_for_a_room_that_waits_for_its_turn(autojump_clock: MockClock) -> None:
    """No more are put to sleep than wake."""
    async with scene(max_waking=1) as made:
        for number in range(5):
            await made.ask(str(number))
        made.rooms._supervisor.sweeper.pressed = True
        await made.asks("b", "x", "y")
        await trio.sleep(0.5)
        made.gate.set()
        await trio.sleep(1)
        assert made.answers == {**made.answers, "b": 1, "x": 1, "y": 1}
        assert made.awake == 5


async def test_under_pressure_a_room_wakes_in_the_place_of_another(autojump_clock: MockClock) -> None:
    """However many are awake; and at once where none is, or when it is over."""
    async with scene() as made:
        sweeper = made.rooms._supervisor.sweeper
        sweeper.pressed, sweeper.trigger = True, "memory"
        assert await made.ask("a") == 1
        sweeper.pressed = False
        for number in range(5):
            await made.ask(str(number))
        sweeper.pressed = True
        for number in range(20):
            assert await made.ask(f"x{number}") == 1
            assert made.awake == 6
        assert made.rooms.metrics().sleeps["memory"] == 20
        for number in range(6):
            made.nursery.start_soon(made.ask, f"x{14 + number}", "think", 0.5)
        await wait_all_tasks_blocked()
        made.nursery.start_soon(made.ask, "y")
        await trio.sleep(0.1)
        assert made.waiting == 1
        sweeper.pressed = False
        await trio.sleep(0.1)
        assert made.answers["y"] == 1
        assert trio.current_time() < 0.5


_STEP = st.one_of(
    st.tuples(st.sampled_from(["ask", "hold", "destroy", "hibernate", "connect"]), st.integers(0, 8)),
    st.tuples(st.just("think"), st.integers(0, 8)),
    st.tuples(st.sampled_from(["wait", "press"]), st.integers(0, 3)),
)


@given(st.integers(1, 3), st.sampled_from([None, 1, 3]), st.lists(_STEP, max_size=30))
@settings(max_examples=40)
def test_random_storms(waking: int, awake: int | None, steps: list[tuple[str, int]]) -> None:
    """Whatever is asked is answered, nobody waits for ever, and nothing is left behind."""

    async def live() -> None:
        async with scene(max_waking=waking, max_awake=awake) as made:
            supervisor = made.rooms._supervisor
            async with trio.open_nursery() as nursery:
                for step, number in steps:
                    room = made.rooms.get("hut", str(number))
                    if step == "ask":
                        nursery.start_soon(made.ask, str(number))
                    elif step == "hold" and number < 2:
                        nursery.start_soon(room.ask, "hold")
                    elif step == "destroy":
                        nursery.start_soon(room.destroy)
                    elif step == "hibernate":
                        nursery.start_soon(room.hibernate)
                    elif step == "think":
                        nursery.start_soon(room.ask, "think", number / 4)
                    elif step == "wait":
                        await trio.sleep((0, 0.005, 0.5, 2)[number])
                    elif step == "press":
                        supervisor.sweeper.pressed = number > 1
                        supervisor.sweeper.press("memory", lambda: True)
            supervisor.sweeper.pressed = False
            await trio.sleep(100)
            assert made.waiting == 0
            held = sum(supervisor.info(f"hut/{number}").held != () for number in range(2))
            assert awake is None or made.awake <= max(awake, held)
            left = supervisor.waking
            assert not left._loading
            # Where more are held than may be awake, it goes on looking whether one can sleep.
            assert not left._making or held > (awake or held)
            assert left._look is None

    trio.run(live, clock=MockClock(autojump_threshold=0))
