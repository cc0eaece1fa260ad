"""The gateway: sockets that came to this node, for rooms whose home is another."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._keys import split_key
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._sockets.automatic import Automatic
from trio_rooms._sockets.fanout import Broadcast
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.errors import Unavailable

from .far import LONG, Lists
from .kinds import ABORT, CLOSE, DRAIN, DRAINED, FRAMES, PAUSE
from .lanes import Lane, Lanes
from .seat import Seat
from .uplink import Uplink

__all__ = ["Gateway", "Places"]

_AT_ONCE: Final = 64
"""Sockets that are closed between two turns of the event loop."""
_BEHIND: Final = 4
"""Broadcasts that wait in one room, before the other node is held back."""
_PATIENCE: Final = 5.0
"""Seconds that a client waits until its room is found."""
_AGAIN: Final = 0.02
"""Seconds until a room is looked for once more that is not where it was said to be."""
_LOOK: Final = 0.05
"""Seconds between two looks at slow sockets, while there are any."""


class Places(Protocol):
    """Says where rooms are at home, and brings them there."""

    def owns(self, key: str) -> bool:
        """Whether a room is at home here."""

    async def place(self, key: str) -> str:
        """The incarnation where a room is at home, from now on at the latest.

        Raises:
            Unavailable: it has none.
        """

    def misplaced(self, key: str, incarnation: str) -> None:
        """It is not at home there."""


@attrs.define(eq=False)
class _Home:
    """What is here of one other node."""

    uplinks: dict[int, Uplink] = attrs.field(factory=dict)
    by_key: dict[str, Uplink] = attrs.field(factory=dict)
    lists: Lists = attrs.field(factory=Lists)
    number: int = 0


class _Whole:
    """A frame that another node has made."""

    __slots__ = ("_frame",)

    def __init__(self, frame: bytes) -> None:
        self._frame = frame

    def frame(self, *, binary: bool) -> bytes:  # noqa: ARG002 (it has chosen the kind)
        return self._frame


class Gateway:
    """Holds sockets for rooms that are elsewhere. It is the `Homes` of a server.

    Args:
        lanes: those to the other nodes.
        seat: says who else there is.
        places: says where rooms are at home.
        is_at: asks another node whether a room is at home there.
        definitions: the rooms that are served, by name.
        hub: holds the sockets.
        deadlines: those of the runtime.
    """

    def __init__(
        self,
        lanes: Lanes,
        seat: Seat,
        places: Places,
        is_at: Callable[[str, str], Awaitable[bool]],
        definitions: Mapping[str, Definition],
        hub: SocketHub,
        deadlines: Deadlines,
    ) -> None:
        self.connections: int = 0
        """Sockets of this node whose rooms are at home elsewhere."""
        self._lanes = lanes
        self._seat = seat
        self._places = places
        self._is_at = is_at
        self._definitions = definitions
        self._hub = hub
        self._deadlines = deadlines
        self._automatic: dict[str, Automatic | None] = {}
        self._slow: set[Uplink] = set()
        self._asked: dict[Link, int] = {}
        """The last question about each socket that has something to write."""
        hub.abroad = self
        for kind, handler in (
            (FRAMES, self._frames),
            (CLOSE, self._close),
            (ABORT, self._abort),
            (PAUSE, self._pause),
            (DRAIN, self._drain),
        ):
            lanes.on_message(kind, handler)
        lanes.on_end.append(self._ended)
        lanes.on_relief.append(self._relieved)

    # Letting in: what a server asks.

    def here(self, key: str) -> bool:
        """See `trio_rooms._room.placement.Homes`."""
        return self._places.owns(key)

    async def find(self, key: str) -> Elsewhere | None:
        """See `trio_rooms._room.placement.Homes`."""
        why = "its node does not answer"
        with trio.move_on_after(_PATIENCE):
            while True:
                home = await self._places.place(key)
                if self._places.owns(key):
                    return None
                if home not in self._seat.members:
                    await self._seat.beaten()  # It has come just now, or gone.
                    continue
                try:
                    lane = await self._lanes.reach(home)
                    # Where it has sockets of this node, it is at home there; else it may have been lately.
                    if key in _home(lane).by_key or await self._is_at(home, key):
                        return Elsewhere(self, lane, key)
                except Unavailable as error:
                    why = error.why
                    if home in self._seat.members:
                        break
                self._places.misplaced(key, home)
                await trio.sleep(_AGAIN)
        raise Unavailable(key, why)

    def uplink(self, lane: Lane, key: str) -> Uplink:
        """That of a room to its home, which has to be used at once."""
        home = _home(lane)
        uplink = home.by_key.get(key)
        if uplink is None:
            # No id has a newline, so the key is no room's. A room that moves has sockets for two homes.
            own = f"{key}\n{lane.peer} {lane.generation}"
            roster = self._hub.roster(own, self._answers(key), greets=False)
            home.number += 1
            uplink = Uplink(roster, lane, home.number, key, self)
            roster.inbox = uplink
            self._hub.foreign += 1
            home.by_key[key] = home.uplinks[home.number] = uplink
        return uplink

    def _answers(self, key: str) -> Automatic | None:
        """What is answered here. What is echoed or relayed has its place behind what its home has to send."""
        name = split_key(key)[0]
        if name not in self._automatic:
            automatic = self._definitions[name].automatic
            answers = None if automatic is None else automatic.answers
            self._automatic[name] = Automatic(answers) if answers else None
        return self._automatic[name]

    # What homes want.

    def _frames(self, lane: Lane, number: int, to: int | bytes | list[int], frame: bytes) -> None:
        home = _home(lane)
        uplink = home.uplinks.get(number)
        if isinstance(to, int):
            link = None if uplink is None else uplink.roster.links.get(to)
            if uplink is not None and link is not None:
                self._hub.passed_out += 1
                self._hub.send_frame(link, frame)
                if link.unfinished is not None and uplink.note(link):
                    self._look_at(uplink)
            return
        if isinstance(to, bytes):
            numbers = array("Q", to)
            if len(numbers) >= LONG:
                home.lists.keep(number, numbers)
        else:
            known = home.lists.get(number, to[0])
            assert known is not None
            numbers = known
        if uplink is None:
            return
        links = [link for link in map(uplink.roster.links.get, numbers) if link is not None]
        roster = uplink.roster
        self._hub.passed_out += len(links)
        self._hub.spread(roster, Broadcast(links, _Whole(frame), None, 0.0))
        if roster.jobs and len(roster.jobs) > _BEHIND and not self._hub.standstill.on:
            lane.hold(partial(self._hub.caught_up, roster))
        for link in links:
            if link.unfinished is not None and uplink.note(link):
                self._look_at(uplink)

    def _link(self, lane: Lane, number: int, id_: int) -> tuple[Uplink, Link] | None:
        uplink = _home(lane).uplinks.get(number)
        link = None if uplink is None else uplink.roster.links.get(id_)
        return None if uplink is None or link is None else (uplink, link)

    def _close(self, lane: Lane, number: int, id_: int, code: int, reason: str) -> None:
        found = self._link(lane, number, id_)
        if found is not None:
            self._hub.close(found[1], code, reason)

    def _abort(self, lane: Lane, number: int, id_: int) -> None:
        found = self._link(lane, number, id_)
        if found is not None:
            self._hub.connection_lost(found[1])

    def _pause(self, lane: Lane, number: int, id_: int, paused: bool) -> None:
        found = self._link(lane, number, id_)
        if found is not None:
            uplink, link = found
            uplink.pause(link, paused=paused)

    def _drain(self, lane: Lane, number: int, id_: int, question: int) -> None:
        found = self._link(lane, number, id_)
        if found is None:
            return  # That it is gone is told, or will be.
        uplink, link = found
        if link.unfinished is None and not uplink.roster.jobs:
            lane.post(DRAINED, number, id_, question)
        else:
            waits = link in self._asked
            self._asked[link] = question
            if not waits:
                self._lanes.spawn(self._drain_later, uplink, link)

    async def _drain_later(self, uplink: Uplink, link: Link) -> None:
        """Answer what is asked of a socket until all is written; one task, however often it is asked."""
        answered = 0
        try:
            while self._asked[link] > answered:
                question = self._asked[link]
                if not await self._hub.drained(link):
                    return  # That it is closed, or gone, is told.
                answered = question
                uplink.lane.post(DRAINED, uplink.number, link.id, answered)
        finally:
            del self._asked[link]

    # What the hub finds.

    def left(self, link: Link) -> None:
        """See `trio_rooms._sockets.hub.Abroad`."""
        inbox = link.roster.inbox
        if isinstance(inbox, Uplink):
            inbox.left(link)

    def turned(self, link: Link) -> None:
        """See `trio_rooms._sockets.hub.Abroad`."""
        inbox = link.roster.inbox
        if isinstance(inbox, Uplink) and link.roster.automatic is not None:
            inbox.turned(link)

    # Slow sockets.

    def _look_at(self, uplink: Uplink) -> None:
        if not self._slow:
            self._deadlines.set(trio.current_time() + _LOOK, self._look)
        self._slow.add(uplink)

    def _look(self) -> None:
        self._slow = {uplink for uplink in self._slow if uplink.look()}
        if self._slow:
            self._deadlines.set(trio.current_time() + _LOOK, self._look)

    async def dismiss(self) -> None:
        """Have all sockets come again elsewhere: this node is given up."""
        uplinks = [uplink for lane in self._lanes.all() for uplink in _home(lane).uplinks.values()]
        await trio.lowlevel.checkpoint()
        await self._dismiss([link for uplink in uplinks for link in uplink.roster.everybody()])

    # The end.

    def passed(self) -> None:
        """A message has gone on to the home of its room."""
        self._hub.passed_in += 1

    def over(self, uplink: Uplink) -> None:
        """The last socket of an uplink is gone."""
        home = _home(uplink.lane)
        if home.uplinks.pop(uplink.number, None) is not None:
            del home.by_key[uplink.key]
        uplink.roster.inbox = None
        self._hub.foreign -= 1

    def _relieved(self, lane: Lane) -> None:
        for uplink in _home(lane).uplinks.values():
            uplink.relieve()

    def _ended(self, lane: Lane) -> None:
        """A lane has ended: its sockets are for nobody, and their clients may come back."""
        home = _home(lane)
        links = [link for uplink in home.uplinks.values() for link in uplink.roster.everybody()]
        home.uplinks.clear()
        home.by_key.clear()
        if links:
            self._lanes.spawn(self._dismiss, links)

    async def _dismiss(self, links: list[Link]) -> None:
        for count, link in enumerate(links, 1):
            self._hub.close(link, CloseCode.RESTART, "the room has moved")
            if count % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()


@attrs.frozen(eq=False)
class Elsewhere:
    """A room whose home is another node, see `trio_rooms._room.placement.Elsewhere`."""

    _gateway: Gateway
    _lane: Lane
    _key: str

    def roster(self) -> Roster:
        """See there."""
        if self._lane.over:
            raise Unavailable(self._key, "its node has gone away")
        return self._gateway.uplink(self._lane, self._key).roster

    def beginning(
        self,
        *,
        user: str | None,
        attachment: bytes | None,
        presence: bytes,
        enveloped: bool,
        token: str | None,
        seq: int,
    ) -> Callable[[Link], bool]:
        """See there."""

        def begin(link: Link) -> bool:
            uplink = link.roster.inbox
            assert isinstance(uplink, Uplink)
            uplink.enter(link, user, attachment, enveloped, token, seq, presence)
            return True

        return begin


def _home(lane: Lane) -> _Home:
    """What is here of the node at the other end of a lane."""
    home = lane.context.get("gateway")
    if home is None:
        home = lane.context["gateway"] = _Home()
    assert isinstance(home, _Home)
    return home
