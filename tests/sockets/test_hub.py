"""What the hub does with sockets: reading, answering without a room, order, limits, closing."""

from __future__ import annotations

import math
import os
import random
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Client,
    Served,
    close_frame,
    frame,
    serving,
    soon,
)
from tests.sockets.bench import Bench, bench, ready
from tests.sockets.bench import soon as settled
from trio_rooms import Context, Disconnect, Room
from trio_rooms._metrics.trace import APART, USED
from trio_rooms._room.lifecycle import Stage
from trio_rooms._room.mail import Mail
from trio_rooms._room.mailbox import Mailbox
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.flags import RELEASED
from trio_rooms._sockets.links import SocketLink
from trio_rooms._sockets.roster import Disconnected, Link, Roster
from trio_rooms._wire import frames
from trio_rooms._wire.frames import encode_binary, encode_text

sleeper: Room[None] = Room(
    "sleeper",
    idle_timeout=0,
    auto_respond={"ping": "pong", b"ping": b"\x01", "binary?": b"\x02", "é": "ü"},
)


@sleeper.on_message
async def on_sleeper(ctx: Context[None], message: str | bytes) -> None:
    """Send it back."""
    ctx.connection.send(message)


LEFT: dict[str, trio.MemorySendChannel[Disconnect]] = {}
GATES: dict[str, trio.Event] = {}
room: Room[None] = Room("room", idle_timeout=math.inf)


@room.on_message
async def on_message(ctx: Context[None], message: str | bytes) -> None:
    """Do what the message says."""
    command, _, rest = message.partition(" ") if isinstance(message, str) else ("echo", "", "")
    if command == "close":
        code, _, reason = rest.partition(" ")
        ctx.connection.close(int(code), reason)
    elif command == "flood":
        for number in range(int(rest)):
            ctx.connection.send(payload(number))
    elif command == "large":
        ctx.connection.send(b"x" * int(rest))
    elif command == "all":
        ctx.room.send(payload(int(rest)))
    elif command == "wait":
        await GATES[rest].wait()
    else:
        ctx.connection.send(message)


@room.on_disconnect
async def on_disconnect(ctx: Context[None], left: Disconnect) -> None:
    """Tell the test."""
    LEFT[ctx.room.id].send_nowait(left)


