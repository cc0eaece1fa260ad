"""The connections of an awake room as its handlers know them: one view on each, with what they edited."""

from __future__ import annotations

import logging
from typing import Any, Final
from weakref import WeakValueDictionary

import trio

from trio_rooms._sockets.roster import Link
from trio_rooms.errors import RoomsError

from .background import Background
from .connection import Connection
from .context import Context
from .shared import Editable, Shared

__all__ = ["Members"]

logger = logging.getLogger("trio_rooms")

_AT_ONCE: Final = 64
"""Attachments that are encoded between two turns of the event loop; a few milliseconds."""


class Members:
    """Makes one `Connection` and one `Context` for each link that a handler meets, and keeps what it edits.

    Of a hibernated connection it keeps nothing. As long as somebody else holds the view on it, that one
    is found again, so that there are never two.

    Args:
        shared: what the connections need of their room.
        edited: see `Shared.edited`.
    """

    __slots__ = ("_held", "_shared", "background", "contexts", "edited", "own")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.edited: dict[Editable, None] = shared.edited
        self.contexts: dict[int, Context[Any]] = {}
        """Those that were made, by the ids of the link and of its session."""
        self._held: WeakValueDictionary[int, Connection] | None = None
        """By the ids of their sessions, the views on hibernated connections that somebody holds."""
        self.background: Background | None = None
        """The room's tasks; the actor's to set, and to take away again."""
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
                context = self.new_context(self._released(link) or Connection(self._shared, link))
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
        elif (view := self._released(link)) is not None:
            context = self.new_context(view)
        self.contexts.pop(link.id, None)
        return context

    def park(self, link: Link, *, handling: bool) -> None:
        """A connection is hibernated: keep nothing of it but what somebody holds.

        Its view stays where its attachment may be edited still: by the handler or the hook that runs, or by a
        task, which may hold the attachment alone.

        Args:
            link: the connection.
            handling: whether a handler or a hook runs.
        """
        context = self.contexts.get(link.sid)
        if context is None:
            return
        connection = context.connection
        if connection.editable and self.background is not None and self.background.started:
            self.edited[connection] = None  # A task may have edited it since it was settled.
        if connection in self.edited and not handling:
            self.settle_quietly()
        if connection in self.edited or (connection.editable and self._has_tasks):
            return
        self.forget(link)
        self._release(link, connection)

    @property
    def _has_tasks(self) -> bool:
        """Whether tasks of the room run, which may hold anything."""
        return self.background is not None and self.background.tasks > 0

    def _release(self, link: Link, view: Connection) -> None:
        """Keep a view as long as somebody else holds it."""
        if self._held is None:
            self._held = WeakValueDictionary()
        self._held[link.sid] = view

    def _released(self, link: Link) -> Connection | None:
        """The view on a connection without a context, if somebody holds one; it is kept here no more."""
        view = None if self._held is None else self._held.pop(link.sid, None)
        if view is not None:
            view.go_on(link)
        return view

    def new_context(self, connection: Connection) -> Context[Any]:
        """A context that is not kept."""
        return self.own._for(connection)

    def connection(self, link: Link) -> Connection:
        """The view on a link that all handlers share.

        Raises:
            StaleContext: who asks has kept what is over.
        """
        self._shared.check_life("its connections cannot be looked at")
        active = link.roster.active
        context = self.contexts.get(link.sid)
        if context is not None or self._has_tasks or (active is not None and link in active):
            return self.context_for(link).connection
        view = self._released(link) or Connection(self._shared, link)
        self._release(link, view)
        return view

    def settle(self) -> None:
        """Keep the attachments that were edited.

        Raises:
            AttachmentError: one cannot be kept and is what it was before; others may be left to settle.
        """
        while self.edited:
            view, _ = self.edited.popitem()
            view.settle()
            if self._held and self._has_tasks:
                self._hold_on(view)

    def _hold_on(self, view: Editable) -> None:
        """Keep the view on a hibernated connection: a task may hold its attachment alone, and edit it."""
        if isinstance(view, Connection) and self._released(view.link) is not None:
            link, context = view.link, self.new_context(view)
            self.contexts[link.id] = self.contexts[link.sid] = context

    def settle_quietly(self) -> None:
        """Keep what can be kept of what was edited; the rest is logged."""
        while self.edited:
            try:
                self.settle()
            except RoomsError as error:
                logger.error("%s", error)  # noqa: TRY400

    async def settle_all(self) -> None:
        """Keep what was edited at any time, by tasks that held on to attachments settled before."""
        views = [context.connection for context in self.contexts.values()]
        for number, view in enumerate([*views, *(self._held or {}).values()]):
            if view.editable:
                self.edited[view] = None
                self.settle_quietly()
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def clear(self) -> None:
        """Forget all views and edits: those who kept some find out."""
        self._shared.over = True
        for context in self.contexts.values():
            context.connection.end()
        for view in (self._held or {}).values():
            view.end()
        self._held = None
        self.contexts.clear()
        self.edited.clear()

    def dispose(self) -> None:
        """Make no more of them, and hold nothing that holds this."""
        self.clear()
        self._shared.end()
        self.background = None
        del self.own
