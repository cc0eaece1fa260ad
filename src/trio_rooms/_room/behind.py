"""Other rooms as a handler reaches them whose own output waits at a gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import attrs
import trio

from trio_rooms._sockets.fanout import Message
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.gate import Gate
from trio_rooms._state.plans import Plan
from trio_rooms._wire.envelope import Body
from trio_rooms.errors import RoomsError

from .answers import Answer
from .mail import Mail
from .placement import Placement, RoomInfo
from .reasons import WhyAwake
from .schedules import Schedule

__all__ = ["Behind"]


@attrs.frozen
class Behind:
    """A `Placement` whose `emit` is done when what the handler wrote is durable.

    Mail is not: who asks waits for the answer, and would wait for ever.
    """

    _placement: Placement
    _gate: Gate

    def accepts(self, key: str) -> bool:
        """See `Placement`."""
        return self._placement.accepts(key)

    def deliver(self, key: str, mail: Mail) -> bool:
        """See `Placement`."""
        return self._placement.deliver(key, mail)

    def deliver_soon(self, key: str, mail: Mail) -> None:
        """See `Placement`."""
        self._placement.deliver_soon(key, mail)

    def waiting(self, key: str, answer: Answer) -> AbstractContextManager[None]:
        """See `Placement`."""
        return self._placement.waiting(key, answer)

    def awaiting(self, key: str, answer: Answer) -> AbstractContextManager[None]:
        """See `Placement`."""
        return self._placement.awaiting(key, answer)

    def emit(self, key: str, message: Message, channel: str | None, manner: Manner | None = None) -> Sent:
        """See `Placement`; whom it goes to is decided when it is done."""
        size = len(message.frame(binary=True))  # What cannot be sent is an error now.
        job = partial(self._placement.emit, key, message, channel, manner)
        self._gate.add(partial(_forget_result, job), size)
        return Sent(outbox=1)

    async def emit_counted(
        self, key: str, message: Message, channel: str | None, manner: Manner | None = None
    ) -> Sent:
        """See `Placement`; as `emit`, it is known later what becomes of it."""
        await trio.lowlevel.checkpoint()
        return self.emit(key, message, channel, manner)

    def emit_reliably(
        self,
        key: str,
        body: Body,
        channel: str | None,
        manner: Manner | None,
        done: Callable[[Sent], None] | None,
        refused: Callable[[RoomsError], None] | None,
    ) -> Sent:
        """See `Placement`; it is done as `emit` is, but for who waits until it is, who would for ever."""
        if done is not None:
            return self._placement.emit_reliably(key, body, channel, manner, done, refused)
        job = partial(self._placement.emit_reliably, key, body, channel, manner, done, refused)
        self._gate.add(partial(_forget_result, job), len(body.cbor) + len(body.json))
        return Sent(outbox=1)

    def reschedule(self, key: str, plan: Plan, *, held: bool = True) -> None:
        """See `Placement`."""
        if held:
            self._gate.add(partial(self._placement.reschedule, key, plan))
        else:
            self._placement.reschedule(key, plan)

    async def schedules(self, key: str) -> Mapping[str, Schedule]:
        """See `Placement`."""
        return await self._placement.schedules(key)

    async def people(self, key: str) -> tuple[str, ...]:
        """See `Placement`."""
        return await self._placement.people(key)

    def info(self, key: str) -> RoomInfo:
        """See `Placement`."""
        return self._placement.info(key)

    def why_awake(self, key: str) -> WhyAwake:
        """See `Placement`."""
        return self._placement.why_awake(key)

    async def find_info(self, key: str) -> RoomInfo:
        """See `Placement`."""
        return await self._placement.find_info(key)

    async def find_why_awake(self, key: str) -> WhyAwake:
        """See `Placement`."""
        return await self._placement.find_why_awake(key)


def _forget_result(job: Callable[[], object]) -> None:
    """Do something whose result nobody waits for."""
    job()
