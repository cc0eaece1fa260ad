"""The state of an awake room, and when it is loaded and saved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import trio
from trio.lowlevel import enable_ki_protection

from trio_rooms._definition.definition import Definition
from trio_rooms._loop.deadlines import Deadline, Deadlines
from trio_rooms._state.record import Record
from trio_rooms._state.saved import Loaded
from trio_rooms.errors import NotSaved, RoomsError, StaleWrite, StateError, StoreError

from .background import Background
from .idleness import Idleness
from .mail import SaveFailed
from .mailbox import Mailbox
from .shared import Shared

__all__ = ["NotBegun", "Saver"]

logger = logging.getLogger("trio_rooms")

_LOAD_TRIES: Final = 5
_LOAD_LONGEST: Final = 5.0
"""Seconds of a load after which it is not tried again where other nodes can have the room: a store that
cannot be reached may take as long to say so, and whoever waits is to try again elsewhere."""
_RETRY_FIRST: Final = 0.1
_RETRY_LAST: Final = 30.0
"""Seconds between two tries to load or save, doubled each time from the first to the last."""
_ENCODING_SHARE: Final = 10
"""How many times as long as encoding a state takes it is left alone afterwards."""
_WATCH: Final = 0.1
"""Seconds between two looks at a state that tasks may change unseen, however short the snapshot interval."""


class NotBegun(NotSaved):
    """A durable handler has not begun, since what was changed before it could not be saved."""


class Saver:
    """Keeps the promise that a change is in the store within the snapshot interval.

    In a room with a gate it has the state, and the gate decides when it is written.

    Args:
        shared: the room.
        mailbox: where the failure of a save is reported; its reader saves large states.
        idleness: is told how long not to sleep after a failure.
        background: the tasks that may change the state at any moment, and the way to crash the room.
        deadlines: where the next save is noted.
        spawn: starts a task that belongs to the runtime, and so outlives the room.
    """

    __slots__ = (
        "_active",
        "_background",
        "_deadline",
        "_deadlines",
        "_definition",
        "_failures",
        "_idleness",
        "_mailbox",
        "_resting_until",
        "_shared",
        "_spawn",
        "_watch",
        "failing_since",
        "hopeless",
        "record",
        "requested",
        "state",
    )

    def __init__(
        self,
        shared: Shared,
        mailbox: Mailbox,
        idleness: Idleness,
        background: Background,
        deadlines: Deadlines,
        spawn: Callable[..., None],
    ) -> None:
        self.state: Any
        """What there is to save; missing while there is none, so that a context finds out at no cost."""
        self.record: Record = shared.record
        self.requested: bool = False
        """Whether the actor is to call `look` between two messages: for a large state, or a gate."""
        self._shared = shared
        self._definition: Definition = shared.definition
        self._mailbox = mailbox
        self._idleness = idleness
        self._background = background
        self._deadlines = deadlines
        self._deadline: Deadline | None = None
        """When what is known to have changed is saved."""
        self._watch: Deadline | None = None
        """When it is looked whether something has changed that nobody tells of."""
        self._resting_until = 0.0
        """Until when the state is not encoded again."""
        self._active = False
        """Whether it saves by itself: neither half of what on_create does, nor after the end."""
        self._spawn = spawn
        self._failures = 0
        self.failing_since: float = 0.0
        """When the first of the last saves in a row failed, on Trio's clock."""
        self.hopeless: str = ""
        """Why the last save failed, where to try it again is in vain: the state itself cannot be saved."""

    async def load(self) -> Loaded | None:
        """Take the state from the store, or None for a room that never was, which then has a new state.

        From here on the record reports what there is to save.

        Raises:
            SnapshotError, StoreError: it cannot be loaded, now or after several tries.
        """
        record = self.record
        record.wanted, record.source = self._wanted, self
        if record.gate is not None and self._definition.gated:
            record.gate.living, record.gate.paused = self, True
        tries, began = 1, trio.current_time()
        while True:
            try:
                loaded = await record.load()
            except StoreError as error:
                if tries == _LOAD_TRIES or (record.shared and trio.current_time() - began >= _LOAD_LONGEST):
                    raise
                logger.warning("room %s cannot be loaded and is tried again: %s", self._key, error)
                await trio.sleep(_RETRY_FIRST * 2 ** (tries - 1))
                tries += 1
            else:
                self.state = self._definition.new_state() if loaded is None else loaded.state
                return loaded

    async def save(self, *, quiescent: bool = True) -> bool:
        """Make the state durable, if it changed; a failure is told, and tried again later.

        Args:
            quiescent: whether this is the actor's own task, so that no handler runs meanwhile.

        Returns:
            Whether what there was at the call is in the store.

        Raises:
            StaleWrite: somebody else wrote the room, and what this one has is worth nothing.
        """
        record = self.record
        try:
            # Behind a save that found the state to be large, one in the background must not use a thread.
            await record.save(self.give_state, in_thread=quiescent and not self._background.tasks)
        except StaleWrite:
            raise
        except RoomsError as error:
            self._failed(error)
            self._idleness.committed()
            return False
        self._idleness.committed()
        if self._failures:
            logger.info("room %s: its state is saved again", self._key)
            self._failures = 0
            self.hopeless = ""
        self._resting_until = trio.current_time() + _ENCODING_SHARE * record.encoding_took
        if record.large:
            self._shared.program.signs.saved(self._key, record.size, self.state)
        if record.changed:
            self._arm(self._definition.snapshot_interval / 2)
        if self._suspended and self._watch is None and self._active:
            self._watch_on()
        return True

    def _watch_on(self) -> None:
        """Look once more, later, at what tasks may change unseen."""
        when = trio.current_time() + max(self._definition.snapshot_interval / 2, _WATCH)
        self._watch = self._deadlines.set(max(when, self._resting_until), self._look)

    @property
    def unsaved(self) -> bool:
        """Whether something is not in the store, as far as is told, or tasks may have changed it untold."""
        return (self.record.changed or self.restless) and self.record.unsaved(self.state)

    # Where there is a gate: what it asks of the room, and the room of it.

    @property
    def restless(self) -> bool:
        """Whether tasks may change the state without a word."""
        return self._background.tasks > 0

    @property
    def between(self) -> bool:
        """Whether the room is between two messages."""
        return self._active and self._mailbox.current is None

    @property
    def in_background(self) -> bool:
        """Whether the task that runs now is one of the room's background tasks."""
        return self._background.has_current_task

    def look_soon(self) -> None:
        """Have the actor call `look`."""
        self.requested = True
        self._mailbox.poke()

    def committed(self) -> None:
        """What was in flight at the gate is durable."""
        self._idleness.committed()

    def roll_back(self) -> None:
        """End everything that runs in the room."""
        self.requested = True
        self._background.cancel()

    def crash(self, error: BaseException) -> None:
        """Crash the room."""
        self.requested = True
        self._background.fail(error)

    async def look(self) -> None:
        """Between two messages: save a large state, or cut what waits at the gate."""
        self.requested = False
        gate = self.record.gate
        if gate is not None:
            await gate.look()
            if self.restless and self._watch is None and self._active:
                self._watch_on()
        else:
            await self.save()

    async def hold(self) -> None:
        """A durable handler begins: what is done from here on waits until what it changes is durable.

        Raises:
            NotBegun: what was changed before cannot be made durable.
        """
        gate = self.record.gate
        if gate is None:
            # Else a failure would take back what others have seen already.
            try:
                await self._save_now()
            except NotSaved as error:
                raise NotBegun(error.key, error.why) from error.__cause__
            gate = self.record.hold(self._shared.let_go)
            gate.living, gate.paused = self, False
            self._shared.hold(gate)
        gate.open.durable = True

    async def commit_now(self) -> None:
        """See `Context.commit`.

        Raises:
            NotSaved, RuntimeError: as there.
        """
        gate = self.record.gate
        if gate is not None and (self._definition.gated or gate.open.durable):
            msg = (
                f"room {self._key}: ctx.commit() would make half a message durable; here all that a handler "
                "changes becomes durable when it returns, and nothing that it sends is seen before"
            )
            raise RuntimeError(msg)
        await self._save_now()

    async def _save_now(self) -> None:
        """Save in the middle of a handler.

        Raises:
            NotSaved: it is not known to be saved.
        """
        try:
            await self.record.save(self.give_state, in_thread=False)
        except RoomsError as error:
            if isinstance(error, StaleWrite):
                self._background.fail(error)
            raise NotSaved(self._key, str(error)) from error

    @property
    def _suspended(self) -> bool:
        """Whether something may change the state unseen, when it goes on."""
        return self._mailbox.current is not None or self._background.tasks > 0

    def begin(self) -> None:
        """The room is awake from now on: save what its hooks have changed, and what changes later."""
        self._active = True
        gate = self.record.gate
        if gate is not None:
            gate.paused = False
            gate.request()
        elif self.record.changed or self.record.substantial:
            self._wanted(at_once=False)

    def reset(self) -> None:
        """Let go of a state that is in doubt, after a crash: it and what was to be saved of it."""
        self.close()
        if self.record.gate is None:
            self.record.discard()  # Else the gate has gone back already.
        self._forget_state()
        self.requested = False

    def abandon(self) -> None:
        """Save nothing more of a state that is in doubt, not even what waits for its turn in the store."""
        self.close()
        gate = self.record.gate
        if gate is not None:
            gate.abandon()
        else:
            self.record.discard()
        self._forget_state()

    def close(self) -> None:
        """Save nothing more by itself; the state is kept."""
        self._active = False
        if self._deadline is not None:
            self._deadlines.cancel(self._deadline)
            self._deadline = None
        if self._watch is not None:
            self._deadlines.cancel(self._watch)
            self._watch = None

    def dispose(self) -> None:
        """Let go of the state, and of what tasks wrote to the storage too late to be saved."""
        self.close()
        record = self.record
        if record.wanted is not None or record.forsaken is not None:  # Else it has let go already.
            record.sleep()
        self._forget_state()

    def _forget_state(self) -> None:
        """There is no state from here on."""
        if self.has_state:
            del self.state

    def take_state(self) -> Any:
        """The state as it is now, and there is none from here on."""
        state = self.state
        del self.state
        return state

    @property
    def has_state(self) -> bool:
        """Whether there is a state, which is not in doubt."""
        return hasattr(self, "state")

    @property
    def state_now(self) -> Any:
        """The state, whatever becomes of it; None where there is none."""
        return getattr(self, "state", None)

    @property
    def _key(self) -> str:
        """The room's key."""
        return self.record.key

    def give_state(self) -> Any:
        """The state as it is now."""
        return self.state

    def _failed(self, error: RoomsError) -> None:
        """Note that a save failed: stay awake for a while, tell on_error, try again."""
        if not self._active:
            return  # It has ended meanwhile, and nobody is left who would try again.
        self._failures += 1
        self.hopeless = str(error) if isinstance(error, StateError) else ""
        delay = min(_RETRY_FIRST * 2**self._failures, _RETRY_LAST)
        if self._failures == 1:
            self.failing_since = trio.current_time()
            logger.error("room %s stays awake, its state could not be saved: %s", self._key, error)
        if self._definition.on_error is not None and not self._idleness.stopping:
            self._mailbox.post(SaveFailed(error))
        self._idleness.not_before = trio.current_time() + delay
        self._arm(delay)

    # The deadline.

    def _wanted(self, at_once: bool) -> None:
        """There is something to save, or so much that it should not wait."""
        # Half the interval, so that the commit is done when all of it is over.
        self._arm(self._definition.snapshot_interval / 2)
        if at_once and self._active:
            self._spawn(self._save_in_background)  # A large state it leaves to the actor, in time.

    def _arm(self, delay: float) -> None:
        """Save so many seconds from now, unless a save is due before."""
        if self._deadline is None and self._active:
            when = max(trio.current_time() + delay, self._resting_until)
            self._deadline = self._deadlines.set(when, self._is_due)

    def go_on(self) -> None:
        """Nothing stands still any more: save what is known to have changed, and look whether more has."""
        if self.record.dirty or self.record.substantial:
            self._wanted(at_once=False)
        if self.restless and self._watch is None and self._active:
            self._watch_on()

    def _is_due(self) -> None:
        """Save what is known to have changed."""
        self._deadline = None
        if self._shared.hub.standstill.on:
            return  # See `go_on`.
        if self.record.dirty or self.record.substantial:
            self._save_soon()

    def _look(self) -> None:
        """Save what may have changed unseen; what has not is not written."""
        self._watch = None
        if self._suspended and not self._shared.hub.standstill.on:
            self.record.dirty = True
            self._save_soon()

    def _save_soon(self) -> None:
        """Save now: here, or in the actor where the state is large, or there is a gate."""
        if self.record.large or self.record.gate is not None:
            # Encoded in a thread while the actor waits, since a state must not change under it.
            self.requested = True
            self._mailbox.poke()
        else:
            self._spawn(self._save_in_background)

    @enable_ki_protection
    async def _save_in_background(self) -> None:
        """Save between two steps of the event loop, whatever a handler waits for."""
        try:
            if self.record.gate is not None:
                self.look_soon()  # It may have half a handler, that is durable as a whole or not at all.
            elif self._active and not self.record.large:
                await self.save(quiescent=False)
        except BaseException as error:  # noqa: BLE001 (whatever a store or a state raises crashes this room alone)
            self._background.fail(error)
