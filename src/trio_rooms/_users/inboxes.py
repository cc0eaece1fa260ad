"""Putting messages into inboxes, and taking out what there is no room for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from trio_rooms.errors import StaleWrite, StoreClosed, StoreError, StoreFull, StoreReadOnly
from trio_rooms.stores.base import InboxSize, Post, Store, Waiting

from .message import EACH, MOST_BYTES

__all__ = ["MOST", "Inboxes"]

logger = logging.getLogger("trio_rooms")

MOST: Final = 1000
"""Messages that an inbox keeps."""
_AGAIN_FIRST: Final = 0.05
_AGAIN_LAST: Final = 5.0
"""Seconds after which the same messages are put there again where it is not known whether they are,
doubled each time."""
_QUIET: Final = 60.0
"""Seconds between two warnings about the same user's inbox."""
_MOST_WARNED: Final = 1000
"""Users of whom it is known that there was one."""


class Inboxes:
    """The inboxes of all users, as they are in the store.

    Args:
        store: where they are.
        most: messages that one keeps.
        most_bytes: bytes of them, each counted with 50 more.
    """

    def __init__(self, store: Store, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._store = store
        self._most = most
        self._most_bytes = most_bytes
        self._warned: dict[str, float] = {}

    async def post(self, posts: Sequence[Post]) -> dict[str, InboxSize]:
        """Put messages there, however long it takes until it is known that they are.

        Raises:
            StoreFull, StoreReadOnly, StaleWrite: nothing was put there.
            StoreClosed: it is not known.
            ValueError, TypeError: no store can keep one of them.
        """
        again = _AGAIN_FIRST
        while True:
            try:
                return await self._store.post(posts)
            except StoreClosed:
                raise
            except StaleWrite as error:
                if again > _AGAIN_FIRST:  # What was tried before may be there.
                    raise StoreClosed(str(error)) from error
                raise
            except StoreError as error:
                if again == _AGAIN_FIRST and isinstance(error, StoreFull | StoreReadOnly):
                    raise
                if again == _AGAIN_FIRST:
                    logger.warning(
                        "whether messages for users are kept is not known, so once more: %s", error
                    )
                await trio.sleep(again)
                again = min(2 * again, _AGAIN_LAST)

    def over(self, size: InboxSize) -> bool:
        """Whether there is more than an inbox keeps, as far as its size tells."""
        return size.count > self._most or size.bytes > self._most_bytes

    async def surplus(self, user: str, stays: Callable[[Waiting], bool | None]) -> list[int]:
        """The ids of messages for which there is no room, of the least priority first, the oldest first.

        Args:
            user: whose inbox.
            stays: whether one must stay; None for one that is about to be removed.

        Raises:
            StoreError: it cannot be read.
        """
        rows = [(row, stays(row)) for row in await self._store.inbox(user)]
        count = sum(one is not None for _, one in rows)
        size = sum(len(row.post.body) + EACH for row, one in rows if one is not None)
        gone = []
        for row in sorted((row for row, one in rows if one is False), key=_worth):
            if count <= self._most and size <= self._most_bytes:
                break
            gone.append(row.post.id)
            count, size = count - 1, size - len(row.post.body) - EACH
        if gone:
            self._warn(user, len(gone))
        return gone

    def _warn(self, user: str, count: int) -> None:
        now = trio.current_time()
        if now - self._warned.get(user, -_QUIET) < _QUIET:
            return
        if len(self._warned) >= _MOST_WARNED:
            self._warned.clear()
        self._warned[user] = now
        logger.warning(
            "the inbox of user %r is full: %d messages are dropped, the oldest of low priority first",
            user,
            count,
        )


def _worth(row: Waiting) -> tuple[int, int]:
    return row.post.priority, row.position
