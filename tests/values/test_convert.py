from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._values.convert import describe, document, fields, is_class, plain, wire


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


@attrs.define
class Point:
    x: int
    y: int = 0


@attrs.define
class Path:
    name: str
    points: list[Point] = attrs.field(factory=list)
    end: Point | None = None
    weights: dict[str, int] = attrs.field(factory=dict)


@attrs.define
class Circle:
    kind: Literal["circle"]
    size: int


@attrs.define
class Square:
    kind: Literal["square"]
    size: int


@attrs.define
class Twin:
    x: int
    y: int


@attrs.define
class Tree:
    name: str
    children: list[Tree] = attrs.field(factory=list)
    left: Tree | None = None


@dataclasses.dataclass
class Move:
    x: int
    where: Point | None = None


class Pair(NamedTuple):
    x: int
    name: str


class Options(TypedDict):
    x: int


@attrs.define
class Counted:
    name: str = ""
    count: int = attrs.field(init=False, default=0)


@attrs.frozen
class Frozen:
    name: str
    size: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "size", len(self.name))


@attrs.define
class Anything:
    any: Any
    thing: object


MOMENT = datetime.datetime(2026, 2, 3, 4, 5, 6, 789, datetime.UTC)
IDENTITY = uuid.UUID(int=5)


@pytest.mark.parametrize(
    ("kind", "sent", "expected"),
    [
        (str, "a", "a"),
        (int, 2**70, 2**70),
        (float, 3, 3.0),
        (float, 0.5, 0.5),
        (bool, True, True),
        (bytes, "AAE=", b"\0\1"),
        (bytes, b"\0\1", b"\0\1"),
        (datetime.datetime, "2026-02-03T04:05:06.000789+00:00", MOMENT),
        (datetime.date, "2026-02-03", datetime.date(2026, 2, 3)),
        (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (uuid.UUID, str(IDENTITY), IDENTITY),
        (Colour, "red", Colour.RED),
        (Level, 1, Level.LOW),
        (Word, "yes", Word.YES),
        (Literal["a", 1], 1, 1),
        (Literal[Colour.RED], "red", Colour.RED),
        (Point, {"x": 1}, Point(1)),
        (Point, {"x": 1, "unknown": 2}, Point(1)),
        (
            Path,
            {"name": "p", "points": [{"x": 1, "y": 2}], "end": {"x": 3}, "weights": {"a": 1}},
            Path("p", [Point(1, 2)], Point(3), {"a": 1}),
        ),
        (Move, {"x": 1, "where": {"x": 2}}, Move(1, Point(2))),
        (Tree, {"name": "a", "children": [{"name": "b"}], "left": None}, Tree("a", [Tree("b")])),
        (int | None, None, None),
        (int | None, 1, 1),
        (int | str, "1", "1"),
        (int | str, 1, 1),
        (float | int, 1, 1),
        (list[int] | str, "ab", "ab"),
        (list[int] | str, [1], [1]),
        (Point | int | None, {"x": 1}, Point(1)),
        (Point | int | None, 4, 4),
        (Circle | Square, {"kind": "square", "size": 1}, Square("square", 1)),
        (Path | Point, {"x": 1}, Point(1)),
        (Path | Point, {"name": "n"}, Path("n")),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[str, list[Point]], {"a": [{"x": 1}]}, {"a": [Point(1)]}),
        (dict, {"a": [1]}, {"a": [1]}),
        (list, [1, "a"], [1, "a"]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple, [1, "a"], (1, "a")),
        (Pair, [1, "a"], Pair(1, "a")),
        (Options, {"x": 1}, {"x": 1}),
        (set[int], [1, 1, 2], {1, 2}),
        (frozenset[str], ["a"], frozenset({"a"})),
        (collections.Counter[str], {"a": 2}, collections.Counter("aa")),
        (Anything, {"any": [1], "thing": {"a": 1}}, Anything([1], {"a": 1})),
    ],
)
def test_what_fits_is_converted(kind: Any, sent: Any, expected: Any) -> None:
    """A handler gets what its annotation says, of exactly that type."""
    made = wire.structure(sent, kind)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("kind", "sent", "said"),
    [
        (str, 1, "expected str, got int"),
        (str, None, "expected str, got NoneType"),
        (int, "1", "expected int, got str"),
        (int, True, "expected int, got bool"),
        (int, 1.0, "expected int, got float"),
        (bool, 1, "expected bool, got int"),
        (float, "1", "expected float or int, got str"),
        (float, True, "expected float or int, got bool"),
        (float, 10**400, "too large"),
        (bytes, "é", "base64"),
        (bytes, "A", "base64"),
        (bytes, [1], "base64"),
        (datetime.datetime, "yesterday", "ISO 8601"),
        (datetime.datetime, 5, "ISO 8601"),
        (datetime.date, "2026-02-30", "ISO 8601"),
        (decimal.Decimal, "x", "decimal number"),
        (decimal.Decimal, 1.5, "decimal number"),
        (uuid.UUID, "x", "UUID"),
        (Colour, "blue", "expected one of 'red', 'green'"),
        (Colour, ["red"], "expected one of 'red', 'green'"),
        (Level, 3, "expected one of 1, 2"),
        (Level, True, "expected one of 1, 2"),
        (Literal[1, 2], 1.0, "expected one of 1, 2"),
        (Literal["a"], {}, "expected one of 'a'"),
        (Point, [1], "expected a map, got a list"),
        (Point, "xy", "expected a map, got str"),
        (Point, {}, "x: required field missing"),
        (Point, {"x": 1, "y": "2"}, "y: expected int, got str"),
        (Path, {"name": "p", "points": [{"x": 1}, {"x": "1"}]}, "points[1].x: expected int, got str"),
        (Path, {"name": "p", "points": {"x": 1}}, "points: expected a list, got a map"),
        (Path, {"name": "p", "end": []}, "end: expected a map, got a list"),
        (Path, {"name": "p", "weights": {"a": 1, "b": "2"}}, "weights['b']: expected int, got str"),
        (Path, {"name": "p", "weights": [["a", 1]]}, "weights: expected a map, got a list"),
        (Move, [1], "expected a map, got a list"),
        (Move, None, "expected a map, got NoneType"),
        (Move, {"x": "1"}, "x: expected int, got str"),
        (Move, {"x": 1, "where": {"x": None}}, "where.x: expected int, got NoneType"),
        (Tree, {"name": "a", "left": {"name": 5}}, "left.name: expected str, got int"),
        (int | None, "1", "expected int, got str"),
        (int | str, None, "expected int or str, got NoneType"),
        (Point | int, "a", "expected a map or int, got str"),
        (Circle | Square, {"kind": "circle"}, "size: required field missing"),
        (dict[int, str], {"1": "a"}, "expected int, got str"),
        (dict, [["a", 1]], "expected a map"),
        (list[str], "abc", "expected a list, got str"),
        (list[str], b"abc", "expected a list, got bytes"),
        (list[list[int]], [[1], [2, "3"]], "[1][1]: expected int, got str"),
        (tuple[str, ...], "abc", "expected a list, got str"),
        (tuple[str, str], "ab", "expected a list, got str"),
        (tuple[int, str], [1], "expected a list of 2, got one of 1"),
        (tuple[int, str], [1, 2], "[1]: expected str, got int"),
        (Pair, [1, 2], "[1]: expected str, got int"),
        (Options, {}, "x: required field missing"),
        (Options, [], "expected a map"),
        (set[str], "abc", "expected a list, got str"),
        (set[str], {"a": 1}, "expected a list, got a map"),
        (set[int], [1, "2"], "[1]: expected int, got str"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(kind: Any, sent: Any, said: str) -> None:
    """Nothing is coerced, and the message names the field and what was wanted."""
    with pytest.raises(Exception) as caught:
        wire.structure(sent, kind)
    assert said in describe(caught.value)


def test_a_message_stays_short() -> None:
    """Many faults, long names and long values of a client are neither collected nor sent back."""
    with pytest.raises(cattrs_error()) as caught:
        wire.structure(["x"] * 100_000, list[int])
    assert describe(caught.value).count("expected int") == 5
    assert len(caught.value.exceptions) == 5
    with pytest.raises(cattrs_error()) as caught:
        wire.structure({"x" * 10_000: "a"}, dict[str, int])
    assert len(describe(caught.value)) < 300
    kinds: list[Any] = [Colour, datetime.date, decimal.Decimal, uuid.UUID, Literal["a"]]
    for kind in kinds:
        with pytest.raises(TypeError) as refused:
            wire.structure("x" * 10_000, kind)
        assert len(describe(refused.value)) < 100


def cattrs_error() -> type[ExceptionGroup]:
    """What several faults are raised as."""
    return ExceptionGroup


def test_classes_that_cannot_be_told_apart_are_refused() -> None:
    """A union of classes with the same fields is an error where it is declared."""
    with pytest.raises(TypeError, match="have the same fields"):
        wire.get_structure_hook(Point | Twin)
    with pytest.raises(TypeError, match="have the same fields"):
        document.get_structure_hook(Point | Twin)


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


def test_plain_takes_one_level() -> None:
    """An instance becomes a map of its fields as they are, whatever was declared; so with the rest."""
    path = Path("p", [Point(1)])
    assert plain(path) == {"name": "p", "points": [Point(1)], "end": None, "weights": {}}
    assert plain(Move(1)) == {"x": 1, "where": None}
    assert plain(Colour.RED) == "red"
    assert plain(MOMENT) == "2026-02-03T04:05:06.000789+00:00"
    assert plain(MOMENT.date()) == "2026-02-03"
    assert plain(decimal.Decimal("1.50")) == "1.50"
    assert plain(IDENTITY) == str(IDENTITY)
    assert plain({1}) == [1]
    assert plain(b"\0\1") == "AAE="
    assert plain(cbor2.undefined) is None
    assert plain(cbor2.CBORSimpleValue(40)) == 40
    with pytest.raises(TypeError, match="a function cannot be sent"):
        plain(test_plain_takes_one_level)


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


def test_unstructure_goes_by_what_a_value_is() -> None:
    """A subclass keeps its fields, and a string in a list's place stays one."""

    @attrs.define
    class Far(Point):
        z: int = 3

    path: Any = Path("p", end=Far(1))
    path.points = "abc"
    assert wire.unstructure(path) == {
        "name": "p",
        "points": "abc",
        "end": {"x": 1, "y": 0, "z": 3},
        "weights": {},
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
KINDS = [Path, Move, Tree, Circle | Square, int | str | None, dict[str, int], set[int], tuple[int, str], Pair]


@given(JSON, st.sampled_from(KINDS))
def test_any_data_fits_or_is_described(sent: Any, kind: Any) -> None:
    """Whatever is sent, it is converted or refused with a short message."""
    try:
        wire.structure(sent, kind)
    except Exception as error:
        said = describe(error)
    else:
        return
    assert 0 < len(said) < 2500
