from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.proxy import Fault, Kind, Proxy, Way
from tests.valkey import Valkey
from tests.valkeys.ends import connected, greet, listening, served
from trio_rooms._valkey import Address, Connection, ServerError
from trio_rooms._valkey import connection as module
from trio_rooms.errors import EngineError, EngineLost


async def test_each_call_has_its_own_answer(valkey: Valkey) -> None:
    """However many tasks ask at once."""
    async with connected(valkey) as connection:

        async def ask(number: int) -> None:
            assert await connection.call("SET", f"k{number}", number) == b"OK"
            assert await connection.call("GET", f"k{number}") == str(number).encode()

        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(ask, number)
        with pytest.raises(ServerError) as caught:
            await connection.call("INCR", "k1", "too much")
        assert caught.value.code == "ERR"
        assert await connection.call("GET", "nothing") is None


async def test_a_thousand_cancelled_calls_mix_nothing_up(valkey: Valkey) -> None:
    """What comes for a call that was cancelled is nobody else's answer."""
    async with connected(valkey) as connection:
        for number in range(1000):
            with trio.move_on_after(0) as scope:
                await connection.call("SET", "k", number)
            assert scope.cancelled_caught
            if not number % 10:
                assert await connection.call("ECHO", number) == str(number).encode()
        assert await connection.call("GET", "k") == b"999"


async def test_calls_that_are_cancelled_while_they_wait_keep_their_places(own_valkey: Valkey) -> None:
    """Half of them, all at once, in front of a server that does not answer yet."""
    async with connected(own_valkey) as connection:
        own_valkey.stop()
        answered: list[int] = []
        scopes = [trio.CancelScope() for _ in range(1000)]

        async def ask(number: int) -> None:
            with scopes[number]:
                assert await connection.call("ECHO", number) == str(number).encode()
                answered.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
            start = time.process_time()
            for scope in scopes[1::2]:
                scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert time.process_time() - start < 0.5
            own_valkey.go_on()
        assert sorted(answered) == [*range(0, 1000, 2)]


async def test_what_is_published_is_pushed(valkey: Valkey) -> None:
    """To whoever has subscribed, from when that has returned; other calls go on."""
    pushed: list[Any] = []
    got = trio.Event()

    def push(message: list[Any]) -> None:
        if message[0] == b"message":
            pushed.append((message[1], message[2]))
            if len(pushed) == 100:
                got.set()

    async with connected(valkey, on_push=push) as connection, connected(valkey) as other:
        await connection.subscribe("a", "b")
        for number in range(100):
            other.post("PUBLISH", "ab"[number % 2], number)
        assert await connection.call("ECHO", "still here") == b"still here"
        await got.wait()
    assert pushed == [(b"ab"[n % 2 : n % 2 + 1], str(n).encode()) for n in range(100)]


async def test_a_message_that_cannot_be_handled_is_told_and_the_next_comes(
    valkey: Valkey, caplog: Any
) -> None:
    """One that fails ends nothing."""
    pushed: list[bytes] = []
    got = trio.Event()

    def push(message: list[Any]) -> None:
        if message[2] == b"bad":
            raise RuntimeError("no")
        if message[0] == b"message":
            pushed.append(message[2])
            got.set()

    async with connected(valkey, on_push=push) as connection:
        await connection.subscribe("a")
        await connection.call("PUBLISH", "a", "bad")
        await connection.call("PUBLISH", "a", "good")
        await got.wait()
    assert pushed == [b"good"]
    assert [record.getMessage() for record in caplog.records] == [
        "a message of the engine could not be handled"
    ]


