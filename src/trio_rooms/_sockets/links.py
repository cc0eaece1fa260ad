"""One socket each, whatever it is made of: what is known of it, and how bytes reach it.

A `SocketLink` is what a parked plain socket costs: one slotted record, no task, no timer,
no parser. Anything without a descriptor that the kernel can watch is a `TaskLink`, which
has a task of its own behind the same interface.
"""

from __future__ import annotations

import abc
import contextlib
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final

import trio
import trio_websocket

from trio_rooms._wire import frames
from trio_rooms._wire.close_codes import CloseCode

from .pollers import READ, WRITE

if TYPE_CHECKING:
    from .hub import Roster

__all__ = ["Link", "SocketLink", "StreamLink", "TaskLink", "WebSocketLink"]

BINARY: Final = 1
"""The client spoke binary last, and is answered in kind."""
CLOSING: Final = 2
"""A close frame was sent; only the other side's is still wanted."""
DEAF: Final = 4
"""What comes is read and thrown away: the other side broke the protocol."""
PAUSED: Final = 8
"""Nothing is read until the room has caught up."""
GONE: Final = 16
"""The record is no longer in the lot."""
MUTE: Final = 32
"""The close frame was sent, after which nothing may follow."""

UNTOLD: Final = 64
"""The room is not to be told when the connection ends."""
FRESH: Final = 128
"""Its on_connect has not begun: what goes to everybody does not go to it yet."""
RELEASED: Final = 256
"""Its descriptor is closed, and may be somebody else's."""

MOST_DESCRIPTORS: Final = (1 << 20) - 1
"""The highest descriptor of a socket. Linux has no higher ones unless fs.nr_open was raised."""

_CLOSE: Final = 0x88
"""The first byte of a close frame."""
_FRAMES_AT_ONCE: Final = 64
"""Frames handed to one writev; Linux takes 1,024 at most, POSIX promises 16."""


class Unfinished:
    """What is under way on one connection: a message that has come in part, output that has gone in part."""

    __slots__ = ("output", "partial")

    def __init__(self, partial: frames.Partial | None, output: Output | None) -> None:
        self.partial = partial
        self.output = output


class Link(abc.ABC):
    """What is known of one socket. Everything here survives hibernation.

    There is one for each connection, however many there are and whatever they do, so each field
    is a field of all of them: what most have nothing of is None, and what exists for a moment
    only is in an object that does, too.
    """

    __slots__ = ("attachment", "channels", "flags", "id", "roster", "unfinished")

    def __init__(self, number: int, roster: Roster, attachment: bytes | None, flags: int) -> None:
        self.id = number
        self.roster = roster
        self.attachment = attachment
        """CBOR, or None for None."""
        self.channels: tuple[str, ...] = ()
        self.unfinished: Unfinished | None = None
        self.flags = flags

    @property
    def partial(self) -> frames.Partial | None:
        """What has come of an unfinished message."""
        unfinished = self.unfinished
        return None if unfinished is None else unfinished.partial

    @partial.setter
    def partial(self, partial: frames.Partial | None) -> None:
        self._keep(partial, self.output)

    @property
    def output(self) -> Output | None:
        """What waits for the kernel."""
        unfinished = self.unfinished
        return None if unfinished is None else unfinished.output

    @output.setter
    def output(self, output: Output | None) -> None:
        self._keep(self.partial, output)

    def _keep(self, partial: frames.Partial | None, output: Output | None) -> None:
        idle = partial is None and output is None
        self.unfinished = None if idle else Unfinished(partial, output)

    @abc.abstractmethod
    def send(self, frame: bytes) -> None:
        """Send a whole frame, after everything sent before. Never blocks, never raises."""

    @abc.abstractmethod
    def hang_up(self) -> None:
        """Send nothing after what was sent; the other side is told that nothing follows."""

    @abc.abstractmethod
    def drop(self) -> None:
        """Let go of the socket at once. A second call does nothing."""

    @abc.abstractmethod
    def pause(self) -> None:
        """Read nothing until `resume`."""

    @abc.abstractmethod
    def resume(self) -> None:
        """Read again."""

    @property
    @abc.abstractmethod
    def unsent(self) -> int:
        """Bytes that were sent and that the kernel has not taken."""


