"""A client in a room: what it asks, emits and hears, and what of it is bounded."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.client.reference import Reference
from trio_rooms.client import (
    AskFailed,
    ClientClosed,
    Event,
    EventsNotTaken,
    RemoteRoom,
    TooMuchWaiting,
    UnexpectedData,
    connect_room,
)
from trio_rooms.errors import EventError

URL = "ws://localhost/ledger/main"


@attrs.define
class Add:
    """What is asked."""

    amount: int


@attrs.define
class Balance:
    """What is answered."""

    balance: int


def client(server: Reference, **settings: Any) -> Any:
    """A client of it."""
    return connect_room(URL, open_stream=server.open_stream, **settings)


async def take(room: RemoteRoom, count: int) -> list[Any]:
    """The data of the next events."""
    return [(await anext(room)).data for _ in range(count)]


@pytest.mark.parametrize("protocol", ["json", "cbor"])
async def test_answers_and_events_come_in_both_kinds(
    server: Reference, autojump_clock: MockClock, protocol: Literal["json", "cbor"]
) -> None:
    """What is asked is answered, what is sent is heard, whichever kind is spoken."""
    async with client(server, protocol=protocol) as room:
        assert await room.ask("add", Add(3)) == {"balance": 3}
        assert await room.ask("add", Add(4), result=Balance) == Balance(7)
        room.emit("typing", channel="red")
        await room.flush()
        first, second = await anext(room), await anext(room)
        assert first == Event("balance", {"balance": 3, "count": 1}, 1)
        assert second.convert(dict[str, int]) == {"balance": 7, "count": 2}
        assert repr(room) == "<RemoteRoom ws://localhost/ledger/main open>"
    assert server.up[0] == {"event": "add", "data": {"amount": 3}, "id": 1}
    assert server.up[2] == {"event": "typing", "data": None, "channel": "red"}
    assert server.offered == [(f"trio-rooms.v1.{protocol}",)]
    assert server.closes == [1000]


@pytest.mark.parametrize(
    ("code", "retry", "applied"),
    [
        ("invalid_data", False, False),
        ("not_saved", True, False),
        ("handler_timeout", True, None),
        ("internal_error", False, None),
        ("room_failed", True, False),
        ("sold_out", False, None),
    ],
)
async def test_an_error_says_what_can_be_done(
    server: Reference, autojump_clock: MockClock, code: str, retry: bool, applied: bool | None
) -> None:
    """A refusal tells whether to try again, and whether it may have been applied."""
    async with client(server) as room:
        with pytest.raises(AskFailed) as failed:
            await room.ask("wrong", code)
    error = failed.value
    assert isinstance(error, EventError)
    assert (error.code, error.message, error.event) == (code, "no seats", "wrong")
    assert (error.retry, error.applied) == (retry, applied)


async def test_what_does_not_fit_is_told(server: Reference, autojump_clock: MockClock) -> None:
    """An answer, and an event, that are not of the type that was asked for."""
    async with client(server) as room:
        with pytest.raises(UnexpectedData, match=r"the answer to 'echo'.*expected int, got str") as answer:
            await room.ask("echo", "text", result=int)
        assert answer.value.applied is True
        server.emit("said", {"balance": "much"})
        event = await anext(room)
        with pytest.raises(UnexpectedData, match=r"the data of 'said'.*balance: expected int") as data:
            event.convert(Balance)
        assert data.value.applied is None


async def test_what_cannot_be_sent_is_refused_at_the_call(
    server: Reference, autojump_clock: MockClock
) -> None:
    """And uses up no number."""
    async with client(server) as room:
        with pytest.raises(TypeError, match="cannot be sent"):
            room.emit("say", object())
        with pytest.raises(TypeError, match="cannot be sent"):
            await room.ask("say", object())
        with pytest.raises(ValueError, match="needs a name"):
            room.emit("")
        with pytest.raises(ValueError, match="at most 256"):
            room.emit("e" * 257)
        with pytest.raises(TypeError, match="the name of a channel is a string"):
            room.emit("say", channel=7)
        await room.ask("echo")
    assert server.up[0] == {"event": "echo", "data": None, "id": 1}


async def test_an_ask_that_is_cancelled_in_time_was_never_made(
    server: Reference, autojump_clock: MockClock
) -> None:
    """What is not sent yet is taken back, and leaves no gap in the numbers."""
    async with client(server) as room:
        server.reachable = False
        await server.drop()
        for patience in (0, 5):
            with trio.move_on_after(patience) as waited:
                await room.ask("add", Add(1))
            assert waited.cancelled_caught
            assert room.statistics().unsent == 0
        server.reachable = True
        assert await room.ask("add", Add(2)) == {"balance": 2}
    assert server.applied == [2]
    assert [message["id"] for message in server.up if "id" in message and "event" in message] == [1]


async def test_the_answer_to_a_cancelled_ask_is_dropped(server: Reference, autojump_clock: MockClock) -> None:
    """What was sent is handled; its number stays used, and nobody else gets its answer."""
    async with client(server) as room:
        with trio.move_on_after(1) as waited:
            await room.ask("quiet", "first")
        assert waited.cancelled_caught
        assert room.statistics().unanswered == 1
        server.release()
        assert await room.ask("echo", "second") == "second"
        assert room.statistics().unanswered == 0
    assert server.applied == ["quiet", "echo"]


async def test_a_cancelled_ask_leaves_no_half_frame(server: Reference, autojump_clock: MockClock) -> None:
    """The client's own task sends: what a cancelled one had begun to send comes whole."""
    server.lockstep = True
    async with client(server) as room:
        async with trio.open_nursery() as nursery:
            # The server is at work on the first, and does not read all of the last.
            for event, data in (("quiet", 0), ("echo", 1), ("echo", 2), ("echo", "x" * 100_000)):
                nursery.start_soon(room.ask, event, data)
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        server.release()
        assert await room.ask("echo", "after") == "after"
    assert [message.get("id") for message in server.up if "event" in message] == [1, 2, 3, 4, 5]
    assert server.up[3]["data"] == "x" * 100_000


