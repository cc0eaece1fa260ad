"""Recording what clients send, row by row, for as long as somebody fetches the rows."""

from __future__ import annotations

import secrets
from collections import deque
from typing import Final

import trio

from trio_rooms._loop.deadlines import Deadline
from trio_rooms._room.lifecycle import Stage
from trio_rooms._runtime.runtime import Runtime
from trio_rooms._sockets.roster import Link, Roster

from .rows import (
    GONE,
    HERE,
    encode_end,
    encode_header,
    encode_here,
    encode_lost,
    encode_room,
    encode_row,
)

__all__ = ["Busy", "Recordings"]

_MOST: Final = 16 * 1024 * 1024
"""Bytes of rows that wait to be fetched; some hundred thousand messages."""
_PIECE: Final = 2 * 1024 * 1024
"""Bytes that are fetched at a time, which a slow network can carry in some seconds."""
_PATIENCE: Final = 15.0
"""Seconds after which a recording ends whose rows nobody fetches."""
_BLOCK: Final = 64 * 1024
"""Bytes of rows that are kept as one: as many objects as there are rows would take several times as much,
and long to give out."""
_AT_ONCE: Final = 500
"""Connections that are told of in one go, about a tenth of a millisecond each hundred. Those of one room are
told of together, however many they are."""

_TINY: Final = 1e-6
"""Seconds that are nothing: what goes on when it begins has gone on before."""


class Busy(Exception):
    """Somebody else records."""


class Recordings:
    """Starts recordings, one at a time, and gives out what they have. Where nobody records it costs nothing.

    Args:
        runtime: open rooms.
    """

    __slots__ = ("_one", "_runtime")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._one: _Recording | None = None

    def begin(self) -> bytes:
        """Begin one; returns the first of its items, which has its name.

        Raises:
            Busy: there is one already.
        """
        if self._one is not None and not self._one.over:
            raise Busy
        self._one = _Recording(self._runtime)
        return self._one.header

    def fetch(self, name: str, *, ends: bool) -> bytes | None:
        """The rows since the last fetch, or the first of them; None where there is no such recording.

        Args:
            name: what `begin` has given it.
            ends: whether this is the last time: it is over then, and the rest is given.
        """
        one = self._one
        if one is None or one.over or one.name != name:
            return None
        return one.end() if ends else one.fetch()


