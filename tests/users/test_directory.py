"""Who is connected where."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from tests.sockets.bench import soon
from trio_rooms import Admitted, ConnectRequest, Context, Room, open_rooms
from trio_rooms.testing import connect


async def _admit(request: ConnectRequest) -> Admitted:
    return Admitted(user=request.query.get("user"))


async def _asked(ctx: Context[Any], user: str) -> list[str]:
    assert ctx.room.user(user).online == (user in ctx.room.users)
    return [*ctx.rooms.user(user).rooms]


def lobby(name: str = "lobby") -> Room[Any]:
    """A room whose clients say who they are."""
    room: Room[Any] = Room(name)
    room.authenticate(_admit)
    room.on("asked")(_asked)
    return room


async def test_a_user_is_where_her_connections_are(autojump_clock: MockClock) -> None:
    """Several rooms and devices are one user; who has no name is nobody."""
    async with open_rooms([lobby(), lobby("hall")]) as rooms:
        ana = rooms.user("ana")
        assert not ana.online
        async with (
            connect(rooms, "lobby/a", query="user=ana") as first,
            connect(rooms, "lobby/a", query="user=ana"),
            connect(rooms, "hall/b", query="user=ana"),
            connect(rooms, "hall/b", query="user=bob"),
            connect(rooms, "hall/b"),
        ):
            assert ana.online
            assert ana.connections == 3
            assert ana.rooms == ("hall/b", "lobby/a")
            hall = rooms.get("hall", "b")
            assert await hall.users() == ("ana", "bob")
            assert hall.user("ana").connections == 1
            assert not rooms.get("hall", "c").user("ana").online
            assert await first.ask("asked", "ana") == ["hall/b", "lobby/a"]
            assert (await ana.send("hello", 1)).reached == 3
            assert (await hall.user("ana").send("hello", 1)).reached == 1
        await soon(lambda: not ana.online)
        assert ana.connections == 0
        assert rooms._supervisor.users.links == {}


@pytest.mark.parametrize("name", ["", "x" * 257, "\ud800"])
async def test_what_is_no_name_is_refused(name: str) -> None:
    """A user is named by 1 to 256 characters that have a form in UTF-8."""
    async with open_rooms([lobby()]) as rooms:
        with pytest.raises(ValueError, match="user"):
            rooms.user(name)
        with pytest.raises(TypeError):
            rooms.user(7)  # type: ignore[arg-type]


async def _got(ctx: Context[Any], message: str | bytes) -> None:
    """Hear it."""


async def test_plain_rooms_have_no_users_to_send_to() -> None:
    """Nobody there would ever get what is kept for them alone."""
    room: Room[Any] = Room("plain")
    room.on_message(_got)
    async with open_rooms([room]) as rooms:
        with pytest.raises(TypeError, match="is plain"):
            rooms.get("plain", "x").user("ana")
        assert repr(rooms.user("ana")) == "User(name='ana')"
