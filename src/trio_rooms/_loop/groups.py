"""Unwrap nurseries' exception groups at the public boundary: whoever calls this library gets one error."""

from __future__ import annotations

from typing import TypeVar

import trio

__all__ = ["first_error"]

E = TypeVar("E", bound=BaseException)


def first_error(error: E) -> E:
    """The first error in a group that is not a cancellation; an error that is no group is itself."""
    while isinstance(error, BaseExceptionGroup):
        found = [inner for inner in error.exceptions if not _only_cancelled(inner)]
        error = (found or error.exceptions)[0]  # type: ignore[assignment]  # a group of E holds Es
    return error


def _only_cancelled(error: BaseException) -> bool:
    """Whether an error is a cancellation, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(_only_cancelled(inner) for inner in error.exceptions)
    return isinstance(error, trio.Cancelled)
