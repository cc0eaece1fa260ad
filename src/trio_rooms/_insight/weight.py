"""How much memory objects take that nobody else has, within bounds of work."""

from __future__ import annotations

import enum
import gc
import types
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from itertools import islice
from sys import getsizeof
from time import perf_counter
from typing import Any, Final

import attrs

from trio_rooms._loop.turn import TURN

__all__ = ["Scales"]

_MOST: Final = 5000
"""Objects that are looked into for one answer."""
_LOOKS: Final = 64
"""Objects looked at between two looks at the clock."""
_FEW: Final = 16
"""Parts of a container that are weighed; where it has more, the others count as these do."""
_GRAIN: Final = 16
"""Bytes of which Python's allocator gives out multiples."""
_VALUES: Final = 56
"""Bytes of what keeps attributes without slots, beside 8 for each: `getsizeof` does not count them."""
_PLAIN: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})
"""What has no parts."""
_SHARED: Final = (
    type,
    enum.Enum,
    Context,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    types.FrameType,
    types.CoroutineType,
    types.GeneratorType,
    types.AsyncGeneratorType,
)
"""What others have, too, or what leads there."""
_Parts = Callable[[Any], Iterable[object]]
_CONTAINERS: Final[tuple[tuple[type, Callable[[Any], int], _Parts], ...]] = (
    # By their own classes' methods: what a subclass has instead is not this module's to call.
    (dict, dict.__len__, lambda one: [part for pair in islice(dict.items(one), _FEW) for part in pair]),
    (list, list.__len__, lambda one: [*list.__getitem__(one, slice(None, None, list.__len__(one) // _FEW))]),
    (tuple, tuple.__len__, lambda one: [*tuple.__getitem__(one, slice(0, _FEW))]),
    (set, set.__len__, lambda one: [*islice(set.__iter__(one), _FEW)]),
    (frozenset, frozenset.__len__, lambda one: [*islice(frozenset.__iter__(one), _FEW)]),
    (deque, deque.__len__, lambda one: [*islice(deque.__iter__(one), _FEW)]),
)
"""What may have many parts: how many those are, and some of them."""


@attrs.define(eq=False)
class Scales:
    """Weighs objects with all that hangs on them, each once.

    It stops at what is shared: classes, modules, functions, and instances of the library's own classes
    but for those that it is told. What it has no time for is counted without its parts. It calls no
    code of an application but ``__sizeof__``, where a class has its own.

    Args:
        owned: modules, by how their names begin, whose classes' instances are looked into, although
            they are the library's or Trio's.
        most: objects that are looked into.
        seconds: for how long.
    """

    _owned: tuple[str, ...] = ()
    left: int = attrs.field(default=_MOST, alias="most")
    """Objects that may still be looked into."""
    _seconds: float = TURN
    _until: float = attrs.field(init=False, factory=perf_counter)
    _seen: dict[int, object] = attrs.field(init=False, factory=dict)
    """By their ids, which are theirs as long as they are here."""
    _kinds: dict[type, bool] = attrs.field(init=False, factory=dict)
    """Whether instances of a class are weighed."""

    def __attrs_post_init__(self) -> None:
        self._until += self._seconds

    def leave_out(self, *objects: object) -> None:
        """Weigh none of these, and nothing that hangs on them alone."""
        self._seen.update((id(one), one) for one in objects)

    @property
    def spent(self) -> bool:
        """Whether there is no time left, and what is weighed from now on counts without its parts."""
        return self.left <= 0

    def weigh(self, *objects: object) -> int:
        """The bytes of some objects and of what hangs on them, without what was weighed before."""
        total, waiting, seen, kinds = 0.0, [(one, 1.0) for one in objects], self._seen, self._kinds
        while waiting:
            one, times = waiting.pop()
            kind = type(one)
            if id(one) in seen:
                continue
            weighed = kinds.get(kind)
            if weighed is None:
                weighed = kinds[kind] = self._is_weighed(kind)
            if not weighed:
                continue
            seen[id(one)] = one
            total += times * shallow(one)
            if kind in _PLAIN or self.left <= 0:
                continue
            self.left -= 1
            if self.left % _LOOKS == 0 and perf_counter() > self._until:
                self.left = 0
                continue
            try:
                parts, share = _parts_of(one, kind)
            except RuntimeError:
                continue  # A thread of the application changes it at this moment.
            if kind.__dictoffset__:
                total += times * (_VALUES + 8 * len(parts))
            times *= share
            waiting += [(part, times) for part in parts]
        return round(total)

    def _is_weighed(self, kind: type) -> bool:
        if issubclass(kind, _SHARED):
            return False
        module = str(kind.__module__)
        return not module.startswith("trio") or module.startswith(self._owned)


def shallow(one: object) -> int:
    """The bytes of one object without its parts."""
    try:
        size = getsizeof(one)
    except Exception:  # noqa: BLE001 (a class of the application may say what it likes)
        return 0
    return (size + _GRAIN - 1) // _GRAIN * _GRAIN


def _parts_of(one: object, kind: type) -> tuple[list[object], float]:
    """Parts of an object, and for how many parts each of them stands."""
    for container, length, some in _CONTAINERS:
        if issubclass(kind, container):
            count = length(one)
            if count > _FEW:
                parts = [*some(one)][: 2 * _FEW]
                of_all = 2 * count if container is dict else count
                return parts, of_all / len(parts)
            break
    return gc.get_referents(one), 1.0
