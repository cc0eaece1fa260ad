"""The router: the placement of a node, which reaches rooms wherever they are at home."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio

from trio_rooms._room.answers import Answer
from trio_rooms._room.mail import Ask, Destroy, Hibernate, Mail
from trio_rooms._room.placement import RoomInfo
from trio_rooms._room.reasons import WhyAwake
from trio_rooms._room.schedules import Schedule
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms._sockets.fanout import Message
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.plans import Plan
from trio_rooms._values.cbor import encode_plain
from trio_rooms._wire.envelope import Body
from trio_rooms.errors import RoomsError

from .calls import Calls
from .packing import (
    pack_change,
    pack_manner,
    pack_message,
    unpack_info,
    unpack_schedules,
    unpack_sent,
    unpack_why,
)
from .ways import Homes, Letter, Seated, Ways

__all__ = ["Router"]

_COUNTING: Final = 0.25
"""Seconds for which it is waited to hear what has become of something at another node."""
_HERE: Final = object()
"""The answer for who is to look here."""


class Router:
    """A `Placement` over several nodes: what is for a room goes to the supervisor of its home.

    Rooms that are at home here, with nothing on its way to them, are reached as in a single process, in the
    same step. All else goes by `Ways`. Circles of rooms that ask each other are seen as far as they are here.

    Args:
        supervisor: has the rooms of this node.
        homes: says where rooms are.
        seat: says who this node is, and who else there is.
        calls: to and from the others.
    """

    def __init__(self, supervisor: Supervisor, homes: Homes, seat: Seated, calls: Calls) -> None:
        self._supervisor = supervisor
        self._homes = homes
        self._ways = Ways(homes, seat, calls)

    def _is_here(self, key: str) -> bool:
        """Whether a room is reached here in this step."""
        return self._homes.owns(key) and not self._ways.busy(key)

    # See `Placement`.

    def accepts(self, key: str) -> bool:
        """See `Placement`; of a room that is elsewhere, this says whether this node takes any."""
        return self._supervisor.accepts(key)

    def deliver(self, key: str, mail: Mail) -> bool:
        """See `Placement`."""
        here = partial(self._supervisor.deliver, key, mail)
        if self._is_here(key):
            return here()
        self._mail(key, mail, here)
        return True

    def deliver_soon(self, key: str, mail: Mail) -> None:
        """See `Placement`."""
        here = partial(self._supervisor.deliver_soon, key, mail)
        if self._is_here(key):
            here()
        else:
            self._mail(key, mail, here)

    def _mail(self, key: str, mail: Mail, here: Callable[[], object]) -> None:
        """Send mail of a program to a room that is elsewhere."""
        values: tuple[Any, ...] = ()
        nobody = None
        size = 0
        if isinstance(mail, Ask):
            data = encode_plain(mail.data)
            values, size = (mail.event, data), len(data) + len(mail.event)
        elif isinstance(mail, Hibernate):
            nobody = partial(mail.answer.succeed, True)
        assert isinstance(mail, Ask | Hibernate | Destroy)
        assert mail.answer is not None
        name = f"room.{type(mail).__name__.lower()}"
        answer = mail.answer
        letter = Letter(name, values, size, partial(_do, here), answer.succeed, answer.fail, nobody)
        self._ways.send(key, letter)

    def waiting(self, key: str, answer: Answer) -> AbstractContextManager[None]:
        """See `Placement`; a circle that leads over other nodes is not seen."""
        if self._is_here(key):
            return self._supervisor.waiting(key, answer)
        return self._waiting_for_another(key, answer)

    @contextmanager
    def _waiting_for_another(self, key: str, answer: Answer) -> Iterator[None]:
        with self._supervisor.until_closed(answer), self._supervisor.waiting(key, answer):
            yield

    def awaiting(self, key: str, answer: Answer) -> AbstractContextManager[None]:
        """See `Placement`."""
        return self._supervisor.awaiting(key, answer)

    def emit(self, key: str, message: Message, channel: str | None, manner: Manner | None = None) -> Sent:
        """See `Placement`."""
        if self._is_here(key):
            return self._supervisor.emit(key, message, channel, manner)
        return self._emit(key, message, channel, manner, _nothing)

    async def emit_counted(
        self, key: str, message: Message, channel: str | None, manner: Manner | None = None
    ) -> Sent:
        """See `Placement`."""
        await trio.lowlevel.checkpoint()
        if self._is_here(key):
            return self._supervisor.emit(key, message, channel, manner)
        answer = Answer()
        sent = self._emit(key, message, channel, manner, answer.succeed)
        if sent.outbox:
            sent = Sent(stored=1)
            with trio.move_on_after(_COUNTING):
                sent = await answer.wait()
        return sent

    def _emit(
        self,
        key: str,
        message: Message,
        channel: str | None,
        manner: Manner | None,
        told: Callable[[Sent], None],
    ) -> Sent:
        """Send to a room that is elsewhere."""
        binary, text = pack_message(message)

        def here() -> None:
            told(self._supervisor.emit(key, message, channel, manner))

        letter = Letter(
            "room.emit",
            (binary, text, channel, pack_manner(manner)),
            len(binary) + len(text or b""),
            here,
            lambda packed: told(unpack_sent(packed)),
            lambda _: told(Sent(dropped=1)),
            lambda: told(Sent()),
        )
        return Sent(outbox=1) if self._ways.send(key, letter) else Sent(dropped=1)

    def emit_reliably(
        self,
        key: str,
        body: Body,
        channel: str | None,
        manner: Manner | None,
        done: Callable[[Sent], None] | None,
        refused: Callable[[RoomsError], None] | None,
    ) -> Sent:
        """See `Placement`."""
        here = partial(self._supervisor.emit_reliably, key, body, channel, manner, done, refused)
        if self._is_here(key):
            return here()
        tell = refused or partial(self._supervisor.unsent, key)
        letter = Letter(
            "room.keep",
            (body.cbor, body.json, channel, pack_manner(manner), done is not None),
            len(body.cbor) + len(body.json),
            partial(_do, here),
            _nothing if done is None else lambda packed: done(unpack_sent(packed)),
            lambda error: tell(error if isinstance(error, RoomsError) else RoomsError(str(error))),
        )
        return Sent(outbox=1) if self._ways.send(key, letter) else Sent(dropped=1)

    def reschedule(self, key: str, plan: Plan, *, held: bool = True) -> None:
        """See `Placement`."""
        here = partial(self._supervisor.reschedule, key, plan, held=held)
        if self._is_here(key):
            here()
            return
        change = pack_change(plan.change)
        size = 0 if len(change) == 1 else len(change[1])
        told = plan.told or _nothing
        letter = Letter(
            "room.plan", (change, plan.told is not None), size, here, told, partial(plan.refuse, key)
        )
        self._ways.send(key, letter)

    async def schedules(self, key: str) -> Mapping[str, Schedule]:
        """See `Placement`."""
        packed, _ = await self._read(key, "room.schedules")
        return await self._supervisor.schedules(key) if packed is _HERE else unpack_schedules(packed)

    async def people(self, key: str) -> tuple[str, ...]:
        """See `Placement`."""
        packed, _ = await self._read(key, "room.people")
        return await self._supervisor.people(key) if packed is _HERE else tuple(packed)

    def info(self, key: str) -> RoomInfo:
        """See `Placement`."""
        info = self._supervisor.info(key)
        return info if self._homes.owns(key) else attrs.evolve(info, node=self._node(key))

    def why_awake(self, key: str) -> WhyAwake:
        """See `Placement`."""
        why = self._supervisor.why_awake(key)
        return why if self._homes.owns(key) else attrs.evolve(why, node=self._node(key))

    async def find_info(self, key: str) -> RoomInfo:
        """See `Placement`."""
        packed, node = await self._read(key, "room.info", nobody=True)
        return self._supervisor.info(key) if packed is _HERE else unpack_info(packed, node)

    async def find_why_awake(self, key: str) -> WhyAwake:
        """See `Placement`."""
        packed, node = await self._read(key, "room.why", nobody=True)
        return self._supervisor.why_awake(key) if packed is _HERE else unpack_why(packed, node)

    async def _read(self, key: str, name: str, *, nobody: bool = False) -> tuple[Any, str]:
        """Ask the node that a room is at, and the name of that node.

        Args:
            key: the room.
            name: what is asked.
            nobody: whether it is answered here where the room has no home; else it gets one.
        """
        await trio.lowlevel.checkpoint()
        if self._is_here(key):
            return _HERE, ""
        answer = Answer()
        here = partial(answer.succeed, _HERE)
        letter = Letter(name, (), 0, here, answer.succeed, answer.fail, here if nobody else None, reads=True)
        with self._supervisor.until_closed(answer):
            self._ways.send(key, letter)
            packed = await answer.wait()
        return packed, self._node(key)

    def _node(self, key: str) -> str:
        """The name of the node that a room is at, as far as that is remembered."""
        return (self._homes.known(key) or "").partition("#")[0]


def _do(action: Callable[[], object]) -> None:
    """Do something whose result nobody waits for."""
    action()


def _nothing(_: object) -> None:
    """Nobody waits for it."""
