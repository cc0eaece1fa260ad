"""Sockets of one room at this node, whose home is another: what they send goes there."""

from __future__ import annotations

from typing import ClassVar, Protocol

from trio_rooms._sockets.flags import BINARY
from trio_rooms._sockets.roster import Disconnected, Link, Roster, SocketEvent

from .kinds import ENTER, GONE, KIND, LEFT, MAIL, SLOW
from .lanes import FULL, Lane

__all__ = ["Uplink"]


class Holder(Protocol):
    """Who holds uplinks: the gateway."""

    connections: int

    def passed(self) -> None:
        """A message has gone on to its home."""

    def over(self, uplink: Uplink) -> None:
        """The last socket is gone."""


class Uplink:
    """What sockets send goes to their room's home; it is the inbox of their roster.

    Args:
        roster: the sockets; its key is nobody's.
        lane: the lane to the home.
        number: what the home knows it by.
        key: the room.
        holder: who counts the sockets, and is told when the last is gone.
    """

    __slots__ = ("_count", "_holder", "key", "lane", "number", "paused", "roster", "slow", "unsure")
    elsewhere: ClassVar[bool] = True
    eager: ClassVar[None] = None

    def __init__(self, roster: Roster, lane: Lane, number: int, key: str, holder: Holder) -> None:
        self._holder = holder
        self._count = 0
        self.roster: Roster = roster
        self.lane: Lane = lane
        self.number: int = number
        self.key: str = key
        self.paused: dict[int, Link] = {}
        """Sockets that the home does not want read now."""
        self.slow: dict[int, Link] = {}
        """Sockets that the home knows to be slow."""
        self.unsure: dict[int, Link] = {}
        """Connections that have a task which writes, and has not said yet whether it gets on."""

    def enter(
        self,
        link: Link,
        user: str | None,
        attachment: bytes | None,
        enveloped: bool,
        token: str | None,
        seq: int,
        presence: bytes,
    ) -> None:
        """Bring a socket to the room, before it enters the roster here; see `kinds.ENTER`."""
        self._count += 1
        self._holder.connections += 1
        self.lane.post(
            ENTER,
            self.number,
            self.key,
            link.id,
            user,
            attachment,
            link.flags,
            enveloped,
            token,
            seq,
            presence,
        )
        if enveloped and token is not None:
            self.pause(link, paused=True)  # Its session is looked up first.

    # What a roster asks of its inbox.

    def post(self, mail: SocketEvent) -> bool:
        """Send on what happened; False where too much waits already."""
        lane = self.lane
        if type(mail) is tuple:
            link, message = mail
            lane.post(MAIL, self.number, link.id, message)
            self._holder.passed()
            if lane.load < FULL:
                return True
            lane.strained = True
            return lane.over
        if isinstance(mail, Disconnected):
            link = mail.link
            self.paused.pop(link.id, None)
            self.slow.pop(link.id, None)
            self.unsure.pop(link.id, None)
            lane.post(GONE, self.number, link.id, mail.code, mail.reason, mail.clean)
            self._count -= 1
            self._holder.connections -= 1
            if not self._count:
                self._holder.over(self)
        return True

    def busy_with(self, link: Link) -> bool:  # noqa: ARG002 (nothing of it waits here)
        """See `trio_rooms._sockets.roster.Inbox`."""
        return False

    def weigh(self, size: int) -> None:
        """See `trio_rooms._sockets.roster.Inbox`; the home does that."""

    def has_mail_of(self, link: Link) -> bool:  # noqa: ARG002
        """See `trio_rooms._sockets.roster.Inbox`."""
        return False

    # What the home wants.

    def pause(self, link: Link, *, paused: bool) -> None:
        """Do not read from a socket, or do again."""
        held = self.roster.paused
        if paused:
            self.paused[link.id] = link
            link.pause_reading()
        elif self.paused.pop(link.id, None) is not None and not (held and link in held):
            link.resume_reading()

    def relieve(self) -> None:
        """Read again from those who were held back since too much waited in the lane."""
        self.roster.resume_reading()
        for link in self.paused.values():
            link.pause_reading()

    # What the home is to know.

    def note(self, link: Link) -> bool:
        """Tell the home of a socket that was written to and is slow; whether it has to be looked at again."""
        if link.output is None or link.id in self.slow:
            return False
        if link.slow:
            self.slow[link.id] = link
            self.lane.post(SLOW, self.number, link.id, True)
        else:
            self.unsure[link.id] = link
        return True

    def left(self, link: Link) -> None:
        """Tell the home of a socket that is closed here."""
        self.lane.post(LEFT, self.number, link.id)

    def turned(self, link: Link) -> None:
        """Tell the home in which kind a socket speaks, before anything else is told of it."""
        self.lane.post(KIND, self.number, link.id, link.flags & BINARY == BINARY)

    def look(self) -> bool:
        """Tell the home who is slow now, and who is not any more; returns whether any has to be looked at."""
        for number, link in list(self.slow.items()):
            if not link.slow:
                del self.slow[number]
                self.lane.post(SLOW, self.number, number, False)
                self.unsure[number] = link
        unsure, self.unsure = self.unsure, {}
        for link in unsure.values():
            self.note(link)
        return bool(self.slow or self.unsure)
