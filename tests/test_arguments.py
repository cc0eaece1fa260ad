"""Wrong arguments of public calls: the caller's error at the call, and nothing has changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import Context, DefinitionError, EventError, MemoryStore, Refused, Room, Rooms, open_rooms
from trio_rooms._arguments import number, text, whole
from trio_rooms.testing import connect

HALF = "\ud800"


def test_a_string_is_one_that_can_be_written() -> None:
    """Anything else, half a surrogate pair too, is refused with the name of the argument."""
    assert text("x", "") == ""
    assert text("x", "\U0001f600") == "\U0001f600"
    for wrong in (None, 5, b"x", ["x"]):
        with pytest.raises(TypeError, match="name is a string"):
            text("name", wrong)
    with pytest.raises(ValueError, match="name has half a surrogate pair at 1"):
        text("name", "x" + HALF)


def test_numbers_are_numbers() -> None:
    """No bool, no NaN, none below the least."""
    assert whole("x", 0) == 0
    assert number("x", 1) == 1.0
    assert number("x", math.inf) == number("x", 10**400) == math.inf
    for wrong in (None, True, "1", 1.5):
        with pytest.raises(TypeError, match="x is a whole number"):
            whole("x", wrong)
    for wrong in (None, True, "1"):
        with pytest.raises(TypeError, match="x is a number"):
            number("x", wrong)
    with pytest.raises(ValueError, match="from 1 on, not 0"):
        whole("x", 0, least=1)
    for negative in (-1, -0.5, math.nan):
        with pytest.raises(ValueError, match="from 0 on"):
            number("x", negative)


def _plain() -> None:
    """No async function."""


async def _task(ctx: Context[Any]) -> None:
    """Takes one argument."""


async def _asynchronous_generator() -> Any:
    yield 1


def _wrong(ctx: Context[Any]) -> dict[str, Callable[[], Any]]:
    """What a handler may get wrong, by a name for it."""
    room, connection, storage = ctx.room, ctx.connection, ctx.room.storage
    call: dict[str, Callable[..., Any]] = {
        "start_soon": room.start_soon,
        "keep_awake": room.keep_awake,
        "emit": room.emit,
        "send_to": connection.emit,
        "close": connection.close,
        "join": connection.join,
        "leave": connection.leave,
        "put": storage.put,
        "delete": storage.delete,
    }
    return {
        "put a number": lambda: call["put"](42, "value"),
        "put half a pair": lambda: call["put"](HALF, "value"),
        "delete None": lambda: call["delete"](None),
        "get a number": lambda: storage.get(42),  # type: ignore[call-overload]
        "list a number": lambda: storage.list(42),  # type: ignore[arg-type]
        "list after": lambda: storage.list("", after=b"x"),  # type: ignore[arg-type]
        "list less than nothing": lambda: storage.list(limit=-1),
        "list some": lambda: storage.list(limit=1.5),  # type: ignore[arg-type]
        "start a plain function": lambda: call["start_soon"](_plain),
        "start a coroutine": lambda: call["start_soon"](_task(ctx)),
        "start nothing": lambda: call["start_soon"](None),
        "start a generator": lambda: call["start_soon"](_asynchronous_generator),
        "start without arguments": lambda: call["start_soon"](_task, keep_awake=True),
        "start with a number for a name": lambda: call["start_soon"](_task, ctx, name=5),
        "keep awake for None": lambda: call["keep_awake"](None),
        "emit a number": lambda: call["emit"](5),
        "emit nothing": lambda: call["emit"](""),
        "emit what is kept": lambda: call["emit"]("rooms.x"),
        "emit to a number": lambda: call["emit"]("x", channel=5),
        "emit except a string": lambda: call["emit"]("x", exclude="x"),
        "emit except None": lambda: call["emit"]("x", exclude=None),
        "send to one a number": lambda: call["send_to"](5),
        "send to one what has no form": lambda: call["send_to"]("x", object()),
        "close with text": lambda: call["close"]("1000"),
        "close with a fraction": lambda: call["close"](1000.0),
        "close with a code of nobody": lambda: call["close"](2000),
        "close for None": lambda: call["close"](1000, None),
        "join a number": lambda: call["join"](5),
        "join half a pair": lambda: call["join"](HALF),
        "leave None": lambda: call["leave"](None),
        "an error of numbers": lambda: EventError(5),  # type: ignore[arg-type]
    }


room: Room[dict[str, int]] = Room("room", state=dict, snapshot_interval=0.1)


@room.on("try")
async def _try(ctx: Context[dict[str, int]]) -> list[str]:
    """Make all of these mistakes; returns those that went through."""
    through = []
    for name, attempt in _wrong(ctx).items():
        ctx.state["tried"] = ctx.state.get("tried", 0) + 1
        try:
            made = attempt()
            if hasattr(made, "__await__"):
                await made
        except (TypeError, ValueError):
            continue
        through.append(name)
    assert not ctx.connection.closed
    assert ctx.connection.channels == ()
    assert await ctx.room.storage.list() == {}
    return through


@room.on("find")
async def _find(ctx: Context[Any], data: Any) -> bool:
    return ctx.room.connections.get(data) is not None


@room.on("close twice")
async def _close_twice(ctx: Context[Any]) -> None:
    [connection] = ctx.room.connections
    connection.close()
    with pytest.raises(ValueError, match="2000"):
        connection.close(2000)


async def test_a_handler_is_told_at_the_call(autojump_clock: MockClock) -> None:
    """No mistake of a handler comes up later, as a crash that takes along what was acknowledged."""
    async with open_rooms([room]) as rooms, connect(rooms, "room/x") as client:
        assert await client.ask("try") == []
        await trio.sleep(1)
        handle = rooms.get("room", "x")
        assert rooms.statistics().supervisor.crashes == 0
        assert await handle.peek() == {"tried": 31}
        assert handle.info().held == ()
        assert await handle.hibernate()


async def test_what_is_no_id_is_nobodys(autojump_clock: MockClock) -> None:
    """`Connections.get` finds a connection by its id as it is written, and says None to all else."""
    async with open_rooms([room]) as rooms, connect(rooms, "room/x") as client:
        [own] = [format(link, "x") for link in rooms._hub.rosters["room/x"].links]
        assert await client.ask("find", own)
        for other in ("zz", None, 5, "", [own], "0x" + own, " " + own, own[0] + "_" + own[1:]):
            assert not await client.ask("find", other), other


async def test_a_close_is_checked_where_it_does_nothing_too(autojump_clock: MockClock) -> None:
    """A code that may not be sent is the caller's error also when the connection is closing."""
    async with open_rooms([room]) as rooms, connect(rooms, "room/x"):
        await rooms.get("room", "x").ask("close twice")


