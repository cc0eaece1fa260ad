"""What is on its way into the engine: in order, and once more where a connection broke.

What is handed over is said in the same step, if there is a connection and nothing waits before it; else it
waits its turn. When a connection breaks, what it has left unanswered is said again on the next one, all of it
and in the same order. The functions bear that: they know what they have done by numbers, nonces and ids.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import attrs
import outcome
import trio

from trio_rooms._valkey import Argument, Server, ServerError
from trio_rooms.errors import EngineLost, StaleWrite, StoreError, StoreFull, StoreReadOnly

__all__ = ["Write", "Writes", "explain"]

_log: Final = logging.getLogger("trio_rooms.store")


@attrs.define(eq=False)
class Write:
    """Something on its way, and who waits for it."""

    function: str
    """The name of a function in the library."""
    arguments: Sequence[Argument]
    judge: Callable[[Any], Any]
    """What an answer means; a StoreError that it raises is what becomes of the write."""
    until: float
    """When it is given up, if there is no connection."""
    about: tuple[bytes, ...]
    """The rooms and users whose other writes it keeps in order with."""
    task: trio.lowlevel.Task | None
    tried: bool = False
    """Whether a connection broke that it was said on."""
    piece: int = 0
    """The number of what it was sent with."""


@attrs.define(eq=False)
class Writes:
    """Says what is handed over, in that order, and tells what has become of each.

    Args:
        server: where to. Its ``on_back`` and ``on_lost`` call `back` and `lost`.
    """

    _server: Server
    settled: Callable[[Write], None] | None = attrs.field(default=None, init=False)
    """Called with each of which it is known what has become of it."""
    commits: int = attrs.field(default=0, init=False)
    transactions: int = attrs.field(default=0, init=False)
    """Pieces that were sent at once, and of which something was written."""
    failures: int = attrs.field(default=0, init=False)
    _queue: deque[Write] = attrs.field(factory=deque, init=False)
    """What is not said yet."""
    _again: list[Write] = attrs.field(factory=list, init=False)
    """What was said on a connection that broke."""
    _said: int = attrs.field(default=0, init=False)
    """How many are to be answered."""
    _waits: trio.CancelScope | None = attrs.field(default=None, init=False)
    """That of the task that waits for a connection, or until it is too late for some; None for none."""
    _drained: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when there is nothing on its way, for whoever waits for that."""
    _piece: int = attrs.field(default=0, init=False)
    _counted: int = attrs.field(default=0, init=False)
    """The last piece of which something was written."""

    @property
    def pending(self) -> int:
        """How many are on their way."""
        return len(self._queue) + len(self._again) + self._said

    def hand_over(self, write: Write) -> None:
        """Say it now, if there is a connection, or else once there is one."""
        self._queue.append(write)
        if self._waits is None:
            self.say()

    def say(self) -> None:
        """Say all that there is to say, as far as that goes now."""
        connection, library = self._server.connection, self._server.library
        queue = self._queue
        assert library is not None
        if self._again:
            queue.extendleft(reversed(self._again))
            self._again.clear()
            self._give_up_late()
        while queue and connection is not None and not connection.lost:
            write = queue[0]
            self._piece += not connection.unsent
            write.piece = self._piece
            name = library.function(write.function)
            command = ("FCALL", name, 0, *write.arguments)
            connection.submit(command, partial(self._answered, write), durable=True)
            queue.popleft()
            self._said += 1
        if queue and self._waits is None:
            self._waits = trio.CancelScope()  # Until that has begun.
            trio.lowlevel.spawn_system_task(self._wait, name="trio_rooms store")

    async def _wait(self) -> None:
        """Say what is left once there is a connection, or give it up."""
        while True:
            self.say()
            self._give_up_late()
            if not self._queue:
                break
            with trio.CancelScope() as self._waits:
                await trio.sleep_until(self._queue[0].until)
        self._waits = None

    def _give_up_late(self) -> None:
        """Tell those that it has become too late for."""
        now = trio.current_time()
        while self._queue and self._queue[0].until <= now:
            write = self._queue.popleft()
            done = "it is not known whether this was written" if write.tried else "nothing was written"
            self._settle(write, StoreError(f"{self._server.why}; {done}"))

    def back(self) -> None:
        """There is a connection."""
        self._go_on()

    def lost(self, _: str) -> None:
        """There is none any more."""
        self._go_on()

    def _go_on(self) -> None:
        if self._waits is None:
            self.say()
        else:
            self._waits.cancel()

    def _answered(self, write: Write, answer: Any) -> None:
        self._said -= 1
        if isinstance(answer, EngineLost):
            write.tried = True
            self._again.append(write)
            return
        result: Any = None
        if isinstance(answer, ServerError):
            if "unction not found" in answer.text:
                # Nothing was done. What comes behind it may be, so all is left to the next connection.
                self._again.append(write)
                self._server.drop("its functions are gone")
                return
            error: StoreError | None = explain(answer)
        else:
            try:
                result, error = write.judge(answer), None
            except StoreError as refused:
                error = refused
        if isinstance(error, StaleWrite) and write.tried:
            # It may be what came behind it, or after it, that this does not go with any more.
            error = StoreError(f"{error}; it is not known whether this was written: it was sent twice")
        self._settle(write, error, result)

    def _settle(self, write: Write, error: StoreError | None, result: Any = None) -> None:
        if error is None:
            self.commits += 1
            self.transactions += write.piece > self._counted
            self._counted = write.piece
        else:
            self.failures += 1
        task, write.task = write.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Value(result) if error is None else outcome.Error(error))
        elif error is not None:
            _log.error("a commit failed whose caller had stopped waiting: %s", error)
        if self.settled is not None:
            self.settled(write)
        if not self.pending:
            self._drained.set()

    async def drain(self) -> None:
        """Wait until nothing is on its way any more: `patience`, or as long as the server is silent."""
        while self.pending:
            self._drained = trio.Event()
            await self._drained.wait()


def explain(error: ServerError) -> StoreError:
    """What it means for a store that the server has refused something."""
    match error.code:
        case "OOM":
            return StoreFull(
                f"the engine has no memory left, raise its maxmemory; nothing was written: {error}"
            )
        case "MISCONF":
            return StoreFull(f"the engine cannot write to its disk; nothing was written: {error}")
        case "NOPERM":
            return StoreReadOnly(f"the engine does not let its user do this; nothing was written: {error}")
    return StoreError(f"the engine has failed: {error}")
