"""Who is connected where: the users of a process with their connections, found by their names."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import trio

from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Link
from trio_rooms.stores.base import Store

from .courier import Around
from .office import Office, UsersStatistics
from .whereabouts import Whereabouts

__all__ = ["Directory"]


class Directory:
    """The connections of each user that is connected; derived from what exists, and never counted.

    Args:
        hub: has the connections.
        store: has the inboxes.
        around: has the rooms.
        spawn: starts a task of the runtime.
        deadlines: those of the runtime.
    """

    __slots__ = ("links", "office")

    def __init__(
        self,
        hub: SocketHub,
        store: Store,
        around: Around,
        spawn: Callable[[Callable[..., Coroutine[Any, Any, None]]], None],
        deadlines: Deadlines,
    ) -> None:
        self.links: dict[str, Link | tuple[Link, ...]] = {}
        """By user: a tuple only where there are several, since most have one."""
        self.office: Office = Office(self.of, hub, store, around, spawn, deadlines)
        """What is sent to them."""

    def statistics(self) -> UsersStatistics:
        """How many there are, and what they have been sent."""
        return self.office.statistics(len(self.links))

    # See `trio_rooms._sockets.roster.Users`.

    def entered(self, link: Link) -> None:
        """A connection of a user is in its room from now on, and has been greeted if its room greets."""
        user = link.user
        assert user is not None
        there = self.links.get(user)
        if there is None:
            self.links[user] = link
            self.office.came(user)
        elif isinstance(there, Link):
            if there is not link:
                self.links[user] = (there, link)
        elif link not in there:
            self.links[user] = (*there, link)
        self.office.entered(link)

    def left(self, link: Link) -> None:
        """A connection of a user has left its room, or waits to be greeted again; it need not be here."""
        user = link.user
        assert user is not None
        there = self.links.get(user)
        if there is link:
            del self.links[user]
            self.office.went(user)
        elif isinstance(there, tuple) and link in there:
            rest = tuple(one for one in there if one is not link)
            self.links[user] = rest[0] if len(rest) == 1 else rest
        self.office.left(link)

    def acknowledged(self, link: Link, seq: int) -> None:
        """The client of one with a session has everything up to a place in its room's journal."""
        self.office.acknowledged(link, seq)

    def session_over(self, key: str, sid: int, user: str | None = None) -> None:
        """A session is no more; of whom, where it has not acknowledged something."""
        self.office.session_over(key, sid, user)

    def all_over(self, key: str) -> None:
        """All sessions of a room are no more."""
        self.office.all_over(key)

    # Who is where.

    def links_of(self, user: str) -> tuple[Link, ...]:
        """The connections of a user."""
        there = self.links.get(user, ())
        return (there,) if isinstance(there, Link) else there

    def here(self, user: str, room: str) -> Whereabouts:
        """Where a user is connected at this node, or whether to one room, by its key."""
        keys = [link.roster.key for link in self.of(user, room)]
        return Whereabouts(len(keys), tuple(sorted(set(keys))))

    async def where(self, user: str, room: str) -> Whereabouts:
        """The same at all nodes, as far as they say so in a quarter of a second. A checkpoint."""
        await trio.lowlevel.checkpoint()
        here = self.here(user, room)
        return (
            here if self.office.abroad is None else here.and_also(await self.office.abroad.where(user, room))
        )

    def of(self, user: str, room: str) -> Iterator[Link]:
        """The same, or only those in one room, by its key."""
        links = self.links_of(user)
        return iter(links) if not room else (link for link in links if link.roster.key == room)
