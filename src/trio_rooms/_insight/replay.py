"""What a recorded life would come to under other policies: how much hibernates, and how often rooms wake.

Nothing here knows of sockets or clocks. A life is told in the order of time, each room's at least: who
came, what was sent, who left. For each policy it is worked out when a room would have slept, and since
when each of its connections would have been hibernated. What is kept is one small record for each
connection and for each room, however long the life is.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from copy import copy
from typing import Final

import attrs

from trio_rooms._policy.policy import Policy
from trio_rooms._policy.window import Window

__all__ = ["LADDER", "SAVED", "Outcome", "Replay", "best", "percent", "together"]

LADDER: Final = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Idle timeouts that are tried, in seconds."""
SAVED: Final = 0.9
"""The share of what an active connection costs that is saved while it is hibernated, as it is declared; what
is really saved is measured."""
_GOOD: Final = 0.8
"""The share of connections hibernated from which on a longer timeout is better than a larger share."""
_LITTLE: Final = 0.05
"""A share that is not worth to change anything for."""
_WAKE: Final = 1.0
"""Seconds of an active connection that a wake is held to cost: a load, a save, and who waits for both."""


@attrs.frozen
class Outcome:
    """What a policy would have come to."""

    policy: Policy
    hibernation_ratio: float | None
    """The share of connections that were hibernated, on the average over time, each from when it was first
    seen until it left or the end; None where there were none."""
    added_wakes: int
    """How often rooms woke that had slept."""
    awake_rooms: float
    """Rooms that were awake, on the average over time."""
    connected: float
    """Seconds of all connections together."""

    @property
    def savings(self) -> float | None:
        """The share of what connections cost that hibernation saves."""
        return None if self.hibernation_ratio is None else SAVED * self.hibernation_ratio


@attrs.define(eq=False)
class _Connection:
    """One connection of a room."""

    since: float
    """When it was first seen."""
    last: float
    """When it last was used."""
    active: int = 0
    """Under which policies its room has been awake since then, a bit for each."""


@attrs.define(eq=False)
class _Room:
    """One room."""

    since: float
    last: float
    """When it last had something to do."""
    connections: dict[Hashable, _Connection] = attrs.field(factory=dict)
    groups: dict[int, dict[_Connection, None]] = attrs.field(factory=dict)
    """Its connections that are active under some policy, by these."""
    handled: int = 0
    windows: dict[int, Window] | None = None
    """How much it had to do lately, by the number of the policy for which that matters."""


