"""Ways: how what a program sends to a room of another node gets there, in order, wherever the room is."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import attrs
import trio

from trio_rooms.errors import RoomsClosed, RoomsError, Unavailable

from .calls import Calls
from .failures import Crowded, Lost, NotHere

__all__ = ["Homes", "Letter", "Seated", "Ways"]

logger = logging.getLogger("trio_rooms")

_MOST: Final = 20_000
"""Letters that are under way."""
_MOST_BYTES: Final = 16 * 1024 * 1024
"""Bytes of them."""
_LETTER: Final = 500
"""Bytes that one takes beside what is in it."""
_PAUSES: Final = (0.0, 0.05, 0.3, 0.5)
"""Seconds that are waited before a home is looked for, by how often a letter has found its room gone; then
that is given up. In these times all nodes hear of one that has come."""


_CLOSED: Final = "the rooms have closed"
_CROWDED: Final = 0.02
"""Seconds until it is tried again where too much waits for a node."""


class Homes(Protocol):
    """Says where rooms are at home: this node's `Ownership`."""

    def owns(self, key: str) -> bool:
        """Whether a room is at home here."""

    def known(self, key: str) -> str | None:
        """The other incarnation that a room was at lately, as far as that is remembered and it lives."""

    def misplaced(self, key: str, incarnation: str) -> None:
        """That is not so any more."""

    async def place(self, key: str) -> str:
        """The incarnation that a room is at home at; where it has no home, it gets one.

        Raises:
            Unavailable: that cannot be known now.
        """

    async def find(self, key: str) -> str:
        """The same, but nobody claims it: it is empty where the room has no home.

        Raises:
            Unavailable: that cannot be known now.
        """


class Seated(Protocol):
    """What is asked of this node's seat."""

    incarnation: str

    @property
    def members(self) -> Mapping[str, Any]:
        """The incarnations that live."""


@attrs.define(eq=False)
class Letter:
    """Something for a room, wherever that is. One of the last four is called, once."""

    name: str
    """What is called at another node, see `Desk`."""
    values: tuple[Any, ...]
    size: int
    """Bytes of them, about."""
    here: Callable[[], None]
    """Does it where the room is at home here."""
    done: Callable[[Any], None]
    """Told of the answer of another node."""
    failed: Callable[[Exception], None]
    nobody: Callable[[], None] | None = None
    """Called where the room is at home nowhere; without it, it gets a home."""
    reads: bool = False
    """Whether it may be done twice, and is sent again where a node is lost."""
    tries: int = 0


@attrs.define(eq=False)
class _Way:
    """The letters for one room.

    They go to one node, pipelined, until that refuses one. Then it refuses all of the same turn, and what is
    sent meanwhile waits; so when the last one is back, it is known of each whether it was taken, and all
    that were not go on, with a new turn, to where the room is then.
    """

    key: str
    home: str = ""
    """The other node where it is, as far as that is known; empty from the first refusal on."""
    turn: int = 0
    """Grows each time that its home is looked for: who has refused a letter refuses all of that turn."""
    waiting: deque[Letter] = attrs.field(factory=deque)
    """Not sent, since its home is not known."""
    flight: dict[int, Letter] = attrs.field(factory=dict)
    """Sent and not answered, in order."""
    number: int = 0
    returned: list[Letter] = attrs.field(factory=list)
    """Refused, because the room was not there; those that follow will be, too."""
    refused: int = 0
    """The number of the last of them."""
    looking: bool = False

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.flight or self.returned)


