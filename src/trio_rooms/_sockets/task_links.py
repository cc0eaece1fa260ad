"""Connections that no poller can watch: each has a task of its own, behind the same interface as a socket."""

from __future__ import annotations

import abc
import contextlib
from collections import deque
from typing import Final

import trio
import trio_websocket

from trio_rooms._wire import frames
from trio_rooms._wire.close_codes import CloseCode

from .flags import CLOSE_SENT, PAUSED
from .roster import Link, Roster
from .unfinished import held

__all__ = ["StreamLink", "TaskLink", "WebSocketLink"]

_READ_SIZE: Final = 64 * 1024
"""Bytes read from a stream at a time."""
_AT_ONCE: Final = 4 * 1024
"""Bytes of them looked at in one go, as of a socket."""
_CLOSE: Final = 0x88
"""The first byte of a close frame."""


class TaskLink(Link):
    """A connection with a task of its own, because no poller can watch it."""

    __slots__ = ("_ended", "_may_read", "_over", "_queue", "_scope", "_size", "_to_write")
    flags: int

    def __init__(self, number: int, roster: Roster, attachment: bytes | None, flags: int) -> None:
        super().__init__(number, roster, attachment, flags)
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._over = False
        self._to_write = trio.Event()
        self._may_read = trio.Event()
        self._may_read.set()
        self._scope = trio.CancelScope()

    @property
    def unsent(self) -> int:
        return self._size

    def send(self, frame: bytes) -> None:
        if self._ended:
            return
        if held(self._size, len(self._queue)) > self.roster.hub.backlog:
            # The first is being written, and must be written to its end.
            first = self._queue[0]
            self._queue = deque((first,))
            self._size = len(first)
            self.roster.hub.slow_consumer(self)
            return
        self._queue.append(frame)
        self._size += len(frame)
        self._to_write.set()

    def send_eof(self) -> None:
        self._ended = True
        self._to_write.set()

    def abort(self) -> None:
        self._scope.cancel()

    def pause_reading(self) -> None:
        self.flags |= PAUSED
        self._may_read = trio.Event()

    def resume_reading(self) -> None:
        self.flags &= ~PAUSED
        self._may_read.set()

    async def run(self) -> None:
        """Read and write until the connection has ended."""
        hub = self.roster.hub
        hub.guests.add(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        while not self._over:
                            await self._may_read.wait()
                            self._over = not await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            hub.guests.discard(self)
            hub.connection_lost(self)
            hub.release(self)

    async def _write(self) -> None:
        """Write frames in their order, until nothing may follow or the connection breaks."""
        try:
            while not (self._ended and not self._queue):
                if not self._queue:
                    self._to_write = trio.Event()
                    await self._to_write.wait()
                    continue
                frame = self._queue[0]
                # Cancelled here only when the connection is given up as a whole.
                await self._transmit(frame)
                if self._queue and self._queue[0] is frame:
                    self._queue.popleft()
                    self._size -= len(frame)
            await self._finish()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # The reader finds out as well.

    @abc.abstractmethod
    async def _read(self) -> bool:
        """Read once and hand what came to the hub; False at the end."""

    @abc.abstractmethod
    async def _transmit(self, frame: bytes) -> None:
        """Write one frame."""

    @abc.abstractmethod
    async def _finish(self) -> None:
        """Tell the other side that nothing follows."""


class StreamLink(TaskLink):
    """Any Trio stream that speaks WebSocket frames, such as a memory stream."""

    __slots__ = ("_stream",)

    def __init__(
        self, number: int, roster: Roster, attachment: bytes | None, flags: int, stream: trio.abc.Stream
    ) -> None:
        super().__init__(number, roster, attachment, flags)
        self._stream = stream

    async def _read(self) -> bool:
        received = await self._stream.receive_some(_READ_SIZE)
        for start in range(0, len(received), _AT_ONCE):
            if start:
                await self._may_read.wait()  # Whoever else is ready has its turn, and the room its say.
            self.roster.hub.data_received(self, bytes(received[start : start + _AT_ONCE]))
        return bool(received)

    async def _transmit(self, frame: bytes) -> None:
        await self._stream.send_all(frame)

    async def _finish(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await self._stream.aclose()


class WebSocketLink(TaskLink):
    """A trio-websocket connection that an application handed over."""

    __slots__ = ("_closed", "_socket")

    def __init__(
        self,
        number: int,
        roster: Roster,
        attachment: bytes | None,
        flags: int,
        websocket: trio_websocket.WebSocketConnection,
    ) -> None:
        super().__init__(number, roster, attachment, flags)
        self._socket = websocket
        self._closed = trio.Event()

    async def _read(self) -> bool:
        try:
            message = await self._socket.get_message()
        except trio_websocket.ConnectionClosed:
            if self.flags & CLOSE_SENT:
                await self._closed.wait()  # Its reason is a placeholder until the other side has answered.
            why = self._socket.closed
            if why is not None and why.code != CloseCode.ABNORMAL:
                self.roster.hub.message_received(self, frames.Close(why.code, why.reason or ""))
            return False
        self.roster.hub.message_received(self, message)
        return True

    async def _transmit(self, frame: bytes) -> None:
        # Closed by the other side meanwhile: the reader finds out as well.
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            if frame[0] == _CLOSE:
                code = int.from_bytes(frame[2:4]) or CloseCode.NO_STATUS
                try:
                    await self._socket.aclose(code, frame[4:].decode() or None)
                finally:
                    self._closed.set()
            else:
                await self._socket.send_message(frames.decode_message(frame))

    async def _finish(self) -> None:
        await self._socket.aclose()
