"""Knows which rooms are awake: starts one when something arrives for it, and again when it crashed."""

from __future__ import annotations

import contextvars
import logging
import random
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import attrs
import trio

from trio_rooms._definition.room import Room
from trio_rooms._loop.deadlines import Alarms
from trio_rooms._loop.groups import first_error
from trio_rooms._room.actor import Actor
from trio_rooms._room.lifecycle import Stage, Step, following
from trio_rooms._room.mail import Ask, Connected, Control, Disconnected, Mail
from trio_rooms._sockets.hub import ParkingLot, Roster
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms._wire.frames import encode_message
from trio_rooms.errors import RoomFailed, RoomsClosed, SnapshotError, StoreError
from trio_rooms.stores.base import Store

__all__ = ["Supervisor", "SupervisorStatistics"]

logger = logging.getLogger("trio_rooms")

_MOST_CRASHES: Final = 5
_CRASH_WINDOW: Final = 60.0
"""A room that crashes more often than this in so many seconds will not be mended by one more try."""
_COOL_DOWN: Final = 30.0
"""Seconds for which a room that was given up takes no mail."""
_BACKOFF_FIRST: Final = 0.1
"""Seconds before the first new try, doubled with each crash until the room is given up."""
_MOST_DEPARTED: Final = 1000
"""Departures that a sleeping room remembers; one with on_disconnect is then woken to hear of them."""


@attrs.frozen
class SupervisorStatistics:
    """What the supervisor has under it and has done."""

    awake: int
    """Rooms in memory, whatever their stage."""
    stages: Mapping[str, int]
    """How many of them are in which stage; only stages that some are in."""
    wakes: int
    hibernations: int
    crashes: int
    failed: int
    """Rooms that were given up and are cooling down."""


