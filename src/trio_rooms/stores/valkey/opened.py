"""What a store in a server has while it is open: a connection that is made again, and how it is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final, TypeVar

import attrs
import trio

from trio_rooms._loop.wall import WallClock
from trio_rooms._valkey import Address, Argument, Durability, Library, Server, ServerError
from trio_rooms.errors import EngineLost, StoreClosed, StoreError
from trio_rooms.stores.checks import check_limit

from .lines import Line
from .rows import number
from .ways import Ways
from .writes import explain

__all__ = ["PAGE", "PAGE_BYTES", "PATIENCE", "Opened", "read_pages", "room", "user"]

T = TypeVar("T")

_LIBRARY: Final = Library("trio_rooms_store", files(__package__).joinpath("store.lua").read_text("utf-8"))
PATIENCE: Final = 5.0
"""Seconds that a call waits for a connection."""
_LINES: Final = 4
"""Connections. A server syncs at most 16 KiB of each at a time; more than four bring little."""
PAGE: Final = 500
"""Rows that are read or changed in one step of the server, which does nothing else meanwhile."""
PAGE_BYTES: Final = 2**20
"""Bytes of them, above which a page ends."""


@attrs.define(eq=False)
class Opened:
    """Connections to a server, and who has the rooms.

    Args:
        prefix: what all keys begin with.
        lines: the connections.
    """

    prefix: bytes
    _lines: tuple[Line, ...]
    ways: Ways = attrs.field(init=False)
    """What is on its way there."""
    epoch: int = attrs.field(default=0, init=False)
    """How often the rooms had been opened for writing then."""
    alone: int = attrs.field(default=0, init=False)
    """What somebody who does not share them has noted last as they were opened; it ascends."""
    _wall: WallClock = attrs.field(factory=WallClock, init=False)

    def __attrs_post_init__(self) -> None:
        """Let writes go by all the lines."""
        self.ways = Ways(tuple(line.writes for line in self._lines), PATIENCE)

    @classmethod
    async def connect(
        cls, address: Address, prefix: bytes, durability: Durability | None, replicas: int
    ) -> Opened:
        """Make the first connections. A server that is starting has some seconds for that.

        Args:
            address: where the server is.
            prefix: what all keys begin with.
            durability: what it has to keep; None where nothing is written.
            replicas: how many replicas have to have what is written.

        Raises:
            StoreError: it cannot be reached, or is not what it has to be; the message says what to do.
        """
        lines = tuple(
            Line(
                Server(address, "trio-rooms-store", _LIBRARY, durability, replicas, patience=PATIENCE),
                PATIENCE,
            )
            for _ in range(1 if durability is None else _LINES)
        )
        opened = cls(prefix, lines)
        for line in lines:
            line.begin()
        try:
            for line in lines:
                await line.started.wait()
        except BaseException:
            await opened.end()
            raise
        failure = next((line.failure for line in lines if line.failure is not None), None)
        if failure is not None:
            await opened.end()
            raise StoreError(str(failure)) from failure
        return opened

    async def end(self) -> None:
        """Let go of the connections, cancelled or not."""
        for line in self._lines:
            await line.end()

    async def ask(self, *command: Argument, about: bytes = b"") -> Any:
        """Say something that may be said twice, until it is answered.

        Args:
            command: its words.
            about: a room or a user, see `Ways`; empty for neither.

        Raises:
            StoreError: there was no connection for long, or it was refused.
            StoreClosed: the store was closed meanwhile.
        """
        return await self._insist(lambda server: server.call(*command), about)

    async def call(self, function: str, *given: Argument, about: bytes = b"") -> Any:
        """Call a function that may be called twice with the prefix and arguments; see `ask`."""
        arguments = (self.prefix, *given)
        return await self._insist(lambda server: server.fcall(function, (), arguments), about)

    async def _insist(self, ask: Callable[[Server], Awaitable[Any]], about: bytes) -> Any:
        until = trio.current_time() + PATIENCE
        while True:
            line = self._lines[self.ways.line_of(about)]
            try:
                return await ask(line.server)
            except EngineLost as error:
                if line.ending:
                    raise StoreClosed("the store was closed before it had the answer") from error
                if trio.current_time() >= until:
                    raise StoreError(str(error)) from error
            except ServerError as error:
                raise explain(error) from error

    async def call_room(self, function: str, key: bytes, *given: Argument) -> Any:
        """The same of a room, whose sessions then have only connections that somebody has now."""
        while True:
            found = await self.call(function, key, *given, about=room(key))
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


def room(key: bytes) -> bytes:
    """What a write is about that is of a room."""
    return b"r" + key


def user(name: bytes) -> bytes:
    """What a write is about that is for a user."""
    return b"u" + name


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
