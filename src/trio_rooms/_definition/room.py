"""The definition of a room: a static thing, made at import, sealed when it is first served."""

from __future__ import annotations

import contextlib
import enum
import inspect
import math
import re
import types
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Generic, NoReturn, TypeVar

import attrs

from trio_rooms._state.codec import Codec, Migration
from trio_rooms._values.classes import is_class
from trio_rooms._values.lenient import document
from trio_rooms._values.strict import wire
from trio_rooms.errors import DefinitionError

__all__ = ["Handler", "Room"]

S = TypeVar("S")
Handler = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Callable[..., Any])

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONSTANTS: Final = (str, bytes, int, float, bool, type(None), enum.Enum, types.ModuleType, type)
_HOOKS: Final = {
    "authenticate": ("request",),
    "on_connect": ("ctx",),
    "on_disconnect": ("ctx", "left"),
    "on_create": ("ctx",),
    "on_wake": ("ctx", "report"),
    "on_hibernate": ("ctx",),
    "on_destroy": ("ctx",),
    "on_error": ("ctx", "error"),
}
"""Each hook and what it is given; a hook may leave out arguments from the right."""


@attrs.frozen
class EventHandler:
    """A sealed handler of one event: the function and what its data is converted to."""

    function: Handler
    arguments: int
    convert: Callable[[Any], Any] | None
    named: bool
    """Whether it is told the event's name: on_any."""


