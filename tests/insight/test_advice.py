"""What is recommended, and that it comes true: a life is had once, and once more as was advised."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

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
    recommended: tuple[Recommendation, ...]


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
        began, looks = trio.current_time(), []

        async def look() -> None:
            while True:
                looks.append(1 - rooms._hub.activity.total / rooms._hub.sockets)
                await trio.sleep(1)

        nursery.start_soon(look)
        for at, room, number in lived.said:
            await trio.sleep_until(began + at)
            await clients[room, number].send("x")
        await trio.sleep_until(began + lived.seconds)
        metrics = rooms.metrics()
        measured = Measured(sum(looks) / len(looks), sum(metrics.wakes.values()), rooms.recommendations())
        nursery.cancel_scope.cancel()
    return measured


async def test_what_is_advised_comes_true(autojump_clock: MockClock) -> None:
    """Few hibernate; a shorter timeout is recommended, and does what was predicted when it is set."""
    lived = life(rooms=6, clients=3, seconds=1200, pause=90)
    before = await live(lived, idle_timeout=300, connection_idle_timeout=300)
    (advice,) = before.recommended
    assert advice.rule == "hibernation_ratio"
    evidence, predicted = advice.evidence, advice.predicted
    assert evidence["hibernation_ratio"] == pytest.approx(before.ratio, abs=0.05)
    assert before.ratio < 0.7 <= predicted["hibernation_ratio"]
    assert f"idle_timeout={predicted['idle_timeout']:g} in place of 300" in advice.message
    after = await live(
        lived,
        idle_timeout=predicted["idle_timeout"],
        connection_idle_timeout=predicted["connection_idle_timeout"],
    )
    assert after.ratio == pytest.approx(predicted["hibernation_ratio"], abs=0.05)
    assert after.wakes * 3600 / lived.seconds == pytest.approx(predicted["wakes_per_hour"], rel=0.1)
    assert after.recommended == ()
