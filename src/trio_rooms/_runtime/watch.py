"""Handlers that take long: a hung one is said aloud, with its room, its name and its line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from time import perf_counter
from typing import Final

import attrs
import trio

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.places import innermost
from trio_rooms._loop.turn import TURN
from trio_rooms._metrics.trace import APART, Trace
from trio_rooms._room.actor import Actor
from trio_rooms._room.lifecycle import Stage
from trio_rooms._room.mail import Ask
from trio_rooms._wire import envelope
from trio_rooms.errors import EventError

__all__ = ["Hanging", "Watch", "called", "name_of"]

logger = logging.getLogger("trio_rooms")

_LOOK: Final = 1.0
"""Seconds between two looks at the rooms that are busy."""
_STILL: Final = 2.0
"""Seconds that a look may be late before it is said that something kept everything waiting."""
_MOST_LINES: Final = 20
"""Handlers that are told of in one round, each in a line of its own; where a database hangs, all rooms do."""
_LONGEST_NAME: Final = 100
"""Characters of an event's name that are told; a client may have chosen it."""
_MOST_SHOWN: Final = 10
"""Hanging handlers that statistics show, those first that hang longest."""


@attrs.frozen
class Hanging:
    """A handler that runs for longer than `Room` has it as ``slow_handler``."""

    key: str
    """The room's."""
    handler: str
    """The event, or the name of the hook."""
    seconds: float
    """For how long, at least."""


@attrs.define(eq=False)
class _Watched:
    """A room that is busy, as it was at the last look."""

    task: trio.lowlevel.Task
    doing: object
    """What tells one handler's run from the next; None where none ran."""
    since: float
    """When it began, or was first seen, on Trio's clock."""
    warn_after: float
    """Seconds from then on after which it is told, or told again."""
    added: float
    """When the room began to be busy."""
    name: str | None = None
    """The handler, once it was told."""


