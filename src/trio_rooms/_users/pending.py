"""What is under way for one user: in order, one thing after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import attrs
import trio

from trio_rooms._sockets.roster import Link
from trio_rooms._sockets.sent import Sent

from .message import Message

__all__ = ["Answer", "Answers", "Item", "Pending"]

Answer = Callable[[Sent], None]
"""Tells another node what became of a message here."""
Answers = Mapping[int, Answer]
"""The same by the ids of messages."""

_MOST: Final = 1000
_MOST_BYTES: Final = 1024 * 1024
"""What may be under way for one user: who has more to send waits."""


@attrs.define(eq=False, weakref_slot=False)
class Item:
    """One message on its way."""

    message: Message
    _done: Callable[[Sent], None]
    """Told what became of it."""
    _refused: Callable[[Exception], None]
    """Told instead why it is lost."""
    posted: bool = False
    """Whether it is in the inbox, so that it must not be put there."""
    foreign: bool = False
    """Whether it is from another node, which has told all others."""
    counted: bool = True
    """Whether somebody wants to know what became of it."""
    total: Callable[[Sent, Callable[[Sent], None]], None] | None = None
    """Adds what became of it at other nodes, and hands that on; None where there are none."""
    _told: bool = False

    def done(self, sent: Sent) -> None:
        """It is known what became of it."""
        if not self._told:
            self._told = True
            if self.total is None:
                self._done(sent)
            else:
                self.total(sent, self._done)

    def refused(self, error: Exception) -> None:
        """It is lost, unless that is known to be otherwise, or it is in the inbox."""
        if not (self._told or self.posted):
            self._told = True
            self._refused(error)


class Pending:
    """What is under way for one user; there is one only while something is."""

    __slots__ = (
        "_fewer",
        "answers",
        "blocked",
        "items",
        "look",
        "lookers",
        "measure",
        "news",
        "queued",
        "size",
        "taken",
    )

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.size: int = 0
        """Bytes of them."""
        self.taken: list[Item] = []
        """What is being worked on."""
        self.look: bool = False
        """Whether there may be messages in her inbox that are to be offered to a connection."""
        self.lookers: list[Link] = []
        """The connections that have come and for which nobody has looked yet."""
        self.news: bool = False
        """Whether there may be something in her inbox that came behind what was last seen there."""
        self.answers: dict[int, Answer] | None = None
        """By the ids of messages that others have put there, how to tell them what becomes of those here."""
        self.blocked: bool = False
        """Whether the inbox cannot be read now, so that nothing may be delivered before it is."""
        self.measure: bool = False
        """Whether something was put into the inbox that did not come through here."""
        self.queued: bool = False
        """Whether somebody works on it, or is about to."""
        self._fewer: trio.Event | None = None

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return len(self.items) >= _MOST or self.size > _MOST_BYTES

    @property
    def idle(self) -> bool:
        """Whether there is nothing to be done now."""
        return not (self.items or self.measure or ((self.look or self.news) and not self.blocked))

    def add(self, item: Item) -> None:
        """Take something more."""
        self.items.append(item)
        self.size += item.message.size

    def expect(self, answers: Answers) -> None:
        """Tell others what becomes of messages; where there are too many, nobody is told of the last."""
        if answers and len(self.answers or ()) < _MOST:
            self.answers = {**(self.answers or {}), **answers}

    def take(self) -> list[Item]:
        """All that there is."""
        self.taken = [*self.items]
        self.items.clear()
        self.size = 0
        self.tell()
        return self.taken

    async def fewer(self) -> None:
        """Wait until there is less."""
        if self._fewer is None:
            self._fewer = trio.Event()
        await self._fewer.wait()

    def tell(self) -> None:
        """There is less: let those go on who wait for that."""
        fewer, self._fewer = self._fewer, None
        if fewer is not None:
            fewer.set()
