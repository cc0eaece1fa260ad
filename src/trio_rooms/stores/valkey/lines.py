"""One of the connections of a store: made by a task of its own, and again whenever it breaks."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from trio_rooms._valkey import Server
from trio_rooms.errors import EngineError, EngineLost

from .writes import Writes

__all__ = ["Line"]

_AGAIN: Final = 0.05
"""Seconds between attempts to make the first one."""


@attrs.frozen
class _Status:
    """Notes that a task has begun that nobody started with ``start``."""

    _begun: trio.Event

    def started(self, _: None = None) -> None:
        """It has."""
        self._begun.set()


@attrs.define(eq=False)
class Line:
    """A connection, and what is on its way there.

    Args:
        server: the connection.
        patience: seconds that the first one, and what is to be said, waits for a server that starts.
    """

    server: Server
    _patience: float
    writes: Writes = attrs.field(init=False)
    failure: EngineError | None = attrs.field(default=None, init=False)
    """Why there is no first connection."""
    ending: bool = attrs.field(default=False, init=False)
    """Whether it was told to let go."""
    started: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set with the first connection, or once it is known that there is none."""
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        """Hear of the connection."""
        self.writes = Writes(self.server)
        self.server.on_back, self.server.on_lost = self.writes.back, self.writes.lost

    def begin(self) -> None:
        """Have a connection be made."""
        trio.lowlevel.spawn_system_task(self._live, name="trio_rooms store")

    async def _live(self) -> None:
        """Have a connection until the end; as a system task, so nothing is raised."""
        until = trio.current_time() + self._patience
        with self._scope:
            while not self.started.is_set():
                try:
                    await self.server.run(task_status=_Status(self.started))
                except EngineError as error:
                    if not isinstance(error, EngineLost) or trio.current_time() >= until:
                        self.failure = error
                        break
                    await trio.sleep(_AGAIN)
        self.started.set()
        self._over.set()

    async def end(self) -> None:
        """Let go of the connection, cancelled or not."""
        self.ending = True
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._over.wait()
