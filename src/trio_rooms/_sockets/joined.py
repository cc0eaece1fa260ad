"""What leaves at the same moment for the same connection is one write."""

from __future__ import annotations

import abc
from typing import Final

from .fanout import Broadcast
from .hub import SocketHub
from .roster import Link, Roster

__all__ = ["Joined", "Send", "Sending", "Spread"]

_LARGE: Final = 64 * 1024
"""Bytes from which on more goes into a write of its own, since no limit holds what is on its way."""


class Joined:
    """Collects what is sent to connections, each one's in its order, until it is written."""

    __slots__ = ("_frames", "_hub")

    def __init__(self) -> None:
        self._frames: dict[Link, list[bytes]] = {}
        self._hub: SocketHub | None = None

    def add(self, hub: SocketHub, link: Link, frame: bytes) -> None:
        """Send a frame with the next `write`."""
        self._hub = hub
        frames = self._frames.get(link)
        if frames is None:
            self._frames[link] = [frame]
        else:
            frames.append(frame)

    def write(self) -> None:
        """Send all of it."""
        hub = self._hub
        if hub is None:
            return
        for link, frames in self._frames.items():
            if len(frames) == 1:
                hub.send_frame(link, frames[0])
            else:
                _send(hub, link, frames)
        self._frames.clear()
        self._hub = None


def _send(hub: SocketHub, link: Link, frames: list[bytes]) -> None:
    """Send several frames, as many as make no large write at a time."""
    first = size = 0
    for number, frame in enumerate(frames):
        if size > _LARGE:
            hub.send_frames(link, frames[first:number])
            first, size = number, 0
        size += len(frame)
    hub.send_frames(link, frames[first:])


class Sending(abc.ABC):
    """Something that is sent, later."""

    __slots__ = ()

    @abc.abstractmethod
    def __call__(self) -> None:
        """Send it."""

    @abc.abstractmethod
    def join(self, joined: Joined) -> bool:
        """Send it with what else is sent now; False where it goes to too many for that."""


class Send(Sending):
    """What is sent to one connection in a row."""

    __slots__ = ("_hub", "frames", "link")

    def __init__(self, hub: SocketHub, link: Link, frame: bytes) -> None:
        self._hub = hub
        self.link: Link = link
        self.frames: list[bytes] = [frame]

    def __call__(self) -> None:
        _send(self._hub, self.link, self.frames)

    def join(self, joined: Joined) -> bool:
        """See `Sending`."""
        for frame in self.frames:
            joined.add(self._hub, self.link, frame)
        return True


class Spread(Sending):
    """What is sent to several connections of a room."""

    __slots__ = ("_broadcast", "_hub", "_roster")

    def __init__(self, hub: SocketHub, roster: Roster, broadcast: Broadcast) -> None:
        self._hub = hub
        self._roster = roster
        self._broadcast = broadcast

    def __call__(self) -> None:
        self._hub.spread(self._roster, self._broadcast)

    def join(self, joined: Joined) -> bool:
        """See `Sending`."""
        few = self._broadcast.take_few()
        if few is None:
            return False
        for link, frame in few:
            joined.add(self._hub, link, frame)
        return True
