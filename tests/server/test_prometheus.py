from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import trio
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_text
from trio.testing import MockClock

from tests.server.test_pages import hall, pages
from trio_rooms import CloseCode
from trio_rooms._server.pages import Pages
from trio_rooms.testing import connect

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def scraped(made: Pages, accept: str = "") -> tuple[str, str]:
    """The text of ``/metrics``, and which kind it is."""
    answer = made.page("/metrics", accept)
    assert answer is not None
    assert answer.status == 200
    return answer.body.decode(), answer.kind


def samples(made: Pages) -> dict[tuple[str, tuple[str, ...]], float]:
    """Its values, by name and labels' values."""
    found = [sample for family in read_text(scraped(made)[0]) for sample in family.samples]
    return {(one.name.removeprefix("trio_rooms_"), (*one.labels.values(),)): one.value for one in found}


async def test_prometheus_is_told_what_the_program_is(autojump_clock: MockClock) -> None:
    """Every gauge, counter and histogram has the value that `Rooms.metrics` has."""
    async with pages(hall("hall")) as (made, rooms):
        async with connect(rooms, "hall/a") as client, connect(rooms, "hall/b"):
            await client.send("hello")
            await trio.sleep(30)
            await client.send("hello")
            await trio.sleep(1)
            told, seen = rooms.metrics(), samples(made)
            rooms_by_stage = {labels[0]: int(n) for (name, labels), n in seen.items() if name == "rooms"}
        assert (seen["connections", ("active",)], seen["connections", ("hibernated",)]) == (1, 1)
        assert rooms_by_stage.pop("awake") == rooms_by_stage.pop("asleep") == 1
        assert rooms_by_stage == dict.fromkeys(("waking", "hibernating", "restarting", "failed"), 0)
        assert seen["hibernation_ratio", ()] == told.ratio == 0.5
        assert seen["cost_savings_ratio", ()] == told.cost_savings == 0.45
        for cause, count in told.wakes.items():
            assert seen["wakes_total", (cause,)] == count == (2 if cause == "message" else 0)
        for trigger, count in told.sleeps.items():
            assert seen["hibernations_total", (trigger,)] == count
        latency = told.wake_latency_seconds
        assert seen["wake_latency_seconds_count", ()] == latency.count == 2
        assert latency.mean is not None
        assert seen["wake_latency_seconds_sum", ()] == pytest.approx(2 * latency.mean)
        slept = [seen["hibernation_duration_seconds_bucket", (le,)] for le in ("16.0", "64.0", "+Inf")]
        assert slept == [0, 1, 1]
        assert seen["messages_total", ("received",)] == 2
        assert seen["queue_length", ("mailboxes",)] == told.queues.mailboxes
        for recipient in ("active", "hibernated"):
            assert ("delivery_delay_seconds_count", (recipient,)) in seen


async def test_who_asks_for_it_gets_openmetrics(autojump_clock: MockClock) -> None:
    """Both formats are such as the library's own strict readers take, with every name once."""
    async with pages(hall("hall")) as (made, _):
        text, kind = scraped(made)
        assert kind.startswith("text/plain; version=0.0.4")
        plain = {family.name for family in read_text(text)}
        text, kind = scraped(made, accept=f"{OPENMETRICS},text/plain;q=0.5,*/*;q=0.1")
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n")
        named = [family.name for family in read_openmetrics(text)]  # type: ignore[no-untyped-call]
        assert len(set(named)) == len(named) == len(plain)


async def test_what_is_asked_for_in_words_that_are_none_is_answered(autojump_clock: MockClock) -> None:
    """Prometheus' library does not get on with every header; older versions of it do not look so closely."""
    async with pages(hall("hall")) as (made, _):
        for accept in ("application/openmetrics-text; version=abc", "text/plain; version=1.x", ";=,=;"):
            text, kind = scraped(made, accept=accept)
            assert kind.startswith(("text/plain", "application/openmetrics-text; version=1.0.0"))
            assert "trio_rooms_connections{" in text


async def test_what_one_process_has_open_twice_is_told_apart(autojump_clock: MockClock) -> None:
    """Each answer is made of its own rooms, and nothing is put where the program's own metrics are."""
    before = prometheus_client.generate_latest()
    async with (
        pages(hall("hall")) as (made, rooms),
        pages(hall("hall")) as (others, _),
        connect(rooms, "hall/a"),
    ):
        assert samples(made)["connections", ("hibernated",)] == 1
        assert samples(others)["connections", ("hibernated",)] == 0
    assert b"trio_rooms" not in before + prometheus_client.generate_latest()


async def test_labels_are_bounded(autojump_clock: MockClock) -> None:
    """Whatever a program closes connections with, or calls what keeps its rooms awake."""
    async with pages(hall("hall")) as (made, rooms):
        for number in range(1000):
            rooms._hub.metrics.blocked[f"reason {number}"] += 1
            rooms._hub.closing.closes.count(4000 + number)
        rooms._hub.closing.closes.count(CloseCode.TOO_BIG)
        seen = samples(made)
    blocked = {labels: n for (name, labels), n in seen.items() if name == "hibernation_blocked_total"}
    assert len(blocked) == 65
    assert sum(blocked.values()) == 1000
    closes = {labels: n for (name, labels), n in seen.items() if name == "closes_total"}
    assert closes == {("4000-4999",): 1000, ("1009",): 1}


async def test_without_the_library_it_says_what_to_install(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """501, and nothing else of the server needs it."""
    monkeypatch.delitem(sys.modules, "trio_rooms._server.prometheus", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with pages(hall("hall")) as (made, _):
        answer: Any = made.page("/metrics")
        assert answer.status == 501
        assert b"pip install 'trio-rooms[prometheus]'" in answer.body
        assert b"connections" not in answer.body


async def test_every_metric_is_documented(autojump_clock: MockClock) -> None:
    """Each name in the table of the documentation is there, with the label that is told, and no other."""
    table = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    told = set(re.findall(r"^\| `trio_rooms_(\w+)(?:\{(\w+)\})?` ", table, re.MULTILINE))
    async with pages(hall("hall")) as (made, rooms), connect(rooms, "hall/a") as client:
        await client.send("hello")  # So that it is known what a connection takes that is in use.
        await trio.sleep(1)
        rooms._hub.metrics.blocked["handler"] += 1
        rooms._hub.metrics.sweeps["ratio"] += 1
        rooms._hub.metrics.antipatterns["slow_load"] += 1
        rooms._hub.closing.closes.count(1000)
        found = set()
        for family in read_text(scraped(made)[0]):
            if family.name.startswith("trio_rooms_"):
                name = family.name.removeprefix("trio_rooms_") + (
                    "_total" if family.type == "counter" else ""
                )
                labels = {label for sample in family.samples for label in sample.labels if label != "le"}
                found.add((name, *(labels or {""})))
    assert found == told
