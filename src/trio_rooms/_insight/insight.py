"""All that is told of open rooms, in one place for the pages, the program and the command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from trio_rooms._definition.definition import Definition
from trio_rooms._room.reasons import WhyAwake
from trio_rooms._runtime.runtime import Runtime

from .advice import Adviser, Recommendation
from .costliest import Costliest, plain_reasons
from .metrics import RoomsMetrics, metrics_of
from .recording import Recordings
from .report import Report
from .sizes import Sizes

__all__ = ["Insight"]


class Insight:
    """Reads what a runtime has and does.

    Args:
        runtime: open rooms.
    """

    __slots__ = ("_adviser", "_costliest", "_sizes", "recordings", "runtime")

    def __init__(self, runtime: Runtime) -> None:
        self.runtime: Runtime = runtime
        self._adviser = Adviser(runtime)
        self._costliest = Costliest(runtime.supervisor)
        self._sizes = Sizes(runtime)
        self.recordings: Recordings = Recordings(runtime)
        """What clients send, for as long as somebody wants to know."""

    def metrics(self) -> RoomsMetrics:
        """What is counted and measured until now."""
        return metrics_of(self.runtime, self._sizes)

    def hibernation(self) -> dict[str, Any]:
        """The same, for JSON."""
        return attrs.asdict(self.metrics())

    def recommendations(self) -> tuple[Recommendation, ...]:
        """What to change, so that rooms and connections sleep better; see `Adviser`."""
        return self._adviser.recommendations()

    def why(self, why: WhyAwake) -> dict[str, Any]:
        """What keeps a room awake, for JSON."""
        return {"key": why.key, "stage": why.stage.value, "reasons": plain_reasons(why.reasons)}

    def advice_for_clients(self, *, insider: bool) -> list[dict[str, Any]]:
        """The same for pages, see `Adviser.for_clients`."""
        return self._adviser.for_clients(insider=insider)

    def costliest(self) -> list[dict[str, Any]]:
        """The awake rooms that cost most, and why they are awake; see `Costliest`."""
        return self._costliest.rooms()

    def report(self, definitions: Mapping[str, Definition]) -> dict[str, Any]:
        """What is promised of hibernation, beside what was measured; see `Report`.

        Args:
            definitions: the rooms that it tells of by name.
        """
        runtime = self.runtime
        store = type(runtime.store).__name__
        return Report(definitions, runtime.supervisor.policy, store, self.metrics()).content()
