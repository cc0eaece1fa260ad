"""What would let rooms sleep better: rules, what was measured, and what a change would bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from trio_rooms._runtime.runtime import Runtime

__all__ = ["Adviser", "Recommendation"]


@attrs.frozen
class Recommendation:
    """Something to change, with what speaks for it."""

    rule: str
    """Which of the rules found it, such as ``"hibernation_ratio"``."""
    message: str
    """What to change, for people."""
    evidence: Mapping[str, Any]
    """What was measured, by name; plain values, as in JSON."""
    predicted: Mapping[str, Any]
    """What the change would bring, by name; empty where nothing is known of that."""


class Adviser:
    """Finds what to recommend.

    Args:
        runtime: open rooms.
    """

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def recommendations(self) -> tuple[Recommendation, ...]:
        """What to change, the most important first."""
        return ()
