from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.room.parts import Parts, wired
from trio_rooms import Room, StaleContext


class Broken(Exception):
    """What a task raises."""


def den() -> Room[None]:
    """A room that does nothing."""
    return Room("den", idle_timeout=10)


def of_group(group: BaseExceptionGroup[BaseException]) -> list[type[BaseException]]:
    """The kinds of what it holds."""
    return [type(error) for error in group.exceptions]


async def _cleans_up(gate: trio.Event, slowly: trio.Event) -> None:
    try:
        await gate.wait()
    finally:
        with trio.CancelScope(shield=True):
            await slowly.wait()


async def test_a_task_counts_until_it_has_unwound(autojump_clock: MockClock) -> None:
    """Its clean-up included, whether it ends by itself or is cancelled."""
    async with wired(den()) as parts:
        gate, slowly = trio.Event(), trio.Event()
        parts.background.start(_cleans_up, (gate, slowly), None, keep_awake=False)
        parts.background.start(_cleans_up, (trio.Event(), slowly), None, keep_awake=False)
        assert parts.background.tasks == 2
        gate.set()
        assert parts.background.nursery is not None
        parts.background.nursery.cancel_scope.cancel()
        await _blocked()
        assert parts.background.tasks == 2
        slowly.set()
        await _blocked()
        assert parts.background.tasks == 0


async def _blocked() -> None:
    """All other tasks have come to rest, also where this one's nursery is cancelled."""
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()


async def test_what_a_task_did_is_looked_at_when_it_ends(autojump_clock: MockClock) -> None:
    """It may have changed the state, so there is something to save; so it is looked at when it begins."""
    async with wired(den()) as parts:
        gate = trio.Event()
        parts.background.start(gate.wait, (), None, keep_awake=False)
        assert parts.record.dirty
        parts.record.dirty = False
        await wait_all_tasks_blocked()
        assert not parts.record.dirty
        gate.set()
        await wait_all_tasks_blocked()
        assert parts.record.dirty


async def test_a_task_that_keeps_the_room_awake_is_a_hold_by_its_name(autojump_clock: MockClock) -> None:
    """The one that it was given, or the function's; the others hold nothing."""
    async with wired(den()) as parts:
        parts.background.start(trio.sleep, (1,), "upload", keep_awake=True)
        parts.background.start(trio.sleep, (2,), None, keep_awake=True)
        parts.background.start(trio.sleep, (3,), "idle", keep_awake=False)
        assert [*(parts.idleness.holds or ())] == [("task", "upload"), ("task", "sleep")]
        await trio.sleep(1.5)
        assert parts.idleness.held == ("sleep",)
        await trio.sleep(1)
        assert not parts.idleness.holds


def _with_one_argument(_argument: object) -> None:
    """Nothing; and not async."""


@pytest.mark.parametrize("how", ["raises", "is cancelled", "cannot be called"])
async def test_however_a_task_ends_its_hold_ends(how: str, autojump_clock: MockClock) -> None:
    """And it is counted no more; what it raised goes to the nursery, and so crashes the room."""
    async with wired(den()) as parts:
        raised: list[type[BaseException]] = []
        try:
            async with trio.open_nursery() as life:
                parts.background.nursery = life
                if how == "raises":
                    parts.background.start(_raise, (), None, keep_awake=True)
                elif how == "is cancelled":
                    parts.background.start(trio.sleep_forever, (), None, keep_awake=True)
                    life.cancel_scope.cancel()
                else:
                    parts.background.start(_with_one_argument, (), None, keep_awake=True)  # type: ignore[arg-type]
                assert parts.idleness.holds
        except ExceptionGroup as group:
            raised = of_group(group)
        assert raised == {"raises": [Broken], "is cancelled": [], "cannot be called": [TypeError]}[how]
        assert not parts.idleness.holds
        assert parts.background.tasks == 0


async def _raise() -> None:
    raise Broken


async def test_a_room_that_goes_to_sleep_starts_no_more_tasks() -> None:
    """Whoever wants one is told, and nothing is counted or held for it."""
    async with wired(den()) as parts:
        parts.background.nursery = None
        with pytest.raises(StaleContext, match="no task can be started"):
            parts.background.start(trio.sleep_forever, (), "late", keep_awake=True)
        assert (parts.background.tasks, parts.idleness.holds) == (0, None)


async def test_an_error_from_outside_crashes_the_room_while_there_is_one() -> None:
    """After the end it is nobody's."""
    async with wired(den()) as parts:
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 (the block is what is tested)
            async with trio.open_nursery() as life:
                _fail_in(parts, life)
                await trio.sleep_forever()
        assert of_group(caught.value) == [Broken]
        parts.background.nursery = None
        parts.background.fail(Broken())
        await wait_all_tasks_blocked()


def _fail_in(parts: Parts, life: trio.Nursery) -> None:
    parts.background.nursery = life
    parts.background.fail(Broken())
