"""Whether a function can be a handler: that it outlives its process, and what it is called with."""

from __future__ import annotations

import enum
import inspect
import math
import traceback
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn

import trio

from trio_rooms._loop.places import innermost
from trio_rooms._values.classes import is_class
from trio_rooms._values.strict import wire
from trio_rooms.errors import DefinitionError, HandlerTimeout

from .definition import EventHandler, Handler, ScheduleHandler
from .fire import Fire, Retry

__all__ = [
    "HOOKS",
    "arity",
    "awaited",
    "defined_twice",
    "durably",
    "event_handler",
    "is_plain",
    "limited",
    "name_of",
    "refuse_awaitable",
    "schedule_handler",
    "taking_all",
    "why_not_static",
]

_CONSTANTS: Final = (str, bytes, int, float, bool, type(None), enum.Enum, types.ModuleType, type)
HOOKS: Final = {
    "authenticate": ("request",),
    "on_connect": ("ctx",),
    "on_disconnect": ("ctx", "left"),
    "on_drop": ("ctx", "left"),
    "on_resume": ("ctx",),
    "on_create": ("ctx",),
    "on_wake": ("ctx", "report"),
    "on_hibernate": ("ctx",),
    "on_destroy": ("ctx",),
    "on_error": ("ctx", "error"),
}
"""Each hook and what it is given; a hook may leave out arguments from the right."""


def name_of(function: Any) -> str:
    """What a function is called in an error."""
    return getattr(function, "__name__", "handler")


def defined_twice(first: Any, second: Any) -> bool:
    """Whether two functions are the same lines, run twice."""
    codes = [getattr(one, "__code__", None) for one in (first, second)]
    places = [(code.co_filename, code.co_firstlineno, code.co_qualname) for code in codes if code is not None]
    return first is not second and len(places) == 2 and places[0] == places[1]


def why_not_static(function: Any, seen: frozenset[int] = frozenset()) -> str | None:
    """Why a handler would not survive its process, or None.

    Args:
        function: what was decorated.
        seen: ids of functions that are being looked at already, which may refer to each other.
    """
    if inspect.ismethod(function):
        return f"bound to a {type(function.__self__).__qualname__}"
    if not inspect.isfunction(function):
        return f"a {type(function).__qualname__}, not a function"
    if function.__code__.co_varnames[:1] == ("self",):
        return f"a method, {function.__qualname__}"
    seen |= {id(function)}
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:
            return f"a closure over {variable!r}"
        known = any(content is value for value in function.__globals__.values())
        if not known and not _is_static(content, seen):
            return f"a closure over {variable!r}, a {type(content).__qualname__}"
    return None


def _is_static(content: Any, seen: frozenset[int]) -> bool:
    """Whether what a function closes over is the same in every process."""
    if isinstance(content, tuple | frozenset):
        return all(_is_static(inner, seen) for inner in content)
    if inspect.isfunction(content):
        return id(content) in seen or why_not_static(content, seen) is None
    return isinstance(content, _CONSTANTS)


def is_plain(function: Callable[..., Any]) -> bool:
    """Whether a function awaits nothing: a ``def``, and no ``async def``."""
    return not inspect.iscoroutinefunction(function)


def awaited(function: Callable[..., Any]) -> Handler:
    """A function as one that is awaited; itself where it is."""
    if not is_plain(function):
        return function

    async def called(*arguments: Any) -> Any:
        result = function(*arguments)
        if type(result) is types.CoroutineType:
            refuse_awaitable(function, result)
        return result

    return called


def refuse_awaitable(function: Callable[..., Any], returned: Awaitable[Any]) -> NoReturn:
    """Say that a plain function has returned what nobody awaits.

    Raises:
        TypeError: that.
    """
    if isinstance(returned, Coroutine):
        returned.close()  # Else Python warns of it in some other place.
    kind = "a coroutine" if isinstance(returned, Coroutine) else f"{returned!r:.100}"
    msg = (
        f"{name_of(function)} is a plain function, and returned {kind}, which is not awaited: write "
        f"async def {name_of(function)}(...)"
    )
    raise TypeError(msg)


def arity(room: str, function: Callable[..., Any], what: str, given: tuple[str, ...]) -> int:
    """How many of the arguments it is given a function takes.

    Args:
        room: the name of the room, for the error.
        function: the handler or hook.
        what: what it is, for the error.
        given: the names of what it is given, in order.

    Raises:
        DefinitionError: it cannot be called with them.
    """
    shape = f"{'' if is_plain(function) else 'async '}def {name_of(function)}({', '.join(given)})"
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return len(given)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    stray = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    swapped = given[0] == "ctx" and any(p.name in {"ctx", "context"} for p in positional[1:])
    if stray or swapped or len(required) > len(given) or not positional:
        msg = f"room {room}: {what} takes {inspect.signature(function)}; it is called as {shape}"
        raise DefinitionError(msg)
    return min(len(positional), len(given))


