from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import operator
import re
import uuid
import zoneinfo
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import attrs
import cbor2
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trio_rooms._values import cbor
from trio_rooms._values.exact import decode_exact
from trio_rooms._values.generated import switch
from trio_rooms._values.shape_of import shape_of
from trio_rooms._values.shapes import Misfit, Reading, Unbuildable

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


@contextlib.contextmanager
def carefully() -> Iterator[None]:
    """Nothing is made for the classes of shapes that are made in here."""
    switch.on = False
    try:
        yield
    finally:
        switch.on = True


def outcome(function: Callable[..., Any], *given: Any) -> tuple[Any, Exception | None]:
    """What a function returns, or else what it raises."""
    try:
        return function(*given), None
    except Exception as error:
        return (type(error), str(error)), error


def pack(kind: Any, value: Any, aside: Any = None) -> bytes:
    """A value as it is stored: the quick way says the same as the careful one, also of what is wrong."""
    shape, _ = shape_of(kind)
    aside = {} if aside is None else aside
    quickly, _ = outcome(cbor.written, shape.write, value, cbor.DEPTH, aside)
    packed, error = outcome(cbor.dumps, shape.pack, value, cbor.DEPTH, aside)
    assert quickly == packed
    if error is not None:
        raise error
    return packed  # type: ignore[no-any-return]


def read(kind: Any, encoded: bytes, *, strict: bool = False) -> tuple[Any, Reading]:
    """What is made of it, and what does not fit; here, too, in both ways."""
    ways = []
    for way in (contextlib.nullcontext, carefully):
        with way():
            shape, _ = shape_of(kind)
        reading = Reading(strict)
        made, error = outcome(shape.unpack, decode_exact(encoded, 2 * cbor.DEPTH), reading)
        ways.append((shape, made, error, reading))
    (shape, made, error, reading), (_, like, _, known) = ways
    assert (reading.found, len(reading.aside)) == (known.found, len(known.aside))
    if error is not None:
        assert made == like
        raise error
    # No two instances are equal that are told apart by identity; what is written of them is.
    assert cbor.written(shape.write, made, cbor.DEPTH, reading.aside) == cbor.written(
        shape.write, like, cbor.DEPTH, known.aside
    )
    return made, reading


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


# What a default tells.


def test_a_defaultdict_makes_what_the_default_of_its_field_makes() -> None:
    """A function cannot be stored, so it is taken from the default; another one is refused."""

    def made(kind: Any, factory: Any) -> Any:
        field: Any = attrs.field(type=kind, factory=lambda: collections.defaultdict(factory))
        return attrs.make_class("Made", {"v": field})

    cases: list[tuple[Any, Any, Any]] = [
        (collections.defaultdict[str, int], lambda: 5, 5),
        (collections.defaultdict[str, int | None], lambda: None, None),
        (collections.defaultdict[str, tuple[int, int]], lambda: (0, 0), (0, 0)),
        (collections.defaultdict, list, []),
        (collections.defaultdict[str, list[int]] | None, list, []),
    ]
    for kind, factory, expected in cases:
        state = made(kind, factory)
        back = around(state, state())
        assert back.v["new"] == expected
        assert around(state, back).v["new"] == expected
        back.v.default_factory = lambda: "other"
        with pytest.raises(TypeError, match="default_factory"):
            pack(state, back)
    with pytest.raises(TypeError, match="default_factory"):
        pack(list[collections.defaultdict[str, int]], [collections.defaultdict(lambda: 5)])


@attrs.define
class Node:
    children: list["Node"] = attrs.field(factory=list)  # noqa: UP037 (that it is in quotes is the point)
    parent: "Node | None" = None  # noqa: UP037


T = TypeVar("T")


@attrs.define
class Box(Generic[T]):
    content: T
    more: list[T] = attrs.field(factory=list)


@attrs.define(slots=False)
class Cached:
    n: int = 0

    @functools.cached_property
    def double(self) -> int:
        """Is computed again."""
        return self.n * 2


@dataclasses.dataclass
class Span:
    start: int
    seed: dataclasses.InitVar[int]
    end: int = 0
    token: int = dataclasses.field(init=False)

    def __post_init__(self, seed: int) -> None:
        if self.start > self.end:
            msg = "start > end"
            raise ValueError(msg)
        self.token = seed


def minus_two(number: int) -> int:
    """Makes something else of it each time."""
    return number - 2


@attrs.frozen(cache_hash=True)
class Key:
    _x: int = attrs.field(alias="ex", converter=minus_two, validator=attrs.validators.lt(0))


