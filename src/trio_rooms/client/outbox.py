"""What goes up: what is not sent yet, what is not answered yet, and the bound of both."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from .backoff import Backoff
from .codec import Codec
from .errors import ClientError, TooMuchWaiting

__all__ = ["WINDOW", "Message", "Outbox"]

WINDOW: Final = 1000
"""Ids from the oldest that is unanswered to the newest: the server refuses more."""


@attrs.define(eq=False)
class Message:
    """One message on its way up."""

    event: str
    body: bytes
    """The envelope without its id."""
    asked: bool
    """Whether an answer is wanted. Only then it has an id, and is sent again on the next connection."""
    id: int | None = None
    """From when it is sent first."""
    number: int = 0
    """Its place among all messages of this client."""
    data: Any = None
    """The answer."""
    error: Exception | None = None
    """What is raised in its place."""
    settled: trio.Event = attrs.field(factory=trio.Event)

    def settle(self, data: Any = None, error: Exception | None = None) -> None:
        """Here is the answer, or what there is in its place."""
        self.data, self.error = data, error
        self.settled.set()


class Outbox:
    """Messages in the order in which they were given, from there until they are sent, or answered.

    Ids are given when a message is sent first, so an ask that is cancelled before leaves no gap.

    Args:
        codec: makes messages of bodies.
        most: how many it holds at most.
        most_bytes: bytes of their bodies at most; one that is larger is taken alone.
        backoff: for messages that the server could not say anything about yet.
    """

    def __init__(self, codec: Codec, most: int, most_bytes: int, backoff: Backoff) -> None:
        self._codec = codec
        self._most = most
        self._most_bytes = most_bytes
        self._backoff = backoff
        self._bytes = 0
        self._unsent: deque[Message] = deque()
        self._unanswered: dict[int, Message] = {}
        self._again: deque[int] = deque()
        """Ids that are to be sent again on this connection, ascending."""
        self._last_id = 0
        self._last_number = 0
        self._sending = 0
        """The number of the message that is being written; 0 for none."""
        self._freed = trio.lowlevel.ParkingLot()
        self._turn = trio.StrictFIFOLock()
        self.held_until: float = -math.inf
        """Nothing is sent before that time."""
        self.filled: trio.Event = trio.Event()
        """Set when there may be something to send; whoever waits for it makes a new one."""
        self.over: Callable[[], ClientError] | None = None
        """Makes the error for who comes when nothing is taken any more."""

    @property
    def unsent(self) -> int:
        """How many were never sent."""
        return len(self._unsent)

    @property
    def unwritten(self) -> int:
        """How many were not written to their end, one that is being written included."""
        return len(self._unsent) + (self._sending > 0)

    @property
    def unanswered(self) -> int:
        """How many were sent and are not answered."""
        return len(self._unanswered)

    @property
    def answered_up_to(self) -> int:
        """The highest id up to which all are answered."""
        return next(iter(self._unanswered)) - 1 if self._unanswered else self._last_id

    # In.

    def add(self, message: Message) -> None:
        """Take a message.

        Raises:
            TooMuchWaiting: there is no room for it.
            ClientError: nothing is taken any more.
        """
        if self.over is not None:
            raise self.over()
        count = len(self._unsent) + len(self._unanswered)
        size = len(message.body)
        if count and (count >= self._most or self._bytes + size > self._most_bytes):
            raise TooMuchWaiting(count, self._bytes)
        self._last_number += 1
        message.number = self._last_number
        self._bytes += size
        self._unsent.append(message)
        self.filled.set()

    async def admit(self, message: Message) -> None:
        """Take a message as soon as there is room; who waits longest is first.

        Cancelled, it was not taken.

        Raises:
            ClientError: nothing is taken any more.
        """
        async with self._turn:
            while True:
                try:
                    return self.add(message)
                except TooMuchWaiting:
                    await self._freed.park()

    def abandon(self, message: Message) -> None:
        """Nobody waits for the answer any more. What was never sent is taken back; else the id stays used."""
        if message.id is None and message.number:
            self._unsent.remove(message)
            self._free(message)

    async def flush(self) -> None:
        """Wait until all that was given before has been written, once.

        Raises:
            ClientError: nothing is taken any more.
        """
        await trio.lowlevel.checkpoint()
        last = self._last_number
        while self.over is None and (
            (self._unsent and self._unsent[0].number <= last) or 0 < self._sending <= last
        ):
            await self._freed.park()
        if self.over is not None:
            raise self.over()

    # Out.

    def next(self) -> str | bytes | None:
        """What is to be sent now, if there is something that may be.

        What it gives back counts as sent. `written` is called once it is.
        """
        self._sending = 0
        while self._again:
            message = self._unanswered.get(self._again.popleft())
            if message is not None:  # It may have been answered meanwhile.
                return self._codec.message(message.body, message.id)
        if not self._unsent:
            return None
        if self._unsent[0].asked:
            oldest = next(iter(self._unanswered), self._last_id + 1)
            if self._last_id + 1 - oldest >= WINDOW:
                return None
        message = self._unsent.popleft()
        self._sending = message.number
        if message.asked:
            self._last_id += 1
            message.id = self._last_id
            self._unanswered[self._last_id] = message
        else:
            self._bytes -= len(message.body)  # Who waits is told by `written`.
        return self._codec.message(message.body, message.id)

    def written(self) -> None:
        """What `next` gave back is written, or will never be."""
        self._sending = 0
        self._freed.unpark_all()

    # Answers.

    def answer(self, number: int, data: Any = None, error: Exception | None = None) -> bool:
        """Take an answer; False for one to a message that has one already, or that was never sent."""
        message = self._unanswered.pop(number, None)
        if message is None:
            return False
        self._backoff.reset()
        self._free(message)
        message.settle(data, error)
        if self._unsent:
            self.filled.set()  # It may have waited for the window.
        return True

    def event_of(self, number: int) -> str | None:
        """Which event an unanswered id asked; None for no such id."""
        message = self._unanswered.get(number)
        return None if message is None else message.event

    def postpone(self, number: int, now: float) -> None:
        """The server cannot say yet what became of it: the same again later, and nothing else before it."""
        if number in self._unanswered:
            if number not in self._again:
                self._again = deque(sorted((*self._again, number)))
            if now >= self.held_until:  # One wait for all that were answered so.
                self.held_until = now + self._backoff.next()
            self.filled.set()

    # Connections.

    def resumed(self) -> None:
        """The session goes on, on a new connection: what is unanswered is sent again, in its order."""
        self._begin()
        self._again = deque(self._unanswered)

    def restarted(self) -> list[Message]:
        """A new session has begun, where ids begin anew. What the old one owed an answer is given back."""
        self._begin()
        lost = [*self._unanswered.values()]
        self._unanswered.clear()
        for message in lost:
            self._free(message)
        self._last_id = 0
        return lost

    def _begin(self) -> None:
        self._again.clear()
        self.held_until = -math.inf
        self.filled.set()
        self.written()

    def clear(self) -> list[Message]:
        """Nobody will be answered any more: all who ask, and wait, are given back. Events stay to be sent."""
        asked = [*self._unanswered.values(), *(message for message in self._unsent if message.asked)]
        self._unanswered.clear()
        self._again.clear()
        self._unsent = deque(message for message in self._unsent if not message.asked)
        for message in asked:
            self._free(message)
        self._freed.unpark_all()
        return asked

    def _free(self, message: Message) -> None:
        self._bytes -= len(message.body)
        self._freed.unpark_all()
