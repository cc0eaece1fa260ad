from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trio_rooms._room.lifecycle import TRANSITIONS, ImpossibleTransition, Stage, Step, diagram, next_stage


def reachable(start: Stage) -> set[Stage]:
    """The stages that a room can come to."""
    found = {start}
    while True:
        more = {after for (before, _), after in TRANSITIONS.items() if before in found} - found
        if not more:
            return found
        found |= more


class Life(RuleBasedStateMachine):
    """One room that takes any steps, possible or not."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage.ASLEEP

    @rule(step=st.sampled_from(Step))
    def take(self, step: Step) -> None:
        """A step that the table has leads on; another one is impossible and changes nothing."""
        if (self.stage, step) in TRANSITIONS:
            self.stage = next_stage(self.stage, step)
        else:
            with pytest.raises(ImpossibleTransition, match=self.stage.value):
                next_stage(self.stage, step)

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """There is always a step that is possible."""
        steps = [step for before, step in TRANSITIONS if before is self.stage]
        self.stage = next_stage(self.stage, data.draw(st.sampled_from(steps)))

    @invariant()
    def it_can_sleep_again(self) -> None:
        """From wherever it is, a room can go to sleep."""
        assert Stage.ASLEEP in reachable(self.stage)

    @invariant()
    def it_can_be_awake_again(self) -> None:
        """From wherever it is, a room can be awake."""
        assert Stage.AWAKE in reachable(self.stage)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, deadline=None)


def test_every_stage_is_reached_and_left() -> None:
    """No stage is without a way to it, and none is a dead end."""
    assert reachable(Stage.ASLEEP) == set(Stage)
    assert {before for before, _ in TRANSITIONS} == set(Stage)


def test_every_step_is_used() -> None:
    """No step is named that no room takes."""
    assert {step for _, step in TRANSITIONS} == set(Step)


def test_a_room_is_handled_by_one_task_at_a_time() -> None:
    """A room is awake only by way of loading, and sleeps only by way of saving, a failure or its end."""
    assert {before for (before, _), after in TRANSITIONS.items() if after is Stage.AWAKE} == {
        Stage.WAKING,
        Stage.HIBERNATING,
    }
    asleep = {(before, step) for (before, step), after in TRANSITIONS.items() if after is Stage.ASLEEP}
    assert asleep == {
        (Stage.HIBERNATING, Step.COMMITTED),
        (Stage.WAKING, Step.UNLOADABLE),
        (Stage.AWAKE, Step.DESTROYED),
        (Stage.FAILED, Step.COOLED),
        *((stage, Step.FORSAKEN) for stage in Stage if stage not in (Stage.ASLEEP, Stage.FAILED)),
    }


def test_the_table_cannot_be_changed() -> None:
    """The table is data that nobody edits."""
    with pytest.raises(TypeError):
        TRANSITIONS[Stage.ASLEEP, Step.LOADED] = Stage.AWAKE  # type: ignore[index]


def test_the_diagram_is_the_table() -> None:
    """The drawing has each transition once, and nothing else."""
    lines = diagram().splitlines()
    drawn = [
        f"    {before.name} --> {after.name}: {step.value}" for (before, step), after in TRANSITIONS.items()
    ]
    assert lines == ["stateDiagram-v2", "    [*] --> ASLEEP", *drawn]
    assert len(set(lines)) == len(lines)


def test_the_diagram_is_printed() -> None:
    """``python -m trio_rooms._room.lifecycle`` prints the drawing for the documentation."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "trio_rooms._room.lifecycle"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{diagram()}\n"
