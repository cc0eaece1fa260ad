"""A client's session, over connections that break, servers that refuse, and sessions that are lost."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.client.reference import Reference, Refusal
from trio_rooms.client import (
    AnswerLost,
    ConnectionEnded,
    RemoteRoom,
    Unreachable,
    connect_room,
)

URL = "ws://localhost/ledger/main?user=ana"


def client(server: Reference, **settings: Any) -> Any:
    """A client of a server."""
    return connect_room(URL, open_stream=server.open_stream, **settings)


async def add(room: RemoteRoom, amount: int = 1) -> Any:
    """Add to the ledger."""
    return await room.ask("add", {"amount": amount})


async def take(room: RemoteRoom, count: int) -> list[Any]:
    """The names and data of the next events."""
    events = [await anext(room) for _ in range(count)]
    return [(event.name, event.data) for event in events]


async def counts(room: RemoteRoom, count: int) -> list[int]:
    """What the next balances count."""
    return [data["count"] for _, data in await take(room, count)]


def asked(server: Reference) -> list[Any]:
    """The ids that came, in their order."""
    return [message["id"] for message in server.up if "event" in message and "id" in message]


# What is resumed.


async def test_a_broken_connection_is_made_again(server: Reference, autojump_clock: MockClock) -> None:
    """The session goes on where it was, and the client is known by the same name."""
    async with client(server) as room:
        name = room.id
        await add(room)
        await server.drop()
        await add(room)
        assert await counts(room, 2) == [1, 2]
        assert room.id == name
        assert room.statistics().connects == 2
    assert server.targets[0] == "/ledger/main?user=ana"
    again = urlsplit(server.targets[1])
    assert again.path == "/ledger/main"
    assert parse_qs(again.query) == {"user": ["ana"], "resume": ["token+1"], "seq": ["1"]}


async def test_a_session_counts_from_its_welcome(server: Reference, autojump_clock: MockClock) -> None:
    """Whoever has heard nothing yet resumes there."""
    for number in range(5):
        server.emit("balance", {"count": number})
    async with client(server) as room:
        await server.drop()
        server.emit("balance", {"count": 5})
        assert await counts(room, 1) == [5]
    assert parse_qs(urlsplit(server.targets[1]).query)["seq"] == ["5"]


async def test_what_was_sent_meanwhile_comes_once(server: Reference, autojump_clock: MockClock) -> None:
    """Whatever the server sends again, each event is handed over once, and in order."""
    server.repeats = True
    async with client(server) as room:
        for number in range(3):
            server.emit("balance", {"count": number})
        assert await counts(room, 2) == [0, 1]
        for number in range(3, 6):
            await server.drop()
            server.emit("balance", {"count": number})
            await trio.sleep(1)
        assert await counts(room, 4) == [2, 3, 4, 5]
        server.emit("balance", {"count": 6})
        assert await counts(room, 1) == [6]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_what_is_unanswered_is_sent_again(
    server: Reference, autojump_clock: MockClock, moment: str
) -> None:
    """Under its own id, in order, after the welcome; and it is applied once."""
    broken: list[int] = []

    def at(now: str, content: dict[str, Any]) -> bool:
        if now == moment and content.get("id") == 2 and not broken:
            broken.append(2)
            return True
        return False

    server.at = at
    async with client(server) as room:
        async with trio.open_nursery() as nursery:
            for amount in (1, 2, 3):
                nursery.start_soon(add, room, amount)
                await trio.testing.wait_all_tasks_blocked()
        assert await counts(room, 3) == [1, 2, 3]
    assert sorted(server.applied) == [1, 2, 3]
    assert server.balance == 6
    assert broken
    first = asked(server).index(2) + 1
    assert asked(server)[first:][:2] == [2, 3]


async def test_asks_of_a_long_absence_are_sent_in_order(server: Reference, autojump_clock: MockClock) -> None:
    """What was sent goes first, then what was not; and each is answered."""
    answers: list[int] = []

    async def ask(room: RemoteRoom, number: int) -> None:
        answers.append(await room.ask("quiet" if number < 3 else "echo", number))

    async with client(server) as room, trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(ask, room, number)
            await trio.testing.wait_all_tasks_blocked()
        server.reachable = False
        await server.drop()
        for number in range(3, 6):
            nursery.start_soon(ask, room, number)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(100)
        assert room.state == "reconnecting"
        assert (room.statistics().unanswered, room.statistics().unsent) == (3, 3)
        server.release()
        server.reachable = True
    assert answers == [*range(6)]
    assert asked(server)[-6:] == [1, 2, 3, 4, 5, 6]


async def test_an_emit_is_sent_once(server: Reference, autojump_clock: MockClock) -> None:
    """It waits while nobody is there, and is not sent again when its connection breaks."""
    async with client(server) as room:
        room.emit("first")
        await room.flush()
        await trio.testing.wait_all_tasks_blocked()
        await server.drop()
        room.emit("second")
        await room.ask("third")
    assert server.applied == ["first", "second", "third"]


@pytest.mark.parametrize("code", ["unavailable", "too_many_in_flight"])
async def test_what_the_server_cannot_tell_yet_is_asked_again(
    server: Reference, autojump_clock: MockClock, code: str
) -> None:
    """That reaches nobody: the same id again, later, and nothing newer before it."""
    server.unavailable, server.later = 5, code
    async with client(server, first_delay=1, max_delay=10) as room:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for amount in (1, 2, 3):
                nursery.start_soon(add, room, amount)
                await trio.testing.wait_all_tasks_blocked()
        assert 0 < trio.current_time() - began < 10
    assert server.applied == [1, 2, 3]
    assert asked(server) == [1, 1, 2, 3, 1, 2, 3, 1, 2, 3]


async def test_an_answer_that_the_server_has_forgotten_is_told(
    server: Reference, autojump_clock: MockClock
) -> None:
    """It was handled, once; what the handler returned nobody knows any more."""
    server.at = lambda moment, content: moment == "after" and server.forget_answers()
    async with client(server) as room:
        with pytest.raises(AnswerLost) as lost:
            await add(room)
    assert (lost.value.reason, lost.value.retry, lost.value.applied) == ("forgotten", False, True)
    assert server.applied == [1]


# What is lost.


@pytest.mark.parametrize("reason", ["unknown", "expired", "too_far_behind"])
async def test_a_lost_session_is_told(server: Reference, autojump_clock: MockClock, reason: str) -> None:
    """As an event of its own, before all of the new session; who waits for an answer is told as well."""
    async with client(server) as room, trio.open_nursery() as nursery:
        await add(room)
        errors: list[AnswerLost] = []

        @nursery.start_soon
        async def ask() -> None:
            with pytest.raises(AnswerLost) as lost:
                await room.ask("quiet")
            errors.append(lost.value)

        await trio.testing.wait_all_tasks_blocked()
        server.forget(reason)
        server.release()
        await server.drop()
        assert await add(room) == {"balance": 2}
        assert await take(room, 3) == [
            ("balance", {"balance": 1, "count": 1}),
            ("rooms.reset", {"reason": reason}),
            ("balance", {"balance": 2, "count": 2}),
        ]
        assert room.id == "2"
        await server.drop()
        await add(room)
        assert await counts(room, 1) == [3]
    assert [(error.event, error.reason, error.retry, error.applied) for error in errors] == [
        ("quiet", reason, True, None)
    ]
    assert parse_qs(urlsplit(server.targets[2]).query)["resume"] == ["token+2"]
    assert asked(server)[-2:] == [1, 2]


async def test_what_was_not_sent_goes_to_the_new_session(
    server: Reference, autojump_clock: MockClock
) -> None:
    """It cannot have been applied, so it is not lost."""
    async with client(server) as room:
        server.reachable = False
        await server.drop()
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, room, 5)
            room.emit("typing")
            await trio.testing.wait_all_tasks_blocked()
            server.forget()
            server.reachable = True
    assert sorted(map(str, server.applied)) == ["5", "typing"]


async def test_a_server_without_sessions_will_do(server: Reference, autojump_clock: MockClock) -> None:
    """There is nothing to resume; each reconnect is a new beginning, and nothing is acknowledged."""
    server.keeps_sessions = False
    async with client(server) as room:
        await add(room)
        await trio.sleep(1)
        await server.drop()
        await add(room)
        assert [name for name, _ in await take(room, 3)] == ["balance", "rooms.reset", "balance"]
        await trio.sleep(1)
    assert server.targets == ["/ledger/main?user=ana"] * 2
    assert not [message for message in server.up if "ack" in message]


async def test_losses_in_a_row_are_told_once(server: Reference, autojump_clock: MockClock) -> None:
    """However often a session is lost while nobody takes events, nothing grows."""
    async with client(server, max_events=3) as room:
        for _ in range(5):
            server.forget()
            await server.drop()
            await trio.sleep(40)
        assert room.statistics().events == 1
        await add(room)
        assert [name for name, _ in await take(room, 2)] == ["rooms.reset", "balance"]


# Attempts.


async def test_waits_grow_and_are_spread(
    server: Reference, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full jitter: any time up to a ceiling, which doubles up to its bound."""
    ceilings: list[float] = []

    def uniform(low: float, high: float) -> float:
        ceilings.append(high)
        assert low == 0
        return high / 2

    monkeypatch.setattr(random, "uniform", uniform)
    times: list[float] = []

    async def open_stream() -> trio.abc.Stream:
        times.append(trio.current_time())
        return await server.open_stream()

    async with connect_room(URL, open_stream=open_stream, first_delay=1, max_delay=8) as room:
        server.reachable = False
        await server.drop()
        with trio.move_on_after(30):
            await add(room)
        server.reachable = True
        await add(room)
        assert ceilings[:6] == [1, 2, 4, 8, 8, 8]
        waits = [after - before for before, after in itertools.pairwise(times[1:])]
        assert waits[:5] == [1, 2, 4, 4, 4]
        # A connection that lasted begins anew, one that breaks at once does not.
        ceilings.clear()
        await server.drop()
        await add(room)
        await trio.sleep(20)
        await server.drop()
        await add(room)
        assert ceilings == [8, 1]


