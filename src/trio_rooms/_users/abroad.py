"""Other nodes, which may have connections of the same users."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from trio_rooms._sockets.sent import Sent

from .pending import Item
from .whereabouts import Whereabouts

__all__ = ["Abroad"]


class Abroad(Protocol):
    """What the messages of users need of whoever knows the other nodes.

    What waits for a user is in one inbox for all nodes, and that is the order. Each node looks there for
    what has come since it has last looked, and hands it to all connections that it has of her. What has
    waited there before goes to one connection; so nodes agree first on who offers it.
    """

    def is_home(self, key: str) -> bool:
        """Whether a room is at home here, so that what becomes of its sessions is told here."""

    def came(self, user: str) -> None:
        """A user has a connection here from now on."""

    def went(self, user: str) -> None:
        """A user has no connection here any more."""

    async def known(self, user: str) -> None:
        """Wait until whoever puts something into the inbox of a user tells this node of it.

        Raises:
            StoreError: that cannot be reached now.
        """

    async def ready(self) -> None:
        """Wait until other nodes listen to this one: what it does before that, they may not notice."""

    async def tell(self, user: str, items: Sequence[Item]) -> None:
        """Tell other nodes what was put into the inbox of a user, or is volatile. It does not raise."""

    async def taken(self, user: str, ids: Collection[int]) -> Collection[int]:
        """Which messages that wait other nodes offer to somebody; this one may offer the others.

        `offered` is to be called when it has done that; until then more of them may be taken.

        Raises:
            StoreError: that cannot be found out now.
        """

    def offered(self, user: str) -> None:
        """What this node wanted to offer to a user it has offered."""

    def early(self, number: int, sent: Sent) -> None:
        """What became here of a message of which no other node has told this one yet."""

    def look(self, user: str) -> None:
        """There may be something in the inbox of a user that other nodes can offer."""

    async def where(self, user: str, room: str) -> Whereabouts:
        """Where a user is connected at other nodes, as far as they say so soon; or whether to one room."""

    def close(self) -> None:
        """The rooms have closed: whoever waits for what became of something is told what is known."""
