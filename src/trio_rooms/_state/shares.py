"""What of a state takes how much: an estimate, of bounded work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final

import attrs

__all__ = ["largest_parts"]

_SAMPLE: Final = 8
"""Elements of a container that are looked at; the others are taken to be like them."""
_DEEP: Final = 3
"""Levels of containers in each other."""
_PARTS: Final = 64
"""Parts of a state that are looked at."""
_SMALL: Final = 8
"""Bytes of whatever is not looked into."""
_LONGEST_NAME: Final = 64
"""Characters of a name that are told."""


def largest_parts(state: Any, count: int) -> tuple[tuple[str, int], ...]:
    """The parts of a state that take most of its snapshot.

    Args:
        state: an instance of an attrs class, or a dict; anything else has no parts.
        count: of how many is wanted.

    Returns:
        Their names, and about how many bytes each takes, the largest first.
    """
    sizes = [(_name(name), round(_size(value, _DEEP))) for name, value in islice(_parts(state), _PARTS)]
    return tuple(sorted(sizes, key=lambda one: -one[1])[:count])


def _parts(state: Any) -> Iterator[tuple[Any, Any]]:
    """The names and values of what a state is made of."""
    if attrs.has(type(state)):
        for field in attrs.fields(type(state)):
            yield field.name, getattr(state, field.name, None)
    elif isinstance(state, Mapping):
        yield from state.items()


def _name(name: Any) -> str:
    """What a part is called, for people."""
    return str(name)[:_LONGEST_NAME]


def _size(value: Any, levels: int) -> float:
    """About how many bytes a value takes."""
    if isinstance(value, str | bytes | bytearray):
        return len(value) + 1
    if not levels:
        return _SMALL
    if isinstance(value, Mapping):
        some = [_size(key, 0) + _size(one, levels - 1) for key, one in islice(value.items(), _SAMPLE)]
    elif isinstance(value, Sequence | AbstractSet):
        some = [_size(one, levels - 1) for one in islice(value, _SAMPLE)]
    elif attrs.has(type(value)):
        return sum(len(name) + _size(one, levels - 1) for name, one in islice(_parts(value), _PARTS))
    else:
        return _SMALL
    return len(value) * sum(some) / len(some) if some else 1
