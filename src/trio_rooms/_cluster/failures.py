"""Errors as they go from node to node: what they are called and what they say, and no code."""

from __future__ import annotations

from typing import Any, Final

from trio_rooms import errors
from trio_rooms.errors import RoomsError, Unavailable

__all__ = ["Crowded", "Lost", "NotHere", "pack", "unpack"]

_LONGEST: Final = 10_000
"""Characters of a text that goes along."""


class NotHere(RoomsError):
    """A node was asked about a room that is not at home there; nothing of it was done."""


class Crowded(Unavailable):
    """So much waits for a node that it gets no more for a while; nothing was sent."""


class Lost(Unavailable):
    """A node was lost while it was asked."""


_FIELDS: Final[dict[type[Exception], tuple[str, ...]]] = {
    errors.EventError: ("code", "message"),
    errors.AskRefused: ("key", "code", "message"),
    errors.StaleContext: ("key", "what"),
    errors.ScheduleError: ("key", "name", "why"),
    errors.ScheduleGivenUp: ("key", "name", "attempts"),
    errors.HandlerFailed: ("key", "event"),
    errors.HandlerTimeout: ("key", "handler", "seconds", "place"),
    errors.AskCircle: ("rooms",),
    errors.AskTimeout: ("key", "event", "timeout"),
    errors.NotSaved: ("key", "why"),
    errors.RoomFailed: ("key", "why"),
    Unavailable: ("key", "why"),
    errors.SnapshotError: ("key", "why"),
    errors.SnapshotCorrupt: ("key", "why"),
    errors.MigrationError: ("key", "why"),
    errors.SnapshotTooNew: ("key", "stored", "running"),
}
"""The arguments that some are made of, which they have as attributes."""
_TEXT: Final[tuple[type[Exception], ...]] = (
    RoomsError,
    NotHere,
    errors.UnknownRoom,
    errors.NoConnection,
    errors.RoomsClosed,
    errors.EngineError,
    errors.EngineLost,
    errors.StoreError,
    errors.StoreFull,
    errors.StoreReadOnly,
    errors.StaleWrite,
    errors.StoreClosed,
    TypeError,
    ValueError,
)
"""Those that are made of a text alone."""
_BY_NAME: Final = {kind.__name__: kind for kind in (*_FIELDS, *_TEXT)}


def pack(error: BaseException) -> list[Any]:
    """An error as plain data; one that is none of the library's is told as a text."""
    cause = error.__cause__
    why = "" if cause is None else _text(cause)
    for kind in type(error).__mro__:
        fields = _FIELDS.get(kind)
        if fields is not None:
            return [kind.__name__, [_plain(getattr(error, name)) for name in fields], why]
        if kind in _TEXT:
            return [kind.__name__, [_said(error)], why]
    return [RoomsError.__name__, [_text(error)], why]


def unpack(packed: Any) -> Exception:
    """The error that `pack` was given, with its cause as a text; something else becomes a RoomsError."""
    try:
        name, arguments, why = packed
        error: Exception = _BY_NAME[name](*[tuple(one) if type(one) is list else one for one in arguments])
    except (KeyError, TypeError, ValueError):
        return RoomsError(f"another node failed in a way that is not known here: {packed!r:.1000}")
    if why:
        error.__cause__ = RoomsError(why)
    return error


def _plain(value: Any) -> Any:
    """A field as plain data."""
    if type(value) in (bool, int, float):
        return value
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value)[:_LONGEST]


def _text(error: BaseException) -> str:
    """What is told of an error that does not go along itself."""
    return f"{type(error).__name__}: {_said(error)}"


def _said(error: BaseException) -> str:
    """What an error says, which may be the application's own."""
    try:
        return str(error)[:_LONGEST]
    except Exception as failure:  # noqa: BLE001 (whatever its __str__ raises)
        return f"its text cannot be had: {type(failure).__name__}"
