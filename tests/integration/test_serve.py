"""``trio-rooms serve`` as whoever runs it sees it: signals, restarts, ports and data folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.exceptions
from websockets.sync.client import ClientConnection, connect

from tests.integration.conftest import ROOT, TIMEOUT, Served, start

Serve = Callable[..., Served]


def receive(client: ClientConnection, event: str) -> Any:
    """The data of the next event of a name."""
    while True:
        message = json.loads(client.recv(TIMEOUT))
        if message.get("event") == event:
            return message["data"]


def add(client: ClientConnection, amount: int) -> int:
    """Add to a counter; returns what it is then."""
    client.send(json.dumps({"event": "add", "data": {"amount": amount}, "id": 1}))
    while True:
        message = json.loads(client.recv(TIMEOUT))
        if message.get("ack") == 1:
            return int(message["data"])


def trio_rooms(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    with tempfile.TemporaryFile("w+") as errors:
        process = start([*map(str, arguments)], errors)
        assert process.stdout is not None
        with process.stdout as output:
            watchdog = threading.Timer(TIMEOUT, process.kill)
            watchdog.start()
            told = output.read()
            watchdog.cancel()
        status = process.wait(TIMEOUT)
        errors.seek(0)
        return subprocess.CompletedProcess([*arguments], status, told, errors.read())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1012), (signal.SIGINT, 1001)])
def test_signals(serve: Serve, tmp_path: Path, number: int, code: int) -> None:
    """A signal closes connections with its code, saves what changed last, and ends with exit status 0.

    All of the log is in the format that was asked for.
    """
    never = ("--snapshot-interval", "3600", "--idle-timeout", "3600", "--log-format", "json")
    served = serve("examples/counter.py", "--data", tmp_path / "data", *never)
    with connect(f"{served.url}/counter/x") as client:
        assert add(client, 7) == 7
        served.process.send_signal(number)
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            receive(client, "nothing")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code
    assert served.process.wait(TIMEOUT) == 0
    log = [json.loads(line) for line in served.log.read_text().splitlines()]
    assert log[-1]["message"] == "stopped"
    assert {(line["level"], line["logger"]) for line in log} == {("INFO", "trio_rooms")}
    served = serve("examples/counter.py", "--data", tmp_path / "data")
    with connect(f"{served.url}/counter/x") as client:
        assert add(client, 0) == 7


def test_kill_loses_no_more_than_the_interval(serve: Serve, tmp_path: Path) -> None:
    """What was older than the snapshot interval is there after kill -9."""
    served = serve("examples/counter.py", "--data", tmp_path / "data", "--snapshot-interval", "0.01")
    with connect(f"{served.url}/counter/x") as client:
        add(client, 7)
        deadline = time.monotonic() + TIMEOUT
        while json.loads(served.get("/stats"))["store"]["commits"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert served.stop(signal.SIGKILL) == -signal.SIGKILL
    served = serve("examples/counter.py", "--data", tmp_path / "data")
    with connect(f"{served.url}/counter/x") as client:
        assert add(client, 0) == 7


COLLECTOR = """
import gc
from trio_rooms import Room

room = Room("collector")

@room.on_message
async def tell(ctx, message):
    ctx.connection.send(str(gc.get_threshold()))
"""


def test_the_collector_looks_at_old_objects_hardly_ever(serve: Serve, tmp_path: Path) -> None:
    """A server runs with thresholds of its own: Python's stop it for as long as all objects take."""
    module = tmp_path / "collector.py"
    module.write_text(COLLECTOR)
    served = serve(module)
    with connect(f"{served.url}/collector/x") as client:
        client.send("?")
        assert client.recv(TIMEOUT) == "(3000, 5, 1000000)"


HANDSHAKE = (
    b"GET /%s/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_stop_does_not_wait_for_silent_clients(serve: Serve) -> None:
    """Clients that finish neither request nor closing handshake do not keep the server from ending."""
    served = serve("examples/echo.py")
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=TIMEOUT) as half,
        socket.create_connection(("127.0.0.1", served.port), timeout=TIMEOUT) as silent,
    ):
        half.sendall(b"GET /echo/x HTTP/1.1\r\n")
        silent.sendall(HANDSHAKE % b"echo")
        assert silent.recv(10_000).startswith(b"HTTP/1.1 101 ")
        assert served.stop() == 0


