"""Unions of classes: which of them a map is."""

from __future__ import annotations

import collections.abc
import itertools
import typing
from collections.abc import Callable, Mapping
from typing import Any

import cattrs

from .classes import declared, is_class
from .kinds import is_literal, origin_of
from .structure import Member, member_of

__all__ = ["best_of", "chooser_of", "members_of"]


def members_of(kind: Any) -> list[Any]:
    """The types in a union, but for None."""
    return [member for member in typing.get_args(kind) if member is not type(None)]


def chooser_of(kind: Any, converter: cattrs.Converter) -> Callable[[Any], Member | None]:
    """What says, of a value, which class of a union it is; None for what is no map, or for no classes.

    Raises:
        TypeError: two of the classes cannot be told apart.
    """
    classes = [member for member in members_of(kind) if is_class(member)]
    best = best_of(classes) if len(classes) > 1 else lambda _: classes[0]
    made = {member: member_of(converter, member) for member in classes}

    def choose(value: Any) -> Member | None:
        return made[best(value)] if classes and isinstance(value, collections.abc.Mapping) else None

    return choose


def best_of(classes: list[Any]) -> Callable[[Mapping[Any, Any]], Any]:
    """What finds the class that fits a map best: by Literal fields first, then by the names of fields."""
    names = {kind: {name for name, _ in declared(origin_of(kind))} for kind in classes}
    hints = {kind: typing.get_type_hints(origin_of(kind)) for kind in classes}
    literals = {
        kind: {name: typing.get_args(hint) for name, hint in hints[kind].items() if is_literal(hint)}
        for kind in classes
    }
    for one, other in itertools.combinations(classes, 2):
        told_apart = any(
            not set(allowed) & set(literals[other][name])
            for name, allowed in literals[one].items()
            if name in literals[other]
        )
        if names[one] == names[other] and not told_apart:
            msg = (
                f"{one.__qualname__} and {other.__qualname__} have the same fields; tell them apart "
                f'by one more, such as kind: Literal["{one.__name__.lower()}"]'
            )
            raise TypeError(msg)

    def best(value: Mapping[Any, Any]) -> Any:
        def misfit(kind: Any) -> tuple[int, int]:
            wrong = sum(value.get(name) not in allowed for name, allowed in literals[kind].items())
            # In how many names the two differ, but for the size of the map: it may have a megabyte of them.
            return wrong, len(names[kind]) - 2 * sum(name in value for name in names[kind])

        return min(classes, key=misfit)

    return best
