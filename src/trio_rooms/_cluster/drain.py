"""Giving all rooms and clients of a node to the others, for a new version of it or because it has to go."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

import attrs
import trio

from trio_rooms._runtime.registrar import Registrar
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms._sockets.flags import CLOSING, GONE, PAUSED, SESSION, UNREPORTED
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.errors import EngineLost

__all__ = ["Drain"]

logger = logging.getLogger("trio_rooms")

_AT_ONCE: Final = 16
"""Rooms that are given away at the same time: each waits for the engine a few times."""
_PATIENCE: Final = 30.0
"""Seconds that a room has to handle its mail and to be saved; what hangs stays here, and is tried again."""
_AGAIN: Final = 0.1
"""Seconds after which it is looked again for what has come meanwhile."""
_REASON: Final = "the room moves to another node"


class Homes(Protocol):
    """Has the claims of this node."""

    def keys(self) -> Collection[str]:
        """The rooms that are at home here."""

    async def release(self, key: str) -> bool:
        """Let go of one.

        Raises:
            EngineLost: the engine may not know of it yet.
        """


@attrs.define(eq=False)
class Drain:
    """Gives rooms away, each as a whole: its mail is handled, it is saved, its clients are to come again.

    A room that sleeps is not woken for it. Sessions are away from then on, so that clients go on wherever
    they come next; what they had sent, and was not handled, they send again there. That nobody is let in any
    more once it has `begun` is up to whoever lets in.

    Args:
        supervisor: has the rooms.
        registrar: has their sessions.
        hub: holds the connections.
        homes: has the claims.
        dismiss: closes the sockets whose rooms are at home elsewhere.
    """

    _supervisor: Supervisor
    _registrar: Registrar
    _hub: SocketHub
    _homes: Homes
    _dismiss: Callable[[], Awaitable[None]]
    _begun: trio.Event = attrs.field(init=False, factory=trio.Event)
    _stuck: set[str] = attrs.field(init=False, factory=set)
    """Rooms that could not be given away in time."""

    @property
    def begun(self) -> bool:
        """Whether it was begun; it is never taken back."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Give all away from now on."""
        self._begun.set()

    async def run(self) -> None:
        """Wait until it is to begin, and give all away, also what comes later; until cancelled."""
        await self._begun.wait()
        began = trio.current_time()
        given = await self._give_all()
        await self._dismiss()
        took = trio.current_time() - began
        logger.info(
            "rooms given to other nodes: %d, in %.1f s; rooms that stay: %d", given, took, len(self._stuck)
        )
        again = trio.current_time() + _PATIENCE
        while True:  # What was claimed in the moment of the beginning, or was wanted by a room that moved.
            await trio.sleep(_AGAIN)
            if trio.current_time() >= again:
                self._stuck.clear()  # What hung may go on, and the engine may be back.
            await self._give_all()
            await self._dismiss()
            if not self._stuck:
                again = trio.current_time() + _PATIENCE

    async def _give_all(self) -> int:
        """Give away all that is here, and can be; how many rooms that were."""
        given = 0
        limiter = trio.CapacityLimiter(_AT_ONCE)
        while keys := [key for key in self._homes.keys() if key not in self._stuck]:  # noqa: SIM118 (no mapping)
            async with trio.open_nursery() as nursery:
                for key in keys:
                    await limiter.acquire_on_behalf_of(key)
                    nursery.start_soon(self._give, key, limiter)
            given += len(keys)
        return given

    async def _give(self, key: str, limiter: trio.CapacityLimiter) -> None:
        """Give one room away."""
        supervisor = self._supervisor
        try:
            with supervisor.moving(key):
                with trio.move_on_after(_PATIENCE) as scope:
                    await self._empty(key)
                if scope.cancelled_caught:
                    logger.error("room %s stays: it did not come to rest within %g s", key, _PATIENCE)
                    self._stuck.add(key)
                    return
                try:
                    await self._homes.release(key)
                except EngineLost as error:
                    logger.warning("room %s: that it moves could not be said: %s", key, error)
            if supervisor.has(key):
                supervisor.forsake(key)  # Somebody here has asked it something in the last moment.
        finally:
            limiter.release_on_behalf_of(key)

    async def _empty(self, key: str) -> None:
        """Let a room come to rest, and close its connections. Cancelled, it goes on with those it has."""
        supervisor, hub = self._supervisor, self._hub
        held: list[Link] = []
        try:
            while True:
                roster = hub.rosters.get(key)
                for link in [] if roster is None else roster.everybody():
                    if not link.flags & PAUSED:
                        link.pause_reading()  # What it sends now it sends again, elsewhere.
                        held.append(link)
                if await supervisor.settle(key):
                    continue
                if roster is None or hub.rosters.get(key) is not roster:
                    return
                if roster.jobs:
                    await hub.caught_up(roster)
                elif roster.count or any(map(_is_told, hub.closing.leaving(key).values())):
                    await self._registrar.move(roster, CloseCode.RESTART, _REASON)
                    await trio.lowlevel.checkpoint()  # Whatever comes of that: others have their turn.
                else:
                    return
        finally:
            for link in held:
                if link.flags & PAUSED and not link.flags & (CLOSING | GONE):
                    link.resume_reading()


def _is_told(link: Link) -> bool:
    """Whether a connection that is closing has something to do with its room still."""
    return link.flags & SESSION != 0 or not link.flags & UNREPORTED
