"""Which rooms are at home on this node, and where the others are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Final

import attrs
import trio

from trio_rooms.engines.base import Engine
from trio_rooms.errors import EngineLost, Unavailable

from .placing import is_open, ranked, serves
from .seat import Member, Seat

__all__ = ["Ownership"]

_PATIENCE: Final = 5.0
"""Seconds that a room is looked for: as long as a message may wait."""
_LOOK: Final = 3.0
"""Seconds between two looks for rooms that nobody needs here any more. One that is idle in two goes."""
_TURN: Final = 0.002
"""Seconds that a look may take until others have their turn."""
_AT_ONCE: Final = 32
"""Rooms that are let go of at once: what the engine does in one go."""
_REMEMBERED: Final = 10_000
"""Rooms elsewhere of which it is remembered where they are."""
_RECLAIMED: Final = 1000
"""Rooms that are owned again in one step."""
_AGAIN: Final = 0.1
"""Seconds until an engine that is away is asked again."""


@attrs.define(eq=False)
class Ownership:
    """Claims rooms for this node, finds those of others, and lets go of what is not needed here.

    A room that is claimed is at home here: it is awake, or somebody is connected to it, or it was lately. Its
    claim lasts as long as this node's lease, and needs nothing to be renewed. What nothing here needs any
    more is let go of after some seconds, and so goes, when it is next wanted, where that is.

    Args:
        engine: where the claims are.
        seat: this node's.
        used: whether a room has anything here: an actor, a record, a connection. It is called for each room
            that is at home here, every few seconds.
        opens: whether this node takes rooms that nobody has: it is neither full nor being emptied.
        takes: asks another node, by its incarnation, to take a room; gives whether it is at home there now.
            It raises Unavailable where that node cannot be reached.
    """

    engine: Engine
    seat: Seat
    used: Callable[[str], bool] = attrs.field(kw_only=True)
    opens: Callable[[], bool] = attrs.field(kw_only=True, default=lambda: True)
    takes: Callable[[str, str], Awaitable[bool]] | None = attrs.field(kw_only=True, default=None)
    patience: float = attrs.field(kw_only=True, default=_PATIENCE)

    on_lost: list[Callable[[str], None]] = attrs.field(init=False, factory=list)
    """Called with each room that is not at home here any more, although nobody let go of it."""
    on_released: list[Callable[[str], None]] = attrs.field(init=False, factory=list)
    """Called with each room that is let go of, when it is not at home here any more."""
    claims: int = attrs.field(init=False, default=0)
    """How many rooms were claimed."""
    _epochs: dict[str, int] = attrs.field(init=False, factory=dict)
    _pins: dict[str, int] = attrs.field(init=False, factory=dict)
    _elsewhere: dict[str, str] = attrs.field(init=False, factory=dict)
    """Where rooms were lately that are at home elsewhere; the oldest look comes first."""
    _flights: dict[str, trio.Event] = attrs.field(init=False, factory=dict)
    """Rooms that are being claimed, looked for or let go of, one thing at a time for each."""

    def __attrs_post_init__(self) -> None:
        """Hear of what becomes of this node and the others."""
        self.seat.on_gone.append(self._forget)
        self.seat.on_over.append(self._over)
        self.seat.on_joined.append(self.reclaim)

    # What is known.

    def owns(self, key: str) -> bool:
        """Whether a room is at home here."""
        return key in self._epochs

    def epoch_of(self, key: str) -> int:
        """The epoch by which a room is written from here; 0 where it is not at home here."""
        return self._epochs.get(key, 0)

    def keys(self) -> Collection[str]:
        """The rooms that are at home here."""
        return self._epochs.keys()

    @contextmanager
    def pinned(self, key: str) -> Iterator[None]:
        """Keep a room from being let go of, although nothing of it is here yet."""
        self._pins[key] = self._pins.get(key, 0) + 1
        try:
            yield
        finally:
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]

    # Where a room is.

    async def place(self, key: str) -> str:
        """The incarnation that a room is at home at, after it was claimed if nobody had it.

        Where that is this node, it stays so until the next await at least, and as long as the room is used
        or pinned. Where it is another one, that may have let go of it meanwhile: it says so when it is
        asked, and whoever asks calls `misplaced` and places it again. A cancelled caller has at most claimed
        it.

        Raises:
            Unavailable: for so long the engine could not be reached, this node had no lease, or no node took
                the room.
        """
        found = await self._remembered(key)
        if found is not None:
            return found
        why = "no node can take it"
        with trio.move_on_after(self.patience):
            while True:
                try:
                    found = await self._placed(key)
                except EngineLost as error:
                    why = str(error)
                else:
                    if found:
                        return found
                    why = "no node can take it" if self.seat.valid else "this node cannot reach the engine"
                await trio.sleep(_AGAIN)
        raise Unavailable(key, why)

    async def find(self, key: str) -> str:
        """The incarnation that a room is at home at; empty where nobody has it.

        Raises:
            Unavailable: as `place`.
        """
        found = await self._remembered(key)
        if found is not None:
            return found
        why = ""
        with trio.move_on_after(self.patience):
            while True:
                try:
                    async with self._alone(key):
                        return await self._find(key)
                except EngineLost as error:
                    why = str(error)
                await trio.sleep(_AGAIN)
        raise Unavailable(key, why or "the engine does not answer")

    async def _remembered(self, key: str) -> str | None:
        """Where a room is as far as that is known here, a checkpoint then; None where it is not."""
        if key in self._epochs:
            await trio.lowlevel.checkpoint()
            if key in self._epochs:
                return self.seat.incarnation
        found = self.known(key)
        if found is not None:
            await trio.lowlevel.checkpoint()
        return found

    async def take(self, key: str) -> bool:
        """Have a room be at home here, if nobody has it and this node is open; gives whether it is now.

        Raises:
            EngineLost: the engine cannot be reached.
        """
        await trio.lowlevel.checkpoint()
        async with self._alone(key):
            if key in self._epochs:
                return True
            if self.opens():
                return await self._claim(key)
            return await self._find(key) == self.seat.incarnation

    async def has(self, key: str) -> bool:
        """Whether a room is at home here, where another node believes so.

        One that is this node's in the engine alone, since the answer to a claim or a release was lost, is
        let go of there: else nobody could have it.

        Raises:
            EngineLost: the engine cannot be reached.
        """
        await trio.lowlevel.checkpoint()
        async with self._alone(key):
            if key in self._epochs:
                return True
            incarnation = self.seat.incarnation
            if (await self.engine.find([key])).get(key) == incarnation:
                claim = await self.engine.claim(key, incarnation)
                if claim.owner == incarnation:
                    await self.engine.release(key, incarnation, claim.epoch)
            return False

    def misplaced(self, key: str, incarnation: str) -> None:
        """A node has said that a room is not at home there."""
        if self._elsewhere.get(key) == incarnation:
            del self._elsewhere[key]

    def known(self, key: str) -> str | None:
        """The other incarnation that a room was at home at lately; None where none is known that lives."""
        found = self._elsewhere.get(key)
        return found if found in self.seat.members else None

    async def _placed(self, key: str) -> str:
        """Where a room is after one try; empty for nowhere yet."""
        await self.seat.resumed()
        async with self._alone(key):
            if key in self._epochs:
                return self.seat.incarnation
            found = self.known(key)
            if found is not None:
                return found
            if self.opens():
                if await self._claim(key):
                    return self.seat.incarnation
                # One that has joined just now is known here with the next beat.
                return self.known(key) or ""
            if await self._find(key) == self.seat.incarnation:
                return self.seat.incarnation
            if key in self._elsewhere:
                return self.known(key) or ""
        others = [one for one in self.seat.members.values() if is_open(one) and serves(one, key)]
        for member in ranked(key, others):
            if member.incarnation == self.seat.incarnation or self.takes is None:
                continue
            try:
                taken = await self.takes(member.incarnation, key)
            except Unavailable:
                continue
            if taken:
                self._note(key, member.incarnation)
                return member.incarnation
        return ""

    async def _find(self, key: str) -> str:
        found = (await self.engine.find([key])).get(key, "")
        if found == self.seat.incarnation:
            # It was claimed, and the answer was lost.
            return found if await self._claim(key) else ""
        self._note(key, found)
        return found

    async def _claim(self, key: str) -> bool:
        """Claim a room; its turn is the caller's."""
        incarnation = self.seat.incarnation
        claim = await self.engine.claim(key, incarnation)
        if incarnation != self.seat.incarnation:
            return False  # Whatever the former one has claimed, anybody can have.
        if claim.owner != incarnation:
            self._note(key, claim.owner)
            return False
        self._epochs[key] = claim.epoch
        self._elsewhere.pop(key, None)
        self.claims += 1
        return True

    def _note(self, key: str, incarnation: str) -> None:
        self._elsewhere.pop(key, None)
        if incarnation:
            self._elsewhere[key] = incarnation
        if len(self._elsewhere) > _REMEMBERED:
            del self._elsewhere[next(iter(self._elsewhere))]

    def _alone(self, key: str) -> _Turn:
        return _Turn(self._flights, key)

    # Letting go.

    async def release(self, key: str, *, idle: bool = False) -> bool:
        """Let go of a room, or only if it is idle; gives whether it is nobody's now.

        From the first step on it is not at home here. Cancelled, or where the engine cannot be reached, it
        may be this node's in the engine still; then it is claimed again when it is next wanted here.

        Raises:
            EngineLost: the engine cannot be reached.
        """
        await trio.lowlevel.checkpoint()
        async with self._alone(key):
            if idle and (key in self._pins or self.used(key)):
                return False  # Somebody has come meanwhile.
            epoch = self._epochs.pop(key, 0)
            if not epoch:
                return False
            for told in self.on_released:
                told(key)
            return await self.engine.release(key, self.seat.incarnation, epoch)

    def lost(self, key: str) -> None:
        """Somebody else has written a room that was at home here: it is not any more."""
        if self._epochs.pop(key, 0):
            for told in self.on_lost:
                told(key)

    async def run(self) -> None:
        """Let go of what nothing here needs any more, until cancelled."""
        idle: set[str] = set()
        while True:
            until = self.seat.now() + _LOOK
            while self.seat.now() < until or not self.seat.valid:
                await self.seat.beaten()
            idle = await self._look(idle)

    async def _look(self, before: set[str]) -> set[str]:
        """Let go of what was idle before and is now; gives what is idle now and was not."""
        idle: set[str] = set()
        limiter = trio.CapacityLimiter(_AT_ONCE)
        began = perf_counter()
        async with trio.open_nursery() as nursery:
            for key in list(self._epochs):
                if self._idle(key):
                    if key in before:
                        await limiter.acquire_on_behalf_of(key)
                        nursery.start_soon(self._let_go, key, limiter)
                    else:
                        idle.add(key)
                if perf_counter() - began > _TURN:
                    await trio.lowlevel.checkpoint()
                    began = perf_counter()
        return idle

    def _idle(self, key: str) -> bool:
        return key not in self._pins and key not in self._flights and not self.used(key)

    async def _let_go(self, key: str, limiter: trio.CapacityLimiter) -> None:
        try:
            if self._idle(key):
                await self.release(key, idle=True)
        except EngineLost:
            pass  # It is claimed again when it is wanted here, or goes with this incarnation.
        finally:
            limiter.release_on_behalf_of(key)

    # What becomes of the nodes.

    def _forget(self, member: Member) -> None:
        """Where a node is over for good, nothing is at home."""
        for key in [key for key, where in self._elsewhere.items() if where == member.incarnation]:
            del self._elsewhere[key]

    def _over(self, former: str) -> None:  # noqa: ARG002 (whoever it was)
        self._elsewhere.clear()
        if self.seat.usurped:
            for key in list(self._epochs):
                self.lost(key)

    async def reclaim(self) -> None:
        """Own again, as a new incarnation, what the former one did and nobody has claimed meanwhile.

        Cancelled, what is owned again is.
        """
        keys = list(self._epochs)
        for start in range(0, len(keys), _RECLAIMED):
            epochs = {
                key: self._epochs[key] for key in keys[start : start + _RECLAIMED] if key in self._epochs
            }
            kept = await self._reclaimed(epochs)
            for key, epoch in epochs.items():
                if key not in kept and self._epochs.get(key) == epoch:
                    self.lost(key)

    async def _reclaimed(self, epochs: Mapping[str, int]) -> frozenset[str]:
        while True:
            try:
                return await self.engine.reclaim(self.seat.incarnation, epochs)
            except EngineLost:
                await self.seat.sleep_until(self.seat.now() + _AGAIN)


@attrs.define(eq=False)
class _Turn:
    """Has one thing done to a room at a time."""

    _flights: dict[str, trio.Event]
    _key: str

    async def __aenter__(self) -> None:
        while (flight := self._flights.get(self._key)) is not None:
            await flight.wait()
        self._flights[self._key] = trio.Event()

    async def __aexit__(self, *raised: object) -> None:
        self._flights.pop(self._key).set()
