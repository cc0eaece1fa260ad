"""The tasks of open rooms, and their end: in order, and in time whatever hangs."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Final, Protocol, Self

import trio
from trio.lowlevel import enable_ki_protection, spawn_system_task

from trio_rooms._keys import split_key
from trio_rooms._loop.deadlines import Deadlines
from trio_rooms._loop.groups import first_error
from trio_rooms._sockets.hub import SocketHub
from trio_rooms._users.presence import Presences
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.stores.base import Store

from .due import Agenda
from .janitor import Janitor
from .registrar import Registrar
from .supervisor import Supervisor

__all__ = ["Node", "Runtime"]

logger = logging.getLogger("trio_rooms")

_LEAST: Final = 1.0
"""Seconds of the second and third phase at least: a store needs some even where clients get none."""


class Node(Protocol):
    """What makes a runtime one of several that keep their rooms together."""

    async def open(self) -> None:
        """Become one of them, before the store is opened. Cancelled or with an error, it is none."""

    async def run(self) -> None:
        """Do what is to be done beside the rooms, until cancelled."""

    async def aclose(self) -> None:
        """Be one no more, after the store is closed; nothing where it is none."""


class Runtime:
    """All that runs while rooms are open: a block of `open_rooms` is one of these.

    Its tasks hang below no task of the program. So the block can end although one of them does not:
    a handler may shield itself, or wait for a thread that never returns. Such a task is cancelled,
    named in the log, and left behind; Trio does not end its run before it.

    In the same way nothing of the program's reaches into these tasks. A cancellation from around
    reaches the block, and so does Ctrl-C. Then the rooms stop in order, as at the end of the block.

    The stop has three phases, each with a time of its own. It awaits nothing but events, which the
    others' code sets, or time does:

    1. Rooms come to rest; the clients of each are told as soon as it does. At most ``stop_timeout``.
    2. Rooms that did not are cancelled and saved as they are; clients answer. At most ``close_timeout``.
    3. The tasks end, and the store is closed. At most ``close_timeout`` again.

    Args:
        deadlines: those of all that is here.
        hub: the sockets.
        supervisor: the rooms.
        store: where they are kept; it is opened and closed here.
        stop_timeout: seconds for the rooms to come to rest.
        close_timeout: seconds for what follows, twice; less than one counts as one.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        hub: SocketHub,
        supervisor: Supervisor,
        store: Store,
        stop_timeout: float,
        close_timeout: float,
    ) -> None:
        self.deadlines: Deadlines = deadlines
        self.hub: SocketHub = hub
        self.supervisor: Supervisor = supervisor
        self.store: Store = store
        self.registrar: Registrar = Registrar(
            supervisor.definitions, hub, supervisor.record, supervisor.session_ended, self.spawn, deadlines
        )
        hub.sessions = self.registrar
        hub.users = supervisor.users
        hub.activity.on_hibernated = supervisor.hibernated
        hub.activity.policy = lambda key: supervisor.definitions[split_key(key)[0]].policy
        self.presences: Presences = Presences(
            hub, deadlines, supervisor.record, self.spawn, supervisor.users.of
        )
        hub.new_presence = self.presences.new
        self.node: Node | None = None
        """Set before it is opened, where it is one of several."""
        self.listening: set[trio.CancelScope] = set()
        """Those of the servers: they end as soon as the stop begins."""
        self.left_behind: tuple[str, ...] = ()
        """What did not end although it was cancelled, by the names of tasks."""
        self._stop_timeout = stop_timeout
        self._patience = max(close_timeout, _LEAST)
        self._nursery: trio.Nursery
        self._block = trio.CancelScope()
        self._failure: BaseException | None = None
        self._code: tuple[int, str] | None = None
        """What clients are told, from the moment that the stop begins."""
        self._started = trio.Event()
        self._asked = trio.Event()
        self._stopped = trio.Event()
        self._left = trio.Event()
        self._ended = trio.Event()
        self._store_closed = trio.Event()
        self._over = trio.Event()
        supervisor.failed = self.fail
        self.agenda: Agenda = Agenda(
            store,
            supervisor.serves,
            supervisor.is_awake,
            supervisor.deliver,
            self.registrar.expire,
            supervisor.lapse,
            self.spawn,
        )
        supervisor.noted = self.agenda.noted
        office = supervisor.users.office
        self.janitor: Janitor = Janitor(
            store, office.expire, office.settling.removed, office.settling.all_remembered
        )
        office.noted = self.janitor.noted

    # The block.

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        await self._open()
        context = contextvars.copy_context()
        spawn_system_task(self._run, name="trio_rooms", context=context)
        spawn_system_task(self._conduct, name="the end of trio_rooms", context=context.copy())
        try:
            await self._started.wait()
        except BaseException:
            await self._finish()
            raise
        self._block.__enter__()
        return self

    async def _open(self) -> None:
        """Open what must be open before anything runs: all of it, or nothing."""
        if self.node is None:
            await self.store.open()
            return
        await self.node.open()
        try:
            await self.store.open()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.node.aclose()
            raise

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Stop, and raise what went wrong: in the block, or else in the runtime.

        Raises:
            KeyboardInterrupt: Ctrl-C came during the stop, which has gone on to its end.
        """
        own = error
        try:
            if self._block.__exit__(kind, error, traceback):
                own = None  # Nothing but the cancellation by `fail`.
        except BaseException as rest:  # noqa: BLE001 (raised again below)
            own = rest
        interrupted = await self._finish()
        if interrupted and not isinstance(own, KeyboardInterrupt):
            raise KeyboardInterrupt
        failure, self._failure = self._failure, None
        if failure is not None:
            if own is None or isinstance(first_error(own), trio.Cancelled):
                raise failure from None
            logger.critical("the rooms themselves failed, too", exc_info=failure)
        if own is not None and own is not error:
            raise own from None
        return own is None

    async def _finish(self) -> bool:
        """Wait until all is over, whoever cancels that or presses Ctrl-C; returns whether somebody did."""
        self.stop(CloseCode.GOING_AWAY, "the server is going away")
        self._left.set()
        interrupted = False
        with trio.CancelScope(shield=True):
            while not self._over.is_set():
                try:
                    await self._over.wait()
                except KeyboardInterrupt:
                    interrupted = True
        return interrupted

    def fail(self, error: BaseException) -> None:
        """End the block, which then raises this: something here has failed, or a handler exits."""
        if self._failure is None:
            self._failure = error
        else:
            logger.critical("another failure at the same time", exc_info=error)
        self._block.cancel()

    # Stopping.

    @property
    def stopping(self) -> tuple[int, str] | None:
        """The code and the reason that clients are told, once the stop has begun."""
        return self._code

    def stop(self, code: int, reason: str) -> None:
        """Begin to stop; nothing where it has begun."""
        if self._code is None:
            self._code = (code, reason)
            self.registrar.stopping = self.presences.stopped = True
            self.supervisor.refuse_newcomers()
            for scope in self.listening:
                scope.cancel()
            self._asked.set()

    async def wait_stopped(self) -> None:
        """Wait until every room is saved and every connection closed, or had its time."""
        await self._stopped.wait()

    @enable_ki_protection
    async def _conduct(self) -> None:
        """Lead through the end. It awaits nothing that could hang."""
        try:
            await self._started.wait()
            await self._asked.wait()
            await self._stop()
            self._stopped.set()
            await self._left.wait()
            await self._end()
        except Exception as error:  # noqa: BLE001 (the block raises it)
            self.fail(error)
        finally:
            self._stopped.set()
            self._over.set()

    async def _stop(self) -> None:
        """Let the rooms come to rest, and close the connections."""
        assert self._code is not None
        code, reason = self._code
        hub, supervisor = self.hub, self.supervisor
        self.agenda.stop()
        self.janitor.stop()
        hub.stop_reading()
        asleep = [roster for roster in hub.rosters.values() if supervisor.actor(roster.key) is None]
        self.spawn(hub.closing.close_rooms, asleep, code, reason)

        def at_rest(key: str) -> None:
            roster = hub.rosters.get(key)
            if roster is not None and roster.count:
                self.spawn(hub.closing.close_rooms, [roster], code, reason)

        await supervisor.rest(self._stop_timeout, at_rest)
        until = trio.current_time() + self._patience
        await supervisor.kill(until)
        with trio.move_on_at(until):
            await hub.close_all(code, reason)

    async def _end(self) -> None:
        """End the tasks, and close the store."""
        until = trio.current_time() + self._patience
        self._nursery.cancel_scope.cancel()
        with trio.move_on_after(self._patience / 2):
            await self._ended.wait()
        if not self._ended.is_set():
            self.left_behind = tuple(_names(self._nursery))
            logger.critical("cancelled, and does not end: %s", ", ".join(self.left_behind))
        closing = trio.CancelScope()
        spawn_system_task(self._close_store, closing, name="the close of trio_rooms' store")
        with trio.move_on_at(until):
            await self._store_closed.wait()
        if not self._store_closed.is_set():
            logger.critical("the store does not close; what it was given last may be lost")
            self.left_behind += ("the store",)
            closing.cancel()
        self.hub.dispose()

    @enable_ki_protection
    async def _close_store(self, scope: trio.CancelScope) -> None:
        """Close the store, which may hang, in a task of its own."""
        with scope:
            try:
                await self.store.aclose()
            except Exception as error:  # noqa: BLE001 (the block raises it)
                self.fail(error)
            finally:
                if self.node is not None:
                    await self._part(self.node)
            self._store_closed.set()

    async def _part(self, node: Node) -> None:
        """Be no node any more, also where the store did not close."""
        try:
            await node.aclose()
        except Exception as error:  # noqa: BLE001 (the block raises it)
            self.fail(error)

    # The tasks.

    @enable_ki_protection
    async def _run(self) -> None:
        """Be the parent of all tasks."""
        try:
            async with trio.open_nursery() as self._nursery:
                for task in (self.deadlines.run, self.hub.run, self.supervisor.run):
                    self.spawn(task)
                await trio.lowlevel.checkpoint()  # Until each has begun.
                self.spawn(self.agenda.run)
                self.spawn(self.janitor.run)
                self.spawn(self.supervisor.pulse.run)
                if self.node is not None:
                    self.spawn(self.node.run)
                self._started.set()
                await trio.sleep_forever()
        finally:
            self._ended.set()

    def spawn(
        self, function: Callable[..., Awaitable[Any]], *arguments: Any, name: str | None = None
    ) -> None:
        """Run a task beside the rooms, until they have stopped; what it raises ends the block."""
        self._nursery.start_soon(self._guarded, function, arguments, name=name or function)

    @enable_ki_protection
    async def _guarded(self, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        """One task; what it raises reaches the block and no other task."""
        try:
            await function(*arguments)
        except BaseException as group:
            error = first_error(group)
            if isinstance(error, trio.Cancelled):
                raise
            self.fail(error)


def _names(nursery: trio.Nursery) -> Iterator[str]:
    """The names of the tasks in a nursery that run something themselves."""
    for task in nursery.child_tasks:
        inside = [name for one in task.child_nurseries for name in _names(one)]
        yield from inside or [task.name]
