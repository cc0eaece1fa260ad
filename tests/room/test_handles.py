from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import (
    AskTimeout,
    Context,
    Room,
    RoomHandle,
    RoomInfo,
    Rooms,
    Schedule,
    Stage,
    WhyAwake,
    open_rooms,
)
from trio_rooms._room.answers import Answer
from trio_rooms._room.mail import Ask, Destroy, Hibernate, Mail
from trio_rooms._sockets.fanout import Message
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.plans import Plan
from trio_rooms._wire.envelope import Body
from trio_rooms.errors import RoomsError


async def _keep(ctx: Context[list[Any]], data: Any) -> list[Any]:
    ctx.state.append(data)
    return ctx.state


async def _take(ctx: Context[list[Any]], data: float) -> None:
    await trio.sleep(data)
    ctx.state.append(data)


def shelf() -> Room[list[Any]]:
    """A room that keeps what it is given."""
    room: Room[list[Any]] = Room("shelf", state=list)
    room.on("keep")(_keep)
    room.on("take")(_take)
    return room


class Elsewhere:
    """A `Placement` of rooms that are in another process, which answers with what it was handed."""

    def __init__(self) -> None:
        self.handed: list[tuple[str, str, Any]] = []

    def accepts(self, key: str) -> bool:
        """Yes."""
        return True

    def deliver(self, key: str, mail: Mail) -> bool:
        """Note it, and answer."""
        assert isinstance(mail, Ask | Destroy)
        self.handed.append(("deliver", key, type(mail)))
        if mail.answer is not None:
            mail.answer.succeed(mail.data if isinstance(mail, Ask) else None)
        return True

    def deliver_soon(self, key: str, mail: Mail) -> None:
        """Note it, and answer."""
        assert isinstance(mail, Hibernate)
        self.handed.append(("deliver_soon", key, type(mail)))
        mail.answer.succeed(True)

    async def people(self, key: str) -> tuple[str, ...]:
        """Note it, and say who is there."""
        self.handed.append(("people", key, None))
        return ("ana",)

    def waiting(self, key: str, answer: Answer) -> contextlib.AbstractContextManager[None]:
        """Nobody waits for long."""
        return contextlib.nullcontext()

    def reschedule(self, key: str, plan: Plan, *, held: bool = True) -> None:
        """Note it, and say that it is durable."""
        self.handed.append(("reschedule", key, held))
        if plan.told is not None:
            plan.told(True)

    def emit_reliably(
        self,
        key: str,
        body: Body,
        channel: str | None,
        manner: Manner | None,
        done: Callable[[Sent], None] | None,
        refused: Callable[[RoomsError], None] | None,
    ) -> Sent:
        """Never asked."""
        raise NotImplementedError

    async def schedules(self, key: str) -> Mapping[str, Schedule]:
        """Note it."""
        self.handed.append(("schedules", key, None))
        return {}

    def awaiting(self, key: str, answer: Answer) -> contextlib.AbstractContextManager[None]:
        """Of no use here."""
        raise NotImplementedError

    def info(self, key: str) -> RoomInfo:
        """Note it."""
        self.handed.append(("info", key, None))
        return RoomInfo(key, Stage.AWAKE, 1, (), 0, ())

    def why_awake(self, key: str) -> WhyAwake:
        """Note it."""
        self.handed.append(("why_awake", key, None))
        return WhyAwake(key, Stage.AWAKE, ())

    def emit(self, key: str, message: Message, channel: str | None, manner: Manner | None = None) -> Sent:
        """Note it."""
        self.handed.append(("emit", key, channel))
        return Sent(parked=42)

    async def emit_counted(
        self, key: str, message: Message, channel: str | None, manner: Manner | None = None
    ) -> Sent:
        """Of no use here."""
        raise NotImplementedError

    async def find_info(self, key: str) -> RoomInfo:
        """Of no use here."""
        raise NotImplementedError

    async def find_why_awake(self, key: str) -> WhyAwake:
        """Of no use here."""
        raise NotImplementedError


def elsewhere(rooms: Rooms, placement: Elsewhere) -> RoomHandle:
    """A handle on a room that is not in this process."""
    return RoomHandle(
        "shelf/x",
        rooms._definitions["shelf"],
        placement,
        rooms._store,
        rooms._supervisor._deadlines,
        rooms._supervisor.users,
    )


