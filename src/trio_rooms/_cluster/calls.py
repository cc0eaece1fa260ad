"""Calls: what one node asks of another, and its answer."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import cbor2
import trio

from trio_rooms._room.answers import Answer
from trio_rooms.errors import RoomsClosed, RoomsError, Unavailable

from .failures import Crowded, Lost, pack, unpack
from .lanes import Lane, Lanes

__all__ = ["LARGEST", "MOST", "Calls", "Reply"]

logger = logging.getLogger("trio_rooms")

LARGEST: Final = 4 * 1024 * 1024
"""Bytes that a call has at most, and an answer."""
MOST: Final = 20_000
"""Calls to one node that are not answered."""
_MOST_WAITING: Final = 8 * 1024 * 1024
"""Bytes that may wait in a lane before calls are refused and answers wait: half of what ends it."""
_PAUSE: Final = 0.02
"""Seconds between two looks whether there is room in a lane."""
_CALL: Final = "call"
_ANSWER: Final = "answer"
_CALLING: Final = "calls"
_CLOSED: Final = "the rooms have closed, and what became of this is not known"


@attrs.define(eq=False)
class _Calling:
    """The calls of one lane."""

    waiting: dict[int, tuple[Callable[[Any], None], Callable[[Exception], None]]] = attrs.field(factory=dict)
    """Whom to tell of each answer."""
    number: int = 0
    answers: deque[tuple[int, bool, bytes]] = attrs.field(factory=deque)
    """Those that wait for room in the lane."""
    size: int = 0
    """Bytes of them."""


class Reply(Answer):
    """The answer that another node waits for."""

    __slots__ = ("_calls", "_lane", "_number", "_over")

    def __init__(self, calls: Calls, lane: Lane, number: int) -> None:
        # What waits for it is elsewhere, so that it does without what the base has for that.
        self._calls = calls
        self._lane = lane
        self._number = number
        self._over = False

    @property
    def lane(self) -> Lane:
        """To whoever asks."""
        return self._lane

    @property
    def settled(self) -> bool:
        """See `Answer`."""
        return self._over

    def succeed(self, value: Any) -> None:
        """See `Answer`; what has no form in CBOR becomes an error."""
        if not self._over:
            try:
                content = cbor2.dumps(value)
            except Exception as error:  # noqa: BLE001 (whatever an encoder raises)
                self.fail(error)
                return
            self._over = True
            self._calls._answer(self._lane, self._number, content)

    def fail(self, error: Exception) -> None:
        """See `Answer`."""
        if not self._over:
            self._over = True
            self._calls._answer(self._lane, self._number, cbor2.dumps(pack(error)), failed=True)

    def work(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Answer with what a function returns, called in a task of its own."""
        self._calls.lanes.spawn(self._work, function, arguments)

    async def _work(self, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        try:
            self.succeed(await function(*arguments))
        except Exception as error:  # noqa: BLE001 (whoever asks is told)
            _log(error)
            self.fail(error)


class Calls:
    """What this node asks of others, and they of it.

    A call is made once at most. It is not known what has become of one whose lane ends.

    Args:
        lanes: to the other nodes.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.lanes: Lanes = lanes
        self.on_close: list[Callable[[], None]] = []
        """Called when nothing is asked any more, and who waited has been told."""
        self.asked: int = 0
        """How many calls were made."""
        self._handlers: dict[str, Callable[..., None]] = {}
        self._closed = False
        lanes.on_message(_CALL, self._called)
        lanes.on_message(_ANSWER, self._answered)
        lanes.on_end.append(self._ended)

    @property
    def closed(self) -> bool:
        """Whether nothing is asked any more."""
        return self._closed

    @property
    def unanswered(self) -> int:
        """How many calls are not answered now."""
        return sum(len(_calling(lane).waiting) for lane in self.lanes.all())

    # What others ask.

    def on(self, name: str, handler: Callable[..., Awaitable[Any]]) -> None:
        """Have a call answered by ``await handler(incarnation, *values)``, in a task for each.

        Its error is told to whoever asks; see `unpack` for what becomes of it.
        """
        self.on_now(name, lambda reply, *values: reply.work(handler, reply.lane.peer, *values))

    def on_now(self, name: str, handler: Callable[..., None]) -> None:
        """Have a call handed to ``handler(reply, *values)``, in the order of what comes of its lane.

        It must not wait. The `Reply` is to be settled then or later, once; an error that the handler raises
        settles it, too.
        """
        self._handlers[name] = handler

    def _called(self, lane: Lane, number: int, name: str, content: bytes) -> None:
        reply, handler = Reply(self, lane, number), self._handlers.get(name)
        if handler is None:
            reply.fail(Unavailable(name, "its node does not know what it is asked"))
            return
        try:
            handler(reply, *cbor2.loads(content))
        except Exception as error:  # noqa: BLE001 (whoever asks is told)
            _log(error)
            reply.fail(error)

    def _answer(self, lane: Lane, number: int, content: bytes, *, failed: bool = False) -> None:
        """Send an answer, now or when there is room for it."""
        if lane.over:
            return
        calling = _calling(lane)
        too_large = len(content) > LARGEST
        if too_large or calling.size + len(content) > _MOST_WAITING:
            why = "the answer is too large" if too_large else "too many answers wait"
            content, failed = cbor2.dumps(pack(Unavailable(lane.peer, why))), True
        if not calling.answers and lane.size + len(content) <= _MOST_WAITING:
            lane.post(_ANSWER, number, failed, content)
            return
        calling.answers.append((number, failed, content))
        calling.size += len(content)
        if len(calling.answers) == 1:
            self.lanes.spawn(self._answer_later, lane, calling)

    async def _answer_later(self, lane: Lane, calling: _Calling) -> None:
        """Send the answers that wait, as there is room."""
        while calling.answers and not lane.over:
            if lane.size + len(calling.answers[0][2]) > _MOST_WAITING:
                await trio.sleep(_PAUSE)
                continue
            number, failed, content = calling.answers.popleft()
            calling.size -= len(content)
            lane.post(_ANSWER, number, failed, content)
        calling.answers.clear()

    # What this one asks.

    def post(
        self,
        incarnation: str,
        name: str,
        values: tuple[Any, ...],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Ask another node, behind all that it was asked and sent before. Exactly one is called, later.

        Args:
            incarnation: whom.
            name: what.
            values: what goes with it: whatever CBOR has.
            done: called with the answer.
            failed: called with the error: what the other raised, or Unavailable where it is not known what
                has become of it.

        Raises:
            Unavailable: there is no such node, or too much waits for it; nothing was sent.
            RoomsClosed: this one has closed; nothing was sent.
        """
        if self._closed:
            raise RoomsClosed(_CLOSED)
        lane = self.lanes.lane(incarnation)
        content, calling = cbor2.dumps(values), _calling(lane)
        if len(content) > LARGEST:
            raise Unavailable(incarnation, f"more than {LARGEST:,} bytes do not go to its node")
        if len(calling.waiting) >= MOST or lane.size + len(content) > _MOST_WAITING:
            raise Crowded(incarnation, "too much waits for its node")
        self.asked += 1
        calling.number += 1
        calling.waiting[calling.number] = (done, failed)
        lane.post(_CALL, calling.number, name, content)

    async def ask(
        self,
        incarnation: str,
        name: str,
        *values: Any,
        timeout: float = math.inf,  # noqa: ASYNC109 (a part of what is asked)
    ) -> Any:
        """The same, and wait for the answer. A cancelled caller stops waiting.

        Raises:
            Unavailable: as `post`; the lane has ended; or there is no answer within so many seconds. It is
                not known what has become of it.
            RoomsClosed: as `post`, or this node has closed meanwhile.
            Exception: what the other raised, see `unpack`.
        """
        answer = Answer()
        self.post(incarnation, name, values, answer.succeed, answer.fail)
        with trio.move_on_after(timeout):
            return await answer.wait()
        raise Unavailable(incarnation, f"its node has not answered {name!r} within {timeout:g} s")

    def _answered(self, lane: Lane, number: int, failed: bool, content: bytes) -> None:
        told = _calling(lane).waiting.pop(number, None)
        if told is None:
            return
        value = cbor2.loads(content)
        if failed:
            told[1](unpack(value))
        else:
            told[0](value)

    def _ended(self, lane: Lane) -> None:
        """What is not answered never will be."""
        waiting, calling = {}, lane.context.get(_CALLING)
        if calling is not None:
            waiting, calling.waiting = calling.waiting, {}
        for _, failed in waiting.values():
            failed(Lost(lane.peer, "its node was lost while it was asked"))

    # The end.

    async def run(self) -> None:
        """Do nothing until cancelled; then nothing is asked any more, and who waits gets RoomsClosed."""
        try:
            await trio.sleep_forever()
        finally:
            self._closed = True
            for lane in self.lanes.all():
                waiting, _calling(lane).waiting = _calling(lane).waiting, {}
                for _, failed in waiting.values():
                    failed(RoomsClosed(_CLOSED))
            for told in self.on_close:
                told()


def _calling(lane: Lane) -> _Calling:
    """The calls of a lane."""
    calling = lane.context.get(_CALLING)
    if calling is None:
        calling = lane.context[_CALLING] = _Calling()
    assert isinstance(calling, _Calling)
    return calling


def _log(error: Exception) -> None:
    """Log what is a defect of ours, and not something that the caller is to hear of."""
    if not isinstance(error, RoomsError | TypeError | ValueError):
        logger.error("what another node asked could not be answered", exc_info=error)
