"""What a room is to the runtime: checked as a whole, and frozen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

import attrs

from trio_rooms._policy.policy import Policy
from trio_rooms._sockets.automatic import Automatic
from trio_rooms._state.codec import Codec
from trio_rooms.errors import DefinitionError

from .fire import Retry

__all__ = ["Definition", "EventHandler", "Handler", "ScheduleHandler"]

Handler = Callable[..., Awaitable[Any]]
"""A function of the application that is awaited: a handler or a hook.

A plain one was wrapped for that, unless it is *eager*: then it is called as it is.
"""


@attrs.frozen(eq=False)
class EventHandler:
    """The handler of one event: the function and what its data is converted to."""

    function: Callable[..., Any]
    """Awaited, unless it is eager."""
    arguments: int
    """How many it takes of the context, (for on_any) the event's name, and the data."""
    convert: Callable[[Any], Any] | None
    """Makes the data what its annotation says, or raises; None where it stays as it was decoded."""
    named: bool
    """Whether it is told the event's name: on_any."""
    internal: bool = False
    """Whether the program and other rooms alone may send this event, and no client."""
    eager: bool = False
    """Whether it is a plain function: it awaits nothing, and so may run in whatever task has the message."""


@attrs.frozen
class ScheduleHandler:
    """The handler of what is scheduled under one name."""

    function: Handler
    """Called with the context and a `Fire`."""
    convert: Callable[[Any], Any] | None
    """As for an event."""
    retry: Retry


@attrs.frozen(kw_only=True)
class Definition:
    """A sealed `Room`; the runtime knows nothing else of what an application wrote.

    Every hook is None, or takes all that it may be given.
    """

    name: str
    version: int
    gated: bool
    """Whether what its handlers do waits until what they wrote is durable."""
    state: Callable[[], Any] | None
    codec: Codec
    policy: Policy
    """When it sleeps; that of the runtime, where it has none of its own."""
    snapshot_interval: float
    attachment_limit: int
    page: str | None
    public: bool
    """Whether clients may connect."""
    slow_handler: float
    """Seconds after which a handler that still runs is warned of."""
    resume_window: float
    """Seconds that a session outlives its connection; 0 where there are no sessions."""
    reliable: bool
    """Whether events are kept until they are acknowledged, unless a handler says otherwise."""
    wake_on_disconnect: bool
    """Whether on_disconnect is called at once, also where the room sleeps."""
    presence: bool
    """Whether its connections are told who is here."""
    flush_after: float
    batch_window: float
    """See `Room`, for all of these."""
    wakes: bool
    """Whether a message of high priority to one of its hibernated connections wakes it."""
    state_ttl: float | None
    subprotocols: tuple[str, ...]
    """Those of which one is chosen for a client that offers some."""
    automatic: Automatic | None
    """What becomes of messages that need no room; None where all need it."""
    events: Mapping[str, EventHandler]
    for_clients: Mapping[str, EventHandler | None]
    """The same as clients meet them: None for an internal event."""
    any_event: EventHandler | None
    schedules: Mapping[str, ScheduleHandler]
    on_message: Callable[..., Any] | None
    """What a plain room's messages go to, called with the context and the message."""
    eager: bool
    """Whether that is a plain function, or what handles some event of a client is, see `EventHandler`."""
    authenticate: Handler | None
    on_connect: Handler | None
    on_disconnect: Handler | None
    on_drop: Handler | None
    on_resume: Handler | None
    on_create: Handler | None
    on_wake: Handler | None
    on_hibernate: Handler | None
    on_destroy: Handler | None
    on_error: Handler | None

    @property
    def plain(self) -> bool:
        """Whether messages go to `on_message` as they are."""
        return self.on_message is not None

    @property
    def fleeting(self) -> bool:
        """Whether nobody can tell if a room was there before, as long as nothing is stored of it."""
        asked = self.on_create is not None or self.on_wake is not None or self.state_ttl is not None
        return self.state is None and not asked

    def handler(self, event: str) -> EventHandler | None:
        """The handler of an event that the program asks for, `on_any` included."""
        return self.events.get(event) or self._other(event)

    def client_handler(self, event: str) -> EventHandler | None:
        """The handler of an event that a client sent; not even `on_any` is told of an internal one."""
        handler = self.for_clients.get(event)
        if handler is None and event not in self.for_clients:
            return self._other(event)
        return handler

    def _other(self, event: str) -> EventHandler | None:
        """What handles an event without a handler of its own, if it is not one that the library keeps."""
        return None if event.startswith("rooms.") else self.any_event

    def schedule_handler(self, name: str) -> ScheduleHandler | None:
        """The handler of what is scheduled under a name, which may go on behind a colon."""
        return self.schedules.get(name) or self.schedules.get(name.partition(":")[0])

    def new_state(self) -> Any:
        """The state of a room that did not exist.

        Raises:
            DefinitionError: it is of a type that could not be saved.
        """
        state = self.state() if self.state is not None else None
        try:
            self.codec.shape(state)
        except TypeError as error:
            msg = f"room {self.name}: its state cannot be kept: {error}"
            raise DefinitionError(msg) from error
        return state

    def refuse_events(self) -> NoReturn:
        """Say that a plain room has no events."""
        msg = f"room {self.name} is plain: send messages with send(), it has no events"
        raise TypeError(msg)

    def refuse_messages(self) -> NoReturn:
        """Say that only a plain room sends messages as they are."""
        msg = f"room {self.name} speaks envelopes: send events with emit()"
        raise TypeError(msg)
