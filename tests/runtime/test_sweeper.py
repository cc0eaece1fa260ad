"""The least active are put to sleep: connections for a ratio or a number, rooms under pressure."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.sockets.bench import Bench, Line, bench
from trio_rooms import Context, Policy, Room, Rooms, open_rooms
from trio_rooms._policy.sweep import wanted
from trio_rooms._runtime import sweeper as module
from trio_rooms._runtime.sweeper import Sweeper
from trio_rooms._sockets.activity import Activity
from trio_rooms._sockets.flags import REPLAYING
from trio_rooms._sockets.roster import Link
from trio_rooms.testing import connect

QUICK = Policy(ratio=0.8, ratio_from=1, connection_idle_timeout=math.inf)


class Scene:
    """A hub with connections that have no sockets, in rooms that sleep, and a sweeper."""

    def __init__(self, made: Bench, policy: Policy, nursery: trio.Nursery) -> None:
        self.hub = made.hub
        self.activity: Activity = made.hub.activity
        self.activity.policy = lambda _: policy
        self.numbers = itertools.count(1)
        self.sweeper = Sweeper(policy, made.hub, {}, made.deadlines, nursery.start_soon)
        self.lines: list[Line] = []
        self.looks = 0
        """How often all that are active were gone through."""
        self.hibernating: Callable[[Link], object] = lambda _: None
        """Told of each connection that is about to be hibernated."""

    def come(self, count: int = 1, *, rooms: int = 1) -> None:
        """So many more, in so many rooms; they are hibernated."""
        for number in range(count):
            line = Line(
                next(self.numbers), self.hub.roster(f"a/{number % rooms}", None, greets=False), None, 0
            )
            self.hub.enter(line)
            self.lines.append(line)

    def leave(self, line: Line) -> None:
        """One of them leaves."""
        self.lines.remove(line)
        self.hub.leave(line)

    def active(self) -> list[int]:
        """Where those are in the list that are active."""
        return [
            number
            for number, line in enumerate(self.lines)
            if line.roster.active and line in line.roster.active
        ]


@contextlib.asynccontextmanager
async def scene(policy: Policy = QUICK) -> AsyncIterator[Scene]:
    """One that runs."""
    in_use, hibernate = Activity.in_use, Activity.hibernate

    def looked(activity: Activity) -> Iterator[Any]:
        made.looks += 1
        return in_use(activity)

    def hibernating(activity: Activity, link: Link) -> None:
        made.hibernating(link)
        hibernate(activity, link)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Activity, "in_use", looked)
        patch.setattr(Activity, "hibernate", hibernating)
        async with bench(patience=math.inf) as bare, trio.open_nursery() as nursery:
            made = Scene(bare, policy, nursery)
            yield made
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rooms", [1, 7, 1000])
async def test_those_stay_active_that_are_most(rooms: int, autojump_clock: MockClock) -> None:
    """Of a thousand as many as the ratio leaves, whatever rooms they are in; what sleeps is not counted."""
    async with scene() as made:
        made.come(1000, rooms=rooms)
        for line in made.lines:
            made.activity.use(line)
        await trio.sleep(0.5)
        for line in made.lines[:190]:
            made.activity.use(line)
        assert made.activity.total == 1000
        await trio.sleep(0.6)
        assert 190 <= made.activity.total <= 200
        assert made.active()[:190] == [*range(190)]
        assert made.activity.total == len(made.active())
        assert sum(made.hub.metrics.sweeps.values()) == made.hub.metrics.sweeps["ratio"] >= 5


@pytest.mark.parametrize("active", [1, 4, 5])
async def test_few_are_swept_one_by_one(active: int, autojump_clock: MockClock) -> None:
    """Down to none where none may be."""
    async with scene(attrs.evolve(QUICK, ratio=1.0)) as made:
        made.come(active)
        for line in made.lines:
            made.activity.use(line)
            await trio.sleep(0.1)
        await trio.sleep(2)
        assert made.active() == []
        assert made.hub.metrics.sweeps == {"ratio": active}


async def test_no_more_are_active_than_may_be(autojump_clock: MockClock) -> None:
    """At most ten; a fifth of them at a time are put to sleep, so that not each new one makes a sweep."""
    async with scene(Policy(max_active=10, connection_idle_timeout=math.inf)) as made:
        made.come(30)
        for line in made.lines:
            made.activity.use(line)
            await trio.sleep(1)
        assert made.activity.total <= 10
        assert made.active()[-9:] == [*range(21, 30)]
        assert made.hub.metrics.sweeps["cap"] <= 10


async def test_who_was_just_used_is_left_alone(autojump_clock: MockClock) -> None:
    """Until that is a second ago; and then not a moment longer, though nobody else does anything."""
    async with scene() as made:
        made.come(10)
        for line in made.lines:
            made.activity.use(line)
        await trio.sleep(0.9)
        assert made.activity.total == 10
        await trio.sleep(0.2)
        assert made.activity.total == 2
        assert made.looks < 12


async def test_nobody_looks_until_the_first_may_be_swept(autojump_clock: MockClock) -> None:
    """However long that takes: nothing that happens before could change it."""
    async with scene(attrs.evolve(QUICK, least_idle=3600)) as made:
        made.come(10)
        for line in made.lines:
            made.activity.use(line)
        await trio.sleep(3599)
        assert made.looks == 1
        await trio.sleep(2)
        assert made.activity.total == 2


async def test_the_busy_are_skipped_and_the_next_taken(autojump_clock: MockClock) -> None:
    """And where all are, it is looked again, less and less often, until they are not."""
    async with scene() as made:
        made.come(10)
        for line in made.lines:
            line.flags |= REPLAYING
            made.activity.use(line)
        made.lines[9].flags &= ~REPLAYING
        await trio.sleep(100)
        assert made.active() == [*range(9)]
        assert made.looks < 15
        made.lines[3].flags &= ~REPLAYING
        await trio.sleep(40)
        assert made.active() == [0, 1, 2, 4, 5, 6, 7, 8]
        for line in made.lines:
            line.flags &= ~REPLAYING
        await trio.sleep(40)
        assert made.activity.total == 2
        looks = made.looks
        await trio.sleep(1000)
        assert made.looks == looks  # All is as it should be.


async def test_hibernated_ones_that_leave_may_be_too_many(autojump_clock: MockClock) -> None:
    """The ratio is of those that are there."""
    async with scene() as made:
        made.come(100)
        for line in made.lines[:20]:
            made.activity.use(line)
        await trio.sleep(10)
        assert made.activity.total == 20
        assert not made.looks
        for line in made.lines[20:70]:
            made.leave(line)
        await trio.sleep(1)
        assert 8 <= made.activity.total <= 10
        for line in [*made.lines]:
            made.leave(line)
        assert made.activity.total == 0


async def test_one_more_may_make_them_so_many_that_the_ratio_counts(autojump_clock: MockClock) -> None:
    """Also one that is hibernated itself."""
    async with scene(attrs.evolve(QUICK, ratio_from=10)) as made:
        made.come(9)
        for line in made.lines:
            made.activity.use(line)
        await trio.sleep(10)
        assert made.activity.total == 9
        made.come()
        await trio.sleep(1)
        assert made.activity.total == 2


async def test_a_sweep_shares_the_event_loop(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many active ones others have their turn after two milliseconds, in the middle of it."""
    ticks = itertools.count()
    monkeypatch.setattr(module, "perf_counter", lambda: next(ticks) / 1000)  # Each 32 are a millisecond.
    async with scene(attrs.evolve(QUICK, sweep=1.0, ratio=0.99)) as made:
        made.come(1600, rooms=3)
        await trio.sleep(5)
        for line in made.lines[:-1]:
            made.activity.use(line)
        await trio.sleep(0.5)
        autojump_clock.jump(0.6)
        rounds = 0
        while made.activity.total == 1599:
            rounds += 1
            if rounds == 5:  # They were looked at before, and are to be taken.
                made.activity.use(made.lines[0])
                made.lines[3].flags |= REPLAYING
            await trio.lowlevel.checkpoint()
        assert made.looks == 2  # The first found that all were just used.
        assert rounds >= 50 / 3
        await trio.sleep(0.9)
        assert {0, 3} <= {*made.active()}


