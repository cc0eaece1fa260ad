"""One WebSocket connection, on trio-websocket: its handshake, its messages, its silence, its end."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Final, cast

import trio
import trio_websocket

from trio_rooms._wire.close_codes import CloseCode

from .verdicts import LinkEnded, LinkLost, closed, refused

__all__ = ["Link", "Wire", "run_link"]

_HEAD: Final = 64 * 1024
"""Bytes of a server's answer to the handshake that are read; they are kept, to say why it refused."""
_PIECE: Final = 64 * 1024
"""Bytes that are read at once."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")
_LONGEST_REASON: Final = 200
"""Characters of a refusal's body that are told."""


class Wire(trio.abc.Stream):
    """A stream that knows how long its other end has been silent, and when it has ended.

    Args:
        stream: what it reads from and writes to.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.head: bytearray | None = bytearray()
        """What came during the handshake; None once that is over."""
        self.ended: trio.Event = trio.Event()
        """Nothing more will be read."""
        self.silent_since: float = trio.current_time()
        """When something came last, or when this side began to read: who does not read hears nothing."""
        self.is_reading: bool = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # trio-websocket does not read on where its request could not be sent.
            self.ended.set()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something can be sent."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read what is there."""
        data: bytes | bytearray = b""
        self.silent_since, self.is_reading = trio.current_time(), True
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            self.silent_since, self.is_reading = trio.current_time(), False
            if not data:
                self.ended.set()
        if self.head is not None:
            self.head += data
            if len(self.head) > _HEAD:  # trio-websocket would take in a refusal of any length.
                self.ended.set()
                return b""
        return data

    async def aclose(self) -> None:
        """Close it."""
        self.ended.set()
        await self._stream.aclose()


class Link:
    """An open connection. Made by `run_link`."""

    def __init__(self, wire: Wire, socket: trio_websocket.WebSocketConnection) -> None:
        self._wire = wire
        self._socket = socket
        self._silent = False
        self._pinging = False

    @property
    def subprotocol(self) -> str | None:
        """What the server chose."""
        return self._socket.subprotocol

    async def receive(self) -> str | bytes:
        """The next message. Cancelled, it has taken none.

        Raises:
            LinkLost, LinkEnded: there is none, and there will be none.
        """
        try:
            return await self._socket.get_message()
        except trio_websocket.ConnectionClosed as error:
            if self._silent:
                raise LinkLost("the server is silent, and does not answer a ping") from None
            reason = error.reason
            code = CloseCode.ABNORMAL if reason is None else int(reason.code)
            raise closed(code, (reason and reason.reason) or "") from None

    async def send(self, message: str | bytes) -> bool:
        """Send a message; False where the connection does not take it any more, and `receive` tells why.

        Cancelled, it may have left half a frame, and the connection is good for nothing but its end.
        """
        try:
            await self._socket.send_message(message)
        except Exception:  # noqa: BLE001 (whatever it is, the connection is over)
            # trio-websocket's, wsproto's and Trio's own, by what else happens at the moment.
            return False
        return True

    async def watch(self, interval: float, patience: float) -> None:
        """End the connection when its server is silent, and answers no ping.

        Nothing is said of a server while this side does not read, because the program is slow.

        Args:
            interval: seconds of silence until it is asked.
            patience: seconds that it has to answer. Whatever it sends is an answer.
        """
        wire = self._wire
        async with trio.open_nursery() as nursery:
            while True:
                quiet = wire.silent_since if wire.is_reading else trio.current_time()
                await trio.sleep_until(quiet + interval)
                if not self._heard_nothing_since(quiet):
                    continue
                if not self._pinging:  # Else it owes an answer already.
                    nursery.start_soon(self._ping)
                await trio.sleep(patience)
                # What is there already is read before anything is called late. The loop may have stood still.
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                if self._heard_nothing_since(quiet):
                    break
            nursery.cancel_scope.cancel()
        self._silent = True
        await trio.aclose_forcefully(wire)

    def _heard_nothing_since(self, when: float) -> bool:
        return self._wire.is_reading and self._wire.silent_since == when

    async def _ping(self) -> None:
        self._pinging = True
        with contextlib.suppress(Exception):  # As in `send`; `receive` tells of it.
            await self._socket.ping()
        self._pinging = False

    async def close(self) -> None:
        """Close in order, and wait for the server to do the same."""
        with contextlib.suppress(Exception):  # As in `send`.
            await self._socket.aclose()


async def run_link(
    wire: Wire,
    host: str,
    target: str,
    headers: list[tuple[bytes, bytes]],
    subprotocol: str,
    limit: int,
    *,
    task_status: trio.TaskStatus[Link] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Open a WebSocket, and read it until it ends; for a nursery's ``start``, which gives the `Link`.

    What trio-websocket's reader raises ends here: a ping that comes while this side closes, and a server
    that breaks the protocol at the wrong moment, make it fail.

    Args:
        wire: the stream. It is not closed here.
        host: the header ``Host``.
        target: what is requested.
        headers: more of the request.
        subprotocol: what is offered.
        limit: the longest message that is taken, in bytes or characters.
        task_status: is given the link.

    Raises:
        LinkLost, LinkEnded: it was not opened.
    """
    opened = False
    errors: list[BaseException] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_with, wire, nursery.cancel_scope)
            socket = await trio_websocket.wrap_client_stream(
                nursery,
                cast("Any", wire),
                host,
                target,
                subprotocols=[subprotocol],
                extra_headers=headers,
                max_message_size=limit,
                receive_buffer_size=_PIECE,
            )
            wire.head, opened = None, True
            task_status.started(Link(wire, socket))
    except* Exception as group:  # noqa: BLE001 (it is told below, or by `receive`)
        errors += group.exceptions
    if not opened:
        raise _refusal(wire, errors)


async def _end_with(wire: Wire, scope: trio.CancelScope) -> None:
    """Give a handshake up whose stream has ended: trio-websocket would wait on."""
    await wire.ended.wait()
    if wire.head is not None:
        scope.cancel()


def _refusal(wire: Wire, errors: list[BaseException]) -> LinkLost | LinkEnded:
    """Why there is no connection."""
    for error in errors:
        if isinstance(error, trio_websocket.ConnectionRejected):
            headers = dict(error.headers)
            body = (error.body or b"").decode(errors="replace")
            reason = body.strip().partition("\n")[0][:_LONGEST_REASON]
            return refused(
                error.status_code, reason, headers.get(b"retry-after", b"").decode("latin-1").strip()
            )
    # A body that ends with its connection is not seen by trio-websocket.
    status = _STATUS.match(bytes(wire.head or b""))
    if status is not None and status[1] != b"101":
        return refused(int(status[1]), (status[2] or b"").decode("latin-1")[:_LONGEST_REASON], "")
    if errors:
        return LinkLost(f"the handshake failed: {errors[0]!r}")
    return LinkLost("the connection broke during the handshake")