class Weighing(Mailbox):
    """A mailbox that keeps what it is told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []

    def weigh(self, size: int) -> None:
        self.told.append(size)

    def post(self, mail: Mail) -> bool:
        assert isinstance(mail, tuple)
        self.told.append(mail[1])
        return True

    async def has(self, count: int) -> None:
        """Wait until it was told so much."""
        await settled(lambda: len(self.told) == count)


def payload(number: int) -> bytes:
    """A message that can be told from all others, of any size."""
    return b"%d:" % number + b"x" * (number * 7919 % 70_000)


class Departures:
    """Who left a room, as its on_disconnect was told."""

    def __init__(self, id_: str) -> None:
        LEFT[id_], self._left = trio.open_memory_channel(math.inf)

    async def one(self) -> tuple[int, str, bool]:
        """The next, and no other after it."""
        left = await self._left.receive()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            self._left.receive_nowait()
        return left.code, left.reason, left.clean


def asleep(served: Served, connections: int = 1) -> bool:
    """Whether the sleeper sleeps and always has."""
    info = served.rooms.get("sleeper", "x").info()
    woken = served.rooms.statistics().supervisor.wakes
    return (info.stage, info.connections, woken) == (Stage.ASLEEP, connections, 0)


async def test_pieces_of_a_frame_wake_nobody() -> None:
    """Only a whole message wakes a room, however many segments it comes in."""
    async with serving(sleeper) as served, served.client("/sleeper/x") as client:
        whole = frame(TEXT, b"hel", final=False) + frame(CONTINUATION, b"lo")
        for byte in whole[:-1]:
            await client.send(bytes((byte,)))
        await client.send(b"")
        with trio.move_on_after(0.05):
            await client.frame()
            pytest.fail("there was no message yet")
        assert asleep(served)
        await client.send(whole[-1:])
        assert await client.frame() == (TEXT, b"hello")
        assert served.rooms.statistics().supervisor.wakes == 1


async def test_pings_are_answered_in_the_middle_of_a_message() -> None:
    """A ping between two fragments, or of the largest size, gets its pong, and no room hears of it."""
    async with serving(sleeper) as served, served.client("/sleeper/x") as client:
        await client.send(
            frame(TEXT, b"he", final=False) + frame(PING, b"a" * 125) + frame(PING) + frame(PONG, b"?")
        )
        assert await client.frame() == (PONG, b"a" * 125)
        assert await client.frame() == (PONG, b"")
        assert asleep(served)
        await client.send(frame(CONTINUATION, b"llo"))
        assert await client.frame() == (TEXT, b"hello")


@pytest.mark.parametrize(
    ("opcode", "message", "kind", "answer"),
    [
        (TEXT, b"ping", TEXT, b"pong"),
        (BINARY, b"ping", BINARY, b"\x01"),
        (TEXT, b"binary?", BINARY, b"\x02"),
        (TEXT, "é".encode(), TEXT, "ü".encode()),
    ],
)
async def test_automatic_responses_wake_nobody(opcode: int, message: bytes, kind: int, answer: bytes) -> None:
    """A message that matches exactly, in its kind too, is answered by the hub."""
    async with serving(sleeper) as served, served.client("/sleeper/x") as client:
        await client.send(frame(opcode, message) * 3)
        assert [await client.frame() for _ in range(3)] == [(kind, answer)] * 3
        assert asleep(served)
        assert served.rooms.statistics().hub.answered == 3


@pytest.mark.parametrize(("opcode", "message"), [(TEXT, b"pin"), (TEXT, b"Ping"), (BINARY, b"binary?")])
async def test_what_does_not_match_exactly_goes_to_the_room(opcode: int, message: bytes) -> None:
    """Nothing but an exact match is answered by the hub."""
    async with serving(sleeper) as served, served.client("/sleeper/x") as client:
        await client.send(frame(opcode, message))
        assert await client.frame() == (opcode, message)
        assert served.rooms.statistics().supervisor.wakes == 1


async def test_a_close_is_answered_without_the_room() -> None:
    """A room that has no on_disconnect sleeps on when its client leaves, and is forgotten."""
    async with serving(sleeper) as served, served.client("/sleeper/x") as client:
        await client.send(close_frame(4001, "bye"))
        assert await client.closed() == (4001, "bye")
        assert asleep(served, connections=0)
        assert served.rooms.statistics().hub.rosters == 0


# Closing.


@pytest.mark.parametrize(
    ("sent", "echoed", "told"),
    [
        (close_frame(1000, "bye"), (1000, "bye"), (1000, "bye", True)),
        (close_frame(4999, "é" * 61), (4999, "é" * 61), (4999, "é" * 61, True)),
        (close_frame(None), (1005, ""), (1005, "", True)),
        (frame(TEXT, b"x", masked=False), None, (1002, None, False)),
    ],
)
async def test_a_close_by_the_client(
    sent: bytes, echoed: tuple[int, str] | None, told: tuple[Any, ...]
) -> None:
    """The client's code is echoed, and on_disconnect is told it, once."""
    departures = Departures("x")
    async with serving(room) as served, served.client("/room/x") as client:
        await client.send(sent)
        answer = await client.closed()
        assert answer == (echoed or (1002, answer[1]))
        code, reason, clean = await departures.one()
        assert (code, reason if echoed else None, clean) == told


async def test_a_close_by_the_room() -> None:
    """The room's code reaches the client, and the client's answer reaches on_disconnect."""
    departures = Departures("x")
    async with serving(room) as served, served.client("/room/x") as client:
        await client.send(frame(TEXT, b"close 4002 enough") + frame(TEXT, b"not handled"))
        assert await client.frame() == (CLOSE, (4002).to_bytes(2) + b"enough")
        assert served.rooms.get("room", "x").info().connections == 0
        await client.send(frame(TEXT, b"still talking") + close_frame(4002, "enough"))
        assert await client.rest() == b""
        assert await departures.one() == (4002, "enough", True)


async def test_a_close_that_is_not_answered() -> None:
    """After the close timeout the socket is closed, and on_disconnect is told that it was not clean."""
    departures = Departures("x")
    async with serving(room, close_timeout=0.1) as served, served.client("/room/x") as client:
        await client.send(frame(TEXT, b"close 4002"))
        assert await client.closed() == (4002, "")
        assert (await departures.one())[::2] == (1006, False)


async def test_a_close_that_is_answered_by_an_end() -> None:
    """An end without a close frame is no clean close."""
    departures = Departures("x")
    async with serving(room) as served:
        async with served.client("/room/x") as client:
            await client.send(frame(TEXT, b"close 4002"))
            await client.frame()
        assert (await departures.one())[::2] == (1006, False)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_is_lost(reset: bool) -> None:
    """An end or a reset without a closing handshake is 1006, once."""
    departures = Departures("x")
    async with serving(room) as served:
        async with served.client("/room/x") as client:
            await client.send(frame(TEXT, b"hi"))
            await client.frame()
            if reset:
                _reset_on_close(client)
        assert (await departures.one())[::2] == (1006, False)
        await soon(lambda: served.rooms.statistics().hub.closing == 0)


