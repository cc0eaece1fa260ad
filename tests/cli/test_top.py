"""``trio-rooms top``: what it draws of what it is told; in a terminal it is beside the dashboard."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console, RenderableType

from tests.cli.asked import Asked
from trio_rooms._cli.main import main
from trio_rooms._cli.picture import Picture

TOKEN: Final = "0123456789abcdef" * 2
SUMMARY: Final = {"count": 3, "mean": 0.0012, "p50": 0.001, "p95": 0.0025, "p99": 0.0199, "max": 12}
TOLD: Final[dict[str, Any]] = {
    "hibernation": {
        "connections": {"active": 59, "hibernated": 4941, "total": 5000},
        "rooms": {"awake": 47, "asleep": 457},
        "ratio": 0.9882,
        "ratio_target": 0.8,
        "cost_savings": 0.88938,
        "bytes": {"resident": 45_000_000, "saved": None},
        "wake_latency_seconds": SUMMARY,
        "wakes": {"message": 809, "connect": 0, "schedule": 7},
        "sleeps": {"idle": 700, "ratio": 1},
        "blocked": {},
        "sweeps": {"ratio": 1},
    },
    "supervisor": {"pressure": "memory"},
    "recommendations": [{"rule": "flapping", "message": "longer", "evidence": {}, "predicted": {}}],
    "costliest": [
        {
            "key": "table/3",
            "connections": 2,
            "active": 2,
            "messages": 11.25,
            "reasons": [{"reason": "the task 'poll'", "for_seconds": 61.4, "until": "it ends"}],
        }
    ],
}


def drawn(shown: RenderableType, width: int = 100, height: int = 40) -> str:
    """What stands in a terminal."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(shown, height=height)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def told(*answers: Any) -> Picture:
    """A picture that was told something, once a second."""
    picture = Picture("http://localhost:8000")
    for second, answer in enumerate(answers):
        picture.tell(answer, float(second))
    return picture


def test_what_was_told_is_drawn() -> None:
    """Figures with their units, causes with the most frequent first, and why a room is awake."""
    text = drawn(told(TOLD).screen("live", good=True, height=40))
    for part in (
        *("5,000", "59 active", "98.8%", "wanted: 80%", "457 asleep", "45.0 MB", "9.00 KB each", "88.9%"),
        *("1.00 ms", "19.9 ms", "12.0 s", "table/3", "11.2", "flapping: longer", "http://localhost:8000"),
        "under pressure: memory",
    ):
        assert part in text, part
    words = " ".join(text.replace("│", " ").split())
    assert text.index("message ") < text.index("schedule ")
    assert "connect " not in text
    assert "the task 'poll', for" in words
    page = drawn(told(TOLD).page(), height=100)
    assert "the task 'poll', for 1.02 min" in " ".join(page.replace("│", " ").split())


@pytest.mark.parametrize("size", [(200, 70), (100, 30), (80, 24), (40, 12), (20, 5), (5, 2)])
def test_it_fits_into_any_terminal(size: tuple[int, int]) -> None:
    """No line is longer than it is wide, and there are no more of them than it is high."""
    width, height = size
    lines = drawn(told(TOLD, TOLD).screen("live", good=True, height=height), width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_nothing_that_is_told_reaches_the_terminal_as_it_is() -> None:
    """Neither escape sequences nor markup; what is no number is none; what is missing is left out."""
    wild: dict[str, Any] = json.loads(json.dumps(TOLD))
    evil = "\x1b]0;owned\x07[bold]\u202e"
    wild["costliest"] = [{"key": evil, "connections": evil, "reasons": [{"reason": evil}, 7]}, 8]
    wild["recommendations"] = [{"rule": evil, "message": [evil]}]
    wild["hibernation"] |= {"wakes": {evil: 5}, "ratio": float("nan"), "rooms": [evil], "sleeps": None}
    wild["hibernation"]["connections"]["total"] = 10**400
    for answer in (wild, {}, {"hibernation": {}, "costliest": {}, "recommendations": 3}):
        picture = told(answer, answer)
        for shown in (picture.screen(evil, good=False, height=60), picture.page()):
            text = drawn(shown, 160, 60)
            assert "\x1b]0" not in text
            assert "\u202e" not in text
            assert "nan" not in text
    assert "\\u001b]0;owned\\u0007[bold]\\u202e" in drawn(told(wild).page(), 160, 60)


def test_the_charts_show_what_went_before() -> None:
    """A column for each answer, as high as it is large; another server's counts begin anew."""
    life = {"connections": {"active": 1, "hibernated": 3}, "wakes": {"message": 10}, "sleeps": {"idle": 4}}
    later = {**life, "wakes": {"message": 16}, "sleeps": {"idle": 7}}
    picture = told({"hibernation": life}, {"hibernation": later})
    text = drawn(picture.screen("live", good=True, height=40))
    assert "sleeps 3, wakes 6" in text
    assert text.count("██") > 3
    picture.tell({"hibernation": life}, 2.0)
    assert "sleeps 0, wakes 0" in drawn(picture.screen("live", good=True, height=40))


def test_once_prints_it(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of it, with the token shown; without one, what is told to everybody."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    Asked.answer = 200, json.dumps(TOLD).encode()
    assert main(["top", url, "--once", "--token-file", str(token)]) == 0
    assert "table/3" in capsys.readouterr().out
    Asked.answer = 200, json.dumps({**TOLD, "costliest": None}).encode()
    assert main(["top", url, "--once"]) == 0
    assert [token for _, token, _ in Asked.seen] == [f"Bearer {TOKEN}", None]
    out = capsys.readouterr().out
    assert "5,000" in out
    assert "--token-file" in out


def test_what_fails_is_one_line(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No terminal, no server, another server, no rich: what is wrong and what to do."""
    Asked.answer = 200, json.dumps(TOLD).encode()

    def said(*arguments: str) -> tuple[int, str]:
        status = main(["top", *arguments])
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return status, err.removeprefix("trio-rooms: ").rstrip("\n")

    no_terminal = "top draws on a terminal, and the standard output is none; --once prints it once"
    assert said(url) == (2, no_terminal)
    status, text = said("http://127.0.0.1:1", "--once")
    assert (status, text.partition(":")[0]) == (1, "no answer from http")
    assert said("nowhere", "--once")[0] == 2
    Asked.answer = 200, b"[]"
    other = f"what {url} answers at /stats is not that of a server of rooms"
    assert said(url, "--once") == (1, other)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    needs = "top takes the package rich, which is not installed: pip install 'trio-rooms[top]'"
    assert said(url, "--once") == (1, needs)
