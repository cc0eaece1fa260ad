"""People who write to each other: each gets every letter once, and those of each sender in order."""

from __future__ import annotations

import datetime
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import attrs
import trio

from benchmarks.suite.ledgers import Wrong
from trio_rooms.client import RemoteRoom

__all__ = ["Person", "exchange"]

_PAUSES: Final = (0.0, 0.3)
"""Seconds between two letters of one person."""


@attrs.define(eq=False)
class Person:
    """Who writes and is written to, with one session all the time."""

    name: str
    sent: Counter[str] = attrs.field(factory=Counter)
    """How many letters to each other person were answered for."""
    got: dict[str, list[tuple[int, float]]] = attrs.field(factory=dict)
    """Of each sender, which letters have come, and when."""
    changed: trio.Event = attrs.field(factory=trio.Event)
    """Set when a letter came, and replaced."""
    interrupted: int = 0
    """How often there was no connection."""

    def hear(self, name: str, data: Any) -> None:
        """Take one event.

        Raises:
            Wrong: it is no letter.
        """
        if name != "letter":
            raise Wrong(f"{self.name} heard {name}: {data}")
        sender, number = data
        self.got.setdefault(sender, []).append((number, time.time()))
        self.changed.set()
        self.changed = trio.Event()

    def has(self, wanted: Mapping[str, int]) -> bool:
        """Whether the last letter of each sender has come, and as many as there are."""
        return all(len(self.got.get(sender, ())) >= count for sender, count in wanted.items())

    def check(self, wanted: Mapping[str, int]) -> None:
        """Compare what has come with what was sent.

        Raises:
            Wrong: a letter came twice, out of order, or not.
        """
        for sender, count in wanted.items():
            came = self.got.get(sender, [])
            if [number for number, _ in came] != list(range(1, count + 1)):
                shown = " ".join(_odd(came))
                raise Wrong(f"{self.name} was sent {count} letters by {sender}, and got: {shown}")


def _odd(came: list[tuple[int, float]]) -> Iterator[str]:
    """The letters that are not the next ones, and those around them."""
    last = 0
    for place, (number, when) in enumerate(came):
        following = came[place + 1][0] if place + 1 < len(came) else number
        if number != last + 1 or following != number + 1:
            yield f"{number} ({datetime.datetime.fromtimestamp(when):%H:%M:%S.%f})"  # noqa: DTZ006 (as in logs)
        last = number


async def exchange(
    people: list[Person],
    connect: Callable[[str], AbstractAsyncContextManager[RemoteRoom]],
    chance: random.Random,
    ending: trio.Event,
    patience: float,
) -> None:
    """Let people write to each other until it ends, and then until everybody has got everything.

    Args:
        people: all of them.
        connect: makes a client, by its path.
        chance: says who writes to whom and when.
        ending: set when nobody is to write any more.
        patience: seconds that it may take then until everything has come.

    Raises:
        Wrong: a letter came twice, out of order, or not.
    """
    # What is sent to somebody whose first welcome was lost waits until that session is over.
    absent, all_here = [len(people)], trio.Event()
    silent, all_sent = [len(people)], trio.Event()
    async with trio.open_nursery() as nursery:
        for number, person in enumerate(people):
            path = f"/letters/{number % 5}?user={person.name}"
            nursery.start_soon(
                _live,
                person,
                people,
                path,
                connect,
                chance,
                ending,
                patience,
                absent,
                all_here,
                silent,
                all_sent,
            )


async def _live(
    person: Person,
    people: list[Person],
    path: str,
    connect: Callable[[str], AbstractAsyncContextManager[RemoteRoom]],
    chance: random.Random,
    ending: trio.Event,
    patience: float,
    absent: list[int],
    all_here: trio.Event,
    silent: list[int],
    all_sent: trio.Event,
) -> None:
    async with connect(path) as room, trio.open_nursery() as nursery:
        nursery.start_soon(_read, room, person)
        absent[0] -= 1
        if not absent[0]:
            all_here.set()
        await all_here.wait()
        while not ending.is_set():
            to = chance.choice(people).name
            await room.ask("write", {"to": to, "number": person.sent[to] + 1})
            person.sent[to] += 1
            with trio.move_on_after(chance.uniform(*_PAUSES)):
                await ending.wait()
        silent[0] -= 1
        if not silent[0]:
            all_sent.set()
        await all_sent.wait()
        wanted = {other.name: other.sent[person.name] for other in people}
        with trio.move_on_after(patience):
            while not person.has(wanted):
                await person.changed.wait()
        person.check(wanted)
        person.interrupted = room.statistics().connects - 1
        nursery.cancel_scope.cancel()


async def _read(room: RemoteRoom, person: Person) -> None:
    async for event in room:
        person.hear(event.name, event.data)
