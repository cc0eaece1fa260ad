"""``trio-rooms send``: what it asks a server for, and what it says of the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.asked import Asked
from trio_rooms._cli.main import main

TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def server(url: str) -> str:
    """Where a server is, without the scheme."""
    return url.removeprefix("http://")


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A file with a token."""
    Asked.answer = (200, b'{"active":1}\n')
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\n")
    file.chmod(0o600)
    return file


def run(*arguments: str | Path) -> int:
    """The exit status of the command."""
    try:
        return main(["send", *map(str, arguments)])
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.mark.parametrize(
    ("arguments", "path", "content"),
    [
        (["--user", "ana", "hi"], "/users/ana/send", {"event": "hi", "data": None}),
        (["--user", "é/.", "hi", "[1]"], "/users/%C3%A9%2F./send", {"event": "hi", "data": [1]}),
        (
            ["--user", "a", "hi", '"x"', "--priority", "low", "--ttl", "60", "--volatile"],
            "/users/a/send",
            {"event": "hi", "data": "x", "priority": "low", "ttl": 60, "volatile": True},
        ),
        (["--room", "chat/a/b", "hi", "-5"], "/rooms/chat/a%2Fb/emit", {"event": "hi", "data": -5}),
        (
            ["--room", "chat/x", "hi", "--channel", "red", "--reliable"],
            "/rooms/chat/x/emit",
            {"event": "hi", "data": None, "channel": "red", "reliable": True},
        ),
    ],
)
@pytest.mark.parametrize("form", ["http://{}", "ws://{}/", "http://{}/base/"])
def test_what_is_sent(
    server: str,
    token: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
    arguments: list[str],
    path: str,
    content: Any,
) -> None:
    """The request of the HTTP interface, with the token of the file; what comes back is printed."""
    assert run(form.format(server), *arguments, "--token-file", token) == 0
    base = "/base" if "base" in form else ""
    assert Asked.seen == [(base + path, f"Bearer {TOKEN}", content)]
    assert capsys.readouterr() == ('{"active":1}\n', "")


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (400, b'{"error":"\'ttl\' is a number"}\n', "400: 'ttl' is a number"),
        (401, b'{"error":"this takes a token"}', "401: this takes a token"),
        (502, b"<h1>Bad Gateway</h1>", "502: <h1>Bad Gateway</h1>"),
        (503, b"", "503: Service Unavailable"),
        (307, b"[1]", "307: [1]"),
    ],
)
def test_what_a_server_refuses(
    server: str, token: Path, capsys: pytest.CaptureFixture[str], status: int, answer: bytes, told: str
) -> None:
    """It fails with what the server says, or who stands before it."""
    Asked.answer = (status, answer)
    assert run(f"http://{server}", "--user", "a", "hi", "--token-file", token) == 1
    assert capsys.readouterr() == ("", f"trio-rooms: http://{server} answers {told}\n")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["hi"], 2, "one of the arguments --user --room is required"),
        (["--user", "a", "--room", "b/c", "hi"], 2, "not allowed with"),
        (["--user", "a", "hi", "hello"], 2, "DATA is JSON"),
        (["--user", "a", "hi", "NaN"], 2, "DATA is JSON"),
        (["--user", "a", "hi", "--priority", "urgent"], 2, "invalid choice"),
        (["--user", "a", "hi", "--ttl", "inf"], 2, "for ever"),
        (["--user", "a", "hi", "--channel", "x"], 2, "--channel and --reliable go with --room"),
        (["--user", "a", "hi", "--reliable"], 2, "--channel and --reliable go with --room"),
        (["--room", "chat/x", "hi", "--ttl", "1"], 2, "--priority and --ttl go with --user"),
        (["--room", "chat", "hi"], 2, "like chat/lobby"),
        (["--room", "/x", "hi"], 2, "like chat/lobby"),
        (["--user", "\udcff", "hi"], 2, "no UTF-8"),
    ],
)
def test_what_makes_no_sense(
    token: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, told: str
) -> None:
    """It is said before anything is sent."""
    assert run("http://127.0.0.1:1", *arguments, "--token-file", token) == status
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://[x", "ws://x/?a"]
)
def test_what_is_no_server(token: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    """A URL that leads nowhere."""
    assert run(url, "--user", "a", "hi", "--token-file", token) == 2
    assert "a server's URL is like http://127.0.0.1:8000" in capsys.readouterr().err


def test_no_server(token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody listens it says so."""
    for url in ("http://127.0.0.1:1", "https://127.0.0.1:1"):
        assert run(url, "--user", "a", "hi", "--token-file", token) == 1
        assert f"no answer from {url}: [Errno 111] Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o644])
def test_a_token_is_its_owners(
    token: Path, capsys: pytest.CaptureFixture[str], mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that others can read or write is refused by both commands, with what to do."""
    token.chmod(mode)
    assert run("http://127.0.0.1:1", "--user", "a", "hi", "--token-file", token) == 2
    told = capsys.readouterr().err
    assert f"chmod 600 {token}" in told
    assert main(["serve", "nowhere", "--admin-token-file", str(token)]) == 2
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    "content", [b"", b"!" * 31, b"!" * 20 + b" " + b"!" * 20, b"\xff" * 40, b"!" * 5000, b"!" * 32 + b"\0"]
)
def test_what_is_no_token(token: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    """Too short, or what no header could carry; what is there is not told."""
    token.write_bytes(content)
    assert main(["serve", "nowhere", "--admin-token-file", str(token)]) == 2
    told = capsys.readouterr().err
    assert str(token) in told
    assert "!!" not in told


def test_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there, or is none."""
    for file in (tmp_path / "nothing", tmp_path):
        assert main(["serve", "nowhere", "--admin-token-file", str(file)]) == 1
        assert f"the token cannot be read: {file}" in capsys.readouterr().err
    assert main(["serve", "nowhere"]) == 2
