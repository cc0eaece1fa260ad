"""Chat: rooms in which people talk, that fall asleep when nobody says anything.

    examples/serve chat

serves it, and a page at http://127.0.0.1:8000/ on which to talk; behind a ``#`` you can name another room
than the lobby: http://127.0.0.1:8000/#garden. Say nothing for 20 seconds and the page shows that the room is
asleep: its task has ended, what was said lies on the disk, and the connections are still open. The next line
wakes it.

On the wire, in JSON or CBOR, at ``ws://127.0.0.1:8000/chat/lobby?user=Ada``::

    < {"event": "history", "data": {"lines": [{"user": "Bob", "text": "Hi!", "at": "2031-05-04T03:02:01Z"}]}}
    > {"event": "say", "data": {"text": "Hello!"}, "id": 1}
    < {"event": "said", "data": {"user": "Ada", "text": "Hello!", "at": "2031-05-04T03:02:07Z"}}
    < {"ack": 1, "data": 2}
"""

from __future__ import annotations

import datetime
from pathlib import Path

import attrs

from trio_rooms import ConnectRequest, Context, EventError, Refused, Room

LONGEST_NAME = 40
LONGEST_TEXT = 1000
HISTORY = 1000


@attrs.define
class Line:
    """What somebody said."""

    user: str
    text: str
    at: datetime.datetime


@attrs.define
class Chat:
    """What a room remembers: how many lines were ever said in it, and the last of them."""

    count: int = 0
    lines: list[Line] = attrs.field(factory=list)


@attrs.define
class Say:
    """What a client sends to say something."""

    text: str


room = Room(
    "chat",
    state=Chat,
    idle_timeout=20,  # Short, so that you can watch it fall asleep.
    page=Path(__file__).with_suffix(".html").read_text(encoding="utf-8"),
)


# Called with the request, before there is a WebSocket. What it returns stays with the connection as its
# attachment, asleep or awake. An application with accounts would look at a cookie or a token here.
@room.authenticate
async def authenticate(request: ConnectRequest) -> dict[str, str]:
    user = " ".join(request.query.get("user", "").split())
    if not user:
        raise Refused(401, "say who you are: add ?user=NAME to the address")
    if len(user) > LONGEST_NAME:
        raise Refused(401, f"a name has at most {LONGEST_NAME} characters, this one has {len(user)}")
    return {"user": user}


# Called before anything else reaches the connection: whoever comes gets what was said before, and then what
# is said.
@room.on_connect
async def connect(ctx: Context[Chat]) -> None:
    ctx.connection.emit("history", {"lines": ctx.state.lines})


@room.on("say")
async def say(ctx: Context[Chat], data: Say) -> int:
    text = data.text.strip()
    if not text:
        raise EventError("empty", "there is nothing in this line")
    if len(text) > LONGEST_TEXT:
        raise EventError(
            "too_long", f"a line has at most {LONGEST_TEXT} characters, this one has {len(text)}"
        )
    line = Line(ctx.connection.attachment["user"], text, datetime.datetime.now(datetime.UTC))
    ctx.state.count += 1
    ctx.state.lines.append(line)
    del ctx.state.lines[:-HISTORY]
    ctx.room.emit("said", line, reliable=True)  # Whose connection is interrupted gets it afterwards.
    return ctx.state.count
