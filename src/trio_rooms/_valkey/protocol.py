"""What is said between us and a server: commands, answers, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import hiredis

from trio_rooms.errors import EngineError

__all__ = ["AWAY", "MORE", "Argument", "ServerError", "pack", "parser"]

Argument = bytes | str | int | float
"""What a command is made of."""

pack: Final[Callable[[tuple[Argument, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]
"""Its own type speaks of tuples of one."""
MORE: Final = object()
"""What the parser returns where an answer is not whole; False would be an answer, too."""
AWAY: Final = frozenset({"BUSY", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "UNBLOCKED"})
"""What a server says that cannot be written now, or not any more: another may be there instead."""


class ServerError(EngineError):
    """The server has refused a command; nothing of it was done, unless a script says otherwise."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code: str = text.partition(" ")[0]
        """The first word, such as ``NOPERM`` or ``OOM``."""
        self.text: str = text
        """All that it said, the code too."""


def parser() -> hiredis.Reader:
    """Something that finds answers in bytes; its `gets` returns `MORE` where none is whole."""
    return hiredis.Reader(replyError=ServerError, notEnoughData=MORE)
