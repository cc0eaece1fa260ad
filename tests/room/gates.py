"""What the tests of rooms with a gate have in common."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import trio

from trio_rooms import StoreError, StoreFull
from trio_rooms.testing import FaultyStore, Gate, MemoryClient

__all__ = ["full", "held", "nothing_comes", "refusals", "unknown"]


def full() -> StoreFull:
    """Nothing was written."""
    return StoreFull("no room")


def unknown() -> StoreError:
    """Nobody knows whether it was written."""
    return StoreError("as the test wants it")


@contextlib.asynccontextmanager
async def held(store: FaultyStore) -> AsyncIterator[Gate]:
    """A gate for commits that is open in the end."""
    gate = store.hold_commits()
    try:
        yield gate
    finally:
        gate.release()


def refusals(answers: list[Any]) -> list[tuple[int, str]]:
    """Which messages were refused with which codes."""
    return [(one["ack"], one["error"]["code"]) for one in answers]


async def nothing_comes(client: MemoryClient) -> None:
    """However long one waits."""
    with trio.move_on_after(30) as waiting:
        await client.receive()
    assert waiting.cancelled_caught
