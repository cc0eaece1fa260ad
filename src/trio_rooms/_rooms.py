"""Open rooms: everything wired together, and the ways in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
import trio_websocket
from trio.lowlevel import enable_ki_protection

from . import _arguments
from ._arguments import number, text, whole
from ._definition.definition import Definition
from ._definition.room import Room, policy_of_all
from ._insight.advice import Recommendation
from ._insight.insight import Insight
from ._insight.metrics import RoomsMetrics
from ._loop.collector import thresholds
from ._loop.deadlines import Deadlines
from ._loop.groups import first_error
from ._policy.policy import Policy
from ._room.connection import encode_attachment
from ._room.handles import RoomHandle
from ._room.placement import Homes
from ._room.shared import roster_of
from ._room.users import User
from ._runtime.registrar import Resumption
from ._runtime.runtime import Runtime
from ._runtime.supervisor import Supervisor, SupervisorStatistics
from ._server.admin import Admin
from ._server.admission import (
    Admission,
    ConnectRequest,
    admission,
    authenticate,
    beginning_elsewhere,
    chosen_subprotocol,
    headers_of,
    request_of,
)
from ._server.nodes import Nodes
from ._server.server import Address, Server, ServerStatistics
from ._server.traces import NO_TRACES, Traces
from ._sockets.hub import HubStatistics, SocketHub
from ._sockets.roster import Link, Roster
from ._sockets.task_links import StreamLink, TaskLink, WebSocketLink
from ._users.office import UsersStatistics
from ._wire.close_codes import CloseCode
from ._wire.frames import encode_close
from ._wire.handshake import REFUSAL, visible_code
from .errors import DefinitionError, Refused, RoomsClosed, Unavailable, UnknownRoom
from .stores.base import Store, StoreStatistics
from .stores.memory import MemoryStore

if TYPE_CHECKING:
    from ._cluster.cluster import Cluster, ClusterStatistics
    from .engines.base import Engine

__all__ = ["Rooms", "RoomsStatistics", "open_rooms"]

_UNSET: Final = object()
_LAST_PORT: Final = 65535
_PRESENCE: Final = 30.0
"""Seconds between two pings where it is shown who is here; who only seems to be is found in two of these."""
_PATIENCE: Final = 1.0
"""Seconds for a client that is let in and told to leave in the same moment."""


@attrs.frozen
class RoomsStatistics:
    """What the whole runtime holds and has done."""

    hub: HubStatistics
    supervisor: SupervisorStatistics
    store: StoreStatistics
    servers: tuple[ServerStatistics, ...]
    users: UsersStatistics
    cluster: ClusterStatistics | None
    """What a node has to do with the others; None for a program that is alone."""


class Rooms:
    """Open rooms: made by `open_rooms`, usable until its block ends."""

    def __init__(
        self,
        definitions: Mapping[str, Definition],
        runtime: Runtime,
        traces: Traces,
        cluster: Cluster | None,
    ) -> None:
        self._cluster = cluster
        self._definitions = definitions
        self._runtime = runtime
        self._supervisor = runtime.supervisor
        self._registrar = runtime.registrar
        self._hub = runtime.hub
        self._store = runtime.store
        self._insight = Insight(runtime)
        self._traces = traces
        self._servers: list[Server] = []

    @property
    def _homes(self) -> Homes | None:
        return None if self._cluster is None else self._cluster.homes

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where clients can connect now, one for each `serve`."""
        return tuple(server.address for server in self._servers if server.address is not None)

    def get(self, name: str, id: str) -> RoomHandle:  # noqa: A002 (what rooms call it)
        """A handle on one room.

        Raises:
            UnknownRoom: no room of that name is served here, or the id is not allowed.
        """
        return self._supervisor.handles.get(name, id)

    def user(self, name: str) -> User:
        """A user, wherever she is: ``await rooms.user("ana").send("invited", {"to": "lobby"})``.

        Raises:
            TypeError, ValueError: no user can have this name.
        """
        return self._supervisor.handles.user(name)

    @enable_ki_protection
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
        ping_interval: float | None = None,
        admin_token: str | None = None,
        dashboard: bool = False,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen for clients, until cancelled or the rooms close.

        ``address = await nursery.start(rooms.serve, "127.0.0.1", 8000)``.

        Cancelled, it stops listening; connections that were opened stay open.

        Args:
            host: the address to listen on, or a name, of whose addresses those are listened on that
                this machine has; None for all, which with port 0 may give IPv4 and IPv6 ports of
                their own, of which only the first is reported.
            port: the port; 0 for a free one, which the reported `Address` names.
            prefix: what paths begin with, such as ``"/rooms"``.
            template: the rest of a room's path, with ``{room}`` and ``{id}`` once each.
            origins: values of the Origin header from which browsers may come, such as
                ``["https://example.org"]``; None for all. One that no browser sends, such as one
                with a path, is a ValueError. Clients that send none are let in.
            max_connections: connections from which on new ones get 503; None for any number.
            handshake_timeout: seconds for a client's request, and again for `Room.authenticate`.
            ping_interval: seconds in which each client is sent one ping, whether its room sleeps or is
                awake, more than 0; who has sent nothing by the next one is lost. None for none, or for
                one in 30 s where a room has presence. It is for all clients of these rooms that came in
                by `serve`; where it is called more than once, the shortest holds.
            admin_token: what other processes show to send over HTTP to rooms and users, 32 characters or
                more without spaces; None for no such requests.
            dashboard: whether anybody may open ``/dashboard`` and see there which rooms are in use; else
                it takes the token, and without one there is none.
            task_status: is told the `Address` when clients can connect.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
            CannotListen: nobody may listen there, an OSError too.
            RoomsClosed: the rooms are closing.
        """
        self._check_open()
        if host is not None:
            text("host", host)
        if whole("port", port) > _LAST_PORT:
            msg = f"a port is a number from 0 to {_LAST_PORT}, not {port}"
            raise ValueError(msg)
        text("prefix", prefix)
        text("template", template)
        if max_connections is not None:
            whole("max_connections", max_connections)
        number("handshake_timeout", handshake_timeout)
        if ping_interval is not None and not number("ping_interval", ping_interval):
            msg = "ping_interval is more than 0 seconds; None for no pings"
            raise ValueError(msg)
        handles = self._supervisor.handles
        admin = None if admin_token is None else Admin(admin_token, self._definitions, handles)
        server = Server(
            self._definitions,
            self._hub,
            self._supervisor.placement,
            self._registrar,
            self._runtime.deadlines,
            self.statistics,
            self._insight,
            self._runtime.spawn,
            prefix,
            template,
            origins,
            max_connections,
            handshake_timeout,
            admin,
            dashboard,
            self._traces,
            None if self._cluster is None else Nodes(self._cluster, admin),
            self._homes,
        )
        if ping_interval is not None:
            self._hub.keepalive.ping_every(ping_interval)
        with trio.CancelScope() as scope:
            self._servers.append(server)
            self._runtime.listening.add(scope)
            try:
                await server.run(host, port, task_status)
            except BaseExceptionGroup as group:
                raise first_error(group) from None
            finally:
                self._runtime.listening.discard(scope)
                self._servers.remove(server)

    @enable_ki_protection
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
        as one that `serve` accepted. Cancelled, the connection is dropped, and the room is told.

        Args:
            request: what trio-websocket gives its handler; neither accepted nor rejected yet.
            name: the name of the room's definition.
            id: which room of that name.
            attachment: what is known of the connection. Without it, `Room.authenticate` is
                asked, and a client that it refuses is answered so.

        Raises:
            UnknownRoom: as `get`, or the room is not public; the request is rejected with 404.
            RoomsClosed: the rooms are closing; it is rejected with 503.
            Unavailable: the room is at home at another node, which cannot be reached; with an engine only. It
                is rejected with 503, or closed with 1013.
            AttachmentError: the attachment is too big or not CBOR-able; it is rejected with 500.
            Exception: what `Room.authenticate` raised; it is rejected with 500.
        """
        try:
            self._check_open()
            definition, key = self._find_public(name, id)
            if not self._supervisor.accepts(key):
                await request.reject(503, extra_headers=[(b"Retry-After", b"30")])
                return
            asked = request_of(request, name, id)
            admitted = (
                await authenticate(definition, asked)
                if attachment is _UNSET
                else admission(asked.query, encode_attachment(key, attachment, definition.attachment_limit))
            )
            if self._homes is not None:
                await self._homes.find(key)
            self._check_open()  # It may have taken long.
        except Refused as refused:
            await self._reject(request, self._definitions[name], refused)
            return
        except Exception as error:
            passing = isinstance(error, RoomsClosed | Unavailable)
            await request.reject(404 if isinstance(error, UnknownRoom) else 503 if passing else 500)
            raise
        chosen, flags = chosen_subprotocol(definition, request.proposed_subprotocols)
        websocket = await request.accept(subprotocol=chosen)
        stopping = self._runtime.stopping
        if stopping is not None:
            self._hub.closing.closes.count(stopping[0])
            await _close(websocket, *stopping)
            self._check_open()
        try:
            await self._run_link(
                lambda roster, known: WebSocketLink(self._hub.new_id(), roster, known, flags, websocket),
                definition,
                key,
                chosen,
                admitted,
            )
        except Unavailable:
            await _close(websocket, CloseCode.TRY_AGAIN_LATER, "the room cannot be reached now")
            raise

    async def _reject(
        self, request: trio_websocket.WebSocketRequest, definition: Definition, refused: Refused
    ) -> None:
        """Answer a client that `Room.authenticate` refused."""
        offered = request.proposed_subprotocols
        chosen, code = chosen_subprotocol(definition, offered)[0], refused.close
        if code is None:
            chosen, code = REFUSAL, visible_code(refused.status, offered)
        if code is None:
            headers = [
                (name.encode(), value.encode("latin-1")) for name, value in headers_of(refused).items()
            ]
            await request.reject(refused.status, extra_headers=headers, body=refused.reason.encode())
            return
        websocket = await request.accept(subprotocol=chosen)
        self._hub.closing.closes.count(code)
        await _close(websocket, code, refused.reason)

    @enable_ki_protection
    async def serve_stream(
        self,
        stream: trio.abc.Stream,
        name: str,
        id: str,  # noqa: A002
        *,
        attachment: Any = _UNSET,
        request: ConnectRequest | None = None,
        task_status: trio.TaskStatus[str | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Let a stream into a room that speaks WebSocket frames, after its handshake, until it ends.

        For transports that are no sockets: memory streams in tests, tunnels. The stream is closed
        at the end. Cancelled, the connection is dropped, and the room is told.

        Args:
            stream: what the frames of a client come from; the handshake is over.
            name: the name of the room's definition.
            id: which room of that name.
            attachment: what is known of the connection. Without it, `Room.authenticate` is asked
                about ``request``; without that as well, it is None.
            request: what the client asked for; a subprotocol is chosen from those that it offers.
            task_status: is told the subprotocol, or None, when the connection is in its room.

        Raises:
            UnknownRoom: as `get`, or the room is not public.
            RoomsClosed: the rooms are closing.
            Refused: `Room.authenticate` does not let it in.
            Unavailable: the room is at home at another node, which cannot be reached; with an engine only.
            AttachmentError: the attachment is too big or not CBOR-able.
            Exception: what `Room.authenticate` raised.
        """
        try:
            self._check_open()
            definition, key = self._find_public(name, id)
            if attachment is _UNSET and request is not None:
                admitted = await authenticate(definition, request)
                self._check_open()
            else:
                known = None if attachment is _UNSET else attachment
                encoded = encode_attachment(key, known, definition.attachment_limit)
                admitted = admission({} if request is None else request.query, encoded)
            chosen, flags = chosen_subprotocol(definition, () if request is None else request.subprotocols)
            await self._run_link(
                lambda roster, known: StreamLink(self._hub.new_id(), roster, known, flags, stream),
                definition,
                key,
                chosen,
                admitted,
                task_status,
            )
        finally:
            await trio.aclose_forcefully(stream)

    async def _run_link(
        self,
        make: Callable[[Roster, bytes | None], TaskLink],
        definition: Definition,
        key: str,
        subprotocol: str | None,
        admitted: Admission,
        task_status: trio.TaskStatus[str | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Let a connection into its room, and serve it until it ends or the rooms close."""
        with self._traces.outside():  # Else all that it sends would be of the trace of who serves it.
            enveloped = subprotocol is not None and not definition.plain
            elsewhere = None if self._homes is None else await self._homes.find(key)
            self._check_takes(key)
            if elsewhere is not None:
                link = make(elsewhere.roster(), None)
                beginning_elsewhere(elsewhere, admitted, enveloped=enveloped)(link)
                resumed = True
            else:
                link, resumed = await self._begin_here(make, definition, key, admitted, enveloped=enveloped)
            self._hub.enter(link, resumed=resumed)
            task_status.started(subprotocol)
            try:
                await link.run()
            except BaseExceptionGroup as group:
                raise first_error(group) from None

    def _check_takes(self, key: str) -> None:
        """Whether this node lets somebody into a room now, where there are others.

        Raises:
            Unavailable: it does not.
        """
        cluster = self._cluster
        if cluster is not None and (cluster.draining or not self._supervisor.accepts(key)):
            raise Unavailable(key, "this node lets nobody in at the moment")

    async def _begin_here(
        self,
        make: Callable[[Roster, bytes | None], TaskLink],
        definition: Definition,
        key: str,
        admitted: Admission,
        *,
        enveloped: bool,
    ) -> tuple[TaskLink, bool]:
        """A connection that is about to enter its room, and whether it goes on with a session."""
        found: Resumption | str = ""
        if enveloped and admitted.token is not None:
            found = await self._registrar.look_up(key, admitted.user, admitted.token, admitted.seq)
        try:
            if not (self._homes is None or self._homes.here(key)):
                raise Unavailable(key, "it has moved")
            self._check_takes(key)
            link = make(roster_of(self._hub, definition, key), admitted.attachment)
            link.user = admitted.user
            _show(link, admitted)
            return link, enveloped and self._registrar.beginning(admitted.user, found)(link)
        finally:
            if isinstance(found, Resumption):
                found.record.unpin()

    def statistics(self) -> RoomsStatistics:
        """What the runtime holds and has done until now."""
        return RoomsStatistics(
            self._hub.statistics(),
            self._supervisor.statistics(),
            self._store.statistics(),
            tuple(server.own_statistics() for server in self._servers),
            self._supervisor.users.statistics(),
            None if self._cluster is None else self._cluster.statistics(),
        )

    def metrics(self) -> RoomsMetrics:
        """What is counted and measured until now: how connections and rooms sleep, and what that takes."""
        return self._insight.metrics()

    def recommendations(self) -> tuple[Recommendation, ...]:
        """What to change, so that rooms and connections sleep better, the most important first.

        Each has what was measured, and what the change would bring: that is found by having the
        activity of the last while happen once more, under other settings. Asking costs some milliseconds,
        and within a few seconds nothing.
        """
        return self._insight.recommendations()

    async def aclose(
        self, code: int = CloseCode.GOING_AWAY, reason: str = "the server is going away"
    ) -> None:
        """Stop: accept nothing new, let rooms handle their mail, save each, close every connection.

        At most the ``stop_timeout`` of `open_rooms` and once its ``close_timeout``, whatever hangs. The end
        of the block of `open_rooms` does it, with 1001; call it to close with another code. A second
        call waits for the first. A cancellation does not shorten it.

        Args:
            code: what connections are closed with, as `Connection.close` takes it.
            reason: at most 123 bytes of UTF-8; the rest is cut off.

        Raises:
            ValueError: no such code may be sent; nothing is closed.
        """
        encode_close(code, reason)
        self._runtime.stop(code, reason)
        with trio.CancelScope(shield=True):
            await self._runtime.wait_stopped()

    def _find_public(self, name: str, id_: str) -> tuple[Definition, str]:
        """The definition and the key of a room that a client is to be let into."""
        definition, key = self._supervisor.handles._find(name, id_)
        if not definition.public:
            msg = f"room {key} has public=False, and no client gets in; the program has rooms.get()"
            raise UnknownRoom(msg)
        return definition, key

    def _check_open(self) -> None:
        """Refuse what comes after the close has begun."""
        if self._runtime.stopping is not None:
            msg = "the rooms are closing, nothing new is taken"
            raise RoomsClosed(msg)


def _show(link: Link, admitted: Admission) -> None:
    """What the others in the room are to see of a connection that is about to enter."""
    if admitted.presence and link.roster.presence is not None:
        link.roster.presence.given(link.id, admitted.presence)


async def _close(websocket: trio_websocket.WebSocketConnection, code: int, reason: str) -> None:
    """Close a connection that is in no room, and does not come into one."""
    reason = encode_close(code, reason)[4:].decode()  # As much of it as there is room for.
    with trio.move_on_after(_PATIENCE):
        await websocket.aclose(code, reason)


def open_rooms(
    rooms: Iterable[Room[Any]],
    *,
    store: Store | None = None,
    max_message_size: int = 1024 * 1024,
    max_unsent: int = 4 * 1024 * 1024,
    policy: Policy | None = None,
    stop_timeout: float = 10.0,
    close_timeout: float = 5.0,
    gc_thresholds: tuple[int, int, int] | None = None,
    app: Any = None,
    tracer: Any = None,
    engine: Engine | None = None,
    node: str | None = None,
    lease: float = 10.0,
) -> AbstractAsyncContextManager[Rooms]:
    """Run rooms as long as a block lasts.

    ``async with open_rooms([chat], store=DiskStore("data")) as rooms: ...``.

    When the block ends, however it ends, every room is saved and every connection closed. That
    takes at most ``stop_timeout`` and twice ``close_timeout``, whatever hangs: a handler, a hook, a
    task, a thread, the store. What is not saved by then is named in the log, and so is what does not
    end although it was cancelled; it is left behind. A cancellation waits for the end, and so does Ctrl-C.

    Args:
        rooms: the definitions to serve; they are sealed.
        store: where snapshots are kept; it is opened and closed here. Without one they are
            kept in memory and end with the block.
        max_message_size: bytes of the largest message that is taken from a client.
        max_unsent: bytes that may wait for one connection, behind the message that is on its way,
            before it is closed as too slow; a message counts with 64 more than it has, which it
            takes while it waits.
        policy: when rooms and connections sleep, for those that say nothing else, and what holds for all
            together. None for the default; what is for all together is then taken from the rooms' own
            policies, which have to agree.
        stop_timeout: seconds for the rooms to come to rest at the end.
        close_timeout: seconds for a client to answer a closing handshake, which begin anew as long as it
            reads on what was sent to it before; at the end, for all of that, also for rooms that
            had to be cancelled to be saved, and then for the store to close. For these it counts as
            1 at least.
        gc_thresholds: how often the garbage collector looks at the objects of the whole program
            inside the block, as `gc.set_threshold` takes it; None leaves that as it is. The command
            runs with ``(3000, 5, 1_000_000)``.
        app: what handlers find as ``ctx.app``: whatever they need of the program, such as a pool of
            database connections.
        tracer: a ``TracerProvider`` of OpenTelemetry, which is told of handshakes, wakes, handlers, commits
            and sleeps as spans; it takes ``trio-rooms[otel]``. None for no traces, which cost nothing then.
        engine: what this node shares with others that serve the same rooms, such as
            ``Valkey("valkey://127.0.0.1:6379")``; the rooms are kept there, and ``store`` is None. None for a
            program that is alone.
        node: the name of this node, which no other has that shares the engine; with an engine only, and
            None for one that is drawn.
        lease: seconds after which others take over from a node that is dead or cut off; with an engine only.

    Raises:
        DefinitionError: a definition cannot work, or two have the same name.
        TypeError, ValueError: another argument is not what it should be.
        StoreError: the store cannot be opened.
        EngineError: the engine cannot be reached, or is not what it has to be.
    """
    whole("max_message_size", max_message_size)
    whole("max_unsent", max_unsent)
    if not isinstance(policy, Policy | None):
        msg = f"policy is a Policy, such as Policy(max_awake=1000), not {policy!r:.100}"
        raise TypeError(msg)
    number("stop_timeout", stop_timeout)
    number("close_timeout", close_timeout)
    if store is not None and not isinstance(store, Store):
        msg = f'store is a Store, such as DiskStore("data") or MemoryStore(), not {store!r:.100}'
        raise TypeError(msg)
    definitions: dict[str, Definition] = {}
    defined: list[Room[Any]] = []
    if isinstance(rooms, Room):
        msg = "open_rooms takes a list of rooms: write open_rooms([room]), also for a single one"
        raise DefinitionError(msg)
    for room in rooms:
        if not isinstance(room, Room):
            msg = f"open_rooms takes a list of rooms, not a {type(room).__name__} in it"
            raise DefinitionError(msg)
        if room.name in definitions:
            msg = f"two rooms are named {room.name!r}; a name is part of the key and must be given once"
            raise DefinitionError(msg)
        definitions[room.name] = room.seal()
        defined.append(room)
    if policy is None:
        policy = policy_of_all(defined)
    for room in defined:
        definitions[room.name] = attrs.evolve(definitions[room.name], policy=room.policy_over(policy))
    deadlines = Deadlines()
    if node is not None:
        _arguments.node(node)
        if engine is None:
            msg = "node is the name among those that share an engine: give engine=, too"
            raise ValueError(msg)
    _arguments.lease(lease)
    cluster = None
    if engine is not None:
        if store is not None:
            msg = "with an engine the rooms are kept there: leave out store="
            raise ValueError(msg)
        cluster = _cluster(engine, node, lease, definitions)
        store = cluster.store
    used = MemoryStore() if store is None else store
    tracing = None if tracer is None else _tracing(tracer)
    if tracing is not None:
        used = tracing.store(used)
        definitions = {name: tracing.definition(one) for name, one in definitions.items()}
    hub = SocketHub(
        deadlines, max_message_size=max_message_size, backlog=max_unsent, close_timeout=close_timeout
    )
    make_supervisor = Supervisor if tracing is None else tracing.supervisor
    placed = None if cluster is None else cluster.placement
    supervisor = make_supervisor(definitions, hub, used, deadlines, policy, app, placed)
    hub.deliver = supervisor.deliver
    if any(definition.presence for definition in definitions.values()):
        hub.keepalive.ping_every(_PRESENCE)
    runtime = Runtime(deadlines, hub, supervisor, used, stop_timeout, close_timeout)
    traces: Traces = NO_TRACES if tracing is None else tracing
    opened = Rooms(definitions, runtime, traces, cluster)
    if cluster is not None:
        cluster.attach(runtime, lambda: [one.url for one in opened.addresses])
    return _Opened(opened, runtime, thresholds(gc_thresholds), traces)


def _cluster(
    engine: Engine, node: str | None, lease: float, definitions: Mapping[str, Definition]
) -> Cluster:
    """What makes a runtime one node of several."""
    # A program that is alone does without.
    from ._cluster.cluster import Cluster  # noqa: PLC0415
    from .engines.base import Engine  # noqa: PLC0415

    if not isinstance(engine, Engine):
        msg = f'engine is an Engine, such as Valkey("valkey://127.0.0.1:6379"), not {engine!r:.100}'
        raise TypeError(msg)
    return Cluster(engine, node, lease, definitions)


def _tracing(tracer: Any) -> Any:
    """What makes the parts of a runtime with traces.

    Raises:
        TypeError: that is no TracerProvider, or OpenTelemetry is not installed.
    """
    try:
        from ._tracing.tracing import Tracing  # noqa: PLC0415 (it imports what only those have who want it)
    except ImportError as error:
        msg = "traces take OpenTelemetry: pip install 'trio-rooms[otel]'"
        raise TypeError(msg) from error
    return Tracing(tracer)


@attrs.define(eq=False)
class _Opened(AbstractAsyncContextManager[Rooms]):
    """The block of `open_rooms`."""

    _rooms: Rooms
    _runtime: Runtime
    _thresholds: AbstractContextManager[None]
    _traces: Traces

    @enable_ki_protection
    async def __aenter__(self) -> Rooms:
        try:
            trio.lowlevel.current_trio_token()
        except RuntimeError:
            msg = "rooms run on Trio, and this is another event loop; start the program with trio.run(main)"
            raise RuntimeError(msg) from None
        with ExitStack() as entered:
            entered.enter_context(self._thresholds)
            with self._traces.outside():
                await self._runtime.__aenter__()
            entered.pop_all()
        return self._rooms

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            return await self._runtime.__aexit__(kind, error, traceback)
        finally:
            self._thresholds.__exit__(None, None, None)