def test_classes_are_built_again_without_their_init() -> None:
    """Whatever __init__ takes, converts, checks and computes: the fields are what they were."""
    span = Span(1, 7, 2)
    span.start = 5
    assert same(around(Span, span), span)
    assert around(dict[Key, int], {Key(ex=1): 1}) == {Key(ex=1): 1}
    assert hash(around(Key, Key(ex=1))) == hash(Key(ex=1))
    deep = Node([Node([Node()])], Node())
    assert same(around(Node, deep), deep)
    cached = Cached(2)
    assert cached.double == 4
    assert around(Cached, cached).double == 4
    boxes = {"a": Box(Box(1, [2]), [])}
    assert same(around(dict[str, Box[Box[int]]], boxes), boxes)
    with pytest.raises(TypeError, match="declared as int"):
        pack(Box[int], Box("a"))


def test_what_is_no_field_is_refused() -> None:
    """An attribute that nobody declares would be gone after a sleep."""
    cached: Any = Cached(1)
    cached.extra = 5
    with pytest.raises(TypeError, match="its extra would not come back"):
        pack(Cached, cached)


@attrs.define
class Shape:
    size: int = 0


@attrs.define
class Round(Shape):
    pass


@attrs.define
class Square(Shape):
    corner: str = ""


def test_subclasses() -> None:
    """A subclass is refused where only its base is declared; in a union it is itself."""
    with pytest.raises(TypeError, match=r"its subclass Round .* annotate what it may be: Shape \| Round"):
        pack(list[Shape], [Shape(1), Round(2)])
    with pytest.raises(TypeError, match="which has no Round; annotate that too"):
        pack(Shape | Square, Round(2))
    kind = list[Shape | Round | Square | None]
    shapes = [Shape(1), Round(1), Square(1, "a"), None]
    assert same(around(kind, shapes), shapes)
    plain = decode_exact(pack(kind, shapes), 9)
    assert plain[1] == {"_type": "Round", "size": 1}


def test_a_class_or_a_map() -> None:
    """A class and a dict in one union are told apart; a dict that looks like the class is refused."""
    kind = Shape | dict[str, Any]
    for value in (Shape(3), {}, {"size": 1, "more": 2}):
        assert same(around(kind, value), value)
    for confusing in ({"size": 1}, {"_type": "Shape"}):
        with pytest.raises(TypeError, match="exactly these keys"):
            pack(kind, confusing)
    # As it was written before classes had their names there.
    assert read(Shape | Square, cbor2.dumps({"size": 1, "corner": "a"}))[0] == Square(1, "a")
    assert read(kind, cbor2.dumps({"size": 1}))[0] == Shape(1)


def typed(kind: Any) -> Any:
    """A field of a type."""
    return attrs.field(type=kind)


class Unrelated:
    """Neither an attrs class nor a dataclass."""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Unrelated, "a Unrelated cannot be saved"),
        (list[Unrelated | None], "a Unrelated cannot be saved"),
        (datetime.timedelta, "a timedelta cannot be saved"),
        (attrs.make_class("Holder", {"one": attrs.field(type=Unrelated)}), "Holder.one: a Unrelated cannot"),
        (list[int] | tuple[int, ...], "stored alike"),
        (set[int] | frozenset[int], "stored alike"),
        (dict[str, int] | collections.Counter[str], "stored alike"),
        (bytes | bytearray, "stored alike"),
        (Colour | str, "stored alike"),
        (Colour | Literal["red"], "stored alike"),
        (Level | int, "stored alike"),
        (Access | None | Level, "stored alike"),
        (attrs.make_class("Odd", {"_aside": attrs.field(type=int)}), "name is taken"),
        (Shape | attrs.make_class("Typed", {"_type": attrs.field(type=int)}), "has a field '_type'"),
        (
            Shape | attrs.make_class("Shape", {"x": attrs.field(type=int)}),
            "two classes of a union are called",
        ),
        (attrs.make_class("More", {"x": attrs.field(type=int)}, bases=(dict,)), "a container"),
        (attrs.make_class("Far", {"x": typed("Nowhere")}), "cannot be resolved"),
        (type("Sub", (tuple,), {}), "would come back as a tuple"),
        (type("Sub", (list,), {}), "a Sub cannot be saved"),
    ],
)
def test_types_that_cannot_be_kept_are_refused(kind: Any, said: str) -> None:
    """What can be told from a type is told before there is a value, with the field that has it."""
    with pytest.raises(TypeError, match=re.escape(said)):
        shape_of(kind)


