"""What a store in a server has while it is open: a connection that is made again, and how it is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeVar

import attrs
import trio

from trio_rooms._loop.wall import WallClock
from trio_rooms._valkey import Address, Argument, Durability, Library, Server, ServerError
from trio_rooms.errors import EngineError, EngineLost, StoreClosed, StoreError
from trio_rooms.stores.checks import check_limit

from .rows import number
from .writes import Writes, explain

__all__ = ["PAGE", "PAGE_BYTES", "Opened", "read_pages"]

T = TypeVar("T")

_LIBRARY: Final = Library("trio_rooms_store", files(__package__).joinpath("store.lua").read_text("utf-8"))
_PATIENCE: Final = 5.0
"""Seconds that a call waits for a connection."""
_AGAIN: Final = 0.05
"""Seconds between attempts to make the first one."""
PAGE: Final = 500
"""Rows that are read or changed in one step of the server, which does nothing else meanwhile."""
PAGE_BYTES: Final = 2**20
"""Bytes of them, above which a page ends."""


@attrs.frozen
class _Status:
    """Notes that a task has begun that nobody started with ``start``."""

    _begun: trio.Event

    def started(self, _: None = None) -> None:
        """It has."""
        self._begun.set()


@attrs.define(eq=False)
class Opened:
    """A connection, and who has the rooms.

    Args:
        prefix: what all keys begin with.
        server: the connection.
        writes: what is on its way there.
    """

    prefix: bytes
    server: Server
    writes: Writes
    epoch: int = attrs.field(default=0, init=False)
    """How often the rooms had been opened for writing then."""
    alone: int = attrs.field(default=0, init=False)
    """How often of these by somebody who does not share them."""
    _wall: WallClock = attrs.field(factory=WallClock, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _started: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set with the first connection, or once it is known that there is none."""
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)
    _failure: EngineError | None = attrs.field(default=None, init=False)

    @classmethod
    async def connect(
        cls, address: Address, prefix: bytes, durability: Durability | None, replicas: int
    ) -> Opened:
        """Make the first connection. A server that is starting has some seconds for that.

        Args:
            address: where the server is.
            prefix: what all keys begin with.
            durability: what it has to keep; None where nothing is written.
            replicas: how many replicas have to have what is written.

        Raises:
            StoreError: it cannot be reached, or is not what it has to be; the message says what to do.
        """
        server = Server(address, "trio-rooms-store", _LIBRARY, durability, replicas, patience=_PATIENCE)
        writes = Writes(server, _PATIENCE)
        server.on_back, server.on_lost = writes.back, writes.lost
        opened = cls(prefix, server, writes)
        trio.lowlevel.spawn_system_task(opened._live, name="trio_rooms store")
        try:
            await opened._started.wait()
        except BaseException:
            await opened.end()
            raise
        if opened._failure is not None:
            raise StoreError(str(opened._failure)) from opened._failure
        return opened

    async def _live(self) -> None:
        """Have a connection until the end; as a system task, so nothing is raised."""
        until = trio.current_time() + _PATIENCE
        with self._scope:
            while not self._started.is_set():
                try:
                    await self.server.run(task_status=_Status(self._started))
                except EngineError as error:
                    if not isinstance(error, EngineLost) or trio.current_time() >= until:
                        self._failure = error
                        break
                    await trio.sleep(_AGAIN)
        self._started.set()
        self._over.set()

    async def end(self) -> None:
        """Let go of the connection, cancelled or not."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._over.wait()

    async def ask(self, *command: Argument) -> Any:
        """Say something that may be said twice, until it is answered.

        Raises:
            StoreError: there was no connection for long, or it was refused.
            StoreClosed: the store was closed meanwhile.
        """
        return await self._insist(partial(self.server.call, *command))

    async def call(self, function: str, *given: Argument) -> Any:
        """Call a function that may be called twice with the prefix and arguments; raises as `ask`."""
        return await self._insist(partial(self.server.fcall, function, (), (self.prefix, *given)))

    async def _insist(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        until = trio.current_time() + _PATIENCE
        while True:
            try:
                return await ask()
            except EngineLost as error:
                if self._scope.cancel_called:
                    raise StoreClosed("the store was closed before it had the answer") from error
                if trio.current_time() >= until:
                    raise StoreError(str(error)) from error
            except ServerError as error:
                raise explain(error) from error

    async def call_room(self, function: str, key: bytes, *given: Argument) -> Any:
        """The same of a room, in which sessions have only connections that somebody has now."""
        while True:
            found = await self.call(function, key, *given)
            if found[:1] != [b"repair"]:
                return found
            await self.repair(key)

    async def repair(self, key: bytes) -> None:
        """Give up the connections that sessions of a room had with a former owner of it."""
        now = number(self._wall.now())
        while await self.call("repair", key, PAGE, now):
            pass

    async def take(self, *, alone: bool) -> tuple[bytes, ...]:
        """Count the opening, and clear up after those before.

        Args:
            alone: whether nobody else may write.

        Returns:
            The nodes that have the rooms, so that nobody can be alone.
        """
        why, *found = await self.call("open", b"1" if alone else b"")
        if why != b"OK":
            return tuple(found)
        self.epoch, self.alone = map(int, found)
        if alone:
            now = number(self._wall.now())
            while await self.call("orphans", PAGE, 0, now):
                pass
            while await self.call("forget", PAGE) == PAGE:
                pass
        return ()


async def read_pages(
    limit: int | None, read: Callable[[T | None, int], Awaitable[tuple[bool, list[T]]]]
) -> list[T]:
    """Read a page at a time.

    Args:
        limit: how many are wanted; None for all.
        read: given the last one that was read, or None, and how many are wanted, says whether the page was
            cut short, and what there is.
    """
    check_limit(limit)
    found: list[T] = []
    while limit is None or len(found) < limit:
        most = PAGE if limit is None else min(PAGE, limit - len(found))
        cut, page = await read(found[-1] if found else None, most)
        found += page
        if not cut and len(page) < most:
            return found
    await trio.lowlevel.checkpoint()
    return found
