"""A store for tests that is slow, stops, or fails, just when it is told to."""

from __future__ import annotations

import builtins
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Literal

import attrs
import trio

from trio_rooms.errors import StoreClosed, StoreError
from trio_rooms.stores.base import (
    Commit,
    Due,
    Entry,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoredSnapshot,
    StoreStatistics,
    Timer,
)
from trio_rooms.stores.checks import check_commit

__all__ = ["Call", "FaultyStore", "Gate"]

# fmt: off
Operation = Literal[
    "open", "aclose", "load", "head", "commit", "get", "list", "keys", "session", "sessions", "positions",
    "verdicts", "journal", "timers", "due_timers", "timer", "due",
]
# fmt: on


@attrs.frozen
class Call:
    """One thing that a `FaultyStore` was asked to do."""

    operation: Operation
    key: str = ""
    """The room; for ``keys`` the prefix, for ``due`` nothing."""
    commit: Commit | None = None


@attrs.define(eq=False)
class Gate:
    """Holds the loads, reads or commits that arrive at it, in order, until they are let go.

    Made by `FaultyStore.hold_loads`, `FaultyStore.hold_reads` and `FaultyStore.hold_commits`.
    """

    _key: str | None = None
    _held: deque[trio.Event] = attrs.field(factory=deque, init=False)
    _arrived: int = attrs.field(default=0, init=False)
    _arrival: trio.Event = attrs.field(factory=trio.Event, init=False)
    _released: bool = attrs.field(default=False, init=False)

    @property
    def arrived(self) -> int:
        """How many have arrived since the gate was made, gone on or not."""
        return self._arrived

    async def wait_arrived(self, count: int = 1) -> None:
        """Wait until ``count`` have arrived in all."""
        await trio.lowlevel.checkpoint()
        while self._arrived < count:
            await self._arrival.wait()

    def release_one(self) -> None:
        """Let the one go on that has waited longest; RuntimeError if none waits."""
        if not self._held:
            msg = "nothing waits at this gate: await gate.wait_arrived() first"
            raise RuntimeError(msg)
        self._held.popleft().set()

    def release(self) -> None:
        """Let all go on, and hold nothing from now on."""
        self._released = True
        while self._held:
            self._held.popleft().set()

    def _enter(self, key: str) -> trio.Event | None:
        """What a load, read or commit of a room waits for; None if the gate does not hold it."""
        if self._released or self._key not in {None, key}:
            return None
        passed = trio.Event()
        self._held.append(passed)
        self._arrived += 1
        self._arrival.set()
        self._arrival = trio.Event()
        return passed

    def _leave(self, passed: trio.Event) -> None:
        """A load or read that was cancelled waits no longer."""
        with contextlib.suppress(ValueError):
            self._held.remove(passed)


@attrs.define(eq=False)
class _Fault:
    """An error that the next loads, reads or commits raise, and for how many of them."""

    error: Callable[[], BaseException]
    times: int
    key: str | None
    applied: bool = False


