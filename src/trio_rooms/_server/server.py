"""Listening: each client on its way from the kernel into its room, or out again."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from time import time
from typing import Any, Final

import attrs
import trio

from trio_rooms._definition.definition import Definition
from trio_rooms._insight.insight import Insight
from trio_rooms._keys import split_key
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._room.placement import Elsewhere, Homes, Placement
from trio_rooms._room.shared import roster_of
from trio_rooms._runtime.registrar import Registrar, Resumption
from trio_rooms._sockets.acceptor import Acceptor, Newcomer
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.listeners import open_listeners
from trio_rooms._wire.content import CONTINUE, BadContentError, ContentReader
from trio_rooms._wire.frames import encode_close
from trio_rooms._wire.handshake import (
    METHODS,
    REFUSAL,
    BadRequestError,
    Head,
    Response,
    accept,
    refusal_of,
    refuse_with_close,
)
from trio_rooms.errors import Refused, StoreError, Unavailable, UnknownRoom

from .admin import MOST_CONTENT, Admin, Errand, problem
from .admission import (
    Admission,
    ConnectRequest,
    authenticate,
    beginning_elsewhere,
    check_origins,
    chosen_subprotocol,
    headers_of,
    parameters,
)
from .nodes import Nodes
from .pages import Pages
from .paths import MalformedPath, Paths
from .traces import NO_TRACES, Handshake, Traces

__all__ = ["Address", "Server", "ServerStatistics"]

logger = logging.getLogger("trio_rooms")

_LINGER: Final = 1.0
"""Seconds that a client that was turned away may go on sending before it is cut off."""
_ABSOLUTE: Final = re.compile("^https?://[^/?]*", re.IGNORECASE)
"""What a request's target may begin with (RFC 6455, 4.2.1)."""

_ANYBODY: Final = Admission()
"""Whoever comes into a room that asks nobody."""
_HERE: Final = (Resumption, str)
"""What is found of a session where its room is at home here."""
_READ: Final = 16 * 1024
"""Bytes of a request's body read at a time: in the smallest chunks no more than 30 ms of work."""
_MOST_ERRANDS: Final = 32
"""Requests whose body is read or that are carried out at once: 32 MiB of bodies, and what is in them."""

_STOPPING: Final = Response.text(503, "the server is going away", Retry_After="5")
_TOO_MANY: Final = Response.text(503, "too many connections", Retry_After="5")
_DRAINED: Final = Response.text(503, "this node takes nobody any more, others do", Retry_After="1")
_NOT_NOW: Final = Response.text(503, "this room takes nobody at the moment", Retry_After="1")
_CLOSED_ROOM: Final = Response.text(503, "this room is closed at the moment", Retry_After="30")


