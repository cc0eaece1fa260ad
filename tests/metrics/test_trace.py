from __future__ import annotations

import random
from itertools import accumulate

import pytest

from trio_rooms import Policy
from trio_rooms._insight.advice import replayed
from trio_rooms._insight.replay import Outcome, Replay
from trio_rooms._metrics import trace as module
from trio_rooms._metrics.trace import CAME, GONE, HERE, USED, Trace

FD = 1 << 20


def outcome_of(trace: Trace, name: str, now: float, idle_timeout: float) -> tuple[Outcome, float]:
    """What it would have come to under an idle timeout, and the share of the rooms that this is about."""
    policy = Policy(idle_timeout=idle_timeout, connection_idle_timeout=1000, activity_window=0)
    stretch = trace.stretch(name, now)
    (outcome,) = replayed(stretch, [policy], now)
    return outcome, stretch.share


def test_what_happened_is_told_in_order() -> None:
    """When there was something to do after a silence, and until when there was before it."""
    trace = Trace()
    trace.came("a/x", 1 * FD, 10.0, awake=True)
    trace.came("a/x", 2 * FD, 11.0, awake=False)
    trace.used("a/x", 1 * FD, 20.0, 5.0)
    trace.worked("a/x", 30.0)
    trace.rested("a/x", 1 * FD, 22.0)
    trace.gone("a/x", 2 * FD, 40.0)
    trace.came("b/x", 3 * FD, 12.0, awake=False)
    key = hash("a/x")
    stretch = trace.stretch("a", 50.0)
    assert stretch.rows == [
        (10, CAME, key, 1 * FD),
        (11, HERE, key, 2 * FD),
        (15, USED, key, 1 * FD),
        (20, USED, key, 1 * FD),
        (22, USED, key, 1 * FD),
        (30, USED, key, 0),
        (40, GONE, key, 2 * FD),
    ]
    assert (stretch.begin, stretch.silent, stretch.share) == (10, 0, 1)
    assert trace.connections("a") == 1
    assert trace.definitions == ("a", "b")
    assert trace.stretch("c", 50.0).rows == []


def test_it_takes_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes; who was there before is known to have been, and who has not been heard of since."""
    monkeypatch.setattr(module, "_MOST", 100)
    monkeypatch.setattr(module, "_SPAN", 50.0)
    trace = Trace()
    for number in (1, 2, 3):
        trace.came("a/x", number * FD, 0.0, awake=False)
    for time in range(1, 1001):
        trace.used("a/x", (1 + time % 2) * FD, float(time), 2.0)
    assert len(trace) == 100
    stretch = trace.stretch("a", 1001.0)
    assert stretch.begin == 900
    assert stretch.rows[2] == (899, USED, hash("a/x"), 2 * FD)
    assert stretch.silent == 1
    assert [row for row in stretch.rows if row[1] == HERE] == [
        (899, HERE, hash("a/x"), 2 * FD),
        (899, HERE, hash("a/x"), 1 * FD),
    ]


def test_where_much_happens_some_rooms_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches back for as long, and what is found of those rooms is true of all."""
    monkeypatch.setattr(module, "_MOST", 2000)
    trace, chance = Trace(), random.Random(3)
    rooms = [f"a/{number}" for number in range(1000)]
    for number, key in enumerate(rooms):
        trace.came(key, number * FD, 0.0, awake=False)
    said: list[tuple[float, int, str]] = []
    for number, key in enumerate(rooms):
        times = accumulate(chance.expovariate(1 / 60) + 1 for _ in range(40))
        said += [(time, number, key) for time in times]
    said.sort()
    now = 1200.0
    last: dict[int, float] = {}
    for time, number, key in said:
        if time < now:
            trace.used(key, number * FD, time, time - last.get(number, time))
            last[number] = time
    assert len(trace) <= 2000
    begin = trace.stretch("a", now).begin
    assert begin < 400
    found, share = outcome_of(trace, "a", now, 30)
    assert share < 0.2
    whole = Replay([found.policy], begin)
    for number, key in enumerate(rooms):
        whole.came(0, key, number)
    for time, number, key in said:
        if time < now:
            whole.message(time, key, number)
    (exact,) = whole.outcomes(now)
    assert found.hibernation_ratio == pytest.approx(exact.hibernation_ratio, abs=0.03)
    assert found.added_wakes / share == pytest.approx(exact.added_wakes, rel=0.1)


def test_where_rooms_are_few_some_connections_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the room has to do is then said by the room itself."""
    monkeypatch.setattr(module, "_MOST", 2000)
    trace, chance = Trace(), random.Random(3)
    for number in range(1000):
        trace.came("a/x", number * FD, 0.0, awake=False)
    assert not trace.thinned
    time, messages = 0.0, []
    for pause in [*2500 * [0.1], *80 * [1.5, 1.5, 1.5, 100]]:  # Much happens at first.
        time += pause
        number = chance.randrange(1000)
        messages.append((time, number))
        trace.used("a/x", number * FD, time)
        if trace.thinned:
            trace.worked("a/x", time)
    assert trace.thinned
    outcome, share = outcome_of(trace, "a", time, 50)
    assert share == 1
    whole, begin = Replay([outcome.policy]), trace.stretch("a", time).begin
    for number in range(1000):
        whole.came(begin, "a/x", number)
    for when, number in messages:
        if when >= begin:
            whole.message(when, "a/x", number)
    (exact,) = whole.outcomes(time)
    assert outcome.hibernation_ratio == pytest.approx(exact.hibernation_ratio, abs=0.003)
    assert outcome.added_wakes == exact.added_wakes == 80


class Told:
    """Who is told of everything."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def came(self, key: str, number: int, now: float, *, awake: bool) -> None:
        """A connection came."""
        self.heard.append(("came", key, number, now, awake))

    def gone(self, key: str, number: int, now: float) -> None:
        """A connection left."""
        self.heard.append(("gone", key, number, now))

    def worked(self, key: str, when: float) -> None:
        """A room had something to do."""
        self.heard.append(("worked", key, when))


def test_who_records_is_told_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of what is not kept."""
    monkeypatch.setattr(module, "_MOST", 0)
    trace = Trace()
    trace.recorder = told = Told()
    monkeypatch.setattr(Trace, "_note", lambda *_: None)
    trace.came("a/x", FD, 1.0, awake=True)
    trace.worked("a/x", 2.0)
    trace.gone("a/x", FD, 3.0)
    assert told.heard == [("came", "a/x", FD, 1.0, True), ("worked", "a/x", 2.0), ("gone", "a/x", FD, 3.0)]
