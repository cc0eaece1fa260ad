from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_rooms import Context, Policy
from trio_rooms._definition.definition import Definition
from trio_rooms._definition.room import Room
from trio_rooms._state.snapshot import Snapshot
from trio_rooms._values.misfits import describe
from trio_rooms.errors import DefinitionError

LIMIT = {"a": 1}
Handler = Callable[..., Awaitable[Any]]


class Colour(enum.Enum):
    RED = "red"


@attrs.define
class Say:
    text: str


@attrs.define
class State:
    lines: list[Say] = attrs.field(factory=list)


@dataclasses.dataclass
class Data:
    n: int = 0


@attrs.define
class Demanding:
    n: int


class Service:
    """An object whose methods are no handlers."""

    async def handle(self, ctx: Any, data: Any) -> None: ...

    async def __call__(self, ctx: Any, data: Any) -> None: ...

    @staticmethod
    async def static(ctx: Any, data: Any) -> None: ...


async def handle(ctx: Any, data: Any) -> Any:
    """A handler as it should be."""
    return data


async def say(ctx: Any, data: Say) -> str:
    """Wants its data typed."""
    return data.text


async def other(ctx: Any, event: str, data: Any) -> Any:
    """Is told the name of the event."""
    return event, data


async def only_context(ctx: Any) -> str:
    """Wants nothing but the context."""
    return "called"


async def nothing() -> None:
    """Takes nothing."""


async def many(ctx: Any, *rest: Any) -> Any:
    """Takes what there is."""
    return rest


async def optional(ctx: Any, data: int = 5, more: int = 6, *, key: int = 1) -> Any:
    """Has defaults for all but the context."""
    return data, more


async def two(ctx: Any, first: Any, second: Any) -> None:
    """Takes one more than an event has."""


async def four(ctx: Any, first: Any, second: Any, third: Any) -> None:
    """Takes more than anybody gives."""


async def named(ctx: Any, *, data: Any) -> None:
    """Wants its data by name."""


