"""From a declared type to its shape, and to the fingerprint of all that a state consists of."""

from __future__ import annotations

import collections
import collections.abc
import hashlib
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from .classes import is_class, refuse_shared_defaults
from .generated import TYPE
from .kinds import (
    MAPS,
    is_anything,
    is_enum,
    is_list,
    is_literal,
    is_map,
    is_set,
    is_tuple,
    is_union,
    origin_of,
)
from .shape_classes import Declared, Field, Instance, default_of, fields_of
from .shape_containers import Fields, List, Map, Set, Tuple
from .shape_unions import Union
from .shapes import ANY, ASIDE, SCALARS, Enumeration, Literals, Shape, kind_name

__all__ = ["shape_of"]

_NO_SAMPLE: Final = object()
_IMMUTABLE_TOO: Final = (collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable)
"""The abstract lists that a tuple is one of as well."""


def shape_of(kind: Any, sample: Any = _NO_SAMPLE) -> tuple[Shape, str]:
    """The shape of a type, and its fingerprint: 16 hexadecimal digits.

    Args:
        kind: the type, as an annotation may say it.
        sample: a value of it, if there is one, that has what cannot be stored: what a
            defaultdict makes.

    Raises:
        TypeError: some of its values could not be saved, or would come back as something else;
            the message says where in it.
    """
    compiler = _Compiler()
    shape = compiler.shape(kind, None if sample is _NO_SAMPLE else sample)
    return shape, hashlib.blake2b(compiler.describe(shape).encode(), digest_size=8).hexdigest()


@attrs.define(eq=False)
class _Compiler:
    """Makes the shapes of one state, each class once."""

    _classes: dict[Any, Instance] = attrs.field(factory=dict)
    _names: dict[Any, str] = attrs.field(factory=dict)

    def describe(self, shape: Shape) -> str:
        """All that decides how a state is stored, in words."""
        lines = [shape.describe()]
        for one in self._classes.values():
            fields = (f"{field.name}: {field.shape.describe()}" for field in one.fields)
            lines.append(f"{one.name}: {', '.join(fields)}")
        return "\n".join(lines)

    def shape(self, kind: Any, sample: Any = None) -> Shape:
        """The shape of a type.

        Args:
            kind: the type.
            sample: the default of the field that has it.
        """
        kind = _bare(kind)
        if is_anything(kind):
            return ANY
        if kind is None:
            kind = type(None)
        if is_union(kind):
            return self._union(kind, sample)
        if is_literal(kind):
            return Literals(kind, Enumeration)
        if is_class(kind):
            return self._class(kind)
        if is_enum(kind):
            return Enumeration(kind)
        if typing.is_typeddict(origin_of(kind)):
            return self._typed_dict(kind)
        if is_tuple(kind):
            return self._tuple(kind)
        arguments = typing.get_args(kind)
        if is_list(kind):
            return self._list(kind, arguments)
        if is_set(kind):
            item = self.shape((*arguments, Any)[0])
            either = origin_of(kind) is collections.abc.Set
            one = frozenset if origin_of(kind) is frozenset else set
            return Set((set, frozenset) if either else (one,), item)
        if is_map(kind):
            return self._map(kind, arguments, sample)
        if isinstance(kind, collections.abc.Hashable) and kind in SCALARS:
            return SCALARS[kind]
        if isinstance(kind, str | typing.ForwardRef):
            msg = f"the annotation {kind!r} cannot be resolved; define what it names at module level"
            raise TypeError(msg)
        msg = f"a {kind_name(kind)} cannot be saved; a class must be an attrs class or a dataclass"
        raise TypeError(msg)

    def _class(self, kind: Any) -> Shape:
        if kind in self._classes:
            return self._classes[kind]
        origin = origin_of(kind)
        refuse_shared_defaults(origin)
        made = self._classes[kind] = Instance(origin)
        hints = _hints(origin)
        variables = dict(zip(getattr(origin, "__parameters__", ()), typing.get_args(kind), strict=False))
        fields = []
        for declared in fields_of(origin):
            if declared.name == ASIDE:
                msg = f"{made.name}.{declared.name}: this name is taken for what a class does not understand"
                raise TypeError(msg)
            try:
                fields.append(self._field(declared, hints, variables))
            except TypeError as error:
                msg = f"{made.name}.{declared.name}: {error}"
                raise TypeError(msg) from None
        made.fill(tuple(fields))
        return made

    def _field(self, declared: Declared, hints: Mapping[str, Any], variables: Mapping[Any, Any]) -> Field:
        hint = hints.get(declared.name, Any if declared.kind is None else declared.kind)
        hint = _substituted(hint, variables)
        sample = default_of(declared) if _mentions(hint, collections.defaultdict) else None
        return Field(declared.name, self.shape(hint, sample), declared.default, declared.init)

    def _union(self, kind: Any, sample: Any) -> Shape:
        members = [self.shape(member, sample) for member in typing.get_args(kind)]
        flat: list[Shape] = []
        for member in members:
            if member is ANY:
                return ANY
            if member not in flat:
                flat.append(member)
        for member in flat:
            if isinstance(member, Instance) and len(flat) > 1 and any(f.name == TYPE for f in member.fields):
                msg = f"{member.name} has a field {TYPE!r}, where a union has the names of its classes"
                raise TypeError(msg)
        return Union(tuple(flat)) if len(flat) > 1 else flat[0]

    def _typed_dict(self, kind: Any) -> Shape:
        hints = _hints(origin_of(kind))
        return Fields(kind_name(origin_of(kind)), {name: self.shape(hint) for name, hint in hints.items()})

    def _tuple(self, kind: Any) -> Shape:
        origin, arguments = origin_of(kind), typing.get_args(kind)
        if hasattr(origin, "_fields"):
            hints = _hints(origin)
            items = tuple(self.shape(hints.get(name, Any)) for name in origin._fields)
            return Tuple(origin, items, fixed=True)
        if origin is not tuple:
            msg = f"a {kind_name(origin)} would come back as a tuple"
            raise TypeError(msg)
        if kind is tuple or kind is typing.Tuple or arguments[-1:] == (...,):  # noqa: UP006 (what somebody wrote)
            return Tuple(tuple, (self.shape((*arguments, Any)[0]),), fixed=False)
        return Tuple(tuple, tuple(map(self.shape, arguments)), fixed=True)

    def _list(self, kind: Any, arguments: tuple[Any, ...]) -> Shape:
        origin = origin_of(kind)
        item = self.shape((*arguments, Any)[0])
        made = collections.deque if origin is collections.deque else list
        return List(made, item, or_tuple=origin in _IMMUTABLE_TOO)

    def _map(self, kind: Any, arguments: tuple[Any, ...], sample: Any) -> Shape:
        origin = origin_of(kind)
        if origin is collections.Counter:
            arguments = (*(arguments or (Any,)), float)
        key, value = (self.shape(argument) for argument in (arguments or (Any, Any)))
        default = None
        if origin is collections.defaultdict:
            default = _default_factory(sample, arguments[1:])
        return Map(MAPS[origin], key, value, default)


