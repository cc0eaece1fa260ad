"""What keeps hibernation from being of use, noticed where it happens, and said once of each room."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import attrs
import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._policy.heartbeats import Heartbeats
from trio_rooms._sockets.roster import Link, Roster
from trio_rooms._state.saved import Loaded
from trio_rooms._state.shares import largest_parts
from trio_rooms._wire import envelope
from trio_rooms.errors import EventError

__all__ = ["LargeLoad", "Signs"]

logger = logging.getLogger("trio_rooms")

_T = TypeVar("_T")

_LARGE: Final = 256 * 1024
"""Bytes of a snapshot from which on reading it takes most of the time of a wake."""
_SMALL: Final = 16 * 1024
"""Bytes of one that takes no time to read by itself."""
_SLOW: Final = 0.02
"""Seconds that a load may take, of the tenth of a second that a client is to wait for a wake."""
_MANY: Final = 10
"""Connections of a room of which it is worth to say that most are idle."""
_FRUITLESS: Final = 5
"""Times in a row that a room is woken, and nothing is changed by what woke it."""
_LONGEST: Final = 256
"""Characters or bytes of a message that is looked at for that."""
_MOST_WOKEN: Final = 1024
"""Rooms that are remembered for it."""
_MOST_TOLD: Final = 4096
"""Rooms that are remembered as told of, with what was told; who is forgotten may be told of again."""
_MOST_LOADS: Final = 32
"""Loads that are kept, the slowest ones."""
_MOST_PARTS: Final = 3
"""Parts of a state that are named."""
_MOST_LINES: Final = 10
_MINUTE: Final = 60.0
"""Lines of the log for one sign within this many seconds; ten thousand rooms may all be alike."""


@attrs.frozen
class LargeLoad:
    """The last load of a room that is large, or was slow to load."""

    key: str
    bytes: int
    """Of its snapshot."""
    seconds: float
    """For which it was read and decoded."""
    parts: tuple[tuple[str, int], ...] = ()
    """What takes most of it: up to three fields of its state, and about how many bytes each has."""


@attrs.define(eq=False)
class _Woken:
    """A room that a message has woken, while it is awake."""

    message: str | bytes
    plain: bool
    number: int | None = None
    """That of its last commit, when it was loaded; None for a room that never was."""


@attrs.define(eq=False)
class _Lines:
    """What was said of one sign lately."""

    since: float
    count: int = 0


class Signs:
    """Warns of rooms that sleep badly, each once, and says what would help.

    All it has is bounded, whatever clients do. It is asked where something is slow in any case: as a room
    wakes, or sleeps, or saves.

    Args:
        metrics: where rooms are counted that were told of.
        rosters: the connections of rooms, by key.
    """

    __slots__ = ("_fruitless", "_heartbeats", "_lines", "_loads", "_rosters", "_told", "_woken", "metrics")

    def __init__(self, metrics: Metrics, rosters: Mapping[str, Roster]) -> None:
        self.metrics: Metrics = metrics
        """What is counted and measured of all rooms."""
        self._rosters = rosters
        self._heartbeats = Heartbeats()
        self._woken: OrderedDict[str, _Woken] = OrderedDict()
        self._fruitless: OrderedDict[str, int] = OrderedDict()
        """How often in a row it was for nothing that a room was woken."""
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lines: dict[str, _Lines] = {}
        self._loads: dict[str, LargeLoad] = {}

    # Loads and snapshots.

    @property
    def large_loads(self) -> tuple[LargeLoad, ...]:
        """Rooms whose last load was of over 256 KiB or took over 20 ms; 32 at most, the slowest first."""
        return tuple(sorted(self._loads.values(), key=lambda load: load.seconds, reverse=True))

    def loaded(self, key: str, loaded: Loaded, number: int) -> None:
        """A room was loaded.

        Args:
            key: the room.
            loaded: what came out of the store.
            number: that of its last commit.
        """
        woken = self._woken.get(key)
        if woken is not None:
            woken.number = number
        if loaded.size <= _LARGE and loaded.seconds <= _SLOW:
            if self._loads:
                self._loads.pop(key, None)
            return
        loads = self._loads
        again = key in loads
        parts = largest_parts(loaded.state, _MOST_PARTS)
        loads[key] = LargeLoad(key, loaded.size, loaded.seconds, parts)
        if len(loads) > _MOST_LOADS:
            del loads[min(loads, key=lambda one: loads[one].seconds)]
        if loaded.size > _LARGE:
            self._tell_of_size(key, loaded.size, _most(parts, loaded.size))
        if loaded.seconds > _SLOW and loaded.size < _SMALL:
            if again:  # Once may be anything.
                self._tell(
                    "slow_load",
                    key,
                    "it took %.0f ms to load its %d bytes, again: the store is slow, or the machine is "
                    "overloaded",
                    loaded.seconds * 1000,
                    loaded.size,
                )
        elif loaded.seconds > _SLOW:
            self._tell(
                "slow_load",
                key,
                "it took %.0f ms to load its %.0f KB%s, which whoever wakes it waits for; keep in "
                "ctx.room.storage what is not needed at each wake",
                loaded.seconds * 1000,
                loaded.size / 1000,
                _most(parts, loaded.size),
            )

    def saved(self, key: str, size: int, state: Any) -> None:
        """A room was saved, with so many bytes; the state may have changed since."""
        if size > _LARGE and ("large_snapshot", key) not in self._told:
            self._tell_of_size(key, size, _most(largest_parts(state, 1), size))

    def _tell_of_size(self, key: str, size: int, most: str) -> None:
        """The snapshot of a room is large."""
        self._tell(
            "large_snapshot",
            key,
            "its snapshot has %.0f KB%s, which are read at each wake and written after each change; keep in "
            "ctx.room.storage what is not needed at each wake, or take old entries out",
            size / 1000,
            most,
        )

    # Messages that wake.

    def woken(self, definition: Definition, link: Link, message: str | bytes) -> None:
        """A message of a client wakes its room."""
        heartbeat = self.heard(link, message)
        if not heartbeat and definition.state is not None and len(message) <= _LONGEST:
            _keep(self._woken, link.roster.key, _Woken(message, definition.plain))

    def heard(self, link: Link, message: str | bytes) -> bool:
        """A message of a client wakes its room, or ends its silence; whether it is a heartbeat."""
        key = link.roster.key
        interval = self._heartbeats.heard(key, link.id, message, trio.current_time())
        if interval is not None:
            self._tell(
                "heartbeat_wakes",
                key,
                "a heartbeat of a client wakes it, or keeps it awake: %r comes every %.3g s; "
                "auto_respond={%r: ...} answers it without the room",
                message,
                interval,
                message,
            )
        return interval is not None

    def slept(self, key: str, number: int) -> None:
        """A room has fallen asleep.

        Args:
            key: the room.
            number: that of its last commit.
        """
        woken = self._woken.pop(key, None)
        if woken is None:
            return
        if woken.number != number:
            self._fruitless.pop(key, None)
            return
        said = _fire_and_forget(woken)
        if not said:
            return
        count = self._fruitless.pop(key, 0) + 1
        _keep(self._fruitless, key, count)
        if count >= _FRUITLESS:
            self._tell(
                "low_priority_wakes",
                key,
                "it was woken %d times in a row by messages that changed nothing, the last one %.64r; "
                "%s, or give it a longer idle_timeout",
                count,
                said,
                "auto_relay and auto_echo hand such messages on without the room"
                if woken.plain
                else "have clients send such an event along with one that matters, or less often",
            )

    # Rooms that do not sleep.

    def restless(self, key: str, seconds: float) -> None:
        """A room has not slept for so long, though it should have."""
        roster = self._rosters.get(key)
        count = 0 if roster is None else roster.count
        active = 0 if roster is None or roster.active is None else len(roster.active)
        if count >= _MANY and 2 * active < count:
            self._tell(
                "never_hibernates",
                key,
                "it has not slept for %.0f s, although %d of its %d connections are idle: give the others a "
                "room of their own, let auto_respond answer what needs none, or set a shorter idle_timeout",
                seconds,
                count - active,
                count,
            )

    def idle(self, definition: Definition, key: str) -> None:
        """A connection of an awake room is hibernated."""
        if definition.policy.idle_timeout == math.inf:
            self._tell(
                "hibernation_off",
                key,
                "connections of it are idle, and it never sleeps, since its idle_timeout is inf; set one, "
                "such as idle_timeout=300",
            )

    def pinned(self, key: str, kind: str, name: str, seconds: float) -> None:
        """Something has held a room awake for long.

        Args:
            key: the room.
            kind: ``task`` or ``keep_awake``.
            name: of the task, or the reason that was given.
            seconds: for how long.
        """
        self._tell(
            "pinned_by_task",
            key,
            "%s has held it awake for %.0f s; %s, or have it called again with ctx.room.schedule",
            f"the task {name!r}" if kind == "task" else f"keep_awake({name!r})",
            seconds,
            "start it with keep_awake=False" if kind == "task" else "leave the block when all is done",
        )

    # What is said.

    def _tell(self, sign: str, key: str, text: str, *arguments: object) -> None:
        """Warn of a room, if it was not told of."""
        told = self._told
        if (sign, key) in told:
            told.move_to_end((sign, key))
            return
        told[sign, key] = None
        if len(told) > _MOST_TOLD:
            told.popitem(last=False)
        self.metrics.antipatterns[sign] += 1
        now = trio.current_time()
        lines = self._lines.get(sign)
        if lines is None or now - lines.since >= _MINUTE:
            lines = self._lines[sign] = _Lines(now)
        lines.count += 1
        if lines.count <= _MOST_LINES:
            logger.warning("room %s: %s", key, text % arguments, extra={"sign": sign})
        elif lines.count == _MOST_LINES + 1:
            logger.warning(
                "the same (%s) is true of more rooms, which are counted and not told for a minute",
                sign,
                extra={"sign": sign},
            )


def _keep(kept: OrderedDict[str, _T], key: str, value: _T) -> None:
    """Remember something of a room, and forget the oldest for it."""
    kept[key] = value
    if len(kept) > _MOST_WOKEN:
        kept.popitem(last=False)


def _fire_and_forget(woken: _Woken) -> str | bytes:
    """What a message says that nobody waits for an answer to; nothing of any other."""
    if woken.plain:
        return woken.message
    try:
        received = envelope.decode(woken.message)
    except EventError:
        return ""
    return "" if received is None or received.id is not None else received.event


def _most(parts: tuple[tuple[str, int], ...], size: int) -> str:
    """What takes most of a snapshot, for people; nothing where no part stands out."""
    if not parts or 2 * parts[0][1] < size:
        return ""
    name, of_it = parts[0]
    return f", of which {name!r} is about {min(of_it, size) / 1000:.0f} KB"
