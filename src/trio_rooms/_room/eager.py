"""Plain functions that handle messages: called where a message was read, without waking a task for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

import trio

from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link

from .dispatcher import Dispatcher, Failure
from .idleness import Idleness
from .mailbox import Mailbox
from .shared import Shared

__all__ = ["Eager"]


class Life(Protocol):
    """The actor."""

    watched: bool
    """Whether somebody looks how long its handlers take."""

    def doubt(self, error: BaseException) -> None:
        """Its work is about to end with an error."""


class Eager:
    """Handles what connections send in the task that has read it, as long as the room is quiet.

    It is while its own task waits for mail: then there is none, and nobody wants anything of the room, since
    whoever does wakes that task. From then on all is the task's, in order, until it waits again. It also has
    what is odd: what comes while output waits to be written, or a handler of that room runs already.

    A handler runs in the context of its room, whose variables are not those of the others; and what it raises
    stays in its room. What is to be awaited of that, and what ends the room or the program, is left to the
    room's task, and until that has done it the message counts as being handled.

    Args:
        life: the actor; its task awaits `wait` in place of `Mailbox.wait`.
        shared: the room.
        mailbox: its mailbox.
        idleness: is told of what is handled.
        dispatcher: calls the handlers.
    """

    __slots__ = (
        "_dispatcher",
        "_handle",
        "_hub",
        "_idleness",
        "_left",
        "_life",
        "_mailbox",
        "_record",
        "_roster",
        "_shared",
        "_taken",
        "_window",
    )

    def __init__(
        self, life: Life, shared: Shared, mailbox: Mailbox, idleness: Idleness, dispatcher: Dispatcher
    ) -> None:
        self._life = life
        self._mailbox = mailbox
        self._idleness = idleness
        self._window = idleness.window
        self._dispatcher = dispatcher
        self._shared = shared
        self._record = shared.record
        self._roster = shared.roster
        self._hub: SocketHub = shared.hub
        self._handle: Callable[[Link, str | bytes], Failure | bool] = (
            dispatcher.handle_message if shared.plain else dispatcher.handle_at_once
        )
        self._taken = 0
        """Messages handled since the room's task was told so."""
        self._left: Failure | BaseException | None = None
        """What is left to the room's task."""

    def take(self, mail: tuple[Link, str | bytes]) -> bool:
        """Take a message as `Mailbox.post` does, and handle it if that can be now. It raises nothing."""
        mailbox = self._mailbox
        task = mailbox.waiter
        if (
            task is None
            or mailbox.current is not None
            or self._roster.jobs
            or self._shared.gate is not None
            or not self._life.watched
        ):
            return mailbox.post(mail)
        mailbox.current = mail
        record = self._record
        try:
            outcome = task.context.run(self._handle, *mail)
            if outcome is False:
                mailbox.current = None
                return mailbox.post(mail)
            if outcome is not True:
                self._leave(outcome)
                outcome = True  # The error's traceback leads here, and to what has it: that would be a cycle.
                return True
            if not record.dirty:
                record.touch()
        except BaseException as error:  # noqa: BLE001 (raised again where it belongs, in the room's task)
            self._life.doubt(error)
            self._leave(error)
            return True
        mailbox.current = None
        idleness = self._idleness
        idleness.handled += 1
        self._taken += 1
        # As exact as the hub's look at the clock: a look for each message would cost more than this.
        idleness.quiet_since = now = self._hub.now
        if now >= self._window.ends:
            self._window.turn(now, idleness.handled)
        return True

    def _leave(self, left: Failure | BaseException | bool) -> None:
        """Let the room's task do the rest; it may have been woken by the handler already."""
        assert not isinstance(left, bool)
        self._left = left
        self._mailbox.poke()

    async def wait(self, task: trio.lowlevel.Task) -> int:
        """Wait as `Mailbox.wait` does, and do what is left of what was handled meanwhile.

        Args:
            task: the room's, which awaits this.

        Returns:
            How much was handled meanwhile, to its end. `Idleness` knows of it.

        Raises:
            BaseException: what a handler has raised that ends the room, or the program.
        """
        try:
            await self._mailbox.wait(task)
        except BaseException:
            if isinstance(self._left, BaseException):
                self._raise_left()  # That the task was cancelled as well says less.
            raise
        taken, self._taken = self._taken, 0
        if isinstance(self._left, BaseException):
            self._raise_left()
        left, self._left = self._left, None
        if left is not None:
            await self._dispatcher.finish(left)
            if not self._record.dirty:
                self._record.touch()
            self._mailbox.current = None
            self._idleness.handled += 1
        return taken

    def _raise_left(self) -> NoReturn:
        """Raise what a handler has raised."""
        left, self._left = self._left, None
        assert isinstance(left, BaseException)
        try:
            raise left from None
        finally:
            del left  # Its traceback has this frame, which would be a cycle.
