"""``trio-rooms serve``: serve the rooms of a module until a signal asks to stop."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import attrs
import trio

from trio_rooms._definition.room import policy_of_all
from trio_rooms._loop.logs import log_to_stderr
from trio_rooms._policy.policy import Policy
from trio_rooms._rooms import Rooms
from trio_rooms._run import run
from trio_rooms.stores.sqlite.store import DiskStore

from .engine import engine_options
from .loading import find_rooms
from .tokens import read_token

__all__ = ["serve"]

logger = logging.getLogger("trio_rooms")

_POLICIES: Final[Mapping[str, Callable[[], Policy]]] = {"default": Policy, "classic": Policy.classic}


def serve(options: argparse.Namespace) -> int:
    """Run the command until it is told to stop; returns the exit status.

    Raises:
        UsageError: there are no rooms where they should be, or no token that could be one.
        CommandFailed: their module cannot be imported, or the token not be read.
        RoomsError: nobody may listen there, the store cannot be opened, or another failure of the runtime.
    """
    log_to_stderr(options.log_format)
    engine = engine_options(options)
    token = read_token(options.admin_token_file)
    rooms = find_rooms(options.target)
    chosen = None if options.policy is None else _POLICIES[options.policy]()
    for room in rooms:
        room.configure(
            policy=chosen,
            idle_timeout=options.idle_timeout,
            snapshot_interval=options.snapshot_interval,
            connection_idle_timeout=options.connection_idle_timeout,
            flush_after=options.flush_after,
        )
    policy = attrs.evolve(
        policy_of_all(rooms) if chosen is None else chosen,
        **{name: value for name, value in _given(options).items() if value is not None},
    )
    run(
        rooms,
        partial(_announce, options),
        host=options.host,
        port=options.port,
        ping_interval=options.ping_interval or None,
        admin_token=token,
        dashboard=options.dashboard,
        store=None if options.data is None else DiskStore(options.data),
        policy=policy,
        max_message_size=options.max_message_size,
        **engine,
    )
    return 0


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says about all rooms together; None for what it does not."""
    return {
        "ratio": options.hibernation_ratio,
        "max_active": options.max_active,
        "max_awake": options.max_awake,
        "memory_limit": options.memory_limit,
    }


async def _announce(options: argparse.Namespace, rooms: Rooms) -> None:
    """Say where rooms are kept and served; programs read the one line on standard output."""
    await trio.lowlevel.checkpoint()
    if options.engine is not None:
        pass  # The node has said where it is.
    elif options.data is None:
        logger.info("rooms are kept in memory and end with this process; --data DIR keeps them")
    else:
        logger.info("rooms are kept in %s", options.data)
    (address,) = rooms.addresses
    # Who started us may have closed its end; rooms are served all the same.
    with suppress(OSError):
        print(f"listening on {address}", flush=True)
