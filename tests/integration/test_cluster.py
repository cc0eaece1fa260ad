"""Several nodes as processes, and an engine that is a real one: what clients see of them whatever happens."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.suite.disturbed import disturb
from tests.integration.conftest import Served
from tests.valkey import Valkey, binary
from trio_rooms._cli.main import main
from trio_rooms.client import connect_room

Serve = Callable[..., Served]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Valkey]:
    """A server of this test's own."""
    server = Valkey(tmp_path / "engine")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def node(serve: Serve, engine: Valkey) -> Callable[..., Served]:
    """``node("a")`` is a node of ledgers."""

    def node(name: str, *options: str) -> Served:
        where = ("--engine", engine.url, "--node", name, "--lease", "1")
        return serve("examples/ledger.py:room", *where, *options)

    return node


def nodes_of(served: Served) -> list[dict[str, Any]]:
    """What a node tells of all."""
    told: list[dict[str, Any]] = json.loads(served.get("/nodes"))["nodes"]
    return told


async def test_two_nodes_are_started_by_one_option(node: Callable[..., Served]) -> None:
    """Each tells of both, and one that is stopped has left at once."""
    a, b = node("a"), node("b")
    with trio.fail_after(10):
        while [one["name"] for one in nodes_of(a)] != ["a", "b"]:
            await trio.sleep(0.05)
    assert [one["name"] for one in nodes_of(b)] == ["a", "b"]
    assert b.stop(signal.SIGTERM) == 0
    with trio.fail_after(10):
        while [one["name"] for one in nodes_of(a)] != ["a"]:
            await trio.sleep(0.05)


async def test_clients_of_one_room_at_two_nodes(
    node: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    """They hear of each other; and when one node is drained, nobody misses anything."""
    a, b = node("a"), node("b")
    async with (
        connect_room(f"{a.url}/ledger/main", first_delay=0.01, max_delay=0.1) as one,
        connect_room(f"{b.url}/ledger/main") as two,
    ):
        assert await one.ask("add", {"amount": 1}) == {"balance": 1}
        assert await two.ask("add", {"amount": 2}) == {"balance": 3}
        heard: list[list[int]] = [[], []]
        with trio.fail_after(10):
            for room, counts in zip((one, two), heard, strict=True):
                async for event in room:
                    counts.append(event.data["count"])
                    if event.data["count"] == 2:
                        break
        assert heard[0] == [1, 2]
        assert heard[1][-1] == 2


def test_what_does_not_go_together_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before anything is started."""
    target = "examples/ledger.py:room"
    for options, told in (
        (["--node", "a"], "--node goes with --engine"),
        (["--lease", "3"], "--lease goes with --engine"),
        (["--engine", "valkey://127.0.0.1:1", "--data", str(tmp_path)], "there is no --data"),
        (["--engine", "http://127.0.0.1:1"], "--engine: "),
    ):
        assert main(["serve", target, *options]) == 2
        assert told in capsys.readouterr().err


def test_an_engine_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Is said in a line, with status 1."""
    assert main(["serve", "examples/ledger.py:room", "--engine", "valkey://127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("seconds", "clients"),
    [
        pytest.param(4.0, 6, id="some seconds"),
        pytest.param(300.0, 20, id="five minutes", marks=(pytest.mark.long, pytest.mark.timeout(900))),
    ],
)
async def test_nothing_is_lost_whatever_happens_to_nodes_and_engine(
    tmp_path: Path, seconds: float, clients: int
) -> None:
    """Each amount counts once, each balance is heard once and in order, and each letter comes once."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    try:
        program = Path(binary())
        print(
            await disturb(
                tmp_path, seconds, seed, program=program, lease=1.0, clients=clients, accounts=2, people=3
            )
        )
    except BaseException:
        for log in sorted(tmp_path.glob("log-*")):
            print(f"--- {log.name}\n{log.read_text()[-20_000:]}")
        raise
