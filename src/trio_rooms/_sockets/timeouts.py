"""Deadlines of those on the other side: what has arrived is read before anybody is called late."""

from __future__ import annotations

from collections.abc import Callable, Sized
from functools import partial
from typing import Final

import trio

from trio_rooms._loop.deadlines import Deadline, Deadlines

from .pollers import MOST_EVENTS, Poller

__all__ = ["Timeouts"]

_READS: Final = 32
"""Times that a socket was read whose time has come, if there is still something to be read then."""


class Timeouts:
    """For all that ends a connection because something did not come in time.

    Where the event loop stood still, or is busy, it may be there.

    Args:
        deadlines: those of the runtime.
        poller: tells whether there is something to be read.
        sockets: the places where there may be one. They may become more.
    """

    __slots__ = ("_deadlines", "_overdue", "_poller", "_sockets", "_until", "rounds")

    def __init__(self, deadlines: Deadlines, poller: Poller, sockets: Sized) -> None:
        self._deadlines = deadlines
        self._poller = poller
        self._sockets = sockets
        self.rounds: int = 0
        """Answers of the poller that were worked off; counted by who does so."""
        self._overdue: list[Callable[[], object]] = []
        self._until = 0
        """The round after which they are called at the latest."""

    def set(self, when: float, call: Callable[[], object]) -> Deadline | None:
        """Call ``call()`` at ``when``, as `Deadlines.set` does, but not before what has arrived was read.

        Cancelled by `Deadlines.cancel`.
        """
        return self._deadlines.set(when, partial(self._due, call))

    def _due(self, call: Callable[[], object]) -> None:
        """The time of a call has come."""
        self._overdue.append(call)
        if len(self._overdue) == 1:
            every_socket = len(self._sockets) // MOST_EVENTS + 1
            self._until = self.rounds + _READS * every_socket
            self._call_overdue()

    def _call_overdue(self) -> None:
        """Call what is due, when nothing is left to be read or every socket was read often enough."""
        if self.rounds < self._until and self._poller.poll():
            self._deadlines.set(trio.current_time(), self._call_overdue)  # Reading has its turn before.
            return
        (first, *others), self._overdue = self._overdue, []
        first()
        for call in others:
            self._deadlines.set(trio.current_time(), call)  # A few at a time, as all deadlines.
