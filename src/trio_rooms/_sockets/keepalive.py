"""Clients that have gone without a word: found by pings, where these are wanted, and by what TCP knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._wire import frames

from .flags import CLOSING, GONE, PAUSED, PINGED
from .links import SocketLink
from .rounds import Rounds
from .tcp import has_vanished

__all__ = ["Keepalive"]

_ROUND: Final = 30.0
"""Seconds in which each socket is looked at once, whether its client has vanished."""
_PING: Final = frames.encode_ping()


class Keepalive:
    """Goes round the sockets for as long as there are any, and gives up whose client is not there any more.

    Args:
        deadlines: those of the runtime.
        sockets: the places where there may be one. They may become more.
        read: reads once from a socket.
        lost: told of a socket whose client is gone.
    """

    __slots__ = ("_deadlines", "_ghosts", "_lost", "_pings", "_read", "_sockets")

    def __init__(
        self,
        deadlines: Deadlines,
        sockets: Sequence[SocketLink | None],
        read: Callable[[SocketLink, int], None],
        lost: Callable[[SocketLink], None],
    ) -> None:
        self._deadlines = deadlines
        self._sockets = sockets
        self._read = read
        self._lost = lost
        self._ghosts = Rounds(deadlines, sockets, _ROUND, self._look)
        self._pings: Rounds | None = None

    def go(self) -> None:
        """There is a socket."""
        self._ghosts.go()
        if self._pings is not None:
            self._pings.go()

    def ping_every(self, seconds: float) -> None:
        """Send each socket a ping once in so many seconds, and give up who does nothing for as long.

        Of several wishes the shortest time holds.
        """
        if self._pings is not None:
            if self._pings.seconds <= seconds:
                return
            self._pings.stop()
            for link in self._sockets:
                if link is not None:
                    link.flags &= ~PINGED  # Whose turn comes early now has had no time to answer.
        self._pings = Rounds(self._deadlines, self._sockets, seconds, self.ping)
        if any(self._sockets):
            self._pings.go()

    def ping(self, link: SocketLink) -> None:
        """Send a ping, unless something is on its way, and give up who has done nothing since the last time.

        To answer is as good as to send anything, or to take some of what is on its way.
        """
        flags, output = link.flags, link.output
        if flags & (CLOSING | GONE) or (output is not None and output.idle):
            return  # The one has a deadline of its own, the other waits for us.
        if flags & PAUSED:
            link.flags &= ~PINGED  # What it has sent is not read.
            return
        still = output is None or not link.moves
        if still and flags & PINGED:
            self._read(link, link.fd)  # Where the event loop stood still, the answer may be here.
            if link.flags & PINGED:
                self._lost(link)
            if link.flags & (CLOSING | GONE):
                return
        link.flags |= PINGED
        if link.output is None:
            link.send_control(_PING)

    def _look(self, link: SocketLink) -> None:
        """Give up a socket whose client has vanished without a word."""
        if has_vanished(link.fd):
            self._lost(link)
