"""Listening: who is let in, who is turned away, and what is answered in plain HTTP on the same port."""

from __future__ import annotations

import errno
import json
import logging
import re
import socket
from collections.abc import Callable, Collection
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

import attrs
import trio

from .context import ConnectRequest, encode_attachment
from .errors import AttachmentError, Refused, UnknownRoom
from .handshake import Answer, BadRequestError, Head, read_head, refusal_of, upgrade
from .links import BINARY
from .protocol import SUBPROTOCOLS, welcome
from .room import Room
from .supervisor import Supervisor

__all__ = ["Address", "Server", "ServerStatistics", "check_id"]

logger = logging.getLogger("trio_rooms")

_OUT_OF: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""What a busy machine runs out of, and has again after a while."""
_PAUSE: Final = 0.1
_LINGER: Final = 1.0
"""Seconds that a client that was turned away may go on sending before it is cut off."""
_LONGEST_ID: Final = 256
_ABSOLUTE: Final = re.compile("^https?://[^/?]*", re.IGNORECASE)
"""What a request's target may begin with (RFC 6455, 4.2.1)."""
_BACKLOG: Final = 4096
"""Connections that the kernel keeps until they are accepted; it takes at most its own maximum."""
# A peer that vanished without a word is found after two minutes by the kernel: no task, no timer.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


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


def check_id(id: str) -> str:  # noqa: A002 (what rooms call it)
    """Return a room's id if it is one.

    Raises:
        UnknownRoom: it is empty, longer than 256 characters, or has control characters.
    """
    text = isinstance(id, str)  # Whatever it is annotated as, it may come from anywhere.
    if not text or not 1 <= len(id) <= _LONGEST_ID or any(_is_control(one) for one in id):
        msg = f"a room's id has 1 to {_LONGEST_ID} characters and no control characters, not {id!r:.300}"
        raise UnknownRoom(msg)
    return id


def _is_control(character: str) -> bool:
    code = ord(character)
    # C0, DEL and C1, and surrogates, which are no characters and have no form in UTF-8.
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000


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
    _accepted: int = attrs.field(init=False, default=0)
    _opened: int = attrs.field(init=False, default=0)
    _refused: int = attrs.field(init=False, default=0)
    _handshaking: int = attrs.field(init=False, default=0)
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

    def own_statistics(self) -> ServerStatistics:
        """What this server has done until now."""
        return ServerStatistics(self._accepted, self._opened, self._refused, self._handshaking)

    async def run(
        self,
        host: str | None,
        port: int,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; reports the `Address`. Sockets that were let in stay with the lot."""
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
        try:
            name = listeners[0].socket.getsockname()
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener.socket, nursery)
                task_status.started(Address(name[0], name[1]))
        finally:
            for listener in listeners:
                listener.socket.close()

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        short = False
        while True:
            try:
                client, _ = await listener.accept()
            except OSError as error:
                # Anything else concerns the one client that was about to come (see accept(2)).
                if error.errno in _OUT_OF:
                    if not short:
                        logger.error("no connections are accepted for now: %s", error)  # noqa: TRY400
                    short = True
                    await trio.sleep(_PAUSE)
                elif error.errno in {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}:
                    raise
                else:
                    await trio.lowlevel.checkpoint()
                continue
            if short:
                short = False
                logger.info("connections are accepted again")
            self._accepted += 1
            nursery.start_soon(self._greet, client)

    async def _greet(self, client: trio.socket.SocketType) -> None:
        """Take one client through its handshake. Whatever happens here happens to this client alone."""
        self._handshaking += 1
        try:
            _tune(client)
            stream = trio.SocketStream(client)
            with trio.move_on_after(self.handshake_timeout):
                try:
                    head = await read_head(stream)
                    answer = None if head is None else await self._admit(stream, client, head)
                except BadRequestError as bad:
                    head, answer = None, bad.answer
                if answer is not None:
                    self._refused += answer.status >= 400
                    await stream.send_all(answer.encode(head_only=head is not None and head.method == "HEAD"))
                    await _linger(stream)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            logger.exception("a handshake failed")
        finally:
            self._handshaking -= 1
            client.close()  # Nothing, where the descriptor was parked: it was detached before.

    async def _admit(
        self, stream: trio.SocketStream, client: trio.socket.SocketType, head: Head
    ) -> Answer | None:
        """Let a client in (None), or say what it is answered."""
        target = _ABSOLUTE.sub("", head.target)
        path, _, query = target.partition("?")
        if head.method in {"GET", "HEAD"} and not head.wants_websocket:
            page = self._page(path)
            if page is not None:
                return page
        try:
            room, id_ = self._room(path)
        except UnknownRoom as error:
            return Answer.text(404 if error.__cause__ is None else 400, str(error))
        refusal = refusal_of(head) or self._overload(f"{room.name}/{id_}") or self._foreign(head)
        if refusal is not None:
            return refusal
        request = ConnectRequest(
            room.name,
            id_,
            path,
            dict(parse_qsl(query, keep_blank_values=True)),
            head.headers,
            _remote(client),
        )
        # Counted before it is parked, so that many at once do not pass the limit together.
        self._admitting += 1
        try:
            return await self._open(stream, client, head, room, request)
        finally:
            self._admitting -= 1

    async def _open(
        self,
        stream: trio.SocketStream,
        client: trio.socket.SocketType,
        head: Head,
        room: Room[Any],
        request: ConnectRequest,
    ) -> Answer | None:
        try:
            attachment = await authenticate(room, request)
        except Refused as refused:
            return Answer.text(refused.status, refused.reason)
        except Exception:
            logger.exception("room %s: authenticate raised", request.key)
            return Answer.text(500, "the room could not decide whether to let you in")
        offered = (one for one in head.subprotocols if one in SUBPROTOCOLS)
        subprotocol = None if room.plain else next(offered, None)
        # Whoever was told 101 gets into the lot, and from there a close frame if this is the end.
        with trio.CancelScope(shield=True):
            upgraded = await upgrade(stream, head, subprotocol)
        if upgraded:
            self._park(client, request.key, attachment, subprotocol, head.rest)
        return None

    def _park(
        self,
        client: trio.socket.SocketType,
        key: str,
        attachment: bytes | None,
        subprotocol: str | None,
        rest: bytes,
    ) -> None:
        # From here to the end nothing awaits: the socket is the handshake's or the lot's.
        self._opened += 1
        lot = self.supervisor.lot
        flags = BINARY if subprotocol is not None and SUBPROTOCOLS[subprotocol] else 0
        greet = None if subprotocol is None else welcome
        link = lot.park(self.supervisor.roster(key), client.detach(), attachment, flags, greet)
        if rest:
            lot.feed(link, rest)

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
        taken = self.supervisor.lot.statistics().sockets + self._admitting
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


def _tune(client: trio.socket.SocketType) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _remote(client: trio.socket.SocketType) -> str:
    name: Any = client.getpeername()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)


async def _linger(stream: trio.SocketStream) -> None:
    """Close so that the answer arrives: what is still unread would reset the connection."""
    await stream.send_eof()
    with trio.move_on_after(_LINGER):
        while await stream.receive_some():
            pass
