"""A server of ours that does what is written to its standard input, for as long as a block lasts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.suite.opening import LoadError
from benchmarks.suite.processes import start

__all__ = ["Driven"]


class Driven:
    """A running server; gone when the block ends.

    Args:
        module: the program.
        data: its data directory.
        options: what it is given besides the directory.
    """

    def __init__(self, module: str, data: Path, *options: str) -> None:
        self.process: Final = start(sys.executable, "-m", module, str(data), *options)
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
