"""What connections and rooms take in memory, measured on some of those that there are."""

from __future__ import annotations

import gc
from itertools import islice
from typing import Final

import attrs
import trio

from trio_rooms._room.actor import Actor
from trio_rooms._room.lifecycle import Stage
from trio_rooms._runtime.runtime import Runtime
from trio_rooms._sockets.roster import Link

from .weight import Scales, shallow

__all__ = ["Sizes"]

_LINKS: Final = 64
"""Connections that are looked at at a time."""
_ROOMS: Final = 8
"""Awake rooms that are."""
_PAUSE: Final = 1.0
"""Seconds between two looks at least, however often somebody asks, and however many rooms fall asleep."""
_REMEMBERED: Final = 64
"""What was seen counts for less and less, once so much was seen after it."""
_OWNED: Final = (
    "trio_rooms._room.",
    "trio_rooms._state.",
    "trio_rooms._policy.window",
    "trio_rooms._sockets.standing",
    "trio_rooms._sockets.unfinished",
    "trio_rooms._sockets.use",
)
"""Where the classes are whose instances a room or a connection has for itself."""


_ROSTER: Final = 100
"""Bytes of a roster's place in the table of all."""
_PLACE: Final = 8
"""Bytes of a connection's place in the table of all."""
_TASK: Final = 4_000
"""Bytes of a room's task as Trio has it, with a nursery, and of the coroutines that wait in it."""
_CHILD: Final = 1_500
"""Bytes of each background task, of which nobody looks what it holds."""


@attrs.define
class _Mean:
    """The mean of what was seen last."""

    value: float = 0.0
    count: int = 0

    def note(self, value: float) -> None:
        self.count = min(self.count + 1, _REMEMBERED)
        self.value += (value - self.value) / self.count


class Sizes:
    """Looks at a few connections and rooms when somebody asks, and at one that falls asleep now and then.

    A look takes about two milliseconds at most, and there is one in a second at most. What was seen
    is remembered as means: nothing of what it looked at is kept.

    Args:
        runtime: open rooms.
    """

    __slots__ = ("_extra", "_link", "_looked", "_members", "_room", "_runtime", "_shared_room")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._looked = -_PAUSE
        self._link = _Mean()
        """Bytes of a connection whether it is hibernated or not, with its share of its room's roster."""
        self._extra = _Mean()
        """What an active connection has beside that."""
        self._room = _Mean()
        """Bytes of an awake room, without its connections."""
        self._shared_room = _Mean()
        """The same, of rooms that have connections."""
        self._members = _Mean()
        """Connections of such a room."""
        runtime.supervisor.on_sleep = self.falls_asleep

    @property
    def hibernated_connection(self) -> float | None:
        """Bytes of a hibernated connection, with its share of what is kept of its room."""
        return self._link.value if self._link.count else None

    @property
    def active_connection(self) -> float | None:
        """Bytes of a connection of an awake room, with its share of that room."""
        if not (self._link.count and self._members.count):
            return None
        return self._link.value + self._extra.value + self._shared_room.value / self._members.value

    @property
    def awake_room(self) -> float | None:
        """Bytes of an awake room, its state included, without its connections."""
        return self._room.value if self._room.count else None

    def saved(self, *, hibernated: int, asleep: int) -> float | None:
        """Bytes that there would be in addition if nothing slept.

        Args:
            hibernated: connections that are hibernated.
            asleep: rooms with connections that are not awake.
        """
        if not hibernated and not asleep:
            return 0.0
        room = self.awake_room
        return None if room is None else hibernated * self._extra.value + asleep * room

    def told(self, *, hibernated: int, asleep: int) -> dict[str, int | None]:
        """All of it in whole bytes, None for what is not known yet; see `RoomsMetrics.bytes`.

        Args:
            hibernated: connections that are hibernated.
            asleep: rooms with connections that are not awake.
        """
        self.look()
        return {
            "resident": self._runtime.supervisor.pulse.measured(),
            "hibernated_connection": _whole(self.hibernated_connection),
            "active_connection": _whole(self.active_connection),
            "awake_room": _whole(self.awake_room),
            "saved": _whole(self.saved(hibernated=hibernated, asleep=asleep)),
        }

    def look(self) -> None:
        """Look at a few connections and rooms, unless that was done just now."""
        if not self._is_due():
            return
        self._weigh_links(self._runtime.hub.some_links(_LINKS))
        rooms = self._runtime.supervisor.some_awake(_ROOMS)
        scales, first = Scales(_OWNED), True
        for actor in rooms:
            if actor.stage is Stage.AWAKE and not scales.spent:
                self._weigh_room(actor, scales, whole=not first)
                first = False

    def falls_asleep(self, actor: Actor) -> None:
        """A room's own task is about to end since it sleeps; it has everything still."""
        if self._is_due():
            self._weigh_links([*islice(actor.shared.roster.everybody(), _LINKS)])
            self._weigh_room(actor, Scales(_OWNED), whole=False)

    def _is_due(self) -> bool:
        now = trio.current_time()
        if now < self._looked + _PAUSE:
            return False
        self._looked = now
        return True

    def _weigh_links(self, links: list[Link]) -> None:
        """Note what connections take in any case."""
        scales = Scales(_OWNED)
        for link in links:
            roster, unfinished = link.roster, link.unfinished
            record = shallow(roster) + shallow(roster.key) + shallow(roster.holder) + _ROSTER
            own = shallow(link) + scales.weigh(
                link.id, link.attachment, link.channels, link.session, link.user, unfinished
            )
            if unfinished is not None and unfinished.postponed is not None:
                own += unfinished.postponed.size
            self._link.note(own + _PLACE + record / max(roster.count, 1))

    def _weigh_room(self, actor: Actor, scales: Scales, *, whole: bool) -> None:
        """Note what an awake room takes, and what its active connections do.

        Args:
            actor: the room.
            scales: what to weigh it with.
            whole: whether it counts only if there was time for all of it.
        """
        shared, contexts = actor.shared, actor.members.contexts
        scales.leave_out(contexts, shared.program, *gc.get_referents(shared.program))
        tasks = actor.background.nursery
        size = _TASK + scales.weigh(actor, shared.record, actor.saver.state_now)
        if tasks is not None:
            size += _CHILD * len(tasks.child_tasks)
        if scales.spent and whole:
            return
        self._room.note(size)
        members = shared.roster.count
        if not members:
            return
        self._shared_room.note(size)
        self._members.note(members)
        active = shared.roster.active or {}
        for link in islice(active, _LINKS):
            scales.leave_out(link.id, link.attachment, link.user)
            own = shallow(active) / len(active) + scales.weigh(active[link])
            context = contexts.get(link.id)
            if context is not None:
                own += scales.weigh(context) + shallow(contexts) / len(contexts)
            if scales.spent:
                return
            self._extra.note(own)


def _whole(size: float | None) -> int | None:
    return None if size is None else round(size)
