"""Messages that go on from one connection to the others of its room, without the room: how many, and how."""

from __future__ import annotations

from time import perf_counter
from typing import Final

import trio

from trio_rooms._loop.deadlines import Deadlines

from .flags import CLOSING, GONE, UNGREETED
from .roster import Link

__all__ = ["MOST_BEHIND", "Rates", "Relay"]

MOST_BEHIND: Final = 100
"""Pieces of output of a room that may wait to be written; what would have to wait behind these is dropped."""
_CHUNK: Final = 64
"""Sockets written to between two looks at the clock."""
_TINY: Final = 1e-6
"""Seconds that do not count: ten times a tenth is more than one, where it is added up."""


class Relay:
    """One message on its way to all others of a room, as it came. Who is slow does not get it.

    Args:
        sender: who does not get it either.
        links: all who are in the room.
        frame: the message.
    """

    __slots__ = ("_at", "_frame", "_links", "_sender")

    def __init__(self, sender: Link, links: list[Link], frame: bytes) -> None:
        self._sender = sender
        self._links = links
        self._frame = frame
        self._at = 0

    def __call__(self, until: float) -> bool:
        links, frame, sender = self._links, self._frame, self._sender
        while self._at < len(links):
            for link in links[self._at : self._at + _CHUNK]:
                if link.flags & (CLOSING | GONE | UNGREETED) or link is sender:
                    continue
                if link.unfinished is None or not link.slow:
                    link.send(frame)
            self._at += _CHUNK
            if perf_counter() > until:
                break
        return self._at >= len(links)


class Rates:
    """How much each connection has sent on lately; nothing of those that have not for a while.

    Of each it has the time at which what it has sent would be as much as it may. Two tables
    of these take turns: what is only in the older one is of no account any more when that is dropped.

    Args:
        deadlines: those of the runtime.
    """

    __slots__ = ("_armed", "_before", "_deadlines", "_now", "_period")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._armed = False
        self._period = 1.0
        """Seconds after which they change: until then a connection that was at its limit has nothing left."""
        self._before: dict[int, float] = {}
        self._now: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._before) + len(self._now)

    def allow(self, link: Link, rate: float) -> bool:
        """Whether a connection may send one more: so many a second, as many of them at once, one at least."""
        now, number = trio.current_time(), link.id
        pause, burst = 1 / rate, max(1.0, 1 / rate)
        due = max(self._now.get(number) or self._before.get(number, now), now) + pause
        if due > now + burst + _TINY:
            return False
        self._now[number] = due
        self._period = max(self._period, burst)
        if not self._armed:
            self._wait()
        return True

    def _wait(self) -> None:
        """Change the tables later."""
        self._armed = True
        self._deadlines.set(trio.current_time() + self._period, self._change)

    def _change(self) -> None:
        """Drop the older table; the other is the older one from now on."""
        self._before, self._now = self._now, {}
        self._armed = False
        if self._before:
            self._wait()
