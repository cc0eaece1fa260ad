"""Looks at a node's lease before anything runs, so that nothing goes out once it is over.

A process may stand still at any moment, for as long as it likes: it is stopped and goes on, or its machine is
too busy. Whoever runs first afterwards must not be a room. So the look is in Trio's loop, before each batch
of tasks; and, where the process was stopped in the midst of one of them, in the handler of the signal with
which it goes on. What stood between such a look and the write that follows it goes out all the same: one
write. And a machine whose clock stood still with it is not noticed here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import trio

from trio_rooms._sockets.hub import SocketHub

from .seat import Seat

__all__ = ["Watchman"]


class Watchman(trio.abc.Instrument):
    """Has a seat checked, and so the node paused, before any task runs.

    Args:
        seat: the node's.
        hub: its sockets.
    """

    def __init__(self, seat: Seat, hub: SocketHub) -> None:
        self._seat = seat
        self._hub = hub
        self._ran_out = False
        """Whether the signal handler found the lease over, and what follows from that is still to be done."""
        self._off_duty = False

    @contextmanager
    def on_duty(self) -> Iterator[None]:
        """Look, until the end of the block, in the run of Trio that it is in."""
        trio.lowlevel.add_instrument(self)
        continued: Any = getattr(signal, "SIGCONT", None)
        before: Callable[[int, FrameType | None], Any] | int | None = None
        if continued is not None and threading.current_thread() is threading.main_thread():
            before = signal.getsignal(continued)

        def goes_on(number: int, frame: FrameType | None) -> None:
            self.continued()
            if callable(before):
                before(number, frame)

        # One that was not set by Python cannot be set again, so it stays.
        if before is not None:
            signal.signal(continued, goes_on)
        try:
            yield
        finally:
            self._off_duty = True
            trio.lowlevel.remove_instrument(self)
            if before is not None and signal.getsignal(continued) is goes_on:
                signal.signal(continued, before)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 (see `trio.abc.Instrument`)
        """Before a batch of tasks."""
        seat = self._seat
        if seat.valid and seat.now() >= seat.deadline:
            seat.check()
        if self._ran_out:
            self._ran_out = False
            if seat.valid:
                self._hub.let_output_go()  # It was renewed by what ran meanwhile.

    def continued(self) -> None:
        """The process goes on, in the midst of whatever it did when it was stopped."""
        seat = self._seat
        if seat.valid and not self._off_duty and seat.now() >= seat.deadline:
            self._ran_out = True
            self._hub.hold_output()
