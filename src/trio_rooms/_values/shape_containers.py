"""Shapes of containers: lists, deques, tuples, sets, and maps of all kinds."""

from __future__ import annotations

import collections
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import cbor2

from .cbor import DEPTH, frozen, inside
from .exact import exact_deque, exact_set, exact_tuple
from .heads import ARRAYS, head
from .shapes import (
    ANY,
    FEW,
    Aside,
    Division,
    Misfit,
    Part,
    Reading,
    Shape,
    Unfit,
    brief,
    forever,
    misfit,
    wrong,
)

__all__ = ["Fields", "List", "Map", "Set", "Tuple"]

_Made = TypeVar("_Made", bound=Collection[Any])
_ARRAY: Final = frozenset((list, tuple))
"""What arrays are when they come out of a document; as keys and members of sets they are tuples."""
_SET: Final = frozenset((set, frozenset))
_MAP: Final = frozenset((dict, cbor2.frozendict))


def _pack_all(values: Iterable[Any], shape: Shape, levels: int, aside: Aside) -> Any:
    """Make the elements of a container plain; nothing is done where they are."""
    plain = shape.plain
    if plain.issuperset(map(type, values)):
        return values
    pack = shape.pack
    return [item if type(item) in plain else pack(item, levels, aside) for item in values]


def _write_array(value: Iterable[Any], item: Shape, levels: int, aside: Aside, out: list[bytes]) -> None:
    """Add the bytes of an array of elements that all have one shape."""
    levels = inside(levels)
    values = list(value)  # Whoever changes the state all the same cannot make its length a lie.
    count = len(values)
    out.append(ARRAYS[count] if count < 256 else head(4, count))
    if count:
        item.write_all(values, levels, aside, out)


def _hashable(values: Collection[Any], shape: Shape, levels: int, aside: Aside) -> Any:
    """Make the keys of a map or the members of a set plain, and hashable again.

    Raises:
        TypeError: two of them are written alike, such as objects that are told apart by identity.
    """
    if shape.plain.issuperset(map(type, values)):
        return values
    made = [frozen(item) for item in _pack_all(values, shape, levels, aside)]
    if len(set(made)) != len(made):
        msg = f"two of its {shape.name} are stored alike, so that one would come back; keep them in a list"
        raise TypeError(msg)
    return made


def _all_apart(made: _Made, raw: Collection[Any]) -> _Made:
    """A set or a map, if it has as many members as are stored.

    Raises:
        Misfit: its class has lost what told two of them apart, and one would be gone with the next save.
    """
    if len(made) != len(raw):
        msg = f"of its {len(raw)} members only {len(made)} could be told apart"
        raise Misfit(msg)
    return made


def _at(number: int) -> str:
    """How an element of an array is reached."""
    return f"[{number}]"


