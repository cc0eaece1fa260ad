from __future__ import annotations

import collections
import datetime
import decimal
import uuid
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.values.samples import (
    IDENTITY,
    MOMENT,
    Anything,
    Circle,
    Colour,
    Level,
    Move,
    Options,
    Pair,
    Path,
    Point,
    Square,
    Tree,
    Word,
)
from trio_rooms._values.misfits import describe
from trio_rooms._values.strict import wire


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


MODULUS = 2**61 - 1
"""Python hashes numbers by the rest that this leaves."""


@attrs.frozen
class Place:
    x: int
    id: uuid.UUID


def _identity(number: int) -> str:
    return str(uuid.UUID(int=number * MODULUS + 1))


ALIKE: dict[str, tuple[Any, Any]] = {
    "UUIDs": (set[uuid.UUID], [_identity(number) for number in range(40)]),
    "keys": (dict[uuid.UUID, int], {_identity(number): 1 for number in range(40)}),
    "counted": (collections.Counter[uuid.UUID], {_identity(number): 1 for number in range(40)}),
    "integers": (frozenset[int], [number * MODULUS for number in range(40)]),
    "whatever comes": (set, [number * MODULUS for number in range(40)]),
    "decimals": (set[decimal.Decimal], [str(number * MODULUS) for number in range(40)]),
    "in tuples": (set[tuple[str, uuid.UUID]], [["a", _identity(number)] for number in range(40)]),
    "in classes": (set[Place], [{"x": 1, "id": _identity(number)} for number in range(40)]),
}


@pytest.mark.parametrize("name", ALIKE)
def test_values_with_one_hash_are_not_put_into_a_table(name: str) -> None:
    """Each would be compared with all before it, so that a megabyte of them would take minutes."""
    kind, sent = ALIKE[name]
    with pytest.raises(TypeError, match="the same hash"):
        wire.structure(sent, kind)
    few = dict(list(sent.items())[:32]) if isinstance(sent, dict) else sent[:32]
    assert len(wire.structure(few, kind)) == 32


@pytest.mark.parametrize("kind", [set[int], set, frozenset[str | int], dict[decimal.Decimal, None]])
def test_tables_of_what_is_no_string_have_a_limit(kind: Any) -> None:
    """Numbers whose hashes differ can be chosen as well so that a table has them one behind the other."""
    sent: Any = list(range(10_001))
    if kind == dict[decimal.Decimal, None]:
        sent = dict.fromkeys(map(str, sent))
    with pytest.raises(TypeError, match="at most 10000"):
        wire.structure(sent, kind)
    for safe in (set[str], list[str]):
        assert len(wire.structure([str(number) for number in range(20_000)], safe)) == 20_000


@attrs.define
class Branch:
    inner: list[Branch] | tuple[Branch, ...] | set[int] | Level


@pytest.mark.parametrize("depth", [5, 60])
def test_a_union_of_lists_is_tried_once_for_each_value(depth: int) -> None:
    """However deep it is: to try two lists at each of 60 levels would never end."""
    wrong: Any = {"inner": "x"}
    right: Any = {"inner": 1}
    expected = Branch(Level.LOW)
    for level in range(depth):
        wrong = {"inner": [right, wrong]}
        if level < 20:
            right = {"inner": [right]}
            expected = Branch([expected])
    with pytest.raises(ExceptionGroup):
        wire.structure(wrong, Branch)
    assert wire.structure(right, Branch) == expected


def test_what_was_tried_is_forgotten() -> None:
    """Another value at the same place in memory is not taken for one that was tried before."""
    for number in range(100):
        assert wire.structure([[number], [str(number)]], list[list[int] | tuple[str, ...]]) == [
            [number],
            (str(number),),
        ]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        (decimal.Decimal, "9" * 4301),
        (datetime.datetime, "0001-01-01T00:00:00+00:00:30"),
    ],
)
def test_what_could_not_be_saved_again_is_refused(kind: Any, sent: str) -> None:
    """A number whose digits take long to write, and a moment that RFC 3339 cannot write."""
    with pytest.raises(TypeError, match="got another string"):
        wire.structure(sent, kind)
