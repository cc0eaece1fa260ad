"""A client in a room, with no socket, no thread and no time: for tests of rooms."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urlencode

import attrs
import cbor2
import trio
import trio.testing
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from trio_rooms._keys import split_key
from trio_rooms._rooms import Rooms
from trio_rooms._server.admission import ConnectRequest, parameters
from trio_rooms._wire.envelope import SUBPROTOCOLS
from trio_rooms.errors import EventError, UnknownRoom

__all__ = ["Closed", "MemoryClient", "connect"]

_ENDED: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
"""What a stream raises whose other end, or whose own, is closed."""


@attrs.frozen
class Closed:
    """The server's close frame."""

    code: int
    reason: str


class MemoryClient:
    """A WebSocket client, made by `connect`. wsproto does its protocol, and none of the server's code.

    ``async for message in client`` gives messages until the connection has ended.

    Its attribute ``subprotocol`` is what was chosen of those that it offered, and ``closed`` how the
    server closed, a `Closed`, or None until `receive` has come to that. ``welcome`` is the data of the
    server's first message, once `receive` has given that, and ``seq`` the highest that was received.

    Args:
        stream: the client's end of a stream that `Rooms.serve_stream` serves.
        subprotocol: what was chosen of the subprotocols that it offered.
        plain: whether it is in a plain room, where messages are no envelopes.
    """

    def __init__(
        self, stream: trio.abc.Stream, subprotocol: str | None = None, *, plain: bool = False
    ) -> None:
        self.subprotocol: str | None = subprotocol
        """What was chosen of the subprotocols that it offered."""
        self.closed: Closed | None = None
        """How the server closed, once `receive` has come to that."""
        self.welcome: dict[str, Any] | None = None
        """What the server said first, of its session; None until `receive` has given that."""
        self.seq: int = 0
        """The highest of the events that were received, or from where the session counts."""
        self._stream = stream
        self._plain = plain
        self._cbor = subprotocol is not None and SUBPROTOCOLS.get(subprotocol, False)
        self._protocol = Connection(ConnectionType.CLIENT)
        self._events: deque[Event] = deque()
        self._parts: list[Any] = []
        self._kept: deque[Any] = deque()
        self._asked = 0
        self._sending = trio.Lock()

    # Out.

    async def send(self, message: str | bytes) -> None:
        """Send a message as it is, also while another task receives.

        Raises:
            trio.ClosedResourceError: the connection is closing, as `receive` has found out, or has ended.
            trio.BrokenResourceError: the server is gone.
        """
        await self._transmit(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def _transmit(self, event: Event) -> None:
        """Send one thing after the other, whoever sends."""
        async with self._sending:
            if self._protocol.state is ConnectionState.OPEN or isinstance(event, CloseConnection):
                await self._stream.send_all(self._protocol.send(event))
            else:
                raise trio.ClosedResourceError

    async def emit(
        self,
        event: str,
        data: Any = None,
        *,
        channel: str | None = None,
        id: int | None = None,  # noqa: A002 (what the protocol calls it)
    ) -> None:
        """Send an event, in CBOR where that subprotocol was chosen, else in JSON.

        Args:
            event: its name.
            data: what JSON or CBOR can hold.
            channel: the channel that it names.
            id: asks for an acknowledgement, which `receive` then gives.

        Raises:
            TypeError: the room is plain, and has no events.
        """
        if self._plain:
            msg = "the room is plain: it has no events; send it a message with send()"
            raise TypeError(msg)
        envelope: dict[str, Any] = {"event": event, "data": data}
        if channel is not None:
            envelope["channel"] = channel
        if id is not None:
            envelope["id"] = id
        await self.send(cbor2.dumps(envelope) if self._cbor else json.dumps(envelope))

    async def ask(self, event: str, data: Any = None, *, channel: str | None = None) -> Any:
        """Send an event, and wait for what its handler returns.

        What else comes meanwhile is kept for `receive`.

        Raises:
            EventError: it was refused, or failed.
            TypeError: the room is plain, and has no events.
            trio.EndOfChannel: the connection has ended.
        """
        self._asked += 1
        number = self._asked
        await self.emit(event, data, channel=channel, id=number)
        answer = await self._until(lambda message: isinstance(message, dict) and message.get("ack") == number)
        if "error" in answer:
            raise EventError(answer["error"]["code"], answer["error"]["message"])
        return answer.get("data")

    @property
    def session(self) -> str | None:
        """Its session, which is what handlers know it by; None where it has none, or was not told yet."""
        return None if self.welcome is None else self.welcome["session"]

    async def acknowledge(self, seq: int | None = None, *, id: int | None = None) -> None:  # noqa: A002
        """Tell the server what was received, so that it need not keep it.

        Args:
            seq: everything up to there; all that was, if not given.
            id: all answers up to this message of its own.
        """
        said: dict[str, Any] = {"ack": self.seq if seq is None else seq}
        if id is not None:
            said["id"] = id
        await self.send(cbor2.dumps(said) if self._cbor else json.dumps(said))

    async def ping(self, payload: bytes = b"") -> None:
        """Send a ping, and wait for its pong. What else comes meanwhile is kept for `receive`.

        Raises:
            trio.EndOfChannel: the connection has ended.
        """
        await self._transmit(Ping(payload))
        await self._until(lambda message: isinstance(message, Pong) and bytes(message.payload) == payload)

    # In.

    async def receive(self) -> Any:
        """The next message: of a plain room as it came, `str` or `bytes`, else the map that an envelope is.

        Raises:
            trio.EndOfChannel: the connection has ended; `closed` tells how.
        """
        if self._kept:
            return self._kept.popleft()
        while isinstance(message := await self._next(), Pong):
            pass
        return message

    async def receive_many(self, count: int) -> list[Any]:
        """The next ``count`` messages."""
        return [await self.receive() for _ in range(count)]

    def __aiter__(self) -> MemoryClient:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    # The end.

    async def hang_up(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake. What the server sent before its close is kept for `receive`."""
        try:
            if self._protocol.state is ConnectionState.OPEN:
                await self._transmit(CloseConnection(code, reason))
            while True:
                if not isinstance(message := await self._next(), Pong):
                    self._kept.append(message)
        except (trio.EndOfChannel, *_ENDED):
            pass

    async def drop(self) -> None:
        """Break off, as a client does whose machine or network has failed."""
        await trio.aclose_forcefully(self._stream)

    async def _until(self, wanted: Any) -> Any:
        """The first message of a kind; the others are kept, in their order."""
        while not wanted(message := await self._next()):
            if not isinstance(message, Pong):
                self._kept.append(message)
        return message

    async def _next(self) -> Any:
        """The next message or pong from the stream."""
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, TextMessage | BytesMessage):
                    self._parts.append(event.data)
                    if event.message_finished:
                        return self._message(text=isinstance(event, TextMessage))
                elif isinstance(event, Pong):
                    return event
                elif isinstance(event, CloseConnection):
                    self.closed = Closed(int(event.code), event.reason or "")
                    if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                        with suppress(*_ENDED):  # It may have left without waiting for the answer.
                            await self._transmit(event.response())
            try:
                data = bytes(await self._stream.receive_some())
            except _ENDED:
                data = b""
            if not data:
                raise trio.EndOfChannel
            self._protocol.receive_data(data)
            self._events.extend(self._protocol.events())

    def _message(self, *, text: bool) -> Any:
        """A whole message, from its parts."""
        parts, self._parts = self._parts, []
        if text:
            whole = "".join(parts)
            return whole if self._plain else self._noted(json.loads(whole))
        data = b"".join(bytes(part) for part in parts)
        return data if self._plain else self._noted(cbor2.loads(data))

    def _noted(self, message: Any) -> Any:
        """The same message, with what it says of the session remembered."""
        if isinstance(message, dict):
            if message.get("event") == "rooms.welcome":
                self.welcome = message["data"]
                self.seq = message["data"]["seq"]
            self.seq = message.get("seq", self.seq)
        return message


def _place(client: MemoryClient) -> dict[str, str]:
    """What asks for the session of a client, from where it was.

    Raises:
        ValueError: there is none to ask for, so that nobody would notice that nothing is resumed.
    """
    if client.subprotocol not in SUBPROTOCOLS:
        msg = 'it has no session to resume: have it offer one, with subprotocols=["trio-rooms.v1.json"]'
        raise ValueError(msg)
    if client.welcome is None:
        msg = (
            "it has not received its welcome, which names its session: await client.receive() before it drops"
        )
        raise ValueError(msg)
    if client.welcome["resume"] is None:
        msg = "it has no session to resume: the room keeps none, with resume_window=0"
        raise ValueError(msg)
    return {"resume": str(client.welcome["resume"]), "seq": str(client.seq)}


@asynccontextmanager
async def connect(
    rooms: Rooms,
    key: str,
    *,
    query: str | Mapping[str, str] = "",
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] = (),
    attachment: Any = None,
    resume: MemoryClient | None = None,
) -> AsyncIterator[MemoryClient]:
    """A client in a room, until the end of the block.

    ``async with connect(rooms, "chat/lobby", query={"user": "ada"}) as ada: await ada.ask("say", "Hello!")``

    It comes in as one over the network does: `Room.authenticate` is asked, a subprotocol is chosen,
    and all that follows are WebSocket frames. There is only no socket, so that it works under
    pytest-trio's ``autojump_clock``. At the end of the block it closes with 1000, if it is not closed yet.

    Args:
        rooms: what `open_rooms` gave.
        key: the room, ``"name/id"``.
        query: what stands behind the ``?`` of its address, as a string or by name.
        headers: of its request, by name.
        subprotocols: what it offers, in its order. With none it has no session, and sees no welcome.
        attachment: what is known of it, in the place of what `Room.authenticate` returns, which is
            then not asked.
        resume: a client that was in the room, received its welcome and lost its connection: its session
            is asked for, from where it was, and what it offered is offered again.

    Raises:
        UnknownRoom: no such room is served here, it is not public, or the id is not allowed.
        RoomsClosed: the rooms are closing.
        Refused: `Room.authenticate` does not let it in.
        Exception: what `Room.authenticate` raised.
        TypeError: ``subprotocols`` is one string.
        ValueError: ``resume`` has no session, or has not received it.
    """
    name, id_ = split_key(key)
    if not id_:
        msg = f'which room? A key is "name/id", such as "{name or "chat"}/lobby", not {key!r}'
        raise UnknownRoom(msg)
    if isinstance(subprotocols, str):
        msg = f"subprotocols is a list: write subprotocols=[{subprotocols!r}]"
        raise TypeError(msg)
    sent = {one.lower(): value for one, value in (headers or {}).items()}
    asked = parameters(query if isinstance(query, str) else urlencode(query))
    if resume is not None:
        asked |= _place(resume)
        if not subprotocols and resume.subprotocol is not None:
            subprotocols = (resume.subprotocol,)
    if subprotocols:
        sent["sec-websocket-protocol"] = ", ".join(subprotocols)
    request = ConnectRequest(name, id_, f"/{quote(name)}/{quote(id_, safe='')}", asked, sent, "memory:0")
    ours, theirs = trio.testing.memory_stream_pair()
    serve = partial(rooms.serve_stream, theirs, name, id_, request=request)
    if attachment is not None:
        serve = partial(serve, attachment=attachment)
    try:
        async with trio.open_nursery() as nursery:
            try:
                subprotocol = await nursery.start(serve)
                plain = rooms._definitions[name].plain
                client = MemoryClient(ours, subprotocol, plain=plain)
                if resume is not None:
                    client._asked = resume._asked  # Ids of a session are used once.
                yield client
                await client.hang_up()
            finally:
                await trio.aclose_forcefully(ours)
    except BaseExceptionGroup as group:
        # One level of grouping is this function's own, and no business of the test's.
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None
