"""Valkey as the engine of a cluster: 8.0 or later, or Redis 7.0 or later."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Collection, Mapping
from importlib.resources import files
from typing import Any, Final

import attrs
import trio

from trio_rooms._loop.groups import first_error
from trio_rooms._valkey import Address, Argument, Durability, Library, Server, ServerError
from trio_rooms.errors import EngineError, EngineLost
from trio_rooms.stores.base import Store
from trio_rooms.stores.valkey.store import ValkeyStore

from .base import Claim, Engine, Fence, Renewal

__all__ = ["Valkey"]

_LOG: Final = logging.getLogger("trio_rooms")
_LARGEST: Final = 512 * 1024
"""Bytes of a message to another node at most."""
_SILENCE: Final = 5.0
"""Seconds that the server may leave a call unanswered."""


class Valkey(Engine):
    """One Valkey that all nodes share, or one with replicas that Sentinels look after.

    What it is asked for, and what others send to this node, go over two connections of their own. Both are
    made anew whenever they break; what was under way then raises `EngineLost`.

    Args:
        url: where it is: ``valkey://[user:password@]host[:port][/database]``, ``valkeys://`` with TLS, or
            ``valkey+sentinel://host:port,host:port/SERVICE``.
        prefix: what its keys begin with, so that other programs, or other clusters, can use the same
            server.
        durability: ``"always"`` refuses a server that may lose what it has answered when its power
            fails, where rooms rely on that; ``"everysec"`` takes one that may lose the last second.
        replicas: how many replicas have to have what was written before it counts; needed where Sentinels
            may have one of them take over.

    Raises:
        ValueError: the URL or the prefix cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "rooms",
        durability: Durability = "always",
        replicas: int = 0,
    ) -> None:
        if not prefix or set(prefix) & set("{}:\0\n\r "):
            msg = f"a prefix is a word without braces, colons and spaces, not {prefix!r}"
            raise ValueError(msg)
        self.url = url
        self.prefix = prefix
        self.durability = durability
        self.replicas = replicas
        self._address = Address.parse(url)
        self._p = f"{{{prefix}}}:"
        self._channels = f"{self._p}{self._address.database}:to:".encode()
        self._listening: dict[bytes, Callable[[bytes], None]] = {}
        self._lost = trio.Event()
        self._running: _Running | None = None

    async def open(self) -> None:
        """See `Engine`."""
        library = Library("trio_rooms_engine", files(__package__).joinpath("engine.lua").read_text())
        self._server = self._claims = Server(
            self._address, client="trio-rooms", library=library, durability="everysec", silence=_SILENCE
        )
        self._pushes = Server(
            self._address,
            client="trio-rooms-pushes",
            silence=_SILENCE,
            on_push=self._receive,
            on_lost=self._lose,
        )
        servers = [self._server, self._pushes]
        if self.replicas:
            # What has to wait for replicas has whatever is said behind it wait, too.
            self._claims = Server(
                self._address,
                client="trio-rooms-claims",
                library=library,
                replicas=self.replicas,
                silence=_SILENCE,
            )
            servers.append(self._claims)
        self._running = _Running(servers)
        try:
            await self._running.begin()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """See `Engine`."""
        running, self._running = self._running, None
        if running is not None:
            await running.end()
        await trio.lowlevel.checkpoint()

    async def _call(self, function: str, *arguments: Argument, durable: bool = False) -> Any:
        server = self._claims if durable else self._server
        try:
            return await server.fcall(function, [self._p + "nodes"], (self._p, *arguments), durable=durable)
        except ServerError as error:
            raise _refused(error) from error

    # Members.

    async def join(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        """See `Engine`."""
        return _renewal(await self._call("join", incarnation, about, _decimal(lease), durable=True))

    async def renew(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        """See `Engine`."""
        return _renewal(await self._call("renew", incarnation, about, _decimal(lease)))

    async def leave(self, incarnation: str) -> None:
        """See `Engine`."""
        await self._call("leave", incarnation)

    # Rooms.

    async def claim(self, key: str, incarnation: str) -> Claim:
        """See `Engine`."""
        owner, epoch = await self._call("claim", incarnation, key, durable=True)
        return Claim(owner.decode(), int(epoch))

    async def find(self, keys: Collection[str]) -> dict[str, str]:
        """See `Engine`."""
        owners = await self._call("find", *keys)
        return {key: owner.decode() for key, owner in zip(keys, owners, strict=True) if owner}

    async def release(self, key: str, incarnation: str, epoch: int) -> bool:
        """See `Engine`."""
        return bool(await self._call("release", incarnation, epoch, key))

    async def reclaim(self, incarnation: str, epochs: Mapping[str, int]) -> frozenset[str]:
        """See `Engine`."""
        claims = [part for claim in epochs.items() for part in claim]
        kept = await self._call("reclaim", incarnation, *claims, durable=True)
        return frozenset(key.decode() for key in kept)

    # Messages.

    async def send(self, incarnation: str, message: bytes) -> None:
        """See `Engine`."""
        if len(message) > _LARGEST:
            msg = f"a message to another node has at most {_LARGEST} bytes, not {len(message)}"
            raise ValueError(msg)
        try:
            await self._server.call("PUBLISH", self._channels + incarnation.encode(), message)
        except ServerError as error:
            raise _refused(error) from error

    async def listen(
        self,
        incarnation: str,
        receive: Callable[[bytes], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `Engine`."""
        channel = self._channels + incarnation.encode()
        lost = self._lost
        self._listening[channel] = receive
        try:
            try:
                await self._pushes.subscribe(channel)
            except ServerError as error:
                raise _refused(error) from error
            task_status.started()
            await lost.wait()
        finally:
            if self._listening.get(channel) is receive:
                del self._listening[channel]
        msg = "the connection to the engine for what others send was lost"
        raise EngineLost(msg)

    def _receive(self, push: list[Any]) -> None:
        if push[0] == b"message":
            receive = self._listening.get(push[1])
            if receive is not None:
                receive(push[2])

    def _lose(self, _: str) -> None:
        lost, self._lost = self._lost, trio.Event()
        lost.set()

    # Users.

    async def note_user(self, user: str, incarnation: str, *, here: bool) -> None:
        """See `Engine`."""
        await self._call("note_user", user, incarnation, int(here))

    async def nodes_of(self, user: str) -> tuple[str, ...]:
        """See `Engine`."""
        return tuple(sorted(one.decode() for one in await self._call("nodes_of", user)))

    def __str__(self) -> str:
        """Where it is, without a password."""
        return str(self._address)

    def store(self, fence: Fence, *, durable: bool) -> Store:
        """See `Engine`."""
        durability: Durability = self.durability if durable else "everysec"
        if durable and durability == "everysec":
            _LOG.warning(
                "a power failure of the engine's machine may cost the last second of what rooms commit, "
                "since its durability is everysec"
            )
        return ValkeyStore(
            self.url, prefix=self.prefix, durability=durability, replicas=self.replicas, fence=fence
        )


@attrs.define(eq=False)
class _Running:
    """Has connections be made and made again by a task of their own."""

    _servers: list[Server]
    _scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    _begun: trio.Event = attrs.field(init=False, factory=trio.Event)
    _ended: trio.Event = attrs.field(init=False, factory=trio.Event)
    _error: EngineError | None = attrs.field(init=False, default=None)

    async def begin(self) -> None:
        """Wait until all are connected.

        Raises:
            EngineError: one cannot be.
        """
        trio.lowlevel.spawn_system_task(self._run, context=contextvars.copy_context())
        await self._begun.wait()
        if self._error is not None:
            raise self._error

    async def end(self) -> None:
        """Close them all, cancelled or not."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for server in self._servers:
                        await nursery.start(server.run)
                    self._begun.set()
        except* EngineError as group:
            error = first_error(group)
            assert isinstance(error, EngineError)
            self._error = error
        finally:
            self._begun.set()
            self._ended.set()


def _refused(error: ServerError) -> EngineLost:
    """What the server has not done: it is full, or may not write, and may do it later."""
    return EngineLost(f"the engine refuses what it is asked for: {error}")


def _renewal(answer: list[Any]) -> Renewal:
    alive, about = answer
    return Renewal(
        bool(alive), {one.decode(): what for one, what in zip(about[::2], about[1::2], strict=True)}
    )


def _decimal(seconds: float) -> str:
    return f"{seconds:.6f}"