async def test_all_that_a_handle_hands_over_goes_to_the_placement(autojump_clock: MockClock) -> None:
    """It knows nothing of where a room runs, and returns what it is answered from there."""
    placement = Elsewhere()
    async with open_rooms([shelf()]) as rooms:
        room = elsewhere(rooms, placement)
        assert await room.ask("keep", (1, 2)) == [1, 2]
        assert await room.hibernate() is True
        await room.destroy()
        assert room.emit("kept", channel="red") == Sent(parked=42)
        assert room.info().stage is Stage.AWAKE
        assert room.why_awake() == WhyAwake("shelf/x", Stage.AWAKE, ())
        assert await room.users() == ("ana",)
        room.cancel("x")
        assert await room.cancel_durably("x")
        assert await room.schedules() == {}
        assert placement.handed == [
            ("deliver", "shelf/x", Ask),
            ("deliver_soon", "shelf/x", Hibernate),
            ("deliver", "shelf/x", Destroy),
            ("emit", "shelf/x", "red"),
            ("info", "shelf/x", None),
            ("why_awake", "shelf/x", None),
            ("people", "shelf/x", None),
            ("reschedule", "shelf/x", True),
            ("reschedule", "shelf/x", False),
            ("schedules", "shelf/x", None),
        ]
        assert rooms.statistics().supervisor.wakes == 0


@pytest.mark.parametrize("data", [object(), {"deep": [object()]}, "\ud800"])
async def test_a_question_that_has_no_form_is_not_put(data: Any, autojump_clock: MockClock) -> None:
    """The caller is told at once, and the room is not woken."""
    async with open_rooms([shelf()]) as rooms:
        with pytest.raises((TypeError, ValueError)):
            await rooms.get("shelf", "x").ask("keep", data)
        assert rooms.statistics().supervisor.wakes == 0


async def test_what_is_asked_and_answered_is_a_copy(autojump_clock: MockClock) -> None:
    """Neither the caller's edits of its question nor those of the answer reach the room's state."""
    async with open_rooms([shelf()]) as rooms:
        room = rooms.get("shelf", "x")
        question = {"deep": [1]}
        answer = await room.ask("keep", question)
        question["deep"].append(2)
        answer.append("mine")
        answer[0]["deep"].append(3)
        assert await room.ask("keep", None) == [{"deep": [1]}, None]


async def test_a_handle_outlives_what_it_is_a_handle_on(autojump_clock: MockClock) -> None:
    """It is a value: two of one room are equal, and each finds the room whatever happened to it."""
    async with open_rooms([shelf()]) as rooms:
        one, two = rooms.get("shelf", "x"), rooms.get("shelf", "x")
        assert one == two
        assert one != rooms.get("shelf", "y")
        assert await one.ask("keep", 1) == [1]
        await two.destroy()
        assert await one.ask("keep", 2) == [2]
        await trio.sleep(1000)
        assert await two.ask("keep", 3) == [2, 3]


async def test_who_asks_waits_half_a_minute(autojump_clock: MockClock) -> None:
    """Then an error says so, and what was asked is handled all the same."""
    async with open_rooms([shelf()]) as rooms:
        room = rooms.get("shelf", "x")
        began = trio.current_time()
        with pytest.raises(AskTimeout, match=r"room shelf/x has not answered 'take' within 30 s") as caught:
            await room.ask("take", 40)
        assert isinstance(caught.value, TimeoutError)
        assert trio.current_time() - began == pytest.approx(30)
        with pytest.raises(AskTimeout, match="within 5 s"):
            await room.ask("keep", 1, timeout=5)
        assert await room.ask("keep", 2) == [40.0, 1, 2]
        await room.ask("take", 1000, timeout=math.inf)


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), (None, TypeError)])
async def test_a_time_that_is_none_is_refused_at_the_call(
    timeout: Any, error: type[Exception], autojump_clock: MockClock
) -> None:
    """Nothing is asked."""
    async with open_rooms([shelf()]) as rooms:
        with pytest.raises(error, match="timeout is a number"):
            await rooms.get("shelf", "x").ask("keep", 1, timeout=timeout)
        assert await rooms.get("shelf", "x").ask("keep", 2) == [2]


async def test_a_handle_in_a_log_shows_no_state() -> None:
    """Of whichever room: only its key."""
    async with open_rooms([shelf()]) as rooms:
        handle = rooms.get("shelf", "a")
        await handle.ask("keep", "a secret")
        assert await handle.hibernate()
        assert repr(handle) == "<RoomHandle shelf/a>"
        assert "a secret" not in repr(rooms)
