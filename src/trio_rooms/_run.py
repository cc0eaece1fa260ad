"""A program that serves rooms: from its start to the signal that ends it."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ._definition.room import Room
from ._loop.collector import SERVER_THRESHOLDS
from ._loop.groups import alone
from ._loop.logs import log_to_stderr
from ._loop.memory import keep_one_heap
from ._policy.policy import Policy
from ._rooms import Rooms, open_rooms
from ._wire.close_codes import CloseCode
from .stores.base import Store

if TYPE_CHECKING:
    from .engines.base import Engine

__all__ = ["run"]

logger = logging.getLogger("trio_rooms")

_CLOSING: Final = {
    signal.SIGTERM: (CloseCode.RESTART, "the server restarts"),
    signal.SIGINT: (CloseCode.GOING_AWAY, "the server is going away"),
}
"""By the signals that stop a server, what its clients are told."""


def run(
    rooms: Iterable[Room[Any]],
    main: Callable[[Rooms], Awaitable[object]] | None = None,
    *,
    host: str | None = "127.0.0.1",
    port: int = 8000,
    prefix: str = "",
    template: str = "/{room}/{id}",
    origins: Collection[str] | None = None,
    max_connections: int | None = None,
    handshake_timeout: float = 10.0,
    ping_interval: float | None = None,
    admin_token: str | None = None,
    dashboard: bool = False,
    store: Store | None = None,
    max_message_size: int = 1024 * 1024,
    max_unsent: int = 4 * 1024 * 1024,
    policy: Policy | None = None,
    stop_timeout: float = 10.0,
    close_timeout: float = 5.0,
    gc_thresholds: tuple[int, int, int] | None = SERVER_THRESHOLDS,
    app: Any = None,
    tracer: Any = None,
    engine: Engine | None = None,
    node: str | None = None,
    lease: float = 10.0,
) -> None:
    """Serve rooms as the command ``trio-rooms serve`` does, until SIGTERM or SIGINT; a whole program.

    ``trio_rooms.run([chat], store=DiskStore("data"))``.

    A signal stops it in order: nothing new is accepted, ``main`` is cancelled, the rooms are saved, and
    the connections closed, after SIGTERM with 1012, after SIGINT (Ctrl-C) with 1001. Then this returns.
    A second signal ends the process at once. It returns as well when the rooms were closed by `Rooms.aclose`.

    Call it from the main thread, where signals are handled, and outside of Trio. Where no logging is
    configured, it logs to the standard error.

    Args:
        rooms: the definitions to serve.
        main: an async function for whatever else the program does, called with the open `Rooms` when
            clients can connect. When it returns, the rooms are served on. What it raises ends the program:
            the rooms are saved, connections closed with 1001, and it comes out of this. At a signal it
            is cancelled first, and has ``close_timeout`` to end; rooms answer it until then.
        host: see `Rooms.serve`, and for all up to ``dashboard``, too.
        port: 0 for a free one, which `Rooms.addresses` has.
        prefix: what paths begin with.
        template: the rest of a room's path.
        origins: from where browsers may come.
        max_connections: connections from which on new ones get 503.
        handshake_timeout: seconds for a client's request.
        ping_interval: seconds in which each client is sent a ping; None for no pings.
        admin_token: what other processes show to send over HTTP; None for no such requests.
        dashboard: whether anybody may open ``/dashboard``.
        store: see `open_rooms`, and for all that follow, too.
        max_message_size: bytes of the largest message that is taken.
        max_unsent: bytes that may wait for one connection.
        policy: when rooms and connections sleep.
        stop_timeout: seconds for the rooms to come to rest. All of the stop takes at most as long,
            twice ``close_timeout``, and once more where there is a ``main``. What does not end then,
            although it was cancelled, ends with the process: its exit status is 1.
        close_timeout: seconds for closing handshakes, and for the store.
        gc_thresholds: how often the garbage collector runs; other than in `open_rooms` hardly ever.
        app: what handlers find as ``ctx.app``.
        tracer: a ``TracerProvider`` of OpenTelemetry; None for no traces.
        engine: what this node shares with others; None for a program that is alone.
        node: the name of this node.
        lease: seconds after which others take over from it.

    Raises:
        DefinitionError: a definition cannot work.
        TypeError, ValueError: another argument is not what it should be.
        EngineError: the engine cannot be reached, or is not what it has to be.
        StoreError: the store cannot be opened, or not be closed.
        CannotListen: nobody may listen there.
        Exception: what ``main`` raised.
    """
    if main is not None:
        _check_main(main)
    log_to_stderr()
    keep_one_heap()
    opening = partial(
        open_rooms,
        rooms,
        store=store,
        max_message_size=max_message_size,
        max_unsent=max_unsent,
        policy=policy,
        stop_timeout=stop_timeout,
        close_timeout=close_timeout,
        gc_thresholds=gc_thresholds,
        app=app,
        tracer=tracer,
        engine=engine,
        node=node,
        lease=lease,
    )
    serving = partial(
        Rooms.serve,
        host=host,
        port=port,
        prefix=prefix,
        template=template,
        origins=origins,
        max_connections=max_connections,
        handshake_timeout=handshake_timeout,
        ping_interval=ping_interval,
        admin_token=admin_token,
        dashboard=dashboard,
    )
    trio.run(_serve, opening, serving, main, close_timeout)


def _check_main(main: Any) -> None:
    """Refuse what could only fail once the program serves.

    Raises:
        TypeError: it is no async function that takes the rooms.
    """
    written = "write async def main(rooms), and run([...], main)"
    if inspect.iscoroutine(main):
        main.close()  # Else Python would warn of it as well.
        msg = f"main was called, where run is to call it; {written}"
        raise TypeError(msg)
    if not callable(main) or (inspect.isroutine(main) and not inspect.iscoroutinefunction(main)):
        msg = f"main is an async function, not {main!r:.100}; {written}"
        raise TypeError(msg)
    try:
        inspect.signature(main).bind(None)
    except TypeError as error:
        msg = f"main is called with the rooms, but: {error}; {written}"
        raise TypeError(msg) from None


async def _serve(
    opening: Callable[[], AbstractAsyncContextManager[Rooms]],
    serving: Callable[..., Awaitable[None]],
    main: Callable[[Rooms], Awaitable[object]] | None,
    patience: float,
) -> None:
    """Serve until a signal comes or the rooms are closed; then save all rooms and close all connections."""
    rooms: Rooms | None = None
    try:
        with _signals() as signals:
            async with opening() as rooms:
                received = None
                own = _Own(main)
                try:
                    async with trio.open_nursery() as nursery:
                        await nursery.start(serving, rooms)
                        rooms._runtime.spawn(own.run, rooms, name="main")
                        nursery.start_soon(_until_closed, rooms, nursery.cancel_scope)
                        received = await signals.receive()
                        nursery.cancel_scope.cancel()
                except BaseExceptionGroup as group:
                    raise alone(group) from None
                if received is not None:
                    news = "%s: saving rooms, closing connections; once more: stop at once"
                    logger.info(news, received.name)
                    own.cancel()
                await own.wait_ended(patience)
                if received is not None:
                    await rooms.aclose(*_CLOSING[received])
    finally:
        if rooms is not None and rooms._runtime.left_behind:
            # Trio would wait for it, for ever maybe. All that could be saved is saved.
            logger.critical("the process ends without what does not end", exc_info=sys.exc_info()[1])
            logging.shutdown()
            os._exit(1)
    logger.info("stopped")


class _Own:
    """What the program does beside serving rooms.

    Args:
        main: an async function; None for nothing.
    """

    def __init__(self, main: Callable[[Rooms], Awaitable[object]] | None) -> None:
        self._main = main
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self, rooms: Rooms) -> None:
        """Do it."""
        try:
            if self._main is not None:
                with self._scope:
                    await self._main(rooms)
        finally:
            self._ended.set()

    def cancel(self) -> None:
        """Stop doing it."""
        self._scope.cancel()

    async def wait_ended(self, patience: float) -> None:
        """Wait until it has ended, or longer than it may take. Then it is cancelled, if it was not before."""
        with trio.move_on_after(patience):
            await self._ended.wait()
        self._scope.cancel()


async def _until_closed(rooms: Rooms, scope: trio.CancelScope) -> None:
    """Cancel a scope when the rooms were closed, by whomever."""
    await rooms._runtime.wait_stopped()
    scope.cancel()


@contextmanager
def _signals() -> Iterator[trio.MemoryReceiveChannel[signal.Signals]]:
    """Report the first signal that asks to stop; die of the second, even if a handler keeps the loop busy."""
    sender, receiver = trio.open_memory_channel[signal.Signals](1)
    token = trio.lowlevel.current_trio_token()

    def stop(number: int, _: object) -> None:
        # What was committed is safe in any case.
        for one in _CLOSING:
            signal.signal(one, signal.SIG_DFL)
        token.run_sync_soon(sender.send_nowait, signal.Signals(number))

    before = {one: signal.signal(one, stop) for one in _CLOSING}
    try:
        yield receiver
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
