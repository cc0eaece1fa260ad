"""Messages that go on from one connection to the others of its room, without the room: how many, and how."""

from __future__ import annotations

from time import perf_counter
from typing import Final

import trio

from trio_rooms._loop.deadlines import Deadlines

from .fanout import FanOut
from .flags import CLOSING, GONE, UNGREETED
from .roster import Link

__all__ = ["MOST_BEHIND", "Relay", "Relays"]

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


class Relays:
    """Sends messages on, of each connection as many as it may.

    It knows how much each has sent on lately, and nothing of those that have not for a while. Of each it
    has the time at which what it has sent would be as much as it may. Two tables of these take turns:
    what is only in the older one is of no account any more when that is dropped.

    Args:
        deadlines: those of the runtime.
        fan_out: does what rooms have to send.
    """

    __slots__ = (
        "_armed",
        "_before",
        "_deadlines",
        "_fan_out",
        "_now",
        "_period",
        "dropped",
        "relayed",
        "sent",
    )

    def __init__(self, deadlines: Deadlines, fan_out: FanOut) -> None:
        self._deadlines = deadlines
        self._fan_out = fan_out
        self.relayed: int = 0
        """Messages that went on."""
        self.sent: int = 0
        """Connections that they were sent to."""
        self.dropped: int = 0
        """Messages that did not go on."""
        self._armed = False
        self._period = 1.0
        """Seconds after which they change: until then a connection that was at its limit has nothing left."""
        self._before: dict[int, float] = {}
        self._now: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._before) + len(self._now)

    def allow(self, link: Link, rate: float) -> bool:
        """Whether a connection may send one more: so many a second, as many of them at once, one at least.

        What it may not send is dropped.
        """
        now, number = trio.current_time(), link.id
        pause, burst = 1 / rate, max(1.0, 1 / rate)
        due = max(self._now.get(number) or self._before.get(number, now), now) + pause
        if due > now + burst + _TINY:
            self.dropped += 1
            return False
        self._now[number] = due
        self._period = max(self._period, burst)
        if not self._armed:
            self._wait()
        return True

    def send(self, link: Link, frame: bytes, began: float = 0.0) -> None:
        """Send what came from a connection on to all others of its room, but those that are slow.

        Args:
            link: the connection.
            frame: what came.
            began: when the work on what came with it began, by `perf_counter`, if anything did. What cannot
                be written within a turn of that is written later.
        """
        roster = link.roster
        if link.flags & UNGREETED or (roster.jobs is not None and len(roster.jobs) >= MOST_BEHIND):
            self.dropped += 1
            return
        links = roster.everybody()
        self.relayed += 1
        self.sent += len(links) - 1
        self._fan_out.do(roster, Relay(link, links, frame), began)

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
