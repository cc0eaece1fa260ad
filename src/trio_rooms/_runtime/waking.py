"""Who wakes when: a storm of wakes takes its turns, and beyond a number a room wakes in another's place.

Where nothing is limited a room begins at once, in the step that has mail for it. Else it waits, in the
order of its first mail; whatever comes for it meanwhile gathers in its mailbox. Nothing is refused.

WARNING: a room that wakes, or is awake, may wait for one that is still to wake. So whoever asks gives its
turn back, and whoever takes long loses it; and where no room can be put to sleep, the next one wakes all
the same: at once if a room waits for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from time import perf_counter, thread_time
from typing import Any, Final

import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.deadlines import Deadline, Deadlines
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._policy.policy import Policy
from trio_rooms._policy.sweep import few
from trio_rooms._room.actor import Actor
from trio_rooms._room.mail import Ask, Destroy, Mail, Rouse

from .sweeper import Sweeper

__all__ = ["Waking", "is_urgent"]

_PATIENCE: Final = 1.0
"""Seconds after which a room that is about to wake keeps nobody out any more, and after which a room
wakes though no other has fallen asleep for it."""
_SHARE: Final = 4
"""Of so many rooms that wake one is of those that are not urgent, however many others wait."""
_SOON: Final = 0.01
"""Seconds until it is looked again whether some room has nothing to do now, while others wait for that."""
_EACH: Final = 20e-6
"""Seconds more for each room that was looked at, so that to look takes a small part of the time."""
_AT_ONCE: Final = 4
"""Rooms that begin in the step that has mail for them, between two turns of the event loop: a large state
takes milliseconds to be decoded, and whoever speaks to an awake room waits for all of these."""
_SHORT: Final = 0.002
_LONG: Final = 0.004
"""Seconds that a turn in which some begin may take until more of them, or fewer, do so in the next."""
_LATER: Final = 1.0
_LAST: Final = 32.0
"""Seconds until the same where nobody waits, but more are awake than should be; doubled each time."""


def is_urgent(mail: Mail) -> bool:
    """Whether somebody waits for what becomes of it, as an awake room may; or it says so itself."""
    return isinstance(mail, Ask | Rouse) or (isinstance(mail, Destroy) and not mail.lapsed)


class Waking:
    """Lets rooms begin to wake: at once, or when it is their turn.

    Args:
        policy: what holds for all rooms together.
        actors: all rooms that are awake or to wake, by key.
        sweeper: puts others to sleep in their place.
        deadlines: where they are begun, a few at a time.
        metrics: is told how long they waited.
        edges: which room waits for which, by their keys.
        begin: starts the task of a room.
        spawn: starts a task of the runtime.
    """

    def __init__(
        self,
        policy: Policy,
        actors: Mapping[str, Actor],
        sweeper: Sweeper,
        deadlines: Deadlines,
        metrics: Metrics,
        edges: Callable[[], Iterable[tuple[str, str]]],
        begin: Callable[[Actor], None],
        spawn: Callable[[Callable[..., Coroutine[Any, Any, None]]], None],
    ) -> None:
        self.most: int = policy.max_waking
        """Rooms that may be about to wake at the same time."""
        self.queued: int = 0
        """Rooms that wait for their turn."""
        self.paused: bool = False
        """Whether none begins now."""
        self._policy = policy
        self._cap = policy.max_awake
        self._actors = actors
        self._sweeper = sweeper
        self._deadlines = deadlines
        self._metrics = metrics
        self._edges = edges
        self._begin = begin
        self._spawn = spawn
        self._loading: set[Actor] = set()
        """Rooms that are about to wake, and have a turn."""
        self._slow: set[Actor] = set()
        """Those of them that had it when it was last looked who takes long."""
        self._urgent: OrderedDict[Actor, float] = OrderedDict()
        self._others: OrderedDict[Actor, float] = OrderedDict()
        """Who waits, and since when."""
        self._few = _AT_ONCE
        """How many of those who wait begin in one turn."""
        self._spent = 0.0
        """Processor time of the event loop until the last of these."""
        self._burst_at = 0.0
        self._burst = 0
        """How many have begun without a wait within a few milliseconds, and since when."""
        self._begun = 0
        """How many of these have begun, to see to it that neither keeps the other out."""
        self._noted = False
        """Whether it is noted to let the next one begin."""
        self._look: Deadline | None = None
        """When it is looked who takes long."""
        self._places = 0
        """Rooms that may wake in the place of others, under pressure."""
        self._passes = 0
        """Rooms that may wake though they are too many, since no other can be put to sleep."""
        self._asleep_for_it: set[Actor] = set()
        """Rooms that were sent to sleep so that others can wake."""
        self._making = False
        """Whether there is a task that sends them there."""
        self._since = 0.0
        """When a room fell asleep last while others waited for that, or was sent there, on Trio's clock."""
        self._changed = trio.Event()
        """Set when it is to look again."""
        self._closed = False

    @property
    def awake(self) -> int:
        """How many rooms are awake, or about to be."""
        return len(self._actors) - self.queued

    def enter(self, actor: Actor, *, urgent: bool) -> None:
        """Let a room wake, at once or in its turn; it is in the table already.

        Args:
            actor: the room.
            urgent: whether it goes before those that are not.
        """
        free = self._cap is None or self.awake <= self._cap
        waits = self.queued or self._sweeper.pressed or self.paused
        if free and not waits and len(self._loading) < self.most and self._is_spare():
            self._loading.add(actor)
            self._begin(actor)
            return
        now = trio.current_time()
        queue = self._urgent if urgent else self._others
        queue[actor] = now
        self.queued += 1
        if self._look is None:
            self._look_later()
        if self._making:
            self._changed.set()
        self._note()

    def _is_spare(self) -> bool:
        """Whether one more may begin in this turn; then it has."""
        now = perf_counter()
        if now - self._burst_at > _LONG:
            self._burst_at, self._burst = now, 0
        self._burst += 1
        return self._burst <= _AT_ONCE

    def waits(self, actor: Actor) -> bool:
        """Whether a room waits for its turn."""
        return actor in self._urgent or actor in self._others

    def hurry(self, actor: Actor) -> None:
        """Something urgent has come for a room; nothing where it does not wait."""
        since = self._others.pop(actor, None)
        if since is not None:
            self._urgent[actor] = since

    def loaded(self, actor: Actor) -> None:
        """A room is awake, or does not keep others out any more: another one may begin."""
        self._loading.discard(actor)
        if self.queued:
            self._note()
        if self._making:
            self._changed.set()

    def left(self, actor: Actor) -> None:
        """A room is no longer in the table."""
        self._loading.discard(actor)
        if self._making:
            self._since = trio.current_time()
            if actor in self._asleep_for_it:
                self._asleep_for_it.discard(actor)
                self._places += self._sweeper.pressed
            self._changed.set()
        if self.queued:
            self._note()

    def go_on(self) -> None:
        """Rooms may begin again."""
        self.paused = False
        if self.queued:
            self._note()

    def withdraw(self, actor: Actor) -> bool:
        """Take a room out that waits for its turn; False for one that does not."""
        waited = self._urgent.pop(actor, None) is not None or self._others.pop(actor, None) is not None
        self.queued -= waited
        return waited

    def close(self) -> None:
        """Let nobody begin any more."""
        self._closed = True
        self._urgent.clear()
        self._others.clear()
        self.queued = 0

    # Turns.

    def _note(self) -> None:
        """Let the next one begin, when what has something to do now has had its turn."""
        if not self._noted:
            self._noted = True
            self._deadlines.set(trio.current_time(), self._next)

    def _next(self) -> None:
        """Let the next ones begin, if they may: as many as leave the event loop responsive."""
        self._noted = False
        spent = thread_time()  # What others have of the processor does not count, nor what is waited for.
        took, self._spent, self._burst = spent - self._spent, spent, 0
        if took > _LONG:
            self._few = max(int(min(self._few, _AT_ONCE) * _LONG / took), 1)
        elif took < _SHORT and len(self._loading) < 2 * self._few:
            # Not as long as those who have begun are still to be decoded: what that takes is not known.
            self._few = min(self._few + 1, self.most)
        for _ in range(self._few):
            if not self.queued or self.paused or len(self._loading) >= self.most:
                return
            if not self._takes_place():
                if not self._making:
                    self._making, self._since = True, trio.current_time()
                    self._spawn(self._make_room)
                return
            self._begin_next()
        if self.queued:
            self._note()

    def _begin_next(self) -> None:
        """Let the one begin that has waited longest, or one of the others in its turn."""
        self._begun += 1
        queue = self._urgent or self._others
        if self._others and not self._begun % _SHARE:
            queue = self._others
        actor, since = queue.popitem(last=False)
        self.queued -= 1
        self._metrics.wake_waits.note(trio.current_time() - since)
        self._loading.add(actor)
        self._begin(actor)

    def _takes_place(self) -> bool:
        """Whether one more may be awake now; then it has the place."""
        if self._cap is None or self.awake < self._cap:
            if not self._sweeper.pressed:
                return True
            if self._places:
                self._places -= 1
                return True
        if self._passes:
            self._passes -= 1
            return True
        return False

    def _look_later(self) -> None:
        """Look, while others wait, who is about to wake for a long time."""
        self._slow = set(self._loading)
        self._look = self._deadlines.set(trio.current_time() + _PATIENCE, self._look_now)

    def _look_now(self) -> None:
        """Who was about to wake at the last look, and still is, has no turn any more."""
        self._look = None
        self._loading -= self._slow
        self._slow.clear()
        if self.queued:
            self._look_later()
            self._note()

    # Places.

    @enable_ki_protection
    async def _make_room(self) -> None:
        """Put rooms to sleep until as many are awake as may be, and nobody waits for a place."""
        later = _LATER
        try:
            while not self._closed:
                self._changed = trio.Event()
                missing = self._missing
                if missing <= 0 and not (self.queued and self._sweeper.pressed):
                    return
                looked = await self._find_places(missing) if missing > 0 else 0
                await trio.sleep(looked * _EACH)
                if self.queued:
                    self._note()
                soon = self.queued > 0 or len(self._asleep_for_it) > 0
                with trio.move_on_after(_SOON if soon else later):
                    await self._changed.wait()
                later = _LATER if soon else min(2 * later, _LAST)
        finally:
            self._making = False
            self._places = self._passes = 0
            self._asleep_for_it.clear()
            if self.queued:
                self._note()

    @property
    def _missing(self) -> int:
        """How many rooms are to fall asleep before all others can wake, and no more are awake than may be."""
        by_cap = 0 if self._cap is None else len(self._actors) - self._cap
        by_pressure = self.queued - self._places if self._sweeper.pressed else 0
        return max(by_cap, by_pressure)

    async def _find_places(self, missing: int) -> int:
        """Send so many rooms to sleep, or let others wake all the same; how many were looked at."""
        sweeper, cap = self._sweeper, self._cap
        self._asleep_for_it = {actor for actor in self._asleep_for_it if sweeper.falls_asleep(actor)}
        missing -= len(self._asleep_for_it)
        looked = 0
        if missing > 0:
            looked = self.awake
            full = cap is not None and len(self._actors) > cap
            rooms = await sweeper.least_active(max(missing, few(self._policy, looked)) if full else missing)
            rooms[missing:] = [actor for actor in rooms[missing:] if self._is_idle(actor)]
            sent = sweeper.send_to_sleep(rooms, "cap" if full else sweeper.trigger)
            if sent:
                self._asleep_for_it.update(sent)
                self._since = trio.current_time()
        # No more than may load at a time: those that are done by then may sleep for the next.
        spare = max(0, self.most - len(self._loading))
        self._passes = min(self.queued if self._is_in_vain() else self._put_asked_first(), spare)
        return looked

    def _is_idle(self, actor: Actor) -> bool:
        """Whether a room can be put to sleep before its place is wanted."""
        least = self._policy.least_idle * actor.idleness.reluctance
        return trio.current_time() - actor.idleness.quiet_since >= least

    def _put_asked_first(self) -> int:
        """How many rooms would wait for whoever waits for them, and stand before all others now."""
        count = 0
        for asker, asked in self._edges():
            actor = self._actors.get(asked)
            by_itself = not self._asleep_for_it or self._actors.get(asker) in self._asleep_for_it
            if actor is not None and actor in self._urgent and by_itself:
                self._urgent.move_to_end(actor, last=False)
                count += 1
        return count

    def _is_in_vain(self) -> bool:
        """Whether those who wait are to wait no longer: no room sleeps in time, or none will."""
        waiting = [next(iter(queue.values())) for queue in (self._urgent, self._others) if queue]
        if waiting and trio.current_time() - max(self._since, min(waiting)) >= _PATIENCE:
            return True
        return not self._asleep_for_it and all(
            actor.idleness.holds or actor in self._urgent or actor in self._others
            for actor in self._actors.values()
        )
