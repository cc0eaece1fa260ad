"""Sleeping and waking in any order of events: nothing is lost, nothing is doubled, order is kept."""

from __future__ import annotations

from typing import Any

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import Context, MemoryStore, Room, Rooms, Stage, StoreError, open_rooms
from trio_rooms.testing import FaultyStore, Gate, MemoryClient, connect

IDLE = 1.0


@attrs.define
class Ledger:
    """What was entered, by whom, in order."""

    entries: list[list[Any]] = attrs.field(factory=list)


async def _enter(ctx: Context[Ledger], data: list[Any]) -> int:
    who, number, pause = data
    if pause:
        await trio.sleep(pause)
    ctx.state.entries.append([who, number])
    ctx.room.emit("entered", [who, number])
    ctx.room.storage.put(f"{who}/{number:06}", number)
    return len(ctx.state.entries)


def ledger_room() -> Room[Ledger]:
    """The room under test."""
    room = Room("ledger", state=Ledger, idle_timeout=IDLE, snapshot_interval=0.7)
    room.on("enter")(_enter)
    return room


pauses = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.6])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), pauses),
        st.tuples(st.just("send"), st.integers(0, 1), pauses),
        st.tuples(st.just("sleep"), st.sampled_from([0.01, 0.35, 0.7, IDLE, 1.5, 3.0])),
        st.tuples(st.just("checkpoints"), st.integers(1, 8)),
        st.tuples(st.just("hold commits")),
        st.tuples(st.just("hold loads")),
        st.tuples(st.just("release")),
        st.tuples(st.just("fail commits"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("fail loads"), st.integers(1, 3)),
        st.tuples(st.just("hibernate")),
        st.tuples(st.just("slow store"), st.sampled_from([0.0, 0.2, 1.2])),
        st.tuples(st.just("restart")),
    ),
    max_size=40,
)


@attrs.define(eq=False)
class Run:
    """One run of the operations against one store."""

    store: FaultyStore = attrs.field(factory=lambda: FaultyStore(MemoryStore()))
    gates: list[Gate] = attrs.field(factory=list)
    sent: dict[str, int] = attrs.field(factory=lambda: {"program": 0, "client0": 0, "client1": 0})
    loads_failed: bool = False
    answers: list[int] = attrs.field(factory=list)
    heard: dict[str, list[list[Any]]] = attrs.field(factory=dict)

    def number(self, who: str) -> int:
        """The next number of a sender."""
        self.sent[who] += 1
        return self.sent[who]

    def release(self) -> None:
        """Let the store go on."""
        while self.gates:
            self.gates.pop().release()

    async def ask(self, rooms: Rooms, number: int, pause: float) -> None:
        """The program enters something."""
        self.answers.append(await rooms.get("ledger", "x").ask("enter", ["program", number, pause]))

    async def listen(self, who: str, client: MemoryClient) -> None:
        """Take note of all that a client hears."""
        while (message := await client.receive()) is not None:
            if "ack" in message:
                assert "error" not in message, message
                self.answers.append(message["data"])
            else:
                self.heard[who].append(message["data"])

    async def step(
        self, rooms: Rooms, clients: list[MemoryClient], nursery: trio.Nursery, operation: Any
    ) -> None:
        """Do one operation."""
        match operation:
            case ("ask", pause):
                nursery.start_soon(self.ask, rooms, self.number("program"), pause)
                # Tasks that start in one tick start in any order, and theirs is the order of the mail.
                await wait_all_tasks_blocked()
            case ("send", which, pause):
                who = f"client{which}"
                number = self.number(who)
                await clients[which].emit("enter", [who, number, pause], id=number)
            case ("sleep", seconds):
                await trio.sleep(seconds)
            case ("checkpoints", count):
                for _ in range(count):
                    await trio.lowlevel.checkpoint()
            case ("hold commits",):
                self.gates.append(self.store.hold_commits())
            case ("hold loads",):
                self.gates.append(self.store.hold_loads())
            case ("release",):
                self.release()
            case ("fail commits", times, applied):
                self.store.fail_commits(lambda: StoreError("on purpose"), times, applied=applied)
            case ("fail loads", times) if not self.loads_failed:
                # Once in a life: after five failures in a row the senders would be told.
                self.loads_failed = True
                self.store.fail_loads(lambda: StoreError("on purpose"), times)
            case ("hibernate",):
                nursery.start_soon(rooms.get("ledger", "x").hibernate)
            case ("slow store", delay):
                self.store.delay = delay

    async def life(self, ops: list[Any]) -> list[Any]:
        """One life of the process, until the operations or a restart end it; the operations left."""
        async with open_rooms([ledger_room()], store=self.store, stop_timeout=1000) as rooms:  # noqa: SIM117
            async with (
                connect(rooms, "ledger/x") as one,
                connect(rooms, "ledger/x") as two,
                trio.open_nursery() as nursery,
            ):
                self.loads_failed = False
                self.store._load_faults.clear()
                self.heard = {"client0": [], "client1": []}
                for number, client in enumerate((one, two)):
                    nursery.start_soon(self.listen, f"client{number}", client)
                while ops:
                    operation, *ops = ops
                    if operation == ("restart",):
                        break
                    await self.step(rooms, [one, two], nursery, operation)
                self.release()
                # Every answer has come: then only who listens is left.
                with trio.fail_after(1000):
                    while len(self.answers) < sum(self.sent.values()):
                        await trio.sleep(IDLE)
                if not ops:
                    with trio.fail_after(1000):
                        while rooms.get("ledger", "x").info().stage is not Stage.ASLEEP:
                            await trio.sleep(IDLE)
                    assert rooms.get("ledger", "x").info().connections == 2
                assert self.heard["client0"] == self.heard["client1"]
                nursery.cancel_scope.cancel()
        return ops

    async def go(self, ops: list[Any]) -> None:
        """All lives, and what must be true after them."""
        while True:
            ops = await self.life(ops)
            if not ops:
                break
        total = sum(self.sent.values())
        assert sorted(self.answers) == list(range(1, total + 1))
        self.store.delay = 0
        self.store._load_faults.clear()
        async with open_rooms([ledger_room()], store=self.store) as rooms:
            state = await rooms.get("ledger", "x").peek()
            entries = [] if state is None else state.entries
            assert len(entries) == total
            for who, count in self.sent.items():
                assert [number for sender, number in entries if sender == who] == list(range(1, count + 1))
            stored = await self.store.list("ledger/x")
            assert len(stored) == total


@settings(max_examples=200, deadline=None)
@given(operations)
def test_any_order_of_events_loses_and_doubles_nothing(ops: list[Any]) -> None:
    """Messages, sleeps, slow and failing stores and restarts, in any order."""
    trio.run(Run().go, ops, clock=MockClock(autojump_threshold=0))
