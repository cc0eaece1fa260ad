"""A plain socket: what a parked one costs is one slotted record, with no task, no timer and no parser."""

from __future__ import annotations

import contextlib
import os
import socket

from .flags import PAUSED, PINGED, RELEASED
from .pollers import READ, WRITE
from .roster import MOST_DESCRIPTORS, Link
from .tcp import unacknowledged
from .unfinished import Output

__all__ = ["SocketLink"]


class SocketLink(Link):
    """A plain socket, known by its descriptor, which stands in the lowest bits of its id.

    A number of its own for the descriptor would be 40 bytes more for each socket.
    """

    __slots__ = ()
    flags: int

    @property
    def fd(self) -> int:
        """The descriptor; not this socket's any more once it is `RELEASED`."""
        return self.id & MOST_DESCRIPTORS

    @property
    def moves(self) -> bool:
        """Whether some of what waits has arrived since it was last asked."""
        output = self.output
        return output is not None and output.moved(unacknowledged(self.fd))

    @property
    def in_flight(self) -> int:
        return super().in_flight + unacknowledged(self.fd)

    def send(self, frame: bytes) -> None:
        unfinished = self.unfinished
        if unfinished is not None and unfinished.postponed is not None:
            self.send_postponed(frame)
            return
        output = None if unfinished is None else unfinished.output
        if output is not None:
            if output.add(frame, self.roster.hub.backlog):
                return
            # Whoever does not read this much will not read more, and everything that waits
            # for it is memory. A frame that is half out is finished: then the reason.
            output.cut()
            self.roster.hub.slow_consumer(self)
            return
        try:
            sent = os.write(self.id & MOST_DESCRIPTORS, frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # The poller reports it too, and the hub then takes the record out.
        if sent != len(frame):
            self.keep_rest(frame, sent)

    def keep_rest(self, frame: bytes, sent: int) -> None:
        """The kernel has taken so many bytes of a frame behind which nothing waits: the rest does."""
        self.output = Output(frame, sent)
        self._watch()

    def flush(self) -> None:
        """Write what the kernel takes now of what waits."""
        output = self.output
        if output is None:
            return
        try:
            sent = os.writev(self.fd, output.next())
        except BlockingIOError:
            return
        except OSError:
            sent = output.size  # As above: reading tells that it is broken.
        if output.sent(sent):
            self.output = None
            self.flags &= ~PINGED
            self._watch()
            if output.last:
                self._shut_down()
            else:
                self.gone_out()
        elif output.idle:
            self._watch()

    def send_eof(self) -> None:
        output = self.output
        if output is not None:
            output.last = True
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        """Tell the other side that nothing follows."""
        # A bare descriptor has no shutdown() in Python; a socket object borrows it for that.
        with contextlib.suppress(OSError):
            borrowed = socket.socket(fileno=self.fd)
            try:
                borrowed.shutdown(socket.SHUT_WR)
            finally:
                borrowed.detach()

    def abort(self) -> None:
        self.output = None
        if not self.flags & RELEASED:
            self.roster.hub.release(self)

    def pause_reading(self) -> None:
        self.flags |= PAUSED
        self._watch()

    def resume_reading(self) -> None:
        self.flags &= ~PAUSED
        self._watch()

    def attend(self) -> None:
        self._watch()

    def _watch(self) -> None:
        """Have the poller watch for what is wanted now."""
        if self.flags & RELEASED:
            return
        output = self.output
        writes = output is not None and not output.idle
        interest = 0 if self.flags & PAUSED else READ
        self.roster.hub.poller.modify(self.fd, interest | WRITE if writes else interest)
