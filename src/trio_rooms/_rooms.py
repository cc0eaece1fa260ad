"""The runtime: everything wired together in one nursery, and handles for the application around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import parse_qsl

import attrs
import trio
import trio_websocket

from trio_rooms._definition.room import Room
from trio_rooms._keys import check_id
from trio_rooms._loop.deadlines import Alarms
from trio_rooms._loop.groups import first_error
from trio_rooms._room.context import ConnectRequest, PlainMessage, encode_attachment
from trio_rooms._room.lifecycle import Stage
from trio_rooms._room.mail import Ask, Control, Mail, Reply
from trio_rooms._runtime.supervisor import Supervisor, SupervisorStatistics
from trio_rooms._server.server import Address, Server, ServerStatistics, authenticate
from trio_rooms._sockets.hub import LotStatistics, Message, ParkingLot
from trio_rooms._sockets.links import BINARY, StreamLink, TaskLink, WebSocketLink
from trio_rooms._state.persistent import PersistentState
from trio_rooms._values.cbor import as_sent
from trio_rooms._wire import envelope as protocol
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.stores.base import Store, StoreStatistics
from trio_rooms.stores.memory import MemoryStore

from .errors import DefinitionError, Refused, RoomsClosed, UnknownRoom

__all__ = ["RoomHandle", "RoomInfo", "Rooms", "RoomsStatistics", "open_rooms"]

_UNSET: Final = object()


@attrs.frozen
class RoomsStatistics:
    """What the whole runtime holds and has done."""

    lot: LotStatistics
    supervisor: SupervisorStatistics
    store: StoreStatistics
    servers: tuple[ServerStatistics, ...]


@attrs.frozen
class RoomInfo:
    """One room as it is now, without waking it."""

    key: str
    stage: Stage
    connections: int
    channels: tuple[str, ...]
    mailbox: int
    """Mail that waits; 0 for a room that sleeps."""
    held: tuple[str, ...]
    """Why it must not sleep now: the reasons given to ``keep_awake``."""


@attrs.frozen
class RoomHandle:
    """One room, as the program around it sees it. Getting a handle neither makes nor wakes the room."""

    key: str
    _supervisor: Supervisor
    _store: Store

    async def ask(self, event: str, data: Any = None) -> Any:
        """Have the room handle an event, waking it if need be, and return what its handler returned.

        A cancelled caller stops waiting; what was asked is handled all the same.

        Args:
            event: the name of the event.
            data: what a client could send, or classes and other things that become that.

        Returns:
            A copy of the handler's result as a client would get it: classes come as dicts,
            tuples and sets as lists, dates as strings.

        Raises:
            TypeError, ValueError: the data has no form in CBOR; the room heard nothing of it.
            EventError: refused, by the handler or because there is none or the data does not fit.
            HandlerFailed: the handler raised.
            RoomFailed: the room cannot be loaded, or crashed too often.
            RoomsClosed: the runtime is stopping.
        """
        if self._room.plain:
            msg = f"room {self._room.name} is plain: it has no events that one could ask"
            raise TypeError(msg)
        sent = as_sent(data)
        return await self._answer(lambda reply: Ask(event, sent, reply), self._supervisor.deliver)

    def emit(self, event: str, data: Any = None, *, channel: str | None = None) -> int:
        """Send an event to all connections of the room, or to those in a channel; wakes nobody.

        Returns:
            How many connections it goes to.
        """
        if self._room.plain:
            self._room.refuse_events()
        return self._send(protocol.event(event, data), channel)

    def send(self, message: str | bytes, *, channel: str | None = None) -> int:
        """Send a message as it is to all connections of a plain room, or of a channel; wakes nobody."""
        if not self._room.plain:
            self._room.refuse_messages()
        return self._send(PlainMessage(message), channel)

    def info(self) -> RoomInfo:
        """The room as it is now; wakes nobody."""
        roster = self._supervisor.lot.rosters.get(self.key)
        actor = self._supervisor.actor(self.key)
        doing = None if actor is None else actor.info()
        return RoomInfo(
            self.key,
            self._supervisor.stage(self.key),
            len(roster.links) if roster is not None else 0,
            tuple(roster.channels or ()) if roster is not None else (),
            doing.mailbox if doing is not None else 0,
            doing.held if doing is not None else (),
        )

    async def peek(self) -> Any:
        """The room's state as its newest snapshot has it, a copy; None for a room that was never saved.

        Of an awake room this may be ``snapshot_interval`` behind. Wakes nobody.

        Raises:
            StoreError: it cannot be read.
            SnapshotError: no snapshot of the room can be used.
        """
        loaded = await PersistentState(self.key, self._room, self._store, None).load()
        return None if loaded is None else loaded.state

    async def hibernate(self) -> bool:
        """Put the room to sleep now, if nothing is to be done in it.

        Returns:
            Whether it sleeps; not so if mail came, something holds it awake, or it could not be saved.
        """
        supervisor = self._supervisor
        return bool(
            await self._answer(lambda reply: Control(destroy=False, reply=reply), supervisor.deliver_soon)
        )

    async def destroy(self) -> None:
        """Delete everything of the room and close its connections with 1000.

        Raises:
            StoreError: it could not be deleted; the room goes on.
            RoomFailed: it cannot be loaded, so that its on_destroy could not be called.
        """
        await self._answer(lambda reply: Control(destroy=True, reply=reply), self._supervisor.deliver)

    @property
    def _room(self) -> Room[Any]:
        return self._supervisor.definitions[self.key.partition("/")[0]]

    def _send(self, message: Message, channel: str | None) -> int:
        lot = self._supervisor.lot
        roster = lot.rosters.get(self.key)
        return 0 if roster is None else lot.broadcast(roster, message, channel)

    async def _answer(
        self, mail: Callable[[Reply], Ask | Control], deliver: Callable[[str, Mail], object]
    ) -> Any:
        answered = trio.Event()
        reply = Reply(lambda _: answered.set())
        deliver(self.key, mail(reply))
        await answered.wait()
        if reply.error is not None:
            raise reply.error
        return reply.value


class Rooms:
    """Open rooms: made by `open_rooms`, usable until its block ends."""

    def __init__(self, supervisor: Supervisor, lot: ParkingLot, store: Store, stop_timeout: float) -> None:
        self._supervisor = supervisor
        self._lot = lot
        self._store = store
        self._stop_timeout = stop_timeout
        self._servers: dict[Server, trio.CancelScope] = {}
        self._links: set[trio.CancelScope] = set()
        self._closing = False
        self._closed = trio.Event()

    def get(self, name: str, id: str) -> RoomHandle:  # noqa: A002 (what rooms call it)
        """A handle on one room.

        Raises:
            UnknownRoom: no room of that name is served here, or the id is not allowed.
        """
        self._definition(name)
        return RoomHandle(f"{name}/{check_id(id)}", self._supervisor, self._store)

    async def serve(
        self,
        host: str | None,
        port: int,
        *,
        prefix: str = "",
        template: str = "/{room}/{id}",
        origins: Collection[str] | None = None,
        max_connections: int | None = None,
        handshake_timeout: float = 10.0,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen for clients, until cancelled or the rooms close.

        ``address = await nursery.start(rooms.serve, "127.0.0.1", 8000)``.

        Cancelled, it stops listening; connections that were opened stay open.

        Args:
            host: the address to listen on; None for all, which with port 0 may give IPv4 and
                IPv6 ports of their own, of which only the first is reported.
            port: the port; 0 for a free one, which the reported `Address` names.
            prefix: what paths begin with, such as ``"/rooms"``.
            template: the rest of a room's path, with ``{room}`` and ``{id}`` once each.
            origins: values of the Origin header from which browsers may come, such as
                ``["https://example.org"]``; None for all. Clients that send none are let in.
            max_connections: connections from which on new ones get 503; None for any number.
            handshake_timeout: seconds for a client's request and for `Room.authenticate`.
            task_status: is told the `Address` when clients can connect.

        Raises:
            OSError: it cannot listen there.
            RoomsClosed: the rooms are closing.
        """
        self._check_open()
        server = Server(
            self._supervisor, self.statistics, prefix, template, origins, max_connections, handshake_timeout
        )
        with trio.CancelScope() as scope:
            self._servers[server] = scope
            try:
                await server.run(host, port, task_status)
            except BaseExceptionGroup as group:
                raise first_error(group) from None
            finally:
                del self._servers[server]

    async def adopt(
        self,
        request: trio_websocket.WebSocketRequest,
        name: str,
        id: str,  # noqa: A002 (what rooms call it)
        *,
        attachment: Any = _UNSET,
    ) -> None:
        """Accept a trio-websocket request into a room, and return when the connection has ended.

        For applications with a trio-websocket server of their own. Its connection keeps the
        task and the buffers that trio-websocket gives it, so it does not park as cheaply
        as one that `serve` accepted.

        Args:
            request: what trio-websocket gives its handler; neither accepted nor rejected yet.
            name: the name of the room's definition.
            id: which room of that name.
            attachment: what is known of the connection. Without it, `Room.authenticate` is
                asked, and a client that it refuses is answered so.

        Raises:
            UnknownRoom: as `get`; the request is rejected with 404.
            RoomsClosed: the rooms are closing; it is rejected with 503.
            AttachmentError: the attachment is too big or not CBOR-able; it is rejected with 500.
            Exception: what `Room.authenticate` raised; it is rejected with 500.
        """
        try:
            self._check_open()
            room, key = self._definition(name), f"{name}/{check_id(id)}"
            if not self._supervisor.accepts(key):
                await request.reject(503, extra_headers=[(b"Retry-After", b"30")])
                return
            encoded = (
                await authenticate(room, _as_connect_request(request, name, id))
                if attachment is _UNSET
                else encode_attachment(key, attachment, room.attachment_limit)
            )
        except Refused as refused:
            await request.reject(refused.status, body=refused.reason.encode())
            return
        except Exception as error:
            await request.reject(
                404 if isinstance(error, UnknownRoom) else 503 if isinstance(error, RoomsClosed) else 500
            )
            raise
        offered = (one for one in request.proposed_subprotocols if one in protocol.SUBPROTOCOLS)
        chosen = None if room.plain else next(offered, None)
        websocket = await request.accept(subprotocol=chosen)
        flags = BINARY if chosen is not None and protocol.SUBPROTOCOLS[chosen] else 0
        link = WebSocketLink(self._lot.new_id(), self._supervisor.roster(key), encoded, flags, websocket)
        if chosen is not None:
            self._lot.send(link, protocol.welcome(link.id))
        await self._run_link(link)

    async def serve_stream(
        self,
        stream: trio.abc.Stream,
        name: str,
        id: str,  # noqa: A002
        *,
        attachment: Any = None,
    ) -> None:
        """Let a stream into a room that speaks WebSocket frames, after its handshake, until it ends.

        For transports that are no sockets: memory streams in tests, tunnels.
        """
        try:
            self._check_open()
            room, key = self._definition(name), f"{name}/{check_id(id)}"
            encoded = encode_attachment(key, attachment, room.attachment_limit)
            await self._run_link(
                StreamLink(self._lot.new_id(), self._supervisor.roster(key), encoded, 0, stream)
            )
        finally:
            await trio.aclose_forcefully(stream)

    async def _run_link(self, link: TaskLink) -> None:
        with trio.CancelScope() as scope:
            self._links.add(scope)
            self._lot.enter(link)
            try:
                await link.run()
            except BaseExceptionGroup as group:
                raise first_error(group) from None
            finally:
                self._links.discard(scope)

    def statistics(self) -> RoomsStatistics:
        """What the runtime holds and has done until now."""
        return RoomsStatistics(
            self._lot.statistics(),
            self._supervisor.statistics(),
            self._store.statistics(),
            tuple(server.own_statistics() for server in self._servers),
        )

    async def aclose(
        self, code: int = CloseCode.GOING_AWAY, reason: str = "the server is going away"
    ) -> None:
        """Stop: accept nothing new, let rooms handle their mail, save each, close every connection.

        Bounded by the ``stop_timeout`` of `open_rooms`. The end of `open_rooms`'s block
        does it, with 1001; call it to close with another code. A second call waits for the first.
        """
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        with trio.CancelScope(shield=True):
            for scope in self._servers.values():
                scope.cancel()
            self._lot.stop_reading()
            await self._supervisor.stop(self._stop_timeout)
            await self._lot.close_all(code, reason)
            for scope in self._links:
                scope.cancel()
            self._closed.set()

    def _definition(self, name: str) -> Room[Any]:
        room = self._supervisor.definitions.get(name)
        if room is None:
            served = ", ".join(sorted(self._supervisor.definitions))
            msg = f"no room named {name!r} is served here, only: {served}"
            raise UnknownRoom(msg)
        return room

    def _check_open(self) -> None:
        if self._closing:
            msg = "the rooms are closing, nothing new is taken"
            raise RoomsClosed(msg)


