"""What the command line refuses, and how it says so. What it does is in integration/test_serve.py."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import trio_rooms
from trio_rooms._cli.main import main

ROOMS = """
from trio_rooms import Room
a = Room("a")
b = [a, Room("b")]
number = 3
nothing = []
mixed = (a, "b")
twice = [a, a]
"""


@attrs.frozen
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line of its complaint."""
        lines = [line for line in self.err.splitlines() if line.startswith("trio-rooms")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


Run = Callable[..., Done]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """``run("serve", "rooms:a")``: the command line, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, module in [*sys.modules.items()]:
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "rooms.py").write_text(ROOMS)

    def run(*arguments: str | Path) -> Done:
        before = {*sys.modules}
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
        for name in {*sys.modules} - before:
            del sys.modules[name]
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that is in use, so that nothing that ought to be refused is served."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def test_version(run: Run) -> None:
    """``--version`` tells the version."""
    done = run("--version")
    assert (done.status, done.out) == (0, f"trio-rooms {trio_rooms.__version__}\n")


def test_module() -> None:
    """``python -m trio_rooms`` is the command."""
    command = [sys.executable, "-m", "trio_rooms", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"trio-rooms {trio_rooms.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["serve", "--help"], ["send", "--help"], ["inspect", "--help"], ["why", "--help"]],
)
def test_help(run: Run, arguments: list[str]) -> None:
    """``--help`` says how it is called."""
    done = run(*arguments)
    assert done.status == 0
    assert done.out.startswith("usage: trio-rooms")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("nowhere", ["no module 'nowhere'", "nowhere.py"]),
        ("nowhere.deep:room", ["no module 'nowhere.deep'", "there is no 'nowhere'"]),
        ("nowhere.py", ["nowhere.py does not exist"]),
        ("./rooms", ["did you mean rooms.py?"]),
        ("./:a", ["is a folder"]),
        ("not-a-name:a", ["neither a module", ".py file"]),
        ("rooms", ["rooms has no 'room'", "rooms:a, rooms:b"]),
        ("rooms.py", ["rooms.py has no 'room'", "rooms.py:a, rooms.py:b"]),
        ("rooms:c", ["rooms has no 'c'", "rooms:a, rooms:b"]),
        ("rooms:", ["rooms:room"]),
        ("rooms:number", ["of type int", "rooms:a"]),
        ("rooms:nothing", ["an empty list"]),
        ("rooms:mixed", ["a tuple with a str in it"]),
        ("empty", ["no rooms in it", "Room("]),
    ],
)
def test_no_such_rooms(run: Run, tmp_path: Path, target: str, told: list[str]) -> None:
    """What is not there is a usage error, which says what is there instead."""
    (tmp_path / "empty.py").touch()
    done = run("serve", target)
    assert done.status == 2
    for part in told:
        assert part in done.line


@pytest.mark.parametrize(
    "target",
    ["rooms:a", "rooms:b", "rooms.py:b", "a folder/my rooms.py:a", "a folder/my rooms.py", "p.rooms:b"],
)
def test_targets(run: Run, tmp_path: Path, taken: str, target: str) -> None:
    """A module, a file also with spaces, a room or a list of them, with or without a name: all are found."""
    for folder in ("a folder", "p"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a folder" / "beside.py").write_text(ROOMS)
    (tmp_path / "a folder" / "my rooms.py").write_text("from beside import *\nroom = a\n")
    (tmp_path / "p" / "rooms.py").write_text(ROOMS)
    done = run("serve", target, "--port", taken)
    assert done.status == 1
    assert f"port {taken} of 127.0.0.1 is in use" in done.line


def test_file_named_like_a_module(run: Run, tmp_path: Path, taken: str) -> None:
    """A file may be named like a module that Python needs; it takes nobody's place."""
    (tmp_path / "json.py").write_text(
        'import json\njson.dumps\nfrom trio_rooms import Room\nroom = Room("x")\n'
    )
    kept = sys.modules["json"]
    assert "in use" in run("serve", tmp_path / "json.py", "--port", taken).line
    assert sys.modules["json"] is kept


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_module_that_raises(run: Run, tmp_path: Path, content: str, told: str) -> None:
    """A module that cannot be imported: its own lines are shown, ours are not."""
    (tmp_path / "broken.py").write_text(content)
    for target in ("broken", "broken.py"):
        done = run("serve", target)
        assert done.status == 1
        assert f"trio-rooms: {target} cannot be imported: {told}" in done.err
        assert 'broken.py", line 1' in done.err
        assert "cli.py" not in done.err
        assert "importlib" not in done.err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('@room.on("x")\ndef f(ctx): yield', "rooms2.py, line 3: room a: the handler of 'x' has a yield"),
        ('@room.on("x")\nasync def f(ctx, a, b, c): ...', "room a: the handler of 'x' takes (ctx, a, b, c)"),
        ("room = [room, room]", "two rooms are named 'a'"),
    ],
)
def test_bad_definition(run: Run, tmp_path: Path, content: str, told: str) -> None:
    """A room that cannot work is one line that says where, if that can be known, and what to write."""
    (tmp_path / "rooms2.py").write_text(f'from trio_rooms import Room\nroom = Room("a")\n{content}\n')
    done = run("serve", "rooms2")
    assert done.status == 1
    assert told in done.line


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--port", value) for value in ("-1", "65536", "http", "", "8000.0", "1e3", "\u0663")),
        *(("--idle-timeout", value) for value in ("-1", "nan", "soon", "")),
        *(("--snapshot-interval", value) for value in ("-0.1", "nan", "1s")),
        *((f"--{name}", "-1") for name in ("connection-idle-timeout", "flush-after")),
        ("--admin-token-file", ""),
        *(("--max-awake", value) for value in ("0", "-1", "1.5", "inf")),
        *(("--max-message-size", value) for value in ("0", "-1", "1MB")),
        *(("--memory-limit", value) for value in ("80", "0.8", "120%", "0%", "140XB", "999KB", "")),
        ("--host", ""),
        ("--data", ""),
        ("--dat", "x"),
    ],
)
def test_bad_options(run: Run, option: str, value: str) -> None:
    """An option with a value that it cannot have is a usage error that names it."""
    done = run("serve", "rooms:a", f"{option}={value}")
    assert done.status == 2
    assert option in done.line


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("192.0.2.1", "this machine has no address 192.0.2.1"),
        ("no-such-host.invalid", "no address of that name"),
    ],
)
def test_bad_host(run: Run, host: str, told: str) -> None:
    """A host on which it cannot listen is named, with what to do."""
    done = run("serve", "rooms:a", "--host", host, "--port", "0")
    assert done.status == 1
    assert told in done.line
    assert "give another host" in done.line


