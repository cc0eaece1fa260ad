"""``trio-rooms serve`` as a process, for tests that talk to it from outside."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import attrs
import pytest
from selenium import webdriver

from tests.forked import Forked, Forks

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 30.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,700",
)


Running = subprocess.Popen[str] | Forked
"""A process that was started."""


@attrs.define(eq=False)
class Served:
    """A server that runs."""

    process: Running
    line: str
    """What it wrote to standard output first."""
    log: Path
    """What it writes to standard error."""

    @property
    def url(self) -> str:
        """Its address, as it said."""
        return self.line.removeprefix("listening on ").rstrip("\n")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str) -> bytes:
        """The answer to a plain HTTP request."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=TIMEOUT) as answer:
            content: bytes = answer.read()
            return content

    def wait_until(self, key: str, stage: str) -> None:
        """Wait until a room is in a stage of its life."""
        deadline = time.monotonic() + TIMEOUT
        told: Any = None
        while time.monotonic() < deadline:
            told = json.loads(self.get(f"/stats/{key}"))
            if told["stage"] == stage:
                return
            time.sleep(0.01)
        pytest.fail(f"{key} did not become {stage}: {told}\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """``serve("examples/echo.py", "--idle-timeout", "1")`` returns when it listens; on a free port."""
    with _servers(tmp_path) as serve:
        yield serve


@pytest.fixture(scope="module")
def serve_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """The same for servers that the tests of a module share, each with rooms of its own."""
    with _servers(tmp_path_factory.mktemp("servers")) as serve:
        yield serve


def start(arguments: list[str], errors: TextIO) -> Running:
    """Run ``python -m trio_rooms ARGUMENTS`` in the project's folder; standard error goes to a file."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    forks = _forks()
    if forks is not None:
        return forks.start(arguments, environment, ROOT, errors.fileno())
    return subprocess.Popen(
        [sys.executable, "-m", "trio_rooms", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


@functools.cache
def _forks() -> Forks | None:
    """What starts servers quickly, where that can be; it ends with this process."""
    if sys.platform != "linux" or any(name.startswith("COVERAGE_") for name in os.environ):
        return None  # Coverage begins where Python starts.
    forks = Forks({**os.environ, "PYTHONWARNINGS": "error"})
    atexit.register(forks.close)
    return forks


@contextmanager
def _servers(folder: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers, and ends those that still run; their logs are in a folder."""
    started: list[Running] = []

    def serve(target: str | Path, *options: str | Path) -> Served:
        log = folder / f"server-{len(started)}.log"
        port = [] if "--port" in options else ["--port", "0"]
        with log.open("w") as errors:
            process = start(["serve", str(target), *port, *map(str, options)], errors)
        started.append(process)
        assert process.stdout is not None
        watchdog = threading.Timer(TIMEOUT, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        if not line.startswith("listening on ws://"):
            pytest.fail(f"it said {line!r} and ended with {process.wait(TIMEOUT)}:\n{log.read_text()}")
        return Served(process, line, log)

    try:
        yield serve
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def browser(require: Callable[..., str], tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium without anything from earlier runs."""
    with chromium(require, tmp_path) as driver:
        yield driver


@contextmanager
def chromium(require: Callable[..., str], folder: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium whose profile is in a folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = require("chromium", "chromium-browser", "google-chrome", "chrome")
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(require("chromedriver"))
    driver = webdriver.Chrome(options, service)
    try:
        yield driver
    finally:
        driver.quit()
