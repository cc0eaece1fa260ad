"""The rooms that sleep and wake, and what they remember.

The state is that of the chat example: how many lines were ever said, and the last of them, each with who said
it and when. The rooms are plain, so that what comes back is what was sent.
"""

from __future__ import annotations

import datetime
import math
from typing import Final

from examples.chat import Chat, Line
from trio_rooms import Context, Room

__all__ = ["BYTES_OF_A_LINE", "Chat", "pair", "remembered", "room", "rooms"]

BYTES_OF_A_LINE: Final = 125
"""What a line of `remembered` takes in a snapshot; thereabouts, since counts and lengths vary."""
_TEXT: Final = "A line as people write them: neither a word alone, nor much longer than this."


def remembered(size: int) -> Chat:
    """A state of about so many bytes of CBOR."""
    noon = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    lines = [
        Line(f"user {number:04}", _TEXT, noon + datetime.timedelta(seconds=number))
        for number in range(size // BYTES_OF_A_LINE)
    ]
    return Chat(len(lines), lines)


# They sleep when they are told to, and are saved then. A second would be up before all of them are awake.
room = Room("chat", state=Chat, idle_timeout=math.inf, snapshot_interval=3600)
pair = Room("pair", state=Chat, idle_timeout=math.inf, snapshot_interval=3600)
rooms = [room, pair]


@room.on_message
async def say_again(ctx: Context[Chat], message: str | bytes) -> None:
    """Count a message, and send it back."""
    ctx.state.count += 1
    ctx.connection.send(message)


@pair.on_message
async def pass_on(ctx: Context[Chat], message: str | bytes) -> None:
    """Count a message, and send it to everybody else."""
    ctx.state.count += 1
    ctx.room.send(message, exclude=ctx.connection)