class List(Shape):
    """A list or a deque, or an abstract sequence, which may be a tuple as well.

    Args:
        kind: ``list`` or ``collections.deque``.
        item: the shape of its elements.
        or_tuple: whether it may be a tuple, too.
    """

    __slots__ = ("_item", "_kind")

    def __init__(self, kind: type, item: Shape, *, or_tuple: bool = False) -> None:
        self._kind = kind
        self._item = item
        name = "Sequence" if or_tuple else kind.__name__
        takes = frozenset((kind, tuple) if or_tuple else (kind,))
        # What was written as something else is left to whoever wrote it: it would be written as a list.
        super().__init__(f"{name}[{item.name}]", takes=takes, stored=takes | {list}, direct=item.direct)

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        kind = type(value)
        if kind not in (self.takes or ()):
            raise wrong(self, value)
        levels = inside(levels)
        if kind is list:
            return _pack_all(value, self._item, levels, aside)
        if kind is tuple:
            return exact_tuple(list(_pack_all(value, self._item, levels, aside)))
        if value.maxlen is None:
            return list(_pack_all(value, self._item, levels, aside))
        return exact_deque(value.maxlen, list(_pack_all(value, self._item, inside(levels), aside)))

    def write(self, value: Any, levels: int, aside: Aside, out: list[bytes]) -> None:
        kind: type = type(value)
        if kind is self._kind and (kind is list or value.maxlen is None):
            _write_array(value, self._item, levels, aside, out)
        else:
            super().write(value, levels, aside, out)

    def unpack(self, raw: Any, reading: Reading) -> Any:
        if type(raw) not in self.stored:
            raise misfit(self, raw)
        items = self._item.unpack_all(raw, reading, _at)
        if self._kind is collections.deque:
            return collections.deque(items, raw.maxlen if type(raw) is collections.deque else None)
        if type(raw) is tuple and tuple in (self.takes or ()):
            return tuple(items)
        return items if type(items) is list else list(items)

    def describe(self) -> str:
        return f"{self._kind.__name__}[{self._item.describe()}]"

    def parts(self, value: Any) -> Iterator[Part]:
        if type(value) in (self.takes or ()):
            for number, item in enumerate(value):
                yield Part(f"[{number}]", item, self._item)

    def divide(self, value: Any, aside: Aside) -> Division | None:
        if type(value) is not list or self._kind is not list:
            return None
        return Division(None, value, forever(self._item))


class Set(Shape):
    """A set, frozen or not, or either.

    Args:
        kinds: what it may be.
        item: the shape of its members.
    """

    __slots__ = ("_item", "_kind")

    def __init__(self, kinds: tuple[type, ...], item: Shape) -> None:
        self._kind = kinds[0] if len(kinds) == 1 else None
        self._item = item
        name = "Set" if self._kind is None else self._kind.__name__
        super().__init__(f"{name}[{item.name}]", takes=frozenset(kinds), stored=_SET)

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        kind = type(value)
        if kind not in (self.takes or ()):
            raise wrong(self, value)
        members = _hashable(value, self._item, inside(levels), aside)
        return exact_set(members, immutable=self._kind is None and kind is frozenset)

    def unpack(self, raw: Any, reading: Reading) -> Any:
        if type(raw) not in _SET:
            raise misfit(self, raw)
        kind = self._kind or type(raw)
        made = kind(self._item.unpack_all(raw, reading, lambda _: " (a member)"))
        return _all_apart(made, raw)

    def describe(self) -> str:
        return f"set[{self._item.describe()}]"

    def parts(self, value: Any) -> Iterator[Part]:
        if type(value) in (self.takes or ()):
            for item in value:
                yield Part(f" (the member {brief(item)})", item, self._item)