async def test_the_program_is_told_at_the_call() -> None:
    """What the program asks, emits and serves is checked before anything is done."""
    async with open_rooms([room]) as rooms:
        handle = rooms.get("room", "x")
        mistakes: list[Callable[[], Any]] = [
            lambda: handle.ask(5),  # type: ignore[arg-type]
            lambda: handle.ask(["try"]),  # type: ignore[arg-type]
            lambda: rooms.serve(5, 0),  # type: ignore[arg-type]
            lambda: rooms.serve(None, "80"),  # type: ignore[arg-type]
            lambda: rooms.serve(None, -1),
            lambda: rooms.serve(None, 65536),
            lambda: rooms.serve(None, 0, prefix=5),  # type: ignore[arg-type]
            lambda: rooms.serve(None, 0, template=b"/{room}/{id}"),  # type: ignore[arg-type]
            lambda: rooms.serve(None, 0, origins="https://example.org"),
            lambda: rooms.serve(None, 0, origins=[None]),  # type: ignore[list-item]
            lambda: rooms.serve(None, 0, max_connections=-1),
            lambda: rooms.serve(None, 0, handshake_timeout=math.nan),
        ]
        for mistake in mistakes:
            with pytest.raises((TypeError, ValueError)):
                await mistake()
        for event, channel in ((5, None), ("x", 5), (None, None)):
            with pytest.raises((TypeError, ValueError)):
                handle.emit(event, channel=channel)  # type: ignore[arg-type]
        assert handle.info().stage.value == "asleep"


async def _open(**options: Any) -> Rooms:
    async with open_rooms([room], **options) as rooms:
        return rooms


async def test_options_of_the_runtime_are_checked() -> None:
    """Nothing is opened where an option is of a wrong type, negative, or NaN."""
    store = MemoryStore()
    wrong: list[dict[str, Any]] = [
        {"max_message_size": -1}, {"max_message_size": "1"}, {"max_unsent": 1.5}, {"max_unsent": None},
        {"policy": "classic"}, {"policy": {"max_awake": 5}}, {"stop_timeout": -1}, {"stop_timeout": math.nan},
        {"close_timeout": "5"}, {"close_timeout": None}, {"gc_thresholds": ("a", 1, 1)},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises((TypeError, ValueError)):
            await _open(store=store, **options)
    for given in ("data", MemoryStore):
        with pytest.raises(TypeError, match="DiskStore"):
            await _open(store=given)
    async with store:
        assert store.epoch == 1


@pytest.mark.parametrize(
    "options",
    [
        {"attachment_limit": -1}, {"attachment_limit": "16"}, {"attachment_limit": True}, {"page": b"<p>"},
        {"auto_respond": {"ping": 5}}, {"auto_respond": {5: "pong"}}, {"idle_timeout": math.nan},
        {"snapshot_interval": -1}, {"policy": "often"}, {"version": 1.0},
        {"public": "no"}, {"wake_on_disconnect": 1}, {"strict": None},
        {"auto_relay": "at"}, {"auto_relay": b"\x01"}, {"auto_echo": [""]}, {"auto_echo": [7]},
        {"auto_relay": ["at"], "auto_echo": ["at 5"]}, {"auto_relay": [b"\x01\x02"], "auto_echo": [b"\x01"]},
        {"relay_rate": 0}, {"relay_rate": -1},
    ],
)  # fmt: skip
def test_options_of_a_room_are_checked(options: dict[str, Any]) -> None:
    """A definition that cannot work is refused where it is written."""
    with pytest.raises(DefinitionError):
        Room("room", **options)


def test_a_flag_is_true_or_false() -> None:
    """An event whose ``internal`` is a string would be for the program alone, whatever the string says."""
    with pytest.raises(DefinitionError, match="internal is True or False, not 'no'"):
        Room("room").on("x", internal="no")  # type: ignore[arg-type]


def test_a_refusal_has_a_reason_that_can_be_sent() -> None:
    """What is no string or no code is the error of who raises it."""
    for wrong in ({"reason": 5}, {"close": "4000"}):
        with pytest.raises(TypeError):
            Refused(403, **wrong)
