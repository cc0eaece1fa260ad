"""Listening: who is let in, who is turned away, and what is answered in plain HTTP on the same port."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import attrs
import trio

from trio_rooms._definition.room import Room
from trio_rooms._keys import check_id
from trio_rooms._room.context import ConnectRequest, encode_attachment
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms._sockets.acceptor import Newcomer, Newcomers
from trio_rooms._sockets.links import BINARY
from trio_rooms._wire.envelope import SUBPROTOCOLS, welcome
from trio_rooms._wire.handshake import Answer, BadRequestError, Head, accept, refusal_of
from trio_rooms.errors import AttachmentError, Refused, UnknownRoom

__all__ = ["Address", "Server", "ServerStatistics"]

logger = logging.getLogger("trio_rooms")

_LINGER: Final = 1.0
"""Seconds that a client that was turned away may go on sending before it is cut off."""
_ABSOLUTE: Final = re.compile("^https?://[^/?]*", re.IGNORECASE)
"""What a request's target may begin with (RFC 6455, 4.2.1)."""
_BACKLOG: Final = 4096
"""Connections that the kernel keeps until they are accepted; it takes at most its own maximum."""


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
    """Requests answered with a status of 400 or more, before any WebSocket."""
    handshaking: int
    """Connections that have not finished their request now."""


