"""A server with users: the driver of ``benchmarks/servers/users.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.suite.opening import LoadError
from benchmarks.suite.processes import start

__all__ = ["Users"]

_PATIENCE: Final = 900
"""Seconds that anything may take."""


class Users:
    """A running server; gone when the block ends.

    Args:
        data: its data directory.
        flush_after: seconds for which messages of low priority wait.
    """

    def __init__(self, data: Path, flush_after: float = 60.0) -> None:
        self.process: Final = start(
            sys.executable, "-m", "benchmarks.servers.users", str(data), str(flush_after)
        )
        try:
            self.port: Final = int(self.process.line().rpartition(":")[2])
        except BaseException:
            self.process.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, LoadError):
                # What went wrong is more likely to be in its log than in what its clients saw.
                raise self.process.failure(f"had a client to which this happened: {error}") from error
        finally:
            self.process.end()

    def do(self, command: str) -> str:
        """Have it do something; returns what it answers."""
        self.process.write(command)
        return self.process.line(_PATIENCE)

    def wakes(self) -> int:
        """How often rooms have been woken."""
        return int(self.do("wakes"))
