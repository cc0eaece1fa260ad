"""Heartbeats: the same short message of the same connection at regular intervals."""

from __future__ import annotations

import itertools

import pytest

from trio_rooms._policy.heartbeats import Heartbeats

ROOM = "chat/lobby"


def heard(*times: float, message: str | bytes = "ping") -> list[float | None]:
    """What is found as messages come at these times."""
    beats = Heartbeats()
    return [beats.heard(ROOM, 1, message, when) for when in times]


def test_the_fourth_in_a_row_is_a_heartbeat() -> None:
    """With a tenth of its interval to spare, and some that nobody heard."""
    assert heard(0, 30, 60, 90, 120) == [None, None, None, 30, 30]
    assert heard(0, 30, 62, 90) == [None, None, None, 30]
    assert heard(0, 30, 90, 210) == [None, None, None, 30]
    assert heard(0, 60, 90, 120, 150) == [None, None, None, None, 30]


@pytest.mark.parametrize("times", [(0, 30, 75, 105, 150), (0, 10, 20, 70, 80), (0, 0, 0, 0, 0)])
def test_what_comes_at_odd_times_is_none(times: tuple[float, ...]) -> None:
    """Or all at once."""
    assert heard(*times) == [None] * len(times)


def test_only_what_is_short_and_the_same_is_one() -> None:
    """Of one connection of one room; text is not binary."""
    assert heard(0, 30, 60, 90, message="x" * 65) == [None] * 4
    assert heard(0, 30, 60, 90, message=b"x" * 64)[3] == 30
    beats = Heartbeats()
    messages: list[tuple[str, int, str | bytes]] = [
        ("a", 1, "x"),
        ("a", 2, "x"),
        ("b", 1, "x"),
        ("a", 1, b"x"),
        ("a", 1, "y"),
    ]
    found = {
        (key, connection)
        for when, (key, connection, message) in zip(itertools.count(step=10), messages * 5, strict=False)
        if beats.heard(key, connection, message, when) is not None
    }
    assert found == {("a", 2), ("b", 1)}


def test_it_is_bounded_and_goes_on_with_those_that_it_has() -> None:
    """Else nobody would be watched for long enough, where there are many."""
    beats, found = Heartbeats(), set()
    for when in range(0, 150, 30):
        for number in range(3000):
            if beats.heard(ROOM, number, "ping", when) is not None:
                found.add(number)
        assert len(beats._beats) == 1024
    assert found == set(range(1024))
    # Who has left makes room, after a while.
    for when in range(1000, 1150, 30):
        for number in range(2000, 3000):
            if beats.heard(ROOM, number, "ping", when) is not None:
                found.add(number)
    assert found >= set(range(2000, 3000))
    assert len(beats._beats) == 1024
