"""What is recommended, and that it comes true: a life is had once, and once more as was advised."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.insight.lives import hall, life, live
from trio_rooms import Policy, Room, Rooms, open_rooms
from trio_rooms._cli.lives import replay_file
from trio_rooms._metrics.trace import USED
from trio_rooms._state.saved import Loaded
from trio_rooms.testing import connect


def shown(rooms: Rooms, *, insider: bool) -> Any:
    """What ``/stats`` shows of it."""
    return rooms._insight.advice_for_clients(insider=insider)


async def test_what_is_advised_comes_true(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Few hibernate; a shorter timeout is recommended, and does what was predicted when it is set."""
    lived = life(rooms=5, clients=3, seconds=900, pause=90)
    before = await live(lived, idle_timeout=300, connection_idle_timeout=300)
    (advice,) = before.recommended
    assert advice.rule == "hibernation_ratio"
    evidence, predicted = advice.evidence, advice.predicted
    assert evidence["hibernation_ratio"] == pytest.approx(before.ratio, abs=0.05)
    assert before.ratio < 0.7 <= predicted["hibernation_ratio"]
    assert f"idle_timeout={predicted['idle_timeout']:g} in place of 300" in advice.message
    after = await live(
        lived,
        idle_timeout=predicted["idle_timeout"],
        connection_idle_timeout=predicted["connection_idle_timeout"],
    )
    assert after.ratio == pytest.approx(predicted["hibernation_ratio"], abs=0.05)
    assert after.wakes * 3600 / lived.seconds == pytest.approx(predicted["wakes_per_hour"], rel=0.1)
    assert after.recommended == ()
    # What was recorded says the same.
    file = tmp_path / "trace"
    file.write_bytes(before.recorded)
    findings = replay_file(file)
    assert findings.lost == 0
    assert findings.seconds == pytest.approx(lived.seconds, abs=1)
    assert findings.present is not None
    assert findings.present.hibernation_ratio == pytest.approx(before.ratio, abs=0.02)
    (advised,) = [one for one in findings.settings if one.policy.idle_timeout == predicted["idle_timeout"]]
    assert advised.hibernation_ratio == pytest.approx(after.ratio, abs=0.02)
    assert advised.added_wakes == pytest.approx(after.wakes, rel=0.1)


async def test_nothing_is_recommended_before_anything_is_known(autojump_clock: MockClock) -> None:
    """Neither at once, nor in a minute, nor where connections are few."""
    async with open_rooms([hall()]) as rooms, connect(rooms, "hall/a") as client:
        assert rooms.recommendations() == ()
        await client.send("x")
        await trio.sleep(200)
        assert rooms._hub.activity.total == 0
        assert rooms.recommendations() == ()


async def test_rooms_that_wake_again_and_again_are_to_sleep_later(autojump_clock: MockClock) -> None:
    """A timeout just below the pauses has a room wake each time; one above them is predicted to spare it."""
    async with open_rooms([hall(idle_timeout=8)]) as rooms, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(rooms, f"hall/{number}")) for number in range(12)]
        for _ in range(10):
            for client in clients:
                await client.send("x")
            await trio.sleep(8.5)
        assert rooms.metrics().flaps >= 10  # Of each room one: then it sleeps later by itself, for a while.
        (advice,) = rooms.recommendations()
        (told,) = shown(rooms, insider=False)
        assert told["rule"] == "flapping"
        # Of rooms that clients are not to know of nothing is shown.
        secret: Any = rooms._definitions
        secret["hall"] = attrs.evolve(secret["hall"], public=False)
        assert shown(rooms, insider=True) == []
    assert advice.rule == "flapping"
    assert advice.evidence["room"] == "hall"
    assert advice.evidence["wakes_per_hour"] == pytest.approx(12 * 3600 / 8.5, rel=0.15)
    assert advice.predicted["idle_timeout"] == 10
    assert advice.predicted["wakes_per_hour"] == 0
    assert "set idle_timeout=10 in place of 8, and rooms would wake 0 times" in advice.message