async def unknown(ctx: Any, data: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Names a type that is not there."""


async def impossible(ctx: Any, data: Callable[[], int]) -> None:
    """Wants what cannot be sent."""


async def generator(ctx: Any, data: Any) -> Any:
    """Is asynchronous, and no coroutine."""
    yield 1


def sync(ctx: Any, data: Any) -> Any:
    """Is not async."""
    return data


def sync_context(ctx: Any) -> Any:
    """Is not async, and wants nothing but the context."""
    return ctx


def sync_other(ctx: Any, event: str, data: Any) -> Any:
    """Is not async, and is told the name of the event."""
    return event, data


def plain_generator(ctx: Any, data: Any) -> Any:
    """Is no handler."""
    yield 1


def forgets(ctx: Any) -> Any:
    """Returns what should have been awaited."""
    return only_context(ctx)


def up(state: Any) -> Any:
    """Changes nothing."""
    return state


async def up_async(state: Any) -> Any:
    """Is async, where nothing waits for it."""
    return state


def logged(function: Handler) -> Handler:
    """A decorator without arguments."""

    @functools.wraps(function)
    async def wrapper(*arguments: Any) -> Any:
        return "logged", await function(*arguments)

    return wrapper


def limited(*settings: Any) -> Callable[[Handler], Handler]:
    """A decorator with arguments."""

    def decorate(function: Handler) -> Handler:
        @functools.wraps(function)
        async def wrapper(*arguments: Any) -> Any:
            return settings, await function(*arguments)

        return wrapper

    return decorate


def recursive(function: Handler) -> Handler:
    """A decorator whose wrapper knows itself."""

    async def wrapper(ctx: Any, data: Any) -> Any:
        return wrapper.__name__, await function(ctx, data)

    return wrapper


def room(**settings: Any) -> Room[Any]:
    """A room to define."""
    return Room("chat", **settings)


def refused(define: Callable[[], Any], *said: str) -> None:
    """A definition that is refused with a message that says so and what to write."""
    with pytest.raises(DefinitionError) as caught:
        define()
    for part in said:
        assert part in str(caught.value)


# What a room is made with.


@pytest.mark.parametrize("name", ["", "a/b", "é", "-a", ".a", "a" * 65, "a b", "a\n", None, 5, b"a"])
def test_a_bad_name_is_refused(name: Any) -> None:
    """A name has letters, digits, dots, dashes and underscores, as it is part of an address."""
    refused(lambda: Room(name), "1 to 64 letters", repr(name))


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "9", "a" * 64])
def test_a_good_name(name: str) -> None:
    """A name that may be one is one."""
    assert Room(name).name == name


@pytest.mark.parametrize(
    "names",
    [
        "mqtt",
        [""],
        ["a b"],
        ["a,b"],
        ["é"],
        [5],
        ["mqtt", "mqtt"],
        ["trio-rooms.v1.json"],
        map(str, range(16)),
    ],
)
def test_subprotocols_that_cannot_be_chosen_are_refused(names: Any) -> None:
    """They are different words of a header, and not those of envelopes."""
    refused(lambda: Room("r", subprotocols=names), "subprotocols")


def test_subprotocols_are_for_plain_rooms() -> None:
    """One with events has those of envelopes, and no others."""
    plain = Room[None]("r", subprotocols=(str(number) for number in range(15)))
    plain.on_message(handle)
    assert plain.seal().subprotocols == tuple(map(str, range(15)))
    with_events = Room[None]("r", subprotocols=["mqtt"])
    with_events.on("say")(handle)
    refused(with_events.seal, "only a room with @room.on_message has subprotocols of its own")


@pytest.mark.parametrize(
    "settings",
    [
        {"idle_timeout": -1},
        {"idle_timeout": math.nan},
        {"idle_timeout": "5"},
        {"snapshot_interval": -0.1},
        {"snapshot_interval": True},
        {"connection_idle_timeout": math.nan},
        {"policy": "classic"},
        {"version": 0},
        {"version": 1.5},
        {"version": "1"},
        {"version": True},
    ],
)
def test_a_bad_setting_is_refused(settings: Any) -> None:
    """A number out of range or of a wrong type is refused by its name."""
    ((name, value),) = settings.items()
    refused(lambda: room(**settings), "room chat", name, repr(value))


def test_settings_may_be_infinite() -> None:
    """A room may never sleep, or never save by the clock."""
    made = room(idle_timeout=math.inf, snapshot_interval=math.inf)
    assert made.idle_timeout == math.inf


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "state=dict"),
        ([1], "state=lambda: [1]"),
        (State(), "state=State"),
        (0, "state=int"),
    ],
)
def test_a_state_given_as_a_value_is_refused(state: Any, said: str) -> None:
    """All rooms would share one state; the message says what to write."""
    refused(lambda: room(state=state), "not a value", said)


def make_state() -> State:
    """Makes a state and says so."""
    return State([Say("a")])


def make_unannounced():  # type: ignore[no-untyped-def]  # noqa: ANN201 (that it says nothing is the point)
    """Makes a state and does not say so."""
    return State()


async def make_async() -> State:
    """Makes a state when it is waited for."""
    return State()


def make_with(n: int) -> State:
    """Makes a state out of something."""
    return State()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, None),
        (dict, {}),
        (list, []),
        (int, 0),
        (lambda: {"a": [1]}, {"a": [1]}),
        (lambda: None, None),
        (State, State()),
        (Data, Data()),
        (make_state, State([Say("a")])),
        (make_unannounced, State()),
        (functools.partial(State, [Say("b")]), State([Say("b")])),
        (collections.Counter, collections.Counter()),
        (lambda: collections.deque([1], maxlen=2), collections.deque([1], maxlen=2)),
    ],
)
def test_a_new_state_survives_a_sleep(state: Any, expected: Any) -> None:
    """Whatever makes the state, it is of the same type after the room has slept."""
    sealed = room(state=state).seal()
    assert sealed.new_state() == expected
    encoded = sealed.codec.encode("chat/1", expected)
    back = sealed.codec.decode("chat/1", Snapshot("chat", "1", 1, 1, 1, encoded)).state
    assert back == expected
    assert type(back) is type(expected)


class NoClass:
    """Neither an attrs class nor a dataclass."""


@attrs.define
class Keeper:
    inner: list[NoClass] = attrs.field(factory=list)


@attrs.define
class Sloppy:
    name: str = None  # type: ignore[assignment]


def test_a_state_that_would_come_back_as_something_else_is_refused() -> None:
    """A type that cannot be kept, or a default that is not of its type, is refused as soon as it is known."""
    refused(room(state=NoClass).seal, "NoClass cannot be saved")
    refused(room(state=Keeper).seal, "Keeper.inner", "NoClass cannot be saved")
    refused(room(state=Sloppy).seal, "state.name", "declared as str, and this None")
    refused(room(state=functools.partial(NoClass)).seal().new_state, "NoClass cannot be saved")


def test_strict_is_a_flag() -> None:
    """Whether a snapshot must fit is said with True or False."""
    refused(lambda: room(strict="yes"), "strict is True or False")
    assert room(strict=True).seal().codec.strict


def test_a_state_that_cannot_be_made_is_refused() -> None:
    """What makes a state takes no arguments and does not wait."""
    refused(room(state=Demanding).seal, "give every field a default", "'n'")
    refused(room(state=make_with).seal, "without arguments")
    refused(room(state=make_async).seal, "not async", "def make_async()")


@attrs.define
class Unresolvable:
    field: Missing | None = None  # type: ignore[name-defined]  # noqa: F821


def test_a_state_class_that_cannot_be_built_is_refused() -> None:
    """A class whose fields nobody can make from data is refused before it is first saved."""
    refused(room(state=Unresolvable).seal, "Unresolvable", "Missing")


# What a handler may be.


def definers(made: Room[Any]) -> list[Callable[[Any], Any]]:
    """Every way to give a room a handler."""
    hooks = (
        made.authenticate,
        made.on_connect,
        made.on_disconnect,
        made.on_create,
        made.on_wake,
        made.on_hibernate,
        made.on_destroy,
        made.on_error,
    )
    return [made.on("say"), made.on_any, made.on_message, *hooks]


def closure() -> Handler:
    """A handler that knows an object of its maker."""
    service = Service()

    async def handler(ctx: Any, data: Any) -> None:
        await service.handle(ctx, data)

    return handler


def late_closure() -> Handler:
    """A handler whose variable has no value yet."""

    async def handler(ctx: Any, data: Any) -> None:
        await later(ctx, data)

    if LIMIT:
        return handler
    later = handle
    return later


def test_what_is_not_static_is_refused() -> None:
    """A handler that belongs to an object is refused everywhere, and the message shows what to write."""
    service = Service()
    for number in range(len(definers(room()))):
        for function, said in (
            (service.handle, "bound to a Service"),
            (service, "a Service, not a function"),
            (Service.handle, "a method, Service.handle"),
            (functools.partial(handle, None), "a partial, not a function"),
            (Service, "a type, not a function"),
            (None, "a NoneType, not a function"),
            (closure(), "a closure over 'service', a Service"),
            (late_closure(), "a closure over 'later'"),
            (logged(closure()), "a closure over 'function', a function"),
            (limited({})(handle), "a closure over 'settings', a tuple"),
        ):
            define = functools.partial(definers(room())[number], function)
            refused(define, said, "at module level", "async def handler(ctx, data)", "ctx.state")


def test_what_is_static_is_allowed() -> None:
    """Functions, static methods, and functions decorated at module level with constants are handlers."""
    for function in (
        handle,
        Service.static,
        logged(handle),
        logged(logged(handle)),
        limited(1, "a", b"b", None, 1.5, True, Colour.RED, Say, math, ("a", frozenset({1})))(handle),
        limited(handle)(handle),
        limited()(recursive(handle)),
    ):
        for number in range(len(definers(room()))):
            assert definers(room())[number](function) is function


def test_a_closure_over_something_of_the_module_is_allowed() -> None:
    """What a module has under a name of its own is the same in the next process."""

    def around(content: Any) -> Handler:
        async def handler(ctx: Any, data: Any) -> Any:
            return content

        return handler

    room().on("say")(around(LIMIT))
    refused(lambda: room().on("say")(around({"a": 1})), "a closure over 'content', a dict")


def test_a_handler_that_yields_is_refused() -> None:
    """To call a generator does nothing, whether it is async or not: it is no handler and no hook."""
    for number in range(len(definers(room()))):
        for function in (generator, plain_generator):
            refused(functools.partial(definers(room())[number], function), "has a yield")


async def test_plain_functions_are_eager_where_nothing_has_to_be_awaited() -> None:
    """What handles messages stays as it is; all else, and what is to be durable, is awaited as others are."""
    made = room()
    made.on("plain")(sync)
    made.on("durable", durable=True)(sync)
    made.on("async")(handle)
    made.on_any(sync_other)
    made.on_connect(sync_context)
    sealed = made.seal()
    eager = {name: one.eager for name, one in sealed.events.items()}
    assert eager == {"plain": True, "durable": False, "async": False}
    assert sealed.events["plain"].function is sync
    assert sealed.any_event is not None
    assert sealed.any_event.eager
    assert sealed.on_connect is not None
    assert await sealed.on_connect("ctx") == "ctx"
    for options, eagerly in (({}, True), ({"durability": "commit"}, False)):
        one: Room[None] = Room("one", **options)  # type: ignore[arg-type]
        one.on_message(sync_context)
        of_messages = one.seal()
        assert of_messages.eager is eagerly
        assert of_messages.on_message is not None
        returned = of_messages.on_message("ctx", "hello")
        assert (returned if eagerly else await returned) == "ctx"
    gated: Room[None] = Room("gated", durability="commit")
    gated.on("plain")(sync)
    assert not gated.seal().events["plain"].eager


async def test_a_plain_function_that_returns_a_coroutine_says_so() -> None:
    """As one does that calls an async function and forgets to await it: else nothing would happen."""
    made = room()
    made.on_connect(forgets)
    hook = made.seal().on_connect
    assert hook is not None
    with pytest.raises(
        TypeError, match=r"returned a coroutine, which is not awaited: write async def forgets"
    ):
        await hook("ctx")


@pytest.mark.parametrize("event", ["", "rooms.welcome", "rooms.", None, 5, handle])
def test_a_bad_event_is_refused(event: Any) -> None:
    """An event has a name, and not one that the library keeps; a forgotten name is noticed."""
    refused(lambda: room().on(event), "'rooms.'", '@room.on("say")')


def test_a_second_handler_is_refused() -> None:
    """Nothing is silently replaced: the message names the handler that is there."""
    for number in range(len(definers(room()))):
        made = room()
        definers(made)[number](handle)
        refused(functools.partial(definers(made)[number], say), "already", "handle")
    made = room()
    made.on("one")(handle)
    made.on("two")(handle)
    assert sorted(made._events) == ["one", "two"]


def test_a_late_handler_is_refused() -> None:
    """Once a room is served its definition is what it is; the message says where handlers belong."""
    made = room(version=2)
    made.seal()
    for define in definers(made):
        refused(functools.partial(define, handle), "after the room was first served", "open_rooms()")
    refused(lambda: made.migrate(1, 2)(up), "after the room was first served")


def run_twice(made: Room[Any], tmp_path: Path, *names: str) -> None:
    """Run the same lines under different names, as a script is that another module imports."""
    file = tmp_path / "app.py"
    file.write_text('@room.on("say")\nasync def say(ctx): ...\n')
    for name in names:
        exec(compile(file.read_text(), str(file), "exec"), {"__name__": name, "room": made})  # noqa: S102


def test_a_module_that_is_run_twice_is_told_so(tmp_path: Path) -> None:
    """Before and after the room was served: the message has the file and its names."""
    refused(lambda: run_twice(room(), tmp_path, "__main__", "app"), "app.py", "twice", "__main__ and app")
    refused(lambda: run_twice(room(), tmp_path, "app", "app"), "app.py", "were run twice;")
    made = room()
    run_twice(made, tmp_path, "__main__")
    made.seal()
    refused(lambda: run_twice(made, tmp_path, "app"), "'say'", "run twice", "__main__ and app")


def test_settings_that_come_late_are_refused_if_they_differ() -> None:
    """The message has both values; what says the same as before is no error, however often it is said."""
    made = room(idle_timeout=3)
    made.configure(snapshot_interval=0.5)
    sealed = made.seal()
    made.configure()
    made.configure(idle_timeout=3, snapshot_interval=0.5)
    refused(lambda: made.configure(idle_timeout=7), "idle_timeout=7", "served with 3 before", "__main__")
    refused(lambda: made.configure(idle_timeout=-1), "idle_timeout", "-1")
    assert made.seal() is sealed
    assert (made.idle_timeout, made.snapshot_interval) == (3, 0.5)


def test_a_room_is_not_derived() -> None:
    """A method that looks like a hook would never be called; other subclasses are the application's."""
    for name in ("on_connect", "on", "authenticate"):
        refused(lambda name=name: type("Chat", (Room,), {name: handle}), f"Chat.{name}", f"@chat.{name}")  # type: ignore[misc]
    assert isinstance(type("Chat", (Room,), {"helper": handle})("chat"), Room)


def test_a_room_is_plain_or_speaks_envelopes() -> None:
    """Both at once is refused, and the message says how to have what was meant."""
    for define in (lambda made: made.on("say")(handle), lambda made: made.on_any(other)):
        made = room()
        made.on_message(handle)
        define(made)  # type: ignore[no-untyped-call]
        refused(made.seal, "either plain or speaks", "@room.on_any")
    made = room()
    made.on_message(handle)
    made.seal()
    assert made.seal().plain
    made = room()
    made.on_any(other)
    made.seal()
    assert not made.seal().plain


@pytest.mark.parametrize("hook", ["authenticate", "on_connect", "on_disconnect", "on_message"])
def test_a_private_room_has_no_hooks_for_clients(hook: str) -> None:
    """What no client could ever set off is refused with its name, and all else is allowed."""
    made = room(public=False)
    made.on_create(only_context)
    getattr(made, hook)(handle)
    refused(made.seal, hook, "never called", "public=False")
    made = room(public=False)
    made.on("say")(say)
    made.on_error(many)
    assert not made.seal().public


def test_an_internal_event_is_the_programs_alone() -> None:
    """A client does not reach it, not through `on_any` either; nothing else changes."""
    made = room()
    made.on("grant", internal=True)(handle)
    made.on("say")(say)
    made.on_any(other)
    sealed = made.seal()
    asked, sent = sealed.handler("grant"), sealed.client_handler("grant")
    assert asked is not None
    assert asked.function is handle
    assert sent is None
    for event in ("say", "elsewhere"):
        assert sealed.client_handler(event) is sealed.handler(event) is not None


# What a handler is called with.


@pytest.mark.parametrize("function", [nothing, four, named])
def test_arguments_that_nobody_gives_are_refused(function: Handler) -> None:
    """A function that cannot be called as it will be is refused when the room is sealed, with the shape."""
    for number in range(3, len(definers(room()))):
        made = room()
        definers(made)[number](function)
        refused(made.seal, "it is called as async def", function.__name__)
    made = room()
    made.on("say")(function)
    refused(made.seal, "'say'", f"async def {function.__name__}(ctx, data)")
    made = room()
    made.on_any(function)
    refused(made.seal, f"async def {function.__name__}(ctx, event, data)")
    made = room()
    made.on_message(function)
    refused(made.seal, f"async def {function.__name__}(ctx, message)")


def test_an_event_is_not_given_three_arguments() -> None:
    """A handler of one event is not told its name."""
    made = room()
    made.on("say")(two)
    refused(made.seal, "async def two(ctx, data)")


def test_an_annotation_that_cannot_be_resolved_is_refused() -> None:
    """Data's type must be known where the handler is; the message names what is missing."""
    made = room()
    made.on("say")(unknown)
    refused(made.seal, "'say'", "Missing", "at module level")
    made = room()
    made.on("say")(impossible)
    refused(made.seal, "'say'", "nothing can be converted to")


async def swapped(data: Say, ctx: Context[Any]) -> None:
    """Has its arguments the wrong way round."""


async def undecorated(ctx: Any, data: Service) -> None:
    """Wants a class without fields."""


async def builtin(ctx: Any, data: any) -> None:  # type: ignore[valid-type]
    """Means Any."""


async def nested(ctx: Any, data: Holder) -> None:
    """Wants a class of which one field cannot be sent."""


@attrs.define
class Holder:
    service: Service


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (swapped, "it is called as async def swapped(ctx, data)"),
        (undecorated, "put @attrs.define above class Service"),
        (builtin, "without an annotation it comes as it was sent"),
        (nested, "a field of it is the reason"),
    ],
)
def test_an_annotation_that_cannot_be_is_told_what_could(function: Handler, said: str) -> None:
    """The message says what to write instead."""
    made = room()
    made.on("say")(function)
    refused(made.seal, said, "'say'")


