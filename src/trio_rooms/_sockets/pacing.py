"""When a message goes to a connection that cannot have it at once, or need not: now, later, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

from .activity import Activity
from .fanout import FanOut
from .flags import CLOSE_SENT, CLOSING, GONE
from .manner import Manner
from .postponed import Entry, Postponements
from .roster import Link
from .sent import Sent

__all__ = ["Pacing"]


class Pacing:
    """Decides it, by what a connection does at the moment.

    Args:
        activity: tells who is hibernated.
        postponements: have written what waits.
        fan_out: does what rooms have to send.
    """

    __slots__ = ("_activity", "_fan_out", "_postponements", "dropped", "postponed")

    def __init__(self, activity: Activity, postponements: Postponements, fan_out: FanOut) -> None:
        self._activity = activity
        self._postponements = postponements
        self._fan_out = fan_out
        self.postponed: int = 0
        """Messages that were to be postponed."""
        self.dropped: int = 0
        """Messages that were not sent, as they were volatile and their connection slow."""

    def postpone(
        self,
        link: Link,
        frame: bytes,
        delay: float | None,
        *,
        key: Hashable = None,
        done: Callable[[], object] | None = None,
    ) -> None:
        """Send a frame later: before whatever else is sent, when the connection becomes active, or in time.

        Args:
            link: the connection; nothing where it is closing or gone.
            frame: what is sent.
            delay: seconds after which it is sent at the latest. None for a connection that is slow: as soon
                as what is under way has gone out.
            key: takes the place of what waits with the same key; None for what nothing takes the place of.
            done: called when it has been written, or waits as any output does. Never, if the connection
                ends before.
        """
        if link.flags & (CLOSING | GONE):
            return
        self.postponed += 1
        entry = (frame, key, done)
        if link.roster.jobs or self._fan_out.holds:
            self._fan_out.do(link.roster, partial(self._postpone, link, entry, delay))
        else:
            self._postpone(link, entry, delay)

    def _postpone(self, link: Link, entry: Entry, delay: float | None, _: float = 0) -> bool:
        """Do so, at once; where nothing is under way there is nothing to wait for."""
        if link.flags & (CLOSE_SENT | GONE):
            return True
        if delay is not None and not self._activity.is_active(link):
            self._activity.hibernate(link)  # What it is found to be: so the next use has this written.
        self._postponements.add(link, entry, delay)
        if delay is None and link.output is None:
            link.send_postponed()
        return True

    def offer(self, link: Link, frame: bytes, manner: Manner) -> None:
        """See `LinkOwner`."""
        unfinished = link.unfinished
        if unfinished is not None and link.slow:
            if manner.volatile:
                self.dropped += 1
                return
            if manner.key is not None:
                self._postpone(link, manner.entry(frame), None)
                return
        elif manner.window:
            active = link.roster.active
            if active is None or link not in active or not self._activity.is_active(link):
                self._activity.hibernate(link)
                self._postponements.add(link, manner.entry(frame), manner.window)
                return
        if unfinished is not None and unfinished.postponed is not None:
            unfinished.postponed.forget(manner.key)
        link.send(frame)

    def counted(self, links: list[Link], channel: str | None, manner: Manner | None = None) -> Sent:
        """What becomes of a message to some connections of a room, if it is sent now.

        Args:
            links: all that `Roster.members` gives for the channel.
            channel: that.
            manner: how it is sent.
        """
        dropped = 0
        if manner is not None and manner.volatile:
            everybody = len(links)
            links = [link for link in links if link.unfinished is None or not link.slow]
            dropped = everybody - len(links)
            active = sum([self._activity.is_active(link) for link in links])
        else:
            active = self._activity.count(links, channel)
        hibernated = len(links) - active
        if manner is not None and manner.window:
            return Sent(active=active, queued=hibernated, dropped=dropped)
        return Sent(active=active, parked=hibernated, dropped=dropped)
