"""A server with users: the driver of ``benchmarks/servers/users.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.suite.driven import Driven

__all__ = ["Users"]

_PATIENCE: Final = 900
"""Seconds that anything may take."""


class Users(Driven):
    """A running server; gone when the block ends.

    Args:
        data: its data directory.
        flush_after: seconds for which messages of low priority wait.
    """

    def __init__(self, data: Path, flush_after: float = 60.0) -> None:
        super().__init__("benchmarks.servers.users", data, str(flush_after))

    def do(self, command: str) -> str:
        """Have it do something; returns what it answers."""
        self.process.write(command)
        return self.process.line(_PATIENCE)

    def wakes(self) -> int:
        """How often rooms have been woken."""
        return int(self.do("wakes"))