async def test_a_server_that_is_not_there_is_waited_for(server: Reference, autojump_clock: MockClock) -> None:
    """For as long as it was said, at the first connect; later for ever."""
    server.reachable = False
    with pytest.raises(Unreachable, match="no connection: there is nobody") as no:
        async with client(server, open_within=20):
            pytest.fail("there is nobody")
    assert trio.current_time() <= 20
    assert (no.value.retry, no.value.applied, no.value.url) == (True, False, URL)
    assert no.value.attempts > 3
    began = trio.current_time()
    with pytest.raises(Unreachable, match="1 attempt:"):
        async with client(server, open_within=0):
            pytest.fail("there is nobody")
    assert trio.current_time() == began
    with trio.move_on_after(400) as patient:
        async with client(server, open_within=math.inf):
            pytest.fail("there is nobody")
    assert patient.cancelled_caught


@pytest.mark.parametrize("fault", ["deaf", "speechless"])
async def test_an_attempt_takes_no_longer_than_it_may(
    server: Reference, autojump_clock: MockClock, fault: str
) -> None:
    """A server that takes the connection and says nothing, or no welcome, is given up."""
    server.deaf = math.inf if fault == "deaf" else 0
    server.welcomes = fault != "speechless"
    with pytest.raises(Unreachable, match="nothing came of it within 3 s"):
        async with client(server, open_within=0, attempt_timeout=3):
            pytest.fail("there was no welcome")
    assert trio.current_time() == 3


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 426])
async def test_a_refusal_is_final(server: Reference, autojump_clock: MockClock, status: int) -> None:
    """At the first connect it comes out of it, with its status and its words."""
    server.refusals.append(Refusal(status, b"nobody knows you\nmore"))
    with pytest.raises(ConnectionEnded, match=f"refused with HTTP {status}, for good: nobody") as refused:
        async with client(server):
            pytest.fail("it was refused")
    error = refused.value
    assert (error.status, error.code, error.reason) == (status, None, "nobody knows you")
    assert (error.retry, error.applied) == (False, False)
    assert len(server.targets) == 1


