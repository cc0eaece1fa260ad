"""Whether a room may sleep now, and why not."""

from __future__ import annotations

import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._loop.deadlines import Deadline, Deadlines
from trio_rooms._policy.window import Window

from .mailbox import Mailbox

__all__ = ["Idleness"]


class Idleness:
    """Decides when an awake room falls asleep by itself.

    A message costs it no timer: the one deadline that is set finds, when it is due, that the
    room was busy since, and is set again.

    Args:
        mailbox: whose reader is to put the room to sleep; while that does not wait, it is busy.
        definition: has the timeout and the rate.
        deadlines: where the deadline is set.
    """

    __slots__ = (
        "_deadlines",
        "_mailbox",
        "_policy",
        "_trigger",
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

    def __init__(self, mailbox: Mailbox, definition: Definition, deadlines: Deadlines) -> None:
        self._mailbox = mailbox
        self._policy = definition.policy
        self._deadlines: Deadlines | None = deadlines
        self.deadline: Deadline | None = None
        """When it looks whether the room was quiet for long enough; None where that is not set."""
        self.holds: dict[str, int] = {}
        """Why it must not sleep: reasons, and how often each was given."""
        self.handled: int = 0
        """Mail handled since it woke."""
        self.window: Window = Window(definition.policy.activity_window)
        """How much mail there was lately; whoever handles it calls `turn` when one is over."""
        self.quiet_since: float = 0.0
        """When it last had nothing to do, on Trio's clock."""
        self.not_before: float = 0.0
        """When it may be tried again after a snapshot that was not saved."""
        self.reluctance: float = 1.0
        """How many times as long as others it stays awake, since it was woken just after it slept."""
        self._trigger = "idle"
        """What lets it sleep when the deadline is due."""
        self.due: bool = False
        """Whether it is to sleep as soon as it has nothing to do."""
        self.trigger: str = ""
        """Why: idle, low_activity, ratio, cap, memory or lag; nothing where the program wants it."""
        self.stopping: bool = False
        """Whether it is to sleep whatever holds it awake, since the program ends."""

    def begin(self) -> None:
        """The room is awake from now on."""
        self.window.begin(trio.current_time(), self.handled)

    def hold(self, reason: str) -> None:
        """Do not sleep until `release` was called as often."""
        self.holds[reason] = self.holds.get(reason, 0) + 1

    def release(self, reason: str) -> None:
        """Take one hold back; the idle timeout begins anew with the last."""
        left = self.holds.get(reason, 0) - 1
        if left > 0:
            self.holds[reason] = left
        else:
            self.holds.pop(reason, None)
        if not self.holds and self._deadlines is not None:
            self.quiet_since = trio.current_time()
            self.arm(self.quiet_since + self._policy.idle_timeout)
            self._mailbox.poke()

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
        self._cancel()
        self.holds = {}
        self.due = False

    def close(self) -> None:
        """Decide nothing any more."""
        self._cancel()
        self._deadlines = None

    def _cancel(self) -> None:
        """Look no more, unless it is armed again."""
        if self._deadlines is not None:
            self._deadlines.cancel(self.deadline)
        self.deadline = None

    def arm(self, when: float) -> None:
        """Look at ``when`` on Trio's clock, or later, unless something holds the room awake."""
        if self._deadlines is not None and self.deadline is None and not self.holds:
            self.deadline = self._deadlines.set(max(when, self.not_before), self._look)

    def _look(self) -> None:
        """The deadline is due: sleep, or look again later."""
        self.deadline = None
        if self._mailbox.waiter is None or self.holds:
            return  # Set again when it is quiet, or released.
        now = trio.current_time()
        when = self._decide(now)
        if when > now:
            self.arm(when)
        else:
            self.sleep_now(self._trigger)

    def _decide(self, now: float) -> float:
        """When the room may sleep: now or before, or a time at which it is worth to look again."""
        due = max(self.quiet_since + self._policy.idle_timeout, self.not_before)
        if now < due:
            self._trigger = "idle"
            return due
        low = self._low_at(now)
        if low > now:
            self._trigger = "low_activity"
        return low

    def _low_at(self, now: float) -> float:
        """When there may have been few messages within the last window at the earliest."""
        emptied = self.quiet_since + self._policy.activity_window
        if now >= emptied:
            return now
        return min(self.window.below(self._policy.message_threshold, now, self.handled), emptied)