@attrs.define(eq=False)
class FaultyStore(Store):
    """A store around another one that is slow, stops, or fails, just when a test wants it.

    It keeps the contract of a store: a commit is handed over before the first checkpoint of
    `commit`, is carried out even if its caller is cancelled, and commits of one room keep
    their order, however long each takes; so `aclose` waits for gates to be released. All
    that happens to a load, read or commit (delay, gate, failure) is decided when it is asked for.
    A load is a `load` or a `head`, a read is any other question but `keys`.
    Time is Trio's, so ``MockClock`` works. Example::

        store = FaultyStore(MemoryStore())
        gate = store.hold_commits()
        ...                                    # the room goes to sleep
        await gate.wait_arrived()
        room.emit("hello")                     # while its snapshot is on the way
        gate.release()

    Args:
        store: the store that does the work; opened and closed with this one.
        delay: seconds that each load and commit takes before it is done; may be changed.
    """

    store: Store
    delay: float = attrs.field(default=0, kw_only=True)
    calls: builtins.list[Call] = attrs.field(factory=list, init=False)
    """What was asked of the store, in order; a test may clear it."""
    _load_gates: builtins.list[Gate] = attrs.field(factory=list, init=False)
    _read_gates: builtins.list[Gate] = attrs.field(factory=list, init=False)
    _commit_gates: builtins.list[Gate] = attrs.field(factory=list, init=False)
    _load_faults: builtins.list[_Fault] = attrs.field(factory=list, init=False)
    _read_faults: builtins.list[_Fault] = attrs.field(factory=list, init=False)
    _commit_faults: builtins.list[_Fault] = attrs.field(factory=list, init=False)
    _last: dict[str, trio.Event] = attrs.field(factory=dict, init=False)
    """By room, the end of the commit that was handed over last."""
    _damaged: set[tuple[str, int | str]] = attrs.field(factory=set, init=False)
    """Keys of rooms, with the generation or the name that cannot be read."""
    _opened: bool = attrs.field(default=False, init=False)

    def hold_loads(self, key: str | None = None) -> Gate:
        """A gate at which loads stop from now on: those of one room, or all."""
        gate = Gate(key)
        self._load_gates.append(gate)
        return gate

    def hold_reads(self, key: str | None = None) -> Gate:
        """A gate at which reads stop from now on: those of one room, or all, `due` among them."""
        gate = Gate(key)
        self._read_gates.append(gate)
        return gate

    def hold_commits(self, key: str | None = None) -> Gate:
        """A gate at which commits stop before they are applied: those of one room, or all."""
        gate = Gate(key)
        self._commit_gates.append(gate)
        return gate

    def fail_loads(
        self, error: BaseException | Callable[[], BaseException], times: int = 1, *, key: str | None = None
    ) -> None:
        """Make the next loads, of one room or of any, raise ``error``.

        Args:
            error: an exception, or an exception class or other callable that makes one.
            times: how many loads fail.
            key: which room's, or None for any.
        """
        self._load_faults.append(_Fault(_maker(error), times, key))

    def fail_reads(
        self, error: BaseException | Callable[[], BaseException], times: int = 1, *, key: str | None = None
    ) -> None:
        """Make the next reads, of one room or of any, raise ``error``; arguments as for `fail_loads`."""
        self._read_faults.append(_Fault(_maker(error), times, key))

    def fail_commits(
        self,
        error: BaseException | Callable[[], BaseException],
        times: int = 1,
        *,
        key: str | None = None,
        applied: bool = False,
    ) -> None:
        """Make the next commits, of one room or of any, raise ``error``.

        Args:
            error: an exception, or an exception class or other callable that makes one.
            times: how many commits fail.
            key: which room's, or None for any.
            applied: fail after the commit was applied, before its caller is told; else before
                anything was applied.
        """
        self._commit_faults.append(_Fault(_maker(error), times, key, applied))

    def damage_snapshot(self, key: str, generation: int) -> None:
        """Give one generation of a room from now on as a store gives what it cannot read any more."""
        self._damaged.add((key, generation))

    def damage_value(self, key: str, name: str) -> None:
        """Raise StoreError from now on for what is read of a value in a room's storage."""
        self._damaged.add((key, name))

    @property
    def epoch(self) -> int:
        """See `Store.epoch`."""
        return self.store.epoch

    async def open(self) -> None:
        """See `Store.open`."""
        self.calls.append(Call("open"))
        await self.store.open()
        self._opened = True

    async def aclose(self) -> None:
        """See `Store.aclose`. Waits for what is held or delayed, cancelled or not."""
        self.calls.append(Call("aclose"))
        self._opened = False
        with trio.CancelScope(shield=True):
            for end in list(self._last.values()):
                await end.wait()
        await self.store.aclose()

    async def load(self, key: str) -> StoredRoom:
        """See `Store.load`."""
        await self._load("load", key)
        stored = await self.store.load(key)
        snapshots = [
            StoredSnapshot(one.generation, b"", "as the test wants it")
            if (key, one.generation) in self._damaged
            else one
            for one in stored.snapshots
        ]
        return StoredRoom(stored.head, tuple(snapshots))

    async def head(self, key: str) -> RoomHead:
        """See `Store.head`."""
        await self._load("head", key)
        return await self.store.head(key)

    async def _load(self, operation: Operation, key: str) -> None:
        await self._meet(operation, key, self._load_gates, self._load_faults, self.delay)

    async def _read(self, operation: Operation, key: str) -> None:
        if self._read_gates or self._read_faults:
            await self._meet(operation, key, self._read_gates, self._read_faults, 0)
        else:
            self._check_open()
            self.calls.append(Call(operation, key))

    async def _meet(
        self,
        operation: Operation,
        key: str,
        gates: builtins.list[Gate],
        faults: builtins.list[_Fault],
        delay: float,
    ) -> None:
        """Note what is asked, and have happen to it what is to happen."""
        self._check_open()
        self.calls.append(Call(operation, key))
        passes = [(gate, passed) for gate in gates if (passed := gate._enter(key)) is not None]
        fault = _take(faults, key)
        try:
            for _, passed in passes:
                await passed.wait()
            await trio.sleep(delay)
        finally:
            # One that is cancelled waits at no gate any more.
            for gate, passed in passes:
                gate._leave(passed)
        if fault is not None:
            raise fault.error()

    async def commit(self, commit: Commit) -> None:
        """See `Store.commit`."""
        self._check_open()
        check_commit(commit)
        self.calls.append(Call("commit", commit.key, commit))
        key = commit.key
        before = self._last.get(key)
        passes = [passed for gate in self._commit_gates if (passed := gate._enter(key)) is not None]
        fault = _take(self._commit_faults, key)
        if before is None and not passes and fault is None and not self.delay:
            await self.store.commit(commit)
            return
        self._last[key] = end = trio.Event()
        job = _Job(commit, self.delay, before, passes, fault, end)
        # A task that no caller's scope can cancel: the commit is carried out whoever waits.
        trio.lowlevel.spawn_system_task(self._carry_out, job, name=f"FaultyStore commit {key}")
        await end.wait()
        error, job.error = job.error, None
        try:
            if error is not None:
                raise error
        finally:
            # Its traceback holds this frame, which would hold it: a cycle around the caller.
            del error

    async def get(self, key: str, name: str) -> bytes | None:
        """See `Store.get`."""
        await self._read("get", key)
        value = await self.store.get(key, name)
        self._check_intact(key, [name])
        return value

    async def list(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, bytes]]:
        """See `Store.list`."""
        await self._read("list", key)
        values = await self.store.list(key, prefix, after=after, limit=limit)
        self._check_intact(key, [name for name, _ in values])
        return values

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[str]:
        """See `Store.keys`."""
        self._check_open()
        self.calls.append(Call("keys", prefix))
        return await self.store.keys(prefix, after=after, limit=limit)

    async def session(self, key: str, sid: int) -> StoredSession | None:
        """See `Store.session`."""
        await self._read("session", key)
        return await self.store.session(key, sid)

    async def sessions(
        self, key: str, *, after: int = 0, limit: int | None = None, ended: bool = False
    ) -> builtins.list[StoredSession]:
        """See `Store.sessions`."""
        await self._read("sessions", key)
        return await self.store.sessions(key, after=after, limit=limit, ended=ended)

    async def positions(self, key: str) -> dict[int, int]:
        """See `Store.positions`."""
        await self._read("positions", key)
        return await self.store.positions(key)

    async def verdicts(self, key: str, sid: int) -> dict[int, bytes]:
        """See `Store.verdicts`."""
        await self._read("verdicts", key)
        return await self.store.verdicts(key, sid)

    async def journal(self, key: str, after: int, until: int, most_bytes: int) -> builtins.list[Entry]:
        """See `Store.journal`."""
        await self._read("journal", key)
        return await self.store.journal(key, after, until, most_bytes)

    async def timers(
        self, key: str, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, Timer]]:
        """See `Store.timers`."""
        await self._read("timers", key)
        return await self.store.timers(key, prefix, after=after, limit=limit)

    async def due_timers(self, key: str, now: float, limit: int) -> builtins.list[tuple[str, Timer]]:
        """See `Store.due_timers`."""
        await self._read("due_timers", key)
        return await self.store.due_timers(key, now, limit)

    async def timer(self, key: str, name: str) -> Timer | None:
        """See `Store.timer`."""
        await self._read("timer", key)
        return await self.store.timer(key, name)

    async def due(self, now: float, limit: int, *, after: Due | None = None) -> builtins.list[Due]:
        """See `Store.due`."""
        await self._read("due", "")
        return await self.store.due(now, limit, after=after)

    def statistics(self) -> StoreStatistics:
        """Those of the store below: it does not know of what is held or failed here."""
        return self.store.statistics()

    async def _carry_out(self, job: _Job) -> None:
        """Commit when all before it is done, and tell the caller how it ended."""
        try:
            if job.before is not None:
                await job.before.wait()
            for passed in job.passes:
                await passed.wait()
            await trio.sleep(job.delay)
            if job.fault is not None and not job.fault.applied:
                raise job.fault.error()  # noqa: TRY301 - the handler below is what brings it to the caller
            await self.store.commit(job.commit)
            if job.fault is not None:
                raise job.fault.error()  # noqa: TRY301
        except trio.Cancelled:
            # The run ends: as in a crash, nobody will ask for the outcome.
            raise
        except BaseException as exc:  # noqa: BLE001 - it is the caller's, not this task's
            job.error = exc
        finally:
            job.end.set()
            if self._last.get(job.commit.key) is job.end:
                del self._last[job.commit.key]

    def _check_intact(self, key: str, names: builtins.list[str]) -> None:
        """Raise StoreError if one of these values is to be damaged."""
        for name in names:
            if (key, name) in self._damaged:
                msg = f"room {key}: the value of {name!r} in storage is damaged, as the test wants it"
                raise StoreError(msg)

    def _check_open(self) -> None:
        """Raise StoreClosed unless this store is open."""
        if not self._opened:
            msg = "this FaultyStore is not open; use it inside 'async with store:'"
            raise StoreClosed(msg)


@attrs.define(eq=False)
class _Job:
    """A commit that cannot be passed on at once."""

    commit: Commit
    delay: float
    before: trio.Event | None
    passes: list[trio.Event]
    fault: _Fault | None
    end: trio.Event
    error: BaseException | None = None


def _maker(error: BaseException | Callable[[], BaseException]) -> Callable[[], BaseException]:
    """What makes an error for each call that fails; an instance is raised again and again."""
    return (lambda: error) if isinstance(error, BaseException) else error


def _take(faults: list[_Fault], key: str) -> _Fault | None:
    """The first fault that is meant for a room, of which one time is used up."""
    for fault in faults:
        if fault.key in {None, key}:
            fault.times -= 1
            if fault.times <= 0:
                faults.remove(fault)
            return fault
    return None
