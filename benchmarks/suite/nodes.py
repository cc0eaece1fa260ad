"""Several nodes of one cluster, and the engine that they share: real processes on this machine."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from benchmarks.suite.contestants import Contestant, Server, serving
from benchmarks.suite.processes import Process, ProcessFailed, start
from benchmarks.suite.valkey import valkey

__all__ = ["Shared", "nodes", "shared"]

_PATIENCE: Final = 10.0
"""Seconds in which the engine has to answer."""


@attrs.frozen
class Shared:
    """A server of Valkey that runs."""

    port: int
    process: Process

    @property
    def url(self) -> str:
        """Where nodes find it."""
        return f"valkey://127.0.0.1:{self.port}"

    @property
    def redis_url(self) -> str:
        """The same, as other programs call it."""
        return f"redis://127.0.0.1:{self.port}"

    def calls(self) -> int:
        """What it was asked for by nodes until now: functions, and messages to others."""
        told = self._info("commandstats")
        return sum(
            int(calls) for calls in re.findall(r"cmdstat_(?:fcall|fcall_ro|publish):calls=(\d+)", told)
        )

    def _info(self, section: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE) as client:
            client.sendall(f"INFO {section}\r\n".encode())
            answer = b""
            while b"\r\n" not in answer or len(answer) < answer.index(b"\r\n") + int(
                answer[1 : answer.index(b"\r\n")]
            ):
                part = client.recv(65536)
                if not part:
                    raise ProcessFailed("the engine does not tell what it has done")
                answer += part
        return answer.decode()


@contextlib.contextmanager
def shared(folder: Path, fsync: str = "always") -> Iterator[Shared]:
    """Start an engine on a free port, and end it with the block.

    Args:
        folder: where it keeps its file; empty.
        fsync: its ``appendfsync``.

    Raises:
        ProcessFailed: it does not start; or somebody else has its port.
    """
    found = valkey()
    if found.absent:
        raise ProcessFailed(f"there is no engine: {found.absent}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "yes",
        "appendfsync": fsync, "maxmemory-policy": "noeviction",
    }  # fmt: skip
    command = [str(found.path)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    with start(*command) as process:
        until = time.monotonic() + _PATIENCE
        while True:
            if process.ended() is not None:
                raise process.failure("ended")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > until:
                raise ProcessFailed("the engine does not answer")
            time.sleep(0.01)
        yield Shared(port, process)


@contextlib.contextmanager
def nodes(contestant: Contestant, engine: Shared, count: int) -> Iterator[list[Server]]:
    """Start several nodes, and end them with the block.

    Args:
        contestant: whose command is completed: ours with the options of a node, another with the URL.
        engine: what they share.
        count: how many.
    """
    with contextlib.ExitStack() as running:
        servers = []
        for number in range(count):
            options = (engine.redis_url,)
            if contestant.group == "ours":
                options = ("--engine", engine.url, "--node", f"n{number}")  # type: ignore[assignment]
            servers.append(running.enter_context(serving(contestant, *options)))
        yield servers
