from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import datetime
import decimal
import enum
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_rooms._state.codec import Codec
from trio_rooms._values import cbor
from trio_rooms._values.exact import decode_exact
from trio_rooms._values.generated import switch
from trio_rooms._values.shape_of import shape_of
from trio_rooms._values.shapes import Reading, Unbuildable


@contextlib.contextmanager
def carefully() -> Iterator[None]:
    """Nothing is made for the classes of shapes that are made in here."""
    switch.on = False
    try:
        yield
    finally:
        switch.on = True


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@attrs.define
class Leaf:
    name: str
    size: int = 0
    weight: float = 0.0
    at: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@attrs.frozen(cache_hash=True)
class Frozen:
    x: int
    colour: Colour = Colour.RED


@dataclasses.dataclass
class Loose:
    yes: bool = True
    raw: bytes = b""
    when: datetime.datetime | None = None
    kind: Literal["a", 5] = "a"
    right: Right = Right.READ
    computed: int = dataclasses.field(init=False)

    @functools.cached_property
    def twice(self) -> int:
        """Is no field."""
        return 2


@attrs.define
class Nothing:
    """Has no fields."""


@attrs.define
class Branch:
    leaf: Leaf
    leaves: list[Leaf] = attrs.field(factory=list)
    by_name: dict[str, Leaf] = attrs.field(factory=dict)
    by_number: dict[int, list[Leaf | None]] = attrs.field(factory=dict)
    either: list[Leaf | Nothing | Frozen | str] = attrs.field(factory=list)
    perhaps: Branch | None = None
    keys: dict[Frozen, decimal.Decimal] = attrs.field(factory=dict)
    colours: dict[Colour, list[Colour]] = attrs.field(factory=dict)
    moments: list[datetime.datetime | None] = attrs.field(factory=list)
    queue: collections.deque[Leaf] = attrs.field(factory=collections.deque)
    pairs: tuple[tuple[str, Leaf], ...] = ()
    loose: Loose = attrs.field(factory=Loose)
    anything: Any = None
    blob: bytearray = attrs.field(factory=bytearray)


QUICK = Codec(Branch, 1, {})
with carefully():
    CAREFUL = Codec(Branch, 1, {})

NAMES = st.text(max_size=6) | st.just("long " * 60)
MOMENTS = st.datetimes(
    timezones=st.sampled_from([datetime.UTC, datetime.timezone(datetime.timedelta(hours=1))])
)
LEAVES = st.builds(
    Leaf,
    NAMES,
    st.integers(-3, 300) | st.integers() | st.booleans(),
    st.floats() | st.integers() | st.booleans(),
    MOMENTS,
)
FROZEN = st.builds(Frozen, st.integers(-1, 3), st.sampled_from(Colour))
LOOSE = st.builds(
    Loose,
    st.booleans(),
    st.binary(max_size=3) | st.just(b"long" * 80),
    st.none() | MOMENTS,
    st.sampled_from(["a", 5]),
    st.sampled_from([Right.READ, Right.READ | Right.WRITE, Right(0)]),
)


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A few of them."""
    return st.lists(values, max_size=3)


@st.composite
def branches(draw: st.DrawFn, *, depth: int = 1) -> Branch:
    """An instance with something of everything that there are quick ways for."""
    made = Branch(draw(LEAVES))
    for name, values in {
        "leaves": some(LEAVES),
        "by_name": st.dictionaries(NAMES, LEAVES, max_size=2),
        "by_number": st.dictionaries(st.integers(), some(st.none() | LEAVES), max_size=2),
        "either": some(LEAVES | st.builds(Nothing) | FROZEN | NAMES),
        "perhaps": branches(depth=depth - 1) if depth else st.none(),
        "keys": st.dictionaries(FROZEN, st.decimals(), max_size=2),
        "colours": st.dictionaries(st.sampled_from(Colour), some(st.sampled_from(Colour)), max_size=2),
        "moments": some(st.none() | MOMENTS),
        "queue": some(LEAVES).map(collections.deque),
        "pairs": some(st.tuples(NAMES, LEAVES)).map(tuple),
        "loose": LOOSE,
        "anything": st.none() | NAMES | st.integers() | MOMENTS | some(MOMENTS),
        "blob": st.binary(max_size=3).map(bytearray),
    }.items():
        if draw(st.booleans()):
            setattr(made, name, draw(values))
    if draw(st.booleans()):
        made.loose.computed = draw(st.integers())
    return made


def outcome(function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns, or what it raises."""
    try:
        return function(*given)
    except Exception as error:
        return type(error), str(error)


