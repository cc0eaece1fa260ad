from __future__ import annotations

import math
from collections import defaultdict
from itertools import accumulate, pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import Policy
from trio_rooms._insight.replay import Outcome, Replay, best, together


def policy(idle: float, connection: float = math.inf) -> Policy:
    """One under which a room sleeps so long after its last message, however many there were."""
    return Policy(idle_timeout=idle, connection_idle_timeout=connection, activity_window=0)


def test_a_connection_alone_is_hibernated_while_its_room_sleeps() -> None:
    """Of 100 s between two messages all but the idle timeout; the next message wakes the room."""
    replay = Replay([policy(10), policy(60), policy(300)])
    for time in (0, 100, 200):
        replay.message(time, "a", 1)
    short, middle, long = replay.outcomes(300)
    assert short.hibernation_ratio == pytest.approx(0.9)
    assert short.savings == pytest.approx(0.81)
    assert middle.hibernation_ratio == pytest.approx(0.4)
    assert long.hibernation_ratio == 0
    assert [one.added_wakes for one in (short, middle, long)] == [2, 2, 0]
    assert [one.awake_rooms for one in (short, middle, long)] == pytest.approx([0.1, 0.6, 1])


def test_one_that_is_silent_hibernates_while_others_talk() -> None:
    """Its own timeout ends that, where the room stays awake; its next message begins anew."""
    replay = Replay([policy(20, 30)])
    replay.message(0, "a", "silent")
    for time in range(0, 101, 10):
        replay.message(time, "a", "lively")
    replay.message(100, "a", "silent")
    (outcome,) = replay.outcomes(110)
    assert outcome.hibernation_ratio == pytest.approx(1 - (30 + 10 + 110) / 220)
    assert outcome.added_wakes == 0


def test_who_comes_and_leaves_counts_while_there() -> None:
    """Also those who never say anything; and in a room that sleeps they are hibernated from the beginning."""
    replay = Replay([policy(10, 1000)])
    replay.message(0, "a", None)
    replay.came(5, "a", 1)  # Active until the room sleeps.
    replay.came(20, "a", 2)
    replay.gone(40, "a", 2)
    replay.gone(40, "a", 2)
    (outcome,) = replay.outcomes(105, silent=1)
    assert outcome.connected == 100 + 20 + 105
    assert outcome.hibernation_ratio == pytest.approx(1 - 5 / 225)


def test_a_room_that_had_much_to_do_sleeps_later() -> None:
    """Not before there were few messages within the window, where that is longer than the timeout."""
    busy = Policy(idle_timeout=1, activity_window=100, message_threshold=5, connection_idle_timeout=1000)
    replay = Replay([busy, busy.of_room(idle_timeout=1, connection_idle_timeout=None)])
    for time in range(10):
        replay.message(time / 10, "a", 1)
    late, early = replay.outcomes(200.9)
    assert early.awake_rooms * 200.9 == pytest.approx(1.9)
    assert 50 < late.awake_rooms * 200.9 <= 101


def test_nothing_can_be_said_of_nobody() -> None:
    """There is no share of no connections."""
    (outcome,) = Replay([policy(1)]).outcomes(10)
    assert outcome.hibernation_ratio is None
    assert outcome.savings is None
    assert best([outcome]) is None


Rows = list[tuple[int, str, int | None, str]]


def in_order(rows: Rows) -> Rows:
    """With times in place of the pauses before them."""
    times = accumulate(row[0] for row in rows)
    return [(time, *row[1:]) for time, row in zip(times, rows, strict=True)]


ROWS = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.sampled_from("ab"),
        st.sampled_from([1, 2, 3, None]),
        st.sampled_from(["message", "message", "message", "here", "gone"]),
    ),
    max_size=30,
).map(in_order)


