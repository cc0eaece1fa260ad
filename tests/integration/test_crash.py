"""What a server that is killed, or whose disk is full, leaves behind and goes on with."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from benchmarks.suite.killed import kill_again_and_again
from tests.integration.conftest import ROOT, TIMEOUT, Running, Served
from tests.integration.soak_client import open_client
from tests.raw import CLOSE, TEXT, Client, frame

Serve = Callable[..., Served]
LONG = (pytest.mark.long, pytest.mark.timeout(600))
pytestmark = pytest.mark.timeout(120)
WINDOW = 8
"""Messages on their way at once, where a load does not pause."""


@attrs.frozen
class Saving:
    """How often a server saves, and what a kill may then cost."""

    interval: float
    """The ``--snapshot-interval`` in seconds."""
    age: float
    """Seconds before a kill: nothing older may be lost. More than the interval where other tests disturb."""

    @property
    def options(self) -> tuple[str, str]:
        """What the server is started with."""
        return "--snapshot-interval", str(self.interval)


DEFAULT = Saving(1.0, 1.0)
OFTEN = Saving(0.1, 0.5)
CROWD = Saving(0.25, 1.0)
"""For a hundred rooms and more: if each saved more often, they would do little else."""


@attrs.define(eq=False)
class Load:
    """The only client of one counter, so that it knows each value that the counter can have."""

    id: str
    value: int = 0
    """The last value that was asked for."""
    possible: set[int] = attrs.field(factory=lambda: {0})
    answers: list[tuple[float, int]] = attrs.field(factory=list)
    """When each value was seen, by the monotonic clock."""
    waiting: list[int] = attrs.field(factory=list)

    async def run(
        self,
        port: int,
        pauses: tuple[float, float] | None,
        start: trio.Event,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Add until the connection ends; without pauses, as fast as answers come."""
        client = await open_client(port, f"/counter/{self.id}")
        task_status.started()
        try:
            await start.wait()
            while True:
                for _ in range(WINDOW - len(self.waiting) if pauses is None else random.randint(1, 3)):
                    await self._add(client)
                await self._answer(client)
                if pauses is not None:
                    while self.waiting:
                        await self._answer(client)
                    await trio.sleep(random.uniform(*pauses))
        except (EOFError, trio.BrokenResourceError):
            pass
        finally:
            await trio.aclose_forcefully(client.stream)

    async def _add(self, client: Client) -> None:
        amount = random.randint(1, 9)
        self.value += amount
        # Before it is sent: it may be handled although sending it fails.
        self.possible.add(self.value)
        self.waiting.append(self.value)
        await client.send(_adding(amount))

    async def _answer(self, client: Client) -> None:
        value = await _answered(client)
        self.answers.append((time.monotonic(), value))
        assert value == self.waiting.pop(0), f"counter {self.id} says {value}"

    def check(self, value: int, killed: float, age: float) -> float:
        """Compare a value with what it was when the server was killed; returns how old what is lost was.

        Begins anew from this value.
        """
        assert value in self.possible, f"counter {self.id} never was {value}"
        settled = max((one for when, one in self.answers if when < killed - age), default=min(self.possible))
        lost = max((killed - when for when, one in self.answers if one > value), default=0.0)
        assert value >= settled, (
            f"counter {self.id} is {value}, {lost:.2f} s before the kill it was {settled}"
        )
        self.value, self.possible, self.answers, self.waiting = value, {value}, [], []
        return lost


def _adding(amount: int) -> bytes:
    return frame(TEXT, json.dumps({"event": "add", "data": {"amount": amount}, "id": 1}).encode())


async def _answered(client: Client) -> int:
    while True:
        try:
            opcode, payload = await client.frame()
        except ValueError:
            raise EOFError from None
        if opcode == CLOSE:
            raise EOFError
        message = json.loads(payload)
        if "ack" in message:
            return int(message["data"])


async def add(port: int, id: str, amount: int) -> int:  # noqa: A002
    """Add to a counter; returns what it is then."""
    client = await open_client(port, f"/counter/{id}")
    try:
        await client.send(_adding(amount))
        return await _answered(client)
    finally:
        await trio.aclose_forcefully(client.stream)


async def load(
    served: Served,
    loads: Iterable[Load],
    end: Callable[[], Any],
    saving: Saving,
    *,
    pauses: tuple[float, float] | None = None,
) -> float:
    """Put load on a server until it must have saved some of it, and end it; returns when that was."""
    start = trio.Event()
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as opening:
                for one in loads:
                    opening.start_soon(nursery.start, one.run, served.port, pauses, start)
            start.set()
            await trio.sleep(random.uniform(saving.age + 0.1, saving.age + 0.6))
            killed = time.monotonic()
            end()
            # The loads end with their connections.
        served.process.wait(TIMEOUT)
    return killed


async def check(served: Served, loads: Iterable[Load], killed: float, saving: Saving) -> float:
    """Check the value of every counter; returns the age of the oldest change that was lost, in seconds."""
    losses = []

    async def check_one(one: Load) -> None:
        losses.append(one.check(await add(served.port, one.id, 0), killed, saving.age))

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            for one in loads:
                nursery.start_soon(check_one, one)
    return max(losses)


ASLEEP = ("--idle-timeout", "0.05")
PAUSES = (0.03, 0.3)


