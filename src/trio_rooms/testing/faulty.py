"""A store for tests that is slow, stops, or fails, just when it is told to."""

from __future__ import annotations

import builtins
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import attrs
import outcome
import trio

from trio_rooms.errors import StoreClosed, StoreError
from trio_rooms.stores.base import (
    Commit,
    Due,
    Entry,
    InboxSize,
    Post,
    RoomHead,
    Store,
    StoredRoom,
    StoredSession,
    StoredSnapshot,
    StoreStatistics,
    Timer,
    Waiting,
)
from trio_rooms.stores.checks import check_commit, check_ids, check_posts, encode

__all__ = ["Call", "FaultyStore", "Gate"]

# fmt: off
Operation = Literal[
    "open", "aclose", "load", "head", "commit", "get", "list", "keys", "session", "sessions", "positions",
    "verdicts", "journal", "timers", "due_timers", "timer", "due", "post", "settle", "inbox", "inbox_size",
    "inboxes", "expired",
]
# fmt: on
T = TypeVar("T")
_INBOXES = ""
"""Under what, instead of a room, what goes to inboxes keeps its order."""


@attrs.frozen
class Call:
    """One thing that a `FaultyStore` was asked to do."""

    operation: Operation
    key: str = ""
    """The room; for ``keys`` the prefix; for inboxes the user; nothing for what is of all."""
    commit: Commit | None = None
    posts: tuple[Post, ...] = ()
    """Of a ``post``, with the user of the first as its key."""
    ids: tuple[int, ...] = ()
    """Of a ``settle``."""


