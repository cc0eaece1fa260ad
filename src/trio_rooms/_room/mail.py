"""What arrives for a room: the one narrow way from sockets and programs to an actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from trio_rooms._sockets.roster import Connected, Disconnected, Dropped, Link, PassOn, Resumed, SocketEvent

from .answers import Answer

__all__ = [
    "LIFECYCLE",
    "Alarm",
    "Ask",
    "Destroy",
    "Hibernate",
    "Mail",
    "Rouse",
    "SaveFailed",
    "cause_of",
    "link_of",
]


def _nothing(*_: object) -> None:
    """Nobody waits to be told."""


@attrs.frozen
class Ask:
    """The program asks the room to handle an event."""

    event: str
    data: Any
    answer: Answer
    trace: Any = None
    """What it belongs to, where there are traces."""


@attrs.frozen
class Hibernate:
    """The program wants the room to sleep now; the answer is whether it does."""

    answer: Answer


@attrs.frozen
class Destroy:
    """The room is to be destroyed: the program asks for it and waits, or one of its own handlers does."""

    answer: Answer | None
    lapsed: bool = False
    """Whether only if nobody is in it, and nothing is to be done: the answer is False where it goes on."""


@attrs.frozen
class Rouse:
    """Something of high priority was sent to one of its users, and the room wants to be awake then."""


@attrs.frozen
class SaveFailed:
    """The room's state could not be saved; its on_error is to hear of it."""

    error: Exception


@attrs.frozen
class Alarm:
    """Something that the room has scheduled may be due. What is, it knows itself."""

    begun: Callable[[], None] = _nothing
    """Called when the room is awake and looks."""
    over: Callable[[bool], None] = _nothing
    """Called once all that is due was handled, or nothing of it is now; and then whether the room refused."""


LIFECYCLE: Final = (Connected, Disconnected, Dropped, Resumed)
"""Mail that tells what has happened to a connection, whatever becomes of the room."""

_OF_CONNECTIONS: Final = (*LIFECYCLE, PassOn)
Mail = Alarm | SocketEvent | Ask | Hibernate | Destroy | Rouse | SaveFailed


def link_of(mail: Mail) -> Link | None:
    """The connection that mail is of; None for what comes from the program or the room itself."""
    if isinstance(mail, tuple):
        return mail[0]
    return mail.link if isinstance(mail, _OF_CONNECTIONS) else None


def cause_of(mail: Mail) -> str:
    """What a `WakeReport` says of a room that this mail wakes."""
    if isinstance(mail, tuple):
        return "message"
    causes = {
        Connected: "connect",
        Disconnected: "disconnect",
        Ask: "ask",
        Destroy: "destroy",
        Alarm: "schedule",
        Rouse: "priority",
    }
    return causes.get(type(mail), "message")
