"""A running server is recorded, and what was recorded is advised on, by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import websocket

from tests.integration.conftest import TIMEOUT, Served
from trio_rooms._cli.main import main


def test_a_server_is_recorded(
    serve: Callable[..., Served],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until Ctrl-C, or its time is over; each message is in it, and who was there before."""
    server, file = serve("examples/echo.py", "--dashboard"), tmp_path / "trace"
    clients = [websocket.create_connection(f"{server.url}/echo/x", timeout=TIMEOUT) for _ in range(3)]
    pauses: list[float] = []

    def talk(seconds: float) -> None:
        """In place of a pause: somebody says something; after some of these there is a Ctrl-C."""
        pauses.append(seconds)
        if len(pauses) > 3:
            raise KeyboardInterrupt
        clients[0].send("hello")
        assert clients[0].recv() == "hello"

    with monkeypatch.context() as patched:
        patched.setattr("trio_rooms._cli.record.time.sleep", talk)
        assert main(["record", server.url, "--output", str(file)]) == 0
    assert pauses == [1.0] * 4
    assert main(["advise", "--trace", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    # The room may have said, too, that it had something to do.
    assert document["rows"] >= 3 + 3
    assert 0 < document["present"]["hibernation_ratio"] < 1
    assert main(["record", server.url, "--output", str(tmp_path / "no" / "x")]) == 1
    assert "cannot be written: No such file" in capsys.readouterr().err
    assert main(["record", server.url, "--output", str(file), "--seconds", "0"]) == 0
    assert main(["record", server.url, "--output", "/dev/full"]) == 1
    assert "the trace cannot be written on: No space left" in capsys.readouterr().err
    assert main(["advise", server.url]) == 0
    assert capsys.readouterr().out == "nothing to recommend\n"
    for client in clients:
        client.close()
    assert server.stop() == 0
    closed = serve("examples/echo.py")
    assert main(["record", closed.url, "--output", str(file)]) == 1
    assert "answers 404: there is nothing at '/trace'" in (told := capsys.readouterr().err)
    assert "shows the token (--token-file), or the server has --dashboard" in told
