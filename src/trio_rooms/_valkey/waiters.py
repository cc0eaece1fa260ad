"""Who waits for an answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from .protocol import ServerError

__all__ = ["Callback", "Durable", "Subscriber", "Task"]

_LOG: Final = logging.getLogger("trio_rooms")


@attrs.define(eq=False)
class Task:
    """The task that makes it, which then waits in `answer`."""

    _task: trio.lowlevel.Task | None = attrs.field(init=False, factory=trio.lowlevel.current_task)
    _reply: Any = attrs.field(init=False, default=None)

    @property
    def gone(self) -> bool:
        """Whether it does not wait any more."""
        return self._task is None

    def settle(self, reply: Any) -> None:
        """It goes on with the answer, or an exception."""
        task = self._task
        if task is not None:
            self._task = None
            self._reply = reply
            trio.lowlevel.reschedule(task)

    async def answer(self) -> Any:
        """Wait, and raise what is an exception."""
        await trio.lowlevel.wait_task_rescheduled(self._give_up)
        if isinstance(self._reply, Exception):
            raise self._reply
        return self._reply

    def _give_up(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        # The answer will come: the waiter keeps its place, so that each gets its own.
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


@attrs.frozen(eq=False)
class Callback:
    """A function that takes the answer, or an exception."""

    _done: Callable[[Any], None]

    def settle(self, reply: Any) -> None:
        """Call it."""
        try:
            self._done(reply)
        except Exception:  # noqa: BLE001 (whoever it is that fails, the others are told)
            _LOG.exception("an answer of the engine could not be handled")


@attrs.frozen(eq=False)
class Durable:
    """Waits for an answer, and then for the replicas."""

    whom: Task | Callback


@attrs.define(eq=False)
class Subscriber:
    """Waits for the echo behind a command that is answered by pushes, or else by an error."""

    whom: Task | Callback
    echo: bytes
    refused: ServerError | None = None
