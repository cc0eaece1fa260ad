"""The client library and a ledger, with a network between them that fails at any byte."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import attrs
import pytest
import trio

from benchmarks.suite.ledgers import Account, Member
from examples.ledger import room as ledger
from tests.proxy import Fault, Kind, Proxy, Way
from trio_rooms import Rooms, open_rooms
from trio_rooms.client import RemoteRoom, connect_room

ROUNDS = 5
TOGETHER = 4
QUICK: Final[dict[str, Any]] = {
    "first_delay": 0.002,
    "max_delay": 0.02,
    "ping_interval": 0.1,
    "ping_timeout": 0.15,
    "attempt_timeout": 0.4,
    "close_timeout": 0.3,
    "open_within": 20,
}
"""How the client is told not to wait long."""
PATIENCE = 30.0
AT_ONCE = 12
"""Conversations; most of their time is waiting for a sign of life that does not come."""


@attrs.define(eq=False)
class Ledgers:
    """A server of ledgers, each for one conversation."""

    rooms: Rooms
    port: int
    _ids: Iterable[int] = attrs.field(factory=itertools.count)

    async def converse(self, *faults: Fault) -> Proxy:
        """Speak with a new ledger over a network with these faults, and look whether anything is wrong."""
        account = Account(f"n{next(iter(self._ids))}")
        member = Member(account, str(faults))
        proxy = Proxy(self.port, faults)
        with trio.fail_after(PATIENCE):
            async with proxy.listening():
                url = f"ws://127.0.0.1:{proxy.port}/ledger/{account.id}"
                async with connect_room(url, **QUICK) as room, trio.open_nursery() as nursery:
                    nursery.start_soon(listen, room, member)
                    member.came(await room.ask("get"))
                    for _ in range(ROUNDS):
                        async with trio.open_nursery() as together:
                            for _ in range(TOGETHER):
                                together.start_soon(add, room, account)
                    await member.wait_for(len(account.asked))
                    nursery.cancel_scope.cancel()
            told = await self.rooms.get("ledger", account.id).ask("get")
        account.check(told["balance"], told["count"])
        return proxy

    async def converse_all(self, cases: Iterable[Sequence[Fault]]) -> int:
        """The same with many networks; returns how many faults happened."""
        waiting = iter(cases)
        happened = 0

        async def work() -> None:
            nonlocal happened
            for faults in waiting:
                try:
                    proxy = await self.converse(*faults)
                except BaseException:
                    print(f"with {faults}")
                    raise
                happened += len(proxy.happened)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)
        return happened


async def listen(room: RemoteRoom, member: Member) -> None:
    """Take every event."""
    async for event in room:
        member.hear(event.name, event.data)


async def add(room: RemoteRoom, account: Account) -> None:
    """Add another amount."""
    amount = account.next()
    account.answer(amount, await room.ask("add", {"amount": amount}))


@contextlib.asynccontextmanager
async def ledgers() -> AsyncIterator[Ledgers]:
    """Serve ledgers."""
    async with open_rooms([ledger]) as rooms, trio.open_nursery() as nursery:
        address = await nursery.start(rooms.serve, "127.0.0.1", 0)
        yield Ledgers(rooms, address.port)
        nursery.cancel_scope.cancel()


def singly(size: dict[Way, int], stride: int = 1) -> Iterable[Sequence[Fault]]:
    """Each kind of fault at each place of a conversation, or at some of them."""
    for way, kind in itertools.product(Way, Kind):
        for at in range(random.randrange(stride), size[way], stride):
            yield [Fault(kind, way, at)]


def several(size: dict[Way, int]) -> Sequence[Fault]:
    """Some faults in one conversation, most of them in what is said once more after those before them."""
    count = random.randint(2, 6)
    return [
        Fault(random.choice(list(Kind)), way, random.randrange(2 * size[way]))
        for way in random.choices(list(Way), k=count)
    ]


async def test_a_network_without_faults() -> None:
    """One connection, and some 4 KiB; the other tests have this to interrupt."""
    async with ledgers() as served:
        proxy = await served.converse()
    assert proxy.connections == 1
    assert 3000 < sum(proxy.passed.values()) < 6000


async def test_a_fault_anywhere_costs_nothing() -> None:
    """Cut, reset, stalled or half open at some of all places: nothing is lost, doubled or out of order."""
    async with ledgers() as served:
        size = (await served.converse()).passed
        cases = [*singly(size, stride=397), *(several(size) for _ in range(8))]
        happened = await served.converse_all(cases)
    assert happened >= len(cases) // 2


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_fault_at_every_byte_costs_nothing() -> None:
    """The same at each place, and with several faults in a conversation."""
    async with ledgers() as served:
        size = (await served.converse()).passed
        cases = [*singly(size), *(several(size) for _ in range(1000))]
        happened = await served.converse_all(cases)
    print(f"{len(cases)} conversations of {sum(size.values())} bytes, {happened} faults")
    assert happened >= len(cases) * 0.9