async def test_nobody_asks_more_than_may_wait(server: Reference, autojump_clock: MockClock) -> None:
    """Who asks too much waits for room, in turn; who emits too much is told."""
    async with client(server, max_unanswered=3) as room, trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(room.ask, "quiet")
        await trio.testing.wait_all_tasks_blocked()
        assert room.statistics().unanswered == 3
        with pytest.raises(TooMuchWaiting, match=r"3 messages of \d+ bytes") as full:
            room.emit("typing")
        assert (full.value.retry, full.value.applied) == (True, False)
        server.release()
    assert server.applied == ["quiet"] * 6


async def test_who_waits_for_room_waits_in_turn(server: Reference, autojump_clock: MockClock) -> None:
    """Whoever asked first is first, whatever its size."""
    async with (
        client(server, max_unanswered=2, max_unanswered_bytes=3000) as room,
        trio.open_nursery() as nursery,
    ):
        for number in range(20):
            nursery.start_soon(room.ask, f"quiet {number}", "x" * (number % 4 * 1000))
            await trio.testing.wait_all_tasks_blocked()
        server.release()
    assert server.applied == [f"quiet {number}" for number in range(20)]


async def test_bytes_that_wait_are_bounded(server: Reference, autojump_clock: MockClock) -> None:
    """One message that is larger than the bound goes alone."""
    async with client(server, max_unanswered_bytes=1000) as room, trio.open_nursery() as nursery:
        nursery.start_soon(room.ask, "quiet", "x" * 5000)
        nursery.start_soon(room.ask, "quiet", "y")
        await trio.testing.wait_all_tasks_blocked()
        assert room.statistics().unanswered == 1
        server.release()
    assert server.applied == ["quiet", "quiet"]


async def test_flush_holds_back_who_emits(server: Reference, autojump_clock: MockClock) -> None:
    """It returns when all that was emitted is written, and not before."""
    server.lockstep = True
    async with client(server, max_unanswered=10) as room:
        asked = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.ask, "quiet")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(9):
                room.emit("typing", "x" * 10_000)
            with pytest.raises(TooMuchWaiting):
                room.emit("typing")

            @nursery.start_soon
            async def flush() -> None:
                await room.flush()
                asked.set()

            await trio.testing.wait_all_tasks_blocked()
            assert not asked.is_set()
            server.release()
            await asked.wait()
            assert room.statistics().unsent == 0
            room.emit("typing")
    assert server.applied == ["quiet"] + ["typing"] * 10


async def test_events_that_nobody_takes_hold_the_server_back(
    server: Reference, autojump_clock: MockClock
) -> None:
    """The queue is bounded, and what does not fit stays in the network; taken, all come, in order."""
    server.lockstep = True
    async with client(server, max_events=5, ping_interval=math.inf) as room:
        for number in range(20):
            server.emit("said", number)
        await trio.testing.wait_all_tasks_blocked()
        assert room.statistics().events == 5
        assert len(server.connections[0].waiting) > 10
        assert await take(room, 20) == [*range(20)]


async def test_bytes_of_events_are_bounded(server: Reference, autojump_clock: MockClock) -> None:
    """A few large ones fill it too."""
    async with client(server, max_event_bytes=10_000) as room:
        for number in range(10):
            server.emit("said", str(number) * 4000)
        await trio.testing.wait_all_tasks_blocked()
        assert room.statistics().events == 3
        assert [len(one) for one in await take(room, 10)] == [4000] * 10


