"""The mail of one awake room, in order, and the task that waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, Final

import trio

from trio_rooms._loop.woken import WOKEN
from trio_rooms._sockets.roster import Link
from trio_rooms._state.record import Record

from .mail import Mail, link_of
from .turns import MOST, MOST_BYTES, Turns

__all__ = ["Mailbox"]

_SHORT: Final = 32
"""Mail that is handled in the order in which it came, however long that takes."""
_FULL: Final = 4
"""A room to which those who are gone left so many times what may be in line takes no new ones."""


class Mailbox:
    """Keeps the order of mail, and loses no wakeup.

    Its reader takes mail from `mail` itself, message by message, and calls `wait` when there
    is none. Between the look at `mail` and the wait nothing may be awaited: then whatever comes
    later finds the task waiting.

    Where the room cannot keep up, what connections send takes turns (see `turns`). Then `mail` has
    what comes next, and is empty only while the last of it is handled: the reader calls `refill`.

    Args:
        record: the room's.
    """

    __slots__ = ("_large", "_record", "_short", "_turns", "current", "eager", "mail", "waiter")
    elsewhere: ClassVar[bool] = False

    def __init__(self, record: Record | None = None) -> None:
        self._record = record
        self.mail: deque[Mail] = deque()
        self.current: Mail | None = None
        """What is being handled."""
        self.waiter: trio.lowlevel.Task | None = None
        """The task that waits; there is at most one."""
        self.eager: Callable[[tuple[Link, str | bytes]], bool] | None = None
        """See `Inbox`."""
        self._turns: Turns | None = None
        """What is not in `mail` yet, while the room cannot keep up."""
        self._short = _SHORT
        """Mail up to which nothing else needs to be looked at; none while there are turns."""
        self._large = 0
        """Bytes of large messages that came since they were last looked at, handled or not."""

    @property
    def waiting(self) -> int:
        """How much mail there is."""
        return len(self.mail) if self._turns is None else len(self.mail) + self._turns.count

    @property
    def full(self) -> bool:
        """Whether those who are gone left far more than its connections may have in line.

        Those who are there are held back, and are no reason to keep others out.
        """
        turns = self._turns
        return turns is not None and (turns.left > _FULL * MOST or turns.left_size > _FULL * MOST_BYTES)

    def post(self, mail: Mail) -> bool:
        """Put mail in at the end; False asks to be spared more of this connection for a while."""
        box = self.mail
        if len(box) >= self._short and (
            # A handler that waits is slow; what runs without a wait is done with all of it soon.
            self.current is not None or self._turns is not None or len(box) >= MOST
        ):
            return self._post_in_turn(mail)
        box.append(mail)
        task = self.waiter
        if task is not None:
            self.waiter = None
            trio.lowlevel.reschedule(task, WOKEN)
        return True

    def busy_with(self, link: Link) -> bool:
        """Whether something that a connection sent may still wait, be handled, or be at the gate.

        Where much waits, or something at the gate, it is not looked whose it is.
        """
        gate = None if self._record is None else self._record.gate
        return len(self.mail) > _SHORT or self.has_mail_of(link) or (gate is not None and not gate.empty)

    def weigh(self, size: int) -> None:
        """A message of so many bytes is about to be posted; for those that are large."""
        self._large += size
        if self._large > MOST_BYTES:
            self._large = 0
            if self._turns is None:
                self._begin_turns()  # Which count what is there.
                self.refill()  # Else a reader that was woken for some of it would find nothing.

    def has_mail_of(self, link: Link) -> bool:
        """Whether mail of a connection waits, or is being handled."""
        if self.current is not None and link_of(self.current) is link:
            return True
        if self._turns is not None and self._turns.has(link):
            return True
        return any(link_of(mail) is link for mail in self.mail)

    def _begin_turns(self) -> Turns:
        """Let connections take turns from now on; what is of no connection keeps its place in the box."""
        turns = self._turns = Turns()
        self._short = 0
        box = self.mail
        for _ in range(len(box)):
            mail = box.popleft()
            link = link_of(mail)
            if link is None:
                box.append(mail)
            else:
                turns.put(link, mail)
        return turns

    def _post_in_turn(self, mail: Mail) -> bool:
        """Put mail in where connections take turns."""
        turns = self._turns or self._begin_turns()
        link = link_of(mail)
        goes_on = True
        if link is None:
            self.mail.append(mail)
        else:
            turns.put(link, mail)
            if not self.mail:
                self.refill()
            # Not before: who has nothing left in line would never be read again.
            goes_on = not turns.holds(link)
        self.poke()
        return goes_on

    def refill(self) -> bool:
        """Put the next mail of each connection into `mail`, which is empty; False where there is none."""
        turns = self._turns
        if turns is None:
            return False
        self.mail.extend(turns.take())
        if not turns.count:
            self._turns = None
            self._short = _SHORT
        return bool(self.mail)

    def put_back(self, mail: Iterable[Mail]) -> None:
        """Put mail in before all other, in its order."""
        self.mail.extendleft(reversed([*mail]))
        self.poke()

    def poke(self) -> None:
        """Let the task go on that waits, if there is one, though there may be no mail."""
        task = self.waiter
        if task is not None:
            self.waiter = None
            trio.lowlevel.reschedule(task, WOKEN)

    def wait(self, task: trio.lowlevel.Task) -> Awaitable[Any]:
        """Wait until mail comes, or a poke. A cancel loses nothing.

        Args:
            task: the task that awaits what this returns.
        """
        self.waiter = task
        # Awaited by the caller, so that a wait is one coroutine and not two.
        return trio.lowlevel.wait_task_rescheduled(self._stop_waiting)  # noqa: ASYNC105

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        """The waiting task was cancelled: there is nobody to wake any more."""
        self.waiter = None
        return trio.lowlevel.Abort.SUCCEEDED

    def drain(self) -> list[Mail]:
        """Take out all mail."""
        drained: list[Mail] = []
        while self.mail or self.refill():
            drained += self.mail
            self.mail.clear()
        return drained
