"""One room as the program around it and other rooms see it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
import trio

from trio_rooms._arguments import number, text
from trio_rooms._definition.definition import Definition
from trio_rooms._keys import make_key
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._sockets.fanout import PlainMessage
from trio_rooms._sockets.manner import Manner
from trio_rooms._sockets.sent import Sent
from trio_rooms._state.gate import Gate
from trio_rooms._state.plans import Change, Plan
from trio_rooms._state.record import Record
from trio_rooms._state.saved import Saved
from trio_rooms._state.timers import Missed
from trio_rooms._users.directory import Directory
from trio_rooms._users.message import check_user
from trio_rooms._values.cbor import as_sent
from trio_rooms._wire import envelope
from trio_rooms._wire.envelope import Body
from trio_rooms.errors import AskTimeout, RoomsError, UnknownRoom
from trio_rooms.stores.base import Store

from .answers import Answer, own
from .behind import Behind
from .mail import Ask, Destroy, Hibernate
from .placement import Placement, RoomInfo
from .reasons import WhyAwake
from .reliably import is_reliable, manner_of
from .schedules import Schedule, Unwanted, wanted
from .signs import Signs
from .users import User

__all__ = ["Handles", "Program", "RoomHandle"]


@attrs.frozen(repr=False)  # That of its parts would show the states that a store in memory has.
class RoomHandle:
    """One room as the program around it and other rooms see it, at whichever node it is.

    Getting a handle neither makes nor wakes the room. What one caller sends to a room with the methods of
    this arrives in order. What goes to a room of another node, or is answered from there, has at most 4 MiB;
    where that node is lost meanwhile, or cannot be reached, those that wait raise `Unavailable`, and what
    nobody waits for may be lost. A circle of rooms that ask each other over several nodes is not seen, so
    that it ends with `AskTimeout`.
    """

    key: str
    _definition: Definition
    _placement: Placement
    _store: Store
    _deadlines: Deadlines
    _directory: Directory
    _sender: Record | None = None
    """Of the room whose handler has this, if what that does waits until it is durable."""

    def __repr__(self) -> str:
        return f"<RoomHandle {self.key}>"

    async def users(self) -> tuple[str, ...]:
        """Who is here, by name, see `LiveRoom.users`; wakes nobody. A checkpoint.

        Raises:
            StoreError: it cannot be read who is away.
        """
        return await self._placement.people(self.key)

    def user(self, name: str) -> User:
        """A user as far as she is in this room: what is sent to her reaches her connections here alone.

        Raises:
            TypeError: the room is plain, and its connections get no events.
            TypeError, ValueError: no user can have this name.
        """
        if self._definition.plain:
            self._definition.refuse_events()
        return User(check_user(name), self._directory, self.key, self._sender)

    async def ask(
        self,
        event: str,
        data: Any = None,
        *,
        timeout: float = 30.0,  # noqa: ASYNC109 (a default that one can do without)
    ) -> Any:
        """Have the room handle an event, waking it if need be, and return what its handler returned.

        A caller that is cancelled, or whose time is over, stops waiting; what was asked is handled
        all the same.

        Args:
            event: the name of the event.
            data: what a client could send, or classes and other things that become that.
            timeout: seconds to wait for the answer; ``math.inf`` for as long as it takes.

        Returns:
            A copy of the handler's result as a client would get it: classes come as dicts,
            tuples and sets as lists, dates as strings.

        Raises:
            TypeError, ValueError: the event is no string, the data has no form in CBOR, or ``timeout``
                is no number of seconds; the room heard nothing of it.
            AskCircle: a handler asks, and the room waits for what this handler does; at once.
            AskTimeout: there was no answer in time.
            EventError: refused, by the handler or because there is none or the data does not fit.
            HandlerFailed: the handler raised.
            NotSaved: what the handler did could not be made durable, and is undone.
            RoomFailed: the room cannot be loaded, or crashed too often.
            RoomsClosed: the runtime is stopping.
            Unavailable: the node that has the room cannot be reached, or was lost while it was asked. Whether
                it was handled is not known then.
        """
        if self._definition.plain:
            msg = f"room {self._definition.name} is plain: it has no events that one could ask"
            raise TypeError(msg)
        text("event", event)
        number("timeout", timeout)
        answer = Answer()
        mail = Ask(event, as_sent(data), answer)
        late = partial(self._late, answer, event, timeout)
        # A cancel scope would do as well, but Trio keeps some hundred of those whose time is not over yet.
        deadline = self._deadlines.set(trio.current_time() + timeout, late)
        try:
            with self._placement.waiting(self.key, answer):
                self._placement.deliver(self.key, mail)
                return await answer.wait()
        finally:
            self._deadlines.cancel(deadline)

    def _late(self, answer: Answer, event: str, timeout: float) -> None:
        """There was no answer in time; one that comes later finds this."""
        answer.fail(AskTimeout(self.key, event, timeout))

    def emit(
        self,
        event: str,
        data: Any = None,
        *,
        channel: str | None = None,
        reliable: bool | None = None,
        volatile: bool = False,
        coalesce: str | None = None,
    ) -> Sent:
        """Send an event to all connections of the room, or to those in a channel; wakes nobody.

        Args:
            event: its name.
            data: what it says.
            channel: to whom; None for all.
            reliable: as `LiveRoom.emit`. It goes out when it is durable, unless the room is awake and has
                ``durability="snapshot"``; where it cannot be written that is logged. `emit_durably` waits.
            volatile: as `LiveRoom.emit`.
            coalesce: as `LiveRoom.emit`; the name alone counts here, and what handlers send does not.

        Returns:
            What becomes of it, a count of connections each. `Sent.stored` is 1 where it is kept for a session
            that is away, if that is known without reading the store. Of a room of another node nothing of
            this is known yet, and `Sent.outbox` is 1; `emit_counted` asks. So much may be on its way to such
            rooms that it is dropped.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the data cannot be encoded.
        """
        manner = self._manner(channel, reliable, volatile=volatile, coalesce=coalesce)
        if self._lasts(reliable, volatile=volatile, coalesce=coalesce):
            body = Body.of(event, data)
            return self._placement.emit_reliably(self.key, body, channel, manner, None, None)
        return self._placement.emit(self.key, envelope.event(event, data), channel, manner)

    async def emit_counted(
        self,
        event: str,
        data: Any = None,
        *,
        channel: str | None = None,
        reliable: bool | None = None,
        volatile: bool = False,
        coalesce: str | None = None,
    ) -> Sent:
        """The same, and hear what becomes of it also where the room is at another node. A checkpoint.

        It is waited for that for a quarter of a second. A node that has not answered by then counts as
        `Sent.stored`. A cancelled caller stops waiting; it is sent all the same.

        Returns:
            What becomes of it, as of `emit`. `Sent.outbox` is 1 only in a handler whose effects wait until
            they are durable, and for what is sent reliably to a room of another node: see `emit_durably`.

        Raises:
            TypeError, ValueError: as `emit`.
        """
        if self._lasts(reliable, volatile=volatile, coalesce=coalesce):
            sent = self.emit(event, data, channel=channel, reliable=reliable)
            await trio.lowlevel.checkpoint()
            return sent
        manner = self._manner(channel, reliable, volatile=volatile, coalesce=coalesce)
        return await self._placement.emit_counted(self.key, envelope.event(event, data), channel, manner)

    def _lasts(self, reliable: bool | None, *, volatile: bool, coalesce: str | None) -> bool:
        """Whether what is sent so is sent reliably.

        Raises:
            ValueError: it is to be, and the room has no sessions.
        """
        return not volatile and coalesce is None and is_reliable(self._definition, reliable)

    def _manner(
        self,
        channel: str | None,
        reliable: bool | None,
        *,
        volatile: bool = False,
        coalesce: str | None = None,
    ) -> Manner | None:
        """How something is sent to many.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        if self._definition.plain:
            self._definition.refuse_events()
        if channel is not None:
            text("channel", channel)
        window = self._definition.batch_window
        return manner_of(window, reliable, volatile=volatile, coalesce=coalesce)

    async def emit_durably(self, event: str, data: Any = None, *, channel: str | None = None) -> Sent:
        """Send an event reliably, as `emit` does, and return when it is durable.

        In a handler whose effects wait until they are durable this one does not, as with `ask`: it is
        not undone where what the handler did could not be saved.

        A cancelled caller stops waiting; it is sent all the same.

        Returns:
            What became of it, as of `emit`; whether it is kept for a session that is away is known here.

        Raises:
            TypeError, ValueError: as `emit`.
            NotSaved: it could not be written, and nobody got it, unless the room was awake with
                ``durability="snapshot"``.
            RoomsClosed: the rooms have closed, or have before that was known.
            AskCircle: as `ask`, where the room's effects wait until they are durable: its handler has to
                end first. A handler emits in its own room with ``ctx.room.emit``.
        """
        manner = self._manner(channel, reliable=True)
        is_reliable(self._definition, reliable=True)
        answer = Answer()

        def refused(error: RoomsError) -> None:
            answer.fail(own(error))

        body = Body.of(event, data)
        with self._placement.awaiting(self.key, answer):
            self._placement.emit_reliably(self.key, body, channel, manner, answer.succeed, refused)
            sent: Sent = await answer.wait()
            return sent

    def send(self, message: str | bytes, *, channel: str | None = None) -> Sent:
        """Send a message as it is to all connections of a plain room, or of a channel; wakes nobody.

        Returns:
            What becomes of it, as of `emit`.
        """
        if not self._definition.plain:
            self._definition.refuse_messages()
        if channel is not None:
            text("channel", channel)
        window = self._definition.batch_window
        manner = manner_of(window)
        return self._placement.emit(self.key, PlainMessage(message), channel, manner)

    def info(self) -> RoomInfo:
        """The room as it is now; wakes nobody.

        Of one that another node has this tells only that, in `RoomInfo.node`; `find_info` asks there.
        """
        return self._placement.info(self.key)

    async def find_info(self) -> RoomInfo:
        """The same, wherever the room is. A checkpoint; a cancelled caller stops waiting.

        Raises:
            Unavailable: the node that it is at does not answer.
        """
        return await self._placement.find_info(self.key)

    def why_awake(self) -> WhyAwake:
        """What keeps the room awake now, for how long, and what will let it sleep when; wakes nobody.

        Of a room that sleeps, or is given up for a while, there are no reasons. Of one that another node has
        this tells only that, in `WhyAwake.node`; `find_why_awake` asks there.
        """
        return self._placement.why_awake(self.key)

    async def find_why_awake(self) -> WhyAwake:
        """The same, wherever the room is. A checkpoint; a cancelled caller stops waiting.

        Raises:
            Unavailable: the node that it is at does not answer.
        """
        return await self._placement.find_why_awake(self.key)

    async def peek(self) -> Any:
        """The room's state as its newest snapshot has it, a copy; None for a room that was never saved.

        Of an awake room this may be ``snapshot_interval`` behind. Wakes nobody. A checkpoint; a cancel
        changes nothing.

        Raises:
            StoreError: it cannot be read.
            SnapshotError: no snapshot of the room can be used.
        """
        stored = await self._store.load(self.key)
        loaded = await Saved(self.key, self._definition).newest(
            stored.snapshots, self._store.epoch_of(self.key)
        )
        return None if loaded is None else loaded.state

    def schedule(
        self,
        name: str,
        data: Any = None,
        *,
        at: datetime.datetime | float | None = None,
        after: float | None = None,
        every: float | None = None,
        cron: str | None = None,
        tz: str | None = None,
        missed: Missed = "once",
    ) -> None:
        """Have a handler of the room called later, as `LiveRoom.schedule` does; wakes nobody now.

        It becomes durable soon. Where that fails it is logged; `schedule_durably` tells.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the name has no handler.
        """
        one = wanted(self._definition, name, data, at, after, every, cron, tz, missed)
        self._placement.reschedule(self.key, Plan(one))

    async def schedule_durably(
        self,
        name: str,
        data: Any = None,
        *,
        at: datetime.datetime | float | None = None,
        after: float | None = None,
        every: float | None = None,
        cron: str | None = None,
        tz: str | None = None,
        missed: Missed = "once",
    ) -> float:
        """The same, and wait until it is durable. A cancelled caller stops waiting, and no more.

        Returns:
            When it is due, in seconds since 1970.

        Raises:
            TypeError, ValueError: an argument is not what it should be, or the name has no handler.
            ScheduleError: the room has scheduled too much.
            NotSaved: it could not be written.
            StoreError: what the room has scheduled cannot be read.
            RoomsClosed: the runtime is stopping.
            AskCircle: as `ask`; a handler schedules in its own room with ``ctx.room.schedule``.
        """
        one = wanted(self._definition, name, data, at, after, every, cron, tz, missed)
        return float(await self._plan(one))

    def cancel(self, name: str) -> None:
        """Let go of what is scheduled under a name; wakes nobody. It becomes durable soon.

        Raises:
            TypeError, ValueError: nothing can have this name.
        """
        text("the name of a schedule", name)
        self._placement.reschedule(self.key, Plan(Unwanted(name)))

    async def cancel_durably(self, name: str) -> bool:
        """The same, and wait until it is durable, as `schedule_durably` does; whether there was something.

        Raises:
            TypeError, ValueError: nothing can have this name.
            NotSaved, StoreError, RoomsClosed: as `schedule_durably`.
        """
        text("the name of a schedule", name)
        return bool(await self._plan(Unwanted(name)))

    async def _plan(self, change: Change) -> Any:
        """Change what is scheduled, and wait until that is durable."""
        answer = Answer()
        plan = Plan(change, answer.succeed, answer.fail)
        with self._placement.waiting(self.key, answer):
            self._placement.reschedule(self.key, plan, held=False)
            return await answer.wait()

    async def schedules(self) -> Mapping[str, Schedule]:
        """All that the room has scheduled, by name, a copy; wakes nobody. A checkpoint.

        Raises:
            StoreError: it cannot be read.
        """
        return await self._placement.schedules(self.key)

    async def hibernate(self) -> bool:
        """Put the room to sleep now, if nothing is to be done in it. A cancelled caller only stops waiting.

        Returns:
            Whether it sleeps; not so if mail came, something holds it awake, or it could not be saved.

        Raises:
            AskCircle: as `ask`.
        """
        answer = Answer()
        with self._placement.waiting(self.key, answer):
            self._placement.deliver_soon(self.key, Hibernate(answer))
            return bool(await answer.wait())

    async def destroy(self) -> None:
        """Delete everything of the room and close its connections with 1000.

        A cancelled caller stops waiting; the room is deleted all the same.

        Raises:
            StoreError: it could not be deleted; the room goes on.
            RoomFailed: it cannot be loaded, so that its on_destroy could not be called.
            AskCircle: as `ask`; a handler destroys its own room with ``ctx.room.destroy()``.
        """
        answer = Answer()
        with self._placement.waiting(self.key, answer):
            self._placement.deliver(self.key, Destroy(answer))
            await answer.wait()


