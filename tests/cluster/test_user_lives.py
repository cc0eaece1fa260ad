"""Random lives of users at several nodes; the rules are in `tests.user_model`."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

from tests.cluster.user_life import Step, live, lives

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


@settings(max_examples=10, deadline=None, database=None, derandomize=True, phases=PHASES)
@given(lives)
def test_a_random_life_keeps_the_rules(life: list[Step]) -> None:
    """Each message is delivered, or waits, whatever the engine does."""
    live(life)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=3000, deadline=None, phases=PHASES)
@given(lives)
def test_many_random_lives_keep_the_rules(life: list[Step]) -> None:
    """The same, for minutes."""
    live(life)
