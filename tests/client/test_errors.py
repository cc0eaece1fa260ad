"""The errors of a client: what they say, and that they can be carried elsewhere."""

from __future__ import annotations

import pickle

import pytest

import trio_rooms.client
from trio_rooms.client import (
    AnswerLost,
    AskFailed,
    ClientClosed,
    ClientError,
    ConnectionEnded,
    EventsNotTaken,
    TooMuchWaiting,
    UnexpectedData,
    Unreachable,
    errors,
)
from trio_rooms.errors import EventError, RoomsError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (AskFailed("sold_out", "no seats", "buy"), "'buy' failed: sold_out: no seats"),
        (AnswerLost("buy", "expired"), "the session was lost (expired) before 'buy' was answered; it may"),
        (AnswerLost("buy", "forgotten"), "'buy' was handled, and its answer was lost on the way"),
        (ConnectionEnded(401, None, "", False), "the connection was refused with HTTP 401, for good"),
        (ConnectionEnded(None, 4001, "taken"), "the connection was closed with 4001, for good: taken"),
        (ConnectionEnded(None, None, "no certificate"), "the connection was refused, for good: no"),
        (Unreachable("ws://h/a/b", 1, "why"), "ws://h/a/b was not reached in 1 attempt: why"),
        (Unreachable("ws://h/a/b", 2, "why"), "ws://h/a/b was not reached in 2 attempts: why"),
        (
            EventsNotTaken("add", 8, applied=None),
            "'add' is not answered, since 8 events come before the answer",
        ),
        (TooMuchWaiting(3, 50), "3 messages of 50 bytes wait to be sent or answered, as many as may;"),
        (UnexpectedData("the answer", "why", True), "the answer is not as expected: why"),
        (ClientClosed(), "this client is closed: its async with block has ended"),
        (ClientClosed(None), "block has ended; what was asked may have been applied"),
    ],
)
def test_an_error_says_what_it_is_about(error: ClientError, text: str) -> None:
    """To people; and to programs, also in another process."""
    assert text in str(error)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (it is our own)
    assert type(again) is type(error)
    assert (str(again), again.retry, again.applied) == (str(error), error.retry, error.applied)
    assert vars(again) == vars(error)


def test_errors_are_one_family() -> None:
    """Whoever catches ClientError, or RoomsError, catches all; and the drawing has all."""
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__
        assert name in trio_rooms.client.__all__
        assert issubclass(getattr(errors, name), ClientError)
    assert issubclass(ClientError, RoomsError)
    assert issubclass(AskFailed, EventError)
