"""Exception groups are how nurseries speak; a caller, and a room, are told of errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import trio

__all__ = ["alone", "ends_the_program", "first_error", "parted"]

_PASSING: Final = (trio.Cancelled, KeyboardInterrupt, SystemExit)
"""What is not about whoever raised it: a cancellation from around, and what ends the program."""


def alone(error: BaseException) -> BaseException:
    """The one error in a group of one, however deep; a group of several, and any other error, is itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def parted(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What of an error must go on, whoever it meets, and the rest of it; None for what there is not."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(_PASSING)
    return (error, None) if isinstance(error, _PASSING) else (None, error)


def first_error(error: BaseException) -> BaseException:
    """What a group of errors is about; an error that is no group is itself.

    The first that ends the program, or else the first that is not a cancellation.
    """
    leaves = [*_leaves(error)]
    ends = (leaf for leaf in leaves if ends_the_program(leaf))
    news = (leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled))
    return next(ends, None) or next(news, leaves[0])


def ends_the_program(error: BaseException) -> bool:
    """Whether an error, or one in a group, is meant for the program as a whole."""
    return any(isinstance(leaf, KeyboardInterrupt | SystemExit) for leaf in _leaves(error))


def _leaves(error: BaseException | BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    """The errors in a group and in its groups, in order."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
