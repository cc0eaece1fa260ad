"""Random lives of users and of what is sent to them; the rules are in `tests.user_model`."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

from tests.user_life import Step, live, lives

PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without the explanation of which lines matter, which takes longer than the lives."""

NORMAL = ("normal", 86_400.0)
SHORT = ("sleep", 0.06)
STORIES: dict[str, list[Step]] = {
    "sent behind the gate to who is away": [("tell", "safe/a", "cid", *NORMAL, False, False)],
    "sent behind the gate, and killed": [
        ("tell", "safe/a", "ana", *NORMAL, False, False),
        SHORT,
        ("kill", True),
    ],
    "sent behind the gate, refused": [
        ("refuse", "commits", 1),
        ("tell", "safe/a", "ana", *NORMAL, False, False),
        ("tell", "safe/a", "ana", *NORMAL, False, True),
    ],
    "a session that has it outlives a kill": [
        ("come", 1),
        SHORT,
        ("send", 0, "ana", *NORMAL, False, ""),
        SHORT,
        ("kill", False),
        ("come", 0),
        SHORT,
    ],
    "what comes while an inbox is read": [
        ("send", 0, "ben", *NORMAL, False, ""),
        SHORT,
        ("hold reads",),
        ("come", 3),
        SHORT,
        ("send", 0, "ben", *NORMAL, True, ""),
        ("send", 0, "ben", *NORMAL, False, ""),
        SHORT,
        ("release",),
    ],
    "given back after a kill": [
        ("come", 1),
        SHORT,
        ("send", 0, "ana", *NORMAL, False, ""),
        SHORT,
        ("kill", False),
        ("sleep", 22.0),
        ("come", 0),
    ],
    "expired while it was in doubt": [
        ("doubt", "posts", 3, True),
        ("send", 0, "cid", "low", 0.5, False, ""),
        ("sleep", 6.0),
    ],
    "perhaps stored, and then no room for it": [
        ("doubt", "posts", 1, True),
        ("refuse", "posts", 2),
        ("send", 0, "ana", *NORMAL, False, ""),
        ("sleep", 1.2),
    ],
    "expired before its sender was answered": [
        ("come", 0),
        ("hold posts",),
        ("send", 0, "ana", *NORMAL, False, ""),
        ("send", 1, "ana", "high", 0.5, False, ""),
        ("sleep", 3.5),
    ],
    "a full inbox": [("flood", "cid", "normal"), ("flood", "cid", "high"), ("flood", "cid", "low")],
}
"""What chance seldom comes to."""


@pytest.mark.parametrize("story", STORIES)
def test_a_story_keeps_the_rules(story: str) -> None:
    """One by one."""
    live(STORIES[story])


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
