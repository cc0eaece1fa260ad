"""Which connections are in use: the others are hibernated, and nothing is kept of their not being used.

A connection is *active* while it was used within its room's ``connection_idle_timeout``, or moves more
than ``message_threshold`` messages in an ``activity_window``, or has something under way. It is asked
for at any moment, and is exact then. That a connection has become quiet is noticed by one deadline for
each room that has active ones, moved as they are used; a message sets no timer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import Final

import trio

from trio_rooms._loop.deadlines import Deadline, Deadlines
from trio_rooms._metrics.trace import Trace
from trio_rooms._policy.policy import Policy

from .flags import REPLAYING, UNGREETED
from .roster import Link, Roster
from .use import Use

__all__ = ["Activity", "is_busy"]

_FEW: Final = 256
"""Connections looked at in one go."""
_PAUSE: Final = 0.001
"""Seconds until the next of them: what is due at once may be called before the event loop goes round."""
_LEAST: Final = 0.05
"""Seconds between two looks at the connections of a room, at least."""
_SHARE: Final = 16
"""A room with many active connections looks at all of them so often in an idle timeout."""
_DEFAULT: Final = Policy()


class _Watch:
    """The next look at the active connections of one room."""

    __slots__ = ("at", "deadline", "left", "next", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.deadline: Deadline | None = None
        self.at = inf
        self.left: list[Link] = []
        """Those that are still to be looked at in this look."""
        self.next = inf
        """When the first of those that were looked at may become quiet."""


class Activity:
    """Knows the active connections of each room, in `Roster.active`.

    Args:
        deadlines: those of the runtime.
        trace: is told when connections were last used.
    """

    __slots__ = (
        "_deadlines",
        "_trace",
        "_watches",
        "on_change",
        "on_hibernated",
        "policy",
        "total",
    )

    def __init__(self, deadlines: Deadlines, trace: Trace) -> None:
        self._deadlines = deadlines
        self._trace = trace
        self._watches: dict[Roster, _Watch] = {}
        self.policy: Callable[[str], Policy] = _default
        """That of a room, by its key; the runtime sets it."""
        self.on_hibernated: Callable[[Link], None] = _nothing
        """Told of a connection of an awake room that is hibernated from now on; the runtime sets it."""
        self.total: int = 0
        """How many connections of all rooms are not hibernated."""
        self.on_change: Callable[[], None] | None = None
        """Told when one more is active, and when one has come or left, by which more or fewer may be active;
        who wants to know it sets it."""

    def use(self, link: Link) -> None:
        """A connection is used: its client has sent something, or is sent what is urgent."""
        roster, now = link.roster, trio.current_time()
        if not roster.has(link):
            return  # It has left the room.
        active = roster.active
        if active is None:
            active = roster.active = {}
            watch = self._watches[roster] = _Watch(self.policy(roster.key))
            self._look_at(roster, watch, now + watch.policy.connection_idle_timeout)
        use = active.get(link)
        if use is None:
            active[link] = Use(now)
            self.total += 1
            if link.unfinished is not None:
                link.send_postponed()
            if self.on_change is not None:
                self.on_change()
        else:
            use.last = now
            use.count += 1

    def is_active(self, link: Link, now: float | None = None) -> bool:
        """Whether a connection is active at this moment.

        Args:
            link: the connection.
            now: Trio's time, for whoever asks for many.
        """
        roster = link.roster
        use = None if roster.active is None else roster.active.get(link)
        if use is None:
            return False
        policy = self._watches[roster].policy
        now = trio.current_time() if now is None else now
        if now - use.last < policy.connection_idle_timeout:
            return True
        return use.rate(now, policy.activity_window) > policy.message_threshold or is_busy(link)

    def count(self, links: list[Link], channel: str | None) -> int:
        """How many of some connections of a room are active.

        Args:
            links: all that `Roster.members` gives for the channel.
            channel: that.
        """
        active = links[0].roster.active if links else None
        if not active:
            return 0
        now = trio.current_time()
        if len(links) > len(active):
            links = [
                link
                for link in active
                if not link.flags & UNGREETED and (channel is None or channel in link.channels)
            ]
        return sum([self.is_active(link, now) for link in links])

    def hibernate(self, link: Link) -> None:
        """Take a connection for hibernated from now on; nothing where it is so already."""
        roster = link.roster
        if self._take_out(link):
            if not roster.active:
                self.all_quiet(roster)
            if roster.inbox is not None:
                self.on_hibernated(link)

    def left(self, link: Link) -> None:
        """A connection has left its room."""
        self._take_out(link)
        if self.on_change is not None:
            self.on_change()

    def _take_out(self, link: Link) -> bool:
        """A connection is no longer active; whether it was."""
        active = link.roster.active
        use = None if active is None else active.pop(link, None)
        if use is None:
            return False
        self.total -= 1
        self._note_last(link, use)
        return True

    def all_quiet(self, roster: Roster) -> None:
        """All connections of a room are hibernated: it sleeps, or is forgotten."""
        if roster.active is not None:
            self.total -= len(roster.active)
            if self._trace.notes(roster.key):
                for link, use in roster.active.items():
                    self._note_last(link, use)
            roster.active = None
            self._deadlines.cancel(self._watches.pop(roster).deadline)

    def _note_last(self, link: Link, use: Use) -> None:
        """Say when a connection was last used that is not active any more, if not only as it became so."""
        if use.count or use.level:
            self._trace.rested(link.roster.key, link.id, use.last)

    def in_use(self) -> Iterator[tuple[Roster, Policy, list[tuple[Link, Use]]]]:
        """The active connections, room by room, each room as it is when its turn comes."""
        for roster, watch in [*self._watches.items()]:
            if roster.active:
                yield roster, watch.policy, [*roster.active.items()]

    def _look_at(self, roster: Roster, watch: _Watch, when: float) -> None:
        """Look at all active connections of a room at a time."""
        watch.at = when
        watch.deadline = self._deadlines.set(when, partial(self._look, roster, watch))

    def _look(self, roster: Roster, watch: _Watch) -> None:
        """Hibernate who is quiet, a few at a time."""
        active, now, policy = roster.active, trio.current_time(), watch.policy
        assert active is not None
        if not watch.left:
            watch.left, watch.next = [*active], inf
        few, watch.left = watch.left[:_FEW], watch.left[_FEW:]
        for link in few:
            use = active.get(link)
            if use is None:
                continue  # It has left meanwhile.
            use.settle(now, policy.activity_window)
            until = use.quiet_at(policy)
            if until > now:
                watch.next = min(watch.next, until)
            elif is_busy(link):
                watch.next = now
            else:
                self.hibernate(link)
        if roster.active is not active:
            return
        if watch.left:
            self._look_at(roster, watch, now + _PAUSE)
            return
        if not active:
            self.all_quiet(roster)
            return
        many = len(active) > _FEW or watch.next <= now
        pause = max(_LEAST, policy.connection_idle_timeout / _SHARE if many else 0)
        self._look_at(roster, watch, max(watch.next, now + pause))


def _default(_: str) -> Policy:
    """That of a room which says nothing about it."""
    return _DEFAULT


def _nothing(_: object) -> None:
    """Nobody is to be told."""


def is_busy(link: Link) -> bool:
    """Whether something is under way on a connection, or in the hands of its room."""
    unfinished = link.unfinished
    if unfinished is not None and (unfinished.output is not None or unfinished.partial is not None):
        return True
    inbox = link.roster.inbox
    return bool(link.flags & REPLAYING) or (inbox is not None and inbox.has_mail_of(link))
