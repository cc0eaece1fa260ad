"""A program that is `trio_rooms.run`, as whoever starts and stops it sees it."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.exceptions
from websockets.sync.client import connect

import trio_rooms
from tests.integration.conftest import ROOT, TIMEOUT

PROGRAM = """
import sys
import trio
import trio_rooms
from trio_rooms import Context, DiskStore, Room

room = Room("count", state=dict, snapshot_interval=3600)

@room.on("add")
async def add(ctx, data: int) -> int:
    ctx.state["n"] = ctx.state.get("n", 0) + data
    return ctx.state["n"]

@room.on("hang")
async def hang(ctx) -> None:
    print("hangs", flush=True)
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

async def main(rooms):
    print(rooms.addresses[0].port, flush=True)
    {main}

trio_rooms.run([room], main, store=DiskStore("data"), port=0, stop_timeout=0.2, close_timeout=0.2)
print("after", flush=True)
"""
FOR_EVER = """
    count = rooms.get("count", "mine")
    try:
        while True:
            await count.ask("add", 1)
            await trio.sleep(0)
    finally:
        with trio.CancelScope(shield=True):
            print("mine", await count.ask("add", 0), flush=True)
"""

Start = Callable[[str], "Program"]


class Program:
    """A program that runs, or has run."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        self.port = int(self.line())

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(TIMEOUT, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        return line.rstrip("\n")

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    @property
    def url(self) -> str:
        """Where a room of it is."""
        return f"ws://127.0.0.1:{self.port}/count/x"

    def add(self, amount: int) -> int:
        """Have a client add something; what it is told is the value then."""
        with connect(self.url) as client:
            client.send(json.dumps({"event": "add", "data": amount, "id": 1}))
            return int(json.loads(client.recv(TIMEOUT))["data"])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(body of main)`` starts a program, which keeps its rooms in one folder."""
    started: list[subprocess.Popen[str]] = []

    def start(main: str) -> Program:
        log = tmp_path / f"{len(started)}.log"
        (tmp_path / "program.py").write_text(PROGRAM.replace("    {main}", main))
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "program.py"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        started.append(process)
        return Program(process, log)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1012), (signal.SIGINT, 1001)])
def test_what_was_acknowledged_before_a_signal_is_saved(start: Start, number: int, code: int) -> None:
    """To clients, and to the program's own task, which rooms answer to its end; then `run` returns."""
    program = start(FOR_EVER)
    assert program.add(7) == 7
    with connect(program.url) as client:
        program.process.send_signal(number)
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            client.recv(TIMEOUT)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code
    _, mine = program.line().split()
    assert int(mine) > 0
    assert program.line() == "after"
    assert program.process.wait(TIMEOUT) == 0
    again = start("    print(await rooms.get('count', 'mine').ask('add', 0), flush=True)")
    assert again.line() == mine
    assert again.add(1) == 8


def test_main_may_return_and_the_rooms_are_served_on(start: Start) -> None:
    """What it does is done when clients can connect; logging goes to standard error, with the addresses."""
    program = start("    print(await rooms.get('count', 'x').ask('add', 3), flush=True)")
    assert program.line() == "3"
    assert program.add(1) == 4
    program.process.terminate()
    assert program.line() == "after"
    assert program.process.wait(TIMEOUT) == 0
    assert f"room count is at ws://127.0.0.1:{program.port}/count/ID" in program.log
    assert "SIGTERM: saving rooms" in program.log


def test_what_main_raises_ends_the_program_in_order(start: Start) -> None:
    """What it asked for before is saved, and the traceback is that of the program itself."""
    program = start("    await rooms.get('count', 'x').ask('add', 3)\n    raise KeyError('mine')")
    assert program.process.wait(TIMEOUT) == 1
    assert program.line() == ""
    assert "KeyError: 'mine'" in program.log
    assert "ExceptionGroup" not in program.log
    assert start("    pass").add(1) == 4


def test_a_program_may_close_its_rooms_itself(start: Start) -> None:
    """`run` returns when it has, and when `main` has ended."""
    program = start(
        "    await rooms.aclose(4000)\n    await trio.sleep(0.01)\n    print('closed', flush=True)"
    )
    assert [program.line(), program.line()] == ["closed", "after"]
    assert program.process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("what", ["count/x", "main"])
def test_what_refuses_to_end_ends_with_the_process(start: Start, what: str) -> None:
    """Everything else was stopped in order before, and what was acknowledged is saved; the status tells."""
    if what == "main":
        program = start("    with trio.CancelScope(shield=True):\n        await trio.sleep_forever()")
    else:
        program = start("    await rooms.get('count', 'x').ask('hang', timeout=3600)")
        assert program.line() == "hangs"
    with connect(f"ws://127.0.0.1:{program.port}/count/y") as client:
        client.send(json.dumps({"event": "add", "data": 5, "id": 1}))
        assert json.loads(client.recv(TIMEOUT))["data"] == 5
        program.process.terminate()
        assert program.process.wait(TIMEOUT) == 1
    assert f"does not end: {what}" in program.log
    assert start("    print(await rooms.get('count', 'y').ask('add', 0), flush=True)").line() == "5"


def test_a_second_signal_ends_the_process_at_once(start: Start) -> None:
    """Also one that cannot come to its end."""
    program = start("    import time\n    print('busy', flush=True)\n    time.sleep(3600)")
    assert program.line() == "busy"
    program.process.send_signal(signal.SIGINT)
    while program.process.poll() is None:
        program.process.send_signal(signal.SIGINT)
    assert program.process.wait(TIMEOUT) == -signal.SIGINT


def test_run_has_every_option_of_what_it_calls() -> None:
    """With the same defaults, but for the garbage collector, which runs as under the command."""
    run = inspect.signature(trio_rooms.run).parameters
    for function in (trio_rooms.open_rooms, trio_rooms.Rooms.serve):
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in {"self", "task_status", "rooms", "host", "port", "gc_thresholds"}:
                assert run[name].default == parameter.default, name
    defaults: dict[str, Any] = {name: run[name].default for name in ("host", "port", "gc_thresholds")}
    assert defaults == {"host": "127.0.0.1", "port": 8000, "gc_thresholds": (3000, 5, 1_000_000)}
