"""A node's seat among the others: its lease, and who else has one."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs
import cbor2
import trio

from trio_rooms.engines.base import Engine, Renewal
from trio_rooms.errors import EngineLost

__all__ = ["Member", "Seat"]

logger: Final = logging.getLogger("trio_rooms")

_BEAT: Final = 0.25
"""Seconds between two renewals at most: as long as it may take until somebody is seen to be gone."""
_BEATS: Final = 6
"""Renewals in one lease at least: some of them may be lost."""
_MARGIN: Final = 0.05
"""Seconds by which a node stops before its lease ends, at least: two clocks do not run equally fast."""
_FAREWELL: Final = 1.0
"""Seconds for the last word to the engine: without it the others wait for the end of the lease."""
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@attrs.frozen
class Member:
    """A node that lives."""

    incarnation: str
    """``"name#nonce"``: another one for each time that it has joined."""
    about: Mapping[str, Any]
    """What it says about itself."""

    @property
    def name(self) -> str:
        """The node's name, the same in all its incarnations."""
        return _name(self.incarnation)


@attrs.define(eq=False)
class Seat:
    """Keeps a node's lease, and knows whether what it does still counts.

    Until ``deadline`` nobody else can have taken over from this node. It is told by the node's own clock,
    from before the renewal was sent, and a little earlier than the engine lets it end. Where it passes,
    `on_pause` is called: nothing of what any room does here may reach a client from then on. Either the
    lease is renewed after all, then `on_resume` is called and nothing has happened; or somebody else has
    found that this incarnation is over. Then a new one joins, `on_over` is called with the former one,
    `on_joined` is awaited, and `on_resume` ends the pause. Where another process has joined under this node's
    name, it has this node's place: this one stays paused for as long as that one lives.

    Args:
        engine: where the leases are.
        name: the node's name. Another node that lives under it would be over at once.
        lease: seconds after which the others take over.
        about: gives what the others are to know of this node, in what CBOR can write; asked at each beat.
        now: the clock by which this node's deadline is told.
        sleep_until: waits for a time of that clock.
    """

    engine: Engine
    name: str
    lease: float
    _about: Callable[[], Mapping[str, Any]] = attrs.field(alias="about")
    now: Callable[[], float] = attrs.field(default=trio.current_time, kw_only=True)
    sleep_until: Callable[[float], Awaitable[None]] = attrs.field(default=trio.sleep_until, kw_only=True)

    incarnation: str = attrs.field(init=False, default="")
    """As whom it has joined last; empty before."""
    members: Mapping[str, Member] = attrs.field(init=False, default=MappingProxyType({}))
    """Who lives, by incarnation, as the engine has said last; this node too."""
    valid: bool = attrs.field(init=False, default=False)
    """Whether it has a lease, as far as has been looked: `check` looks."""
    deadline: float = attrs.field(init=False, default=0.0)
    """When its lease is over, unless it is renewed."""
    usurped: bool = attrs.field(init=False, default=False)
    """Whether another process has this node's name, and so its place."""
    pauses: int = attrs.field(init=False, default=0)
    """How often it had none for a while."""
    on_come: list[Callable[[Member], None]] = attrs.field(init=False, factory=list)
    """Called with each other node that is new."""
    on_gone: list[Callable[[Member], None]] = attrs.field(init=False, factory=list)
    """Called with each other node that is over for good."""
    on_change: list[Callable[[Member], None]] = attrs.field(init=False, factory=list)
    """Called with each other node that says something else about itself than before."""
    on_pause: list[Callable[[], None]] = attrs.field(init=False, factory=list)
    on_resume: list[Callable[[], None]] = attrs.field(init=False, factory=list)
    on_over: list[Callable[[str], None]] = attrs.field(init=False, factory=list)
    """Called with the former incarnation once there is another, and once another process has its name."""
    on_joined: list[Callable[[], Awaitable[None]]] = attrs.field(init=False, factory=list)
    """Awaited after these, one after the other, before the pause ends; begun again where this one, too, was
    over meanwhile."""
    _joining: trio.CancelScope | None = attrs.field(init=False, default=None)
    """What comes back from the end of an incarnation."""
    _drawn: set[str] = attrs.field(init=False, factory=set)
    """As whom it has tried to join: it may have, although the answer was lost."""
    _encoded: Mapping[str, bytes] = attrs.field(init=False, default=_NOTHING)
    _beaten: trio.Event = attrs.field(init=False, factory=trio.Event)
    _resumed: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def beat(self) -> float:
        """Seconds between two renewals."""
        return min(self.lease / _BEATS, _BEAT)

    def check(self) -> bool:
        """Whether it has its lease still; the first look after the deadline begins the pause."""
        if self.valid and self.now() >= self.deadline:
            logger.warning(
                "node %s: it could not renew its lease in time, so its rooms pause", self.incarnation
            )
            self._pause()
        return self.valid

    async def beaten(self) -> None:
        """Wait for the next renewal, or for the next one that failed."""
        await self._beaten.wait()

    async def resumed(self) -> None:
        """Wait until it has a lease."""
        if self.valid:
            await trio.lowlevel.checkpoint()
        while not self.valid:
            await self._resumed.wait()

    async def join(self) -> None:
        """Become a member, as a new incarnation, and have a lease.

        Raises:
            EngineLost: the engine cannot be reached. It may be a member nevertheless, until that lease ends.
        """
        await self._join()
        self._resume()

    async def _join(self) -> None:
        incarnation = f"{self.name}#{secrets.token_hex(8)}"
        self._drawn.add(incarnation)
        began = self.now()
        renewal = await self.engine.join(incarnation, self._say(), self.lease)
        self.incarnation, self._drawn = incarnation, {incarnation}
        self._renewed(renewal, began)

    async def run(self) -> None:
        """Renew the lease until cancelled; it has joined.

        The lease is not given back then: see `leave`.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                await self.sleep_until(self.now() + self.beat)
                with contextlib.suppress(EngineLost):
                    await self._renew(nursery)
                beaten, self._beaten = self._beaten, trio.Event()
                beaten.set()

    async def leave(self) -> None:
        """Be no member any more; where the engine cannot be reached, the lease ends by itself."""
        self.valid = False
        with trio.move_on_after(_FAREWELL, shield=True):
            with contextlib.suppress(EngineLost):
                await self.engine.leave(self.incarnation)

    async def _watch(self) -> None:
        """Notice that the lease is over, also while a renewal hangs."""
        while True:
            await self.resumed()
            await self.sleep_until(self.deadline)
            self.check()

    async def _renew(self, nursery: trio.Nursery) -> None:
        began = self.now()
        renewal = await self.engine.renew(self.incarnation, self._say(), self.lease)
        if renewal.alive:
            self._renewed(renewal, began)
            if self._joining is None:
                self._resume()
            return
        former, usurped = self.incarnation, self.usurped
        self._pause()
        if self._joining is not None:
            self._joining.cancel()
            self._joining = None
        if self._is_usurped(renewal):
            if not usurped:
                self._over(former)
            return
        logger.warning("node %s: its lease was over, and others may have taken rooms over", former)
        await self._join()
        self.usurped = False
        self._over(former)
        self._joining = trio.CancelScope()
        nursery.start_soon(self._come_back, self._joining)

    def _is_usurped(self, renewal: Renewal) -> bool:
        """Whether another process has this node's name: they would take it from each other for ever."""
        twins = [one for one in renewal.members if _name(one) == self.name and one not in self._drawn]
        if twins and not self.usurped:
            self.usurped = True
            logger.error(
                "node %s: another process has joined as %s, so this one lets go of its rooms until that one "
                "has ended; give each node a name of its own",
                self.incarnation,
                twins[0],
            )
        return bool(twins)

    def _over(self, former: str) -> None:
        for told in self.on_over:
            told(former)

    async def _come_back(self, scope: trio.CancelScope) -> None:
        """Find out what is left of what the former one had, while the new lease is renewed."""
        with scope:
            for told in self.on_joined:
                await told()
                if self._joining is not scope:
                    return
            self._joining = None
            self._resume()

    def _say(self) -> bytes:
        return cbor2.dumps(dict(self._about()))

    def _renewed(self, renewal: Renewal, began: float) -> None:
        """Take what the engine has said."""
        self.deadline = began + self.lease - max(self.lease / 20, _MARGIN)
        before, said = self.members, self._encoded
        if renewal.members == said:
            return
        self._encoded = renewal.members
        self.members = members = dict(_members(renewal.members, said, before))
        for incarnation, member in before.items():
            if incarnation not in members and member.name != self.name:
                _tell(self.on_gone, member)
        for incarnation, member in members.items():
            if member.name != self.name and before.get(incarnation) is not member:
                _tell(self.on_change if incarnation in before else self.on_come, member)

    def _pause(self) -> None:
        if not self.valid:
            return
        self.valid = False
        self.pauses += 1
        for told in self.on_pause:
            told()

    def _resume(self) -> None:
        if self.valid or self.now() >= self.deadline:
            return
        self.valid = True
        if self.pauses:
            logger.warning("node %s: it has its lease, so its rooms go on", self.incarnation)
        resumed, self._resumed = self._resumed, trio.Event()
        resumed.set()
        for told in self.on_resume:
            told()


def _name(incarnation: str) -> str:
    return incarnation.partition("#")[0]


def _tell(told: list[Callable[[Member], None]], member: Member) -> None:
    for one in told:
        one(member)


def _members(
    encoded: Mapping[str, bytes], before: Mapping[str, bytes], known: Mapping[str, Member]
) -> Iterator[tuple[str, Member]]:
    """The members by incarnation; those that say what they said are the same objects."""
    for incarnation, about in encoded.items():
        member = known.get(incarnation)
        if member is None or before.get(incarnation) != about:
            member = Member(incarnation, _decoded(incarnation, about))
        yield incarnation, member


def _decoded(incarnation: str, about: bytes) -> Mapping[str, Any]:
    """What a node says about itself; nothing, where it cannot be read."""
    try:
        found = cbor2.loads(about)
    except Exception as error:  # noqa: BLE001 (another version of this program may say it in another way)
        logger.warning("node %s: what it says about itself cannot be read: %s", incarnation, error)
        return _NOTHING
    return found if isinstance(found, dict) else _NOTHING