@attrs.frozen(repr=False)
class Handles:
    """The rooms that are open, by name and id: what ``ctx.rooms`` is."""

    _definitions: Mapping[str, Definition]
    _placement: Placement
    _store: Store
    _deadlines: Deadlines
    _directory: Directory
    _sender: Record | None = None
    """Of the room whose handler has these, if what that does waits until it is durable."""

    def get(self, name: str, id: str) -> RoomHandle:  # noqa: A002 (what rooms call it)
        """A handle on one room.

        Raises:
            UnknownRoom: no room of that name is served here, or the id is not allowed.
        """
        definition, key = self._find(name, id)
        return RoomHandle(
            key, definition, self._placement, self._store, self._deadlines, self._directory, self._sender
        )

    def user(self, name: str) -> User:
        """A user, wherever she is.

        Raises:
            TypeError, ValueError: no user can have this name.
        """
        return User(check_user(name), self._directory, "", self._sender)

    def behind(self, gate: Gate, sender: Record) -> Handles:
        """The same as a handler gets them whose output waits: so does what it sends through them.

        Args:
            gate: where it waits.
            sender: the record of its room.
        """
        return attrs.evolve(self, placement=Behind(self._placement, gate), sender=sender)

    def _find(self, name: str, id_: str) -> tuple[Definition, str]:
        """The definition of a room that is served here, and its key.

        Raises:
            UnknownRoom: as `get`.
        """
        definition = self._definitions.get(name)
        if definition is None:
            served = ", ".join(sorted(self._definitions))
            msg = f"no room named {name!r} is served here, only: {served}"
            raise UnknownRoom(msg)
        return definition, make_key(name, id_)


@attrs.frozen
class Program:
    """What is around all rooms of a runtime, for them and their handlers."""

    app: Any
    """What ``open_rooms`` was given for them."""
    rooms: Handles
    signs: Signs
    """Told of what keeps them from sleeping."""
