from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.raw import request, serving
from trio_rooms import ConnectRequest, Refused, Room, open_rooms
from trio_rooms.testing import connect

REFUSED = Refused(401, "who are you?")
RAISED: dict[str, Callable[[], BaseException]] = {
    "refused": lambda: REFUSED,
    "one": lambda: ExceptionGroup("", [REFUSED]),
    "one in one": lambda: BaseExceptionGroup("", [ExceptionGroup("", [REFUSED])]),
    "several": lambda: ExceptionGroup("", [REFUSED, ValueError()]),
    "error": ValueError,
    "no exception": GeneratorExit,
    "no exception in a group": lambda: BaseExceptionGroup("", [GeneratorExit()]),
}


def door() -> Room[None]:
    """A room whose authenticate raises what its client wants it to."""
    room: Room[None] = Room("door")

    @room.authenticate
    async def who(request: ConnectRequest) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_raise, request.query["raise"])
            if request.query["raise"] == "never":
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError

    return room


async def _raise(what: str) -> None:
    if what == "never":
        await trio.sleep_forever()
    error = RAISED[what]()
    raise error


@pytest.mark.parametrize("raised", RAISED)
async def test_a_refusal_may_come_out_of_a_nursery(raised: str) -> None:
    """As a group of one, however deep; what is no refusal is an error, and touches no other client."""
    refused = raised in ("refused", "one", "one in one")
    async with serving(door()) as served:
        for _ in range(2):
            status, _headers, body = await served.ask(request(f"/door/x?raise={raised.replace(' ', '%20')}"))
            assert status == (401 if refused else 500)
            assert (body.strip() == b"who are you?") is refused
    async with open_rooms([door()]) as rooms:
        with pytest.raises(Refused if refused else Exception) as caught:
            async with connect(rooms, "door/x", query={"raise": raised}):
                pass
        assert (caught.value is REFUSED) is refused


async def test_an_authenticate_that_raises_as_it_is_cancelled_ends_no_server() -> None:
    """Where it took too long, and where the server stops."""
    async with serving(door(), serve={"handshake_timeout": 0.1}) as served:
        async with served.connection() as client:
            await client.send(request("/door/x?raise=never"))
            await client.rest()
        assert (await served.ask(request("/door/x?raise=refused")))[0] == 401
    async with serving(door()) as served, served.connection() as client:
        await client.send(request("/door/x?raise=never"))
        await trio.sleep(0.05)
