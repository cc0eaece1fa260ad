from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from tests.room.parts import Parts, wired
from tests.sockets.bench import Line
from trio_rooms import Context, Disconnect, EventError, HandlerFailed, Refused, Room, RoomFailed, StoreFull
from trio_rooms._room.answers import Answer
from trio_rooms._room.dispatcher import refuse
from trio_rooms._room.mail import Ask, Destroy, Hibernate, Mail, SaveFailed
from trio_rooms._sockets.flags import CLOSING, GONE, UNGREETED
from trio_rooms._sockets.roster import Connected, Disconnected


class Broken(Exception):
    """What a handler raises that has a defect."""


@attrs.define(eq=False)
class Journal:
    """What the rooms of a test were told, and what they are to do."""

    errors: list[tuple[bool, Exception]] = attrs.field(factory=list)
    """What on_error heard, and whether a connection was the cause."""
    left: list[Disconnect] = attrs.field(factory=list)
    on_error_raises: bool = False
    groups: int = 0
    """In how many groups a handler raises its refusal."""
    beside: list[Exception] = attrs.field(factory=list)
    """What else is in them."""


journal = Journal()


@pytest.fixture(autouse=True)
def _fresh_journal() -> None:
    journal.__init__()  # type: ignore[misc]


async def _echo(_ctx: Context[None], data: Any) -> Any:
    return data


async def _whole(_ctx: Context[None], data: int) -> int:
    return data


async def _raise(ctx: Context[None]) -> None:
    if ctx.from_connection:
        ctx.connection.attachment = ["edited"]
        ctx.connection.attachment.append("before it raised")
    raise Broken("secret")


async def _refuse(_ctx: Context[None]) -> None:
    raise EventError("sold_out", "come back tomorrow")


async def _group(_ctx: Context[None]) -> None:
    error: Exception = EventError("sold_out", "come back tomorrow")
    for _ in range(journal.groups):
        error = ExceptionGroup("a nursery", [error, *journal.beside])
    raise error


async def _strange(_ctx: Context[None]) -> object:
    return object()


async def _spoil(ctx: Context[None]) -> None:
    ctx.connection.attachment = []
    ctx.connection.attachment.append(object())


async def _channel(ctx: Context[None]) -> str | None:
    return ctx.channel


async def _left(_ctx: Context[None], left: Disconnect) -> None:
    journal.left.append(left)
    raise Broken


async def _failed(ctx: Context[None], error: Exception) -> None:
    journal.errors.append((ctx.from_connection, error))
    if journal.on_error_raises:
        raise Broken("on_error")


async def _message(_ctx: Context[None], _message: str | bytes) -> None:
    raise Broken


def hall(*hooks: str) -> Room[None]:
    """A room with handlers that do everything wrong, and some hooks."""
    room: Room[None] = Room("hall")
    room.on("echo")(_echo)
    room.on("whole")(_whole)
    room.on("raise")(_raise)
    room.on("refuse")(_refuse)
    room.on("group")(_group)
    room.on("strange")(_strange)
    room.on("spoil")(_spoil)
    room.on("channel")(_channel)
    known = {"on_connect": _raise, "on_disconnect": _left, "on_error": _failed}
    for hook in hooks or known:
        getattr(room, hook)(known[hook])
    return room


def plain() -> Room[None]:
    """A room whose messages are its own."""
    room: Room[None] = Room("hall")
    room.on_message(_message)
    return room


def envelope(event: str, data: Any = None, **more: Any) -> str:
    """A message of a client."""
    return json.dumps({"event": event, "data": data, **more})


async def told(parts: Parts, line: Line, message: str | bytes) -> list[Any]:
    """What a client is told of its message."""
    parts.output.said.clear()
    await parts.dispatcher.handle((line, message))
    assert all(link is line for link, _ in parts.output.said)
    return [said for _, said in parts.output.said]


def causes() -> list[type[Exception]]:
    """What on_error heard."""
    return [type(error) for _, error in journal.errors]


# What a client is told.


async def test_a_message_with_an_id_is_answered_with_what_its_handler_returned() -> None:
    """One without is not answered, and an acknowledgement asks for nothing."""
    async with wired(hall()) as parts:
        line = parts.line()
        assert await told(parts, line, envelope("echo", [1], id=3)) == [{"ack": 3, "data": [1]}]
        assert await told(parts, line, envelope("echo", [1])) == []
        assert await told(parts, line, json.dumps({"ack": 1})) == []
        assert await told(parts, line, envelope("channel", id=1, channel="red")) == [
            {"ack": 1, "data": "red"}
        ]
        assert await told(parts, line, envelope("channel", id=2)) == [{"ack": 2, "data": None}]
        assert causes() == []


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ("refuse", "sold_out"),
        ("nobody", "unknown_event"),
        ("whole", "invalid_data"),
        ("raise", "internal_error"),
    ],
)
@pytest.mark.parametrize("number", [None, 7])
async def test_a_client_is_told_once_what_became_of_its_message(
    event: str, code: str, number: int | None
) -> None:
    """Of a refusal the code and the text, of a defect nothing but that there is one; nothing escapes."""
    async with wired(hall()) as parts:
        more = {} if number is None else {"id": number}
        (answer,) = await told(parts, parts.line(), envelope(event, "no number", **more))
        assert answer["error"]["code"] == code
        assert answer.get("ack") == number
        assert "secret" not in str(answer)
        assert causes() == ([Broken] if event == "raise" else [])


