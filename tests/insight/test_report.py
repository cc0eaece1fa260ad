"""What is promised beside what was measured: on the page, by the command, and what it is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Context, Policy, Room, Rooms, open_rooms
from trio_rooms._cli.main import main
from trio_rooms._server.pages import Pages
from trio_rooms._server.paths import Paths
from trio_rooms.testing import connect

NAMES = {
    "hibernation_strategy": {"trigger_conditions", "hibernation_ratio_target", "wake_conditions"},
    "cost_optimization": {
        "expected_savings",
        "hibernation_overhead_ms",
        "state_persistence_cost",
        "resource_reduction",
    },
    "performance_characteristics": {
        "hibernation_latency_ms",
        "wake_latency_ms",
        "state_restoration_ms",
        "message_delivery_delay_ms",
    },
    "reliability": {"state_persistence", "connection_recovery", "message_guarantees", "failover_mechanism"},
}
STANDARDS = [
    "savings >= 90 % of an idle connection's memory",
    "wake < 100 ms",
    "no data lost by hibernating",
    "99.9 % of connections restored",
    "< 10 ms extra delay",
]
counter: Room[dict[str, int]] = Room("counter", state=dict, idle_timeout=10, connection_idle_timeout=math.inf)
hidden: Room[None] = Room("hidden", public=False)


@counter.on("add")
async def add(ctx: Context[dict[str, int]], data: int) -> int:
    """Count."""
    ctx.state["sum"] = ctx.state.get("sum", 0) + data
    return ctx.state["sum"]


@counter.on("fail")
async def fail(ctx: Context[dict[str, int]]) -> None:
    """Crash."""
    ctx.room.start_soon(_raise)


async def _raise() -> None:
    msg = "on purpose"
    raise ValueError(msg)


def report(rooms: Rooms) -> Any:
    """What is at ``/report``."""
    public = {"counter": rooms._definitions["counter"]}
    paths = Paths(public, "", "/{room}/{id}")
    pages = Pages(public, paths, rooms._supervisor.placement, rooms.statistics, rooms._insight)
    answer = pages.page("/report")
    assert answer is not None
    return json.loads(answer.body, parse_constant=pytest.fail)


def leaves(content: Any) -> Iterator[tuple[str, Any]]:
    """All but the verdicts, by name."""
    for part in NAMES:
        yield from content[part].items()


def verdicts(content: Any) -> dict[str, tuple[Any, Any]]:
    """What was measured, and whether that holds."""
    return {one["standard"]: (one["measured"], one["holds"]) for one in content["verdicts"]}


async def test_what_was_not_seen_is_null(autojump_clock: MockClock) -> None:
    """All names are there from the first moment, with what is declared, and nothing is guessed."""
    async with open_rooms([counter, hidden], policy=Policy(ratio=0.8)) as rooms:
        content = report(rooms)
    assert {part: set(found) for part, found in content.items() if part != "verdicts"} == NAMES
    for name, leaf in leaves(content):
        assert set(leaf) == {"declared", "measured"}, name
        assert leaf["measured"] is None, name
        assert leaf["declared"] is not None, name
    assert verdicts(content) == dict.fromkeys(STANDARDS, (None, None))
    strategy = content["hibernation_strategy"]
    assert strategy["hibernation_ratio_target"]["declared"] == 0.8
    assert strategy["trigger_conditions"]["declared"]["rooms"] == {
        "counter": {
            "idle_timeout": 10,
            "message_threshold": 10,
            "activity_window": 10,
            "connection_idle_timeout": None,
        }
    }
    assert "hidden" not in json.dumps(content)


async def test_what_was_seen_is_measured(autojump_clock: MockClock) -> None:
    """A room that has slept, was woken, and crashed; what it knew is there."""
    async with open_rooms([counter]) as rooms, connect(rooms, "counter/a") as client:
        await client.ask("add", 1)
        await trio.sleep(100)
        assert await client.ask("add", 1) == 2
        rooms._hub.metrics.delivery_active.note(0.002)
        rooms._hub.metrics.delivery_hibernated.note(0.005)
        rooms._hub.metrics.resumes["resumed"] += 1999
        rooms._hub.metrics.resumes["unknown"] += 1
        content = report(rooms)
        measured = {name: leaf["measured"] for name, leaf in leaves(content)}
        assert measured.pop("trigger_conditions")["idle"] == 1
        assert measured.pop("wake_conditions")["message"] >= 1
        assert measured.pop("failover_mechanism") is None
        assert measured.pop("hibernation_ratio_target") == 0
        assert measured.pop("state_persistence")["lost"] == {"state": 0, "snapshot": 0, "message": 0}
        assert measured.pop("message_delivery_delay_ms") == pytest.approx(3, rel=0.15)
        assert measured.pop("expected_savings") > 0.9
        assert all(value is not None for value in measured.values()), measured
        found = verdicts(content)
        assert [holds for _, holds in found.values()] == [True] * 5
        assert found["no data lost by hibernating"] == (0, True)
        assert found["99.9 % of connections restored"] == (0.9995, True)
        await client.ask("fail")
        await trio.sleep(1)
        assert report(rooms)["reliability"]["failover_mechanism"]["measured"] == {"crashes": 1}


async def test_what_does_not_hold_is_told(autojump_clock: MockClock) -> None:
    """Each verdict can be false."""
    async with open_rooms([counter]) as rooms:
        noted, sizes = rooms._hub.metrics, rooms._insight._sizes
        for number in range(10):
            noted.wake_latency.note(0.01 + 0.1 * (number == 7))
        noted.delivery_active.note(0.001)
        noted.delivery_hibernated.note(0.02)
        noted.lost["snapshot"] += 1
        noted.resumes.update({"resumed": 998, "expired": 1, "too_far_behind": 1})
        sizes._link.note(200)
        sizes._shared_room.note(1700)
        sizes._members.note(1)
        found = verdicts(report(rooms))
        assert {holds for _, holds in found.values()} == {False}
        assert found[STANDARDS[0]][0] == pytest.approx(1 - 200 / 1900, abs=1e-6)
        assert found[STANDARDS[2]][0] == 1
        assert found[STANDARDS[3]][0] == 0.998


async def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    """For people, with the verdicts first; or as it is."""
    async with open_rooms([counter]) as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        await rooms.get("counter", "a").ask("add", 1)
        await rooms.get("counter", "a").hibernate()
        await rooms.get("counter", "a").ask("add", 1)
        url = f"http://{address.host}:{address.port}"
        assert await trio.to_thread.run_sync(main, ["report", url]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"not seen yet  {STANDARDS[0]}"
        assert lines[1].startswith("yes           wake < 100 ms: ")
        assert lines[2] == "yes           no data lost by hibernating: 0"
        at = lines.index("  expected savings")
        assert lines[at + 1 : at + 3] == ["    declared: 0.9", "    measured: not seen yet"]
        assert await trio.to_thread.run_sync(main, ["report", url, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert set(shown) == {*NAMES, "verdicts"}
        assert await trio.to_thread.run_sync(main, ["report", f"{url}/elsewhere"]) == 1
        assert "404" in capsys.readouterr().err
        nursery.cancel_scope.cancel()
