from __future__ import annotations

import datetime
import decimal
import tracemalloc
import uuid
from typing import Any, Literal

import attrs
import pytest

from tests.values.samples import Colour
from trio_rooms._values.misfits import describe
from trio_rooms._values.strict import wire


@attrs.define
class Node:
    kids: dict[str, Node]


def test_a_long_way_to_a_fault_is_not_gone_for_each() -> None:
    """Long keys in one another, and many faults at their end, take no more memory than what was sent."""
    sent: Any = "x"
    for _ in range(5):
        sent = {"kids": {str(number): sent for number in range(5)}}
    for _ in range(24):
        sent = {"kids": {"k" * 10_000: sent}}
    with pytest.raises(ExceptionGroup) as caught:
        wire.structure(sent, Node)
    tracemalloc.start()
    try:
        assert len(describe(caught.value)) < 2000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_message_stays_short() -> None:
    """Many faults, long names and long values of a client are neither collected nor sent back."""
    with pytest.raises(ExceptionGroup) as caught:
        wire.structure(["x"] * 100_000, list[int])
    assert describe(caught.value).count("expected int") == 5
    assert len(caught.value.exceptions) == 5
    with pytest.raises(ExceptionGroup) as caught:
        wire.structure({"x" * 10_000: "a"}, dict[str, int])
    assert len(describe(caught.value)) < 300
    kinds: list[Any] = [Colour, datetime.date, decimal.Decimal, uuid.UUID, Literal["a"]]
    for kind in kinds:
        with pytest.raises(TypeError) as refused:
            wire.structure("x" * 10_000, kind)
        assert len(describe(refused.value)) < 100
