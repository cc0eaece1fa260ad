"""Rooms that are woken just after they were put to sleep."""

from __future__ import annotations

import pytest

from trio_rooms._policy.flapping import Flapping


def test_each_wake_too_early_raises_the_level() -> None:
    """Up to three."""
    flapping = Flapping()
    for number, level in enumerate([1, 2, 3, 3]):
        flapping.slept("a/b", number, 1)
        assert flapping.woken("a/b", number + 0.9) == level == flapping.level("a/b")
    assert flapping.level("a/c") == 0


@pytest.mark.parametrize("after", [1, 1.5, 1e9])
def test_a_sleep_that_lasted_forgets_it(after: float) -> None:
    """And so does one that nobody told of, since the program wanted it."""
    flapping = Flapping()
    flapping.slept("a/b", 0, 1)
    assert flapping.woken("a/b", 0) == 1
    flapping.slept("a/b", 10, 1)
    assert flapping.woken("a/b", 10 + after) == 0 == flapping.level("a/b")
    flapping.slept("a/b", 20, 1)
    assert flapping.woken("a/b", 20.5) == 1
    assert flapping.woken("a/b", 20.6) == 0


def test_a_level_stays_while_it_sleeps() -> None:
    """Others may wake it meanwhile who do not count."""
    flapping = Flapping()
    for _ in range(2):
        flapping.slept("a/b", 0, 1)
        flapping.woken("a/b", 0)
    for number in range(1000):
        flapping.slept(f"a/{number}", 100, 1)
    assert flapping.level("a/b") == 2


def test_it_is_of_constant_size() -> None:
    """Of ten thousand that sleep and a thousand that flapped; those that did so last are known."""
    flapping = Flapping()
    for number in range(11_000):
        flapping.slept(f"a/{number}", 0, 1)
    assert len(flapping._lately) == 10_000
    assert flapping.woken("a/999", 0.5) == 0
    for number in range(1000, 11_000):
        assert flapping.woken(f"a/{number}", 0.5) == 1
    assert len(flapping._levels) == 1024
    assert (flapping.level("a/10999"), flapping.level("a/9000")) == (1, 0)
    for number in range(10_000):
        flapping.slept(f"b/{number}", 0, 1)
    flapping.slept("c/1", 5, 1)
    assert len(flapping._lately) == 1  # What is over is not kept.
    flapping.slept("d/1", 5, 0)
    assert flapping.woken("d/1", 5) == 0
