from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import operator
import uuid
import zoneinfo
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple, NewType, TypedDict

import attrs
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trio_rooms._values import cbor
from trio_rooms._values.exact import decode_exact
from trio_rooms._values.shape_of import shape_of
from trio_rooms._values.shapes import Reading

# What is the same.


def same(one: Any, other: Any) -> bool:
    """Whether two values are alike in all that a program can see of them, types included."""
    if type(one) is not type(other):
        return False
    if attrs.has(type(one)) or dataclasses.is_dataclass(one):
        get = attrs.fields if attrs.has(type(one)) else dataclasses.fields
        names = [field.name for field in get(type(one))]
        unset = object()
        return all(same(getattr(one, name, unset), getattr(other, name, unset)) for name in names)
    if isinstance(one, dict):
        made = getattr(one, "default_factory", None), getattr(other, "default_factory", None)
        return (
            same(list(one), list(other))
            and same(list(one.values()), list(other.values()))
            and (made[0] is None) == (made[1] is None)
            and (made[0] is None or made[1] is None or same(made[0](), made[1]()))
        )
    if isinstance(one, list | tuple | collections.deque):
        longest = getattr(one, "maxlen", None), getattr(other, "maxlen", None)
        return longest[0] == longest[1] and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return one == other and all(any(same(item, like) for like in other) for item in one)
    if isinstance(one, datetime.datetime):
        return (one, str(one.tzinfo), one.fold, repr(one)) == (
            other,
            str(other.tzinfo),
            other.fold,
            repr(other),
        )
    return repr(one) == repr(other)


def pack(kind: Any, value: Any, aside: Any = None) -> bytes:
    """A value as it is stored."""
    shape, _ = shape_of(kind)
    return cbor.dumps(shape.pack, value, cbor.DEPTH, {} if aside is None else aside)


def read(kind: Any, encoded: bytes, *, strict: bool = False) -> tuple[Any, Reading]:
    """What is made of it, and what does not fit."""
    reading = Reading(strict)
    shape, _ = shape_of(kind)
    return shape.unpack(decode_exact(encoded, 2 * cbor.DEPTH), reading), reading


def around(kind: Any, value: Any) -> Any:
    """A value after a sleep."""
    back, reading = read(kind, pack(kind, value), strict=True)
    assert not reading.aside
    return back


# Types, each with values of it.


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Planet(enum.Enum):
    EARTH = (1.0, 2.0)
    MARS = (3.0, 4.0)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Sign(enum.Enum):
    PLUS = object()
    MINUS = object()  # noqa: PIE796 (no two objects are the same)


class Pair(NamedTuple):
    x: int
    name: str = ""


class Options(TypedDict, total=False):
    colour: Colour
    marks: list[tuple[int, str]]


UserId = NewType("UserId", str)
Kind = tuple[Any, st.SearchStrategy[Any]]
TEXT = st.text(max_size=5)
INTS = st.integers(-5, 5) | st.integers()
OFFSETS = st.integers(-86_399, 86_399).map(lambda s: datetime.timezone(datetime.timedelta(seconds=s)))
ZONES = st.sampled_from(
    [datetime.UTC, zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Asia/Kathmandu")]
)
MOMENTS = st.datetimes(
    datetime.datetime(1950, 1, 1),  # noqa: DTZ001 (hypothesis adds the zone)
    datetime.datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=OFFSETS | ZONES,
    allow_imaginary=False,
)
HASHABLE: list[Kind] = [
    (str, TEXT),
    (UserId, TEXT),
    (int, INTS | st.booleans()),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=4)),
    (datetime.date, st.dates()),
    (uuid.UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Planet, st.sampled_from(Planet)),
    (Level, st.sampled_from(Level)),
    (Sign, st.sampled_from(Sign)),
    (Access, st.sampled_from([Access.READ, Access.WRITE, Access.READ | Access.WRITE, Access(0)])),
    (Literal["a", 1, Colour.RED], st.sampled_from(["a", 1, Colour.RED])),
]
SCALARS: list[Kind] = [
    *HASHABLE,
    (type(None), st.none()),
    (float, st.floats() | INTS),
    (bytearray, st.binary(max_size=4).map(bytearray)),
    (decimal.Decimal, st.decimals()),
    (datetime.datetime, MOMENTS),
]
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INTS | st.floats() | TEXT | st.decimals() | MOMENTS | st.uuids() | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT | st.tuples(INTS, TEXT) | st.frozensets(INTS, max_size=2), inner, max_size=3)
        | st.sets(INTS | st.tuples(TEXT, INTS), max_size=3)
        | st.frozensets(TEXT, max_size=3)
        | st.builds(collections.deque, st.lists(inner, max_size=3), st.none() | st.integers(0, 3))
    ),
    max_leaves=6,
)
COUNT = itertools.count()


def of(generic: Any, *arguments: Any) -> Any:
    """A generic type with its arguments."""
    return generic[arguments if len(arguments) > 1 else arguments[0]]


def sampled(kinds: list[Kind]) -> st.SearchStrategy[Kind]:
    """One of some types."""
    return st.sampled_from(kinds)


@st.composite
def hashables(draw: st.DrawFn) -> Kind:
    """A type whose values can be keys."""
    how = draw(st.sampled_from(["scalar"] * 4 + ["pair", "tuple", "set", "class"]))
    if how == "scalar":
        return draw(st.sampled_from(HASHABLE))
    if how == "pair":
        return Pair, st.builds(Pair, INTS, TEXT)
    if how == "class":
        return draw(classes(frozen=True))
    kind, values = draw(hashables())
    if how == "tuple":
        return of(tuple, kind, ...), st.lists(values, max_size=3).map(tuple)
    return of(frozenset, kind), st.frozensets(values, max_size=3)


