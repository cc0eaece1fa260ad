"""Output that waits: before what it goes, in how many writes, how long, and how much of it there may be."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.raw import PING, TEXT, frame
from tests.sockets.bench import bench, ready, soon, writes
from trio_rooms._sockets import postponed
from trio_rooms._sockets.fanout import Broadcast, PlainMessage
from trio_rooms._sockets.flags import CLOSE_SENT
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.roster import Link
from trio_rooms._wire.frames import encode_binary, encode_close, encode_pong, encode_text

PACKETS = socket.SOCK_SEQPACKET
"""A client of this kind reads each write by itself."""


async def pass_by(clock: MockClock, seconds: float) -> None:
    """Time passes, and what is due is done."""
    clock.jump(seconds)
    for _ in range(50):
        await trio.lowlevel.checkpoint()


def text(message: str) -> bytes:
    """A frame of the server."""
    return encode_text(message.encode())


async def test_it_goes_before_what_is_sent_next_and_in_one_write_with_it() -> None:
    """Each of those who want to know is told then, and not before."""
    async with bench() as made:
        client, link = made.client(kind=PACKETS)
        told: list[str] = []
        for name in "ab":
            made.hub.pacing.postpone(link, text(name), 60, done=lambda name=name: told.append(name))  # type: ignore[misc]
        assert (writes(client), told) == ([], [])
        made.hub.send(link, PlainMessage("c"))
        assert writes(client) == [text("a") + text("b") + text("c")]
        assert told == ["a", "b"]
        assert link.unfinished is None
        made.hub.send(link, PlainMessage("d"))
        assert writes(client) == [text("d")]
        assert told == ["a", "b"]


async def test_it_goes_when_its_connection_becomes_active() -> None:
    """Because its client sends something. A pong overtakes it, and so does a ping of the server."""
    async with bench() as made:
        client, link = made.client(kind=PACKETS)
        made.hub.pacing.postpone(link, text("a"), 60)
        client.send(frame(PING, b"p"))
        await soon(lambda: made.hub.statistics().answered)
        made.hub.keepalive.ping(link)
        assert writes(client) == [encode_pong(b"p"), b"\x89\0"]
        client.send(frame(TEXT, b"x"))
        await soon(lambda: made.hub.statistics().received)
        assert writes(client) == [text("a")]
        assert made.hub.activity.is_active(link)


async def test_it_goes_when_a_connection_is_used_that_was_found_to_be_quiet(mock_clock: MockClock) -> None:
    """In the moment in which it became so, before anybody has looked."""
    async with bench(patience=1e6) as made:
        client, link = made.client(kind=PACKETS)
        made.hub.activity.use(link)
        mock_clock.jump(60)
        made.hub.pacing.postpone(link, text("a"), 60)
        assert writes(client) == []
        made.hub.take(link, "x")
        assert writes(client) == [text("a")]


async def test_it_goes_after_its_time_at_the_latest(mock_clock: MockClock) -> None:
    """That of the first of it, or a shorter one; those who wait equally long cost one deadline together."""
    async with bench(patience=1e6) as made:
        clients = [made.client(kind=PACKETS) for _ in range(100)]
        before = len(made.deadlines)
        for _, link in clients:
            made.hub.pacing.postpone(link, text("a"), 60)
        assert len(made.deadlines) == before + 1
        (one, first), (two, second), *_ = clients
        await pass_by(mock_clock, 30)
        made.hub.pacing.postpone(first, text("b"), 60)
        made.hub.pacing.postpone(second, text("b"), 5)
        await pass_by(mock_clock, 5)
        assert writes(two) == [text("a") + text("b")]
        made.hub.pacing.postpone(second, text("c"), 60)
        await pass_by(mock_clock, 24.9)
        assert not any(writes(client) for client, _ in clients)
        await pass_by(mock_clock, 0.2)
        assert writes(one) == [text("a") + text("b")]
        assert [writes(client) for client, _ in clients] == [[], [], *([[text("a")]] * 98)]
        await pass_by(mock_clock, 35)
        assert writes(two) == [text("c")]
        assert not made.hub._postponements._queues


async def test_the_newest_takes_the_place_of_what_has_its_key() -> None:
    """At its own place in the order, and nothing with another key goes."""
    async with bench() as made:
        client, link = made.client(kind=PACKETS)
        for name, key in (("a1", "a"), ("b1", "b"), ("x", None), ("a2", "a"), ("x", None), ("a3", "a")):
            made.hub.pacing.postpone(link, text(name), 60, key=key)
        link.send_postponed()
        assert writes(client) == [b"".join(map(text, ("b1", "x", "x", "a3")))]
        link.send_postponed()
        assert writes(client) == []
        made.hub.pacing.postpone(link, text("old"), 60, key="a")
        made.hub.send_in(link, PlainMessage("new"), Manner(volatile=False, key="a", window=0))
        assert writes(client) == [text("new")]


async def test_there_is_no_more_of_it_than_there_may_be() -> None:
    """In frames and in bytes: what would be more has all of it written."""
    async with bench() as made:
        client, link = made.client(kind=PACKETS)
        for number in range(300):
            made.hub.pacing.postpone(link, text(f"{number}"), 60)
        assert writes(client) == [b"".join(text(f"{number}") for number in range(257))]
        link.send_postponed()
        writes(client)
        for number in range(4):
            made.hub.pacing.postpone(link, encode_binary(bytes(20_000)), 60, key=number)
            made.hub.pacing.postpone(link, encode_binary(bytes(20_000)), 60, key=number)
        assert [len(one) // 20_000 for one in writes(client)] == [4]


async def test_a_close_goes_behind_it() -> None:
    """The room closes the connection, and the client has all that was sent before."""
    async with bench() as made:
        client, link = made.client(kind=PACKETS)
        told: list[int] = []
        made.hub.pacing.postpone(link, text("a"), 60, done=lambda: told.append(1))
        made.hub.close(link, 4000, "")
        made.hub.pacing.postpone(link, text("b"), 60, done=lambda: told.append(2))
        assert writes(client) == [text("a"), encode_close(4000, "")]
        assert told == [1]


async def test_it_goes_with_its_connection(mock_clock: MockClock) -> None:
    """Which is lost, or closed by its client: nobody is told that it was written, and nothing waits."""
    async with bench(patience=1e6) as made:
        told: list[int] = []
        for ends in (b"", frame(0x8, b"\x03\xe8")):
            client, link = made.client()
            made.hub.pacing.postpone(link, text("a"), 60, done=lambda: told.append(1))
            client.send(ends) if ends else client.close()
            await soon(lambda: not made.hub.statistics().sockets)
            assert link.unfinished is None
        await pass_by(mock_clock, 60)
        assert told == []
        assert not made.hub._postponements._queues


async def test_it_keeps_its_place_behind_what_is_still_written() -> None:
    """A broadcast that takes more than one slice was sent before it."""
    async with bench() as made:
        clients = [made.client() for _ in range(1500)]
        client, link = clients[-1]
        made.hub.broadcast(link.roster, PlainMessage("all"))
        if not link.roster.jobs:  # A fast machine.
            link.roster.jobs = None
        made.hub.pacing.postpone(link, text("low"), 60)
        made.hub.send(link, PlainMessage("last"))
        await soon(lambda: not link.roster.jobs)
        assert ready(client) == text("all") + text("low") + text("last")


async def test_a_slow_client_gets_the_newest_of_what_is_coalesced_and_nothing_volatile() -> None:
    """As soon as it has read what was sent before; what is neither waits in order, as it always does."""
    async with bench() as made:
        client, link = made.client()
        large = encode_binary(bytes(1 << 20))
        made.hub.send_frame(link, large)
        assert link.output is not None
        volatile = Manner(volatile=True, key=None, window=0)
        cursor = Manner(volatile=False, key="cursor", window=0)
        both = Manner(volatile=True, key="cursor", window=0)
        for number in range(1000):
            made.hub.send_in(link, PlainMessage(f"c{number}"), cursor)
            made.hub.send_in(link, PlainMessage("never"), volatile)
            made.hub.broadcast(link.roster, PlainMessage("never"), manner=both)
        assert made.hub.statistics().dropped == 2000
        read = b""
        while link.unfinished is not None:
            read += ready(client)
            await trio.lowlevel.checkpoint()
        read += ready(client)
        assert read == large + text("c999")
        made.hub.send_in(link, PlainMessage("v"), volatile)
        made.hub.send_in(link, PlainMessage("c"), cursor)
        assert ready(client) == text("v") + text("c")


async def test_what_is_sent_to_a_slow_client_goes_behind_what_is_coalesced() -> None:
    """Nothing overtakes what was sent before it."""
    async with bench() as made:
        client, link = made.client()
        large = encode_binary(bytes(1 << 20))
        made.hub.send_frame(link, large)
        cursor = Manner(volatile=False, key="cursor", window=0)
        for name in "ab":
            made.hub.send_in(link, PlainMessage(name), cursor)
        made.hub.send(link, PlainMessage("x"))
        made.hub.send_in(link, PlainMessage("c"), cursor)
        read = b""
        while link.unfinished is not None:
            read += ready(client)
            await trio.lowlevel.checkpoint()
        read += ready(client)
        assert read == large + text("b") + text("x") + text("c")


async def test_what_is_coalesced_while_a_connection_is_told_what_it_missed_goes_behind_that() -> None:
    """Whether or not anything else is held back meanwhile; what is volatile it does not get."""
    async with bench() as made:
        for held in ("", "x"):
            client, link = made.client()
            output = made.hub.hold(link)
            for name in "ab":
                made.hub.send_in(link, PlainMessage(name), Manner(volatile=False, key="k", window=0))
                made.hub.send_in(link, PlainMessage("never"), Manner(volatile=True, key=None, window=0))
            output.feed(text("missed"))
            if held:
                made.hub.send(link, PlainMessage(held))
            await soon(lambda output=output: output.idle)  # type: ignore[misc]
            made.hub.let_go(link)
            await soon(lambda link=link: link.unfinished is None)  # type: ignore[misc]
            assert ready(client) == text("missed") + text("b") + (text("x") if held else b"")


async def test_a_client_that_is_too_slow_gets_nothing_of_it() -> None:
    """It is closed, and what waited is dropped with all else; nobody is told that it was written."""
    async with bench(backlog=1000) as made:
        client, link = made.client()
        told: list[int] = []
        made.hub.send_frame(link, encode_binary(bytes(1 << 20)))
        made.hub.send_frame(link, encode_binary(bytes(2000)))
        made.hub.pacing.postpone(link, text("a"), 60, done=lambda: told.append(1))
        made.hub.send(link, PlainMessage("b"))
        assert link.flags & CLOSE_SENT
        assert told == []
        read = b""
        while link.output is not None:
            read += ready(client)
            await trio.lowlevel.checkpoint()
        read += ready(client)
        assert read.endswith(encode_close(1013, "too slow: too much is waiting to be read"))
        assert text("a") not in read


async def test_a_gathered_broadcast_is_one_write_at_each_hibernated_connection(mock_clock: MockClock) -> None:
    """Several messages, each encoded once for all; who is active has each at once."""

    class Counted:
        """A message that counts how often it is encoded."""

        def __init__(self, name: str) -> None:
            self.name, self.encoded = name, 0

        def frame(self, *, binary: bool) -> bytes:
            """The frame."""
            self.encoded += 1
            return text(self.name)

    async with bench(patience=1e6) as made:
        clients = [made.client(kind=PACKETS) for _ in range(20)]
        (awake, active), *hibernated = clients
        roster = active.roster
        made.hub.activity.use(active)
        messages = [Counted(name) for name in "abc"]
        manner = Manner(volatile=False, key=None, window=0.2)
        sent = made.hub.pacing.counted(roster.members(None), None, manner)
        assert (sent.active, sent.parked, sent.queued) == (1, 0, 19)
        for message in messages:
            made.hub.broadcast(roster, message, manner=manner)
            await pass_by(mock_clock, 0.05)
        assert writes(awake) == [text("a"), text("b"), text("c")]
        assert not any(writes(client) for client, _ in hibernated)
        await pass_by(mock_clock, 0.06)
        for client, _ in hibernated:
            assert writes(client) == [text("a") + text("b") + text("c")]
        assert [message.encoded for message in messages] == [1, 1, 1]


async def test_many_that_are_due_are_written_to_in_slices(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop goes round in between, and each gets what it is to get."""
    monkeypatch.setattr(postponed, "TURN", 0)
    async with bench(patience=1e6) as made:
        clients = [made.client() for _ in range(100)]
        links: list[Link] = [link for _, link in clients]
        Broadcast(links, PlainMessage("x"), Manner(volatile=False, key=None, window=1))(1e12)
        mock_clock.jump(1)
        turns: set[int] = set()
        while any(one.postponed for one in links):
            await trio.lowlevel.checkpoint()
            turns.add(sum(1 for one in links if one.postponed))
        assert turns <= {100, 84, 68, 52, 36, 20, 4, 0}
        assert len(turns) > 3
        assert [ready(client) for client, _ in clients] == [text("x")] * 100


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send")),
        st.tuples(st.just("say")),
        st.tuples(st.just("ping")),
        st.tuples(st.just("wait"), st.sampled_from([0.4, 1.1, 6.0])),
        st.tuples(st.just("low"), st.sampled_from([1.0, 5.0]), st.sampled_from([None, None, "p", "q"])),
        st.tuples(st.just("flood")),
        st.tuples(st.just("read")),
        st.tuples(st.sampled_from(["volatile", "newest", "gathered"]), st.sampled_from(["p", "q"])),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS)
