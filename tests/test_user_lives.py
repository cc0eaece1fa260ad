"""Random lives of users and of what is sent to them; the rules are in `tests.user_model`."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

from tests.user_life import Step, live, lives

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation of which lines matter, which takes longer than the lives."""


@settings(max_examples=60, deadline=None, database=None, derandomize=True, phases=PHASES)
@given(lives)
def test_a_random_life_keeps_the_rules(life: list[Step]) -> None:
    """Each message is delivered, waiting, expired or reported as dropped: one of them, whatever happens."""
    live(life)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=5000, deadline=None, phases=PHASES)
@given(lives)
def test_many_random_lives_keep_the_rules(life: list[Step]) -> None:
    """The same, for minutes."""
    live(life)