@asynccontextmanager
async def open_rooms(
    rooms: Iterable[Room[Any]],
    *,
    store: Store | None = None,
    max_message_size: int = 1024 * 1024,
    max_unsent: int = 4 * 1024 * 1024,
    max_awake: int | None = None,
    stop_timeout: float = 10.0,
    close_timeout: float = 5.0,
) -> AsyncIterator[Rooms]:
    """Run rooms as long as a block lasts.

    ``async with open_rooms([chat], store=DiskStore("data")) as rooms: ...``.

    When the block ends, however it ends, every room is saved and every connection closed.
    A cancellation waits for that too, at most ``stop_timeout`` and twice ``close_timeout``.

    Args:
        rooms: the definitions to serve; they are sealed.
        store: where snapshots are kept; it is opened and closed here. Without one they are
            kept in memory and end with the block.
        max_message_size: bytes of the largest message that is taken from a client.
        max_unsent: bytes that may wait for one connection before it is closed as too slow.
        max_awake: rooms that may be awake before quiet ones are sent to sleep early.
        stop_timeout: seconds for the rooms to come to rest at the end.
        close_timeout: seconds for a client to answer a closing handshake.

    Raises:
        DefinitionError: a definition cannot work, or two have the same name.
        StoreError: the store cannot be opened.
    """
    definitions: dict[str, Room[Any]] = {}
    for room in rooms:
        if not isinstance(room, Room):
            msg = f"open_rooms takes a list of rooms, not a {type(room).__name__} in it"
            raise DefinitionError(msg)
        if room.name in definitions:
            msg = f"two rooms are named {room.name!r}; a name is part of the key and must be given once"
            raise DefinitionError(msg)
        room.seal()
        definitions[room.name] = room
    used = MemoryStore() if store is None else store
    async with used:
        alarms = Alarms()
        supervisor = Supervisor(definitions, used, alarms, max_awake)
        lot = ParkingLot(
            supervisor.deliver,
            alarms,
            max_message_size=max_message_size,
            backlog=max_unsent,
            close_timeout=close_timeout,
        )
        supervisor.lot = lot
        opened = Rooms(supervisor, lot, used, stop_timeout)
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                runtime = await nursery.start(_run_shielded, (alarms.run, lot.run, supervisor.run))
                try:
                    yield opened
                except BaseException as error:  # noqa: BLE001 (raised again below)
                    failure = error
                try:
                    # Shielded also where somebody else's close is only waited for.
                    with trio.CancelScope(shield=True):
                        await opened.aclose()
                finally:
                    runtime.cancel()
        except BaseException as group:  # noqa: BLE001 (raised again, or a cancellation that the news goes before)
            first = first_error(group)
            if failure is None or not isinstance(first, trio.Cancelled):
                # What went wrong in the runtime itself cancelled the block, and is the news.
                raise first from None
        finally:
            lot.dispose()
        if failure is not None:
            raise failure


async def _run_shielded(
    tasks: Iterable[Callable[[], Awaitable[Any]]], task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    """Run the runtime's tasks out of reach of a cancellation from around, which first reaches the block."""
    with trio.CancelScope(shield=True) as scope:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(task)
            await trio.lowlevel.checkpoint()
            task_status.started(scope)


def _as_connect_request(request: trio_websocket.WebSocketRequest, name: str, id_: str) -> ConnectRequest:
    path, _, query = request.path.partition("?")
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in request.headers}
    remote = request.remote
    where = remote if isinstance(remote, str) else f"{remote.address}:{remote.port}"
    return ConnectRequest(name, id_, path, dict(parse_qsl(query, keep_blank_values=True)), headers, where)
