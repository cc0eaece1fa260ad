"""Sessions over real sockets, and over the end of the process that they were in."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.integration.conftest import TIMEOUT, Served
from tests.raw import CLOSE, TEXT, Client, frame, request
from trio_rooms import DiskStore

pytestmark = pytest.mark.timeout(120)

ROOM = """
from trio_rooms import Room

room = Room("tally", state=dict, snapshot_interval=0.2, durability="{durability}")


@room.on("add")
async def add(ctx, data):
    ctx.state["sum"] = ctx.state.get("sum", 0) + data
    ctx.room.emit("sum", ctx.state["sum"], reliable=True)
    return ctx.state["sum"]


@room.on("join")
async def join(ctx, data):
    ctx.connection.attachment = data
    ctx.connection.join("inner")


@room.on("inner")
async def inner(ctx, data):
    ctx.room.emit("inside", data, channel="inner", reliable=True)


@room.on("who")
async def who(ctx):
    return [ctx.connection.id, ctx.connection.attachment, list(ctx.connection.channels)]
"""


class Visitor(Client):
    """A client of bytes that speaks JSON, and remembers its session."""

    token = ""
    seq = 0
    next = 0
    welcome: dict[str, Any]

    @classmethod
    async def come(cls, port: int, before: Visitor | None = None) -> Visitor:
        """Connect, and resume the session of another, if one is given."""
        self = cls(await trio.open_tcp_stream("127.0.0.1", port))
        query = "" if before is None else f"?resume={before.token}&seq={before.seq}"
        await self.send(request(f"/tally/main{query}", **{"Sec-WebSocket-Protocol": "trio-rooms.v1.json"}))
        status, _, _ = await self.answer(body=False)
        assert status == 101
        self.welcome = (await self.hear())["data"]
        self.token, self.seq = self.welcome["resume"], self.welcome["seq"]
        self.next = 0 if before is None or not self.welcome["resumed"] else before.next
        return self

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        opcode, payload = await self.frame()
        assert opcode == TEXT
        message: dict[str, Any] = json.loads(payload)
        self.seq = message.get("seq", self.seq)
        return message

    async def say(self, event: str, data: Any = None, number: int | None = None) -> int:
        """Send an event with the next id, or one that was used."""
        self.next += number is None
        id_ = self.next if number is None else number
        await self.send(frame(TEXT, json.dumps({"event": event, "data": data, "id": id_}).encode()))
        return id_

    async def ask(self, event: str, data: Any = None, number: int | None = None) -> Any:
        """The answer to an event; what comes before it is passed over."""
        id_ = await self.say(event, data, number)
        while (message := await self.hear()).get("ack") != id_:
            pass
        return message["data"]

    async def vanish(self) -> None:
        """Break off."""
        await trio.aclose_forcefully(self.stream)


Come = Callable[..., Awaitable[Visitor]]


@pytest.fixture
async def come() -> AsyncIterator[Come]:
    """`Visitor.come`, for as long as a test lasts."""
    visitors: list[Visitor] = []

    async def come(*arguments: Any) -> Visitor:
        visitor = await Visitor.come(*arguments)
        visitors.append(visitor)
        return visitor

    yield come
    for visitor in visitors:
        await visitor.vanish()


@pytest.fixture(params=["snapshot", "commit"])
def server(
    request: pytest.FixtureRequest, serve: Callable[..., Served], tmp_path: Path
) -> Callable[..., Served]:
    """Starts a server of tallies, with the data that it had before."""
    program = tmp_path / "tally.py"
    program.write_text(ROOM.format(durability=request.param))

    def start(*options: str) -> Served:
        return serve(program, "--data", tmp_path / "data", *options)

    return start


async def saved(data: Path, seq: int) -> None:
    """Wait until a room has saved what it sent up to a seq; one that commits has by then."""
    async with DiskStore(data, read_only=True) as store:
        while (await store.head("tally/main")).seq < seq:
            await trio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_token_works_in_the_next_process(
    server: Callable[..., Served], come: Come, number: signal.Signals, tmp_path: Path
) -> None:
    """After kill -9 as after an orderly stop: same id, attachment and channels, and nothing is missing."""
    with trio.fail_after(TIMEOUT):
        first = server()
        visitor, other = await come(first.port), await come(first.port)
        await visitor.ask("join", {"name": "ada"})
        assert await visitor.ask("add", 1) == 1
        await visitor.vanish()
        assert await other.ask("add", 2) == 3
        await other.ask("inner", "for those inside")
        await saved(tmp_path / "data", 3)
        await other.vanish()  # It would not answer the close.
        await trio.to_thread.run_sync(first.stop, number)
        second = server("--port", str(first.port))
        again = await come(second.port, visitor)
        assert again.welcome["resumed"]
        assert again.welcome["session"] == visitor.welcome["session"]
        missed = [await again.hear() for _ in range(2)]
        assert [(message["event"], message["data"]) for message in missed] == [
            ("sum", 3),
            ("inside", "for those inside"),
        ]
        assert await again.ask("add", 100, number=2) == 1  # As it was answered before.
        assert await again.ask("who") == [visitor.welcome["session"], {"name": "ada"}, ["inner"]]
        assert await again.ask("add", 4) == 7


async def test_what_was_acknowledged_before_a_kill_is_there_or_the_client_is_told(
    server: Callable[..., Served], come: Come, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """At once: a room that commits has all; one with snapshots knows a client that has seen what is lost."""
    commits = "commit" in request.node.name
    with trio.fail_after(TIMEOUT):
        first = server()
        visitor = await come(first.port)
        for number in range(1, 21):
            assert await visitor.ask("add", 1) == number
        await saved(tmp_path / "data", 20)
        for number in range(21, 41):
            assert await visitor.ask("add", 1) == number
        assert visitor.seq == 40
        await trio.to_thread.run_sync(first.stop, signal.SIGKILL)
        second = server("--port", str(first.port))
        again = await come(second.port, visitor)
        if commits:
            assert again.welcome["resumed"]
            assert again.welcome["seq"] == 40
            assert await again.ask("add", 1) == 41
        elif again.welcome["resumed"]:
            assert await again.ask("add", 1) == 41  # It was saved just then.
        else:
            assert again.welcome["reason"] == "unknown"
            assert await again.ask("add", 1) <= 40
        assert again.seq >= (41 if commits else 1)


async def test_a_connection_that_still_seems_open_is_closed(
    server: Callable[..., Served], come: Come
) -> None:
    """With 4001, when its client is back over another; and the ids go on."""
    with trio.fail_after(TIMEOUT):
        served = server()
        first = await come(served.port)
        assert await first.ask("add", 1) == 1
        second = await come(served.port, first)
        assert second.welcome["resumed"]
        opcode, payload = await first.frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 4001)
        assert await second.ask("add", 5, number=1) == 1
        assert await second.ask("add", 5) == 6
