from __future__ import annotations

import json
import logging

import pytest
import trio
from trio.testing import MockClock

from tests.raw import TEXT, close_frame, frame, request, serving
from trio_rooms import Context, Room
from trio_rooms._sockets.closes import Closes
from trio_rooms._wire.frames import Close

room: Room[None] = Room("room")


@room.on_message
async def on_message(ctx: Context[None], message: str | bytes) -> None:
    """Close with the code that is asked for."""
    ctx.connection.close(int(message), "as you wish")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings until now."""
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (frame(TEXT, masked=False), 1002, "A frame was not masked; "),
        (frame(TEXT, b"\xff"), 1007, "A text message was not valid UTF-8; "),
        (frame(TEXT, bytes(101)), 1009, "A message was longer than 100 bytes, "),
        (frame(TEXT, b"1011"), 1011, "as you wish"),
        (frame(TEXT, b"4000"), 4000, None),
        (frame(TEXT, b"1000"), 1000, None),
        (close_frame(1009), None, None),
    ],
)
async def test_each_close_is_counted_and_told(
    sent: bytes, code: int | None, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """By its code, in /stats too; what went wrong is in the log; a client's own close is neither."""
    async with serving(room, max_message_size=100) as served:
        async with served.client("/room/x") as client:
            await client.send(sent)
            await client.frame()
            await client.send(close_frame())
            await client.rest()
        assert served.rooms.statistics().hub.closes == ({} if code is None else {code: 1})
        _, _, body = await served.ask(request("/stats", Upgrade=None))
        assert json.loads(body)["hub"]["closes"] == ({} if code is None else {str(code): 1})
    assert len(told(caplog)) == (reason is not None)
    assert all(f" closed with {code}: {reason}" in text for text in told(caplog))


async def test_the_end_of_the_rooms_is_counted_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing went wrong."""
    async with serving(room) as served, served.client("/room/x") as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.rooms.aclose, 1012)
            await client.frame()
            await client.send(close_frame())
        assert served.rooms.statistics().hub.closes == {1012: 1}
    assert told(caplog) == []


async def test_whoever_comes_back_again_and_again_does_not_fill_the_log(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Every ten seconds one line for each code, which says how many others there were."""
    closes = Closes()
    for number in range(30):
        closes.note("a/b", number, Close(1009, "too long"))
        closes.note("a/b", number, Close(1000, "bye"))
        mock_clock.jump(0.3)
    closes.note("a/b", 16, Close(1002, "not masked"))
    mock_clock.jump(1.1)
    closes.note("a/b", 31, Close(1009, "too long"))
    more = " (29 more were closed so since this was last told)"
    assert told(caplog) == [
        "room a/b: connection 0 was closed with 1009: too long",
        "room a/b: connection 10 was closed with 1002: not masked",
        f"room a/b: connection 1f was closed with 1009: too long{more}",
    ]
    assert closes.counts == {1009: 31, 1000: 30, 1002: 1}
