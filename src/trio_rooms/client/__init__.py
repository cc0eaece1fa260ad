"""A client of rooms, which reconnects, resumes its session, and loses nothing silently."""

from __future__ import annotations

from .errors import (
    AnswerLost,
    AskFailed,
    ClientClosed,
    ClientError,
    ConnectionEnded,
    EventsNotTaken,
    TooMuchWaiting,
    UnexpectedData,
    Unreachable,
)
from .events import Event
from .room import ClientStatistics, RemoteRoom, connect_room
from .states import State, StateChanges

__all__ = [
    "AnswerLost",
    "AskFailed",
    "ClientClosed",
    "ClientError",
    "ClientStatistics",
    "ConnectionEnded",
    "Event",
    "EventsNotTaken",
    "RemoteRoom",
    "State",
    "StateChanges",
    "TooMuchWaiting",
    "UnexpectedData",
    "Unreachable",
    "connect_room",
]
