"""The tutorial, typed as it is printed: its files, its commands, and what they say."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import open_websocket_url

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(python|ini|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FOLDER = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{FOLDER}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(PAGE.parent.parent / "src"),
}


def files() -> dict[str, str]:
    """What the reader writes: a block begins with the name of its file, or is added to the last one."""
    written: dict[str, str] = {}
    name = ""
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind == "console":
            continue
        named = re.match(r"# ([\w.]+)\n", text)
        if named:
            name = named[1]
            assert name not in written
        written[name] = written.get(name, "") + "\n" * (not named) + text
    return written


def section(heading: str) -> list[str]:
    """What is typed and seen under one heading, line by line."""
    _, _, rest = PAGE.read_text().partition(f"\n## {heading}\n")
    assert rest, heading
    blocks = BLOCK.findall(rest.partition("\n## ")[0])
    return [line for kind, text in blocks if kind == "console" for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The reader's folder, with all files in it."""
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    assert {file.name for file in tmp_path.iterdir()} == {
        "app.py", "chat.py", "chat2.py", "counter.py", "pytest.ini", "test_chat.py",
    }  # fmt: skip
    return tmp_path


@contextmanager
def serving(folder: Path, command: str) -> Iterator[str]:
    """Run a printed command that serves, but for its port; the URL that it says."""
    arguments = [*command.removeprefix("$ ").split(), "--port", "0"]
    with subprocess.Popen(
        arguments, cwd=folder, env=ENVIRONMENT, stdout=-1, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 20)[0], "it said nothing"
            said = process.stdout.readline().strip()
            assert re.sub(r"\d+$", "8000", said) == "listening on ws://127.0.0.1:8000"
            yield said.removeprefix("listening on ")
            process.send_signal(signal.SIGINT)  # Ctrl-C
            assert process.wait(20) == 0
        finally:
            process.kill()


async def converse(url: str, lines: list[str]) -> None:
    """Be the client of a printed conversation, which begins with its command."""
    command = re.fullmatch(r'\$ python -m websockets "?ws://127.0.0.1:8000(/[^"]+)"?', lines[0])
    assert command
    with trio.fail_after(20):
        async with open_websocket_url(url + command[1]) as client:
            for line in lines[1:]:
                if line.startswith("> "):
                    await client.send_message(line[2:])
                else:
                    assert await client.get_message() == line[2:]


async def test_the_counter(folder: Path) -> None:
    """It is served, and says what is printed, to the end of what the network may do."""
    serve, listening, *talk = section("A counter")
    assert listening == "listening on ws://127.0.0.1:8000"
    with serving(folder, serve) as url:
        await converse(url, talk + section("What the network may do"))
        asked, shown, inspect = section("See it sleep")
        address = asked.removeprefix("$ curl ").replace("http://127.0.0.1:8000", url.replace("ws", "http"))
        with urllib.request.urlopen(address) as answer:  # noqa: S310 (the address is printed above)
            said = answer.read().decode()
        # It has had no ten seconds to fall asleep in, and its client is gone.
        awake = shown.replace("asleep", "awake").replace('"connections": 1', '"connections": 0')
        assert said == awake
    shown = subprocess.check_output(
        inspect.removeprefix("$ ").split(), cwd=folder, env=ENVIRONMENT, text=True
    )
    assert '{"value": 2}' in shown


async def test_the_chat_and_its_next_version(folder: Path) -> None:
    """The chat says what is printed, and its next version has its lines under their new name."""
    for heading in ("A chat", "Change the shape of the state"):
        serve, _, *talk = section(heading)
        with serving(folder, serve) as url:
            await converse(url, talk)


def test_the_program(folder: Path) -> None:
    """It says what is printed, and ends in order when it is stopped."""
    command, shown = section("In your own program")
    program = (folder / "app.py").read_text()
    (folder / "app_elsewhere.py").write_text(
        program.replace("run([room], main,", "run([room], main, port=0,")
    )
    arguments = command.removeprefix("$ ").replace("app.py", "app_elsewhere.py").split()
    with subprocess.Popen(
        arguments, cwd=folder, env=ENVIRONMENT, stdout=-1, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 20)[0], "it said nothing"
            assert process.stdout.readline().strip() == shown
            process.send_signal(signal.SIGINT)  # Ctrl-C
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_the_tests(folder: Path) -> None:
    """The printed tests are found, and pass."""
    (command,) = section("Test it")
    arguments = [*command.removeprefix("$ ").split(), "-p", "no:cacheprovider"]
    done = subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert " 2 passed" in done.stdout, done.stdout + done.stderr


def test_what_is_installed() -> None:
    """The printed commands install the extra that the printed tests need, and the client that is printed."""
    _, _, rest = PAGE.read_text().partition("# Tutorial")
    installed = re.search(r"^\$ .*pip install (.*)$", rest, re.MULTILINE)
    assert installed
    assert installed[1] == '".[testing]" websockets'
