"""Shapes of unions: what is written so that it is known which of the types a value had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from .generated import TYPE
from .shape_classes import Instance
from .shape_containers import Fields, Map
from .shapes import Aside, Division, Enumeration, Literals, Misfit, Part, Reading, Shape, brief, misfit, wrong
from .unions import best_of

__all__ = ["Union"]


class Union(Shape):
    """``A | B``. Where classes are among several maps, each map of a class has its name under ``_type``.

    Args:
        members: the shapes of its types.

    Raises:
        TypeError: two of them could not be told apart again.
    """

    __slots__ = ("_best", "_by_name", "_by_type", "_classes", "_map", "_members", "_tagged")

    def __init__(self, members: tuple[Shape, ...]) -> None:
        self._members = members
        self._classes = [member for member in members if isinstance(member, Instance)]
        maps = [member for member in members if isinstance(member, Map | Fields)]
        self._map = maps[0] if maps else None
        self._tagged = bool(self._classes) and len(self._classes) + len(maps) > 1
        self._by_name = {member.name: member for member in self._classes}
        _refuse_confusion(members, maps, self._classes)
        self._best = None
        if len(self._classes) > 1 and not maps:
            with contextlib.suppress(TypeError):  # Before they had names there, such were refused.
                self._best = best_of([member.kind for member in self._classes])
        self._by_type: dict[type, list[Shape]] = {}
        for member in members:
            for taken in member.takes or ():
                self._by_type.setdefault(taken, []).append(member)
        # An enum has to be asked about each of its values: those are never plain.
        super().__init__(
            " | ".join(member.name for member in members),
            takes=frozenset(self._by_type),
            plain=frozenset[type]().union(*(member.plain for member in members)),
            stored=frozenset[type]().union(*(member.stored for member in members)),
            ready=frozenset[type]().union(*(member.ready for member in members)),
            forms={
                kind: taking[0].forms[kind]
                for kind, taking in self._by_type.items()
                if len(taking) == 1 and kind in taking[0].forms
            },
            direct=any(member.direct for member in members),
        )

    # Written.

    def pack(self, value: Any, levels: int, aside: Aside) -> Any:
        taking = self._taking(value)
        for member in taking[:-1]:
            try:
                return member.pack(value, levels, aside)
            except TypeError:
                continue
        if not taking:
            raise self._wrong(value)
        member = taking[-1]
        packed = member.pack(value, levels, aside)
        if self._tagged:
            if isinstance(member, Instance):
                return {**packed, TYPE: member.name}
            if member is self._map and self._class_of(packed) is not None:
                fields = ", ".join(map(repr, packed))
                msg = f"a map with exactly these keys ({fields}) would come back as one of {self.name}"
                raise TypeError(msg)
        return packed

    def write(self, value: Any, levels: int, aside: Aside, out: list[bytes]) -> None:
        taking = self._taking(value)
        member = taking[0] if len(taking) == 1 else self
        if isinstance(member, Instance) and self._tagged:
            member.write_named(value, levels, aside, out)
        elif member is self or (self._tagged and member is self._map):
            super().write(value, levels, aside, out)
        else:
            member.write(value, levels, aside, out)

    def _taking(self, value: Any) -> list[Shape]:
        return self._by_type.get(type(value), [])

    def _wrong(self, value: Any) -> TypeError:
        for member in self._classes:
            if isinstance(value, member.kind):
                name = type(value).__name__
                return TypeError(f"it is declared as {self.name}, which has no {name}; annotate that too")
        return wrong(self, value)

    def parts(self, value: Any) -> Iterable[Part]:
        taking = self._taking(value)
        return taking[-1].parts(value) if taking else ()

    def divide(self, value: Any, aside: Aside) -> Division | None:
        taking = self._taking(value)
        return taking[0].divide(value, aside) if len(taking) == 1 and not self._tagged else None

    # Read.

    def unpack(self, raw: Any, reading: Reading) -> Any:
        kind = type(raw)
        if kind in self.ready:
            return raw
        if (kind is dict or isinstance(raw, Mapping)) and (self._classes or self._map is not None):
            found = self._class_of(raw) or self._map
            if found is None:
                msg = f"expected {self.name}, got a map of another class ({brief(raw.get(TYPE))})"
                raise Misfit(msg)
            return found.unpack(raw, reading)
        for member in self._members:
            if kind in member.stored:
                try:
                    return member.unpack(raw, reading)
                except Misfit as error:
                    if error.path:
                        raise
        raise misfit(self, raw)

    def _class_of(self, raw: Mapping[Any, Any]) -> Instance | None:
        """The class that a map is an instance of; None for another map.

        What was written before it had names there goes by its fields.
        """
        if not self._tagged:
            return self._classes[0] if self._classes else None
        if TYPE in raw:
            name = raw[TYPE]
            return self._by_name.get(name) if isinstance(name, str) else None
        if self._best is not None:
            kind = self._best(raw)
            return next(member for member in self._classes if member.kind is kind)
        for member in self._classes:
            if raw.keys() == set(member.names):
                return member
        return None

    def describe(self) -> str:
        return " | ".join(sorted(member.describe() for member in self._members))


def _refuse_confusion(members: tuple[Shape, ...], maps: list[Map | Fields], classes: list[Instance]) -> None:
    """Raise a TypeError for two types whose values are stored alike."""
    names = [member.name for member in classes]
    for name in names:
        if names.count(name) > 1:
            msg = f"two classes of a union are called {name}, and by that they would be told apart"
            raise TypeError(msg)
    arrays = [one for one in members if list in one.stored and not isinstance(one, Enumeration)]
    sets = [one for one in members if set in one.stored]
    for alike in (maps, arrays, sets):
        if len(alike) > 1:
            raise _confusion(alike[0], alike[1])
    enums = [one for one in members if isinstance(one, Enumeration)]
    altered = [*enums, *(one for one in members if isinstance(one, Literals) and one.altered)]
    for one in altered:
        for other in members:
            if other is not one and _overlap(one, other):
                raise _confusion(one, other)
    if sum(bytes in one.stored for one in members) > 1:
        found = [one for one in members if bytes in one.stored]
        if any(bytearray in (one.takes or ()) for one in found):
            raise _confusion(found[0], found[1])


def _overlap(one: Any, other: Any) -> bool:
    """Whether a value of one type is stored like one of another; at least one of them is an enum."""
    finite = isinstance(other, Literals) or (isinstance(other, Enumeration) and not other.open)
    if finite and not (isinstance(one, Enumeration) and one.open):
        return bool(one.table.keys() & other.table.keys())
    return bool(one.stored & other.stored)


def _confusion(one: Shape, other: Shape) -> TypeError:
    return TypeError(
        f"{one.name} and {other.name} in one union are stored alike, so that one would come back as the other"
    )
