"""Servers that start at once: forked from a process that has imported what they need, and does nothing else.

Half a second of imports for each of some hundred servers would be a sixth of all that the tests take. What is
forked has no threads, no event loop and no open files but its own, so it is as good as a new process.

Run as a program, this is that process. It is told by a socket what to start, and sends back its number.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NoReturn

__all__ = ["Forked", "Forks"]

_PR_SET_CHILD_SUBREAPER: Final = 36
_LONGEST: Final = 256 * 1024
"""Bytes of one request: arguments and an environment."""


class Forked:
    """A process that was forked for us; what of `subprocess.Popen` the tests of servers use."""

    def __init__(self, pid: int, stdout: TextIOWrapper) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, or minus the signal that it died of; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns what `poll` does then."""
        deadline, pause = time.monotonic() + (1e9 if timeout is None else timeout), 0.0005
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"the process {self.pid}", timeout or 0)
            time.sleep(pause)  # As subprocess.Popen does.
            pause = min(2 * pause, 0.05)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forks:
    """Starts the module ``trio_rooms`` with any arguments, by the process that has imported it.

    Args:
        environment: what Python itself reads of the environment of all that it starts.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        # What it forks is to become a child of ours as soon as its parent has ended.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no subreaper")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LONGEST)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, errors: int
    ) -> Forked:
        """Run ``python -m trio_rooms ARGUMENTS``.

        Args:
            arguments: those.
            environment: that of the process.
            folder: the current one.
            errors: the descriptor of its standard error.
        """
        wanted = {"arguments": arguments, "environment": dict(environment), "folder": str(folder)}
        reads, writes = os.pipe()
        socket.send_fds(self._socket, [json.dumps(wanted).encode()], [writes, errors])
        os.close(writes)
        pid = int(self._socket.recv(64))
        return Forked(pid, os.fdopen(reads))

    def close(self) -> None:
        """End the process; what it has started goes on."""
        self._socket.close()
        self._process.wait()


def _fork_on_request(requests: socket.socket) -> None:
    """Fork what is asked for, until nobody can ask any more."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, _LONGEST, 2)
        if not message:
            return
        reads, writes = os.pipe()
        between = os.fork()
        if not between:
            pid = os.fork()
            if not pid:
                for file in (requests.detach(), reads, writes):
                    os.close(file)
                _become(json.loads(message), *files)
            os.write(writes, b"%d" % pid)
            os._exit(0)
        os.waitpid(between, 0)  # From now on it is a child of who asked.
        requests.send(os.read(reads, 64))
        for file in (*files, reads, writes):
            os.close(file)


def _become(wanted: dict[str, Any], output: int, errors: int) -> NoReturn:
    """Be the program that is wanted."""
    status = 1
    try:
        for file, number in ((output, 1), (errors, 2)):
            os.dup2(file, number)
            os.close(file)
        os.chdir(wanted["folder"])
        os.environ.clear()
        os.environ.update(wanted["environment"])
        sys.argv = ["trio_rooms", *wanted["arguments"]]
        sys.path.insert(0, "")  # As for any module that is run.
        runpy.run_module("trio_rooms", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    importlib.import_module("trio_rooms._cli.main")
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        _fork_on_request(asked)
