"""The connections of an awake room as its handlers know them: one view on each, with what they edited."""

from __future__ import annotations

import logging
from typing import Any

from trio_rooms._sockets.roster import Link
from trio_rooms.errors import RoomsError

from .connection import Connection
from .context import Context
from .shared import Editable, Shared

__all__ = ["Members"]

logger = logging.getLogger("trio_rooms")


class Members:
    """Makes one `Connection` and one `Context` for each link that a handler meets, and keeps what it edits.

    Args:
        shared: what the connections need of their room.
        edited: see `Shared.edited`.
    """

    __slots__ = ("_disposed", "_shared", "contexts", "edited", "own")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._disposed = False
        self.edited: set[Editable] = shared.edited
        self.contexts: dict[int, Context[Any]] = {}
        """Those that were made, by the id of the link."""
        self.own: Context[Any]
        """The context of what no connection sent; the actor sets it, and takes it away again."""

    def context_for(self, link: Link) -> Context[Any]:
        """The context in which messages of a link are handled."""
        context = self.contexts.get(link.id)
        if context is None:
            context = self.contexts[link.id] = self.new_context(Connection(self._shared, link))
        return context

    def new_context(self, connection: Connection) -> Context[Any]:
        """A context that is not kept."""
        return self.own._for(connection)

    def connection(self, link: Link) -> Connection:
        """The view on a link that all handlers share; one of its own for a context kept beyond the sleep."""
        if self._disposed:
            return Connection(self._shared, link)
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

    def clear(self) -> None:
        """Forget all views and edits."""
        self.contexts.clear()
        self.edited.clear()

    def dispose(self) -> None:
        """Make no more of them, and hold nothing that holds this."""
        self.clear()
        self._disposed = True
        del self.own