def test_a_name_where_a_function_belongs() -> None:
    """Decorators other than `on` take no name."""
    name: Any = "say"
    refused(lambda: room().on_message(name), "takes no name", "@room.on_message", "@room.on('say')")
    refused(lambda: room().on_connect(name), "takes no name", "@room.on_connect")


async def call(sealed: Definition, event: str, data: Any) -> Any:
    """Handle an event as an actor would."""
    handler = sealed.handler(event)
    assert handler is not None
    if handler.convert is not None:
        data = handler.convert(data)
    arguments = ("ctx", event, data) if handler.named else ("ctx", data)
    return await handler.function(*arguments[: handler.arguments])


async def test_events_are_given_converted_data() -> None:
    """A handler gets its data as annotated, or less, or more, as its arguments say."""
    made = room()
    made.on("say")(say)
    made.on("raw")(handle)
    made.on("short")(only_context)
    made.on("many")(many)
    made.on("optional")(optional)
    made.on("wrapped")(logged(say))
    made.on_any(other)
    sealed = made.seal()
    assert await call(sealed, "say", {"text": "a"}) == "a"
    assert await call(sealed, "raw", {"text": 5}) == {"text": 5}
    assert await call(sealed, "short", 1) == "called"
    assert await call(sealed, "many", 1) == (1,)
    assert await call(sealed, "optional", 1) == (1, 6)
    assert await call(sealed, "wrapped", {"text": "a"}) == ("logged", "a")
    assert await call(sealed, "elsewhere", 1) == ("elsewhere", 1)
    assert sorted(sealed.events) == ["many", "optional", "raw", "say", "short", "wrapped"]
    for event in ("say", "wrapped", "optional"):
        with pytest.raises(Exception) as caught:
            await call(sealed, event, {"text": 5})
        assert "expected" in describe(caught.value)


