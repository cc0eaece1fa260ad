"""What objects weigh: themselves and what hangs on them alone, with bounded work."""

from __future__ import annotations

import enum
import gc
import json
import tracemalloc
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from trio_rooms._insight.weight import Scales
from trio_rooms._loop.deadlines import Deadlines


@attrs.define
class Line:
    """With slots."""

    text: str
    marks: list[int]


class Loose:
    """Without."""

    def __init__(self, number: int) -> None:
        self.text = "text" * 10 + str(number)
        self.other = [number + 1000]


@pytest.mark.parametrize(
    "make",
    [
        lambda: {str(n): {"a": [n * 1000, "x" * 40 + str(n), n + 0.5], "n": n + 1000} for n in range(300)},
        lambda: [Line("t" * 30 + str(n), [n + 1000, n + 2000]) for n in range(300)],
        lambda: [Loose(n) for n in range(300)],
        lambda: {(n + 1000, str(n + 1000)) for n in range(300)},
        lambda: deque(bytes(100 + n % 7) for n in range(300)),
        lambda: ["x" * 100_000, bytearray(50_000)],
    ],
    ids=["maps", "slots", "attributes", "tuples", "bytes", "large"],
)
def test_weighs_what_the_allocator_gave(make: Callable[[], object]) -> None:
    """Nearly, although of a long container only a few parts are weighed: the allocator rounds up."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made = make()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert Scales(seconds=60).weigh(made) == pytest.approx(after - before, rel=0.2)


def test_weighs_everything_once() -> None:
    """What hangs on two is weighed with the first, and what hangs on itself too."""
    shared, scales = ["x" * 1000], Scales(seconds=60)
    first: list[Any] = [shared, shared]
    first.append(first)
    alone = Scales(seconds=60).weigh(shared)
    assert alone <= scales.weigh(first) < 2 * alone
    assert scales.weigh([shared]) < 200
    assert scales.weigh(shared) == 0


class Color(enum.Enum):
    """Has one member for all."""

    RED = "red" * 1000


def test_leaves_out_what_is_shared() -> None:
    """Classes, modules, functions, members of enumerations, the library's parts, and what it is told."""
    large, own = ["x" * 10_000], Deadlines()
    scales = Scales(seconds=60)
    scales.leave_out(large)
    assert scales.weigh([Line, json, gc.collect, lambda: large, Color.RED, own, large]) < 250
    assert Scales(("trio_rooms._loop.",)).weigh(own) > 100


class Lying:
    """Does not say what it takes."""

    def __sizeof__(self) -> int:
        msg = "not told"
        raise ValueError(msg)


def test_a_size_that_is_not_told_is_none() -> None:
    """An application's class may do what it likes."""
    assert 0 < Scales().weigh([Lying()]) < 200


@pytest.mark.parametrize("bounds", [{"most": 100}, {"seconds": 0.0}])
def test_the_work_is_bounded(bounds: dict[str, Any]) -> None:
    """Once there were enough objects, or the time is over, it looks into no more."""
    nested: list[Any] = [[[[n + 1000] for n in range(16)] for _ in range(16)] for _ in range(16)]
    scales = Scales(**bounds)
    assert 0 < scales.weigh(nested) < Scales(seconds=10.0).weigh(nested)
    assert scales.spent
