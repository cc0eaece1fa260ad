"""The tasks that a room's handlers start."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._arguments import text
from trio_rooms._loop.groups import alone, ends_the_program, parted
from trio_rooms._state.record import Record
from trio_rooms.errors import ConnectionGone, StaleContext

from .idleness import Idleness
from .mailbox import Mailbox

__all__ = ["Background", "Settling"]

logger = logging.getLogger("trio_rooms")


class Settling(Protocol):
    """What keeps the attachments that somebody has edited."""

    def settle_quietly(self) -> None:
        """Keep them; it raises nothing."""


class Background:
    """Starts tasks in the room's nursery, which end with it, and knows how many run.

    Args:
        key: the room.
        mailbox: says whether a handler runs, and may be editing.
        members: keep the attachments that a task has edited.
        idleness: is told of tasks that keep the room awake.
        record: is told when one begins or ends, since it may change the state.
    """

    __slots__ = (
        "_idleness",
        "_key",
        "_mailbox",
        "_members",
        "_record",
        "exits",
        "nursery",
        "started",
        "tasks",
    )

    def __init__(
        self,
        key: str,
        mailbox: Mailbox,
        members: Settling,
        idleness: Idleness,
        record: Record,
    ) -> None:
        self._key = key
        self._mailbox = mailbox
        self._members = members
        self._idleness = idleness
        self._record = record
        self.exits: bool = False
        """Whether one has ended the program, and not just the room."""
        self.started: bool = False
        """Whether there was any in this life."""
        self.nursery: trio.Nursery | None = None
        """Where they run; None before the room wakes and as soon as it is certain that it sleeps."""
        self.tasks: int = 0
        """How many run, or still unwind."""

    def start(
        self,
        function: Callable[..., Awaitable[Any]],
        arguments: tuple[Any, ...],
        name: str | None,
        *,
        keep_awake: bool,
    ) -> None:
        """Run ``function(*arguments)`` as a task; what it raises crashes the room.

        Raises:
            TypeError: it is no async function, or does not take these arguments; ``name`` is no string.
            StaleContext: the room sleeps, or is certain to.
        """
        nursery = self.check_life("no task can be started")
        label = str(getattr(function, "__qualname__", function)) if name is None else text("name", name)
        if isinstance(function, Coroutine):
            function.close()  # Else Python warns that it was never awaited.
            msg = f"start_soon calls the function itself: write start_soon({label}, ...), not {label}(...)"
            raise TypeError(msg)
        # Called here and not in the task, so that what is wrong with the call is its caller's.
        task = function(*arguments)
        if not isinstance(task, Awaitable):
            msg = f"start_soon takes an async function, and {label} is none: it returned {task!r:.100}"
            raise TypeError(msg)
        if keep_awake:
            self._idleness.hold("task", label)
        self.tasks += 1
        self.started = True
        self._record.touch()
        nursery.start_soon(self._run, task, label if keep_awake else None, name=f"{self._key}: {label}")

    @enable_ki_protection
    async def _run(self, task: Awaitable[Any], hold: str | None) -> None:
        """One task, counted until it has unwound."""
        try:
            await task
        except BaseException as error:
            if not isinstance(alone(error), ConnectionGone):  # Its client has left: it is done.
                self.exits |= ends_the_program(error)
                raise
        finally:
            self.tasks -= 1
            self._record.touch()
            if self._mailbox.current is None:  # Else it is settled with what a handler is editing.
                self._members.settle_quietly()
            if hold is not None:
                self._idleness.release("task", hold)

    @property
    def has_current_task(self) -> bool:
        """Whether the task that runs now is one of these, or one of theirs."""
        task = trio.lowlevel.current_task()
        while (nursery := task.parent_nursery) is not None and nursery is not self.nursery:
            task = nursery.parent_task
        return nursery is not None

    def cancel(self) -> None:
        """End everything that runs in the room, its own task as well."""
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    def check_life(self, what: str) -> trio.Nursery:
        """The nursery of the tasks, as long as it is not certain that the room ends.

        Raises:
            StaleContext: it is.
        """
        if self.nursery is None:
            raise StaleContext(self._key, what)
        return self.nursery

    def fail(self, error: BaseException) -> None:
        """Crash the room, unless it has ended; what is not about the room is raised."""
        passing, crash = parted(error)
        if passing is not None:
            raise passing
        if self.nursery is None:
            logger.error("room %s: what it had still to do raised", self._key, exc_info=crash)
        elif crash is not None:
            # A nursery that is closed already raises what ended it, in this moment.
            with contextlib.suppress(RuntimeError):
                self.nursery.start_soon(_raise, crash)


async def _raise(error: BaseException) -> NoReturn:
    """Raise in the room's nursery."""
    try:
        raise error
    finally:
        del error  # Its traceback has this frame, which would be a cycle around what it was raised in.