@attrs.frozen
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """``ws://host:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}"

    def __str__(self) -> str:
        return self.url


@attrs.frozen
class ServerStatistics:
    """What one listening server has done."""

    accepted: int
    """Connections taken from the kernel."""
    opened: int
    """Of these, WebSockets that were opened."""
    refused: int
    """Requests answered with a status of 400 or more, or with a WebSocket that was closed at once."""
    handshaking: int
    """Connections that have not finished their request now."""


@attrs.define(eq=False)
class Server:
    """Lets clients into rooms.

    Args:
        definitions: the rooms that are served, by name.
        hub: where their sockets are parked.
        placement: reaches rooms, and says whether one takes new connections.
        registrar: gives them their sessions.
        deadlines: for clients that take too long.
        statistics: what ``/stats`` shows.
        insight: what else is told of the rooms.
        spawn: starts a task that outlives the server where it refuses to be cancelled.
        prefix: what paths begin with, such as ``"/rooms"``.
        template: the rest of a room's path, with ``{room}`` and ``{id}``.
        origins: who may send browsers here, see `check_origins`; None for anybody.
        max_connections: sockets from which on new ones are refused, open or not; None for any number.
        handshake_timeout: seconds for a client to send its request, and again for `authenticate`.
        admin: answers other processes; None for a server that does not.
        dashboard: whether anybody may see the dashboard, and what else names rooms; else it takes the token.
        traces: who is to hear of each handshake.
        nodes: tells of the nodes that share an engine; None where this one is alone.
        homes: says at which of them a room is at home; None where this one is alone.
    """

    definitions: Mapping[str, Definition]
    hub: SocketHub
    placement: Placement
    registrar: Registrar
    deadlines: Deadlines
    statistics: Callable[[], Any]
    insight: Insight
    spawn: Callable[..., None]
    prefix: str = ""
    template: str = "/{room}/{id}"
    origins: Collection[str] | None = None
    max_connections: int | None = None
    handshake_timeout: float = 10.0
    admin: Admin | None = None
    dashboard: bool = False
    traces: Traces = NO_TRACES
    nodes: Nodes | None = None
    homes: Homes | None = None
    address: Address | None = attrs.field(init=False, default=None)
    """Where it listens, once it does."""
    _paths: Paths = attrs.field(init=False)
    _pages: Pages = attrs.field(init=False)
    _acceptor: Acceptor = attrs.field(init=False)
    _attending: dict[int, trio.CancelScope] = attrs.field(init=False, factory=dict)
    """Those of newcomers with a task of their own, by descriptor."""
    _sending: dict[trio.CancelScope, float] = attrs.field(init=False, factory=dict)
    """Of these, those to whom their last is being sent, and since when; the first first."""
    _leaving: dict[trio.CancelScope, None] = attrs.field(init=False, factory=dict)
    """Those who have been sent it, and have only to leave."""
    _errands: trio.Semaphore = attrs.field(init=False, factory=lambda: trio.Semaphore(_MOST_ERRANDS))
    _looks: trio.Semaphore = attrs.field(init=False, factory=lambda: trio.Semaphore(_MOST_ERRANDS))
    """Of those without a token."""
    _acting: set[int] = attrs.field(init=False, factory=set)
    """Descriptors of those for whom something is being done, which is to be done and told to its end."""
    _opened: int = attrs.field(init=False, default=0)
    _refused: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        if self.origins is not None:
            self.origins = check_origins(self.origins)
        public = {name: one for name, one in self.definitions.items() if one.public}
        self._paths = Paths(public, self.prefix, self.template)
        self._pages = Pages(public, self._paths, self.placement, self.statistics, self.insight)
        self._acceptor = Acceptor(
            self.hub,
            self.handshake_timeout,
            self._admit,
            let_go=self._let_go,
            most=self.max_connections,
            refusal=lambda: _TOO_MANY.encode(time()),
        )

    def own_statistics(self) -> ServerStatistics:
        """What this server has done until now."""
        handshaking = len(self._acceptor) + len(self._attending)
        return ServerStatistics(self._acceptor.accepted, self._opened, self._refused, handshaking)

    async def run(
        self,
        host: str | None,
        port: int,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; reports the `Address`. Sockets that were let in stay with the hub."""
        listeners = await open_listeners(host, port)
        try:
            name = listeners[0].getsockname()
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._acceptor.accept, listener)
                self.address = Address(name[0], name[1])
                for definition in self.definitions.values():
                    if definition.public:
                        path = self._paths.form.replace("{room}", definition.name).replace("{id}", "ID")
                        logger.info("room %s is at %s%s", definition.name, self.address, path)
                if self.dashboard:
                    logger.info("the dashboard is at http%s/dashboard", self.address.url.removeprefix("ws"))
                if self.admin is not None:
                    logger.info("other processes may send at http%s", self.address.url.removeprefix("ws"))
                task_status.started(self.address)
                await trio.sleep_forever()
        finally:
            self._acceptor.dispose()
            for fd, scope in self._attending.items():
                if fd not in self._acting:
                    scope.cancel()
            for listener in listeners:
                listener.close()

    def _admit(self, newcomer: Newcomer, request: Head | BadRequestError) -> None:
        """A client has asked for something. Whatever happens here happens to this client alone."""
        try:
            if isinstance(request, BadRequestError):
                self._start(newcomer, self._respond, request.response.encode(time()), True)
                return
            path, query = _path_and_query(request)
            wanted = self._wanted(request, path, newcomer)
            if isinstance(wanted, Response):
                last, refused = self._last(request, wanted), wanted.status >= 400
                self._start(newcomer, self._respond, last, refused)
                return
            if isinstance(wanted, Errand):
                self._start(newcomer, self._carry_out, newcomer, request, wanted)
                return
            definition, key = wanted
            asks = definition.authenticate is not None or "resume=" in query
            if asks or not (self.homes is None or self.homes.here(key)):
                self._start(newcomer, self._authenticate, newcomer, request, definition, key)
            else:
                with self.traces.handshake(request.headers, key) as told:
                    self._open(newcomer, request, definition, key, told, _ANYBODY)
        except Exception:
            logger.exception("a handshake failed")
            if self.hub.unwatch(newcomer.fd):
                os.close(newcomer.fd)

    def _wanted(
        self, head: Head, path: str, newcomer: Newcomer
    ) -> Response | Errand | tuple[Definition, str]:
        """The room that a client asks to be let into, what is to be done for it, or what it is answered."""
        if not head.wants_websocket:
            asked = None if self.admin is None else self.admin.asked(head.method, path, head.headers)
            if asked is None and self.nodes is not None:
                asked = self.nodes.asked(head.method, path, head.headers, newcomer.remote)
            if asked is not None:
                return asked
            insider = self.dashboard or (self.admin is not None and self.admin.knows(head.headers))
            page = self._pages.answer(head.method, path, head.headers, insider=insider)
            if page is not None:
                return page
        try:
            definition, key = self._paths.room(path)
        except MalformedPath as error:
            return Response.text(400, str(error))
        except UnknownRoom as error:
            return Response.text(404, str(error))
        if head.method == "OPTIONS":
            return Response(200, headers={"Allow": METHODS})
        refusal = refusal_of(head) or _strange(head, definition) or self._overload(key) or self._foreign(head)
        return (definition, key) if refusal is None else refusal

    def _open(
        self,
        newcomer: Newcomer,
        head: Head,
        definition: Definition,
        key: str,
        told: Handshake,
        admission: Admission,
        found: Resumption | str | Elsewhere = "",
    ) -> None:
        """Response 101 and park the socket."""
        subprotocol, flags = chosen_subprotocol(definition, head.subprotocols)
        opening = accept(head, subprotocol)
        enveloped = subprotocol is not None and not definition.plain
        begin = None
        if not isinstance(found, _HERE):
            begin = beginning_elsewhere(found, admission, enveloped=enveloped)
            roster, admission = found.roster(), _ANYBODY
        else:
            if enveloped:
                begin = self.registrar.beginning(admission.user, found)
            roster = roster_of(self.hub, definition, key)
        self._opened += 1
        self._attended(newcomer)
        link = self.hub.park(
            roster,
            newcomer.fd,
            admission.attachment,
            flags,
            opening,
            begin,
            admission.user,
            admission.presence,
        )
        told.answered(101)
        told.opened(link)
        if head.rest:
            self.hub.data_received(link, head.rest)

    def _start(self, newcomer: Newcomer, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Go on with a newcomer in a task of its own, for what has to wait."""
        self.hub.unwatch(newcomer.fd)
        scope = trio.CancelScope()
        self._attending[newcomer.fd] = scope
        self.hub.elsewhere += 1
        self.spawn(self._attend, scope, newcomer, function, *arguments)

    async def _attend(
        self,
        scope: trio.CancelScope,
        newcomer: Newcomer,
        function: Callable[..., Awaitable[None]],
        *arguments: Any,
    ) -> None:
        """A newcomer's task; its socket is closed or given away at the end."""
        try:
            with (
                trio.socket.from_stdlib_socket(socket.socket(fileno=newcomer.fd)) as client,
                scope,
            ):
                await function(client, *arguments)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            logger.exception("a handshake failed")
        finally:
            self._attended(newcomer)

    def _attended(self, newcomer: Newcomer) -> None:
        """A newcomer's socket is not its task's any more, if it has one."""
        if self._attending.pop(newcomer.fd, None) is not None:
            self.hub.elsewhere -= 1
            self._acting.discard(newcomer.fd)

    async def _authenticate(
        self, client: trio.socket.SocketType, newcomer: Newcomer, head: Head, definition: Definition, key: str
    ) -> None:
        """Ask the room whether it lets a client in, and tell the client if not."""
        with self.traces.handshake(head.headers, key) as told:
            last = await self._let_in(client, newcomer, head, definition, key, told)
            if last:
                told.answered(int(last[9:12]))  # HTTP/1.1 503 ...
        if last:
            self._refused += 1
            await self._part_with(client, last)

    async def _let_in(
        self,
        client: trio.socket.SocketType,
        newcomer: Newcomer,
        head: Head,
        definition: Definition,
        key: str,
        told: Handshake,
    ) -> bytes:
        """Let a client in if the room says so; else returns what it is answered, which is its last."""
        try:
            path, query = _path_and_query(head)
            request = ConnectRequest(*split_key(key), path, parameters(query), head.headers, newcomer.remote)
            found: Resumption | str | Elsewhere = ""
            with self._timeout(self.handshake_timeout) as scope:
                admission = await authenticate(definition, request)
                subprotocol, _ = chosen_subprotocol(definition, head.subprotocols)
                elsewhere = None if self.homes is None else await self.homes.find(key)
                if elsewhere is not None:
                    found = elsewhere
                elif admission.token is not None and subprotocol is not None and not definition.plain:
                    found = await self.registrar.look_up(key, admission.user, admission.token, admission.seq)
            if scope.cancelled_caught:
                logger.error(
                    "room %s: authenticate took longer than the %g s of handshake_timeout",
                    key,
                    self.handshake_timeout,
                )
                why = "the room could not decide in time whether to let you in"
                last = Response.text(503, why, Retry_After="5").encode(time())
            elif (closed := self._closed(key)) is not None:  # It may have taken long.
                _let_go_of(found)
                last = closed.encode(time())
            elif not (elsewhere or self.homes is None or self.homes.here(key)):
                _let_go_of(found)
                raise Unavailable(key, "it has moved")  # noqa: TRY301 (what is done then is below)
            else:
                if elsewhere is not None:
                    elsewhere.roster()  # Else it is too late to say that it is gone.
                client.detach()  # Nothing awaits from here on: the socket is this task's or the hub's.
                try:
                    self._open(newcomer, head, definition, key, told, admission, found)
                finally:
                    _let_go_of(found)
                return b""
        except trio.Cancelled:
            # The server stops, and nothing may wait any more. So little fits into any buffer.
            with contextlib.suppress(OSError):
                os.write(client.fileno(), _STOPPING.encode(time()))
            raise
        except Refused as refused:
            last = self._refusal(head, definition, refused)
        except Unavailable as error:
            logger.warning("room %s: a client cannot be let in: %s", key, error)
            last = Response.text(503, "the room cannot be reached now", Retry_After="1").encode(time())
        except StoreError as error:
            logger.error("room %s: a session cannot be looked up: %s", key, error)  # noqa: TRY400
            why = "the session cannot be looked up at the moment"
            last = Response.text(503, why, Retry_After="5").encode(time())
        except Exception:
            logger.exception("room %s: authenticate raised", key)
            last = Response.text(500, "the room could not decide whether to let you in").encode(time())
        return last

    async def _carry_out(
        self, client: trio.socket.SocketType, newcomer: Newcomer, head: Head, errand: Errand
    ) -> None:
        """Do what another process asks for, and tell it what has become of it."""
        answer = problem(503, "the server is going away; nothing was done", Retry_After="5")
        turns = self._looks if errand.anybody else self._errands
        try:
            with self._timeout(self.handshake_timeout) as scope:
                await turns.acquire()
            if scope.cancelled_caught:
                answer = problem(503, "too many requests at once; nothing was done", Retry_After="5")
            else:
                try:
                    body = await self._content(client, head) if errand.reads else b""
                    self._acting.add(newcomer.fd)
                    answer = problem(503, "the server is going away; whether it was done is not known")
                    answer = await errand.carry_out(body)
                except BadContentError as error:
                    answer = problem(error.status, error.text)
                finally:
                    turns.release()
        except trio.Cancelled:
            with contextlib.suppress(OSError):
                os.write(client.fileno(), answer.encode(time()))
            raise
        await self._respond(client, self._last(head, answer), answer.status >= 400)

    async def _content(self, client: trio.socket.SocketType, head: Head) -> bytes:
        """The body of a request.

        Raises:
            BadContentError: it is too large, malformed, or does not come in time.
            OSError: the client has left.
        """
        reader = ContentReader(head, MOST_CONTENT)
        content = reader.feed(head.rest)
        with self._timeout(self.handshake_timeout):
            if content is None and reader.waits:
                await trio.SocketStream(client).send_all(CONTINUE)
            while content is None:
                data = await client.recv(_READ)
                if not data:
                    raise reader.end()
                content = reader.feed(data)
        if content is None:
            raise BadContentError(408, f"the body did not come within {self.handshake_timeout:g} s")
        return content

    def _refusal(self, head: Head, definition: Definition, refused: Refused) -> bytes:
        """What a client gets that is refused: a response, or a WebSocket that is closed at once."""
        if refused.close is None:
            response = Response.text(refused.status, refused.reason)
            return self._last(head, attrs.evolve(response, headers=headers_of(refused)))
        subprotocol, _ = chosen_subprotocol(definition, head.subprotocols)
        self.hub.closing.closes.count(refused.close)
        return accept(head, subprotocol) + encode_close(refused.close, refused.reason)

    def _last(self, head: Head, response: Response) -> bytes:
        """What a client gets that is not let in: a response, or the close that it asked for in its place."""
        refusal = refuse_with_close(head, response)
        if refusal is None:
            return response.encode(time(), head_only=head.method == "HEAD")
        code, last = refusal
        self.hub.closing.closes.count(code)
        return last

    async def _respond(self, client: trio.socket.SocketType, last: bytes, refused: bool) -> None:
        """Send the last that a client gets, and close."""
        self._refused += refused
        await self._part_with(client, last)

    async def _part_with(self, client: trio.socket.SocketType, last: bytes) -> None:
        """Send a client the last that it gets, and wait a while until it has left.

        What is still unread when a socket is closed resets the connection, and the other side may
        never read what was sent before.
        """
        stream = trio.SocketStream(client)
        with self._timeout(self.handshake_timeout) as scope:
            self._sending[scope] = trio.current_time()
            try:
                await stream.send_all(last)
                await stream.send_eof()
            finally:
                self._sending.pop(scope, None)
            with self._timeout(_LINGER) as lingering:
                self._leaving[lingering] = None
                try:
                    while await stream.receive_some():
                        pass
                finally:
                    self._leaving.pop(lingering, None)

    @contextlib.contextmanager
    def _timeout(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Like `trio.move_on_after`, but what has arrived in time counts however late it is read."""
        scope = trio.CancelScope()
        deadline = self.hub.timeouts.set(trio.current_time() + seconds, scope.cancel)
        try:
            with scope:
                yield scope
        finally:
            self.deadlines.cancel(deadline)

    def _let_go(self) -> bool:
        """Cut off who was answered longest ago and is still there, or else who is slow to read its answer."""
        scope = next(iter(self._leaving), None)
        if scope is not None:
            del self._leaving[scope]
        else:
            scope, since = next(iter(self._sending.items()), (None, 0.0))
            if scope is None or trio.current_time() - since < _LINGER:
                return False
            del self._sending[scope]
        scope.cancel()
        return True

    def _closed(self, key: str) -> Response | None:
        """Why nobody is let into a room now, or None."""
        if self.nodes is not None and self.nodes.draining:
            return _DRAINED
        if not self.placement.accepts(key):
            return _CLOSED_ROOM if self.nodes is None else _NOT_NOW
        return None

    def _overload(self, key: str) -> Response | None:
        """Why no more connections are taken now, or None."""
        closed = self._closed(key)
        if closed is not None:
            return closed
        # Not those who still ask, as this one does, nor those who only have to leave.
        parting = len(self._sending) + len(self._leaving)
        taken = self.hub.sockets + self.hub.closing.count + self.hub.elsewhere - parting - self.hub.far
        if self.max_connections is not None and taken >= self.max_connections:
            return _TOO_MANY
        return None

    def _foreign(self, head: Head) -> Response | None:
        """Why a browser's origin is refused, or None."""
        origin = head.headers.get("origin")
        if self.origins is None or origin is None or origin in self.origins:
            return None
        return Response.text(403, f"no WebSockets are opened here from {origin[:200]}")


def _strange(head: Head, definition: Definition) -> Response | None:
    """Why a client would be let in that does not want to be, or None.

    A browser ends a connection without any of the subprotocols that its page offers, and the page cannot tell
    why.
    """
    offered = head.headers.get("sec-websocket-protocol")
    if offered is None or REFUSAL not in offered:
        return None
    if chosen_subprotocol(definition, head.subprotocols)[0] is not None:
        return None
    spoken = " and ".join(definition.subprotocols) or "no subprotocol"
    return Response.text(400, f"room {definition.name} speaks {spoken}")


def _path_and_query(head: Head) -> tuple[str, str]:
    """The two parts of a request's target, without scheme and host."""
    target = head.target if head.target[0] == "/" else _ABSOLUTE.sub("", head.target)
    path, _, query = target.partition("?")
    return path or "/", query


def _let_go_of(found: Resumption | str | Elsewhere) -> None:
    """What was found is used, or is not to be."""
    if isinstance(found, Resumption):
        found.record.unpin()
