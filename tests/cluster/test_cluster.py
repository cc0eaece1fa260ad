"""Nodes: how they come, what each tells of all, and how they go."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trio_rooms import Context, MemoryStore, Room, Rooms, open_rooms
from trio_rooms._cluster.cluster import Cluster
from trio_rooms.client import connect_room
from trio_rooms.engines import MemoryEngine
from trio_rooms.errors import EngineLost

TOKEN = "0123456789abcdef0123456789abcdef"


def counter() -> Room[dict[str, int]]:
    """Rooms that count."""
    room: Room[dict[str, int]] = Room("counter", state=dict)

    @room.on("add")
    async def add(ctx: Context[dict[str, int]], data: int) -> int:
        ctx.state["value"] = ctx.state.get("value", 0) + data
        return ctx.state["value"]

    return room


@asynccontextmanager
async def nodes(engine: MemoryEngine, *names: str, **serving: Any) -> AsyncIterator[list[tuple[Rooms, int]]]:
    """Nodes that share an engine, and the ports on which they listen."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        found: list[tuple[Rooms, int]] = []
        for name in names:
            shared = engine if not found else engine.another()
            rooms = await stack.enter_async_context(
                open_rooms([counter()], engine=shared, node=name, lease=2)
            )
            address = await nursery.start(
                lambda task_status, rooms=rooms: rooms.serve(
                    "127.0.0.1", 0, task_status=task_status, **serving
                )
            )
            found.append((rooms, address.port))
        yield found


async def ask(port: int, method: str, path: str, *headers: str, body: Any = None) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    content = b"" if body is None else json.dumps(body).encode()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: here",
        f"Content-Length: {len(content)}",
        "Connection: close",
        *headers,
        "",
        "",
    ]
    async with stream:
        await stream.send_all("\r\n".join(lines).encode() + content)
        answer = b"".join([part async for part in stream])
    head, _, text = answer.partition(b"\r\n\r\n")
    try:
        return int(head[9:12]), json.loads(text)
    except ValueError:
        return int(head[9:12]), text.decode()


async def told_by(port: int, count: int) -> dict[str, Any]:
    """What a node tells of the nodes, as soon as there are so many."""
    with trio.fail_after(5):
        while True:
            status, told = await ask(port, "GET", "/nodes")
            assert status == 200
            if len(told["nodes"]) == count:
                found: dict[str, Any] = told
                return found
            await trio.sleep(0.02)


async def test_each_node_tells_of_all() -> None:
    """With their names, where they are, and what each has."""
    async with nodes(MemoryEngine(), "a", "b") as found:
        told: dict[str, Any] = {}
        for (_, port), name in zip(found, "ab", strict=True):
            told = await told_by(port, 2)
            assert told["node"] == name
            assert [(one["name"], one["self"]) for one in told["nodes"]] == [
                ("a", name == "a"),
                ("b", name == "b"),
            ]
            for one in told["nodes"]:
                assert one["incarnation"].startswith(one["name"] + "#")
                assert one["rooms"] == {"awake": 0, "asleep": 0}
                assert one["lease"] == 2
                assert not one["draining"]
                assert not one["paused"]
        (one, two) = told["nodes"]
        assert one["address"] in (None, f"ws://127.0.0.1:{found[0][1]}")  # As of its last renewal.
        assert two["address"] == f"ws://127.0.0.1:{found[1][1]}"


async def test_what_each_node_has() -> None:
    """A connection is counted once, at the node that has its socket, and a room once, where it is at home."""
    async with nodes(MemoryEngine(), "a", "b") as ((_, a), (_, b)):
        await told_by(a, 2)
        await told_by(b, 2)
        async with (
            connect_room(f"ws://127.0.0.1:{a}/counter/x") as one,
            connect_room(f"ws://127.0.0.1:{b}/counter/x") as two,
            connect_room(f"ws://127.0.0.1:{b}/counter/y") as other,
        ):
            for room, answer in ((one, 1), (two, 3), (other, 1)):
                assert await room.ask("add", 2 if room is two else 1) == answer
            (at_a, _), (_, at_b) = [(await told_by(port, 2))["nodes"] for port in (a, b)]
            assert (at_a["rooms"], at_a["connections"], at_a["gateway_connections"]) == (
                {"awake": 1, "asleep": 0},
                1,
                0,
            )
            assert (at_b["rooms"], at_b["connections"], at_b["gateway_connections"]) == (
                {"awake": 1, "asleep": 0},
                2,
                1,
            )


async def test_a_server_that_is_alone_has_no_nodes() -> None:
    """It says 404, and its statistics have none."""
    async with open_rooms([counter()]) as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        assert (await ask(address.port, "GET", "/nodes"))[0] == 404
        assert (await ask(address.port, "POST", "/nodes/a/drain", "X-Trio-Rooms-Drain: yes"))[0] == 404
        assert rooms.statistics().cluster is None
        nursery.cancel_scope.cancel()


async def test_a_node_that_stops_leaves() -> None:
    """The others need not wait for the end of its lease."""
    engine = MemoryEngine()
    async with open_rooms([counter()], engine=engine, node="a", lease=3600) as rooms:
        async with open_rooms([counter()], engine=engine.another(), node="b", lease=3600):
            pass
        async with open_rooms([counter()], engine=engine.another(), node="c"):
            with trio.fail_after(5):
                while rooms.statistics().cluster is None or len(rooms._cluster.seat.members) != 2:  # type: ignore[union-attr]
                    await trio.sleep(0.02)


