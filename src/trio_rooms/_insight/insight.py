"""All that is told of open rooms, in one place for the pages, the program and the command."""

from __future__ import annotations

from trio_rooms._runtime.runtime import Runtime

__all__ = ["Insight"]


class Insight:
    """Reads what a runtime has and does.

    Args:
        runtime: open rooms.
    """

    __slots__ = ("runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self.runtime: Runtime = runtime
