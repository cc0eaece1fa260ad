from __future__ import annotations

import collections
import datetime
import decimal
import uuid
from typing import Any, Literal

import pytest

from tests.values.samples import (
    Circle,
    Colour,
    Counted,
    Frozen,
    Level,
    Move,
    Options,
    Pair,
    Path,
    Point,
    Square,
    Word,
)
from trio_rooms._values.lenient import document


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (str, None),
        (str, 5),
        (int, "5"),
        (int, None),
        (float, 1),
        (bool, 1),
        (bytes, "a"),
        (Colour, "blue"),
        (Colour, None),
        (Colour, [1]),
        (Level, 7),
        (Literal["a"], "b"),
        (Point, 5),
        (Point, None),
        (Point, [1]),
        (Move, "a"),
        (Point | None, 5),
        (Point | Path, [5]),
        (list[Point], "abc"),
        (list[Point], None),
        (list[Point], {"a": 1}),
        (list[Point], [None, 5, "a"]),
        (list[int], "abc"),
        (dict[str, Point], [1]),
        (dict[str, Point], {"a": 5, 6: None}),
        (dict[str, int], None),
        (set[int], "abc"),
        (set[int], [1]),
        (tuple[int, str], 5),
        (tuple[int, ...], "ab"),
        (Pair, "ab"),
        (Options, {}),
        (Options, {"y": 1}),
        (Options, 5),
        (datetime.datetime, "now"),
        (decimal.Decimal, 1.5),
        (uuid.UUID, "x"),
    ],
)
def test_a_document_gives_back_what_was_there(kind: Any, stored: Any) -> None:
    """What is not of its declared type comes back as it is, and of the type that it has."""
    made = document.structure(stored, kind)
    assert made == stored
    assert type(made) is type(stored)


@pytest.mark.parametrize(
    ("kind", "stored", "expected"),
    [
        (Point, {"x": 1, "y": 2}, Point(1, 2)),
        (list[Point], [{"x": 1, "y": 2}, 5], [Point(1, 2), 5]),
        (tuple[Point, ...], [{"x": 1, "y": 2}], (Point(1, 2),)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, str], [1], (1,)),
        (Pair, [1, "a"], Pair(1, "a")),
        (collections.deque[int], [1], collections.deque([1])),
        (collections.Counter, {"a": 2}, collections.Counter("aa")),
        (dict[Colour, Point], {"red": {"x": 1, "y": 2}}, {Colour.RED: Point(1, 2)}),
        (set[Colour], {"red"}, {Colour.RED}),
        (Level, 2, Level.HIGH),
        (Word, "yes", Word.YES),
        (Literal[Colour.RED], "red", Colour.RED),
        (Colour | int, "red", Colour.RED),
        (Colour | str, "red", "red"),
        (Circle | Square | None, {"kind": "square", "size": 1}, Square("square", 1)),
        (list[Point] | Point | None, [{"x": 1, "y": 1}], [Point(1, 1)]),
        (list[Point] | Point | None, {"x": 1, "y": 1}, Point(1, 1)),
        (bytearray, b"a", bytearray(b"a")),
        (Counted, {"name": "a", "count": 5}, None),
        (Frozen, {"name": "abc", "size": 3}, Frozen("abc")),
        (Options, {"x": 1, "y": 2}, {"x": 1, "y": 2}),
    ],
)
def test_a_document_builds_classes_again(kind: Any, stored: Any, expected: Any) -> None:
    """What is of its declared type becomes it again."""
    if expected is None:
        expected = Counted("a")
        expected.count = 5
    made = document.structure(stored, kind)
    assert made == expected
    assert type(made) is type(expected)


def test_a_defaultdict_keeps_its_default() -> None:
    """A typed defaultdict makes what it was declared to make."""
    made = document.structure({"a": [1]}, collections.defaultdict[str, list[int]])
    assert made["new"] == []
    assert made["a"] == [1]
