"""Looks how a process does while its rooms are busy: whether it has too much memory, or is late."""

from __future__ import annotations

import gc
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from time import perf_counter
from typing import Final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._loop.memory import Memory, SystemMemory
from trio_rooms._metrics.metrics import Metrics
from trio_rooms._policy.policy import Policy
from trio_rooms._policy.pressure import Pressure
from trio_rooms._room.actor import Actor

from .sweeper import Sweeper
from .waking import Waking
from .watch import Watch

__all__ = ["Pulse"]

logger = logging.getLogger("trio_rooms")

_LOOK: Final = 1.0
"""Seconds between two looks, at most."""
_SOON: Final = 0.02
"""Seconds between two looks, at least."""
_GROWTH: Final = 1e9
"""Bytes in a second that memory grows by at most, about: the kernel does not hand out pages much faster. So
where so much is left, one looks again before the limit is passed."""
_WORTH: Final = 32 * 1024 * 1024
"""Bytes by which memory has to have grown, and by an eighth, before what was freed is given back."""
_REST: Final = 20
"""What stops everything is not done again for as many times as long as it took."""
_LOADING: Final = 2
"""Times that a state is in memory while it is loaded: its bytes, and what is made of them."""
_FADES: Final = 0.98
"""What is left at each look of what a room was once seen to take."""
_SILENCE: Final = 60.0
"""Seconds between two lines in the log about the same."""
_MOST_ASKED: Final = 1000
"""Rooms that are asked why they do not sleep."""
_MB: Final = 1e6