async def test_a_task_that_takes_events_may_ask_between_them(
    server: Reference, autojump_clock: MockClock
) -> None:
    """The answer is behind events that only this task could take: they are read for it."""
    async with client(server, max_events=2, ping_interval=math.inf) as room:
        for number in range(7):
            server.emit("said", number)
        await trio.testing.wait_all_tasks_blocked()
        assert room.statistics().events == 2
        for number in range(7):
            assert (await anext(room)).data == number
            await room.ask("echo", number)
        server.emit("said", 7)
        assert await take(room, 1) == [7]


async def test_an_ask_behind_events_that_nobody_takes_ends(
    server: Reference, autojump_clock: MockClock
) -> None:
    """With an error that says what to do, and not in a circle; nothing else is lost over it."""
    async with client(server, max_events=2, ping_interval=math.inf) as room:
        for number in range(20):
            server.emit("said", number)
        await trio.testing.wait_all_tasks_blocked()
        sent = 0
        for _ in range(2):
            with pytest.raises(EventsNotTaken, match="in a task of their own") as raised:
                await room.ask("echo")
            assert (raised.value.retry, raised.value.count) == (True, 8)
            sent += raised.value.applied is None  # Else it was taken back before it was sent.
        assert await take(room, 20) == [*range(20)]
        await room.ask("echo")
    assert server.applied == ["echo"] * (sent + 1)


async def test_who_wants_no_events_keeps_none(server: Reference, autojump_clock: MockClock) -> None:
    """They are acknowledged and thrown away, and asks are answered behind any number of them."""
    async with client(server, events=False, max_events=2) as room:
        for number in range(10):
            server.emit("said", number)
        await room.ask("echo")
        assert room.statistics().events == 0
        with pytest.raises(TypeError, match="events=False"):
            await anext(room)
        await trio.sleep(1)
    assert server.up[-1] == {"ack": 10, "id": 1}


async def test_a_cancelled_iteration_loses_no_event(server: Reference, autojump_clock: MockClock) -> None:
    """The next one gets it."""
    async with client(server) as room:
        with trio.move_on_after(1) as waited:
            await anext(room)
        assert waited.cancelled_caught
        server.emit("said", 1)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(room)
        assert await take(room, 1) == [1]


async def test_several_may_take_events(server: Reference, autojump_clock: MockClock) -> None:
    """Each event goes to one of them."""
    taken: list[int] = []

    async def worker(room: RemoteRoom) -> None:
        taken.extend([event.data async for event in room])

    async with trio.open_nursery() as nursery, client(server) as room:
        for _ in range(3):
            nursery.start_soon(worker, room)
        for number in range(9):
            server.emit("said", number)
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(taken) == [*range(9)]


async def test_it_acknowledges_now_and_then(server: Reference, autojump_clock: MockClock) -> None:
    """After a quarter of a second, or 64 events; in one message, with the answers that it has."""
    async with client(server) as room:
        began = trio.current_time()
        for _ in range(3):
            await room.ask("add", Add(1))
        await trio.sleep(0.2)
        assert not [message for message in server.up if "ack" in message]
        await trio.sleep(0.1)
        assert server.up[-1] == {"ack": 3, "id": 3}
        for number in range(64):
            server.emit("said", number)
        await trio.testing.wait_all_tasks_blocked()
        assert server.up[-1] == {"ack": 67, "id": 3}
        assert trio.current_time() - began < 0.4
        await trio.sleep(10)
        assert len([message for message in server.up if "ack" in message]) == 2


