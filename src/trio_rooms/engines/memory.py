"""An engine in memory: several nodes in one process, for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import attrs
import trio

from trio_rooms.errors import EngineLost
from trio_rooms.stores.base import Store

from .base import Claim, Engine, Fence, Renewal

__all__ = ["MemoryEngine"]


@attrs.define(eq=False)
class _Owned:
    owner: str = ""
    epoch: int = 0


@attrs.define(eq=False)
class MemoryEngine(Engine):
    """Shared by the nodes of one process; time is Trio's, so that `MockClock` moves it.

    `down` takes it away from all nodes until `up`, as a crash of the engine would. What it knew stays.
    """

    _until: dict[str, float] = attrs.field(init=False, factory=dict)
    _about: dict[str, bytes] = attrs.field(init=False, factory=dict)
    _owned: dict[str, _Owned] = attrs.field(init=False, factory=dict)
    _listening: dict[str, Callable[[bytes], None]] = attrs.field(init=False, factory=dict)
    _lost: trio.Event = attrs.field(init=False, factory=trio.Event)
    _users: dict[str, set[str]] = attrs.field(init=False, factory=dict)
    _seen: float = attrs.field(init=False, default=0.0)
    _grace: float = attrs.field(init=False, default=0.0)
    _longest: float = attrs.field(init=False, default=0.0)
    _up: bool = attrs.field(init=False, default=True)

    def down(self) -> None:
        """It cannot be reached from now on."""
        self._up = False
        self._listening.clear()
        lost, self._lost = self._lost, trio.Event()
        lost.set()

    def up(self) -> None:
        """It can be reached again."""
        self._up = True

    async def open(self) -> None:
        """See `Engine`."""
        await self._turn()

    async def aclose(self) -> None:
        """See `Engine`."""
        await trio.lowlevel.checkpoint()

    async def _turn(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._up:
            raise EngineLost("the engine cannot be reached")

    def _bury(self) -> None:
        """Take out whose lease is over, unless nobody could renew any."""
        now = trio.current_time()
        if now - self._seen > self._longest:
            self._grace = now + self._longest
        self._seen = now
        if now >= self._grace:
            for incarnation in [one for one, until in self._until.items() if until <= now]:
                self._forget(incarnation)

    def _forget(self, incarnation: str) -> None:
        self._until.pop(incarnation, None)
        self._about.pop(incarnation, None)

    async def join(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        """See `Engine`."""
        await self._turn()
        name = incarnation.partition("#")[0]
        for other in [one for one in self._until if one.partition("#")[0] == name]:
            self._forget(other)
        self._longest = max(self._longest, lease)
        self._bury()
        return self._renewed(incarnation, about, lease)

    async def renew(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        """See `Engine`."""
        await self._turn()
        self._bury()
        if incarnation not in self._until:
            return Renewal(False, dict(self._about))
        return self._renewed(incarnation, about, lease)

    def _renewed(self, incarnation: str, about: bytes, lease: float) -> Renewal:
        self._until[incarnation] = trio.current_time() + lease
        self._about[incarnation] = about
        return Renewal(True, dict(self._about))

    async def leave(self, incarnation: str) -> None:
        """See `Engine`."""
        await self._turn()
        self._forget(incarnation)

    async def claim(self, key: str, incarnation: str) -> Claim:
        """See `Engine`."""
        await self._turn()
        self._bury()
        owned = self._owned.setdefault(key, _Owned())
        if owned.owner != incarnation and owned.owner not in self._until and incarnation in self._until:
            owned.owner, owned.epoch = incarnation, owned.epoch + 1
        return Claim(owned.owner if owned.owner in self._until else "", owned.epoch)

    async def find(self, keys: Collection[str]) -> dict[str, str]:
        """See `Engine`."""
        await self._turn()
        found = {key: self._owned[key].owner for key in keys if key in self._owned}
        return {key: owner for key, owner in found.items() if owner in self._until}

    async def release(self, key: str, incarnation: str, epoch: int) -> bool:
        """See `Engine`."""
        await self._turn()
        owned = self._owned.get(key)
        if owned is None or (owned.owner, owned.epoch) != (incarnation, epoch):
            return False
        owned.owner = ""
        return True

    async def reclaim(self, former: str, incarnation: str, epochs: Mapping[str, int]) -> frozenset[str]:
        """See `Engine`."""
        await self._turn()
        kept = set()
        for key, epoch in epochs.items():
            owned = self._owned.get(key)
            if owned is not None and owned.epoch == epoch and owned.owner in (former, incarnation):
                owned.owner = incarnation
                kept.add(key)
        return frozenset(kept)

    async def send(self, incarnation: str, message: bytes) -> None:
        """See `Engine`."""
        await self._turn()
        receive = self._listening.get(incarnation)
        if receive is not None:
            receive(message)

    async def listen(
        self,
        incarnation: str,
        receive: Callable[[bytes], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `Engine`."""
        await self._turn()
        lost = self._lost
        self._listening[incarnation] = receive
        try:
            task_status.started()
            await lost.wait()
        finally:
            if self._listening.get(incarnation) is receive:
                del self._listening[incarnation]
        raise EngineLost("the engine cannot be reached")

    async def note_user(self, user: str, incarnation: str, *, here: bool) -> None:
        """See `Engine`."""
        await self._turn()
        nodes = self._users.setdefault(user, set())
        if here:
            nodes.add(incarnation)
        else:
            nodes.discard(incarnation)
        if not nodes:
            del self._users[user]

    async def nodes_of(self, user: str) -> tuple[str, ...]:
        """See `Engine`."""
        await self._turn()
        return tuple(sorted(one for one in self._users.get(user, ()) if one in self._until))

    def store(self, fence: Fence, *, durable: bool) -> Store:
        """See `Engine`."""
        raise NotImplementedError
