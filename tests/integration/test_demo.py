"""The example with five thousand guests, with some of them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.integration.conftest import ROOT, TIMEOUT

DESCRIPTORS = 160


def few_descriptors() -> None:
    """Allow so few that not all guests can come, and even fewer at first."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, DESCRIPTORS))


def test_the_guests_come_are_hibernated_and_leave_with_the_server(tmp_path: Path) -> None:
    """As many as there are descriptors for; a browser is opened where one can be; Ctrl-C ends all."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{tmp_path / "opened"}\n')
    browser.chmod(0o755)
    options = ["--clients", "100", "--port", "0", "--dashboard", "--idle-timeout", "0.3"]
    started = subprocess.Popen(
        [sys.executable, "examples/demo.py", *options, "--connection-idle-timeout", "0.3"],
        cwd=ROOT,
        env={**os.environ, "DISPLAY": ":0", "BROWSER": f"{browser} %s"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=few_descriptors,  # noqa: PLW1509 (this process has one thread)
    )
    assert started.stdout is not None
    try:
        port = started.stdout.readline().removeprefix("listening on ws://127.0.0.1:").rstrip("\n")
        deadline = time.monotonic() + TIMEOUT
        life: Any = {}
        while not life or life["connections"]["hibernated"] < 40 or not life["rooms"]["asleep"]:
            assert time.monotonic() < deadline, life
            time.sleep(0.1)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=TIMEOUT) as answer:
                life = json.loads(answer.read())["hibernation"]
        assert life["connections"]["total"] <= DESCRIPTORS - 100
        assert life["wakes"]["message"] > 0
        os.killpg(started.pid, signal.SIGINT)  # As a terminal does, whose Ctrl-C reaches both.
        # To its end, which comes when both processes have ended: both have it.
        _, log = started.communicate(timeout=TIMEOUT)
    finally:
        started.kill()
        started.wait()
    assert started.returncode == 0, log
    assert "demo: 60 guests and not 100" in log
    assert "Traceback" not in log
    assert (tmp_path / "opened").read_text() == f"http://127.0.0.1:{port}/dashboard\n"
