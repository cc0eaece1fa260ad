from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import AsyncIterator

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.room.parts import Parts, wired
from trio_rooms import Context, MemoryStore, Policy, Room, StoreError, open_rooms
from trio_rooms._room.mail import SaveFailed
from trio_rooms.testing import FaultyStore

IDLE = 10.0


@attrs.define(eq=False)
class Sleeper:
    """What an actor does about idleness; it notes when it is to sleep, and then is interrupted."""

    parts: Parts
    slept: list[float] = attrs.field(factory=list)
    """When it was to sleep, in seconds from its beginning on."""
    began: float = attrs.field(factory=trio.current_time)
    work: float = 0
    """Seconds that it is busy for with the next mail."""

    @property
    def now(self) -> float:
        """Seconds from its beginning on."""
        return trio.current_time() - self.began

    async def run(self) -> None:
        """Be the one who reads the mailbox."""
        idleness, box = self.parts.idleness, self.parts.mailbox
        idleness.begin()
        while True:
            mail = box.drain()
            if mail:
                idleness.due = False
                work, self.work = self.work, 0
                box.current = mail[0]
                await trio.sleep(work)
                box.current = None
                idleness.handled += len(mail)
            if idleness.due and not idleness.holds:
                self.slept.append(self.now)
            idleness.due = False
            idleness.quiet_since = trio.current_time()
            idleness.window.turn(idleness.quiet_since, idleness.handled)
            if idleness.deadline is None:
                idleness.arm(idleness.quiet_since + idleness.timeout)
            await box.wait(trio.lowlevel.current_task())

    def message(self, count: int = 1) -> None:
        """Something comes."""
        for _ in range(count):
            self.parts.mailbox.post(SaveFailed(ValueError()))

    async def until(self, when: float) -> None:
        """Let the time pass."""
        await trio.sleep_until(self.began + when)
        await wait_all_tasks_blocked()


@contextlib.asynccontextmanager
async def sleeper(timeout: float = IDLE, most: int = 10**9) -> AsyncIterator[Sleeper]:
    """A room that has just begun to be quiet."""
    policy = Policy(idle_timeout=timeout, message_threshold=most, activity_window=15)
    room: Room[None] = Room("bed", policy=policy)
    async with wired(room) as parts:
        made = Sleeper(parts)
        parts.runtime.start_soon(made.run)
        await wait_all_tasks_blocked()
        yield made


async def test_a_room_sleeps_when_it_was_quiet_for_its_timeout(autojump_clock: MockClock) -> None:
    """Counted from when it last had nothing to do."""
    async with sleeper() as one:
        await one.until(4)
        one.message()
        await one.until(11)
        one.message()
        await one.until(30)
        assert one.slept == pytest.approx([21])


async def test_a_message_sets_no_deadline(autojump_clock: MockClock) -> None:
    """There is one for the room, however busy it is."""
    async with sleeper() as one:
        for number in range(1000):
            one.message()
            await one.until(number / 10)
        assert len(one.parts.deadlines) == 1
        assert one.slept == []


async def test_a_room_that_never_sleeps_has_no_deadline(autojump_clock: MockClock) -> None:
    """With an infinite timeout, though something held it for a while."""
    async with sleeper(math.inf) as one:
        one.parts.idleness.hold("keep_awake", "upload")
        one.parts.idleness.release("keep_awake", "upload")
        await one.until(1e9)
        assert one.slept == []
        assert len(one.parts.deadlines) == 0


async def test_a_room_that_is_busy_when_it_is_looked_at_is_not_quiet(autojump_clock: MockClock) -> None:
    """A handler that takes longer than the timeout does not count as silence."""
    async with sleeper() as one:
        one.work = 25
        one.message()
        await one.until(34)
        assert one.slept == []
        await one.until(36)
        assert one.slept == pytest.approx([35])


async def test_a_release_begins_the_timeout_anew(autojump_clock: MockClock) -> None:
    """With the last of all holds, of which one may be given twice."""
    async with sleeper() as one:
        idleness = one.parts.idleness
        for reason in ("call", "call", "upload"):
            idleness.hold("keep_awake", reason)
        assert {name: hold.count for (_, name), hold in (idleness.holds or {}).items()} == {
            "call": 2,
            "upload": 1,
        }
        for when, reason in ((15, "upload"), (20, "call"), (33, "call")):
            await one.until(when)
            idleness.release("keep_awake", reason)
        assert not idleness.holds
        await one.until(42.9)
        assert one.slept == []
        await one.until(43.1)
        assert one.slept == pytest.approx([43])


async def test_a_hold_that_comes_when_it_is_decided_already_counts(autojump_clock: MockClock) -> None:
    """The last look at the holds is the reader's."""
    async with sleeper() as one:
        one.parts.idleness.sleep_now("idle")
        one.parts.idleness.hold("keep_awake", "call")
        await one.until(100)
        assert one.slept == []


@pytest.mark.parametrize(("per_second", "slept"), [(1.5, 14), (10, 19)])
async def test_a_room_that_was_busy_lately_sleeps_later(
    per_second: float, slept: float, autojump_clock: MockClock
) -> None:
    """When fewer messages than the threshold are within the window."""
    async with sleeper(most=30) as one:
        for second in range(5):
            await one.until(second)
            one.message(round(per_second * 14 / 5))
        await one.until(25)
        assert one.slept[0] == pytest.approx(slept)


async def test_after_a_failed_save_a_room_does_not_sleep_before_its_time(autojump_clock: MockClock) -> None:
    """Though it is quiet for much longer."""
    async with sleeper() as one:
        one.parts.idleness.not_before = one.began + 25
        await one.until(24.9)
        assert one.slept == []
        await one.until(25.1)
        assert one.slept == pytest.approx([25])


