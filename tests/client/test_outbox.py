"""What waits to be sent or answered: the order, the numbers, and the bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trio_rooms.client.backoff import Backoff
from trio_rooms.client.codec import Codec
from trio_rooms.client.errors import TooMuchWaiting
from trio_rooms.client.outbox import WINDOW, Message, Outbox

CODEC = Codec(binary=False)


@pytest.fixture
def outbox() -> Outbox:
    """One with the usual bounds."""
    return Outbox(CODEC, WINDOW, 1 << 20, Backoff(1, 1))


def message(what: Any, *, asked: bool = True) -> Message:
    """A message, with some data."""
    return Message("say", CODEC.body("say", what, None), asked=asked)


def sent(outbox: Outbox) -> list[Any]:
    """The ids of all that may be sent now; the data of what has none."""
    found = []
    while (one := outbox.next()) is not None:
        content = json.loads(one)
        found.append(content.get("id") or content["data"])
        outbox.written()
    return found


def test_the_oldest_answer_that_is_missing_holds_the_window(outbox: Outbox) -> None:
    """A server takes a thousand ids from there on, however many of these are answered."""
    for number in range(WINDOW):
        outbox.add(message(number))
    assert sent(outbox) == [*range(1, WINDOW + 1)]
    for number in range(2, WINDOW + 1):
        assert outbox.answer(number)
    assert outbox.answered_up_to == 0
    outbox.add(message("waits"))
    outbox.add(message("behind it", asked=False))
    assert sent(outbox) == []
    assert outbox.answer(1)
    assert outbox.answered_up_to == WINDOW
    assert sent(outbox) == [WINDOW + 1, "behind it"]


def test_answers_free_what_they_answer(outbox: Outbox) -> None:
    """And each is taken once."""
    small = Outbox(CODEC, 2, 1 << 20, Backoff(1, 1))
    first, second = message(1), message(2)
    small.add(first)
    small.add(second)
    with pytest.raises(TooMuchWaiting):
        small.add(message(3))
    assert not small.answer(1), "it was not sent yet"
    assert sent(small) == [1, 2]
    assert small.answer(1, "data")
    assert not small.answer(1, "again")
    assert first.data == "data"
    assert not small.answer(7)
    small.add(message(3))
    assert (small.unsent, small.unanswered) == (1, 1)
    assert small.answered_up_to == 1


def test_what_is_resumed_goes_first_and_keeps_its_numbers(outbox: Outbox) -> None:
    """What was answered meanwhile does not go again."""
    for number in range(4):
        outbox.add(message(number))
        assert sent(outbox) == [number + 1]
    outbox.add(message("new"))
    outbox.answer(2)
    outbox.resumed()
    outbox.answer(3)
    assert sent(outbox) == [1, 4, 5]


def test_a_new_session_begins_with_one(outbox: Outbox) -> None:
    """It owes the old one's answers to nobody; what was never sent is its own."""
    first, second = message(1), message(2)
    outbox.add(first)
    assert sent(outbox) == [1]
    outbox.add(second)
    assert outbox.restarted() == [first]
    assert sent(outbox) == [1]
    assert second.id == 1


def test_what_is_postponed_is_sent_once_more_in_its_place(outbox: Outbox) -> None:
    """However often it is answered so, and in whichever order."""
    for number in range(3):
        outbox.add(message(number))
    assert sent(outbox) == [1, 2, 3]
    for number in (3, 1, 1):
        outbox.postpone(number, 10)
    held = outbox.held_until
    assert 10 <= held <= 11
    outbox.postpone(7, 50)
    assert outbox.held_until == held
    outbox.answer(3)
    assert sent(outbox) == [1]


def test_bytes_are_counted(outbox: Outbox) -> None:
    """Of what is emitted until it is sent, of what is asked until it is answered."""
    small = Outbox(CODEC, 100, 1000, Backoff(1, 1))
    for _ in range(5):
        small.add(message("x" * 300, asked=False))
        small.add(message("y" * 300))
        small.add(message("z" * 100))
        with pytest.raises(TooMuchWaiting) as full:
            small.add(message("x" * 300))
        assert (full.value.count, full.value.size > 700) == (3, True)
        sent(small)
        small.answer(small.answered_up_to + 1)
        small.answer(small.answered_up_to + 1)
    small.add(message("x" * 5000))
    with pytest.raises(TooMuchWaiting):
        small.add(message(0))
