from __future__ import annotations

from tests.values.samples import Colour, Move, Options, Pair, Point
from trio_rooms._values.classes import fields, is_class


def test_what_was_never_set_is_left_out() -> None:
    """A slot without a value is no field of that instance."""
    point = Point.__new__(Point)
    point.x = 5
    assert fields(point) == {"x": 5}


def test_what_a_class_is() -> None:
    """Classes of attrs and of dataclasses are classes; their instances and other types are not."""
    assert is_class(Point)
    assert is_class(Move)
    for other in (Point(1), Move(1), int, dict, None, Colour, Pair, Options, list[int]):
        assert not is_class(other)
