"""What arrives for a room: the one narrow way from sockets and programs to an actor.

A message of a socket, which is nearly all mail, is a bare tuple of the link and the
message, because an object for each would cost a tenth of what handling it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from trio_rooms._sockets.links import Link

__all__ = ["Ask", "Connected", "Control", "Disconnected", "Mail", "Reply", "Trouble"]


@attrs.frozen
class Connected:
    """A socket was opened to the room."""

    link: Link


@attrs.frozen
class Disconnected:
    """A socket of the room is gone."""

    link: Link
    code: int
    reason: str
    clean: bool


@attrs.define(eq=False)
class Reply:
    """Where the answer to an `Ask` or a `Control` goes; whoever asked may have stopped waiting."""

    done: Callable[[Reply], None]
    value: Any = None
    error: Exception | None = None
    settled: bool = False

    def succeed(self, value: Any) -> None:
        """Answer, once."""
        self._settle(value, None)

    def fail(self, error: Exception) -> None:
        """Answer with an error, once."""
        self._settle(None, error)

    def _settle(self, value: Any, error: Exception | None) -> None:
        if not self.settled:
            self.settled = True
            self.value, self.error = value, error
            self.done(self)


@attrs.frozen
class Ask:
    """The program asks the room to handle an event."""

    event: str
    data: Any
    reply: Reply


@attrs.frozen
class Control:
    """The program wants the room to sleep now, or to be destroyed."""

    destroy: bool
    reply: Reply


@attrs.frozen
class Trouble:
    """Something outside its handlers went wrong for the room, such as a snapshot that failed."""

    error: Exception


Mail = tuple["Link", str | bytes] | Connected | Disconnected | Ask | Control | Trouble