BUSY = """
import pathlib, time
from trio_rooms import Room

room = Room("busy")

@room.on_message
async def busy(ctx, message):
    pathlib.Path(__file__).with_suffix(".busy").touch()
    time.sleep(3600)
"""


def test_second_signal(serve: Serve, tmp_path: Path) -> None:
    """A second signal ends the server at once, even one whose event loop a handler has stopped."""
    module = tmp_path / "busy.py"
    module.write_text(BUSY)
    served = serve(module)
    with socket.create_connection(("127.0.0.1", served.port), timeout=TIMEOUT) as client:
        client.sendall(HANDSHAKE % b"busy")
        assert client.recv(10_000).startswith(b"HTTP/1.1 101 ")
        client.sendall(b"\x81\x81\0\0\0\0x")
        deadline = time.monotonic() + TIMEOUT
        while not module.with_suffix(".busy").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        while served.process.poll() is None and time.monotonic() < deadline:
            served.process.terminate()
            time.sleep(0.02)
    assert served.process.poll() == -signal.SIGTERM


def test_output(serve: Serve, tmp_path: Path) -> None:
    """Standard output has one line; that rooms are not kept is said on standard error."""
    served = serve("examples/echo.py")
    assert served.line == f"listening on ws://127.0.0.1:{served.port}\n"
    assert served.get("/healthz") == b"ok\n"
    assert served.stop() == 0
    assert served.process.stdout is not None
    assert served.process.stdout.read() == ""
    log = served.log.read_text()
    assert "--data" in log
    assert f"{served.url}/echo/" in log
    assert "Traceback" not in log


def test_host(serve: Serve) -> None:
    """``--host`` may be an IPv6 address, which the ready line has in brackets."""
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    served = serve("examples/echo.py", "--host", "::1")
    assert served.url == f"ws://[::1]:{served.port}"
    with connect(f"{served.url}/echo/x") as client:
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"


def test_port_in_use(serve: Serve) -> None:
    """A port that another program has is one clear line, and exit status 1."""
    served = serve("examples/echo.py")
    done = trio_rooms("serve", "examples/echo.py", "--port", str(served.port))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("trio-rooms: ")]
    assert f"port {served.port} of 127.0.0.1 is in use" in line
    assert "give another port" in line
    assert "Traceback" not in done.stderr


def test_data_in_use(serve: Serve, tmp_path: Path) -> None:
    """A data folder that another server has is one clear line that names it, and exit status 1."""
    served = serve("examples/echo.py", "--data", tmp_path / "data")
    done = trio_rooms("serve", "examples/echo.py", "--port", "0", "--data", tmp_path / "data")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("trio-rooms: ")]
    assert f"is in use by process {served.process.pid}" in line
    assert "Traceback" not in done.stderr


AS_NOBODY = """
import encodings.idna, os, sys
import trio_rooms._cli.main
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(trio_rooms._cli.main.main(sys.argv[1:]))
"""


