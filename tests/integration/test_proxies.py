"""Real proxies before the server, set up as docs/serving.md says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import websocket
import websockets.exceptions
import websockets.sync.client

from tests.integration.conftest import ROOT, TIMEOUT, Served

pytestmark = pytest.mark.proxy

Serve = Callable[..., Served]
Require = Callable[..., str]

PROGRAM = """
import json
from trio_rooms import Refused, Room
room = Room("hall", subprotocols=["mqtt"], auto_respond={"ping": "pong"})
@room.authenticate
async def who(request):
    if "refuse" in request.query:
        raise Refused(403, "not you", close=4403)
    return {name: request.headers.get(name) for name in ("x-forwarded-for", "host", "origin")}
@room.on_message
async def message(ctx, message):
    if message == "who":
        message = json.dumps(ctx.connection.attachment | {"id": ctx.room.id})
    if message == "close":
        return ctx.connection.close(4000, "as you like")
    ctx.connection.send(message)
"""


def settings_of(proxy: str, changes: dict[str, str]) -> str:
    """What the page says about a proxy, with some of it changed, all of which must be there."""
    page = (ROOT / "docs" / "serving.md").read_text()
    found = re.search(rf"^```{proxy}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found, proxy
    settings = found[1]
    for said, used in changes.items():
        assert said in settings, said
        settings = settings.replace(said, used)
    return settings


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@attrs.frozen
class Proxy:
    """A proxy that runs, and the server behind it."""

    address: str
    served: Served

    def connect(self, path: str, **options: object) -> websockets.sync.client.ClientConnection:
        """A WebSocket through the proxy."""
        connect: Callable[..., websockets.sync.client.ClientConnection] = websockets.sync.client.connect
        return connect(f"ws://{self.address}{path}", max_size=None, **options)

    def get(self, path: str) -> tuple[int, bytes]:
        """The status and the body of a page."""
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=TIMEOUT) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@contextlib.contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """A proxy's process, from when it listens to the end of the block."""
    log = folder / "proxy.log"
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        try:
            end = time.monotonic() + TIMEOUT
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"{command[0]} does not listen:\n{log.read_text()}")
                time.sleep(0.01)
            yield
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def start_nginx(require: Require, folder: Path, port: int, behind: int, silence: str) -> list[str]:
    """The command for an nginx of this user, and of one process."""
    nginx = require("nginx", "/usr/sbin/nginx")
    site = settings_of(
        "nginx",
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{port};",
            "    ssl_certificate     /etc/ssl/example.org.crt;\n": "",
            "    ssl_certificate_key /etc/ssl/example.org.key;\n": "",
            "http://127.0.0.1:8000;": f"http://127.0.0.1:{behind};",
            "proxy_read_timeout 1h;": f"proxy_read_timeout {silence};",
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder / 'pid'}; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{site}}}\n"
    )
    return [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def start_haproxy(require: Require, folder: Path, port: int, behind: int, silence: str) -> list[str]:
    """The command for a HAProxy."""
    haproxy = require("haproxy", "/usr/sbin/haproxy")
    (folder / "haproxy.cfg").write_text(
        settings_of(
            "haproxy",
            {
                "bind :443 ssl crt /etc/ssl/example.org.pem": f"bind 127.0.0.1:{port}",
                "127.0.0.1:8000": f"127.0.0.1:{behind}",
                "timeout tunnel 1h": f"timeout tunnel {silence}",
            },
        )
    )
    return [haproxy, "-db", "-f", str(folder / "haproxy.cfg")]


STARTS: dict[str, Callable[..., list[str]]] = {
    "nginx": start_nginx,
    "haproxy": start_haproxy,
}


@contextlib.contextmanager
def behind(
    name: str, require: Require, serve: Serve, folder: Path, silence: str = "60s", *options: str
) -> Iterator[Proxy]:
    """The server behind a proxy."""
    port = free_port()
    program = folder / "hall.py"
    program.write_text(PROGRAM)
    command = STARTS[name](require, folder, port, 0, silence)  # Skips before there is a server.
    served = serve(program, *options)
    command = STARTS[name](require, folder, port, served.port, silence)
    with running(command, folder, port):
        yield Proxy(f"127.0.0.1:{port}", served)


@pytest.mark.parametrize("name", STARTS)
def test_a_proxy_as_it_is_documented(name: str, require: Require, serve: Serve, tmp_path: Path) -> None:
    """It passes on paths, subprotocols, large messages and closes; who the client is it says itself."""
    large = os.urandom(500_000).hex()
    headers = {"X-Forwarded-For": "203.0.113.9", "Origin": "https://example.org"}
    with behind(name, require, serve, tmp_path) as proxy:
        with proxy.connect(
            "/hall/a%2Fb%20%C3%A9%253?x=1", subprotocols=["odd", "mqtt"], additional_headers=headers
        ) as socket:
            assert socket.subprotocol == "mqtt"
            socket.send("who")
            assert json.loads(socket.recv(TIMEOUT)) == {
                "x-forwarded-for": "127.0.0.1",
                "host": proxy.address,
                "origin": "https://example.org",
                "id": "a/b é%3",
            }
            for message in (large, large.encode(), "", "ping"):
                socket.send(message)
                assert socket.recv(TIMEOUT) == ("pong" if message == "ping" else message)
            socket.send("close")
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                socket.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "as you like")
        with proxy.connect("/hall/x?refuse") as socket:
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                socket.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4403
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            proxy.connect("/nobody/x")
        assert refused.value.response.status_code == 404
        assert proxy.get("/healthz") == (200, b"ok\n")
        assert proxy.get("/hall/x")[0] == 426
        for hidden in ("/stats", "/stats/hall/x", "/%73tats", "/metrics", "/why/hall/x"):
            status, body = proxy.get(hidden)
            assert status == 404
            assert b"connections" not in body
        with proxy.connect("/hall/x") as socket:
            proxy.served.process.terminate()
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                socket.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012