@st.composite
def containers(draw: st.DrawFn, inner: Kind) -> Kind:
    """A container of values of a type."""
    kind, values = inner
    lists = st.lists(values, max_size=3)
    how = draw(st.integers(0, 9))
    if how < 6:
        return [
            (of(list, kind), lists),
            (of(Sequence, kind), lists | lists.map(tuple)),
            (of(tuple, kind, ...), lists.map(tuple)),
            (of(tuple, kind, str), st.tuples(values, TEXT)),
            (of(collections.deque, kind), st.builds(collections.deque, lists, st.none() | st.integers(0, 4))),
            (Options, st.fixed_dictionaries({}, optional={"colour": st.sampled_from(Colour)})),
        ][how]
    key, keys = draw(hashables())
    maps = st.dictionaries(keys, values, max_size=3)
    if how == 6:
        return draw(
            sampled(
                [
                    (of(set, key), st.sets(keys, max_size=3)),
                    (of(AbstractSet, key), st.sets(keys, max_size=3) | st.frozensets(keys, max_size=3)),
                    (
                        of(collections.Counter, key),
                        st.dictionaries(keys, INTS, max_size=3).map(collections.Counter),
                    ),
                ]
            )
        )
    return draw(
        sampled(
            [
                (of(dict, key, kind), maps),
                (of(Mapping, key, kind), maps),
                (of(collections.OrderedDict, key, kind), maps.map(collections.OrderedDict)),
                (
                    of(collections.defaultdict, key, of(list, kind)),
                    st.dictionaries(keys, lists, max_size=2).map(
                        functools.partial(collections.defaultdict, list)
                    ),
                ),
            ]
        )
    )


@st.composite
def unions(draw: st.DrawFn, depth: int) -> Kind:
    """A union of some types."""
    members: list[Kind] = [(type(None), st.none())] if draw(st.booleans()) else []
    members += draw(st.lists(st.sampled_from(SCALARS), max_size=2, unique_by=lambda one: str(one[0])))
    members += draw(st.lists(classes(depth=depth), max_size=2))
    if draw(st.booleans()):
        members.append(draw(containers(draw(kinds(depth=depth)))))
    assume(members)
    kind: Any = functools.reduce(operator.or_, (kind for kind, _ in members))
    return kind, st.one_of(*(values for _, values in members))


@st.composite
def classes(draw: st.DrawFn, *, depth: int = 0, frozen: bool = False) -> Kind:
    """A class of attrs or a dataclass, with any fields."""
    name = f"Class{next(COUNT)}"
    fields = draw(st.lists(hashables() if frozen else kinds(depth=depth), max_size=4))
    slots, attrs_made, late = draw(st.booleans()), draw(st.booleans()), not frozen and draw(st.booleans())
    made: Any
    if attrs_made:
        declared = {f"f{n}": attrs.field(type=kind, kw_only=True) for n, (kind, _) in enumerate(fields)}
        if late:
            declared["late"] = attrs.field(type=int, init=False)
        made = attrs.make_class(name, declared, frozen=frozen, slots=slots, eq=True)
    else:
        more = [("late", int, dataclasses.field(init=False))] if late else []
        made = dataclasses.make_dataclass(
            name,
            [*((f"f{n}", kind) for n, (kind, _) in enumerate(fields)), *more],
            frozen=frozen,
            slots=slots,
            kw_only=True,
            eq=True,
        )
    instances = st.builds(made, **{f"f{n}": values for n, (_, values) in enumerate(fields)})
    return made, instances.flatmap(later) if late else instances


def later(instance: Any) -> st.SearchStrategy[Any]:
    """Sets the field that __init__ does not take, or leaves it."""

    def put(value: int | None) -> Any:
        if value is not None:
            instance.late = value
        return instance

    return st.builds(put, st.none() | INTS)


@st.composite
def kinds(draw: st.DrawFn, *, depth: int = 2) -> Kind:
    """Any type that a state may have, with values of it."""
    how = draw(st.integers(0, 9))
    if depth == 0 or how < 4:
        return draw(st.sampled_from(SCALARS))
    if how == 4:
        return draw(sampled([(Any, PLAIN), (list, st.lists(PLAIN, max_size=2))]))
    if how == 5:
        return draw(unions(depth - 1))
    if how == 6:
        return draw(classes(depth=depth - 1))
    return draw(containers(draw(kinds(depth=depth - 1))))


def sealed(kind: Any) -> None:
    """Go on with types that can be kept; a union of types that are stored alike is refused."""
    try:
        shape_of(kind)
    except TypeError as error:
        assert "stored alike" in str(error)  # noqa: PT017 (any other refusal is a fault)
        assume(False)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_is_declared_comes_back_the_same(data: st.DataObject) -> None:
    """Values of any type that a state may have are after a sleep what they were, to the last type."""
    kind, values = data.draw(kinds(depth=3) | classes(depth=2))
    sealed(kind)
    value = data.draw(values)
    try:
        back = around(kind, value)
    except TypeError as error:
        assert "exactly these keys" in str(error)  # noqa: PT017 (see that test)
        return
    assert same(back, value)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_is_not_as_declared_is_refused_or_comes_back_the_same(data: st.DataObject) -> None:
    """A value of another type than the declared one is not changed by a sleep."""
    kind, _ = data.draw(kinds(depth=2))
    _, values = data.draw(kinds(depth=2))
    sealed(kind)
    value = data.draw(values)
    try:
        encoded = pack(kind, value)
    except (TypeError, ValueError):
        return
    back, reading = read(kind, encoded)
    assert same(back, value)
    assert not reading.found
