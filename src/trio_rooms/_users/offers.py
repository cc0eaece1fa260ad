"""Which messages of inboxes are on their way to whom, until somebody has them.

A message is *out* while a session of its user was sent it and has not acknowledged it, or while it
waits at a connection without a session. It stays in its inbox until then. It may be out at several
places; the first that has it is enough.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

__all__ = ["Offered", "Offers", "Out"]


class Out:
    """One message that is out.

    Args:
        user: whose it is.
        number: its id.
    """

    __slots__ = ("at", "id", "user")

    def __init__(self, user: str, number: int) -> None:
        self.user: str = user
        self.id: int = number
        self.at: list[Offered] = []


class Offered:
    """That a message is out at one place: a session, or a connection without one, of some room.

    Args:
        out: the message.
        key: the room.
        sid: the session, or the connection.
    """

    __slots__ = ("key", "out", "over", "seq", "settled", "sid")

    def __init__(self, out: Out, key: str, sid: int) -> None:
        self.out: Out = out
        self.key: str = key
        self.sid: int = sid
        self.seq: int = 0
        """Its place in the journal of the room; 0 before it has one."""
        self.settled: bool = False
        """Whether somebody has the message."""
        self.over: bool = False
        """Whether this place is no more."""


class Offers:
    """All messages that are out, by user and by place."""

    __slots__ = ("_outs", "_places")

    def __init__(self) -> None:
        self._outs: dict[str, dict[int, Out]] = {}
        self._places: dict[str, dict[int, OrderedDict[int, Offered]]] = {}
        """By room and session, in the order of the journal; what has no place there yet comes last."""

    def is_out(self, user: str, number: int) -> bool:
        """Whether a message is on its way already."""
        return number in self._outs.get(user, ())

    def out(self, user: str, number: int) -> Out:
        """A message that is to be out from now on; it is nowhere yet."""
        return self._outs.setdefault(user, {}).setdefault(number, Out(user, number))

    def offer(self, out: Out, key: str, sid: int, seq: int = 0) -> Offered:
        """It is out here, too."""
        offered = Offered(out, key, sid)
        offered.seq = seq
        out.at.append(offered)
        self._places.setdefault(key, {}).setdefault(sid, OrderedDict())[out.id] = offered
        return offered

    def placed(self, offered: Offered, seq: int) -> None:
        """It has a place in the journal now; after a rollback of the room, another one."""
        offered.seq = seq
        there = self._places.get(offered.key, {}).get(offered.sid)
        if there is not None and there.get(offered.out.id) is offered:
            there.move_to_end(offered.out.id)

    def acknowledged(self, key: str, sid: int, seq: int) -> list[Out]:
        """A session has everything up to a place; returns the messages that somebody has by that."""
        there = self._places.get(key, {}).get(sid)
        found: list[Out] = []
        for offered in there.values() if there else ():
            if not 0 < offered.seq <= seq:
                break
            found.append(offered.out)
        for out in found:
            self.settled(out)
        return found

    def settled(self, out: Out) -> bool:
        """Somebody has a message: it is out no more. False where that is known."""
        outs = self._outs.get(out.user)
        if outs is None or outs.get(out.id) is not out:
            return False
        del outs[out.id]
        if not outs:
            del self._outs[out.user]
        for offered in out.at:
            offered.settled = True
            self._forget(offered)
        return True

    def over(self, key: str, sid: int) -> list[Out]:
        """A session or a connection is no more; returns the messages that are out nowhere by that."""
        there = self._places.get(key, {}).get(sid)
        return self.withdraw([*there.values()] if there else ())

    def all_over(self, key: str) -> list[Out]:
        """The same for all sessions of a room."""
        places = [*self._places.get(key, {}).values()]
        return self.withdraw([offered for there in places for offered in there.values()])

    def withdraw(self, several: Iterable[Offered]) -> list[Out]:
        """Messages are not out here any more; returns those that are out nowhere by that."""
        back = []
        for offered in several:
            if offered.over or offered.settled:
                continue
            offered.over = True
            out = offered.out
            out.at.remove(offered)
            self._forget(offered)
            if not out.at:
                self.settled(out)
                back.append(out)
        return back

    def _forget(self, offered: Offered) -> None:
        rooms = self._places.get(offered.key)
        there = None if rooms is None else rooms.get(offered.sid)
        if rooms is None or there is None or there.get(offered.out.id) is not offered:
            return
        del there[offered.out.id]
        if not there:
            del rooms[offered.sid]
            if not rooms:
                del self._places[offered.key]
