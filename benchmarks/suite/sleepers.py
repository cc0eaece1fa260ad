"""A server whose rooms sleep when they are told to: the driver of ``benchmarks/servers/sleepers.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.suite.driven import Driven

__all__ = ["Sleepers"]

_PATIENCE: Final = 300
"""Seconds that rooms may take to fall asleep."""


class Sleepers(Driven):
    """A running server; gone when the block ends.

    Args:
        data: its data directory.
        module: the program.
        options: what it is given besides the directory.
    """

    def __init__(self, data: Path, module: str = "benchmarks.servers.sleepers", *options: str) -> None:
        super().__init__(module, data, *options)

    def sleep(self, name: str, numbers: range) -> None:
        """Put rooms to sleep, all at once; returns when they are asleep.

        Raises:
            ProcessFailed: some of them are not.
        """
        self.process.write(f"sleep {name} {numbers.start} {numbers.stop}")
        slept = self.process.line(_PATIENCE)
        if slept != str(len(numbers)):
            raise self.process.failure(f"put {slept} rooms to sleep that were to be {len(numbers)}")

    def stops(self) -> tuple[float, float]:
        """Seconds for which its garbage collector stopped it since this was last asked: at most, in all."""
        self.process.write("stops")
        longest, together = self.process.line(_PATIENCE).split()
        return float(longest), float(together)
