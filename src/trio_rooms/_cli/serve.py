"""``trio-rooms serve``: serve the rooms of a module until a signal asks to stop."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from trio_rooms._definition.room import Room
from trio_rooms._loop.collector import SERVER_THRESHOLDS
from trio_rooms._loop.groups import first_error
from trio_rooms._rooms import open_rooms
from trio_rooms._server.server import Address
from trio_rooms._wire.close_codes import CloseCode
from trio_rooms.stores.sqlite.store import DiskStore

from .loading import find_rooms

__all__ = ["serve"]

logger = logging.getLogger("trio_rooms")

_CLOSING: Final = {
    signal.SIGTERM: (CloseCode.RESTART, "the server restarts"),
    signal.SIGINT: (CloseCode.GOING_AWAY, "the server is going away"),
}
"""By the signals that stop a server, what its clients are told."""


def serve(options: argparse.Namespace) -> int:
    """Run the command until it is told to stop; returns the exit status.

    Raises:
        UsageError: there are no rooms where they should be.
        CommandFailed: their module cannot be imported.
        RoomsError: nobody may listen there, the store cannot be opened, or another failure of the runtime.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    rooms = find_rooms(options.target)
    for room in rooms:
        room.configure(idle_timeout=options.idle_timeout, snapshot_interval=options.snapshot_interval)
    try:
        trio.run(_run, rooms, options)
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    return 0


async def _run(rooms: Sequence[Room[Any]], options: argparse.Namespace) -> None:
    """Serve until a signal comes; then save all rooms and close all connections."""
    store = None if options.data is None else DiskStore(options.data)
    runtime = open_rooms(
        rooms,
        store=store,
        max_awake=options.max_awake,
        max_message_size=options.max_message_size,
        gc_thresholds=SERVER_THRESHOLDS,
    )
    with _signals() as signals:
        async with trio.open_nursery() as nursery, runtime as opened:
            listen = partial(opened.serve, ping_interval=options.ping_interval or None)
            address = await nursery.start(listen, options.host, options.port)
            _announce(rooms, options.data, address)
            received = await signals.receive()
            logger.info("%s: saving rooms, closing connections; once more: stop at once", received.name)
            await opened.aclose(*_CLOSING[received])
    logger.info("stopped")


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


def _announce(rooms: Sequence[Room[Any]], data: Path | None, address: Address) -> None:
    """Say where rooms are kept and where they are served; programs read the one line on standard output."""
    if data is None:
        logger.info("rooms are kept in memory and end with this process; --data DIR keeps them")
    else:
        logger.info("rooms are kept in %s", data)
    for room in rooms:
        if room.public:
            logger.info("room %s is at %s/%s/ID", room.name, address, room.name)
        else:
            logger.info("room %s is reached by the other rooms alone: it is not public", room.name)
    # Who started us may have closed its end; rooms are served all the same.
    with suppress(OSError):
        print(f"listening on {address}", flush=True)
