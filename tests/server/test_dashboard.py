"""Who may see the dashboard, and what the page may do; tests/integration has it in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any, Final

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.raw import Served, serving
from trio_rooms import Context, Room, open_rooms
from trio_rooms._insight import costliest
from trio_rooms._insight.costliest import Costliest
from trio_rooms._server.dashboard import DASHBOARD
from trio_rooms.testing import connect

TOKEN: Final = "0123456789abcdef" * 2


def hall(name: str, **options: Any) -> Room[None]:
    """A room without anything in it."""
    return Room(name, idle_timeout=3600, **options)


async def get(served: Served, path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
    """What is answered, to a request with a token or without."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return await served.ask("\r\n".join([*lines, "", ""]).encode())


@pytest.mark.parametrize("dashboard", [False, True])
@pytest.mark.parametrize("admin_token", [None, TOKEN])
@pytest.mark.parametrize("token", [None, TOKEN, TOKEN[::-1]])
async def test_who_may_see_it(dashboard: bool, admin_token: str | None, token: str | None) -> None:
    """All, where it is on; else who shows the token, where there is one. To others there is no such page."""
    options = {"dashboard": dashboard, "admin_token": admin_token}
    seen = dashboard or (admin_token is not None and token == admin_token)
    async with serving(hall("hall"), serve=options) as served:
        status, headers, body = await get(served, "/dashboard", token)
        assert (status, b"<!doctype html>" in body) == ((200, True) if seen else (404, False))
        if seen:
            assert headers["cache-control"] == "no-store"
        status, _, body = await get(served, "/stats", token)
        assert (status, "costliest" in json.loads(body)) == (200, seen)


class _Page(HTMLParser):
    """What a page has in it that could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag in ("script", "style")
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside.append(data)


def test_the_page_runs_what_is_in_it_and_nothing_else() -> None:
    """Its policy names the very style and script that it has; it asks this server alone."""
    page = _Page()
    page.feed(DASHBOARD.body.decode())
    policy = DASHBOARD.headers["Content-Security-Policy"]
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in page.inside]
    assert re.findall("'sha256-(.*?)'", policy) == digests
    assert len(digests) == 2
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src 'self';" in policy
    assert "unsafe" not in policy
    assert {value for name, value in page.attributes if name in ("src", "href")} == {"data:,"}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert "innerHTML" not in DASHBOARD.body.decode()


async def _hello(_ctx: Context[None]) -> None:
    """Nothing: that it is handled is enough."""


async def test_the_costliest_rooms_come_first(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of them, by what they had to do, also where not all are looked at each time; no private ones."""
    made = [hall("hall"), hall("vault", public=False)]
    for one in made:
        one.on("hello")(_hello)
    async with open_rooms(made) as rooms:
        for name, number in [*(("hall", number) for number in range(12)), ("vault", 20)]:
            for _ in range(number + 1):
                await rooms.get(name, str(number)).ask("hello")
        best = [f"hall/{number}" for number in range(11, 1, -1)]
        found = rooms._insight.costliest()
        assert [one["key"] for one in found] == best
        assert found[0] == {
            "key": "hall/11",
            "stage": "awake",
            "connections": 0,
            "active": 0,
            "messages": 12.0,
            "cost": 12.0,
            "reasons": [
                attrs.asdict(one) | {"for_seconds": round(one.for_seconds, 3)}
                for one in rooms.get("hall", "11").why_awake().reasons
            ],
        }
        assert found[0]["reasons"]
        monkeypatch.setattr(costliest, "_AT_ONCE", 5)
        few = costliest.Costliest(rooms._supervisor)
        assert len(few.rooms()) == 5
        assert few.rooms() is few.rooms()
        for _ in range(3):
            await trio.sleep(1)
            few.rooms()
        assert [one["key"] for one in few.rooms()] == best
        assert await rooms.get("hall", "11").hibernate()
        await trio.sleep(1)
        assert [one["key"] for one in few.rooms()] == [*best[1:], "hall/1"]


async def test_what_connections_cost(autojump_clock: MockClock) -> None:
    """A room's connections count while they are active."""
    async with open_rooms([hall("hall")]) as rooms:
        found = Costliest(rooms._supervisor)
        async with connect(rooms, "hall/a") as client, connect(rooms, "hall/a"):
            await client.send("x")
            await trio.sleep(1)
            (one,) = found.rooms()
            assert (one["connections"], one["active"], one["cost"]) == (2, 1, 2)