class Supervisor:
    """The parent of all awake rooms.

    Args:
        definitions: the rooms that are served, by name.
        max_awake: rooms that may be awake before the ones that are quiet longest are sent
            to sleep early; None for any number.
    """

    def __init__(
        self,
        definitions: Mapping[str, Room[Any]],
        store: Store,
        alarms: Alarms,
        max_awake: int | None,
    ) -> None:
        self.definitions = definitions
        self.lot: ParkingLot
        """Set by the runtime; the lot delivers here, and rooms send there."""
        self._store = store
        self.alarms = alarms
        """The deadlines of all that is under it."""
        self._max_awake = max_awake
        self._nursery: trio.Nursery | None = None
        self._context = contextvars.Context()
        self._actors: dict[str, Actor] = {}
        self._ending: dict[str, Actor] = {}
        self._failed: set[str] = set()
        self._undelivered: deque[tuple[str, Mail]] = deque()
        self._stopping = False
        self._none_left = trio.Event()
        self._wakes = 0
        self._hibernations = 0
        self._crashes = 0
        self._answers = {
            name: {message: encode_message(answer) for message, answer in room.auto_respond.items()}
            for name, room in definitions.items()
        }

    def statistics(self) -> SupervisorStatistics:
        """What it has under it now, and has done until now."""
        stages: dict[str, int] = {}
        for actor in self._actors.values():
            stages[actor.stage.value] = stages.get(actor.stage.value, 0) + 1
        return SupervisorStatistics(
            len(self._actors), stages, self._wakes, self._hibernations, self._crashes, len(self._failed)
        )

    def actor(self, key: str) -> Actor | None:
        """The awake room of a key, or None."""
        return self._actors.get(key)

    def stage(self, key: str) -> Stage:
        """Where a room is in its life now."""
        actor = self._actors.get(key)
        if actor is not None:
            return actor.stage
        return Stage.FAILED if key in self._failed else Stage.ASLEEP

    def accepts(self, key: str) -> bool:
        """Whether new connections of a room are taken now."""
        return not self._stopping and key not in self._failed

    def roster(self, key: str) -> Roster:
        """The connections of a room; the lot forgets it when nobody needs it."""
        name = key.partition("/")[0]
        return self.lot.roster(key, self._answers[name], greets=self.definitions[name].has_hook("on_connect"))

    # Mail.

    def deliver(self, key: str, mail: Mail) -> bool:
        """Hand mail to a room, and wake it if that is worth it; False asks to be spared for a while."""
        actor = self._actors.get(key)
        if actor is not None:
            return actor.post(mail)
        return self._deliver_asleep(key, mail)

    def deliver_soon(self, key: str, mail: Mail) -> None:
        """Hand over mail that must not keep messages waiting, however many rooms get some at once."""
        if self._stopping:
            self.deliver(key, mail)
        else:
            self._undelivered.append((key, mail))
            self.alarms.set(trio.current_time(), self._deliver_next)

    def _deliver_next(self) -> None:
        if self._undelivered:  # Else all of it was delivered at the stop.
            self.deliver(*self._undelivered.popleft())

    def _deliver_asleep(self, key: str, mail: Mail) -> bool:
        room = self.definitions[key.partition("/")[0]]
        if isinstance(mail, Disconnected):
            self._note_departure(room, key, mail)
            return True
        if isinstance(mail, Connected) and not room.has_hook("on_connect"):
            return True
        if isinstance(mail, Control) and not mail.destroy:
            mail.reply.succeed(True)
            return True
        if self._stopping:
            if isinstance(mail, Ask | Control):
                mail.reply.fail(RoomsClosed("the rooms are closing, nothing new is taken"))
            return True
        actor = self._new_actor(room, key, _cause(mail))
        if key in self._failed:
            actor.refuse(mail, RoomFailed(key, "it crashed too often and is left alone for a while"))
            self._drop(actor)
            return True
        actor.post(mail)
        self._start(actor)
        return True

    def _note_departure(self, room: Room[Any], key: str, mail: Disconnected) -> None:
        roster = mail.link.roster
        listens = room.has_hook("on_disconnect")
        if listens or room.has_hook("on_wake"):
            noted = roster.note_departure(mail)
            if roster.links and not listens:
                del noted[:-_MOST_DEPARTED]
        if roster.links and (not listens or len(roster.departed or ()) < _MOST_DEPARTED):
            return
        if listens and not self._stopping and key not in self._failed:
            # Nobody may ever come again, and a record that waits for that is a leak.
            self._start(self._new_actor(room, key, "disconnect"))
        else:
            roster.departed = None
            self.lot.forget(roster)

    # Awake rooms.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the parent of the rooms, until cancelled."""
        self._context = contextvars.copy_context()
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._none_left.set()  # None runs any more, however this ended.

    def _new_actor(self, room: Room[Any], key: str, cause: str) -> Actor:
        roster = self.roster(key)
        assert self._nursery is not None
        return Actor(
            key,
            room,
            roster,
            self.lot,
            self._store,
            self.alarms,
            cause=cause,
            slept=None if roster.asleep_since is None else trio.current_time() - roster.asleep_since,
            removed=self._remove,
            spawn=self._nursery.start_soon,
        )

    def _start(self, actor: Actor) -> None:
        assert self._nursery is not None
        if self._max_awake is not None and len(self._actors) >= self._max_awake:
            self._press()
        self._actors[actor.key] = actor
        actor.roster.inbox = actor
        self._wakes += 1
        # Not in the context of whoever happened to wake it, which others' mail would then see.
        start = partial(self._nursery.start_soon, self._supervise, actor, name=actor.key)
        self._context.copy().run(start)

    def _press(self) -> None:
        """Send one quiet room to sleep early, looking first at those that woke first."""
        for key in list(self._actors)[:_LOOKS]:
            actor = self._actors.pop(key)
            self._actors[key] = actor  # To the end: who was looked at comes last the next time.
            if actor.quiet:
                actor.sleep_now()
                return

    async def _supervise(self, actor: Actor) -> None:
        before = self._ending.get(actor.key)
        if before is not None:
            await before.ended.wait()
        try:
            while True:
                try:
                    await actor.run()
                except Exception as group:  # noqa: BLE001 (whatever ends a room ends no other)
                    delay = self._after_crash(actor, first_error(group))
                    if delay is None:
                        return
                    await trio.sleep(delay)
                    actor.stage = following(actor.stage, Step.RETRIED)
                else:
                    return
        finally:
            self._ending.pop(actor.key, None)
            actor.ended.set()

    def _after_crash(self, actor: Actor, error: Exception) -> float | None:
        """Decide what becomes of a room that ended with an error: seconds to its next try, or None."""
        if actor.abandoned or self._actors.get(actor.key) is not actor:
            logger.error("room %s: a task raised while it was cancelled", actor.key, exc_info=error)
            return None
        if isinstance(error, SnapshotError | StoreError) and actor.stage is Stage.WAKING:
            self._unloadable(actor, error)
            return None
        self._crashes += 1
        now = trio.current_time()
        actor.crashes = [*(then for then in actor.crashes if then > now - _CRASH_WINDOW), now]
        actor.crashed(error)
        if len(actor.crashes) > _MOST_CRASHES:
            self._give_up(actor, error)
            return None
        longest = _BACKOFF_FIRST * 2.0 ** (len(actor.crashes) - 1)
        # Jitter, so that rooms which crashed together do not come back together.
        delay = longest * random.uniform(0.5, 1)  # noqa: S311 (nothing to be kept secret)
        logger.error("room %s crashed and is started again in %.2f s", actor.key, delay, exc_info=error)
        return delay

    def _unloadable(self, actor: Actor, error: Exception) -> None:
        logger.error("room %s cannot be loaded: %s", actor.key, error)
        failure = RoomFailed(actor.key, f"it cannot be loaded: {error}")
        failure.__cause__ = error
        actor.refuse_all(failure)
        actor.stage = following(actor.stage, Step.UNLOADABLE)
        self._drop(actor)

    def _give_up(self, actor: Actor, error: Exception) -> None:
        logger.critical(
            "room %s crashed more than %d times in %.0f s and is closed for %.0f s",
            actor.key, _MOST_CRASHES, _CRASH_WINDOW, _COOL_DOWN, exc_info=error,
        )  # fmt: skip
        failure = RoomFailed(actor.key, "it crashed too often")
        failure.__cause__ = error
        actor.refuse_all(failure)
        actor.stage = following(actor.stage, Step.GIVEN_UP)
        for link in list(actor.roster.links.values()):
            self.lot.close(link, CloseCode.INTERNAL_ERROR, "the room failed", tell=False)
        actor.roster.departed = None
        self._failed.add(actor.key)
        self.alarms.set(trio.current_time() + _COOL_DOWN, partial(self._failed.discard, actor.key))
        self._drop(actor)

    def _remove(self, actor: Actor) -> None:
        """A room has ended as it should; called in the one step that decides it."""
        self._hibernations += 1
        self._ending[actor.key] = actor
        actor.roster.asleep_since = trio.current_time()
        left = actor.mailbox
        if left:
            following_actor = self._new_actor(actor.room, actor.key, _cause(left[0]))
            following_actor.mailbox.extend(left)
            if self._stopping:
                following_actor.stop()
            self._start(following_actor)
        else:
            self._drop(actor)

    def _drop(self, actor: Actor) -> None:
        if self._actors.get(actor.key) is actor:
            del self._actors[actor.key]
        if actor.roster.inbox is actor:
            actor.roster.inbox = None
        self.lot.resume(actor.roster)
        self.lot.forget(actor.roster)
        if self._stopping and not self._actors:
            self._none_left.set()

    # The end.

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 (a phase of it, not of a caller)
        """Let every room handle its mail and save itself; cancel those that take longer.

        Args:
            timeout: seconds for all of it.
        """
        self._stopping = True
        while self._undelivered:
            self._deliver_next()
        if self._actors:
            for actor in list(self._actors.values()):
                actor.stop()
            with trio.move_on_after(timeout):
                await self._none_left.wait()
        async with trio.open_nursery() as nursery:
            for actor in list(self._actors.values()):
                nursery.start_soon(self._abandon, actor)
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()

    async def _abandon(self, actor: Actor) -> None:
        await actor.abandon(_GRACE)
        self._drop(actor)


_GRACE: Final = 1.0
"""Seconds that a cancelled handler has to end."""
_LOOKS: Final = 64
"""Rooms looked at for one that is quiet; a scan of all would cost more than the room it saves."""


def _cause(mail: Mail) -> str:
    if isinstance(mail, tuple):
        return "message"
    if isinstance(mail, Control):
        return "destroy"
    return {Connected: "connect", Disconnected: "disconnect", Ask: "ask"}.get(type(mail), "message")