async def test_a_later_refusal_ends_all(server: Reference, autojump_clock: MockClock) -> None:
    """It comes out of iterations, behind what has come, of what is asked and was asked, and of emits."""
    async with client(server) as room, trio.open_nursery() as nursery:
        server.emit("said", 1)
        errors: list[Any] = []

        async def ask(event: str) -> None:
            with pytest.raises(ConnectionEnded) as ended:
                await room.ask(event)
            errors.append((event, ended.value.status, ended.value.applied))

        nursery.start_soon(ask, "quiet")
        await trio.testing.wait_all_tasks_blocked()
        server.refusals.append(Refusal(401))
        await server.drop()
        await trio.sleep(0)
        nursery.start_soon(ask, "unsent")
        assert [state async for state in room.states()][-1] == "closed"
        await ask("later")
        assert sorted(errors) == [("later", 401, False), ("quiet", 401, None), ("unsent", 401, False)]
        assert await take(room, 1) == [("said", 1)]
        for _ in range(2):
            with pytest.raises(ConnectionEnded):
                await anext(room)
        with pytest.raises(ConnectionEnded) as ended:
            room.emit("typing")
        assert ended.value.applied is False
        with pytest.raises(ConnectionEnded):
            await room.flush()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_refusal_of_the_moment_is_not_final(
    server: Reference, autojump_clock: MockClock, status: int
) -> None:
    """It is tried again, and not before the server wants it."""
    server.refusals.append(Refusal(status, headers=((b"Retry-After", b"7"),)))
    server.refusals.append(Refusal(status, headers=((b"Retry-After", b"Fri, 31 Dec 1999 23:59:59 GMT"),)))
    async with client(server) as room:
        assert room.state == "open"
    assert len(server.targets) == 3
    assert 7 <= trio.current_time() <= 7 + 0.5 + 1


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 4001, 4003, 4403])
async def test_some_closes_are_final(server: Reference, autojump_clock: MockClock, code: int) -> None:
    """The same client would be closed again."""
    async with client(server, token="mine") as room:
        await server.close(code, "for a reason")
        with pytest.raises(ConnectionEnded, match=f"closed with {code}, for good: for a reason") as ended:
            await anext(room)
    assert (ended.value.status, ended.value.code, ended.value.reason) == (None, code, "for a reason")
    assert len(server.targets) == 1


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 3000])
async def test_other_closes_are_not(server: Reference, autojump_clock: MockClock, code: int) -> None:
    """What is over after a while is waited for."""
    async with client(server) as room:
        await add(room)
        await server.close(code)
        await add(room)
        assert await counts(room, 2) == [1, 2]


