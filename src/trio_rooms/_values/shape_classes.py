"""Shapes of classes with fields: how an instance is taken apart, and built again without its ``__init__``.

As pickle does it: fields are set to what they were, and nothing of the class is called. So a state
that could be saved can be loaded, whatever ``__init__`` takes, and whatever a validator says.

What is usual is done by functions made for each class (`generated`), and all else by the methods here.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs
import cbor2

from .cbor import DEPTH, inside, whole
from .generated import TYPE, UNMADE, make, switch
from .shapes import (
    ASIDE,
    Aside,
    Division,
    Kept,
    Misfit,
    Part,
    Reading,
    Shape,
    Unbuildable,
    Unfit,
    layers,
    misfit,
)

__all__ = ["Field", "Instance", "default_of", "fields_of"]

_PLANS: Final = 64
"""Combinations of types for which it is remembered what is plain: enough for six fields that may be None."""
_UNFIT: Final = (list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float, BaseException)
"""What a class with fields may not be as well: it has content that is no field."""

Default = Callable[[Any], Any]
"""Makes the default of a field, of the instance."""
_Plan = tuple[tuple[str, Callable[[Any, int, Aside], Any]], ...]
"""The fields of an instance that are not plain, and what makes them so."""


@attrs.frozen
class Field:
    """One field of a class."""

    name: str
    shape: Shape
    default: Default | None
    """None where it has none."""
    required: bool
    """Whether an instance without it cannot be: one that ``__init__`` does not take may be set later."""


@attrs.frozen
class Declared:
    """A field as the class declares it."""

    name: str
    kind: Any
    """The type as it is written, maybe a string; None where there is none."""
    default: Default | None
    init: bool


def fields_of(kind: Any) -> list[Declared]:
    """The fields of an attrs class or a dataclass, in order."""
    if attrs.has(kind):
        return [Declared(one.name, one.type, _attrs_default(one), one.init) for one in attrs.fields(kind)]
    return [Declared(one.name, one.type, _default(one), one.init) for one in dataclasses.fields(kind)]


def _attrs_default(field: attrs.Attribute[Any]) -> Default | None:
    made: Any = field.default
    if made is attrs.NOTHING:
        return None
    make: Default
    if isinstance(made, attrs.Factory):  # type: ignore[arg-type]
        make = made.factory if made.takes_self else lambda _: made.factory()
    else:
        make = lambda _: made  # noqa: E731 (it is one of three)
    convert: Any = field.converter
    if convert is None:
        return make
    if isinstance(convert, attrs.Converter):
        convert = typing.cast("Any", convert)
        return lambda instance: convert(make(instance), instance, field)
    return lambda instance: convert(make(instance))


def _default(field: dataclasses.Field[Any]) -> Default | None:
    if field.default_factory is not dataclasses.MISSING:
        factory = field.default_factory
        return lambda _: factory()
    return None if field.default is dataclasses.MISSING else lambda _: field.default


def default_of(field: Declared) -> Any:
    """The default of a field where it can be made without an instance; else None."""
    try:
        return None if field.default is None else field.default(None)
    except Exception:  # noqa: BLE001 (a default may need an instance, and then raise anything)
        return None


class Instance(Shape):
    """An attrs class or a dataclass; its fields are filled in later, since they may have its type.

    Args:
        kind: the class, without parameters.

    Raises:
        TypeError: it holds more than its fields.
    """

    __slots__ = (
        "_count",
        "_derived",
        "_has_dict",
        "_hash_cached",
        "_plans",
        "_read",
        "fields",
        "kind",
        "names",
        "unpack",
        "unpack_all",
        "write",
        "write_all",
        "write_named",
    )
    # Functions that are made for the class, in place of the methods of a shape.
    write: Callable[..., None]
    write_all: Callable[..., None]
    write_named: Callable[..., None]
    """Writes an instance with the name of its class, as a union has them."""
    unpack: Callable[..., Any]
    unpack_all: Callable[..., Any]

    def __init__(self, kind: Any) -> None:
        if issubclass(kind, _UNFIT):
            msg = f"{kind.__name__} is a container, a number or an exception as well; that would be lost"
            raise TypeError(msg)
        super().__init__(
            kind.__name__,
            takes=frozenset((kind,)),
            stored=frozenset((dict, cbor2.frozendict)),
            direct=switch.on,
        )
        self.kind = kind
        if switch.on:
            self._make_later()
        else:
            self._do_carefully()
        self.fields: tuple[Field, ...] = ()
        self.names: tuple[str, ...] = ()
        self._count = 0
        self._has_dict = bool(kind.__dictoffset__)
        self._hash_cached = attrs.has(kind) and "CACHED" in attrs.inspect(kind).hashability.name
        self._derived = frozenset(
            name
            for base in kind.__mro__
            for name, value in vars(base).items()
            if isinstance(value, functools.cached_property)
        )
        self._read: Callable[[Any], tuple[Any, ...]] = lambda _: ()
        self._plans: dict[tuple[type, ...], _Plan] = {}

    def fill(self, fields: tuple[Field, ...]) -> None:
        """Say what its fields are."""
        self.fields = fields
        self.names = names = tuple(field.name for field in fields)
        self._count = len(names)
        if len(names) > 1:  # For one, attrgetter gives the value and no tuple.
            self._read = operator.attrgetter(*names)
        else:
            self._read = lambda value: tuple(getattr(value, name) for name in names)

    # What is made for the class.

    def _make_later(self) -> None:
        """Have them made when one is needed, and the shapes of all fields are known."""

        def made_first(name: str) -> Callable[..., Any]:
            def function(*given: Any) -> Any:
                self._make()
                return getattr(self, name)(*given)

            return function

        self.write = made_first("write")
        self.write_all = made_first("write_all")
        self.write_named = made_first("write_named")
        self.unpack = made_first("unpack")
        self.unpack_all = made_first("unpack_all")

    def _make(self) -> None:
        careful: dict[str, Callable[..., Any]] = {
            "write": self._write,
            "write_named": self._write_named,
            "unpack": self._unpack,
            "amend": self._unpack,
        }
        shapes = [field.shape for field in self.fields]
        made = make(
            self.kind,
            self.names,
            shapes,
            careful,
            has_dict=self._has_dict,
            hash_cached=self._hash_cached,
        )
        if made is None:
            self._do_carefully()
        else:
            self.write, self.write_all, self.write_named = made.write, made.write_all, made.write_named
            self.unpack, self.unpack_all = made.unpack, made.unpack_all

    def _do_carefully(self) -> None:
        """Do without functions that are made for the class."""
        self.write, self.write_named, self.unpack = self._write, self._write_named, self._unpack
        self.write_all, self.unpack_all = super().write_all, super().unpack_all

    # Written.

    def _write(self, value: Any, levels: int, aside: Aside, out: list[bytes]) -> None:
        out.append(whole(self.pack(value, levels, aside)))

    def _write_named(self, value: Any, levels: int, aside: Aside, out: list[bytes]) -> None:
        out.append(whole(self.pack(value, levels, aside) | {TYPE: self.name}))

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        if type(value) is not self.kind or (self._has_dict and len(value.__dict__) > self._count):
            self._check(value)
        levels = inside(levels)
        try:
            values = self._read(value)
        except AttributeError:
            packed = self._pack_partly(value, levels, aside)
        else:
            types = tuple(map(type, values))
            plan = self._plans.get(types)
            if plan is None:
                plan = self._plan(types)
            packed = dict(zip(self.names, values, strict=True))
            for name, pack in plan:
                packed[name] = pack(packed[name], levels, aside)
        if aside and (kept := aside.get(id(value))) is not None:
            return kept.beside(packed)
        return packed

    def _plan(self, types: tuple[type, ...]) -> _Plan:
        """Which fields have to be made plain, where values are of these types."""
        plan = tuple(
            (field.name, field.shape.pack)
            for field, kind in zip(self.fields, types, strict=True)
            if kind not in field.shape.plain
        )
        if len(self._plans) < _PLANS:
            self._plans[types] = plan
        return plan

    def _pack_partly(self, value: Any, levels: int, aside: Aside) -> dict[str, Any]:
        """The fields of an instance in which some were never set."""
        return {
            field.name: field.shape.pack(getattr(value, field.name), levels, aside)
            for field in self.fields
            if hasattr(value, field.name)
        }

    def _check(self, value: Any) -> None:
        """Raise what is wrong with an instance as a whole."""
        kind = type(value)
        if kind is not self.kind:
            if isinstance(value, self.kind):
                msg = (
                    f"it is declared as {self.name}, and its subclass {kind.__name__} would come back as "
                    f"one; annotate what it may be: {self.name} | {kind.__name__}"
                )
            else:
                msg = f"it is declared as {self.name}, and this {kind.__name__} would not come back as one"
            raise TypeError(msg)
        if self._has_dict and len(value.__dict__) > len(self.names):
            more = value.__dict__.keys() - set(self.names) - self._derived - {"_attrs_cached_hash"}
            if more:
                msg = f"its {', '.join(sorted(more))} would not come back: {self.name} has no such field"
                raise TypeError(msg)

    def parts(self, value: Any) -> Iterator[Part]:
        if type(value) is self.kind:
            for field in self.fields:
                if hasattr(value, field.name):
                    yield Part(f".{field.name}", getattr(value, field.name), field.shape)

    def divide(self, value: Any, aside: Aside) -> Division | None:
        self._check(value)
        try:
            values = self._read(value)
        except AttributeError:
            return None
        if aside and id(value) in aside:
            return None
        return Division(self.names, values, (field.shape for field in self.fields))

    # Read.

    def _unpack(
        self,
        raw: Any,
        reading: Reading,
        failed: Unfit | None = None,
        read: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make an instance of anything that is stored.

        Args:
            raw: what is stored.
            reading: the state that is being read.
            failed: what was wrong with one of its fields, if it was tried.
            read: those that were read by then, with `UNMADE` in place of that one and of those behind it;
                fields that are not in it are as they are stored.
        """
        if type(raw) is not dict and not isinstance(raw, Mapping):
            raise misfit(self, raw)
        instance = object.__new__(self.kind)
        missing: list[Field] = []
        replaced: dict[str, tuple[Any, bytes]] = {}
        put = object.__setattr__
        for field in self.fields:
            name = field.name
            if name not in raw:
                missing.append(field)
                continue
            item = raw[name]
            if type(item) not in field.shape.ready:
                known = UNMADE if read is None else read.get(name, item)
                try:
                    if known is not UNMADE:
                        item = known
                    elif failed is not None:
                        raise failed
                    else:
                        item = field.shape.unpack(item, reading)
                except Misfit as error:
                    failed = None
                    if field.default is None or reading.strict:
                        raise self._unbuildable(field, error) from None
                    reading.found.setdefault(f"{self.name}.{name}", str(error))
                    replaced[name] = (item, b"")
                    continue
                except Unfit as error:
                    failed = None
                    error.path.append(f".{name}")
                    raise
            put(instance, name, item)
        if self._hash_cached:
            put(instance, "_attrs_cached_hash", None)
        if missing or replaced or len(raw) != self._count:
            self._complete(instance, raw, missing, replaced, reading)
        return instance

    def _unbuildable(self, field: Field, error: Misfit) -> Unbuildable:
        """The error for a field of another type that nothing can stand in for."""
        made = Unbuildable(error.why)
        made.path = [*error.path, f".{field.name}"]
        return made

    def _complete(
        self,
        instance: Any,
        raw: Mapping[Any, Any],
        missing: list[Field],
        replaced: dict[str, tuple[Any, bytes]],
        reading: Reading,
    ) -> None:
        """See to what is missing in an instance, of another type, or unknown to the class."""
        older = layers(raw.get(ASIDE))
        for field in (*missing, *(field for field in self.fields if field.name in replaced)):
            name = field.name
            if self._restore(instance, field, older, reading):
                # Its type is what it once was: what is there now gives way.
                if name in replaced:
                    older.setdefault(name, []).insert(0, replaced.pop(name)[0])
            elif field.default is not None:
                made = field.default(instance)
                object.__setattr__(instance, name, made)
                if name in replaced:
                    replaced[name] = (replaced[name][0], _encoded(field.shape, made))
            elif field.required:
                error = Unbuildable("required field missing")
                error.path.append(f".{name}")
                raise error
        unknown = {name: item for name, item in raw.items() if name not in self.names and name != ASIDE}
        if unknown.get(TYPE) == self.name:
            del unknown[TYPE]  # Written by a union, and so again by that.
        if unknown or replaced or older:
            self._set_aside(Kept(instance, unknown, replaced, older), reading)

    def _restore(self, instance: Any, field: Field, older: dict[str, list[Any]], reading: Reading) -> bool:
        """Set a field to the newest of what was set aside of it before that is of its type now."""
        raws = older.get(field.name, ())
        for number, raw in enumerate(raws):
            try:
                made = field.shape.unpack(raw, reading)
            except Misfit:
                continue
            object.__setattr__(instance, field.name, made)
            older[field.name] = [*raws[:number], *raws[number + 1 :]]
            if not older[field.name]:
                del older[field.name]
            return True
        return False

    def _set_aside(self, kept: Kept, reading: Reading) -> None:
        """Note what the class does not understand.

        Raises:
            Misfit: it is no instance of any class.
        """
        if not all(type(name) is str for name in kept.unknown):
            raise misfit(self, kept.unknown)
        for name in sorted(kept.unknown, key=str):
            if reading.strict:
                error = Unbuildable(f"{self.name} has no such field")
                error.path.append(f".{name}")
                raise error
            reading.found.setdefault(f"{self.name}.{name}", "there is no such field")
        try:
            kept.beside({})
        except (TypeError, ValueError) as error:
            msg = f"what {self.name} does not understand could not be written again: {error}"
            raise Unbuildable(msg) from error
        reading.aside[id(kept.instance)] = kept


def _encoded(shape: Shape, value: Any) -> bytes:
    """A default as it will be written, to know later whether it was changed."""
    try:
        return cbor2.dumps(shape.pack(value, DEPTH, {}))
    except Exception:  # noqa: BLE001 (what cannot be written is refused when it is saved)
        return b""