class Replay:
    """Has a life happen once more, under several policies at once.

    Args:
        policies: these; of each what is about rooms and their connections counts.
        begin: from when on it counts. What is told of the time before says what was under way then.
    """

    __slots__ = (
        "_active", "_all", "_always", "_asleep", "_begin", "_connected", "_first", "_limits", "_rooms",
        "_seen", "_shortest", "_timeouts", "_wakes", "policies",
    )  # fmt: skip

    def __init__(self, policies: Sequence[Policy], begin: float = -math.inf) -> None:
        self.policies: tuple[Policy, ...] = tuple(policies)
        self._active = [0.0 for _ in policies]
        """Seconds of connections that were active, by the number of the policy; as those that follow."""
        self._asleep = [0.0 for _ in policies]
        """Seconds of rooms that slept."""
        self._wakes = [0 for _ in policies]
        self._timeouts = sorted((one.idle_timeout, number) for number, one in enumerate(policies))
        """The shortest first."""
        self._limits = [one.connection_idle_timeout for one in policies]
        self._all = (1 << len(self.policies)) - 1
        self._begin = begin
        self._always = 0.0
        """Seconds of connections that were active whatever the policy."""
        self._first = min((one.idle_timeout for one in policies), default=math.inf)
        self._shortest = min((one.connection_idle_timeout for one in policies), default=math.inf)
        self._seen = 0.0
        """Seconds of rooms, as `_connected` is of connections."""
        self._connected = 0.0
        self._rooms: dict[Hashable, _Room] = {}

    def latest(self, room: Hashable) -> float:
        """When a room last had something to do; before all time where it was not heard of."""
        found = self._rooms.get(room)
        return -math.inf if found is None else found.last

    def message(self, time: float, room: Hashable, connection: Hashable | None) -> None:
        """A connection has sent something.

        Args:
            time: seconds, not less than those before it of this room.
            room: which, whatever names it.
            connection: which of the room's; None where the room had something to do for somebody else.
        """
        found = self._rooms.get(room)
        if found is None:
            found = self._new(time, room)
        elif time - found.last > self._first:
            self._rest(found, time, wakes=True)
        found.last = time
        found.handled += 1
        if found.windows is not None:
            for window in found.windows.values():
                window.turn(time, found.handled)
        if connection is None:
            return
        used = found.connections.get(connection)
        if used is None:
            used = found.connections[connection] = _Connection(time, time)
        elif used.active:
            self._active_until(used, time)
        if used.active != self._all:
            self._move(found, used, self._all)
        used.last = time

    def came(self, time: float, room: Hashable, connection: Hashable) -> None:
        """A connection is there from now on; nothing where that was known. Its room does not wake for it."""
        found = self._rooms.get(room)
        if found is None:
            found = self._new(time, room)
            found.last = -math.inf  # Nobody had anything to say in it yet: it sleeps.
        elif connection in found.connections:
            return
        self._rest(found, time)
        new = found.connections[connection] = _Connection(time, time)
        awake = 0
        for number in range(len(self.policies)):
            if time < self._sleeps_at(found, number):
                awake |= 1 << number
        self._move(found, new, awake)

    def gone(self, time: float, room: Hashable, connection: Hashable) -> None:
        """A connection has left; nothing where it was not known."""
        found = self._rooms.get(room)
        if found is None or connection not in found.connections:
            return
        self._rest(found, time)
        left = found.connections.pop(connection)
        self._end(left, time)
        self._move(found, left, 0)

    def outcomes(self, end: float, *, silent: int = 0) -> list[Outcome]:
        """What each policy comes to; nothing can be told of the life after that.

        Args:
            end: when it ended.
            silent: connections that were there from the beginning to the end, and of which nothing was told.
        """
        first = min((room.since for room in self._rooms.values()), default=end)
        begin = self._begin if math.isfinite(self._begin) else first
        for room in self._rooms.values():
            self._rest(room, end, ends=True)
            self._seen += end - max(room.since, begin)
            for connection in room.connections.values():
                self._end(connection, end)
        self._rooms = {}
        connected, span = self._connected + silent * (end - begin), end - begin
        return [
            Outcome(
                policy,
                min(max(1 - (self._always + self._active[number]) / connected, 0), 1) if connected else None,
                self._wakes[number],
                (self._seen - self._asleep[number]) / span if span else 0.0,
                connected,
            )
            for number, policy in enumerate(self.policies)
        ]

    def _new(self, time: float, name: Hashable) -> _Room:
        """A room that was not heard of before; it is awake at first."""
        room = self._rooms[name] = _Room(time, time)
        for number, policy in enumerate(self.policies):
            if policy.idle_timeout < policy.activity_window < math.inf:
                if room.windows is None:
                    room.windows = {}
                room.windows[number] = window = Window(policy.activity_window)
                window.begin(time, 0)
        return room

    def _sleeps_at(self, room: _Room, number: int) -> float:
        """When a room sleeps under a policy, if nothing more happens."""
        policy = self.policies[number]
        at = room.last + policy.idle_timeout
        if room.windows is not None and number in room.windows and math.isfinite(at):
            # A copy, since nobody knows yet that nothing happens until then.
            window, emptied = copy(room.windows[number]), room.last + policy.activity_window
            while at < emptied and (low := window.below(policy.message_threshold, at, room.handled)) > at:
                at = min(low, emptied)
        return at

    def _rest(self, room: _Room, time: float, *, wakes: bool = False, ends: bool = False) -> None:
        """A room had nothing to do since its last; it may have slept meanwhile."""
        if time - room.last <= self._first:
            return
        slept: dict[int, float] = {}
        last, begin = room.last, max(room.since, self._begin)
        woken = wakes and last > -math.inf and time >= self._begin
        for timeout, number in self._timeouts:
            if time - last <= timeout:
                break  # As under those that are longer.
            at = last + timeout if room.windows is None else self._sleeps_at(room, number)
            if at >= time:
                continue
            slept[number] = at
            if woken:
                self._wakes[number] += 1
            if wakes and room.windows is not None and number in room.windows:
                room.windows[number].begin(time, room.handled)
            if wakes or ends:
                since = max(at, begin)
                if since < time:
                    self._asleep[number] += time - since
        if not slept or not room.groups:
            return
        asleep, limits, total = sum(1 << number for number in slept), self._limits, self._active
        for active, group in [*room.groups.items()]:
            if not active & asleep:
                continue
            del room.groups[active]
            left = active & ~asleep
            ended = [(number, at) for number, at in slept.items() if active >> number & 1]
            for connection in group:
                connection.active = left
                last = connection.last
                since = max(last, self._begin)
                for number, at in ended:
                    until = min(at, last + limits[number])
                    if until > since:
                        total[number] += until - since
            if left:
                room.groups.setdefault(left, {}).update(group)

    def _move(self, room: _Room, connection: _Connection, active: int) -> None:
        """A connection is active under these policies from now on."""
        before = connection.active
        if before:
            group = room.groups[before]
            del group[connection]
            if not group:
                del room.groups[before]
        connection.active = active
        if active:
            room.groups.setdefault(active, {})[connection] = None

    def _active_until(self, connection: _Connection, time: float) -> None:
        """Count how long a connection was active since it was last used, where its room did not sleep."""
        last = connection.last
        if time - last <= self._shortest and connection.active == self._all and last >= self._begin:
            self._always += time - last
            return
        since, under = max(last, self._begin), connection.active
        active = self._active
        for number, limit in enumerate(self._limits):
            if under >> number & 1:
                until = last + limit
                until = min(until, time)
                if until > since:
                    active[number] += until - since

    def _end(self, connection: _Connection, time: float) -> None:
        """A connection is seen no more."""
        self._active_until(connection, time)
        self._connected += max(time - max(connection.since, self._begin), 0.0)


