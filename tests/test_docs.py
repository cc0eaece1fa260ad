"""What the README and the documentation say is run, followed and compared, so that it stays true."""

from __future__ import annotations

import inspect
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import open_websocket_url

import trio_rooms._room.lifecycle
from trio_rooms import Policy, Room
from trio_rooms._cli.main import main
from trio_rooms._definition.signatures import HOOKS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
HTTP = ROOT / "docs" / "http.md"
OF_FILES = (README, HTTP, ROOT / "docs" / "tutorial.md")
"""Pages whose blocks are files of their own; the tutorial's tests are beside this module."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}


def name_of(page: Path) -> str:
    """How a page is called in the names of tests."""
    return page.stem


def code_of(page: Path) -> list[str]:
    """The Python of a page, block by block."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def section_of(page: Path, heading: str) -> str:
    """A page's text from a heading to the next."""
    _, _, rest = page.read_text().partition(f"\n## {heading}\n")
    assert rest, heading
    return rest.partition("\n## ")[0]


def anchors_of(page: Path) -> set[str]:
    """What one can link to in a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def first_line(process: subprocess.Popen[str]) -> str:
    """What a process says first."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 20)
    assert ready, "it said nothing"
    return process.stdout.readline()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in OF_FILES and code_of(page)], ids=name_of
)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks run one after the other, as one module, and the tests in it pass."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in code_of(page):
        exec(compile(block, page.name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    for name, test in list(vars(module).items()):
        if name.startswith("test_"):
            clock = MockClock(autojump_threshold=0)
            trio.run(with_limit, test, clock, clock=clock)


async def with_limit(test: Any, clock: MockClock) -> None:
    """Run a test of a page; none needs more than ten minutes of its own time."""
    with trio.fail_after(600):
        await test(clock)


def test_every_test_of_a_page_is_run() -> None:
    """The pages have tests in them, and they are found."""
    names = [
        name
        for page in PAGES
        for name in re.findall(r"^async def (test_\w+)", page.read_text(), re.MULTILINE)
    ]
    assert len(names) >= 3


@pytest.fixture
def readme_folder(tmp_path: Path) -> Path:
    """A folder with the README's programs under the names that they give themselves."""
    for block in code_of(README):
        named = re.match(r"# (\w+\.py)\n", block)
        assert named, block
        (tmp_path / named[1]).write_text(block.replace("8000", "0"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["app.py", "counter.py"]
    return tmp_path


async def test_the_readme_is_served(readme_folder: Path) -> None:
    """The command of the README serves its room, which says what the README says."""
    served = section_of(README, "Twenty lines")
    command = re.search(r"^    trio-rooms (serve .*)$", served, re.MULTILINE)
    wire = re.findall(r"^    ([<>]) (\{.*\})$", served, re.MULTILINE)
    assert command
    assert [direction for direction, _ in wire] == [">", "<", "<"]
    arguments = [sys.executable, "-m", "trio_rooms", *command[1].split(), "--port", "0"]
    with subprocess.Popen(
        arguments, cwd=readme_folder, env=ENVIRONMENT, stdout=-1, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            url = first_line(process).removeprefix("listening on ").strip()
            with trio.fail_after(20):
                async with open_websocket_url(f"{url}/counter/sheep") as client:
                    assert await client.get_message() == '{"event":"value","data":{"value":0}}'
                    for direction, message in wire:
                        if direction == ">":
                            await client.send_message(message)
                        else:
                            assert await client.get_message() == message.replace(" ", "")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_the_readme_is_embedded(readme_folder: Path) -> None:
    """The README's program says what its room answered, and serves until a signal stops it in order."""
    program = readme_folder / "app.py"
    # Its port may be taken here.
    program.write_text(program.read_text().replace('DiskStore("data"))', 'DiskStore("data"), port=0)'))
    with subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=readme_folder,
        env=ENVIRONMENT,
        stdout=-1,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert first_line(process).startswith("2 sheep at ws://127.0.0.1:")
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            assert "stopped" in process.stderr.read()
            assert process.wait(20) == 0
        finally:
            process.kill()
    command = [sys.executable, "-m", "trio_rooms", "inspect", "data", "counter/sheep"]
    shown = subprocess.run(
        command, cwd=readme_folder, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    assert '{"value": 2}' in shown.stdout


def test_other_processes_send_as_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    require: Callable[..., str],
) -> None:
    """The commands, curl's lines and httpx's program of the page do with the example what the page says."""
    require("curl")
    pytest.importorskip("httpx")
    text = HTTP.read_text().replace("\\\n", "")
    lines = re.findall(r"^    (umask .*|trio-rooms .*|curl .*)$", text, re.MULTILINE)
    make, serve, pay, ask, *send = lines
    (program,) = code_of(HTTP)
    monkeypatch.chdir(tmp_path)
    for file in ("presence.py", "presence.html"):
        Path(file).write_bytes((ROOT / "examples" / file).read_bytes())
    subprocess.run(["sh", "-c", make.replace("python ", f"{sys.executable} ")], check=True)
    arguments = [sys.executable, "-m", "trio_rooms", *serve.split()[1:], "--port", "0"]
    with subprocess.Popen(
        arguments, env=ENVIRONMENT, stdout=-1, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            port = first_line(process).rpartition(":")[2].strip()

            def answer(line: str) -> Any:
                shell = ["sh", "-c", line.replace("8000", port)]
                return json.loads(subprocess.run(shell, check=True, capture_output=True).stdout)

            sent = {"active": 0, "parked": 0, "queued": 0, "stored": 0, "dropped": 0}
            assert answer(pay) == sent | {"stored": 1}
            assert answer(ask) == {"user": "ana", "connections": 0, "rooms": [], "waiting": 1}
            exec(compile(program.replace("8000", port), HTTP.name, "exec", dont_inherit=True), {})  # noqa: S102
            assert capsys.readouterr().out == f"{sent}\n"
            for line, stored in zip(send, (1, 0), strict=True):
                assert main(shlex.split(line.replace("8000", port))[1:]) == 0
                assert json.loads(capsys.readouterr().out) == sent | {"stored": stored}
        finally:
            process.kill()


def test_the_drawing_is_that_of_the_table() -> None:
    """The life of a room is drawn as the table has it."""
    text = section_of(ARCHITECTURE, "One awake room")
    drawings = re.findall(r"```mermaid\n(.*?)\n```", text, re.DOTALL)
    assert drawings == [trio_rooms._room.lifecycle.diagram()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link leads to a file of the project, and to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors_of(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    """Every script, example and test that is named is there."""
    named = re.findall(r"\b((?:examples|tests|benchmarks|scripts|docs|src)/[\w./-]*\w)", page.read_text())
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_guarantee_is_shown() -> None:
    """Each fault that the page tells of has tests, and each test that it names is there."""
    page = ROOT / "docs" / "guarantees.md"
    faults = section_of(page, "Faults")
    for line in re.findall(r"^\| \[.*$", faults, re.MULTILINE):
        (anchor,) = re.findall(r"\]\(#([\w-]+)\)", line)
        assert anchor in anchors_of(page)
    for title, text in re.findall(r"^### (.*)\n((?:(?!###).*\n)*)", faults + "\n", re.MULTILINE):
        assert "::test_" in text, title
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text())
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"^(?:async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), test


def test_the_packages_are_those_of_the_code() -> None:
    """The table of the packages and the drawing of their imports are what the script prints."""
    command = [sys.executable, "scripts/packages.py"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    _, _, shown = section_of(ARCHITECTURE, "The packages").strip().partition("\n\n")
    assert shown == printed.strip()


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("serve", "serving.md"),
        ("inspect", "serving.md"),
        ("send", "http.md"),
        ("why", "serving.md"),
        ("report", "serving.md"),
    ],
)
def test_options_are_those_of_the_help(command: str, page: str) -> None:
    """The tables of the commands' options have all that --help has, and nothing else."""
    arguments = [sys.executable, "-m", "trio_rooms", command, "--help"]
    shown = subprocess.run(arguments, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
    text = section_of(ROOT / "docs" / page, f"`trio-rooms {command}`")
    told = set(re.findall(r"^\| `(--[\w-]+)", text, re.MULTILINE))
    assert told == set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown, re.MULTILINE)) - {"--help"}


def test_options_of_a_room_are_told() -> None:
    """The reference has every option of a room, with its default."""
    text = section_of(ROOT / "docs" / "rooms.md", "Options")
    told = dict(re.findall(r"^\| `(\w+)` \| (?:(\S+) )?\|", text, re.MULTILINE))
    parameters = list(inspect.signature(Room).parameters.values())
    wanted = {p.name: "" if p.default is p.empty else f"`{p.default}`" for p in parameters}
    wanted = {name: value.replace("`inf`", "`math.inf`") for name, value in wanted.items()}
    assert told == wanted


def test_fields_of_a_policy_are_told() -> None:
    """The chapter has every field of a policy, in order and with its default."""
    text = section_of(ROOT / "docs" / "policy.md", "What a policy has")
    told = re.findall(r"^\| `(\w+)` \| `(\S+)` \|", text, re.MULTILINE)
    assert told == [(field.name, str(field.default)) for field in attrs.fields(Policy)]


def test_hooks_of_a_room_are_told() -> None:
    """The reference has every hook, with what it is called with."""
    text = section_of(ROOT / "docs" / "rooms.md", "Hooks")
    told = set(re.findall(r"^\| `(\w+\([\w, ]+\))` \|", text, re.MULTILINE))
    assert told == {f"{name}({', '.join(arguments)})" for name, arguments in HOOKS.items()}
