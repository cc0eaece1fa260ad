"""Ledger: a balance that is never wrong, whatever happens to the server or to the network.

    examples/serve ledger

serves it, and a page at http://127.0.0.1:8000/ with the balance, the state of the connection, and what waits;
http://127.0.0.1:8000/#savings is another ledger. They are kept in ``.data/ledger``. Kill the server with
``kill -9`` while you add, or pull the plug of the network: what was answered is there, what was not is sent
again and counts once, and the page gets every balance in order.

On the wire, in JSON or CBOR::

    > {"event": "add", "data": {"amount": 2}, "id": 1}
    < {"event": "balance", "data": {"balance": 2, "count": 1}, "seq": 1}      to everybody
    < {"ack": 1, "data": {"balance": 2}}                      to who asked, because there was an id
    > {"event": "get", "id": 2}
    < {"ack": 2, "data": {"balance": 2, "count": 1}}
"""

from __future__ import annotations

from pathlib import Path

import attrs

from trio_rooms import Context, Room


@attrs.define
class Ledger:
    """What a room remembers. Nobody sees a change of it before it is on the disk."""

    balance: int = 0
    count: int = 0
    """How often something was added: who hears of the balance sees by it that nothing is missing."""


@attrs.define
class Add:
    """What a client sends. Data that does not fit is refused before the handler runs."""

    amount: int


@attrs.frozen
class Balance:
    """What everybody hears."""

    balance: int
    count: int


room = Room(
    "ledger",
    state=Ledger,
    durability="commit",
    page=Path(__file__).with_suffix(".html").read_text(encoding="utf-8"),
)


@room.on("add")
async def add(ctx: Context[Ledger], data: Add) -> dict[str, int]:
    ctx.state.balance += data.amount
    ctx.state.count += 1
    ctx.room.emit("balance", Balance(ctx.state.balance, ctx.state.count), reliable=True)
    return {"balance": ctx.state.balance}


@room.on("get")
async def get(ctx: Context[Ledger]) -> Balance:
    return Balance(ctx.state.balance, ctx.state.count)
