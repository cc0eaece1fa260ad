"""An engine in memory: several nodes in one process, for tests."""

from __future__ import annotations

import builtins
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import wraps
from typing import Any, Final, Self

import attrs
import trio

from trio_rooms._loop.wall import WallClock
from trio_rooms.errors import EngineLost, StaleWrite, StoreError
from trio_rooms.stores.base import Commit, Due, Store
from trio_rooms.stores.memory import Kept, MemoryStore

from .base import Claim, Engine, Fence, Renewal

__all__ = ["MemoryEngine"]

_PATIENCE: Final = 5.0
"""Seconds that a store waits for an engine that is away."""
_PAUSE: Final = 0.4
"""Seconds between two renewals, by whomever, that mean nothing yet: a node takes a quarter of one."""

_LARGEST: Final = 512 * 1024
"""Bytes of a message to another node at most."""
_GIVEN_UP: Final = 10.0
"""Seconds after which the rooms of a node that is over are nobody's, so that it can have back until then
what nobody wanted."""


@attrs.define(eq=False)
class _Owned:
    owner: str
    epoch: int


@attrs.define(eq=False)
class _Listener:
    """Who listens as an incarnation, and what is on its way there."""

    receive: Callable[[bytes], None]
    coming: deque[tuple[float, bytes]] = attrs.field(factory=deque)
    """When each arrives, in the order in which they were sent."""
    change: trio.Event = attrs.field(factory=trio.Event)

    def wake(self) -> None:
        change, self.change = self.change, trio.Event()
        change.set()


@attrs.define(eq=False)
class _Shared:
    """What the engine knows, whoever asks."""

    until: dict[str, float] = attrs.field(factory=dict)
    about: dict[str, bytes] = attrs.field(factory=dict)
    owned: dict[str, _Owned] = attrs.field(factory=dict)
    by_owner: dict[str, set[str]] = attrs.field(factory=dict)
    dead: dict[str, float] = attrs.field(factory=dict)
    """Since when who owns something yet is no member any more."""
    epochs: int = 0
    listening: dict[str, _Listener] = attrs.field(factory=dict)
    users: dict[str, set[str]] = attrs.field(factory=dict)
    kept: Kept = attrs.field(factory=Kept)
    wall: WallClock = attrs.field(factory=WallClock)
    leases: dict[str, float] = attrs.field(factory=dict)
    beat: float = 0.0
    up: bool = True
    lost: trio.Event = attrs.field(factory=trio.Event)

    def look(self) -> None:
        """Take out whose lease is over. Where nobody could renew, all begin anew."""
        now = trio.current_time()
        if self.was_away(now):
            for incarnation in self.until:
                self.until[incarnation] = now + self.leases[incarnation]
        else:
            for incarnation in [one for one, until in self.until.items() if until <= now]:
                self.forget(incarnation)
        self.beat = now

    def was_away(self, now: float) -> bool:
        """Whether nobody could renew for long, so that no lease says anything."""
        return now - self.beat > max(min(self.leases.values(), default=math.inf) / 2, _PAUSE)

    def lives(self, incarnation: str) -> bool:
        """Whether it is a member, whose lease is not over."""
        now = trio.current_time()
        return incarnation in self.until and (self.until[incarnation] > now or self.was_away(now))

    def forget(self, incarnation: str) -> None:
        """Have an incarnation be no member any more; what it owned can be claimed."""
        self.until.pop(incarnation, None)
        self.leases.pop(incarnation, None)
        self.about.pop(incarnation, None)
        if incarnation in self.by_owner:
            self.dead.setdefault(incarnation, trio.current_time())

    def give_up(self) -> None:
        """Take away what the dead own still, so that what was connected there expires."""
        now = trio.current_time()
        for incarnation in [one for one, since in self.dead.items() if now - since >= _GIVEN_UP]:
            del self.dead[incarnation]
            for key in sorted(self.by_owner.get(incarnation, ())):
                self.free(key)
                self.kept.disconnect(key, self.wall.now())

    def own(self, key: str, incarnation: str, epoch: int) -> None:
        """Have a room be owned, by nobody else any more."""
        self.free(key)
        self.owned[key] = _Owned(incarnation, epoch)
        self.by_owner.setdefault(incarnation, set()).add(key)

    def free(self, key: str) -> None:
        """Have nobody own a room."""
        owned = self.owned.pop(key, None)
        if owned is not None:
            keys = self.by_owner[owned.owner]
            keys.discard(key)
            if not keys:
                del self.by_owner[owned.owner]