# Whatever happens.

_STEP = st.one_of(
    st.tuples(st.just("come"), st.integers(1, 12), st.integers(1, 4)),
    st.tuples(st.sampled_from(["use", "busy", "free", "leave"]), st.integers(0, 60), st.integers(1, 6)),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 3, 9, 40]), st.just(0)),
)


@given(
    st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.sampled_from([None, 1, 5]), st.lists(_STEP, max_size=40)
)  # fmt: skip
@settings(max_examples=40)
def test_random_lives(ratio: float, most: int | None, steps: list[tuple[str, int, int]]) -> None:
    """Nobody is swept that is busy or was just used; in the end no more are active than may be."""
    policy = Policy(ratio=ratio, ratio_from=4, max_active=most, connection_idle_timeout=math.inf)

    async def live() -> None:
        async with scene(policy) as made:
            last: dict[Link, float] = {}

            def checked(link: Link) -> None:
                assert not link.flags & REPLAYING
                assert trio.current_time() - last[link] >= policy.least_idle

            made.hibernating = checked
            for step, number, count in steps:
                if step == "come":
                    made.come(number, rooms=count)
                elif step == "wait":
                    await trio.sleep(number / 10)
                for line in made.lines[number : number + count]:
                    if step == "use":
                        last[line] = trio.current_time()
                        made.activity.use(line)
                    elif step == "busy":
                        line.flags |= REPLAYING
                    elif step == "free":
                        line.flags &= ~REPLAYING
                    elif step == "leave":
                        made.leave(line)
                assert made.activity.total == len(made.active())
            for line in made.lines:
                line.flags &= ~REPLAYING
            await trio.sleep(50)
            assert wanted(policy, made.activity.total, len(made.lines)) is None
            assert not made.sweeper._sweeping
            for line in [*made.lines]:
                made.leave(line)
            assert made.activity.total == 0

    trio.run(live, clock=MockClock(autojump_threshold=0))


