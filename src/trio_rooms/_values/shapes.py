"""What a state was declared to be, and how each part of it is written and read again.

A shape is made once for each declared type, when a room is sealed. It makes values plain by what
was declared and not by what they are, and refuses what would come back as something else: what is
written is read again as it was, to the very types. So what can be known of a type is known before
there is a state, and a save looks at the types of values alone, many at a time where it can.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import ipaddress
import itertools
import math
import reprlib
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
import cbor2

from . import cbor
from .classes import fields, is_class
from .exact import exact, exact_decimal, exact_key, exact_moment
from .heads import FORMS, head

__all__ = [
    "ANY",
    "FEW",
    "KEPT",
    "SCALARS",
    "Aside",
    "Division",
    "Enumeration",
    "Kept",
    "Literals",
    "Misfit",
    "Part",
    "Reading",
    "Shape",
    "Unbuildable",
    "Unfit",
    "brief",
    "forever",
    "kind_name",
    "layers",
    "misfit",
    "wrong",
]


class Unfit(Exception):
    """What is stored is not of its declared shape.

    Args:
        why: what is wrong.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path: list[str] = []
        """Where, from the inside outwards."""

    def __str__(self) -> str:
        where = "".join(reversed(self.path)).removeprefix(".")
        return f"{where}: {self.why}" if where else self.why


class Misfit(Unfit):
    """A value is of another type. A field around it that has a default can take that."""


class Unbuildable(Unfit):
    """An instance cannot be made, since a field without a default is missing or of another type."""


@attrs.define(eq=False)
class Kept:
    """What the class of one instance did not understand of what was stored."""

    instance: Any
    """It is held here, so that its id is not that of another."""
    unknown: dict[str, Any]
    """Fields that the class does not have."""
    replaced: dict[str, tuple[Any, bytes]]
    """Fields of another type: what was stored, and the encoded default that stands in its place."""
    older: dict[str, list[Any]]
    """What was stored in fields that have been given another value since; the newest first."""

    def beside(self, packed: dict[str, Any]) -> dict[str, Any]:
        """An instance's plain fields, with what was set aside."""
        older = {name: list(raws) for name, raws in self.older.items()}
        for name, (raw, default) in self.replaced.items():
            if name in packed and cbor2.dumps(packed[name]) == default:
                packed[name] = _again(raw)  # Nobody has changed it: it stays as it was stored.
            else:
                older.setdefault(name, []).insert(0, raw)
        packed |= {name: _again(raw) for name, raw in self.unknown.items()}
        if older:
            packed[ASIDE] = _layered(older)
        return packed


Aside = dict[int, Kept]
"""What of a state was set aside when it was loaded, by the id of the instance."""
FEW: Final = 16
"""Elements of a container that are written one by one: to call cbor2 takes longer."""
ASIDE: Final = "_aside"
"""The name under which an instance's map has what was stored in fields that have other values now."""


