"""The desk: where the rooms of this node get what programs at other nodes send to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from trio_rooms._room.mail import Ask, Destroy, Hibernate
from trio_rooms._runtime.supervisor import Supervisor
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.plans import Plan
from trio_rooms._values.cbor import decode_sent
from trio_rooms._wire.envelope import Body
from trio_rooms.errors import RoomsClosed, RoomsError

from .calls import Calls, Reply
from .failures import NotHere
from .packing import (
    Frames,
    pack_info,
    pack_schedules,
    pack_sent,
    pack_why,
    unpack_change,
    unpack_manner,
)
from .ways import Homes

__all__ = ["Desk"]

_REFUSED: Final = "refused"
_MOST_REFUSED: Final = 10_000
"""Rooms of which it is remembered, for each other node, that they were not here."""


class Desk:
    """Hands what comes from other nodes to rooms that are at home here, and refuses what is for others.

    Args:
        supervisor: has the rooms.
        homes: says which are at home here.
        calls: from the others.
    """

    def __init__(self, supervisor: Supervisor, homes: Homes, calls: Calls) -> None:
        self._supervisor = supervisor
        self._homes = homes
        self._calls = calls
        for name, handle in (
            ("ask", self._ask),
            ("hibernate", self._hibernate),
            ("destroy", self._destroy),
            ("emit", self._emit),
            ("keep", self._keep),
            ("plan", self._plan),
            ("schedules", self._schedules),
            ("people", self._people),
            ("info", self._info),
            ("why", self._why),
        ):
            self._open(f"room.{name}", handle)

    def _open(self, name: str, handle: Callable[..., None]) -> None:
        """Have a call answered by ``handle(reply, key, ...)`` for rooms that are here."""

        def called(reply: Reply, key: str, turn: int, *values: Any) -> None:
            if self._is_here(reply, key, turn):
                handle(reply, key, *values)

        self._calls.on_now(name, called)

    def _is_here(self, reply: Reply, key: str, turn: int) -> bool:
        """Whether a room is at home here; else that is the answer.

        Whoever is refused sends all that follows elsewhere, too, though the room be here again by then: so
        what comes of the same turn is refused until the next one.
        """
        refused: dict[str, int] = reply.lane.context.setdefault(_REFUSED, {})
        if refused and turn <= refused.get(key, -1):
            reply.fail(NotHere(key))
            return False
        if self._homes.owns(key) and self._supervisor.serves(key):
            refused.pop(key, None)
            if self._supervisor.closed:
                reply.fail(RoomsClosed(key))
            return not self._supervisor.closed
        refused[key] = turn
        if len(refused) > _MOST_REFUSED:
            del refused[next(iter(refused))]
        reply.fail(NotHere(key))
        return False

    def _ask(self, reply: Reply, key: str, event: str, data: bytes) -> None:
        self._supervisor.deliver(key, Ask(event, decode_sent(data), reply))

    def _hibernate(self, reply: Reply, key: str) -> None:
        self._supervisor.deliver_soon(key, Hibernate(reply))

    def _destroy(self, reply: Reply, key: str) -> None:
        self._supervisor.deliver(key, Destroy(reply))

    def _emit(
        self,
        reply: Reply,
        key: str,
        binary: bytes,
        text: bytes | None,
        channel: str | None,
        manner: list[Any] | None,
    ) -> None:
        message = Frames(binary, binary if text is None else text)
        sent = self._supervisor.emit(key, message, channel, unpack_manner(manner))
        reply.succeed(pack_sent(sent))

    def _keep(
        self,
        reply: Reply,
        key: str,
        cbor: bytes,
        json: bytes,
        channel: str | None,
        manner: list[Any] | None,
        waits: bool,
    ) -> None:
        done: Callable[[Sent], None] | None = None
        refused: Callable[[RoomsError], None] | None = None
        if waits:
            done, refused = (lambda sent: reply.succeed(pack_sent(sent))), reply.fail
        body, how = Body(cbor, json), unpack_manner(manner)
        sent = self._supervisor.emit_reliably(key, body, channel, how, done, refused)
        if not waits:
            reply.succeed(pack_sent(sent))

    def _plan(self, reply: Reply, key: str, change: list[Any], waits: bool) -> None:
        plan = Plan(unpack_change(change))
        if waits:
            plan.told, plan.failed = reply.succeed, reply.fail
        self._supervisor.reschedule(key, plan)
        if not waits:
            reply.succeed(None)

    def _schedules(self, reply: Reply, key: str) -> None:
        async def schedules() -> list[Any]:
            return pack_schedules(await self._supervisor.schedules(key))

        reply.work(schedules)

    def _people(self, reply: Reply, key: str) -> None:
        reply.work(self._supervisor.people, key)

    def _info(self, reply: Reply, key: str) -> None:
        reply.succeed(pack_info(self._supervisor.info(key)))

    def _why(self, reply: Reply, key: str) -> None:
        reply.succeed(pack_why(self._supervisor.why_awake(key)))
