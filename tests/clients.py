"""Clients for tests: a WebSocket client on a memory stream, with no handshake, socket or thread."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import cbor2
import trio
import trio.testing
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from trio_rooms import Rooms

__all__ = ["MemoryClient", "connect"]


@attrs.define(eq=False)
class MemoryClient:
    """The client's end; wsproto does its protocol."""

    stream: Any
    protocol: Connection = attrs.field(factory=lambda: Connection(ConnectionType.CLIENT))
    close: CloseConnection | None = None
    """The server's close frame, once it came."""
    _events: deque[Event] = attrs.field(factory=deque)

    async def send(self, message: str | bytes) -> None:
        """Send a message as it is."""
        event = TextMessage(message) if isinstance(message, str) else BytesMessage(message)
        await self.stream.send_all(self.protocol.send(event))

    async def ping(self, payload: bytes) -> None:
        """Send a ping."""
        await self.stream.send_all(self.protocol.send(Ping(payload)))

    async def emit(self, event: str, data: Any = None, id: int | None = None, *, cbor: bool = False) -> None:  # noqa: A002
        """Send an event."""
        envelope = {"event": event, "data": data} | ({} if id is None else {"id": id})
        await self.send(cbor2.dumps(envelope) if cbor else json.dumps(envelope))

    async def receive(self) -> Any:
        """The next message: of an envelope its content, else as it came; None at the end."""
        parts: list[Any] = []
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, TextMessage | BytesMessage):
                    parts.append(event.data)
                    if not event.message_finished:
                        continue
                    if isinstance(event, TextMessage):
                        text = "".join(parts)
                        return json.loads(text) if text[:1] == "{" else text
                    data = b"".join(bytes(part) for part in parts)
                    return cbor2.loads(data) if data[:1] >= b"\xa0" else data
                if isinstance(event, Pong):
                    return event
                if isinstance(event, CloseConnection):
                    self.close = event
                    if self.protocol.state is ConnectionState.REMOTE_CLOSING:
                        await self.stream.send_all(self.protocol.send(event.response()))
            data = await self.stream.receive_some()
            if not data:
                return None
            self.protocol.receive_data(bytes(data))
            self._events.extend(self.protocol.events())

    async def receive_many(self, count: int) -> list[Any]:
        """The next messages."""
        return [await self.receive() for _ in range(count)]

    async def hang_up(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake."""
        await self.stream.send_all(self.protocol.send(CloseConnection(code, reason)))
        while await self.receive() is not None:
            pass


@asynccontextmanager
async def connect(rooms: Rooms, name: str, id: str, *, attachment: Any = None) -> AsyncIterator[MemoryClient]:  # noqa: A002
    """A client in a room; at the end of the block its connection breaks off."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            task_status.started()
            await rooms.serve_stream(theirs, name, id, attachment=attachment)

        # It has entered the room when it is first suspended, which is when this goes on.
        await nursery.start(serve)
        yield MemoryClient(ours)
        await ours.aclose()
