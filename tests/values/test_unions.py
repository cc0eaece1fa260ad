from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.values.samples import Circle, Point, Square, Twin
from trio_rooms._values.strict import wire


def test_classes_that_cannot_be_told_apart_are_refused() -> None:
    """A union of classes with the same fields is an error where it is declared."""
    with pytest.raises(TypeError, match="have the same fields"):
        wire.get_structure_hook(Point | Twin)


class Endless(dict[str, Any]):
    """A map with more keys than anybody should go through."""

    def __iter__(self) -> Iterator[str]:
        pytest.fail("its keys were gone through")

    keys = __iter__  # type: ignore[assignment]


def test_a_class_is_found_by_its_own_fields() -> None:
    """However many keys a map has, only those are looked at that some class has."""
    sent = Endless(kind="square", size=1, other=2)
    kind: Any = Circle | Square | Point
    assert wire.structure(sent, kind) == Square("square", 1)
