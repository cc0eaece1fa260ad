"""Random lives of nodes that share an engine; the rules are in `tests.node_life`."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

from tests.node_life import Step, live, lives

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation of which lines matter, which takes longer than the lives."""


@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(lives)
def test_a_random_life_of_nodes_keeps_the_rules(life: list[Step]) -> None:
    """Whatever happens to the nodes, the engine, the wires and the clients, in any order."""
    live(life)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=20_000, deadline=None, phases=PHASES)
@given(lives)
def test_many_random_lives_of_nodes_keep_the_rules(life: list[Step]) -> None:
    """The same, for the better part of an hour."""
    live(life)
