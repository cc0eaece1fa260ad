from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any, Literal

import pytest

from tests.values.samples import Colour
from trio_rooms._values.misfits import describe
from trio_rooms._values.strict import wire


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
