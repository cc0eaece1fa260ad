"""What is due at a time of day: what rooms have scheduled, and the ends of sessions.

The store knows all of it, by index. Here is one deadline, for what comes first. When it has come, what is
due is read a page at a time, and rooms are told to look: which of their schedules they handle they know
themselves, so to be told once too often does nothing. A page begins behind the last one, since what was
seen stays due for a while: until its room has handled it and that is durable, or for as long as its
room is not served here.

Where several nodes share a store, each of them looks, now and then also behind what it has seen, and
leaves to the others what is theirs (`Share`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from time import perf_counter
from typing import Final, Protocol

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.turn import TURN
from trio_rooms._loop.wall import WallClock
from trio_rooms._room.mail import Alarm
from trio_rooms.errors import StoreError
from trio_rooms.stores.base import Due, Store

__all__ = ["Agenda", "Share"]

logger = logging.getLogger("trio_rooms")

_PAGE: Final = 256
"""What is read of the store at a time."""
_MOST_WAKING: Final = 16
"""Rooms that are woken at a time: what they do in one turn of the event loop is to be some milliseconds."""
_MOST_ALARMS: Final = 1000
"""Rooms that are told and not done, so that handlers which hang do not fill the memory with awake rooms."""
_MOST_EXPIRING: Final = 64
"""Rooms of which sessions are ended at a time."""
_AGAIN: Final = 30.0
"""Seconds until a room that refused is told once more: one that was given up cools down as long."""
_LOOK: Final = 60.0
"""Seconds after which a clock is looked at again that somebody may set."""
_SHARED: Final = 1.0
"""Seconds between two looks at most where other nodes put something into the same store."""
_ANEW: Final = 5.0
"""Seconds until what was left to another node is looked at again, where that has not done it."""
_RETRY_FIRST: Final = 0.5
_RETRY_LAST: Final = 30.0
"""Seconds between two tries to read the store, doubled each time from the first to the last."""


class Share(Protocol):
    """Says what of all that is due falls to this node."""

    def owns(self, key: str) -> bool:
        """Whether a room is at home here."""

    async def take(self, key: str) -> bool:
        """Whether a room is at home here, or is from now on: nobody else has it, and it falls to this node.

        It does not raise.
        """

    def pinned(self, key: str) -> AbstractContextManager[None]:
        """Have a room stay at home here inside the block."""


@attrs.define(eq=False)
class Agenda:
    """Tells rooms of what is due, at its time or as soon after it as there is room for it.

    Args:
        store: where it is kept.
        serves: whether a key is that of a room that is served here; what is of others is left alone.
        awake: whether a room is awake, so that mail wakes nobody.
        tell: hands an alarm to a room.
        expire: ends sessions of a room, and returns whether that is durable; else it is tried again later.
        lapse: lets a room go that nobody is in, or finds out that somebody is; and returns the same.
        spawn: starts a task of the runtime.
    """

    _store: Store
    _serves: Callable[[str], bool]
    _awake: Callable[[str], bool]
    _tell: Callable[[str, Alarm], object]
    _expire: Callable[[str, list[int]], Awaitable[bool]]
    _lapse: Callable[[str], Awaitable[bool]]
    _spawn: Callable[..., None]
    share: Share | None = attrs.field(init=False, default=None)
    """What of it falls to this node; None where all does."""
    _wall: WallClock = attrs.field(init=False, factory=WallClock)
    _next: float = attrs.field(init=False, default=-math.inf)
    """When there is something to be read again, as a time of day; now, at the start."""
    _behind: Due | None = attrs.field(init=False, default=None)
    """The last that was seen; None to begin anew."""
    _from_the_start: float = attrs.field(init=False, default=math.inf)
    """When to begin anew, on Trio's clock: some room has refused."""
    _looked: float = attrs.field(init=False, default=-math.inf)
    """When it was last read, on Trio's clock."""
    _sleep: trio.CancelScope | None = attrs.field(init=False, default=None)
    _waking: set[str] = attrs.field(init=False, factory=set)
    _told: set[str] = attrs.field(init=False, factory=set)
    """Rooms that have an alarm which is not over."""
    _expiring: set[str] = attrs.field(init=False, factory=set)
    _lapsing: set[str] = attrs.field(init=False, factory=set)
    _fewer: trio.Event | None = attrs.field(init=False, default=None)
    """Set when one of these sets has become smaller, while somebody waits for that."""
    _stopped: bool = attrs.field(init=False, default=False)

    def noted(self, time: float) -> None:
        """Something that is due at this time is in the store since now."""
        if self._behind is not None and time <= self._behind.time:
            self._behind = _before(time)
        if time < self._next:
            self._next = time
            self._poke()

    def look(self) -> None:
        """Begin anew: what another node had to do may fall to this one now."""
        self._from_the_start = -math.inf
        self._poke()

    def stop(self) -> None:
        """Tell nobody any more."""
        self._stopped = True
        self._poke()
        self._is_less()

    @enable_ki_protection
    async def run(self) -> None:
        """Tell rooms of what is due, until stopped or cancelled."""
        delay = 0.0
        while not self._stopped:
            await self._wait()
            try:
                await self._work_off()
            except StoreError as error:
                self._next = -math.inf
                if not delay:
                    logger.error("what is due is not known, the store cannot be read: %s", error)  # noqa: TRY400
                delay = min(max(2 * delay, _RETRY_FIRST), _RETRY_LAST)
                await self._pause(trio.current_time() + delay)
            else:
                if delay:
                    logger.info("the store is read again for what is due")
                delay = 0.0

    # When.

    async def _wait(self) -> None:
        """Wait until something may be due."""
        while not self._stopped:
            now = trio.current_time()
            left = self._next - self._wall.now()
            if self._from_the_start <= now:
                self._from_the_start, self._behind = math.inf, None
                return
            if left <= 0:
                return
            if left < math.inf and not self._wall.steady:
                left = min(left, _LOOK)
            until = min(now + left, self._from_the_start)
            if self.share is not None:
                until = min(until, self._looked + _SHARED)
                if until <= now:
                    return  # Else the times, which are rounded, might never differ.
            await self._pause(until)

    async def _pause(self, until: float) -> None:
        """Wait until a time of Trio's clock, or a poke."""
        with trio.CancelScope(deadline=until) as self._sleep:
            if not self._stopped:
                await trio.sleep_forever()
        self._sleep = None

    def _poke(self) -> None:
        """Look again whether something is due."""
        if self._sleep is not None:
            self._sleep.cancel()

    # What.

    async def _work_off(self) -> None:
        """Go through all that is due, and find out when the next is."""
        while not self._stopped:
            now = self._wall.now()
            self._looked = trio.current_time()
            self._next = math.inf
            page = await self._store.due(now, _PAGE, after=self._behind)
            if page:
                self._behind = page[-1]
                if self._next <= page[-1].time:
                    self._behind = _before(self._next)  # It came into the store while that was read.
            await self._hand_out(page)
            if len(page) < _PAGE:
                following = await self._store.due(math.inf, 1, after=self._behind)
                if following:
                    self._next = min(self._next, following[0].time)
                return

    async def _hand_out(self, page: list[Due]) -> None:
        """Have everything that is due handled, in its order, as soon as there is room for it."""
        sessions: dict[str, list[int]] = {}
        pause_at = perf_counter() + TURN
        for one in page:
            if perf_counter() > pause_at:
                await trio.lowlevel.checkpoint()
                pause_at = perf_counter() + TURN
            if not (self._serves(one.key) and (self.share is None or await self._falls_here(one.key))):
                continue
            if one.lapses:
                await self._look_at(one.key)
            elif one.sid is not None:
                sessions.setdefault(one.key, []).append(one.sid)
            elif one.key not in self._told:
                await self._alarm(one.key)
        for key, sids in sessions.items():
            while not self._stopped and (key in self._expiring or len(self._expiring) >= _MOST_EXPIRING):
                await self._less()
            if not self._stopped:
                self._expiring.add(key)
                self._spawn(self._end_sessions, key, sids)

    async def _falls_here(self, key: str) -> bool:
        """Whether what is due of a room falls to this node; else it is looked at again in a while."""
        assert self.share is not None
        if self.share.owns(key) or await self.share.take(key):
            return True
        self._tell_again(_ANEW)
        return False

    def _pinned(self, key: str) -> AbstractContextManager[None]:
        return nullcontext() if self.share is None else self.share.pinned(key)

    def _is_gone(self, key: str) -> bool:
        """Whether a room is not at home here any more."""
        return self.share is not None and not self.share.owns(key)

    # Schedules.

    async def _alarm(self, key: str) -> None:
        """Tell a room, as soon as not too many are woken or at work already."""
        while not self._stopped and (
            len(self._told) >= _MOST_ALARMS or (len(self._waking) >= _MOST_WAKING and not self._awake(key))
        ):
            with trio.move_on_after(_LOOK) as scope:
                await self._less()
            if scope.cancelled_caught:
                logger.warning(
                    "what is due waits: for %.0f s none of %d rooms has done what it was told to do",
                    _LOOK, len(self._told),
                )  # fmt: skip
        if self._stopped:
            return
        if self._is_gone(key):
            self._tell_again(_ANEW)
            return
        self._told.add(key)
        if not self._awake(key):
            self._waking.add(key)
        self._tell(key, Alarm(partial(self._begun, key), partial(self._over, key)))

    def _begun(self, key: str) -> None:
        """A room that was told is awake."""
        self._waking.discard(key)
        self._is_less()

    def _over(self, key: str, refused: bool) -> None:
        """A room that was told has handled all that was due, or will handle nothing now."""
        self._told.discard(key)
        self._begun(key)
        if refused:
            self._tell_again()

    # Sessions.

    async def _end_sessions(self, key: str, sids: list[int]) -> None:
        """End sessions of one room."""
        try:
            with self._pinned(key):
                if self._is_gone(key):
                    self._tell_again(_ANEW)
                elif not await self._expire(key, sids):
                    self._tell_again()
        finally:
            self._expiring.discard(key)
            self._is_less()

    # Rooms that nobody is in.

    async def _look_at(self, key: str) -> None:
        """Have a room looked at, as soon as not too many are."""
        while not self._stopped and len(self._lapsing) >= _MOST_WAKING:
            await self._less()
        if not self._stopped and key not in self._lapsing:
            self._lapsing.add(key)
            self._spawn(self._let_lapse, key)

    async def _let_lapse(self, key: str) -> None:
        try:
            with self._pinned(key):
                if self._is_gone(key):
                    self._tell_again(_ANEW)
                elif not await self._lapse(key):
                    self._tell_again()
        finally:
            self._lapsing.discard(key)
            self._is_less()

    # What all have.

    def _tell_again(self, after: float = _AGAIN) -> None:
        """Something that is due was not handled, and is in the store as it was.

        Args:
            after: seconds until it is looked at again.
        """
        when = trio.current_time() + after
        if when < self._from_the_start:
            self._from_the_start = when
            self._poke()

    async def _less(self) -> None:
        """Wait until somebody is done, or it is stopped."""
        self._fewer = trio.Event()
        await self._fewer.wait()

    def _is_less(self) -> None:
        """Let it go on that waits for somebody to be done."""
        if self._fewer is not None:
            self._fewer.set()
            self._fewer = None


def _before(time: float) -> Due:
    """What everything that is due at a time, or later, comes behind."""
    return Due(math.nextafter(time, -math.inf), "")