def _layered(older: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The newest of what was set aside of each field, and under `ASIDE` in the same way what is older."""
    newest = {name: _again(raws[0]) for name, raws in older.items()}
    rest = {name: raws[1:] for name, raws in older.items() if raws[1:]}
    return newest | {ASIDE: _layered(rest)} if rest else newest


def layers(raw: Any) -> dict[str, list[Any]]:
    """What was set aside of each field, of what an instance has under `ASIDE`; the newest first."""
    older: dict[str, list[Any]] = {}
    while isinstance(raw, Mapping):
        for name in raw.keys() - {ASIDE}:
            older.setdefault(name, []).append(raw[name])
        raw = raw.get(ASIDE)
    return older


def _again(raw: Any) -> Any:
    """What was read, in the form in which it is written."""
    return exact(raw, cbor.DEPTH)


@attrs.define(eq=False)
class Reading:
    """One state that is being read."""

    strict: bool
    """Whether what would be set aside is an error."""
    aside: Aside = attrs.field(factory=dict)
    found: dict[str, str] = attrs.field(factory=dict)
    """Fields that do not fit, as ``Class.field``, and why."""


@attrs.frozen
class Part:
    """A part of a value: how it is reached, what it is, and what it was declared to be."""

    where: str
    value: Any
    shape: Shape


@attrs.frozen
class Division:
    """A container, so that it can be written in pieces."""

    keys: Iterable[Any] | None
    """The plain keys of a map; None for an array."""
    values: Iterable[Any]
    shapes: Iterable[Shape]


class Shape:
    """One declared type.

    What `pack` makes plain is written by cbor2. `write` writes the same bytes, and is quicker where
    there are classes, and points in time.

    Args:
        name: the type, as an error says it.
        takes: the types of its values, None for any.
        plain: those of ``takes`` that are written as they are, and read as they are.
        stored: the types that its values have when they come out of a document.
        ready: those of ``stored`` that are values already.
        forms: makes the bytes of a value, by its type, where no more has to be known of it.
        direct: whether `write` is quicker than cbor2 for a container of such values.
    """

    __slots__ = ("direct", "forms", "name", "plain", "ready", "stored", "takes")

    def __init__(
        self,
        name: str,
        *,
        takes: frozenset[type] | None,
        plain: Iterable[type] = (),
        stored: frozenset[type] = frozenset(),
        ready: Iterable[type] = (),
        forms: Mapping[type, Callable[[Any], bytes]] | None = None,
        direct: bool = False,
    ) -> None:
        self.name = name
        self.takes = takes
        self.plain = frozenset(plain)
        self.stored = stored
        self.ready = self.plain.union(ready)
        self.forms = forms or {}
        # cbor2 writes many plain values in one go.
        self.direct = direct or bool(self.forms.keys() - self.plain)

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        """Make a value plain.

        Args:
            value: what the state has here.
            levels: how many containers it may be and have inside each other.
            aside: what is written beside the instances that it was read with.

        Raises:
            TypeError, ValueError: it would not come back as it is.
        """
        raise NotImplementedError

    def write(self, value: Any, levels: int, aside: Aside, out: list[bytes]) -> None:
        """Add the bytes of a value to others: those of what `pack` makes of it.

        Raises:
            TypeError, ValueError, cbor2.CBOREncodeError: it would not come back as it is. There may be
                some bytes of it then.
        """
        form = self.forms.get(type(value))
        out.append(cbor.whole(self.pack(value, levels, aside)) if form is None else form(value))

    def write_all(self, values: list[Any], levels: int, aside: Aside, out: list[bytes]) -> None:
        """Add the bytes of each element of a list, which nobody else has."""
        if self.direct or len(values) <= FEW:
            forms, write = self.forms, self.write
            for value in values:
                form = forms.get(type(value))
                if form is None:
                    write(value, levels, aside, out)
                else:
                    out.append(form(value))
        else:
            plain, pack = self.plain, self.pack
            if not plain.issuperset(map(type, values)):
                values = [value if type(value) in plain else pack(value, levels, aside) for value in values]
            out.append(cbor.whole(values)[len(head(4, len(values))) :])

    def unpack(self, raw: Any, reading: Reading) -> Any:
        """Make the value again of what a document has.

        Raises:
            Unfit: it is not of this shape.
        """
        raise NotImplementedError

    def unpack_all(self, raws: Iterable[Any], reading: Reading, where: Callable[[int], str]) -> Any:
        """Make the elements of a container again; nothing is done where they are.

        Args:
            raws: what is stored.
            reading: the state that is being read.
            where: how an element of a number is reached.

        Raises:
            Unfit: one of them is not of this shape.
        """
        ready = self.ready
        if ready.issuperset(map(type, raws)):
            return raws
        unpack = self.unpack
        made: list[Any] = []
        add = made.append
        try:
            for raw in raws:
                add(raw if type(raw) in ready else unpack(raw, reading))
        except Unfit as error:
            error.path.append(where(len(made)))
            raise
        return made

    def describe(self) -> str:
        """What is in the fingerprint of the state for this type."""
        return self.name

    def parts(self, value: Any) -> Iterable[Part]:
        """What a value consists of, to find the part that cannot be written."""
        return ()

    def divide(self, value: Any, aside: Aside) -> Division | None:
        """What a value consists of, to write it in pieces; None if it is written whole."""
        return None


def brief(value: Any) -> str:
    """A value, or the begin of it."""
    return reprlib.repr(value)


def kind_name(kind: Any) -> str:
    """A type as an error says it."""
    if kind is type(None):
        return "None"
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def wrong(shape: Shape, value: Any) -> TypeError:
    """The error for a value that was declared to be something else."""
    return TypeError(
        f"it is declared as {shape.name}, and this {kind_name(type(value))} would not come back as one"
    )


def misfit(shape: Shape, raw: Any) -> Misfit:
    """The error for what is stored and was declared to be something else."""
    return Misfit(f"expected {shape.name}, got {_stored_name(raw)}")


def _stored_name(raw: Any) -> str:
    if isinstance(raw, Mapping):
        return "a map"
    return "a list" if isinstance(raw, list) else type(raw).__name__


# What is not declared.


class _Any(Shape):
    """Any value that comes back as it is without its type being known."""

    __slots__ = ()

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        return exact(value, levels)

    def unpack(self, raw: Any, reading: Reading) -> Any:
        return raw

    def unpack_all(self, raws: Iterable[Any], reading: Reading, where: Callable[[int], str]) -> Any:
        return raws

    def parts(self, value: Any) -> Iterator[Part]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield Part(f" (the key {brief(key)})", key, self)
                yield Part(f"[{brief(key)}]", item, self)
        elif isinstance(value, cbor.ARRAYS):
            for number, item in enumerate(value):
                yield Part(f"[{number}]", item, self)
        elif isinstance(value, set | frozenset):
            for item in value:
                yield Part(f" (the member {brief(item)})", item, self)

    def divide(self, value: Any, aside: Aside) -> Division | None:
        if type(value) is dict:
            keys = (exact_key(key, cbor.DEPTH) for key in value)
            return Division(keys, value.values(), forever(self))
        return Division(None, value, forever(self)) if type(value) is list else None


def forever(shape: Shape) -> Iterator[Shape]:
    """The same shape again and again: that of all elements of a container."""
    return itertools.repeat(shape)


class _Kept(_Any):
    """What is kept as a plain value: a class as a map, and a tuple as a list."""

    __slots__ = ()

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        return cbor.kept(value, levels)

    def parts(self, value: Any) -> Iterator[Part]:
        if is_class(type(value)):
            for name, item in fields(value).items():
                yield Part(f".{name}", item, self)
        else:
            yield from super().parts(value)


ANY: Final[Shape] = _Any(
    "Any", takes=None, plain=cbor.PLAIN, forms={kind: FORMS[kind] for kind in cbor.PLAIN}
)
KEPT: Final[Shape] = _Kept("Any", takes=None, plain=cbor.PLAIN)

# Scalars.


class _Scalar(Shape):
    """A type without parts.

    Args:
        kind: the type.
        plain: the types whose values are written as they are.
        packed: how values of other types are written.
        read: what is made of what comes out of a document as another type.
    """

    __slots__ = ("_packed", "_read")

    def __init__(
        self,
        kind: type,
        plain: Iterable[type] = (),
        packed: Mapping[type, Callable[[Any], Any]] | None = None,
        read: Mapping[type, Callable[[Any], Any]] | None = None,
    ) -> None:
        takes = frozenset((*plain, *(packed or {})))
        stored = frozenset((bytes,)) if kind is bytearray else takes
        super().__init__(
            kind_name(kind),
            takes=takes,
            plain=plain,
            stored=stored,
            ready=stored - (read or {}).keys(),
            # Of a date cbor2 knows best, so that many of them are written in one go.
            forms={} if kind is datetime.date else {taken: FORMS[taken] for taken in takes & FORMS.keys()},
        )
        self._packed = packed or {}
        self._read = dict.fromkeys(stored, _same) | dict(read or {})

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        kind = type(value)
        if kind in self.plain:
            return value
        if kind not in self._packed:
            raise wrong(self, value)
        return self._packed[kind](value)

    def unpack(self, raw: Any, reading: Reading) -> Any:
        read = self._read.get(type(raw))
        if read is None:
            raise misfit(self, raw)
        return read(raw)


def _same(value: Any) -> Any:
    return value


def _decimal_of_float(raw: float) -> decimal.Decimal:
    """CBOR has one form for the infinities and NaN of both kinds of number, which was once used."""
    if math.isfinite(raw):
        msg = "expected Decimal, got float"
        raise Misfit(msg)
    return decimal.Decimal(raw)


SCALARS: Final[Mapping[Any, Shape]] = {
    type(None): _Scalar(type(None), (type(None),)),
    str: _Scalar(str, (str,)),
    bytes: _Scalar(bytes, (bytes,)),
    bytearray: _Scalar(bytearray, (), {bytearray: bytes}, {bytes: bytearray}),
    bool: _Scalar(bool, (bool,)),
    int: _Scalar(int, (int, bool)),
    float: _Scalar(float, (float, int, bool)),  # As type checkers take them.
    datetime.datetime: _Scalar(datetime.datetime, (), {datetime.datetime: exact_moment}),
    datetime.date: _Scalar(datetime.date, (datetime.date,), {datetime.datetime: exact_moment}),
    decimal.Decimal: _Scalar(
        decimal.Decimal, (), {decimal.Decimal: exact_decimal}, {float: _decimal_of_float}
    ),
    **{
        kind: _Scalar(kind, (kind,))
        for kind in (
            uuid.UUID,
            fractions.Fraction,
            ipaddress.IPv4Address,
            ipaddress.IPv6Address,
            ipaddress.IPv4Network,
            ipaddress.IPv6Network,
        )
    },
}


# One of some values.


class Enumeration(Shape):
    """An enum. A member is written as its value or, where values cannot be told apart, as its name."""

    __slots__ = ("_kind", "_packed", "_texts", "_written", "table")

    def __init__(self, kind: type[enum.Enum]) -> None:
        self._kind: Any = kind
        try:
            self._packed = {member.name: _plain_value(member.value) for member in kind}
            self.table = {_identity(packed): kind[name] for name, packed in self._packed.items()}
            apart = len(self.table) == len(self._packed) and None not in self.table
        except (TypeError, ValueError):
            apart = False
        if not apart:
            self._packed = {member.name: member.name for member in kind}
            self.table = {_identity(name): kind[name] for name in self._packed}
        stored = frozenset(type(packed) for packed in self._packed.values())
        if issubclass(kind, enum.Flag):
            stored |= {int}
        self._written = {name: cbor.whole(packed) for name, packed in self._packed.items()}
        texts = {raw: kind[name] for name, raw in self._packed.items() if type(raw) is str}
        # A class of an enum may have made something else of one.
        self._texts = {raw: member for raw, member in texts.items() if type(member) is kind}
        super().__init__(kind.__name__, takes=frozenset((kind,)), stored=stored, forms={kind: self._bytes_of})

    @property
    def open(self) -> bool:
        """Whether it has more values than members: flags can be combined."""
        return issubclass(self._kind, enum.Flag)

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        if type(value) is not self._kind:
            raise wrong(self, value)
        if value._name_ in self._packed:
            return self._packed[value._name_]
        return value._value_

    def _bytes_of(self, member: Any) -> bytes:
        """What is written of a member."""
        written = self._written.get(member._name_)
        return cbor.whole(member._value_) if written is None else written

    def unpack(self, raw: Any, reading: Reading) -> Any:
        member: Any = self._texts.get(raw) if type(raw) is str else None
        if member is not None:
            return member
        member = self.table.get(_identity(raw))
        if member is None and self.open and type(raw) is int:
            try:
                member = self._kind(raw)
            except ValueError:
                member = None
        # A flag may drop the bits that it does not know.
        if type(member) is not self._kind or (self.open and type(raw) is int and member._value_ != raw):
            msg = f"{self.name} has no member with the value {brief(raw)}"
            raise Misfit(msg)
        return member

    def describe(self) -> str:
        return f"enum({', '.join(sorted(repr(packed) for packed in self._packed.values()))})"


def _plain_value(value: Any) -> Any:
    """The value of an enum's member as it comes out of a document."""
    return value if type(value) in cbor.PLAIN else cbor2.loads(cbor.encode(value))


def _identity(raw: Any) -> Any:
    """What tells one plain value from others: True == 1 == 1.0."""
    if type(raw) in cbor.PLAIN:
        return type(raw), raw
    try:
        frozen = cbor.frozen(raw)
        hash(frozen)
    except TypeError:
        return None
    return type(frozen), frozen


class Literals(Shape):
    """Literal[...]: what is a member of an enum is written as that is.

    Args:
        kind: the type.
        enumeration: gives the shape of an enum.
    """

    __slots__ = ("_packed", "_written", "altered", "table")

    def __init__(self, kind: Any, enumeration: Callable[[type[enum.Enum]], Shape]) -> None:
        self._packed: dict[Any, Any] = {}
        for value in typing.get_args(kind):
            is_member = isinstance(value, enum.Enum)
            packed = enumeration(type(value)).pack(value, cbor.DEPTH, {}) if is_member else value
            self._packed[type(value), value] = packed
        self.table = {_identity(packed): value for (_, value), packed in self._packed.items()}
        self.altered = any(isinstance(value, enum.Enum) for _, value in self._packed)
        """Whether something is written otherwise than it is."""
        super().__init__(
            kind_name(kind),
            takes=frozenset(taken for taken, _ in self._packed),
            stored=frozenset(type(packed) for packed in self._packed.values()),
            forms={taken: self._bytes_of for taken, _ in self._packed},
        )
        self._written = {value: cbor.whole(packed) for value, packed in self._packed.items()}

    def _bytes_of(self, value: Any) -> bytes:
        """What is written of a value."""
        written = self._written.get((type(value), value))
        return cbor.whole(self.pack(value, 0, {})) if written is None else written

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        try:
            return self._packed[type(value), value]
        except (KeyError, TypeError):
            msg = f"it is declared as {self.name}, and this is {brief(value)}"
            raise TypeError(msg) from None

    def unpack(self, raw: Any, reading: Reading) -> Any:
        identity = _identity(raw)
        if identity not in self.table:
            msg = f"expected {self.name}, got {brief(raw)}"
            raise Misfit(msg)
        return self.table[identity]

    def describe(self) -> str:
        return f"literal({', '.join(sorted(repr(packed) for packed in self._packed.values()))})"