def written(codec: Codec, value: Any) -> Any:
    """The bytes of a state, or what is wrong with it and where."""
    return outcome(codec.encode, "room/id", value)


UTC = datetime.UTC
ODD = st.sampled_from(
    [
        *(None, "", 5, 1.5, True, b"x", [], {}, [1], {"a": 1}, {1: 2}, Colour.RED, Leaf("a"), [Leaf("b")]),
        *(decimal.Decimal("NaN"), Nothing(), object(), "\ud800", datetime.date(2026, 1, 1)),
        datetime.datetime(2026, 1, 1),  # noqa: DTZ001 (it is what is refused)
        datetime.datetime(2026, 1, 1, tzinfo=UTC, fold=1),
        datetime.datetime(9999, 1, 1, tzinfo=UTC),
    ]
).map(copy.deepcopy)


def insides(value: Any) -> list[Any]:
    """All instances in a value, itself first."""
    found = []
    if attrs.has(type(value)) or dataclasses.is_dataclass(value):
        shape: Any = attrs.fields if attrs.has(type(value)) else dataclasses.fields
        found.append(value)
        parts = [getattr(value, field.name, None) for field in shape(type(value))]
    elif isinstance(value, dict):
        parts = [*value, *value.values()]
    else:
        parts = list(value) if isinstance(value, list | tuple | collections.deque) else []
    return found + [inner for part in parts for inner in insides(part)]


@settings(deadline=None, max_examples=60)
@given(st.data(), branches(), st.integers(0, 2))
def test_what_is_made_for_a_class_writes_as_its_methods_do(
    data: st.DataObject, value: Branch, faults: int
) -> None:
    """The same bytes, and the same errors, whatever is in the fields or not there at all."""
    for _ in range(faults):
        one = data.draw(st.sampled_from(insides(value)))
        name = data.draw(st.sampled_from([*type(one).__annotations__, "twice"]))
        if data.draw(st.booleans()) and hasattr(one, name):
            with contextlib.suppress(AttributeError):  # It is frozen, or has its default again.
                delattr(one, name)
        else:
            with contextlib.suppress(AttributeError):
                setattr(one, name, data.draw(ODD))
    quickly = written(QUICK, value)
    assert quickly == written(CAREFUL, value)
    if isinstance(quickly, bytes):
        assert quickly == cbor.dumps(CAREFUL.shape()[0].pack, value, cbor.DEPTH, {})


def plain_insides(value: Any) -> list[Any]:
    """All maps and lists in a plain value."""
    if not isinstance(value, dict | list):
        return []
    parts = value.values() if isinstance(value, dict) else value
    return [value, *(inner for part in parts for inner in plain_insides(part))]


@settings(deadline=None, max_examples=60)
@given(st.data(), branches(), st.integers(0, 3), st.booleans())
def test_what_is_made_for_a_class_reads_as_its_methods_do(
    data: st.DataObject, value: Branch, faults: int, strict: bool
) -> None:
    """The same state, the same set aside and reported, and the same errors, for documents of any shape."""
    plain = decode_exact(CAREFUL.encode("room/id", value), 2 * cbor.DEPTH)
    for _ in range(faults):
        one = data.draw(st.sampled_from(plain_insides(plain)))
        fault = data.draw(st.sampled_from(["change", "remove", "add"]))
        odd = data.draw(ODD.filter(lambda odd: type(odd) in (*cbor.PLAIN, list, dict, datetime.datetime)))
        places = list(one) if isinstance(one, dict) else list(range(len(one)))
        if fault == "add":
            one.update({"more": odd}) if isinstance(one, dict) else one.append(odd)
        elif places:
            place = data.draw(st.sampled_from(places))
            if fault == "change":
                one[place] = odd
            else:
                del one[place]
    told = []
    for codec in (QUICK, CAREFUL):
        reading = Reading(strict)
        made = outcome(codec.shape()[0].unpack, plain, reading)
        again = outcome(CAREFUL.encode, "room/id", made, reading.aside)
        told.append((made if isinstance(made, tuple) else again, reading.found, len(reading.aside)))
    assert told[0] == told[1]


