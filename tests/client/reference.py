"""A server of one room, in memory, with sessions; it misbehaves in all ways that it is told to.

Its room is a ledger: ``add {"amount": n}`` answers ``{"balance": b}``, and sends to all, reliably,
``balance {"balance", "count"}``. ``wrong`` is refused, ``quiet`` is not answered until `Reference.release`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import cbor2
import trio
import trio_websocket
from trio.testing import lockstep_stream_pair, memory_stream_pair

__all__ = ["Reference", "Refusal", "reference"]


@attrs.define(eq=False)
class Kept:
    """A session, as the server keeps it."""

    token: str
    last: int = 0
    answers: dict[int, dict[str, Any]] = attrs.field(factory=dict)


@attrs.frozen
class Refusal:
    """A response in the place of a connection."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Line(trio.abc.Stream):
    """The server's end of a stream, which may freeze: from then on it is there, and nothing happens."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.is_frozen = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)
        await self._freeze()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self._freeze()
        data = await self._stream.receive_some(max_bytes)
        await self._freeze()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _freeze(self) -> None:
        if self.is_frozen:
            await trio.sleep_forever()


@attrs.define(eq=False)
class Served:
    """One connection."""

    stream: Line
    socket: trio_websocket.WebSocketConnection | None = None
    binary: bool = False
    session: Kept | None = None
    is_closing: bool = False
    waiting: deque[dict[str, Any]] = attrs.field(factory=deque)
    """What is to be sent."""
    filled: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def send(self, content: dict[str, Any]) -> None:
        """Send an envelope, behind those that wait."""
        self.waiting.append(content)
        self.filled.set()

    async def write(self) -> None:
        """Send what is to be sent, for as long as the connection lives."""
        assert self.socket is not None
        with suppress(trio_websocket.ConnectionClosed, trio.ClosedResourceError):
            while True:
                while self.waiting:
                    content = self.waiting.popleft()
                    await self.socket.send_message(
                        cbor2.dumps(content) if self.binary else json.dumps(content)
                    )
                self.filled = trio.Event()
                await self.filled.wait()


class Reference:
    """The server. Its attributes say what it is to do, and what it has seen."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        # What it is to do.
        self.reachable = True
        self.lockstep = False
        """Whether a send waits until the other side has read it."""
        self.deaf = 0.0
        """Seconds for which it says nothing to the next connections."""
        self.keeps_sessions = True
        self.chooses = True
        """Whether it chooses a subprotocol."""
        self.welcomes = True
        self.refusals: deque[Refusal] = deque()
        """How the next connects are refused."""
        self.unavailable = 0
        """How many of the next messages are answered with ``later``; and so are those behind one."""
        self.later = "unavailable"
        """The code of an error that answers nothing yet."""
        self.repeats = False
        """Whether it replays what the client has already."""
        self.at: Callable[[str, dict[str, Any]], bool] = lambda moment, content: False
        """Asked ``"before"`` and ``"after"`` a message is handled; True breaks the connection."""
        # What it has seen.
        self.targets: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.offered: list[tuple[str, ...]] = []
        self.up: list[dict[str, Any]] = []
        """All messages that came, in order."""
        self.applied: list[Any] = []
        """Amounts that were added, and what was emitted."""
        self.closes: list[int] = []
        """Codes that clients closed with."""
        self.connections: list[Served] = []
        # The room.
        self.balance = 0
        self.count = 0
        self.seq = 0
        self.journal: list[tuple[int, str, Any]] = []
        self.reason = "unknown"
        self._sessions: dict[str, Kept] = {}
        self._made = 0
        self._released = trio.Event()

    # What a test does to it.

    async def open_stream(self) -> trio.abc.Stream:
        """What a client connects with."""
        await trio.lowlevel.checkpoint()
        if not self.reachable:
            raise OSError("there is nobody")
        ours, theirs = lockstep_stream_pair() if self.lockstep else memory_stream_pair()
        self._nursery.start_soon(self._serve, Served(Line(theirs)))
        return ours

    async def drop(self) -> None:
        """Break all connections."""
        for served in [*self.connections]:
            await trio.aclose_forcefully(served.stream)

    async def close(self, code: int, reason: str = "") -> None:
        """Close all connections in order."""
        for served in [*self.connections]:
            assert served.socket is not None
            served.is_closing = True
            # It may be cut off meanwhile; and a stream in lockstep fails after a send that was cancelled.
            with trio.move_on_after(5), suppress(Exception):
                await served.socket.aclose(code, reason)
            served.scope.cancel()

    def freeze(self) -> None:
        """Read and write nothing any more on the connections that there are, without a word."""
        for served in self.connections:
            served.stream.is_frozen = True
        self.connections.clear()

    def forget(self, reason: str = "unknown") -> None:
        """Lose all sessions."""
        self._sessions.clear()
        self.reason = reason

    def forget_answers(self) -> bool:
        """Know of all that was handled, and of no answer; True if there was one."""
        known = [
            answer for session in self._sessions.values() for answer in session.answers.values() if answer
        ]
        for answer in known:
            answer.clear()
        return bool(known)

    def release(self) -> None:
        """Let ``quiet`` go on."""
        self._released.set()

    def emit(self, event: str, data: Any = None, *, reliable: bool = True) -> None:
        """Send an event to all."""
        content = {"event": event, "data": data}
        if reliable and self.keeps_sessions:
            self.seq += 1
            self.journal.append((self.seq, event, data))
            content["seq"] = self.seq
        for served in self.connections:
            served.send(content)

    # What it does.

    async def _serve(self, served: Served) -> None:
        await trio.sleep(self.deaf)
        try:
            # What trio-websocket's reader raises where a connection breaks at the wrong moment.
            async with trio.open_nursery() as nursery:
                served.scope = nursery.cancel_scope
                await self._converse(served, nursery)
                nursery.cancel_scope.cancel()
        except* Exception:  # noqa: S110
            pass
        finally:
            if served in self.connections:
                self.connections.remove(served)
            await trio.aclose_forcefully(served.stream)

    async def _converse(self, served: Served, nursery: trio.Nursery) -> None:
        request = await trio_websocket.wrap_server_stream(nursery, served.stream)
        self.targets.append(request.path)
        self.headers.append({name.decode(): value.decode() for name, value in request.headers})
        if self.refusals:
            refusal = self.refusals.popleft()
            headers = [*refusal.headers]
            await request.reject(refusal.status, extra_headers=headers, body=refusal.body or None)
            return
        query = parse_qs(urlsplit(request.path).query)
        self._take_over(query)
        offered = request.proposed_subprotocols
        self.offered.append(offered)
        served.binary = offered == ("trio-rooms.v1.cbor",)
        served.socket = await request.accept(subprotocol=offered[0] if self.chooses else None)
        if not self.welcomes:
            await trio.sleep_forever()
        self._welcome(served, query)
        self.connections.append(served)
        nursery.start_soon(served.write)
        try:
            while True:
                message = await served.socket.get_message()
                content = cbor2.loads(message) if isinstance(message, bytes) else json.loads(message)
                self.up.append(content)
                if await self._handle(served, content):
                    return
        except trio_websocket.ConnectionClosed as closed:
            if served.is_closing:  # Its reader is still needed.
                await trio.sleep_forever()
            self.closes.append(int(closed.reason.code) if closed.reason else 1006)

    def _take_over(self, query: dict[str, list[str]]) -> None:
        """Close the connection that has the session which is asked for."""
        session = self._sessions.get(query.get("resume", [""])[0])
        for other in self.connections:
            if session is not None and other.session is session and other.socket is not None:
                other.is_closing = True
                self._nursery.start_soon(other.socket.aclose, 4001, "taken")

    def _welcome(self, served: Served, query: dict[str, list[str]]) -> None:
        token = query.get("resume", [""])[0]
        seq = int(query.get("seq", ["0"])[0])
        served.session = self._sessions.get(token)
        data: dict[str, Any] = {"connection": "1", "session": None, "resume": None, "resumed": False}
        replay: list[tuple[int, str, Any]] = []
        if served.session is not None:
            data |= {"resumed": True, "seq": seq}
            replay = [entry for entry in self.journal if entry[0] > (0 if self.repeats else seq)]
        elif self.keeps_sessions:
            self._made += 1
            served.session = Kept(f"token+{self._made}")
            self._sessions[served.session.token] = served.session
            data |= {"seq": self.seq} | ({"reason": self.reason} if token else {})
        if served.session is not None:
            name = served.session.token.replace("token+", "")
            data |= {"connection": name, "session": name, "resume": served.session.token, "durable": True}
        served.send({"event": "rooms.welcome", "data": data})
        for number, event, what in replay:
            served.send({"event": event, "data": what, "seq": number})

    async def _handle(self, served: Served, content: dict[str, Any]) -> bool:
        """Handle a message; True where the connection is to break."""
        if "ack" in content:
            return False
        if self.at("before", content):
            return True
        number = content.get("id")
        session = served.session
        if number is not None and session is not None and number <= session.last:
            answer = session.answers[number]
        else:
            behind = session is not None and number is not None and number > session.last + 1
            if number is not None and (self.unavailable or behind):
                self.unavailable = max(0, self.unavailable - 1)
                served.send({"ack": number, "error": {"code": self.later, "message": "later"}})
                return False
            answer = await self._apply(content)
            if session is not None and number is not None:
                session.last = number
                session.answers[number] = answer
        if self.at("after", content):
            return True
        if number is not None:
            served.send({"ack": number, **answer})
        elif "error" in answer:
            served.send(answer)
        return False

    async def _apply(self, content: dict[str, Any]) -> dict[str, Any]:
        if content["event"] == "wrong":
            return {"error": {"code": content["data"] or "sold_out", "message": "no seats"}}
        if content["event"].startswith("quiet"):
            await self._released.wait()
        if content["event"] != "add":
            self.applied.append(content["event"])
            return {"data": content.get("data")}
        self.applied.append(content["data"]["amount"])
        self.balance += content["data"]["amount"]
        self.count += 1
        self.emit("balance", {"balance": self.balance, "count": self.count})
        return {"data": {"balance": self.balance}}


@asynccontextmanager
async def reference() -> AsyncIterator[Reference]:
    """A server, until the end of the block."""
    async with trio.open_nursery() as nursery:
        yield Reference(nursery)
        nursery.cancel_scope.cancel()
