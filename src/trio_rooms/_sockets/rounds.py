"""Rounds through all sockets, a few at a time: what each needs now and then, without a timer for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from trio_rooms._loop.deadlines import Deadline, Deadlines

from .links import SocketLink

__all__ = ["Rounds"]

_FEW: Final = 64
"""Places that are looked at between two turns of the event loop."""


class Rounds:
    """Calls a function for each socket once in so many seconds, and never many of them together.

    Args:
        deadlines: those of the runtime.
        sockets: the places where there may be one. They may become more.
        seconds: for one round through all of them.
        visit: what is done for each; it may let go of it.
    """

    __slots__ = ("_at", "_deadline", "_deadlines", "_due", "_met", "_sockets", "_visit", "seconds")

    def __init__(
        self,
        deadlines: Deadlines,
        sockets: Sequence[SocketLink | None],
        seconds: float,
        visit: Callable[[SocketLink], None],
    ) -> None:
        self.seconds: float = seconds
        self._deadlines = deadlines
        self._sockets = sockets
        self._visit = visit
        self._at = 0
        self._met = 0
        self._due = 0.0
        self._deadline: Deadline | None = None

    def go(self) -> None:
        """Go round, for as long as there are sockets; nothing where it does so already."""
        if self._deadline is None:
            self._at = self._met = 0
            self._due = trio.current_time()
            self._wait()

    def stop(self) -> None:
        """Go round no more."""
        self._deadlines.cancel(self._deadline)
        self._deadline = None

    def _wait(self) -> None:
        """Go on after the part of the round's time that the next few take."""
        pause = self.seconds / max(-(-len(self._sockets) // _FEW), 1)
        # Who was late once makes up for it, and still leaves time between two visits.
        self._due = max(self._due + pause, trio.current_time() + pause / 2)
        self._deadline = self._deadlines.set(self._due, self._step)

    def _step(self) -> None:
        """Visit the next few."""
        few = self._sockets[self._at : self._at + _FEW]
        self._at += _FEW
        for link in few:
            if link is not None:
                self._met += 1
                self._visit(link)
        if self._at >= len(self._sockets):
            if not self._met:
                self._deadline = None
                return
            self._at = self._met = 0
        self._wait()
