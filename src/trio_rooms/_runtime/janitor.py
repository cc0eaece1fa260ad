"""Removes from inboxes what nobody is to get any more, since its time is over.

The store knows that by index. Here is one deadline, for what expires first. When it has come, what has
expired is read a page at a time, the next page once the one before is removed. So it holds nobody up,
and takes as little memory for a million messages as for some hundred.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.turn import TURN
from trio_rooms._loop.wall import WallClock
from trio_rooms.errors import StoreClosed, StoreError
from trio_rooms.stores.base import Store, Waiting

__all__ = ["Janitor"]

logger = logging.getLogger("trio_rooms")

_PAGE: Final = 256
"""Messages that are read at a time."""
_PAUSE: Final = 5.0
"""Seconds between two rounds at least, so that what expires about the same time goes together."""
_AGAIN: Final = 60.0
"""Seconds after which it is looked again at what has expired and somebody may still acknowledge; and at a
clock that somebody may set."""


@attrs.define(eq=False)
class Janitor:
    """Goes round when something has expired.

    Args:
        store: where the inboxes are.
        expire: removes a message soon, unless a session has it that may still acknowledge it; whether so.
        removed: waits until little is left to be removed.
        remembered: what others remove inside counts as removed until the end.
    """

    _store: Store
    _expire: Callable[[Waiting], Awaitable[bool]]
    _removed: Callable[[], Awaitable[None]]
    _remembered: Callable[[], AbstractContextManager[None]]
    leads: Callable[[], bool] | None = attrs.field(init=False, default=None)
    """Whether this node is the one that does it, of several that share the store; None where it is alone."""
    longest: float = attrs.field(init=False, default=0.0)
    """The most seconds that it has held up the event loop at a time."""
    _wall: WallClock = attrs.field(init=False, factory=WallClock)
    _next: float = attrs.field(init=False, default=-math.inf)
    """When there is something to be done, as a time of day."""
    _sleep: trio.CancelScope | None = attrs.field(init=False, default=None)
    _scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)

    def stop(self) -> None:
        """Remove nothing more."""
        self._scope.cancel()

    def noted(self, time: float) -> None:
        """Something that expires at this time is in an inbox since now."""
        if time < self._next:
            self._next = time
            if self._sleep is not None:
                self._sleep.cancel()

    @enable_ki_protection
    async def run(self) -> None:
        """Go round, until stopped or cancelled."""
        with self._scope:
            await self._run()

    async def _run(self) -> None:
        told = False
        while True:
            await self._wait()
            try:
                if self.leads is None or self.leads():
                    await self._go_round()
                else:
                    self._next = math.inf
                if self.leads is not None:  # Nobody tells what others put there, or who is to remove it.
                    self._next = min(self._next, self._wall.now() + _AGAIN)
            except StoreClosed:
                return
            except StoreError as error:
                if not told:
                    logger.error("what has expired in inboxes cannot be read: %s", error)  # noqa: TRY400
                told = True
                self._next = min(self._next, self._wall.now() + _AGAIN)
            else:
                told = False
            if self._next < math.inf:
                await trio.sleep(_PAUSE)

    async def _wait(self) -> None:
        """Wait until something has expired."""
        while (left := self._next - self._wall.now()) > 0:
            if left < math.inf and not self._wall.steady:
                left = min(left, _AGAIN)
            with trio.CancelScope(deadline=trio.current_time() + left) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None

    async def _expire_all(self, page: list[Waiting]) -> bool:
        """Remove what was read, unless somebody may still acknowledge it; whether all of it goes."""
        all_go, began = True, perf_counter()
        for row in page:
            all_go &= await self._expire(row)
            if perf_counter() - began > TURN:
                self.longest = max(self.longest, perf_counter() - began)
                await trio.lowlevel.checkpoint()
                began = perf_counter()
        self.longest = max(self.longest, perf_counter() - began)
        return all_go

    async def _go_round(self) -> None:
        """Remove all that has expired, and find out what will next."""
        now, self._next = self._wall.now(), math.inf
        after: tuple[float, str, int] | None = None
        stays = False
        while True:
            with self._remembered():
                page = await self._store.expired(now, _PAGE, after=after)
                stays |= not await self._expire_all(page)
            if page:
                last = page[-1]
                after = last.post.expires, last.post.user, last.position
            if len(page) < _PAGE:
                break
            await self._removed()
        following = await self._store.expired(math.inf, 1, after=after)
        if following:
            self._next = min(self._next, following[0].post.expires)
        if stays:
            self._next = min(self._next, now + _AGAIN)