@pytest.mark.parametrize("name", STARTS)
def test_a_proxy_cuts_off_who_is_silent(name: str, require: Require, serve: Serve, tmp_path: Path) -> None:
    """What the page warns of: after its timeout, without a close frame."""
    with behind(name, require, serve, tmp_path, "1s") as proxy, proxy.connect("/hall/x") as socket:
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            socket.recv(TIMEOUT)
        assert closed.value.rcvd is None


@pytest.mark.parametrize("name", STARTS)
def test_pings_keep_a_silent_connection(name: str, require: Require, serve: Serve, tmp_path: Path) -> None:
    """With an interval below the proxy's timeout it lives on, although client and room say nothing."""
    with behind(name, require, serve, tmp_path, "1s", "--ping-interval", "0.3") as proxy:
        client: Any = websocket.create_connection(f"ws://{proxy.address}/hall/x", timeout=TIMEOUT)
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            opcode, _ = client.recv_data_frame(control_frame=True)
            assert opcode == websocket.ABNF.OPCODE_PING
        client.send("still here")
        assert client.recv() == "still here"
        client.close()


def test_a_bare_check_finds_the_server_well(require: Require, serve: Serve, tmp_path: Path) -> None:
    """HAProxy asks with OPTIONS and HTTP/1.0, if it is not told otherwise; here one failure is enough."""
    port = free_port()
    program = tmp_path / "hall.py"
    program.write_text(PROGRAM)
    require("haproxy", "/usr/sbin/haproxy")
    served = serve(program)
    command = start_haproxy(require, tmp_path, port, served.port, "60s")
    file = tmp_path / "haproxy.cfg"
    settings = file.read_text().replace("option httpchk GET /healthz", "option httpchk")
    file.write_text(settings.replace(" check\n", " check inter 50ms fall 1\n"))
    with running(command, tmp_path, port):
        proxy = Proxy(f"127.0.0.1:{port}", served)
        asked = 0
        end = time.monotonic() + TIMEOUT
        while json.loads(served.get("/stats"))["servers"][0]["accepted"] < asked + 5:
            asked += 1
            assert time.monotonic() < end
            time.sleep(0.02)
        assert proxy.get("/healthz") == (200, b"ok\n")