async def test_a_commit_of_whose_end_nobody_tells_is_looked_for(autojump_clock: MockClock) -> None:
    """Now and then, so that no room stays awake for ever."""
    async with sleeper() as one:
        one.parts.record._writer.since = one.began
        await one.until(15)
        one.parts.record._writer.since = None
        await one.until(29)
        assert one.slept == pytest.approx([20])
        assert one.parts.metrics.blocked == {"commit": 1}


async def test_a_room_can_be_sent_to_sleep_at_once(autojump_clock: MockClock) -> None:
    """Unless there is mail, which comes first."""
    async with sleeper() as one:
        await one.until(3)
        one.parts.idleness.sleep_now("idle")
        await one.until(4)
        one.message()
        one.parts.idleness.sleep_now("idle")
        await one.until(5)
        assert one.slept == pytest.approx([3])


async def test_a_crash_forgets_what_held_the_room(autojump_clock: MockClock) -> None:
    """And what was decided; who releases its hold afterwards does no harm."""
    async with sleeper() as one:
        idleness = one.parts.idleness
        idleness.hold("keep_awake", "call")
        idleness.due = True
        idleness.reset()
        assert (idleness.holds, idleness.due, idleness.deadline) == (None, False, None)
        await one.until(2)
        idleness.release("keep_awake", "call")
        assert not idleness.holds
        await one.until(13)
        assert one.slept == pytest.approx([12])


async def test_after_the_end_nothing_is_decided(autojump_clock: MockClock) -> None:
    """Neither by the deadline that was set nor by one that a release would set."""
    async with sleeper() as one:
        one.parts.idleness.hold("keep_awake", "call")
        one.parts.idleness.close()
        one.parts.idleness.release("keep_awake", "call")
        one.message()
        await one.until(100)
        assert one.slept == []


@attrs.frozen
class Event:
    """Something that happens so many seconds after the one before it."""

    after: int
    kind: str
    reason: str


events = st.lists(
    st.builds(
        Event,
        st.sampled_from([0, 1, 5, 9, 10, 11, 23]),
        st.sampled_from(["message", "hold", "release", "commit", "committed"]),
        st.sampled_from("ab"),
    ),
    max_size=25,
)


def apart(events: list[Event]) -> list[tuple[float, Event]]:
    """The events with their times, none of which falls together with another's timeout."""
    timed, now = [], 0.0
    for number, event in enumerate(events):
        now += event.after + (number + 1) / 1000
        timed.append((now, event))
    return timed


def foretold(events: list[tuple[float, Event]], end: float) -> list[float]:
    """When a room is to sleep to which this happens."""
    slept, quiet_since, committing = [], 0.0, False
    holds: collections.Counter[str] = collections.Counter()
    for when, event in [*events, (end, Event(0, "end", ""))]:
        while not (holds or committing) and quiet_since + IDLE < when:
            quiet_since += IDLE
            slept.append(quiet_since)
        if event.kind == "message":
            quiet_since = when
        elif event.kind == "hold":
            holds[event.reason] += 1
        elif event.kind == "release" and holds[event.reason]:
            holds[event.reason] -= 1
            holds += collections.Counter()
            quiet_since = when if not holds else quiet_since
        elif event.kind == "commit":
            committing = True
        elif event.kind == "committed":
            committing = False
            if not holds and quiet_since + IDLE < when:
                quiet_since = when
                slept.append(when)
    return slept


@settings(max_examples=120, deadline=None)
@given(events)
def test_it_sleeps_when_it_may_whatever_happens_before(events: list[Event]) -> None:
    """Neither early nor late, in any order of messages, holds, releases and commits."""

    async def main() -> None:
        async with sleeper() as one:
            idleness, writer = one.parts.idleness, one.parts.record._writer
            for when, event in timed:
                await one.until(when)
                if event.kind == "message":
                    one.message()
                elif event.kind == "hold":
                    idleness.hold("keep_awake", event.reason)
                elif event.kind == "commit":
                    writer.since = writer.since or trio.current_time()
                elif event.kind == "committed":
                    writer.since = None
                    idleness.committed()
                elif event.reason in idleness.held:
                    idleness.release("keep_awake", event.reason)
            await one.until(end)
            assert one.slept == pytest.approx(foretold(timed, end))

    timed = apart(events)
    end = (timed[-1][0] if timed else 0) + 35.5
    trio.run(main, clock=MockClock(autojump_threshold=0))


async def _grow(ctx: Context[list[int]]) -> None:
    ctx.state.append(1)


async def test_a_room_that_could_not_be_saved_sleeps_as_soon_as_it_can(autojump_clock: MockClock) -> None:
    """And not an idle timeout later; while the store fails it is tried less and less often."""
    store = FaultyStore(MemoryStore())
    slow: Room[list[int]] = Room("slow", state=list, idle_timeout=300, snapshot_interval=1000)
    slow.on("grow")(_grow)
    async with open_rooms([slow], store=store) as rooms:
        await rooms.get("slow", "x").ask("grow")
        await trio.sleep(299)
        store.fail_commits(StoreError("it is away"), times=3)
        await trio.sleep(5)
        assert rooms.get("slow", "x").info().stage.value == "asleep"
        await rooms.get("slow", "x").ask("grow")
        await trio.sleep(299)
        store.fail_commits(StoreError("it is away"), times=1_000_000)
        await trio.sleep(1000)
        assert 2 < rooms.metrics().blocked["save_failed"] < 100
