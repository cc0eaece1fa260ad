"""Random lives of a committed room and its sessions; the rules are in `tests.gate_model`."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

from tests.gate_faults import FAULTS, stories_that_find
from tests.gate_life import Step, live, lives
from tests.gate_stories import STORIES

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation of which lines matter, which takes longer than the lives."""


@pytest.mark.parametrize("story", STORIES)
def test_a_story_keeps_the_rules(story: str) -> None:
    """What is hard, one by one."""
    live(STORIES[story])


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(lives)
def test_a_random_life_keeps_the_rules(life: list[Step]) -> None:
    """Whatever happens to the room, its store, its process and its clients, in any order."""
    live(life)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=5000, deadline=None, phases=PHASES)
@given(lives)
def test_many_random_lives_keep_the_rules(life: list[Step]) -> None:
    """The same, for minutes."""
    live(life)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_story_finds_each_fault(fault: str) -> None:
    """Of those that are put into the code on purpose."""
    assert next(stories_that_find(fault), None)