@pytest.mark.parametrize("message", ["no envelope", b"\xff", envelope("")])
async def test_what_is_no_envelope_is_refused(message: str | bytes) -> None:
    """It reaches no handler, and its sender is told."""
    async with wired(hall()) as parts:
        (answer,) = await told(parts, parts.line(), message)
        assert answer["error"]["code"] == "invalid_message"
        assert causes() == []


@pytest.mark.parametrize("event", ["strange", "spoil"])
async def test_a_result_or_an_attachment_that_cannot_be_kept_is_a_defect(event: str) -> None:
    """Its sender is told that there is one, on_error which."""
    async with wired(hall()) as parts:
        (answer,) = await told(parts, parts.line(), envelope(event, id=1))
        assert (answer["ack"], answer["error"]["code"]) == (1, "internal_error")
        assert len(journal.errors) == 1


async def test_what_a_handler_edited_before_it_raised_is_kept() -> None:
    """As its changes of the state are."""
    async with wired(hall("on_connect")) as parts:
        line = parts.line()
        await told(parts, line, envelope("raise"))
        parts.members.clear()
        parts.shared.over = False  # It is loaded again.
        assert parts.members.connection(line).attachment == ["edited", "before it raised"]


@pytest.mark.parametrize("groups", [0, 1, 3])
async def test_an_error_of_the_application_may_come_out_of_nurseries(groups: int) -> None:
    """A group of one is that one, for a client, the program, and a connection that comes."""
    journal.groups = groups
    async with wired(hall()) as parts:
        line, answer = parts.line(), Answer()
        (said,) = await told(parts, line, envelope("group", id=1))
        assert said == {"ack": 1, "error": {"code": "sold_out", "message": "come back tomorrow"}}
        await parts.dispatcher.handle(Ask("group", None, answer))
        with pytest.raises(EventError, match="sold_out"):
            await answer.wait()
        assert causes() == []


async def test_a_group_of_several_is_a_defect() -> None:
    """A refusal must not hide what else was raised."""
    journal.groups, journal.beside = 1, [Broken()]
    async with wired(hall()) as parts:
        (said,) = await told(parts, parts.line(), envelope("group", id=1))
        assert said["error"]["code"] == "internal_error"
        assert causes() == [ExceptionGroup]


@pytest.mark.parametrize(
    ("error", "code", "reason", "heard"),
    [
        (Broken("secret"), 1011, "the room failed", True),
        (EventError("sold_out", "come back tomorrow"), 1008, "come back tomorrow", False),
        (EventError("sold_out"), 1008, "sold_out", False),
        (ExceptionGroup("", [EventError("sold_out")]), 1008, "sold_out", False),
        (Refused(403, "not you"), 1008, "not you", False),
        (Refused(403, "not you", close=4403), 4403, "not you", False),
        (ExceptionGroup("", [EventError("sold_out"), Broken()]), 1011, "the room failed", True),
    ],
)
async def test_a_connection_that_has_no_answers_is_closed(
    error: Exception, code: int, reason: str, heard: bool
) -> None:
    """One of a plain room whose handler raised, or whose on_connect did; on_error hears of defects."""
    room = plain()
    room.on_error(_failed)
    async with wired(room) as parts:
        line = parts.line()
        await parts.dispatcher.turn_away(parts.members.context_for(line), "on_message", error)
        assert not parts.output.said
        assert parts.output.closed == [(line, code, True)]
        assert parts.output.reasons == [reason]
        assert len(journal.errors) == heard


@pytest.mark.parametrize("event", ["rooms.welcome", "rooms."])
async def test_what_the_library_keeps_for_itself_does_not_reach_a_room(event: str) -> None:
    """Neither from a client nor from the program, also where on_any takes everything."""
    room = hall()
    room.on_any(_echo)
    async with wired(room) as parts:
        (said,) = await told(parts, parts.line(), envelope(event, id=1))
        assert said["error"]["code"] == "unknown_event"
        answer = Answer()
        await parts.dispatcher.handle(Ask(event, None, answer))
        with pytest.raises(EventError, match="unknown_event"):
            await answer.wait()
        assert await told(parts, parts.line(), envelope("roomsy", id=2)) == [{"ack": 2, "data": "roomsy"}]


