"""Output that takes long: written in slices, room by room, each room's in order."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter
from time import perf_counter
from typing import Final, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.turn import TURN
from trio_rooms._wire.frames import encode_message

from .flags import BINARY, CLOSE_SENT, GONE, REPLAYING
from .links import SocketLink
from .manner import Manner
from .roster import MOST_DESCRIPTORS, Link, Roster
from .standing import Places

__all__ = ["Broadcast", "FanOut", "Message", "PlainMessage", "ReliableBroadcast", "SendLater", "Stalled"]

_CHUNK: Final = 64
"""Sockets written to between two looks at the clock."""
_MOST_HELD: Final = 4 * 1024 * 1024
"""Bytes of output of one room that may be held back; more of it is for connections that are too slow."""
_JOB: Final = 500
"""Bytes that a piece of output takes beside its content, about, and for each connection it is for."""
_LINK: Final = 8
_flags_of: Final = attrgetter("flags")


class Message(Protocol):
    """What can be sent to many: its whole frame, in the kind that a client is spoken to in."""

    def frame(self, *, binary: bool) -> bytes:
        """The encoded frame."""


class PlainMessage:
    """A message of a plain room, the same for every client."""

    __slots__ = ("_frame",)

    def __init__(self, message: str | bytes) -> None:
        self._frame = encode_message(message)

    def frame(self, *, binary: bool) -> bytes:  # noqa: ARG002 (it has no kinds)
        """The encoded frame."""
        return self._frame


class FanOut:
    """Does what rooms have to send, at once where it is little, and in order.

    Args:
        emptied: told of each room whose output has all been written by the task.
        overflowing: told of a room of whose output too much is held back; to forget it is up to whoever is
            told.
    """

    def __init__(
        self, emptied: Callable[[Roster], None], overflowing: Callable[[Roster], None] | None = None
    ) -> None:
        self._emptied = emptied
        self._overflowing = overflowing
        self._waiting: dict[str, Roster] = {}
        self._more = trio.Event()
        self._held: dict[str, int] | None = None
        """By room, the bytes that are held back, while nothing is written; None else."""

    @property
    def rooms(self) -> int:
        """Rooms that have something to send."""
        return len(self._waiting)

    def do(self, roster: Roster, job: Callable[[float], bool], began: float = 0.0) -> None:
        """Do a piece of output now, or behind what the room has still to send.

        Args:
            roster: the room's.
            job: called with a time of `perf_counter` until which it may work; returns whether
                it is done. It is called again until it is.
            began: when the turn began in which it is done now, by `perf_counter`, if that was not just now.
        """
        if not roster.jobs and job((began or perf_counter()) + TURN):
            return
        if roster.jobs is None:
            roster.jobs = deque()
        roster.jobs.append(job)
        self._waiting[roster.key] = roster
        self._more.set()

    @property
    def holds(self) -> bool:
        """Whether nothing is written for now."""
        return self._held is not None

    def stall(self, roster: Roster) -> Stalled:
        """Write nothing more of a room behind what it has still to send, until somebody ends that."""
        stalled = Stalled(self, roster)
        if roster.jobs is None:
            roster.jobs = deque()
        roster.jobs.append(stalled)
        self.go_on(roster)
        return stalled

    def go_on(self, roster: Roster) -> None:
        """Look again whether there is something to write of a room."""
        if roster.jobs:
            self._waiting[roster.key] = roster
            self._more.set()

    def hold(self) -> None:
        """Write nothing until `let_go`. To be called between any two steps, also of what is written now."""
        if self._held is None:
            self._held = {}
            # In place of the method, so that nobody looks whether it is so with each message.
            vars(self)["do"] = self._keep

    def let_go(self) -> None:
        """Write what was held back, in its order."""
        if self._held is not None:
            self._held = None
            del vars(self)["do"]
            self._more.set()

    def drop(self, roster: Roster) -> Iterable[Callable[[float], bool]]:
        """Forget what a room has still to send; returns that."""
        jobs, roster.jobs = roster.jobs, None
        self._waiting.pop(roster.key, None)
        if self._held is not None:
            self._held.pop(roster.key, None)
        return jobs or ()

    def finish(self, roster: Roster) -> None:
        """Do all that a room has still to send, for nobody: its connections are closed."""
        jobs = self.drop(roster)
        for job in jobs:
            while not job(math.inf):
                pass

    def _keep(self, roster: Roster, job: Callable[[float], bool], began: float = 0.0) -> None:  # noqa: ARG002 (see `do`)
        """Do it later."""
        if roster.jobs is None:
            roster.jobs = deque()
        roster.jobs.append(job)
        self._waiting[roster.key] = roster
        held = self._held
        if held is None:
            self._more.set()  # It was let go between the call and here.
            return
        size = held[roster.key] = held.get(roster.key, 0) + _JOB + _weight(job)
        if size > _MOST_HELD and self._overflowing is not None:
            held[roster.key] = 0  # What is done now may have something to send as well.
            self._overflowing(roster)

    @enable_ki_protection
    async def run(self) -> None:
        """Write what was too much for one slice, until cancelled."""
        while True:
            if not self._waiting or self._held is not None:
                self._more = trio.Event()
                await self._more.wait()
            for key, roster in list(self._waiting.items()):
                until = perf_counter() + TURN
                while roster.jobs and self._held is None and roster.jobs[0](until):
                    roster.jobs.popleft()
                if roster.jobs and isinstance(roster.jobs[0], Stalled):
                    self._waiting.pop(key, None)  # Until that has ended.
                if not roster.jobs and self._waiting.get(key) is roster:
                    roster.jobs = None
                    del self._waiting[key]
                    self._emptied(roster)
                await trio.lowlevel.checkpoint()


def _weight(job: object) -> int:
    """Bytes that a piece of output holds, about."""
    if isinstance(job, Broadcast):
        return job.size + _LINK * len(job.links)
    frame = getattr(job, "_frame", b"")  # What goes to one, and what goes on from one to the others.
    return len(frame) if isinstance(frame, bytes) else 0


class Stalled:
    """Output of a room that waits for somebody: nothing behind it is written before `end`.

    Args:
        fan_out: has what is behind it written.
        roster: the room's.
    """

    __slots__ = ("_ended", "_fan_out", "_roster")

    def __init__(self, fan_out: FanOut, roster: Roster) -> None:
        self._fan_out = fan_out
        self._roster = roster
        self._ended = trio.Event()

    def __call__(self, until: float) -> bool:
        return self._ended.is_set() or until == math.inf

    def end(self) -> None:
        """Nobody is to be waited for any more."""
        self._ended.set()
        self._fan_out.go_on(self._roster)

    async def ended(self) -> None:
        """Wait for that."""
        await self._ended.wait()


class SendLater:
    """One frame for one connection, behind what its room has still to send."""

    __slots__ = ("_frame", "_link", "_manner")

    def __init__(self, link: Link, frame: bytes, manner: Manner | None = None) -> None:
        self._link = link
        self._frame = frame
        self._manner = manner

    def __call__(self, _: float) -> bool:
        link = self._link
        if link.flags & (CLOSE_SENT | GONE):
            return True
        if self._manner is None:
            link.send(self._frame)
        else:
            link.roster.hub.offer(link, self._frame, self._manner)
        return True


class Broadcast:
    """One message on its way to many.

    Args:
        links: whom it is for.
        message: what they get.
        manner: how, unless it is written to each at once.
        began: when it was sent, by `perf_counter`; None for now, 0 where it is not noted how long that takes.

    Raises:
        TypeError, ValueError: it has no form in a kind that one of them is spoken to in; nothing
            was sent.
    """

    __slots__ = ("_at", "_began", "_binary", "_manner", "_text", "links", "size")

    def __init__(
        self, links: list[Link], message: Message, manner: Manner | None = None, began: float | None = None
    ) -> None:
        waits = manner is not None and manner.window
        self._began = 0.0 if waits else perf_counter() if began is None else began
        kinds = {flags & BINARY for flags in set(map(_flags_of, links))}
        # Who changes its kind from now on gets the kind that there is.
        text = message.frame(binary=False) if 0 in kinds else b""
        binary = message.frame(binary=True) if BINARY in kinds else b""
        self.links: list[Link] = links
        self._text = text or binary
        self._binary = binary or text
        self._manner = manner
        self._at = 0
        self.size: int = len(text) + len(binary)
        """Bytes of the forms that it has."""

    def _written(self, now: float) -> None:
        """All have been written to: note how long that took, once for each kind of those it was for."""
        links, delay = self.links, now - self._began
        if not (self._began and links):
            return
        active, metrics = links[0].roster.active, links[0].roster.hub.metrics
        if not active:
            metrics.delivery_hibernated.note(delay)
            return
        everybody = len(active) >= links[0].roster.count
        # Most often the first few of the connections tell.
        if everybody or any(map(active.__contains__, links)):
            metrics.delivery_active.note(delay)
        if not (everybody or all(map(active.__contains__, links))):
            metrics.delivery_hibernated.note(delay)

    def take_few(self) -> list[tuple[Link, bytes]] | None:
        """Whom it goes to, with the form for each, where these are few; it is theirs to be sent then."""
        if len(self.links) > _CHUNK or self._manner is not None:
            return None
        text, binary = self._text, self._binary
        self._written(perf_counter())
        return [
            (link, binary if link.flags & BINARY else text)
            for link in self.links
            if not link.flags & (CLOSE_SENT | GONE)
        ]

    def __call__(self, until: float) -> bool:
        links, now = self.links, until
        while self._at < len(links):
            few = links[self._at : self._at + _CHUNK]
            self._at += _CHUNK
            if self._manner is None:
                self._write(few)
            else:
                self._offer(few, self._manner)
            now = perf_counter()
            if now > until:
                break
        if self._at < len(links):
            return False
        self._written(now)
        return True

    def _write(self, links: list[Link]) -> None:
        """Write to some of them at once."""
        text, binary = self._text, self._binary
        if text is binary:
            _write(links, text)
        else:
            kinds = [[link for link in links if link.flags & BINARY == kind] for kind in (0, BINARY)]
            _write(kinds[0], text)
            _write(kinds[1], binary)

    def _offer(self, links: list[Link], manner: Manner) -> None:
        """Send to some of them in a manner of its own."""
        text, binary = self._text, self._binary
        for link in links:
            flags = link.flags
            if not flags & (CLOSE_SENT | GONE):
                link.roster.hub.offer(link, binary if flags & BINARY else text, manner)


def _write(links: list[Link], frame: bytes) -> None:
    """Write a frame to some connections.

    To a socket of which nothing waits as `SocketLink.send` does it, but without the call and what it looks
    up: that would be most of what a delivery costs beside the kernel's part.
    """
    write, size, ended, kind, most = os.write, len(frame), CLOSE_SENT | GONE, SocketLink, MOST_DESCRIPTORS
    for link in links:
        if link.unfinished is None and not link.flags & ended and type(link) is kind:
            try:
                sent = write(link.id & most, frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                continue
            if sent != size:
                link.keep_rest(frame, sent)
        elif not link.flags & ended:
            link.send(frame)


class ReliableBroadcast(Broadcast):
    """An entry of a room's journal on its way to those who are there.

    Who is being sent what was missed gets it in that way.

    Args:
        links: those who were there when it was sent.
        message: what they get.
        seq: its place.
        journal: the room's.
        manner: how; it is dropped for nobody.
        began: as there.
    """

    __slots__ = ("_journal", "_seq")

    def __init__(
        self,
        links: list[Link],
        message: Message,
        seq: int,
        journal: Places,
        manner: Manner | None = None,
        began: float | None = None,
    ) -> None:
        super().__init__(links, message, manner, began)
        self._seq = seq
        self._journal = journal

    def take_few(self) -> list[tuple[Link, bytes]] | None:
        """See `Broadcast`."""
        few = super().take_few()
        if few is None:
            return None
        few = [(link, frame) for link, frame in few if not link.flags & REPLAYING]
        self._standing([link for link, _ in few])
        self._journal.release(self._seq)
        return few

    def __call__(self, until: float) -> bool:
        done = super().__call__(until)
        if done:
            self._journal.release(self._seq)
        return done

    def _write(self, links: list[Link]) -> None:
        super()._write(self._standing(links))

    def _offer(self, links: list[Link], manner: Manner) -> None:
        super()._offer(self._standing(links), manner)

    def _standing(self, links: list[Link]) -> list[Link]:
        """Those of some connections that get it now, whose sessions were sent it from here on."""
        links = [link for link in links if not link.flags & (CLOSE_SENT | GONE | REPLAYING)]
        for link in links:
            if link.session is not None:
                link.session = self._journal.stand(link.session, self._seq)
        return links