def _default_factory(sample: Any, values: tuple[Any, ...]) -> Callable[[], Any] | None:
    """What a defaultdict makes: what the default of its field does, else what its values are."""
    if isinstance(sample, collections.defaultdict):
        return sample.default_factory
    factory = origin_of(_bare(values[0])) if values else None
    return factory if isinstance(factory, type) else None


def _bare(kind: Any) -> Any:
    """A type without what says nothing about its values: Annotated, NewType, Final, aliases."""
    while True:
        origin = typing.get_origin(kind)
        if origin in (typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired):
            kind = typing.get_args(kind)[0]
        elif isinstance(kind, typing.NewType):
            kind = kind.__supertype__
        elif isinstance(kind, typing.TypeVar):
            kind = Any if kind.__bound__ is None else kind.__bound__
        elif type(kind).__name__ == "TypeAliasType":  # type X = ..., from Python 3.12 on
            kind = kind.__value__
        elif kind is typing.Final:
            return Any
        else:
            return kind


def _hints(kind: Any) -> dict[str, Any]:
    """The annotations of a class, resolved.

    Raises:
        TypeError: one of them names what is not there.
    """
    try:
        return typing.get_type_hints(kind, localns={kind.__name__: kind})
    except Exception as error:
        msg = (
            f"an annotation of {kind.__name__} cannot be resolved ({error}); "
            "define what it names at module level"
        )
        raise TypeError(msg) from error


def _substituted(hint: Any, variables: Mapping[Any, Any]) -> Any:
    """A type with its variables replaced, those of a generic class."""
    if isinstance(hint, typing.TypeVar):
        return variables.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if not parameters or isinstance(hint, type):
        return hint
    return hint[tuple(variables.get(one, Any) for one in parameters)]


def _mentions(hint: Any, wanted: Any) -> bool:
    """Whether a type is one, or a union with it."""
    hint = _bare(hint)
    return origin_of(hint) is wanted or any(
        _mentions(one, wanted) for one in typing.get_args(hint) if is_union(hint)
    )
