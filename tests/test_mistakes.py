"""Mistakes that one makes in writing rooms: each is told to whoever made it, at once, and to nobody else."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_rooms import (
    AskRefused,
    Context,
    DefinitionError,
    EventError,
    HandlerFailed,
    MemoryStore,
    Refused,
    Room,
    Rooms,
    Stage,
    UnknownRoom,
    open_rooms,
    run,
)
from trio_rooms.testing import connect

till: Room[int] = Room("till", state=int, public=False)


@till.on("charge")
async def charge(ctx: Context[int], data: int) -> int:
    """Take some money."""
    if data <= 0:
        raise EventError("free", "nothing is for free")
    ctx.state += data
    return ctx.state


shop: Room[dict[str, Any]] = Room("shop", state=dict)


@shop.on("buy")
async def buy(ctx: Context[Any], data: list[Any]) -> Any:
    """Ask the till for what is said."""
    event, amount = data
    return await ctx.rooms.get("till", "main").ask(event, amount)


@shop.on("forget await")
async def forget_await(ctx: Context[Any]) -> Any:
    """Answer with a coroutine."""
    return ctx.rooms.get("till", "main").ask("charge", 1)


@shop.on("refuse")
async def refuse(ctx: Context[Any]) -> None:
    """Refuse as authenticate does."""
    raise Refused(403, "not here")


@shop.on("shout")
async def shout(ctx: Context[Any]) -> None:
    """Send what cannot be sent."""
    ctx.room.emit("said", object())


class Basket:
    """No class that can be sent."""


@shop.on("return")
async def return_(ctx: Context[Any]) -> Any:
    """Answer with what cannot be sent."""
    return Basket()


@shop.on("break")
async def break_(ctx: Context[Any], data: bool) -> None:
    """Put something into the state that cannot be saved, or take it out again."""
    ctx.state["wrong"] = object() if data else None


async def test_what_another_room_refuses_is_the_mistake_of_who_asks(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A client is not told of events and data that it never sent; what the other handler refuses passes."""
    async with open_rooms([shop, till]) as rooms, connect(rooms, "shop/x") as client:
        for data, why in (
            (["chrage", 1], "room till/main: unknown_event: this room has no event 'chrage'"),
            (["charge", "x"], "room till/main: invalid_data: expected int, got str"),
        ):
            caplog.clear()
            with pytest.raises(EventError) as told:
                await client.ask("buy", data)
            assert told.value.code == "internal_error"
            assert "till" not in str(told.value)
            assert why in caplog.text
            with pytest.raises(HandlerFailed) as failed:
                await rooms.get("shop", "x").ask("buy", data)
            assert isinstance(failed.value.__cause__, AskRefused)
            with pytest.raises(AskRefused, match="room till/main") as refused:
                await rooms.get("till", "main").ask(*data)
            assert refused.value.key == "till/main"
        with pytest.raises(EventError) as told:
            await client.ask("buy", ["charge", 0])
        assert (told.value.code, told.value.message) == ("free", "nothing is for free")


def test_the_error_is_the_same_once_more() -> None:
    """Everybody who asks a room gets one of his own, and it may cross to another process."""
    error = AskRefused("till/main", "unknown_event", "this room has no such event")
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 (it is made here)
        assert (type(same), str(same), same.key) == (AskRefused, str(error), "till/main")


async def test_a_forgotten_await_is_named(autojump_clock: MockClock) -> None:
    """The error says what was not awaited, and Python warns of nothing beside it."""
    async with open_rooms([shop, till]) as rooms:
        with pytest.raises(HandlerFailed) as failed:
            await rooms.get("shop", "x").ask("forget await")
        assert r"write: await ask(...)" in str(failed.value.__cause__)


