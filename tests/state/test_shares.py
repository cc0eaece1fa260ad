"""What of a state takes how much is estimated, with bounded work."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import attrs
import cbor2
import pytest

from trio_rooms._state.shares import largest_parts


@attrs.define
class Line:
    """A part of a state."""

    user: str
    text: str
    tags: list[str] = attrs.field(factory=list)


@attrs.define
class Chat:
    """A state."""

    title: str = "chat"
    log: Any = None
    users: dict[str, int] = attrs.field(factory=dict)


def plain(value: Any) -> Any:
    """What a value becomes in a snapshot."""
    return attrs.asdict(value) if attrs.has(type(value)) else value


@pytest.mark.parametrize(
    "log",
    [
        "x" * 10_000,
        b"x" * 10_000,
        [Line("ada", "Hello!" * number, ["a", "b"]) for number in range(1, 9)] * 100,
        {str(number): Line("ada", "Hello!") for number in range(1000)},
        [["x" * 10] * 10] * 100,
        deque(["x" * 10] * 1000),
    ],
)
def test_the_estimate_is_near_what_is_written(log: Any) -> None:
    """Within a third, where the elements are alike."""
    parts = largest_parts(Chat(log=log, users={"ada": 1}), 2)
    name, size = parts[0]
    assert name == "log"
    content = [*log] if isinstance(log, deque) else log
    if isinstance(content, list):
        content = [plain(one) for one in content]
    elif isinstance(content, dict):
        content = {key: plain(one) for key, one in content.items()}
    written = len(cbor2.dumps(content))
    assert written * 2 / 3 < size < written * 3 / 2
    assert len(parts) == 2


@pytest.mark.parametrize("state", [None, [], 5, "x" * 1000, [1, 2], {}])
def test_what_has_no_parts_has_none(state: Any) -> None:
    """Whatever it is."""
    assert largest_parts(state, 3) == ()


def test_it_takes_no_time_however_large_the_state_is() -> None:
    """Nor however deep, or wide: some are looked at."""
    deep: Any = []
    for _ in range(1000):
        deep = [deep] * 100
    began = time.perf_counter()
    assert largest_parts({f"x{number}" * 100: deep for number in range(1000)}, 3)
    assert len(largest_parts({"a": ["x"] * 10**6, "b": "x" * 10**6}, 1)) == 1
    assert time.perf_counter() - began < 1  # 20 ms, on a machine that has nothing else to do.
