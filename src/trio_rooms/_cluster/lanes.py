"""Lanes: how messages go from node to node, each once and in order, whatever the engine loses."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import perf_counter
from typing import Any, Final, Protocol

import cbor2
import trio

from trio_rooms._loop.turn import TURN
from trio_rooms.engines.base import Engine
from trio_rooms.errors import EngineLost, Unavailable

__all__ = ["FULL", "Lane", "Lanes", "Seated"]

logger = logging.getLogger("trio_rooms")

_BATCH: Final = 256 * 1024
"""Bytes of one message of the engine, what stands around them not counted."""
_MOST: Final = 16 * 1024 * 1024
"""Bytes that may be unacknowledged, and one message more, before the lane ends."""
FULL: Final = 4 * 1024 * 1024
"""Bytes that wait in a lane, from which on who sends more is to hold back. What is work for the other side
beyond its bytes counts, too."""
_LITTLE: Final = 1024 * 1024
"""The same, with which those go on who have held back."""
_ITEM: Final = 16
"""Bytes that a message of a lane takes beside its content."""
_ACK_AFTER: Final = 0.05
"""Seconds that an acknowledgement waits for something to go with."""
_ACK_SIZE: Final = 1024 * 1024
"""Bytes after which it waits for nothing."""
_RESEND: Final = 0.3
"""Seconds without an acknowledgement after which the other side is asked what it has."""
_LONGEST: Final = 1.0
"""The same, when that was in vain some times."""
_RETRY: Final = 0.05
"""Seconds until the engine is tried again; then twice as long each time."""
_LONGEST_PAUSE: Final = 1.0
"""But so long at most."""
_UNKNOWN: Final = 100
"""Kinds of messages that are not known here and are told of."""
_SHORT: Final = 24
"""Items from which on the length of a CBOR array does not fit into its first byte."""
_RECENT: Final = 1.0
"""Seconds for which the other side counts as there when something of it has come."""
_SILENT: Final = 3.0
"""Seconds without anything of the other side after which nobody holds back for it: it may be dead."""
_PATIENCE: Final = 5.0
"""Seconds that `Lanes.reach` waits."""
_MORE: Final = 1
"""Of a batch: its last message goes on in the next batch."""
_AGAIN: Final = 2
"""Of a batch: whoever gets it is to send again what comes behind what has been received."""
_HELLO: Final = 0
"""Kinds of the lanes' own: one that wants an answer, and the answer."""
_ANSWER: Final = 1


class Seated(Protocol):
    """What lanes ask of a node's seat."""

    incarnation: str
    on_gone: list[Callable[[Any], None]]
    on_over: list[Callable[[str], None]]

    @property
    def members(self) -> Mapping[str, Any]:
        """The incarnations that live, by name."""


