from __future__ import annotations

import gc
import weakref

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from trio_rooms._room.answers import Answer


class Wrong(Exception):
    """What a question failed with."""


async def test_a_value_is_waited_for(nursery: trio.Nursery) -> None:
    """Whoever asked gets the value, whether it comes before or after the wait began."""
    answer = Answer()
    answer.succeed("early")
    assert await answer.wait() == "early"
    answer = Answer()
    got: list[object] = []

    async def wait() -> None:
        got.append(await answer.wait())

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert got == []
    answer.succeed(None)
    await wait_all_tasks_blocked()
    assert got == [None]


@given(st.lists(st.integers() | st.builds(Wrong, st.text()), min_size=1, max_size=5))
def test_only_the_first_answer_counts(outcomes: list[int | Wrong]) -> None:
    """Whatever else the question is answered with, and in which order."""

    async def main() -> None:
        answer = Answer()
        for outcome in outcomes:
            if isinstance(outcome, Wrong):
                answer.fail(outcome)
            else:
                answer.succeed(outcome)
        first = outcomes[0]
        if isinstance(first, Wrong):
            with pytest.raises(Wrong) as caught:
                await answer.wait()
            assert caught.value is first
        else:
            assert await answer.wait() == first

    trio.run(main)


async def test_a_cancelled_wait_only_stops_waiting() -> None:
    """Who answers a question that nobody waits for is told nothing, and does not fail."""
    for error in (None, Wrong()):
        answer = Answer()
        with trio.move_on_after(0) as scope:
            await answer.wait()
        assert scope.cancelled_caught
        for _ in range(2):
            if error is None:
                answer.succeed(1)
            else:
                answer.fail(error)


def _dies(answer: Answer, error: Wrong) -> weakref.ref[Wrong]:
    reference = weakref.ref(error)
    answer.fail(error)
    return reference


async def test_an_error_is_gone_once_it_was_raised() -> None:
    """Neither the answer nor a frame of the waiter keeps it, also where no collector looks."""
    gc.disable()
    try:
        answer = Answer()
        reference = _dies(answer, Wrong())
        try:
            await answer.wait()
        except Wrong:
            assert reference() is not None
        assert reference() is None
    finally:
        gc.enable()


async def test_an_error_that_nobody_waits_for_is_not_kept() -> None:
    """Whether the waiter was cancelled before the answer came or after it."""
    gc.disable()
    try:
        before, after = Answer(), Answer()
        with trio.move_on_after(0):
            await before.wait()
        first, second = _dies(before, Wrong()), _dies(after, Wrong())
        with trio.move_on_after(0):
            await after.wait()
        assert (first(), second()) == (None, None)
    finally:
        gc.enable()
