"""``trio-rooms nodes`` and ``trio-rooms drain``: what they ask servers for, and what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.asked import Asked
from trio_rooms._cli.main import main

TOKEN = "0123456789abcdef0123456789abcdef"


def node(name: str, **told: Any) -> dict[str, Any]:
    """What is told of a node."""
    return {
        "name": name,
        "incarnation": f"{name}#1",
        "self": False,
        "since": 1_700_000_000.5,
        "lease": 10.0,
        "paused": False,
        "draining": False,
        "rooms": {"awake": 0, "asleep": 0},
        "connections": 0,
        "gateway_connections": 0,
        "address": f"ws://{name}:8000",
        "version": "1",
    } | told


def _answers(*nodes: dict[str, Any]) -> None:
    Asked.answer = 200, json.dumps({"node": "a", "nodes": nodes}).encode()


def test_a_line_for_each_node(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In columns, and nothing in it harms a terminal."""
    _answers(
        node("a", self=True, rooms={"awake": 1234, "asleep": 5}, connections=70, gateway_connections=3),
        node("b", paused=True, draining=True, address=None),
        node("c", address="ws://\x1b[31m"),
        node("d", rooms={"awake": None, "asleep": None}, connections=None, since=None, address=None),
    )
    assert main(["nodes", url]) == 0
    assert Asked.seen == [("/nodes", None, None)]
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["node", "awake", "asleep", "connections", "for", "others", "since", "address"]
    assert [row[:-3] for row in rows[:1]] == [["a", "(asked)", "1,234", "5", "70", "3"]]
    assert rows[0][-1] == "ws://a:8000"
    assert rows[1][:7] == ["b", "(paused)", "(draining)", "0", "0", "0", "0"]
    assert rows[2][-1] == "ws://\\u001b[31m"
    assert rows[3] == ["d", "?", "?", "?", "0", "?"]


def test_all_of_it_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As the server says it."""
    _answers(node("a"))
    assert main(["nodes", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"node": "a", "nodes": [node("a")]}


def test_a_server_that_is_alone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Has no nodes, and the command says why."""
    Asked.answer = 404, b"there is no room named 'nodes'\n"
    assert main(["nodes", url]) == 1
    assert "it was started without --engine" in capsys.readouterr().err


def test_what_is_no_list_of_nodes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Is said in a line."""
    Asked.answer = 200, b'{"nodes": [{}]}'
    assert main(["nodes", url]) == 1
    assert "says nothing of nodes" in capsys.readouterr().err


def test_a_drain_waits_until_nothing_is_left(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked of any node, with the token where there is one."""
    _answers(node("a"), node("b", draining=True))
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    assert main(["drain", url, "b", "--token-file", str(token)]) == 0
    assert Asked.seen == [("/nodes/b/drain", f"Bearer {TOKEN}", None), ("/nodes", None, None)]
    assert capsys.readouterr().out == "node b is drained\n"


def test_a_node_that_is_gone_has_nothing(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It may have been stopped meanwhile."""
    _answers(node("a"))
    assert main(["drain", url, "b"]) == 0
    assert capsys.readouterr().out == "node b is gone\n"


@pytest.mark.parametrize(
    ("left", "shown"),
    [
        (
            node("b", draining=True, rooms={"awake": 1, "asleep": 2}, connections=7),
            "3 rooms and 7 connections",
        ),
        (node("b"), "1 rooms and 0 connections"),
    ],
)
def test_a_drain_that_takes_long(
    url: str, left: dict[str, Any], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goes on, and the command says what is left."""
    _answers(node("a"), left)
    assert main(["drain", url, "b", "--timeout", "0"]) == 1
    assert f"node b has {shown} still" in capsys.readouterr().err
