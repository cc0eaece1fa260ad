"""The life of a room, as data: its stages and what leads from one to the next.

Nothing here does anything. The actor and the supervisor obey this table, tests drive it,
and the drawing in the documentation is made from it (``python -m trio_rooms._room.lifecycle``).
"""

from __future__ import annotations

import enum
import sys
from types import MappingProxyType
from typing import Final

__all__ = ["TRANSITIONS", "ImpossibleTransition", "Stage", "Step", "diagram", "next_stage"]


class Stage(enum.Enum):
    """Where a room is in its life."""

    ASLEEP = "asleep"
    """Nothing in memory but the records of its sockets."""
    WAKING = "waking"
    """Its snapshot is being loaded and its hooks run; mail waits."""
    AWAKE = "awake"
    """It handles its mail, one message at a time."""
    HIBERNATING = "hibernating"
    """Its snapshot is being committed; mail waits."""
    RESTARTING = "restarting"
    """It crashed, or went back to what the store has, and waits for its next try; mail waits."""
    FAILED = "failed"
    """It crashed too often; mail is refused until it has cooled down."""


class Step(enum.Enum):
    """What can happen to a room."""

    MAIL = "mail arrives"
    LOADED = "loaded"
    UNLOADABLE = "cannot be loaded"
    QUIET = "quiet long enough"
    COMMITTED = "committed, mailbox empty"
    INTERRUPTED = "mail came, or the commit failed"
    CRASHED = "crashed"
    ROLLED_BACK = "a commit failed that others wait for"
    RETRIED = "backoff is over"
    GIVEN_UP = "crashed too often"
    DESTROYED = "destroyed"
    FORSAKEN = "somebody else has it"
    COOLED = "cooled down"


TRANSITIONS: Final = MappingProxyType(
    {
        (Stage.ASLEEP, Step.MAIL): Stage.WAKING,
        (Stage.WAKING, Step.LOADED): Stage.AWAKE,
        (Stage.WAKING, Step.UNLOADABLE): Stage.ASLEEP,
        (Stage.WAKING, Step.CRASHED): Stage.RESTARTING,
        (Stage.WAKING, Step.ROLLED_BACK): Stage.RESTARTING,
        (Stage.AWAKE, Step.QUIET): Stage.HIBERNATING,
        (Stage.AWAKE, Step.CRASHED): Stage.RESTARTING,
        (Stage.AWAKE, Step.ROLLED_BACK): Stage.RESTARTING,
        (Stage.AWAKE, Step.DESTROYED): Stage.ASLEEP,
        (Stage.HIBERNATING, Step.COMMITTED): Stage.ASLEEP,
        (Stage.HIBERNATING, Step.INTERRUPTED): Stage.AWAKE,
        (Stage.HIBERNATING, Step.CRASHED): Stage.RESTARTING,
        (Stage.HIBERNATING, Step.ROLLED_BACK): Stage.RESTARTING,
        (Stage.RESTARTING, Step.RETRIED): Stage.WAKING,
        (Stage.RESTARTING, Step.GIVEN_UP): Stage.FAILED,
        (Stage.FAILED, Step.COOLED): Stage.ASLEEP,
        (Stage.WAKING, Step.FORSAKEN): Stage.ASLEEP,
        (Stage.AWAKE, Step.FORSAKEN): Stage.ASLEEP,
        (Stage.HIBERNATING, Step.FORSAKEN): Stage.ASLEEP,
        (Stage.RESTARTING, Step.FORSAKEN): Stage.ASLEEP,
    }
)


class ImpossibleTransition(AssertionError):
    """A step was taken that the table does not have: a defect of this library."""


def next_stage(stage: Stage, step: Step) -> Stage:
    """The stage that ``step`` leads to from ``stage``.

    Raises:
        ImpossibleTransition: the table has no such step.
    """
    try:
        return TRANSITIONS[stage, step]
    except KeyError:
        msg = f"a room that is {stage.value} cannot take the step {step.value!r}"
        raise ImpossibleTransition(msg) from None


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {Stage.ASLEEP.name}"]
    lines += [
        f"    {before.name} --> {after.name}: {step.value}" for (before, step), after in TRANSITIONS.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(f"{diagram()}\n")
