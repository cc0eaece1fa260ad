"""What docs/monitoring has for Prometheus and Grafana, against what a server really tells."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from trio_rooms import Context, Policy, Room, open_rooms
from trio_rooms.testing import connect

pytest.importorskip("prometheus_client")
FOLDER: Final = Path(__file__).parent.parent / "docs" / "monitoring"
RULES: Final = FOLDER / "trio-rooms.rules.yml"
TESTS: Final = FOLDER / "trio-rooms.tests.yml"
DASHBOARD: Final = FOLDER / "trio-rooms.dashboard.json"
SCRAPED: Final = {"instance", "job", "le"}
"""Labels that Prometheus adds, and that of buckets."""
counter: Room[dict[str, int]] = Room("counter", state=dict)


@counter.on("add")
async def add(ctx: Context[dict[str, int]]) -> None:
    """Change something."""
    ctx.state["sum"] = ctx.state.get("sum", 0) + 1


@pytest.fixture(scope="module")
def told() -> str:
    """``/metrics`` of a server on which something has happened."""

    async def scrape() -> str:
        async with open_rooms([counter], policy=Policy(ratio=0.5)) as rooms, trio.open_nursery() as nursery:
            address = await nursery.start(rooms.serve, "127.0.0.1", 0)
            async with connect(rooms, "counter/a"):
                for _ in range(2):
                    await rooms.get("counter", "a").ask("add")
                    assert await rooms.get("counter", "a").hibernate()
            text = await trio.to_thread.run_sync(get, address.port)
            nursery.cancel_scope.cancel()
        return text

    return trio.run(scrape)


def get(port: int) -> str:
    """The page, as Prometheus gets it that does not ask for another format."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    with connection.getresponse() as response:
        text = response.read().decode()
    connection.close()
    assert response.status == 200, text
    return text


def series(told: str) -> dict[str, set[str]]:
    """The names of all series, and their labels."""
    found: dict[str, set[str]] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", told, re.MULTILINE):
        for end in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            found[name + end] = set()
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", told, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def panels() -> list[Any]:
    """Those of the dashboard."""
    return list(json.loads(DASHBOARD.read_text())["panels"])


def queries() -> Iterator[str]:
    """All queries of the dashboard."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")


def run(*command: str | Path, given: str = "") -> None:
    """A command that succeeds."""
    done = subprocess.run([*map(str, command)], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_name_and_label_is_told(told: str) -> None:
    """Whatever the rules, their tests and the dashboard speak of, a server has."""
    there: Mapping[str, set[str]] = series(told)
    for text in (RULES.read_text(), TESTS.read_text(), *queries()):
        names = set(re.findall(r"\btrio_rooms_\w+", text))
        assert names
        assert names - {*there} - {name.removesuffix("_bucket") for name in there} == set()
        for name, labels in re.findall(r"\b(trio_rooms_\w+)\{(.*?)\}", text):
            asked = {*re.findall(r'(\w+) ?(?:=|!=|=~|!~)"', labels)} - SCRAPED
            assert asked <= there[name] or not there[name], (name, asked)


def test_the_dashboard_is_whole(told: str) -> None:
    """Panels have ids of their own and do not cover each other; each legend names labels that are left."""
    labels = set[str]().union(*series(told).values()) | {"antipattern", "reason", "trigger"}
    ids, covered = set(), set()
    for panel in panels():
        ids.add(panel["id"])
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in covered, panel["title"]
                covered.add((x, y))
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                kept = re.findall(r"by \(([\w, ]+)\)", target["expr"])
                assert label in (kept[-1].split(", ") if kept else SCRAPED), target
                assert label in labels | SCRAPED
    assert len(ids) == len(panels())


def test_prometheus_takes_them(require: Callable[..., str], tmp_path: Path, told: str) -> None:
    """Its own checker: the rules and what they say, the dashboard's queries, and the names of the metrics."""
    promtool = require("promtool")
    run(promtool, "check", "rules", RULES)
    run(promtool, "test", "rules", TESTS)
    asked = tmp_path / "queries.yml"
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    asked.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))  # JSON is YAML.
    run(promtool, "check", "rules", asked)
    run(promtool, "check", "metrics", given=told)
