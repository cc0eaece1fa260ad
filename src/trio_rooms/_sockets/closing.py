"""Connections that close: they have left their room, and are there only for their closing handshake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol

import trio

from trio_rooms._wire import frames
from trio_rooms._wire.close_codes import PASSING, CloseCode

from .closes import Closes
from .fanout import FanOut
from .flags import (
    CLOSE_SENT,
    CLOSING,
    DISCARD_INPUT,
    DISMISSED,
    GONE,
    OVER,
    PAUSED,
    RELEASED,
    SESSION,
    UNREPORTED,
)
from .roster import Link, Roster
from .timeouts import Timeouts

__all__ = ["Closing"]

_AT_ONCE: Final = 64
"""Connections closed between two turns of the event loop."""
_LOOKS: Final = 5
"""How often within the close timeout it is looked whether a connection that closes still moves."""
_NOBODY: Final[Mapping[int, Link]] = MappingProxyType({})


class Rooms(Protocol):
    """Where connections leave: the hub."""

    def leave(self, link: Link) -> None:
        """Take a connection out of its room, and count it here. A second call does nothing."""

    def ended(self, link: Link, code: int, reason: str, *, clean: bool) -> None:
        """Say how it ended, unless nobody is to hear of it. A second call does nothing."""


class Closing:
    """Leads the closing handshakes.

    Args:
        rooms: told of connections that leave and that end.
        fan_out: what a room has still to send goes before a close frame.
        timeouts: for handshakes that nobody answers.
        timeout: seconds that a connection that closes may stand still: none of what waits moves on,
            and the other side's half of the handshake does not come.
    """

    __slots__ = ("_all_gone", "_fan_out", "_leaving", "_rooms", "_timeout", "_timeouts", "closes", "count")

    def __init__(self, rooms: Rooms, fan_out: FanOut, timeouts: Timeouts, timeout: float) -> None:
        self._rooms = rooms
        self._fan_out = fan_out
        self._timeouts = timeouts
        self._timeout = timeout
        self._leaving: dict[str, dict[int, Link]] = {}
        self._all_gone: trio.Event | None = None
        self.count: int = 0
        """Connections that have left their room and are not gone yet; `Rooms.leave` counts them."""
        self.closes: Closes = Closes()
        """The connections that this side closed, those that were refused by a close included."""

    def leaving(self, key: str) -> Mapping[int, Link]:
        """By their ids, the connections that a room has closed and that are not gone yet."""
        return self._leaving.get(key, _NOBODY)

    def close(self, link: Link, code: int, reason: str, *, report: bool = True) -> None:
        """Begin the closing handshake, after everything sent before; the link leaves its room at once.

        Args:
            link: the connection. Where it is closing already it goes on to do so, but what it sent
                before is not handled any more.
            code: one that may be sent, see `close_codes.is_close_code`.
            reason: cut to the 123 bytes that there is room for.
            report: whether the room is to hear how it ended.

        Raises:
            TypeError, ValueError: no such code may be sent, or the reason is no string.
        """
        frame = frames.encode_close(code, reason)
        if self._begin(link, code, report=report):
            self._fan_out.do(link.roster, partial(self._send_close, link, frame))

    def close_now(self, link: Link, code: int, reason: str) -> None:
        """The same at once: what its room has sent, and is not written yet, it does not get."""
        frame = frames.encode_close(code, reason)
        if self._begin(link, code, report=True):
            self._send_close(link, frame)

    def is_close(self, job: object) -> bool:
        """Whether a piece of output is the close of a connection."""
        return isinstance(job, partial) and job.func == self._send_close

    def _begin(self, link: Link, code: int, *, report: bool) -> bool:
        """Take a connection that is to be closed out of its room; False where it has left already."""
        flags = link.flags
        link.flags = flags | (CLOSING | DISMISSED if report else CLOSING | DISMISSED | UNREPORTED)
        if flags & SESSION and code not in PASSING:
            link.flags |= OVER
        if flags & (CLOSING | GONE):
            return False
        if report:
            self._leaving.setdefault(link.roster.key, {})[link.id] = link
        self._rooms.leave(link)
        return True

    def close_room(
        self, roster: Roster, code: int, reason: str, *, but: int = 0, ended: bool = False
    ) -> None:
        """Close all connections of a room that ends, which hears nothing more of any that it ever had.

        Args:
            roster: the room's.
            code: see `close`.
            reason: see `close`.
            but: flags; a connection that has one of these stays in the room.
            ended: whether all sessions end, also those of connections that stay.
        """
        links = roster.everybody()
        leaving = self._leaving.pop(roster.key, {}).values()
        if ended:
            if roster.presence is not None:
                roster.presence.over()
            roster.resumed = roster.away = None
            roster.hub.users.all_over(roster.key)
            for link in (*links, *leaving):
                link.session = None
                link.flags &= ~SESSION
        for link in links:
            if not link.flags & but:
                self.close(link, code, reason, report=False)
        for link in leaving:
            link.flags |= UNREPORTED
        roster.departed = None

    def _send_close(self, link: Link, frame: bytes, _: float = 0) -> bool:
        """Send the close frame, and begin to wait for the other side's."""
        if link.unfinished is not None:
            link.send_postponed()
        if link.flags & (CLOSE_SENT | GONE):
            return True
        link.flags |= CLOSE_SENT
        if not link.far:
            self.closes.note(link.roster.key, link.id, frames.decode_close(frame))
        link.send_control(frame)
        if link.flags & PAUSED:
            link.resume_reading()  # Else the answer would not be seen.
        self._await_end(link)
        return True

    def _await_end(self, link: Link, before: int = 0, still: int = 0) -> None:
        """Give a connection that closes its time: the close timeout from when what it was sent moved last.

        Args:
            link: the connection.
            before: bytes that were in flight at the last look.
            still: looks in a row at which these were as many as before.
        """
        when = trio.current_time() + self._timeout / _LOOKS
        self._timeouts.set(when, partial(self._look, link, before, still))

    def _look(self, link: Link, before: int, still: int) -> None:
        """Let go of a connection that closes, once it has stood still for long enough."""
        if link.flags & RELEASED:
            return
        waiting = link.in_flight
        still = still + 1 if waiting == before else 0
        if still < _LOOKS:
            self._await_end(link, waiting, still)
            return
        self._rooms.ended(link, CloseCode.ABNORMAL, "the closing handshake was not answered", clean=False)
        link.abort()

    def slow_consumer(self, link: Link) -> None:
        """Close a connection that does not read what it is sent; only the close frame still goes out."""
        self.taken_out(link)
        reason = "too slow: too much is waiting to be read"
        self._send_close(link, frames.encode_close(CloseCode.TRY_AGAIN_LATER, reason))

    def taken_out(self, link: Link) -> None:
        """Take a connection out of its room that is closed for what it does; how it ends is heard later."""
        if not link.flags & (CLOSING | GONE):
            link.flags |= CLOSING
            self._leaving.setdefault(link.roster.key, {})[link.id] = link
        self._rooms.leave(link)

    def closed_by_peer(self, link: Link, close: frames.Close) -> None:
        """The other side's close frame came: answer it, if it is not an answer itself, and let go."""
        answered = link.flags & CLOSE_SENT
        link.flags |= CLOSING | DISCARD_INPUT | CLOSE_SENT
        if close.code == CloseCode.NORMAL and link.flags & SESSION:
            link.flags |= OVER
        self._rooms.leave(link)
        if not answered:
            link.send_control(frames.encode_close(close.code, close.reason))
        self._rooms.ended(link, close.code, close.reason, clean=True)
        if link.output is not None:
            link.send_eof()
            if not answered:
                self._await_end(link)
        else:
            link.abort()

    def fail(self, link: Link, code: int, reason: str) -> None:
        """Close after a violation: nothing that comes can be understood any more."""
        link.flags |= CLOSING | DISCARD_INPUT
        self._rooms.leave(link)
        self._send_close(link, frames.encode_close(code, reason))
        # To close now would reset the connection, and the close frame might never be read.
        link.send_eof()
        self._rooms.ended(link, code, reason, clean=False)

    def slow_sender(self, link: Link) -> None:
        """Close a connection whose message takes too long while there is no room for others."""
        reason = "too many messages are on their way here, and this one takes long"
        self.fail(link, CloseCode.TRY_AGAIN_LATER, reason)

    async def close_rooms(self, rosters: Iterable[Roster], code: int, reason: str) -> None:
        """Begin to close all connections of some rooms, which hear nothing of it unless they are far away."""
        links = [link for roster in rosters for link in roster.everybody()]
        for number, link in enumerate(links, 1):
            inbox = link.roster.inbox
            self.close(link, code, reason, report=inbox is not None and inbox.elsewhere)
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def gone(self, link: Link) -> None:
        """A connection has let go of its transport. For each that was counted once."""
        leaving = self._leaving.get(link.roster.key)
        if leaving is not None and leaving.pop(link.id, None) is not None and not leaving:
            del self._leaving[link.roster.key]
        self.count -= 1
        if self._all_gone is not None and not self.count:
            self._all_gone.set()

    async def finish(self) -> None:
        """Wait until all are gone, or the close timeout is over, whoever still reads."""
        with trio.move_on_after(self._timeout):
            while self.count:
                self._all_gone = trio.Event()
                await self._all_gone.wait()