class Room(Generic[S]):
    """What all rooms of one name have in common: state, handlers, hooks and policies.

    Args:
        name: the first part of a room's key and address: 1 to 64 letters, digits, ``.``,
            ``_`` or ``-``, beginning with a letter or digit.
        state: what makes the state of a new room: an attrs class, or any function without
            arguments that returns something CBOR can hold (``dict``, ``list``, ``int``).
            None for rooms without state.
        version: the version of the state's shape; raise it together with a `migrate`.
        idle_timeout: seconds without mail after which a room hibernates; ``math.inf`` for
            never.
        busy_rate: messages per second above which a room stays awake although it is idle
            at the moment. It is averaged over the time since it was last asked.
        snapshot_interval: seconds after which a change is in the store at the latest.
        auto_respond: messages that are answered without waking the room, by exact match.
        attachment_limit: bytes of CBOR that a connection's attachment may have.
        page: HTML that the server answers ``GET /`` with.

    A room with `on_message` is plain: it gets each message as it came, `str` or `bytes`.
    A room with `on` or `on_any` speaks envelopes. It cannot be both.
    """

    def __init__(
        self,
        name: str,
        *,
        state: Callable[[], S] | None = None,
        version: int = 1,
        idle_timeout: float = 300.0,
        busy_rate: float = math.inf,
        snapshot_interval: float = 1.0,
        auto_respond: Mapping[str | bytes, str | bytes] | None = None,
        attachment_limit: int = 16 * 1024,
        page: str | None = None,
    ) -> None:
        if not _is(name, str) or not _NAME.fullmatch(name):
            msg = f"a room's name has 1 to 64 letters, digits, '.', '_' or '-', not {name!r}"
            raise DefinitionError(msg)
        if state is not None and not callable(state):
            msg = (
                f"room {name}: state is what makes the state of a new room, a class or a function, "
                f"not a value; write state={type(state).__name__} or state=lambda: {state!r}"
            )
            raise DefinitionError(msg)
        if not _is(version, int) or version < 1:
            msg = f"room {name}: version is a whole number from 1 on, not {version!r}"
            raise DefinitionError(msg)
        self.name: Final = name
        self.state = state
        self.version: Final = version
        self.idle_timeout = self._number("idle_timeout", idle_timeout)
        self.busy_rate = self._number("busy_rate", busy_rate)
        self.snapshot_interval = self._number("snapshot_interval", snapshot_interval)
        self.auto_respond: Final = dict(auto_respond or {})
        self.attachment_limit: Final = attachment_limit
        self.page: Final = page
        self._sealed = False
        self._events: dict[str, Handler] = {}
        self._any: Handler | None = None
        self._message: Handler | None = None
        self._hooks: dict[str, Handler] = {}
        self._migrations: dict[int, tuple[int, Migration]] = {}
        self._event_handlers: dict[str, EventHandler] = {}
        self._any_handler: EventHandler | None = None
        self.message_handler: Handler = _no_message
        """What a plain room's messages go to: `on_message`, called with context and message."""
        self._hook_arguments: dict[str, int] = {}
        self._codec: Codec | None = None

    def __repr__(self) -> str:
        return f"<Room {self.name!r} version {self.version}>"

    # What an application decorates.

    def on(self, event: str) -> Callable[[F], F]:
        """Handle one event: ``async def say(ctx, data: Say) -> int``.

        ``data`` is converted to its annotation; data that does not fit is refused before
        the handler runs. What it returns becomes the ``data`` of the acknowledgement.
        """
        if not _is(event, str) or not event or event.startswith("rooms."):
            msg = (
                f"room {self.name}: an event is named by a string that does not begin with 'rooms.'; "
                f'write @room.on("say"), not @room.on({event!r})'
            )
            raise DefinitionError(msg)

        def register(function: F) -> F:
            self._admit(function, f"the handler of {event!r}")
            if event in self._events:
                msg = f"room {self.name}: {event!r} already has the handler {_name(self._events[event])}"
                raise DefinitionError(msg)
            self._events[event] = function
            return function

        return register

    def on_any(self, function: F) -> F:
        """Handle every event that has no handler of its own: ``async def other(ctx, event, data)``."""
        self._admit(function, "on_any")
        self._once("on_any", self._any)
        self._any = function
        return function

    def on_message(self, function: F) -> F:
        """Handle every message of a plain room as it came: ``async def got(ctx, message)``."""
        self._admit(function, "on_message")
        self._once("on_message", self._message)
        self._message = function
        return function

    def authenticate(self, function: F) -> F:
        """Called before a WebSocket is opened: ``async def who(request: ConnectRequest)``.

        It returns the connection's attachment, or raises `Refused`.
        """
        return self._hook("authenticate", function)

    def on_connect(self, function: F) -> F:
        """Called when a connection is there, before its first message: ``async def joined(ctx)``."""
        return self._hook("on_connect", function)

    def on_disconnect(self, function: F) -> F:
        """Called once for each connection that went away: ``async def gone(ctx, left: Departure)``.

        A departure does not wake a room. One that slept is told when it wakes, before its
        next message, or at once when the last connection has left.
        """
        return self._hook("on_disconnect", function)

    def on_create(self, function: F) -> F:
        """Called when a room exists for the first time: ``async def created(ctx)``."""
        return self._hook("on_create", function)

    def on_wake(self, function: F) -> F:
        """Called when a room was loaded from its snapshot: ``async def woke(ctx, report: WakeReport)``."""
        return self._hook("on_wake", function)

    def on_hibernate(self, function: F) -> F:
        """Called before the snapshot with which a room goes to sleep: ``async def sleeps(ctx)``.

        A message that comes meanwhile may still keep the room awake.
        """
        return self._hook("on_hibernate", function)

    def on_destroy(self, function: F) -> F:
        """Called before everything of a room is deleted: ``async def ends(ctx)``."""
        return self._hook("on_destroy", function)

    def on_error(self, function: F) -> F:
        """Called when a handler raised or a snapshot was not saved: ``async def failed(ctx, error)``."""
        return self._hook("on_error", function)

    def migrate(self, before: int, after: int) -> Callable[[F], F]:
        """Bring the plain (CBOR) state of version ``before`` to ``after``: ``def up(state): ...``.

        It returns the state of version ``after``, changed in place or new.
        """
        if not _is(before, int) or not _is(after, int) or not 1 <= before < after:
            msg = (
                f"room {self.name}: a migration leads from a version to a later one, "
                f"not from {before!r} to {after!r}"
            )
            raise DefinitionError(msg)

        def register(function: F) -> F:
            self._open(f"the migration from {before}")
            if before in self._migrations:
                msg = f"room {self.name}: there is already a migration from version {before}"
                raise DefinitionError(msg)
            if inspect.iscoroutinefunction(function):
                msg = f"room {self.name}: a migration is not async; write def {_name(function)}(state)"
                raise DefinitionError(msg)
            self._migrations[before] = (after, function)
            return function

        return register

    def override(self, *, idle_timeout: float | None = None, snapshot_interval: float | None = None) -> None:
        """Let whoever runs the room decide what its definition says otherwise; before it is first served.

        Args:
            idle_timeout: seconds as in the definition; None leaves it as it is.
            snapshot_interval: the same.
        """
        self._open("a new setting")
        if idle_timeout is not None:
            self.idle_timeout = self._number("idle_timeout", idle_timeout)
        if snapshot_interval is not None:
            self.snapshot_interval = self._number("snapshot_interval", snapshot_interval)

    # What the runtime asks.

    def seal(self) -> None:
        """Check the definition as a whole and allow no more changes. A second call does nothing.

        Raises:
            DefinitionError: the definition cannot work; the message says what to write.
        """
        if self._sealed:
            return
        if self._message is not None and (self._events or self._any):
            msg = (
                f"room {self.name}: it has on_message and on/on_any, but a room is either plain or speaks "
                "envelopes; make two rooms, or use @room.on_any instead of @room.on_message"
            )
            raise DefinitionError(msg)
        for before, (after, _) in self._migrations.items():
            if after > self.version:
                msg = (
                    f"room {self.name}: a migration leads from {before} to {after}, "
                    f"but the room has version={self.version}"
                )
                raise DefinitionError(msg)
        kind = self._state_class()
        if kind is not None:
            try:
                document.get_structure_hook(kind)
            except Exception as error:
                msg = f"room {self.name}: the state class {_name(kind)} cannot be built from data: {error}"
                raise DefinitionError(msg) from error
        self._codec = Codec(kind, self.version, self._migrations)
        self._event_handlers = {
            event: self._event_handler(function, f"the handler of {event!r}", 1)
            for event, function in self._events.items()
        }
        self._any_handler = self._event_handler(self._any, "on_any", 2) if self._any else None
        if self._message is not None:
            arguments = self._arity(self._message, "on_message", ("ctx", "message"))
            self.message_handler = self._message if arguments > 1 else _without_message(self._message)
        self._hook_arguments = {
            name: self._arity(function, name, _HOOKS[name]) for name, function in self._hooks.items()
        }
        self._sealed = True

    @property
    def plain(self) -> bool:
        """Whether messages go to `on_message` as they are."""
        return self._message is not None

    def refuse_events(self) -> NoReturn:
        """Say that a plain room has no events."""
        msg = f"room {self.name} is plain: send messages with send(), it has no events"
        raise TypeError(msg)

    def refuse_messages(self) -> NoReturn:
        """Say that only a plain room sends messages as they are."""
        msg = f"room {self.name} speaks envelopes: send events with emit()"
        raise TypeError(msg)

    @property
    def codec(self) -> Codec:
        """How the state becomes bytes. The room must be sealed."""
        assert self._codec is not None, "a room is sealed before it is used"
        return self._codec

    def new_state(self) -> S:
        """The state of a room that did not exist.

        Raises:
            DefinitionError: it is of a class that it could not be built as again.
        """
        state: Any = self.state() if self.state is not None else None
        if self.codec.kind is None and is_class(type(state)):
            name = type(state).__name__
            msg = (
                f"room {self.name}: its state is a {name}, but nothing says so, and it would wake up as "
                f"a dict; write state={name}, or annotate the function that makes it: -> {name}"
            )
            raise DefinitionError(msg)
        return state  # type: ignore[no-any-return]

    def handler(self, event: str) -> EventHandler | None:
        """The handler of an event, `on_any` included."""
        return self._event_handlers.get(event) or self._any_handler

    def events(self) -> list[str]:
        """The events that have a handler."""
        return sorted(self._event_handlers)

    def has_hook(self, name: str) -> bool:
        """Whether the application defined this hook."""
        return name in self._hooks

    async def call_hook(self, name: str, *arguments: Any) -> Any:
        """Call a hook, where there is one, with as many arguments as it takes."""
        function = self._hooks.get(name)
        if function is None:
            return None
        return await function(*arguments[: self._hook_arguments[name]])

    # How a definition is checked.

    def _state_class(self) -> Any:
        """The class that a state is built as again; None where it is what CBOR gives."""
        if self.state is None:
            return None
        if inspect.iscoroutinefunction(self.state):
            msg = f"room {self.name}: what makes the state is not async; write def {_name(self.state)}()"
            raise DefinitionError(msg)
        with contextlib.suppress(ValueError):  # Raised for types that do not tell, such as dict.
            signature = inspect.signature(self.state)
            try:
                signature.bind()
            except TypeError as error:
                msg = (
                    f"room {self.name}: {_name(self.state)}() makes the state of a new room without "
                    f"arguments, but: {error}; give every field a default"
                )
                raise DefinitionError(msg) from error
        kind: Any = self.state
        if inspect.isfunction(kind):
            with contextlib.suppress(Exception):  # An annotation that cannot be resolved says nothing.
                kind = typing.get_type_hints(kind).get("return")
        return kind if is_class(kind) else None

    def _hook(self, name: str, function: F) -> F:
        self._admit(function, name)
        self._once(name, self._hooks.get(name))
        self._hooks[name] = function
        return function

    def _number(self, what: str, number: float) -> float:
        if not _is(number, int | float) or not number >= 0:
            msg = f"room {self.name}: {what} is a number from 0 on, not {number!r}"
            raise DefinitionError(msg)
        return float(number)

    def _open(self, what: str) -> None:
        if self._sealed:
            msg = (
                f"room {self.name}: {what} was added after the room was first served, and rooms that woke "
                "before would not have it; define all handlers at import, before open_rooms() or "
                "trio-rooms serve"
            )
            raise DefinitionError(msg)

    def _once(self, what: str, existing: Handler | None) -> None:
        if existing is not None:
            msg = f"room {self.name}: {what} is already {_name(existing)}"
            raise DefinitionError(msg)

    def _admit(self, function: Any, what: str) -> None:
        self._open(what)
        why = _not_static(function)
        if why is not None:
            msg = (
                f"room {self.name}: {what} is {why}. A handler outlives every object, because its room "
                "sleeps and wakes in another process; write a function at module level that gets what it "
                "needs from its context (ctx.state, ctx.connection.attachment, ctx.room.storage):\n\n"
                f'    @room.on("event")\n    async def handler(ctx, data):\n        ctx.state...'
            )
            raise DefinitionError(msg)
        if not inspect.iscoroutinefunction(function):
            msg = f"room {self.name}: {what} is not async; write async def {_name(function)}(...)"
            raise DefinitionError(msg)

    def _arity(self, function: Handler, what: str, given: tuple[str, ...], least: int = 1) -> int:
        """How many of the arguments it is given a function takes."""
        shape = f"async def {_name(function)}({', '.join(given)})"
        parameters = list(inspect.signature(function).parameters.values())
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
            return len(given)
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in positional if p.default is p.empty]
        stray = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        if stray or len(required) > len(given) or len(positional) < least:
            msg = f"room {self.name}: {what} takes {inspect.signature(function)}; it is called as {shape}"
            raise DefinitionError(msg)
        return min(len(positional), len(given))

    def _event_handler(self, function: Handler, what: str, position: int) -> EventHandler:
        """Seal a handler whose data stands at ``position`` of its arguments."""
        named = position == 2
        given = ("ctx", "event", "data") if named else ("ctx", "data")
        arguments = self._arity(function, what, given)
        if arguments <= position:
            return EventHandler(function, arguments, None, named)
        parameters = list(inspect.signature(function).parameters)
        try:
            hints = typing.get_type_hints(function)
        except Exception as error:
            msg = (
                f"room {self.name}: an annotation of {what} cannot be resolved ({error}); "
                "define the types it names at module level"
            )
            raise DefinitionError(msg) from error
        wanted = hints.get(parameters[position], Any) if position < len(parameters) else Any
        if wanted is Any or wanted is object:
            return EventHandler(function, arguments, None, named)
        try:
            structure = wire.get_structure_hook(wanted)
        except Exception as error:
            msg = f"room {self.name}: {what} wants a {wanted}, which nothing can be converted to: {error}"
            raise DefinitionError(msg) from error

        def convert(data: Any) -> Any:
            return structure(data, wanted)

        return EventHandler(function, arguments, convert, named)