def best(outcomes: Sequence[Outcome], present: Outcome | None = None) -> Outcome | None:
    """The policy to choose: the longest idle timeout under which most hibernates, or else the largest share.

    Args:
        outcomes: what there is to choose from, of one life.
        present: what there is now.

    Returns:
        None where nothing is much better than what there is now.
    """
    worth = {
        number: min(one.hibernation_ratio, _GOOD) - one.added_wakes * _WAKE / one.connected
        for number, one in enumerate(outcomes)
        if one.hibernation_ratio is not None
    }
    if not worth:
        return None
    # What is nearly as good is as good: of these, rooms wake least with the longest timeout.
    top = max(worth.values()) - _LITTLE / 5
    number = max(
        (one for one, share in worth.items() if share >= top),
        key=lambda one: outcomes[one].policy.idle_timeout,
    )
    now = 0.0 if present is None else present.hibernation_ratio or 0.0
    return outcomes[number] if (outcomes[number].hibernation_ratio or 0.0) - now >= _LITTLE else None


def percent(share: float | None) -> str:
    """A share as people read it."""
    return "none" if share is None else f"{100 * share:.0f} %"


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """What rooms of several definitions come to in the same time; the policy is that of the first."""
    connected = sum(one.connected for one in outcomes)
    hibernated = sum((one.hibernation_ratio or 0.0) * one.connected for one in outcomes)
    return Outcome(
        outcomes[0].policy,
        hibernated / connected if connected else None,
        sum(one.added_wakes for one in outcomes),
        sum(one.awake_rooms for one in outcomes),
        connected,
    )
