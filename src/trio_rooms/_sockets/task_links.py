"""Connections that no poller can watch: each has a task of its own, behind the same interface as a socket."""

from __future__ import annotations

import abc
import contextlib
import sys
from typing import ClassVar, Final

import trio
import trio_websocket
from trio.lowlevel import enable_ki_protection

from trio_rooms._wire import frames
from trio_rooms._wire.close_codes import CloseCode

from .flags import CLOSE_SENT, PAUSED, REPLAYING
from .roster import Link, Roster
from .unfinished import Output

__all__ = ["StreamLink", "TaskLink", "WebSocketLink"]

_READ_SIZE: Final = 64 * 1024
"""Bytes read from a stream at a time."""
_AT_ONCE: Final = 4 * 1024
"""Bytes of them looked at in one go, as of a socket."""
_SLOW: Final = 0.1
"""Seconds that a write takes where the other side does not read: else others run meanwhile, and no more."""
_FILLED: Final = 64 * 1024
"""Bytes that may wait without that: what the kernel takes of a socket."""


class TaskLink(Link):
    """A connection with a task of its own, because no poller can watch it."""

    __slots__ = ("_ended", "_may_read", "_over", "_scope", "_since", "_to_write")
    flags: int
    most: ClassVar[int] = sys.maxsize
    """Bytes that are written in one step."""

    def __init__(self, number: int, roster: Roster, attachment: bytes | None, flags: int) -> None:
        super().__init__(number, roster, attachment, flags)
        self._ended = False
        self._over = False
        self._since: float | None = None
        """Since when something is being written, on Trio's clock; None where nothing is."""
        self._to_write = trio.Event()
        self._may_read = trio.Event()
        self._may_read.set()
        self._scope = trio.CancelScope()

    def send(self, frame: bytes) -> None:
        if self._ended:
            return
        if self.postponed is not None:
            self.send_postponed(frame)
            return
        output = self.output
        if output is None:
            self.output = Output(frame, 0)
            self._to_write.set()
        elif not output.add(frame, self.roster.hub.backlog):
            # The first is being written, and must be written to its end.
            output.cut(begun=True)
            self.roster.hub.slow_consumer(self)

    @property
    def slow(self) -> bool:
        output, since = self.output, self._since
        if self.flags & REPLAYING or output is None or since is None:
            return bool(self.flags & REPLAYING)
        return output.size > _FILLED or trio.current_time() - since > _SLOW

    def send_eof(self) -> None:
        self._ended = True
        self._to_write.set()

    def abort(self) -> None:
        self._scope.cancel()

    def attend(self) -> None:
        self._to_write.set()

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

    @enable_ki_protection
    async def _write(self) -> None:
        """Write frames in their order, until nothing may follow or the connection breaks."""
        try:
            while (output := self.output) is not None or not self._ended:
                if output is None or output.idle:
                    self._to_write = trio.Event()
                    await self._to_write.wait()
                    continue
                part = output.next_part(self.most)
                # Cancelled here only when the connection is given up as a whole.
                self._since = trio.current_time()
                await self._transmit(part)
                self._since = None
                if output.sent(len(part)):
                    self.output = None
                    self.gone_out()
            await self._finish()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._may_read.set()  # The reader finds out as well, though its room be busy sending.

    @abc.abstractmethod
    async def _read(self) -> bool:
        """Read once and hand what came to the hub; False at the end."""

    @abc.abstractmethod
    async def _transmit(self, part: bytes | memoryview) -> None:
        """Write one frame, or the next ``most`` bytes of it."""

    @abc.abstractmethod
    async def _finish(self) -> None:
        """Tell the other side that nothing follows."""


class StreamLink(TaskLink):
    """Any Trio stream that speaks WebSocket frames, such as a memory stream."""

    __slots__ = ("_stream",)
    most = 16 * 1024  # So that it is seen to move while a large message is on its way.

    def __init__(
        self, number: int, roster: Roster, attachment: bytes | None, flags: int, stream: trio.abc.Stream
    ) -> None:
        super().__init__(number, roster, attachment, flags)
        self._stream = stream

    async def _read(self) -> bool:
        received = await self._stream.receive_some(_READ_SIZE)
        self.roster.hub.now = trio.current_time()
        for start in range(0, len(received), _AT_ONCE):
            if start:
                await self._may_read.wait()  # Whoever else is ready has its turn, and the room its say.
            self.roster.hub.data_received(self, bytes(received[start : start + _AT_ONCE]))
        return bool(received)

    async def _transmit(self, part: bytes | memoryview) -> None:
        await self._stream.send_all(part)

    async def _finish(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await self._stream.aclose()


class WebSocketLink(TaskLink):
    """A trio-websocket connection that an application handed over."""

    __slots__ = ("_closed", "_socket")
    joins = False

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
        # What trio-websocket takes is its server's to limit; what a room is given is ours.
        hub = self.roster.hub
        hub.now = trio.current_time()
        too_big = _is_too_big(message, hub.max_message_size)
        hub.message_received(self, frames.too_big(hub.max_message_size) if too_big else message)
        return True

    async def _transmit(self, part: bytes | memoryview) -> None:
        frame = bytes(part)
        # Closed by the other side meanwhile: the reader finds out as well.
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            if frame[0] == frames.CLOSE_FRAME:
                close = frames.decode_close(frame)
                try:
                    await self._socket.aclose(close.code, close.reason or None)
                finally:
                    self._closed.set()
            else:
                await self._socket.send_message(frames.decode_message(frame))

    async def _finish(self) -> None:
        await self._socket.aclose()


def _is_too_big(message: str | bytes, limit: int) -> bool:
    """Whether a message had more bytes on the wire; a character has four at most."""
    if isinstance(message, bytes):
        return len(message) > limit
    return len(message) * 4 > limit and len(message.encode()) > limit