class Watch:
    """Looks at the busy rooms once a second, and warns of handlers that do not end.

    A message costs nothing. A room says once that it is busy, and is looked at until it is found
    at rest; one that was busy with the same message at two looks has been so in between. While no
    room is busy nobody looks.

    Args:
        deadlines: where the next look is noted.
        trace: is told when rooms had something to do that no client has sent, and how long they were at it.
    """

    __slots__ = ("_deadlines", "_due", "_lines", "_round", "_trace", "_watched", "begun", "looking", "slow")

    def __init__(self, deadlines: Deadlines, trace: Trace) -> None:
        self._deadlines = deadlines
        self._trace = trace
        self.begun: Callable[[], None] = _nothing
        """Told when rooms are busy again, after none was."""
        self._watched: dict[Actor, _Watched] = {}
        self._round: list[Actor] = []
        """Who is still to be looked at in this round."""
        self._lines = 0
        """Handlers that were to be told of in this round."""
        self.looking: bool = False
        """Whether the next look is noted: rooms are busy, or were so at the last one."""
        self._due = 0.0
        """When it is to be, on Trio's clock."""
        self.slow: int = 0
        """Handlers that were told of until now."""

    def add(self, actor: Actor, doing: int | None) -> None:
        """A room is busy from now on; called in its own task.

        Args:
            actor: the room.
            doing: its count of handled mail where it begins with a message, or None.
        """
        actor.watched = True
        now = trio.current_time()
        slow = actor.shared.definition.slow_handler
        self._watched[actor] = _Watched(trio.lowlevel.current_task(), doing, now, slow, now)
        mail, trace = actor.mailbox.mail, self._trace
        message = mail[0] if mail and type(mail[0]) is tuple else None
        if doing is not None and message is not None:
            actor.shared.program.signs.heard(*message)
        if actor.stage is not Stage.HIBERNATING and (message is None or trace.thinned):
            trace.worked(actor.key, now)
        if not self.looking:
            self._note(now + _LOOK)
            self.begun()

    def discard(self, actor: Actor) -> None:
        """Nothing of a room runs any more."""
        watched = self._watched.pop(actor, None)
        if watched is not None:
            self._rested(actor, watched)
            self._end(actor, watched, trio.current_time())

    def since(self, actor: Actor) -> float | None:
        """When a room began what it handles now, on Trio's clock; None where it handles nothing.

        Of what began since the last look that is not known, and said to be now.
        """
        doing, watched = _doing(actor), self._watched.get(actor)
        if isinstance(doing, tuple):
            return doing[1]
        if doing is None:
            return None
        return watched.since if watched is not None and watched.doing == doing else trio.current_time()

    def busy_since(self, actor: Actor) -> float | None:
        """When a room began to be busy, on Trio's clock; None where it is not known to be."""
        watched = self._watched.get(actor)
        return None if watched is None else watched.added

    def hanging(self) -> tuple[Hanging, ...]:
        """The handlers that hang now, as far as they were told of; those that hang longest."""
        now = trio.current_time()
        told = sorted(
            (watched.since, actor.key, watched.name)
            for actor, watched in self._watched.items()
            if watched.name is not None
        )
        return tuple(Hanging(key, name, now - since) for since, key, name in told[:_MOST_SHOWN])

    def _look(self) -> None:
        """Look at some of the rooms, and note when to go on."""
        now = trio.current_time()
        if now - self._due > _STILL:
            self._tell_of_stall(now - self._due)
        if not self._round:
            self._round = list(self._watched)
        pause_at = perf_counter() + TURN
        while self._round and perf_counter() < pause_at:
            actor = self._round.pop()
            watched = self._watched.get(actor)
            if watched is not None:
                self._look_at(actor, watched, now)
        if not self._round:
            if self._lines > _MOST_LINES:
                logger.warning("%d more handlers have been running for too long", self._lines - _MOST_LINES)
            self._lines = 0
        self.looking = False
        if self._round or self._watched:
            self._note(now if self._round else now + _LOOK)
        else:
            self._watched = {}  # One that held thousands would stay as large.

    def _note(self, due: float) -> None:
        """Note the next look."""
        self.looking = True
        self._due = due
        self._deadlines.set(due, self._look)

    def _tell_of_stall(self, seconds: float) -> None:
        """Nothing ran for a while: a handler that blocks stops all rooms, and no look can find it."""
        busy = ", ".join(actor.key for actor in islice(self._watched, _MOST_SHOWN))
        logger.warning(
            "nothing ran for %.0f s or more: something blocked the event loop, such as a call in a handler "
            "that is not awaited; use trio.to_thread.run_sync for it. Busy were the rooms %s",
            seconds, busy, extra={"duration": seconds},
        )  # fmt: skip

    def _look_at(self, actor: Actor, watched: _Watched, now: float) -> None:
        """Warn, note what the room does now, or let it go."""
        doing = _doing(actor)
        if doing is not None and doing == watched.doing:
            if now - watched.since >= watched.warn_after:
                self._warn(actor, watched, now - watched.since)
            return
        self._end(actor, watched, now)
        watched.doing = doing
        watched.since = doing[1] if isinstance(doing, tuple) else now
        watched.warn_after = actor.shared.definition.slow_handler
        resting = actor.mailbox.waiter is not None or actor.stage in (Stage.ASLEEP, Stage.FAILED)
        if doing is None and resting:
            actor.watched = False
            del self._watched[actor]
            self._rested(actor, watched)

    def _rested(self, actor: Actor, watched: _Watched) -> None:
        """A room has nothing more to do: note until when it had, if it was busy for long."""
        last = actor.idleness.quiet_since
        if last - watched.added >= APART:
            self._trace.worked(actor.key, last)

    def _end(self, actor: Actor, watched: _Watched, now: float) -> None:
        """What ran at the last look has ended: say so, if it was told of."""
        if watched.name is not None:
            took = now - watched.since
            logger.info(
                "room %s: %s has ended, after %.0f s", actor.key, called(watched.name), took,
                extra={"cause": watched.name, "duration": took},
            )  # fmt: skip
            watched.name = None

    def _warn(self, actor: Actor, watched: _Watched, seconds: float) -> None:
        """Tell of a handler that takes long, and when to tell again."""
        if watched.name is None:
            watched.name = name_of(actor)
            self.slow += 1
        watched.warn_after = 2 * seconds
        self._lines += 1
        if self._lines > _MOST_LINES:
            return
        place, waiting = innermost(watched.task.iter_await_frames()), len(actor.mailbox.mail)
        logger.warning(
            "room %s: %s has been running for %.0f s%s; %d message%s behind it",
            actor.key, called(watched.name), seconds, place and f", at {place}", waiting,
            " waits" if waiting == 1 else "s wait",
            extra={"cause": watched.name, "duration": seconds},
        )  # fmt: skip


def _nothing() -> None:
    """Nobody is to be told."""


def _doing(actor: Actor) -> tuple[str, float] | int | None:
    """What tells the handler that runs now from all others of its room; None where none runs."""
    hook = actor.shared.hook
    if hook is not None:
        return hook
    mail = actor.mailbox.current
    return actor.idleness.handled if type(mail) is tuple or isinstance(mail, Ask) else None


def name_of(actor: Actor) -> str:
    """The event, or the name of the hook, that a room handles now."""
    hook = actor.shared.hook
    if hook is not None:
        return hook[0]
    mail = actor.mailbox.current
    if isinstance(mail, Ask):
        return mail.event[:_LONGEST_NAME]
    if actor.shared.plain or not isinstance(mail, tuple):
        return "on_message"
    try:
        received = envelope.decode(mail[1])
    except EventError:
        received = None
    return "" if received is None else received.event[:_LONGEST_NAME]


def called(name: str) -> str:
    """What a handler is called in the log."""
    return name if name.startswith("on_") else f"the handler of {name!r}"
