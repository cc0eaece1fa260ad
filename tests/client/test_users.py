"""Who is in a room, as its client has been told."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from tests.client.reference import Reference
from trio_rooms.client import ConnectionEnded, connect_room

URL = "ws://localhost/ledger/main?user=ana"
HERE = {"device": "d1", "status": "online"}
AWAY = {"device": "d1", "status": "away"}
BUSY = {"device": "d2", "status": "busy"}


def client(server: Reference, **settings: Any) -> Any:
    """A client of a server."""
    return connect_room(URL, open_stream=server.open_stream, **settings)


def tell(server: Reference, **data: Any) -> None:
    """Say who is here."""
    server.emit("rooms.presence", data, reliable=False)


async def test_the_whole_and_what_changes(server: Reference, autojump_clock: MockClock) -> None:
    """Each change has the whole list of a user, so it may come twice; the events come as all others do."""
    async with client(server) as room:
        view = room.users
        assert view == {}
        tell(server, users={"ana": [HERE], "bob": [HERE]})
        tell(server, changes={"ana": [HERE, BUSY], "bob": [AWAY]})
        tell(server, changes={"cat": [BUSY], "bob": [], "dan": []})
        tell(server, changes={"cat": [BUSY], "bob": [], "dan": []})
        await room.ask("add", {"amount": 1})
        assert view == {"ana": [HERE, BUSY], "cat": [BUSY]}
        events = [await anext(room) for _ in range(3)]
        assert [list(event.data) for event in events] == [["users"], ["changes"], ["changes"]]
        assert {event.name for event in events} == {"rooms.presence"}
        tell(server, users={"eve": [HERE]})
        await room.ask("add", {"amount": 1})
        assert view == {"eve": [HERE]}


async def test_it_is_kept_where_no_events_are(server: Reference, autojump_clock: MockClock) -> None:
    """Who only asks sees who is here, too; and nobody can change it."""
    async with client(server, events=False) as room:
        tell(server, users={"ana": [HERE]})
        await room.ask("add", {"amount": 1})
        assert dict(room.users) == {"ana": [HERE]}
        with pytest.raises(TypeError):
            room.users["bob"] = []


async def test_a_lost_connection_leaves_it_and_a_lost_session_does_not(
    server: Reference, autojump_clock: MockClock
) -> None:
    """What a client knew last it knows until it is told anew; a new session begins with nothing."""
    async with client(server) as room:
        tell(server, users={"ana": [HERE]})
        await room.ask("add", {"amount": 1})
        await server.drop()
        await room.ask("add", {"amount": 1})
        assert room.statistics().connects == 2
        assert room.users == {"ana": [HERE]}
        server.forget()
        await server.drop()
        await room.ask("add", {"amount": 1})
        assert room.users == {}
        tell(server, changes={"bob": [HERE]})
        await room.ask("add", {"amount": 1})
        assert room.users == {"bob": [HERE]}


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"users": []},
        {"users": {"ana": HERE}},
        {"changes": {"ana": ["online"]}},
        {"changes": {"ana": None}},
    ],
)
async def test_what_is_no_presence_is_a_fault_of_the_server(
    server: Reference, autojump_clock: MockClock, data: Any
) -> None:
    """The same would come again."""
    async with client(server) as room:
        tell(server, users={"ana": [HERE]})
        server.emit("rooms.presence", data, reliable=False)
        assert (await anext(room)).data == {"users": {"ana": [HERE]}}
        with pytest.raises(ConnectionEnded, match="about the server: its message"):
            await anext(room)
        assert room.users == {"ana": [HERE]}
