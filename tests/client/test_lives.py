"""Random lives of a client: whatever happens to its connections, what it promises holds."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.client.reference import Reference, Refusal, reference
from trio_rooms.client import AnswerLost, RemoteRoom, TooMuchWaiting, connect_room

STEPS = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 3)),
    st.tuples(st.just("ask and give up"), st.sampled_from([0, 0.0001, 0.3, 2])),
    st.tuples(st.just("emit"), st.just(0)),
    st.tuples(st.just("event"), st.integers(1, 5)),
    st.tuples(st.just("take"), st.integers(1, 8)),
    st.tuples(st.just("drop"), st.just(0)),
    st.tuples(st.just("drop before"), st.integers(1, 3)),
    st.tuples(st.just("drop after"), st.integers(1, 3)),
    st.tuples(st.just("freeze"), st.just(0)),
    st.tuples(st.just("close"), st.sampled_from([1001, 1011, 1012, 1013])),
    st.tuples(st.just("refuse"), st.sampled_from([429, 503])),
    st.tuples(st.just("away"), st.sampled_from([0.1, 3, 60])),
    st.tuples(st.just("deaf"), st.sampled_from([0.0, 4, 12, 30])),
    st.tuples(st.just("unavailable"), st.integers(1, 3)),
    st.tuples(st.just("repeat"), st.booleans()),
    st.tuples(st.just("forget"), st.just(0)),
    st.tuples(st.just("sleep"), st.sampled_from([0, 0.01, 0.3, 1, 20])),
)


class Life:
    """What a test does with one client and its server, and what both say of it."""

    def __init__(self, server: Reference, room: RemoteRoom, nursery: trio.Nursery) -> None:
        self.server = server
        self.room = room
        self.nursery = nursery
        self.amount = 0
        self.answered: list[int] = []
        self.lost: list[int] = []
        self.waiting: set[int] = set()
        self.emitted = 0
        self.events: list[tuple[str, Any]] = []
        self.breaks = 0

    async def ask(self, patience: float = math.inf) -> None:
        """Ask for one more, and note what comes of it."""
        self.amount += 1
        amount = self.amount
        self.waiting.add(amount)
        with trio.move_on_after(patience) as scope:
            try:
                answer = await self.room.ask("add", {"amount": amount})
            except AnswerLost:
                self.lost.append(amount)
            else:
                assert answer["balance"] >= amount
                self.answered.append(amount)
        self.waiting.discard(amount)
        if scope.cancelled_caught:
            self.lost.append(amount)

    async def take(self, count: int) -> None:
        """Take some events that have come."""
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(min(count, self.room.statistics().events)):
            event = await anext(self.room)
            self.events.append((event.name, event.data))

    async def listen(self) -> None:
        """Take all events."""
        async for event in self.room:
            self.events.append((event.name, event.data))

    async def step(self, what: str, how: Any) -> None:
        """One step."""
        server = self.server
        if what == "ask":
            for _ in range(how):
                self.nursery.start_soon(self.ask)
                await trio.testing.wait_all_tasks_blocked()
        elif what == "ask and give up":
            self.nursery.start_soon(self.ask, how)
        elif what == "emit":
            with suppress(TooMuchWaiting):
                self.room.emit(f"emitted {self.emitted + 1}")
                self.emitted += 1
        elif what == "event":
            for _ in range(how):
                server.count += 1
                server.emit("balance", {"count": server.count})
        elif what == "take":
            await self.take(how)
        elif what == "drop":
            await server.drop()
        elif what in ("drop before", "drop after"):
            self.breaks = how
            server.at = lambda moment, _: self.breaks_at(moment, what.removeprefix("drop "))
        elif what == "freeze":
            server.freeze()
        elif what == "close":
            self.nursery.start_soon(server.close, how)
        elif what == "refuse":
            server.refusals.append(Refusal(how))
        elif what == "away":
            server.reachable = False
            await server.drop()
            await trio.sleep(how)
            server.reachable = True
        elif what == "deaf":
            server.deaf = how
        elif what == "unavailable":
            server.unavailable = how
        elif what == "repeat":
            server.repeats = how
        elif what == "forget":
            server.forget()
        else:
            await trio.sleep(how)

    def breaks_at(self, moment: str, wanted: str) -> bool:
        """Whether the connection breaks now: at the next message, or some later."""
        if moment != wanted or not self.breaks:
            return False
        self.breaks -= 1
        return self.breaks == 0

    async def settle(self) -> None:
        """From now on all goes well; wait until everything is done."""
        self.server.unavailable = 0
        self.server.deaf = 0
        self.breaks = 0
        self.server.reachable = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.listen)
            while self.waiting or self.room.state != "open":
                await trio.sleep(1)
            # Who is cut off just now hears of it later.
            for _ in range(2):
                with suppress(AnswerLost):
                    await self.room.ask("last")
                await trio.sleep(100)
            nursery.cancel_scope.cancel()

    def check(self, steps: list[Any]) -> None:
        """What is promised."""
        server = self.server
        applied = [one for one in server.applied if isinstance(one, int)]
        assert len(applied) == len(set(applied)), "something was applied twice"
        assert set(self.answered) <= set(applied), "something was answered and not applied"
        assert set(applied) <= set(self.answered) | set(self.lost)
        emitted = [one for one in server.applied if isinstance(one, str) and one != "last"]
        assert len(emitted) == len(set(emitted)), "something was emitted twice"
        assert sorted(emitted, key=lambda name: int(name.split()[1])) == emitted
        counts = [data["count"] for name, data in self.events if name == "balance"]
        assert counts == sorted(set(counts)), "events came twice, or out of order"
        if "rooms.reset" not in {name for name, _ in self.events}:
            assert counts == [*range(1, server.count + 1)], "an event is missing"
            assert set(self.answered) >= {*range(1, self.amount + 1)} - set(self.lost)
            given_up = any(what == "ask and give up" for what, _ in steps)
            assert given_up or not self.lost
        else:
            assert any(what == "forget" for what, _ in steps)


async def live(steps: list[Any], settings: dict[str, Any], lockstep: bool) -> None:
    """A life of a client."""
    async with reference() as server:
        server.lockstep = lockstep
        with trio.fail_after(5_000):
            connected = connect_room("ws://localhost/ledger/main", open_stream=server.open_stream, **settings)
            async with connected as room, trio.open_nursery() as nursery:
                life = Life(server, room, nursery)
                for what, how in steps:
                    await life.step(what, how)
                await life.settle()
        life.check(steps)


SETTINGS = st.fixed_dictionaries(
    {"protocol": st.sampled_from(["json", "cbor"])},
    optional={
        "max_events": st.sampled_from([10, 1000]),
        "max_unanswered": st.sampled_from([2, 1000]),
        "ping_interval": st.just(5),
        "first_delay": st.sampled_from([0.001, 5]),
    },
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(STEPS, max_size=25), SETTINGS, st.booleans())
def test_whatever_happens_nothing_is_lost_or_twice(
    steps: list[Any], settings: dict[str, Any], lockstep: bool
) -> None:
    """Each ask is applied once and answered, or told to be lost; events come once, in order, none missing."""
    trio.run(live, steps, settings, lockstep, clock=MockClock(autojump_threshold=0))


@pytest.mark.long
@hypothesis.settings(max_examples=3000)
@hypothesis.given(st.lists(STEPS, max_size=60), SETTINGS, st.booleans())
def test_whatever_happens_for_longer(steps: list[Any], settings: dict[str, Any], lockstep: bool) -> None:
    """The same, often."""
    trio.run(live, steps, settings, lockstep, clock=MockClock(autojump_threshold=0))
