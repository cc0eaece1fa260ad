"""The engine that several nodes share, as the command line names it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .failures import CommandFailed, UsageError

if TYPE_CHECKING:
    from trio_rooms.engines.base import Engine

__all__ = ["engine_options"]


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `run` is told of the engine; nothing where the server is alone.

    Raises:
        UsageError: the options do not go together, or the URL is none of an engine.
        CommandFailed: what speaks to an engine is not installed.
    """
    own = {
        "--node": options.node,
        "--lease": options.lease,
        "--engine-durability": options.engine_durability,
        "--engine-replicas": options.engine_replicas,
    }
    if options.engine is None:
        given = [name for name, value in own.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} goes with --engine")
        return {}
    if options.data is not None:
        raise UsageError("with --engine rooms are kept there, so there is no --data")
    told = {"engine": _engine(options), "node": options.node, "lease": options.lease}
    return {name: value for name, value in told.items() if value is not None}


def _engine(options: argparse.Namespace) -> Engine:
    try:
        from trio_rooms.engines.valkey import Valkey  # noqa: PLC0415 (it imports what only a node needs)
    except ModuleNotFoundError as error:
        if error.name != "hiredis":
            raise
        msg = "--engine takes hiredis: pip install 'trio-rooms[valkey]'"
        raise CommandFailed(msg) from error
    try:
        return Valkey(
            options.engine,
            durability=options.engine_durability or "always",
            replicas=options.engine_replicas or 0,
        )
    except ValueError as error:
        raise UsageError(f"--engine: {error}") from error
