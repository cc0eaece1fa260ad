"""Removing messages from inboxes that somebody has, or that nobody is to get any more."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, Final

import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms.errors import StoreClosed, StoreError
from trio_rooms.stores.base import Store

__all__ = ["Settling"]

logger = logging.getLogger("trio_rooms")

_AT_ONCE: Final = 64
"""Users whose messages are removed at a time."""
_FIRST: Final = 0.1
_LAST: Final = 5.0
"""Seconds after which it is tried again where the store fails, doubled each time."""


class Settling:
    """Has messages removed soon, all that come meanwhile together; until that is durable, it knows them.

    Args:
        store: where the inboxes are.
        spawn: starts a task of the runtime.
        emptied: called when nothing is left to be removed.
    """

    __slots__ = ("_emptied", "_fewer", "_going", "_gone", "_ids", "_page", "_running", "_spawn", "_store")

    def __init__(
        self,
        store: Store,
        spawn: Callable[[Callable[..., Coroutine[Any, Any, None]]], None],
        emptied: Callable[[], None],
    ) -> None:
        self._store = store
        self._spawn = spawn
        self._emptied = emptied
        self._ids: dict[str, set[int]] = {}
        """By user, what is to be removed and not on its way yet."""
        self._going: dict[str, set[int]] = {}
        """What is on its way."""
        self._gone: dict[str, set[int]] = {}
        """What has been removed since somebody began to read an inbox, and is in what was read."""
        self._page: set[tuple[str, int]] | None = None
        """The same for what is read of all inboxes; None while nobody reads that."""
        self._running = False
        self._fewer: trio.Event | None = None

    @property
    def empty(self) -> bool:
        """Whether all is removed."""
        return not (self._ids or self._going)

    def add(self, user: str, ids: Iterable[int]) -> None:
        """Remove some messages."""
        self._ids.setdefault(user, set()).update(ids)
        if not self._running:
            self._running = True
            self._spawn(self._run)

    def has(self, user: str, number: int) -> bool:
        """Whether a message counts as removed, and may be there still."""
        several = (self._ids, self._going, self._gone)
        if self._page is not None and (user, number) in self._page:
            return True
        return any(number in those.get(user, ()) for those in several)

    @contextlib.contextmanager
    def remembered(self, user: str) -> Iterator[None]:
        """What is removed of an inbox inside counts as removed until the end; one at a time for a user."""
        self._gone[user] = set()
        try:
            yield
        finally:
            del self._gone[user]

    @contextlib.contextmanager
    def all_remembered(self) -> Iterator[None]:
        """The same for all inboxes; once at a time."""
        self._page = set()
        try:
            yield
        finally:
            self._page = None

    def count(self, user: str) -> int:
        """How many such messages there are."""
        return len(self._ids.get(user, ())) + len(self._going.get(user, ()))

    async def removed(self) -> None:
        """Wait until all that there was is removed, or cannot be now; no checkpoint where nothing was."""
        # What comes meanwhile stands behind it, however much that is.
        left = 1 + -(-len(self._ids) // _AT_ONCE)
        while self._running and left:
            if self._fewer is None:
                self._fewer = trio.Event()
            await self._fewer.wait()
            left -= 1

    def _tell(self) -> None:
        fewer, self._fewer = self._fewer, None
        if fewer is not None:
            fewer.set()

    @enable_ki_protection
    async def _run(self) -> None:
        """Remove what there is, until nothing is left."""
        pause = _FIRST
        try:
            while self._ids:
                users = list(self._ids)[:_AT_ONCE]
                for user in users:
                    self._going[user] = self._ids.pop(user)
                failures: list[StoreError] = []
                async with trio.open_nursery() as nursery:
                    for user in users:
                        nursery.start_soon(partial(self._remove, user, failures))
                self._tell()
                if not failures:
                    pause = _FIRST
                    continue
                if isinstance(failures[0], StoreClosed):
                    return
                if pause == _FIRST:
                    logger.error("what users have got cannot be removed from their inboxes: %s", failures[0])
                await trio.sleep(pause)
                pause = min(2 * pause, _LAST)
        finally:
            self._running = False
            self._tell()
            self._emptied()

    async def _remove(self, user: str, failures: list[StoreError]) -> None:
        try:
            await self._store.settle(user, tuple(self._going[user]))
        except StoreError as error:
            failures.append(error)
            self._ids.setdefault(user, set()).update(self._going[user])
        else:
            if user in self._gone:
                self._gone[user].update(self._going[user])
            if self._page is not None:
                self._page.update((user, number) for number in self._going[user])
        del self._going[user]
