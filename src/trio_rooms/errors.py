"""The errors of trio_rooms, and whose fault each one is.

::

    RoomsError
    ├── DefinitionError         the application: a room is defined in a way that cannot work
    ├── UnknownRoom             the caller: no such room, or an id that is not allowed
    ├── Refused                 the application, to a client: raised by ``authenticate``
    ├── EventError              the client: what it sent is refused; it is told code and message
    │   └── AskRefused          the caller of ``ask``: the room has no such event, or the data does not fit
    ├── NoConnection            the application: a message that came from the program has no connection
    ├── ConnectionGone          the world: a connection ended while a handler waited for its output
    ├── AttachmentError         the application: an attachment is too big or not CBOR-able
    ├── StaleContext            the application: a context was used after its room had gone to sleep
    ├── ScheduleError           the application: a room has scheduled too much
    ├── ScheduleGivenUp         the application: the handler of a schedule failed with every attempt
    ├── HandlerFailed           the application: a handler raised; its exception is the cause
    ├── HandlerTimeout          the application: a handler took longer than its room allows
    ├── AskCircle               the application: a room would wait for itself
    ├── AskTimeout              a room did not answer in time
    ├── NotSaved                the world: what was done could not be made durable, and is undone
    ├── RoomFailed              a room could not be started, or crashed too often
    ├── RoomsClosed             the caller: the runtime is stopping or has stopped
    ├── CannotListen            the operator: nobody may listen at that address; an OSError too
    ├── Unavailable             the world: a room cannot be reached now; whether it has happened is not known
    ├── EngineError             the operator: the engine is not what it has to be
    │   └── EngineLost          the world: the engine cannot be reached, or the connection to it broke
    ├── SnapshotError
    │   ├── StateError          the application: the state holds what CBOR cannot
    │   ├── SnapshotCorrupt     the world: a stored document does not decode
    │   ├── SnapshotTooNew      the operator: written by a newer version of the room
    │   └── MigrationError      the application: a migration is missing or raised
    └── StoreError
        ├── StoreInUse          the operator: another server has this data directory
        ├── StoreFull           the world: no room on the disk
        ├── StoreReadOnly       the operator: the data directory cannot be written
        ├── StaleWrite          somebody else has written this room, or opened the store, since
        └── StoreClosed         the caller: used before it was opened or after it was closed
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = [
    "AskCircle",
    "AskRefused",
    "AskTimeout",
    "AttachmentError",
    "CannotListen",
    "ConnectionGone",
    "DefinitionError",
    "EngineError",
    "EngineLost",
    "EventError",
    "HandlerFailed",
    "HandlerTimeout",
    "MigrationError",
    "NoConnection",
    "NotSaved",
    "Refused",
    "RoomFailed",
    "RoomsClosed",
    "RoomsError",
    "ScheduleError",
    "ScheduleGivenUp",
    "SnapshotCorrupt",
    "SnapshotError",
    "SnapshotTooNew",
    "StaleContext",
    "StaleWrite",
    "StateError",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreReadOnly",
    "Unavailable",
    "UnknownRoom",
]


class RoomsError(Exception):
    """What every error of this library is."""


class DefinitionError(RoomsError):
    """A room is defined in a way that cannot work; the message shows what to write instead."""


class UnknownRoom(RoomsError):
    """No room of that name is served here, or the id is not one that a room may have."""


class Refused(RoomsError):
    """Raised by ``authenticate`` to turn a client away before it is in its room.

    The client gets an HTTP response and no WebSocket. A page in a browser cannot see its status: all
    that it is told is that the connection failed, and it tries again. With ``close`` its WebSocket
    is opened and closed at once, with a code and a reason that it can see. No room hears of either.

    Args:
        status: the HTTP status of the response, 400 to 599; usually 401 or 403.
        reason: one line of text that the client gets, as the body of the response or as the
            reason of the close; as that, it is cut to 123 bytes of UTF-8.
        close: a close code in the place of a response: 1008, 1013, or 3000 to 4999.
        headers: more headers of the response, by name. A 401 without a ``WWW-Authenticate`` says
            ``Bearer``.

    Raises:
        TypeError: the reason is no string, or the code no whole number.
        ValueError: no such status, code or header may be sent.
    """

    def __init__(
        self,
        status: int = 403,
        reason: str = "",
        *,
        close: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if status not in range(400, 600):
            usual = 'a client is refused with an HTTP status from 400 to 599, as in Refused(401, "why")'
            msg = f"{usual}, not {status!r}"
            raise ValueError(msg)
        given: tuple[object, ...] = (reason, 0 if close is None else close)  # Whatever it is annotated as.
        if not isinstance(given[0], str) or not isinstance(given[1], int):
            msg = f"a client is refused with a reason, a string, and perhaps a code, not {given!r:.100}"
            raise TypeError(msg)
        if close is not None and close not in (1008, 1013) and not 3000 <= close <= 4999:
            msg = f"a client is refused with the close code 1008, 1013, or one from 3000 to 4999, not {close}"
            raise ValueError(msg)
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.close = close
        self.headers: Mapping[str, str] = dict(headers or {})
        for name, value in self.headers.items():
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _KEPT:
                msg = f"no such header may be sent in a response: {name!r:.100}: {value!r:.100}"
                raise ValueError(msg)

    def __str__(self) -> str:
        how = f"{self.status}" if self.close is None else f"the close code {self.close}"
        return f"refused with {how}: {self.reason}" if self.reason else f"refused with {how}"


_NAME: Final = re.compile("[!#$%&'*+\\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile("[\t\x20-\x7e\x80-\xff]*")
"""What a header's name and value may be (RFC 9110, 5)."""
_KEPT: Final = frozenset(("connection", "content-length", "content-type", "date", "transfer-encoding"))
"""Headers that the library writes itself."""