def test_the_fingerprint_is_that_of_the_shape() -> None:
    """It is the same for the same fields however they are written, and changes with names and types."""
    one = attrs.make_class("One", {"a": typed(int | None), "b": typed(list[str])})
    same_again = dataclasses.make_dataclass("One", [("a", Optional[int]), ("b", list[str])])  # noqa: UP045
    assert shape_of(one)[1] == shape_of(same_again)[1]
    for kind in (str, int):
        for name in ("a", "c"):
            other = attrs.make_class("One", {name: attrs.field(type=kind), "b": attrs.field(type=list[str])})
            assert shape_of(other)[1] != shape_of(one)[1]


# Classes that have changed.


@attrs.define
class Todo:
    title: str = ""
    due: str = ""
    done: bool = False


@attrs.define
class Task:
    """A to-do of the next version: the title is called name, and due is a date."""

    name: str = ""
    due: datetime.date | None = None
    done: bool = False


@attrs.define
class Old:
    todos: list[Todo] = attrs.field(factory=list)
    owner: str = ""


@attrs.define
class New:
    todos: list[Task] = attrs.field(factory=list)
    owner: str = ""


TODOS = Old([Todo("milk", "monday"), Todo("bread", "", done=True)], "ada")


def test_what_a_class_does_not_understand_is_kept_aside() -> None:
    """Unknown fields and those of another type are written again, and are there when the fields are again."""
    state, reading = read(New, pack(Old, TODOS))
    assert state == New([Task(), Task(done=True)], "ada")
    assert sorted(reading.found) == ["Task.due", "Task.title"]
    state.todos.reverse()
    state.todos[0].done = False
    encoded = pack(New, state, reading.aside)
    assert read(Old, encoded)[0] == Old([Todo("bread", ""), Todo("milk", "monday")], "ada")
    again, reading = read(New, encoded)
    assert again == state
    assert pack(New, again, reading.aside) == encoded


def test_what_was_replaced_is_kept_beside_its_successor() -> None:
    """A field of another type that was given a new value: the old one comes back with its type."""
    state, reading = read(New, pack(Old, TODOS))
    state.todos[0].due = datetime.date(2026, 1, 2)
    encoded = pack(New, state, reading.aside)
    plain = decode_exact(encoded, 9)["todos"][0]
    assert plain["due"] == datetime.date(2026, 1, 2)
    assert plain["_aside"] == {"due": "monday"}
    again, reading = read(New, encoded)
    assert again == state
    assert pack(New, again, reading.aside) == encoded
    old, reading = read(Old, encoded)
    assert old == TODOS
    assert read(New, pack(Old, old, reading.aside))[0].todos[0].due == datetime.date(2026, 1, 2)


def test_a_migration_finds_what_was_set_aside() -> None:
    """It is in the plain state under its name, whether or not the room was loaded in between."""
    encoded = pack(Old, TODOS)
    state, reading = read(New, encoded)
    for one in (encoded, pack(New, state, reading.aside)):
        plain = decode_exact(one, 9)
        assert [todo["title"] for todo in plain["todos"]] == ["milk", "bread"]
        assert [todo["due"] for todo in plain["todos"]] == ["monday", ""]


def test_strict_reading_sets_nothing_aside() -> None:
    """What does not fit is an error that says where it is."""
    for kind, where in (
        (New, r"todos\[0\]\.due: expected"),
        (attrs.make_class("Nothing", {}), r"no such field"),
    ):
        with pytest.raises(Unbuildable, match=where):
            read(kind, pack(Old, TODOS), strict=True)
    assert read(Old, pack(Old, TODOS), strict=True)[0] == TODOS


def test_what_nothing_can_stand_in_for_is_an_error() -> None:
    """A field without a default that is missing or of another type makes the whole state unreadable."""
    for kind, said in ((int, "expected int, got str"), (list[int], r"expected list\[int\]")):
        inner = attrs.make_class("Todo", {"title": attrs.field(type=kind)})
        outer = attrs.make_class("Old", {"todos": attrs.field(type=list[inner], factory=list)})  # type: ignore[valid-type]
        with pytest.raises(Unbuildable, match=rf"todos\[0\]\.title: {said}"):
            read(outer, pack(Old, TODOS))
    with pytest.raises(Unbuildable, match="required field missing"):
        read(attrs.make_class("Old", {"more": attrs.field(type=int)}), pack(Old, TODOS))
    for wrong in (None, [1], "a"):
        with pytest.raises(Misfit):
            read(Old, cbor2.dumps(wrong))


