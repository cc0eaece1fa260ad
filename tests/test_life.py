"""Random lives of the real runtime; the rules are in `tests.life_model`, the driver in `tests.life`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, example, given, settings

from tests.life import live, lives

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation of which lines matter, which takes longer than the lives."""

A, E = "noisy/a", "eager/a"
REST = ("sleep", 6.0)
APPLIED: list[tuple[Any, ...]] = [("ask", "calm/a", ()), REST, ("fail commits", 1, True)]
DOUBT: list[tuple[Any, ...]] = [("store takes", 0.2), ("fail commits", 2, False), ("fail commits", 1, True)]
EXIT: list[tuple[Any, ...]] = [("send", 0, ("exit",)), ("send", 0, ("flip",)), ("hibernate", A)]
Life = tuple[int | None, list[tuple[Any, ...]]]


@settings(max_examples=100, deadline=None, phases=PHASES)
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
# Somebody leaves a room that wakes for it; rooms end as they wake, and one behind the other; a client is
# slow to close, and was in a room that is no more; an exit, and what comes while its room is written.
@example((None, [("connect", E), ("connect", E), REST, ("drop", 0), REST]))
@example((None, [("ask", A, ()), REST, ("destroy in", "on_wake", 1), ("connect", A), ("ask", A, ("put",))]))
@example((None, [("destroy in", "on_create", 6), ("connect", A), ("ask", A, ()), ("destroy", A), REST]))
@example(
    (None, [("connect slow to close", A), ("send", 0, ("close",)), ("sleep", 3.0), ("destroy", A), REST])
)
@example((None, [("ask", A, ("pause", "destroy")), ("ask", A, ()), ("destroy", A), REST]))
@example((None, [("connect", A), ("send", 0, ("pause", "close")), ("send", 0, ()), REST]))
@example((None, [("hold loads",), ("fail loads", 6), ("connect", A), ("drop", 0), ("release",), REST, REST]))
@example((None, [("hold commits",), ("fail commits", 1, False), ("connect", A), ("close",), ("sleep", 40.0)]))
@example(
    (
        None,
        [
            ("connect", A),
            *DOUBT,
            ("send", 0, ("task untidy",)),
            ("sleep", 2.0),
            ("kill",),
            ("send", 0, ("exit",)),
        ],
    )
)
@example((None, [("ask", A, ("put", "exit")), ("connect", A), ("ask", A, ())]))
@example((None, [*[("connect", A)] * 3, ("send", 0, ("flip",)), ("sleep", 0.05), *EXIT]))
@example(
    (
        None,
        [
            ("destroy in", "on_create", 1),
            ("connect", A),
            ("send", 0, ("destroy",)),
            ("ask", A, ()),
            ("destroy", A),
        ],
    )
)
@example((None, [("ask", A, ("task untidy",)), ("hibernate", A), ("fail commits", 6, False), REST]))
@example((None, [("ask", A, ("task untidy", "keep the context")), REST, ("use a kept context", 0), REST]))
@example(
    (None, [("ask", A, ("task untidy", "keep the context")), ("sleep", 2.3), ("use a kept context", 0), REST])
)
def test_a_random_life_keeps_the_rules(life: Life) -> None:
    """Whatever happens to rooms and clients, in any order."""
    live(*life)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=8000, deadline=None, phases=PHASES)
@given(lives)
def test_many_random_lives_keep_the_rules(life: Life) -> None:
    """The same, for minutes."""
    live(*life)