@attrs.define(eq=False)
class Server:
    """Lets clients into rooms.

    Args:
        supervisor: whose rooms they are.
        statistics: what ``/stats`` shows.
        prefix: what paths begin with, such as ``"/rooms"``.
        template: the rest of a room's path, with ``{room}`` and ``{id}``.
        origins: who may send browsers here; None for anybody.
        max_connections: sockets from which on new ones are refused; None for any number.
        handshake_timeout: seconds for a client to send its request, and for `authenticate`.
    """

    supervisor: Supervisor
    statistics: Callable[[], Any]
    prefix: str = ""
    template: str = "/{room}/{id}"
    origins: Collection[str] | None = None
    max_connections: int | None = None
    handshake_timeout: float = 10.0
    _pattern: re.Pattern[str] = attrs.field(init=False)
    _newcomers: Newcomers = attrs.field(init=False)
    _nursery: trio.Nursery = attrs.field(init=False)
    _opened: int = attrs.field(init=False, default=0)
    _refused: int = attrs.field(init=False, default=0)
    _attended: int = attrs.field(init=False, default=0)
    """Newcomers with a task of their own."""
    _admitting: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        if isinstance(self.origins, str):
            raise TypeError(f"origins is a list of origins, not one string: [{self.origins!r}]")
        if not (self.prefix + self.template).startswith("/"):
            raise ValueError(f"a room's path begins with '/', not {self.prefix + self.template!r}")
        if self.template.count("{room}") != 1 or self.template.count("{id}") != 1:
            msg = f"the template of a room's path has {{room}} and {{id}} once each, not {self.template!r}"
            raise ValueError(msg)
        escaped = re.escape(self.prefix.rstrip("/") + self.template)
        for name in ("room", "id"):
            escaped = escaped.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>[^/]+)")
        self._pattern = re.compile(escaped)
        self._newcomers = Newcomers(
            self.supervisor.lot, self.supervisor.alarms, self.handshake_timeout, self._admit
        )

    def own_statistics(self) -> ServerStatistics:
        """What this server has done until now."""
        handshaking = len(self._newcomers) + self._attended
        return ServerStatistics(self._newcomers.accepted, self._opened, self._refused, handshaking)

    async def run(
        self,
        host: str | None,
        port: int,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; reports the `Address`. Sockets that were let in stay with the lot."""
        opened = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
        listeners = [socket.socket(fileno=listener.socket.detach()) for listener in opened]
        try:
            name = listeners[0].getsockname()
            async with trio.open_nursery() as self._nursery:
                for listener in listeners:
                    self._nursery.start_soon(self._newcomers.accept, listener)
                task_status.started(Address(name[0], name[1]))
                try:
                    await trio.sleep_forever()
                finally:
                    # As long as there is a nursery for whom they would be admitted to.
                    self._newcomers.dispose()
        finally:
            for listener in listeners:
                listener.close()

    def _admit(self, newcomer: Newcomer, request: Head | BadRequestError) -> None:
        """A client has asked for something. Whatever happens here happens to this client alone."""
        try:
            if isinstance(request, BadRequestError):
                self._start(newcomer, self._answer, request.answer)
                return
            wanted = self._wanted(request)
            if isinstance(wanted, Answer):
                self._start(newcomer, self._answer, wanted, request.method == "HEAD")
                return
            room, id_ = wanted
            if room.has_hook("authenticate"):
                # Counted before it is parked, so that many at once do not pass the limit together.
                self._admitting += 1
                self._start(newcomer, self._authenticate, newcomer, request, room, id_)
            else:
                self._open(newcomer, request, room, id_, None)
        except Exception:
            logger.exception("a handshake failed")
            if self.supervisor.lot.unwatch(newcomer.fd):
                os.close(newcomer.fd)

    def _wanted(self, head: Head) -> Answer | tuple[Room[Any], str]:
        """The room that a client asks to be let into, or what it is answered."""
        path, _ = _path_and_query(head)
        if not head.wants_websocket and head.method in {"GET", "HEAD"}:
            page = self._page(path)
            if page is not None:
                return page
        try:
            room, id_ = self._room(path)
        except UnknownRoom as error:
            return Answer.text(404 if error.__cause__ is None else 400, str(error))
        refusal = refusal_of(head) or self._overload(f"{room.name}/{id_}") or self._foreign(head)
        return (room, id_) if refusal is None else refusal

    def _open(
        self, newcomer: Newcomer, head: Head, room: Room[Any], id_: str, attachment: bytes | None
    ) -> None:
        """Answer 101 and park the socket."""
        subprotocol = None
        if not room.plain:
            subprotocol = next((one for one in head.subprotocols if one in SUBPROTOCOLS), None)
        opening = accept(head, subprotocol)
        flags = BINARY if subprotocol is not None and SUBPROTOCOLS[subprotocol] else 0
        greet = None if subprotocol is None else welcome
        self._opened += 1
        lot = self.supervisor.lot
        roster = self.supervisor.roster(f"{room.name}/{id_}")
        link = lot.park(roster, newcomer.fd, attachment, flags, opening, greet)
        if head.rest:
            lot.feed(link, head.rest)

    def _start(self, newcomer: Newcomer, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Go on with a newcomer in a task of its own, for what has to wait."""
        self.supervisor.lot.unwatch(newcomer.fd)
        self._attended += 1
        self._nursery.start_soon(self._attend, newcomer, function, *arguments)

    async def _attend(
        self, newcomer: Newcomer, function: Callable[..., Awaitable[None]], *arguments: Any
    ) -> None:
        try:
            with (
                trio.socket.from_stdlib_socket(socket.socket(fileno=newcomer.fd)) as client,
                trio.move_on_at(newcomer.deadline),
            ):
                await function(client, *arguments)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            logger.exception("a handshake failed")
        finally:
            self._attended -= 1

    async def _authenticate(
        self, client: trio.socket.SocketType, newcomer: Newcomer, head: Head, room: Room[Any], id_: str
    ) -> None:
        """Ask the room whether it lets a client in."""
        try:
            path, query = _path_and_query(head)
            parameters = dict(parse_qsl(query, keep_blank_values=True))
            request = ConnectRequest(room.name, id_, path, parameters, head.headers, newcomer.remote)
            attachment = await authenticate(room, request)
        except Refused as refused:
            answer = Answer.text(refused.status, refused.reason)
        except Exception:
            logger.exception("room %s/%s: authenticate raised", room.name, id_)
            answer = Answer.text(500, "the room could not decide whether to let you in")
        else:
            client.detach()  # Nothing awaits from here on: the socket is this task's or the lot's.
            self._open(newcomer, head, room, id_, attachment)
            return
        finally:
            self._admitting -= 1
        await self._answer(client, answer)

    async def _answer(self, client: trio.socket.SocketType, answer: Answer, head_only: bool = False) -> None:
        """Answer in plain HTTP, and close."""
        self._refused += answer.status >= 400
        stream = trio.SocketStream(client)
        await stream.send_all(answer.encode(head_only=head_only))
        # What is still unread would reset the connection before the answer is read.
        await stream.send_eof()
        with trio.move_on_after(_LINGER):
            while await stream.receive_some():
                pass

    def _room(self, path: str) -> tuple[Room[Any], str]:
        match = self._pattern.fullmatch(path)
        if match is None:
            msg = f"there is nothing at {path[:200]!r}; a room is at {self.prefix}{self.template}"
            raise UnknownRoom(msg)
        try:
            name, id_ = (unquote_to_bytes(match[part]).decode() for part in ("room", "id"))
        except UnicodeDecodeError as error:
            msg = "a room's path is percent-encoded UTF-8"
            raise UnknownRoom(msg) from error
        room = self.supervisor.definitions.get(name)
        if room is None:
            msg = f"there is no room named {name[:100]!r}"
            raise UnknownRoom(msg)
        try:
            return room, check_id(id_)
        except UnknownRoom as error:
            raise UnknownRoom(str(error)) from error

    def _overload(self, key: str) -> Answer | None:
        if not self.supervisor.accepts(key):
            return Answer.text(503, "this room is closed at the moment", Retry_After="30")
        taken = self.supervisor.lot.sockets + self._admitting
        if self.max_connections is not None and taken >= self.max_connections:
            return Answer.text(503, "too many connections", Retry_After="5")
        return None

    def _foreign(self, head: Head) -> Answer | None:
        origin = head.headers.get("origin")
        if self.origins is None or origin is None or origin in self.origins:
            return None
        return Answer.text(403, f"no WebSockets are opened here from {origin[:200]}")

    def _page(self, path: str) -> Answer | None:
        if path == "/":
            pages = (room.page for room in self.supervisor.definitions.values() if room.page is not None)
            page = next(pages, None)
            if page is not None:
                return Answer(200, page.encode(), kind="text/html; charset=utf-8")
            names = ", ".join(sorted(self.supervisor.definitions))
            return Answer.text(200, f"rooms at {self.prefix}{self.template}: {names}")
        if path == "/healthz":
            return Answer.text(200, "ok")
        if path == "/stats":
            return _json(attrs.asdict(self.statistics()))
        if path.startswith("/stats/"):
            return self._room_statistics(path.removeprefix("/stats"))
        return None

    def _room_statistics(self, path: str) -> Answer:
        """One room as it is now; asking does not wake it."""
        try:
            room, id_ = self._room(path)
        except UnknownRoom as error:
            return Answer.text(404, str(error))
        key = f"{room.name}/{id_}"
        roster = self.supervisor.lot.rosters.get(key)
        connections = len(roster.links) if roster is not None else 0
        return _json({"key": key, "stage": self.supervisor.stage(key).value, "connections": connections})


def _path_and_query(head: Head) -> tuple[str, str]:
    path, _, query = _ABSOLUTE.sub("", head.target).partition("?")
    return path, query


async def authenticate(room: Room[Any], request: ConnectRequest) -> bytes | None:
    """Ask a room whether it lets a client in; the attachment, encoded.

    Raises:
        Refused: it does not.
        AttachmentError: what it returned cannot be an attachment.
        Exception: the hook raised.
    """
    await trio.lowlevel.checkpoint()
    attachment = await room.call_hook("authenticate", request)
    try:
        return encode_attachment(request.key, attachment, room.attachment_limit)
    except AttachmentError as error:
        error.add_note("it is what @room.authenticate returned")
        raise


def _json(content: Any) -> Answer:
    body = json.dumps(content, default=dict).encode()
    return Answer(200, body, {"Cache-Control": "no-store"}, kind="application/json")
