"""All that is told of open rooms, in one place for the pages, the program and the command."""

from __future__ import annotations

from trio_rooms._runtime.runtime import Runtime

from .advice import Adviser, Recommendation

__all__ = ["Insight"]


class Insight:
    """Reads what a runtime has and does.

    Args:
        runtime: open rooms.
    """

    __slots__ = ("_adviser", "runtime")

    def __init__(self, runtime: Runtime) -> None:
        self.runtime: Runtime = runtime
        self._adviser = Adviser(runtime)

    def recommendations(self) -> tuple[Recommendation, ...]:
        """What to change, so that rooms and connections sleep better; see `Adviser`."""
        return self._adviser.recommendations()
