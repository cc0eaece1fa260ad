"""Whether a room may sleep now, and why not."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import attrs
import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._loop.deadlines import Deadline, Deadlines
from trio_rooms._policy.window import Window
from trio_rooms._state.record import Record

from .mailbox import Mailbox
from .signs import Signs

__all__ = ["Hold", "Idleness", "Kind"]

Kind = Literal["task", "keep_awake"]
"""What holds a room: a background task that was to, or a block of `LiveRoom.keep_awake`."""
_AGAIN: Final = 10.0
"""Seconds after which it is looked again at a room that only a commit kept from sleeping, if nobody says
before that it has ended."""


_LONG: Final = 3
"""Idle timeouts after which a room that was never put to sleep is looked at for why."""
_PINNED: Final = 10
"""Idle timeouts for which something may hold a room awake before that is said."""
_LEAST: Final = 1.0
"""Seconds as which an idle timeout counts for these, where it is shorter."""


@attrs.define(eq=False)
class Hold:
    """Something that holds a room awake."""

    since: float
    """On Trio's clock."""
    count: int = 1
    """How often it was given and not taken back."""
    told: Deadline | None = None
    """When it is said that it has done so for long."""


class Idleness:
    """Decides when an awake room falls asleep by itself, and knows what keeps it from that.

    A message costs it no timer: the one deadline that is set finds, when it is due, that the
    room was busy since, and is set again. While something is in progress there is none: whoever
    ends it has the room looked at.

    Args:
        mailbox: whose reader is to put the room to sleep; while that does not wait, it is busy.
        definition: has the policy.
        deadlines: where the deadline is set.
        record: says whether a commit is in flight.
        signs: told of what keeps the room from sleeping.
        reluctance: how many times as long as others it waits, since it was woken just after it slept.
    """

    __slots__ = (
        "_active_at",
        "_committing",
        "_deadlines",
        "_mailbox",
        "_policy",
        "_record",
        "_signs",
        "began",
        "deadline",
        "due",
        "handled",
        "holds",
        "not_before",
        "quiet_since",
        "reluctance",
        "stopping",
        "trigger",
        "window",
    )

    def __init__(
        self,
        mailbox: Mailbox,
        definition: Definition,
        deadlines: Deadlines,
        record: Record,
        signs: Signs,
        reluctance: float = 1.0,
    ) -> None:
        self._mailbox = mailbox
        self._policy = definition.policy
        self._deadlines: Deadlines | None = deadlines
        self._record = record
        self._signs = signs
        self.deadline: Deadline | None = None
        """When it looks whether the room was quiet for long enough; None where that is not set."""
        self.holds: dict[tuple[Kind, str], Hold] | None = None
        """What it must not sleep for, if there is anything: of which kind it is, and its name or reason."""
        self.handled: int = 0
        """Mail handled since it woke."""
        self.window: Window = Window(definition.policy.activity_window)
        """How much mail there was lately; whoever handles it calls `turn` when one is over."""
        self.began: float = trio.current_time()
        """When the room woke, on Trio's clock."""
        self.quiet_since: float = self.began
        """When it last had nothing to do; before that was so, when it woke."""
        self.not_before: float = 0.0
        """When it may be tried again after a snapshot that was not saved."""
        self.reluctance: float = reluctance
        """How many times as long as others it waits before it sleeps."""
        self._active_at = -1.0
        """The `quiet_since` after which it would have slept, but for many messages just before."""
        self._committing = False
        """Whether it would sleep, but for a commit that is in flight."""
        self.due: bool = False
        """Whether it is to sleep as soon as it has nothing to do."""
        self.trigger: str = ""
        """Why it sleeps: idle, low_activity, ratio, cap, memory, lag, explicit or shutdown; nothing where it
        is destroyed."""
        self.stopping: bool = False
        """Whether it is to sleep whatever holds it awake, since the program ends."""

    def begin(self) -> None:
        """The room is awake from now on."""
        self.window.begin(trio.current_time(), self.handled)

    @property
    def timeout(self) -> float:
        """Seconds without mail after which it may sleep."""
        return self._policy.idle_timeout * self.reluctance

    @property
    def held(self) -> tuple[str, ...]:
        """What it must not sleep for, by name."""
        return tuple(dict.fromkeys(name for _, name in self.holds or ()))

    def hold(self, kind: Kind, name: str) -> None:
        """Do not sleep until `release` was called as often."""
        hold = None if self.holds is None else self.holds.get((kind, name))
        if hold is None:
            now = trio.current_time()
            if self.holds is None:
                self.holds = {}
            hold = self.holds[kind, name] = Hold(now)
            if self._deadlines is not None:
                when = now + _PINNED * max(self.timeout, _LEAST)
                hold.told = self._deadlines.set(when, partial(self._tell_of, kind, name, now))
        else:
            hold.count += 1

    def release(self, kind: Kind, name: str) -> None:
        """Take one hold back; the idle timeout begins anew with the last."""
        hold = None if self.holds is None else self.holds.get((kind, name))
        if self.holds is not None and hold is not None:
            hold.count -= 1
            if not hold.count:
                del self.holds[kind, name]
                if self._deadlines is not None:
                    self._deadlines.cancel(hold.told)
        if not self.holds and self._deadlines is not None:
            self.quiet_since = trio.current_time()
            self.arm(self.quiet_since + self.timeout)
            self._mailbox.poke()

    def _tell_of(self, kind: Kind, name: str, since: float) -> None:
        """Something has held the room for long."""
        self._signs.pinned(self._record.key, kind, name, trio.current_time() - since)

    # What is in progress.

    @property
    def obstacle(self) -> str:
        """What keeps the room from being put to sleep at this moment.

        Returns:
            One of ``handler``, ``mail``, ``task``, ``keep_awake``, ``commit`` and ``save_failed``; nothing
            where it may be.
        """
        mailbox = self._mailbox
        if mailbox.current is not None:
            return "handler"
        if mailbox.waiting:
            return "mail"
        if self.holds:
            return next(iter(self.holds))[0]
        if self._record.in_flight is not None or mailbox.waiter is None:
            return "commit"  # Of a large state where its own task is at it.
        return "save_failed" if trio.current_time() < self.not_before else ""

    def block(self, reason: str) -> None:
        """It was to sleep and could not."""
        self.due = False
        self._signs.metrics.blocked[reason] += 1
        self._note_long()

    def _note_long(self) -> None:
        """It does not sleep now: if it has not for long, that is a sign."""
        awake = trio.current_time() - self.began
        if awake > _LONG * max(self.timeout, _LEAST):
            self._signs.restless(self._record.key, awake)

    def committed(self) -> None:
        """A commit has ended: if only that kept the room from sleeping, it is looked at again."""
        if self._committing:
            self.disarm()
            self.arm(trio.current_time())

    def sleep_now(self, trigger: str) -> None:
        """Sleep although the idle timeout has not passed, unless there is something to do.

        Args:
            trigger: why.
        """
        self.trigger = trigger
        self.due = True
        self._mailbox.poke()

    def reset(self) -> None:
        """Forget what held the room and when it was quiet: it crashed."""
        self.disarm()
        self.quiet_since = trio.current_time()
        self._tell_of_none()
        self.holds = None
        self.due = False

    def close(self) -> None:
        """Decide nothing any more."""
        if self._deadlines is not None:
            self.disarm()
            self._tell_of_none()
            self._deadlines = None

    def _tell_of_none(self) -> None:
        """It is not said any more of what holds the room that it does so for long."""
        if self._deadlines is not None and self.holds:
            for hold in self.holds.values():
                self._deadlines.cancel(hold.told)

    def disarm(self) -> None:
        """Look no more, unless it is armed again."""
        if self.deadline is not None:
            if self._deadlines is not None:
                self._deadlines.cancel(self.deadline)
            self.deadline = None
        self._committing = False

    def arm(self, when: float) -> None:
        """Look at ``when`` on Trio's clock, or later, unless something holds the room awake."""
        if self._deadlines is not None and self.deadline is None and not self.holds:
            self.deadline = self._deadlines.set(max(when, self.not_before), self._look)

    def _look(self) -> None:
        """The deadline is due: sleep, or look again later."""
        self.deadline, self._committing = None, False
        now, due = trio.current_time(), self.quiet_since + self.timeout
        if now < due:
            self._note_long()
            if self._mailbox.waiter is not None:  # Else it is set again when the room is quiet.
                self.arm(due)
            return
        obstacle = self.obstacle
        if not obstacle:
            low = self.low_at(now)
            if low <= now:
                self.sleep_now("low_activity" if self._active_at == self.quiet_since else "idle")
                return
            obstacle, self._active_at = "activity", self.quiet_since
            self.arm(low)
        elif obstacle == "commit":
            self.arm(now + _AGAIN)
            self._committing = True
        elif obstacle == "save_failed":
            self.arm(self.not_before)
        self.block(obstacle)

    def lately(self, now: float) -> float:
        """About how much mail it has handled within the last window."""
        return self.window.count(now, self.handled)

    def low_at(self, now: float) -> float:
        """When there may have been few messages within the last window at the earliest."""
        emptied = self.quiet_since + self._policy.activity_window
        if now >= emptied:
            return now
        return min(self.window.below(self._policy.message_threshold, now, self.handled), emptied)
