"""Random lives of nodes that share an engine; the rules are in `tests.cluster.node_life`."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

from tests.cluster.node_faults import FAULTS, found_by_story
from tests.cluster.node_life import Step, live, lives
from tests.cluster.node_stories import STORIES

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation of which lines matter, which takes longer than the lives."""


@pytest.mark.parametrize("story", STORIES)
def test_a_story_of_nodes_keeps_the_rules(story: str) -> None:
    """What is hard, one by one."""
    live(STORIES[story], 0)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(lives)
def test_a_random_life_of_nodes_keeps_the_rules(life: list[Step]) -> None:
    """Whatever happens to the nodes, the engine, the wires and the clients, in any order."""
    live(life)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, deadline=None, phases=PHASES)
@given(lives)
def test_many_random_lives_of_nodes_keep_the_rules(life: list[Step]) -> None:
    """The same, for the better part of an hour."""
    live(life)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_story_finds_each_fault(fault: str) -> None:
    """Of those that are put into the nodes' code on purpose."""
    assert found_by_story(fault)