def test_in_any_order_nothing_is_lost_late_or_out_of_order(steps: list[tuple[Any, ...]]) -> None:
    """What has no key arrives once, in the order in which it was sent; of a key the newest, in its place."""
    trio.run(_any_order, steps, clock=MockClock())


async def _any_order(steps: list[tuple[Any, ...]]) -> None:
    """Do the steps, read all, and compare."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    async with bench(patience=1e6) as made:
        client, link = made.client(buffer=4096)
        hub = made.hub
        keyed: dict[str, str] = {}
        sent: list[str] = []
        dropped: set[str] = set()
        read = b""
        for number, (step, *details) in enumerate(steps):
            name = f"<{number}>"
            if step == "send":
                hub.send(link, PlainMessage(name))
                sent.append(name)
            elif step == "flood":
                name += "x" * 60_000
                hub.send(link, PlainMessage(name))
                sent.append(name)
            elif step == "read":
                read += ready(client)
            elif step in {"say", "ping"}:
                client.send(frame(TEXT if step == "say" else PING, b"x"))
            elif step == "wait":
                await pass_by(clock, details[0])
            elif step == "low":
                delay, key = details
                hub.pacing.postpone(link, text(name), delay, key=key)
                sent.append(name)
                keyed[name] = key or ""
            else:
                volatile = step == "volatile"
                if volatile and link.output is not None:
                    dropped.add(name)
                manner = Manner(volatile=volatile, key=details[0], window=1.0 if step == "gathered" else 0)
                hub.broadcast(link.roster, PlainMessage(name), manner=manner)
                sent.append(name)
                keyed[name] = details[0]
            await _settle()
        await pass_by(clock, 6)
        while link.unfinished is not None:
            read += ready(client)
            await trio.lowlevel.checkpoint()
        read += ready(client)
        got = [one for one in _messages(read) if one != "pong"]
        assert len(got) == len({*got})
        assert got == [name for name in sent if name in got]
        newest: dict[str, str] = {}
        for name in sent:
            key = keyed.get(name, "")
            if not key and name not in dropped:
                assert name in got
            elif key and name not in dropped:
                newest[key] = name
        assert {*newest.values()} <= {*got}


async def _settle() -> None:
    for _ in range(5):
        await trio.lowlevel.checkpoint()


def _messages(read: bytes) -> list[str]:
    """The messages in what a client has read."""
    messages: list[str] = []
    at = 0
    while at < len(read):
        opcode, size = read[at] & 0xF, read[at + 1]
        at += 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size = int.from_bytes(read[at : at + wide])
            at += wide
        messages.append("pong" if opcode == 0xA else read[at : at + size].decode())
        at += size
    return messages