async def test_who_was_closed_is_not_heard_any_more() -> None:
    """What it had sent before is nobody's, and has no answer."""
    async with wired(hall()) as parts:
        line = parts.line()
        parts.output.close(line, 4000, "")
        assert await told(parts, line, envelope("raise", id=1)) == []
        assert causes() == []


async def test_the_end_of_who_was_not_greeted_is_nobodys() -> None:
    """Where a room failed before its on_connect began, also if the client has left of its own accord."""
    async with wired(hall()) as parts:
        line = parts.line()
        line.flags |= CLOSING | GONE
        refuse(parts.shared, Connected(line), FAILURE)
        departure = Disconnected(line, 1000, "", clean=True)
        refuse(parts.shared, departure, FAILURE)
        assert parts.roster.departed is None
        await parts.dispatcher.handle(departure)
        assert journal.left == []


# What a program, a connection and the store are told.


async def test_a_program_is_told_what_became_of_its_question() -> None:
    """The result, the refusal as it was raised, or that a handler raised, with the cause."""
    async with wired(hall()) as parts:

        async def ask(event: str, data: Any = None) -> Any:
            answer = Answer()
            await parts.dispatcher.handle(Ask(event, data, answer))
            return await answer.wait()

        assert await ask("echo", (1, 2)) == [1, 2]
        with pytest.raises(EventError, match="sold_out"):
            await ask("refuse")
        with pytest.raises(EventError, match="unknown_event"):
            await ask("nobody")
        with pytest.raises(EventError, match="invalid_data"):
            await ask("whole", "no number")
        assert causes() == []
        for event, cause in (("raise", Broken), ("strange", TypeError)):
            with pytest.raises(HandlerFailed) as caught:
                await ask(event)
            assert isinstance(caught.value.__cause__, cause)
            assert causes()[-1] is cause
        assert not any(from_connection for from_connection, _ in journal.errors)
        assert parts.output.said == []


async def test_a_connection_whose_greeting_fails_is_closed_and_reported() -> None:
    """With 1011; it was greeted from the moment its hook began, and the room hears of its end."""
    async with wired(hall()) as parts:
        line = parts.line()
        line.flags |= UNGREETED
        parts.roster.ungreeted = 1
        await parts.dispatcher.handle(Connected(line))
        assert parts.output.closed == [(line, 1011, True)]
        assert parts.roster.ungreeted == 0
        assert causes() == [Broken]


async def test_a_departure_is_told_with_the_view_that_handlers_knew() -> None:
    """What its hook raises goes to on_error; the view is forgotten."""
    async with wired(hall()) as parts:
        known, stranger = parts.line(), parts.line()
        parts.members.context_for(known)
        for line in (known, stranger):
            await parts.dispatcher.handle(Disconnected(line, 4000, "bye", clean=True))
            assert line.id not in parts.members.contexts
        assert [(left.code, left.reason, left.clean) for left in journal.left] == [(4000, "bye", True)] * 2
        assert causes() == [Broken, Broken]
        assert not parts.output.said
        assert not parts.output.closed


async def test_hooks_that_there_are_not_are_not_missed() -> None:
    """A room without hooks greets nobody, misses nobody, and hears of no error."""
    async with wired(hall("on_error")) as parts:
        line = parts.line()
        await parts.dispatcher.handle(Connected(line))
        await parts.dispatcher.handle(Disconnected(line, 1000, "", clean=True))
    async with wired(hall("on_connect")) as parts:
        await told(parts, parts.line(), envelope("raise"))
        await parts.dispatcher.handle(SaveFailed(StoreFull("full")))
    assert parts.output.closed == []
    assert journal.errors == []


async def test_a_save_that_failed_goes_to_on_error() -> None:
    """In the context of the room: no connection is to blame."""
    async with wired(hall()) as parts:
        await parts.dispatcher.handle(SaveFailed(StoreFull("full")))
        assert [(blamed, type(error)) for blamed, error in journal.errors] == [(False, StoreFull)]


