"""Puts the least active to sleep: connections for a ratio or a number, rooms to make room for others.

Nothing is looked at while all is as it should be. What may change that says so, in its own cold path: a
connection that becomes active, one that leaves, a room that wants to wake. What sleeps costs a sweep nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, Final

import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.turn import TURN
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._policy.policy import Policy
from trio_rooms._policy.sweep import Least, few, score, wanted
from trio_rooms._room.actor import Actor
from trio_rooms._room.lifecycle import Stage
from trio_rooms._sockets.activity import is_busy
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link, Roster

__all__ = ["Sweeper"]

_MANY: Final = 32
"""Connections or rooms that are looked at between two looks at the clock."""
_LEAST: Final = 0.05
"""Seconds between two sweeps at least, where the one before did not find enough."""
_EACH: Final = 20e-6
"""Seconds more for each that it looked at, so that to look takes a small part of the time for any number."""
_PAUSE_FIRST: Final = 1.0
_PAUSE_LAST: Final = 32.0
"""Seconds until it is looked again where all are busy, doubled while that finds nobody."""
_COMMITTING: Final = 5.0
"""Seconds that a sweep waits for the rooms that it sent to sleep, before the next one."""
_POLL: Final = 0.01
"""Seconds between two looks whether they do."""


class Sweeper:
    """Sends who is least active to sleep.

    Args:
        policy: what holds for all rooms together.
        hub: their sockets.
        actors: the rooms that are awake, by key.
        deadlines: where rooms are told, a few at a time.
        spawn: starts a task of the runtime.
    """

    def __init__(
        self,
        policy: Policy,
        hub: SocketHub,
        actors: Mapping[str, Actor],
        deadlines: Deadlines,
        spawn: Callable[[Callable[..., Coroutine[Any, Any, None]]], None],
    ) -> None:
        self.pressed: bool = False
        """Whether a room may wake only in the place of another; who finds that it must sets it."""
        self.trigger: str = "cap"
        """What the last pressure came from."""
        self._policy = policy
        self._activity = hub.activity
        self._hub = hub
        self._actors = actors
        self._deadlines = deadlines
        self._spawn = spawn
        self._metrics: Metrics = hub.metrics
        self._sweeping = False
        """Whether there is a task that hibernates connections."""
        self._pressing = False
        """Whether there is one that sends rooms to sleep until a pressure is relieved."""
        self._telling: set[Actor] = set()
        """Rooms that are to be told to sleep, in one of the next turns of the event loop."""
        self._closed = False
        if policy.ratio or policy.max_active is not None:
            hub.activity.on_change = self.look

    def close(self) -> None:
        """Begin nothing any more."""
        self._closed = True

    # Connections.

    def look(self) -> None:
        """There are more active connections, or more or fewer in all: sweep, if too many are active."""
        if self._sweeping or wanted(self._policy, self._activity.total, self._hub.sockets) is None:
            return
        if not self._closed:
            self._sweeping = True
            self._spawn(self._sweep)

    @enable_ki_protection
    async def _sweep(self) -> None:
        """Hibernate connections until no more are active than may be."""
        pause = _PAUSE_FIRST
        try:
            # What is about to happen in this turn of the event loop counts as well.
            await trio.lowlevel.checkpoint()
            while not self._closed:
                due = wanted(self._policy, self._activity.total, self._hub.sockets)
                if due is None:
                    return
                done, looked, first, busy = await self._hibernate_least(*due)
                now = again = trio.current_time()
                if done < due[1]:
                    if done:
                        pause = _PAUSE_FIRST
                    # Nobody says when one is not busy any more.
                    again = first if first < inf and not busy else min(first, now + pause)
                    again = max(now + _LEAST, again)
                    pause = min(2 * pause, _PAUSE_LAST)
                await trio.sleep_until(max(again, now + looked * _EACH))
        finally:
            self._sweeping = False

    async def _hibernate_least(self, trigger: str, count: int) -> tuple[int, int, float, bool]:
        """Hibernate the connections that are least active, but for those that were just used, or are busy.

        Returns:
            How many were, how many were looked at, when the first of those that were just used no longer is
            that, and whether some were busy.
        """
        least: Least[Link] = Least(count)
        looked, first, busy = 0, inf, False
        pause_at, now = perf_counter() + TURN, trio.current_time()
        for roster, policy, uses in self._activity.in_use():
            reluctance = self._reluctance(roster)
            least_idle = self._policy.least_idle * reluctance
            for link, use in uses:
                looked += 1
                if not looked % _MANY and perf_counter() > pause_at:
                    await trio.lowlevel.checkpoint()
                    pause_at, now = perf_counter() + TURN, trio.current_time()
                silent = now - use.last
                if silent < least_idle:
                    first = min(first, use.last + least_idle)
                    continue
                active = score(use.rate(now, policy.activity_window), silent, reluctance)
                if least.takes(active):
                    if is_busy(link):
                        busy = True
                    else:
                        least.add(active, link)
        done = 0
        for link in least:
            if perf_counter() > pause_at:
                await trio.lowlevel.checkpoint()
                pause_at = perf_counter() + TURN
            done += self._hibernate(link, trigger)
        busy |= done < len(least)  # Or just used.
        if done:
            self._metrics.sweeps[trigger] += 1
        return done, looked, first, busy

    def _hibernate(self, link: Link, trigger: str) -> bool:
        """Hibernate one connection, if it is still as it was; its room sleeps where it was the last."""
        roster, now = link.roster, trio.current_time()
        use = None if roster.active is None else roster.active.get(link)
        least_idle = self._policy.least_idle * self._reluctance(roster)
        if use is None or now - use.last < least_idle or is_busy(link):
            return False
        self._activity.hibernate(link)
        actor = self._actors.get(roster.key)
        # Half, since its room was quiet a little later than the connection.
        if roster.active is None and actor is not None and now - actor.idleness.quiet_since >= least_idle / 2:
            self._tell(actor, trigger)
        return True

    def _reluctance(self, roster: Roster) -> float:
        """How much longer than others the connections of a room have to be silent."""
        actor = self._actors.get(roster.key)
        return 1.0 if actor is None else actor.idleness.reluctance

    # Rooms.

    def press(
        self, trigger: str, relieved: Callable[[], bool], stuck: Callable[[], None] | None = None
    ) -> None:
        """Send rooms to sleep, a share of those that are awake at a time; nothing while that is under way.

        Args:
            trigger: why: "memory" or "lag".
            relieved: called when those of one round sleep; whether it is enough.
            stuck: called instead where none can be sent to sleep; then it ends, too.
        """
        if not (self._pressing or self._closed):
            self._pressing = True
            self.trigger = trigger
            self._spawn(partial(self._press, trigger, relieved, stuck))

    @enable_ki_protection
    async def _press(
        self, trigger: str, relieved: Callable[[], bool], stuck: Callable[[], None] | None
    ) -> None:
        """See `press`."""
        try:
            while not self._closed:
                sent = await self._send_least(trigger)
                if not sent:
                    if stuck is not None:
                        stuck()
                    return
                if relieved():
                    return
        finally:
            self._pressing = False

    async def _send_least(self, trigger: str) -> int:
        """Send a share of the rooms to sleep; how many, once they do. Nothing holds on to them then."""
        rooms = await self.least_active(few(self._policy, len(self._actors)))
        sent = self.send_to_sleep(rooms, trigger)
        await self._wait_for(sent)
        return len(sent)

    async def least_active(self, count: int) -> list[Actor]:
        """The quiet rooms that are least active, the least one first. A checkpoint where they are many.

        Args:
            count: how many at most.
        """
        least: Least[Actor] = Least(count)
        pause_at, now = perf_counter() + TURN, trio.current_time()
        for looked, actor in enumerate([*self._actors.values()]):
            if not looked % _MANY and perf_counter() > pause_at:
                await trio.lowlevel.checkpoint()
                pause_at, now = perf_counter() + TURN, trio.current_time()
            idleness = actor.idleness
            if actor.quiet and actor not in self._telling:
                active = score(idleness.lately(now), now - idleness.quiet_since, idleness.reluctance)
                if least.takes(active):
                    least.add(active, actor)
        return [*least]

    def send_to_sleep(self, rooms: Collection[Actor], trigger: str) -> list[Actor]:
        """Have rooms sleep that are quiet, a few in each turn of the event loop; returns those.

        Args:
            rooms: which.
            trigger: why.
        """
        quiet = [actor for actor in rooms if self._is_awake(actor) and actor.quiet]
        for actor in quiet:
            self._tell(actor, trigger)
        if quiet:
            self._metrics.sweeps[trigger] += 1
        return quiet

    def falls_asleep(self, actor: Actor) -> bool:
        """Whether a room was sent to sleep, and has found nothing to do since."""
        on_its_way = actor in self._telling or actor.idleness.due or actor.stage is Stage.HIBERNATING
        return on_its_way and self._is_awake(actor)

    def _tell(self, actor: Actor, trigger: str) -> None:
        """Have a room sleep when all have had their turn that have something to do now."""
        self._telling.add(actor)
        self._deadlines.set(trio.current_time(), partial(self._send, actor, trigger))

    def _send(self, actor: Actor, trigger: str) -> None:
        """Have one room sleep, if it is still quiet."""
        self._telling.discard(actor)
        if self._is_awake(actor):
            idleness = actor.idleness
            obstacle = idleness.obstacle
            if obstacle:
                idleness.block(obstacle)
            else:
                idleness.sleep_now(trigger)

    def _is_awake(self, actor: Actor) -> bool:
        """Whether an actor is still that of its room."""
        return self._actors.get(actor.key) is actor

    async def _wait_for(self, rooms: list[Actor]) -> None:
        """Wait until rooms that were sent to sleep do so, or have something to do."""
        with trio.move_on_after(_COMMITTING):
            while rooms:
                await trio.sleep(_POLL)
                rooms = [actor for actor in rooms if self.falls_asleep(actor)]