_CODE: Final = re.compile(r"\S{1,100}")
"""What the code of an `EventError` may be."""


class EventError(RoomsError):
    """An event was refused, and its sender is told why.

    A handler raises it to answer its client with a code and a message of its own; the
    library raises it for what never reaches a handler: ``invalid_message``,
    ``unknown_event``, ``invalid_data``. ``ask`` raises it to its caller.

    Args:
        code: a short name that programs compare, such as ``"sold_out"``, without spaces.
        message: a sentence that people read.

    Raises:
        TypeError: one of them is no string.
        ValueError: the code is no such name.
    """

    def __init__(self, code: str, message: str = "") -> None:
        given: tuple[object, ...] = (code, message)  # Whatever it is annotated as, any value may be raised.
        if not all(isinstance(one, str) for one in given):
            msg = (
                f"an EventError has a code and a message, two strings, not {code!r:.100} and {message!r:.100}"
            )
            raise TypeError(msg)
        if not _CODE.fullmatch(code):
            msg = (
                f"the code of an EventError is a short name without spaces, not {code!r:.100}; the text is "
                'second, as in EventError("sold_out", "there are no seats left")'
            )
            raise ValueError(msg)
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class AskRefused(EventError):
    """A room was asked for an event that it does not have, or with data that does not fit it.

    That is a mistake of who asks. A handler that does not catch it has failed, and its own client is
    told ``internal_error``. An `EventError` that the asked handler raised is something else: it passes
    through to the client.
    """

    def __init__(self, key: str, code: str, message: str) -> None:
        super().__init__(code, message)
        self.key = key

    def __reduce__(self) -> tuple[type[AskRefused], tuple[str, str, str]]:
        return type(self), (self.key, self.code, self.message)  # To be copied and pickled.

    def __str__(self) -> str:
        return f"room {self.key}: {super().__str__()}"


class NoConnection(RoomsError):
    """A handler used ``ctx.connection``, but what it handles came from the program and not from a socket."""


class ConnectionGone(RoomsError):
    """A connection is closing or gone, and what was sent to it may not have arrived.

    ``id`` is the connection's. It is nobody's fault: where a handler whose message came from that
    connection lets it through, or a background task, nothing is logged and nobody is told.
    """

    def __init__(self, key: str, id_: str) -> None:
        super().__init__(key, id_)
        self.key = key
        self.id = id_

    def __str__(self) -> str:
        return f"room {self.key}: connection {self.id} is gone"


class AttachmentError(RoomsError):
    """An attachment is larger than the room allows, or holds what CBOR cannot."""


class StaleContext(RoomsError):
    """A context, or what came from one, was used after the life of the room that it belongs to.

    It lasts until the room sleeps, is destroyed or stops, and the tasks that were started in it have
    ended; while a room starts again after a crash it has no state, and what was known of its connections
    is over. The program reaches the room at any time with ``rooms.get(name, id)``.
    """

    def __init__(self, key: str, what: str) -> None:
        super().__init__(key, what)
        self.key = key
        self.what = what

    def __str__(self) -> str:
        return (
            f"room {self.key}: {self.what} through a context whose life is over, since the room has fallen "
            "asleep, crashed or ended; use rooms.get(name, id), which reaches it at any time"
        )


class ScheduleError(RoomsError):
    """Something cannot be scheduled, because its room has scheduled too much."""

    key: str
    """The room."""
    name: str
    """What was to be scheduled."""

    def __init__(self, key: str, name: str, why: str) -> None:
        super().__init__(key, name, why)
        self.key = key
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"room {self.key}: {self.name!r:.100} is not scheduled: {self.why}"


class ScheduleGivenUp(RoomsError):
    """The handler of a schedule failed with every attempt; the last error is its cause.

    What happens once is kept and not due any more: schedule it again, or cancel it. What comes again goes on
    with its next occurrence.
    """

    key: str
    """The room."""
    name: str
    """What was scheduled."""
    attempts: int
    """How many there were."""

    def __init__(self, key: str, name: str, attempts: int) -> None:
        super().__init__(key, name, attempts)
        self.key = key
        self.name = name
        self.attempts = attempts

    def __str__(self) -> str:
        return f"room {self.key}: {self.name!r:.100} is given up after {self.attempts} attempts"