async def test_a_plain_room_is_no_room_for_this_client(server: Reference, autojump_clock: MockClock) -> None:
    """It is told so, and nothing is sent to it."""
    server.chooses = False
    with pytest.raises(ConnectionEnded, match="is the room a plain one"):
        async with client(server):
            pytest.fail("it is plain")
    assert server.up == []


@pytest.mark.parametrize(
    "content", [[], {"ack": []}, {"ack": 1, "error": 7}, {"event": 7}, {"event": "said", "seq": "1"}]
)
async def test_a_server_that_breaks_the_protocol_is_left(
    server: Reference, autojump_clock: MockClock, content: Any
) -> None:
    """With an error that says so: the same would come again."""
    async with client(server) as room, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            with pytest.raises(ConnectionEnded, match="about the server: its message"):
                await room.ask("quiet")

        await trio.testing.wait_all_tasks_blocked()
        server.connections[0].send(content)
        with pytest.raises(ConnectionEnded) as ended:
            await anext(room)
        assert ended.value.code == 1002


async def test_a_session_that_another_takes_is_gone(server: Reference, autojump_clock: MockClock) -> None:
    """One client at a time: the first is closed for good."""
    async with client(server) as room:
        await add(room)
        async with connect_room(f"{URL}&resume=token%2B1&seq=0", open_stream=server.open_stream) as thief:
            assert await counts(thief, 1) == [1]
            assert await counts(room, 1) == [1]
            with pytest.raises(ConnectionEnded, match="closed with 4001"):
                await anext(room)


async def test_a_session_that_its_own_ghost_takes_is_taken_back(
    server: Reference, autojump_clock: MockClock
) -> None:
    """An attempt that was given up may arrive late; that is no other client. After a minute it would be."""
    async with client(server, attempt_timeout=3) as room:
        for later, code in ((20, None), (70, 4001)):
            server.deaf = later
            await server.drop()
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(1)
            server.deaf = 0
            await add(room)
            before = room.statistics().connects
            await trio.sleep(later)
            if code is None:
                await add(room)
                assert room.state == "open"
                assert room.statistics().connects == before + 1
            else:
                with pytest.raises(ConnectionEnded, match="closed with 4001"):
                    await add(room)


# Tokens.


async def test_a_token_is_sent(server: Reference, autojump_clock: MockClock) -> None:
    """As a bearer's, beside the headers that were given."""
    async with client(server, token="secret", headers={"X-Device": "d1"}):
        pass
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.headers[0]["x-device"] == "d1"


async def test_a_token_is_asked_for_at_each_connect(server: Reference, autojump_clock: MockClock) -> None:
    """So it may be another each time; and one that has expired is no end."""
    made = 0

    async def token() -> str:
        nonlocal made
        await trio.sleep(1)
        made += 1
        if made == 2:
            raise OSError("the one who knows is away")
        return f"token {made}"

    async with client(server, token=token) as room:
        await server.close(4003, "expired")
        await add(room)
    assert [headers["authorization"] for headers in server.headers] == ["Bearer token 1", "Bearer token 3"]


