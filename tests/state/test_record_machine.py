"""A `Record` over a store that fails in every way, against a model: both always agree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import cbor2
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from trio.testing import wait_all_tasks_blocked

from trio_rooms._definition.room import Room
from trio_rooms._state.record import Record
from trio_rooms._state.snapshot import Snapshot
from trio_rooms.errors import StaleWrite, StoreError
from trio_rooms.stores import Commit, MemoryStore
from trio_rooms.testing import FaultyStore

KEY = "number/x"
NEW = 0
"""The state of a room that never was."""
MOST_DOUBTS = 4
"""Commits in a row whose outcome is not known, up to which nothing may be lost."""

room: Room[Any] = Room("number", state=dict)
room.seal()


@attrs.frozen
class Content:
    """A room as it may be in the store: its state, None where there is none, and its storage."""

    state: int | None
    storage: dict[str, bytes]


names = st.sampled_from("ab")
values = st.sampled_from((b"1", b"2", None))
# Few states, so that a room often goes back to one that it had.
numbers = st.integers(0, 3)
faults = st.sampled_from((None, None, "before it is carried out", "after it was carried out"))
"""What happens to the next commit."""


class Machine(RuleBasedStateMachine):
    """One room, which its actor changes and saves, while the store fails and others write."""

    @initialize()
    def begin(self) -> None:
        """A room that never was, in a store that nobody had."""
        self.store = FaultyStore(MemoryStore())
        self.others = 100
        """The last state that somebody else has written."""
        self.wake_in_new_process(possible=[Content(None, {})])

    def wake_in_new_process(self, possible: list[Content]) -> None:
        """Open the store, and load the room into a new object."""
        self.run(self.store.open)
        self.record = Record(KEY, room.seal(), self.store)
        self.possible, self.foreign = possible, False
        self.wake()

    def wake(self) -> None:
        """Load the room: it is as one of those that it may be, and the model is as the room from then on."""

        async def load() -> int | None:
            loaded = await self.record.load()
            return None if loaded is None else loaded.state["n"]

        content = self.stored()
        assert content in self.possible or self.foreign
        assert self.run(load) == content.state
        self.state = NEW if content.state is None else content.state
        self.settle(content)

    def settle(self, content: Content) -> None:
        """The store is known to have this, and nothing is unsaved."""
        assert self.record.number == self.stored_number()
        self.storage = dict(content.storage)
        self.unsaved: dict[str, bytes | None] = {}
        self.possible, self.failed, self.foreign = [content], 0, False

    def run(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run something to its end."""
        return trio.run(function)

    def stored(self) -> Content:
        """What the store has."""

        async def read() -> Content:
            snapshots = (await self.store.store.load(KEY)).snapshots
            state = None
            if snapshots:
                state = cbor2.loads(Snapshot.unpack(KEY, snapshots[0].document).state)["n"]
            return Content(state, dict(await self.store.store.list(KEY)))

        return self.run(read)  # type: ignore[no-any-return]

    def stored_number(self) -> int:
        """The number of the room's last commit."""

        async def read() -> int:
            return (await self.store.store.head(KEY)).number

        return self.run(read)  # type: ignore[no-any-return]

    def memory(self) -> Content:
        """What the model has, durable or not."""
        return Content(self.state, dict(self.storage))

    # What an actor does.

    @rule(n=numbers)
    def change(self, n: int) -> None:
        """A handler changes the state."""
        self.state = n
        self.record.touch()

    @rule(name=names, value=values)
    def write(self, name: str, value: bytes | None) -> None:
        """A handler writes to the storage."""
        self.record.write(name, value)
        self.unsaved[name] = value
        self.overlay()

    def overlay(self) -> None:
        for name, value in self.unsaved.items():
            if value is None:
                self.storage.pop(name, None)
            else:
                self.storage[name] = value

    async def save(self) -> None:
        n = self.state
        await self.record.save(lambda: {"n": n})

    def outcome(self, function: Callable[[], Awaitable[None]], wanted: Content) -> bool:
        """Do what should leave the store with this content; False if the room had to be loaded instead."""
        before, number, calls = self.stored(), self.stored_number(), len(self.store.calls)
        try:
            self.run(function)
        except StaleWrite:
            # Only where somebody else has written: then the room is dropped and loaded.
            assert self.foreign
            assert (self.stored(), self.stored_number()) == (before, number)
            self.record.discard()
            self.wake()
            return False
        except StoreError:
            self.failed += 1
            self.possible.append(wanted)
            assert self.record.dirty
        else:
            if self.foreign:
                # Nothing was to be written.
                assert len(self.store.calls) == calls
            else:
                assert self.stored() == wanted
                self.settle(wanted)
        return True

    @rule(steps=st.lists(st.tuples(numbers, names, values, faults, st.booleans()), min_size=1, max_size=4))
    def handle_and_save(self, steps: list[tuple[int, str, bytes | None, str | None, bool]]) -> None:
        """Handlers change something, and the room is saved; a cancel that comes later changes nothing."""
        for n, name, value, fault, cancelled in steps:
            self.change(n)
            self.write(name, value)
            self.fail(fault)
            self.outcome(self.save_cancelled if cancelled else self.save, self.memory())
            self.shows_the_storage()

    async def save_cancelled(self) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await self.save()

    @rule()
    def save_again(self) -> None:
        """The room is saved, whether or not there is anything to save."""
        self.outcome(self.save, self.memory())

    @rule(n=numbers, name=names, value=values, fault=faults)
    def much_happens_while_saving(self, n: int, name: str, value: bytes | None, fault: str | None) -> None:
        """What is written meanwhile waits for the next commit; a save cancelled as it waits does nothing."""
        written: list[str] = []
        self.fail(fault)

        async def save() -> None:
            gate = self.store.hold_commits()
            failed: list[StoreError] = []

            async def first() -> None:
                try:
                    await self.save()
                except StoreError as error:
                    failed.append(error)

            async def second() -> None:
                await self.record.save(lambda: {"n": n})

            async with trio.open_nursery() as saving, trio.open_nursery() as waiting:
                saving.start_soon(first)
                await wait_all_tasks_blocked()
                if self.record._writer.busy:
                    self.record.write(name, value)
                    written.append(name)
                    waiting.start_soon(second)
                    await wait_all_tasks_blocked()
                    waiting.cancel_scope.cancel()
                gate.release()
            if failed:
                raise failed[0]

        if self.outcome(save, self.memory()) and written:
            self.unsaved[name] = value
            self.overlay()

    @rule(n=numbers, name=names, value=values, fault=faults)
    def crash_while_saving(self, n: int, name: str, value: bytes | None, fault: str | None) -> None:
        """The room crashes while a commit is in flight, and is loaded: nothing later is in the store."""
        self.fail(fault)
        self.possible.append(self.memory())
        stale: list[StaleWrite] = []

        async def crash() -> None:
            gate = self.store.hold_commits()

            async def quietly(n: int) -> None:
                try:
                    await self.record.save(lambda: {"n": n})
                except StaleWrite as error:
                    stale.append(error)
                except StoreError:
                    pass

            async with trio.open_nursery() as nursery:
                nursery.start_soon(quietly, self.state)
                await wait_all_tasks_blocked()
                if self.record._writer.busy:
                    self.record.write(name, value)
                    nursery.start_soon(quietly, n)
                    await wait_all_tasks_blocked()
                self.record.discard()
                gate.release()
                await self.record.settled()

        self.run(crash)
        assert self.foreign or not stale
        self.wake()

    @rule()
    def crash(self) -> None:
        """The room crashes and is loaded."""
        self.record.discard()
        self.wake()

    @rule(fault=faults)
    def destroy(self, fault: str | None) -> None:
        """The room is destroyed, and begins anew."""
        self.fail(fault)
        self.outcome(self.record.destroy, Content(None, {}))
        if self.stored() == Content(None, {}) and not self.failed:
            self.state = NEW
        elif self.failed:
            # It goes on, with what the store then has of its storage.
            self.storage = self.stored().storage
            self.overlay()

    # What happens to it.

    @rule(fault=faults)
    def fail(self, fault: str | None) -> None:
        """A coming commit raises, before or after it is carried out."""
        if fault is not None and len(self.store._commit_faults) + self.failed < MOST_DOUBTS:
            applied = fault.startswith("after")
            self.store.fail_commits(lambda: StoreError("as the test wants it"), applied=applied)

    @rule()
    def somebody_else_writes(self) -> None:
        """A second writer, who takes no notice of the first, writes the room."""

        async def write() -> None:
            below = self.store.store
            self.others += 1
            number = (await below.head(KEY)).number + 1
            state = cbor2.dumps({"n": self.others})
            document = Snapshot("number", "x", 1, number, below.epoch, state).pack()
            writes: dict[str, bytes | None] = {"a": b"of somebody else"}
            await below.commit(Commit(KEY, number, below.epoch, document, writes))

        self.run(write)
        self.foreign = True

    @rule()
    def restart(self) -> None:
        """The process is killed, and another one opens the store."""
        self.store._commit_faults.clear()
        self.run(self.store.aclose)
        possible = [*self.possible, *([self.stored_closed()] if self.foreign else [])]
        self.wake_in_new_process(possible)

    def stored_closed(self) -> Content:
        """What the store will have when it is opened again."""
        self.run(self.store.store.open)
        content = self.stored()
        self.run(self.store.store.aclose)
        return content

    @invariant()
    def shows_the_storage(self) -> None:
        """What a handler reads is what was written, durable or not."""
        if not hasattr(self, "record") or self.foreign:
            return

        async def read() -> tuple[dict[str, bytes], list[bytes | None]]:
            listed = dict(await self.record.list("", None, None))
            return listed, [await self.record.get(name) for name in "ab"]

        assert self.run(read) == (self.storage, [self.storage.get(name) for name in "ab"])

    @invariant()
    def knows_no_number_too_high(self) -> None:
        """The number that is known is never above that of the store."""
        if hasattr(self, "record"):
            assert self.record.number <= self.stored_number()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=50, stateful_step_count=15, deadline=None)