class HandlerFailed(RoomsError):
    """A handler raised while it handled what was asked; ``__cause__`` is its exception."""

    def __init__(self, key: str, event: str) -> None:
        super().__init__(key, event)
        self.key = key
        self.event = event

    def __str__(self) -> str:
        return f"room {self.key}: the handler of {self.event!r} raised"


class HandlerTimeout(RoomsError, TimeoutError):
    """A handler took longer than its room's ``handler_timeout``, and was cancelled.

    Attributes:
        key: the room.
        handler: the event, or the name of the hook.
        seconds: what it had.
        place: ``"file:line"`` of the application that it waited at; empty where that is not known.
    """

    def __init__(self, key: str, handler: str, seconds: float, place: str = "") -> None:
        super().__init__(key, handler, seconds, place)
        self.key = key
        self.handler = handler
        self.seconds = seconds
        self.place = place

    def __str__(self) -> str:
        where = f", at {self.place}" if self.place else ""
        return (
            f"room {self.key}: the handler {self.handler!r} was cancelled{where}: it took longer than "
            f"handler_timeout={self.seconds:g}"
        )


class AskCircle(RoomsError):
    """A handler asks a room that waits for this handler: none of them would ever go on.

    Attributes:
        rooms: their keys, each of which asks the next; the first and the last are the same.
    """

    def __init__(self, rooms: tuple[str, ...]) -> None:
        super().__init__(rooms)
        self.rooms = rooms

    def __str__(self) -> str:
        return (
            f"room {self.rooms[0]} would wait for itself: {' asks '.join(self.rooms)}, and a room handles "
            "one message at a time; call the function itself, or ask in a task of ctx.room.start_soon()"
        )


class AskTimeout(RoomsError, TimeoutError):
    """A room did not answer in time; what was asked is handled all the same, once its turn has come."""

    def __init__(self, key: str, event: str, timeout: float) -> None:
        super().__init__(key, event, timeout)
        self.key = key
        self.event = event
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"room {self.key} has not answered {self.event!r} within {self.timeout:g} s: it is busy, or its "
            "handler hangs; ask(..., timeout=math.inf) waits for as long as it takes"
        )


class NotSaved(RoomsError):
    """What was done could not be made durable.

    From ``ask`` and its like: nothing of it was done, and nobody has seen any of it; to try again may help.
    From ``ctx.commit()``: it is not known to be durable; the room goes on as it is.
    ``__cause__`` is what the store or the state said.

    Attributes:
        key: the room.
        why: what kept it from being saved.
    """

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return f"room {self.key} could not save this: {self.why}"


class RoomFailed(RoomsError):
    """A room could not be started, or crashed too often; ``__cause__`` is the last reason."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return f"room {self.key} failed: {self.why}"


class RoomsClosed(RoomsError):
    """The runtime is stopping or has stopped; nothing new is taken."""


class CannotListen(RoomsError, OSError):
    """Nobody may listen at that address: ``errno`` says why, and the message what to do about it."""

    def __str__(self) -> str:
        return str(self.strerror)


class Unavailable(RoomsError):
    """A room, or what it is kept in, cannot be reached now; whether it has happened is not known."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return f"room {self.key} is unavailable: {self.why}"


class EngineError(RoomsError):
    """The engine of a cluster is not what it has to be; the message says what to change."""


class EngineLost(EngineError):
    """The engine cannot be reached, or the connection broke; whether it has happened is not known."""


class SnapshotError(RoomsError):
    """Something is wrong with the snapshot of one room."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)
        self.key = key
        self.why = why

    def __str__(self) -> str:
        return f"room {self.key}: {self.why}"


class StateError(SnapshotError):
    """The state holds something that CBOR cannot; ``path`` says where, such as ``state.users[3].socket``."""

    def __init__(self, key: str, path: str, why: str) -> None:
        super().__init__(key, f"cannot save {path}: {why}")
        self.path = path


class SnapshotCorrupt(SnapshotError):
    """A stored document is cut short, fails its checksum, or does not decode."""


class SnapshotTooNew(SnapshotError):
    """The snapshot was written by a newer version of the room than the one that runs."""

    def __init__(self, key: str, stored: int, running: int) -> None:
        super().__init__(
            key,
            f"its snapshot has version {stored}, but the room that runs here is version {running}; "
            "run the newer program, or restore an older snapshot (this one is left as it is)",
        )
        self.stored = stored
        self.running = running


class MigrationError(SnapshotError):
    """A step from the snapshot's version to the running one is missing, or raised."""


class StoreError(RoomsError):
    """The store could not do what it was asked to do."""


class StoreInUse(StoreError):
    """Another server has this data directory; the message names it."""


class StoreFull(StoreError):
    """There is no room left where the store writes; nothing of the commit was written."""


class StoreReadOnly(StoreError):
    """The store cannot be written; nothing of the commit was written."""


class StaleWrite(StoreError):
    """The number of a commit does not follow on the room's last one, or its epoch is over.

    Somebody else has written the room, or opened the store, since it was loaded; nothing of the
    commit was written. What is in the store is the truth: load the room again.
    """


class StoreClosed(StoreError):
    """The store was used before it was opened or after it was closed."""