def _reset_on_close(client: Client) -> None:
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def test_both_close_at_once() -> None:
    """Two closes that cross are one clean close."""
    departures = Departures("x")
    async with serving(room) as served, served.client("/room/x") as client:
        await client.send(frame(TEXT, b"close 4002") + close_frame(4003))
        code, _ = await client.closed()
        assert code in {4002, 4003}
        assert await departures.one() == (4003, "", True)


async def test_a_room_that_fell_asleep_hears_how_a_close_ended() -> None:
    """A room may sleep before a client has answered its close; it is woken and told, once."""
    departures = Departures("x")
    async with serving(room) as served, served.client("/room/x") as client:
        await client.send(frame(TEXT, b"close 4002"))
        await client.frame()
        assert await served.rooms.get("room", "x").hibernate()
        await client.send(close_frame(4002))
        assert await departures.one() == (4002, "", True)
        await served.rooms.get("room", "x").hibernate()
        await soon(lambda: served.rooms.statistics().hub.rosters == 0)


async def test_the_end_of_the_rooms_closes_everybody() -> None:
    """Each client gets the code of the end, and is waited for."""
    with trio.fail_after(30):
        async with serving(room, sleeper) as served:
            Departures("x")
            async with (
                served.client("/room/x") as one,
                served.client("/sleeper/x") as two,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(served.rooms.aclose, 1012, "back soon")
                for client in (one, two):
                    assert await client.frame() == (CLOSE, (1012).to_bytes(2) + b"back soon")
                    await client.send(close_frame(1012))
                    assert await client.rest() == b""


# Order, and limits.


async def test_output_that_the_kernel_does_not_take_comes_whole_and_in_order() -> None:
    """A client that reads late gets megabytes of frames in order, then the close frame."""
    async with serving(room, max_unsent=1 << 30) as served:
        departures = Departures("x")
        async with served.client("/room/x", buffer=4096) as client:
            await client.send(frame(TEXT, b"flood 300") + frame(TEXT, b"close 4000 done"))
            await soon(lambda: served.rooms.statistics().hub.closing == 1)
            for number in range(300):
                assert await client.frame() == (BINARY, payload(number))
            assert await client.frame() == (CLOSE, (4000).to_bytes(2) + b"done")
            await client.send(close_frame(4000))
            assert await client.rest() == b""
            assert await departures.one() == (4000, "", True)


async def test_a_client_that_closes_still_gets_what_was_sent_to_it() -> None:
    """Output that waits for a slow client is finished before its close is answered."""
    async with serving(room, max_unsent=1 << 30) as served:
        departures = Departures("x")
        async with served.client("/room/x", buffer=4096) as client:
            await client.send(frame(TEXT, b"flood 100"))
            await soon(lambda: served.rooms.statistics().hub.sent == 100)
            await client.send(close_frame(4000, "enough"))
            assert await departures.one() == (4000, "enough", True)
            for number in range(100):
                assert await client.frame() == (BINARY, payload(number))
            assert await client.closed() == (4000, "enough")


@pytest.mark.parametrize("closing", [False, True], ids=["closes", "answers a close"])
async def test_who_closes_and_sends_nothing_more_reads_on(closing: bool) -> None:
    """A client may end its own direction behind its close frame, as any program may that has said all."""
    async with serving(room, max_unsent=1 << 30) as served:
        async with served.client("/room/x", buffer=4096) as client:
            await client.send(
                frame(TEXT, b"flood 100") + (frame(TEXT, b"close 4000 enough") if closing else b"")
            )
            await soon(lambda: served.rooms.statistics().hub.sent == 100)
            await client.send(close_frame(4000, "enough"))
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            for number in range(100):
                assert await client.frame() == (BINARY, payload(number))
            assert await client.closed() == (4000, "enough")
        await soon(lambda: not served.rooms.statistics().hub.closing)


async def test_closes_that_cross_over_a_full_buffer() -> None:
    """A client's close does not cut off the output and the close frame that wait for it."""
    async with serving(room, max_unsent=1 << 30) as served:
        departures = Departures("x")
        async with served.client("/room/x", buffer=4096) as client:
            await client.send(frame(TEXT, b"flood 100") + frame(TEXT, b"close 4000 room"))
            await soon(lambda: served.rooms.statistics().hub.closing == 1)
            await client.send(close_frame(4001, "client"))
            assert await departures.one() == (4001, "client", True)
            for number in range(100):
                assert await client.frame() == (BINARY, payload(number))
            assert await client.closed() == (4000, "room")


async def test_who_does_not_read_is_closed_as_too_slow() -> None:
    """The frame that is half out is finished, 1013 follows it, and the others get everything."""
    async with serving(room, max_unsent=1_000_000) as served:
        departures = Departures("x")
        async with served.client("/room/x") as quick, served.client("/room/x", buffer=4096) as slow:
            for number in range(300):
                await quick.send(frame(TEXT, b"all %d" % number))
                assert await quick.frame() == (BINARY, payload(number))
            assert served.rooms.get("room", "x").info().connections == 1
            number = 0
            while (got := await slow.frame())[0] == BINARY:
                assert got[1] == payload(number)
                number += 1
            assert 0 < number < 300
            assert got[1][:2] == (1013).to_bytes(2)
            await slow.send(close_frame(1013))
            assert await slow.rest() == b""
            assert (await departures.one())[::2] == (1013, True)


async def test_pings_of_who_does_not_read_cost_one_pong() -> None:
    """A client that only pings may do so for ever; when it reads, the last of its pings is answered."""
    async with serving(room, max_unsent=1000) as served, served.client("/room/x", buffer=4096) as client:
        (link,) = served.rooms._hub.rosters["room/x"].links.values()
        number = 0
        while link.output is None or number < 20_000:
            await client.send(b"".join(frame(PING, b"%0100d" % (number + i)) for i in range(100)))
            number += 100
            await trio.lowlevel.checkpoint()
        await soon(lambda: served.rooms.statistics().hub.answered == number)
        assert link.output.size < 20_000  # What one read brought, and one pong.
        await client.send(frame(TEXT, b"still here"))
        answered: list[int] = []
        while (got := await client.frame())[0] == PONG:
            answered.append(int(got[1]))
        assert got == (TEXT, b"still here")
        assert answered == sorted(set(answered))
        assert answered[-1] == number - 1


async def test_what_follows_a_message_larger_than_the_limit_is_not_lost() -> None:
    """What is in flight counts for nothing: a client that reads it gets all that comes behind it."""
    async with serving(room, max_unsent=100_000) as served, served.client("/room/x", buffer=4096) as client:
        await client.send(frame(TEXT, b"large 8000000") + frame(TEXT, b"flood 3"))
        await soon(lambda: served.rooms.statistics().hub.sent == 4)
        await client.send(frame(PING, b"?") + frame(TEXT, b"close 4000 done"))
        await soon(lambda: served.rooms.statistics().hub.closing == 1)
        assert await client.frame() == (BINARY, b"x" * 8_000_000)
        assert await client.frame() == (PONG, b"?")
        for number in range(3):
            assert await client.frame() == (BINARY, payload(number))
        assert await client.frame() == (CLOSE, (4000).to_bytes(2) + b"done")


async def test_who_is_too_slow_is_told_so_behind_any_message() -> None:
    """The close frame with 1013 comes, also behind a message that is larger than all that may wait."""
    async with serving(room, max_unsent=100_000) as served, served.client("/room/x", buffer=4096) as client:
        departures = Departures("x")
        await client.send(frame(TEXT, b"large 8000000") + frame(TEXT, b"large 200000") * 2)
        await soon(lambda: served.rooms.statistics().hub.closing == 1)
        assert await client.frame() == (BINARY, b"x" * 8_000_000)
        kind, content = await client.frame()
        assert (kind, content[:2]) == (CLOSE, (1013).to_bytes(2))
        await client.send(close_frame(1013))
        assert (await departures.one())[::2] == (1013, True)
        assert served.rooms.statistics().hub.closes == {1013: 1}


async def test_a_busy_room_is_not_flooded() -> None:
    """Its sockets are not read while about a thousand messages wait; then all of them arrive, in order."""
    GATES["x"] = trio.Event()
    count = 20_000
    async with serving(room) as served, served.client("/room/x") as client:
        Departures("x")
        await client.send(frame(TEXT, b"wait x"))
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                for number in range(count):
                    await client.send(frame(BINARY, b"%09d" % number + b"x" * 500))

            nursery.start_soon(flood)
            handle = served.rooms.get("room", "x")
            await soon(lambda: handle.info().mailbox >= 1000)
            before = 0
            while (now := served.rooms.statistics().hub.received) != before:
                before = now
                await trio.sleep(0.05)
            assert handle.info().mailbox <= 1100  # A read of 16 KiB may go over the limit.
            GATES["x"].set()
            for number in range(count):
                assert (await client.frame())[1][:9] == b"%09d" % number


# The hub alone.


async def _pushed(roster: Roster) -> None:
    await soon(lambda: not roster.jobs)


async def test_a_broadcast_to_many_is_written_in_slices_and_in_order() -> None:
    """Output of one room to over a thousand sockets stays in order, a message to one and a close included."""
    async with bench() as made:
        hub = made.hub
        many = [made.client() for _ in range(1500)]
        roster = hub.rosters["a/b"]
        chosen, link = many[-1]
        for number in range(5):
            hub.broadcast(roster, PlainMessage(f"all {number}"))
        assert roster.jobs  # That it took more than one slice is what is tested here.
        hub.send(link, PlainMessage("only you"))
        hub.close(link, 4000, "")
        hub.broadcast(roster, PlainMessage("the others"))
        await _pushed(roster)
        sent = b"".join(encode_text(b"all %d" % number) for number in range(5))
        assert ready(chosen) == sent + encode_text(b"only you") + b"\x88\x02\x0f\xa0"
        for client, _ in many[:-1]:
            assert ready(client) == sent + encode_text(b"the others")


class Slow(Link):
    """A link that takes long to write to, and notes what it is sent."""

    def __init__(self, number: int, roster: Roster, pause: Callable[[], None]) -> None:
        super().__init__(number, roster, None, 0)
        self.sent: list[bytes] = []
        self.dropped = False
        self._pause = pause

    def send(self, frame: bytes) -> None:
        """Note it."""
        self._pause()
        self.sent.append(frame)

    def send_eof(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Note it."""
        if not self.dropped:
            self.dropped = True
            self.roster.hub.release(self)

    def attend(self) -> None:
        """Nothing."""

    def pause_reading(self) -> None:
        """Nothing."""

    def resume_reading(self) -> None:
        """Nothing."""


def _slow_links(made: Bench, count: int = 65) -> list[Slow]:
    def pause() -> None:
        end = trio.current_time() + 0.0001
        while trio.current_time() < end:
            pass

    roster = made.hub.roster("a/b", None, greets=False)
    links = [Slow(made.hub.new_id(), roster, pause) for _ in range(count)]
    for link in links:
        made.hub.enter(link)
    return links


class Either:
    """A message with a form of its own in each kind."""

    def frame(self, *, binary: bool) -> bytes:
        """The kind alone."""
        return encode_text(b"binary" if binary else b"text")


async def test_who_changes_its_kind_during_a_broadcast_gets_it_all_the_same() -> None:
    """A client that begins to speak binary while a broadcast is on its way to it does not lose it."""
    async with bench() as made:
        links = _slow_links(made)
        made.hub.broadcast(links[0].roster, Either())
        assert links[-1].sent == []
        made.hub.message_received(links[-1], b"binary")
        await _pushed(links[0].roster)
        assert links[-1].sent == [encode_text(b"text")]
        made.hub.send(links[-1], Either())
        assert links[-1].sent[1:] == [encode_text(b"binary")]


async def test_who_closes_while_its_own_close_waits_is_answered() -> None:
    """Where the room's close frame is still behind other output, the client's close is echoed."""
    async with bench() as made:
        links = _slow_links(made)
        link, roster = links[-1], links[0].roster
        made.hub.broadcast(roster, Either())
        made.hub.close(link, 4000, "")
        made.hub.data_received(link, close_frame(4001))
        await _pushed(roster)
        assert link.sent == [b"\x88\x02\x0f\xa1"]
        assert link.dropped
        assert [mail for _, mail in made.mail if isinstance(mail, Disconnected)] == [
            Disconnected(link, 4001, "", clean=True)
        ]


async def test_a_violation_while_its_close_waits_is_answered() -> None:
    """Where the room's close frame is still behind other output, a violation's goes out instead."""
    async with bench() as made:
        links = _slow_links(made)
        link, roster = links[-1], links[0].roster
        made.hub.broadcast(roster, Either())
        made.hub.close(link, 4000, "")
        made.hub.data_received(link, frame(TEXT, b"x", masked=False))
        await _pushed(roster)
        assert [sent[:4] for sent in link.sent] == [link.sent[0][:2] + b"\x03\xea"]


ENDINGS: dict[str, Callable[[Bench, SocketLink], object]] = {
    "closed by its room": lambda made, link: made.hub.close(link, 4000, "enough"),
    "closed by the other side": lambda made, link: made.hub.data_received(link, close_frame(4000, "enough")),
    "in breach of the protocol": lambda made, link: made.hub.data_received(link, frame(TEXT, masked=False)),
    "too slow": lambda made, link: made.hub.slow_consumer(link),
}


async def passes(clock: MockClock, seconds: float) -> None:
    """Let time pass, and whatever is due be done."""
    for _ in range(round(seconds * 10)):
        clock.jump(0.1)
        for _ in range(3):
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("ending", ENDINGS)
async def test_who_reads_is_not_cut_off(ending: str, mock_clock: MockClock) -> None:
    """However long it takes, and however it ends: all that was sent arrives, and then the close frame."""
    async with bench(backlog=1 << 30, patience=1e6) as made:
        client, link = made.client(buffer=4096)
        sent = [encode_binary(payload(number)) for number in range(50)]
        for one in sent:
            link.send(one)
        ENDINGS[ending](made, link)
        size = sum(map(len, sent))
        received = b""
        while len(received) < size + 2 or len(received) < size + 2 + received[size + 1]:
            received += ready(client, 20_000)
            await passes(mock_clock, 3)
        assert received[:size] == b"".join(sent)
        assert received[size] == frames.CLOSE_FRAME
        assert len(received) == size + 2 + received[size + 1]
        assert trio.current_time() > 100


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("reads", [0, 1])
async def test_who_does_not_read_on_is_cut_off(ending: str, reads: int, mock_clock: MockClock) -> None:
    """Once nothing has moved for the close timeout, or a fifth of it longer."""
    async with bench(backlog=1 << 30, patience=1e6) as made:
        client, link = made.client(buffer=4096)
        for number in range(50):
            link.send(encode_binary(payload(number)))
        ENDINGS[ending](made, link)
        for _ in range(reads):
            await passes(mock_clock, 4)
            ready(client, 20_000)
        await passes(mock_clock, 4.8)
        assert not link.flags & RELEASED
        await passes(mock_clock, 2)
        assert link.flags & RELEASED
        assert len([mail for _, mail in made.mail if isinstance(mail, Disconnected)]) == 1


async def test_the_time_for_an_answer_begins_when_the_close_frame_is_there(mock_clock: MockClock) -> None:
    """And not when it was put behind what the client has still to read."""
    async with bench(backlog=1 << 30, patience=1e6) as made:
        client, link = made.client(buffer=4096)
        link.send(encode_binary(bytes(20_000)))
        made.hub.close(link, 4000, "")
        await passes(mock_clock, 4.5)
        received = b""
        while len(received) < 20_000 + 4 + 4:
            received += ready(client)
            await passes(mock_clock, 0.1)
        await passes(mock_clock, 4.8)
        client.send(close_frame(4000))
        await passes(mock_clock, 0.1)
        assert [mail for _, mail in made.mail if isinstance(mail, Disconnected)] == [
            Disconnected(link, 4000, "", clean=True)
        ]


async def test_who_reads_what_only_the_kernel_has_still_is_not_cut_off(mock_clock: MockClock) -> None:
    """The close frame has left this process long before it arrives."""
    async with bench(patience=1e6) as made:
        client, link = made.client()
        for _ in range(20):
            link.send(encode_binary(bytes(4000)))
        made.hub.close(link, 4000, "")
        assert link.output is None
        received = b""
        while len(received) < 20 * 4004 + 4:
            received += ready(client, 4004)
            await passes(mock_clock, 4)
        client.send(close_frame(4000))
        await passes(mock_clock, 0.1)
        assert [mail.clean for _, mail in made.mail if isinstance(mail, Disconnected)] == [True]


async def test_what_is_drained_has_gone_through_the_output_of_its_room() -> None:
    """What was sent to one behind a long broadcast is not forgotten while that is written."""
    async with bench() as made:
        links = _slow_links(made)
        link = links[0]
        made.hub.broadcast(link.roster, Either())
        assert link.roster.jobs
        made.hub.send(link, PlainMessage("mine"))
        assert await made.hub.drained(link)
        assert link.sent[-1] == encode_text(b"mine")


async def test_the_end_of_the_hub_does_not_wait_for_ever_for_who_reads(mock_clock: MockClock) -> None:
    """At the stop nobody has longer than the close timeout."""
    async with bench(backlog=1 << 30, patience=1e6) as made, trio.open_nursery() as nursery:
        client, link = made.client(buffer=4096)
        link.send(encode_binary(bytes(10_000_000)))
        nursery.start_soon(made.hub.close_all, 1001, "")
        for _ in range(48):
            ready(client, 4096)
            await passes(mock_clock, 0.1)
        assert not link.flags & RELEASED
        await passes(mock_clock, 0.4)
        assert link.flags & RELEASED


async def test_others_have_their_turn_while_many_flood() -> None:
    """However much there is to read, the rest of the program runs after a bounded part of it."""
    async with bench() as made:
        each = frame(TEXT, b"x") * 20_000
        clients = [made.client()[0] for _ in range(20)]
        sent = 20_000 * len(clients)
        steps: list[int] = []

        async def push(client: socket.socket) -> None:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
            await stream.send_all(each)

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(push, client)
            before = 0
            while before < sent:
                await trio.lowlevel.checkpoint()
                now = made.hub.statistics().received
                steps.append(now - before)
                before = now
        assert max(steps) < sent / 4


async def test_a_fast_sender_does_not_starve_the_others() -> None:
    """Each socket is read once a round: a short message is handled before a flood is at its end."""
    async with bench() as made:
        flooder, fast = made.client()
        other, slow = made.client()
        flooder.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        data = frame(BINARY, b"x" * 10) * 20_000
        written = flooder.send(data)
        assert written > 4 * 16 * 1024
        other.send(frame(TEXT, b"here"))
        await soon(lambda: any(mail == (slow, "here") for _, mail in made.mail))
        at = next(index for index, (_, mail) in enumerate(made.mail) if mail == (slow, "here"))
        before = sum(type(mail) is tuple and mail[0] is fast for _, mail in made.mail[:at])
        assert before < written / 16 / 2


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_of_output_and_reading_keeps_each_stream_whole(seed: int) -> None:
    """Whatever is sent to whom, and whoever reads when: each gets exactly its own, in order."""
    rng = random.Random(seed)
    async with bench() as made:
        hub = made.hub
        hub.backlog = 1 << 40
        clients = [made.client() for _ in range(8)]
        roster = hub.rosters["a/b"]
        expected = [b""] * 8
        received = [b""] * 8
        for turn in range(200):
            text = f"{turn}:" + "x" * rng.choice((1, 200, 40_000))
            if rng.random() < 0.5:
                chosen = rng.randrange(8)
                hub.send(clients[chosen][1], PlainMessage(text))
                expected[chosen] += encode_text(text.encode())
            else:
                hub.broadcast(roster, PlainMessage(text))
                expected = [one + encode_text(text.encode()) for one in expected]
            for number in range(8):
                if rng.random() < 0.2:
                    received[number] += ready(clients[number][0])
            await trio.lowlevel.checkpoint()
        for number in range(8):
            while len(received[number]) < len(expected[number]):
                received[number] += ready(clients[number][0])
                await trio.lowlevel.checkpoint()
        assert received == expected


async def test_a_channel_has_only_who_joined_it() -> None:
    """A broadcast to a channel reaches its members, an excluded one not, and who left it no more."""
    async with bench() as made:
        hub = made.hub
        (a, one), (b, two), (c, three) = (made.client() for _ in range(3))
        roster = one.roster
        for link in (one, two):
            link.roster.join(link, "red")
            link.roster.join(link, "red")
        hub.broadcast(roster, PlainMessage("1"), "red")
        hub.broadcast(roster, PlainMessage("2"), "red", frozenset({two.id}))
        one.roster.leave(one, "red")
        three.roster.leave(three, "red")
        hub.broadcast(roster, PlainMessage("3"), "red")
        hub.broadcast(roster, PlainMessage("4"), "blue")
        assert (ready(a), ready(b), ready(c)) == (
            encode_text(b"1") + encode_text(b"2"),
            encode_text(b"1") + encode_text(b"3"),
            b"",
        )
        b.close()
        await soon(lambda: len(roster.links) == 2)
        assert roster.channels == {}


async def test_a_descriptor_that_cannot_be_watched_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that has no room left keeps neither the record nor the descriptor, nor a room's for it."""
    async with bench() as made:

        def full(_: int) -> None:
            raise OSError(28, "no space left on device")

        monkeypatch.setattr(made.hub.poller, "register", full)
        with pytest.raises(OSError, match="no space"):
            made.client()
        assert made.clients[0].recv(1) == b""
        assert made.hub.statistics().sockets == 0
        assert made.hub.statistics().rosters == 0


OPENING = frame(TEXT, b"a", final=False)


@pytest.mark.parametrize(
    ("opened", "piece"),
    [
        pytest.param(b"", frame(PING), id="pings"),
        pytest.param(b"", frame(PONG), id="pongs"),
        pytest.param(b"", frame(TEXT), id="messages"),
        pytest.param(b"", frame(TEXT, b"ping"), id="automatic responses"),
        pytest.param(OPENING, frame(PING), id="pings inside of a message"),
        pytest.param(OPENING, frame(CONTINUATION, b"a", final=False), id="fragments"),
    ],
)
async def test_nothing_that_one_client_sends_keeps_the_others_waiting(
    opened: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the frames are, what is worked off without a look at the clock is one short read."""
    pieces: list[int] = []
    parse = frames.parse

    def watched(data: bytes, *others: Any) -> Any:
        pieces.append(data.count(piece[:1]))
        return parse(data, *others)

    monkeypatch.setattr(frames, "parse", watched)

    async def flood(client: Client) -> None:
        await client.send(opened + piece * (1 << 15))
        await client.send(close_frame() if not opened else frame(CONTINUATION) + close_frame())

    async with (
        serving(sleeper) as served,
        served.client("/sleeper/x") as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(flood, client)
        while await client.stream.receive_some(1 << 16):
            pass
    assert sum(pieces) >= 1 << 15
    assert max(pieces) <= (960 + 16 * 1024) / len(piece) + 1


@pytest.mark.parametrize("behind", [b"", frame(TEXT, b"x" * 40_000), frame(PING) * 5000])
async def test_who_answered_a_close_in_time_is_not_late_where_nobody_read_it(
    behind: bytes, mock_clock: trio.testing.MockClock
) -> None:
    """As after a stall of the event loop; a client that did not answer is late then."""
    async with bench(patience=1e6) as made:
        good, link = made.client()
        silent, other = made.client()
        for one in (link, other):
            made.hub.close(one, 1000, "that is all")
        for _ in range(5):
            mock_clock.jump(0.99)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
        good.setblocking(True)
        good.settimeout(10)
        good.sendall(behind + close_frame(1000))
        mock_clock.jump(100)
        for _ in range(10):
            mock_clock.jump(1)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
        ended = [event for _, event in made.mail if isinstance(event, Disconnected)]
        assert {(event.link is link, event.clean) for event in ended} == {(True, True), (False, False)}
        assert ready(silent)


@pytest.mark.parametrize("behind", [b"", frame(PING)])
async def test_a_large_message_counts_with_its_bytes_however_it_is_read(behind: bytes) -> None:
    """Alone in a read or with something behind it: its room is told what it takes, before it has it."""
    async with bench() as made:
        client, link = made.client()
        inbox = Weighing()
        link.roster.inbox = inbox
        client.send(frame(BINARY, b"x" * 1000) + behind)
        await soon(lambda: b"x" * 1000 in inbox.told)
        client.send(frame(BINARY, b"y" * 2000) + behind)
        await soon(lambda: b"y" * 2000 in inbox.told)
        assert inbox.told == [b"x" * 1000, sys.getsizeof(b"y" * 2000), b"y" * 2000]


async def test_who_sends_what_is_not_short_is_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second such message on; and short reads are tried again, since most messages are short."""
    reads: list[int] = []
    read = os.read

    def counted(fd: int, size: int) -> bytes:
        reads.append(size)
        return read(fd, size)

    monkeypatch.setattr(os, "read", counted)
    async with bench() as made:
        client, link = made.client()

        async def sent(count: int, message: bytes) -> list[int]:
            reads.clear()
            for _ in range(count):
                before = len(made.mail)
                client.send(frame(BINARY, message))
                while len(made.mail) == before:
                    await trio.lowlevel.checkpoint()
            assert made.mail[-count:] == [("a/b", (link, message))] * count
            return reads

        first, *others = await sent(4, b"x" * 4000)
        assert len(others) == 4
        assert others[0] > 4000
        await sent(300, b"x")
        assert first in reads
        assert len(reads) == 300


async def test_each_message_is_told_to_who_records(mock_clock: MockClock) -> None:
    """Also those that come at once, to a room that is awake and has its connections in use."""
    heard: list[int] = []
    async with bench(patience=math.inf) as made:
        client, link = made.client()
        link.roster.inbox = inbox = Weighing()
        for size in range(1, 7):
            if size == 3:
                made.hub.record(lambda one, size: heard.append(size) if one is link else None)
            if size == 5:
                made.hub.record(None)
            client.send(frame(BINARY, b"x" * size))
            await inbox.has(size)
    assert heard == [3, 4]


async def test_the_end_of_a_silence_is_noted(mock_clock: MockClock) -> None:
    """Of a connection in use, too, whose room is awake."""
    async with bench(patience=math.inf) as made:
        client, link = made.client()
        link.roster.inbox = inbox = Weighing()
        for number, pause in enumerate([0.0, APART / 2, APART / 4, 2 * APART, APART / 2], 1):
            mock_clock.jump(pause)
            client.send(frame(BINARY, b"x"))
            await inbox.has(number)
        rows = made.hub.trace.stretch("a", trio.current_time()).rows
    assert [when - rows[0][0] for when, what, _, number in rows if what == USED and number] == [
        0, 0.75 * APART, 2.75 * APART
    ]  # fmt: skip