def test_an_unknown_event_has_no_handler() -> None:
    """Without on_any, an event that nobody handles is known not to be handled."""
    made = room()
    made.on("say")(say)
    assert made.seal().handler("other") is None


async def test_hooks_may_take_fewer_arguments() -> None:
    """A hook leaves out from the right what it does not need; one that is not there is None."""
    made = room()
    made.on_connect(only_context)
    made.on_disconnect(handle)
    made.on_wake(only_context)
    made.on_error(many)
    sealed = made.seal()
    assert sealed.on_connect is only_context
    assert sealed.on_disconnect is handle
    assert sealed.on_wake is not None
    assert await sealed.on_wake("ctx", "report") == "called"
    assert sealed.on_error is not None
    assert await sealed.on_error("ctx", "error") == ("error",)
    assert sealed.on_create is None


async def test_one_function_may_be_several_hooks() -> None:
    """Decorators give back the function, so they can be stacked."""
    made = room()

    @made.on_create
    @made.on_wake
    @made.on("say")
    async def handler(ctx: Any, what: Any = None) -> Any:
        return what

    sealed = made.seal()
    assert sealed.on_create is not None
    assert await sealed.on_create("ctx") is None
    assert sealed.on_wake is not None
    assert await sealed.on_wake("ctx", "report") == "report"
    assert await call(sealed, "say", 5) == 5


