"""What a request of another process comes to, whatever happens. What it asks: integration/test_admin.py."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from trio_rooms._server.admin import Errand
from trio_rooms._wire.handshake import Response
from trio_rooms.errors import NotSaved, RoomsClosed, StoreFull, UnknownRoom


@pytest.mark.parametrize(
    ("make", "status", "told"),
    [
        (lambda: UnknownRoom("no room"), 404, "no room"),
        (lambda: ValueError("an event needs a name"), 400, "an event needs a name"),
        (lambda: StoreFull("no room on the disk"), 503, "no room on the disk"),
        (lambda: NotSaved("chat/x", "it is full"), 503, "chat/x"),
        (lambda: RoomsClosed("the rooms are closing"), 503, "closing"),
        (lambda: OSError("/home/secret"), 500, "the log"),
        (lambda: TypeError("a mistake of ours"), 500, "the log"),
    ],
)
async def test_what_goes_wrong_is_told(
    make: Callable[[], Exception], status: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the status that fits; what nobody expected is for the log alone."""

    async def fail(_body: bytes) -> Response:
        raise make()

    answer = await Errand(True, fail).carry_out(b"")
    assert (answer.status, answer.kind) == (status, "application/json")
    assert told in json.loads(answer.body)["error"]
    assert b"secret" not in answer.body
    assert ("Retry-After" in answer.headers) is (status == 503)
    assert bool(caplog.records) is (status == 500)


async def test_what_takes_long_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Nobody is told to try again: it may have been done by then."""

    async def hang(_body: bytes) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    answer = await Errand(True, hang).carry_out(b"")
    assert (answer.status, trio.current_time()) == (504, 30)
    assert "it may still be done" in json.loads(answer.body)["error"]
    assert "Retry-After" not in answer.headers
