"""The mail of one awake room, in order, and the task that waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterable
from typing import Any, Final

import trio

from .mail import Mail

__all__ = ["Mailbox"]

_HIGH: Final = 1000
"""Mail in the box from which on the room's sockets are not read until it has caught up."""


class _Woken:
    """What a waiting task is sent: like ``outcome.Value(None)``, but made once for all."""

    __slots__ = ()

    def unwrap(self) -> None:
        """No value, and no error."""


_WOKEN: Final[Any] = _Woken()


class Mailbox:
    """Keeps the order of mail, and loses no wakeup.

    Its reader takes mail from `mail` itself, message by message, and calls `wait` when there
    is none. Between the look at `mail` and the wait nothing may be awaited: then whatever comes
    later finds the task waiting.
    """

    __slots__ = ("current", "mail", "waiter")

    def __init__(self) -> None:
        self.mail: deque[Mail] = deque()
        self.current: Mail | None = None
        """What is being handled."""
        self.waiter: trio.lowlevel.Task | None = None
        """The task that waits; there is at most one."""

    def post(self, mail: Mail) -> bool:
        """Put mail in at the end; False when the box is nearly full."""
        box = self.mail
        box.append(mail)
        task = self.waiter
        if task is not None:
            self.waiter = None
            trio.lowlevel.reschedule(task, _WOKEN)
        return len(box) < _HIGH

    def put_back(self, mail: Iterable[Mail]) -> None:
        """Put mail in before all other, in its order."""
        self.mail.extendleft(reversed([*mail]))
        self.poke()

    def poke(self) -> None:
        """Let the task go on that waits, if there is one, though there may be no mail."""
        task = self.waiter
        if task is not None:
            self.waiter = None
            trio.lowlevel.reschedule(task, _WOKEN)

    def wait(self, task: trio.lowlevel.Task) -> Awaitable[Any]:
        """Wait until mail comes, or a poke. A cancel loses nothing.

        Args:
            task: the task that awaits what this returns.
        """
        self.waiter = task
        # Awaited by the caller, so that a wait is one coroutine and not two.
        return trio.lowlevel.wait_task_rescheduled(self._stop_waiting)  # noqa: ASYNC105

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        """The waiting task was cancelled: there is nobody to wake any more."""
        self.waiter = None
        return trio.lowlevel.Abort.SUCCEEDED

    def drain(self) -> list[Mail]:
        """Take out all mail."""
        drained = [*self.mail]
        self.mail.clear()
        return drained
