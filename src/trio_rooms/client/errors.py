"""The errors of a client: what each is about, whether trying again can help, what may have been applied.

::

    RoomsError
    └── ClientError             all that a client raises, but for mistakes in its arguments
        ├── AskFailed           the room answered with an error; an EventError too
        ├── AnswerLost          the answer will not come, mostly since the session is lost
        ├── ConnectionEnded     the server refused or closed the connection for good
        ├── Unreachable         the first connect was not made in time
        ├── EventsNotTaken      the caller: the answer is behind events that nobody takes
        ├── TooMuchWaiting      what waits to be sent has reached its bound
        ├── UnexpectedData      what came does not fit the type that was asked for
        └── ClientClosed        the caller: used after its block, or the block ended meanwhile
"""

from __future__ import annotations

from typing import Final

from trio_rooms.errors import EventError, RoomsError

__all__ = [
    "AnswerLost",
    "AskFailed",
    "ClientClosed",
    "ClientError",
    "ConnectionEnded",
    "EventsNotTaken",
    "TooMuchWaiting",
    "UnexpectedData",
    "Unreachable",
]


class ClientError(RoomsError):
    """What a client raises.

    Attributes:
        retry: whether the same request can succeed when it is made again, with nothing else changed.
        applied: whether the room has done what was asked: True, False, or None where it may have.
            To try again after None may do it twice.
    """

    retry: bool = False
    applied: bool | None = None


FORGOTTEN: Final = "forgotten"
"""The reason of an `AnswerLost` where the server knows that it has answered, and not what."""

_VERDICTS: Final[dict[str, tuple[bool, bool | None]]] = {
    "invalid_message": (False, False),
    "unknown_event": (False, False),
    "invalid_data": (False, False),
    "not_saved": (True, False),
    "room_failed": (True, False),
    "handler_timeout": (True, None),
    "internal_error": (False, None),
}
"""``retry`` and ``applied`` by the codes that the library has; an application's codes have (False, None)."""


class AskFailed(ClientError, EventError):
    """The room answered with an error: it refused the event, or failed at it.

    What `retry` and `applied` say goes by the code. Of an application's own codes only the application
    knows; for these they are False and None.

    Attributes:
        code: the short name that programs compare.
        message: the sentence that people read.
        event: the event that was asked.
    """

    retry: bool
    applied: bool | None

    def __init__(self, code: str, message: str, event: str) -> None:
        EventError.__init__(self, code, message)
        self.event = event
        self.retry, self.applied = _VERDICTS.get(code, (False, None))

    def __reduce__(self) -> tuple[type[AskFailed], tuple[str, str, str]]:
        return type(self), (self.code, self.message, self.event)  # To be copied and pickled.

    def __str__(self) -> str:
        return f"{self.event!r} failed: {EventError.__str__(self)}"


class AnswerLost(ClientError):
    """An answer that was awaited will not come.

    Where the session was lost meanwhile, ``reason`` is the server's: ``unknown``, ``expired`` or
    ``too_far_behind``; ``none`` for a room that keeps no sessions. Whether the room handled what was asked,
    nobody can tell, and to ask again may do it twice.

    Where it is ``forgotten``, the room has handled it (``applied`` is True), and its answer was lost on
    the way. The server keeps the latest 64 KiB of answers for each session, and this one is not among them.
    """

    def __init__(self, event: str, reason: str) -> None:
        super().__init__(event, reason)
        self.event = event
        self.reason = reason
        self.retry: bool = reason != FORGOTTEN
        self.applied: bool | None = None if self.retry else True

    def __str__(self) -> str:
        if not self.retry:
            return f"{self.event!r} was handled, and its answer was lost on the way and is not kept any more"
        return (
            f"the session was lost ({self.reason}) before {self.event!r} was answered; "
            "it may have been applied"
        )


class ConnectionEnded(ClientError):
    """The server refused or closed the connection for good, and the client has ended.

    Attributes:
        status: the HTTP status that the connection was refused with; None where it was closed, and
            where it was this side that refused the server's certificate.
        code: the close code; None where it was refused.
        reason: the server's words; or what the server did wrong, where this side ended it.
    """

    def __init__(
        self, status: int | None, code: int | None, reason: str, applied: bool | None = None
    ) -> None:
        super().__init__(status, code, reason, applied)
        self.status = status
        self.code = code
        self.reason = reason
        self.applied = applied

    def __str__(self) -> str:
        if self.code is not None:
            how = f"closed with {self.code}"
        else:
            how = "refused" if self.status is None else f"refused with HTTP {self.status}"
        why = f": {self.reason}" if self.reason else ""
        return f"the connection was {how}, for good{why}"


class Unreachable(ClientError):
    """The first connect was not made in time; ``__cause__`` tells of the last attempt."""

    retry: bool = True
    applied: bool | None = False

    def __init__(self, url: str, attempts: int, why: str) -> None:
        super().__init__(url, attempts, why)
        self.url = url
        self.attempts = attempts
        self.why = why

    def __str__(self) -> str:
        tried = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"{self.url} was not reached in {tried}: {self.why}"


class EventsNotTaken(ClientError):
    """The answer is behind more events than may wait, and nobody takes them.

    Take them in a task of their own, or connect with ``events=False``.
    """

    retry: bool = True

    def __init__(self, event: str, count: int, applied: bool | None = None) -> None:
        super().__init__(event, count, applied)
        self.event = event
        self.count = count
        self.applied = applied

    def __str__(self) -> str:
        sent = "; it may have been applied" if self.applied is None else ""
        return (
            f"{self.event!r} is not answered, since {self.count} events come before the answer and nobody "
            f"takes them; take them in a task of their own, or connect with events=False{sent}"
        )


class TooMuchWaiting(ClientError):
    """What waits to be sent or answered has reached its bound; the event was not taken.

    ``await room.flush()`` waits until what waits unsent is sent.
    """

    retry: bool = True
    applied: bool | None = False

    def __init__(self, count: int, size: int) -> None:
        super().__init__(count, size)
        self.count = count
        self.size = size

    def __str__(self) -> str:
        return (
            f"{self.count} messages of {self.size} bytes wait to be sent or answered, as many as may; "
            "await room.flush() waits until they are sent"
        )


class UnexpectedData(ClientError):
    """The data of an answer or an event does not fit the type that it was to become.

    Where it is an answer, the room has done what was asked, and ``applied`` is True.
    """

    def __init__(self, what: str, why: str, applied: bool | None = None) -> None:
        super().__init__(what, why, applied)
        self.what = what
        self.why = why
        self.applied = applied

    def __str__(self) -> str:
        return f"{self.what} is not as expected: {self.why}"


class ClientClosed(ClientError):
    """The client was used after its ``async with`` block, or that ended while an answer was awaited."""

    def __init__(self, applied: bool | None = False) -> None:
        super().__init__(applied)
        self.applied = applied

    def __str__(self) -> str:
        sent = "; what was asked may have been applied" if self.applied is None else ""
        return f"this client is closed: its async with block has ended{sent}"