@attrs.define(eq=False)
class MemoryEngine(Engine):
    """Shared by the nodes of one process; time is Trio's, so that `MockClock` moves it.

    One object may serve all nodes. Where faults are to meet some nodes only, each has its own, made by
    `another`.
    """

    delay: Callable[[], float] | None = None
    """Seconds that the next message sent from here takes; those before it still come first."""
    lose: Callable[[bytes], bool] | None = None
    """Whether the next message sent from here is lost."""
    _shared: _Shared = attrs.field(factory=_Shared, kw_only=True, alias="shared")
    _cut: bool = attrs.field(init=False, default=False)
    _lost: trio.Event = attrs.field(init=False, factory=trio.Event)
    _change: trio.Event = attrs.field(init=False, factory=trio.Event)

    def another(self) -> Self:
        """The same engine, for another node."""
        return type(self)(shared=self._shared)

    def down(self) -> None:
        """Take it away from all nodes until `up`, as a crash would: messages on their way are lost."""
        self._shared.up = False
        self._shared.listening.clear()
        lost, self._shared.lost = self._shared.lost, trio.Event()
        lost.set()

    def up(self) -> None:
        """It can be reached again; what it knew is still there."""
        self._shared.up = True

    def cut(self) -> None:
        """Take it away from this node until `mend`, as a broken cable would."""
        self._cut = True
        lost, self._lost = self._lost, trio.Event()
        lost.set()

    def mend(self) -> None:
        """This node can reach it again."""
        self._cut = False

    @property
    def reachable(self) -> bool:
        """Whether this node can reach it."""
        return self._shared.up and not self._cut

    async def open(self) -> None:
        """See `Engine`."""
        await self._turn()

    async def aclose(self) -> None:
        """See `Engine`."""
        await trio.lowlevel.checkpoint()

    async def _turn(self) -> _Shared:
        await trio.lowlevel.checkpoint()
        if not self.reachable:
            raise EngineLost("the engine cannot be reached")
        return self._shared

    async def join(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        """See `Engine`."""
        shared = await self._turn()
        name = incarnation.partition("#")[0]
        for other in [one for one in shared.until if one.partition("#")[0] == name]:
            shared.forget(other)
        shared.look()
        return self._renewed(incarnation, about, lease)

    async def renew(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        """See `Engine`."""
        shared = await self._turn()
        shared.look()
        if incarnation not in shared.until:
            return Renewal(False, dict(shared.about))
        return self._renewed(incarnation, about, lease)

    def _renewed(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        shared = self._shared
        shared.until[incarnation] = trio.current_time() + lease
        shared.leases[incarnation] = lease
        shared.about[incarnation] = about
        return Renewal(True, dict(shared.about))

    async def leave(self, incarnation: str) -> None:
        """See `Engine`."""
        shared = await self._turn()
        shared.forget(incarnation)

    async def claim(self, key: str, incarnation: str) -> Claim:
        """See `Engine`."""
        shared = await self._turn()
        owned = shared.owned.get(key)
        if owned is not None and shared.lives(owned.owner):
            return Claim(owned.owner, owned.epoch)
        if not shared.lives(incarnation):
            return Claim("", 0 if owned is None else owned.epoch)
        if owned is not None:
            shared.forget(owned.owner)
        shared.epochs += 1
        shared.own(key, incarnation, shared.epochs)
        shared.kept.disconnect(key, shared.wall.now())
        return Claim(incarnation, shared.epochs)

    async def find(self, keys: Collection[str]) -> dict[str, str]:
        """See `Engine`."""
        shared = await self._turn()
        found = {key: shared.owned[key].owner for key in keys if key in shared.owned}
        return {key: owner for key, owner in found.items() if shared.lives(owner)}

    async def release(self, key: str, incarnation: str, epoch: int) -> bool:
        """See `Engine`."""
        shared = await self._turn()
        owned = shared.owned.get(key)
        if owned is None or (owned.owner, owned.epoch) != (incarnation, epoch):
            return False
        shared.free(key)
        return True

    async def reclaim(self, incarnation: str, epochs: Mapping[str, int]) -> frozenset[str]:
        """See `Engine`."""
        shared = await self._turn()
        kept = set()
        if shared.lives(incarnation):
            for key, epoch in epochs.items():
                owned = shared.owned.get(key)
                if owned is not None and owned.epoch == epoch:
                    shared.own(key, incarnation, epoch)
                    kept.add(key)
        return frozenset(kept)

    async def send(self, incarnation: str, message: bytes) -> None:
        """See `Engine`."""
        if len(message) > _LARGEST:
            msg = f"a message to another node has at most {_LARGEST} bytes, not {len(message)}"
            raise ValueError(msg)
        shared = await self._turn()
        listener = shared.listening.get(incarnation)
        if listener is None or (self.lose is not None and self.lose(message)):
            return
        if self.delay is None and not listener.coming:
            listener.receive(message)
            return
        arrives = trio.current_time() + (0.0 if self.delay is None else self.delay())
        if listener.coming:
            arrives = max(arrives, listener.coming[-1][0])
        listener.coming.append((arrives, message))
        listener.wake()

    async def listen(
        self,
        incarnation: str,
        receive: Callable[[bytes], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `Engine`."""
        shared = await self._turn()
        listener = shared.listening[incarnation] = _Listener(receive)
        try:
            async with trio.open_nursery() as nursery:
                for lost in (shared.lost, self._lost):
                    nursery.start_soon(_cancel_when, lost, nursery.cancel_scope)
                nursery.start_soon(_deliver, listener)
                task_status.started()
        finally:
            if shared.listening.get(incarnation) is listener:
                del shared.listening[incarnation]
        raise EngineLost("the engine cannot be reached")

    async def note_user(self, user: str, incarnation: str, *, here: bool) -> None:
        """See `Engine`."""
        shared = await self._turn()
        nodes = shared.users.setdefault(user, set())
        if here:
            nodes.add(incarnation)
        else:
            nodes.discard(incarnation)
        if not nodes:
            del shared.users[user]

    async def nodes_of(self, user: str) -> tuple[str, ...]:
        """See `Engine`."""
        shared = await self._turn()
        return tuple(sorted(one for one in shared.users.get(user, ()) if shared.lives(one)))

    def store(self, fence: Fence, *, durable: bool) -> Store:  # noqa: ARG002 (nothing here outlives a power cut)
        """See `Engine`."""
        return _FencedStore(engine=self, shared=self._shared, fence=fence)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _deliver(listener: _Listener) -> None:
    """Hand on what takes its time."""
    while True:
        while listener.coming:
            arrives = listener.coming[0][0]
            if arrives > trio.current_time():
                await trio.sleep_until(arrives)
            listener.receive(listener.coming.popleft()[1])
        await listener.change.wait()


@attrs.define(eq=False, kw_only=True)
class _FencedStore(MemoryStore):
    """The store that the nodes share, for one of them."""

    _engine: MemoryEngine
    _shared: _Shared
    _fence: Fence
    _kept: Kept = attrs.field(init=False, default=attrs.Factory(lambda self: self._shared.kept, True))

    def epoch_of(self, key: str) -> int:
        """See `Store.epoch_of`."""
        return self._fence.epoch_of(key)

    def _take(self) -> None:
        self._epoch = 1

    def _check_fence(self, commit: Commit) -> None:
        owned = self._shared.owned.get(commit.key)
        if owned is None or owned.epoch != commit.epoch:
            msg = (
                f"room {commit.key}: a commit of epoch {commit.epoch} is refused, since it is not this "
                "node's any more: another one may write it now"
            )
            raise StaleWrite(msg)

    async def commit(self, commit: Commit) -> None:
        """See `Store.commit`."""
        await self._reach()
        if not commit.epoch:
            raise StaleWrite(f"room {commit.key} is not at home on this node, so it cannot be written here")
        await super().commit(commit)

    async def due(self, now: float, limit: int, *, after: Due | None = None) -> builtins.list[Due]:
        """See `Store.due`."""
        await self._reach()
        self._shared.give_up()
        return await super().due(now, limit, after=after)

    async def _reach(self) -> None:
        """Wait for the engine where it is away."""
        until = trio.current_time() + _PATIENCE
        while not self._engine.reachable:
            if trio.current_time() >= until:
                raise StoreError("the engine cannot be reached")
            await trio.sleep(_PATIENCE / 50)


def _reaching(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def reaching(self: _FencedStore, *args: Any, **options: Any) -> Any:
        await self._reach()
        return await method(self, *args, **options)

    return reaching


for _name in (
    "load", "head", "get", "list", "keys", "session", "sessions", "positions", "verdicts",
    "journal", "timers", "due_timers", "timer", "post", "settle", "inbox", "inbox_size", "inboxes",
    "expired",
):  # fmt: skip
    setattr(_FencedStore, _name, _reaching(getattr(MemoryStore, _name)))
