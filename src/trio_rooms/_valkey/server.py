"""A server that is connected to again whenever the connection was lost."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import trio

from trio_rooms.errors import EngineError, EngineLost

from .address import Address
from .checks import Durability, check
from .connection import Connection
from .library import Library
from .protocol import Argument, ServerError
from .sentinel import primary

__all__ = ["Server"]

_LOG: Final = logging.getLogger("trio_rooms")
_FIRST: Final = 0.05
"""Seconds before the second attempt to connect."""
_MOST: Final = 1.0
"""Seconds between later ones."""
_OPENING: Final = 5.0
"""Seconds for a connection to be made and greeted."""
_REPLICAS: Final = 1.0
"""Seconds that replicas may take at most: half a second and more is common where one syncs its file."""
_STEADY: Final = 5.0
"""Seconds that a connection lasts before the next one is tried at once."""


@attrs.define(eq=False)
class Server:
    """A connection to the engine that is made anew when it breaks. `run` has to run.

    Nothing is said twice: what was under way when a connection broke raises `EngineLost`, and whoever said
    it knows whether it may be said again.
    """

    address: Address
    """Where it is."""
    client: str = "trio-rooms"
    """What the server shows of our connections, without spaces."""
    library: Library | None = None
    """Functions that `fcall` calls."""
    durability: Durability | None = None
    """What the server has to keep; None where that does not matter."""
    replicas: int = 0
    """How many replicas have to have what a durable call has written."""
    patience: float = 0.0
    """Seconds that a call waits for a connection before it raises `EngineLost`."""
    silence: float = 5.0
    """Seconds that the server may leave a call unanswered before the connection is given up."""
    on_push: Callable[[list[Any]], None] | None = None
    """Called with what the server sends unasked."""
    on_back: Callable[[], None] | None = None
    """Called when there is a connection, the first one, too."""
    on_lost: Callable[[str], None] | None = None
    """Called when it is lost, with the reason."""
    _connection: Connection | None = attrs.field(init=False, default=None)
    _why: str = attrs.field(init=False, default="nobody has connected to the engine yet")
    _former: tuple[bytes, int] | None = attrs.field(init=False, default=None)
    """The run of the server, and the number that the connection has, or had, in it."""
    _closed: bool = attrs.field(init=False, default=False)
    _back: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def connection(self) -> Connection | None:
        """The one that there is now."""
        return self._connection

    @property
    def why(self) -> str:
        """Why there is none now."""
        return self._why

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and again whenever that is lost, until cancelled.

        ``task_status.started()`` is called with the first connection.

        Raises:
            EngineError: there is no first connection; whoever wants to go on trying calls it again.
        """
        first: trio.TaskStatus[None] | None = task_status
        delay = 0.0
        try:
            while True:
                began = trio.current_time()
                error = await self._live(first)
                if error is not None:
                    if first is not None:
                        raise error
                    self._why = str(error)
                    _LOG.debug("no connection to the engine: %s", error)
                first = None
                if trio.current_time() - began > _STEADY:
                    delay = 0.0
                await trio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 (it spreads nodes, and is no secret)
                delay = min(_MOST, max(_FIRST, 2 * delay))
        finally:
            self._why = "the connection to the engine was closed"
            self._closed = True
            self._back.set()

    async def _live(self, first: trio.TaskStatus[None] | None) -> EngineError | None:
        """Connect and stay connected until that is lost; what kept us from being so."""
        try:
            node = await primary(self.address, self.client) if self.address.service else None
            connection = await Connection.open(
                self.address,
                node,
                client=self.client,
                on_push=self.on_push,
                silence=self.silence,
                replicas=self.replicas,
                patience=min(_REPLICAS, self.silence / 4),
                # A server that was stopped takes connections, too, and Sentinels may know of another by then.
                timeout=_OPENING / 3 if self.address.service else _OPENING,
            )
        except EngineError as error:
            return error
        failed: EngineError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                try:
                    await check(connection, self.durability)
                    await self._load(connection)
                    await self._succeed(connection)
                except EngineError as error:
                    failed = error
                    nursery.cancel_scope.cancel()
                else:
                    self._connected(connection)
                    if first is not None:
                        first.started()
        finally:
            if self._connection is connection:
                self._disconnected(connection)
        return failed

    async def _succeed(self, connection: Connection) -> None:
        """See that nothing more is done of what was said on the connection before.

        It may lie in a server that stood still, or come late through a network: behind what is said next, and
        long after whoever said it was told that it is lost.
        """
        try:
            told = await connection.call("INFO", "server")
            # The numbers of connections begin anew with each server.
            run = told.partition(b"run_id:")[2].partition(b"\r")[0]
            if self._former is not None and self._former[0] == run:
                await connection.call("CLIENT", "KILL", "ID", self._former[1])
            self._former = (run, connection.greeting[b"id"])
        except ServerError as error:
            _LOG.debug("what was said on a connection before cannot be taken back: %s", error)

    def _connected(self, connection: Connection) -> None:
        self._connection = connection
        self._back.set()
        if self.on_back is not None:
            self.on_back()

    def _disconnected(self, connection: Connection) -> None:
        self._connection = None
        self._back = trio.Event()
        self._why = connection.why
        if self.on_lost is not None:
            self.on_lost(self._why)

    async def _load(self, connection: Connection) -> None:
        """See that the server has our functions."""
        if self.library is None:
            return
        try:
            await connection.call("FUNCTION", "LOAD", self.library.source, durable=True)
        except ServerError as error:
            if "already exists" in error.text or (error.code == "OOM" and await self._has(connection)):
                return
            if error.code == "NOPERM":
                raise EngineError(
                    "the engine does not let its user load functions, as "
                    f"ACL SETUSER NAME +function|load +fcall would: {error}"
                ) from error
            raise EngineError(f"the engine does not take our functions: {error}") from error

    async def _has(self, connection: Connection) -> bool:
        """Whether a server that takes no functions now, since it is full, has ours from before."""
        assert self.library is not None
        try:
            return bool(await connection.call("FUNCTION", "LIST", "LIBRARYNAME", self.library.full_name))
        except ServerError:
            return False

    async def call(self, *command: Argument, durable: bool = False) -> Any:
        """See `Connection.call`; where there is no connection it waits for one, for `patience`."""
        connection = self._connection
        if connection is None or connection.lost:
            connection = await self._wait()
        return await connection.call(*command, durable=durable)

    def submit(
        self, command: Sequence[Argument], done: Callable[[Any], None], *, durable: bool = False
    ) -> None:
        """See `Connection.submit`."""
        if self._connection is None:
            raise EngineLost(self._why)
        self._connection.submit(command, done, durable=durable)

    async def fcall(
        self,
        function: str,
        keys: Sequence[bytes | str],
        arguments: Sequence[Argument],
        *,
        durable: bool = False,
    ) -> Any:
        """Call a function of the library; see `call`."""
        assert self.library is not None
        name = self.library.function(function)
        try:
            return await self.call("FCALL", name, len(keys), *keys, *arguments, durable=durable)
        except ServerError as error:
            if "unction not found" not in error.text:
                raise
        # Somebody has thrown it out, or a replica that had not got it yet has taken over.
        await self._load(self._connection or await self._wait())
        return await self.call("FCALL", name, len(keys), *keys, *arguments, durable=durable)

    def post(self, *command: Argument) -> None:
        """See `Connection.post`."""
        if self._connection is None:
            raise EngineLost(self._why)
        self._connection.post(*command)

    async def subscribe(self, *channels: bytes | str) -> None:
        """See `Connection.subscribe`; a connection that comes after a loss is not subscribed to anything."""
        await (self._connection or await self._wait()).subscribe(*channels)

    def drop(self, why: str) -> None:
        """Give up the connection that there is now, and make a new one."""
        if self._connection is not None:
            self._connection.lose(why)

    async def _wait(self) -> Connection:
        """The next connection."""
        with trio.move_on_after(self.patience):
            while self._connection is None or self._connection.lost:
                if self._closed:
                    break
                await self._back.wait()
                await trio.lowlevel.checkpoint()
        connection = self._connection
        if connection is None or connection.lost:
            await trio.lowlevel.checkpoint()
            raise EngineLost(self._why)
        return connection
