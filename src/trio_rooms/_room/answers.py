"""The answer to what a program asked of a room: exactly one for each question."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import trio

__all__ = ["Answer", "Late", "own"]

E = TypeVar("E", bound=Exception)


def own(error: E) -> E:
    """The same error once more, for one of many who are told of it: each raises one of its own.

    Raising writes the traceback and the context into an error, so two tasks cannot share one.
    """
    another = copy.copy(error)
    another.__cause__ = error.__cause__
    return another


class Late:
    """An answer that is given when what rooms do goes out again; a piece of their output.

    Args:
        answer: what is settled.
        settle: does so.
    """

    __slots__ = ("_answer", "_settle")

    def __init__(self, answer: Answer, settle: Callable[[], None]) -> None:
        self._answer = answer
        self._settle = settle

    def __call__(self, _: float) -> bool:
        self._settle()
        return True

    def refuse(self, error: Exception) -> None:
        """It is never given."""
        self._answer.fail(own(error))


class Answer:
    """Settled once, with a value or an error; whoever asked may have stopped waiting.

    An error is kept only until it is raised: its traceback has frames that have this answer.
    """

    __slots__ = ("_abandoned", "_error", "_settled", "_value")

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._value: Any = None
        self._error: Exception | None = None
        self._abandoned = False

    @property
    def settled(self) -> bool:
        """Whether there is one, whoever still waits for it."""
        return self._settled.is_set()

    def succeed(self, value: Any) -> None:
        """Answer; nothing where it is answered already."""
        if not self._settled.is_set():
            self._value = value
            self._settled.set()

    def fail(self, error: Exception) -> None:
        """Answer with an error; nothing where it is answered already."""
        if not self._settled.is_set():
            if not self._abandoned:
                self._error = error
            self._settled.set()

    async def wait(self) -> Any:
        """The value, once there is one; to be called once. A cancel only stops the waiting.

        Raises:
            Exception: what it failed with.
        """
        try:
            await self._settled.wait()
        except trio.Cancelled:
            self._abandoned, self._error = True, None
            raise
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self._value
