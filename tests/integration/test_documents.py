"""Documents that are edited together by clients of Yjs, as they are: what needs no room does not wake it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

import attrs

from tests.raw import BINARY, Client, frame, serving, soon
from trio_rooms import Context, Room

DOCUMENTS: Final = 100
ROUNDS: Final = 5
"""How often each client says that it is there still, as it does each 15 s."""


@attrs.define
class Updates:
    """What a document consists of."""

    updates: list[bytes] = attrs.field(factory=list)


document: Room[Updates] = Room("document", state=Updates, idle_timeout=0, auto_relay=[b"\x01"])


@document.on_message
async def on_message(ctx: Context[Updates], message: str | bytes) -> None:
    """Keep an update and send it on; tell who asks what there is."""
    assert isinstance(message, bytes)
    if message.startswith(b"\x00\x00"):
        for update in ctx.state.updates:
            ctx.connection.send(update)
        ctx.connection.send(b"\x00\x01")
    else:
        ctx.state.updates.append(message)
        ctx.room.send(message, exclude=ctx.connection)


async def test_a_hundred_idle_documents_sleep_while_their_clients_say_that_they_are_there() -> None:
    """Each wakes for who comes and for updates, and for nothing else, and each client hears of the other."""
    async with serving(document) as served, AsyncExitStack() as stack:

        def wakes() -> int:
            return served.rooms.statistics().supervisor.wakes

        async def asleep() -> None:
            await soon(lambda: served.rooms.statistics().supervisor.awake == 0)

        pairs: list[tuple[Client, Client]] = []
        for number in range(DOCUMENTS):
            path = f"/document/{number}"
            one, two = [await stack.enter_async_context(served.client(path)) for _ in range(2)]
            pairs.append((one, two))
            for client in (one, two):
                await client.send(frame(BINARY, b"\x00\x00"))
                assert await client.frame() == (BINARY, b"\x00\x01")
        await asleep()
        before = wakes()
        assert before >= DOCUMENTS
        for number in range(ROUNDS):
            for one, two in pairs:
                await one.send(frame(BINARY, b"\x01one%d" % number))
                await two.send(frame(BINARY, b"\x01two%d" % number))
            for one, two in pairs:
                assert await two.frame() == (BINARY, b"\x01one%d" % number)
                assert await one.frame() == (BINARY, b"\x01two%d" % number)
        assert wakes() == before
        one, two = pairs[7]
        await one.send(frame(BINARY, b"\x00\x02update") + frame(BINARY, b"\x01cursor"))
        assert [await two.frame() for _ in range(2)] == [(BINARY, b"\x00\x02update"), (BINARY, b"\x01cursor")]
        await asleep()
        assert wakes() == before + 1
        statistics = served.rooms.statistics().hub
        assert (statistics.relayed, statistics.relays_dropped) == (2 * ROUNDS * DOCUMENTS + 1, 0)
