from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.valkey import Valkey
from trio_rooms._valkey import Address, Connection, Library, Server, ServerError
from trio_rooms.errors import EngineError, EngineLost


@asynccontextmanager
async def connected(valkey: Valkey, **options: Any) -> AsyncIterator[Connection]:
    """A connection that runs."""
    connection = await Connection.open(Address.parse(valkey.url), **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        yield connection
        nursery.cancel_scope.cancel()


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
            await trio.testing.wait_all_tasks_blocked(0.05)
            own_valkey.kill()
        assert lost == 100
        with pytest.raises(EngineLost):
            await connection.call("PING")
        with pytest.raises(EngineLost):
            connection.post("PING")


async def test_a_server_that_comes_back_is_connected_to_again(own_valkey: Valkey) -> None:
    """What it had answered is there, and its functions are."""
    library = Library("test", "register('put', function(k, a) return redis.call('SET', k[1], a[1]) end)")
    said: list[str] = []
    server = Server(
        Address.parse(own_valkey.url),
        library=library,
        durability="always",
        patience=10,
        on_back=lambda: said.append("back"),
        on_lost=lambda why: said.append("lost"),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        assert await server.fcall("put", ["k"], [1]) == b"OK"
        own_valkey.kill()
        await trio.to_thread.run_sync(own_valkey.start)
        assert await server.call("GET", "k") == b"1"
        own_valkey.ask("FUNCTION", "FLUSH")
        assert await server.fcall("put", ["k"], [2]) == b"OK"
        nursery.cancel_scope.cancel()
    assert said == ["back", "lost", "back", "lost"]
    with pytest.raises(EngineLost):
        await server.call("PING")


async def test_nobody_there_is_said_at_once(own_valkey: Valkey) -> None:
    """The first connection fails where there is none."""
    own_valkey.kill()
    server = Server(Address.parse(own_valkey.url))
    with pytest.raises(EngineError, match="refused"):
        await server.run()
