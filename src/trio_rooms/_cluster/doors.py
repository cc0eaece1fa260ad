"""Doors: how connections come into rooms of this node whose sockets other nodes hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import attrs
import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._keys import split_key
from trio_rooms._room.placement import Placement
from trio_rooms._room.shared import roster_of
from trio_rooms._runtime.registrar import Registrar, Resumption
from trio_rooms._sockets import flags as flag
from trio_rooms._sockets.flags import BINARY, OVER, PAUSED, SESSION
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.errors import RoomsError

from .far import Door, FarLink, FarOutput, Outbound
from .kinds import CLOSE, DRAINED, ENTER, GONE, KIND, LEFT, MAIL, PAUSE, SLOW
from .lanes import Lane, Lanes

__all__ = ["Doors", "Owned"]

logger = logging.getLogger("trio_rooms")

_AT_ONCE: Final = 64
"""Connections that are lost between two turns of the event loop."""
_WEIGHED: Final = 1024
"""Characters or bytes of a message that is counted with its bytes, too, while it waits for its room."""
_MOVED: Final = "the room has moved"


class Owned(Protocol):
    """Says which rooms are at home here."""

    def owns(self, key: str) -> bool:
        """Whether this node has a room's claim."""


@attrs.define(eq=False)
class _Coming:
    """A connection whose session is looked up; what it sends meanwhile waits. It is not read from."""

    mail: list[str | bytes] = attrs.field(factory=list)
    gone: tuple[int, str, bool] | None = None


@attrs.define(eq=False)
class _Gateway:
    """What is here of one gateway."""

    outbound: Outbound
    doors: dict[int, Door] = attrs.field(factory=dict)
    coming: dict[tuple[int, int], _Coming] = attrs.field(factory=dict)