async def test_a_plain_room_may_ignore_the_message() -> None:
    """`on_message` may take the context alone."""
    for function, expected in ((only_context, []), (other, None)):
        made = room()
        made.on_message(function)
        if expected is None:
            refused(made.seal, "(ctx, message)")
        else:
            handler = made.seal().on_message
            assert handler is not None
            await handler("ctx", "hello")


def test_sealing_twice_gives_the_same() -> None:
    """A sealed room stays as it is."""
    made = room(state=State)
    made.on("say")(say)
    assert made.seal() is made.seal()


async def test_a_definition_cannot_be_changed() -> None:
    """What was sealed is frozen, and what is later set on the room does not reach it."""
    made = room(idle_timeout=5)
    sealed = made.seal()
    made.idle_timeout = 7
    assert sealed.policy.idle_timeout == 5
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        sealed.policy = Policy()  # type: ignore[misc]


def test_a_room_that_failed_to_seal_can_be_mended() -> None:
    """What was refused is not half sealed."""
    made = room()
    made.on("say")(unknown)
    refused(made.seal, "Missing")
    refused(made.seal, "Missing")
    made.on("more")(handle)


# Migrations.


@pytest.mark.parametrize(
    ("before", "after"), [(2, 1), (1, 1), (0, 1), (-1, 2), ("1", "2"), (1.5, 2), (None, 2)]
)
def test_a_migration_leads_upwards(before: Any, after: Any) -> None:
    """A migration that leads nowhere is refused with its numbers."""
    refused(lambda: room(version=3).migrate(before, after), "to a later one", f"{before!r} to {after!r}")


def test_bad_migrations_are_refused() -> None:
    """Two from one version, one that is async, and one beyond the room's version are refused."""
    made = room(version=3)
    assert made.migrate(1, 2)(up) is up
    refused(lambda: made.migrate(1, 3)(up), "already a migration from version 1")
    refused(lambda: made.migrate(2, 3)(up_async), "not async", "def up_async(state)")
    made = room(version=2)
    made.migrate(1, 3)(up)
    refused(made.seal, "from 1 to 3", "version=2")


def test_a_room_says_what_it_is() -> None:
    """Its representation has its name and version."""
    assert repr(room(version=3)) == "<Room 'chat' version 3>"


def test_a_room_that_wakes_for_departures_hears_of_them() -> None:
    """Else it would wake for nothing."""
    room: Room[None] = Room("room", wake_on_disconnect=True)
    with pytest.raises(DefinitionError, match="on_disconnect"):
        room.seal()