def taking_all(
    room: str, function: Callable[..., Any], what: str, given: tuple[str, ...]
) -> Callable[..., Any]:
    """A function as one that takes all it is given, with those left out that it does not want.

    What is awaited stays so, and a plain one plain.

    Raises:
        DefinitionError: as `arity`.
    """
    taken = arity(room, function, what, given)
    if taken == len(given):
        return function

    if is_plain(function):
        return lambda *arguments: function(*arguments[:taken])

    async def fewer(*arguments: Any) -> Any:
        return await function(*arguments[:taken])

    return fewer


def limited(function: Handler, name: str, seconds: float) -> Handler:
    """A handler that is cancelled when it takes longer than allowed; itself where it may take any time.

    It raises `HandlerTimeout` then.
    """
    if seconds == math.inf:
        return function

    async def bounded(ctx: Any, *rest: Any) -> Any:
        place = ""
        with trio.move_on_after(seconds) as scope:
            try:
                return await function(ctx, *rest)
            except BaseException as error:
                if scope.cancel_called:
                    place = innermost(traceback.walk_tb(error.__traceback__))
                raise
        raise HandlerTimeout(ctx.room.key, name, seconds, place)

    return bounded


def durably(function: Handler) -> Handler:
    """A handler of a room without a gate, behind one: what it does leaves when what it changed is durable."""

    async def durable(ctx: Any, *rest: Any) -> Any:
        await ctx._hold()
        return await function(ctx, *rest)

    return durable


def event_handler(
    room: str, function: Callable[..., Any], what: str, *, named: bool, internal: bool = False
) -> EventHandler:
    """The sealed handler of an event.

    Args:
        room: the name of the room, for the error.
        function: the handler.
        what: what it is, for the error.
        named: whether it is given the event's name between context and data.
        internal: see `EventHandler`.

    Raises:
        DefinitionError: it cannot be called, or nothing can be converted to what it wants.
    """
    given = ("ctx", "event", "data") if named else ("ctx", "data")
    position = len(given) - 1
    arguments = arity(room, function, what, given)
    convert = None
    if arguments > position:
        convert = _conversion(room, _annotation(room, function, what, position), what)
    return EventHandler(function, arguments, convert, named, internal, is_plain(function))


def schedule_handler(room: str, function: Callable[..., Any], what: str, retry: Retry) -> ScheduleHandler:
    """The sealed handler of what is scheduled under a name.

    Raises:
        DefinitionError: it cannot be called, or nothing can be converted to the data that it wants.
    """
    taking = awaited(taking_all(room, function, what, ("ctx", "fire")))
    wanted = _annotation(room, function, what, 1)
    if wanted in (Any, object, Fire):
        return ScheduleHandler(taking, None, retry)
    if typing.get_origin(wanted) is not Fire:
        shown = wanted.__name__ if isinstance(wanted, type) else repr(wanted)
        msg = (
            f"room {room}: {what} wants {shown}, and is given a Fire, which has the data: "
            f"annotate it with Fire[{shown}]"
        )
        raise DefinitionError(msg)
    data = typing.get_args(wanted)[0]
    convert = None if data is types.NoneType else _conversion(room, data, what)  # It wants none.
    return ScheduleHandler(taking, convert, retry)


def _annotation(room: str, function: Callable[..., Any], what: str, position: int) -> Any:
    """What a handler says that it takes at a position; Any where it says nothing, or takes nothing there."""
    parameters = list(inspect.signature(function).parameters)
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:
        msg = (
            f"room {room}: an annotation of {what} cannot be resolved ({error}); "
            "define the types it names at module level"
        )
        raise DefinitionError(msg) from error
    return hints.get(parameters[position], Any) if position < len(parameters) else Any


def _conversion(room: str, wanted: Any, what: str) -> Callable[[Any], Any] | None:
    """What makes the data of a handler what its annotation says; None where it stays as it is."""
    if wanted is Any or wanted is object:
        return None
    try:
        structure = wire.get_structure_hook(wanted)
    except Exception as error:
        shown = wanted.__name__ if isinstance(wanted, type) else repr(wanted)
        msg = (
            f"room {room}: {what} wants {shown}, which nothing can be converted to; {_instead(wanted, error)}"
        )
        raise DefinitionError(msg) from error
    return lambda data: structure(data, wanted)


def _instead(wanted: Any, error: Exception) -> str:
    """What to write in the place of an annotation that nothing can be converted to."""
    kind = typing.get_origin(wanted) or wanted
    if is_class(kind):
        return f"a field of it is the reason: {error}"
    if isinstance(kind, type) and kind.__module__.startswith("trio_rooms"):
        return f"the data is its last argument, and {kind.__name__} is not in it"
    if isinstance(kind, type) and kind.__module__ != "builtins":
        return f"put @attrs.define above class {kind.__name__}, or make it a dataclass"
    return (
        "annotate the data with an attrs class, a dataclass, a TypedDict, or plain types such as str and "
        "list[int]; without an annotation it comes as it was sent"
    )