@attrs.define(eq=False)
class Gate:
    """Holds what arrives at it, in order, until it is let go.

    Made by `FaultyStore.hold_loads`, `FaultyStore.hold_reads`, `FaultyStore.hold_commits`,
    `FaultyStore.hold_posts` and `FaultyStore.hold_settles`.
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

    def _enter(self, *keys: str) -> trio.Event | None:
        """What something of these rooms or users waits for; None if the gate does not hold it."""
        if self._released or self._key not in {None, *keys}:
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
    """An error that the next of what is asked raise, and for how many of them."""

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
    A load is a `load` or a `head`, a read is any other question but `keys`. Posts and settlements are
    handed over as commits are, and keep their order among themselves. Where the key of a room is asked
    for, a question about an inbox has its user.
    Time is Trio's, so ``MockClock`` works. Example::

        store = FaultyStore(MemoryStore())
        gate = store.hold_commits()
        ...                                    # the room goes to sleep
        await gate.wait_arrived()
        room.emit("hello")                     # while its snapshot is on the way
        gate.release()

    Args:
        store: the store that does the work; opened and closed with this one.
        delay: seconds that each load, commit, post and settlement takes before it is done; may be changed.
    """

    store: Store
    delay: float = attrs.field(default=0, kw_only=True)
    calls: builtins.list[Call] = attrs.field(factory=list, init=False)
    """What was asked of the store, in order; a test may clear it."""
    _load_gates: builtins.list[Gate] = attrs.field(factory=list, init=False)
    _read_gates: builtins.list[Gate] = attrs.field(factory=list, init=False)
    _commit_gates: builtins.list[Gate] = attrs.field(factory=list, init=False)
    _post_gates: builtins.list[Gate] = attrs.field(factory=list, init=False)
    _settle_gates: builtins.list[Gate] = attrs.field(factory=list, init=False)
    _load_faults: builtins.list[_Fault] = attrs.field(factory=list, init=False)
    _read_faults: builtins.list[_Fault] = attrs.field(factory=list, init=False)
    _commit_faults: builtins.list[_Fault] = attrs.field(factory=list, init=False)
    _post_faults: builtins.list[_Fault] = attrs.field(factory=list, init=False)
    _settle_faults: builtins.list[_Fault] = attrs.field(factory=list, init=False)
    _last: dict[str, trio.Event] = attrs.field(factory=dict, init=False)
    """By room, the end of the commit that was handed over last, and of the last post or settlement."""
    _damaged: set[tuple[str, int | str]] = attrs.field(factory=set, init=False)
    """Keys of rooms, with the generation or the name that cannot be read."""
    _opened: bool = attrs.field(default=False, init=False)

    def hold_loads(self, key: str | None = None) -> Gate:
        """A gate at which loads stop from now on: those of one room, or all."""
        return _new_gate(self._load_gates, key)

    def hold_reads(self, key: str | None = None) -> Gate:
        """A gate at which reads stop from now on: those of one room, or all, `due` among them."""
        return _new_gate(self._read_gates, key)

    def hold_commits(self, key: str | None = None) -> Gate:
        """A gate at which commits stop before they are applied: those of one room, or all."""
        return _new_gate(self._commit_gates, key)

    def hold_posts(self, user: str | None = None) -> Gate:
        """A gate at which posts stop before they are applied: those for one user, or all."""
        return _new_gate(self._post_gates, user)

    def hold_settles(self, user: str | None = None) -> Gate:
        """A gate at which settlements stop before they are applied: those of one user, or all."""
        return _new_gate(self._settle_gates, user)

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

    def fail_posts(
        self,
        error: BaseException | Callable[[], BaseException],
        times: int = 1,
        *,
        user: str | None = None,
        applied: bool = False,
    ) -> None:
        """Make the next posts, for one user or for any, raise ``error``; arguments as for `fail_commits`."""
        self._post_faults.append(_Fault(_maker(error), times, user, applied))

    def fail_settles(
        self,
        error: BaseException | Callable[[], BaseException],
        times: int = 1,
        *,
        user: str | None = None,
        applied: bool = False,
    ) -> None:
        """Make the next settlements, of one user or of any, raise ``error``; as `fail_posts`."""
        self._settle_faults.append(_Fault(_maker(error), times, user, applied))

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

    async def load(self, key: str, *, newest: bool = False) -> StoredRoom:
        """See `Store.load`."""
        await self._load("load", key)
        stored = await self.store.load(key, newest=newest)
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
        await self._write(
            commit.key,
            (commit.key,),
            self._commit_gates,
            self._commit_faults,
            partial(self.store.commit, commit),
        )

    async def _write(
        self,
        order: str,
        keys: Collection[str],
        gates: builtins.list[Gate],
        faults: builtins.list[_Fault],
        do: Callable[[], Awaitable[T]],
    ) -> T:
        """Have something written that was handed over, in its order, whoever waits for that."""
        before = self._last.get(order)
        passes = [passed for gate in gates if (passed := gate._enter(*keys)) is not None]
        fault = _take(faults, *keys)
        if before is None and not passes and fault is None and not self.delay:
            return await do()
        self._last[order] = end = trio.Event()
        job = _Job(order, do, self.delay, before, passes, fault, end)
        # A task that no caller's scope can cancel: it is carried out whoever waits.
        trio.lowlevel.spawn_system_task(self._carry_out, job, name=f"FaultyStore {order}")
        await end.wait()
        ended, job.outcome = job.outcome, None
        assert ended is not None
        try:
            return ended.unwrap()
        finally:
            # An error's traceback holds this frame, which would hold it: a cycle around the caller.
            del ended

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

    async def post(self, posts: Sequence[Post]) -> dict[str, InboxSize]:
        """See `Store.post`."""
        self._check_open()
        check_posts(posts)
        posts = tuple(posts)
        users = tuple(dict.fromkeys(post.user for post in posts))
        self.calls.append(Call("post", users[0] if users else "", posts=posts))
        return await self._write(
            _INBOXES, users, self._post_gates, self._post_faults, partial(self.store.post, posts)
        )

    async def settle(self, user: str, ids: Collection[int]) -> None:
        """See `Store.settle`."""
        self._check_open()
        encode(user)
        check_ids(ids)
        ids = tuple(ids)
        self.calls.append(Call("settle", user, ids=ids))
        await self._write(
            _INBOXES, (user,), self._settle_gates, self._settle_faults, partial(self.store.settle, user, ids)
        )

    async def inbox(self, user: str, *, after: int = 0, limit: int | None = None) -> builtins.list[Waiting]:
        """See `Store.inbox`."""
        await self._read("inbox", user)
        return await self.store.inbox(user, after=after, limit=limit)

    async def inbox_size(self, user: str) -> InboxSize:
        """See `Store.inbox_size`."""
        await self._read("inbox_size", user)
        return await self.store.inbox_size(user)

    async def inboxes(
        self, *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[tuple[str, InboxSize]]:
        """See `Store.inboxes`."""
        await self._read("inboxes", "")
        return await self.store.inboxes(after=after, limit=limit)

    async def expired(
        self, now: float, limit: int, *, after: tuple[float, str, int] | None = None
    ) -> builtins.list[Waiting]:
        """See `Store.expired`."""
        await self._read("expired", "")
        return await self.store.expired(now, limit, after=after)

    def statistics(self) -> StoreStatistics:
        """Those of the store below: it does not know of what is held or failed here."""
        return self.store.statistics()

    async def _carry_out(self, job: _Job[Any]) -> None:
        """Write when all before it is done, and tell the caller how it ended."""
        try:
            if job.before is not None:
                await job.before.wait()
            for passed in job.passes:
                await passed.wait()
            await trio.sleep(job.delay)
            if job.fault is not None and not job.fault.applied:
                raise job.fault.error()  # noqa: TRY301 - the handler below is what brings it to the caller
            result = await job.do()
            if job.fault is not None:
                raise job.fault.error()  # noqa: TRY301
            job.outcome = outcome.Value(result)
        except trio.Cancelled:
            # The run ends: as in a crash, nobody will ask for the outcome.
            raise
        except BaseException as exc:  # noqa: BLE001 - it is the caller's, not this task's
            job.outcome = outcome.Error(exc)
        finally:
            job.end.set()
            if self._last.get(job.order) is job.end:
                del self._last[job.order]

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
class _Job(Generic[T]):
    """Something to be written that cannot be passed on at once."""

    order: str
    do: Callable[[], Awaitable[T]]
    delay: float
    before: trio.Event | None
    passes: list[trio.Event]
    fault: _Fault | None
    end: trio.Event
    outcome: outcome.Outcome[T] | None = None


def _maker(error: BaseException | Callable[[], BaseException]) -> Callable[[], BaseException]:
    """What makes an error for each call that fails; an instance is raised again and again."""
    return (lambda: error) if isinstance(error, BaseException) else error


def _new_gate(gates: builtins.list[Gate], key: str | None) -> Gate:
    """A gate for one room or user, or all, that is closed from now on."""
    gate = Gate(key)
    gates.append(gate)
    return gate


def _take(faults: list[_Fault], *keys: str) -> _Fault | None:
    """The first fault that is meant for one of these rooms or users, of which one time is used up."""
    for fault in faults:
        if fault.key in {None, *keys}:
            fault.times -= 1
            if fault.times <= 0:
                faults.remove(fault)
            return fault
    return None