@pytest.mark.parametrize("kind", ["message", "ask", "connect", "disconnect", "save"])
async def test_only_what_on_error_raises_escapes(kind: str) -> None:
    """Then the room crashes; who waits for an answer has it, and gets no second one for that."""
    journal.on_error_raises = True
    async with wired(hall()) as parts:
        line, answer = parts.line(), Answer()
        kinds: dict[str, Mail] = {
            "message": (line, envelope("raise", id=1)),
            "ask": Ask("raise", None, answer),
            "connect": Connected(line),
            "disconnect": Disconnected(line, 1000, "", clean=True),
            "save": SaveFailed(StoreFull("full")),
        }
        mail = kinds[kind]
        with pytest.raises(Broken, match="on_error") as caught:
            await parts.dispatcher.handle(mail)
        parts.dispatcher.interrupted(mail, RoomFailed("hall/x", str(caught.value)))
        if kind == "message":
            assert [said["ack"] for _, said in parts.output.said] == [1]
        elif kind == "ask":
            with pytest.raises(HandlerFailed):
                await answer.wait()
        elif kind == "connect":
            assert parts.output.closed == [(line, 1011, True)]


# Mail that is not handled, or not to its end.


def mail_for(line: Line, answer: Answer | None = None) -> dict[str, Mail]:
    """One piece of each kind."""
    answer = answer or Answer()
    return {
        "message": (line, envelope("echo", id=5)),
        "no envelope": (line, "?"),
        "ask": Ask("echo", None, answer),
        "hibernate": Hibernate(answer),
        "destroy": Destroy(answer),
        "destroyed by a handler": Destroy(None),
        "connect": Connected(line),
        "disconnect": Disconnected(line, 4000, "bye", clean=True),
        "save": SaveFailed(StoreFull("full")),
    }


FAILURE = RoomFailed("hall/x", "it failed")
FAILURE.__cause__ = Broken("why")


@pytest.mark.parametrize("began", [False, True])
@pytest.mark.parametrize("kind", ["message", "no envelope"])
async def test_who_sent_a_message_that_is_not_handled_is_told(kind: str, began: bool) -> None:
    """That the room failed, or that something inside it did where the message had begun."""
    async with wired(hall()) as parts:
        line = parts.line()
        mail = mail_for(line)[kind]
        if began:
            parts.dispatcher.interrupted(mail, FAILURE)
        else:
            refuse(parts.shared, mail, FAILURE)
        ((link, answer),) = parts.output.said
        assert link is line
        assert answer.get("ack") == (5 if kind == "message" else None)
        assert answer["error"]["code"] == ("internal_error" if began else "room_failed")
        assert parts.output.closed == []


@pytest.mark.parametrize("began", [False, True])
@pytest.mark.parametrize("kind", ["ask", "hibernate", "destroy"])
async def test_a_program_whose_wish_is_not_handled_is_told(kind: str, began: bool) -> None:
    """It gets the failure as an error."""
    async with wired(hall()) as parts:
        answer = Answer()
        mail = mail_for(parts.line(), answer)[kind]
        if began:
            parts.dispatcher.interrupted(mail, FAILURE)
        else:
            refuse(parts.shared, mail, FAILURE)
        with pytest.raises(RoomFailed) as caught:
            await answer.wait()
        assert str(caught.value) == str(FAILURE)
        assert caught.value.__cause__ is FAILURE.__cause__
        assert caught.value is not FAILURE  # Others may be told of it too, and each raises its own.


@pytest.mark.parametrize("began", [False, True])
async def test_a_plain_client_whose_message_is_not_handled_is_closed(began: bool) -> None:
    """With 1011: there is no other way to tell it; the room hears of the end of who it knows."""
    async with wired(plain()) as parts:
        line = parts.line()
        if began:
            parts.dispatcher.interrupted((line, "hello"), FAILURE)
        else:
            refuse(parts.shared, (line, "hello"), FAILURE)
        assert parts.output.closed == [(line, 1011, True)]
        assert parts.output.said == []


@pytest.mark.parametrize("began", [False, True])
async def test_a_connection_that_was_not_greeted_is_closed(began: bool) -> None:
    """The room hears of its end only where its on_connect had begun."""
    async with wired(hall()) as parts:
        line = parts.line()
        if began:
            parts.dispatcher.interrupted(Connected(line), FAILURE)
        else:
            refuse(parts.shared, Connected(line), FAILURE)
        assert parts.output.closed == [(line, 1011, began)]


@pytest.mark.parametrize("listens", [False, True])
async def test_a_departure_that_is_not_handled_is_kept_for_the_next_waking(listens: bool) -> None:
    """Where somebody is to hear of it."""
    async with wired(hall("on_disconnect") if listens else hall("on_error")) as parts:
        departure = Disconnected(parts.line(), 4000, "bye", clean=True)
        refuse(parts.shared, departure, FAILURE)
        assert parts.roster.departed == ([departure] if listens else None)


@pytest.mark.parametrize("kind", ["destroyed by a handler", "save"])
async def test_what_nobody_waits_for_is_refused_in_silence(kind: str) -> None:
    """There is nobody to tell."""
    async with wired(hall()) as parts:
        refuse(parts.shared, mail_for(parts.line())[kind], FAILURE)
        assert not parts.output.said
        assert not parts.output.closed
