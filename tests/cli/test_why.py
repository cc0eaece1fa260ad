"""``trio-rooms why``: what it asks a server for, and what it prints of the answer."""

from __future__ import annotations

import json

import pytest

from tests.cli.asked import Asked
from trio_rooms._cli.main import main

ANSWER = {
    "key": "chat/a b",
    "stage": "awake",
    "reasons": [
        {"reason": "task", "for_seconds": 3725.04, "until": "the task '\x1b[31m' ends"},
        {"reason": "idle", "for_seconds": 0, "until": "then 300 s without a message"},
    ],
}


def _answers(content: object) -> None:
    Asked.answer = 200, json.dumps(content).encode()


def test_a_line_for_each_reason(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In columns, and nothing in it harms a terminal."""
    _answers(ANSWER)
    assert main(["why", url, "chat/a b"]) == 0
    assert Asked.seen == [("/why/chat/a%20b", None, None)]
    assert capsys.readouterr().out.splitlines() == [
        "chat/a b is awake",
        "  task  3725 s  until: the task '\\u001b[31m' ends",
        "  idle   0.0 s  until: then 300 s without a message",
    ]
    assert main(["why", url, "chat/a b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ANSWER


@pytest.mark.parametrize(
    ("stage", "shown"),
    [
        ("asleep", "chat/x is asleep\n"),
        ("awake", "chat/x is awake\n  nothing keeps it awake: it is about to sleep\n"),
    ],
)
def test_where_there_is_no_reason(
    url: str, stage: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so where one would ask why."""
    _answers({"key": "chat/x", "stage": stage, "reasons": []})
    assert main(["why", url, "chat/x"]) == 0
    assert capsys.readouterr().out == shown


def test_what_goes_wrong(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Is said in a line, with a status that scripts see."""
    Asked.answer = 404, b"there is no room named 'x'\n"
    assert main(["why", url, "x/y"]) == 1
    assert "answers 404: there is no room named 'x'" in capsys.readouterr().err
    wrong: list[object] = [[], {"stage": "awake"}, {"stage": 1, "reasons": [{}]}, {"stage": 1, "reasons": 3}]
    for answer in wrong:
        _answers(answer)
        assert main(["why", url, "x/y"]) == 1
        assert "says nothing of a room" in capsys.readouterr().err
    assert main(["why", url, "x"]) == 2
    assert "ROOM/ID" in capsys.readouterr().err