async def test_a_node_that_has_lost_the_engine_says_that_it_is_paused(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """In what it tells of the nodes, and in its log, where the end of it is, too."""
    caplog.set_level(logging.WARNING)
    engine = MemoryEngine()
    async with open_rooms([counter()], engine=engine, node="a", lease=2) as rooms:
        cluster = rooms._runtime.node
        assert isinstance(cluster, Cluster)
        engine.down()
        await trio.sleep(5)
        assert [one["paused"] for one in cluster.nodes()["nodes"]] == [True]
        assert "its rooms pause" in caplog.text
        assert "its rooms go on" not in caplog.text
        engine.up()
        await trio.sleep(5)
        assert [one["paused"] for one in cluster.nodes()["nodes"]] == [False]
        assert "its rooms go on" in caplog.text


async def test_who_has_lost_its_name_does_not_say_that_it_goes_on(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not before the other one of that name has ended."""
    caplog.set_level(logging.WARNING)
    engine = MemoryEngine()
    async with open_rooms([counter()], engine=engine, node="a", lease=2) as rooms:
        async with open_rooms([counter()], engine=engine.another(), node="a", lease=2):
            await trio.sleep(5)
            (told,) = [one.getMessage() for one in caplog.records]
            assert "another process has joined as a#" in told
        await trio.sleep(5)
        *_, over, goes_on = [one.getMessage() for one in caplog.records]
        assert " is over, and goes on as a#" in over
        assert "its rooms go on" in goes_on
        cluster = rooms._runtime.node
        assert isinstance(cluster, Cluster)
        assert cluster.statistics().lives == 2


async def test_an_engine_that_cannot_be_reached_is_an_error_at_the_start() -> None:
    """Nothing is open then, and it can be tried again."""
    engine = MemoryEngine()
    engine.down()
    opening = open_rooms([counter()], engine=engine, node="a")
    with pytest.raises(EngineLost):
        await opening.__aenter__()
    engine.up()
    async with open_rooms([counter()], engine=engine, node="a"):
        pass


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"engine": 1}, TypeError),
        ({"engine": MemoryEngine(), "store": MemoryStore()}, ValueError),
        ({"node": "a"}, ValueError),
        ({"engine": MemoryEngine(), "node": "a b"}, ValueError),
        ({"engine": MemoryEngine(), "node": "a#1"}, ValueError),
        ({"engine": MemoryEngine(), "lease": 0.1}, ValueError),
        ({"engine": MemoryEngine(), "lease": float("inf")}, ValueError),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any], kind: type[Exception]) -> None:
    """At the call."""
    with pytest.raises(kind):
        open_rooms([counter()], **wrong)


async def test_who_may_ask_for_a_drain_without_a_token() -> None:
    """The command on this machine, and no page in a browser, and nobody through a proxy."""
    async with nodes(MemoryEngine(), "a") as ((_, port),):
        mark = "X-Trio-Rooms-Drain: yes"
        path = "/nodes/a/drain"
        assert (await ask(port, "POST", path))[0] == 403
        for sign in (
            "Origin: http://127.0.0.1", "Sec-Fetch-Site: none", "X-Forwarded-For: 10.0.0.1",
            "X-Forwarded-Host: rooms", "CF-Connecting-IP: 10.0.0.1", "Via: 1.1 proxy",
        ):  # fmt: skip
            assert (await ask(port, "POST", path, mark, sign))[0] == 403, sign
        assert (await ask(port, "GET", path, mark))[0] == 405
        assert (await ask(port, "POST", "/nodes/x/drain", mark))[0] == 404
        assert (await told_by(port, 1))["nodes"][0]["draining"] is False
        assert await ask(port, "POST", path, mark) == (200, {"node": "a", "draining": True})
        assert (await told_by(port, 1))["nodes"][0]["draining"] is True


async def test_any_node_may_be_asked_to_have_another_drained() -> None:
    """It passes that on, and tells of it."""
    async with nodes(MemoryEngine(), "a", "b") as ((_, a), (_, b)):
        await told_by(b, 2)
        asked = await ask(b, "POST", "/nodes/a/drain", "X-Trio-Rooms-Drain: yes")
        assert asked == (200, {"node": "a", "draining": True})
        assert [one["draining"] for one in (await told_by(a, 2))["nodes"]] == [True, False]


async def test_who_may_ask_for_a_drain_with_a_token() -> None:
    """Who shows it, and nobody else."""
    async with nodes(MemoryEngine(), "a", admin_token=TOKEN) as ((_, port),):
        path = "/nodes/a/drain"
        assert (await ask(port, "POST", path, "X-Trio-Rooms-Drain: yes"))[0] == 401
        assert (await ask(port, "POST", path, f"Authorization: Bearer {TOKEN}"))[0] == 200


def test_nothing_of_the_cluster_is_imported_without_an_engine() -> None:
    """A program that is alone takes no time and no memory for it."""
    code = (
        "import sys, trio, trio_rooms, trio_rooms._cli.main\n"
        "async def main():\n"
        "    async with trio_rooms.open_rooms([trio_rooms.Room('a', state=dict)]):\n"
        "        pass\n"
        "trio.run(main)\n"
        "mine = ('trio_rooms._cluster', 'trio_rooms.engines', 'trio_rooms._valkey', 'hiredis')\n"
        "print([name for name in sys.modules if name.startswith(mine)])"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"


async def test_a_node_leaves_although_its_store_does_not_close(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing renews its lease any more."""
    engine = MemoryEngine()
    async with open_rooms([counter()], engine=engine, node="a", close_timeout=1) as rooms:
        monkeypatch.setattr(type(rooms._store), "aclose", lambda _: trio.sleep_forever())
    await trio.sleep(5)
    assert rooms._runtime.left_behind == ("the store",)
    assert list((await engine.join("b#1", b"", 1)).members) == ["b#1"]