@pytest.mark.parametrize(
    ("saving", "kills", "counters", "options", "pauses"),
    [
        pytest.param(OFTEN, 3, 8, (), None, id="busy"),
        pytest.param(CROWD, 2, 100, ASLEEP, PAUSES, id="falling asleep"),
        pytest.param(DEFAULT, 50, 8, (), None, id="busy for long", marks=LONG),
        pytest.param(DEFAULT, 10, 200, ASLEEP, PAUSES, id="falling asleep for long", marks=LONG),
    ],
)
async def test_kill(
    serve: Serve,
    tmp_path: Path,
    saving: Saving,
    kills: int,
    counters: int,
    options: tuple[str, ...],
    pauses: tuple[float, float] | None,
) -> None:
    """After each kill -9 a room has a value that it had, with everything older than the interval in it."""
    loads = [Load(str(number)) for number in range(counters)]
    command = ("examples/counter.py", "--data", tmp_path / "data", *saving.options, *options)
    served = serve(*command)
    answers, losses = 0, []
    for _ in range(kills):
        killed = await load(served, loads, served.process.kill, saving, pauses=pauses)
        answers += sum(len(one.answers) for one in loads)
        served = serve(*command)
        losses.append(await check(served, loads, killed, saving))
    print(f"{kills} kills, {answers} answers, lost at most the last {max(losses):.3f} s")
    assert answers > kills * counters
    assert served.stop() == 0


async def test_kill_at_start(serve: Serve, tmp_path: Path) -> None:
    """A server that is killed while it starts, with a crash to recover from, costs nothing more."""
    loads = [Load(str(number)) for number in range(8)]
    options = ("--data", tmp_path / "data", *OFTEN.options)
    began = time.monotonic()
    served = serve("examples/counter.py", *options)
    took = time.monotonic() - began
    killed = await load(served, loads, served.process.kill, OFTEN)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "trio_rooms",
        "serve",
        "examples/counter.py",
        "--port",
        "0",
        *options,
    ]
    for number in range(4):
        started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Its imports take most of the time; what touches the disk comes last.
        time.sleep(took * (0.6 + 0.1 * number))
        started.kill()
        started.wait(TIMEOUT)
    served = serve("examples/counter.py", *options)
    await check(served, loads, killed, OFTEN)


async def test_kill_while_it_stops(serve: Serve, tmp_path: Path) -> None:
    """A graceful stop that is cut short loses no more than a kill, and one that is not loses nothing."""
    loads = [Load(str(number)) for number in range(50)]
    ends = []
    options = ("--data", tmp_path / "data", *CROWD.options)
    served = serve("examples/counter.py", *options)
    for patience in (0, 0.02, TIMEOUT):

        def end(process: Running = served.process, patience: float = patience) -> None:
            process.terminate()
            if patience < TIMEOUT:
                time.sleep(patience)
                process.kill()

        killed = await load(served, loads, end, CROWD)
        ends.append(served.process.returncode)
        if ends[-1] == 0:
            # All of it is old enough: nothing may be lost.
            killed = time.monotonic() + CROWD.age
        served = serve("examples/counter.py", *options)
        await check(served, loads, killed, CROWD)
    print(ends)
    assert ends[0] == -signal.SIGKILL
    assert ends[-1] == 0


async def until(served: Served, text: str) -> None:
    """Wait for a line in a server's log."""
    with trio.fail_after(TIMEOUT):
        while text not in served.log.read_text():
            await trio.sleep(0.01)


def limit_files(served: Served, size: int) -> None:
    """Let no file of a server grow beyond a size: what a full disk looks like to it."""
    hard = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limits of another process are Linux's")
async def test_full_disk(serve: Serve, tmp_path: Path) -> None:
    """With a full disk rooms answer and say so in the log; with room again they save what they have."""
    served = serve("examples/counter.py", "--data", tmp_path / "data", "--snapshot-interval", "0.1")
    assert await add(served.port, "old", 1) == 1
    # What the log of the server still needs, and less than its database has already.
    size = served.log.stat().st_size + 16 * 1024
    assert sum(file.stat().st_size for file in (tmp_path / "data").iterdir()) > size
    limit_files(served, size)
    for number in range(20):
        assert await add(served.port, f"new{number}", 2) == 2
    assert await add(served.port, "old", 1) == 2
    # Each has failed once: a room that first saves when there is room again has nothing to tell.
    for name in ["old", *(f"new{number}" for number in range(20))]:
        await until(served, f"room counter/{name} stays awake, its state could not be saved: cannot write to")
    for _ in range(20):
        assert await add(served.port, "old", 0) == 2
    told = json.loads(served.get("/stats"))
    assert told["store"]["failures"] > 0
    assert told["supervisor"]["crashes"] == 0

    limit_files(served, resource.RLIM_INFINITY)
    await until(served, "room counter/old: its state is saved again")
    for number in range(20):
        await until(served, f"room counter/new{number}: its state is saved again")
    served.process.kill()
    served.process.wait(TIMEOUT)
    served = serve("examples/counter.py", "--data", tmp_path / "data")
    assert await add(served.port, "old", 0) == 2
    for number in range(20):
        assert await add(served.port, f"new{number}", 0) == 2


@pytest.mark.parametrize(
    ("kills", "clients"),
    [
        pytest.param(10, 20, id="some"),
        pytest.param(200, 20, id="two hundred", marks=LONG),
    ],
)
async def test_nothing_is_lost_to_clients_of_a_server_that_is_killed(
    tmp_path: Path, kills: int, clients: int
) -> None:
    """They add at once and by schedules: each amount counts once, and each balance is heard once."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    try:
        print(await kill_again_and_again(tmp_path, kills, seed, clients=clients))
    except BaseException:
        print((tmp_path / "log").read_text())
        raise