@given(ROWS)
def test_each_connection_is_as_if_looked_at_alone(
    rows: list[tuple[int, str, int | None, str]],
) -> None:
    """Under several policies at once it finds what one finds who looks at each for itself."""
    policies = [policy(3, 1000), policy(7, 4), policy(3, 2), policy(15, 15), policy(1000, 1000)]
    replay, end = Replay(policies, 0), 300
    seen: dict[str, list[int]] = {}
    """When each room had something to do."""
    first: dict[str, int] = {}
    """When it was first told of; until it has something to do, it sleeps."""
    lives: dict[tuple[str, int], list[list[tuple[int, bool]]]] = defaultdict(list)
    """Of each connection, each time from when it came until it left: when it was told of, and if it spoke."""
    here: set[tuple[str, int]] = set()
    for time, room, connection, what in rows:
        one = (room, connection or 0)
        if connection is None or what == "message":
            replay.message(time, room, connection)
            seen.setdefault(room, []).append(time)
            first.setdefault(room, time)
            if connection is not None:
                if one not in here:
                    lives[one].append([])
                    here.add(one)
                lives[one][-1].append((time, True))
        elif what == "here":
            replay.came(time, room, connection)
            seen.setdefault(room, [])
            first.setdefault(room, time)
            if one not in here:
                lives[one].append([(time, False)])
                here.add(one)
        else:
            replay.gone(time, room, connection)
            if one in here:
                here.remove(one)
                lives[one][-1].append((time, False))
    outcomes = replay.outcomes(end)
    for asked, outcome in zip(policies, outcomes, strict=True):
        slept = {room: sleeps(times, asked.idle_timeout, end) for room, times in seen.items()}
        active = connected = 0.0
        for (room, number), times in lives.items():
            for position, life in enumerate(times):
                left = (room, number) not in here or position < len(times) - 1
                until = life[-1][0] if left else end
                connected += until - life[0][0]
                spoken = life[:-1] if left else life
                for index, (time, spoke) in enumerate(spoken):
                    following = spoken[index + 1][0] if index + 1 < len(spoken) else until
                    awake = seen[room][0] if seen[room] else end
                    active += active_for(time, spoke, following, awake, slept[room], asked)
        assert outcome.connected == connected
        if connected:
            assert outcome.hibernation_ratio == pytest.approx(1 - active / connected)
        assert outcome.added_wakes == sum(wake < end for ends in slept.values() for _, wake in ends)
        asleep = sum(wake - sleep for ends in slept.values() for sleep, wake in ends)
        assert outcome.awake_rooms * end == pytest.approx(
            sum(end - times[0] for times in seen.values() if times) - asleep
        )


def sleeps(times: list[int], timeout: float, end: int) -> list[tuple[float, int]]:
    """When a room sleeps and wakes that has something to do at these times."""
    return [
        (time + timeout, following)
        for time, following in pairwise([*times, end])
        if following - time > timeout
    ]


def active_for(
    time: int, spoke: bool, following: int, awake: int, slept: list[tuple[float, int]], asked: Policy
) -> float:
    """How long a connection is active that is not told of again before ``following``."""
    if not spoke and (time < awake or any(sleep <= time < wake for sleep, wake in slept)):
        return 0
    ends = [sleep for sleep, _ in slept if sleep >= time] + [following, time + asked.connection_idle_timeout]
    return min(ends) - time


def outcome(timeout: float, ratio: float, wakes: int = 0) -> Outcome:
    """What a policy came to, of a life of 1,000 s of connections."""
    return Outcome(policy(timeout), ratio, wakes, 1.0, 1000.0)


def test_what_is_chosen() -> None:
    """The longest timeout under which most hibernates; else the largest share, if its wakes are worth it."""

    def chosen(*outcomes: Outcome, present: Outcome | None = None) -> float | None:
        found = best(outcomes, present)
        return None if found is None else found.policy.idle_timeout

    assert chosen(outcome(5, 0.99), outcome(60, 0.85), outcome(300, 0.5)) == 60
    assert chosen(outcome(5, 0.7), outcome(60, 0.4)) == 5
    assert chosen(outcome(5, 0.7, 400), outcome(60, 0.4)) == 60
    assert chosen(outcome(5, 0.6), outcome(60, 0.6)) == 60
    assert chosen(outcome(5, 0.02)) is None
    assert chosen(outcome(5, 0.62), present=outcome(60, 0.6)) is None
    assert chosen(outcome(5, 0.9), outcome(60, 0.82), present=outcome(300, 0.6)) == 60


def test_rooms_of_several_kinds_are_taken_together() -> None:
    """Each counts with the time of its connections; one without any does not."""
    none = attrs.evolve(outcome(5, 0.0, 1), hibernation_ratio=None, connected=0.0)
    both = together([outcome(5, 0.8, 2), attrs.evolve(outcome(5, 0.2, 3), connected=3000.0), none])
    assert both.hibernation_ratio == pytest.approx(0.35)
    assert (both.added_wakes, both.connected, both.awake_rooms) == (6, 4000.0, 3.0)


def test_a_room_sleeps_when_its_messages_are_few_and_not_when_they_may_be() -> None:
    """A window that ends is not empty yet: of what was in it some counts for as long as another takes."""
    policy = Policy(idle_timeout=10, activity_window=60, message_threshold=3, connection_idle_timeout=500)
    replay = Replay([policy])
    for time in range(0, 49, 8):
        replay.message(time, "a", 1)
    # Seven in the first minute: of these, as much as three counts when four sevenths of the next are over.
    replay.came(50.0, "a", 2)  # To look at the room does not change what it is to do.
    replay.message(990.0, "a", None)
    (outcome,) = replay.outcomes(1000.0)
    assert outcome.awake_rooms == pytest.approx((60 + 60 * 4 / 7 + 10) / 1000)
    assert outcome.added_wakes == 1
