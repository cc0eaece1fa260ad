"""Echo: the smallest room there is. It sends each message back as it came, text as text and binary as binary.

    examples/serve echo

serves it. Every path ``/echo/ANYTHING`` is a room of its own; talk to one with any WebSocket client, such as
``python -m websockets ws://127.0.0.1:8000/echo/hello``.
"""

from __future__ import annotations

from trio_rooms import Context, Room

# A definition, for all rooms of this name. It has on_message, so it is plain: messages come as they are.
room: Room[None] = Room("echo")


@room.on_message
async def echo(ctx: Context[None], message: str | bytes) -> None:
    ctx.connection.send(message)