@attrs.define(eq=False)
class Pulse:
    """Looks once a second while rooms are busy, and sooner where little memory is left; then it rests.

    Args:
        policy: what is too much.
        metrics: where it is noted how late the event loop is.
        actors: the rooms that are awake.
        watch: knows whether any of them is busy.
        sweeper: sends rooms to sleep.
        waking: lets rooms wake, as many at a time as it is told.
        counts: how many rooms have woken until now, and how many have slept.
    """

    _policy: Policy
    _metrics: Metrics
    _actors: Mapping[str, Actor]
    _watch: Watch
    _sweeper: Sweeper
    _waking: Waking
    _counts: Callable[[], tuple[int, int]]
    pressure: Pressure = attrs.field(init=False)
    """What was found."""
    resident: int | None = attrs.field(init=False, default=None)
    """Bytes of the process that were in memory at the last look; None where that is not told."""
    _scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    """Of the task that looks."""
    _memory: Memory = attrs.field(init=False, factory=SystemMemory)
    _begun: trio.Event | None = attrs.field(init=False, default=None)
    """What wakes it; None while it looks."""
    _slow_at: float = attrs.field(init=False, default=-math.inf)
    """When it is looked next at what changes slowly."""
    _stall: tuple[float, float] | None = attrs.field(init=False, default=None)
    """When that was, and for how long something had waited for memory until then."""
    _empty: int = attrs.field(init=False, default=0)
    """The least that ever was in memory."""
    _least: int = attrs.field(init=False, default=0)
    """The least that was so since memory was given back."""
    _woken: int = attrs.field(init=False, default=0)
    """Rooms that had woken at the last look."""
    _slept: int = attrs.field(init=False, default=0)
    """Rooms that had slept when memory was given back."""
    _each: float = attrs.field(init=False, default=0.0)
    """Bytes that a room takes which wakes."""
    _give_back_at: float = attrs.field(init=False, default=-math.inf)
    """When memory may be given back again, by the performance counter."""
    _collect_at: float = attrs.field(init=False, default=-math.inf)
    """The same of a garbage collection."""
    _press_at: float = attrs.field(init=False, default=-math.inf)
    """When rooms may be put to sleep again: at once, if that was enough for memory."""
    _told: dict[str, float] = attrs.field(init=False, factory=dict)
    """When something was last told in the log."""

    def __attrs_post_init__(self) -> None:
        self.pressure = Pressure(self._policy)
        self._watch.begun = self._begin

    def _begin(self) -> None:
        """Rooms are busy from now on."""
        if self._begun is not None:
            self._begun.set()

    def stop(self) -> None:
        """Look no more: all rooms are going to sleep."""
        self._scope.cancel()
        self._sweeper.pressed, self._waking.most = False, self._policy.max_waking

    def measured(self) -> int | None:
        """Bytes of the process that are in memory at this moment; None where that is not told."""
        return self._memory.resident()

    def ask(self, memory: Memory) -> None:
        """Have somebody else say how much memory there is."""
        self._memory.close()
        self._memory = memory
        memory.open()
        self.resident = memory.resident()
        self._least = self._empty = self.resident or 0

    @enable_ki_protection
    async def run(self) -> None:
        """Look, until it is stopped."""
        self.ask(self._memory)
        limit = self._policy.memory_limit
        if self.resident is None and limit not in (None, attrs.fields(Policy).memory_limit.default):
            logger.warning("the memory limit is not held: this system does not tell what a process has")
        try:
            with self._scope:
                while True:
                    self._begun = trio.Event()
                    if not self._watch.looking:
                        await self._begun.wait()
                    self._begun = None
                    await self._look_while_busy()
        finally:
            self._begun = None
            self._memory.close()

    async def _look_while_busy(self) -> None:
        """Look until nothing has happened since the look before."""
        while True:
            busy = self._watch.looking
            pause = self._look()
            if not busy:
                return
            due, ends = trio.current_time() + pause, perf_counter() + pause
            await trio.sleep_until(due)
            # By both clocks: a clock of tests that jumps keeps nobody waiting.
            late = max(0.0, min(trio.current_time() - due, perf_counter() - ends))
            self._metrics.loop_lag.note(late)
            self.pressure.see_lag(late)

    # Looking.

    def _look(self) -> float:
        """Look at everything, and do what is to be done; returns seconds until the next look."""
        now = trio.current_time()
        if now >= self._slow_at:
            self._slow_at = now + _LOOK
            self.pressure.may_have(self._memory.total())
            self._see_stall(now)
        self._see_memory()
        if now >= self._press_at if self.pressure.over else self._has_slept and self._is_grown:
            self._give_back()
        trigger = self.pressure.trigger
        self._let_in()
        if trigger and now >= self._press_at:
            self._press_at = -math.inf if self.pressure.over else now + _LOOK
            self._tell_of_pressure(trigger)
            self._sweeper.press(trigger, self._is_relieved, self._cannot)
        if self.resident is None or self.pressure.limit is None:
            return _LOOK
        return min(max((self.pressure.limit - self.resident) / _GROWTH, _SOON), _LOOK)

    def _see_stall(self, now: float) -> None:
        """Look whether something waits for memory, which counts if it still does."""
        stall, before = self._memory.stall(), self._stall
        self._stall = None if stall is None else (now, stall.total)
        if stall is None or before is None or now <= before[0]:
            self.pressure.see_stall(None)
        else:
            # The kernel's figure falls slowly: by itself it would have rooms sleep long after.
            self.pressure.see_stall(min(stall.share, (stall.total - before[1]) / (now - before[0])))

    def _see_memory(self) -> None:
        """Look how much memory the process has, and what of it a room takes."""
        before, resident = self.resident, self._memory.resident()
        self.resident = resident
        self.pressure.see_memory(resident)
        if resident is None:
            return
        self._empty, self._least = min(self._empty, resident), min(self._least, resident)
        woken = self._counts()[0]
        new, self._woken = woken - self._woken, woken
        self._each *= _FADES
        awake = self._waking.awake
        if awake:
            self._each = max(self._each, (resident - self._empty) / awake)
        if new and before is not None:
            self._each = max(self._each, (resident - before) / new)

    def _let_in(self) -> None:
        """Say how many rooms may wake at the same time."""
        most = self._policy.max_waking
        if self.pressure.limit is not None and self.resident is not None and self._each:
            left = (self.pressure.limit - self.resident) / (_LOADING * self._each)
            most = max(min(most, int(left)), 1)
        self._waking.most = most
        self._sweeper.pressed = bool(self.pressure.trigger)

    # What helps.

    def _is_relieved(self) -> bool:
        """Whether it is enough that some rooms have gone to sleep. Those of late do not stop it at once."""
        if self._scope.cancel_called:
            return True  # All rooms are going to sleep, and wake for nobody's place any more.
        if self.pressure.limit is not None:
            self._give_back()
        self._let_in()
        return not self.pressure.over

    @property
    def _has_slept(self) -> bool:
        """Whether a room has since memory was given back."""
        return self._slept != self._counts()[1]

    @property
    def _is_grown(self) -> bool:
        """Whether there may be much to be given back."""
        return (self.resident or 0) > self._least + max(_WORTH, self._least // 8)

    def _give_back(self) -> None:
        """Give what was freed back to the system, unless that would be most of what the process does."""
        began = perf_counter()
        if began < self._give_back_at:
            self._see_memory()
            return
        self._memory.give_back()
        ended = perf_counter()
        self._give_back_at = ended + _REST * (ended - began)
        self._slept = self._counts()[1]
        self._see_memory()
        self._least = self.resident or 0

    def _cannot(self) -> None:
        """No room can be sent to sleep: see whether something else helps, and say so if nothing does."""
        if self._scope.cancel_called:
            return
        self._press_at = trio.current_time() + _LOOK
        began = perf_counter()
        if self.pressure.over and began >= self._collect_at:
            gc.collect()  # What the program made; rooms that sleep leave nothing to be found.
            ended = perf_counter()
            self._collect_at = ended + max(_SILENCE, _REST * (ended - began))
            self._give_back_at = -math.inf
        if self._is_relieved() and not self.pressure.trigger:
            return
        if self._may_tell("stuck"):
            logger.warning("%s, and no room can be put to sleep now: %s", self._what(), self._obstacles())

    # What is told of it.

    def _tell_of_pressure(self, trigger: str) -> None:
        if self._may_tell(trigger):
            logger.info("%s: rooms are put to sleep", self._what())

    def _may_tell(self, what: str) -> bool:
        """Whether something was not told of lately."""
        now = trio.current_time()
        if now < self._told.get(what, -math.inf) + _SILENCE:
            return False
        self._told[what] = now
        return True

    def _what(self) -> str:
        """What is too much, in words."""
        pressure = self.pressure
        if pressure.over and pressure.limit is not None and self.resident is not None:
            used, limit = self.resident / _MB, pressure.limit / _MB
            return f"memory: {used:.0f} MB are in use, with a limit of {limit:.0f} MB"
        if pressure.trigger == "memory":
            return "memory: too often something has to wait for it"
        return f"the event loop is late again and again, by more than {self._policy.max_lag:g} s"

    def _obstacles(self) -> str:
        """Why rooms do not sleep, in words."""
        found: Counter[str] = Counter()
        for actor in islice(self._actors.values(), _MOST_ASKED):
            found[actor.idleness.obstacle or "about to sleep"] += 1
        if not found:
            return "none is awake, it is the rest of the program"
        return ", ".join(f"{reason} ({count})" for reason, count in found.most_common())