@pytest.mark.parametrize(
    ("why", "policy", "helps"),
    [
        (
            "ratio",
            {},
            "a larger least_idle spares those that will soon be used, and a lower hibernation ratio",
        ),
        (
            "cap",
            {"max_active": 9},
            "a larger least_idle spares those that will soon be used, and a higher max_a",
        ),
        ("cap", {"max_awake": 9}, "by sweeps: a higher max_awake puts fewer to sleep"),
        ("cap", {"max_awake": 9, "max_active": 9}, "by sweeps: a higher max_awake or max_active puts"),
        ("memory", {"max_awake": 9}, "a higher memory_limit, or less in the states of rooms"),
        ("lag", {}, "less work in handlers, or a larger max_lag"),
    ],
)
async def test_where_sweeps_wake_them_again_a_timeout_does_not_help(
    why: str, policy: dict[str, Any], helps: str, autojump_clock: MockClock
) -> None:
    """What puts them to sleep is to be changed, and nothing else."""
    async with open_rooms([hall()], policy=Policy(**policy)) as rooms:
        rooms._hub.metrics.flaps = 10
        rooms._hub.metrics.sleeps.update({"idle": 10, why: 20})
        advice = next(one for one in rooms.recommendations() if one.rule == "flapping")
        assert helps in advice.message
        assert advice.evidence == {"flaps": 10, "sleeps": 10, "swept": 20}
        rooms._hub.metrics.sleeps.update(idle=20)
        assert advice in rooms.recommendations()  # For some seconds.
        await trio.sleep(60)
        advice = next(one for one in rooms.recommendations() if one.rule == "flapping")
        assert advice.message.endswith("put to sleep: a longer idle_timeout spares that")


async def test_where_memory_is_short_fewer_are_to_be_awake(autojump_clock: MockClock) -> None:
    """A shorter timeout, with the rooms that would be awake then; where none helps, less in the states."""
    async with open_rooms([hall(idle_timeout=100)]) as rooms:
        rooms._hub.metrics.sleeps["memory"] += 5
        (advice,) = rooms.recommendations()
        assert advice.predicted == {}
        for number in range(40):
            async with connect(rooms, f"hall/{number}") as client:
                await client.send("x")
                await trio.sleep(10)
        (advice,) = rooms.recommendations()
        awake = rooms._supervisor.awake
    assert advice.rule == "memory"
    assert (advice.evidence["room"], advice.evidence["sleeps"]) == ("hall", 5)
    assert advice.evidence["awake_rooms"] == awake
    assert advice.predicted["idle_timeout"] == 60
    assert advice.predicted["awake_rooms"] == pytest.approx(6.5, rel=0.1)
    assert "set idle_timeout=60 in place of 100, and " in advice.message


async def test_slow_wakes_are_told_with_the_rooms_that_are_large(autojump_clock: MockClock) -> None:
    """Which and how large, to insiders alone, and of those that clients may know of."""
    async with open_rooms([hall(), Room("secret", public=False)]) as rooms:
        for _ in range(20):
            rooms._hub.metrics.wake_latency.note(0.15)
        (advice,) = rooms.recommendations()
        assert "no state is large" in advice.message
        assert advice.predicted == {}
        for key, size in (("hall/a", 2**20), ("secret/x", 2**19)):
            state = {"log": "x" * (size - 2**15), "rest": "x" * 2**15}
            loaded = Loaded(state, restarted=False, fell_back=False, size=size, seconds=size / 2**23)
            rooms._supervisor.signs.loaded(key, loaded, 1)
        await trio.sleep(6)
        (advice,) = rooms.recommendations()
        assert advice.rule == "wake_latency"
        assert [room["key"] for room in advice.evidence["rooms"]] == ["hall/a", "secret/x"]
        assert advice.evidence["p95"] == pytest.approx(0.15, rel=0.07)
        assert list(advice.evidence["rooms"][0]["parts"]) == ["log", "rest"]
        assert advice.predicted["bytes"] == pytest.approx(2**15, rel=0.1)
        assert advice.predicted["seconds"] == pytest.approx(0.125 / 32, rel=0.1)
        assert "of 1,049 KB and take 125 ms to load; keep in ctx.storage" in advice.message
        (told,) = shown(rooms, insider=True)
        assert [room["key"] for room in told["evidence"]["rooms"]] == ["hall/a"]
        (told,) = shown(rooms, insider=False)
        assert "rooms" not in told["evidence"]
        assert told["message"] == advice.message
        json.dumps(told)
        for _ in range(10):
            rooms._hub.metrics.wake_waits.note(0.1)
        rooms._supervisor.signs._loads.clear()
        await trio.sleep(60)
        (advice,) = rooms.recommendations()
        assert "a larger max_waking lets more" in advice.message


@pytest.mark.parametrize("connection_idle_timeout", [5, 100])
async def test_until_when_somebody_talked_is_known(
    autojump_clock: MockClock, connection_idle_timeout: float
) -> None:
    """Who is never silent for a second is noted as he begins, and as he hibernates, or his room sleeps."""
    room = hall(idle_timeout=20, connection_idle_timeout=connection_idle_timeout)
    async with open_rooms([room]) as rooms, connect(rooms, "hall/a") as client:
        await trio.sleep(10)
        began = trio.current_time()
        for _ in range(20):
            await client.send("x")
            await trio.sleep(0.5)
        await trio.sleep(30)
        rows = rooms._hub.trace.stretch("hall", trio.current_time()).rows
    used = [when - began for when, what, _, number in rows if what == USED and number]
    assert used == pytest.approx([0, 9.5])
