"""Lives of rooms that are had again and again, under other settings, for what is advised of them."""

from __future__ import annotations

import random
from typing import Any

import attrs
import cbor2
import trio

from trio_rooms import Context, Recommendation, Room, open_rooms
from trio_rooms.testing import MemoryClient, connect


async def _hear(_ctx: Context[None], _message: str | bytes) -> None:
    """Nothing: that the room wakes is enough."""


def hall(name: str = "hall", **options: Any) -> Room[None]:
    """A room that does nothing with what it hears."""
    room: Room[None] = Room(name, **options)
    room.on_message(_hear)
    return room


@attrs.frozen
class Life:
    """What happens in some rooms: who of each says something when."""

    rooms: int
    clients: int
    seconds: int
    said: list[tuple[float, int, int]]


@attrs.frozen
class Measured:
    """What a life came to."""

    ratio: float
    """The share of connections hibernated, on the average over time."""
    wakes: int
    """Those of rooms that had slept: each has begun once."""
    recommended: tuple[Recommendation, ...]
    recorded: bytes
    """The trace of it."""


def life(*, rooms: int, clients: int, seconds: int, pause: float, seed: int = 7) -> Life:
    """A life in which each room has a talk of some of its clients now and then."""
    chance = random.Random(seed)
    said = []
    for room in range(rooms):
        at = chance.expovariate(1 / pause)
        while at < seconds:
            said.append((at, room, chance.randrange(clients)))
            # Most talks go on; then there is silence.
            at += chance.uniform(0.2, 4) if chance.random() < 0.6 else chance.expovariate(1 / pause)
    return Life(rooms, clients, seconds, sorted(said))


async def live(lived: Life, **options: Any) -> Measured:
    """Have a life happen in rooms with these options, and look at it each second."""
    async with open_rooms([hall(**options)]) as rooms, trio.open_nursery() as nursery:
        clients: dict[tuple[int, int], MemoryClient] = {}
        come = trio.Event()

        async def stay(room: int, number: int) -> None:
            async with connect(rooms, f"hall/{room}") as client:
                clients[room, number] = client
                if len(clients) == lived.rooms * lived.clients:
                    come.set()
                await trio.sleep_forever()

        for room in range(lived.rooms):
            for number in range(lived.clients):
                nursery.start_soon(stay, room, number)
        await come.wait()
        began, looks, recordings = trio.current_time(), [], rooms._insight.recordings
        pieces = [recordings.begin()]
        name = cbor2.loads(pieces[0])["recording"]

        async def look() -> None:
            while True:
                looks.append(1 - rooms._hub.activity.total / rooms._hub.sockets)
                pieces.append(recordings.fetch(name, ends=False) or b"")
                await trio.sleep(1)

        nursery.start_soon(look)
        for at, room, number in lived.said:
            await trio.sleep_until(began + at)
            await clients[room, number].send("x")
        await trio.sleep_until(began + lived.seconds)
        metrics = rooms.metrics()
        pieces.append(recordings.fetch(name, ends=True) or b"")
        measured = Measured(
            sum(looks) / len(looks),
            sum(metrics.wakes.values()) - lived.rooms,
            rooms.recommendations(),
            b"".join(pieces),
        )
        nursery.cancel_scope.cancel()
    return measured