async def test_what_an_emit_was_refused_for_is_logged(
    server: Reference, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it, and it is not dropped without a word."""
    async with client(server) as room:
        room.emit("wrong", "unknown_event")
        await room.ask("echo")
    assert "an event that was emitted failed: unknown_event: no seats" in caplog.text


async def test_at_the_end_all_is_sent_and_acknowledged(server: Reference, autojump_clock: MockClock) -> None:
    """What was emitted last is sent, what has come is acknowledged, and the connection is closed."""
    async with client(server) as room:
        await room.ask("add", Add(1))
        room.emit("typing")
        room.emit("typing")
    assert server.applied == [1, "typing", "typing"]
    assert {"ack": 1, "id": 1} in server.up
    assert server.closes == [1000]
    assert room.state == "closed"


async def test_after_its_block_a_client_is_of_no_use(server: Reference, autojump_clock: MockClock) -> None:
    """It says so, and iterations end."""
    async with client(server) as room:
        server.emit("said", 1)
    for use in (room.ask("echo"), room.flush()):
        with pytest.raises(ClientClosed) as closed:
            await use
        assert (closed.value.retry, closed.value.applied) == (False, False)
    with pytest.raises(ClientClosed):
        room.emit("typing")
    assert [event async for event in room] == []
    assert [state async for state in room.states()] == ["closed"]


async def test_the_end_of_the_block_ends_asks_of_other_tasks(
    server: Reference, autojump_clock: MockClock
) -> None:
    """They are told whether it was sent."""
    errors: list[ClientClosed] = []

    async def ask(room: RemoteRoom) -> None:
        try:
            await room.ask("quiet")
        except ClientClosed as error:
            errors.append(error)

    async with trio.open_nursery() as nursery, client(server, max_unanswered=1) as room:
        nursery.start_soon(ask, room)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, room)
        await trio.testing.wait_all_tasks_blocked()
    assert {error.applied for error in errors} == {None, False}
    assert ["may have been applied" in str(error) for error in errors] == [
        error.applied is None for error in errors
    ]


async def test_the_end_takes_no_longer_than_it_may(
    server: Reference, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that says nothing any more holds nobody up."""
    server.lockstep = True
    async with client(server, close_timeout=3) as room:
        server.freeze()
        room.emit("typing", 1)
        room.emit("typing", 2)
        began = trio.current_time()
    assert trio.current_time() - began == 3
    assert "before it could send all that was emitted; 1 events were not" in caplog.text


async def test_a_cancelled_block_ends_at_once(server: Reference, autojump_clock: MockClock) -> None:
    """Nothing is waited for."""
    with trio.move_on_after(1) as scope:
        async with client(server):
            server.freeze()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - scope.deadline == 0


async def test_an_error_is_not_lost_over_a_cancelled_end(
    server: Reference, autojump_clock: MockClock
) -> None:
    """A block that fails, and is cancelled while it closes, says why it failed."""
    server.lockstep = True
    with pytest.raises(KeyError), trio.CancelScope() as scope:  # noqa: PT012 (it is the block that raises)
        async with client(server) as room:
            server.freeze()
            room.emit("typing")
            room.emit("typing")
            scope.cancel()
            raise KeyError


async def test_what_a_block_raises_comes_out_as_it_is(server: Reference, autojump_clock: MockClock) -> None:
    """No group is put around it, and none taken off; its cause stays."""
    cause = ValueError("why")
    with pytest.raises(KeyError) as raised:
        async with client(server):
            raise KeyError("it") from cause
    assert raised.value.__cause__ is cause
    with pytest.raises(ExceptionGroup) as group:
        async with client(server):
            raise ExceptionGroup("mine", [KeyError("it")])
    assert group.value.message == "mine"
    assert server.closes == [1000, 1000]


async def test_no_task_outlives_the_block(server: Reference, autojump_clock: MockClock) -> None:
    """Everything that the client began has ended."""

    async def tasks() -> int:
        await trio.testing.wait_all_tasks_blocked()
        return trio.lowlevel.current_statistics().tasks_living

    before = await tasks()
    for _ in range(3):
        async with client(server) as room:
            await room.ask("echo")
    assert await tasks() == before


def test_what_does_not_fit_is_refused_at_the_call() -> None:
    """Before anything is connected."""
    for url in ("http://localhost/a/b", "ws:///a/b", "ledger/main", "ws://ana:secret@localhost/a/b"):
        with pytest.raises(ValueError, match="a room's URL"):
            connect_room(url)
    with pytest.raises(TypeError, match="a room's URL is a string"):
        connect_room(b"ws://localhost/a/b")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='protocol is "json" or "cbor"'):
        connect_room(URL, protocol="xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such header"):
        connect_room(URL, headers={"X-Name": "a\r\nX-Other: b"})
    with pytest.raises(ValueError, match="may not stand in a header"):
        connect_room(URL, token="a\nb")
    with pytest.raises(ValueError, match="belongs to the handshake"):
        connect_room(URL, headers={"Sec-WebSocket-Key": "mine"})
    with pytest.raises(ValueError, match="only one can be sent"):
        connect_room(URL, token="t", headers={"authorization": "Basic x"})
    with pytest.raises(TypeError, match="a token is a string"):
        connect_room(URL, token=7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 1000"):
        connect_room(URL, max_unanswered=1001)
    with pytest.raises(ValueError, match="max_events is a whole number from 1 on"):
        connect_room(URL, max_events=0)
    with pytest.raises(TypeError, match="ping_interval is a number"):
        connect_room(URL, ping_interval="20")  # type: ignore[arg-type]
    for name in ("first_delay", "max_delay", "ping_interval", "ping_timeout", "attempt_timeout"):
        with pytest.raises(ValueError, match=f"{name} is more than 0 seconds"):
            connect_room(URL, **{name: 0})  # type: ignore[arg-type]


def test_the_log_has_a_name() -> None:
    """What a client has to say can be found, and switched off."""
    assert logging.getLogger("trio_rooms.client").parent is logging.getLogger("trio_rooms")
