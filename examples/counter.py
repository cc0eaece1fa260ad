"""Counter: a number that everybody in the room sees, and anybody can add to.

    examples/serve counter

serves it, and a page at http://127.0.0.1:8000/ on which to count; http://127.0.0.1:8000/#sheep is another
counter. They are kept in ``.data/counter``: stop the server, start it again, and they are what they were.

On the wire, in JSON or CBOR::

    > {"event": "add", "data": {"amount": 2}, "id": 1}
    < {"event": "value", "data": {"value": 2}}                to everybody
    < {"ack": 1, "data": 2}                                   to who asked, because there was an id
"""

from __future__ import annotations

from pathlib import Path

import attrs

from trio_rooms import Context, Room


@attrs.define
class Counter:
    """What a room remembers: saved while it is awake and before it sleeps, loaded when it wakes."""

    value: int = 0


@attrs.define
class Add:
    """What a client sends. Data that does not fit is refused before the handler runs."""

    amount: int


room = Room("counter", state=Counter, page=Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


@room.on("add")
async def add(ctx: Context[Counter], data: Add) -> int:
    ctx.state.value += data.amount
    ctx.room.emit("value", {"value": ctx.state.value})
    return ctx.state.value