class Tuple(Shape):
    """A tuple of any or of fixed length, or a named one.

    Args:
        kind: ``tuple``, or the class of a named one.
        items: the shapes of its elements; one, of all of them, where ``fixed`` is false.
        fixed: whether it has as many elements as there are shapes.
    """

    __slots__ = ("_defaults", "_fixed", "_items", "_kind")

    def __init__(self, kind: Any, items: tuple[Shape, ...], *, fixed: bool) -> None:
        self._kind = kind
        self._items = items
        self._fixed = fixed
        defaults: Mapping[str, Any] = getattr(kind, "_field_defaults", {})
        self._defaults = [defaults[name] for name in getattr(kind, "_fields", ()) if name in defaults]
        inner = ", ".join(item.name for item in items) + ("" if fixed else ", ...")
        name = f"tuple[{inner}]" if kind is tuple else kind.__name__
        super().__init__(name, takes=frozenset((kind,)), stored=_ARRAY, direct=True)

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        if type(value) is not self._kind:
            raise wrong(self, value)
        levels = inside(levels)
        if not self._fixed:
            return list(_pack_all(value, self._items[0], levels, aside))
        if len(value) != len(self._items):
            msg = f"it is declared as {self.name}, and this has {len(value)} elements"
            raise TypeError(msg)
        return [
            item if type(item) in shape.plain else shape.pack(item, levels, aside)
            for item, shape in zip(value, self._items, strict=True)
        ]

    def write(self, value: Any, levels: int, aside: Aside, out: list[bytes]) -> None:
        if type(value) is not self._kind or (self._fixed and len(value) != len(self._items)):
            super().write(value, levels, aside, out)
        elif not self._fixed:
            _write_array(value, self._items[0], levels, aside, out)
        else:
            levels = inside(levels)
            out.append(head(4, len(value)))
            for item, shape in zip(value, self._items, strict=True):
                shape.write(item, levels, aside, out)

    def unpack(self, raw: Any, reading: Reading) -> Any:
        if type(raw) not in _ARRAY:
            raise misfit(self, raw)
        if not self._fixed:
            return tuple(self._items[0].unpack_all(raw, reading, _at))
        missing = len(self._items) - len(raw)
        if missing and not 0 < missing <= len(self._defaults):
            msg = f"expected {self.name}, got {len(raw)} elements"
            raise Misfit(msg)
        made: list[Any] = []
        try:
            for item, shape in zip(raw, self._items, strict=False):
                made.append(item if type(item) in shape.ready else shape.unpack(item, reading))
        except Unfit as error:
            error.path.append(_at(len(made)))
            raise
        made += self._defaults[len(self._defaults) - missing :] if missing else []
        return tuple(made) if self._kind is tuple else tuple.__new__(self._kind, made)

    def describe(self) -> str:
        inner = ", ".join(item.describe() for item in self._items)
        return f"tuple[{inner}{'' if self._fixed else ', ...'}]"

    def parts(self, value: Any) -> Iterator[Part]:
        if type(value) is self._kind:
            items = self._items if self._fixed else forever(self._items[0])
            for number, (item, shape) in enumerate(zip(value, items, strict=False)):
                yield Part(f"[{number}]", item, shape)


class Map(Shape):
    """A dict, or another map of the standard library.

    Args:
        kind: the class.
        key: the shape of its keys.
        value: the shape of its values.
        default: for a defaultdict, what makes the value of a key that it does not have.
    """

    __slots__ = ("_default", "_key", "_kind", "_value")

    def __init__(
        self, kind: type, key: Shape, value: Shape, default: Callable[[], Any] | None = None
    ) -> None:
        self._kind = kind
        self._key = key
        self._value = value
        self._default = default
        name = f"{kind.__name__}[{key.name}, {value.name}]"
        super().__init__(name, takes=frozenset((kind,)), stored=_MAP, direct=value.direct)

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        kind: type = type(value)
        if kind is not self._kind:
            raise wrong(self, value)
        if kind is collections.defaultdict and not _same(value.default_factory, self._default):
            msg = (
                f"its default_factory is {_name(value.default_factory)}, and would be {_name(self._default)} "
                "when it comes back: that of the default of the field, else the type of the values"
            )
            raise TypeError(msg)
        levels = inside(levels)
        key, inner = self._key, self._value
        packed = _pack_all(value.values(), inner, levels, aside)
        keys = _hashable(value, key, levels, aside)
        return value if keys is value and type(packed) is not list else dict(zip(keys, packed, strict=True))

    def write(self, value: Any, levels: int, aside: Aside, out: list[bytes]) -> None:
        if type(value) is not dict or self._kind is not dict or not (self._value.direct or len(value) <= FEW):
            super().write(value, levels, aside, out)
            return
        keys, values, write, begin = self._key.forms, self._value.forms, self._value.write, len(out)
        inner = inside(levels)
        items = list(value.items())  # As for an array.
        out.append(head(5, len(items)))
        for key, item in items:
            form = keys.get(type(key))
            if form is None:
                del out[begin:]
                super().write(value, levels, aside, out)
                return
            out.append(form(key))
            form = values.get(type(item))
            if form is None:
                write(item, inner, aside, out)
            else:
                out.append(form(item))

    def unpack(self, raw: Any, reading: Reading) -> Any:
        if type(raw) is not dict and not isinstance(raw, Mapping):
            raise misfit(self, raw)
        keys = self._key.unpack_all(raw, reading, lambda number: f" (the key {_nth(raw, number)})")
        stored = raw.values()
        values = self._value.unpack_all(stored, reading, lambda number: f"[{_nth(raw, number)}]")
        if keys is raw and values is stored and type(raw) is self._kind is dict:
            return raw
        made = _all_apart(dict(zip(keys, values, strict=True)), raw)
        if self._kind is dict:
            return made
        if self._kind is collections.defaultdict:
            return collections.defaultdict(self._default, made)
        return self._kind(made)

    def describe(self) -> str:
        return f"{self._kind.__name__}[{self._key.describe()}, {self._value.describe()}]"

    def parts(self, value: Any) -> Iterator[Part]:
        kind: type = type(value)
        if kind is self._kind:
            for key, item in value.items():
                yield Part(f" (the key {brief(key)})", key, self._key)
                yield Part(f"[{brief(key)}]", item, self._value)

    def divide(self, value: Any, aside: Aside) -> Division | None:
        if type(value) is not dict or self._kind is not dict:
            return None
        keys = _hashable(value, self._key, DEPTH, aside)
        return Division(keys, value.values(), forever(self._value))