# Rooms.


def lamp() -> Room[dict[str, Any]]:
    """A room that does next to nothing, and may be held awake."""
    room: Room[dict[str, Any]] = Room("lamp", state=dict, idle_timeout=math.inf)

    @room.on("on")
    async def on(ctx: Context[dict[str, Any]], data: int) -> int:
        before: int = ctx.state.get("on", 0)
        ctx.state["on"] = data
        return before

    @room.on("hold")
    async def hold(ctx: Context[dict[str, Any]]) -> None:
        ctx.room.start_soon(trio.sleep_forever, keep_awake=True)

    return room


def sleeps(rooms: Rooms) -> dict[str, int]:
    """How many rooms slept, by why."""
    return {trigger: count for trigger, count in rooms.metrics().sleeps.items() if count}


async def test_a_room_sleeps_whose_last_connection_is_swept(autojump_clock: MockClock) -> None:
    """What it had is there when it wakes; one that is held awake stays so, without connections in memory."""
    policy = Policy(ratio=0.7, ratio_from=5)
    async with open_rooms([lamp()], policy=policy) as rooms, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(rooms, f"lamp/{n}")) for n in range(10)]
        await clients[0].ask("hold")
        for number, client in enumerate(clients):
            await client.ask("on", number)
            await trio.sleep(0.2)
        await trio.sleep(2)
        connections = rooms.metrics().connections
        assert connections.active == 3
        assert connections.hibernated == 7
        assert sleeps(rooms) == {"ratio": 6}
        assert rooms.statistics().supervisor.awake == 4
        for number, client in enumerate(clients):
            assert await client.ask("on", 0) == number


async def test_pressure_puts_a_fifth_to_sleep_at_a_time_until_it_is_relieved(
    autojump_clock: MockClock,
) -> None:
    """Those that are least active; it waits until they are saved. A second press meanwhile does nothing."""
    async with open_rooms([lamp()]) as rooms:
        for number in range(20):
            await rooms.get("lamp", str(number)).ask("on", number + 1)
            await trio.sleep(1)
        seen: list[int] = []

        def relieved() -> bool:
            seen.append(rooms.statistics().supervisor.awake)
            return seen[-1] <= 12

        sweeper = rooms._supervisor.sweeper
        sweeper.press("memory", relieved, pytest.fail)
        sweeper.press("lag", pytest.fail)
        await trio.sleep(10)
        assert seen == [16, 13, 11]
        assert sleeps(rooms) == {"memory": 9}
        assert rooms.metrics().sweeps == {"memory": 3}
        awake = [number for number in range(20) if rooms._supervisor.is_awake(f"lamp/{number}")]
        assert awake == [*range(9, 20)]
        assert await rooms.get("lamp", "0").ask("on", 5) == 1


async def test_pressure_ends_where_none_can_sleep(autojump_clock: MockClock) -> None:
    """Which is told once; the rooms go on."""
    async with open_rooms([lamp()]) as rooms:
        for number in range(3):
            await rooms.get("lamp", str(number)).ask("hold")
        told: list[str] = []
        no: Callable[[], bool] = lambda: False  # noqa: E731
        rooms._supervisor.sweeper.press("lag", no, lambda: told.append("stuck"))
        await trio.sleep(10)
        assert told == ["stuck"]
        await rooms.get("lamp", "free").ask("on", 1)
        rooms._supervisor.sweeper.press("lag", no, lambda: told.append("again"))
        await trio.sleep(10)
        assert told == ["stuck", "again"]
        assert sleeps(rooms) == {"lag": 1}