async def test_a_fault_in_the_programs_function_comes_out_of_the_block(
    server: Reference, autojump_clock: MockClock
) -> None:
    """It is the program's own error, and is raised as it is; the block is cancelled."""
    made = 0

    async def token() -> str:
        nonlocal made
        made += 1
        if made == 2:
            raise LookupError("no token")
        return "mine"

    with pytest.raises(LookupError, match="no token"):  # noqa: PT012 (it is the block that raises)
        async with client(server, token=token):
            await server.drop()
            await trio.sleep_forever()
    made = 1
    with pytest.raises(LookupError, match="no token"):
        async with client(server, token=token):
            pytest.fail("there was no token")

    async def wrong() -> str:
        return "two\r\nlines"

    with pytest.raises(ValueError, match="may not stand in a header"):
        async with client(server, token=wrong):
            pytest.fail("that was no token")


# Silence.


async def test_a_silent_connection_is_given_up(server: Reference, autojump_clock: MockClock) -> None:
    """One whose other end is gone without a word; the session goes on over another."""
    async with client(server, ping_interval=20, ping_timeout=10) as room:
        await add(room)
        began = trio.current_time()
        server.freeze()
        await add(room)
        assert 30 <= trio.current_time() - began < 32
        assert await counts(room, 2) == [1, 2]


async def test_a_quiet_connection_is_not(server: Reference, autojump_clock: MockClock) -> None:
    """A server that has nothing to say answers pings."""
    async with client(server, ping_interval=1, ping_timeout=0.5) as room:
        await trio.sleep(100)
        assert room.statistics().connects == 1


async def test_a_slow_program_is_no_silent_server(server: Reference, autojump_clock: MockClock) -> None:
    """While nothing is read nothing can be heard."""
    server.lockstep = True
    async with client(server, max_events=1, ping_interval=2, ping_timeout=1) as room:
        for number in range(10):
            server.emit("said", number)
        await trio.sleep(100)
        for number in range(10):
            assert await take(room, 1) == [("said", number)]
            await trio.sleep(10)
        assert room.statistics().connects == 1


async def test_without_pings_silence_is_borne(server: Reference, autojump_clock: MockClock) -> None:
    """Where it was said so."""
    async with client(server, ping_interval=math.inf) as room:
        server.freeze()
        await trio.sleep(500)
        assert room.state == "open"


# The end.


async def test_the_end_waits_for_a_server_that_comes_back(
    server: Reference, autojump_clock: MockClock
) -> None:
    """What was emitted while nobody was there is sent, if somebody is there in time."""
    async with client(server, close_timeout=50, first_delay=1, max_delay=1) as room:
        server.reachable = False
        await server.drop()
        await trio.sleep(5)
        room.emit("typing")
        assert room.state == "reconnecting"
        server.reachable = True
    assert server.applied == ["typing"]
    assert trio.current_time() < 10


async def test_the_end_waits_until_it_may_send(server: Reference, autojump_clock: MockClock) -> None:
    """What stands behind something that the server could not answer yet is sent in the end."""
    server.unavailable = 1
    async with client(server, first_delay=1, close_timeout=10) as room:
        with trio.move_on_after(0.0001):
            await room.ask("echo")
        room.emit("typing")
        await trio.testing.wait_all_tasks_blocked()
        assert room.statistics().unsent == 1
    assert server.applied == ["typing"]


async def test_the_end_waits_for_nobody_without_a_reason(
    server: Reference, autojump_clock: MockClock
) -> None:
    """A client that has nothing to send ends at once, connected or not."""
    async with client(server):
        server.reachable = False
        await server.drop()
        await trio.sleep(5)
        began = trio.current_time()
    assert trio.current_time() == began


async def test_states_are_told(server: Reference, autojump_clock: MockClock) -> None:
    """Each change, to whoever watches."""
    seen: list[str] = []

    async def watch(room: RemoteRoom) -> None:
        seen.extend([state async for state in room.states()])

    async with trio.open_nursery() as nursery, client(server) as room:
        nursery.start_soon(watch, room)
        await trio.testing.wait_all_tasks_blocked()
        await server.drop()
        await add(room)
        await trio.testing.wait_all_tasks_blocked()
    assert seen == ["open", "reconnecting", "open", "closed"]