def test_a_field_with_one_element_of_another_type_is_of_another_type() -> None:
    """The whole field is set aside, and nothing of it is lost."""
    before = attrs.make_class("S", {"v": attrs.field(type=dict[str, Any])})
    after = attrs.make_class("S", {"v": attrs.field(type=dict[str, int], factory=dict)})
    encoded = pack(before, before({"a": 1, "b": "two"}))
    state, reading = read(after, encoded)
    assert state == after({})
    state.v["c"] = 3
    assert read(before, pack(after, state, reading.aside))[0].v == {"c": 3}
    assert decode_exact(pack(after, state, reading.aside), 9)["_aside"] == {"v": {"a": 1, "b": "two"}}


@attrs.define(eq=False)
class Player:
    """Two players of one name are two, since they are told apart by identity."""

    name: str = ""


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (set[Player], {Player("ada"), Player("ada")}),
        (dict[Player, int], {Player("ada"): 1, Player("ada"): 2}),
        (dict[tuple[Player, int], str], dict.fromkeys([(Player("ada"), 1), (Player("ada"), 1)], "one")),
    ],
)
def test_what_a_set_or_a_map_could_not_tell_apart_is_refused(kind: Any, value: Any) -> None:
    """Else one of the two would be gone when it comes back."""
    with pytest.raises(TypeError, match="stored alike"):
        pack(kind, value)
    shape, _ = shape_of(kind)
    if isinstance(value, dict):
        with pytest.raises(TypeError, match="stored alike"):
            shape.divide(value, {})
    assert (
        len(
            read(
                kind, pack(kind, type(value)(list(value.items() if isinstance(value, dict) else value)[:1]))
            )[0]
        )
        == 1
    )


@attrs.frozen
class Place:
    row: int
    column: int


@attrs.define
class Marks:
    marked: set[Place] = attrs.field(factory=set)
    owners: dict[Place, str] = attrs.field(factory=dict)


def test_members_that_become_one_are_set_aside_all() -> None:
    """A class that has lost what told its instances apart costs no members of a set, and no keys of a map."""
    row = attrs.make_class("Place", {"row": attrs.field(type=int)}, frozen=True)
    after = attrs.make_class(
        "Marks",
        {
            "marked": attrs.field(type=set[row], factory=set),  # type: ignore[valid-type]
            "owners": attrs.field(type=dict[row, str], factory=dict),  # type: ignore[valid-type]
        },
    )
    one, two = Place(1, 1), Place(1, 2)
    for state in (Marks({one, two}), Marks(owners={one: "ada", two: "bob"})):
        narrowed, reading = read(after, pack(Marks, state))
        assert narrowed == after()
        assert set(reading.found) & {"Marks.marked", "Marks.owners"}
        assert read(Marks, pack(after, narrowed, reading.aside))[0] == state
        with pytest.raises(Unbuildable, match=r"told apart|no such field"):
            read(after, pack(Marks, state), strict=True)


def test_a_field_that_had_three_types_has_all_its_values() -> None:
    """What was set aside first is still there when another thing is."""
    texts, numbers, maps, lists = (
        attrs.make_class("S", {"v": attrs.field(type=kind, factory=kind)}) for kind in (str, int, dict, list)
    )
    encoded = pack(texts, texts("a text"))
    later: list[tuple[Any, Any]] = [(numbers, 7), (maps, {"k": 1}), (lists, [1])]
    for kind, value in later:
        state, reading = read(kind, encoded)
        state.v = value
        encoded = pack(kind, state, reading.aside)
        again, reading = read(kind, encoded)
        assert pack(kind, again, reading.aside) == encoded
    for kind, value in ((texts, "a text"), *later[::-1], (texts, "a text")):
        state, reading = read(kind, encoded)
        assert state.v == value
        encoded = pack(kind, state, reading.aside)


@attrs.define
class Disc:
    x: int = 0
    radius: int = 1


@attrs.define
class Pane:
    x: int = 0
    side: int = 1


@attrs.define
class Drawing:
    top: Disc | Pane = attrs.field(factory=Disc)
    rest: list[Disc | Pane] = attrs.field(factory=list)


def test_the_name_of_another_class_is_kept() -> None:
    """A union that has lost a class: what its instances were is known again when the class is back."""
    after = attrs.make_class(
        "Drawing",
        {"top": attrs.field(type=Disc, factory=Disc), "rest": attrs.field(type=list[Disc], factory=list)},
    )
    drawing = Drawing(Pane(2, 3), [Disc(4, 5), Pane(6, 7)])
    encoded = pack(Drawing, drawing)
    state, reading = read(after, encoded)
    assert reading.found["Disc._type"] == "there is no such field"
    assert same(read(Drawing, pack(after, state, reading.aside))[0], drawing)
    with pytest.raises(Unbuildable, match="no such field"):
        read(after, encoded, strict=True)
    discs = Drawing(Disc(1, 2), [Disc(3, 4)])
    assert read(after, pack(Drawing, discs), strict=True)[0] == after(Disc(1, 2), [Disc(3, 4)])


