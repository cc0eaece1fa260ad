"""The Python client in rooms of real servers, over real sockets."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import attrs
import pytest
import trio

from tests.integration.conftest import TIMEOUT, Served
from trio_rooms.client import AskFailed, ConnectionEnded, State, connect_room

COUNTER = "examples/counter.py"


@attrs.define
class Value:
    """What the counter sends."""

    value: int


@pytest.fixture(scope="module")
def counter(serve_all: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A server of counters."""
    return serve_all(COUNTER, "--data", tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("protocol", ["json", "cbor"])
async def test_it_asks_emits_and_listens(counter: Served, protocol: Literal["json", "cbor"]) -> None:
    """Answers are those to what was asked, events come in order, and a refusal says why."""
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{counter.url}/counter/{protocol}", protocol=protocol) as room:
            assert room.state == "open"
            assert room.id
            assert await room.ask("add", {"amount": 2}) == 2
            room.emit("add", {"amount": 3})
            assert await room.ask("add", {"amount": 4}, result=int) == 9
            assert [(await anext(room)).convert(Value).value for _ in range(3)] == [2, 5, 9]
            with pytest.raises(AskFailed, match="amount: expected int, got str") as failed:
                await room.ask("add", {"amount": "many"})
            assert (failed.value.code, failed.value.retry, failed.value.applied) == (
                "invalid_data",
                False,
                False,
            )
        assert room.state == "closed"


async def test_where_there_is_no_room_the_client_does_not_begin(counter: Served) -> None:
    """It is told with what status it was refused."""
    with trio.fail_after(TIMEOUT), pytest.raises(ConnectionEnded) as refused:
        async with connect_room(f"{counter.url}/nothing/here"):
            pytest.fail("there is nothing here")
    assert (refused.value.status, refused.value.retry, refused.value.applied) == (404, False, False)


async def test_it_finds_a_restarted_server(serve: Callable[..., Served], tmp_path: Path) -> None:
    """What is asked while no server is there is answered by the next one."""
    first = serve(COUNTER, "--data", tmp_path / "data")
    with trio.fail_after(TIMEOUT):
        async with connect_room(f"{first.url}/counter/sheep", first_delay=0.05, max_delay=0.5) as room:
            assert await room.ask("add", {"amount": 2}) == 2
            assert (await anext(room)).data == {"value": 2}
            states = room.states()
            assert await anext(states) is State.OPEN
            await trio.to_thread.run_sync(first.stop, signal.SIGTERM)
            assert await anext(states) is State.RECONNECTING
            async with trio.open_nursery() as nursery:
                nursery.start_soon(room.ask, "add", {"amount": 40})
                serve(COUNTER, "--data", tmp_path / "data", "--port", str(first.port))
            assert await anext(states) is State.OPEN
            while (event := await anext(room)).name != "value":
                assert event.name == "rooms.reset"
            assert event.data == {"value": 42}
            assert room.statistics().connects == 2