class Ways:
    """Brings letters to rooms: those of one room in the order in which they were sent, each once at most.

    Args:
        homes: says where rooms are.
        seat: says who this node is, and who else there is.
        calls: to the others.
    """

    def __init__(self, homes: Homes, seat: Seated, calls: Calls) -> None:
        self._homes = homes
        self._seat = seat
        self._calls = calls
        self._ways: dict[str, _Way] = {}
        """Of rooms that something is under way to."""
        self._turn = 0
        self._count = 0
        self._size = 0
        calls.on_close.append(self._close)

    def busy(self, key: str) -> bool:
        """Whether something is under way to a room, so that more has to go behind it."""
        return key in self._ways

    def send(self, key: str, letter: Letter) -> bool:
        """Send a letter to a room, behind all that is under way to it.

        Returns:
            False where so much is under way that it is refused.
        """
        size = letter.size + _LETTER
        if self._count >= _MOST or self._size + size > _MOST_BYTES:
            letter.failed(Unavailable(key, "too much is under way to rooms of other nodes"))
            return False
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = _Way(key, self._homes.known(key) or "", self._next_turn())
        self._count += 1
        self._size += size
        if not way.home or way.waiting or not self._post(way, letter):
            way.waiting.append(letter)
            self._look_soon(way)
        return True

    def _settled(self, letter: Letter) -> None:
        """One of the four is called now."""
        self._count -= 1
        self._size -= letter.size + _LETTER

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn

    # To another node.

    def _post(self, way: _Way, letter: Letter) -> bool:
        """Send a letter to where the room is; False where there is no room for it now."""
        way.number += 1
        done, failed = partial(self._done, way, way.number), partial(self._failed, way, way.number)
        way.flight[way.number] = letter
        try:
            self._calls.post(way.home, letter.name, (way.key, way.turn, *letter.values), done, failed)
        except Crowded:
            del way.flight[way.number]
            return False
        except Unavailable as error:
            # Nothing was sent. Where the node is gone, the room is elsewhere now.
            gone = way.home not in self._seat.members
            failed(NotHere(way.key) if gone else error)
        except RoomsError as error:
            failed(error)
        return True

    def _done(self, way: _Way, number: int, value: Any) -> None:
        letter = way.flight.pop(number)
        self._settled(letter)
        try:
            letter.done(value)
        except Exception as error:  # noqa: BLE001 (whoever sent it is told)
            letter.failed(error)
        self._after(way)

    def _failed(self, way: _Way, number: int, error: Exception) -> None:
        letter = way.flight.pop(number)
        if isinstance(error, Lost) and letter.reads:
            letter.tries += 1
            way.waiting.append(letter)
        elif isinstance(error, NotHere):
            letter.tries += 1
            self._homes.misplaced(way.key, way.home)
            way.home = ""
            way.returned.append(letter)
            way.refused = number
        else:
            self._settled(letter)
            if isinstance(error, Unavailable):
                error = Unavailable(way.key, error.why)
            elif isinstance(error, RoomsClosed) and not self._calls.closed:
                error = Unavailable(way.key, "its node stops")
            letter.failed(error)
        self._after(way)

    def _after(self, way: _Way) -> None:
        """A letter has been answered, or has come back."""
        flight = way.flight
        if way.returned and not (flight and next(reversed(flight)) > way.refused):
            # All that was sent behind the first one has come back as well.
            way.waiting.extendleft(reversed(way.returned))
            way.returned = []
        if way.waiting and not way.returned:
            self._look_soon(way)
        elif not (way.busy or way.looking):
            self._ways.pop(way.key, None)

    # Looking for its home.

    def _look_soon(self, way: _Way) -> None:
        if self._calls.closed:
            self._give_up(way, RoomsClosed(_CLOSED))
        elif not way.looking:
            way.looking = True
            self._calls.lanes.spawn(self._look, way)

    def _close(self) -> None:
        """Nothing is sent any more, and it may be that nobody looks for homes."""
        for way in list(self._ways.values()):
            self._give_up(way, RoomsClosed(_CLOSED))

    async def _look(self, way: _Way) -> None:
        """Find out where a room is, and send what waits for that."""
        homes, key = self._homes, way.key
        try:
            while way.waiting and not way.returned:
                self._give_up_some(way)
                if not way.waiting:
                    break
                if way.home:
                    # It was crowded, or is gone. Meanwhile it may have refused what was sent before.
                    await trio.sleep(_CROWDED)
                    if way.home:
                        self._send_waiting(way, way.home)
                    continue
                await trio.sleep(_PAUSES[max(letter.tries for letter in way.waiting)])
                wants = any(letter.nobody is None for letter in way.waiting)
                try:
                    home = await (homes.place(key) if wants else homes.find(key))
                except RoomsError as error:
                    why = error.why if isinstance(error, Unavailable) else str(error)
                    self._give_up(way, Unavailable(key, why))
                    continue
                self._send_waiting(way, home)
        except trio.Cancelled:
            self._give_up(way, RoomsClosed(_CLOSED))
            raise
        except Exception as error:
            logger.exception("room %s: what was sent to it is lost", key)
            self._give_up(way, Unavailable(key, str(error)))
        finally:
            way.looking = False
        if not way.busy:
            self._ways.pop(way.key, None)

    def _give_up(self, way: _Way, error: RoomsError) -> None:
        """What waits goes nowhere."""
        waiting, way.waiting = way.waiting, deque()
        for letter in waiting:
            self._settled(letter)
            letter.failed(type(error)(*error.args))

    def _give_up_some(self, way: _Way) -> None:
        """Give up what has found the room gone too often."""
        for letter in [one for one in way.waiting if one.tries >= len(_PAUSES)]:
            way.waiting.remove(letter)
            self._settled(letter)
            letter.failed(Unavailable(way.key, "it moves from node to node"))

    def _send_waiting(self, way: _Way, home: str) -> None:
        """Send what waits to where the room is, in one step."""
        waiting, way.waiting = way.waiting, deque()
        mine = home == self._seat.incarnation
        if not way.home:
            way.home = "" if mine else home
            way.turn = self._next_turn()
        lost = mine and not self._homes.owns(way.key)
        for letter in waiting:
            letter.tries += lost
            if lost or way.waiting or not (home or letter.nobody):
                way.waiting.append(letter)
            elif not home or mine:
                self._settled(letter)
                self._do(letter, letter.here if home else letter.nobody)
            elif not self._post(way, letter):
                way.waiting.append(letter)

    def _do(self, letter: Letter, action: Callable[[], None] | None) -> None:
        """Do what a letter says, here."""
        assert action is not None
        try:
            action()
        except Exception as error:  # noqa: BLE001 (whoever sent it is told)
            letter.failed(error)