async def test_a_subscription_that_is_refused_is_an_error_of_its_own(own_valkey: Valkey) -> None:
    """In RESP3 it has no answer of its own where it succeeds: the others keep theirs."""
    own_valkey.ask("ACL", "SETUSER", "ana", "on", ">secret", "~*", "resetchannels", "&mine", "+@all")
    address = Address.parse(f"valkey://ana:secret@127.0.0.1:{own_valkey.port}")
    connection = await Connection.open(address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        for _ in range(3):
            with pytest.raises(ServerError, match="NOPERM"):
                await connection.subscribe("yours")
            await connection.subscribe("mine")
            assert await connection.call("ECHO", "a") == b"a"
        nursery.cancel_scope.cancel()


async def test_what_tasks_say_in_one_round_and_the_next_is_sent_in_one_piece(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred commands are one send."""
    sends: list[int] = []
    send_all = trio.SocketStream.send_all

    async def counted(stream: trio.SocketStream, data: bytes) -> None:
        sends.append(data.count(b"PING"))
        await send_all(stream, data)

    monkeypatch.setattr(trio.SocketStream, "send_all", counted)

    async def ask(connection: Connection, number: int) -> None:
        if number % 2:
            await trio.lowlevel.checkpoint()
        await connection.call("PING")

    async with connected(valkey) as connection:
        sends.clear()
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, connection, number)
    assert sends == [100]


async def test_a_killed_server_is_a_loss_for_all_who_wait(own_valkey: Valkey) -> None:
    """And for all who ask later."""
    lost = 0
    async with connected(own_valkey) as connection:

        async def ask() -> None:
            nonlocal lost
            try:
                await connection.call("BLPOP", "nothing", 0)
            except EngineLost:
                lost += 1

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            own_valkey.kill()
        assert lost == 100
        with pytest.raises(EngineLost):
            await connection.call("PING")
        with pytest.raises(EngineLost):
            connection.post("PING")
        with pytest.raises(EngineLost):
            await connection.subscribe("a")


async def test_a_server_that_was_stopped_is_a_loss_in_time(own_valkey: Valkey) -> None:
    """Whether somebody waits for it or not."""
    async with connected(own_valkey, silence=0.4) as asking, connected(own_valkey, silence=0.4) as idle:
        assert await asking.call("ECHO", "a") == b"a"
        own_valkey.stop()
        began = trio.current_time()
        with pytest.raises(EngineLost, match="has not answered for"):
            await asking.call("ECHO", "b")
        assert 0.2 <= trio.current_time() - began < 2
        while not idle.lost:
            await trio.sleep(0.01)
        assert trio.current_time() - began < 2
        own_valkey.go_on()


async def test_a_lost_answer_is_a_loss_and_nothing_is_done_twice(valkey: Valkey) -> None:
    """Who waits cannot know that it has happened; nobody says it again."""
    proxy = Proxy(valkey.port)
    async with (
        proxy.listening(),
        served(f"valkey://127.0.0.1:{proxy.port}", patience=5) as server,
    ):
        assert await server.call("RPUSH", "list", "a") == 1
        proxy._faults.append(Fault(Kind.CUT, Way.DOWN, proxy.passed[Way.DOWN]))
        with pytest.raises(EngineLost):
            await server.call("RPUSH", "list", "b")
        assert await server.call("LRANGE", "list", 0, -1) == [b"a", b"b"]


async def test_an_answer_above_the_bound_ends_the_connection(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One below it comes whole, however many of them there are."""
    monkeypatch.setattr(module, "_MOST_REPLY", 2**20)
    async with connected(valkey) as connection:
        await connection.call("SET", "small", bytes(2**20 - 100))
        await connection.call("SET", "large", bytes(2**21))
        for _ in range(4):
            assert len(await connection.call("GET", "small")) == 2**20 - 100
        with pytest.raises(EngineLost, match="more than 1 MiB"):
            await connection.call("GET", "large")


async def test_who_has_too_much_to_say_waits_in_order(
    own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not sent has a bound; what was cancelled while it waited for room is never sent."""
    monkeypatch.setattr(module, "_MOST_UNSENT", 300_000)
    async with connected(own_valkey) as connection:
        own_valkey.stop()
        posted = 0
        try:
            while posted < 1000:
                connection.post("RPUSH", "list", bytes(100_000))
                posted += 1
                assert connection._unsent < 400_200
                await trio.testing.wait_all_tasks_blocked()
        except EngineLost as error:
            assert "too slow" in str(error)  # noqa: PT017 (what was posted before counts, too)
        assert 0 < posted < 1000
        scope = trio.CancelScope()

        async def push(number: int) -> None:
            with scope if number == 5 else trio.CancelScope():
                await connection.call("RPUSH", "list", f"{number}".encode() * 100_000)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(push, number)
                await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert connection._unsent < 400_200
            own_valkey.go_on()
        listed = await connection.call("LRANGE", "list", 0, -1)
        assert [one[:1] for one in listed] == [b"\0"] * posted + [b"%d" % n for n in range(10) if n != 5]
        connection.post("RPUSH", "list", bytes(1_000_000))
        assert await connection.call("LLEN", "list") == posted + 10


async def test_functions_are_called_with_answers_in_order(
    own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Each once, with the answer, the error or the loss; what is said goes out in the order of the calls."""
    monkeypatch.setattr(module, "_MOST_WAITING", 10)
    told: list[Any] = []
    last = trio.Event()

    def bad(reply: Any) -> None:
        raise RuntimeError("no")

    def end(reply: Any) -> None:
        told.append(reply)
        last.set()

    def again(reply: Any) -> None:
        told.append(reply)
        connection.submit(("RPUSH", "list", "again"), again_done.append)

    again_done: list[Any] = []

    async with connected(own_valkey) as connection:
        own_valkey.stop()
        async with trio.open_nursery() as nursery:
            for number in range(0, 50, 2):
                nursery.start_soon(connection.call, "RPUSH", "list", number)
                await trio.testing.wait_all_tasks_blocked()
                connection.submit(("RPUSH", "list", number + 1), told.append if number else again)
            assert not told
            connection.submit(("PING",), bad)
            own_valkey.go_on()
        connection.submit(("LPUSH",), told.append)
        connection.submit(("LRANGE", "list", 0, -1), end)
        await last.wait()
        assert told[:25] == [*range(2, 51, 2)]
        assert isinstance(told[25], ServerError)
        assert told[26] == [*(b"%d" % n for n in range(50)), b"again"]
        assert again_done == [51]
        own_valkey.stop()
        for _ in range(20):
            connection.submit(("PING",), told.append)
        own_valkey.kill()
        with pytest.raises(EngineLost):
            await connection.call("PING")
        assert [type(one) for one in told[27:]] == [EngineLost] * 20
        with pytest.raises(EngineLost):
            connection.submit(("PING",), told.append)
    assert [record.getMessage() for record in caplog.records] == [
        "an answer of the engine could not be handled"
    ]


async def test_what_is_no_command_fails_for_whoever_says_it(
    own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, or when there is room for it; nobody else is harmed."""
    wrong: Any = ("SET", "k", None)
    monkeypatch.setattr(module, "_MOST_WAITING", 1)
    failed = 0

    async def say() -> None:
        nonlocal failed
        try:
            await connection.call(*wrong)
        except TypeError:
            failed += 1

    async with connected(own_valkey) as connection:
        await say()
        own_valkey.stop()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(connection.call, "PING")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(say)
                await trio.testing.wait_all_tasks_blocked()
            own_valkey.go_on()
    assert failed == 4


async def test_commands_that_are_not_answered_have_a_bound(
    own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who come later wait, and have their turns in order."""
    monkeypatch.setattr(module, "_MOST_WAITING", 10)
    async with connected(own_valkey) as connection:
        own_valkey.stop()
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(connection.call, "RPUSH", "list", number)
                await trio.testing.wait_all_tasks_blocked()
                assert len(connection._waiting) <= 10
            own_valkey.go_on()
        assert await connection.call("LRANGE", "list", 0, -1) == [b"%d" % n for n in range(50)]


async def test_those_who_wait_for_room_are_told_of_a_loss(
    own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them."""
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    lost = 0

    async def ask(connection: Connection) -> None:
        nonlocal lost
        try:
            await connection.call("PING")
        except EngineLost:
            lost += 1

    async with connected(own_valkey) as connection:
        own_valkey.stop()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask, connection)
            await trio.testing.wait_all_tasks_blocked()
            own_valkey.kill()
    assert lost == 20


@pytest.mark.parametrize("rounds", [*range(12), 20, 40, 80])
async def test_opening_can_be_cancelled_anywhere(valkey: Valkey, rounds: int) -> None:
    """It leaves nothing open."""
    before = _open_files()
    opened = False

    async def cancel(scope: trio.CancelScope) -> None:
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel, scope)
            connection = await Connection.open(Address.parse(valkey.url))
            opened = True
        if opened:
            nursery.start_soon(connection.run)
            await trio.testing.wait_all_tasks_blocked()
            connection.lose("the test is over")
    assert _open_files() == before


def _open_files() -> int:
    files = Path("/proc/self/fd")
    return len([*files.iterdir()]) if files.exists() else 0


async def test_nobody_answers_in_time() -> None:
    """Whoever takes the connection and says nothing is not there."""
    async with listening(functools.partial(_say, b"")) as port:
        with pytest.raises(EngineLost, match=r"did not answer within 0\.1 s"):
            await Connection.open(Address.parse(f"valkey://127.0.0.1:{port}"), timeout=0.1)


async def _say(what: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(what)
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", EngineError, "is no engine"),
        (b"+OK\r\n", EngineError, "does not speak RESP3"),
        (b"-ERR unknown command 'HELLO'\r\n", EngineError, r"has to be Valkey 8, or Redis 7\.0"),
        (b"-NOPROTO sorry, this protocol version is not supported\r\n", EngineError, "has to be Valkey 8"),
        (b"-LOADING is loading\r\n", EngineLost, "not to be used now"),
        (b"-ERR max number of clients reached\r\n", EngineError, "refuses the connection: ERR max number"),
        (b"$100000\r\n" + bytes(70_000), EngineError, "is no engine"),
        (b"%1\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n", EngineError, r"is a Sentinel, which .* valkey\+sentinel"),
        (b"%1\r\n$4\r\nmode\r\n$7\r\ncluster\r\n", EngineError, "is a node of a cluster"),
        (
            b"%2\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$7\r\nreplica\r\n",
            EngineLost,
            "is a replica, which cannot be written",
        ),
    ],
)
async def test_who_is_no_engine_is_said(said: bytes, error: type[EngineError], text: str) -> None:
    """With what to do about it."""
    async with listening(functools.partial(_say, said)) as port:
        with pytest.raises(EngineError, match=text) as caught:
            await Connection.open(Address.parse(f"valkey://127.0.0.1:{port}"))
    assert type(caught.value) is error
    assert str(port) in str(caught.value)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"+OK\r\n+OK\r\n", "answers what nobody asked"),
        (b"*zz\r\n", "does not speak RESP3"),
        (b"", "it closed it"),
    ],
)
async def test_who_does_not_keep_to_the_protocol_is_left(said: bytes, why: str) -> None:
    """Answers would belong to nobody knows whom."""

    async def serve(stream: trio.SocketStream) -> None:
        await greet(stream)
        await stream.receive_some(4096)
        await stream.send_all(said)
        if said:
            await trio.sleep_forever()

    async with listening(serve) as port, connected(port) as connection:
        with contextlib.suppress(EngineLost):
            await connection.call("PING")
        with pytest.raises(EngineLost, match=why):
            await connection.call("BLPOP", "a", 0)


async def test_a_refused_post_is_told_once(valkey: Valkey, caplog: Any) -> None:
    """Nobody waits for its answer, and somebody ought to know."""
    async with connected(valkey) as connection:
        connection.post("NONSENSE")
        connection.post("NONSENSE")
        await connection.call("PING")
    (record,) = caplog.records
    assert "the engine refuses what it was told" in record.getMessage()


async def test_passwords_and_users(own_valkey: Valkey) -> None:
    """Who may come in comes in; who may not is told why, and nobody is told a password."""
    own_valkey.ask("ACL", "SETUSER", "ana", "on", ">top secret", "~*", "&*", "+@all", "-client")
    own_valkey.ask("CONFIG", "SET", "requirepass", "pa/ss:w@rd")
    where = f"127.0.0.1:{own_valkey.port}"
    for secret in (":pa%2Fss%3Aw%40rd@", "default:pa%2Fss%3Aw%40rd@", "ana:top%20secret@"):
        connection = await Connection.open(Address.parse(f"valkey://{secret}{where}/3"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            await connection.call("SET", "k", secret)
            nursery.cancel_scope.cancel()
    with pytest.raises(EngineError, match="wants a password"):
        await Connection.open(Address.parse(f"valkey://{where}"))
    with pytest.raises(EngineError, match="does not know this user") as caught:
        await Connection.open(Address.parse(f"valkey://ana:guessed@{where}"))
    assert "guessed" not in str(caught.value)
    with pytest.raises(EngineError, match="DB index is out of range"):
        await Connection.open(Address.parse(f"valkey://ana:top%20secret@{where}/999"))