def test_a_field_that_is_called_as_the_name_of_a_class_is_kept() -> None:
    """It is a field like any other where there is no union."""
    before = attrs.make_class("S", {"_type": attrs.field(type=str), "x": attrs.field(type=int)})
    after = attrs.make_class("S", {"x": attrs.field(type=int)})
    state, reading = read(after, pack(before, before("mine", 1)))
    assert read(before, pack(after, state, reading.aside))[0] == before("mine", 1)


def test_a_map_whose_keys_are_no_names_is_no_instance() -> None:
    """It would be written with the fields of the class, and be neither a class nor the map that it was."""
    before = attrs.make_class("S", {"v": attrs.field(type=dict[int, str])})
    after = attrs.make_class("S", {"v": attrs.field(type=Disc, factory=Disc)})
    state, reading = read(after, pack(before, before({7: "seven"})))
    assert state == after(Disc())
    assert read(before, pack(after, state, reading.aside))[0] == before({7: "seven"})


class Rights(enum.Flag, boundary=enum.CONFORM):
    READ = 1
    WRITE = 2
    GRANT = 4


class Fewer(enum.Flag, boundary=enum.CONFORM):
    READ = 1
    WRITE = 2


def test_bits_that_a_flag_does_not_know_are_kept() -> None:
    """Also by one that would drop them."""
    before = attrs.make_class("S", {"v": attrs.field(type=Rights)})
    after = attrs.make_class("S", {"v": attrs.field(type=Fewer, factory=lambda: Fewer(0))})
    everything = before(Rights(7))
    state, reading = read(after, pack(before, everything))
    assert state == after(Fewer(0))
    assert read(before, pack(after, state, reading.aside))[0] == everything
    some = before(Rights.READ | Rights.WRITE)
    assert read(after, pack(before, some), strict=True)[0] == after(Fewer.READ | Fewer.WRITE)


class Both(NamedTuple):
    x: int
    name: str


SIMPLE: list[Kind] = [
    (str, TEXT),
    (int, INTS),
    (bytes, st.binary(max_size=3)),
    (list[int], st.lists(INTS, max_size=3)),
    (list[str], st.lists(TEXT, max_size=3)),
    (dict[str, int], st.dictionaries(TEXT, INTS, max_size=3)),
    (Colour, st.sampled_from(Colour)),
    (datetime.date, st.dates()),
    (set[int], st.sets(INTS, max_size=3)),
    (collections.deque[int], st.builds(collections.deque, st.lists(INTS, max_size=3), st.integers(3, 5))),
    (Both, st.builds(Both, INTS, TEXT)),
]


@st.composite
def versions(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Two versions of a state's classes, which share some fields, and a state of the first."""
    names = ["a", "b", "c", "d"]
    made = []
    for _ in range(2):
        fields = draw(st.dictionaries(st.sampled_from(names), sampled(SIMPLE)))
        inner = attrs.make_class(
            "Inner", {name: attrs.field(type=kind | None, default=None) for name, (kind, _) in fields.items()}
        )
        state = attrs.make_class(
            "State",
            {
                "one": attrs.field(type=inner, factory=inner),
                "many": attrs.field(type=dict[str, inner], factory=dict),  # type: ignore[valid-type]
                **{name: attrs.field(type=kind | None, default=None) for name, (kind, _) in fields.items()},
            },
        )
        made.append((inner, state, fields))
    (inner, before, fields), (_, after, _) = made

    def some(kind: Any, **more: Any) -> st.SearchStrategy[Any]:
        return st.builds(kind, **{name: st.none() | values for name, (_, values) in fields.items()}, **more)

    inners = some(inner)
    state = draw(some(before, one=inners, many=st.dictionaries(TEXT, inners, max_size=2)))
    return before, after, state


@settings(deadline=None, max_examples=60)
@given(versions(), st.integers(1, 3))
def test_another_version_of_the_classes_loses_nothing(drawn: tuple[Any, Any, Any], wakes: int) -> None:
    """However often a state is loaded and saved by classes with other fields, its own find it as it was."""
    before, after, state = drawn
    encoded = pack(before, state)
    for _ in range(wakes):
        other, reading = read(after, encoded)
        encoded = pack(after, other, reading.aside)
    assert same(read(before, encoded)[0], state)
