"""A connection that is being sent what its session was away for: all else waits in it."""

from __future__ import annotations

import trio

from tests.sockets.bench import bench, ready, soon
from trio_rooms._sockets.flags import CLOSING, REPLAYING
from trio_rooms._sockets.replaying import Replaying
from trio_rooms._wire.frames import encode_close, encode_ping, encode_pong, encode_text

BACKLOG = 10_000


async def test_what_is_sent_meanwhile_comes_behind_it() -> None:
    """However late it comes, and in its order."""
    async with bench() as made:
        client, link = made.client()
        output = made.hub.hold(link)
        link.send(encode_text(b"live"))
        output.feed(encode_text(b"missed"))
        await output.written()
        assert ready(client) == encode_text(b"missed")
        output.feed(encode_text(b"missed, too"))
        link.send(encode_text(b"live, too"))
        await output.written()
        made.hub.let_go(link)
        await soon(lambda: link.output is None)
        assert ready(client) == encode_text(b"missed, too") + encode_text(b"live") + encode_text(b"live, too")
        link.send(encode_text(b"at once"))
        assert ready(client) == encode_text(b"at once")


async def test_a_ping_is_answered_meanwhile() -> None:
    """Whether or not there is anything else to be written."""
    async with bench() as made:
        client, link = made.client()
        made.hub.hold(link)
        link.send(encode_text(b"live"))
        made.hub.data_received(link, b"\x89\x80abcd")
        await trio.testing.wait_all_tasks_blocked()
        assert ready(client) == encode_pong(b"")
        assert encode_ping() not in ready(client)


async def test_who_is_sent_too_much_meanwhile_is_closed() -> None:
    """What waits is bounded as it is for who does not read."""
    async with bench(backlog=BACKLOG) as made:
        client, link = made.client()
        made.hub.hold(link).feed(encode_text(b"missed"))
        link.flags |= REPLAYING
        while not link.flags & CLOSING:
            link.send(encode_text(b"x" * 1000))
        await trio.testing.wait_all_tasks_blocked()
        assert ready(client)[-2 - 45 :].endswith(b"too slow: too much is waiting to be read")
        assert not link.flags & REPLAYING


async def test_who_is_closed_meanwhile_gets_what_waits_before_that() -> None:
    """And the close frame behind it."""
    async with bench() as made:
        client, link = made.client()
        made.hub.hold(link).feed(encode_text(b"missed"))
        link.send(encode_text(b"live"))
        made.hub.close(link, 4000, "")
        await trio.testing.wait_all_tasks_blocked()
        assert ready(client) == encode_text(b"missed") + encode_text(b"live") + encode_close(4000, "")


async def test_it_waits_behind_what_had_not_been_written() -> None:
    """Of a message that was half sent the rest comes first."""
    async with bench() as made:
        client, link = made.client(buffer=4096)
        large = encode_text(b"x" * 300_000)
        link.send(large)
        assert link.output is not None
        made.hub.hold(link).feed(encode_text(b"missed"))
        made.hub.let_go(link)
        received = b""
        while not received.endswith(encode_text(b"missed")):
            received += ready(client)
            await trio.lowlevel.checkpoint()
        assert received == large + encode_text(b"missed")
        await soon(lambda: link.output is None)


def test_a_wait_ends_where_nobody_writes_any_more() -> None:
    """Also for who waits for all of it."""

    async def main() -> None:
        output = Replaying(lambda: None)
        output.feed(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.written)
            await trio.testing.wait_all_tasks_blocked()
            output.tell()

    trio.run(main)
