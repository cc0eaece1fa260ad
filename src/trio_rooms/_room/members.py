"""The connections of an awake room as its handlers know them: one view on each, with what they edited."""

from __future__ import annotations

import logging
from typing import Any, Final

import trio

from trio_rooms._sockets.roster import Link
from trio_rooms.errors import RoomsError

from .connection import Connection
from .context import Context
from .shared import Editable, Shared

__all__ = ["Members"]

logger = logging.getLogger("trio_rooms")

_AT_ONCE: Final = 64
"""Attachments that are encoded between two turns of the event loop; a few milliseconds."""


class Members:
    """Makes one `Connection` and one `Context` for each link that a handler meets, and keeps what it edits.

    Args:
        shared: what the connections need of their room.
        edited: see `Shared.edited`.
    """

    __slots__ = ("_shared", "contexts", "edited", "own")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.edited: set[Editable] = shared.edited
        self.contexts: dict[int, Context[Any]] = {}
        """Those that were made, by the ids of the link and of its session."""
        self.own: Context[Any]
        """The context of what no connection sent; the actor sets it, and takes it away again."""

    def context_for(self, link: Link) -> Context[Any]:
        """The context in which messages of a link are handled."""
        contexts = self.contexts
        context = contexts.get(link.id)
        if context is None:
            sid = link.sid
            context = contexts.get(sid) if sid != link.id else None
            if context is None:
                context = self.new_context(Connection(self._shared, link))
            else:
                before = context.connection.link
                if before.id != sid:
                    contexts.pop(before.id, None)
                context.connection.go_on(link)
            contexts[link.id] = contexts[sid] = context
        return context

    def forget(self, link: Link) -> Context[Any] | None:
        """A connection is gone for good; its context, if there was one."""
        context = self.contexts.pop(link.sid, None)
        if context is not None:
            self.contexts.pop(context.connection.link.id, None)
        self.contexts.pop(link.id, None)
        return context

    def new_context(self, connection: Connection) -> Context[Any]:
        """A context that is not kept."""
        return self.own._for(connection)

    def connection(self, link: Link) -> Connection:
        """The view on a link that all handlers share.

        Raises:
            StaleContext: who asks has kept what is over.
        """
        self._shared.check_life("its connections cannot be looked at")
        return self.context_for(link).connection

    def settle(self) -> None:
        """Keep the attachments that were edited.

        Raises:
            AttachmentError: one cannot be kept and is what it was before; others may be left to settle.
        """
        while self.edited:
            self.edited.pop().settle()

    def settle_quietly(self) -> None:
        """Keep what can be kept of what was edited; the rest is logged."""
        while self.edited:
            try:
                self.settle()
            except RoomsError as error:
                logger.error("%s", error)  # noqa: TRY400

    async def settle_all(self) -> None:
        """Keep what was edited at any time, by tasks that held on to attachments settled before."""
        for number, context in enumerate([*self.contexts.values()]):
            if context.connection.editable:
                self.edited.add(context.connection)
                self.settle_quietly()
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def clear(self) -> None:
        """Forget all views and edits: those who kept some find out."""
        self._shared.over = True
        for context in self.contexts.values():
            context.connection.end()
        self.contexts.clear()
        self.edited.clear()

    def dispose(self) -> None:
        """Make no more of them, and hold nothing that holds this."""
        self.clear()
        self._shared.end()
        del self.own
