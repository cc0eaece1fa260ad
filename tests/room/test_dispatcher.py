from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from tests.room.parts import Parts, wired
from tests.sockets.bench import Line
from trio_rooms import Context, Disconnect, EventError, HandlerFailed, Room, RoomFailed, StoreFull
from trio_rooms._room.answers import Answer
from trio_rooms._room.dispatcher import refuse
from trio_rooms._room.mail import Ask, Destroy, Hibernate, Mail, SaveFailed
from trio_rooms._sockets.flags import UNGREETED
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
        assert parts.members.connection(line).attachment == ["edited", "before it raised"]


async def test_a_plain_handler_that_raises_says_nothing_to_its_client() -> None:
    """A plain room has no form for an error: only on_error hears of it."""
    room = plain()
    room.on_error(_failed)
    async with wired(room) as parts:
        line = parts.line()
        await parts.dispatcher.failed(parts.members.context_for(line), "on_message", Broken())
        assert not parts.output.said
        assert not parts.output.closed
        assert journal.errors[0][0]
        assert causes() == [Broken]


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
        assert caught.value is FAILURE


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
