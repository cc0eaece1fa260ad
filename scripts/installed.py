"""Try the installed package as its first user does; run by ``scripts/wheel`` in an empty folder."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path

import trio
from trio_websocket import open_websocket_url

import trio_rooms

COMMAND = str(Path(sys.executable).parent / "trio-rooms")
WITH_EXTRAS = (
    "trio_rooms._cli.picture",
    "trio_rooms._server.prometheus",
    "trio_rooms._tracing.spans",
    "trio_rooms._tracing.tracing",
    "trio_rooms._valkey",
    "trio_rooms.engines.valkey",
    "trio_rooms.stores.valkey",
)
"""Modules, and packages, that are imported only where an extra is installed."""
PATIENCE = 30
"""Seconds for each step; all of them together take about one."""

ROOM = """
from trio_rooms import Context, Room

room = Room("greeting")


@room.on_message
async def greet(ctx: Context[None], message: str | bytes) -> None:
    ctx.connection.send(f"hello, {message}")
"""


def look() -> None:
    """All that the package is made of is there and can be imported, and comes from the environment."""
    package = Path(trio_rooms.__file__).parent
    assert package.is_relative_to(sys.prefix), package
    assert (package / "py.typed").is_file(), "type checkers will not look at a package without py.typed"
    served = package / "js"
    parts = sorted(file.name for file in served.iterdir())
    assert parts == ["README.md", "package.json", "trio-rooms.d.ts", "trio-rooms.js"], parts
    # A package is imported to be walked through, and one with an extra cannot be.
    names = [
        module.name for module in pkgutil.walk_packages([str(package)], "trio_rooms.", onerror=lambda _: None)
    ]
    for name in names:
        extra = any(name == one or name.startswith(f"{one}.") for one in WITH_EXTRAS)
        if not name.endswith("__main__") and not extra:
            importlib.import_module(name)
    print(f"{len(names)} modules")


def ask_version() -> None:
    """The command, the package and its metadata are of one version."""
    said = subprocess.run(
        [COMMAND, "--version"], check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    assert said.stdout == f"trio-rooms {trio_rooms.__version__}\n", said.stdout
    assert importlib.metadata.version("trio-rooms") == trio_rooms.__version__
    print(said.stdout, end="")


async def greet(url: str) -> None:
    """One message, and its answer."""
    with trio.fail_after(PATIENCE):
        async with open_websocket_url(url) as socket:
            await socket.send_message("world")
            answer = await socket.get_message()
    assert answer == "hello, world", answer
    print(answer)


def serve() -> None:
    """The command serves a room from a file, and ends in order when it is told to."""
    Path("greeting.py").write_text(ROOM, encoding="utf-8")
    command = [COMMAND, "serve", "greeting.py", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("listening on ").strip()
            trio.run(greet, f"{url}/greeting/one")
            server.send_signal(signal.SIGTERM)
            status = server.wait(PATIENCE)
        finally:
            server.kill()
    assert status == 0, status


if __name__ == "__main__":
    look()
    ask_version()
    serve()