class _Recording:
    """One recording, from its beginning on. The hub and the trace tell it what happens."""

    __slots__ = (
        "_begun",
        "_block",
        "_deadline",
        "_lost",
        "_names",
        "_pending",
        "_rows",
        "_runtime",
        "_size",
        "header",
        "name",
        "over",
    )

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._begun = trio.current_time()
        self._rows: deque[bytes] = deque()
        """Whole rows, many in each."""
        self._block = bytearray()
        """The last of them."""
        self._size = 0
        self._lost = 0
        self._deadline: Deadline | None = None
        self._pending: dict[Roster, None] = dict.fromkeys(runtime.hub.rosters.values())
        """Rooms whose connections have still to be told of, before anything else of them is."""
        self.over: bool = False
        self.name: str = secrets.token_hex(8)
        definitions = runtime.supervisor.definitions
        policies = {name: one.policy for name, one in definitions.items() if one.public}
        self._names = frozenset(policies)
        """Of others nobody is to know."""
        self.header: bytes = encode_header(policies, self.name)
        runtime.hub.trace.recorder = self
        runtime.hub.record(self._heard)
        runtime.spawn(self._tell_of_all)
        self._wait()

    # What is fetched.

    def fetch(self) -> bytes:
        """Some rows, or none."""
        self._wait()
        return self._piece(_PIECE)

    def end(self) -> bytes:
        """All rows that are left, and the last item."""
        self._stop()
        return self._piece(_MOST, encode_end(trio.current_time() - self._begun))

    def _piece(self, most: int, last: bytes = b"") -> bytes:
        """So many bytes of rows, or all there are, and what comes last."""
        piece, size = [], 0
        while self._rows and size < most:
            rows = self._rows.popleft()
            piece.append(rows)
            size += len(rows)
        if not self._rows and size < most:
            piece.append(bytes(self._block))
            size += len(self._block)
            self._block.clear()
        self._size -= size
        if self._lost and not self._size:
            piece.append(encode_lost(self._lost))
            self._lost = 0
        return b"".join([*piece, last])

    def _wait(self) -> None:
        """End it when nobody fetches anything for a while."""
        deadlines = self._runtime.deadlines
        deadlines.cancel(self._deadline)
        self._deadline = deadlines.set(trio.current_time() + _PATIENCE, self._give_up)

    def _give_up(self) -> None:
        """Nobody has fetched anything for a while."""
        self._stop()
        self._rows.clear()
        self._block.clear()

    def _stop(self) -> None:
        """Hear of nothing any more."""
        self.over = True
        self._runtime.deadlines.cancel(self._deadline)
        self._runtime.hub.trace.recorder = None
        self._runtime.hub.record(None)
        self._pending = {}

    # What happens.

    def came(self, key: str, number: int, now: float, *, awake: bool) -> None:
        """See `Recorder`."""
        self._tell_of(self._runtime.hub.rosters.get(key))
        if awake:
            self._put(now, key, None, 0)
        self._put(now, key, number, HERE)

    def gone(self, key: str, number: int, now: float) -> None:
        """See `Recorder`."""
        self._tell_of(self._runtime.hub.rosters.get(key), also=number)
        self._put(now, key, number, GONE)

    def worked(self, key: str, when: float) -> None:
        """See `Recorder`."""
        self._tell_of(self._runtime.hub.rosters.get(key))
        self._put(when, key, None, 0)

    def _heard(self, link: Link, size: int) -> None:
        """A client has sent something to its room."""
        hub, roster = self._runtime.hub, link.roster
        if self._pending:
            self._tell_of(roster)
        self._put(hub.now, roster.key, link.id, size)

    def _put(self, when: float, room: str, connection: int | None, what: int | str) -> None:
        """Keep one row until it is fetched, if there is place for it."""
        encoded = self._encoded(room)
        if encoded is not None:
            self._keep(encode_row(when - self._begun, encoded, connection, what), 1)

    def _encoded(self, room: str) -> bytes | None:
        """A room's key as rows have it; None where no row is to name it."""
        if room.partition("/")[0] not in self._names:
            return None
        try:
            return encode_room(room)
        except UnicodeEncodeError:
            self._lost += 1  # The program has named a room in what is no text.
            return None

    def _keep(self, rows: bytes, count: int) -> None:
        """Keep some rows, or none of them."""
        if self._size + len(rows) > _MOST:
            self._lost += count
            return
        self._block += rows
        self._size += len(rows)
        if len(self._block) >= _BLOCK:
            self._rows.append(bytes(self._block))
            self._block.clear()

    # What was there before.

    async def _tell_of_all(self) -> None:
        """Tell of all connections that are there, a few at a time."""
        told = 0
        while self._pending:
            roster = next(iter(self._pending))
            told += roster.count + 1
            self._tell_of(roster)
            if told >= _AT_ONCE:
                told = 0
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    def _tell_of(self, roster: Roster | None, also: int | None = None) -> None:
        """Tell of the connections of a room and of when it was last used, if that was not done.

        Args:
            roster: the room.
            also: a connection that has just left it.
        """
        if roster is None or roster not in self._pending:
            return
        del self._pending[roster]
        room = self._encoded(roster.key)
        if room is None:
            return
        begun, last = self._begun, self._last(roster)
        worked: list[tuple[float, int | None]] = [] if last is None else [(last, None)]
        worked += [(use.last, link.id) for link, use in (roster.active or {}).items()]
        # What was later is told of as it happens.
        worked = sorted((one for one in worked if one[0] < begun), key=lambda one: one[0])
        first = worked[0][0] if worked else begun
        # First of all, since whoever is there before his room has anything to do is hibernated.
        there = [*(link.id for link in roster.everybody()), *([] if also is None else [also])]
        for at in range(0, len(there), _AT_ONCE):
            numbers = there[at : at + _AT_ONCE]
            self._keep(encode_here(first - begun, room, numbers), len(numbers))
        for at in range(0, len(worked), _AT_ONCE):
            rows = [encode_row(when - begun, room, one, 0) for when, one in worked[at : at + _AT_ONCE]]
            self._keep(b"".join(rows), len(rows))

    def _last(self, roster: Roster) -> float | None:
        """When a room last had something to do, on Trio's clock; None where it slept before the program."""
        actor = self._runtime.supervisor.actor(roster.key)
        if actor is not None:
            if actor.stage is Stage.WAKING or actor.idleness.began >= self._begun:
                return None
            return actor.idleness.quiet_since if actor.mailbox.waiter is not None else self._begun - _TINY
        if roster.asleep_since is None:
            return None
        return roster.asleep_since - self._runtime.supervisor.definition(roster.key).policy.idle_timeout