async def test_a_refusal_in_the_wrong_place_is_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler of an event that raises Refused is told what refuses there."""
    async with open_rooms([shop]) as rooms, connect(rooms, "shop/x") as client:
        with pytest.raises(EventError, match="internal_error"):
            await client.ask("refuse")
        assert "here it is EventError" in caplog.text


async def test_what_cannot_be_sent_is_an_error_though_nobody_listens(autojump_clock: MockClock) -> None:
    """So a test without clients finds it: to all, to an empty channel, to one that has left, from outside."""
    async with open_rooms([shop]) as rooms:
        nobody, handle = rooms.get("shop", "nobody"), rooms.get("shop", "x")
        with pytest.raises(HandlerFailed) as failed:
            await handle.ask("shout")
        assert isinstance(failed.value.__cause__, TypeError)
        with pytest.raises(TypeError, match="cannot be sent"):
            nobody.emit("said", object())
        assert nobody.emit("said", 1).reached == 0
        async with connect(rooms, "shop/x"):
            with pytest.raises(TypeError, match="cannot be sent"):
                handle.emit("said", object(), channel="empty")


async def test_what_a_handler_returned_and_cannot_be_sent_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """No line of the handler is in the traceback, so the log says what it is about, and says it once."""
    async with open_rooms([shop]) as rooms, connect(rooms, "shop/x") as client:
        for ask, error in ((client.ask, EventError), (rooms.get("shop", "x").ask, HandlerFailed)):
            caplog.clear()
            with pytest.raises(error):
                await ask("return")
            assert "this is what the handler returned" in caplog.text
            assert caplog.text.count("a Basket cannot be sent") == 1


async def test_a_state_that_cannot_be_saved_does_not_keep_the_stop_waiting(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing could make it better any more; what is lost is said, with the reason."""
    async with open_rooms([shop], store=MemoryStore(), stop_timeout=10) as rooms:
        room = rooms.get("shop", "x")
        await room.ask("break", True)
        assert not await room.hibernate()
        await room.ask("break", False)
        assert await room.hibernate()
        await room.ask("break", True)
        caplog.clear()
        began = trio.current_time()
    assert trio.current_time() - began < 1
    lost = [record.message for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(lost) == 1
    assert "shop/x" in lost[0]
    assert "wrong" in lost[0]
    assert "did not come to rest" not in caplog.text


@attrs.define
class Line:
    """One list for all of them: the mistake."""

    tags: list[str] = []  # noqa: RUF008 (it is the mistake)


@attrs.define
class Lines:
    """It is deep in here as well."""

    lines: list[Line] = attrs.field(factory=list)


@attrs.define
class Fine:
    """A converter makes a list of its own, and a tuple cannot be changed."""

    tags: list[str] = attrs.field(converter=list, default=[])
    pair: tuple[int, int] = (0, 0)


async def say_lines(ctx: Context[Any], data: Lines) -> None:
    """Never called."""


def test_a_default_that_all_would_share_is_refused() -> None:
    """Two rooms with one list would tell each other's secrets; also deep in a state, and in an event."""
    for state in (Line, Lines):
        with pytest.raises(DefinitionError, match=r"tags: all instances would share .*factory=list"):
            Room("r", state=state).seal()
    Room("r", state=Fine).seal()
    room: Room[Any] = Room("r")
    room.on("say")(say_lines)
    with pytest.raises(DefinitionError, match="all instances would share"):
        room.seal()


def test_arguments_in_the_wrong_order_are_refused() -> None:
    """The context comes first."""
    room: Room[Any] = Room("r")

    @room.on("say")
    async def say(data: Any, ctx: Any) -> None:
        """Never called."""

    with pytest.raises(DefinitionError, match=r"async def say\(ctx, data\)"):
        room.seal()


@pytest.mark.parametrize("code", ["there are no seats left", "", " ", "x" * 101])
def test_an_error_without_a_code_is_refused(code: str) -> None:
    """The text is the second argument."""
    with pytest.raises(ValueError, match='EventError\\("sold_out", "there are no seats left"\\)'):
        EventError(code)


async def no_arguments() -> None:
    """A main that forgot the rooms."""


async def good_main(rooms: Rooms) -> None:
    """One as it should be."""


@pytest.mark.parametrize(
    ("main", "why"),
    [
        (no_arguments, "called with the rooms"),
        (lambda rooms: None, "an async function"),
        (5, "an async function"),
    ],
)
def test_a_main_that_cannot_be_is_refused_before_anything_is_served(main: Any, why: str) -> None:
    """The error says what to write."""
    with pytest.raises(TypeError, match=rf"{why}.*async def main\(rooms\)"):
        run([], main, port=0)
    with pytest.raises(TypeError, match="main was called, where run is to call it"):
        run([], good_main(None), port=0)  # type: ignore[arg-type]  # both are mistakes


async def test_what_the_test_client_is_not_for(autojump_clock: MockClock) -> None:
    """Events in a plain room, and a room without an id, are errors at once, and nothing hangs."""
    plain: Room[None] = Room("plain")

    @plain.on_message
    async def got(ctx: Context[None], message: str | bytes) -> None:
        """Nothing."""

    async with open_rooms([plain]) as rooms:
        async with connect(rooms, "plain/x") as client:
            with pytest.raises(TypeError, match="plain"):
                await client.ask("say")
            with pytest.raises(TypeError, match="plain"):
                await client.emit("say")
        with pytest.raises(UnknownRoom, match='A key is "name/id"'):
            async with connect(rooms, "plain"):
                pass
        assert rooms.get("plain", "x").info().stage is Stage.ASLEEP
