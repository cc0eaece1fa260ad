from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from trio_rooms import Policy


def test_what_is_classic() -> None:
    """Five minutes, ten messages a minute, a thousand active connections, four of five hibernated."""
    classic = Policy.classic()
    assert (classic.idle_timeout, classic.activity_window, classic.message_threshold) == (300, 60, 10)
    assert (classic.max_active, classic.ratio, classic.sweep) == (1000, 0.8, 0.2)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        classic.ratio = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("idle_timeout", -1, "from 0 on"),
        ("idle_timeout", math.nan, "from 0 on"),
        ("message_threshold", 0, "from 1 on"),
        ("message_threshold", 1.5, "whole number"),
        ("ratio", 1.2, "share from 0 to 1"),
        ("ratio", 80, "share from 0 to 1"),
        ("sweep", -0.1, "from 0 on"),
        ("max_active", 0, "from 1 on"),
        ("max_awake", "many", "whole number"),
        ("memory_limit", 0, "share of the memory"),
        ("memory_limit", 1.5, "share of the memory"),
        ("memory_limit", math.inf, "share of the memory"),
        ("memory_target", 0.9, r"no more than memory_limit \(0.8\)"),
        ("memory_stall", 20, "share from 0 to 1"),
        ("max_lag", 0, "more than 0 seconds"),
        ("max_waking", 0, "from 1 on"),
    ],
)
def test_what_is_no_policy(name: str, value: Any, said: str) -> None:
    """The error names the field, and says what is allowed."""
    settings: dict[str, Any] = {name: value}
    with pytest.raises((TypeError, ValueError), match=f"{name} is .*{said}"):
        Policy(**settings)


def test_what_a_room_says_in_short() -> None:
    """A room of which nothing but its timeout is said sleeps after just so long, whatever came before."""
    policy = Policy(activity_window=30)
    assert policy.of_room(idle_timeout=5, connection_idle_timeout=None).activity_window == 5
    assert policy.of_room(idle_timeout=50, connection_idle_timeout=7) == attrs.evolve(
        policy, idle_timeout=50, connection_idle_timeout=7
    )
    assert policy.of_room(idle_timeout=None, connection_idle_timeout=None) is policy