async def _no_message(_ctx: Any, _message: str | bytes) -> None:
    msg = "this room is not plain"
    raise TypeError(msg)


def _without_message(function: Handler) -> Handler:
    async def handler(ctx: Any, _: str | bytes) -> None:
        await function(ctx)

    return handler


def _name(function: Any) -> str:
    return getattr(function, "__name__", "handler")


def _is(value: object, kind: Any) -> bool:
    """Whether an application's argument is what its annotation says; a bool is no number here."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _not_static(function: Any, seen: frozenset[int] = frozenset()) -> str | None:
    """Why a handler would not survive its process, or None."""
    if inspect.ismethod(function):
        return f"bound to a {type(function.__self__).__qualname__}"
    if not inspect.isfunction(function):
        return f"a {type(function).__qualname__}, not a function"
    seen |= {id(function)}
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:
            return f"a closure over {variable!r}"
        known = any(content is value for value in function.__globals__.values())
        if not known and not _static(content, seen):
            return f"a closure over {variable!r}, a {type(content).__qualname__}"
    return None


def _static(content: Any, seen: frozenset[int]) -> bool:
    """Whether what a function closes over is the same in every process."""
    if isinstance(content, tuple | frozenset):
        return all(_static(inner, seen) for inner in content)
    if inspect.isfunction(content):
        return id(content) in seen or _not_static(content, seen) is None
    return isinstance(content, _CONSTANTS)
