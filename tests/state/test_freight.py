from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_rooms import MemoryStore, Room
from trio_rooms._state import freight
from trio_rooms._state.freight import Freight
from trio_rooms._state.record import Record
from trio_rooms.errors import StoreError
from trio_rooms.testing import FaultyStore, Gate


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freight, "MOST", 800)


@attrs.define(eq=False)
class Dock:
    """Rooms of 300 bytes that are saved at the same time."""

    store: FaultyStore
    gate: Gate
    freight: Freight = attrs.field(factory=Freight)
    encoded: list[int] = attrs.field(factory=list)
    """Rooms whose states were encoded, in that order."""
    done: list[int] = attrs.field(factory=list)
    failed: list[int] = attrs.field(factory=list)
    records: dict[int, Record] = attrs.field(factory=dict)

    async def save(self, number: int, *, dirty: bool = True) -> None:
        record = self.records.get(number)
        if record is None:
            room: Room[list[str]] = Room("room", state=list)
            record = Record(f"room/{number}", room.seal(), self.store, freight=self.freight)
            self.records[number] = record
            await record.load()
        record.dirty = dirty

        def state() -> list[str]:
            self.encoded.append(number)
            return ["x" * 300]

        try:
            await record.save(state)
        except StoreError:
            self.failed.append(number)
        else:
            self.done.append(number)


@asynccontextmanager
async def dock() -> AsyncIterator[Dock]:
    """A store whose commits are held."""
    store = FaultyStore(MemoryStore())
    await store.open()
    try:
        yield (used := Dock(store, store.hold_commits()))
    finally:
        used.gate.release()
    assert used.freight.bytes == 0
    assert not used.freight.full
    await store.aclose()


async def test_large_states_go_a_few_at_a_time() -> None:
    """Whoever waits has not even encoded its state; all are written, in the order in which they came."""
    async with dock() as used, trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(used.save, number)
            await wait_all_tasks_blocked()
        seen = [(0, len(used.encoded))]
        for _ in range(10):
            used.gate.release_one()
            await wait_all_tasks_blocked()
            seen.append((len(used.done), len(used.encoded)))
    assert seen == [(number, min(number + 3, 10)) for number in range(11)]
    assert used.done == used.encoded == [*range(10)]


async def test_what_need_not_be_written_lets_the_next_one_go() -> None:
    """The same where it is not written as it is in the store already, or its commit fails."""
    async with dock() as used:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(used.save, 3)
            await wait_all_tasks_blocked()
            used.gate.release_one()
        used.store.fail_commits(StoreError("no"), key="room/0")
        used.store.fail_commits(StoreError("no"), key="room/1")
        async with trio.open_nursery() as nursery:
            for number in (0, 1, 2, 3, 3, 4, 5):
                nursery.start_soon(used.save, number)
                await wait_all_tasks_blocked()
            used.gate.release()
        assert sorted(used.failed) == [0, 1]
        assert sorted(used.done) == [2, 3, 3, 3, 4, 5]


async def test_who_is_cancelled_keeps_nobody_waiting() -> None:
    """Neither while it waits, nor in the moment in which it is its turn."""
    async with dock() as used, trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(8)]

        async def save(number: int) -> None:
            with scopes[number]:
                await used.save(number)

        for number in range(8):
            nursery.start_soon(save, number)
            await wait_all_tasks_blocked()
        scopes[4].cancel()
        await wait_all_tasks_blocked()
        used.gate.release_one()
        scopes[3].cancel()
        await wait_all_tasks_blocked()
        scopes[7].cancel()
        used.gate.release()
        await wait_all_tasks_blocked()
        assert set(used.done) | {3, 7} == {*range(8)} - {4} | {7}
        assert used.freight.bytes == 0
