"""A connection as a handler sees it: what waits for it."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing
import trio_websocket

from tests.raw import BINARY, TEXT, Client, close_frame, frame, request, serving, soon
from trio_rooms import ConnectionGone, Context, Room, open_rooms
from trio_rooms._rooms import Rooms
from trio_rooms._sockets.flags import PAUSED

PIECE = 100_000
PIECES = 60

WENT: list[str] = []
"""How it went with what the room did."""
room: Room[None] = Room("files", idle_timeout=math.inf)


async def send_all(ctx: Context[None]) -> None:
    """Send much more than may wait, piece by piece."""
    for number in range(PIECES):
        ctx.connection.send(b"%03d" % number + bytes(PIECE))
        await ctx.connection.drained()
    WENT.append("sent")


@room.on_message
async def on_message(ctx: Context[None], message: str | bytes) -> None:
    """Do what the message says."""
    if message == "get":
        await send_all(ctx)
    elif message == "get in the background":
        ctx.room.start_soon(send_all, ctx)
    elif message == "try":
        try:
            await send_all(ctx)
        except ConnectionGone as gone:
            WENT.append(f"gone {gone.id == ctx.connection.id}")
    elif message == "close and wait":
        ctx.connection.send(bytes(100 * PIECE))
        ctx.room.start_soon(expect_gone, ctx)
        await trio.testing.wait_all_tasks_blocked()
        ctx.connection.close(4000)
    elif message == "nothing":
        with trio.CancelScope() as scope:
            scope.cancel()
            await ctx.connection.drained()
        WENT.append(f"cancelled {scope.cancelled_caught}")
        await ctx.connection.drained()
        ctx.connection.send("nothing waits")
    else:
        ctx.connection.send(message)


async def expect_gone(ctx: Context[None]) -> None:
    """Wait for what is never read."""
    with pytest.raises(ConnectionGone):
        await ctx.connection.drained()
    with pytest.raises(ConnectionGone):
        await ctx.connection.drained()
    WENT.append("gone")


@contextlib.asynccontextmanager
async def on_a_socket() -> AsyncIterator[tuple[Client, Rooms]]:
    """A plain socket."""
    async with (
        serving(room, max_unsent=PIECE) as served,
        served.client("/files/x", buffer=4096) as client,
    ):
        yield client, served.rooms


@contextlib.asynccontextmanager
async def on_a_stream() -> AsyncIterator[tuple[Client, Rooms]]:
    """A stream that holds nothing of what is not read."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    with trio.fail_after(30):
        async with open_rooms([room], max_unsent=PIECE) as rooms, trio.open_nursery() as nursery:
            nursery.start_soon(rooms.serve_stream, theirs, "files", "x")
            yield Client(ours), rooms
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def adopted() -> AsyncIterator[tuple[Client, Rooms]]:
    """A connection of trio-websocket."""
    with trio.fail_after(30):
        async with open_rooms([room], max_unsent=PIECE) as rooms, trio.open_nursery() as nursery:

            async def adopt(asked: trio_websocket.WebSocketRequest) -> None:
                await rooms.adopt(asked, "files", "x")

            server = await nursery.start(
                lambda task_status: trio_websocket.serve_websocket(
                    adopt, "127.0.0.1", 0, None, task_status=task_status
                )
            )
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                client = Client(stream)
                await client.send(request("/"))
                assert (await client.answer(body=False))[0] == 101
                yield client, rooms
            nursery.cancel_scope.cancel()


kinds = pytest.mark.parametrize("connected", [on_a_socket, on_a_stream, adopted])
Connected = Callable[[], contextlib.AbstractAsyncContextManager[tuple[Client, Rooms]]]


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    WENT.clear()


@kinds
@pytest.mark.parametrize("command", [b"get", b"get in the background"])
async def test_much_can_be_sent_to_who_reads(connected: Connected, command: bytes) -> None:
    """Many times what may wait, in pieces, each after the one before has gone out."""
    async with connected() as (client, rooms):
        await client.send(frame(TEXT, command))
        for number in range(PIECES):
            assert await client.frame() == (BINARY, b"%03d" % number + bytes(PIECE))
        await client.send(frame(TEXT, b"and then"))
        assert await client.frame() == (TEXT, b"and then")
        assert WENT == ["sent"]
        assert rooms.statistics().hub.closes == {}


@kinds
@pytest.mark.parametrize("command", [b"get", b"get in the background", b"try"])
async def test_who_leaves_while_it_is_waited_for(
    connected: Connected, command: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler or task gets ConnectionGone; to let it through is nobody's fault, and the room goes on."""
    async with connected() as (client, rooms):
        await client.send(frame(TEXT, command))
        await client.frame()
        if command == b"try":
            await client.send(close_frame())
        await client.stream.aclose()
        await soon(lambda: rooms.statistics().hub.sockets == 0)
        # It is handled when all before it is.
        await rooms.get("files", "x").hibernate()
        assert rooms.statistics().supervisor.crashes == 0
        assert (["gone True"] if command == b"try" else []) == WENT
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@kinds
async def test_who_is_closed_while_it_is_waited_for(connected: Connected) -> None:
    """Nothing more can be sent to it, so there is nothing more to wait for."""
    async with connected() as (client, _):
        await client.send(frame(TEXT, b"close and wait"))
        await soon(lambda: WENT == ["gone"])


@kinds
async def test_where_nothing_waits_it_is_a_checkpoint(connected: Connected) -> None:
    """It can be cancelled, and else returns at once."""
    async with connected() as (client, _):
        await client.send(frame(TEXT, b"nothing"))
        assert await client.frame() == (TEXT, b"nothing waits")
        assert WENT == ["cancelled True"]


async def test_who_breaks_while_its_room_is_busy_sending_to_it() -> None:
    """It is not read from then, since it has said too much, and its end is noticed all the same."""
    up, from_client = trio.testing.memory_stream_one_way_pair()
    to_client, down = trio.testing.lockstep_stream_one_way_pair()
    client = Client(trio.StapledStream(up, down))
    with trio.fail_after(30):
        async with open_rooms([room], max_unsent=PIECE) as rooms, trio.open_nursery() as nursery:
            theirs = trio.StapledStream(to_client, from_client)
            nursery.start_soon(rooms.serve_stream, theirs, "files", "x")
            await client.send(frame(TEXT, b"try"))
            await client.frame()
            await client.send(frame(TEXT, b"more") * 5000)
            (link,) = rooms._hub.rosters["files/x"].links.values()
            await soon(lambda: link.flags & PAUSED != 0)
            await client.stream.aclose()
            await soon(lambda: WENT == ["gone True"])