def as_nobody(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user without rights."""
    command = [sys.executable, "-c", AS_NOBODY, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT)


def first_privileged_port() -> int:
    """A port that needs a privilege here."""
    limit = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not limit.exists() or int(limit.read_text()) <= 1:
        pytest.skip("no port needs a privilege here")
    return int(limit.read_text()) - 1


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which every user can read, which one of ``tmp_path`` is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_privileged_port(open_folder: Path) -> None:
    """A port that needs a privilege is refused with what to do."""
    done = as_nobody("serve", served_module(open_folder), "--port", str(first_privileged_port()))
    assert done.returncode == 1, done.stderr
    assert "give a port from 1024 on" in done.stderr
    assert "Traceback" not in done.stderr


def served_module(folder: Path) -> Path:
    """A module with a room."""
    file = folder / "readable.py"
    file.write_text('from trio_rooms import Room\nroom = Room("x")\n')
    return file


def test_data_not_writable(open_folder: Path) -> None:
    """A data folder that cannot be written is refused with what to do."""
    module = served_module(open_folder)
    data = open_folder / "data"
    data.mkdir()
    data.chmod(0o555)
    done = as_nobody("serve", module, "--port", "0", "--data", data)
    data.chmod(0o755)
    assert done.returncode == 1, done.stderr
    assert f"cannot write to {data}" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_beside_a_server(serve: Serve, tmp_path: Path) -> None:
    """A store can be looked into and exported from while a server has it, but not imported into."""
    data = tmp_path / "data"
    served = serve("examples/counter.py", "--data", data, "--idle-timeout", "0.1")
    with connect(f"{served.url}/counter/sheep") as client:
        add(client, 41)
        served.wait_until("counter/sheep", "asleep")
        listed = trio_rooms("inspect", data)
        assert listed.returncode == 0, listed.stderr
        assert "counter/sheep" in listed.stdout
        shown = trio_rooms("inspect", data, "counter/sheep")
        assert shown.returncode == 0, shown.stderr
        assert '"value": 41' in shown.stdout
        exported = trio_rooms("inspect", data, "counter/sheep", "--export", tmp_path / "sheep.cbor")
        assert exported.returncode == 0, exported.stderr
        refused = trio_rooms("inspect", data, "counter/cows", "--import", tmp_path / "sheep.cbor")
        assert refused.returncode == 1
        assert f"is in use by process {served.process.pid}" in refused.stderr
        assert add(client, 1) == 42
        why = trio_rooms("why", f"http://127.0.0.1:{served.port}", "counter/sheep")
        assert why.returncode == 0, why.stderr
        assert why.stdout.startswith("counter/sheep is a")
    assert served.stop() == 0
    imported = trio_rooms("inspect", data, "counter/cows", "--import", tmp_path / "sheep.cbor")
    assert imported.returncode == 0, imported.stderr
    served = serve("examples/counter.py", "--data", data)
    for name, value in (("sheep", 42), ("cows", 41)):
        with connect(f"{served.url}/counter/{name}") as client:
            assert add(client, 0) == value


def chat(url: str, user: str) -> ClientConnection:
    """A client in the chat example."""
    return connect(f"{url}/chat/lobby?user={user}")


def say(client: ClientConnection, text: str) -> Any:
    """Say something; returns the answer to it."""
    client.send(json.dumps({"event": "say", "data": {"text": text}, "id": 1}))
    while True:
        message = json.loads(client.recv(TIMEOUT))
        if message.get("ack") == 1:
            return message


def test_chat(serve: Serve) -> None:
    """Who enters gets the history first; what is said goes to all, and the lines are counted."""
    served = serve("examples/chat.py")
    with chat(served.url, "Ada") as ada:
        assert json.loads(ada.recv(TIMEOUT)) == {"event": "history", "data": {"lines": []}}
        assert say(ada, "  hello ")["data"] == 1
        with chat(served.url, "%C3%89va%20%20B") as eva:
            first = json.loads(eva.recv(TIMEOUT))
            assert first["event"] == "history"
            (line,) = first["data"]["lines"]
            assert (line["user"], line["text"]) == ("Ada", "hello")
            assert set(line) == {"user", "text", "at"}
            assert say(eva, "hi")["data"] == 2
            said = receive(ada, "said")
            assert (said["user"], said["text"]) == ("Éva B", "hi")


@pytest.mark.parametrize("text", [" ", "x" * 1001])
def test_chat_refuses_a_line(serve: Serve, text: str) -> None:
    """An empty line and a very long one are answered with an error, and nobody else sees them."""
    served = serve("examples/chat.py")
    with chat(served.url, "Ada") as ada:
        assert say(ada, text)["error"]["code"] in {"empty", "too_long"}
        assert say(ada, "well")["data"] == 1


@pytest.fixture(scope="module")
def chats(serve_all: Serve) -> str:
    """The address of the chat."""
    return serve_all("examples/chat.py").url


@pytest.mark.parametrize("query", ["", "?user=", "?user=%20%09", f"?user={'x' * 41}", "?name=Ada"])
def test_chat_refuses_a_name(chats: str, query: str) -> None:
    """Who does not say who they are is answered with 401 and what is missing."""
    with (
        pytest.raises(websockets.exceptions.InvalidStatus) as refused,
        connect(f"{chats}/chat/lobby{query}"),
    ):
        pass
    assert refused.value.response.status_code == 401
    assert (b"?user=NAME" in refused.value.response.body) or (b"40 characters" in refused.value.response.body)


@pytest.mark.parametrize("example", ["chat", "counter"])
def test_pages(serve: Serve, example: str) -> None:
    """The page of an example is there, and loads nothing from elsewhere."""
    page = serve(f"examples/{example}.py").get("/").decode()
    assert page.startswith("<!doctype html>")
    assert "http:" not in page.replace('"http:"', "")
    assert "innerHTML" not in page
    assert os.linesep + "</html>" in page