def _nth(raw: Mapping[Any, Any], number: int) -> str:
    """A key by its number."""
    return brief(list(raw)[number])


def _same(one: Any, other: Any) -> bool:
    """Whether two functions make the same: a lambda in a default is another one in each instance."""
    if one is other or (one is None) != (other is None):
        return one is other
    return (
        isinstance(one, types.FunctionType)
        and isinstance(other, types.FunctionType)
        and one.__code__ == other.__code__
        and not one.__code__.co_freevars
        and one.__defaults__ == other.__defaults__
        and one.__globals__ is other.__globals__
    )


def _name(factory: Any) -> str:
    return getattr(factory, "__qualname__", repr(factory))


class Fields(Shape):
    """A TypedDict.

    Args:
        name: its name.
        fields: the shapes of its values; those of other keys may be anything.
    """

    __slots__ = ("fields",)

    def __init__(self, name: str, fields: Mapping[str, Shape]) -> None:
        self.fields = fields
        super().__init__(name, takes=frozenset((dict,)), stored=_MAP, direct=True)

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        if type(value) is not dict:
            raise wrong(self, value)
        levels = inside(levels)
        return {
            frozen(ANY.pack(key, levels, aside)): self._shape(key).pack(item, levels, aside)
            for key, item in value.items()
        }

    def write(self, value: Any, levels: int, aside: Aside, out: list[bytes]) -> None:
        items = list(value.items()) if type(value) is dict else ()
        if not items or not all(type(key) is str for key, _ in items):
            super().write(value, levels, aside, out)
            return
        levels = inside(levels)
        out.append(head(5, len(items)))
        for key, item in items:
            ANY.write(key, levels, aside, out)
            self._shape(key).write(item, levels, aside, out)

    def unpack(self, raw: Any, reading: Reading) -> Any:
        if type(raw) is not dict and not isinstance(raw, Mapping):
            raise misfit(self, raw)
        made = {}
        for key, item in raw.items():
            try:
                made[key] = self._shape(key).unpack(item, reading)
            except Unfit as error:
                error.path.append(f"[{brief(key)}]")
                raise
        return made

    def describe(self) -> str:
        return f"{{{', '.join(f'{name}: {shape.describe()}' for name, shape in self.fields.items())}}}"

    def parts(self, value: Any) -> Iterator[Part]:
        if type(value) is dict:
            for key, item in value.items():
                yield Part(f" (the key {brief(key)})", key, ANY)
                yield Part(f"[{brief(key)}]", item, self._shape(key))

    def _shape(self, key: Any) -> Shape:
        """The shape of the value of a key."""
        return self.fields.get(key, ANY)