class SocketLink(Link):
    """A plain socket, known by its descriptor, which stands in the lowest bits of its id.

    A number of its own for the descriptor would be 40 bytes more for each socket.
    """

    __slots__ = ()

    @property
    def fd(self) -> int:
        """The descriptor; not this socket's any more once it is `RELEASED`."""
        return self.id & MOST_DESCRIPTORS

    @property
    def unsent(self) -> int:
        output = self.output
        return output.size if output is not None else 0

    def send(self, frame: bytes) -> None:
        output = None if self.unfinished is None else self.unfinished.output
        if output is not None:
            if output.add(frame, self.roster.lot.backlog):
                return
            # Whoever does not read this much will not read more, and everything that waits
            # for it is memory. The frame that is half out is finished: then the reason.
            output.cut()
            self.roster.lot.overwhelmed(self)
            return
        try:
            sent = os.write(self.id & MOST_DESCRIPTORS, frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # The poller reports it too, and the lot then takes the record out.
        if sent != len(frame):
            self.output = Output(frame, sent)
            self._watch()

    def flush(self) -> None:
        """Write what the kernel takes now of what waits."""
        output = self.output
        if output is None:
            return
        try:
            sent = os.writev(self.fd, output.next())
        except BlockingIOError:
            return
        except OSError:
            sent = output.size  # As above: reading tells that it is broken.
        if output.sent(sent):
            self.output = None
            self._watch()
            if output.last:
                self._shut_down()

    def hang_up(self) -> None:
        output = self.output
        if output is not None:
            output.last = True
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        # A bare descriptor has no shutdown() in Python; a socket object borrows it for that.
        with contextlib.suppress(OSError):
            borrowed = socket.socket(fileno=self.fd)
            try:
                borrowed.shutdown(socket.SHUT_WR)
            finally:
                borrowed.detach()

    def drop(self) -> None:
        self.output = None
        if not self.flags & RELEASED:
            self.roster.lot.release(self)

    def pause(self) -> None:
        self.flags |= PAUSED
        self._watch()

    def resume(self) -> None:
        self.flags &= ~PAUSED
        self._watch()

    def _watch(self) -> None:
        interest = 0 if self.flags & PAUSED else READ
        self.roster.lot.poller.modify(self.fd, interest if self.output is None else interest | WRITE)


class Output:
    """Frames that wait for the kernel, the first perhaps half sent."""

    __slots__ = ("_frames", "_offset", "last", "size")

    def __init__(self, frame: bytes, offset: int) -> None:
        self._frames = deque((frame,))
        self._offset = offset
        self.size = len(frame) - offset
        self.last = False

    def add(self, frame: bytes, limit: int) -> bool:
        """Queue a frame, unless more than ``limit`` bytes wait already."""
        if self.size > limit:
            return False
        self._frames.append(frame)
        self.size += len(frame)
        return True

    def cut(self) -> None:
        """Forget all frames but one that is half sent."""
        first = self._frames[0]
        self._frames.clear()
        self.size = 0
        if self._offset:
            self._frames.append(first)
            self.size = len(first) - self._offset

    def next(self) -> list[bytes | memoryview]:
        """The next pieces to write, in order."""
        pieces: list[bytes | memoryview] = []
        for frame in self._frames:
            pieces.append(frame)
            if len(pieces) == _FRAMES_AT_ONCE:
                break
        if self._offset:
            pieces[0] = memoryview(pieces[0])[self._offset :]
        return pieces

    def sent(self, count: int) -> bool:
        """Take note of what was written; True when nothing is left."""
        self.size -= count
        count += self._offset
        while self._frames and count >= len(self._frames[0]):
            count -= len(self._frames.popleft())
        self._offset = count
        return not self._frames


class TaskLink(Link):
    """A connection with a task of its own, because no poller can watch it."""

    __slots__ = ("_ended", "_may_read", "_over", "_queue", "_scope", "_size", "_to_write")

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
        if self._size > self.roster.lot.backlog:
            # The first is being written, and must be written to its end.
            first = self._queue[0]
            self._queue = deque((first,))
            self._size = len(first)
            self.roster.lot.overwhelmed(self)
            return
        self._queue.append(frame)
        self._size += len(frame)
        self._to_write.set()

    def hang_up(self) -> None:
        self._ended = True
        self._to_write.set()

    def drop(self) -> None:
        self._scope.cancel()

    def pause(self) -> None:
        self.flags |= PAUSED
        self._may_read = trio.Event()

    def resume(self) -> None:
        self.flags &= ~PAUSED
        self._may_read.set()

    async def run(self) -> None:
        """Read and write until the connection has ended."""
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
            self.roster.lot.lost(self)
            self.roster.lot.release(self)

    async def _write(self) -> None:
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
        """Read once and hand what came to the lot; False at the end."""

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
        received = await self._stream.receive_some()
        if received:
            self.roster.lot.feed(self, bytes(received))
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
            if self.flags & MUTE:
                await self._closed.wait()  # Its reason is a placeholder until the other side has answered.
            why = self._socket.closed
            if why is not None and why.code != CloseCode.ABNORMAL:
                self.roster.lot.receive(self, frames.Close(why.code, why.reason or ""))
            return False
        self.roster.lot.receive(self, message)
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
