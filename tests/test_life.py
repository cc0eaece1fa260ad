"""Random lives of the real runtime; the rules are in `tests.life_model`, the driver in `tests.life`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, example, given, settings

from tests.life import live, lives

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation of which lines matter, which takes longer than the lives."""

A = "noisy/a"
REST = ("sleep", 6.0)
APPLIED: list[tuple[Any, ...]] = [("ask", "calm/a", ()), REST, ("fail commits", 1, True)]
Life = tuple[int | None, list[tuple[Any, ...]]]


@settings(max_examples=400, deadline=None, phases=PHASES)
@given(lives)
# What chance seldom comes to: a kept room that is told to sleep, or pressed to; a channel that somebody left.
@example((None, [("ask", A, ("task keeps",)), ("ticks", 8), ("hibernate", A), ("sleep", 0.31)]))
@example((1, [("ask", A, ("task keeps",)), ("ticks", 8), ("ask", "calm/a", ()), ("sleep", 0.31)]))
@example((None, [("connect", A), ("send", 0, ("join red",)), ("connect", A), ("drop", 0), ("ask", A, ())]))
# A commit that happened and was said to have failed: one that is then undone, and a destroy.
@example(
    (None, [*APPLIED, ("ask", "calm/a", ("flip",)), ("sleep", 0.31), ("ask", "calm/a", ("flip",)), REST])
)
@example((None, [("ask", "calm/a", ("put",)), REST, ("fail commits", 1, True), ("destroy", "calm/a"), REST]))
def test_a_random_life_keeps_the_rules(life: Life) -> None:
    """Whatever happens to rooms and clients, in any order."""
    live(*life)


@pytest.mark.long
@settings(max_examples=8000, deadline=None, phases=PHASES)
@given(lives)
def test_many_random_lives_keep_the_rules(life: Life) -> None:
    """The same, for minutes."""
    live(*life)