def test_data_is_a_file(run: Run) -> None:
    """A data folder that is none is one clear line."""
    done = run("serve", "rooms:a", "--data", "rooms.py", "--port", "0")
    assert done.status == 1
    assert "check that it is a directory" in done.line


def test_overrides(run: Run, tmp_path: Path, taken: str) -> None:
    """``--idle-timeout`` and ``--snapshot-interval`` replace what each definition says."""
    (tmp_path / "told.py").write_text(
        "import atexit\nfrom trio_rooms import Room\n"
        'room = [Room("a", idle_timeout=5), Room("b", snapshot_interval=7)]\n'
    )
    seen = []
    original = trio_rooms.Room.configure

    def spy(self: trio_rooms.Room[None], **settings: Any) -> None:
        original(self, **settings)
        seen.append((self.idle_timeout, self.snapshot_interval))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio_rooms.Room, "configure", spy)
        run("serve", "told", "--port", taken, "--idle-timeout", "inf")
        run("serve", "told", "--port", taken, "--snapshot-interval", "0")
    assert seen == [(float("inf"), 1.0), (float("inf"), 7.0), (5.0, 0.0), (None, 0.0)]


def test_override_after_serving() -> None:
    """A definition that was served keeps its settings, and so does one that was told nonsense."""
    room: trio_rooms.Room[None] = trio_rooms.Room("x")
    with pytest.raises(trio_rooms.DefinitionError):
        room.configure(idle_timeout=-1)
    with pytest.raises(trio_rooms.DefinitionError):
        room.configure(snapshot_interval=float("nan"))
    room.seal()
    with pytest.raises(trio_rooms.DefinitionError):
        room.configure(idle_timeout=1)
    assert (room.idle_timeout, room.snapshot_interval) == (None, 1.0)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["d", "nokey"],
        ["d", "/x"],
        ["d", "chat/"],
        ["d", "chat/a\nb"],
        ["d", "--export", "f"],
        ["d", "chat/a", "--replace"],
        ["d", "chat/a", "--export", "f", "--import", "f"],
    ],
)
def test_inspect_used_wrongly(run: Run, arguments: list[str]) -> None:
    """What inspect cannot do is a usage error."""
    done = run("inspect", *arguments)
    assert done.status == 2
    assert done.line.startswith("trio-rooms inspect: ")
