"""What of the work that any node could do falls to this one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

import attrs

from trio_rooms._runtime.due import Agenda
from trio_rooms._runtime.janitor import Janitor
from trio_rooms.errors import EngineLost

from .ownership import Ownership
from .placing import first, is_open, serves
from .seat import Member, Seat

__all__ = ["Share"]

_INBOXES: Final = "inboxes"
"""What the removal of expired messages is called, where it is given to a node."""


@attrs.define(eq=False)
class Share:
    """What is due of a room at home here falls to this node; of a room that nobody has, to one for each room.

    That is the one which the room would be placed at, so that it wakes where it is to stay. The inboxes have
    one janitor.

    Args:
        seat: says who this node is, and who else there is.
        ownership: has the rooms that are at home here.
        agenda: handles what is due.
        janitor: removes from inboxes what has expired.
    """

    _seat: Seat
    _ownership: Ownership
    _agenda: Agenda
    _janitor: Janitor

    def __attrs_post_init__(self) -> None:
        """Have both ask here, and look again when it may have changed what falls to this node."""
        self._agenda.share = self
        self._janitor.leads = self.leads
        self._seat.on_gone.append(self._look)
        self._seat.on_resume.append(self._agenda.look)

    def _look(self, _: Any) -> None:
        self._agenda.look()

    def owns(self, key: str) -> bool:
        """See `trio_rooms._runtime.due.Share`."""
        return self._ownership.owns(key)

    async def take(self, key: str) -> bool:
        """See `trio_rooms._runtime.due.Share`."""
        if not self._is_first(
            key, [one for one in self._seat.members.values() if is_open(one) and serves(one, key)]
        ):
            return False
        try:
            return await self._ownership.take(key)
        except EngineLost:
            return False

    def pinned(self, key: str) -> AbstractContextManager[None]:
        """See `trio_rooms._runtime.due.Share`."""
        return self._ownership.pinned(key)

    def leads(self) -> bool:
        """Whether the inboxes are this node's to be kept in order."""
        return self._is_first(_INBOXES, [*self._seat.members.values()])

    def _is_first(self, what: str, members: list[Member]) -> bool:
        if not self._seat.valid:
            return False
        found = first(what, members)
        return found is not None and found.incarnation == self._seat.incarnation
