"""A server in memory, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.client.reference import Reference, reference


@pytest.fixture
async def server() -> AsyncIterator[Reference]:
    """A server in memory, for ten minutes of its clock."""
    with trio.fail_after(600):
        async with reference() as server:
            yield server