class Lane:
    """What goes between this node and one other, in both directions.

    Args:
        peer: the incarnation of the other.
        generation: how often a lane to it has ended before.
        lanes: all of them.
    """

    def __init__(self, peer: str, generation: int, lanes: Lanes) -> None:
        self.peer: str = peer
        """The other side's incarnation."""
        self.generation: int = generation
        self.over: bool = False
        """Whether it has ended: what is posted goes nowhere, and nothing comes of it any more."""
        self.failure: str = ""
        """Why, where that was found here; those who use it have not been told then yet."""
        self.strained: bool = False
        """Whether somebody holds back since too much waits in it, and wants to hear when it is less."""
        self.heard: float = -math.inf
        """When something last came, on Trio's clock."""
        self.size: int = 0
        """Bytes that are not acknowledged, or not sent yet."""
        self._work_pending = 0
        self._work_sent = 0
        self.context: dict[str, Any] = {}
        """What those who use it keep for as long as it lasts, by their names."""
        self._lanes = lanes
        # Out.
        self._pending: list[bytes] = []
        self._flush: Callable[[], None] | None = None
        self._unacked: deque[tuple[int, int, bytes, int]] = deque()
        self._cursor = 0
        self._number = 0
        self._acked_at = 0.0
        self._wait = _RESEND
        self._work = trio.Event()
        self._probe = False
        # In.
        self._received = 0
        self._handled = 0
        self._acknowledged = 0
        self._unsaid = 0
        self._ack_at = 0.0
        self._again = False
        self._parts: list[bytes] = []
        self._queue: deque[tuple[int, deque[list[Any]]]] = deque()
        self._handling = False
        self._hold: Callable[[], Awaitable[None]] | None = None
        self._answered = trio.Event()

    @property
    def up(self) -> bool:
        """Whether something of the other side has come lately."""
        return not self.over and trio.current_time() - self.heard <= _RECENT

    @property
    def silent(self) -> bool:
        """Whether nothing of the other side has come for long, though it may be a member still."""
        return trio.current_time() - self.heard > _SILENT

    @property
    def load(self) -> int:
        """Bytes as in ``size``, and what is work for the other side beyond these."""
        return self.size + self._work_pending + self._work_sent

    # Out.

    def post(self, kind: int | str, *values: object) -> None:
        """Send a message behind all that was sent before; nothing where the lane is over.

        It is gone as it is now. What is too much for the lane ends it.

        Args:
            kind: what it is, see `Lanes.on_message`; integers from 16 on, or strings.
            values: whatever CBOR has.
        """
        if self.over:
            return
        if self._flush is not None:
            flush, self._flush = self._flush, None
            flush()
        self.put(cbor2.dumps((kind, *values)))

    def put(self, item: bytes, work: int = 0) -> None:
        """Send a message that is CBOR already: an array of its kind and its values.

        Args:
            item: the message.
            work: what it is beyond its bytes, see `load`.
        """
        if self.over:
            return
        if self.size > self._lanes.most:
            # Who is in the middle of sending must not hear of it now.
            self.fail(f"more than {self._lanes.most:,} bytes wait in it")
            return
        self._pending.append(item)
        self._work_pending += work
        self.size += len(item) + _ITEM
        self._work.set()

    def gather(self, flush: Callable[[], None]) -> None:
        """Have something called, once, before anything else is sent: it puts what it has gathered."""
        self._flush = flush
        self._work.set()

    def _pack(self) -> None:
        """Make numbered batches of what was posted."""
        if self._flush is not None:
            flush, self._flush = self._flush, None
            flush()
        if not self._pending:
            return
        if not self._unacked:
            self._acked_at, self._wait = trio.current_time(), _RESEND
        pending, self._pending = self._pending, []
        batch: list[bytes] = []
        size = 0
        for item in pending:
            self.size -= len(item) + _ITEM
            if size + len(item) > _BATCH and batch:
                self._number_it(0, _array(batch))
                batch, size = [], 0
            if len(item) > _BATCH:
                whole = _array([item])
                for start in range(0, len(whole), _BATCH):
                    more = _MORE if start + _BATCH < len(whole) else 0
                    self._number_it(more, whole[start : start + _BATCH])
                continue
            batch.append(item)
            size += len(item)
        if batch:
            self._number_it(0, _array(batch))
        if self._work_pending:
            number, flags, payload, _ = self._unacked[-1]
            self._unacked[-1] = number, flags, payload, self._work_pending
            self._work_sent += self._work_pending
            self._work_pending = 0

    def _number_it(self, flags: int, payload: bytes) -> None:
        self._number += 1
        self._unacked.append((self._number, flags, payload, 0))
        self.size += len(payload)

    def _envelope(self, number: int, flags: int, payload: bytes) -> bytes:
        self._acknowledged, self._unsaid, again = self._handled, 0, self._again
        self._again = False
        if again:
            flags |= _AGAIN
        return cbor2.dumps(
            (
                self._lanes.seat.incarnation,
                self.generation,
                number,
                self._received,
                self._handled,
                flags,
                payload,
            )
        )

    def next_message(self) -> bytes | None:
        """What is to be sent now; None where nothing is."""
        self._pack()
        now = trio.current_time()
        if self._probe and self._unacked:
            self._probe = False
            return self._envelope(*self._unacked[0][:3])
        if self._cursor < len(self._unacked):
            batch = self._unacked[self._cursor]
            self._cursor += 1
            return self._envelope(*batch[:3])
        if self._again or (
            self._acknowledged != self._handled and (now >= self._ack_at or self._unsaid > _ACK_SIZE)
        ):
            return self._envelope(0, 0, b"")
        return None

    async def wait(self) -> None:
        """Wait until there may be something to send."""
        deadline = self._ack_at if self._acknowledged != self._handled else math.inf
        if self._unacked:
            deadline = min(deadline, self._acked_at + self._wait)
        with trio.move_on_at(deadline):
            await self._work.wait()
        self._work = trio.Event()
        if self._unacked and trio.current_time() >= self._acked_at + self._wait:
            self._acked_at = trio.current_time()
            self._wait = min(self._wait * 2, _LONGEST)
            self._probe = True
            self.look()

    def look(self) -> None:
        """Have nobody hold back for who is silent."""
        if self.strained and self.silent:
            for told in self._lanes.on_silence:
                told(self)

    def resend(self) -> None:
        """What was sent may be lost: ask the other side what it has."""
        self._probe = bool(self._unacked)
        self._again = True
        self._work.set()

    # In.

    def receive(self, number: int, received: int, handled: int, flags: int, payload: bytes) -> None:
        """A batch came, or an acknowledgement alone."""
        self.heard = trio.current_time()
        self._acknowledge(handled)
        if flags & _AGAIN:
            # All behind what it has; what is on its way now comes twice.
            self._cursor = sum(1 for batch in self._unacked if batch[0] <= received)
            self._work.set()
        if not number:
            return
        if number != self._received + 1:
            self._again = True
            self._work.set()
            return
        self._received = number
        self._parts.append(payload)
        if flags & _MORE:
            self._queue.append((number, deque()))
        else:
            whole = payload if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            self._queue.append((number, deque(cbor2.loads(whole))))
        self._unsaid += len(payload)
        if self._acknowledged == self._handled:
            self._ack_at = self.heard + _ACK_AFTER
        if not self._handling:
            self.handle(perf_counter() + TURN)
            if self._queue:
                self._handling = True
                self._lanes.spawn(self._handle_more)
        self._work.set()

    def _acknowledge(self, handled: int) -> None:
        unacked = self._unacked
        while unacked and unacked[0][0] <= handled:
            _, _, payload, work = unacked.popleft()
            self.size -= len(payload)
            self._work_sent -= work
            self._cursor = max(self._cursor - 1, 0)
            self._acked_at, self._wait = self.heard, _RESEND
        if self.strained and self.load < _LITTLE:
            self.strained = False
            for told in self._lanes.on_relief:
                told(self)

    def hold(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Handle nothing more of what came, and acknowledge it not, until ``wait()`` has returned.

        For handlers, whose work goes on after them.
        """
        self._hold = wait

    def handle(self, until: float) -> None:
        """Hand on what came, in its order, until it is time for others."""
        queue, handlers = self._queue, self._lanes.handlers
        while queue and not self.over:
            number, items = queue[0]
            while items and not self.over:
                item = items.popleft()
                handler = handlers.get(item[0])
                if handler is None:
                    logger.warning(
                        "node %s sent something that is not known here: %.100r", self.peer, item[0]
                    )
                else:
                    try:
                        handler(self, *item[1:])
                    except Exception:
                        logger.exception("what node %s sent could not be handled", self.peer)
                if self._hold is not None or perf_counter() > until:
                    break
            if items or self._hold is not None or self.over:
                return
            queue.popleft()
            self._handled = number
            if perf_counter() > until:
                return

    async def _handle_more(self) -> None:
        while self._queue and not self.over:
            wait, self._hold = self._hold, None
            if wait is None:
                await trio.lowlevel.checkpoint()
            else:
                await wait()
            self.handle(perf_counter() + TURN)
        self._handling = False
        self._work.set()

    def answered(self) -> None:
        """The other side has answered a hello."""
        self._answered.set()
        self._answered = trio.Event()

    async def hello(self) -> None:
        """Wait until the other side has answered, or the lane is over."""
        answered = self._answered
        self.post(_HELLO)
        await answered.wait()

    def fail(self, why: str) -> None:
        """It cannot go on: a new one is to begin on both sides."""
        if not self.over:
            self.failure = why
            self.finish()

    def finish(self) -> None:
        """It is over."""
        self.over = True
        self._flush = None
        self._pending.clear()
        self._unacked.clear()
        self._queue.clear()
        self._parts.clear()
        self.size = self._work_pending = self._work_sent = 0
        self._answered.set()
        self._work.set()


class Lanes:
    """All lanes of a node.

    Between two incarnations there is one lane. It ends, for both, when one of the two is no member any
    more or begins anew, and when too much waits for the other side; what was sent and not handled is lost
    then. Nothing else is lost, and nothing comes twice or out of order, however often the engine is away.

    Args:
        engine: carries the messages.
        seat: says who this node is, and who else there is.
        most: bytes that may wait in one lane.
    """

    def __init__(self, engine: Engine, seat: Seated, *, most: int = _MOST) -> None:
        self.engine: Engine = engine
        self.seat: Seated = seat
        self.most: int = most
        self.handlers: dict[int | str, Callable[..., None]] = {}
        self.on_end: list[Callable[[Lane], None]] = []
        """Told of each lane that has ended; no message of it comes any more."""
        self.on_relief: list[Callable[[Lane], None]] = []
        """Told of each lane that was strained, once little waits in it."""
        self.on_silence: list[Callable[[Lane], None]] = []
        """Told of each lane that is strained, now and then while nothing comes of its other side."""
        self.on_back: list[Callable[[], None]] = []
        """Told when the engine is there again."""
        self._lanes: dict[str, Lane] = {}
        self._generations: dict[str, int] = {}
        self._nursery: trio.Nursery | None = None
        self._waiting: list[tuple[Callable[..., Awaitable[None]], tuple[Any, ...]]] = []
        self._scope = trio.CancelScope()
        self._unknown: set[object] = set()
        self.on_message(_HELLO, lambda lane: lane.post(_ANSWER))
        self.on_message(_ANSWER, Lane.answered)
        seat.on_gone.append(self._gone)
        seat.on_over.append(self._over)

    def on_message(self, kind: int | str, handler: Callable[..., None]) -> None:
        """Have messages of a kind handed to ``handler(lane, *values)``, which must not wait.

        Integers below 16 are the lanes' own.
        """
        self.handlers[kind] = handler

    def lane(self, incarnation: str) -> Lane:
        """The lane to another node.

        Raises:
            Unavailable: it is no member.
        """
        lane = self._lanes.get(incarnation)
        if lane is None:
            if incarnation not in self.seat.members or incarnation == self.seat.incarnation:
                raise Unavailable(incarnation, "its node is not there")
            lane = self._begin(incarnation)
        return lane

    def all(self) -> Iterable[Lane]:
        """All that there are now."""
        return list(self._lanes.values())

    async def reach(self, incarnation: str, patience: float = _PATIENCE) -> Lane:
        """The lane to another node, once that has answered lately. A cancel changes nothing.

        Raises:
            Unavailable: it is no member, or does not answer within so many seconds.
        """
        lane = self.lane(incarnation)
        if lane.up:
            await trio.lowlevel.checkpoint()
            return lane
        with trio.move_on_after(patience):
            await lane.hello()
            if not lane.over:
                return lane
        raise Unavailable(incarnation, "its node does not answer")

    def _begin_again(self, lane: Lane) -> None:
        """End a lane that has failed, on both sides; a new one begins."""
        if self._lanes.get(lane.peer) is not lane:
            return
        logger.warning("the lane to node %s has ended: %s", lane.peer, lane.failure)
        self._generations[lane.peer] = lane.generation + 1
        self._finish(lane)
        # The other side may have nothing to send: it has to hear of it all the same.
        self._begin(lane.peer).post(_HELLO)

    def unknown(self, peer: str, kind: object) -> None:
        """Tell, once, of what another version of this program may have sent."""
        if len(self._unknown) < _UNKNOWN and kind not in self._unknown:
            self._unknown.add(kind)
            logger.warning("node %s sent something that is not known here: %.100r", peer, kind)

    # What happens.

    def _begin(self, peer: str) -> Lane:
        lane = self._lanes[peer] = Lane(peer, self._generations.get(peer, 0), self)
        self.spawn(self._serve, lane)
        return lane

    def _finish(self, lane: Lane) -> None:
        lane.finish()
        del self._lanes[lane.peer]
        for told in self.on_end:
            told(lane)

    def _gone(self, member: Any) -> None:
        """A member is none any more."""
        lane = self._lanes.get(member.incarnation)
        self._generations.pop(member.incarnation, None)
        if lane is not None:
            self._finish(lane)

    def _over(self, _: str) -> None:
        """This node has begun a new incarnation."""
        self._generations.clear()
        for lane in list(self._lanes.values()):
            self._finish(lane)
        self._scope.cancel()

    def _receive(self, message: bytes) -> None:
        try:
            sender, generation, *batch = cbor2.loads(message)
        except Exception:
            logger.exception("a message of another node cannot be read")
            return
        if sender not in self.seat.members:
            return  # It is dead; or has come just now, and sends it again.
        known = self._generations.get(sender, 0)
        lane = self._lanes.get(sender)
        if generation > known:
            self._generations[sender] = generation
            if lane is not None:
                self._finish(lane)
                lane = None
        if lane is None:
            lane = self._begin(sender)
        if generation < lane.generation:
            lane.resend()  # It does not know yet that that one is over.
            return
        try:
            lane.receive(*batch)
        except Exception:
            logger.exception("what node %s has sent cannot be read", sender)
            lane.fail("what has come cannot be read")

    # The tasks.

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Start a task of the lanes, as soon as they run."""
        if self._nursery is None:
            self._waiting.append((function, arguments))
        else:
            self._nursery.start_soon(function, *arguments)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry messages, until cancelled; ``started()`` is called when they first come."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for function, arguments in self._waiting:
                nursery.start_soon(function, *arguments)
            self._waiting.clear()
            listening = _Listening(self, task_status)
            try:
                while True:
                    with trio.CancelScope() as self._scope:
                        with contextlib.suppress(EngineLost):
                            await self.engine.listen(self.seat.incarnation, self._receive, listening)
                        await trio.sleep(listening.next_pause())
            finally:
                self._nursery = None  # What others still post while they end goes nowhere.

    async def _serve(self, lane: Lane) -> None:
        """Send what is posted to a lane, until it is over."""
        pause = _RETRY
        while not lane.over:
            message = lane.next_message()
            if message is None:
                await lane.wait()
                continue
            try:
                await self.engine.send(lane.peer, message)
                pause = _RETRY
            except EngineLost:
                await trio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                lane.look()
                lane.resend()
        if lane.failure:
            self._begin_again(lane)


class _Listening:
    """Hears that what is sent to a node arrives from now on."""

    def __init__(self, lanes: Lanes, task_status: trio.TaskStatus[None]) -> None:
        self._lanes = lanes
        self._task_status: trio.TaskStatus[None] | None = task_status
        self._pause = _RETRY

    def started(self, _: None = None) -> None:
        """What was sent before may be lost."""
        self._pause = _RETRY
        if self._task_status is not None:
            task_status, self._task_status = self._task_status, None
            task_status.started()
            return
        for lane in self._lanes.all():
            lane.resend()
        for told in self._lanes.on_back:
            told()

    def next_pause(self) -> float:
        """Seconds until it is tried again."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return pause


def _array(items: list[bytes]) -> bytes:
    """A CBOR array of what is CBOR already."""
    length = len(items)
    head = bytes((0x80 | length,)) if length < _SHORT else b"\x9a" + length.to_bytes(4, "big")
    return head + b"".join(items)
