"""Presence: who is here, where they point, who writes, and messages that wait for who is away.

    examples/serve presence

serves it, and a page at http://127.0.0.1:8000/; http://127.0.0.1:8000/#garden is another room. Open it in
several windows, with several names or with the same: that is one person with several devices. Write to
somebody, close their window, write again, and open it again. Leave it alone for 20 seconds, and the room
sleeps; for a minute, and the connections are hibernated: what is written to them then goes by its priority.

Nothing here counts who is connected, or keeps a message: the room has no state at all. With
``--admin-token-file FILE`` other processes may send, too, and the page shows what is called ``notice``::

    trio-rooms send http://127.0.0.1:8000 --user ana notice '{"text": "Dinner is ready."}' --token-file FILE

On the wire, in JSON or CBOR, at ``ws://127.0.0.1:8000/presence/lobby?user=ana&device=phone``::

    < {"event": "rooms.presence", "data": {"users": {"ana": [{"device": "phone", "status": "online"}]}}}
    < {"event": "rooms.presence", "data": {"changes": {"bob": [{"device": "desk", "status": "online"}]}}}
    > {"event": "status", "data": {"status": "busy"}}
    > {"event": "say", "data": {"text": "Hello!"}}
    < {"event": "said", "data": {"user": "bob", "text": "Hello, Ana!"}, "seq": 1}
    > {"event": "cursor", "data": {"x": 0.25, "y": 0.5}}
    < {"event": "cursor", "data": {"user": "bob", "x": 0.5, "y": 0.75}}
    > {"event": "typing", "data": {}}
    > {"event": "whisper", "data": {"to": "cat", "text": "Are you there?", "priority": "low"}, "id": 1}
    < {"ack": 1, "data": {"active": 0, "parked": 0, "queued": 0, "stored": 1, "dropped": 0}}
    < {"event": "whispered", "data": {"from": "cat", "text": "I am now."}, "seq": 3}
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final, Literal

import attrs

from trio_rooms import Admitted, ConnectRequest, Context, EventError, Refused, Room

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
LONGEST_DEVICE = 64
LONGEST_STATUS = 64
LONGEST_TEXT = 1000


@attrs.define
class Status:
    """What a client sends to say how somebody is."""

    status: str


@attrs.define
class Say:
    """What a client sends to say something to all others."""

    text: str


@attrs.define
class Whisper:
    """What a client sends to say something to one person, wherever she is."""

    to: str
    text: str
    priority: Literal["high", "normal", "low"] = "normal"


@attrs.define
class Cursor:
    """What a client sends when its pointer has moved: where it is, as parts of the width and the height."""

    x: float
    y: float


@attrs.define
class Typing:
    """What a client sends while somebody writes: to whom, or to all."""

    to: str | None = None


room: Room[None] = Room(
    "presence",
    presence=True,
    idle_timeout=20,  # Short, so that you can watch it fall asleep.
    connection_idle_timeout=60,
    flush_after=60,
    page=Path(__file__).with_suffix(".html").read_text(encoding="utf-8"),
)


# Who this is, and what everybody is told of this connection from the beginning. With the user's name anybody
# can send to her, from any room and from outside. An application with accounts would look at a token here.
@room.authenticate
async def authenticate(request: ConnectRequest) -> Admitted:
    user, device = request.query.get("user", ""), request.query.get("device")
    if not NAME.fullmatch(user):
        raise Refused(401, "say who you are: add ?user=NAME, 1 to 64 letters, digits, '.', '_' or '-'")
    if device is not None and len(device) > LONGEST_DEVICE:
        raise Refused(401, f"the name of a device has at most {LONGEST_DEVICE} characters")
    return Admitted({"user": user, "device": device}, user=user, presence={"device": device})


@room.on("status")
async def status(ctx: Context[None], data: Status) -> None:
    if not 0 < len(data.status) <= LONGEST_STATUS:
        raise EventError("status", f"a status has 1 to {LONGEST_STATUS} characters")
    ctx.connection.presence = {**(ctx.connection.presence or {}), "status": data.status}


@room.on("say")
async def say(ctx: Context[None], data: Say) -> None:
    said = {"user": ctx.connection.user, "text": checked(data.text)}
    ctx.room.emit("said", said, exclude=ctx.connection, reliable=True)


# The result says what became of it: delivered, written to a connection that rests, waiting there, or, for who
# is not connected, waiting in the store.
@room.on("whisper")
async def whisper(ctx: Context[None], data: Whisper) -> dict[str, int]:
    whispered = {"from": ctx.connection.user, "text": checked(data.text)}
    sent = await ctx.rooms.user(named(data.to)).send("whispered", whispered, priority=data.priority)
    return attrs.asdict(sent, filter=attrs.filters.exclude("outbox"))


# Where somebody points is worth something now or never: who is slow does not get it, and wherever it waits to
# be written with something else, the newest place of each person does.
@room.on("cursor")
async def cursor(ctx: Context[None], data: Cursor) -> None:
    if not (math.isfinite(data.x) and math.isfinite(data.y)):
        raise EventError("cursor", "a pointer is somewhere")
    place = {"user": ctx.connection.user, "x": data.x, "y": data.y}
    ctx.room.emit("cursor", place, exclude=ctx.connection, volatile=True, coalesce="cursor")


@room.on("typing")
async def typing(ctx: Context[None], data: Typing) -> None:
    mark = {"user": ctx.connection.user}
    if data.to is None:
        ctx.room.emit("typing", mark, exclude=ctx.connection, volatile=True)
    else:
        await ctx.room.user(named(data.to)).send("typing", mark, volatile=True)


def checked(text: str) -> str:
    """What somebody says, if it may be said."""
    if not 0 < len(text) <= LONGEST_TEXT:
        raise EventError("text", f"a text has 1 to {LONGEST_TEXT} characters, this one has {len(text)}")
    return text


def named(user: str) -> str:
    """Somebody's name, if it can be one."""
    if not NAME.fullmatch(user):
        raise EventError("to", "a name has 1 to 64 letters, digits, '.', '_' or '-'")
    return user
