"""What all parts of one awake room have in common."""

from __future__ import annotations

from typing import Any, Protocol

import trio

from trio_rooms._definition.definition import Definition, Handler
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._sockets.roster import Roster
from trio_rooms.errors import StaleContext

from .handles import Program
from .output import Farewell, Output

__all__ = ["Editable", "Shared", "roster_of"]


class Editable(Protocol):
    """Something that a handler may have edited in place."""

    def settle(self) -> None:
        """Keep it as it is now.

        Raises:
            RoomsError: it cannot be kept; it is again what it was.
        """


class Shared:
    """The room's names and its ways out; the same for as long as it is awake.

    Args:
        definition: what the application wrote.
        roster: its connections.
        output: what it speaks to.
        program: what is around it, for its handlers.
    """

    __slots__ = ("definition", "edited", "hook", "key", "output", "over", "plain", "program", "roster")

    def __init__(self, definition: Definition, roster: Roster, output: Output, program: Program) -> None:
        self.key: str = roster.key
        self.definition: Definition = definition
        self.plain: bool = definition.plain
        self.roster: Roster = roster
        self.output: Output = output
        self.program: Program = program
        self.edited: set[Editable] = set()
        """Attachments that a handler looked at, and may have edited, since they were last settled."""
        self.over: bool = True
        """Whether there is nothing now that a context could change: before the room is loaded, after a
        crash, and once it has ended."""
        self.hook: tuple[str, float] | None = None
        """The hook that runs now, and since when on Trio's clock."""

    async def run(self, name: str, hook: Handler, *arguments: Any) -> None:
        """Run a hook, and have `hook` say so meanwhile."""
        self.hook = (name, trio.current_time())
        try:
            await hook(*arguments)
        finally:
            self.hook = None

    def check_life(self, what: str) -> None:
        """Refuse what would be written into nothing, or into another life of the room.

        Raises:
            StaleContext: this life is over.
        """
        if self.over:
            raise StaleContext(self.key, what)

    def end(self) -> None:
        """Nothing of the room runs any more: whoever kept a context finds out."""
        self.over = True
        self.output = Farewell(self.output, self.key)


def roster_of(hub: SocketHub, definition: Definition, key: str) -> Roster:
    """The connections of a room, awake or asleep; the hub forgets the record when nobody needs it."""
    return hub.roster(key, definition.auto_respond, greets=definition.on_connect is not None)
