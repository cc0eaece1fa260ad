"""The inboxes of users, for the store in memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from itertools import islice

import attrs

from .agenda import Agenda
from .base import InboxSize, Offer, Post, Waiting
from .checks import OVERHEAD

__all__ = ["Inboxes"]


@attrs.define(eq=False)
class _Inbox:
    """What waits for one user."""

    messages: dict[int, Waiting] = attrs.field(factory=dict, init=False)
    """By position, ascending."""
    places: dict[int, int] = attrs.field(factory=dict, init=False)
    """Positions by ids."""
    bytes: int = attrs.field(default=0, init=False)

    @property
    def size(self) -> InboxSize:
        return InboxSize(len(self.messages), self.bytes)


@attrs.define(eq=False)
class Inboxes:
    """All that waits for users; one in which nothing is left is gone."""

    _inboxes: dict[str, _Inbox] = attrs.field(factory=dict, init=False)
    _ends: Agenda[tuple[int, str]] = attrs.field(factory=Agenda, init=False)
    """When messages expire, by position and user."""
    _posted: int = attrs.field(default=0, init=False)
    """The position that was given out last, to whomever."""

    def post(self, posts: Iterable[Post]) -> dict[str, InboxSize]:
        """Put messages in; gives how much each of their users has now."""
        found = {}
        for post in posts:
            inbox = self._inboxes.get(post.user)
            if inbox is None:
                inbox = self._inboxes[post.user] = _Inbox()
            if post.id not in inbox.places:
                self._posted += 1
                inbox.places[post.id] = self._posted
                inbox.messages[self._posted] = Waiting(self._posted, post)
                inbox.bytes += len(post.body) + OVERHEAD
                self._ends.set((self._posted, post.user), post.expires)
            found[post.user] = inbox
        return {user: inbox.size for user, inbox in found.items()}

    def offer(self, offers: Mapping[int, Offer]) -> None:
        """Note to which sessions messages are on their way."""
        for id_, offer in offers.items():
            inbox = self._inboxes.get(offer.user)
            position = None if inbox is None else inbox.places.get(id_)
            if inbox is not None and position is not None:
                inbox.messages[position] = attrs.evolve(inbox.messages[position], offer=offer)

    def settle(self, user: str, ids: Collection[int]) -> None:
        """Remove messages."""
        inbox = self._inboxes.get(user)
        if inbox is None:
            return
        for id_ in ids:
            position = inbox.places.pop(id_, None)
            if position is not None:
                inbox.bytes -= len(inbox.messages.pop(position).post.body) + OVERHEAD
                self._ends.set((position, user), None)
        if not inbox.messages:
            del self._inboxes[user]

    def inbox(self, user: str, after: int, limit: int | None) -> list[Waiting]:
        """Messages of one user by their places, those above ``after``, at most ``limit``."""
        inbox = self._inboxes.get(user)
        if inbox is None:
            return []
        behind = (one for position, one in inbox.messages.items() if position > after)
        return list(islice(behind, limit))

    def size(self, user: str) -> InboxSize:
        """How much waits for one user."""
        inbox = self._inboxes.get(user)
        return InboxSize() if inbox is None else inbox.size

    def sizes(self, users: Iterable[str]) -> list[tuple[str, InboxSize]]:
        """How much waits for each of these, who have something."""
        return [(user, self._inboxes[user].size) for user in users]

    def users(self) -> Collection[str]:
        """Who has something."""
        return self._inboxes.keys()

    def expired(self, now: float, limit: int, after: tuple[float, str, int] | None) -> list[Waiting]:
        """What has expired, the longest first, behind what has this time, user and position."""
        behind = -math.inf if after is None else (after[0], (after[2], after[1]))
        first = self._ends.first(now, limit, behind)
        return [self._inboxes[user].messages[position] for _, (position, user) in first]
