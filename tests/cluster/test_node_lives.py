"""Random lives of nodes that are killed, cut off and not heard: nothing said is lost, or comes twice."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.cluster.node_faults import FAULTS, search
from tests.cluster.node_life import Step, happenings, live


@settings(max_examples=1)
@given(happenings, st.integers(0, 1 << 30))
def test_lives_of_nodes(steps: list[Step], seed: int) -> None:
    """Whatever becomes of nodes, engine and what they say to each other."""
    trio.run(live, steps, seed, clock=MockClock(autojump_threshold=0))


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=2000)
@given(happenings, st.integers(0, 1 << 30))
def test_many_lives_of_nodes(steps: list[Step], seed: int) -> None:
    """The same, for long."""
    trio.run(live, steps, seed, clock=MockClock(autojump_threshold=0))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_lives_find_each_fault(fault: str) -> None:
    """What is put into the code on purpose is found by one of them."""
    assert search(fault)