@pytest.mark.parametrize("levels", [3, cbor.DEPTH // 2])
def test_a_class_is_as_deep_as_it_may_be(levels: int) -> None:
    """Containers are counted alike; a fault in the innermost is found once, and not again at each level."""
    for depth, said in ((levels, None), (cbor.DEPTH + 1, "levels deep")):
        value = Branch(Leaf("a"))
        for _ in range(depth - 2):
            value = Branch(Leaf("a"), perhaps=value)
        quick = written(QUICK, value)
        assert quick == written(CAREFUL, value)
        assert said is None or said in quick[1]
        if said is None:
            plain = innermost = decode_exact(quick, 2 * cbor.DEPTH)
            while innermost["perhaps"]:
                innermost = innermost["perhaps"]
            innermost["by_name"] = {"x": {"name": 5}}
            wrong = [
                outcome(codec.shape()[0].unpack, plain, Reading(strict=True)) for codec in (QUICK, CAREFUL)
            ]
            assert wrong[0] == wrong[1]
            assert wrong[0][1].startswith("perhaps.perhaps." if levels > 3 else "perhaps.by_name['x'].name")


def test_names_that_no_program_can_have() -> None:
    """A class may be made with any; there is nothing made for it then, and it is kept all the same."""
    kinds: dict[str, Any] = {"class": int, "two words": list[Leaf]}
    fields = {name: attrs.field(type=kind, init=False) for name, kind in kinds.items()}
    made: Any = attrs.make_class("Made", fields, repr=False, eq=False)
    value = made()
    setattr(value, "class", 5)
    setattr(value, "two words", [Leaf("a")])
    shape, _ = shape_of(made)
    encoded = cbor.written(shape.write, value, cbor.DEPTH, {})
    assert encoded == cbor.dumps(shape.pack, value, cbor.DEPTH, {})
    back = shape.unpack(decode_exact(encoded, 9), Reading(strict=True))
    assert (getattr(back, "class"), getattr(back, "two words")) == (5, [Leaf("a")])


@pytest.mark.parametrize(
    "at",
    [
        datetime.datetime(2026, 1, 1, tzinfo=UTC, fold=1),
        datetime.datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
        cbor.EARLIEST,
        cbor.LATEST,
        cbor.LATEST + datetime.timedelta(microseconds=1),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
def test_a_point_in_time_in_a_field(at: datetime.datetime) -> None:
    """It comes back to the microsecond, with its zone, and which of two times it is."""
    shape, _ = shape_of(list[Leaf])
    value = [Leaf("a", at=at)]
    encoded = cbor.written(shape.write, value, cbor.DEPTH, {})
    assert encoded == cbor.dumps(shape.pack, value, cbor.DEPTH, {})
    (back,) = shape.unpack(decode_exact(encoded, 9), Reading(strict=True))
    assert (back.at, back.at.fold, str(back.at.tzinfo)) == (at, at.fold, str(at.tzinfo))


def test_a_map_with_more_is_not_as_usual() -> None:
    """What a class does not know is seen, whatever its name is and however well the rest fits."""
    usual = {"x": 1, "colour": "red"}
    shape, _ = shape_of(Frozen)
    assert shape.unpack({**usual, "_type": "Frozen"}, Reading(strict=True)) == Frozen(1)
    for more in ({"y": 2}, {"_type": "Other"}, {"_type": "Frozen", "y": 2}):
        with pytest.raises(Unbuildable, match="no such field"):
            shape.unpack(usual | more, Reading(strict=True))
