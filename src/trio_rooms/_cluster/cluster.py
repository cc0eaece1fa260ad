"""One node of several that share an engine: its parts, wired together."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from time import time
from typing import Any, Final

import attrs
import trio
from trio.lowlevel import spawn_system_task

from trio_rooms._definition.definition import Definition
from trio_rooms._room.placement import Placement
from trio_rooms._runtime.runtime import Runtime
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms.engines.base import Engine
from trio_rooms.errors import Unavailable
from trio_rooms.stores.base import Store

from .calls import Calls
from .desk import Desk
from .doors import Doors
from .drain import Drain
from .exchange import Exchange
from .gateway import Gateway
from .lanes import Lanes
from .ownership import Ownership
from .router import Router
from .seat import Member, Seat
from .share import Share
from .watchman import Watchman

__all__ = ["Cluster", "ClusterStatistics"]

logger = logging.getLogger("trio_rooms")

_TAKING: Final = 1.0
"""Seconds for a node to take a room, before another one is asked."""
_PROTOCOL: Final = 1
"""Of what nodes say to each other."""
_DRAIN: Final = 5.0
"""Seconds that another node has to say that it is being drained."""


@attrs.frozen
class ClusterStatistics:
    """What a node has to do with the others, now and until now."""

    node: str
    members: int
    """Nodes that live, this one too."""
    owned: int
    """Rooms that are at home here."""
    lanes: int
    """Nodes that something goes to."""
    lane_bytes: int
    """What is on its way to them, or waits."""
    unanswered: int
    """Calls that they have not answered."""
    paused: bool
    """Whether the lease is not good now, so that nothing is done."""
    draining: bool
    """Whether its rooms go to the others."""
    claims: int
    """Times that a room was claimed."""
    calls: int
    """Calls that they were asked."""
    pauses: int
    """Times that the lease could not be renewed in time."""
    forsaken: int
    """Rooms that somebody else has taken over."""
    lives: int
    """Times that it was taken for dead and has begun again, and the first."""


class Cluster:
    """What makes a runtime a node.

    Args:
        engine: what it shares with the others.
        node: its name; None for one that is drawn.
        lease: seconds after which others take over from it.
        definitions: the rooms that are served, by name.
    """

    def __init__(
        self, engine: Engine, node: str | None, lease: float, definitions: Mapping[str, Definition]
    ) -> None:
        self.engine: Engine = engine
        self.name: str = f"node-{secrets.token_hex(4)}" if node is None else node
        self.lease: float = lease
        self.draining: bool = False
        self.seat: Seat = Seat(engine, self.name, lease, self._about)
        self.lanes: Lanes = Lanes(engine, self.seat)
        self.calls: Calls = Calls(self.lanes)
        self.ownership: Ownership = Ownership(
            engine, self.seat, used=self._has, opens=self._is_open, takes=self._takes
        )
        self.calls.on("take", self._take)
        self.calls.on("has", self._owns)
        self.calls.on("drain", self._asked_to_drain)
        durable = any(definition.gated for definition in definitions.values())
        self.store: Store = engine.store(self.ownership, durable=durable)
        """Where the rooms are kept."""
        self.homes: Gateway
        """Where sockets go that come to this node."""
        self._served = sorted(definitions)
        self._version = _version()
        self._since = time()
        self._supervisor: Supervisor
        self._runtime: Runtime
        self._exchange: Exchange
        self._share: Share
        self._drain: Drain
        self._doors: Doors
        self._addresses: Callable[[], list[str]]
        self._forsaken = 0
        self._lives = 1
        self._beat = trio.CancelScope()
        self._beat_ended = trio.Event()
        self._open = False
        self.seat.on_gone.append(self._gone)
        self.seat.on_over.append(self._over)
        self.ownership.on_lost.append(self._lost)

    def placement(self, supervisor: Supervisor) -> Placement:
        """Where rooms are, in whichever process: those of this one are its supervisor's."""
        self._supervisor = supervisor
        supervisor.on_moved = self.ownership.lost
        self.seat.on_pause.append(supervisor.pause)
        self.seat.on_resume.append(supervisor.resume)
        Desk(supervisor, self.ownership, self.calls)
        return Router(supervisor, self.ownership, self.seat, self.calls)

    def attach(self, runtime: Runtime, addresses: Callable[[], list[str]]) -> None:
        """Bring rooms and sockets of a runtime into the cluster; it has not begun.

        Args:
            runtime: those.
            addresses: gives where it listens for clients, as URLs.
        """
        self._runtime = runtime
        self._addresses = addresses
        definitions, hub = self._supervisor.definitions, runtime.hub
        self.lanes.most = max(self.lanes.most, 4 * hub.max_message_size)
        self.homes = Gateway(
            self.lanes, self.seat, self.ownership, self._is_at, definitions, hub, runtime.deadlines
        )
        self._doors = Doors(self.lanes, self.ownership, definitions, hub, self._supervisor, runtime.registrar)
        self._drain = Drain(self._supervisor, runtime.registrar, hub, self.ownership, self.homes.dismiss)
        runtime.node = self
        users = runtime.supervisor.users
        self._exchange = Exchange(
            self.engine, self.seat, self.lanes, self.ownership, users, runtime.deadlines
        )
        self._share = Share(self.seat, self.ownership, runtime.agenda, runtime.janitor)

    # Its life: opened before the store, and closed after it.

    async def open(self) -> None:
        """See `Node`.

        Raises:
            EngineError: the engine cannot be reached, or is not what it has to be.
        """
        await self.engine.open()
        try:
            await self.seat.join()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.engine.aclose()
            raise
        self._open = True
        spawn_system_task(self._renew, name="the lease of trio_rooms")
        others = sorted(one.name for one in self.seat.members.values() if one.name != self.name)
        among = f"with {', '.join(others)}" if others else "the first one here"
        self.seat.on_come.append(self._come)  # Those who were there before have not.
        logger.info("this is node %s, %s; rooms are kept in %s", self.name, among, self.engine)

    async def _renew(self) -> None:
        """Renew the lease until this node leaves: also while rooms stop, and the store is closed."""
        try:
            with self._beat:
                await self.seat.run()
        except Exception as error:
            logger.critical("node %s: its lease is not renewed any more", self.name, exc_info=error)
            self._runtime.fail(error)
        finally:
            self._beat_ended.set()

    async def run(self) -> None:
        """See `Node`."""
        watchman = Watchman(self.seat, self._runtime.hub)
        with watchman.on_duty():
            await self._run()

    async def _run(self) -> None:
        """Run what goes on for as long as the node does."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.lanes.run)
            nursery.start_soon(self.calls.run)
            nursery.start_soon(self.ownership.run)
            nursery.start_soon(self._exchange.run)
            nursery.start_soon(self._drain.run)

    async def aclose(self) -> None:
        """See `Node`."""
        if not self._open:
            return
        self._open = False
        # Also where the store took too long, and nobody waits for this any more.
        with trio.CancelScope(shield=True):
            self._beat.cancel()
            await self._beat_ended.wait()
            try:
                await self.seat.leave()
            finally:
                await self.engine.aclose()

    # What happens to it and the others.

    def _come(self, member: Member) -> None:
        logger.info("node %s: %s has come", self.name, member.incarnation)

    def _gone(self, member: Member) -> None:
        logger.info("node %s: %s has gone, or is over", self.name, member.incarnation)

    def _over(self, former: str) -> None:
        if former == self.seat.incarnation:
            return  # Another has its name: that is told, and it goes on only when that one has ended.
        self._lives += 1
        logger.warning("node %s: %s is over, and goes on as %s", self.name, former, self.seat.incarnation)

    def _lost(self, key: str) -> None:
        self._forsaken += 1
        logger.warning("room %s: another node has it now", key)
        self._supervisor.forsake(key)

    # Rooms that nobody has, where this node, or another one, takes no more.

    async def _takes(self, incarnation: str, key: str) -> bool:
        """Ask another node to take a room."""
        return bool(await self.calls.ask(incarnation, "take", key, timeout=_TAKING))

    async def _take(self, incarnation: str, key: str) -> bool:  # noqa: ARG002 (whoever asks)
        """Take a room for which another node asks."""
        return await self.ownership.take(key)

    async def _is_at(self, incarnation: str, key: str) -> bool:
        """Ask another node whether a room is at home there."""
        return bool(await self.calls.ask(incarnation, "has", key, timeout=_TAKING))

    async def _owns(self, incarnation: str, key: str) -> bool:  # noqa: ARG002 (whoever asks)
        """Say whether a room is at home here, to who wants to let somebody in."""
        here = await self.ownership.has(key)
        if here and not self._supervisor.accepts(key):
            raise Unavailable(key, "it takes nobody at the moment")
        return here

    # What it has.

    def _has(self, key: str) -> bool:
        """Whether a room that is at home here is needed here."""
        return self._supervisor.has(key)

    def _is_open(self) -> bool:
        """Whether this node takes rooms that nobody has."""
        return not self.draining and self._supervisor.pulse.pressure.trigger != "memory"

    def _about(self) -> dict[str, Any]:
        """What the others are told with each renewal."""
        hub, awake = self._runtime.hub, self._supervisor.awake
        return {
            "protocol": _PROTOCOL,
            "version": self._version,
            "rooms": self._served,
            "since": self._since,
            "lease": self.lease,
            "address": next(iter(self._addresses()), None),
            "draining": self.draining,
            "open": self._is_open(),
            "awake": awake,
            "asleep": max(len(hub.rosters) - hub.foreign - awake, 0),
            "connections": max(hub.sockets - hub.far, 0),
            "gateway_connections": self.homes.connections,
        }

    def nodes(self) -> dict[str, Any]:
        """What ``/nodes`` shows: each node that lives, and what it had when it renewed its lease last."""
        members = sorted(self.seat.members.values(), key=lambda member: member.incarnation)
        return {"node": self.name, "nodes": [self._shown(member) for member in members]}

    def _shown(self, member: Member) -> dict[str, Any]:
        itself = member.incarnation == self.seat.incarnation
        about = self._about() if itself else member.about
        told = ("since", "lease", "draining", "connections", "gateway_connections", "address", "version")
        return {
            "name": member.name,
            "incarnation": member.incarnation,
            "self": itself,
            # The others are here since they renew theirs.
            "paused": itself and not self.seat.valid,
            "rooms": {stage: about.get(stage) for stage in ("awake", "asleep")},
            **{name: about.get(name) for name in told},
        }

    def statistics(self) -> ClusterStatistics:
        """What this node has to do with the others."""
        lanes = list(self.lanes.all())
        return ClusterStatistics(
            node=self.name,
            members=len(self.seat.members),
            owned=len(self.ownership.keys()),
            lanes=len(lanes),
            lane_bytes=sum(lane.size for lane in lanes),
            unanswered=self.calls.unanswered,
            paused=not self.seat.valid,
            draining=self.draining,
            claims=self.ownership.claims,
            calls=self.calls.asked,
            pauses=self.seat.pauses,
            forsaken=self._forsaken,
            lives=self._lives,
        )

    # Being drained.

    async def ask_to_drain(self, name: str) -> bool:
        """Have a node give its rooms and its clients to the others; returns when that has begun.

        Returns:
            False where no such node lives.

        Raises:
            Unavailable: it cannot be reached.
        """
        await trio.lowlevel.checkpoint()
        if name == self.name:
            self.drain()
            return True
        for member in self.seat.members.values():
            if member.name == name:
                await self.calls.ask(member.incarnation, "drain", timeout=_DRAIN)
                return True
        return False

    async def _asked_to_drain(self, _: str) -> None:
        """Another node was asked to have this one drained."""
        await trio.lowlevel.checkpoint()
        self.drain()

    def drain(self) -> None:
        """Begin to give all rooms and clients away; the process goes on, and takes nobody any more."""
        if not self.draining:
            self.draining = True
            logger.info("node %s is drained: its rooms and clients go to the others", self.name)
            self._drain.begin()


def _version() -> str | None:
    """The version of this program, where it is installed."""
    try:
        return version("trio-rooms")
    except PackageNotFoundError:
        return None