class Doors:
    """Lets connections of other nodes into rooms that are at home here, and hands on what they send.

    Args:
        lanes: those to the other nodes.
        owned: says which rooms are at home here.
        definitions: the rooms that are served, by name.
        hub: holds the connections.
        placement: says which rooms take new ones.
        registrar: gives them their sessions.
    """

    def __init__(
        self,
        lanes: Lanes,
        owned: Owned,
        definitions: Mapping[str, Definition],
        hub: SocketHub,
        placement: Placement,
        registrar: Registrar,
    ) -> None:
        self._owned = owned
        self._definitions = definitions
        self._hub = hub
        self._placement = placement
        self._registrar = registrar
        self._spawn: Callable[..., None] = lanes.spawn
        lanes.on_message(ENTER, self._enter)
        lanes.on_message(MAIL, self._mail)
        lanes.on_message(GONE, self._gone)
        lanes.on_message(SLOW, self._slow)
        lanes.on_message(KIND, self._kind)
        lanes.on_message(LEFT, self._left)
        lanes.on_message(DRAINED, self._drained)
        lanes.on_end.append(self._ended)
        lanes.on_relief.append(self._go_on)
        lanes.on_silence.append(self._go_on)

    # Coming.

    def _enter(
        self,
        lane: Lane,
        uplink: int,
        key: str,
        number: int,
        user: str | None,
        attachment: bytes | None,
        flags: int,
        enveloped: bool,
        token: str | None,
        seq: int,
        presence: bytes,
    ) -> None:
        """A connection comes to a room."""
        definition = self._definitions.get(split_key(key)[0])
        if definition is None or not self._owned.owns(key):
            lane.post(CLOSE, uplink, number, CloseCode.RESTART, _MOVED)
            return
        if not self._placement.accepts(key):
            lane.post(CLOSE, uplink, number, CloseCode.TRY_AGAIN_LATER, "this room is closed at the moment")
            return
        gateway = self._gateway(lane)
        door = gateway.doors.get(uplink)
        if door is None:
            door = gateway.doors[uplink] = Door(lane, gateway.outbound, uplink, key, self._released)
        arrival = _Arrival(door, number, user, attachment, flags, presence)
        if token is None or not enveloped:
            self._let_in(definition, arrival, "" if enveloped else None)
        else:
            door.coming += 1
            coming = gateway.coming[uplink, number] = _Coming()
            self._spawn(self._look_up, definition, arrival, gateway, coming, token, seq)

    async def _look_up(
        self,
        definition: Definition,
        arrival: _Arrival,
        gateway: _Gateway,
        coming: _Coming,
        token: str,
        seq: int,
    ) -> None:
        """Let a connection in that comes back with a session."""
        door, number = arrival.door, arrival.number
        lane, key = door.lane, door.key
        found: Resumption | str = ""
        try:
            found = await self._registrar.look_up(key, arrival.user, token, seq)
            refusal = None if self._owned.owns(key) else (CloseCode.RESTART, _MOVED)
        except RoomsError as error:
            logger.error("room %s: a session cannot be looked up: %s", key, error)  # noqa: TRY400
            refusal = (CloseCode.TRY_AGAIN_LATER, "the session cannot be looked up at the moment")
        except Exception:
            logger.exception("room %s: a session cannot be looked up", key)
            refusal = (CloseCode.INTERNAL_ERROR, "")
        try:
            del gateway.coming[door.uplink, number]
            door.coming -= 1
            if refusal is not None:
                lane.post(CLOSE, door.uplink, number, *refusal)
            elif coming.gone is None and not lane.over:
                link = self._let_in(definition, arrival, found)
                if link is not None:
                    for message in coming.mail:
                        self._hub.message_received(link, message)
                    if not link.flags & PAUSED:
                        lane.post(PAUSE, door.uplink, number, False)
        finally:
            if isinstance(found, Resumption):
                found.record.unpin()
            self._tidy(door)

    def _let_in(
        self, definition: Definition, arrival: _Arrival, found: Resumption | str | None
    ) -> FarLink | None:
        """Let a connection into its room, as its home would if it had the socket; None where that failed.

        Args:
            definition: the room's.
            arrival: the connection.
            found: the session that it may go on with, or why not; None where it has none.
        """
        hub, door = self._hub, arrival.door
        roster = roster_of(hub, definition, door.key)
        link = FarLink(hub.new_id(), roster, arrival.attachment, arrival.flags, door, arrival.number)
        link.user = arrival.user
        door.links[link.number] = link
        hub.guests.add(link)
        hub.far += 1
        try:
            if arrival.presence and roster.presence is not None:
                roster.presence.given(link.id, arrival.presence)
            begin = None if found is None else self._registrar.beginning(link.user, found)
            hub.enter(link, resumed=begin is not None and begin(link))
        except Exception:
            logger.exception("room %s: a client of another node could not be let in", door.key)
            door.lane.post(CLOSE, door.uplink, link.number, CloseCode.INTERNAL_ERROR, "")
            del door.links[link.number]
            if roster.has(link):
                hub.connection_lost(link)
            else:
                link.flags |= flag.GONE | flag.RELEASED
                self._released(link)
            return None
        return link

    # There.

    def _gateway(self, lane: Lane) -> _Gateway:
        """What is here of the gateway at the other end of a lane."""
        gateway = lane.context.get("doors")
        if gateway is None:
            gateway = lane.context["doors"] = _Gateway(Outbound(lane, self._hub.stall))
        assert isinstance(gateway, _Gateway)
        return gateway

    def _link(self, lane: Lane, uplink: int, number: int) -> FarLink | None:
        door = self._gateway(lane).doors.get(uplink)
        return None if door is None else door.links.get(number)

    def _mail(self, lane: Lane, uplink: int, number: int, message: str | bytes) -> None:
        """A connection has sent a message."""
        link = self._link(lane, uplink, number)
        if link is not None:
            self._hub.now = max(self._hub.now, lane.heard)
            if len(message) > _WEIGHED:
                self._hub.message_received(link, message)
            else:
                self._hub.take(link, message)
        else:
            coming = self._gateway(lane).coming.get((uplink, number))
            if coming is not None:
                coming.mail.append(message)

    def _slow(self, lane: Lane, uplink: int, number: int, slow: bool) -> None:
        link = self._link(lane, uplink, number)
        if link is not None:
            link.became(slow=slow)

    def _kind(self, lane: Lane, uplink: int, number: int, binary: bool) -> None:
        """A connection is to be spoken to in another kind."""
        link = self._link(lane, uplink, number)
        if link is not None:
            link.flags = link.flags | BINARY if binary else link.flags & ~BINARY

    def _left(self, lane: Lane, uplink: int, number: int) -> None:
        """A connection is closed as too slow: it is in its room no more, though its handshake lasts."""
        link = self._link(lane, uplink, number)
        if link is not None:
            self._hub.closing.taken_out(link)

    def _drained(self, lane: Lane, uplink: int, number: int, question: int) -> None:
        link = self._link(lane, uplink, number)
        if link is not None and isinstance(link.output, FarOutput):
            link.output.answered(question)

    # Going.

    def _gone(self, lane: Lane, uplink: int, number: int, code: int, reason: str, clean: bool) -> None:
        """A connection has ended."""
        gateway = self._gateway(lane)
        coming = gateway.coming.get((uplink, number))
        if coming is not None:
            coming.gone = (code, reason, clean)
            return
        door = gateway.doors.get(uplink)
        link = None if door is None else door.links.pop(number, None)
        if link is not None:
            if clean and code == CloseCode.NORMAL and link.flags & SESSION:
                link.flags |= OVER
            self._hub.leave(link)
            self._hub.ended(link, code, reason, clean=clean)
            link.abort()

    def _released(self, link: FarLink) -> None:
        self._hub.guests.discard(link)
        self._hub.far -= 1
        self._tidy(link.door)

    def _tidy(self, door: Door) -> None:
        """Forget a door that nobody is behind."""
        if not door.links and not door.coming:
            self._gateway(door.lane).doors.pop(door.uplink, None)

    def _go_on(self, lane: Lane) -> None:
        """Rooms need not wait for a gateway any more."""
        if "doors" in lane.context:
            self._gateway(lane).outbound.go_on()

    def _ended(self, lane: Lane) -> None:
        """A lane has ended: the sockets at its other end are lost."""
        self._go_on(lane)
        gateway = lane.context.get("doors")
        if gateway is not None and gateway.doors:
            self._spawn(self._lose, [link for door in gateway.doors.values() for link in door.links.values()])

    async def _lose(self, links: list[FarLink]) -> None:
        for count, link in enumerate(links, 1):
            self._hub.connection_lost(link)
            if count % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()


@attrs.frozen(eq=False)
class _Arrival:
    """A connection that comes."""

    door: Door
    number: int
    user: str | None
    attachment: bytes | None
    flags: int
    presence: bytes
