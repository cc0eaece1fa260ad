"""The answer to what a program asked of a room: exactly one for each question."""

from __future__ import annotations

from typing import Any

import trio

__all__ = ["Answer"]


class Answer:
    """Settled once, with a value or an error; whoever asked may have stopped waiting."""

    __slots__ = ("_error", "_settled", "_value")

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._value: Any = None
        self._error: Exception | None = None

    def succeed(self, value: Any) -> None:
        """Answer; nothing where it is answered already."""
        if not self._settled.is_set():
            self._value = value
            self._settled.set()

    def fail(self, error: Exception) -> None:
        """Answer with an error; nothing where it is answered already."""
        if not self._settled.is_set():
            self._error = error
            self._settled.set()

    async def wait(self) -> Any:
        """The value, once there is one. A cancel only stops the waiting.

        Raises:
            Exception: what it failed with.
        """
        await self._settled.wait()
        if self._error is not None:
            raise self._error
        return self._value
