from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Context, Room, Rooms, open_rooms
from trio_rooms._insight.advice import Adviser
from trio_rooms._server.pages import Pages
from trio_rooms._server.paths import Paths
from trio_rooms._wire.handshake import Response
from trio_rooms.testing import connect


async def _hello(_ctx: Context[None], message: str | bytes) -> None:
    """Nothing: that the room wakes is enough."""


def hall(name: str, **options: Any) -> Room[None]:
    """A room without anything in it."""
    room: Room[None] = Room(name, idle_timeout=10, **options)
    room.on_message(_hello)
    return room


@asynccontextmanager
async def pages(*rooms: Room[None], prefix: str = "") -> AsyncIterator[tuple[Pages, Rooms]]:
    """The pages of rooms that are open."""
    async with open_rooms(rooms) as opened:
        public = {name: one for name, one in opened._definitions.items() if one.public}
        paths = Paths(public, prefix, "/{room}/{id}")
        yield (
            Pages(public, paths, opened._supervisor.placement, opened.statistics, opened._insight),
            opened,
        )


async def test_one_room_is_shown_as_it_is(autojump_clock: MockClock) -> None:
    """Its stage and its connections, awake and asleep; asking wakes nobody."""
    async with pages(hall("hall"), prefix="/ws") as (made, rooms):

        def shown() -> Any:
            answer = made.of_room("/stats/ws/hall/a%2Fb")
            assert isinstance(answer, Response)
            assert answer.status == 200
            return json.loads(answer.body)

        assert shown() == {"key": "hall/a/b", "stage": "asleep", "connections": 0}
        async with connect(rooms, "hall/a/b") as client:
            await client.send("hello")
            await trio.sleep(1)
            assert shown() == {"key": "hall/a/b", "stage": "awake", "connections": 1}
            await trio.sleep(20)
            assert shown() == {"key": "hall/a/b", "stage": "asleep", "connections": 1}
        assert rooms.statistics().supervisor.wakes == 1
        for path in ("/stats/ws/nobody/x", "/stats/hall/x", "/stats/ws/hall/%FF", "/stats/"):
            answer = made.of_room(path)
            assert isinstance(answer, Response)
            assert answer.status == 404


async def test_why_a_room_is_awake_is_told_to_who_asks(autojump_clock: MockClock) -> None:
    """All that keeps it so, to the millisecond; asking wakes nobody, and private rooms are not told of."""
    async with pages(hall("hall"), Room("vault", public=False), prefix="/ws") as (made, rooms):

        def why(path: str = "/why/ws/hall/a%2Fb") -> Any:
            answer = made.of_room(path)
            assert isinstance(answer, Response)
            return json.loads(answer.body) if answer.status == 200 else answer.status

        assert why() == {"key": "hall/a/b", "stage": "asleep", "reasons": []}
        async with connect(rooms, "hall/a/b") as client:
            await client.send("hello")
            await trio.sleep(1.23456)
            reason = {"reason": "idle", "for_seconds": 1.235, "until": "8.8 s without a message"}
            assert why() == {"key": "hall/a/b", "stage": "awake", "reasons": [reason]}
            await trio.sleep(20)
            assert why()["reasons"] == []
        assert rooms.statistics().supervisor.wakes == 1
        for path in ("/why/ws/nobody/x", "/why/hall/x", "/why/ws/hall/%FF", "/why/", "/why/ws/vault/x"):
            assert why(path) == 404


async def test_what_is_at_the_root(autojump_clock: MockClock) -> None:
    """The first page that a definition has; without one, where rooms are and which there are."""
    async with pages(hall("b"), hall("a", page="<p>a"), hall("c", page="<p>c")) as (made, _):
        answer = made.page("/")
        assert answer is not None
        assert answer.body == b"<p>a"
    async with pages(hall("b"), hall("a"), prefix="/ws") as (made, _):
        answer = made.page("/")
        assert answer is not None
        assert answer.body == b"rooms at /ws/{room}/{id}: a, b\n"


async def test_nothing_else_is_a_page(autojump_clock: MockClock) -> None:
    """The rest is left to the rooms."""
    async with pages(hall("hall")) as (made, _):
        for path in ("", "/hall/x", "/healthz/", "/stat", "//"):
            assert made.page(path) is None


async def test_what_is_told_is_json(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a room that never sleeps: where a number is infinite stands null."""
    async with pages(hall("hall")) as (made, _):
        found = [{"from": math.inf, "rates": [math.nan, 1.5]}]
        monkeypatch.setattr(Adviser, "for_clients", lambda _, insider: found)
        answer = made.page("/stats")
        assert answer is not None
        told = json.loads(answer.body, parse_constant=pytest.fail)
        assert told["recommendations"] == [{"from": None, "rates": [None, 1.5]}]


async def _hang(_ctx: Context[None]) -> None:
    await trio.sleep(60)


async def test_a_hanging_handler_is_shown_but_for_private_rooms(autojump_clock: MockClock) -> None:
    """With the room's key, the event and the seconds; of a private room the count alone is told."""
    made = [Room[None]("open"), Room[None]("vault", public=False)]
    for one in made:
        one.on("hang")(_hang)
    async with pages(*made) as (shown, rooms), trio.open_nursery() as nursery:
        for name in ("open", "vault"):
            nursery.start_soon(rooms.get(name, "x").ask, "hang")
        await trio.sleep(20)
        answer = shown.page("/stats")
        assert answer is not None
        doing = json.loads(answer.body)["supervisor"]
        assert doing["slow"] == 2
        assert [(one["key"], one["handler"]) for one in doing["hanging"]] == [("open/x", "hang")]
        assert 18 < doing["hanging"][0]["seconds"] <= 20
        assert b"vault" not in answer.body
        nursery.cancel_scope.cancel()
